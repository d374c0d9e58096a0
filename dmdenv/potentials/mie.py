"""The Mie potential: a Lennard-Jones potential with any exponents.

Reference: Mie, Ann. Phys. 316, 657 (1903); Avendano et al., J. Phys. Chem. B 115, 11154 (2011).
"""

import jax
import jax.core
import jax.numpy as jnp

from dmdenv.potentials.pair import PairPotential, Truncation, inverse, make_pair_potential
from dmdenv.potentials.parameters import PairParameter, ParameterLike, as_parameter, largest


def mie(
    *,
    epsilon: ParameterLike = 1.0,
    sigma: ParameterLike = 1.0,
    n: ParameterLike = 12.0,
    m: ParameterLike = 6.0,
    cutoff: ParameterLike = 2.5,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> PairPotential:
    """`u(r) = C epsilon ((sigma / r)^n - (sigma / r)^m)`, `C = n / (n - m) (n / m)^(m / (n - m))`.

    Its minimum is -epsilon. The exponents are numbers like any other, differentiable; `lennard_jones`, which is this
    with 12 and 6, is faster.

    Args:
        epsilon: depth, unit energy.
        sigma: distance of zero energy, unit length, above 0.
        n: exponent of the repulsion, above m.
        m: exponent of the attraction, above 0.
        cutoff: where it ends, unit length.
        cutoff_unit: "sigma" for a cutoff and an onset in units of each pair's sigma.
        truncation: how it ends: "truncated", "shifted", "force_shifted" or "switched".
        onset: where the switch begins.

    Raises:
        ValueError: for a sigma or an m that is not above 0, a concrete n that is not above each m; see
            `dmdenv.potentials.pair_potential`.
    """
    sigma, n, m = (as_parameter(*x, above=0.0) for x in (("sigma", sigma), ("n", n), ("m", m)))
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((n, m))):
        with jax.ensure_compile_time_eval():  # what is known outside of jit is known inside
            least = float(jnp.min(n.numbers if isinstance(n, PairParameter) else n))
            most = float(largest(m))
        if least <= most:
            raise ValueError(f"n = {least:g}; must be above m, {most:g}")
    return make_pair_potential(
        _energy,
        cutoff=cutoff,
        cutoff_unit=cutoff_unit,
        truncation=truncation,
        onset=onset,
        epsilon=epsilon,
        sigma=sigma,
        n=n,
        m=m,
    )


def power_law(s: jax.Array, length: jax.Array, exponent: jax.Array) -> jax.Array:
    """`(length / r)^exponent` of the squared distance s, `[]`."""
    return (length**2 * inverse(s)) ** (0.5 * exponent)


def _energy(s: jax.Array, *, epsilon: jax.Array, sigma: jax.Array, n: jax.Array, m: jax.Array) -> jax.Array:
    scale = n / (n - m) * (n / m) ** (m / (n - m))
    return scale * epsilon * power_law(s, sigma, m) * (power_law(s, sigma, n - m) - 1.0)
