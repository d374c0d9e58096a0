"""Constant temperature by stochastic rescaling of the velocities.

The kinetic energy alone feels friction and noise, with the relaxation time tau and N degrees of freedom:

    dK = (Kt - K) dt / tau + 2 sqrt(Kt K / (N tau)) dW,    Kt = N T / 2

Its exact solution over a step is, with c = exp(-dt / tau) and N independent standard normal R_i,

    K' = c K + (Kt / N) (1 - c) sum_i R_i^2 + 2 R_1 sqrt(c (1 - c) Kt K / N)

and the velocities are scaled by sqrt(K' / K), with the sign of `R_1 + sqrt(c N K / ((1 - c) Kt))`. A step is one of
velocity Verlet followed by this. Directions of motion do not change, so dynamics are little disturbed.

N - 1 of the squares are drawn at once, as twice a gamma variate of shape (N - 1) / 2. For a given N it does not depend
on any parameter, so gradients flow through the temperature, tau and the velocities; gradients in N
itself flow through the gamma variate (`jax.random.gamma` is reparameterised implicitly).

Reference: Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007), eqs. A7 and A8; the conserved energy:
section II B.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Scalar, number
from dmdenv._core.pytree import pytree
from dmdenv.integrators.base import Integrator, begin_noise, degrees_of_freedom
from dmdenv.integrators.nve import total_energy, velocity_verlet
from dmdenv.integrators.state import StochasticState
from dmdenv.integrators.velocities import maxwell_boltzmann
from dmdenv.potentials import Potential


@pytree
class Bussi(Integrator[StochasticState]):
    """Stochastic velocity rescaling. Conserves `U + K - bath_energy` up to the error of the time step.

    Args:
        dt: time step, unit time.
        temperature: unit energy.
        relaxation_time: tau, unit time.
        degrees_of_freedom: N. By default `d (n - 1)`: forces between particles conserve the total momentum, which must
            be zero then. Give `d n` where walls or external fields do not conserve it.

    Raises:
        ValueError: for a concrete time step or relaxation time that is not positive, a negative temperature, or not
            more than one degree of freedom.
    """

    state_type: ClassVar = StochasticState

    _: dataclasses.KW_ONLY
    dt: Scalar = number(above=0)
    temperature: Scalar = number(at_least=0)
    relaxation_time: Scalar = number(above=0)
    degrees_of_freedom: Scalar | None = number(None, above=1, optional=True)

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        degrees_of_freedom(self.degrees_of_freedom, positions)
        return begin_noise(positions, key)

    def _thermal_velocities(self, state: StochasticState, key: jax.Array | None) -> jax.Array:
        assert key is not None
        return maxwell_boltzmann(key, state.masses, self.temperature, state.positions.shape[1])

    def step(self, potential: Potential, state: StochasticState) -> StochasticState:
        state = velocity_verlet(potential, state, self.dt)
        key, draw = jax.random.split(state.key)
        K = state.kinetic_energy
        factor = self.scale(draw, K, degrees_of_freedom(self.degrees_of_freedom, state.positions))
        heat = (factor**2 - 1.0) * K
        return state.replace(velocities=factor * state.velocities, key=key, bath_energy=state.bath_energy + heat)

    def conserved(self, potential: Potential, state: StochasticState) -> jax.Array:
        return total_energy(potential, state) - state.bath_energy

    def scale(self, key: jax.Array, kinetic_energy: jax.Array, degrees_of_freedom: jax.Array) -> jax.Array:
        """The factor of the velocities, `[]`; 1 for particles at rest, which no factor sets in motion.

        With it, `K' / K = (sqrt(c) + sqrt(q) R_1)^2 + q sum_(i>1) R_i^2`, where q = (1 - c) T / (2 K).
        """
        N, K = degrees_of_freedom, kinetic_energy
        first, others = jax.random.split(key)
        moving = K > 0
        c = jnp.exp(-self.dt / self.relaxation_time)
        root_q = jnp.sqrt(-jnp.expm1(-self.dt / self.relaxation_time)) * jnp.sqrt(self.temperature)
        root_q = root_q / jnp.sqrt(2.0 * jnp.where(moving, K, 1.0))
        R = jax.random.normal(first, dtype=K.dtype)
        squares = 2.0 * jax.random.gamma(others, 0.5 * (N - 1.0), dtype=K.dtype)
        along = jnp.sqrt(c) + root_q * R
        factor = jnp.sqrt(along**2 + root_q**2 * squares) * jnp.where(along < 0, -1.0, 1.0)
        return jnp.where(moving, factor, 1.0)
