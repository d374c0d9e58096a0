"""GSD, the binary format of HOOMD-blue, which OVITO reads too.

GSD's box has its centre at the origin and dmdenv's a corner; its positions are wrapped, with integer images beside
them. With c the centre of the cell and `h` its edges as rows, `r = x + c + image @ h`. Floats have single precision.

Reference: the GSD hoomd schema, https://gsd.readthedocs.io/en/stable/schema-hoomd.html.
"""

import os
from typing import Any

import gsd.hoomd
import numpy as np

from dmdenv.io.trajectory import Particles, Trajectory
from dmdenv.io.writer import Mode, Writer, in_three_dimensions


class GSDWriter(Writer):
    """Writes a GSD file. See `Writer`; species without names are called A, B, C.

    The format has periodic boxes only, so free space is refused. Two dimensions are written as HOOMD does, at z = 0 in
    a box of height zero.
    """

    def _open(self, path: str, mode: Mode) -> int | float:
        self._file: Any = gsd.hoomd.open(path, mode)
        return int(self._file[-1].configuration.step) if len(self._file) else -np.inf

    def close(self) -> None:
        self._file.close()

    def _write(self, trajectory: Trajectory) -> None:
        if trajectory.cell is None:
            raise ValueError("space = Free(); must be periodic: GSD holds no other")
        for k in range(len(trajectory)):
            self._file.append(_frame(trajectory, k))
        self._file.flush()


def _frame(trajectory: Trajectory, k: int) -> gsd.hoomd.Frame:
    particles = trajectory.particles
    frame: Any = gsd.hoomd.Frame()
    n, dimension = trajectory.positions.shape[1:]
    cell = np.asarray(trajectory.cell[k], float)  # pyright: ignore[reportOptionalSubscript]
    wrapped, image = _wrap(np.asarray(trajectory.positions[k], float), cell)
    frame.configuration.step = int(trajectory.steps[k])
    frame.configuration.dimensions = dimension
    frame.configuration.box = _box(cell)
    frame.particles.N = n
    frame.particles.types = list(particles.types)  # pyright: ignore[reportArgumentType]
    frame.particles.typeid = particles.species
    frame.particles.mass = particles.masses
    frame.particles.diameter = particles.diameters
    frame.particles.position = in_three_dimensions(wrapped)
    frame.particles.image = in_three_dimensions(image)
    if trajectory.velocities is not None:
        frame.particles.velocity = in_three_dimensions(trajectory.velocities[k])
    frame.bonds.N = len(particles.bonds)
    frame.bonds.types = list(particles.bond_types)  # pyright: ignore[reportArgumentType]
    frame.bonds.typeid = particles.bond_species
    frame.bonds.group = particles.bonds
    return frame


def _wrap(positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the box around the origin, `[n, d]`, and their images, int32 `[n, d]`."""
    image = np.floor(positions @ np.linalg.inv(cell))
    return positions - cell.sum(0) / 2 - image @ cell, image.astype(np.int32)


def _box(cell: np.ndarray) -> np.ndarray:
    """HOOMD's `lx, ly, lz, xy, xz, yz`: edges `(lx, 0, 0)`, `(xy ly, ly, 0)` and `(xz lz, yz lz, lz)`."""
    if len(cell) == 2:
        return np.array([cell[0, 0], cell[1, 1], 0, cell[1, 0] / cell[1, 1], 0, 0])
    tilts = [cell[1, 0] / cell[1, 1], cell[2, 0] / cell[2, 2], cell[2, 1] / cell[2, 2]]
    return np.array([*np.diag(cell), *tilts])


def _cell(box: np.ndarray, dimension: int) -> np.ndarray:
    """The edges as rows, `[d, d]`, of HOOMD's box."""
    lx, ly, lz, xy, xz, yz = np.asarray(box, float)
    return np.array([[lx, 0, 0], [xy * ly, ly, 0], [xz * lz, yz * lz, lz]])[:dimension, :dimension]


def read_gsd(path: str | os.PathLike, *, dimension: int | None = None) -> Trajectory:
    """All frames of a GSD file, positions unwrapped by their images. See `dmdenv.io.read_trajectory`."""
    with gsd.hoomd.open(os.fspath(path), "r") as file:
        if not len(file):
            raise ValueError(f"{path} has no frames")
        frames: list[Any] = [file[k] for k in range(len(file))]
    first = frames[0]
    counts = sorted({int(frame.particles.N) for frame in frames})
    if len(counts) > 1:
        raise ValueError(f"{path} has frames of {counts} particles; must be as many in all")
    d = int(first.configuration.dimensions) if dimension is None else dimension
    cell = np.stack([_cell(frame.configuration.box, d) for frame in frames])

    def stack(name: str) -> np.ndarray:
        return np.stack([getattr(frame.particles, name)[:, :d] for frame in frames])

    images = stack("image").astype(float)
    return Trajectory(
        steps=np.array([frame.configuration.step for frame in frames], np.int64),
        positions=stack("position") + cell.sum(1)[:, None] / 2 + images @ cell,
        velocities=stack("velocity"),
        cell=cell,
        particles=Particles(
            species=first.particles.typeid.astype(np.int32),
            types=tuple(first.particles.types),
            masses=first.particles.mass,
            diameters=first.particles.diameter,
            bonds=first.bonds.group.astype(np.int32),
            bond_species=first.bonds.typeid.astype(np.int32),
            bond_types=tuple(first.bonds.types),
        ),
    )
