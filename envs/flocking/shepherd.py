"""Shepherd: a few herders drive many boids into a goal region.

n boids graze on a free plane: they go slowly along their headings. Where herders come close they run, away from them
and towards the other boids. Nobody but the herders knows of the goal, a disc around the origin. With u_i the unit
vector along the heading theta_i, the forces F and torques tau of avoidance, cohesion and flight in
`dmdenv.envs.flocking.boids` (the herders take the place of predators), and explicit Euler steps of `dt`:

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
from typing import ClassVar, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline, Transition, parameter
from dmdenv.envs.flocking.boids import BoidParams, FlockState, Poses, boid_rules, columns, cross, direction, flight_rule
from dmdenv.envs.flocking.flock import Flock, closest, presence, seeds
from dmdenv.space import norm, unit

_SUMMARY = 8  # features at the front: goal (2), centre (2), farthest boid (2), spread, share in the goal
_ARC = 1.0  # angle between neighbouring herders that drive, as seen from the flock
_STANDOFF = 0.35  # how far from those that it drives or fetches a herder stays, over the flight range
_ASIDE = 0.5  # angle by which a herder goes around the flock at a time


class ShepherdParams(BoidParams):
    """Dynamic parameters of the task `shepherd`."""

    max_steps: jax.Array = parameter(default=512, unit="steps", low=1, doc="length of an episode")
    speed: jax.Array = parameter(default=0.1, unit="length/time", low=0, doc="speed of a boid that grazes")
    run_speed: jax.Array = parameter(default=1.5, unit="length/time", low=0, doc="what full alarm adds to it")
    cohesion: jax.Array = parameter(default=1.0, unit="energy", low=0, doc="J of the cohesion rule")
    cohesion_range: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="D of the cohesion rule")
    exponent: jax.Array = parameter(default=2.0, unit="1", low=1, doc="alpha of alignment, avoidance and flight")
    flight: jax.Array = parameter(default=8.0, unit="energy", low=0, doc="J of flight from herders")
    flight_range: jax.Array = parameter(default=8.0, unit="length", low=1e-6, doc="D of flight and of alarm")
    herder_speed: jax.Array = parameter(default=2.0, unit="length/time", low=0, doc="speed of an action of length 1")
    start_distance: jax.Array = parameter(
        default=18.0, unit="length", low=0, doc="from the goal to the flock at the start"
    )
    start_radius: jax.Array = parameter(default=7.0, unit="length", low=1e-6, doc="of the flock at the start")
    goal_radius: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="of the goal region")
    goal_edge: jax.Array = parameter(
        default=0.5, unit="length", low=1e-6, doc="width over which the reward fades at the edge of the goal"
    )
    sight: jax.Array = parameter(
        default=10.0, unit="length", low=1e-6, doc="distance that an observation shows as 0.71"
    )
    goal_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of all boids in the goal in a step")
    gain_weight: jax.Array = parameter(
        default=2.0, unit="reward/length", doc="reward of lowering the mean distance to the goal by 1"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost of all herders at full speed in a step"
    )


class ShepherdState(FlockState):
    """Boids and herders."""

    herders: jax.Array  # float [h, 2], positions, unit length
    herder_headings: jax.Array  # float [h], angle, for pictures: where a herder went last


@dataclasses.dataclass(frozen=True)
class Shepherd(Flock[ShepherdState, ShepherdParams]):
    """Herders that drive a flock into a goal region. Task `shepherd`.

    Observation `[h, m]`, one row a herder, in [-1, 1]. A place at d from the herder shows as d / sqrt(d^2 + R^2), in
    the axes of the plane, with R = `sight`: the goal's centre; the flock's centre of mass; the boid farthest from that
    centre; the flock's spread s (the root mean square distance from the centre) as s / sqrt(s^2 + R^2), and G (see
    below); the `nearest` boids, nearest first; the other herders, in the order of their rows.

    Action `[h, 2]`: velocity of each herder, in units of `herder_speed`; longer ones are shortened to length 1.

    Reward: `goal_weight G + gain_weight (d - d') - effort_weight mean(a^2)`, where G is the mean over the boids of
    sigmoid((goal_radius - d_i) / goal_edge), their share in the goal with a smooth edge, and d and d' the mean distance
    from the goal's centre before and after the step; a^2 is a herder's squared length of action.

    Metrics in `info`: `in_goal` (share of boids in the goal), `distance` (d'), `spread`, `collisions` (pairs closer
    than `collision_range`, a boid), `effort`.

    Args:
        boids: number n of boids.
        herders: number h of herders.
        nearest: how many of its nearest boids a herder observes, up to n.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of boids.
        slack: capacity of the neighbour list over what a start needs; `enlarged` doubles it.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    boids: int = 32
    herders: int = 2
    nearest: int = 4
    pairs: Literal["auto", "all", "list"] = "auto"
    slack: float = 4.0

    counts: ClassVar = {"boids": 2, "herders": 1, "nearest": 1}
    ranges = ("alignment_range", "avoidance_range", "cohesion_range", "collision_range")

    def __post_init__(self):
        super().__post_init__()
        if self.nearest > self.boids:
            raise ValueError(f"nearest = {self.nearest}; valid: up to the number of boids, {self.boids}")

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> ShepherdParams:
        """The task's parameters; flock and goal grow with the number of boids, from 32 on."""
        growth = max(self.boids / 32, 1.0) ** 0.5
        return ShepherdParams(start_radius=7.0 * growth, goal_radius=5.0 * growth)

    def observation_space(self, params: ShepherdParams | None = None) -> gymnasium.spaces.Box:
        width = _SUMMARY + 2 * self.nearest + 2 * (self.herders - 1)
        return gymnasium.spaces.Box(-1.0, 1.0, (self.herders, width), np.float32)

    def action_space(self, params: ShepherdParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.herders, 2), np.float32)

    def scattered(self, params: ShepherdParams) -> jax.Array:
        return seeds(jax.random.key(0), self.boids, 0.6 * params.start_radius)  # as close as when they are driven

    # --- an episode -----------------------------------------------------------------------------------------------

    def initial_state(self, key: jax.Array, params: ShepherdParams) -> ShepherdState:
        """A loose flock at a random side of the goal, with random headings; the herders on the edge of the goal."""
        n, h = self.boids, self.herders
        seed_key, key = jax.random.split(key)
        draws = 2 * np.pi * jax.random.uniform(key, (n + 2,))
        headings, side, post = draws[:n], draws[n], draws[n + 1]
        positions = params.start_distance * direction(side)[None, :] + seeds(seed_key, n, params.start_radius)
        posts = post + 2 * np.pi / h * jnp.arange(h)
        pairs, overflow = self.neighbors(positions, params)
        return ShepherdState(
            overflow=overflow,
            positions=positions,
            headings=headings,
            pairs=pairs,
            herders=params.goal_radius * direction(posts),
            herder_headings=posts,
        )

    def advance(
        self, key: jax.Array, state: ShepherdState, action: jax.Array, params: ShepherdParams
    ) -> Transition[ShepherdState]:
        space, boids = self.space_of(params), Poses.of(state.positions, state.headings)
        rules = boid_rules(space, boids, state.pairs, params)
        force, torque = flight_rule(space, boids, state.herders, params)
        force, torque = force + rules["force"], torque + rules["torque"]
        pace = params.speed + params.run_speed * alarm(state.positions, state.herders, params)
        length = norm(action)
        steps = action / jnp.maximum(length, 1.0)[:, None]
        moved = dataclasses.replace(
            state,
            positions=state.positions + params.dt * (pace[:, None] * boids.u + force),
            headings=state.headings + params.dt * torque,
            herders=state.herders + params.dt * params.herder_speed * steps,
            herder_headings=jnp.where(length > 0.05, _angle(action), state.herder_headings),
        )
        moved = self.with_neighbors_updated(moved, space, params)
        before, after = norm(state.positions), norm(moved.positions)
        effort = jnp.mean(jnp.sum(steps**2, axis=-1))
        reward = (
            params.goal_weight * jnp.mean(jax.nn.sigmoid((params.goal_radius - after) / params.goal_edge))
            + params.gain_weight * jnp.mean(before - after)
            - params.effort_weight * effort
        )
        metrics = {
            "in_goal": jnp.mean(after < params.goal_radius, dtype=reward.dtype),
            "distance": jnp.mean(after),
            "spread": _spread(moved.positions)[0],
            "collisions": jnp.mean(rules["collisions"]),
            "effort": effort,
        }
        return Transition(moved, reward, jnp.asarray(False), metrics)

    def observe(self, state: ShepherdState, params: ShepherdParams) -> jax.Array:
        h, boids, herders = self.herders, state.positions, state.herders
        to_boids = boids[None, :, :] - herders[:, None, :]
        spread, far = _spread(boids)
        stray = jnp.concatenate(closest(-far[:, None], list(columns(boids)), 1))[:, 0]
        marks = jnp.stack([jnp.zeros(2), jnp.mean(boids, axis=0), stray])
        others = np.array([[j for j in range(h) if j != i] for i in range(h)], int).reshape(h, h - 1)
        places = jnp.concatenate(
            [
                marks[None, :, :] - herders[:, None, :],
                jnp.stack(closest(norm(to_boids).T, list(to_boids.T), self.nearest), axis=-1).swapaxes(0, 1),
                herders[others] - herders[:, None, :],
            ],
            axis=1,
        )
        seen = places / jnp.sqrt(jnp.sum(places**2, axis=-1, keepdims=True) + params.sight**2)
        seen = jnp.clip(seen, -1.0, 1.0).reshape(h, -1)  # of what is very far, rounding may be beyond
        share = jnp.mean(jax.nn.sigmoid((params.goal_radius - norm(boids)) / params.goal_edge))
        summary = jnp.stack([spread / jnp.hypot(spread, params.sight), share])
        return jnp.concatenate([seen[:, :6], jnp.broadcast_to(summary[None], (h, 2)), seen[:, 6:]], axis=1)

    # --- baselines ------------------------------------------------------------------------------------------------

    def baselines(self, params: ShepherdParams | None = None) -> dict[str, Baseline]:
        """`stroembom`: fetch the boid that has strayed, or else drive the flock from behind.

        The herder nearest to a boid that is farther than r_a n^(2/3) from the flock's centre (r_a is half the avoidance
        range) goes behind it, as seen from there. All others, or all, stand behind the flock, as seen from the goal, on
        an arc, in the order of their angles; on the way they keep away from the flock. When all are in the goal they
        rest.

        Reference: Stroembom et al., J. R. Soc. Interface 11, 20140719 (2014): to collect and to drive, by one herder.
        """
        params = self.default_params if params is None else params

        def stroembom(key: jax.Array, observation: jax.Array) -> jax.Array:
            return _stroembom(observation, self.boids, self.nearest, params)

        return {"stroembom": stroembom}

    def render(self, state: ShepherdState, params: ShepherdParams | None = None) -> np.ndarray:
        """The goal as a glowing ring, boids in the colour of their heading, herders in amber; 640 x 640."""
        from dmdenv.envs.rendering import Canvas, heading_colors

        params = self.default_params if params is None else params
        goal, positions, headings = float(params.goal_radius), np.asarray(state.positions), np.asarray(state.headings)
        everything = np.concatenate([positions, np.asarray(state.herders), [[goal, goal], [-goal, -goal]]])
        low, high = everything.min(axis=0), everything.max(axis=0)
        side = max(1.15 * float((high - low).max()), 6 * goal)
        canvas = Canvas((low + high - side) / 2, side)
        canvas.glow(np.zeros(2), goal, "#7cf2b0")
        canvas.darts(positions, headings, 0.011 * side, heading_colors(headings))
        for place in np.asarray(state.herders):
            canvas.disc(place, 0.004 * side, "#ffb454", halo=0.03 * side)
        canvas.darts(
            np.asarray(state.herders), np.asarray(state.herder_headings), 0.02 * side, ["#ffb454"] * self.herders
        )
        inside = np.mean(np.linalg.norm(positions, axis=1) < goal)
        canvas.caption(f"in the goal {100 * inside:.0f} %   step {int(state.time)}")
        return canvas.image()


