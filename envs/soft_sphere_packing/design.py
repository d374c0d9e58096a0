"""Soft sphere packing, task `design`: choose the diameters of discs so that their packing has a wanted property.

The start is a packing of soft discs (see `packing.py`) in a box of one unit of volume a particle. The action
says their diameters up to a common factor, which follows from the packing fraction. From the start the packing is
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
from typing import Literal, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.differentiation import implicit
from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, Params, State, Transition, parameter
from dmdenv.envs.soft_sphere_packing.packing import (
    PackingEnv,
    check_order,
    discs,
    equivalent,
    halves,
    picture,
    relaxed_starts,
    solid_volume,
    too_long,
)
from dmdenv.minimizers import FIRE, minimize
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PairPotential
from dmdenv.quantities import elasticity, pressure
from dmdenv.space import Periodic

Target = Literal["energy", "pressure", "shear_modulus", "poisson_ratio"]
Diameters = Literal["populations", "each"]


class PackingDesignParams(Params):
    """Units: epsilon of the potential, and the volume of the box a particle."""

    max_steps: jax.Array = parameter(default=8, unit="steps", doc="attempts in an episode", low=1)
    target_min: jax.Array = parameter(default=0.0, unit="of the property", doc="least target")
    target_max: jax.Array = parameter(default=1.0, unit="of the property", doc="greatest target")
    target_scale: jax.Array = parameter(
        default=1.0, unit="of the property", doc="of distances, in observation and reward", low=1e-12
    )
    fraction_min: jax.Array = parameter(default=0.94, unit="1", doc="least packing fraction", low=0.01, high=2.0)
    fraction_max: jax.Array = parameter(default=0.96, unit="1", doc="greatest packing fraction", low=0.01, high=2.0)
    fraction_scale: jax.Array = parameter(default=0.02, unit="1", doc="of packing fractions, observed", low=1e-6)
    diameter_min: jax.Array = parameter(
        default=0.4, unit="1", doc="least diameter, in units of the fixed one", low=0.01, high=100.0
    )
    diameter_max: jax.Array = parameter(
        default=1.0, unit="1", doc="greatest diameter, in units of the fixed one", low=0.01, high=100.0
    )
    alpha: jax.Array = parameter(
        default=2.0, unit="1", doc="exponent of the potential: 2 harmonic, 5/2 Hertzian", low=1.5, high=10.0
    )
    force_tolerance: jax.Array = parameter(
        default=1e-5, unit="energy / length", doc="largest force in a minimum", low=0.0
    )
    fire_dt: jax.Array = parameter(
        default=0.1, unit="length / energy^(1/2)", doc="first time step of FIRE", low=1e-6, high=1.0
    )


class PackingDesignState(State):
    """A start, what is wanted, and the last attempt."""

    start: jax.Array  # [n, d], where every minimisation begins, unit length
    fraction: jax.Array  # float [], packing fraction, also of every attempt
    target: jax.Array  # float [], unit of the property
    action: jax.Array  # [m], the last one, in [-1, 1]; 0 before the first
    positions: jax.Array  # [n, d], the last packing, unit length; the start before the first
    property: jax.Array  # float [], of the last packing; before the first that of the start, at the middle fraction


@dataclasses.dataclass(frozen=True)
class PackingDesign(PackingEnv[PackingDesignState, PackingDesignParams]):
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
    as it is, and its gradient that at fixed places; so it is where the response of the places could not be solved for
    in single precision.

    Args:
        particles: number n of particles.
        dimension: 2 or 3.
        target: the property A: "energy" (a particle), "pressure", "shear_modulus" or "poisson_ratio".
        diameters: "populations": of half of the particles; "each": of every one.
        relaxation_steps: of FIRE, at most, in an attempt.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    particles: int = 32
    dimension: int = 2
    target: Target = "energy"
    diameters: Diameters = "populations"
    relaxation_steps: int = 2000

    def __post_init__(self):
        self._check(target=get_args(Target), diameters=get_args(Diameters))

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> PackingDesignParams:
        """The task's parameters, with targets among what random diameters give."""
        least, greatest = _TARGETS[self.dimension, self.diameters, self.target]
        middle = _FRACTION[self.dimension]
        return PackingDesignParams().replace(
            target_min=least,
            target_max=greatest,
            target_scale=greatest - least,
            fraction_min=middle - 0.01,
            fraction_max=middle + 0.01,
            diameter_min=0.4 if self.diameters == "populations" else 0.7,
        )

    def validate(self, params: PackingDesignParams) -> None:
        for name in ("target", "fraction", "diameter"):
            check_order(params, f"{name}_min", f"{name}_max")
        with jax.ensure_compile_time_eval():
            longest = max(float(jnp.max(self.sizes(a, params.fraction_max, params))) for a in self._extremes())
        if longest > self._side / 2:
            raise ValueError(
                f"diameters up to {longest:g} in a box of {self._side:g}; valid: up to half of it: more particles,"
                " diameter_min and diameter_max nearer to each other, or a lower fraction_max"
            )

    def observation_space(self, params: PackingDesignParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (4 + self._choices,), np.float32)

    def action_space(self, params: PackingDesignParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self._choices,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        super().prepare()
        pool.prepare(_starts, self)

    def initial_state(self, key: jax.Array, params: PackingDesignParams) -> PackingDesignState:
        """A packing from a pool, minimised at the middle diameters, moved and reflected at random; a random target."""
        pool_key, copy_key, draw_key = jax.random.split(key, 3)
        places, known = pool.draw(pool_key, _starts, self)
        share = jax.random.uniform(draw_key, (2,))
        start = self._side * equivalent(copy_key, places)
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
        potential = discs(self.sizes(action, state.fraction, params), params.alpha)
        positions, converged = self.packed(potential, state.start, params)
        found, known = self.property_of(potential, positions)
        distance = jnp.abs(found - state.target) / params.target_scale
        overflow = state.overflow | too_long(potential, self._space, self.dimension)
        moved = dataclasses.replace(state, overflow=overflow, action=action, positions=positions, property=found)
        metrics = {"property": found, "distance": distance, "converged": converged & known}
        reward = -distance / (1.0 + distance) / params.max_steps
        return Transition(moved, reward, jnp.asarray(False), metrics)

    def observe(self, state: PackingDesignState, params: PackingDesignParams) -> jax.Array:
        middle = 0.5 * (params.target_min + params.target_max)
        numbers = [
            state.time / params.max_steps,
            (state.target - middle) / params.target_scale,
            (state.property - middle) / params.target_scale,
            (state.fraction - 0.5 * (params.fraction_min + params.fraction_max)) / params.fraction_scale,
        ]
        return jnp.clip(jnp.concatenate([jnp.stack(numbers), state.action]), -1.0, 1.0)

    # --- physics --------------------------------------------------------------------------------------------------

    def sizes(self, action: jax.Array, fraction: jax.Array, params: PackingDesignParams) -> jax.Array:
        """The diameters `[n]`, unit length, that an action `[m]` means at a packing fraction."""
        low, high = params.diameter_min, params.diameter_max
        chosen = low + 0.5 * (1.0 + action) * (high - low)
        relative = halves(self.particles, chosen[0]) if self.diameters == "populations" else chosen
        volume = fraction * self._side**self.dimension
        return relative * (volume / solid_volume(relative, self.dimension)) ** (1 / self.dimension)

    def packed(
        self, potential: PairPotential, start: jax.Array, params: PackingDesignParams
    ) -> tuple[jax.Array, jax.Array]:
        """The minimum that FIRE finds from a start, `[n, d]`, as a function of the potential; whether it is one."""
        space = self._space
        fixed, start, params = jax.lax.stop_gradient((potential, start, params))
        minimizer = FIRE(dt=params.fire_dt)
        state = minimizer.init(fixed, space, start)
        found = minimize(minimizer, fixed, state, tolerance=params.force_tolerance, max_steps=self.relaxation_steps)
        x = found.state.positions
        minimum = implicit.minimum(lambda x: potential.energy(space, x, AllPairs()), x, unsolved="frozen")
        return jnp.where(found.converged, minimum, x), found.converged

    def property_of(self, potential: PairPotential, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The property A of a packing at rest, `[]`, and whether the linear systems behind it have been solved."""
        space, pairs = self._space, AllPairs()
        if self.target == "energy":
            return potential.energy(space, positions, pairs) / self.particles, jnp.asarray(True)
        if self.target == "pressure":
            return pressure(potential, space, positions, pairs), jnp.asarray(True)
        tolerance = float(jnp.finfo(positions.dtype).eps) ** (2 / 3)
        moduli = elasticity(potential, space, positions, pairs, tolerance=tolerance)
        value = moduli.shear_modulus if self.target == "shear_modulus" else moduli.poisson_ratio
        return value, moduli.residual <= 10.0 * tolerance

    # --- policies and picture -------------------------------------------------------------------------------------

    def baselines(self, params: PackingDesignParams | None = None) -> dict[str, Baseline]:
        """`random_search`: draw until an attempt is near the target (ever less near as time passes), then repeat it.

        `feedback`, for energy and pressure, which fall as diameters become more different: change the difference in
        proportion to the last distance. `gradient`, for two populations in 2-D: the same, but for the first attempt,
        which is a linear function of the observation that gradient ascent of the reward has found (see the page).
        """

        def random_search(key: jax.Array, observation: jax.Array) -> jax.Array:
            near = jnp.abs(observation[1] - observation[2]) < 0.1 + 0.3 * observation[0]
            fresh = jax.random.uniform(key, (self._choices,), minval=-1.0, maxval=1.0)
            return jnp.where(near, observation[4:], fresh)

        def feedback(key: jax.Array, observation: jax.Array) -> jax.Array:
            missing = observation[1] - observation[2]
            if self.diameters == "populations":
                return jnp.clip(observation[4:] + 0.5 * missing, -1.0, 1.0)
            # half of the particles large, half small
            pattern = halves(self.particles, -1.0)
            return jnp.clip(jnp.vdot(pattern, observation[4:]) / self.particles - missing, 0.0, 1.0) * pattern

        def gradient(key: jax.Array, observation: jax.Array) -> jax.Array:
            weights = jnp.asarray(_FIRST[self.dimension, self.diameters, self.target])
            first = jnp.clip(weights[:1] + jnp.sum(weights[1:] * observation[1:4], keepdims=True), -1.0, 1.0)
            return jnp.where(observation[0] > 0, feedback(key, observation), first)

        found: dict[str, Baseline] = {"random_search": random_search}
        if self.target in ("energy", "pressure"):
            found["feedback"] = feedback
        if (self.dimension, self.diameters, self.target) in _FIRST:
            found["gradient"] = gradient
        return found

    def render(self, state: PackingDesignState, params: PackingDesignParams | None = None) -> np.ndarray:
        """The last packing: discs coloured by contact number, contact forces as lines; 640 x 640."""
        params = self.default_params if params is None else params
        potential = discs(self.sizes(state.action, state.fraction, params), params.alpha)
        name = self.target.replace("_", " ")
        caption = f"{name} {float(state.property):.3g}, wanted {float(state.target):.3g}   attempt {int(state.time)}"
        return picture(potential, self._space, state.positions, view=1.15 * self._side, caption=caption)

    @property
    def _choices(self) -> int:
        return 1 if self.diameters == "populations" else self.particles

    @property
    def _side(self) -> float:
        return self.particles ** (1 / self.dimension)

    @property
    def _space(self) -> Periodic:
        return Periodic(jnp.asarray(self._side))

    def _extremes(self) -> list[jax.Array]:
        """Actions of which one makes the longest diameter."""
        if self.diameters == "populations":
            return [jnp.full(1, -1.0), jnp.full(1, 1.0)]
        return [jnp.full(self.particles, -1.0).at[0].set(1.0)]  # one large among small ones


_FRACTION = {2: 0.95, 3: 0.72}  # packing fraction, the middle

# (dimension, diameters, target): the least and the greatest target
_TARGETS: dict[tuple[int, str, str], tuple[float, float]] = {
    (2, "populations", "energy"): (0.0024, 0.0034),
    (2, "populations", "pressure"): (0.042, 0.057),
    (2, "populations", "shear_modulus"): (0.05, 0.15),
    (2, "populations", "poisson_ratio"): (0.55, 0.8),
    (2, "each", "energy"): (0.0028, 0.0036),
    (2, "each", "pressure"): (0.049, 0.058),
    (2, "each", "shear_modulus"): (0.08, 0.17),
    (2, "each", "poisson_ratio"): (0.55, 0.75),
    (3, "populations", "energy"): (0.001, 0.0024),
    (3, "populations", "pressure"): (0.019, 0.038),
    (3, "populations", "shear_modulus"): (0.03, 0.1),
    (3, "populations", "poisson_ratio"): (0.37, 0.45),
    (3, "each", "energy"): (0.0015, 0.0025),
    (3, "each", "pressure"): (0.029, 0.037),
    (3, "each", "shear_modulus"): (0.05, 0.12),
    (3, "each", "poisson_ratio"): (0.34, 0.42),
}

# the same: the first action as a linear function of 1 and of what is observed of target, property and packing fraction
_FIRST: dict[tuple[int, str, str], tuple[float, ...]] = {
    (2, "populations", "energy"): (0.02, 0.81, -0.37, -0.88),
    (2, "populations", "pressure"): (0.03, 1.41, -0.45, -0.88),
}


def _starts(env: PackingDesign) -> tuple[jax.Array, jax.Array]:
    """A pool: packings at the middle diameters, `[POOL, n, d]` in units of the box, and their property, `[POOL]`."""
    params, fraction = env.default_params, _FRACTION[env.dimension]
    ratio = 0.5 * float(params.diameter_min + params.diameter_max) if env.diameters == "populations" else 1.0
    places = relaxed_starts(env.particles, env.dimension, ratio, fraction)
    potential = discs(env.sizes(jnp.zeros(env._choices), jnp.asarray(fraction), params), params.alpha)
    known = jax.jit(jax.vmap(lambda x: env.property_of(potential, env._side * x)[0]))(places)
    return places, known
