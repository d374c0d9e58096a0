"""The interface of a space: geometry, and what neighbour lists, minimisers and files need.

A new space is one class: an `OpenSpace`, whose points have no images (walls, a sphere), or a `PeriodicSpace`.
"""

import abc
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Declared


class Space(Declared, abc.ABC):
    """Where particles are."""

    orthogonal: ClassVar[bool]  # whether the axes along which it is cut into bins are orthogonal
    box_modes: ClassVar[tuple[str, ...]]  # what a minimisation may do with its box: see `dmdenv.minimizers`

    # --- positions and distances --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """`a - b`, or the image of it that stands for all, shape `[..., d]`, unit length."""

    @abc.abstractmethod
    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`, and wrapped."""

    @abc.abstractmethod
    def wrap(self, positions: jax.Array) -> jax.Array:
        """The images of positions `[..., d]` that stand for all."""

    @abc.abstractmethod
    def split(self, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Positions `[..., d]` as a copy of the cell and a place in it: `r = offset(images) + wrapped + rounding`.

        Returns:
            `(images, wrapped, rounding)`: int32 `[..., d]`, in units of the edges; `[..., d]`, unit length, in the cell
            but for rounding; `[..., d]`, unit length, what rounding takes from the sum, without a derivative.
        """

    @abc.abstractmethod
    def offset(self, images: jax.Array) -> jax.Array:
        """The distance of copies of the cell, int `[..., d]`, from it, `[..., d]`, unit length."""

    @abc.abstractmethod
    def largest_cutoff(self, dimension: int) -> jax.Array:
        """The distance up to which a pair has one image only, float [], unit length."""

    @abc.abstractmethod
    def minimum_image_range(self, dimension: int) -> jax.Array:
        """The distance up to which `displacement` is the shortest of all images, float [], unit length."""

    @abc.abstractmethod
    def mean_position(self, positions: jax.Array, weights: jax.Array) -> jax.Array:
        """The mean of positions `[n, d]` with weights `[n]` that add up to 1, `[d]`."""

    # --- size and shape -----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def volume(self, dimension: int) -> jax.Array:
        """The volume (area in 2-D), float [], unit length^d; infinite without bounds."""

    @abc.abstractmethod
    def heights(self, dimension: int) -> jax.Array:
        """Distance between opposite faces, `[d]`, unit length; infinite without faces."""

    @abc.abstractmethod
    def cell_vectors(self, dimension: int) -> jax.Array | None:
        """The edges of the cell that repeats, as rows, lower triangular, `[d, d]`, unit length; None without one."""

    @abc.abstractmethod
    def deformable(self, dimension: int) -> Self:
        """The same space, with a separate number for everything that `deform` may change."""

    @abc.abstractmethod
    def deform(self, deformation: jax.Array, positions: jax.Array) -> tuple[Self, jax.Array]:
        """The space and positions `[n, d]` in it after r -> F r, with F upper triangular, `[d, d]`."""

    @abc.abstractmethod
    def follow(self, positions: jax.Array, new: Any) -> tuple[jax.Array, jax.Array]:
        """Positions `[n, d]` that follow a deformation of the box, and the least stretch of any vector, `[]`.

        Args:
            positions: `[n, d]`, unit length.
            new: a space of the same class, into which this one was deformed.
        """

    # --- cell lists ---------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def bin_counts(self, positions: jax.Array, width: np.ndarray, at_least: np.ndarray) -> np.ndarray:
        """Along each axis, how many bins of at least this width hold the positions, `[d]`, on the host.

        Args:
            positions: `[n, d]`, unit length.
            width: `[d]`, unit length.
            at_least: `[d]`, the least number along an axis without bounds.
        """

    @abc.abstractmethod
    def assign_bins(
        self, positions: jax.Array, counts: jax.Array, width: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images in one place, their bins, and along which axes bins are narrower than a width.

        Args:
            positions: `[n, d]`, unit length.
            counts: int `[d]`, bins along each axis, which repeat after as many.
            width: `[d]`, unit length.

        Returns:
            `(images, bins, narrow)`: `[n, d]`, int32 `[n, d]` from 0 up to the counts, and bool `[d]`.
        """


def squared_distance(space: Space, a: jax.Array, b: jax.Array) -> jax.Array:
    """`|a - b|^2`, shape `[...]`, unit length^2."""
    return jnp.sum(space.displacement(a, b) ** 2, axis=-1)
