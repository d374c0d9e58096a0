"""The task `anneal` of `lj_fluid`: cool a liquid so that it becomes a crystal without defects.

The agent sets how fast the bath's temperature T rises or falls,

    dT/dt = rate a,    T_min <= T <= T_max,

time step by time step of the dynamics. Cooled too fast the liquid freezes into grains and voids, which the cold does
not heal; cooled too slowly it is still hot and disordered when the time is over. Order is that of the bonds,

    psi_i = sum_j w_ij exp(6 i theta_ij) / sum_j w_ij,

with the angles theta of the bonds to the neighbours, whose weight w falls smoothly from 1 to 0: |psi_i| is 1 where they
stand on a regular hexagon. The mean of |psi_i| measures order around a particle, |mean psi_i| that of the whole.

References: Kirkpatrick, Gelatt and Vecchi, Science 220, 671 (1983) (annealing); Nelson and Halperin, Phys. Rev. B 19,
2457 (1979) (psi).
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.envs.base import Baseline, Transition, parameter
from dmdenv.envs.lj_fluid.fluid import FluidParams, FluidState, LJFluid, interaction, langevin
from dmdenv.quantities import bond_order, temperature
from dmdenv.space import norm


class AnnealParams(FluidParams):
    """Dynamic parameters of `anneal`. Reduced units: sigma, epsilon, the mass and Boltzmann's constant are 1."""

    temperature_min: jax.Array = parameter(default=0.01, unit="energy", doc="T_min, the coldest bath", low=1e-4)
    temperature_max: jax.Array = parameter(default=1.2, unit="energy", doc="T_max, the hottest bath", low=1e-3)
    rate: jax.Array = parameter(default=0.4, unit="energy / time", doc="dT/dt of an action of 1", low=0.0)
    order_onset: jax.Array = parameter(
        default=1.3, unit="length", doc="distance up to which a neighbour counts in full", low=0.0
    )
    order_cutoff: jax.Array = parameter(
        default=1.6, unit="length", doc="distance from which on it does not count", low=1e-3
    )
    gain_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of raising the mean of |psi| by 1")
    final_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of |mean psi| = 1 at the end")


class AnnealState(FluidState):
    """The fluid and its bath."""

    temperature: jax.Array  # float [], T of the bath, unit energy


