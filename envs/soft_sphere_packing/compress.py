"""Soft sphere packing, task `compress`: jam athermal discs at a pressure by compression and agitation.

Frictionless soft discs of two sizes (see `packing.py`) start loose, without contacts. A step changes the box and with
it all positions, kicks every particle, and relaxes the packing by a fixed number of steps of FIRE,

    phi <- phi exp(strain a_0),    r <- r L' / L + kick (1 + a_1) / 2 * xi,    r <- FIRE(r),

with standard normal xi. Below a packing fraction of about 0.84 (0.64 in 3-D) every overlap can be relaxed and the
pressure is zero; above it the packing jams, at 2 d contacts per particle, and the pressure rises in proportion to
phi - phi_J. Where that happens depends on the packing and on its history: agitation helps to settle.

References: O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), sections III and IV; for the protocol
Chaudhuri, Berthier and Sastry, Phys. Rev. Lett. 104, 165701 (2010).
"""

import dataclasses
import functools
import itertools
from typing import Literal, Self, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, choice, whole
from dmdenv.differentiation import rollout
from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, CapacityExceeded, Env, State, Transition, derived
from dmdenv.envs.soft_sphere_packing.baselines import compress_policies
from dmdenv.envs.soft_sphere_packing.packing import (
    TOO_LARGE,
    all_pairs,
    bidisperse,
    discs,
    measure,
    solid_volume,
)
from dmdenv.envs.soft_sphere_packing.parameters import PackingCompressParams, check_order, compress_params
from dmdenv.envs.soft_sphere_packing.starts import apply_random_symmetry, loose_packings
from dmdenv.minimizers import FIRE
from dmdenv.potentials import PairPotential
from dmdenv.space import Periodic

Target = Literal["pressure", "packing_fraction"]
_PLACE = "env.place(positions, box, params)"


class PackingCompressState(State):
    """A packing, and what was measured of it.

    Its forces are not kept: the next step moves every particle before it evaluates any.
    """

    positions: jax.Array = derived("box", by=_PLACE)  # [n, d], unit length, in the box
    box: jax.Array  # float [], L, unit length
    energy: jax.Array = derived("positions", "box", by=_PLACE)  # float [], per particle, unit energy
    pressure: jax.Array = derived("positions", "box", by=_PLACE)  # float [], unit energy / length^d
    residual: jax.Array = derived("positions", "box", by=_PLACE)  # float [], the largest force, unit energy / length
    contacts: jax.Array = derived("positions", "box", by=_PLACE)  # float [], per particle, rattlers excluded
    quality: jax.Array = derived("positions", "box", by=_PLACE)  # float [], Q, of which the reward is the gain


