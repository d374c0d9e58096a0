"""Structure of fluids and solids: pair distributions and the static structure factor.

    g(r) = V / n^2 <sum_i sum_{j != i} delta(r - r_ij)> / (surface of the sphere of radius r)
    S(q) = 1/n <|sum_j exp(-i q r_j)|^2>

Averages over configurations are means of these over a trajectory.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 2.6 and 8.2;
Hansen and McDonald, Theory of Simple Liquids, 4th ed. (2013), section 2.5 and chapter 4.
"""

import math

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erf

from dmdenv._core.fields import Whole
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.quantities.neighborhood import mean, within_range
from dmdenv.space import Space, norm, require_periodic


def radial_distribution(
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    edges: jax.Array,
    *,
    broadening: jax.Array | float | None = None,
) -> jax.Array:
    """The pair distribution function g(r), averaged over each bin of r, `[bins]`, without unit.

    n independent particles have g = 1 - 1/n.

    Args:
        space: a periodic one.
        positions: `[n, d]`, unit length, d = 2 or 3.
        pairs: all pairs, or a neighbour list with at least the last edge as cutoff.
        edges: `[bins + 1]` of the bins, increasing, unit length.
        broadening: the standard deviation of a Gaussian that replaces each distance, unit length; g is then
            differentiable with respect to positions and box. The cutoff of a list has to exceed the last edge by some
            deviations, or the last bins lack what is smeared into them. Without it a distance counts in one bin only,
            and only the density is differentiable.

    Raises:
        ValueError: for edges that do not increase from 0 or more, or exceed the largest cutoff of `pairs`; in free
            space.
    """
    species = jnp.zeros(positions.shape[0], jnp.int32)
    return partial_radial_distributions(space, positions, pairs, edges, species, kinds=1, broadening=broadening)[0, 0]


def partial_radial_distributions(
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    edges: jax.Array,
    species: jax.Array,
    *,
    kinds: int,
    broadening: jax.Array | float | None = None,
) -> jax.Array:
    """`g_ab(r) = V / (n_a n_b) <sum_{i in a} sum_{j in b, j != i} delta(r - r_ij)> / surface`, `[kinds, kinds, bins]`.

    A kind without particles has g = 0.

    Args:
        space: see `radial_distribution`, as are `positions`, `pairs`, `edges`, `broadening` and errors.
        positions: `[n, d]`.
        pairs: the neighbours.
        edges: `[bins + 1]`.
        species: int `[n]`, from 0 to kinds - 1 (or a ValueError, where they are concrete).
        kinds: the number of species.
        broadening: of a distance.
    """
    dimension, dtype = positions.shape[1], positions.dtype
    require_periodic(space)
    _check_edges(edges)
    with jax.ensure_compile_time_eval():  # what is known outside of jit is known inside
        edges = jnp.asarray(edges, dtype)
        longest = edges[-1]
    positions = within_range("edges[-1]", longest, space, positions, pairs)
    _check_species(species, kinds)
    kind = jax.nn.one_hot(species, kinds, dtype=dtype)

    def kernel(a, b):
        r = norm(space.displacement(a["position"], b["position"]))
        return _share_of_bins(r, edges, broadening)[:, None] * b["kind"][None, :]

    counts = neighbor_sum(kernel, {"position": positions, "kind": kind}, pairs)  # [n, bins, kinds]
    counts = jnp.einsum("na,nkb->abk", kind, counts)
    ball = math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1)
    shells = ball * jnp.diff(edges**dimension)
    present = jnp.sum(kind, axis=0)
    ideal = (present[:, None] * present[None, :])[:, :, None] * shells[None, None, :] / space.volume(dimension)
    return mean(counts, ideal)


