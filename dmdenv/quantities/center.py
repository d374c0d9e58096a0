"""The centre of many particles, in a periodic space too.

Reference: Bai and Breen, J. Graphics, GPU, and Game Tools 13, 53 (2008).
"""

import jax
import jax.numpy as jnp

from dmdenv.space import Free, Space, Triclinic


def center(space: Space, positions: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """`sum_i w_i r_i / sum_i w_i`; in a periodic space the mean direction on the circle of each axis, `[d]`.

    There with s the fractional coordinates, `arg sum_i w_i exp(2 pi i s_i) / 2 pi` along each axis: independent of
    where the box begins, equal to the mean for what is close together, and undefined (0 is returned) for what is spread
    evenly.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length.
        weights: `[n]`, 0 or more, masses or a mask; None: all equal. If all are 0 the centre is 0.

    Returns:
        `[d]`, unit length; inside of a periodic box.
    """
    w = jnp.ones(len(positions), positions.dtype) if weights is None else jnp.asarray(weights, positions.dtype)
    total = jnp.sum(w)
    w = (w / jnp.where(total > 0, total, 1.0))[:, None]
    if isinstance(space, Free):
        return jnp.sum(w * positions, axis=0)
    angle = 2 * jnp.pi * space.fractional(positions)
    x, y = jnp.sum(w * jnp.cos(angle), axis=0), jnp.sum(w * jnp.sin(angle), axis=0)
    somewhere = x**2 + y**2 > 0
    s = jnp.arctan2(jnp.where(somewhere, y, 0.0), jnp.where(somewhere, x, 1.0)) / (2 * jnp.pi)
    s = jnp.where(s < 0, s + 1, s)
    return s @ space.cell if isinstance(space, Triclinic) else s * space.box
