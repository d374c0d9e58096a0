"""GSD, the binary format of HOOMD-blue, which OVITO reads too.

GSD's box has its centre at the origin and dmdenv's a corner; its positions are wrapped, with integer images beside
them. With c the centre of the cell and `h` its edges as rows, `r = x + c + image @ h`. Floats have single precision.

Reference: the GSD hoomd schema, https://gsd.readthedocs.io/en/stable/schema-hoomd.html.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import gsd.hoomd
import numpy as np

from dmdenv.io.trajectory import Particles, Trajectory, check_cell
from dmdenv.io.writer import Writer, in_three_dimensions


class GSDWriter(Writer):
    """Writes a GSD file. See `Writer`; species without names are called A, B, C.

    The format has periodic boxes only, so free space is refused. Two dimensions are written as HOOMD does, at z = 0 in
    a box of height zero.
    """

    def _check(self, trajectory: Trajectory) -> Particles:
        if trajectory.cell is None:
            raise ValueError("space = Free(); must be periodic: GSD holds no other")
        particles = trajectory.particles.of(trajectory.positions.shape[1])
        for names in (particles.types, particles.bond_types):
            if not "".join(names or ()).isascii():
                raise ValueError(f"types = {names}; must be ASCII in a GSD file")
        return dataclasses.replace(
            particles,
            masses=np.asarray(particles.masses, np.float32),
            diameters=np.asarray(particles.diameters, np.float32),
        )

    def _read_on(self) -> None:
        if not os.path.getsize(self._path):
            return self._forget()
        with gsd.hoomd.open(self._path, "r") as file:
            if len(file) < len(self._steps):
                self._forget()
            new = range(len(self._steps), len(file))
            if new:
                first, _ = file[0], file[new[-1]]  # the last one, to see that the file ends with a whole frame
                self._first = self._first or _trajectory(first, _moving(file), None)
            self._steps += [_step(file, k) for k in new]

    def _append(self, trajectory: Trajectory) -> None:
        frames = [_frame(trajectory, k) for k in range(len(trajectory))]
        velocities = trajectory.velocities
        self._replace()
        with gsd.hoomd.open(self._path, "r+" if os.path.getsize(self._path) else "w") as file:
            for k, frame in enumerate(frames):
                if velocities is not None:  # `append` leaves out what is zero, which would be read as not given
                    file.file.write_chunk(VELOCITY, in_three_dimensions(velocities[k].astype(np.float32)))
                file.append(frame)
            file.flush()


VELOCITY = "particles/velocity"


def _moving(file: Any) -> bool:
    """Whether velocities are given; by the schema those that a frame lacks are those of the first frame, or zero."""
    return any(file.file.chunk_exists(frame=k, name=VELOCITY) for k in range(len(file)))


def _step(file: Any, k: int) -> int:
    """The step of frame k, which by the schema is that of the first frame, or 0, where it lacks it."""
    for frame in (k, 0):
        if file.file.chunk_exists(frame=frame, name="configuration/step"):
            return int(file.file.read_chunk(frame=frame, name="configuration/step")[0])
    return 0


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
    frame.bonds.N = len(particles.bonds)
    frame.bonds.types = list(particles.bond_types)  # pyright: ignore[reportArgumentType]
    frame.bonds.typeid = particles.bond_species
    frame.bonds.group = particles.bonds
    return frame


def _wrap(positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the box around the origin, `[n, d]`, and their images, int32 `[n, d]`; 0 for NaN and infinity."""
    image = np.floor(np.where(np.isfinite(positions), positions, 0) @ np.linalg.inv(cell))
    if np.any(np.abs(image) > np.iinfo(np.int32).max):
        raise ValueError(f"positions reach {np.abs(image).max():g} boxes far; must be at most 2^31 - 1 in a GSD file")
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


def read_gsd(path: str | os.PathLike, dimension: int | None) -> Iterator[Trajectory]:
    """The frames of a GSD file, positions unwrapped by their images. See `dmdenv.io.read_trajectory`."""
    with gsd.hoomd.open(os.fspath(path), "r") as file:
        moving = _moving(file)
        for k in range(len(file)):
            yield _trajectory(file[k], moving, dimension)


def _trajectory(frame: Any, moving: bool, dimension: int | None) -> Trajectory:
    """A trajectory of one frame."""
    own = int(frame.configuration.dimensions)
    if own not in (2, 3) or (dimension or own) > own:
        raise ValueError(f"the frame has {own} dimensions; must be {dimension or '2 or 3'}")
    d, particles, bonds = dimension or own, frame.particles, frame.bonds
    cell = check_cell("cell", _cell(frame.configuration.box, d))
    positions = particles.position[:, :d] + cell.sum(0) / 2 + particles.image[:, :d].astype(float) @ cell
    return Trajectory(
        steps=np.array([int(frame.configuration.step)], np.int64),
        positions=positions[None],
        velocities=particles.velocity[None, :, :d] if moving else None,
        cell=cell[None],
        particles=Particles(
            species=particles.typeid.astype(np.int32),
            types=tuple(particles.types),
            masses=particles.mass,
            diameters=particles.diameter,
            bonds=bonds.group.astype(np.int32),
            bond_species=bonds.typeid.astype(np.int32),
            bond_types=tuple(bonds.types),
        ).of(int(particles.N)),
    )
