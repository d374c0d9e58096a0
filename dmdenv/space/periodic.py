"""Spaces that repeat: what they have in common, and the orthorhombic box."""

import abc
from typing import Any, ClassVar, Self, final

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import number
from dmdenv._core.pytree import pytree
from dmdenv.space.base import Space
from dmdenv.space.vectors import over


class PeriodicSpace(Space, abc.ABC):
    """A cell that fills space by repetition, with one corner at the origin."""

    @abc.abstractmethod
    def fractional(self, positions: jax.Array) -> jax.Array:
        """Coordinates in units of the edges, `[..., d]`."""

    @abc.abstractmethod
    def cell_vectors(self, dimension: int) -> jax.Array:
        """The edges as rows, lower triangular, `[d, d]`, unit length."""

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`, and wrapped into the cell."""
        return self.wrap(positions + displacement)

    def split(self, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        images = self._images(jax.lax.stop_gradient(positions))
        offset = self.offset(images).astype(positions.dtype)
        wrapped = positions - offset
        return images, wrapped, jax.lax.stop_gradient(positions - (wrapped + offset))

    def _images(self, positions: jax.Array) -> jax.Array:
        """In which copy of the cell positions `[..., d]` are, int32 `[..., d]`."""
        return jnp.round(self.fractional(positions - self.wrap(positions))).astype(jnp.int32)

    def offset(self, images: jax.Array) -> jax.Array:
        return self.from_fractional(images.astype(self.cell_vectors(images.shape[-1]).dtype))

    def mean_position(self, positions: jax.Array, weights: jax.Array) -> jax.Array:
        """The mean direction on the circle of each axis: see `dmdenv.quantities.center`."""
        angle, w = 2 * jnp.pi * self.fractional(positions), weights[:, None]
        x, y = jnp.sum(w * jnp.cos(angle), axis=0), jnp.sum(w * jnp.sin(angle), axis=0)
        nowhere = x**2 + y**2 == 0
        s = jnp.arctan2(jnp.where(nowhere, 0.0, y), jnp.where(nowhere, 1.0, x)) / (2 * jnp.pi)
        return self.from_fractional(jnp.where(s < 0, s + 1, s))

    @abc.abstractmethod
    def from_fractional(self, fractional: jax.Array) -> jax.Array:
        """The positions of coordinates in units of the edges, `[..., d]`."""

    def bin_counts(self, positions: jax.Array, width: np.ndarray, at_least: np.ndarray) -> np.ndarray:
        heights, eps = np.asarray(self.heights(len(width)), float), float(jnp.finfo(positions.dtype).eps)
        return np.maximum(1, heights // (width * (1 + 1e-4) + 4 * eps * heights))

    def assign_bins(
        self, positions: jax.Array, counts: jax.Array, width: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images in the cell, which the bins divide."""
        images = self.wrap(positions)
        bins = jnp.floor(self.fractional(images) * counts[None, :]).astype(jnp.int32)
        # rounding moves a coordinate by up to eps times its range; two of them must not add a bin to a pair's distance
        eps, heights = float(jnp.finfo(positions.dtype).eps), self.heights(len(counts))
        return images, jnp.clip(bins, 0, counts[None, :] - 1), heights / counts - 4 * eps * heights < width


@final
@pytree
class Periodic(PeriodicSpace):
    """A periodic orthorhombic box with one corner at the origin.

    Args:
        box: side lengths, `[]` (a cube) or `[d]`, unit length; differentiable, may be traced.

    Raises:
        ValueError: when a concrete box is not positive and finite, or not of shape `[]` or `[d]`.
    """

    orthogonal: ClassVar[bool] = True
    box_modes: ClassVar[tuple[str, ...]] = ("fixed", "isotropic", "axes")

    box: jax.Array = number(above=0, per_axis=True, keep_precision=True)

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The shortest of all images of `a - b`, `[..., d]`: `r - L round(r / L)`, each component in [-L/2, L/2]."""
        difference = a - b
        box = self.heights(difference.shape[-1])
        inverse, box = over(1.0 / box, difference), over(box, difference)
        return difference - box * jnp.round(difference * inverse)

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The image inside the box, `r - L floor(r / L)`, each component in [0, L)."""
        box = over(self.heights(positions.shape[-1]), positions)
        wrapped = positions - box * jnp.floor(positions / box)
        wrapped = jnp.where(wrapped < 0, wrapped + box, wrapped)  # r / L has rounded up to a whole number
        return jnp.where(wrapped < box, wrapped, wrapped - box)  # a tiny negative number rounds up to L itself

    def _images(self, positions: jax.Array) -> jax.Array:
        box = over(self.heights(positions.shape[-1]), positions)
        images = jnp.floor(positions / box)
        return (images + (positions - box * images >= box)).astype(jnp.int32)  # a tiny negative number rounds up to L

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """Half the shortest side: up to it a pair has one image only, float []."""
        return jnp.min(self.box) / 2

    def minimum_image_range(self, dimension: int) -> jax.Array:
        """Infinite."""
        return jnp.asarray(jnp.inf)

    def fractional(self, positions: jax.Array) -> jax.Array:
        """Coordinates in units of the side lengths, `[..., d]`."""
        return positions / over(self.heights(positions.shape[-1]), positions)

    def from_fractional(self, fractional: jax.Array) -> jax.Array:
        return fractional * over(self.heights(fractional.shape[-1]), fractional)

    def volume(self, dimension: int) -> jax.Array:
        """The volume (area in 2-D) of the box, float []."""
        return jnp.prod(self.heights(dimension))

    def heights(self, dimension: int) -> jax.Array:
        """Distance between opposite faces, `[d]`."""
        if self.box.ndim and len(self.box) != dimension:
            raise ValueError(
                f"Periodic.box has shape {self.box.shape}; must be [] or [{dimension}], as positions [n, d]"
            )
        return jnp.broadcast_to(self.box, (dimension,))

    def cell_vectors(self, dimension: int) -> jax.Array:
        return jnp.diag(self.heights(dimension))

    def deformable(self, dimension: int) -> Self:
        """The box with a length of its own for each side."""
        return self.replace(box=self.heights(dimension))

    def deform(self, deformation: jax.Array, positions: jax.Array) -> tuple[Self, jax.Array]:
        """The box and positions `[n, d]` in it after r -> F r, of which the diagonal counts; the box is `[d]`."""
        stretch = jnp.diag(deformation)
        return self.replace(box=self.box * stretch), positions * stretch[None, :]

    def follow(self, positions: jax.Array, new: Any) -> tuple[jax.Array, jax.Array]:
        stretch = jnp.broadcast_to(new.box / self.box, positions.shape[1:])
        return positions * stretch[None, :], jnp.min(stretch)


def require_periodic(space: Space) -> PeriodicSpace:
    """The space, refused unless it is periodic.

    Raises:
        ValueError: then.
    """
    if not isinstance(space, PeriodicSpace):
        raise ValueError(f"space = {space}; must be periodic")
    return space
