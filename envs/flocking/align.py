"""Flocking: boids that steer themselves into common motion.

n boids move in the plane at a common speed, each along its own heading. They follow Reynolds' three rules (alignment,
avoidance, cohesion, within a field of view) and keep away from obstacles and predators, each rule with its own
dynamic coefficients. In the task `align` the alignment rule is off by default and the agent takes its place: from
random headings it has to bring the flock to a common direction by turn rates, and keep it there.

The equations of motion are in `dmdenv.envs.flocking.flock` and `dmdenv.envs.flocking.boids`.

References: Reynolds, SIGGRAPH 1987; `FlockingParams.reynolds` gives the coefficients of the flocking notebook of JAX MD
(Schoenholz and Cubuk, NeurIPS 2020).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline, Transition
from dmdenv.envs.flocking.boids import FlockingParams, FlockingState, polar_order
from dmdenv.envs.flocking.flock import SteeredFlock


@dataclasses.dataclass(frozen=True)
class Flocking(SteeredFlock[FlockingState, FlockingParams]):
    """Boids in the plane, steered by turn rates. Task `align`.

    Observation `[n, m]` and action `[n]`: see `dmdenv.envs.flocking.flock.SteeredFlock`.

    Reward: `order_weight phi' + gain_weight (phi' - phi) - collision_weight C - effort_weight mean(a^2)`, where phi is
    the polar order |mean u| before and phi' after the step, and C the overlap a boid at the beginning of the step,
    the mean over i of sum_j max(0, 1 - r_ij / collision_range)^2.

    Metrics in `info`: `polar_order`, `collisions` (pairs closer than `collision_range`, a boid), `effort`.

    Fields and errors: see `SteeredFlock`.
    """

    @property
    def default_params(self) -> FlockingParams:
        """The task's parameters, with a box in which the density of boids is that of 32 boids in a box of 16."""
        return FlockingParams(box=max(16.0 * (self.boids / 32) ** 0.5, 10.0))

    def initial_state(self, key: jax.Array, params: FlockingParams) -> FlockingState:
        """Boids, obstacles and predators at uniformly random places, with uniformly random headings."""
        n, o, p = self.boids, self.obstacles, self.predators
        # one draw of a flat array: every random call costs compile time, and more so with axes
        draws = jax.random.uniform(key, (3 * (n + o + p),)).reshape(-1, 3)
        places, angles = params.box * draws[:, :2], 2 * np.pi * draws[:, 2]
        positions = places[:n]
        pairs, overflow = self.neighbors(positions, params)
        return FlockingState(
            overflow=overflow,
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
        moved, rules = self.moved(state, action, params)
        before, after = polar_order(state.headings), polar_order(moved.headings)
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
        return self.sensed(state, params)

    def baselines(self, params: FlockingParams | None = None) -> dict[str, Baseline]:
        """`vicsek`: turn to the mean heading of oneself and the boids in view, as fast as it goes.

        Reference: Vicsek et al., Phys. Rev. Lett. 75, 1226 (1995), eq. 2, without noise.
        """
        params = self.default_params if params is None else params

        def vicsek(key: jax.Array, observation: jax.Array) -> jax.Array:
            seen = self.seen_boids(observation)
            ahead, left = jnp.sum(seen[..., 3], axis=1), jnp.sum(seen[..., 4], axis=1)  # p cos, p sin
            return jnp.clip(jnp.arctan2(left, 1.0 + ahead) / (params.turn_rate * params.dt), -1.0, 1.0)

        return {"vicsek": vicsek}

    def render(self, state: FlockingState, params: FlockingParams | None = None) -> np.ndarray:
        """The flock on a dark ground: boids coloured by heading, obstacles in grey, predators in red; 640 x 640."""
        from dmdenv.envs.rendering import heading_colors

        params = self.default_params if params is None else params
        canvas = self.canvas(state, params, heading_colors(np.asarray(state.headings)))
        canvas.caption(f"order {float(polar_order(state.headings)):.2f}   step {int(state.time)}")
        return canvas.image()
