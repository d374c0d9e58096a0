"""Kinetic energy, temperature, pressure and stress.

With velocities v measured in the frame of the system, and the virial `W_ab = -dU/d(strain_ab)` of the potential.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 2.4; the stress: Thompson,
Plimpton and Mattson, J. Chem. Phys. 131, 154107 (2009).
"""

import jax
import jax.numpy as jnp

from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.space import Space, require_periodic


def kinetic_energy(velocities: jax.Array, masses: jax.Array | float = 1.0) -> jax.Array:
    """`K = 1/2 sum_i m_i v_i^2`, unit energy.

    Args:
        velocities: `[n, d]`, unit length over time.
        masses: one for all or `[n]`, unit mass.
    """
    return 0.5 * jnp.sum(masses * jnp.sum(velocities**2, axis=-1))


def temperature(velocities: jax.Array, masses: jax.Array | float = 1.0, *, constraints: int = 0) -> jax.Array:
    """`T = 2 K / (n d - constraints)`, in units of energy (Boltzmann's constant is 1).

    Args:
        velocities: `[n, d]`, unit length over time.
        masses: one for all or `[n]`, unit mass.
        constraints: removed degrees of freedom: d where the total momentum is kept at zero.

    Raises:
        ValueError: for constraints that leave no degree of freedom.
    """
    freedom = velocities.size - constraints
    if not 0 < freedom <= velocities.size:
        raise ValueError(f"constraints = {constraints}; must be >= 0 and below the {velocities.size} components")
    return 2.0 * kinetic_energy(velocities, masses) / freedom


def pressure(
    potential: Potential,
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    velocities: jax.Array | None = None,
    masses: jax.Array | float = 1.0,
) -> jax.Array:
    """`p = (2 K + tr W) / (d V)`, unit energy / length^d.

    Args:
        potential: the interactions.
        space: a periodic one.
        positions: `[n, d]`, unit length.
        pairs: the neighbours for the potential.
        velocities: `[n, d]`, unit length / time; None for particles at rest.
        masses: one for all or `[n]`, unit mass.

    Raises:
        ValueError: in free space, which has no volume.
    """
    stress = stress_tensor(potential, space, positions, pairs, velocities=velocities, masses=masses)
    return -jnp.trace(stress) / positions.shape[1]


def stress_tensor(
    potential: Potential,
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    velocities: jax.Array | None = None,
    masses: jax.Array | float = 1.0,
) -> jax.Array:
    """`sigma = -(sum_i m_i v_i v_i^T + W) / V`, `[d, d]`, unit energy / length^d.

    Tension is positive: the pressure is `-tr(sigma) / d`, and without motion `sigma = (1 / V) dU/d(strain)`. Arguments
    and errors: see `pressure`.
    """
    require_periodic(space)
    momentum_flux = jnp.zeros((positions.shape[1],) * 2, positions.dtype)
    if velocities is not None:
        momentum = jnp.broadcast_to(masses, velocities.shape[:1])[:, None] * velocities
        momentum_flux = momentum.T @ velocities
    return -(momentum_flux + potential.virial(space, positions, pairs)) / space.volume(positions.shape[1])