def wave_integers(space: Space, dimension: int, *, largest: float) -> np.ndarray:
    """The wave vectors of a box, up to a length, as integers; on the host.

    Args:
        space: a periodic one, concrete.
        dimension: d.
        largest: the largest length of a wave vector, unit 1 / length.

    Returns:
        int `[m, d]`, one of each pair q and -q, without zero, shortest first: for `wave_vectors` and
        `structure_factor`.

    Raises:
        ValueError: in free space; for a length below that of the shortest wave vectors.
    """
    require_periodic(space)
    reciprocal = np.asarray(wave_vectors(space, np.eye(dimension, dtype=int)), float)
    edges = 2 * math.pi * np.linalg.inv(reciprocal).T
    bound = np.floor(largest * np.linalg.norm(edges, axis=1) / (2 * math.pi) + 1e-6).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-b, b + 1) for b in bound), indexing="ij"), axis=-1).reshape(-1, dimension)
    grid = grid[len(grid) // 2 + 1 :]  # the first half are the negatives of the second, zero is in the middle
    length = np.linalg.norm(grid @ reciprocal, axis=1)
    order = np.argsort(length, kind="stable")
    order = order[length[order] <= largest]
    if not len(order):
        shortest = np.min(np.linalg.norm(reciprocal, axis=1))
        raise ValueError(f"largest = {largest}; must be at least that of the shortest wave vectors, about {shortest:g}")
    return grid[order]


def wave_vectors(space: Space, integers: jax.Array | np.ndarray) -> jax.Array:
    """`q = 2 pi (integers in units of the reciprocal edges)`, `[m, d]`, unit 1 / length; differentiable in the box.

    Args:
        space: a periodic one.
        integers: int `[m, d]`.

    Raises:
        ValueError: in free space.
    """
    periodic = require_periodic(space)
    integers = jnp.asarray(integers)
    origin = jnp.zeros(integers.shape[1], jnp.result_type(float))
    return 2.0 * math.pi * integers.astype(origin.dtype) @ jax.jacfwd(periodic.fractional)(origin)  # pyright: ignore


def structure_factor(
    space: Space, positions: jax.Array, integers: jax.Array | np.ndarray, *, chunk: int = 32
) -> jax.Array:
    """The static structure factor S(q) at wave vectors of the box, `[m]`, without unit.

    Args:
        space: a periodic one.
        positions: `[n, d]`, unit length; wrapped or not.
        integers: int `[m, d]`, the wave vectors, see `wave_integers`; the trivial S(0) is n.
        chunk: how many wave vectors to compute at once; takes memory for `n * chunk` numbers.

    Raises:
        ValueError: in free space; for integers that are not `[m, d]`; for a chunk below 1.
    """
    periodic = require_periodic(space)
    integers = jnp.asarray(integers)
    if integers.ndim != 2 or integers.shape[1] != positions.shape[1]:
        raise ValueError(f"integers has shape {integers.shape}; must be [m, {positions.shape[1]}]")
    chunk = Whole(at_least=1).convert("chunk", chunk)
    fractional = periodic.fractional(positions)
    fractional = fractional - lax.stop_gradient(jnp.round(fractional))

    def intensity(integer):
        cycles = jnp.sum(fractional * integer.astype(fractional.dtype)[None, :], axis=-1)
        phase = 2.0 * math.pi * (cycles - lax.stop_gradient(jnp.round(cycles)))  # whole cycles cost accuracy
        return (jnp.sum(jnp.cos(phase)) ** 2 + jnp.sum(jnp.sin(phase)) ** 2) / positions.shape[0]

    return lax.map(intensity, integers, batch_size=min(chunk, len(integers)))  # pyright: ignore[reportReturnType]


def spherical_average(
    space: Space, integers: jax.Array | np.ndarray, values: jax.Array, edges: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The mean over all wave vectors whose length is in a bin, such as S(q) from `structure_factor`.

    Args:
        space: a periodic one.
        integers: int `[m, d]`, the wave vectors.
        values: `[m]`, of each.
        edges: `[bins + 1]` of the bins, increasing, unit 1 / length.

    Returns:
        `(means, counts)`, both `[bins]`: the mean value, 0 in an empty bin, and the number of wave vectors.

    Raises:
        ValueError: for edges that do not increase from 0 or more; in free space.
    """
    _check_edges(edges)
    q, edges = norm(wave_vectors(space, integers)), jnp.asarray(edges, values.dtype)
    member = jnp.where((edges[:-1, None] <= q[None, :]) & (q[None, :] < edges[1:, None]), 1.0, 0.0).astype(values.dtype)
    counts = jnp.sum(member, axis=1)
    return mean(member @ values, counts), counts


def _share_of_bins(r: jax.Array, edges: jax.Array, broadening: jax.Array | float | None) -> jax.Array:
    """The share of a distance, a Gaussian or a point, in each bin, `[bins]`."""
    if broadening is None:
        return jnp.where((edges[:-1] <= r) & (r < edges[1:]), 1.0, 0.0).astype(r.dtype)
    below = 0.5 * erf((edges - r) / (math.sqrt(2.0) * jnp.asarray(broadening, r.dtype)))
    return jnp.diff(below)


def _check_species(species: jax.Array, kinds: int) -> None:
    if isinstance(species, jax.core.Tracer):
        return
    found = np.asarray(species)
    if not np.issubdtype(found.dtype, np.integer) or np.any((found < 0) | (found >= kinds)):
        raise ValueError(f"species = {found.tolist()}; must be integers >= 0 and < kinds = {kinds}")


def _check_edges(edges: jax.Array) -> None:
    if jnp.ndim(edges) != 1 or len(edges) < 2:
        raise ValueError(f"edges has shape {jnp.shape(edges)}; must be [bins + 1]")
    if isinstance(edges, jax.core.Tracer):
        return
    concrete = np.asarray(edges)
    if not (concrete[0] >= 0 and np.all(np.diff(concrete) > 0)):
        raise ValueError(f"edges = {concrete.tolist()}; must increase from 0 or more")
