"""Align: boids that steer themselves into common motion.

n boids move in the plane at a common speed, each along its own heading. They follow Reynolds' three rules (alignment,
avoidance, cohesion, within a field of view) and keep away from obstacles and predators, each rule with its own
dynamic coefficients. In this task the alignment rule is off by default and the agent takes its place: from random
headings it has to bring the flock to a common direction by turn rates, and keep it there.

The equations of motion are in `dmdenv.envs.flocking.steered` and `dmdenv.envs.flocking.rules`.

References: Reynolds, SIGGRAPH 1987; `FlockingParams.reynolds` gives the coefficients of the flocking notebook of JAX MD
(Schoenholz and Cubuk, NeurIPS 2020).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline, Transition
from dmdenv.envs.flocking import baselines
from dmdenv.envs.flocking.parameters import FlockingParams
from dmdenv.envs.flocking.starts import scattered_boids
from dmdenv.envs.flocking.state import FlockingState
from dmdenv.envs.flocking.steered import SteeredFlock
from dmdenv.envs.row_neighbors import RowNeighbors
from dmdenv.space import norm


@dataclasses.dataclass(frozen=True)
class Flocking(SteeredFlock[FlockingState, FlockingParams]):
    """Boids in the plane, steered by turn rates. Task `align`.

    Observation `[n, m]` and action `[n]`: see `dmdenv.envs.flocking.steered.SteeredFlock`.

    Reward: `order_weight phi' + gain_weight (phi' - phi) - collision_weight C - effort_weight mean(a^2)`, where phi is
    the polar order |mean u| before and phi' after the step, and C the overlap per boid at the beginning of the step,
    the mean over i of sum_j max(0, 1 - r_ij / collision_range)^2.

    Metrics in `info`: `polar_order`, `collisions` (pairs closer than `collision_range`, per boid), `effort`.

    Fields and errors: see `SteeredFlock`.
    """

    @property
    def default_params(self) -> FlockingParams:
        """The task's parameters, with a box in which the density of boids is that of 32 boids in a box of 16."""
        return FlockingParams(box=max(16.0 * (self.boids / 32) ** 0.5, 10.0))

    def initial_state(self, key: jax.Array, params: FlockingParams) -> FlockingState:
        """Boids, obstacles and predators at uniformly random positions, with uniformly random headings."""
        start = scattered_boids(key, self.boids, self.obstacles, self.predators, params)
        return FlockingState(**self.initial_fields(start, params), polar_order=polar_order(start.headings))

    def advance(
        self, key: jax.Array, state: FlockingState, action: jax.Array, params: FlockingParams
    ) -> Transition[FlockingState]:
        moved, felt = self.move(state, action, params)
        order = polar_order(moved.headings)
        effort = jnp.mean(action**2)
        reward = (
            params.order_weight * order
            + params.gain_weight * (order - state.polar_order)
            - params.collision_weight * jnp.mean(felt.overlap)
            - params.effort_weight * effort
        )
        metrics = {"polar_order": order, "collisions": jnp.mean(felt.collisions), "effort": effort}
        return Transition(moved.replace(polar_order=order), reward, metrics=metrics)

    def observe(self, state: FlockingState, params: FlockingParams) -> jax.Array:
        return self.perception.observe(self.space_of(params), state, params)

    def row_neighbors(self, state: FlockingState, params: FlockingParams) -> RowNeighbors:
        return self.row_neighbors_of(state, params, jnp.ones(self.boids))

    def baselines(self, params: FlockingParams | None = None) -> dict[str, Baseline]:
        """`vicsek`: turn to the mean heading of oneself and the boids in view, as fast as possible."""
        params = self.default_params if params is None else params
        return {"vicsek": baselines.vicsek(self.perception, params)}

    def render(self, state: FlockingState, params: FlockingParams | None = None) -> np.ndarray:
        """The flock on a dark ground: boids coloured by heading, obstacles in grey, predators in red; 640 x 640."""
        from dmdenv.envs.flocking.drawing import draw_align

        return draw_align(self.space, state, self.default_params if params is None else params)


def polar_order(headings: jax.Array) -> jax.Array:
    """Polar order `|1/n sum_i u_i|` of headings `[n]`: 1 for a common one, about sqrt(pi / (4 n)) for random ones.

    Reference: Vicsek et al., Phys. Rev. Lett. 75, 1226 (1995), eq. 4.
    """
    return norm(jnp.stack([jnp.mean(jnp.cos(headings)), jnp.mean(jnp.sin(headings))]))
