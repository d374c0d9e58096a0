"""The Buckingham potential, with a wall where its dispersion would win.

`A exp(-r / rho) - C / r^6` has an inner maximum at r_m and falls to minus infinity below. There the fall is mirrored:

    u(r) = A exp(-r / rho) - C / r^6               for r >= r_m
    u(r) = 2 u(r_m) - A exp(-r / rho) + C / r^6    for r <  r_m

As u'(r_m) = 0, energy and force are continuous, and pairs repel at any shorter distance; the curvature jumps.
With x = r_m / rho, x^7 exp(-x) = 6 C / (A rho^6), of which r_m is the root below 7 rho. There is one up to the largest
value of the left side, 7^7 exp(-7) = 751; beyond it nothing repels at any distance.

Reference: Buckingham, Proc. R. Soc. A 168, 264 (1938); for silica: van Beest, Kramer and van Santen, Phys. Rev.
Lett. 64, 1955 (1990).
"""

import math

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import shown
from dmdenv.potentials.pair import PairPotential, Truncation, distance, inverse, make_pair_potential
from dmdenv.potentials.parameters import BySpecies, Parameter, ParameterLike, as_parameter


def buckingham(
    *,
    repulsion: ParameterLike,
    length: ParameterLike,
    dispersion: ParameterLike,
    cutoff: ParameterLike,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
) -> PairPotential:
    """`u(r) = A exp(-r / rho) - C / r^6` from its inner maximum on, below it `2 u(r_m) - A exp(-r / rho) + C / r^6`.

    So it repels at short distances: see the module. Where A and C are 0 pairs do not interact, where C is not above 0
    there is no wall, as there is no maximum. Truncation acts on u.

    Args:
        repulsion: A, unit energy.
        length: rho, unit length, above 0.
        dispersion: C, unit energy times length^6.
        cutoff: where it ends, unit length.
        truncation: how it ends: "truncated", "shifted", "force_shifted" or "switched".
        onset: where the switch begins.

    Raises:
        ValueError: for a length that is not above 0, for concrete numbers or `BySpecies` with C above 0 that repel at
            no distance (in compiled code, and of `PerParticle` and `PerPair`, those pairs have an energy of NaN); see
            `dmdenv.potentials.pair_potential`.
    """
    repulsion, dispersion = as_parameter("repulsion", repulsion), as_parameter("dispersion", dispersion)
    length = as_parameter("length", length, above=0.0)
    _check(repulsion, length, dispersion)
    return make_pair_potential(
        _energy,
        cutoff=cutoff,
        truncation=truncation,
        onset=onset,
        repulsion=repulsion,
        length=length,
        dispersion=dispersion,
    )


def _check(repulsion: Parameter, length: Parameter, dispersion: Parameter) -> None:
    """Refuse what repels at no distance, where the numbers of each pair of species are known."""
    parameters = repulsion, length, dispersion
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(parameters)):
        return
    if not all(isinstance(p, BySpecies | jax.Array | np.ndarray) for p in parameters):
        return
    tables = [np.asarray(p.matrix if isinstance(p, BySpecies) else p, float) for p in parameters]
    if len({table.shape for table in tables if table.ndim}) > 1:
        return  # matrices of several sizes: not the same species
    for a, rho, c in zip(*(x.ravel() for x in np.broadcast_arrays(*tables)), strict=True):
        if c > 0 and not 6 * c < _LARGEST * a * rho**6:
            raise ValueError(
                f"dispersion = {shown(c)} for repulsion = {shown(a)} and length = {shown(rho)}; must be below"
                f" 125.16 repulsion length^6 = {_LARGEST / 6 * max(a, 0.0) * rho**6:.6g}, so that pairs repel somewhere"
            )


_LARGEST = 7.0**7 * math.exp(-7.0)  # of x^7 exp(-x), at x = 7


def _energy(s: jax.Array, *, repulsion: jax.Array, length: jax.Array, dispersion: jax.Array) -> jax.Array:
    def u(s):
        x = inverse(s)
        return repulsion * jnp.exp(-distance(s) / length) - dispersion * x * x * x

    maximum = inner_maximum(repulsion, length, dispersion)
    top = jnp.where(maximum > 0, maximum, 1.0) ** 2
    below = s < maximum**2
    mirrored = jnp.where(below, 2.0 * u(top) - u(s), u(s))
    return jnp.where(jnp.isnan(maximum), maximum, mirrored)  # NaN where it falls without a maximum


def inner_maximum(repulsion: jax.Array, length: jax.Array, dispersion: jax.Array) -> jax.Array:
    """r_m, `[]`: 0 without dispersion, NaN where the potential repels at no distance. By three steps of Newton."""
    falls = dispersion > 0
    walled = falls & (repulsion > 0)
    ratio = 6.0 * jnp.where(walled, dispersion, 1.0) / (jnp.where(walled, repulsion, 1.0) * length**6)
    # t exp(-t) = z, of t = x / 7, below 1; the start is exact for z = 0 and near z = 1 / e, and at most 0.006 off
    z = ratio ** (1 / 7) / 7.0
    known = jax.lax.stop_gradient(z)
    depth = jnp.sqrt(2.0 * (1.0 - math.e * known))  # NaN beyond the largest ratio
    t = 1.0 - depth / (1.0 + (1.0 - math.sqrt(0.5)) * depth)
    for by in (known, known, z):  # the last step has the derivative of the root
        e = by * jnp.exp(t)
        t = t - (t - e) / (1.0 - e)
    return jnp.where(walled, 7.0 * length * t, jnp.where(falls, jnp.full_like(t, jnp.nan), jnp.zeros_like(t)))