@dataclasses.dataclass(frozen=True)
class PackingCompress(Env[PackingCompressState, PackingCompressParams]):
    """Athermal soft discs that are compressed, agitated and relaxed.

    Observation `[6]`, in [-1, 1]: the share of the time that is over; the pressure on a logarithmic scale,
    -1 for none, 0 at the target; (phi - phi*) / fraction_scale; z / 2 d - 1; the energy per particle, on a logarithmic
    scale from 1e-8 to 1; the largest force, on one from 1e-8 to 1.

    Action `[2]`: rate of compression (below 0: of expansion), and agitation (-1: none).

    Reward: the gain in the quality `Q = -(target_weight D + residual_weight R + contact_weight Z + energy_weight E)`,

        D = |ln((p + p0) / (p* + p0))| / ln((p* + p0) / p0)    or    |phi - phi*| / fraction_scale,
        R = f / (f + p*),    Z = |z / 2 d - 1|,    E = e / (e + e*),

    with f the largest force on a particle (p* times a diameter is the force of a contact). The sum over an episode is
    the gain in quality of the packing: from a start without contacts at most `target_weight + contact_weight`.

    An episode terminates after `max_steps`: the time is a part of the task.

    Metrics in `info`: `pressure`, `packing_fraction`, `contact_number`, `energy`, `residual`, `distance` (D).

    The quality before a step is that measured after the step before it. Parameters that change between two steps, such
    as weights, act from the step's end on, so that the first reward holds the change of the quality by that, too.

    Args:
        particles: number n of particles, half of them large.
        dimension: 2 or 3.
        target: "pressure", or "packing_fraction", reached with the least energy.
        relaxation_steps: steps of FIRE per step.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    particles: int = whole(64, at_least=4, at_most=MOST_PARTICLES)
    dimension: int = choice(2, of=(2, 3))
    target: Target = choice("pressure", of=get_args(Target))
    relaxation_steps: int = whole(64, at_least=1, at_most=10**9)

    finite_horizon = True

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> PackingCompressParams:
        return compress_params(self.dimension, self.target)

    def validate(self, params: PackingCompressParams) -> None:
        for low, high in itertools.pairwise(("loosest", "start_min", "start_max", "densest")):
            check_order(params, low, high)
        with jax.ensure_compile_time_eval():
            longest, side = max(1.0, float(params.ratio)), float(self._side(params.densest, params))
        if longest > side / 2:
            raise ValueError(
                f"diameters up to {longest:g} in a box of {side:g} where it is densest; must be <= half of it: take"
                " more particles, or a lower `densest`"
            )

    def enlarged(self) -> Self:
        raise CapacityExceeded(TOO_LARGE)

    def observation_space(self, params: PackingCompressParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def action_space(self, params: PackingCompressParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        pool.prepare(loose_packings, self.particles, self.dimension)

    def initial_state(self, key: jax.Array, params: PackingCompressParams) -> PackingCompressState:
        """A random symmetric copy of a relaxed loose packing from a pool, at a random packing fraction."""
        pool_key, copy_key, fraction_key = jax.random.split(key, 3)
        positions = pool.draw(pool_key, loose_packings, self.particles, self.dimension)
        share = jax.random.uniform(fraction_key)
        box = self._side(params.start_min + share * (params.start_max - params.start_min), params)
        positions = box * apply_random_symmetry(copy_key, positions)
        return self.place(positions, box, params)

    def place(self, positions: jax.Array, box: jax.Array, params: PackingCompressParams) -> PackingCompressState:
        """The start of an episode with particles at these positions, `[n, d]`, in a box of side `[]`, unit length."""
        potential, space = self._potential(params), Periodic(box)
        forces = potential.forces(space, positions, all_pairs(potential, space, self.dimension))
        return self._measured_state(positions, forces, box, params)

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
        after = self._measured_state(space.wrap(relaxing.positions), relaxing.forces, box, params)
        metrics = {
            "pressure": after.pressure,
            "packing_fraction": self._fraction(box, params),
            "contact_number": after.contacts,
            "energy": after.energy,
            "residual": after.residual,
            "distance": self._distance(after.pressure, box, params),
        }
        return Transition(after, after.quality - state.quality, metrics=metrics)

    def observe(self, state: PackingCompressState, params: PackingCompressParams) -> jax.Array:
        parts = [
            state.time / params.max_steps,
            _scale_pressure(state.pressure, params),
            (self._fraction(state.box, params) - params.target_fraction) / params.fraction_scale,
            state.contacts / (2 * self.dimension) - 1.0,
            _scale_decades(state.energy),
            _scale_decades(state.residual),
        ]
        return jnp.clip(jnp.stack(parts), -1.0, 1.0)

    # --- physics --------------------------------------------------------------------------------------------------

    def _potential(self, params: PackingCompressParams) -> PairPotential:
        return discs(bidisperse(self.particles, params.ratio), params.alpha)

    def _solid(self, params: PackingCompressParams) -> jax.Array:
        return solid_volume(bidisperse(self.particles, params.ratio), self.dimension)

    def _side(self, fraction: jax.Array, params: PackingCompressParams) -> jax.Array:
        return (self._solid(params) / fraction) ** (1 / self.dimension)

    def _fraction(self, box: jax.Array, params: PackingCompressParams) -> jax.Array:
        return self._solid(params) / box**self.dimension

    def _measured_state(
        self, positions: jax.Array, forces: jax.Array, box: jax.Array, params: PackingCompressParams
    ) -> PackingCompressState:
        """The state of a packing with these forces."""
        potential, space = self._potential(params), Periodic(box)
        measured = measure(potential, space, positions, forces)
        overflow = all_pairs(potential, space, self.dimension).incomplete
        quality = -(
            params.target_weight * self._distance(measured.pressure, box, params)
            + params.residual_weight * measured.residual / (measured.residual + params.target_pressure)
            + params.contact_weight * jnp.abs(measured.contacts / (2 * self.dimension) - 1.0)
            + params.energy_weight * measured.energy / (measured.energy + params.energy_scale)
        )
        return PackingCompressState(
            overflow=overflow, positions=positions, box=box, quality=quality, **measured._asdict()
        )

    def _distance(self, pressure: jax.Array, box: jax.Array, params: PackingCompressParams) -> jax.Array:
        if self.target == "packing_fraction":
            return jnp.abs(self._fraction(box, params) - params.target_fraction) / params.fraction_scale
        return jnp.abs(_scale_pressure(pressure, params))

    # --- policies and picture -------------------------------------------------------------------------------------

    def baselines(self, params: PackingCompressParams | None = None) -> dict[str, Baseline]:
        """Policies for either target; without agitation, but for `anneal`.

        `constant`: the rate that leads from the start to phi* at the end of the episode. `feedback`: as fast as
        possible to somewhat below phi*, then by what is missing: `(p* - p) / B` with a modulus B of 0.3, or
        `ln(phi* / phi)`. `anneal` (for a packing fraction): the same with agitation, until the energy is as low as it
        rarely gets or, as time passes, as low as it gets more often.
        """
        return compress_policies(self.default_params if params is None else params, self.target)

    def render(self, state: PackingCompressState, params: PackingCompressParams | None = None) -> np.ndarray:
        """The discs coloured by contact number, contact forces as lines, in the frame of the box; 640 x 640."""
        from dmdenv.envs.soft_sphere_packing.drawing import draw_packing

        params = self.default_params if params is None else params
        fraction = float(self._fraction(state.box, params))
        caption = f"phi {fraction:.3f}   p {abs(float(state.pressure)):.1e}   z {float(state.contacts):.2f}"
        caption = f"{caption}   step {int(state.time)}"
        view = 1.12 * max(float(self._side(params.start_min, params)), float(state.box))
        return draw_packing(self._potential(params), Periodic(state.box), state.positions, view=view, caption=caption)


def _scale_pressure(pressure: jax.Array, params: PackingCompressParams) -> jax.Array:
    """A logarithmic scale: -1 without pressure, 0 at the target."""
    target, floor = params.target_pressure, params.pressure_floor
    return jnp.log((pressure + floor) / (target + floor)) / jnp.log((target + floor) / floor)


def _scale_decades(x: jax.Array) -> jax.Array:
    """A logarithmic scale: -1 at 0, 1 at 1; 1e-8 counts as none."""
    return jnp.log10(x + 1e-8) / 4.0 + 1.0
