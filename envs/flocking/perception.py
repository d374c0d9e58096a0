"""What a boid perceives: one row of the observation, in the boid's own frame (x along its heading, y to its left).

That boids react to a fixed number of nearest neighbours: Ballerini et al., PNAS 105, 1232 (2008).
"""

import dataclasses
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.materialize import materialize
from dmdenv.envs.flocking.geometry import Poses, Sighting, columns, direction, locate
from dmdenv.envs.flocking.parameters import SteeredParams
from dmdenv.envs.flocking.state import EvadeState, FlockingState, Obstacles, Predators
from dmdenv.neighbors import nearest
from dmdenv.neighbors.particles_last import take
from dmdenv.space import Space

_POSE_FEATURES = 5  # presence, position (2), heading (2)
_OBSTACLE_FEATURES = 3  # presence, position (2)


class Perceived(NamedTuple):
    """An observation of n boids by what it shows. All but a presence p is weighted with it."""

    boids: jax.Array  # [n, k, 5]: p, position (2), heading (2)
    obstacles: jax.Array  # [n, o, 3]: p, position (2) of the edge
    predator: jax.Array  # [n, 5], as of a boid; [n, 0] where there are no predators


@dataclasses.dataclass(frozen=True)
class Perception:
    """The layout of an observation `[n, m]`.

    Args:
        boids: n.
        nearest: how many of its nearest neighbours a boid perceives, k.
        obstacles: how many of the nearest obstacles, o.
        predator: whether the nearest predator.
    """

    boids: int
    nearest: int
    obstacles: int
    predator: bool

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The space of observations."""
        width = self.nearest * _POSE_FEATURES + self.obstacles * _OBSTACLE_FEATURES + self.predator * _POSE_FEATURES
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids, width), np.float32)

    def observe(
        self,
        space: Space,
        state: FlockingState | EvadeState,
        params: SteeredParams,
        present: jax.Array | None = None,
    ) -> jax.Array:
        """What boids that are `present` `[n]` (None: all) perceive of each other; rows of the others are zero."""
        boids = Poses.of(state.positions, state.headings)
        slots = nearest(space, state.positions, state.pairs, self.nearest, present=present).T
        features = [_perceive_boids(space, boids, slots, params)]
        if self.obstacles:
            features.append(_perceive_obstacles(space, boids, state.obstacles, params, self.obstacles))
        if self.predator:
            features.append(_perceive_predator(space, boids, state.predators, params))
        rows = [jnp.stack(part, axis=-1).swapaxes(0, 1).reshape(self.boids, -1) for part in materialize(features)]
        rows = jnp.concatenate(rows, axis=1)
        return rows if present is None else jnp.where(present[:, None], rows, 0.0)

    def split(self, observation: jax.Array) -> Perceived:
        """An observation `[n, m]` by what it shows."""
        n, first = len(observation), self.nearest * _POSE_FEATURES
        second = first + self.obstacles * _OBSTACLE_FEATURES
        return Perceived(
            boids=observation[:, :first].reshape(n, self.nearest, _POSE_FEATURES),
            obstacles=observation[:, first:second].reshape(n, self.obstacles, _OBSTACLE_FEATURES),
            predator=observation[:, second:],
        )


def presence(distance: jax.Array, max_range: jax.Array) -> jax.Array:
    """`(1 - r^2 / R^2)^2` inside the range R, 0 outside: once differentiable everywhere."""
    return jnp.maximum(1 - (distance * (1 / max_range)) ** 2, 0.0) ** 2


def select_nearest(distance: jax.Array, features: list[jax.Array], k: int) -> list[jax.Array]:
    """Features `[m, n]` at the k smallest of `distance` `[m, n]` along m, nearest first, `[k, n]` each."""
    distance = jax.lax.stop_gradient(distance)
    rows = []
    for _ in range(k):  # k and m are a handful: cheaper than a sort, and without gather
        chosen = jnp.arange(len(distance))[:, None] == jnp.argmin(distance, axis=0)[None, :]
        rows.append([jnp.sum(jnp.where(chosen, feature, 0.0), axis=0) for feature in features])
        distance = jnp.where(chosen, jnp.inf, distance)
    return [jnp.stack(column) for column in zip(*rows, strict=True)]


def _perceive_boids(space: Space, boids: Poses, slots: jax.Array, params: SteeredParams) -> list[jax.Array]:
    """The boids with indices `slots` `[k, n]`, a boid's own where there is none: five features, `[k, n]` each."""
    x, y, ux, uy = materialize([take(a, slots) for a in boids])
    seen = locate(space, (x, y), boids)
    own = slots == jnp.arange(len(boids.x))[None, :]
    p = jnp.where(own, 0.0, presence(seen.distance, params.perception))
    return _pose_features(p, seen, (ux, uy), boids, params.perception)


def _perceive_obstacles(
    space: Space, boids: Poses, obstacles: Obstacles, params: SteeredParams, k: int
) -> list[jax.Array]:
    """The k obstacles whose edge is nearest: three features, `[k, n]` each."""
    seen = locate(space, columns(obstacles.positions), boids)
    gap = jnp.maximum(seen.distance - obstacles.ranges[:, None], 0.0)
    p = presence(gap, params.perception)
    weight = p * gap / params.perception
    return select_nearest(gap, [p, weight * seen.ahead, weight * seen.left], k)


def _perceive_predator(space: Space, boids: Poses, predators: Predators, params: SteeredParams) -> list[jax.Array]:
    """The nearest predator: five features, `[1, n]` each."""
    seen = locate(space, columns(predators.positions), boids)
    headings = columns(direction(predators.headings))
    p = presence(seen.distance, params.perception)
    return select_nearest(seen.distance, _pose_features(p, seen, headings, boids, params.perception), 1)


def _pose_features(
    p: jax.Array, seen: Sighting, headings: tuple[jax.Array, jax.Array], boids: Poses, max_range: jax.Array
) -> list[jax.Array]:
    """p, and p times positions over the range and headings in the frames of the boids, `[m, n]` each."""
    scale = 1 / max_range
    vectors = (seen.x * scale, seen.y * scale), headings
    return [p, *(p * component for vector in vectors for component in boids.in_frame(*vector))]
