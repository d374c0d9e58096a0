"""Spaces: how two positions differ, how a position moves.

A space is a pytree, so a box can be traced, differentiated, vmapped and changed in time. Vectors stand on the last
axis; every method takes any leading shape.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 1.6.
"""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv.pytree import Replaceable, pytree


@pytree
class Free(Replaceable):
    """Unbounded Euclidean space of any dimension."""

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """`a - b`, shape `[..., d]`, in units of length."""
        return a - b

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`."""
        return positions + displacement

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The positions themselves: free space has no images."""
        return positions


@pytree
class Periodic(Replaceable):
    """A periodic orthorhombic box with one corner at the origin.

    Args:
        box: side lengths, `[]` (a cube) or `[d]`, in units of length; differentiable, may be traced.

    Raises:
        ValueError: when a concrete box is not positive and finite, or not of shape `[]` or `[d]`.
    """

    box: jax.Array

    def __post_init__(self):
        if isinstance(self.box, jax.core.Tracer):
            return
        box = np.asarray(self.box)
        if box.ndim > 1 or not np.all(np.isfinite(box) & (box > 0)):
            raise ValueError(f"box = {self.box!r}; valid: a positive finite length, or one for each axis")
        object.__setattr__(self, "box", jnp.asarray(self.box, jnp.result_type(float, box)))

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The shortest of all images of `a - b`, `[..., d]`: `r - L round(r / L)`, each component in [-L/2, L/2]."""
        difference = a - b
        box = jnp.broadcast_to(self.box, difference.shape[-1:])
        inverse, box = _over(1.0 / box, difference), _over(box, difference)
        return difference - box * jnp.round(difference * inverse)

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`, and wrapped into the box."""
        return self.wrap(positions + displacement)

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The image inside the box, `r - L floor(r / L)`, each component in [0, L)."""
        box = _over(jnp.broadcast_to(self.box, positions.shape[-1:]), positions)
        wrapped = positions - box * jnp.floor(positions / box)
        wrapped = jnp.where(wrapped < 0, wrapped + box, wrapped)  # r / L has rounded up to a whole number
        return jnp.where(wrapped < box, wrapped, wrapped - box)  # a tiny negative number rounds up to L itself


Space = Free | Periodic


def _over(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A `[d]` vector with leading axes of length one, so that it broadcasts without rank promotion."""
    return jnp.expand_dims(vector, tuple(range(like.ndim - 1)))


def norm(vectors: jax.Array) -> jax.Array:
    """Length of vectors `[..., d]`, shape `[...]`, with derivative 0 (instead of NaN) at the zero vector."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors `[..., d]` divided by their length; the zero vector stays zero, with derivative 0."""
    length = norm(vectors)[..., None]
    return vectors / jnp.where(length > 0, length, 1.0)
