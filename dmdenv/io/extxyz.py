"""Extended XYZ: text that ASE, OVITO and many others read.

Positions are written as they are, continuous in time, since the format has no images; momenta and masses as ASE names
them; all numbers with the digits that restore them bit for bit (ASE's own writer keeps eight decimals). Names of
species are read as they stand, chemical symbols or not.

Reference: the extended XYZ specification, https://github.com/libAtoms/extxyz.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from ase.io.formats import open_with_compression

from dmdenv.io.ase import frame_of, trajectory_of, with_symbols
from dmdenv.io.trajectory import Particles, Trajectory
from dmdenv.io.writer import Writer


class ExtxyzWriter(Writer):
    """Writes an extended XYZ file. See `Writer`; species are named by chemical symbols, X for one without a name.

    A crash may leave an incomplete last frame. It is replaced when frames from its step on are written, and nothing is
    written before that; a last frame that lacks its final newline only is kept where the frames come after it.
    """

    def _forget(self) -> None:
        super()._forget()
        self._end = 0  # where the last frame ends that is known to be whole, in bytes
        self._tail: _Frame | None = None  # a frame behind it, which a newline does not end

    def _check(self, trajectory: Trajectory) -> Particles:
        return with_symbols(trajectory.particles, trajectory.positions.shape[1])

    def _read_on(self) -> None:
        if os.path.getsize(self._path) < self._end:
            self._forget()
        with open(self._path, "rb") as file:
            file.seek(self._end)
            self._tail = None
            while frame := _read_frame(file):
                if not frame.ended:
                    frame.check_cut()
                    self._tail = frame
                    break
                self._steps.append(frame.step)
                self._end = file.tell()
                self._first = self._first or trajectory_of(frame.atoms(), frame.step, None)

    def _append(self, trajectory: Trajectory) -> None:
        text = format_frames(trajectory)
        kept = self._kept_tail(trajectory.steps)
        self._replace()
        with open(self._path, "r+b") as file:
            if kept:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                file.seek(self._end)
                file.truncate()
            file.write(text)
            end = file.tell()
        self._end = end

    def _kept_tail(self, steps: np.ndarray) -> bool:
        """Whether the frame behind the last whole one is complete without its newline, and not among the new ones."""
        tail = self._tail
        if tail is None or not tail.header.endswith(b"\n") or tail.step in steps:
            return False
        if not tail.readable or tail.step > steps[0]:
            raise ValueError(
                f"{self._path} ends within step {tail.step}; must be among steps, which begin at {steps[0]}"
            )
        self._steps.append(tail.step)
        return True


def format_frames(trajectory: Trajectory) -> bytes:
    """The text of all frames."""
    return "".join(_format(frame_of(trajectory, k)) for k in range(len(trajectory))).encode()


def _format(atoms: Atoms) -> str:
    arrays, info = dict(atoms.arrays), dict(atoms.info)
    if "\\" in json.dumps(info.get("bond_types")):
        raise ValueError(f"bond_types = {info['bond_types']}; must be ASCII without quotes and backslashes in XYZ")
    if (diameters := info.pop("diameters", None)) is not None:
        arrays["radius"] = np.asarray(diameters, float) / 2
    columns, properties = [atoms.positions], "species:S:1:pos:R:3"
    for name in ("masses", "radius", "momenta"):
        if name in arrays:
            columns.append(arrays[name].reshape(len(atoms), -1))
            properties += f":{name}:R:{columns[-1].shape[1]}"
    info = {"Properties": properties, **info, "pbc": atoms.pbc}
    if np.any(atoms.cell.array):
        info = {"Lattice": " ".join(map(repr, atoms.cell.array.ravel().tolist())), **info}
    rows = np.concatenate(columns, axis=1).tolist()
    lines = [" ".join((symbol, *map(repr, row))) for symbol, row in zip(atoms.symbols, rows, strict=True)]
    return "\n".join((str(len(atoms)), key_val_dict_to_str(info), *lines, ""))


def read_extxyz(path: str | os.PathLike) -> Iterator[Atoms]:
    """The frames of an XYZ file, extended or plain; names of species in the array "species"."""
    with open_with_compression(os.fspath(path), "rb") as file:
        while frame := _read_frame(file):
            yield frame.atoms()


@dataclasses.dataclass(frozen=True)
class _Frame:
    """One frame as it stands in a file; the last one may be cut off."""

    count: int  # of the particles, as the first line says
    header: bytes
    rows: list[bytes]

    @property
    def ended(self) -> bool:
        """Whether there is a line for every particle, the last one with its newline."""
        return len(self.rows) == self.count and self.rows[-1].endswith(b"\n")

    @property
    def readable(self) -> bool:
        """Whether no column of any particle is missing."""
        try:
            self.atoms()
        except ValueError:
            return False
        return True

    @property
    def step(self) -> int:
        """As `ExtxyzWriter` notes it."""
        step = re.search(rb'(?:^|\s)step="?(-?\d+)"?\s', self.header)
        if step is None:
            raise ValueError("a frame without a step; must be a file of this writer for mode 'a'")
        return int(step[1])

    def check_cut(self) -> None:
        """Refuse what does not begin one frame: with a damaged number of particles it would include later ones."""
        widths = {len(row.split()) for row in self.rows[:-1]}
        if len(widths) > 1 or (self.rows and len(self.rows[-1].split()) > max(widths, default=np.inf)):
            raise ValueError(f"a frame of {self.count} particles has other lines among its rows; must be repaired")

    def atoms(self) -> Atoms:
        """`ase.Atoms` with all columns as arrays."""
        header = self.header.decode().strip()
        info = key_val_str_to_dict(header) if header else {}
        if timestep := re.match(r"Atoms\. Timestep: (\S+)", header):  # the plain XYZ of LAMMPS
            info["step"] = timestep[1]
        properties, cell = info.pop("Properties", None), info.pop("Lattice", None)
        arrays = _columns(self.rows, self.count, properties)
        atoms = Atoms(
            numbers=arrays.pop("Z", np.zeros(self.count, int)),
            positions=arrays.pop("pos"),
            cell=None if cell is None else cell.T,
            pbc=info.pop("pbc", cell is not None),
            info=info,
        )
        for name, array in arrays.items():
            atoms.set_array(name, array)
        return atoms


def _read_frame(file: IO[bytes]) -> _Frame | None:
    """The next frame, None at the end of the file; blank lines between frames do not count."""
    line = next((line for line in iter(file.readline, b"") if line.strip()), None)
    if line is None:
        return None
    if not line.strip().isdigit():
        raise ValueError(f"{line[:40]!r} stands where the number of particles must be")
    if not (count := int(line)):
        raise ValueError("there are no particles; must be at least one")
    return _Frame(count, file.readline(), list(itertools.islice(file, count)))


def _columns(rows: list[bytes], count: int, properties: str | None) -> dict[str, np.ndarray]:
    """The columns that `Properties=NAME:KIND:WIDTH:...` declares; a plain file may have more of them."""
    words = (properties or "species:S:1:pos:R:3").split(":")
    widths = list(map(int, words[2::3]))
    table = [row.split() for row in rows]
    if len(rows) < count:
        raise ValueError(f"the file ends after {len(rows)} of {count} particles")
    for k, row in enumerate(table):
        if len(row) < sum(widths) or (properties and len(row) > sum(widths)):
            raise ValueError(f"particle {k} has {len(row)} columns; must be {sum(widths)}")
    cells = np.array([word for row in table for word in row[: sum(widths)]]).reshape(count, -1)
    parts = np.split(cells, np.cumsum(widths)[:-1], axis=1)
    return {
        name: _CONVERT[kind](part[:, 0] if part.shape[1] == 1 else part)
        for name, kind, part in zip(words[::3], words[1::3], parts, strict=True)
    }


_CONVERT = {
    "R": lambda text: text.astype(float),
    "I": lambda text: text.astype(np.int64),
    "S": lambda text: np.char.decode(text, "utf-8"),
    "L": lambda text: np.char.startswith(text, b"T"),
}
