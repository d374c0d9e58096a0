"""Constant temperature, by friction and noise: Langevin dynamics in the BAOAB splitting.

    m dv = F dt - m gamma v dt + sqrt(2 m gamma T) dW

    B   v <- v + (dt / 2) F / m
    A   r <- r + (dt / 2) v
    O   v <- c v + sqrt((1 - c^2) T / m) R,    c = exp(-gamma dt)
    A   r <- r + (dt / 2) v
    B   v <- v + (dt / 2) F / m

O solves friction and noise exactly. The error of configurational averages is of order dt^2, dt^4 at high friction, and
vanishes in a harmonic well. The noise R is standard normal and does not depend on any parameter, so gradients flow
through the temperature, the friction, the masses and the forces.

References: Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34; J. Chem. Phys. 138, 174102 (2013). The energy of
the bath: Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Scalar, number
from dmdenv._core.pytree import pytree
from dmdenv.integrators.base import Integrator, begin_noise, per_particle
from dmdenv.integrators.nve import total_energy
from dmdenv.integrators.state import StochasticState
from dmdenv.integrators.velocities import maxwell_boltzmann
from dmdenv.potentials import Potential


@pytree
class Langevin(Integrator[StochasticState]):
    """Langevin dynamics, by BAOAB. Conserves `U + K - bath_energy` up to the error of the time step.

    Momentum is not conserved: all `d n` degrees of freedom have the temperature.

    Args:
        dt: time step, unit time.
        temperature: unit energy.
        friction: gamma, `[]` or `[n]`, unit 1 / time: velocities decorrelate in 1 / gamma, free particles diffuse
            with `D = T / (m gamma)`.

    Raises:
        ValueError: for a concrete time step or friction that is not positive, or a negative temperature.
    """

    state_type: ClassVar = StochasticState

    _: dataclasses.KW_ONLY
    dt: Scalar = number(above=0)
    temperature: Scalar = number(at_least=0)
    friction: Scalar = number(above=0, per_particle=True)

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        return begin_noise(positions, key)

    def _thermal_velocities(self, state: StochasticState, key: jax.Array | None) -> jax.Array:
        assert key is not None
        return maxwell_boltzmann(key, state.masses, self.temperature, state.positions.shape[1], zero_momentum=False)

    def step(self, potential: Potential, state: StochasticState) -> StochasticState:
        dt, T, gamma, m = self.dt, self.temperature, per_particle(self.friction), state.masses[:, None]
        key, draw = jax.random.split(state.key)
        R = jax.random.normal(draw, state.positions.shape, state.positions.dtype)
        v = state.velocities + 0.5 * dt * state.forces / m
        before = v
        v = jnp.exp(-gamma * dt) * v + jnp.sqrt(-jnp.expm1(-2.0 * gamma * dt)) * (jnp.sqrt(T) / jnp.sqrt(m)) * R
        heat = 0.5 * jnp.sum(m * (v**2 - before**2))
        state = state.move(potential, 0.5 * dt * (before + v))
        v = v + 0.5 * dt * state.forces / m
        return state.replace(velocities=v, key=key).add(time=dt, bath_energy=heat)

    def conserved(self, potential: Potential, state: StochasticState) -> jax.Array:
        return total_energy(potential, state) - state.bath_energy