@dataclasses.dataclass(frozen=True)
class LJAnneal(LJFluid[AnnealState, AnnealParams]):
    """Crystallise a liquid by the temperature of its bath. Task `anneal`.

    Observation `[6]`, in [-1, 1]: the share of the time that is over; the temperature of the bath and that of the
    motion, from T_min = -1 to T_max = 1; the potential energy u a particle, `(u + 1.5) / 1.5`; the mean of |psi| and
    |mean psi|.

    Action `[1]`: dT/dt of the bath, in units of `rate`.

    Reward: `gain_weight (m' - m)`, where m and m' are the means of |psi| before and after the step, and after the last
    step `final_weight |mean psi|` as well.

    An episode terminates after `max_steps`: the time is a part of the task, so nothing comes after it.

    Metrics in `info`: `order` (the mean of |psi|), `global_order` (|mean psi|), `bath` and `temperature` (of the
    motion), `energy` (potential, a particle).

    Args:
        particles: number n of particles.
        substeps: time steps of the dynamics in a step of the environment.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of particles.
        slack: capacity of the neighbour list over what the liquid needs; `enlarged` doubles it.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    actions: ClassVar[int] = 1
    observations: ClassVar[int] = 6

    @property
    def default_params(self) -> AnnealParams:
        return AnnealParams()

    def validate(self, params: AnnealParams) -> None:
        super().validate(params)
        if not params.temperature_min <= params.temperature <= params.temperature_max:
            raise ValueError(
                f"temperature = {params.temperature:g}; valid: from temperature_min = {params.temperature_min:g} to"
                f" temperature_max = {params.temperature_max:g}"
            )
        if not params.order_onset < params.order_cutoff <= params.cutoff:
            raise ValueError(
                f"order_cutoff = {params.order_cutoff:g}; valid: above order_onset = {params.order_onset:g}, up to"
                f" cutoff = {params.cutoff:g}"
            )

    def initial_state(self, key: jax.Array, params: AnnealParams) -> AnnealState:
        """A liquid in equilibrium with its bath."""
        return AnnealState(**self.fluid(key, params), temperature=params.temperature)

    def advance(
        self, key: jax.Array, state: AnnealState, action: jax.Array, params: AnnealParams
    ) -> Transition[AnnealState]:
        potential = interaction(params)
        elapsed = params.dt * jnp.arange(1, self.substeps + 1)
        ramp = state.temperature + params.rate * action[0] * elapsed
        ramp = jnp.clip(ramp, params.temperature_min, params.temperature_max)

        def step(fluid, temperature):
            return langevin(params, temperature).step(potential, fluid), None

        fluid, _ = lax.scan(step, self.in_bath(key, state, potential, params), ramp)
        moved = dataclasses.replace(self.out_of_bath(state, fluid, params), temperature=ramp[-1])
        before, _ = self._order(state, params)
        after, whole = self._order(moved, params)
        last = state.time + 1 >= params.max_steps
        reward = params.gain_weight * (after - before) + jnp.where(last, params.final_weight * whole, 0.0)
        metrics = {
            "order": after,
            "global_order": whole,
            "bath": moved.temperature,
            "temperature": temperature(moved.velocities),
            "energy": self._energy(moved, params),
        }
        return Transition(moved, reward, jnp.asarray(False), metrics)

    def observe(self, state: AnnealState, params: AnnealParams) -> jax.Array:
        low, high = params.temperature_min, params.temperature_max

        def scaled(T: jax.Array) -> jax.Array:
            return 2.0 * (T - low) / jnp.maximum(high - low, 1e-6) - 1.0

        order, whole = self._order(state, params)
        motion = temperature(state.velocities)
        u = (self._energy(state, params) + 1.5) / 1.5
        over = state.time / params.max_steps
        seen = jnp.stack([over, scaled(state.temperature), scaled(motion), u, order, whole])
        return jnp.clip(seen, -1.0, 1.0)

    def _bonds(self, state: AnnealState, params: AnnealParams) -> jax.Array:
        """psi, complex `[n]`."""
        cutoff, onset = params.order_cutoff, params.order_onset
        return bond_order(self.space(params), state.positions, state.pairs, cutoff=cutoff, onset=onset)

    def _order(self, state: AnnealState, params: AnnealParams) -> tuple[jax.Array, jax.Array]:
        """The mean of |psi| and |mean psi|, each `[]`."""
        psi = self._bonds(state, params)
        parts = jnp.stack([psi.real, psi.imag], axis=-1)
        return jnp.mean(norm(parts)), norm(jnp.mean(parts, axis=0))

    def _energy(self, state: AnnealState, params: AnnealParams) -> jax.Array:
        """The potential energy a particle, `[]`."""
        return interaction(params).energy(self.space(params), state.positions, state.pairs) / self.particles

    def baselines(self, params: AnnealParams | None = None) -> dict[str, Baseline]:
        """Schedules T(s) of the share s of the time, followed as fast as the rate allows.

        `quench`: to T_min at once. `constant`: to the best constant temperature at once. `linear`, `exponential`: the
        best cooling of this form. Their coefficients, over the starting temperature, were found by a search for the
        default parameters.
        """
        params = self.default_params if params is None else params
        T = params.temperature
        return {
            "quench": self.following(lambda s: params.temperature_min, params),
            "constant": self.following(lambda s: T / 8.0, params),
            "linear": self.following(lambda s: T * 0.625 * (1.0 - s / 0.75), params),
            "exponential": self.following(lambda s: T * jnp.exp(-s / 0.15), params),
        }

    def following(self, schedule: Callable[[jax.Array], jax.Array], params: AnnealParams) -> Baseline:
        """The policy that follows a schedule: a temperature of the bath for each share of the time, unit energy."""
        low, high = params.temperature_min, params.temperature_max
        longest = params.rate * params.dt * self.substeps

        def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
            now = low + 0.5 * (observation[1] + 1.0) * (high - low)
            wanted = jnp.clip(schedule(observation[0] + 1.0 / params.max_steps), low, high)
            return jnp.clip((wanted - now) / longest, -1.0, 1.0)[None]

        return policy

    def render(self, state: AnnealState, params: AnnealParams | None = None) -> np.ndarray:
        """The particles, coloured by the direction of their bonds, dim where those have none; 640 x 640."""
        from dmdenv.envs.rendering import Canvas, blend, heading_colors

        params = self.default_params if params is None else params
        psi = np.asarray(self._bonds(state, params))
        sides = np.asarray(self.space(params).box)
        canvas = Canvas(np.zeros(2), float(np.max(sides)), period=sides)
        for place, color, order in zip(
            np.asarray(state.positions), heading_colors(np.angle(psi)), np.abs(psi), strict=True
        ):
            canvas.disc(place, 0.5, blend(color, 0.15 + 0.85 * float(order) ** 3))
        order, whole = (float(x) for x in self._order(state, params))
        canvas.caption(
            f"T {float(state.temperature):.2f}   order {order:.2f}, of the whole {whole:.2f}   step {int(state.time)}"
        )
        return canvas.image()
