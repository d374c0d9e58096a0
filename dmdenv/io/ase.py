"""Conversion from and to `ase.Atoms`.

ASE computes in eV, Angstrom and atomic masses, with the time that follows from these: `dmdenv.units.METAL.coherent`,
so no units are converted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from dmdenv._core.fields import Choice, shown
from dmdenv.io.trajectory import Particles, Trajectory, cell_of, space_of
from dmdenv.io.writer import in_three_dimensions
from dmdenv.space import Space, lower_triangular


@dataclasses.dataclass(frozen=True)
class Configuration:
    """The particles that a simulation starts with; floats in JAX's default precision."""

    space: Space
    positions: jax.Array  # [n, d], unit length
    velocities: jax.Array | None  # [n, d], unit length / time; None for atoms without momenta
    particles: Particles  # species and their symbols, masses
    rotation: np.ndarray  # [d, d]: positions = atoms.positions @ rotation


def from_atoms(atoms: Atoms, *, dimension: int = 3) -> Configuration:
    """The space, positions and velocities of atoms with a cell of any orientation.

    The cell is rotated so that it is lower triangular, and all vectors with it. The last edge of a left-handed cell is
    reversed, which gives the same lattice.

    Args:
        atoms: periodic along all axes, or along none.
        dimension: 2 drops z, which must be the same for all atoms.

    Returns:
        A `Configuration`; `to_atoms(..., rotation=configuration.rotation)` goes back.

    Raises:
        ValueError: for no atoms, atoms with constraints (which nothing in dmdenv would keep), that are periodic along
            some axes only, without a volume, or that are not two-dimensional for `dimension=2`.
    """
    dimension = Choice((2, 3)).convert("dimension", dimension)
    cell, rotation = cell_and_rotation(atoms, dimension)
    if dimension == 2 and not np.allclose(atoms.positions[:, 2], atoms.positions[:1, 2]):
        raise ValueError("the atoms differ in z; must be at one z in two dimensions")

    def rotate(vectors: np.ndarray) -> jax.Array:
        return jnp.asarray(_rotate(vectors, rotation), jnp.result_type(float))

    particles = particles_of(atoms)
    velocities = _velocities_of(atoms, particles)
    return Configuration(
        space=space_of(cell),
        positions=rotate(atoms.positions),
        velocities=None if velocities is None else rotate(velocities),
        particles=particles,
        rotation=rotation,
    )


def particles_of(atoms: Atoms) -> Particles:
    """The species of atoms, numbered in the order in which they appear, masses, and what `atoms_of` notes of the rest.

    An array "species" of names goes before the chemical symbols. Masses that are not given are those of the elements,
    and 1 where some name is not a chemical symbol.
    """
    if atoms.constraints or not np.all(atoms.arrays.get("move_mask", True)):
        raise ValueError(
            f"atoms.constraints = {atoms.constraints or 'those of move_mask'}; must be none, as nothing in dmdenv keeps"
            " them: see atoms.set_constraint()"
        )
    names = atoms.arrays.get("species", atoms.symbols)
    types = tuple(dict.fromkeys(map(str, names)))
    species = np.array([types.index(str(name)) for name in names], np.int32)
    masses = _first(atoms.arrays, "masses", "mass")
    if masses is None and all(name in chemical_symbols for name in types):
        masses = atomic_masses[[atomic_numbers[name] for name in types]][species]
    bonds, bond_species = atoms.info.get("bonds"), atoms.info.get("bond_species")
    diameters = 2 * atoms.arrays["radius"] if "radius" in atoms.arrays else atoms.info.get("diameters")
    return Particles(
        species=species,
        types=types,
        masses=masses,
        diameters=diameters,
        bonds=None if bonds is None else np.reshape(bonds, (-1, 2)),
        bond_species=None if bond_species is None else np.atleast_1d(bond_species),
        bond_types=atoms.info.get("bond_types"),
    ).of(len(atoms))


def _velocities_of(atoms: Atoms, particles: Particles) -> np.ndarray | None:
    """From momenta as ASE has them, or from an array of a usual name, `[n, 3]`; None where there is neither."""
    if atoms.has("momenta"):
        return atoms.get_momenta() / particles.masses[:, None]
    velocities = _first(atoms.arrays, "velocities", "velocity", "velo", "vel")
    if velocities is not None and velocities.shape != (len(atoms), 3):
        raise ValueError(f"velocities has shape {velocities.shape}; must be {(len(atoms), 3)}")
    return velocities


