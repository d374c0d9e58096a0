"""The Morse potential.

Reference: Morse, Phys. Rev. 34, 57 (1929), eq. 4.
"""

import jax
import jax.numpy as jnp

from dmdenv.potentials.pair import PairPotential, Truncation, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike


def morse(
    *,
    epsilon: ParameterLike = 1.0,
    sigma: ParameterLike = 1.0,
    alpha: ParameterLike = 5.0,
    cutoff: ParameterLike = 2.5,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> PairPotential:
    """`u(r) = epsilon (x^2 - 2 x)`, `x = exp(-alpha (r - sigma))`.

    Args:
        epsilon: depth, unit energy.
        sigma: distance of least energy, unit length.
        alpha: steepness, unit 1 / length.
        cutoff: where it ends, unit length.
        cutoff_unit: "sigma" for a cutoff and an onset in units of each pair's sigma.
        truncation: how it ends: "truncated", "shifted", "force_shifted" or "switched".
        onset: where the switch begins.

    Raises:
        ValueError: see `dmdenv.potentials.pair_potential`.
    """
    return make_pair_potential(
        _energy,
        cutoff=cutoff,
        cutoff_unit=cutoff_unit,
        truncation=truncation,
        onset=onset,
        epsilon=epsilon,
        sigma=sigma,
        alpha=alpha,
    )


def _energy(s: jax.Array, *, epsilon: jax.Array, sigma: jax.Array, alpha: jax.Array) -> jax.Array:
    x = jnp.exp(-alpha * (jnp.sqrt(s) - sigma))
    return epsilon * x * (x - 2.0)
