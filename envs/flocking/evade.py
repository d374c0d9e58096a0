"""Evade: a flock that stays together and loses nobody to a predator, among obstacles.

The agent turns each of n boids, which move at a common speed; they keep apart by themselves, and neither align nor
draw together nor flee unless the agent makes them. A predator turns towards the boids that it sees and sprints when
one is near, by the rules in `boids.py`. A boid that comes closer to it than `catch_range` is lost: it stays
where it is, acts on nobody, and counts no more.

What is counted jumps; so that a gradient tells where to go, the reward also has a danger that grows smoothly as a
predator comes near, and it measures how far the flock is scattered by

    K = 1/n sum_i alive_i / (1 + d_i^2 / R^2)

with the distance d_i from the centre of the boids alive (in a periodic box: `dmdenv.quantities.center`).

References: Reynolds, SIGGRAPH 1987; the predator is that of the flocking notebook of JAX MD (Schoenholz and Cubuk,
NeurIPS 2020); why to stay together: Hamilton, "Geometry for the selfish herd", J. Theor. Biol. 31, 295 (1971).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline, Transition, parameter
from dmdenv.envs.flocking.boids import FlockingState, SteeredParams, direction
from dmdenv.envs.flocking.flock import NEIGHBOR_FEATURES, OBSTACLE_FEATURES, SteeredFlock, presence, seeds
from dmdenv.quantities import center
from dmdenv.space import Space, norm, squared_distance, unit


class EvadeParams(SteeredParams):
    """Dynamic parameters of the task `evade`."""

    cohesion: jax.Array = parameter(default=0.0, unit="energy", low=0, doc="J of the cohesion rule")
    flight: jax.Array = parameter(default=0.0, unit="energy", low=0, doc="J of flight from predators")
    box: jax.Array = parameter(
        default=24.0, unit="length", low=1e-6, doc="side of the square (in free space: of the start)"
    )
    perception: jax.Array = parameter(default=7.0, unit="length", low=1e-6, doc="how far a boid sees")
    chase: jax.Array = parameter(default=3.0, unit="energy", low=0, doc="J of the predators' chase")
    chase_range: jax.Array = parameter(default=10.0, unit="length", low=1e-6, doc="D of the predators' chase")
    predator_speed: jax.Array = parameter(default=1.2, unit="length/time", low=0, doc="a predator's speed at rest, s")
    sprint_time: jax.Array = parameter(default=2.0, unit="time", low=1e-6, doc="decay time of a sprint, t_s")
    sprint_rest: jax.Array = parameter(default=4.0, unit="time", low=0, doc="least time between sprints")
    start_radius: jax.Array = parameter(default=4.0, unit="length", low=1e-6, doc="of the flock at the start")
    start_distance: jax.Array = parameter(
        default=9.0, unit="length", low=0, doc="of the predators from the flock at the start"
    )
    catch_range: jax.Array = parameter(default=0.8, unit="length", low=0, doc="a boid closer to a predator is lost")
    danger_range: jax.Array = parameter(default=4.0, unit="length", low=1e-6, doc="where danger begins")
    together_range: jax.Array = parameter(
        default=5.0, unit="length", low=1e-6, doc="R, distance from the flock's centre that counts half"
    )
    survival_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of nobody lost, in a step")
    together_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of K = 1 in a step")
    danger_weight: jax.Array = parameter(default=1.0, unit="reward", low=0, doc="cost of all in full danger in a step")


class EvadeState(FlockingState):
    """Boids, obstacles and predators."""

    alive: jax.Array  # bool [n], not lost to a predator


@dataclasses.dataclass(frozen=True)
class Evade(SteeredFlock[EvadeState, EvadeParams]):
    """Boids that stay together and lose nobody to a predator. Task `evade`.

    Observation `[n, m]` and action `[n]`: see `SteeredFlock`. Lost boids are not seen, and their
    rows are zero.

    Reward: `survival_weight S + together_weight K - danger_weight X - collision_weight C - effort_weight E`. After the
    step: the share S of boids alive, and K as above. The danger X is the mean over the boids of
    alive_i sum_p (1 - r_ip^2 / D^2)^2 within D = `danger_range`, for those that were alive before the step. At its
    beginning: the overlap C, the mean of sum_j max(0, 1 - r_ij / collision_range)^2. E is the mean of alive_i a_i^2.

    An episode terminates when all are lost.

    Metrics in `info`: `survivors` (S), `together` (K over S, of those alive), `collisions` (pairs closer than
    `collision_range`, a boid), `effort`.

    Fields and errors: see `SteeredFlock`.
    """

    obstacles: int = 3
    predators: int = 1

    counts: ClassVar = {**SteeredFlock.counts, "predators": 1}

    @property
    def default_params(self) -> EvadeParams:
        """The task's parameters; flock and box grow with the number of boids, from 32 on."""
        growth = max(self.boids / 32, 1.0) ** 0.5
        return EvadeParams(
            box=24.0 * growth, start_radius=4.0 * growth, start_distance=9.0 * growth, together_range=5.0 * growth
        )

    def scattered(self, params: EvadeParams) -> jax.Array:
        return seeds(jax.random.key(0), self.boids, 0.8 * params.start_radius)

    # --- an episode -----------------------------------------------------------------------------------------------

    def initial_state(self, key: jax.Array, params: EvadeParams) -> EvadeState:
        """A flock somewhere, its headings 30 degrees about a common one; obstacles and predators on all sides of it."""
        n, o, p = self.boids, self.obstacles, self.predators
        seed_key, key = jax.random.split(key)
        draws = jax.random.uniform(key, (n + 3 * o + 2 * p + 3,))
        own, rest = draws[:n], draws[n + 3 :]
        middle, course = params.box * draws[None, n : n + 2], 2 * np.pi * draws[n + 2]
        sides, distances, sizes = rest[: 3 * o].reshape(3, o)
        first, toward = rest[3 * o :].reshape(2, p)
        positions = middle + seeds(seed_key, n, params.start_radius)
        least, most = params.start_radius + params.obstacle_max, params.box / 2
        distances = least + jnp.maximum(most - least, 0.0) * distances
        angles = 2 * np.pi * (jnp.arange(o) + sides) / max(o, 1)
        posts = 2 * np.pi * first
        space = self.space_of(params)
        positions = space.wrap(positions)
        pairs, overflow = self.neighbors(positions, params)
        return EvadeState(
            overflow=overflow,
            positions=positions,
            headings=course + np.pi / 3 * (own - 0.5),
            pairs=pairs,
            obstacles=space.wrap(middle + distances[:, None] * direction(angles)),
            obstacle_ranges=params.obstacle_min + (params.obstacle_max - params.obstacle_min) * sizes,
            predators=space.wrap(middle + params.start_distance * direction(posts)),
            predator_headings=posts + np.pi + np.pi / 3 * (toward - 0.5),
            since_sprint=jnp.zeros(p),
            alive=jnp.full(n, True),
        )

    def advance(
        self, key: jax.Array, state: EvadeState, action: jax.Array, params: EvadeParams
    ) -> Transition[EvadeState]:
        before = state.alive
        moved, rules = self.moved(state, action, params, before)
        space = self.space_of(params)
        distance = norm(space.displacement(moved.predators[None, :, :], moved.positions[:, None, :]))
        alive = before & jnp.all(distance >= params.catch_range, axis=1)
        moved = dataclasses.replace(moved, alive=alive)
        danger = jnp.where(before, jnp.sum(presence(distance, params.danger_range), axis=1), 0.0)
        together = togetherness(space, moved.positions, alive, params.together_range)
        survivors = jnp.mean(alive, dtype=together.dtype)
        effort = jnp.mean(jnp.where(before, action**2, 0.0))
        reward = (
            params.survival_weight * survivors
            + params.together_weight * together
            - params.danger_weight * jnp.mean(danger)
            - params.collision_weight * jnp.mean(rules["overlap"])
            - params.effort_weight * effort
        )
        metrics = {
            "survivors": survivors,
            "together": together / jnp.maximum(survivors, 1 / self.boids),
            "collisions": jnp.mean(rules["collisions"]),
            "effort": effort,
        }
        return Transition(moved, reward, ~jnp.any(alive), metrics)

    def observe(self, state: EvadeState, params: EvadeParams) -> jax.Array:
        return self.sensed(state, params, state.alive)

    # --- baselines and pictures -----------------------------------------------------------------------------------

    def baselines(self, params: EvadeParams | None = None) -> dict[str, Baseline]:
        """`reynolds`: turn to where alignment, cohesion, flight and obstacles together point, as fast as it goes.

        Reference: Reynolds, SIGGRAPH 1987, with weights found by trial.
        """
        params = self.default_params if params is None else params

        def reynolds(key: jax.Array, observation: jax.Array) -> jax.Array:
            boids = self.seen_boids(observation)
            rest = observation[:, self.nearest * NEIGHBOR_FEATURES :]
            obstacles = rest[:, :-NEIGHBOR_FEATURES].reshape(len(rest), min(self.obstacles, 2), OBSTACLE_FEATURES)
            predator = rest[:, -NEIGHBOR_FEATURES:]
            count = jnp.maximum(jnp.sum(boids[..., 0], axis=1), 1e-3)[:, None]
            want = (
                jnp.array([[0.3, 0.0]])  # straight on
                + jnp.sum(boids[..., 3:5], axis=1) / count
                + jnp.sum(boids[..., 1:3], axis=1) / count
                - 4.0 * predator[:, :1] * unit(predator[:, 1:3])
                - 2.0 * jnp.sum(obstacles[..., :1] ** 4 * unit(obstacles[..., 1:3]), axis=1)
            )
            return jnp.clip(jnp.arctan2(want[:, 1], want[:, 0]) / (params.turn_rate * params.dt), -1.0, 1.0)

        return {"reynolds": reynolds}

    def render(self, state: EvadeState, params: EvadeParams | None = None) -> np.ndarray:
        """Boids coloured by heading, lost ones as faint marks, obstacles in grey, predators in red; 640 x 640."""
        from dmdenv.envs.rendering import heading_colors

        params = self.default_params if params is None else params
        alive = np.asarray(state.alive)
        canvas = self.canvas(state, params, heading_colors(np.asarray(state.headings)), alive)
        for place in np.asarray(state.positions)[~alive]:
            canvas.cross(place, 0.5 * float(params.avoidance_range), "#aeb8d4", 0.35)
        for place in np.asarray(state.predators):
            canvas.disc(place, 0.0, "#ff4d5e", halo=float(params.catch_range))
        canvas.caption(f"alive {alive.sum()} of {self.boids}   step {int(state.time)}")
        return canvas.image()


def togetherness(space: Space, positions: jax.Array, alive: jax.Array, reach: jax.Array) -> jax.Array:
    """K of boids at `positions` `[n, 2]`, `[]`: 1 where all are alive and in one place."""
    middle = center(space, positions, jnp.where(alive, 1.0, 0.0))
    far = squared_distance(space, positions, jnp.broadcast_to(middle[None, :], positions.shape))
    return jnp.mean(jnp.where(alive, 1 / (1 + far / reach**2), 0.0))
