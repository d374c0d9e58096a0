"""The Lennard-Jones potential.

Reference: Jones, Proc. R. Soc. A 106, 463 (1924); Allen and Tildesley (2017), eq. 1.6; its tail: eqs. 2.144
and 2.145.
"""

import math
from typing import Any

import jax
import jax.core

from dmdenv._core.fields import Real
from dmdenv.potentials.pair import PairPotential, Truncation, inverse, make_pair_potential
from dmdenv.potentials.parameters import ParameterLike


def lennard_jones(
    *,
    epsilon: ParameterLike = 1.0,
    sigma: ParameterLike = 1.0,
    cutoff: ParameterLike = 2.5,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> PairPotential:
    """`u(r) = 4 epsilon ((sigma / r)^12 - (sigma / r)^6)`.

    Args:
        epsilon: depth, unit energy.
        sigma: distance of zero energy, unit length.
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
    )


def _energy(s: jax.Array, *, epsilon: jax.Array, sigma: jax.Array) -> jax.Array:
    x = (sigma**2 * inverse(s)) ** 3
    return 4.0 * epsilon * x * (x - 1.0)


def tail_energy(*, epsilon: float = 1.0, sigma: float = 1.0, cutoff: float, density: float) -> float:
    """The energy per particle from beyond the cutoff, in a 3-D fluid without structure there, unit energy.

    `U / N = (8 pi / 3) epsilon density sigma^3 ((sigma / rc)^9 / 3 - (sigma / rc)^3)`.

    Raises:
        ValueError: for what is no finite number, a cutoff that is not above 0, or a negative density.
    """
    epsilon, sigma, cutoff, density = _checked_tail(epsilon, sigma, cutoff, density)
    x = (sigma / cutoff) ** 3
    return 8.0 / 3.0 * math.pi * epsilon * density * sigma**3 * (x**3 / 3.0 - x)


def tail_pressure(*, epsilon: float = 1.0, sigma: float = 1.0, cutoff: float, density: float) -> float:
    """The pressure from beyond the cutoff, in a 3-D fluid without structure there, unit energy / length^3.

    `p = (16 pi / 3) epsilon density^2 sigma^3 ((2 / 3) (sigma / rc)^9 - (sigma / rc)^3)`.

    Raises:
        ValueError: as of `tail_energy`.
    """
    epsilon, sigma, cutoff, density = _checked_tail(epsilon, sigma, cutoff, density)
    x = (sigma / cutoff) ** 3
    return 16.0 / 3.0 * math.pi * epsilon * density**2 * sigma**3 * (2.0 / 3.0 * x**3 - x)


def _checked_tail(epsilon: Any, sigma: Any, cutoff: Any, density: Any) -> tuple[Any, Any, Any, Any]:
    def checked(name: str, value: Any, rule: Real) -> Any:
        return value if isinstance(value, jax.core.Tracer) else rule.convert(name, value)

    return (
        checked("epsilon", epsilon, Real()),
        checked("sigma", sigma, Real()),
        checked("cutoff", cutoff, Real(above=0)),
        checked("density", density, Real(at_least=0)),
    )
