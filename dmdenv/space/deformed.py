"""A space under a strain, as a potential sees it."""

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.space.base import Space
from dmdenv.space.periodic import require_periodic


@pytree
class Deformed(Replaceable):
    """A space whose displacements are all deformed, `r -> F r`; positions are those of the undeformed space.

    The derivative of an energy by F is its virial, in any space.

    Args:
        space: the undeformed space.
        deformation: F, `[d, d]`.
    """

    space: Space
    deformation: jax.Array

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The deformed displacement, `[..., d]`."""
        return jnp.matmul(self.space.displacement(a, b), self.deformation.T, precision="highest")

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """That of the undeformed space: F is close to 1."""
        return self.space.largest_cutoff(dimension)

    def cell_vectors(self, dimension: int) -> jax.Array | None:
        """The deformed edges as rows, `[d, d]`; None without any."""
        cell = self.space.cell_vectors(dimension)
        return None if cell is None else jnp.matmul(cell, self.deformation.T, precision="highest")

    def fractional(self, positions: jax.Array) -> jax.Array:
        """Coordinates in units of the edges, `[..., d]`, which a deformation leaves as they are."""
        return require_periodic(self.space).fractional(positions)
