"""The Yukawa potential: a screened charge.

Reference: Yukawa, Proc. Phys.-Math. Soc. Jpn. 17, 48 (1935), eq. 3.
"""

import jax
import jax.numpy as jnp

from dmdenv.potentials.pair import PairPotential, Truncation, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike


def yukawa(
    *,
    strength: ParameterLike = 1.0,
    screening: ParameterLike = 1.0,
    cutoff: ParameterLike,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> PairPotential:
    """`u(r) = strength exp(-screening r) / r`.

    Args:
        strength: unit energy times length; the product of the charges of a pair, such as
            `PerParticle(charges, mix="product")`.
        screening: the inverse of the Debye length, unit 1 / length.
        cutoff: where it ends, unit length.
        truncation: how it ends: "truncated", "shifted", "force_shifted" or "switched".
        onset: where the switch begins.

    Raises:
        ValueError: see `dmdenv.potentials.pair_potential`.
    """
    return make_pair_potential(
        _energy, cutoff=cutoff, truncation=truncation, onset=onset, strength=strength, screening=screening
    )


def _energy(s: jax.Array, *, strength: jax.Array, screening: jax.Array) -> jax.Array:
    r = jnp.sqrt(s)
    return strength * jnp.exp(-screening * r) / r
