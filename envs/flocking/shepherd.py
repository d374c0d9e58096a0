"""Shepherd: a few herders drive many boids into a goal region.

n boids graze on a free plane: they go slowly along their headings. Where herders come close they run, away from them
and towards the other boids. Only the herders know of the goal, a disc around the origin. With u_i the unit vector along
the heading theta_i, the forces F and torques tau of avoidance, cohesion and flight in `dmdenv.envs.flocking.rules` (the
herders take the place of predators), and explicit Euler steps of `dt`:

    r_i     <- r_i + dt ((speed + run_speed A_i) u_i + F_i)
    theta_i <- theta_i + dt tau_i
    x_h     <- x_h + dt herder_speed a_h / max(1, |a_h|)

A_i = 1 - prod_h (1 - p_ih), with p_ih = (1 - d_ih^2 / D^2)^2 inside the flight range D and 0 outside of it, is how
alarmed a boid is by herders at distances d_ih. Like the sheep of Stroembom et al. the boids keep apart, flee, draw
together and have inertia (here: a heading that turns at a finite rate), but all of it is smooth.

References: Stroembom et al., "Solving the shepherding problem: heuristics for herding autonomous, interacting agents",
J. R. Soc. Interface 11, 20140719 (2014); King et al., "Selfish-herd behaviour of sheep under threat", Curr. Biol. 22,
R561 (2012).
"""

import dataclasses
import functools
from typing import Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, choice, real, whole
from dmdenv.envs.base import Baseline, Env, Transition
from dmdenv.envs.flocking import baselines
from dmdenv.envs.flocking.geometry import Poses, angle
from dmdenv.envs.flocking.herders import HerderView, alarm, measure_herd
from dmdenv.envs.flocking.neighbors import flock_neighborhood, longest_range
from dmdenv.envs.flocking.parameters import ShepherdParams, check_order
from dmdenv.envs.flocking.rules import sum_boid_rules, sum_flight_rule
from dmdenv.envs.flocking.starts import grazing_flock, sunflower_positions
from dmdenv.envs.flocking.state import ShepherdState
from dmdenv.envs.neighborhood import Neighborhood, Sample
from dmdenv.space import Free, norm


