"""Conversion from and to `ase.Atoms`.

ASE computes in eV, Angstrom and atomic masses, with the time that follows from these: `dmdenv.units.METAL.coherent`,
so no units are converted.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from dmdenv._core.fields import Choice
from dmdenv.io.trajectory import Particles, cell_of, space_of
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
        ValueError: for atoms that are periodic along some axes only, without a volume, or that are not
            two-dimensional for `dimension=2`.
    """
    dimension = Choice((2, 3)).convert("dimension", dimension)
    cell, rotation = cell_and_rotation(atoms, dimension)
    if dimension == 2 and not np.allclose(atoms.positions[:, 2], atoms.positions[:1, 2]):
        raise ValueError("the atoms differ in z; must be at one z in two dimensions")

    def rotate(vectors: np.ndarray) -> jax.Array:
        return jnp.asarray(vectors[:, :dimension] @ rotation, jnp.result_type(float))

    return Configuration(
        space=space_of(cell),
        positions=rotate(atoms.positions),
        velocities=rotate(atoms.get_velocities()) if atoms.has("momenta") else None,
        particles=particles_of(atoms),
        rotation=rotation,
    )


def particles_of(atoms: Atoms) -> Particles:
    """The species of atoms, numbered in the order in which they appear, their symbols and masses."""
    symbols = atoms.get_chemical_symbols()
    types = tuple(dict.fromkeys(symbols))
    species = np.array([types.index(symbol) for symbol in symbols], np.int32)
    return Particles(species=species, types=types, masses=atoms.get_masses())


def cell_and_rotation(atoms: Atoms, dimension: int) -> tuple[np.ndarray | None, np.ndarray]:
    """The lower triangular cell of atoms `[d, d]`, None in free space, and the rotation that takes them there."""
    pbc = atoms.pbc[:dimension]
    if pbc.any() and not pbc.all():
        raise ValueError(f"atoms.pbc = {atoms.pbc.tolist()}; must be periodic along all axes or along none")
    if not pbc.any():
        return None, np.eye(dimension)
    cell = np.array(atoms.cell)
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
    """`ase.Atoms` of arrays `[d, d]`, `[n, d]` and `[n, d]`."""
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
        atoms.set_velocities(in_three_dimensions(velocities))
    return atoms


def with_symbols(particles: Particles, n: int) -> Particles:
    """Particles with chemical symbols as names of species, as ASE needs them: X for one species without a name."""
    named = dataclasses.replace(particles, types=("X",)) if particles.types is None else particles
    unknown = [name for name in named.types or () if name not in chemical_symbols]
    if unknown:
        raise ValueError(f"types has {unknown[0]!r}; must be chemical symbols, 'X' for none")
    return named.of(n)


def cell_in_three_dimensions(cell: np.ndarray) -> np.ndarray:
    """`[..., d, d]` with edges of length one along further axes, `[..., 3, 3]`."""
    whole = np.broadcast_to(np.eye(3), (*cell.shape[:-2], 3, 3)).copy()
    whole[..., : cell.shape[-2], : cell.shape[-1]] = cell
    return whole
