"""Constant energy: velocity Verlet.

    v <- v + (dt / 2) F(r) / m,    r <- r + dt v,    v <- v + (dt / 2) F(r) / m

Symplectic and time-reversible; the error of a trajectory and the fluctuation of the energy fall as dt^2.

Reference: Swope, Andersen, Berens and Wilson, J. Chem. Phys. 76, 637 (1982), appendix; Allen and Tildesley, Computer
Simulation of Liquids, 2nd ed. (2017), section 3.2.1.
"""

import dataclasses
from typing import TypeVar

import jax

from dmdenv._core.fields import Scalar, number
from dmdenv._core.pytree import pytree
from dmdenv.integrators.base import Integrator
from dmdenv.integrators.state import IntegratorState
from dmdenv.potentials import Potential

S = TypeVar("S", bound=IntegratorState)


@pytree
class NVE(Integrator[IntegratorState]):
    """Newton's equations, by velocity Verlet. Conserves `U + K`.

    Args:
        dt: time step, unit time; negative to go back in time.

    Raises:
        ValueError: for a concrete `dt` that is not finite.
    """

    _: dataclasses.KW_ONLY
    dt: Scalar = number()

    def step(self, potential: Potential, state: IntegratorState) -> IntegratorState:
        return velocity_verlet(potential, state, self.dt)

    def conserved(self, potential: Potential, state: IntegratorState) -> jax.Array:
        return total_energy(potential, state)


def velocity_verlet(potential: Potential, state: S, dt: jax.Array) -> S:
    """One step of velocity Verlet, also as a part of other methods."""
    masses = state.masses[:, None]
    velocities = state.velocities + 0.5 * dt * state.forces / masses
    state = state.move(potential, dt * velocities)
    velocities = velocities + 0.5 * dt * state.forces / masses
    return state.replace(velocities=velocities).add(time=dt)


def total_energy(potential: Potential, state: IntegratorState) -> jax.Array:
    """`U + K`, `[]`."""
    return potential.energy(state.space, state.positions, state.pairs) + state.kinetic_energy
