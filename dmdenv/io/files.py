"""Reading and writing whole trajectories, in the format of the file's suffix."""

import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import filetype, get_compression, open_with_compression
from ase.utils import string2index

from dmdenv._core.fields import Choice
from dmdenv.io.ase import frame_of, step_of, trajectory_of
from dmdenv.io.extxyz import ExtxyzWriter, format_frames, read_extxyz
from dmdenv.io.gsd import GSDWriter, read_gsd
from dmdenv.io.identity import require_same
from dmdenv.io.lammps import read_dump
from dmdenv.io.trajectory import Trajectory, as_trajectory

_READERS = {"extxyz": read_extxyz, "xyz": read_extxyz, "lammps-dump-text": read_dump}  # others are ASE's

T = TypeVar("T")


def read_trajectory(
    path: str | os.PathLike,
    *,
    dimension: int | None = None,
    index: str | int | slice = ":",
    format: str | None = None,
    **options: Any,
) -> Trajectory:
    """Read the frames of a file: GSD, extended XYZ, LAMMPS's text dumps, or any format that ASE reads.

    Each frame is rotated so that its cell is lower triangular. Positions of GSD files and dumps are unwrapped by their
    images; those of other formats are taken as they stand in the file. Frames without a step are numbered 0, 1, 2, ...
    Names of species are those of the file, chemical symbols or not (in a dump the elements, or else the types 1, 2,
    ...); masses that are not given are those of the elements, and 1 where some name is not a chemical symbol. Particles
    with an id are sorted by it. Velocities are momenta over masses, or columns `velocities`, `velocity`, `velo`, `vel`.

    Args:
        path: of the file; its contents and its suffix, in small letters or capitals, determine the format.
        dimension: 2 drops z; by default that of a file of dmdenv or GSD, and 3 for others.
        index: which frames, such as "::10" or -1.
        format: ASE's name of the format, where it cannot be told from the file.
        options: for the reader of the format: `units` and `specorder` for dumps, which are otherwise in the units that
            they state, or "metal", and come in those of ASE ("lj" are left as they are); else those of `ase.io.read`.

    Returns:
        The frames; `velocities` is None where the file has none.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for whatever else cannot be read as a trajectory: no frames, no particles, a file that is damaged or
            of no known format, steps that are not integers, boundaries that are periodic along some axes only or
            without a lattice, constraints; and, with its number, for a frame whose particles (number, types, masses,
            diameters, bonds, ids), dimension or kind of space are not those of the first one, or that alone has or
            lacks velocities or a step.
    """
    dimension = None if dimension is None else Choice((2, 3)).convert("dimension", dimension)
    os.stat(path)
    chosen = _chosen(_numbered(_frames(path, dimension, format, options)), index)
    frames: list[Trajectory] = []
    first = 0
    try:
        for k, frame in chosen:
            if not frames:
                first = k
            else:
                require_same(frame, frames[0], f"frame {k}", f"frame {first}")
            frames.append(frame)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if not frames:
        raise ValueError(f"{path} has no frames")
    cells = [frame.cell for frame in frames if frame.cell is not None]
    velocities = [frame.velocities for frame in frames if frame.velocities is not None]
    return Trajectory(
        steps=np.concatenate([frame.steps for frame in frames]),
        positions=np.concatenate([frame.positions for frame in frames]),
        velocities=np.concatenate(velocities) if velocities else None,
        cell=np.concatenate(cells) if cells else None,
        particles=frames[0].particles,
    )


def _frames(
    path: str | os.PathLike, dimension: int | None, format: str | None, options: dict[str, Any]
) -> Iterator[Trajectory]:
    """The frames of a file, one by one."""
    if format is None:
        format = "gsd" if pathlib.Path(path).suffix.lower() == ".gsd" else filetype(os.fspath(path))
    if format == "gsd":
        yield from read_gsd(path, dimension, **options)
        return
    if reader := _READERS.get(format):
        images = reader(path, **options)
    else:
        images = ase.io.iread(os.fspath(path), ":", format, do_not_split_by_at_sign=True, **options)
    first_ids, counts = None, False
    for k, atoms in enumerate(images):
        atoms, ids = _sorted_by_id(atoms)
        step = step_of(atoms)
        if k == 0:
            first_ids, counts = ids, step is None
        if ids != first_ids:
            raise ValueError("the particles have other ids than in frame 0; must be the same ones")
        if (step is None) != counts:
            raise ValueError(f"{'no step' if step is None else f'step = {step}'}; must be in all frames, or in none")
        yield trajectory_of(atoms, k if step is None else step, dimension)


def _sorted_by_id(atoms: Atoms) -> tuple[Atoms, list[int] | None]:
    ids = atoms.arrays.get("id")
    if ids is None:
        return atoms, None
    order = np.argsort(ids, kind="stable")
    if np.any(np.diff(ids[order]) == 0):
        raise ValueError("two particles have the same id; must be different ones")
    return atoms[order], ids[order].tolist()


def _numbered(frames: Iterator[Trajectory]) -> Iterator[tuple[int, Trajectory]]:
    """The frames with their numbers, which errors name too."""
    for k in itertools.count():
        try:
            frame = next(frames, None)
        except Warning:  # made an error by the user's filters, whatever the file is
            raise
        except Exception as error:  # a reader may raise anything for a file that is none
            what = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise ValueError(f"frame {k}: {what}") from error
        if frame is None:
            return
        yield k, frame


def _chosen(frames: Iterator[T], index: str | int | slice) -> Iterator[T]:
    """The frames of an index."""
    which: Any = string2index(index) if isinstance(index, str) else index
    if not isinstance(which, slice):
        which = slice(which, which + 1 or None)
    if min(which.start or 0, which.stop or 0, which.step or 1) < 0:
        return iter(list(frames)[which])
    return itertools.islice(frames, which.start, which.stop, which.step)


def write_trajectory(path: str | os.PathLike, trajectory: Trajectory) -> None:
    """Write all frames to a file, replacing an existing one: GSD, extended XYZ, or ASE's `.traj`.

    These keep a whole trajectory (GSD in single precision). For other formats, write the frames by `to_atoms` and
    `ase.io.write`, which leaves out what a format has no place for.

    Args:
        path: of the file; its suffix, in small letters or capitals, determines the format: `.gsd`, `.xyz`, `.extxyz`,
            `.traj`. Text is compressed for a further suffix `.gz`, `.bz2` or `.xz`.
        trajectory: what to write.

    Raises:
        ValueError: for another suffix; for no frames, no particles, steps that do not increase; for free space and
            positions more than 2^31 boxes away in GSD; for species without chemical symbols elsewhere. The file that
            was there is left as it was.
    """
    path = os.fspath(path)
    root, compression = get_compression(path)
    suffix = pathlib.Path(root).suffix.lower()
    if suffix not in (".xyz", ".extxyz") and (compression or suffix not in (".gsd", ".traj")):
        raise ValueError(
            f"path = {path!r}; must end with .gsd, .traj, .xyz or .extxyz; for others see to_atoms and ase.io.write"
        )
    trajectory = as_trajectory(trajectory.steps, trajectory, None, None)
    if not len(trajectory):
        raise ValueError("trajectory has no frames; must have at least one")
    if suffix == ".traj":
        images = [frame_of(trajectory, k) for k in range(len(trajectory))]
        ase.io.write(path, images, "traj")
    elif compression:
        text = format_frames(trajectory)
        with open_with_compression(path, "wb") as file:
            file.write(text)
    else:
        writer = GSDWriter if suffix == ".gsd" else ExtxyzWriter
        with writer(path, mode="w") as write:
            write(trajectory.steps, trajectory)
