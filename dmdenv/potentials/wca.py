"""The Weeks-Chandler-Andersen potential: the repulsive part of Lennard-Jones.

Reference: Weeks, Chandler and Andersen, J. Chem. Phys. 54, 5237 (1971), eq. 4.
"""

import jax

from dmdenv.potentials.pair import PairPotential, inverse, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike


def wca(*, epsilon: ParameterLike = 1.0, sigma: ParameterLike = 1.0) -> PairPotential:
    """`u(r) = 4 epsilon ((sigma / r)^12 - (sigma / r)^6) + epsilon` up to its minimum, `r < 2^(1/6) sigma`.

    Energy and force are continuous at the end; the cutoff follows sigma, also that of each pair.

    Args:
        epsilon: energy at the distance sigma.
        sigma: diameter, unit length.

    Raises:
        ValueError: see `dmdenv.potentials.pair_potential`.
    """
    return make_pair_potential(_energy, cutoff=2.0 ** (1.0 / 6.0), cutoff_unit="sigma", epsilon=epsilon, sigma=sigma)


def _energy(s: jax.Array, *, epsilon: jax.Array, sigma: jax.Array) -> jax.Array:
    x = (sigma**2 * inverse(s)) ** 3
    return epsilon * (2.0 * x - 1.0) ** 2
