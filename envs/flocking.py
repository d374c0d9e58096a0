"""Flocking: boids that steer themselves into common motion.

n boids move in the plane at a common speed, each along its own heading. They follow Reynolds' three rules (alignment,
avoidance, cohesion, within a field of view) and keep away from obstacles and predators, each rule with its own
dynamic coefficients. In the task `align` the alignment rule is off by default and the agent takes its place: from
random headings it has to bring the flock to a common direction by turn rates, and keep it there.

The equations of motion are in `dmdenv.envs.boids`, with u_i the unit vector along the heading theta_i and explicit
Euler steps of `dt`:

    r_i     <- r_i + dt (speed u_i + F_i)
    theta_i <- theta_i + dt (turn_rate a_i + tau_i)

References: Reynolds, SIGGRAPH 1987; `FlockingParams.reynolds` gives the coefficients of the flocking notebook of JAX MD
(Schoenholz and Cubuk, NeurIPS 2020). That boids react to a fixed number of nearest neighbours: Ballerini et al.,
PNAS 105, 1232 (2008).
"""

import dataclasses
import functools
from typing import Literal, Self

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline, CapacityExceeded, Env, Transition, initial_flags, task_field
from dmdenv.envs.boids import (
    FlockingParams,
    FlockingState,
    boid_rules,
    cross,
    direction,
    flight_rule,
    move_predators,
    obstacle_rule,
    polar_order,
    towards,
)
from dmdenv.nearest import nearest
from dmdenv.neighbors import AllPairs, NeighborList, allocate, build, update
from dmdenv.space import Free, Periodic, Space, norm

_ALL_PAIRS_UP_TO = 32  # boids; `benchmarks/env_throughput.py --crossover` compares
_NEIGHBOR_FEATURES = 5  # presence, position (2), heading (2)
_OBSTACLE_FEATURES = 3  # presence, position (2)


