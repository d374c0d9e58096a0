"""What the tasks have in common in which the agent turns each boid, in a square with obstacles and predators.

    r_i     <- r_i + dt (speed u_i + F_i)
    theta_i <- theta_i + dt (turn_rate a_i + tau_i)

with the forces and torques of `dmdenv.envs.flocking.rules`.
"""

import dataclasses
import functools
from typing import Any, Generic, Literal, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, choice, real, whole
from dmdenv._core.materialize import materialize
from dmdenv.envs.base import Env
from dmdenv.envs.flocking.geometry import Poses, direction
from dmdenv.envs.flocking.neighbors import RULE_RANGES, flock_neighborhood, longest_range
from dmdenv.envs.flocking.parameters import SteeredParams, check_order
from dmdenv.envs.flocking.perception import Perception
from dmdenv.envs.flocking.predators import move_predators
from dmdenv.envs.flocking.rules import BoidSums, sum_boid_rules, sum_flight_rule, sum_obstacle_rule
from dmdenv.envs.flocking.starts import Start
from dmdenv.envs.flocking.state import EvadeState, FlockingState
from dmdenv.envs.neighborhood import Neighborhood, Sample
from dmdenv.envs.row_neighbors import RowNeighbors
from dmdenv.space import Free, Periodic, Space

S = TypeVar("S", bound=FlockingState | EvadeState)
P = TypeVar("P", bound=SteeredParams)

_RANGES = ("perception", *RULE_RANGES)  # how far boids look at each other


@dataclasses.dataclass(frozen=True)
class SteeredFlock(Env[S, P], Generic[S, P]):
    """Boids in a square, each turned by the agent, among obstacles and predators.

    Observation `[n, m]`, one row per boid, all in its own frame (x along the heading, y to its left) and in [-1, 1]:
    for each of the `nearest` boids: presence p, p x / R, p y / R, p cos and p sin of its heading relative to the
    boid's own, with the perception range R and p = (1 - r^2 / R^2)^2, so that nothing jumps when a neighbour comes
    into view; for each of the (at most) two nearest obstacles: p, p x / R, p y / R; for the nearest predator, where
    there are any, the same five as for a boid.

    Action `[n]`: turn rate of each boid, in units of `turn_rate`.

    Args:
        boids: number n of boids.
        obstacles: number of round obstacles, at random positions, of random range.
        predators: number of predators.
        space: "periodic", or "free": a plane without boundary.
        nearest: how many of its nearest neighbours a boid observes.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of boids.
        max_range_fraction: longest range, as a fraction of the box, for which the neighbour list is sized; None: that
            of `default_params`. Give it for parameters with a longer one, up to 0.5.
        slack: capacity of the neighbour list over what a random start needs; `enlarged` doubles it.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    boids: int = whole(32, at_least=2, at_most=MOST_PARTICLES)
    obstacles: int = whole(2, at_least=0, at_most=MOST_PARTICLES)
    predators: int = whole(0, at_least=0, at_most=MOST_PARTICLES)
    space: Literal["periodic", "free"] = choice("periodic", of=("periodic", "free"))
    nearest: int = whole(6, at_least=1, at_most=10**9)
    pairs: Literal["auto", "all", "list"] = choice("auto", of=("auto", "all", "list"))
    max_range_fraction: float | None = real(None, above=0, at_most=0.5, optional=True)
    slack: float = real(4.0, at_least=1)

    def validate(self, params: P) -> None:
        half = float(params.box) / 2
        ranges = {name: float(getattr(params, name)) for name in _RANGES}
        longest = max(ranges, key=ranges.__getitem__)
        if self.space == "periodic" and ranges[longest] > half:
            raise ValueError(f"{longest} = {ranges[longest]:g}; must be at most half the periodic box, {half:g}")
        check_order(params, "view_min", "view_max")
        check_order(params, "obstacle_min", "obstacle_max")

    def observation_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return self.perception.observation_space

    def action_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids,), np.float32)

    def space_of(self, params: P) -> Space:
        """Where the boids are."""
        return Periodic(params.box) if self.space == "periodic" else Free()

    @functools.cached_property
    def perception(self) -> Perception:
        """What a boid perceives."""
        return Perception(self.boids, self.nearest, min(self.obstacles, 2), self.predators > 0)

    @functools.cached_property
    def neighborhood(self) -> Neighborhood:
        """How boids find each other."""
        return flock_neighborhood(self.boids, self.pairs, self.slack, self.sample)

    def sample(self) -> Sample:
        """Boids as crowded as at a start, for which the neighbour list is sized."""
        params, fraction = self.default_params, self.max_range_fraction
        cutoff = longest_range(params, _RANGES) if fraction is None else fraction * params.box
        return Sample(self.space_of(params), self.sample_positions(params), float(cutoff))

    def sample_positions(self, params: P) -> jax.Array:
        """Positions `[n, 2]` of that sample: uniform in the box."""
        return params.box * jax.random.uniform(jax.random.key(0), (self.boids, 2))

    def row_neighbors_of(self, state: S, params: P, present: jax.Array) -> RowNeighbors:
        """Boids within the perception range that are `present` `[n]`."""
        ahead = direction(state.headings)
        left = jnp.stack([-ahead[:, 1], ahead[:, 0]], axis=-1)
        return RowNeighbors(
            space=self.space_of(params),
            positions=state.positions,
            frames=jnp.stack([ahead, left], axis=1),
            present=present.astype(ahead.dtype),
            range=params.perception,
            pairs=state.pairs,
        )

    # --- an episode -----------------------------------------------------------------------------------------------

    def initial_fields(self, start: Start, params: P) -> dict[str, Any]:
        """The fields of a state at the start of an episode, to be splatted into it."""
        space, cutoff = self.space_of(params), longest_range(params, _RANGES)
        pairs = self.neighborhood.find(space, start.positions, cutoff)
        overflow = self.neighborhood.incomplete(pairs, space, cutoff)
        return {"overflow": overflow, "pairs": pairs, **start._asdict()}

    def move(self, state: S, action: jax.Array, params: P, present: jax.Array | None = None) -> tuple[S, BoidSums]:
        """One step of those boids that are `present` `[n]` (None: all), and of the predators.

        Returns:
            The state after it, and what each boid felt of the others before it.
        """
        space, boids = self.space_of(params), Poses.of(state.positions, state.headings)
        among_boids = sum_boid_rules(space, boids, state.pairs, params, present)
        felt = [(among_boids.force, among_boids.torque)]
        if self.obstacles:
            felt.append(sum_obstacle_rule(space, boids, state.obstacles, params))
        if self.predators:
            felt.append(sum_flight_rule(space, boids, state.predators.positions, params))
        force, torque = (functools.reduce(jnp.add, parts) for parts in zip(*materialize(felt), strict=True))
        shift = params.dt * (params.speed * boids.u + force)
        turn = params.dt * (params.turn_rate * action + torque)
        if present is not None:
            shift, turn = jnp.where(present[:, None], shift, 0.0), jnp.where(present, turn, 0.0)
        positions, predators = space.shift(state.positions, shift), state.predators
        if self.predators:
            predators = move_predators(space, predators, state.positions, positions, state.obstacles, params, present)
        pairs = state.pairs.update(space, positions)
        moved = dataclasses.replace(
            state,
            positions=positions,
            headings=state.headings + turn,
            predators=predators,
            pairs=pairs,
            overflow=self.neighborhood.incomplete(pairs, space, longest_range(params, _RANGES)),
        )
        return moved, among_boids