# --- physics ----------------------------------------------------------------------------------------------------------


def alarm(positions: jax.Array, herders: jax.Array, params: ShepherdParams) -> jax.Array:
    """`1 - prod_h (1 - p_ih)` for boids at `positions` `[n, 2]`, `[n]`: from 0, nobody near, to 1."""
    distance = norm(positions[:, None, :] - herders[None, :, :])
    return 1 - jnp.prod(1 - presence(distance, params.flight_range), axis=1)


def _spread(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The root mean square distance from the centre of mass, `[]`, and each distance, `[n]`."""
    far = norm(positions - jnp.mean(positions, axis=0, keepdims=True))
    return jnp.sqrt(jnp.mean(far**2)), far


def _angle(vectors: jax.Array) -> jax.Array:
    """The angles of vectors `[..., 2]` from the x axis, without derivative."""
    vectors = jax.lax.stop_gradient(vectors)
    return jnp.arctan2(vectors[..., 1], vectors[..., 0])


# --- Stroembom's heuristic --------------------------------------------------------------------------------------------


def _stroembom(observation: jax.Array, n: int, nearest: int, params: ShepherdParams) -> jax.Array:
    """The actions `[h, 2]` of the heuristic, each from its own row of the observation `[h, m]`."""
    h, apart = len(observation), params.avoidance_range / 2
    standoff = _STANDOFF * params.flight_range
    shown = jnp.concatenate([observation[:, :6], observation[:, _SUMMARY:]], axis=1).reshape(h, -1, 2)
    places = _unsquashed(shown, params.sight)
    goal, center, stray, others = places[:, 0], places[:, 1], places[:, 2], places[:, 3 + nearest :]
    # driving: side by side on an arc behind the flock, whose edge is at sqrt(2) times its spread
    behind = unit(center - goal)
    drive = 2**0.5 * _unsquashed(observation[:, 6:7], params.sight)[:, 0] + standoff
    angle = _bearing(behind, -center)
    rank = jnp.sum(_bearing(behind[:, None, :], others - center[:, None, :]) < angle[:, None], axis=1)
    post = center + drive[:, None] * _turned(behind, _ARC * (rank - (h - 1) / 2))
    # collecting
    strayed = norm(stray - center) > apart * n ** (2 / 3)
    first = norm(stray) <= jnp.min(norm(stray[:, None, :] - others), axis=1, initial=jnp.inf)
    target = jnp.where((strayed & first)[:, None], stray + standoff * unit(stray - center), post)
    # around the flock, not through it
    out = unit(-center)
    aside = _bearing(out, target - center)
    radius = jnp.maximum(norm(target - center), drive)
    waypoint = center + radius[:, None] * _turned(out, jnp.clip(aside, -_ASIDE, _ASIDE))
    target = jnp.where((jnp.abs(aside) > _ASIDE)[:, None], waypoint, target)
    arrived = norm(stray - goal) < params.goal_radius
    action = jnp.where(arrived[:, None], 0.0, target / (params.herder_speed * params.dt))
    return action / jnp.maximum(norm(action), 1.0)[:, None]


def _unsquashed(shown: jax.Array, scale: jax.Array) -> jax.Array:
    """d from what an observation shows of it, `d / sqrt(|d|^2 + R^2)`, `[..., k]`."""
    rest = jnp.maximum(1 - jnp.sum(shown**2, axis=-1, keepdims=True), 1e-6)  # of what is very far nothing is left
    return scale * shown / jnp.sqrt(rest)


def _bearing(axis: jax.Array, vectors: jax.Array) -> jax.Array:
    """The angles of vectors `[..., 2]` from an axis `[..., 2]`, to its left."""
    axis = jnp.broadcast_to(axis, vectors.shape)
    return jnp.arctan2(cross(axis, vectors), jnp.sum(axis * vectors, axis=-1))


def _turned(vectors: jax.Array, angles: jax.Array) -> jax.Array:
    """Vectors `[..., 2]` turned to the left by angles `[...]`."""
    c, s = jnp.cos(angles), jnp.sin(angles)
    x, y = vectors[..., 0], vectors[..., 1]
    return jnp.stack([c * x - s * y, s * x + c * y], axis=-1)
