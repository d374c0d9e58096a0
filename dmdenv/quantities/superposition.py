"""Superposition of two shapes: the rotation and the shift that bring them closest, and the remaining distance.

In the plane the best rotation has a closed form. With positions as complex numbers about their mean, z_i and w_i of the
reference, the sum `S = sum_i z_i w_i*` points along it, `exp(i angle) = S / |S|`, and

    n rmsd^2 = sum_i |z_i|^2 + sum_i |w_i|^2 - 2 |S|

Reference: Kabsch, Acta Cryst. A 32, 922 (1976), which is this in three dimensions.
"""

import jax
import jax.numpy as jnp

from dmdenv.space import norm


def superpose(reference: jax.Array, positions: jax.Array) -> jax.Array:
    """The reference, rotated and shifted to lie as close to the positions as possible, `[..., n, 2]`, unit length.

    No reflection: a shape and its mirror image differ. Differentiable except where the best rotation is not determined
    (S = 0): there the reference is shifted only, and the derivative of the rotation is 0.

    Args:
        reference: `[..., n, 2]`, unit length.
        positions: `[..., n, 2]`, unit length, of the same particles in the same order.

    Raises:
        ValueError: for arrays that are not `[..., n, 2]`, or of different shapes.
    """
    w, z, centre = _about_means(reference, positions)
    cos, sin = jnp.moveaxis(_rotation(w, z), -1, 0)[..., None, None]
    rotated = jnp.concatenate([cos * w[..., :1] - sin * w[..., 1:], sin * w[..., :1] + cos * w[..., 1:]], axis=-1)
    return centre + rotated


def rmsd(reference: jax.Array, positions: jax.Array) -> jax.Array:
    """The root of the mean squared distance of the particles from the superposed reference, `[...]`, unit length.

    Arguments and errors: see `superpose`.
    """
    distances = superpose(reference, positions) - positions
    return norm(distances.reshape(*distances.shape[:-2], -1)) / distances.shape[-2] ** 0.5


def _about_means(reference: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both relative to their means, and the mean of the positions."""
    if reference.shape != positions.shape or reference.ndim < 2 or reference.shape[-1] != 2:
        raise ValueError(
            f"reference has shape {reference.shape} and positions {positions.shape}; must be the same [..., n, 2]"
        )
    centre = jnp.mean(positions, axis=-2, keepdims=True)
    return reference - jnp.mean(reference, axis=-2, keepdims=True), positions - centre, centre


def _rotation(w: jax.Array, z: jax.Array) -> jax.Array:
    """(cos, sin) of the rotation that brings w closest to z, `[..., 2]`; (1, 0) where it is not determined."""
    S = jnp.stack(
        [jnp.sum(w * z, axis=(-2, -1)), jnp.sum(w[..., 0] * z[..., 1] - w[..., 1] * z[..., 0], axis=-1)], axis=-1
    )
    length = norm(S)[..., None]
    undetermined = length == 0
    none = jnp.broadcast_to(jnp.array([1.0, 0.0], S.dtype), S.shape)
    return jnp.where(undetermined, none, S / jnp.where(undetermined, 1.0, length))
