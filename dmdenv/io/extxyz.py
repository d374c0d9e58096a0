"""Extended XYZ: text that ASE, OVITO and many others read.

Positions are written as they are, continuous in time, since the format has no images; momenta and masses as ASE names
them; all numbers with the digits that restore them bit for bit (ASE's own writer keeps eight decimals).

Reference: the extended XYZ specification, https://github.com/libAtoms/extxyz.
"""

import os

import numpy as np

from dmdenv.io.ase import cell_in_three_dimensions, with_symbols
from dmdenv.io.trajectory import Particles, Trajectory
from dmdenv.io.writer import Mode, Writer, in_three_dimensions


class ExtxyzWriter(Writer):
    """Writes an extended XYZ file. See `Writer`; species are named by chemical symbols, X for one without a name.

    A crash may leave an incomplete last frame; mode "a" removes it before it continues.
    """

    def _open(self, path: str, mode: Mode) -> int | float:
        last_step = -np.inf
        if mode == "a" and os.path.exists(path):
            end, last_step = _complete_frames(path)
            os.truncate(path, end)
        self._file = open(path, mode, encoding="utf-8", newline="\n")  # noqa: SIM115 - `close` closes it
        return last_step

    def close(self) -> None:
        self._file.close()

    def _check(self, particles: Particles) -> Particles:
        return with_symbols(self._given, len(particles.masses))

    def _write(self, trajectory: Trajectory) -> None:
        self._file.write("".join(_frame(trajectory, k) for k in range(len(trajectory))))
        self._file.flush()


def _frame(trajectory: Trajectory, k: int) -> str:
    particles = trajectory.particles
    n, dimension = trajectory.positions.shape[1:]
    masses = np.asarray(particles.masses, float)
    columns = [in_three_dimensions(np.asarray(trajectory.positions[k], float)), masses[:, None]]
    properties = "species:S:1:pos:R:3:masses:R:1"
    if trajectory.velocities is not None:
        columns.append(in_three_dimensions(np.asarray(trajectory.velocities[k], float) * masses[:, None]))
        properties += ":momenta:R:3"
    header = f'Properties={properties} step={trajectory.steps[k]} pbc="F F F"'
    if trajectory.cell is not None:
        lattice = " ".join(map(repr, cell_in_three_dimensions(np.asarray(trajectory.cell[k], float)).ravel().tolist()))
        header = f'Lattice="{lattice}" ' + header.replace("F F F", "T T T" if dimension == 3 else "T T F")
    rows = np.concatenate(columns, axis=1).tolist()
    symbols = [particles.types[s] for s in particles.species]  # pyright: ignore[reportOptionalSubscript]
    lines = [" ".join((symbol, *map(repr, row))) for symbol, row in zip(symbols, rows, strict=True)]
    return "\n".join((str(n), header, *lines, ""))


def _complete_frames(path: str) -> tuple[int, int | float]:
    """Where the last complete frame ends, in bytes, and its step, -infinity for a file without frames."""
    end, last_step = 0, -np.inf
    with open(path, "rb") as file:
        while (count := file.readline()).endswith(b"\n"):
            header = file.readline()
            lines = [file.readline() for _ in range(int(count))]
            if not (lines[-1] if lines else header).endswith(b"\n"):
                break
            steps = [word for word in header.split() if word.startswith(b"step=")]
            if not steps:
                raise ValueError(f"{path} has a frame without a step; must be a file of this writer for mode 'a'")
            end, last_step = file.tell(), int(steps[0][len(b"step=") :])
    return end, last_step
