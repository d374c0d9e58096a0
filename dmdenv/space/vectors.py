"""Vectors on the last axis."""

import jax
import jax.numpy as jnp


def norm(vectors: jax.Array) -> jax.Array:
    """Length of vectors `[..., d]`, shape `[...]`, with derivative 0 (instead of NaN) at the zero vector."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors `[..., d]` divided by their length; the zero vector stays zero, with derivative 0."""
    length = norm(vectors)[..., None]
    return vectors / jnp.where(length == 0, 1.0, length)


def over(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A `[d]` vector with leading axes of length one, so that it broadcasts without rank promotion."""
    return jnp.expand_dims(vector, tuple(range(like.ndim - 1)))