@dataclasses.dataclass(frozen=True)
class Flocking(Env[FlockingState, FlockingParams]):
    """Boids in the plane, steered by turn rates. Task `align`.

    Observation `[n, m]`, one row a boid, all in its own frame (x along the heading, y to its left) and in [-1, 1]:
    for each of the `nearest` boids: presence p, p x / R, p y / R, p cos and p sin of its heading relative to the
    boid's own, with the perception range R and p = (1 - r^2 / R^2)^2, so that nothing jumps when a neighbour comes
    into view; for each of the (at most) two nearest obstacles: p, p x / R, p y / R; for the nearest predator, where
    there are any, the same five as for a boid.

    Action `[n]`: turn rate of each boid, in units of `turn_rate`.

    Reward: `order_weight phi' + gain_weight (phi' - phi) - collision_weight C - effort_weight mean(a^2)`, where phi is
    the polar order |mean u| before and phi' after the step, and C the overlap a boid at the beginning of the step,
    the mean over i of sum_j max(0, 1 - r_ij / collision_range)^2.

    Metrics in `info`: `polar_order`, `collisions` (pairs closer than `collision_range`, a boid), `effort`.

    Args:
        boids: number n of boids.
        obstacles: number of round obstacles, at random places, of random range.
        predators: number of predators.
        space: "periodic", or "free": a plane without boundary.
        nearest: how many of its nearest neighbours a boid observes.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of boids.
        reach: longest range over the side of the box for which the neighbour list is sized; None: that of
            `default_params`. Give it for parameters with a longer one, up to 0.5.
        slack: capacity of the neighbour list over what a random start needs; `enlarged` doubles it.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    task: str = task_field("align")
    boids: int = 32
    obstacles: int = 2
    predators: int = 0
    space: Literal["periodic", "free"] = "periodic"
    nearest: int = 6
    pairs: Literal["auto", "all", "list"] = "auto"
    reach: float | None = None
    slack: float = 4.0

    id = "flocking"
    state_type = FlockingState

    def __post_init__(self):
        for name, low in (("boids", 2), ("obstacles", 0), ("predators", 0), ("nearest", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} = {value!r}; valid: a whole number from {low}")
        for name, valid in (("space", ("periodic", "free")), ("pairs", ("auto", "all", "list"))):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} = {getattr(self, name)!r}; valid: {', '.join(map(repr, valid))}")
        if self.reach is not None and not 0 < self.reach <= 0.5:
            raise ValueError(f"reach = {self.reach!r}; valid: a fraction of the box up to 0.5, or None")
        if not 1 <= self.slack < np.inf:
            raise ValueError(f"slack = {self.slack!r}; valid: a number from 1")

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> FlockingParams:
        """The task's parameters, with a box in which the density of boids is that of 32 boids in a box of 16."""
        return FlockingParams(box=max(16.0 * (self.boids / 32) ** 0.5, 10.0))

    def validate(self, params: FlockingParams) -> None:
        ranges = {name: float(getattr(params, name)) for name in _RANGES}
        half = float(params.box) / 2
        longest = max(ranges, key=ranges.__getitem__)
        if self.space == "periodic" and ranges[longest] > half:
            raise ValueError(
                f"{longest} = {ranges[longest]:g} in a periodic box of {2 * half:g}; "
                f"valid: up to half the box, {half:g}"
            )
        if params.view_min > params.view_max:
            raise ValueError(f"view_min = {params.view_min:g}; valid: up to view_max = {params.view_max:g}")
        if params.obstacle_min > params.obstacle_max:
            raise ValueError(
                f"obstacle_min = {params.obstacle_min:g}; valid: up to obstacle_max = {params.obstacle_max:g}"
            )

    def observation_space(self, params: FlockingParams | None = None) -> gymnasium.spaces.Box:
        width = self.nearest * _NEIGHBOR_FEATURES + min(self.obstacles, 2) * _OBSTACLE_FEATURES
        width += _NEIGHBOR_FEATURES if self.predators else 0
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids, width), np.float32)

    def action_space(self, params: FlockingParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def initial_state(self, key: jax.Array, params: FlockingParams) -> FlockingState:
        """Boids, obstacles and predators at uniformly random places, with uniformly random headings."""
        n, o, p = self.boids, self.obstacles, self.predators
        # one draw of a flat array: every random call costs compile time, and more so with axes
        draws = jax.random.uniform(key, (3 * (n + o + p),)).reshape(-1, 3)
        places, angles = params.box * draws[:, :2], 2 * np.pi * draws[:, 2]
        positions = places[:n]
        space = self._space(params)
        if self._listed:
            reach = _longest_range(params)
            pairs = build(self._template, space, positions, cutoff=reach, skin=0.25 * reach)
            overflow = pairs.overflow
        else:
            pairs, overflow = AllPairs(), self._misfit(params)
        return FlockingState(
            **{**initial_flags(), "overflow": overflow},
            positions=positions,
            headings=angles[:n],
            pairs=pairs,
            obstacles=places[n : n + o],
            obstacle_ranges=params.obstacle_min + (params.obstacle_max - params.obstacle_min) * draws[n : n + o, 2],
            predators=places[n + o :],
            predator_headings=angles[n + o :],
            since_sprint=jnp.zeros(p),
        )

    def advance(
        self, key: jax.Array, state: FlockingState, action: jax.Array, params: FlockingParams
    ) -> Transition[FlockingState]:
        space = self._space(params)
        u = direction(state.headings)
        rules = boid_rules(space, state, u, params)
        force, torque = rules["force"], rules["torque"]
        if self.obstacles:
            f, t = obstacle_rule(space, state.positions, u, state, params)
            force, torque = force + f, torque + t
        if self.predators:
            f, t = flight_rule(space, state, u, params)
            force, torque = force + f, torque + t
        positions = space.shift(state.positions, params.dt * (params.speed * u + force))
        headings = state.headings + params.dt * (params.turn_rate * action + torque)
        moved = dataclasses.replace(state, positions=positions, headings=headings)
        if self.predators:
            moved = move_predators(space, state, moved, params)
        if isinstance(state.pairs, NeighborList):
            pairs = update(state.pairs, space, positions)
            moved = dataclasses.replace(moved, pairs=pairs, overflow=state.overflow | pairs.overflow)
        before, after = polar_order(state.headings), polar_order(headings)
        effort = jnp.mean(action**2)
        reward = (
            params.order_weight * after
            + params.gain_weight * (after - before)
            - params.collision_weight * jnp.mean(rules["overlap"])
            - params.effort_weight * effort
        )
        metrics = {"polar_order": after, "collisions": jnp.mean(rules["collisions"]), "effort": effort}
        return Transition(moved, reward, jnp.asarray(False), metrics)

    def observe(self, state: FlockingState, params: FlockingParams) -> jax.Array:
        space, u = self._space(params), direction(state.headings)
        seen = [_observe_boids(space, state, u, params, self.nearest)]
        if self.obstacles:
            seen.append(_observe_obstacles(space, state, u, params, min(self.obstacles, 2)))
        if self.predators:
            seen.append(_observe_predator(space, state, u, params))
        return jnp.concatenate(seen, axis=1)

    def baselines(self, params: FlockingParams | None = None) -> dict[str, Baseline]:
        """`vicsek`: turn to the mean heading of oneself and the boids in view, as fast as it goes.

        Reference: Vicsek et al., Phys. Rev. Lett. 75, 1226 (1995), eq. 2, without noise.
        """
        params = self.default_params if params is None else params
        k = self.nearest

        def vicsek(key: jax.Array, observation: jax.Array) -> jax.Array:
            seen = observation[:, : k * _NEIGHBOR_FEATURES].reshape(-1, k, _NEIGHBOR_FEATURES)
            ahead, left = jnp.sum(seen[..., 3], axis=1), jnp.sum(seen[..., 4], axis=1)  # p cos, p sin
            return jnp.clip(jnp.arctan2(left, 1.0 + ahead) / (params.turn_rate * params.dt), -1.0, 1.0)

        return {"vicsek": vicsek}

    def render(self, state: FlockingState, params: FlockingParams | None = None) -> np.ndarray:
        """The flock on a dark ground: boids coloured by heading, obstacles in grey, predators in red; 640 x 640."""
        from dmdenv.envs.rendering import Canvas, heading_colors

        params = self.default_params if params is None else params
        side, positions, headings = float(params.box), np.asarray(state.positions), np.asarray(state.headings)
        corner = np.zeros(2) if self.space == "periodic" else positions.mean(axis=0) - side / 2
        canvas = Canvas(corner, side, period=side if self.space == "periodic" else None)
        length = 0.35 * float(params.avoidance_range)
        for place, reach in zip(np.asarray(state.obstacles), np.asarray(state.obstacle_ranges), strict=True):
            canvas.disc(place, 0.8 * float(reach), "#39415a", halo=float(reach))
        canvas.darts(positions, headings, length, heading_colors(headings))
        canvas.darts(
            np.asarray(state.predators), np.asarray(state.predator_headings), 2 * length, ["#ff4d5e"] * self.predators
        )
        canvas.caption(f"order {float(polar_order(state.headings)):.2f}   step {int(state.time)}")
        return canvas.image()

    # --- capacities -----------------------------------------------------------------------------------------------

    def enlarged(self) -> Self:
        template = self._template if self._listed else None
        if template is None or template.is_complete:
            raise CapacityExceeded(
                "flocking: a range of the parameters is too long, and not the capacity too small; valid: up to half"
                " the periodic box, and with a neighbour list up to its reach (see the fields `reach` and `pairs`)"
            )
        return dataclasses.replace(self, slack=2.0 * self.slack)

    def adopt(self, state: FlockingState) -> FlockingState:
        pairs = state.pairs
        if isinstance(pairs, NeighborList):
            pairs = build(self._template, pairs.space, state.positions, cutoff=pairs.cutoff, skin=pairs.skin)
            return dataclasses.replace(state, pairs=pairs, overflow=pairs.overflow)
        return state

    # --- space and neighbours -------------------------------------------------------------------------------------

    def _space(self, params: FlockingParams) -> Space:
        return Periodic(params.box) if self.space == "periodic" else Free()

    @property
    def _listed(self) -> bool:
        return self.pairs == "list" or (self.pairs == "auto" and self.boids > _ALL_PAIRS_UP_TO)

    def _misfit(self, params: FlockingParams) -> jax.Array:
        """bool []: a range exceeds half of the periodic box, so that all pairs are not enough."""
        if self.space == "free":
            return jnp.asarray(False)
        return _longest_range(params) > params.box / 2

    @functools.cached_property
    def _template(self) -> NeighborList:
        """A list with the capacities for a random start, chosen once on the host."""
        with jax.ensure_compile_time_eval():
            params = self.default_params
            positions = params.box * jax.random.uniform(jax.random.key(0), (self.boids, 2))
            reach = float(_longest_range(params) if self.reach is None else self.reach * params.box)
            return allocate(self._space(params), positions, cutoff=reach, skin=0.25 * reach, slack=self.slack)


_RANGES = ("perception", "alignment_range", "avoidance_range", "cohesion_range", "collision_range")


def _longest_range(params: FlockingParams) -> jax.Array:
    """How far a boid must look: the longest range among boids, float []."""
    return functools.reduce(jnp.maximum, [getattr(params, name) for name in _RANGES])


# --- what a boid senses -----------------------------------------------------------------------------------------------


def _presence(distance: jax.Array, perception: jax.Array) -> jax.Array:
    """`(1 - r^2 / R^2)^2` inside the perception range R, 0 outside: once differentiable everywhere."""
    return jnp.maximum(1 - (distance / perception) ** 2, 0.0) ** 2


def _in_frame(u: jax.Array, vector: jax.Array) -> jax.Array:
    """Components of vectors `[..., 2]` along headings u `[..., 2]` and to their left."""
    return jnp.stack([jnp.sum(u * vector, axis=-1), cross(u, vector)], axis=-1)


def _observe_boids(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams, k: int) -> jax.Array:
    """The k nearest boids, `[n, 5 k]`."""
    slots = nearest(space, state.positions, state.pairs, k)
    own = jnp.arange(len(slots))[:, None]
    d = space.displacement(state.positions[slots], state.positions[:, None, :])
    p = jnp.where(slots == own, 0.0, _presence(norm(d), params.perception))
    view = _view(p, jnp.broadcast_to(u[:, None, :], d.shape), d / params.perception, u[slots])
    return view.reshape(len(slots), -1)


def _observe_obstacles(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams, k: int) -> jax.Array:
    """The k obstacles whose edge is nearest, `[n, 3 k]`."""
    d, e, r, _, _, u = towards(space, state.obstacles, state.positions, u)
    gap = jnp.maximum(r - state.obstacle_ranges[None, :], 0.0)
    view = _view(_presence(gap, params.perception), u, gap[..., None] * e / params.perception)
    return _closest(gap, view, k)


def _observe_predator(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams) -> jax.Array:
    """The nearest predator, `[n, 5]`."""
    d, _, r, _, _, u = towards(space, state.predators, state.positions, u)
    headings = jnp.broadcast_to(direction(state.predator_headings)[None], u.shape)
    view = _view(_presence(r, params.perception), u, d / params.perception, headings)
    return _closest(r, view, 1)


def _closest(distance: jax.Array, view: jax.Array, k: int) -> jax.Array:
    """The rows of `view` `[n, m, f]` at the k smallest of `distance` `[n, m]`, in order, `[n, k f]`."""
    distance = jax.lax.stop_gradient(distance)
    rows = []
    for _ in range(k):  # k and m are a handful: cheaper than a sort, and without gather
        chosen = jnp.arange(distance.shape[1])[None, :] == jnp.argmin(distance, axis=1)[:, None]
        rows.append(jnp.sum(jnp.where(chosen[..., None], view, 0.0), axis=1))
        distance = jnp.where(chosen, jnp.inf, distance)
    return jnp.concatenate(rows, axis=1)


def _view(presence: jax.Array, u: jax.Array, *vectors: jax.Array) -> jax.Array:
    """Presence `[...]`, and with it as weight vectors `[..., 2]` in the frame of u: `[..., 1 + 2 len(vectors)]`."""
    seen = [_in_frame(u, vector) for vector in vectors]
    return presence[..., None] * jnp.concatenate([jnp.ones_like(presence)[..., None], *seen], axis=-1)
