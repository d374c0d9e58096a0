"""A trajectory on the host: its frames and its particles."""

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.space import Free, Periodic, PeriodicSpace, Space, Triclinic


@dataclasses.dataclass(frozen=True)
class Particles:
    """Properties of n particles that do not change in time. None stands for the default of a format.

    Raises:
        ValueError: for arrays of other shapes or kinds, species without a name, bonds without a type, equal names, or
            no particles.
    """

    species: Any = None  # int [n], an index into types; 0 for all
    types: tuple[str, ...] | None = None  # the names of the species, such as chemical symbols
    masses: Any = None  # float [] or [n], unit mass; 1 for all
    diameters: Any = None  # float [] or [n], unit length; 1 for all
    bonds: Any = None  # int [b, 2], pairs of particles; none
    bond_species: Any = None  # int [b], an index into bond_types; 0 for all
    bond_types: tuple[str, ...] | None = None  # the names of the kinds of bonds

    def of(self, n: int) -> "Particles":
        """With every field as a numpy array, for n particles; species without names are called A, B, C, ..."""
        if n < 1:
            raise ValueError("there are no particles; must be at least one")
        bonds = _integers("bonds", self.bonds, None, np.zeros((0, 2), np.int32))
        if bonds.ndim != 2 or bonds.shape[1] != 2 or np.any((bonds < 0) | (bonds >= n)):
            raise ValueError(f"bonds has shape {bonds.shape}; must be [b, 2], of particles from 0 to {n - 1}")
        species, types = _check_names("species", self.species, "types", self.types, n)
        bond_species, bond_types = _check_names(
            "bond_species", self.bond_species, "bond_types", self.bond_types, len(bonds)
        )
        return Particles(
            species=species,
            types=types,
            masses=_floats("masses", self.masses, n),
            diameters=_floats("diameters", self.diameters, n),
            bonds=bonds,
            bond_species=bond_species,
            bond_types=bond_types,
        )


