"""What the tasks with boids share: their neighbours, what a boid senses, and boids that an agent steers.

`Flock` holds what every task needs (checks of the configuration, neighbour lists and their growth), `SteeredFlock` what
those need in which the agent turns each boid, in a square with obstacles and predators:

    r_i     <- r_i + dt (speed u_i + F_i)
    theta_i <- theta_i + dt (turn_rate a_i + tau_i)

with the forces and torques of `boids.py`. That boids react to a fixed number of nearest neighbours: Ballerini
et al., PNAS 105, 1232 (2008).
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Generic, Literal, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.stored import stored
from dmdenv.envs.base import Env
from dmdenv.envs.flocking.boids import (
    BoidParams,
    FlockingState,
    FlockState,
    Poses,
    Seen,
    SteeredParams,
    boid_rules,
    columns,
    direction,
    flight_rule,
    look,
    move_predators,
    obstacle_rule,
)
from dmdenv.envs.neighborhood import Neighborhood, Sample
from dmdenv.neighbors import Pairs, nearest
from dmdenv.neighbors.particles_last import take
from dmdenv.space import Free, Periodic, Space

_ALL_PAIRS_UP_TO = 64  # boids; `benchmarks/env_throughput.py --crossover` compares
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)
NEIGHBOR_FEATURES = 5  # presence, position (2), heading (2)
OBSTACLE_FEATURES = 3  # presence, position (2)

S = TypeVar("S", bound=FlockState)
P = TypeVar("P", bound=BoidParams)
SteeredS = TypeVar("SteeredS", bound=FlockingState)
SteeredP = TypeVar("SteeredP", bound=SteeredParams)


class Flock(Env[S, P], Generic[S, P]):
    """Boids and their neighbours. A task is a frozen dataclass with the fields below, and others of its own."""

    boids: int
    nearest: int
    pairs: Literal["auto", "all", "list"]
    slack: float

    counts: ClassVar[dict[str, int]]  # fields that are whole numbers, and the least of each
    ranges: ClassVar[tuple[str, ...]]  # parameters that say how far boids look at each other

    def __post_init__(self):
        for name, low in self.counts.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} = {value!r}; valid: a whole number from {low}")
        self.check_choice("pairs", ("auto", "all", "list"))
        if not 1 <= self.slack < np.inf:
            raise ValueError(f"slack = {self.slack!r}; valid: a number from 1")

    def check_choice(self, name: str, valid: tuple[str, ...]) -> None:
        """Refuse a field that is none of the valid names."""
        if getattr(self, name) not in valid:
            raise ValueError(f"{name} = {getattr(self, name)!r}; valid: {', '.join(map(repr, valid))}")

    def validate(self, params: P) -> None:
        check_order(params, "view_min", "view_max")

    # --- space and neighbours -------------------------------------------------------------------------------------

    def space_of(self, params: P) -> Space:
        """Where the boids are."""
        return Free()

    @abc.abstractmethod
    def scattered(self, params: P) -> jax.Array:
        """Places `[n, 2]` as crowded as at a start, for which the list is sized."""

    def listed_range(self, params: P) -> float:
        """The range for which the list is sized, unit length."""
        return float(self.longest_range(params))

    def longest_range(self, params: P) -> jax.Array:
        """How far a boid must look: the longest range among boids, float []."""
        return functools.reduce(jnp.maximum, [getattr(params, name) for name in self.ranges])

    @functools.cached_property
    def neighborhood(self) -> Neighborhood:
        """How boids find their neighbours."""
        return Neighborhood(
            particles=self.boids,
            pairs=self.pairs,
            crossover=_ALL_PAIRS_UP_TO,
            slack=self.slack,
            skin=0.25,
            skin_unit="cutoff",
            sample=self.sample,
            remedy="a range of the parameters is too long; must be at most half the periodic box, and in the course of"
            " an episode at most that at its reset",
        )

    def sample(self) -> Sample:
        """Boids as crowded as at a start."""
        params = self.default_params
        return Sample(self.space_of(params), self.scattered(params), self.listed_range(params))

    def neighbors(self, positions: jax.Array, params: P) -> tuple[Pairs, jax.Array]:
        """Whom the boids may interact with, and whether somebody of them is missing, bool []."""
        space, reach = self.space_of(params), self.longest_range(params)
        pairs = self.neighborhood.find(space, positions, reach)
        return pairs, self.neighborhood.incomplete(pairs, space, reach)

    def with_neighbors_updated(self, state: S, space: Space, params: P) -> S:
        """The state with the list brought up to its positions."""
        pairs = self.neighborhood.update(state.pairs, space, state.positions)
        incomplete = self.neighborhood.incomplete(pairs, space, self.longest_range(params))
        return dataclasses.replace(state, pairs=pairs, overflow=state.overflow | incomplete)


def check_order(params: BoidParams, low: str, high: str) -> None:
    """Refuse parameters of which one may not exceed another one, and does."""
    if getattr(params, low) > getattr(params, high):
        raise ValueError(f"{low} = {getattr(params, low):g}; valid: up to {high} = {getattr(params, high):g}")


def seeds(key: jax.Array, n: int, radius: jax.Array) -> jax.Array:
    """Places `[n, 2]` that fill a disc around 0 evenly: seeds of a sunflower, turned and each moved a little at random.

    Reference: Vogel, Math. Biosci. 44, 179 (1979).
    """
    k, draws = jnp.arange(n), 2 * np.pi * jax.random.uniform(key, (n + 1,))
    places = radius * ((k + 0.5) / n)[:, None] ** 0.5 * direction(_GOLDEN_ANGLE * k + draws[n])
    return places + 0.3 * radius / n**0.5 * direction(draws[:n])  # not far enough to meet another one


@dataclasses.dataclass(frozen=True)
class SteeredFlock(Flock[SteeredS, SteeredP], Generic[SteeredS, SteeredP]):
    """Boids in a square, each turned by the agent, among obstacles and predators.

    Observation `[n, m]`, one row a boid, all in its own frame (x along the heading, y to its left) and in [-1, 1]:
    for each of the `nearest` boids: presence p, p x / R, p y / R, p cos and p sin of its heading relative to the
    boid's own, with the perception range R and p = (1 - r^2 / R^2)^2, so that nothing jumps when a neighbour comes
    into view; for each of the (at most) two nearest obstacles: p, p x / R, p y / R; for the nearest predator, where
    there are any, the same five as for a boid.

    Action `[n]`: turn rate of each boid, in units of `turn_rate`.

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

    boids: int = 32
    obstacles: int = 2
    predators: int = 0
    space: Literal["periodic", "free"] = "periodic"
    nearest: int = 6
    pairs: Literal["auto", "all", "list"] = "auto"
    reach: float | None = None
    slack: float = 4.0

    counts: ClassVar = {"boids": 2, "obstacles": 0, "predators": 0, "nearest": 1}
    ranges = ("perception", "alignment_range", "avoidance_range", "cohesion_range", "collision_range")

    def __post_init__(self):
        super().__post_init__()
        self.check_choice("space", ("periodic", "free"))
        if self.reach is not None and not 0 < self.reach <= 0.5:
            raise ValueError(f"reach = {self.reach!r}; valid: a fraction of the box up to 0.5, or None")

    def validate(self, params: SteeredP) -> None:
        half = float(params.box) / 2
        ranges = {name: float(getattr(params, name)) for name in self.ranges}
        longest = max(ranges, key=ranges.__getitem__)
        if self.space == "periodic" and ranges[longest] > half:
            raise ValueError(
                f"{longest} = {ranges[longest]:g} in a periodic box of {2 * half:g}; "
                f"valid: up to half the box, {half:g}"
            )
        super().validate(params)
        check_order(params, "obstacle_min", "obstacle_max")

    def observation_space(self, params: SteeredP | None = None) -> gymnasium.spaces.Box:
        width = self.nearest * NEIGHBOR_FEATURES + min(self.obstacles, 2) * OBSTACLE_FEATURES
        width += NEIGHBOR_FEATURES if self.predators else 0
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids, width), np.float32)

    def action_space(self, params: SteeredP | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids,), np.float32)

    def space_of(self, params: SteeredP) -> Space:
        return Periodic(params.box) if self.space == "periodic" else Free()

    def scattered(self, params: SteeredP) -> jax.Array:
        return params.box * jax.random.uniform(jax.random.key(0), (self.boids, 2))

    def listed_range(self, params: SteeredP) -> float:
        return super().listed_range(params) if self.reach is None else float(self.reach * params.box)

    def moved(
        self, state: SteeredS, action: jax.Array, params: SteeredP, present: jax.Array | None = None
    ) -> tuple[SteeredS, dict[str, jax.Array]]:
        """The state after a step of those boids that are `present` `[n]` (None: all), and what `boid_rules` found."""
        space, boids = self.space_of(params), Poses.of(state.positions, state.headings)
        rules = boid_rules(space, boids, state.pairs, params, present)
        pushes = [(rules["force"], rules["torque"])]
        if self.obstacles:
            pushes.append(obstacle_rule(space, boids, state, params))
        if self.predators:
            pushes.append(flight_rule(space, boids, state.predators, params))
        force, torque = (functools.reduce(jnp.add, parts) for parts in zip(*stored(pushes), strict=True))
        shift: Any = params.dt * (params.speed * boids.u + force)
        turn = params.dt * (params.turn_rate * action + torque)
        if present is not None:
            shift, turn = jnp.where(present[:, None], shift, 0.0), jnp.where(present, turn, 0.0)
        moved = dataclasses.replace(
            state, positions=space.shift(state.positions, shift), headings=state.headings + turn
        )
        if self.predators:
            moved = move_predators(space, state, moved, params, present)
        return self.with_neighbors_updated(moved, space, params), rules

    def sensed(self, state: SteeredS, params: SteeredP, present: jax.Array | None = None) -> jax.Array:
        """What each boid sees of those that are `present` `[n]` (None: all), as above; those absent see nothing."""
        space, boids = self.space_of(params), Poses.of(state.positions, state.headings)
        seen = [_observe_boids(space, boids, state, params, self.nearest, present)]
        if self.obstacles:
            seen.append(_observe_obstacles(space, boids, state, params, min(self.obstacles, 2)))
        if self.predators:
            seen.append(_observe_predator(space, boids, state, params))
        rows = [jnp.stack(features, axis=-1).swapaxes(0, 1).reshape(self.boids, -1) for features in stored(seen)]
        rows = jnp.concatenate(rows, axis=1)
        return rows if present is None else jnp.where(present[:, None], rows, 0.0)

    def seen_boids(self, observation: jax.Array) -> jax.Array:
        """The part of an observation that shows other boids, `[n, nearest, 5]`."""
        return observation[:, : self.nearest * NEIGHBOR_FEATURES].reshape(-1, self.nearest, NEIGHBOR_FEATURES)

    def canvas(self, state: SteeredS, params: SteeredP, colors: list, present: np.ndarray | None = None) -> Any:
        """A picture with the obstacles in grey, the boids that are `present` `[n]` and, in red, the predators."""
        from dmdenv.envs.rendering import Canvas

        side, positions, headings = float(params.box), np.asarray(state.positions), np.asarray(state.headings)
        present = np.full(self.boids, True) if present is None else present
        center = positions[present].mean(axis=0) if present.any() else positions.mean(axis=0)
        corner = np.zeros(2) if self.space == "periodic" else center - side / 2
        canvas = Canvas(corner, side, period=side if self.space == "periodic" else None)
        length = 0.35 * float(params.avoidance_range)
        for place, reach in zip(np.asarray(state.obstacles), np.asarray(state.obstacle_ranges), strict=True):
            canvas.disc(place, 0.8 * float(reach), "#39415a", halo=float(reach))
        shown = [color for color, there in zip(colors, present, strict=True) if there]
        canvas.darts(positions[present], headings[present], length, shown)
        canvas.darts(
            np.asarray(state.predators), np.asarray(state.predator_headings), 2 * length, ["#ff4d5e"] * self.predators
        )
        return canvas


