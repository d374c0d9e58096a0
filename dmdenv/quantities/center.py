"""The centre of many particles, in a periodic space too.

Reference: Bai and Breen, J. Graphics, GPU, and Game Tools 13, 53 (2008).
"""

import jax
import jax.numpy as jnp

from dmdenv.space import Space


def center(space: Space, positions: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """`sum_i w_i r_i / sum_i w_i`; in a periodic space the mean direction on the circle of each axis, `[d]`.

    In the latter it is `arg sum_i w_i exp(2 pi i s_i) / 2 pi` along each axis, with the fractional coordinates s:
    independent of the origin of the box, close to the mean for particles that are close together, and undefined (0 is
    returned) for particles that are spread evenly.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length.
        weights: `[n]`, >= 0, masses or a mask; None: all equal. If all are 0 the centre is 0.

    Returns:
        `[d]`, unit length; inside the box of a periodic space.
    """
    w = jnp.ones(len(positions), positions.dtype) if weights is None else jnp.asarray(weights, positions.dtype)
    total = jnp.sum(w)
    return space.mean_position(positions, w / jnp.where(total == 0, 1.0, total))
