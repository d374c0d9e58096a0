"""Soft sphere packing, task `design`: choose the diameters of discs so that their packing has a wanted property.

The start is a packing of soft discs (see `packing.py`) in a box of one unit of volume per particle. The action
chooses their diameters up to a common factor, which follows from the packing fraction. From the start the packing is
minimised anew, x*(D) = argmin U(x; D), and a property A(x*(D), D) evaluated: energy, pressure, shear modulus or
Poisson's ratio

    nu = (d K - 2 G) / (d (d - 1) K + 2 G).

The minimisation is not differentiated. Its result is an implicit function of the diameters (`dmdenv.differentiation`),

    dA/dD = dA/dD|_x - (dA/dx) H^+ (d grad U / dD),    H = d^2 U / dx^2,

and so is the reward: exact as long as the packing does not rearrange.

References: Schoenholz and Cubuk, NeurIPS 2020, section on meta-optimisation, for the discs; Goodrich, King, Schoenholz,
Cubuk and Brenner, PNAS 118, e2024083118 (2021), for design by derivatives.
"""

import dataclasses
from typing import Self, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, choice, whole
from dmdenv.differentiation import implicit
from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, CapacityExceeded, Env, State, Transition, derived
from dmdenv.envs.soft_sphere_packing.baselines import design_policies
from dmdenv.envs.soft_sphere_packing.diameters import (
    Diameters,
    choose_diameters,
    count_choices,
    extreme_actions,
    side_of_box,
)
from dmdenv.envs.soft_sphere_packing.packing import TOO_LARGE, all_pairs, discs
from dmdenv.envs.soft_sphere_packing.parameters import PackingDesignParams, check_order, design_params
from dmdenv.envs.soft_sphere_packing.properties import Property, measure_property
from dmdenv.envs.soft_sphere_packing.starts import apply_random_symmetry, compressed_packings
from dmdenv.minimizers import FIRE, minimize
from dmdenv.potentials import PairPotential
from dmdenv.space import Periodic


class PackingDesignState(State):
    """A start, what is wanted, and the last attempt."""

    start: jax.Array  # [n, d], where every minimisation begins, unit length
    fraction: jax.Array  # float [], packing fraction, also of every attempt
    target: jax.Array  # float [], unit of the property
    action: jax.Array  # [m], the last one, in [-1, 1]; 0 before the first
    positions: jax.Array  # [n, d], the last packing, unit length; the start before the first
    # float [], of the last packing; before the first that of the start, at the middle fraction
    property: jax.Array = derived(
        "positions", "action", by="dmdenv.envs.soft_sphere_packing.properties.measure_property"
    )