def _rotate(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Vectors `[n, 3]` in the dimension of the rotation; without one each component stays, whatever the others are."""
    vectors = vectors[:, : len(rotation)]
    return vectors if np.array_equal(rotation, np.eye(len(rotation))) else vectors @ rotation


def _first(values: Mapping[str, Any], *names: str) -> Any:
    """The value of the first name that is there, else None."""
    return next((values[name] for name in names if name in values), None)


def trajectory_of(atoms: Atoms, step: int, dimension: int | None) -> Trajectory:
    """A trajectory of one frame; in the dimension that `atoms_of` notes, and 3 else, where None is asked for."""
    d = Choice((2, 3)).convert("dimension", int(atoms.info.get("dimension", 3)) if dimension is None else dimension)
    cell, rotation = cell_and_rotation(atoms, d)
    particles = particles_of(atoms)
    velocities = _velocities_of(atoms, particles)
    return Trajectory(
        steps=np.array([step], np.int64),
        positions=_rotate(atoms.positions, rotation)[None],
        velocities=None if velocities is None else _rotate(velocities, rotation)[None],
        cell=None if cell is None else cell[None],
        particles=particles,
    )


def step_of(atoms: Atoms) -> int | None:
    """The step that is noted with atoms under one of its usual names, None where there is none."""
    step = _first({name.lower(): value for name, value in atoms.info.items()}, "step", "timestep")
    if step is None:
        return None
    try:
        whole = int(step)
    except (TypeError, ValueError, OverflowError):
        whole = None
    exact = whole is not None and (isinstance(step, str) or whole == step) and -(2**63) <= whole < 2**63
    if not exact or isinstance(step, bool | np.bool_):
        raise ValueError(f"step = {shown(step)}; must be an integer")
    return whole


def cell_and_rotation(atoms: Atoms, dimension: int) -> tuple[np.ndarray | None, np.ndarray]:
    """The lower triangular cell of atoms `[d, d]`, None in free space, and the rotation that takes them there."""
    pbc = atoms.pbc[:dimension]
    if pbc.any() and not pbc.all():
        raise ValueError(f"atoms.pbc = {atoms.pbc.tolist()}; must be periodic along all axes or along none")
    if not pbc.any():
        return None, np.eye(dimension)
    cell = np.array(atoms.cell)
    if not np.all(np.any(cell[:dimension], axis=1)):
        raise ValueError(
            f"periodic without a lattice: cell = {cell.tolist()}; must be linearly independent edges, or pbc = False"
        )
    if dimension == 2 and (np.any(cell[:2, 2]) or np.any(cell[2, :2])):
        raise ValueError(f"atoms.cell = {cell.tolist()}; must be two edges in the xy plane and one along z in 2-D")
    cell = cell[:dimension, :dimension]
    if np.linalg.det(cell) < 0:
        cell[-1] *= -1
    return lower_triangular(cell)


def to_atoms(
    space: Space,
    positions: jax.Array,
    *,
    velocities: jax.Array | None = None,
    particles: Particles | None = None,
    rotation: np.ndarray | None = None,
) -> Atoms:
    """`ase.Atoms` of a configuration; positions are not wrapped, and two dimensions are placed at z = 0.

    Args:
        space: a periodic one gives a cell; in 2-D its third edge is one unit long and not periodic.
        positions: `[n, d]`, unit length.
        velocities: `[n, d]`, unit length / time.
        particles: species named by chemical symbols, and masses; by default ASE's species "X" of mass 1.
        rotation: that of `from_atoms`, to be undone.

    Raises:
        ValueError: for names that are not chemical symbols; and see `Particles`.
    """
    dimension = positions.shape[-1]
    back = np.eye(dimension) if rotation is None else np.asarray(rotation).T
    cell = cell_of(space, dimension)
    return atoms_of(
        None if cell is None else np.asarray(cell, float) @ back,
        np.asarray(positions, float) @ back,
        None if velocities is None else np.asarray(velocities, float) @ back,
        particles if particles is not None else Particles(),
    )


def atoms_of(
    cell: np.ndarray | None, positions: np.ndarray, velocities: np.ndarray | None, particles: Particles
) -> Atoms:
    """`ase.Atoms` of arrays `[d, d]`, `[n, d]` and `[n, d]`; what ASE has no place for is noted beside them."""
    n, dimension = positions.shape
    particles = with_symbols(particles, n)
    atoms = Atoms(
        symbols=[particles.types[s] for s in particles.species],  # pyright: ignore[reportOptionalSubscript]
        positions=in_three_dimensions(positions),
        masses=particles.masses,
        cell=None if cell is None else cell_in_three_dimensions(cell),
        pbc=[cell is not None] * dimension + [False] * (3 - dimension),
    )
    if velocities is not None:
        if not np.all(particles.masses):
            raise ValueError("masses has 0; must be above 0 where velocities are kept as momenta")
        atoms.set_velocities(in_three_dimensions(velocities))
    if np.any(particles.diameters != 1):
        atoms.info["diameters"] = particles.diameters
    if len(particles.bonds):
        atoms.info["bonds"] = particles.bonds.ravel()
        atoms.info["bond_species"] = particles.bond_species
        atoms.info["bond_types"] = list(particles.bond_types)  # pyright: ignore[reportArgumentType]
    if dimension == 2:
        atoms.info["dimension"] = 2
    return atoms


def frame_of(trajectory: Trajectory, k: int) -> Atoms:
    """`ase.Atoms` of a frame, in double precision, with its step."""
    atoms = atoms_of(
        None if trajectory.cell is None else np.asarray(trajectory.cell[k], float),
        np.asarray(trajectory.positions[k], float),
        None if trajectory.velocities is None else np.asarray(trajectory.velocities[k], float),
        trajectory.particles,
    )
    atoms.info["step"] = int(trajectory.steps[k])
    return atoms


def with_symbols(particles: Particles, n: int) -> Particles:
    """Particles with chemical symbols as names of species, as ASE needs them: X for one species without a name."""
    named = (dataclasses.replace(particles, types=("X",)) if particles.types is None else particles).of(n)
    unknown = [name for name in named.types or () if name not in chemical_symbols]
    if unknown:
        raise ValueError(f"types has {unknown[0]!r}; must be chemical symbols, 'X' for none")
    return named


def cell_in_three_dimensions(cell: np.ndarray) -> np.ndarray:
    """`[..., d, d]` with edges of length one along further axes, `[..., 3, 3]`."""
    whole = np.broadcast_to(np.eye(3), (*cell.shape[:-2], 3, 3)).copy()
    whole[..., : cell.shape[-2], : cell.shape[-1]] = cell
    return whole
