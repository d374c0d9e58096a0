"""Soft sphere packing, task `compress`: jam athermal discs at a pressure by compression and agitation.

Frictionless soft discs of two sizes (see `packing.py`) start loose, without contacts. A step changes the box
and with it all places, kicks every particle, and relaxes the packing by a fixed number of steps of FIRE,

    phi <- phi exp(strain a_0),    r <- r L' / L + kick (1 + a_1) / 2 * xi,    r <- FIRE(r),

with standard normal xi. Below a packing fraction of about 0.84 (0.64 in 3-D) every overlap can be relaxed and the
pressure is zero; above it the packing jams, at 2 d contacts a particle, and the pressure rises in proportion to
phi - phi_J. Where that happens depends on the packing and on its history: agitation helps to settle.

References: O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), sections III and IV; for the protocol
Chaudhuri, Berthier and Sastry, Phys. Rev. Lett. 104, 165701 (2010).
"""

import dataclasses
import functools
import itertools
from typing import Literal, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.differentiation import rollout
from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, Params, State, Transition, parameter
from dmdenv.envs.soft_sphere_packing.packing import (
    PackingEnv,
    check_order,
    discs,
    equivalent,
    halves,
    measured,
    picture,
    relaxed_starts,
    solid_volume,
    too_long,
)
from dmdenv.minimizers import FIRE
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PairPotential
from dmdenv.space import Periodic

_JAMMING = {2: 0.84, 3: 0.64}  # packing fraction, about

Target = Literal["pressure", "packing_fraction"]


class PackingCompressParams(Params):
    """Units: the small diameter, and the energy of the potential."""

    max_steps: jax.Array = parameter(default=64, unit="steps", doc="steps in an episode", low=1)
    target_pressure: jax.Array = parameter(default=1e-3, unit="energy / length^d", doc="p*", low=1e-8)
    pressure_floor: jax.Array = parameter(
        default=1e-5, unit="energy / length^d", doc="p0, below which pressures count as none", low=1e-12
    )
    target_fraction: jax.Array = parameter(
        default=0.84, unit="1", doc="phi*; the middle of the observed scale in any case", low=0.01, high=2.0
    )
    fraction_scale: jax.Array = parameter(
        default=0.2, unit="1", doc="of packing fractions, in observation and reward", low=1e-6
    )
    strain: jax.Array = parameter(
        default=0.02, unit="1 / step", doc="fastest relative change of the packing fraction", low=0.0, high=1.0
    )
    kick: jax.Array = parameter(default=0.1, unit="length", doc="strongest agitation", low=0.0)
    start_min: jax.Array = parameter(default=0.65, unit="1", doc="loosest start, packing fraction", low=0.01, high=2.0)
    start_max: jax.Array = parameter(default=0.75, unit="1", doc="densest start, packing fraction", low=0.01, high=2.0)
    loosest: jax.Array = parameter(default=0.5, unit="1", doc="least packing fraction", low=0.01, high=2.0)
    densest: jax.Array = parameter(default=1.1, unit="1", doc="greatest packing fraction", low=0.01, high=2.0)
    ratio: jax.Array = parameter(default=1.4, unit="1", doc="of the diameters of the two halves", low=0.1, high=10.0)
    alpha: jax.Array = parameter(
        default=2.0, unit="1", doc="exponent of the potential: 2 harmonic, 5/2 Hertzian", low=1.5, high=10.0
    )
    fire_dt: jax.Array = parameter(
        default=0.1, unit="length / energy^(1/2)", doc="first time step of FIRE", low=1e-6, high=1.0
    )
    target_weight: jax.Array = parameter(default=1.0, unit="1", doc="of the distance to the target", low=0.0)
    residual_weight: jax.Array = parameter(default=0.5, unit="1", doc="of forces that are not relaxed", low=0.0)
    contact_weight: jax.Array = parameter(default=0.5, unit="1", doc="of the distance to 2 d contacts", low=0.0)
    energy_weight: jax.Array = parameter(default=0.0, unit="1", doc="of the energy", low=0.0)
    energy_scale: jax.Array = parameter(default=2e-4, unit="energy", doc="e*, a particle", low=1e-12)


