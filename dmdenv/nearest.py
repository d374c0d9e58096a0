"""The k nearest neighbours of every particle, found in one sweep over the neighbours."""

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv.neighbors import Pairs
from dmdenv.particles_last import over_particles, take
from dmdenv.space import Space, squared_distance


def nearest(space: Space, positions: jax.Array, pairs: Pairs, k: int, *, present: jax.Array | None = None) -> jax.Array:
    """Indices of the k nearest neighbours, nearest first.

    The sweep keeps k running minima a particle, so no `[n, n]` distances are stored. The result is an integer and has
    no derivative; select by it inside of a `neighbor_sum` for values that have one.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length.
        pairs: whom to look at.
        k: how many; 1 or more.
        present: bool `[n]`, who may be found; None: everybody.

    Returns:
        int32 `[n, k]`; a particle's own index stands where it has fewer than k neighbours.

    Raises:
        ValueError: for k below 1.
    """
    if k < 1:
        raise ValueError(f"k = {k}; valid: 1 or more")
    space, positions = lax.stop_gradient((space, positions))
    n = positions.shape[0]
    own = lax.iota(jnp.int32, n)
    x = positions.T
    indices, columns = pairs.arrays or (None, n)

    def visit(c, best):
        distances, names = best
        if indices is None:
            j = jnp.full(n, c, jnp.int32)
            xj = jnp.broadcast_to(lax.dynamic_slice_in_dim(x, c, 1, axis=-1), x.shape)
            there = None if present is None else lax.dynamic_slice_in_dim(present, c, 1)
        else:
            j = lax.dynamic_index_in_dim(indices, c, keepdims=False)
            xj = take(x, j)
            there = None if present is None else take(present, j)
        (distance,) = over_particles(squared_distance, (n,), space, x, xj)
        hidden = j == own if there is None else (j == own) | ~there
        distance, j = jnp.where(hidden, jnp.inf, distance)[None, :], j[None, :]
        # insertion into the sorted slots [k, n]: what is farther moves on by one
        nearer_slots, nearer_names = _shifted(distances, -jnp.inf), _shifted(names, 0)
        before, passes = distance < distances, distance < nearer_slots
        distances = jnp.where(before, jnp.where(passes, nearer_slots, distance), distances)
        names = jnp.where(before, jnp.where(passes, nearer_names, j), names)
        return distances, names

    start = jnp.full((k, n), jnp.inf, positions.dtype), jnp.broadcast_to(own[None, :], (k, n))
    return lax.fori_loop(0, columns, visit, start)[1].T


def _shifted(slots: jax.Array, first: float) -> jax.Array:
    """Slots `[k, n]` moved on by one, with `first` in slot 0."""
    return jnp.concatenate([jnp.full_like(slots[:1], first), slots[:-1]])
