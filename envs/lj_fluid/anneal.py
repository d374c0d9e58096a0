"""The task `anneal` of `lj_fluid`: cool a liquid so that it becomes a crystal without defects.

The agent sets how fast the bath's temperature T rises or falls,

    dT/dt = rate a,    T_min <= T <= T_max,

time step by time step of the dynamics. Cooled too fast, the liquid freezes into grains and voids, which the cold does
not heal; cooled too slowly, it is still hot and disordered when the time is over. Order is that of the bonds,

    psi_i = sum_j w_ij exp(6 i theta_ij) / sum_j w_ij,

with the angles theta of the bonds to the neighbours, whose weight w falls smoothly from 1 to 0: |psi_i| is 1 where they
stand on a regular hexagon. The mean of |psi_i| measures order around a particle, |mean psi_i| that of the whole.

References: Kirkpatrick, Gelatt and Vecchi, Science 220, 671 (1983) (annealing); Nelson and Halperin, Phys. Rev. B 19,
2457 (1979) (psi).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import scan
from dmdenv.envs.base import Baseline, Transition, derived
from dmdenv.envs.lj_fluid.baselines import anneal_policies
from dmdenv.envs.lj_fluid.fluid import FluidState, LJFluid, interaction, langevin
from dmdenv.envs.lj_fluid.parameters import AnnealParams
from dmdenv.integrators import StochasticState
from dmdenv.quantities import bond_order, temperature
from dmdenv.space import norm

_MEASURE = "dmdenv.envs.lj_fluid.anneal.measure(motion, params)"


class AnnealState(FluidState):
    """The fluid, its bath, and what was measured of it when it came to be as it is."""

    bath: jax.Array  # float [], T of the bath, unit energy
    temperature: jax.Array = derived("motion", by=_MEASURE)  # float [], of the motion, unit energy
    energy: jax.Array = derived("motion", by=_MEASURE)  # float [], potential, per particle, unit energy
    order: jax.Array = derived("motion", by=_MEASURE)  # float [], the mean of |psi|
    global_order: jax.Array = derived("motion", by=_MEASURE)  # float [], |mean psi|


@dataclasses.dataclass(frozen=True)
class LJAnneal(LJFluid[AnnealState, AnnealParams]):
    """Crystallise a liquid by the temperature of its bath. Task `anneal`.

    Observation `[6]`, in [-1, 1]: elapsed fraction of the time; the temperature of the bath and that of the
    motion, from T_min = -1 to T_max = 1; the potential energy u per particle, `(u + 1.5) / 1.5`; the mean of |psi| and
    |mean psi|.

    Action `[1]`: dT/dt of the bath, in units of `rate`.

    Reward: `gain_weight (m' - m)`, where m and m' are the means of |psi| before and after the step, and after the last
    step `final_weight |mean psi|` as well.

    An episode terminates after `max_steps`: the time is a part of the task, so nothing comes after it.

    Metrics in `info`: `order` (the mean of |psi|), `global_order` (|mean psi|), `bath` and `temperature` (of the
    motion), `energy` (potential, per particle).

    Args:
        particles: number n of particles.
        substeps: time steps of the dynamics per step of the environment.
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
                f"temperature = {params.temperature:g}; must be >= temperature_min = {params.temperature_min:g} and <="
                f" temperature_max = {params.temperature_max:g}"
            )
        if not params.order_onset < params.order_cutoff <= params.cutoff:
            raise ValueError(
                f"order_cutoff = {params.order_cutoff:g}; must be > order_onset = {params.order_onset:g} and <="
                f" cutoff = {params.cutoff:g}"
            )

    def initial_state(self, key: jax.Array, params: AnnealParams) -> AnnealState:
        """A liquid in equilibrium with its bath."""
        motion, overflow = self.begin(key, params)
        measured = measure(motion, params)
        return AnnealState(motion=motion, overflow=overflow, bath=params.temperature, **measured)

    def advance(
        self, key: jax.Array, state: AnnealState, action: jax.Array, params: AnnealParams
    ) -> Transition[AnnealState]:
        potential = interaction(params)
        elapsed = params.dt * jnp.arange(1, self.substeps + 1)
        ramp = state.bath + params.rate * action[0] * elapsed
        ramp = jnp.clip(ramp, params.temperature_min, params.temperature_max)

        def step(motion, temperature):
            return langevin(params, temperature).step(potential, motion), None

        motion, _ = scan(step, self.resume(key, state, params), ramp)
        new = self.with_motion(state, motion, params).replace(bath=ramp[-1], **measure(motion, params))
        last = state.time + 1 >= params.max_steps
        gain = new.order - state.order
        reward = params.gain_weight * gain + jnp.where(last, params.final_weight * new.global_order, 0.0)
        metrics = {name: getattr(new, name) for name in ("order", "global_order", "bath", "temperature", "energy")}
        return Transition(new, reward, metrics=metrics)

    def observe(self, state: AnnealState, params: AnnealParams) -> jax.Array:
        low, high = params.temperature_min, params.temperature_max

        def scale(T: jax.Array) -> jax.Array:
            return 2.0 * (T - low) / jnp.maximum(high - low, 1e-6) - 1.0

        elapsed = state.time / params.max_steps
        u = (state.energy + 1.5) / 1.5
        observation = [elapsed, scale(state.bath), scale(state.temperature), u, state.order, state.global_order]
        return jnp.clip(jnp.stack(observation), -1.0, 1.0)

    def baselines(self, params: AnnealParams | None = None) -> dict[str, Baseline]:
        """Schedules T(s) of the elapsed fraction s of the time, followed as fast as the rate allows.

        `quench`: to T_min at once. `constant`: to the best constant temperature at once. `linear`, `exponential`: the
        best cooling of this form.
        """
        return anneal_policies(self.default_params if params is None else params, self.substeps)

    def render(self, state: AnnealState, params: AnnealParams | None = None) -> np.ndarray:
        """The particles, coloured by the direction of their bonds, dim where those have none; 640 x 640."""
        from dmdenv.envs.lj_fluid.drawing import draw_order

        psi = bonds(state.motion, self.default_params if params is None else params)
        T, order, global_order = (float(x) for x in (state.bath, state.order, state.global_order))
        caption = f"T {T:.2f}   order {order:.2f}, global {global_order:.2f}   step {int(state.time)}"
        return draw_order(state, np.asarray(psi), caption)


def bonds(motion: StochasticState, params: AnnealParams) -> jax.Array:
    """psi of each particle, complex `[n]`."""
    at = motion.space, motion.positions, motion.pairs
    return bond_order(*at, cutoff=params.order_cutoff, onset=params.order_onset)


def measure(motion: StochasticState, params: AnnealParams) -> dict[str, jax.Array]:
    """What `AnnealState` holds of a configuration: temperature, energy and order, each `[]`."""
    psi = bonds(motion, params)
    psi = jnp.stack([psi.real, psi.imag], axis=-1)
    energy = interaction(params).energy(motion.space, motion.positions, motion.pairs)
    return {
        "temperature": temperature(motion.velocities),
        "energy": energy / len(motion.positions),
        "order": jnp.mean(norm(psi)),
        "global_order": norm(jnp.mean(psi, axis=0)),
    }
