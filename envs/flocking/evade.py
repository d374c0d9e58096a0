"""Evade: a flock that stays together and loses no boid to the predator, among obstacles.

The agent turns each of n boids, which move at a common speed; they keep apart by themselves, and neither align nor
draw together nor flee unless the agent makes them. A predator turns towards the boids that it sees and sprints when
one is near, by the rules in `dmdenv.envs.flocking.predators`. A boid that comes closer to it than `catch_range` is
lost: it stays where it is, acts on no other boid, and counts no more.

What is counted jumps; so that a gradient tells where to go, the reward also has a danger that grows smoothly as a
predator comes near, and it measures how far the flock is scattered by

    K = 1/n sum_i alive_i / (1 + d_i^2 / R^2)

with the distance d_i from the centre of the boids alive (in a periodic box: `dmdenv.quantities.center`).

References: Reynolds, SIGGRAPH 1987; the predator is that of the flocking notebook of JAX MD (Schoenholz and Cubuk,
NeurIPS 2020); why to stay together: Hamilton, "Geometry for the selfish herd", J. Theor. Biol. 31, 295 (1971).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, whole
from dmdenv.envs.base import Baseline, Transition
from dmdenv.envs.flocking import baselines
from dmdenv.envs.flocking.parameters import EvadeParams
from dmdenv.envs.flocking.perception import presence
from dmdenv.envs.flocking.starts import hunted_flock, sunflower_positions
from dmdenv.envs.flocking.state import EvadeState
from dmdenv.envs.flocking.steered import SteeredFlock
from dmdenv.envs.row_neighbors import RowNeighbors
from dmdenv.quantities import center
from dmdenv.space import Space, norm, squared_distance


@dataclasses.dataclass(frozen=True)
class Evade(SteeredFlock[EvadeState, EvadeParams]):
    """Boids that stay together and lose no boid to the predator. Task `evade`.

    Observation `[n, m]` and action `[n]`: see `dmdenv.envs.flocking.steered.SteeredFlock`. Lost boids are not seen, and
    their rows are zero.

    Reward: `survival_weight S + together_weight K - danger_weight X - collision_weight C - effort_weight E`. After the
    step: the share S of boids alive, and K as above. The danger X is the mean over the boids of
    alive_i sum_p (1 - r_ip^2 / D^2)^2 within D = `danger_range`, for those that were alive before the step. At its
    beginning: the overlap C, the mean of sum_j max(0, 1 - r_ij / collision_range)^2. E is the mean of alive_i a_i^2.

    An episode terminates when all are lost.

    Metrics in `info`: `survivors` (S), `together` (K over S, of those alive), `collisions` (pairs closer than
    `collision_range`, per boid), `effort`.

    Fields and errors: see `SteeredFlock`.
    """

    obstacles: int = whole(3, at_least=0, at_most=MOST_PARTICLES)
    predators: int = whole(1, at_least=1, at_most=MOST_PARTICLES)

    @property
    def default_params(self) -> EvadeParams:
        """The task's parameters; flock and box grow with the number of boids, from 32 on."""
        growth = max(self.boids / 32, 1.0) ** 0.5
        return EvadeParams(
            box=24.0 * growth, start_radius=4.0 * growth, start_distance=9.0 * growth, together_range=5.0 * growth
        )

    def sample_positions(self, params: EvadeParams) -> jax.Array:
        """Somewhat closer than at the start."""
        return sunflower_positions(jax.random.key(0), self.boids, 0.8 * params.start_radius)

    def initial_state(self, key: jax.Array, params: EvadeParams) -> EvadeState:
        """A flock on its way, with obstacles and predators around it."""
        start = hunted_flock(key, self.boids, self.obstacles, self.predators, self.space_of(params), params)
        return EvadeState(**self.initial_fields(start, params), alive=jnp.full(self.boids, True))

    def advance(
        self, key: jax.Array, state: EvadeState, action: jax.Array, params: EvadeParams
    ) -> Transition[EvadeState]:
        before, space = state.alive, self.space_of(params)
        moved, felt = self.move(state, action, params, before)
        distance = norm(space.displacement(moved.predators.positions[None, :, :], moved.positions[:, None, :]))
        alive = before & jnp.all(distance >= params.catch_range, axis=1)
        danger = jnp.where(before, jnp.sum(presence(distance, params.danger_range), axis=1), 0.0)
        together = togetherness(space, moved.positions, alive, params.together_range)
        survivors = jnp.mean(alive, dtype=together.dtype)
        effort = jnp.mean(jnp.where(before, action**2, 0.0))
        reward = (
            params.survival_weight * survivors
            + params.together_weight * together
            - params.danger_weight * jnp.mean(danger)
            - params.collision_weight * jnp.mean(felt.overlap)
            - params.effort_weight * effort
        )
        metrics = {
            "survivors": survivors,
            "together": together / jnp.maximum(survivors, 1 / self.boids),
            "collisions": jnp.mean(felt.collisions),
            "effort": effort,
        }
        return Transition(moved.replace(alive=alive), reward, ~jnp.any(alive), metrics)

    def observe(self, state: EvadeState, params: EvadeParams) -> jax.Array:
        return self.perception.observe(self.space_of(params), state, params, state.alive)

    def row_neighbors(self, state: EvadeState, params: EvadeParams) -> RowNeighbors:
        return self.row_neighbors_of(state, params, state.alive)

    def baselines(self, params: EvadeParams | None = None) -> dict[str, Baseline]:
        """`reynolds`: turn to where alignment, cohesion, flight and obstacles together point, as fast as possible."""
        params = self.default_params if params is None else params
        return {"reynolds": baselines.reynolds(self.perception, params)}

    def render(self, state: EvadeState, params: EvadeParams | None = None) -> np.ndarray:
        """Boids coloured by heading, lost ones as faint marks, obstacles in grey, predators in red; 640 x 640."""
        from dmdenv.envs.flocking.drawing import draw_evade

        return draw_evade(self.space, state, self.default_params if params is None else params)


def togetherness(space: Space, positions: jax.Array, alive: jax.Array, half_range: jax.Array) -> jax.Array:
    """K of boids at `positions` `[n, 2]`, `[]`: 1 where all are alive and in one place, R = `half_range`."""
    middle = center(space, positions, jnp.where(alive, 1.0, 0.0))
    squared = squared_distance(space, positions, jnp.broadcast_to(middle[None, :], positions.shape))
    return jnp.mean(jnp.where(alive, 1 / (1 + squared / half_range**2), 0.0))
