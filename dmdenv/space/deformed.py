"""A space under a strain, as a potential sees it."""

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.space.base import Space


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
