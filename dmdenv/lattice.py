"""Initial configurations: crystals, random arrangements and chain melts in periodic boxes.

Every function returns `(space, positions)`: a `Periodic` space and positions `[n, d]` in its box. Crystals are built
from right-angled cells, so that whole numbers of cells fill an orthorhombic box:

| function | particles per cell | cell, in units of the lattice constant a | a |
|---|---|---|---|
| `square` | 1 | 1, 1 | the distance of neighbours |
| `triangular` | 2 | 1, sqrt(3) | the distance of neighbours |
| `simple_cubic` | 1 | 1, 1, 1 | the distance of neighbours |
| `bcc` | 2 | 1, 1, 1 | the side of the cube |
| `fcc` | 4 | 1, 1, 1 | the side of the cube |
| `diamond` | 8 | 1, 1, 1 | the side of the cube |
| `hcp` | 4 | 1, sqrt(3), sqrt(8 / 3) | the distance of neighbours (ideal axial ratio) |

The density (or the lattice constant) of a crystal may be traced and is differentiable. `random` and `chain_melt` run on
the host.

Reference: Kittel, Introduction to Solid State Physics, 8th ed. (2005), chapter 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from dmdenv._core.fields import Choice, Number, Real, Whole, is_integer
from dmdenv.space import Periodic

_DENSEST = {1: 1.0, 2: math.pi / math.sqrt(12), 3: math.pi / math.sqrt(18)}  # packing fraction of equal spheres

_FCC = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))


def square(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A square lattice, 1 particle per cell, 4 neighbours. Arguments and errors: see `fcc`, in two dimensions."""
    return _crystal(cells, density, lattice_constant, sides=(1, 1), basis=((0, 0),))


