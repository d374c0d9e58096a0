"""Bonds: functions of the distance of two given particles.

References: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 1.3.3; the finitely extensible
bond: Kremer and Grest, J. Chem. Phys. 92, 5057 (1990), eq. 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from dmdenv.potentials.bonded import Bonded, TermParameter, make_bonded
from dmdenv.space import Space, norm


def bond_potential(function: Callable[..., jax.Array], bonds: ArrayLike, **parameters: TermParameter) -> Bonded:
    """A potential from your own energy of a bond.

        quartic = bond_potential(lambda r, k: k * (r - 1) ** 4, [[0, 1], [1, 2]], k=3.0)

    Args:
        function: `function(r, **parameters)`, the energy of a bond of length r, all `[]`. A function that is defined
            once (not a new lambda at each call) shares compiled code.
        bonds: int `[m, 2]`, the particles of each bond.
        parameters: each a number for all bonds, `[m]` with one for each, or a tuple of these.

    Raises:
        ValueError: bonds of another shape, a particle bound to itself, the same bond twice; a parameter of
            another shape or not finite.
    """
    return make_bonded(function, length, "bonds", bonds, 2, parameters)


def harmonic_bonds(bonds: ArrayLike, *, stiffness: TermParameter = 1.0, length: TermParameter = 1.0) -> Bonded:
    """`u(r) = stiffness (r - length)^2 / 2`.

    Args:
        bonds: int `[m, 2]`, the particles of each bond.
        stiffness: a number or `[m]`, unit energy / length^2.
        length: a number or `[m]`, unit length.

    Raises:
        ValueError: see `bond_potential`.
    """
    return bond_potential(_harmonic, bonds, stiffness=stiffness, length=length)


def fene_bonds(bonds: ArrayLike, *, stiffness: TermParameter = 30.0, max_length: TermParameter = 1.5) -> Bonded:
    """`u(r) = -stiffness max_length^2 log(1 - (r / max_length)^2) / 2`: finitely extensible, attractive only.

    A bond of `max_length` or more has broken: its energy is infinite, which marks the state, and its force is 0 (the
    derivative of a constant), so that positions stay finite. Add `wca()` for the bead-spring model.

    Args:
        bonds: int `[m, 2]`, the particles of each bond.
        stiffness: a number or `[m]`, unit energy / length^2.
        max_length: a number or `[m]`, above 0, unit length.

    Raises:
        ValueError: see `bond_potential`.

    Reference: Kremer and Grest, J. Chem. Phys. 92, 5057 (1990), eq. 2.
    """
    parameters = {"stiffness": stiffness, "max_length": max_length}
    return make_bonded(_fene, length, "bonds", bonds, 2, parameters, above={"max_length": 0.0})


def length(space: Space, a: jax.Array, b: jax.Array) -> jax.Array:
    """The distance of two particles `[d]` to the nearest image, `[]`."""
    return norm(space.displacement(a, b))


def _harmonic(r: jax.Array, *, stiffness: jax.Array, length: jax.Array) -> jax.Array:
    return 0.5 * stiffness * (r - length) ** 2


def _fene(r: jax.Array, *, stiffness: jax.Array, max_length: jax.Array) -> jax.Array:
    x = (r / max_length) ** 2
    broken = x >= 1
    x = jnp.where(broken, 1 - jnp.finfo(r.dtype).eps, x)
    return jnp.where(broken, jnp.inf, -0.5 * stiffness * max_length**2 * jnp.log1p(-x))