def _check_names(
    name: str, index: Any, of: str, names: tuple[str, ...] | None, n: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    index = _integers(name, index, (n,), np.zeros(n, np.int32))
    most = int(index.max(initial=0))
    names = tuple(string.ascii_uppercase[: most + 1] if n else ()) if names is None else names
    if isinstance(names, str) or not all(isinstance(one, str) for one in names) or len({*names}) < len(names):
        raise ValueError(f"{of} = {names!r}; must be different names, one for each")
    names = tuple(names)
    if n and (index.min() < 0 or most >= len(names)):
        raise ValueError(f"{name} goes from {index.min()} to {most} with {of} = {names}; must be one name for each")
    return index, names


def _integers(name: str, value: Any, shape: tuple[int, ...] | None, default: np.ndarray) -> np.ndarray:
    value = default if value is None else np.asarray(value)
    if not np.issubdtype(value.dtype, np.integer) or (shape is not None and value.shape != shape):
        raise ValueError(f"{name} has type {value.dtype}{list(value.shape)}; must be int {list(shape or ('b', 2))}")
    return value


def _floats(name: str, value: Any, n: int) -> np.ndarray:
    value = _reals(name, 1.0 if value is None else value)
    if value.shape not in ((), (n,)):
        raise ValueError(f"{name} has shape {value.shape}; must be [] or [{n}]")
    return np.array(np.broadcast_to(value, (n,)))


def _reals(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value)
    if not (jnp.issubdtype(value.dtype, jnp.floating) or np.issubdtype(value.dtype, np.integer)):
        raise ValueError(f"{name} has type {value.dtype}{list(value.shape)}; must be real numbers")
    return value


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """m frames of n particles, numpy arrays on the host. Also accepted as the observations of a `Writer`."""

    steps: np.ndarray  # int [m]
    positions: np.ndarray  # float [m, n, d], continuous in time, unit length
    velocities: np.ndarray | None  # float [m, n, d], None where they are not known
    cell: np.ndarray | None  # float [m, d, d], edges as rows, lower triangular; None in free space
    particles: Particles

    def __len__(self) -> int:
        return len(self.steps)

    def space(self, frame: int) -> Space:
        """The space of a frame, in JAX's default precision."""
        return space_of(None if self.cell is None else self.cell[frame])

    def select(self, frames: Any) -> "Trajectory":
        """Some of the frames: a slice, indices or a mask."""
        return Trajectory(
            steps=self.steps[frames],
            positions=self.positions[frames],
            velocities=None if self.velocities is None else self.velocities[frames],
            cell=None if self.cell is None else self.cell[frames],
            particles=self.particles,
        )


def space_of(cell: np.ndarray | None) -> Space:
    """Free without a cell, periodic for a diagonal cell `[d, d]`, else triclinic."""
    if cell is None:
        return Free()
    straight = np.array_equal(cell, np.diag(np.diag(cell)))
    return Periodic(jnp.asarray(np.diag(cell))) if straight else Triclinic(jnp.asarray(cell))


def cell_of(space: Space, dimension: int) -> np.ndarray | None:
    """The edges of a space as rows, `[d, d]`, and None for free space."""
    cell = space.cell_vectors(dimension)
    return None if cell is None else np.asarray(cell)


def as_trajectory(steps: Any, observations: Any, space: Space | None, particles: Particles | None) -> Trajectory:
    """The observations that a writer receives, checked, as a trajectory; its particles are not checked.

    Args:
        steps: int `[m]`, >= 0 and increasing.
        observations: a mapping, or an object with attributes, of arrays with a leading axis m: `positions [m, n, d]`,
            and optionally `velocities [m, n, d]`, `images [m, n, d]` (int, of positions that are wrapped; those of an
            integrator's states are) and one of `space` (a space of arrays `[m, ...]`), `box` (`[m]` or
            `[m, d]`) and `cell` (`[m, d, d]`). Others are ignored.
        space: the space of every frame, where the observations do not contain it.
        particles: None stands for those of a `Trajectory`, and for one species elsewhere.

    Raises:
        ValueError: for other shapes and kinds, and without a space.
    """
    steps = np.asarray(steps)
    if steps.ndim != 1 or not np.issubdtype(steps.dtype, np.integer):
        raise ValueError(f"steps has type {steps.dtype}{list(steps.shape)}; must be int [m]")
    steps = steps.astype(np.int64)
    if np.any(np.diff(steps, prepend=-1) <= 0):
        raise ValueError(f"steps = {steps.tolist()}; must be >= 0 and increase")
    positions = _get_array(observations, "positions")
    if positions is None or positions.ndim != 3 or len(positions) != len(steps) or positions.shape[2] not in (2, 3):
        came = "is missing" if positions is None else f"has shape {positions.shape}"
        raise ValueError(f"positions {came}; must be [{len(steps)}, n, 2] or [{len(steps)}, n, 3]")
    velocities = _get_array(observations, "velocities")
    if velocities is not None and velocities.shape != positions.shape:
        raise ValueError(f"velocities has shape {velocities.shape}; must be {positions.shape}, as positions")
    cell = _observed_cell(observations, space, len(steps), positions.shape[2])
    images = _get_array(observations, "images")
    if images is not None and cell is not None:
        if images.shape != positions.shape or not np.issubdtype(images.dtype, np.integer):
            raise ValueError(f"images has type {images.dtype}{list(images.shape)}; must be int {list(positions.shape)}")
        positions = positions + (images @ cell).astype(positions.dtype)
    if particles is None:
        particles = observations.particles if isinstance(observations, Trajectory) else Particles()
    return Trajectory(
        steps=steps,
        positions=_reals("positions", positions),
        velocities=None if velocities is None else _reals("velocities", velocities),
        cell=None if cell is None else check_cell("cell", cell),
        particles=particles,
    )


def check_cell(name: str, cell: np.ndarray) -> np.ndarray:
    """Edges as rows, `[..., d, d]`, refused where they are not finite and lower triangular."""
    diagonal = np.diagonal(cell, axis1=-2, axis2=-1)
    if not (np.all(np.isfinite(cell)) and np.all(diagonal > 0) and not np.any(np.triu(cell, 1))):
        raise ValueError(f"{name} = {cell.tolist()}; must be finite edges as rows, zero above a positive diagonal")
    return cell


def _get(observations: Any, name: str) -> Any:
    return observations.get(name) if isinstance(observations, Mapping) else getattr(observations, name, None)


def _get_array(observations: Any, name: str) -> np.ndarray | None:
    value = _get(observations, name)
    return None if value is None else np.asarray(value)


def _observed_cell(observations: Any, space: Space | None, m: int, d: int) -> np.ndarray | None:
    box, cell, own = _get_array(observations, "box"), _get_array(observations, "cell"), _get(observations, "space")
    if isinstance(observations, Trajectory) and cell is None:
        return None
    if isinstance(own, PeriodicSpace):
        cell = np.asarray(jax.vmap(lambda one: one.cell_vectors(d))(own))
    elif isinstance(own, Space):
        return None
    if box is not None:
        if box.shape not in ((m,), (m, d)):
            raise ValueError(f"box has shape {box.shape}; must be [{m}] or [{m}, {d}], one per frame")
        return np.reshape(box, (m, 1, -1)) * np.eye(d, dtype=box.dtype)
    if cell is not None:
        if cell.shape != (m, d, d):
            raise ValueError(f"cell has shape {cell.shape}; must be [{m}, {d}, {d}], one per frame")
        return cell
    if space is None:
        raise ValueError("neither the observations nor the writer have a space; give `space` to one of them")
    cell = cell_of(space, d)
    return None if cell is None else np.broadcast_to(cell, (m, d, d))