@dataclasses.dataclass(frozen=True)
class Shepherd(Env[ShepherdState, ShepherdParams]):
    """Herders that drive a flock into a goal region. Task `shepherd`.

    Observation `[h, m]`, one row per herder, in [-1, 1]. What is at the displacement d from the herder shows as
    d / sqrt(d^2 + R^2), in the axes of the plane, with R = `sight`: the goal's centre; the flock's centre of mass; the
    boid farthest from that centre; the flock's spread s (the root mean square distance from the centre) as
    s / sqrt(s^2 + R^2), and G (see below); the `nearest` boids, nearest first; the other herders, in the order of their
    rows.

    Action `[h, 2]`: velocity of each herder, in units of `herder_speed`; longer ones are shortened to length 1.

    Reward: `goal_weight G + gain_weight (d - d') - effort_weight mean(a^2)`, where G is the mean over the boids of
    sigmoid((goal_radius - d_i) / goal_edge), their share in the goal with a smooth edge, and d and d' the mean distance
    from the goal's centre before and after the step; a^2 is a herder's squared length of action.

    Metrics in `info`: `in_goal` (share of boids in the goal), `distance` (d'), `spread`, `collisions` (pairs closer
    than `collision_range`, per boid), `effort`.

    Args:
        boids: number n of boids.
        herders: number h of herders.
        nearest: how many of its nearest boids a herder observes, up to n.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of boids.
        slack: capacity of the neighbour list over what a start needs; `enlarged` doubles it.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    boids: int = whole(32, at_least=2, at_most=MOST_PARTICLES)
    herders: int = whole(2, at_least=1, at_most=MOST_PARTICLES)
    nearest: int = whole(4, at_least=1, at_most=10**9)
    pairs: Literal["auto", "all", "list"] = choice("auto", of=("auto", "all", "list"))
    slack: float = real(4.0, at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.nearest > self.boids:
            raise ValueError(f"nearest = {self.nearest}; must be at most boids = {self.boids}")

    @property
    def default_params(self) -> ShepherdParams:
        """The task's parameters; flock and goal grow with the number of boids, from 32 on."""
        growth = max(self.boids / 32, 1.0) ** 0.5
        return ShepherdParams(start_radius=7.0 * growth, goal_radius=5.0 * growth)

    def validate(self, params: ShepherdParams) -> None:
        check_order(params, "view_min", "view_max")

    def observation_space(self, params: ShepherdParams | None = None) -> gymnasium.spaces.Box:
        return self.view.observation_space

    def action_space(self, params: ShepherdParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.herders, 2), np.float32)

    @functools.cached_property
    def view(self) -> HerderView:
        """What a herder sees."""
        return HerderView(self.herders, self.nearest)

    @functools.cached_property
    def neighborhood(self) -> Neighborhood:
        """How boids find each other."""
        return flock_neighborhood(self.boids, self.pairs, self.slack, self.sample)

    def sample(self) -> Sample:
        """Boids as close as when they are driven, for which the neighbour list is sized."""
        params = self.default_params
        positions = sunflower_positions(jax.random.key(0), self.boids, 0.6 * params.start_radius)
        return Sample(Free(), positions, float(longest_range(params)))

    # --- an episode -----------------------------------------------------------------------------------------------

    def initial_state(self, key: jax.Array, params: ShepherdParams) -> ShepherdState:
        """A loose flock at a random side of the goal, with random headings; the herders on the edge of the goal."""
        positions, headings, herders, herder_headings = grazing_flock(key, self.boids, self.herders, params)
        pairs = self.neighborhood.find(Free(), positions, longest_range(params))
        overflow = self.neighborhood.incomplete(pairs, Free(), longest_range(params))
        return ShepherdState(
            overflow=overflow,
            positions=positions,
            headings=headings,
            pairs=pairs,
            herders=herders,
            herder_headings=herder_headings,
            herd=measure_herd(positions, params),
        )

    def advance(
        self, key: jax.Array, state: ShepherdState, action: jax.Array, params: ShepherdParams
    ) -> Transition[ShepherdState]:
        boids = Poses.of(state.positions, state.headings)
        among_boids = sum_boid_rules(Free(), boids, state.pairs, params)
        force, torque = sum_flight_rule(Free(), boids, state.herders, params)
        force, torque = force + among_boids.force, torque + among_boids.torque
        pace = params.speed + params.run_speed * alarm(state.positions, state.herders, params)
        positions = state.positions + params.dt * (pace[:, None] * boids.u + force)
        headings = state.headings + params.dt * torque

        length = norm(action)
        shift = action / jnp.maximum(length, 1.0)[:, None]
        herders = state.herders + params.dt * params.herder_speed * shift
        herder_headings = jnp.where(length > 0.05, angle(action), state.herder_headings)

        before, herd = state.herd, measure_herd(positions, params)
        effort = jnp.mean(jnp.sum(shift**2, axis=-1))
        reward = (
            params.goal_weight * herd.share
            + params.gain_weight * jnp.mean(before.distances - herd.distances)
            - params.effort_weight * effort
        )
        metrics = {
            "in_goal": jnp.mean(herd.distances < params.goal_radius, dtype=reward.dtype),
            "distance": jnp.mean(herd.distances),
            "spread": herd.spread,
            "collisions": jnp.mean(among_boids.collisions),
            "effort": effort,
        }
        pairs = state.pairs.update(Free(), positions)
        moved = dataclasses.replace(
            state,
            positions=positions,
            headings=headings,
            pairs=pairs,
            overflow=self.neighborhood.incomplete(pairs, Free(), longest_range(params)),
            herders=herders,
            herder_headings=herder_headings,
            herd=herd,
        )
        return Transition(moved, reward, metrics=metrics)

    def observe(self, state: ShepherdState, params: ShepherdParams) -> jax.Array:
        return self.view.observe(state, params)

    def baselines(self, params: ShepherdParams | None = None) -> dict[str, Baseline]:
        """`stroembom`: fetch the boid that has strayed, or else drive the flock from behind."""
        params = self.default_params if params is None else params
        return {"stroembom": baselines.stroembom(self.view, self.boids, params)}

    def render(self, state: ShepherdState, params: ShepherdParams | None = None) -> np.ndarray:
        """The goal as a glowing ring, boids in the colour of their heading, herders in amber; 640 x 640."""
        from dmdenv.envs.flocking.drawing import draw_shepherd

        return draw_shepherd(state, self.default_params if params is None else params)