@dataclasses.dataclass(frozen=True)
class PackingDesign(Env[PackingDesignState, PackingDesignParams]):
    """Attempts to give a packing of discs a wanted property by their diameters.

    An episode is a number of attempts on one instance, all from the same start: the last one does not change what the
    next one finds. With `max_steps=1` there is one.

    Observation `[4 + m]`, in [-1, 1]: the share of the time that is over; the target, and the property of the last
    packing, as distances from the middle of the targets over `target_scale`; the packing fraction, as a distance from
    its middle over `fraction_scale`; the last action. Before the first attempt the packing is the start, with its
    property at the packing fraction at which it was prepared, and the action 0.

    Action `[m]`: diameters from `diameter_min` to `diameter_max`, of half of the particles (m = 1; the others have
    1) or of each (m = n). All are then multiplied by a common factor, so that the packing fraction is that of the
    instance.

    Reward: `-D / (1 + D) / max_steps` with the distance `D = |A - target| / target_scale`. The sum over an episode is
    between -1 and 0.

    An episode terminates after `max_steps`.

    Metrics in `info`: `property` (A), `distance` (D), `converged`: whether the packing is a minimum to the tolerance,
    and its moduli, where they are asked for, are solved for. Where it is no minimum, the reward is that of the packing
    as it is, and its gradient that at fixed positions; so it is where the response of the positions could not be solved
    for in single precision.

    Args:
        particles: number n of particles.
        dimension: 2 or 3.
        target: the property A: "energy" (per particle), "pressure", "shear_modulus" or "poisson_ratio".
        diameters: "populations": of half of the particles; "each": of every one.
        relaxation_steps: of FIRE, at most, in an attempt.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    particles: int = whole(32, at_least=4, at_most=MOST_PARTICLES)
    dimension: int = choice(2, of=(2, 3))
    target: Property = choice("energy", of=get_args(Property))
    diameters: Diameters = choice("populations", of=get_args(Diameters))
    relaxation_steps: int = whole(2000, at_least=1, at_most=10**9)

    finite_horizon = True

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> PackingDesignParams:
        return design_params(self.dimension, self.diameters, self.target)

    def validate(self, params: PackingDesignParams) -> None:
        for name in ("target", "fraction", "diameter"):
            check_order(params, f"{name}_min", f"{name}_max")
        with jax.ensure_compile_time_eval():
            extremes = extreme_actions(self.diameters, self.particles)
            longest = max(float(jnp.max(self.choose_diameters(a, params.fraction_max, params))) for a in extremes)
        if longest > self._side / 2:
            raise ValueError(
                f"diameters up to {longest:g} in a box of {self._side:g}; must be <= half of it: take more particles,"
                " diameter_min and diameter_max closer to each other, or a lower fraction_max"
            )

    def enlarged(self) -> Self:
        raise CapacityExceeded(TOO_LARGE)

    def observation_space(self, params: PackingDesignParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (4 + self._choices,), np.float32)

    def action_space(self, params: PackingDesignParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self._choices,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        pool.prepare(compressed_packings, *self._pool)

    def initial_state(self, key: jax.Array, params: PackingDesignParams) -> PackingDesignState:
        """A random symmetric copy of a packing from a pool, minimised at the middle diameters; a random target."""
        pool_key, copy_key, draw_key = jax.random.split(key, 3)
        positions, known = pool.draw(pool_key, compressed_packings, *self._pool)
        share = jax.random.uniform(draw_key, (2,))
        start = self._side * apply_random_symmetry(copy_key, positions)
        return PackingDesignState(
            start=start,
            fraction=params.fraction_min + share[0] * (params.fraction_max - params.fraction_min),
            target=params.target_min + share[1] * (params.target_max - params.target_min),
            action=jnp.zeros(self._choices),
            positions=start,
            property=known,
        )

    def advance(
        self, key: jax.Array, state: PackingDesignState, action: jax.Array, params: PackingDesignParams
    ) -> Transition[PackingDesignState]:
        potential = discs(self.choose_diameters(action, state.fraction, params), params.alpha)
        positions, converged = self.minimize(potential, state.start, params)
        found, solved = measure_property(self.target, potential, self._space, positions)
        distance = jnp.abs(found - state.target) / params.target_scale
        overflow = all_pairs(potential, self._space, self.dimension).incomplete
        state = state.replace(overflow=overflow, action=action, positions=positions, property=found)
        metrics = {"property": found, "distance": distance, "converged": converged & solved}
        reward = -distance / (1.0 + distance) / params.max_steps
        return Transition(state, reward, metrics=metrics)

    def observe(self, state: PackingDesignState, params: PackingDesignParams) -> jax.Array:
        middle = 0.5 * (params.target_min + params.target_max)
        parts = [
            state.time / params.max_steps,
            (state.target - middle) / params.target_scale,
            (state.property - middle) / params.target_scale,
            (state.fraction - 0.5 * (params.fraction_min + params.fraction_max)) / params.fraction_scale,
        ]
        return jnp.clip(jnp.concatenate([jnp.stack(parts), state.action]), -1.0, 1.0)

    # --- physics --------------------------------------------------------------------------------------------------

    def choose_diameters(self, action: jax.Array, fraction: jax.Array, params: PackingDesignParams) -> jax.Array:
        """The diameters `[n]`, unit length, that an action `[m]` means at a packing fraction."""
        return choose_diameters(
            action, fraction, params, diameters=self.diameters, particles=self.particles, dimension=self.dimension
        )

    def minimize(
        self, potential: PairPotential, start: jax.Array, params: PackingDesignParams
    ) -> tuple[jax.Array, jax.Array]:
        """The minimum that FIRE finds from a start, `[n, d]`, as a function of the potential; whether it is one."""
        space = self._space
        fixed, start, params = jax.lax.stop_gradient((potential, start, params))
        minimizer = FIRE(dt=params.fire_dt)
        state = minimizer.init(fixed, space, start)
        found = minimize(minimizer, fixed, state, tolerance=params.force_tolerance, max_steps=self.relaxation_steps)
        x = found.state.positions
        pairs = all_pairs(potential, space, self.dimension)
        minimum = implicit.minimum(lambda x: potential.energy(space, x, pairs), x, unsolved="frozen")
        return jnp.where(found.converged, minimum, x), found.converged

    @property
    def _pool(self) -> tuple[int, int, Diameters, Property]:
        """What the pool of starts depends on."""
        return self.particles, self.dimension, self.diameters, self.target

    @property
    def _choices(self) -> int:
        return count_choices(self.diameters, self.particles)

    @property
    def _side(self) -> float:
        return side_of_box(self.particles, self.dimension)

    @property
    def _space(self) -> Periodic:
        return Periodic(jnp.asarray(self._side))

    # --- policies and picture -------------------------------------------------------------------------------------

    def baselines(self, params: PackingDesignParams | None = None) -> dict[str, Baseline]:
        """`random_search`: draw until an attempt is near the target (ever less near as time passes), then repeat it.

        `feedback`, for energy and pressure, which fall as diameters become more different: change the difference in
        proportion to the last distance. `gradient`, for two populations in 2-D: the same, but for the first attempt,
        which is a linear function of the observation that gradient ascent of the reward has found
        (docs/soft_sphere_packing.md).
        """
        return design_policies(self.particles, self.dimension, self.diameters, self.target)

    def render(self, state: PackingDesignState, params: PackingDesignParams | None = None) -> np.ndarray:
        """The last packing: discs coloured by contact number, contact forces as lines; 640 x 640."""
        from dmdenv.envs.soft_sphere_packing.drawing import draw_packing

        params = self.default_params if params is None else params
        potential = discs(self.choose_diameters(state.action, state.fraction, params), params.alpha)
        name = self.target.replace("_", " ")
        caption = f"{name} {float(state.property):.3g}, wanted {float(state.target):.3g}   attempt {int(state.time)}"
        return draw_packing(potential, self._space, state.positions, view=1.15 * self._side, caption=caption)