# --- what a boid senses -----------------------------------------------------------------------------------------------


def presence(distance: jax.Array, reach: jax.Array) -> jax.Array:
    """`(1 - r^2 / R^2)^2` inside the range R, 0 outside: once differentiable everywhere."""
    return jnp.maximum(1 - (distance * (1 / reach)) ** 2, 0.0) ** 2


def _observe_boids(
    space: Space, boids: Poses, state: FlockingState, params: SteeredParams, k: int, present: jax.Array | None
) -> list[jax.Array]:
    """The k nearest boids: five features, `[k, n]` each."""
    slots = nearest(space, state.positions, state.pairs, k, present=present).T
    x, y, ux, uy = stored([take(a, slots) for a in boids])
    seen = look(space, (x, y), boids)
    p = jnp.where(slots == jnp.arange(len(boids.x))[None, :], 0.0, presence(seen.distance, params.perception))
    return _view(p, seen, (ux, uy), boids, params.perception)


def _observe_obstacles(
    space: Space, boids: Poses, state: FlockingState, params: SteeredParams, k: int
) -> list[jax.Array]:
    """The k obstacles whose edge is nearest: three features, `[k, n]` each."""
    seen = look(space, columns(state.obstacles), boids)
    gap = jnp.maximum(seen.distance - state.obstacle_ranges[:, None], 0.0)
    p = presence(gap, params.perception)
    weight = p * gap / params.perception
    return closest(gap, [p, weight * seen.ahead, weight * seen.left], k)


