"""Who counts as a neighbour, and how much."""

import jax
import jax.core
import jax.numpy as jnp

from dmdenv.neighbors import Pairs
from dmdenv.potentials.pair import switch
from dmdenv.space import Space


def neighbor_weight(s: jax.Array, cutoff: jax.Array | float, onset: jax.Array | float | None) -> jax.Array:
    """1 for a near neighbour, 0 beyond the cutoff, `[]`, from the squared distance s.

    Without an onset it jumps at the cutoff rc. With an onset ro it falls smoothly in between,
    `(rc^2 - r^2)^2 (rc^2 + 2 r^2 - 3 ro^2) / (rc^2 - ro^2)^3`, so that what is built on it is differentiable.

    Reference: Brooks et al., J. Comput. Chem. 4, 187 (1983), eq. 20.
    """
    inside = s < cutoff**2
    if onset is None:
        return jnp.where(inside, 1.0, 0.0).astype(s.dtype)
    end, begin = jnp.asarray(cutoff, s.dtype) ** 2, jnp.asarray(onset, s.dtype) ** 2
    return jnp.where(inside, switch(s, begin, end), 0.0)


def mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """`total / weight`, where nothing has weight the total itself (which is 0 there), with finite derivatives."""
    return total / jnp.where(weight > 0, weight, 1.0)


def check_onset(cutoff: jax.Array | float, onset: jax.Array | float | None) -> None:
    """Refuse a concrete onset that is not below a concrete cutoff.

    Raises:
        ValueError: then.
    """
    if onset is None or isinstance(onset, jax.core.Tracer) or isinstance(cutoff, jax.core.Tracer):
        return
    if not 0 <= float(onset) < float(cutoff):
        raise ValueError(f"onset = {onset!r}; must be >= 0 and below the cutoff, {cutoff!r}")


def check_range(name: str, distance: jax.Array | float, space: Space, positions: jax.Array, pairs: Pairs) -> None:
    """Refuse a concrete range that is not positive, or farther than the pairs are known.

    Raises:
        ValueError: for a range beyond the cutoff of a list or, with all pairs, beyond half the box.
    """
    if not isinstance(distance, jax.core.Tracer) and not float(distance) > 0:
        raise ValueError(f"{name} = {float(distance):g}; must be > 0")
    pairs.check_cutoff(name, distance, space, positions.shape[1])
