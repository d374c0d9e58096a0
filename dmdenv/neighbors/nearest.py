"""The k nearest neighbours of every particle, found in one sweep over the neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv._core.control_flow import fori_loop
from dmdenv._core.fields import Whole
from dmdenv.neighbors.pairs import Pairs
from dmdenv.neighbors.particles_last import over_particles, split, take
from dmdenv.space import Space, squared_distance


def nearest(space: Space, positions: jax.Array, pairs: Pairs, k: int, *, present: jax.Array | None = None) -> jax.Array:
    """Indices of the k nearest neighbours, nearest first.

    The sweep keeps the k smallest keys per particle, so no `[n, n]` distances are stored. A key is the squared distance
    with the number of the column in its last bits, so that one comparison moves both: in float32 with K columns,
    squared distances count as equal if they differ by less than about K / 10^7 of themselves.

    The result is an integer and has no derivative; select by it inside of a `neighbor_sum` for values that have one.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length.
        pairs: the candidates.
        k: how many, >= 1.
        present: bool `[n]`, which particles may be found; None: all whose position is finite.

    Returns:
        int32 `[n, k]`, padded with a particle's own index where it has fewer than k neighbours.

    Raises:
        ValueError: for k below 1.
    """
    k = Whole(at_least=1).convert("k", k)
    space, positions = lax.stop_gradient((space, jnp.asarray(positions)))
    n = positions.shape[0]
    own = lax.iota(jnp.int32, n)
    x = split(positions.T, 1)
    indices, columns = pairs.arrays or (None, n)
    integer = np.dtype(f"int{8 * positions.dtype.itemsize}")
    most = n if indices is None else indices.shape[0]
    column_bits = (1 << max(most - 1, 1).bit_length()) - 1
    none = jnp.iinfo(integer).max
    distance_bits = none & ~column_bits  # without the sign, so that NaN is farther than infinity
    too_far = np.array(np.inf, positions.dtype).view(integer)

    def neighbor(c):
        """The neighbours in a column, `[n]`, or one for all particles, `[1]`."""
        return jnp.full(1, c, jnp.int32) if indices is None else lax.dynamic_index_in_dim(indices, c, keepdims=False)

    def visit(c, keys):
        j = neighbor(c)
        xj = jax.tree.map(lambda a: jnp.broadcast_to(take(a, j), (n,)), x)
        (distance,) = over_particles(squared_distance, (n,), space, x, xj)
        there = j != own if present is None else (j != own) & take(present, j)
        key = lax.bitcast_convert_type(distance, integer) & distance_bits | jnp.asarray(c, integer)
        key = lax.select(there, key, jnp.full_like(key, none))
        # insertion into the sorted slots: what is farther moves on by one
        before = [jnp.full_like(key, -1), *keys[:-1]]
        return [jnp.maximum(last, jnp.minimum(key, slot)) for last, slot in zip(before, keys, strict=True)]

    keys = jnp.stack(fori_loop(0, columns, visit, [jnp.full(n, none, integer)] * k))
    found = (keys & column_bits).astype(jnp.int32)
    if indices is not None:
        found = take(indices.reshape(-1), jnp.minimum(found, most - 1) * n + own[None, :])
    return jnp.where(keys >= too_far, own[None, :], found).T
