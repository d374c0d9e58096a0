"""Reading and writing whole trajectories, in the format of the file's suffix."""

import os
import pathlib
from typing import Any

import ase.io
import numpy as np

from dmdenv.io.ase import atoms_of, cell_and_rotation, particles_of
from dmdenv.io.extxyz import ExtxyzWriter
from dmdenv.io.gsd import GSDWriter, read_gsd
from dmdenv.io.trajectory import Trajectory

_WRITERS = {".gsd": GSDWriter, ".xyz": ExtxyzWriter, ".extxyz": ExtxyzWriter}


def read_trajectory(path: str | os.PathLike, *, dimension: int | None = None, **options: Any) -> Trajectory:
    """Read all frames of a file: GSD, or any format that ASE reads.

    Each frame is rotated so that its cell is lower triangular. GSD's positions are unwrapped by their images; those of
    other formats are taken as they stand in the file. Frames without a step are numbered 0, 1, 2, ...

    Args:
        path: of the file; suffix `.gsd` means GSD.
        dimension: 2 drops z; by default that of a GSD file, and 3 for others.
        options: for `ase.io.read`, such as `format="lammps-dump-text"` or `index="::10"`.

    Raises:
        ValueError: for a file without frames, frames of different particles, or boundaries that are periodic along some
            axes only.
    """
    if pathlib.Path(path).suffix == ".gsd":
        return read_gsd(path, dimension=dimension, **options)
    images = ase.io.read(os.fspath(path), **{"index": ":", **options})
    images = images if isinstance(images, list) else [images]
    if not images:
        raise ValueError(f"{path} has no frames")
    first, d = images[0], 3 if dimension is None else dimension
    if any(not np.array_equal(atoms.numbers, first.numbers) for atoms in images):
        raise ValueError(f"{path} has frames of different atoms; must be the same ones in the same order")
    cells, rotations = zip(*[cell_and_rotation(atoms, d) for atoms in images], strict=True)
    if any((cell is None) != (cells[0] is None) for cell in cells):
        raise ValueError(f"{path} has periodic frames and others; must be all or none")

    def rotate(vectors: list[np.ndarray]) -> np.ndarray:
        return np.stack([a[:, :d] @ rotation for a, rotation in zip(vectors, rotations, strict=True)])

    moving = all(atoms.has("momenta") for atoms in images)
    return Trajectory(
        steps=np.array([atoms.info.get("step", k) for k, atoms in enumerate(images)], np.int64),
        positions=rotate([atoms.positions for atoms in images]),
        velocities=rotate([atoms.get_velocities() for atoms in images]) if moving else None,
        cell=None if cells[0] is None else np.stack(cells),
        particles=particles_of(first),
    )


def write_trajectory(path: str | os.PathLike, trajectory: Trajectory) -> None:
    """Write all frames to a file, replacing an existing one: GSD, extended XYZ, or any format that ASE writes.

    Args:
        path: of the file; its suffix determines the format.
        trajectory: what to write.

    Raises:
        ValueError: for free space in GSD, and for species without chemical symbols elsewhere.
    """
    writer = _WRITERS.get(pathlib.Path(path).suffix)
    if writer is not None:
        with writer(path, particles=trajectory.particles, mode="w") as write:
            write(trajectory.steps, trajectory)
        return
    images = []
    for k, step in enumerate(trajectory.steps):
        cell = None if trajectory.cell is None else trajectory.cell[k]
        velocities = None if trajectory.velocities is None else trajectory.velocities[k]
        images.append(atoms_of(cell, trajectory.positions[k], velocities, trajectory.particles))
        images[-1].info["step"] = int(step)
    ase.io.write(os.fspath(path), images)
