"""The Sutton-Chen potential: face-centred cubic metals with power laws.

Reference: Sutton and Chen, Philos. Mag. Lett. 61, 139 (1990); alloys: Rafii-Tabar and Sutton,
Philos. Mag. Lett. 63, 217 (1991).
"""

import jax

from dmdenv.potentials.embedding import EmbeddingPotential, embedding_potential, square_root
from dmdenv.potentials.mie import power_law
from dmdenv.potentials.pair import Truncation, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike, as_parameter


def sutton_chen(
    *,
    epsilon: ParameterLike = 0.012793,
    length: ParameterLike = 4.08,
    strength: ParameterLike = 34.408,
    n: ParameterLike = 10.0,
    m: ParameterLike = 8.0,
    cutoff: ParameterLike,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> EmbeddingPotential:
    """`U_i = epsilon (1/2 sum_j (a / r_ij)^n - c sqrt(rho_i))`, `rho_i = sum_j (a / r_ij)^m`.

    The defaults are Sutton and Chen's for gold, in eV and Angstrom. In an alloy the epsilon, a, n and m of each pair
    stand in the sums, and the epsilon and c of particle i before its root: `BySpecies` or `PerParticle`.

    Each term holds its own length, epsilon and cutoff. For the whole derivative by one, differentiate through this
    function.

    Args:
        epsilon: unit energy.
        length: a, the edge of the cubic cell, unit length, above 0.
        strength: c, of the attraction.
        n: exponent of the repulsion.
        m: exponent of the density.
        cutoff: where both sums end, unit length.
        cutoff_unit: "length" for a cutoff and an onset in units of each pair's a.
        truncation: how each of the two functions of r ends: "truncated", "shifted", "force_shifted" or "switched". By
            the root, energy and force of a pair that parts from all others jump by more than those functions.
        onset: where the switch begins.

    Raises:
        ValueError: for a length or an exponent that is not above 0; for epsilon or strength as `PerPair`; see
            `dmdenv.potentials.pair_potential`.
    """
    length, n, m = (as_parameter(*x, above=0.0) for x in (("length", length), ("n", n), ("m", m)))
    if cutoff_unit not in (None, "length"):
        raise ValueError(f"cutoff_unit = {cutoff_unit!r}; must be 'length' or None")
    ends = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "truncation": truncation, "onset": onset, "length": length}
    return embedding_potential(
        _attraction,
        density=make_pair_potential(_density, m=m, **ends),
        pair=make_pair_potential(_repulsion, epsilon=epsilon, n=n, **ends),
        epsilon=epsilon,
        strength=strength,
    )


def _attraction(rho: jax.Array, *, epsilon: jax.Array, strength: jax.Array) -> jax.Array:
    return -epsilon * strength * square_root(rho)


def _density(s: jax.Array, *, length: jax.Array, m: jax.Array) -> jax.Array:
    return power_law(s, length, m)


def _repulsion(s: jax.Array, *, epsilon: jax.Array, length: jax.Array, n: jax.Array) -> jax.Array:
    return epsilon * power_law(s, length, n)
