"""The weight of a neighbour, and checks of cutoffs."""

import jax
import jax.core
import jax.numpy as jnp

from dmdenv.neighbors import Pairs
from dmdenv.potentials.pair import switch
from dmdenv.space import Space


def neighbor_weight(s: jax.Array, cutoff: jax.Array | float, onset: jax.Array | float | None) -> jax.Array:
    """The weight of a neighbour at squared distance s, `[]`: 1 near, 0 beyond the cutoff.

    Without an onset it jumps at the cutoff rc. With an onset ro it falls smoothly from there to rc,
    `(rc^2 - r^2)^2 (rc^2 + 2 r^2 - 3 ro^2) / (rc^2 - ro^2)^3`, so that what is built on it is differentiable.

    Reference: Brooks et al., J. Comput. Chem. 4, 187 (1983), eq. 20.
    """
    end = jnp.asarray(cutoff, s.dtype) ** 2
    weight = 1.0 + 0.0 * end if onset is None else switch(s, jnp.asarray(onset, s.dtype) ** 2, end)
    return jnp.where(s >= end, jnp.zeros_like(s), weight)


def mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """`total / weight`; where the weight is 0, so is the total, which is returned. Derivatives are finite then."""
    return total / jnp.where(weight == 0, 1.0, weight)


def check_onset(cutoff: jax.Array | float, onset: jax.Array | float | None) -> None:
    """Check an onset, where it and the cutoff are concrete.

    Raises:
        ValueError: for one that is negative or not below the cutoff.
    """
    if onset is None or isinstance(onset, jax.core.Tracer) or isinstance(cutoff, jax.core.Tracer):
        return
    if not 0 <= float(onset) < float(cutoff):
        raise ValueError(f"onset = {onset!r}; must be >= 0 and below the cutoff, {cutoff!r}")


def within_range(name: str, distance: jax.Array | float, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
    """The positions `[n, d]`, for a quantity of this range; NaN where it is found too long in compiled code.

    Raises:
        ValueError: for one that is not positive, or beyond the largest cutoff of the pairs.
    """
    if not isinstance(distance, jax.core.Tracer) and not float(distance) > 0:
        raise ValueError(f"{name} = {float(distance):g}; must be > 0")
    return pairs.within(name, distance, space, positions)