def triangular(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A triangular lattice, 2 particles per cell, 6 neighbours. Arguments and errors: see `fcc`, in two dimensions."""
    return _crystal(cells, density, lattice_constant, sides=(1, math.sqrt(3)), basis=((0, 0), (0.5, 0.5)))


def simple_cubic(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A simple cubic lattice, 1 particle per cell, 6 neighbours. Arguments and errors: see `fcc`."""
    return _crystal(cells, density, lattice_constant, sides=(1, 1, 1), basis=((0, 0, 0),))


def bcc(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A body-centred cubic lattice, 2 particles per cell, 8 neighbours and 6. Arguments and errors: see `fcc`."""
    return _crystal(cells, density, lattice_constant, sides=(1, 1, 1), basis=((0, 0, 0), (0.5, 0.5, 0.5)))


def fcc(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A face-centred cubic lattice, 4 particles per cell, 12 neighbours.

    Args:
        cells: the number along each axis, one for all or one for each.
        density: particles over volume, unit 1 / length^d.
        lattice_constant: instead of `density`, unit length; see the module's table.

    Returns:
        `(space, positions)`: the box and `[n, d]`, unit length; the first particle is at the origin.

    Raises:
        ValueError: for numbers of cells that are not positive integers, for none or both of `density` and
            `lattice_constant`, or for one that is not positive and finite.
    """
    return _crystal(cells, density, lattice_constant, sides=(1, 1, 1), basis=_FCC)


def diamond(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A diamond lattice, 8 particles per cell, 4 neighbours. Arguments and errors: see `fcc`."""
    second = tuple(tuple(x + 0.25 for x in site) for site in _FCC)
    return _crystal(cells, density, lattice_constant, sides=(1, 1, 1), basis=_FCC + second)


def hcp(cells, *, density=None, lattice_constant=None) -> tuple[Periodic, jax.Array]:
    """A hexagonal close-packed lattice, 4 particles per cell, 12 neighbours. Arguments and errors: see `fcc`."""
    basis = ((0, 0, 0), (0.5, 0.5, 0), (0.5, 5 / 6, 0.5), (0, 1 / 3, 0.5))
    return _crystal(cells, density, lattice_constant, sides=(1, math.sqrt(3), math.sqrt(8 / 3)), basis=basis)


def random(
    count: int, *, key: jax.Array, density: float, dimension: int, min_distance: float = 0.0, sweeps: int = 2000
) -> tuple[Periodic, jax.Array]:
    """Particles at random in a cubic (square) box, no two of them closer than `min_distance`.

    Positions are drawn independently; then all pairs that are too close are pushed apart to that distance, until there
    are none. Dense fluids take some tens of sweeps (density 0.85 and distance 0.9 in 3-D), packing fractions up to
    about 0.8 in 2-D and 0.6 in 3-D some hundreds; beyond random close packing it fails.

    Args:
        count: n.
        key: consumed.
        density: particles over volume, unit 1 / length^d.
        dimension: d.
        min_distance: unit length.
        sweeps: the largest number of such steps.

    Returns:
        `(space, positions)`: the box and `[n, d]`, unit length.

    Raises:
        ValueError: for a count, density, dimension or distance out of range; for a density at which no arrangement has
            this distance; if none was found.
    """
    count = Whole(at_least=1).convert("count", count)
    dimension = Choice(tuple(_DENSEST)).convert("dimension", dimension)
    density = Real(above=0).convert("density", density)
    side = (count / density) ** (1 / dimension)
    if not 0 <= min_distance < side / 2:
        raise ValueError(f"min_distance = {min_distance!r}; must be >= 0 and below half the box, {side / 2:g}")
    sphere = math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1) * (min_distance / 2) ** dimension
    fraction = density * sphere
    if fraction > _DENSEST[dimension]:
        raise ValueError(
            f"min_distance = {min_distance} at density = {density}: spheres of this diameter would fill {fraction:.3f}"
            f" of the volume; must be at most {_DENSEST[dimension]:.3f}, and rather less at random"
        )
    generator = _generator(key)
    positions = generator.random((count, dimension)) * side
    close = _close_pairs(positions, side, min_distance)
    for _ in range(sweeps):
        if not len(close):
            break
        positions = _push_apart(positions, side, min_distance, close, generator)
        close = _close_pairs(positions, side, min_distance)
    if len(close):
        raise ValueError(
            f"min_distance = {min_distance} at density = {density}: {len(close)} pairs are still closer after {sweeps}"
            f" sweeps (packing fraction {fraction:.3f}); try a smaller distance, a lower density or more sweeps"
        )
    return Periodic(side), jnp.asarray(positions, jnp.result_type(float))


class ChainMelt(NamedTuple):
    """The result of `chain_melt`."""

    space: Periodic
    positions: jax.Array  # [chains * beads, 3], unit length, chain after chain, not wrapped
    bonds: jax.Array  # int32 [chains * (beads - 1), 2], particles
    angles: jax.Array  # int32 [chains * (beads - 2), 3], particles, the vertex in the middle


def chain_melt(
    chains: int,
    beads: int,
    *,
    key: jax.Array,
    density: float = 0.85,
    bond_length: float = 0.97,
    next_nearest: float = 1.02,
) -> ChainMelt:
    """Bead-spring chains as random walks that do not fold back on themselves, in a cubic box.

    Bonds have the given length, and next-nearest beads are at least `next_nearest` apart; the cosine of the angle
    between successive bonds is uniform within that range. Chains are independent and overlap. To make a melt of them,
    for example with `melt = chain_melt(...)`:

    1. Remove overlaps, with the bonds in place and a soft repulsion between all pairs, finite where two particles
       coincide, `A (1 + cos(pi r / rc))` with rc = 2^(1/6): run Langevin dynamics at temperature 1 while A
       grows from 4 to 100 over some 10^4 steps.
    2. Replace the soft repulsion by WCA and equilibrate, with small time steps at first.

    Args:
        chains: the number of chains.
        beads: per chain, at least 2.
        key: consumed.
        density: beads over volume, unit 1 / length^3.
        bond_length: unit length.
        next_nearest: least distance of next-nearest beads, unit length; 0 for a freely jointed chain.

    Raises:
        ValueError: for numbers out of range.

    Reference: Kremer and Grest, J. Chem. Phys. 92, 5057 (1990), section II; removal of overlaps: Auhl et al., J. Chem.
    Phys. 119, 12718 (2003).
    """
    chains = Whole(at_least=1).convert("chains", chains)
    beads = Whole(at_least=2).convert("beads", beads)
    density = Real(above=0).convert("density", density)
    bond_length = Real(above=0).convert("bond_length", bond_length)
    if not 0 <= next_nearest < 2 * bond_length:
        raise ValueError(f"next_nearest = {next_nearest!r}; must be >= 0 and below two bonds, {2 * bond_length:g}")
    generator = _generator(key)
    side = (chains * beads / density) ** (1 / 3)
    least_cosine = next_nearest**2 / (2 * bond_length**2) - 1  # |b1 + b2|^2 = 2 l^2 (1 + cos)
    bonds = np.empty((chains, beads - 1, 3))
    bonds[:, 0] = _random_directions(generator, chains)
    for k in range(1, beads - 1):
        cosine = generator.uniform(least_cosine, 1, (chains, 1))
        across = np.cross(bonds[:, k - 1], _random_directions(generator, chains))
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        bonds[:, k] = cosine * bonds[:, k - 1] + np.sqrt(1 - cosine**2) * across
    starts = generator.random((chains, 1, 3)) * side
    positions = np.concatenate([starts, starts + bond_length * np.cumsum(bonds, axis=1)], axis=1)
    bead = np.arange(chains * beads, dtype=np.int32).reshape(chains, beads)
    return ChainMelt(
        space=Periodic(side),
        positions=jnp.asarray(positions.reshape(-1, 3), jnp.result_type(float)),
        bonds=jnp.asarray(np.stack([bead[:, :-1], bead[:, 1:]], axis=-1).reshape(-1, 2)),
        angles=jnp.asarray(np.stack([bead[:, :-2], bead[:, 1:-1], bead[:, 2:]], axis=-1).reshape(-1, 3)),
    )


def _crystal(cells, density, lattice_constant, *, sides, basis) -> tuple[Periodic, jax.Array]:
    dimension, per_cell = len(sides), len(basis)
    cells = (cells,) * dimension if np.ndim(cells) == 0 else tuple(cells)
    if len(cells) != dimension or not all(is_integer(m) and m > 0 for m in cells):
        raise ValueError(f"cells = {cells!r}; must be an integer >= 1, or {dimension} of them")
    if (density is None) == (lattice_constant is None):
        raise ValueError(f"density = {density!r}, lattice_constant = {lattice_constant!r}; must be exactly one of them")
    if density is None:
        a = Number(above=0).convert("lattice_constant", lattice_constant)
    else:
        a = (per_cell / (math.prod(sides) * Number(above=0).convert("density", density))) ** (1 / dimension)
    corners = np.stack(np.meshgrid(*map(np.arange, cells), indexing="ij"), axis=-1).reshape(-1, 1, dimension)
    in_units_of_a = ((corners + np.asarray(basis)) * np.asarray(sides)).reshape(-1, dimension)
    box = a * jnp.asarray(np.asarray(cells) * np.asarray(sides), a.dtype)
    return Periodic(box), a * jnp.asarray(in_units_of_a, a.dtype)


def _close_pairs(positions: np.ndarray, side: float, distance: float) -> np.ndarray:
    """Pairs that are closer than a distance, or could be after rounding to float32, `[m, 2]`."""
    return KDTree(positions, boxsize=side).query_pairs(distance * (1 + 1e-5), output_type="ndarray")


def _push_apart(
    positions: np.ndarray, side: float, distance: float, close: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Positions with these pairs moved to slightly more than the distance, in the box, `[n, d]`."""
    i, j = close.T
    r = positions[i] - positions[j]
    r -= side * np.round(r / side)
    length = np.linalg.norm(r, axis=1, keepdims=True)
    direction = np.where(length > 0, r, generator.normal(size=r.shape))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    push = 0.5 * (distance * (1 + 1e-4) - length) * direction
    moved = positions.copy()
    np.add.at(moved, i, push)
    np.add.at(moved, j, -push)
    moved -= side * np.floor(moved / side)
    return np.where(moved < side, moved, 0.0)  # a tiny negative number is wrapped to the side itself


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _random_directions(generator: np.random.Generator, count: int) -> np.ndarray:
    vectors = generator.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
