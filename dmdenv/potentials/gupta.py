"""The Gupta potential: transition metals in the second-moment approximation to tight binding.

Reference: Gupta, Phys. Rev. B 23, 6265 (1981); Cleri and Rosato, Phys. Rev. B 48, 22 (1993).
"""

import jax
import jax.numpy as jnp

from dmdenv.potentials.embedding import EmbeddingPotential, embedding_potential, square_root
from dmdenv.potentials.pair import Truncation, distance, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike, as_parameter


def gupta(
    *,
    repulsion: ParameterLike = 0.2061,
    hopping: ParameterLike = 1.790,
    p: ParameterLike = 10.229,
    q: ParameterLike = 4.036,
    length: ParameterLike = 2.884,
    cutoff: ParameterLike,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> EmbeddingPotential:
    """`U_i = A sum_j exp(-p (r_ij / r0 - 1)) - sqrt(xi^2 sum_j exp(-2 q (r_ij / r0 - 1)))`.

    The defaults are Cleri and Rosato's for gold, in eV and Angstrom; they fitted up to the fifth neighbours, a cutoff
    of 6.5. An alloy takes `BySpecies`: hopping is squared inside of the sum, pair by pair.

    Each term holds its own length and cutoff. For the whole derivative by one, differentiate through this function.

    Args:
        repulsion: A, unit energy.
        hopping: xi, unit energy.
        p: exponent of the repulsion.
        q: exponent of the attraction.
        length: r0, the distance of nearest neighbours in the crystal, unit length, above 0.
        cutoff: where both sums end, unit length; `math.inf` for clusters.
        cutoff_unit: "length" for a cutoff and an onset in units of each pair's r0.
        truncation: how each of the two functions of r ends: "truncated", "shifted", "force_shifted" or "switched". By
            the root, energy and force of a pair that parts from all others jump by more than those functions.
        onset: where the switch begins.

    Raises:
        ValueError: for a length that is not above 0; see `dmdenv.potentials.pair_potential`.
    """
    length = as_parameter("length", length, above=0.0)
    if cutoff_unit not in (None, "length"):
        raise ValueError(f"cutoff_unit = {cutoff_unit!r}; must be 'length' or None")
    ends = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "truncation": truncation, "onset": onset, "length": length}
    return embedding_potential(
        _bond_energy,
        density=make_pair_potential(_squared_hopping, hopping=hopping, q=q, **ends),
        pair=make_pair_potential(_repulsion, repulsion=repulsion, p=p, **ends),
    )


def _bond_energy(rho: jax.Array) -> jax.Array:
    return -square_root(rho)


def _squared_hopping(s: jax.Array, *, hopping: jax.Array, q: jax.Array, length: jax.Array) -> jax.Array:
    return hopping**2 * jnp.exp(-2.0 * q * (distance(s) / length - 1.0))


def _repulsion(s: jax.Array, *, repulsion: jax.Array, p: jax.Array, length: jax.Array) -> jax.Array:
    return 2.0 * repulsion * jnp.exp(-p * (distance(s) / length - 1.0))  # of both particles
