"""Soft spheres: finite repulsion between overlapping particles.

Reference: O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), eq. 1.
"""

import jax
import jax.numpy as jnp

from dmdenv.potentials.pair import PairPotential, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike, as_parameter


def soft_sphere(
    *, epsilon: ParameterLike = 1.0, sigma: ParameterLike = 1.0, alpha: ParameterLike = 2.0
) -> PairPotential:
    """`u(r) = (epsilon / alpha) (1 - r / sigma)^alpha` for overlapping particles, `r < sigma`.

    Args:
        epsilon: strength, unit energy.
        sigma: sum of the radii, unit length: the cutoff. `PerParticle` diameters mix arithmetically.
        alpha: exponent, above 1: 2 harmonic, 5/2 Hertzian. The force is continuous; the second derivative jumps at
            contact for 2, and is unbounded there below 2.

    Raises:
        ValueError: see `dmdenv.potentials.pair_potential`.
    """
    alpha = as_parameter("alpha", alpha, above=1.0)
    return make_pair_potential(_energy, cutoff=1.0, cutoff_unit="sigma", epsilon=epsilon, sigma=sigma, alpha=alpha)


def _energy(s: jax.Array, *, epsilon: jax.Array, sigma: jax.Array, alpha: jax.Array) -> jax.Array:
    overlap = 1.0 - jnp.sqrt(s) / sigma
    apart = overlap <= 0  # just inside the cutoff, rounding can make it 0
    power = jnp.where(apart, jnp.finfo(s.dtype).eps, overlap) ** alpha
    return jnp.where(apart, 0.0, epsilon / alpha * power)