def _observe_predator(space: Space, boids: Poses, state: FlockingState, params: SteeredParams) -> list[jax.Array]:
    """The nearest predator: five features, `[1, n]` each."""
    seen = look(space, columns(state.predators), boids)
    headings = columns(direction(state.predator_headings))
    p = presence(seen.distance, params.perception)
    return closest(seen.distance, _view(p, seen, headings, boids, params.perception), 1)


def closest(distance: jax.Array, features: list[jax.Array], k: int) -> list[jax.Array]:
    """Features `[m, n]` at the k smallest of `distance` `[m, n]` along m, in order, `[k, n]` each."""
    distance = jax.lax.stop_gradient(distance)
    rows = []
    for _ in range(k):  # k and m are a handful: cheaper than a sort, and without gather
        chosen = jnp.arange(len(distance))[:, None] == jnp.argmin(distance, axis=0)[None, :]
        rows.append([jnp.sum(jnp.where(chosen, feature, 0.0), axis=0) for feature in features])
        distance = jnp.where(chosen, jnp.inf, distance)
    return [jnp.stack(column) for column in zip(*rows, strict=True)]


def _view(
    p: jax.Array, seen: Seen, headings: tuple[jax.Array, jax.Array], boids: Poses, reach: jax.Array
) -> list[jax.Array]:
    """Presence p, `[m, n]`, and with it as weight places over the reach and headings in the frames of the boids."""
    scale = 1 / reach
    vectors = (seen.x * scale, seen.y * scale), headings
    return [p, *(p * component for vector in vectors for component in boids.in_frame(*vector))]
