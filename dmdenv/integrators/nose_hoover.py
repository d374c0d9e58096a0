"""Constant temperature without noise: Nose-Hoover chains.

A chain of M thermostats (positions xi_k, velocities w_k, masses Q_k) is coupled to the kinetic energy:

    v_i' = F_i / m_i - w_1 v_i,     xi_k' = w_k
    w_1' = (2 K - N T) / Q_1 - w_1 w_2
    w_k' = (Q_(k-1) w_(k-1)^2 - T) / Q_k - w_k w_(k+1)      (no w_(M+1))

with N degrees of freedom, Q_1 = N T tau^2 and Q_k = T tau^2. They conserve

    H = U + K + sum_k Q_k w_k^2 / 2 + N T xi_1 + T sum_(k>1) xi_k .

A step is a half step of the chain, one of velocity Verlet, a half step of the chain: symmetric in time. The half step
of the chain is itself a symmetric splitting, of order 2, 4 or 6 by the weights of Suzuki and Yoshida.

Reference: Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996), sections 2 and 4; the weights: Yoshida,
Phys. Lett. A 150, 262 (1990), solution A of order 6, and Suzuki, J. Math. Phys. 32, 400 (1991).
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import scan
from dmdenv._core.fields import Scalar, choice, number, whole
from dmdenv._core.pytree import pytree
from dmdenv.integrators.base import Integrator, degrees_of_freedom, require_key
from dmdenv.integrators.nve import total_energy, velocity_verlet
from dmdenv.integrators.state import IntegratorState
from dmdenv.integrators.velocities import maxwell_boltzmann
from dmdenv.potentials import Potential


def _symmetric(*half: float) -> tuple[float, ...]:
    """Weights that add up to 1, the same from both ends."""
    return (*half, 1.0 - 2.0 * sum(half), *reversed(half))


_WEIGHTS = {
    1: (1.0,),
    3: _symmetric(1.0 / (2.0 - 2.0 ** (1.0 / 3.0))),
    5: _symmetric(*2 * [1.0 / (4.0 - 4.0 ** (1.0 / 3.0))]),
    7: _symmetric(0.784513610477560, 0.235573213359357, -1.17767998417887),
}


@pytree
class NoseHooverState(IntegratorState):
    """A state with a chain of thermostats."""

    thermostat_positions: jax.Array  # xi, [M], no unit
    thermostat_velocities: jax.Array  # w, [M], unit 1 / time


@pytree
class NoseHoover(Integrator[NoseHooverState]):
    """Nose-Hoover chains. Conserves H above while the temperature is not changed.

    Args:
        dt: time step, unit time.
        temperature: unit energy.
        relaxation_time: tau, unit time: the thermostat oscillates with a period of about 2 pi tau / sqrt(2).
        degrees_of_freedom: N. By default `d (n - 1)`: forces between particles conserve the total momentum, which must
            be zero then. Give `d n` where walls or external fields do not conserve it.
        chain_length: M.
        weights: the number of Suzuki-Yoshida weights: 1, 3, 5 or 7.
        substeps: into how many equal parts the half step of the chain is divided in addition.

    Raises:
        ValueError: for a concrete time step that is not finite (a negative one goes back in time); a temperature,
            relaxation time or number of degrees of freedom that is not positive; a chain or a number of substeps
            below 1; another number of weights.
    """

    state_type: ClassVar = NoseHooverState

    _: dataclasses.KW_ONLY
    dt: Scalar = number()
    temperature: Scalar = number(above=0)
    relaxation_time: Scalar = number(above=0)
    degrees_of_freedom: Scalar | None = number(None, above=0, optional=True)
    chain_length: int = whole(3, at_least=1, at_most=100)
    weights: Literal[1, 3, 5, 7] = choice(3, of=tuple(_WEIGHTS))
    substeps: int = whole(1, at_least=1, at_most=1000)

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        degrees_of_freedom(self.degrees_of_freedom, positions)
        rest = jnp.zeros(self.chain_length, positions.dtype)
        return {"thermostat_positions": rest, "thermostat_velocities": rest}, key

    def _thermal_velocities(self, state: NoseHooverState, key: jax.Array | None) -> jax.Array:
        key = require_key(key, "velocities at the temperature, which are not given")
        return maxwell_boltzmann(key, state.masses, self.temperature, state.positions.shape[1])

    def step(self, potential: Potential, state: NoseHooverState) -> NoseHooverState:
        state = velocity_verlet(potential, self.half_step_of_chain(state), self.dt)
        return self.half_step_of_chain(state)

    def conserved(self, potential: Potential, state: NoseHooverState) -> jax.Array:
        xi, w = state.thermostat_positions, state.thermostat_velocities
        N, Q = self._freedom_and_masses(state)
        chain = 0.5 * jnp.sum(Q * w**2) + self.temperature * (N * xi[0] + jnp.sum(xi[1:]))
        return total_energy(potential, state) + chain

    def _freedom_and_masses(self, state: NoseHooverState) -> tuple[jax.Array, jax.Array]:
        """N `[]` and Q `[M]`."""
        N = degrees_of_freedom(self.degrees_of_freedom, state.positions)
        coupled = [N] + [jnp.ones_like(N)] * (self.chain_length - 1)  # degrees of freedom that each thermostat controls
        return N, self.temperature * self.relaxation_time**2 * jnp.stack(coupled)

    def half_step_of_chain(self, state: NoseHooverState) -> NoseHooverState:
        """The state after the thermostats have acted for half a time step: the chain, and velocities scaled by it."""
        T, M = self.temperature, self.chain_length
        N, Q = self._freedom_and_masses(state)

        def kick(w: list[jax.Array], k: int, K2: jax.Array, h: jax.Array) -> jax.Array:
            """w_k after the time h, under the force of the thermostat before it and the drag of the one after it."""
            G = ((K2 - N * T) if k == 0 else (Q[k - 1] * w[k - 1] ** 2 - T)) / Q[k]
            if k == M - 1:
                return w[k] + h * G
            drag = jnp.exp(-0.5 * h * w[k + 1])
            return (w[k] * drag + h * G) * drag

        def substep(carry: tuple[jax.Array, jax.Array, jax.Array], weight: jax.Array):
            xi, packed, scale = carry
            h = 0.5 * weight * self.dt
            w = list(packed)
            for k in reversed(range(M)):
                w[k] = kick(w, k, scale**2 * twice_kinetic, 0.5 * h)
            scale = scale * jnp.exp(-h * w[0])
            xi = xi + h * jnp.stack(w)
            for k in range(M):
                w[k] = kick(w, k, scale**2 * twice_kinetic, 0.5 * h)
            return (xi, jnp.stack(w), scale), None

        twice_kinetic = 2.0 * state.kinetic_energy
        weights = np.tile(np.asarray(_WEIGHTS[self.weights]) / self.substeps, self.substeps)
        start = state.thermostat_positions, state.thermostat_velocities, jnp.ones_like(twice_kinetic)
        (xi, w, scale), _ = scan(substep, start, jnp.asarray(weights, start[0].dtype))
        return state.replace(velocities=scale * state.velocities, thermostat_positions=xi, thermostat_velocities=w)