class PackingCompressState(State):
    """A packing, and what was measured of it."""

    positions: jax.Array  # [n, d], unit length, in the box
    box: jax.Array  # float [], L, unit length
    energy: jax.Array  # float [], a particle, unit energy
    pressure: jax.Array  # float [], unit energy / length^d
    residual: jax.Array  # float [], the largest force, unit energy / length
    contacts: jax.Array  # float [], a particle, rattlers excluded
    quality: jax.Array  # float [], Q, of which the reward is the gain


@dataclasses.dataclass(frozen=True)
class PackingCompress(PackingEnv[PackingCompressState, PackingCompressParams]):
    """Athermal soft discs that are compressed, agitated and relaxed.

    Observation `[6]`, in [-1, 1]: the share of the time that is over; the pressure on a logarithmic scale,
    -1 for none, 0 at the target; (phi - phi*) / fraction_scale; z / 2 d - 1; the energy a particle, on a logarithmic
    scale from 1e-8 to 1; the largest force, on one from 1e-8 to 1.

    Action `[2]`: rate of compression (below 0: of expansion), and agitation (-1: none).

    Reward: the gain in the quality `Q = -(target_weight D + residual_weight R + contact_weight Z + energy_weight E)`,

        D = |ln((p + p0) / (p* + p0))| / ln((p* + p0) / p0)    or    |phi - phi*| / fraction_scale,
        R = f / (f + p*),    Z = |z / 2 d - 1|,    E = e / (e + e*),

    with f the largest force on a particle (p* times a diameter is the force of a contact). The sum over an episode is
    what the quality of the packing has gained: from a start without contacts at most `target_weight + contact_weight`.

    An episode terminates after `max_steps`: the time is a part of the task.

    Metrics in `info`: `pressure`, `packing_fraction`, `contact_number`, `energy`, `residual`, `distance` (D).

    Args:
        particles: number n of particles, half of them large.
        dimension: 2 or 3.
        target: "pressure", or "packing_fraction", reached with the least energy.
        relaxation_steps: steps of FIRE in a step.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    particles: int = 64
    dimension: int = 2
    target: Target = "pressure"
    relaxation_steps: int = 64

    def __post_init__(self):
        self._check(target=get_args(Target))

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> PackingCompressParams:
        """The task's parameters: packing fractions in proportion to that of jamming, weights as the target wants."""
        jamming = _JAMMING[self.dimension]
        values = {name: share * jamming for name, share in _SHARES.items()}
        if self.target == "packing_fraction":
            values |= {"target_fraction": 1.03 * jamming, "contact_weight": 0.0, "energy_weight": 1.0}
        return PackingCompressParams().replace(**values)

    def validate(self, params: PackingCompressParams) -> None:
        for low, high in itertools.pairwise(("loosest", "start_min", "start_max", "densest")):
            check_order(params, low, high)
        with jax.ensure_compile_time_eval():
            longest, side = max(1.0, float(params.ratio)), float(self._side(params.densest, params))
        if longest > side / 2:
            raise ValueError(
                f"diameters up to {longest:g} in a box of {side:g} where it is densest; valid: up to half of it: more"
                " particles, or a lower `densest`"
            )

    def observation_space(self, params: PackingCompressParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def action_space(self, params: PackingCompressParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        super().prepare()
        pool.prepare(relaxed_starts, *self._pool)

    def initial_state(self, key: jax.Array, params: PackingCompressParams) -> PackingCompressState:
        """A relaxed loose packing from a pool, moved and reflected at random, at a random packing fraction."""
        pool_key, copy_key, fraction_key = jax.random.split(key, 3)
        places = pool.draw(pool_key, relaxed_starts, *self._pool)
        share = jax.random.uniform(fraction_key)
        box = self._side(params.start_min + share * (params.start_max - params.start_min), params)
        positions = box * equivalent(copy_key, places)
        forces = self._potential(params).forces(Periodic(box), positions, AllPairs())
        return self._measured(positions, forces, box, params)

    def advance(
        self, key: jax.Array, state: PackingCompressState, action: jax.Array, params: PackingCompressParams
    ) -> Transition[PackingCompressState]:
        fraction = self._fraction(state.box, params) * jnp.exp(params.strain * action[0])
        box = self._side(jnp.clip(fraction, params.loosest, params.densest), params)
        kick = 0.5 * params.kick * (1.0 + action[1])
        positions = box / state.box * state.positions + kick * jax.random.normal(key, state.positions.shape)
        space, potential, minimizer = Periodic(box), self._potential(params), FIRE(dt=params.fire_dt)
        relaxing = minimizer.init(potential, space, positions)
        relaxing, _ = rollout(functools.partial(minimizer.step, potential), relaxing, self.relaxation_steps)
        now = self._measured(space.wrap(relaxing.positions), relaxing.forces, box, params)
        metrics = {
            "pressure": now.pressure,
            "packing_fraction": self._fraction(box, params),
            "contact_number": now.contacts,
            "energy": now.energy,
            "residual": now.residual,
            "distance": self._distance(now.pressure, box, params),
        }
        return Transition(now, now.quality - state.quality, jnp.asarray(False), metrics)

    def observe(self, state: PackingCompressState, params: PackingCompressParams) -> jax.Array:
        numbers = [
            state.time / params.max_steps,
            _scaled_pressure(state.pressure, params),
            (self._fraction(state.box, params) - params.target_fraction) / params.fraction_scale,
            state.contacts / (2 * self.dimension) - 1.0,
            _decades(state.energy),
            _decades(state.residual),
        ]
        return jnp.clip(jnp.stack(numbers), -1.0, 1.0)

    # --- physics --------------------------------------------------------------------------------------------------

    @property
    def _pool(self) -> tuple[int, int, float, float]:
        """What the pool of starts depends on."""
        return self.particles, self.dimension, 1.4, 0.93 * _JAMMING[self.dimension]

    def _potential(self, params: PackingCompressParams) -> PairPotential:
        return discs(halves(self.particles, params.ratio), params.alpha)

    def _solid(self, params: PackingCompressParams) -> jax.Array:
        return solid_volume(halves(self.particles, params.ratio), self.dimension)

    def _side(self, fraction: jax.Array, params: PackingCompressParams) -> jax.Array:
        return (self._solid(params) / fraction) ** (1 / self.dimension)

    def _fraction(self, box: jax.Array, params: PackingCompressParams) -> jax.Array:
        return self._solid(params) / box**self.dimension

    def _measured(
        self,
        positions: jax.Array,
        forces: jax.Array,
        box: jax.Array,
        params: PackingCompressParams,
    ) -> PackingCompressState:
        """The state of a packing with these forces."""
        potential, space = self._potential(params), Periodic(box)
        found = measured(potential, space, positions, forces)
        overflow = too_long(potential, space, self.dimension)
        quality = -(
            params.target_weight * self._distance(found.pressure, box, params)
            + params.residual_weight * found.residual / (found.residual + params.target_pressure)
            + params.contact_weight * jnp.abs(found.contacts / (2 * self.dimension) - 1.0)
            + params.energy_weight * found.energy / (found.energy + params.energy_scale)
        )
        return PackingCompressState(overflow=overflow, positions=positions, box=box, quality=quality, **found._asdict())

    def _distance(self, pressure: jax.Array, box: jax.Array, params: PackingCompressParams) -> jax.Array:
        if self.target == "packing_fraction":
            return jnp.abs(self._fraction(box, params) - params.target_fraction) / params.fraction_scale
        return jnp.abs(_scaled_pressure(pressure, params))

    # --- policies and picture -------------------------------------------------------------------------------------

    def baselines(self, params: PackingCompressParams | None = None) -> dict[str, Baseline]:
        """Policies for either target; without agitation, but for `anneal`.

        `constant`: the rate that leads from the start to phi* at the end of the episode. `feedback`: as fast as it goes
        to somewhat below phi*, then by what is missing: `(p* - p) / B` with a modulus B of 0.3, or `ln(phi* / phi)`.
        `anneal` (for a packing fraction): the same with agitation, until the energy is as low as it rarely gets or, as
        time passes, as low as it gets more often.
        """
        params = self.default_params if params is None else params
        still = -1.0

        def to_fraction(observation: jax.Array) -> jax.Array:
            """The relative change of the packing fraction that leads to phi*."""
            return -jnp.log1p(params.fraction_scale / params.target_fraction * observation[2])

        def constant(key: jax.Array, observation: jax.Array) -> jax.Array:
            steps = jnp.maximum(params.max_steps * (1.0 - observation[0]), 1.0)  # left
            rate = to_fraction(observation) / steps / params.strain
            return jnp.stack([jnp.clip(rate, -1.0, 1.0), jnp.asarray(still)])

        def missing(observation: jax.Array) -> jax.Array:
            """The relative change of the packing fraction that leads to the target."""
            if self.target == "packing_fraction":
                return to_fraction(observation)
            target, floor = params.target_pressure, params.pressure_floor
            pressure = floor * ((target + floor) / floor) ** (1.0 + observation[1]) - floor
            return jnp.where(observation[2] < -0.1, jnp.inf, (target - pressure) / _MODULUS)

        def feedback(key: jax.Array, observation: jax.Array) -> jax.Array:
            return jnp.stack([jnp.clip(missing(observation) / params.strain, -1.0, 1.0), jnp.asarray(still)])

        def anneal(key: jax.Array, observation: jax.Array) -> jax.Array:
            energy = 10.0 ** (4.0 * (observation[4] - 1.0))
            enough = energy < params.energy_scale * (0.5 + 0.6 * observation[0])
            rest = (observation[0] > 0.9) | (enough & (jnp.abs(observation[2]) < 1e-3))
            return feedback(key, observation).at[1].set(jnp.where(rest, still, 1.0))

        found: dict[str, Baseline] = {"constant": constant, "feedback": feedback}
        return found | ({"anneal": anneal} if self.target == "packing_fraction" else {})

    def render(self, state: PackingCompressState, params: PackingCompressParams | None = None) -> np.ndarray:
        """The discs coloured by contact number, contact forces as lines, in the frame of the box; 640 x 640."""
        params = self.default_params if params is None else params
        fraction = float(self._fraction(state.box, params))
        caption = f"phi {fraction:.3f}   p {abs(float(state.pressure)):.1e}   z {float(state.contacts):.2f}"
        view = 1.12 * max(float(self._side(params.start_min, params)), float(state.box))
        caption = f"{caption}   step {int(state.time)}"
        return picture(self._potential(params), Periodic(state.box), state.positions, view=view, caption=caption)


# packing fractions over that of jamming
_SHARES = {"target_fraction": 1.0, "start_min": 0.78, "start_max": 0.88, "loosest": 0.6, "densest": 1.3}

_MODULUS = 0.3  # dp / d ln(phi) of a harmonic packing in 2-D near jamming, about


def _scaled_pressure(pressure: jax.Array, params: PackingCompressParams) -> jax.Array:
    """A logarithmic scale: -1 without pressure, 0 at the target."""
    target, floor = params.target_pressure, params.pressure_floor
    return jnp.log((pressure + floor) / (target + floor)) / jnp.log((target + floor) / floor)


def _decades(x: jax.Array) -> jax.Array:
    """A logarithmic scale: -1 without, 1 at 1; 1e-8 counts as none."""
    return jnp.log10(x + 1e-8) / 4.0 + 1.0
