"""Spaces whose points have no images."""

import abc
from typing import Any, ClassVar, Self, final

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import pytree
from dmdenv.space.base import Space


class OpenSpace(Space, abc.ABC):
    """A space in which each particle has one position, in Cartesian coordinates.

    A subclass gives `displacement`, not shorter than the Euclidean one, `shift` and `volume`.
    """

    orthogonal: ClassVar[bool] = True
    box_modes: ClassVar[tuple[str, ...]] = ("fixed",)

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The positions themselves."""
        return positions

    def split(self, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Zeros, the positions themselves, and zeros."""
        return jnp.zeros(positions.shape, jnp.int32), positions, jnp.zeros_like(positions)

    def offset(self, images: jax.Array) -> jax.Array:
        """Zeros."""
        return jnp.zeros(images.shape)

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """Infinite: no pair has a second image."""
        return jnp.asarray(jnp.inf)

    def minimum_image_range(self, dimension: int) -> jax.Array:
        """Infinite."""
        return jnp.asarray(jnp.inf)

    def mean_position(self, positions: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(weights[:, None] * positions, axis=0)

    def heights(self, dimension: int) -> jax.Array:
        """Infinite, `[d]`."""
        return jnp.full(dimension, jnp.inf)

    def cell_vectors(self, dimension: int) -> None:
        """None."""
        return

    def deformable(self, dimension: int) -> Self:
        return self

    def deform(self, deformation: jax.Array, positions: jax.Array) -> tuple[Self, jax.Array]:
        """The space itself, and the positions deformed."""
        return self, jnp.matmul(positions, deformation.T, precision="highest")

    def follow(self, positions: jax.Array, new: Any) -> tuple[jax.Array, jax.Array]:
        """The positions as they are: there is no box."""
        return positions, jnp.ones((), positions.dtype)

    def bin_counts(self, positions: jax.Array, width: np.ndarray, at_least: np.ndarray) -> np.ndarray:
        extent, eps = np.ptp(np.asarray(positions, float), axis=0), float(jnp.finfo(positions.dtype).eps)
        return np.maximum(at_least, extent // (width * (1 + 1e-4) + 4 * eps * extent) + 1)

    def assign_bins(
        self, positions: jax.Array, counts: jax.Array, width: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Positions as they are: a shift of the origin would round the distances. Far ones share a bin."""
        # rounding moves a coordinate by up to eps times its range; two of them must not add a bin to a pair's distance
        eps = float(jnp.finfo(positions.dtype).eps)
        width = width * (1 + 1e-4) + 2 * eps * jnp.max(jnp.abs(positions))
        bins = jnp.floor(positions / width[None, :]).astype(jnp.int32) % counts[None, :]
        return positions, bins, jnp.zeros(counts.shape, bool)


@final
@pytree
class Free(OpenSpace):
    """Unbounded Euclidean space of any dimension."""

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """`a - b`, shape `[..., d]`, unit length."""
        return a - b

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`."""
        return positions + displacement

    def volume(self, dimension: int) -> jax.Array:
        """Infinite."""
        return jnp.asarray(jnp.inf)
