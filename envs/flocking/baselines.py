"""Policies worth beating: Vicsek's, Reynolds' and Stroembom's rules, each from what an agent observes."""

import jax
import jax.numpy as jnp

from dmdenv.envs.base import Baseline
from dmdenv.envs.flocking.geometry import cross
from dmdenv.envs.flocking.herders import HerderView
from dmdenv.envs.flocking.parameters import EvadeParams, FlockingParams, ShepherdParams
from dmdenv.envs.flocking.perception import Perception
from dmdenv.space import norm, unit

_ARC = 1.0  # angle between neighbouring herders that drive, as seen from the flock
_STANDOFF = 0.35  # how far from those that it drives or fetches a herder stays, over the flight range
_ASIDE = 0.5  # angle by which a herder goes around the flock at a time


def vicsek(perception: Perception, params: FlockingParams) -> Baseline:
    """Turn to the mean heading of oneself and the boids in view, as fast as possible.

    Reference: Vicsek et al., Phys. Rev. Lett. 75, 1226 (1995), eq. 2, without noise.
    """

    def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
        boids = perception.split(observation).boids
        ahead, left = jnp.sum(boids[..., 3], axis=1), jnp.sum(boids[..., 4], axis=1)  # p cos, p sin
        return jnp.clip(jnp.arctan2(left, 1.0 + ahead) / (params.turn_rate * params.dt), -1.0, 1.0)

    return policy


def reynolds(perception: Perception, params: EvadeParams) -> Baseline:
    """Turn to where alignment, cohesion, flight and obstacles together point, as fast as possible.

    Reference: Reynolds, SIGGRAPH 1987, with weights found by trial.
    """

    def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
        boids, obstacles, predator = perception.split(observation)
        count = jnp.maximum(jnp.sum(boids[..., 0], axis=1), 1e-3)[:, None]
        wanted = (
            jnp.array([[0.3, 0.0]])  # straight on
            + jnp.sum(boids[..., 3:5], axis=1) / count
            + jnp.sum(boids[..., 1:3], axis=1) / count
            - 4.0 * predator[:, :1] * unit(predator[:, 1:3])
            - 2.0 * jnp.sum(obstacles[..., :1] ** 4 * unit(obstacles[..., 1:3]), axis=1)
        )
        return jnp.clip(jnp.arctan2(wanted[:, 1], wanted[:, 0]) / (params.turn_rate * params.dt), -1.0, 1.0)

    return policy


def stroembom(view: HerderView, boids: int, params: ShepherdParams) -> Baseline:
    """Fetch the boid that has strayed, or else drive the flock from behind.

    The herder nearest to a boid that is farther than r_a n^(2/3) from the flock's centre (r_a is half the avoidance
    range) goes behind it, as seen from there. All others, or all, stand behind the flock, as seen from the goal, on
    an arc, in the order of their angles; on the way they keep away from the flock. When all are in the goal they
    rest.

    Reference: Stroembom et al., J. R. Soc. Interface 11, 20140719 (2014): to collect and to drive, by one herder.
    """
    r_a, standoff = params.avoidance_range / 2, _STANDOFF * params.flight_range

    def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
        h = len(observation)
        goal, center, stray, spread, _, others = view.split(observation, params)
        # driving: side by side on an arc behind the flock, whose edge is at sqrt(2) times its spread
        behind = unit(center - goal)
        drive = 2**0.5 * spread + standoff
        bearing = _bearing(behind, -center)
        rank = jnp.sum(_bearing(behind[:, None, :], others - center[:, None, :]) < bearing[:, None], axis=1)
        post = center + drive[:, None] * _rotate(behind, _ARC * (rank - (h - 1) / 2))
        # collecting
        strayed = norm(stray - center) > r_a * boids ** (2 / 3)
        first = norm(stray) <= jnp.min(norm(stray[:, None, :] - others), axis=1, initial=jnp.inf)
        target = jnp.where((strayed & first)[:, None], stray + standoff * unit(stray - center), post)
        # around the flock, not through it
        out = unit(-center)
        aside = _bearing(out, target - center)
        radius = jnp.maximum(norm(target - center), drive)
        waypoint = center + radius[:, None] * _rotate(out, jnp.clip(aside, -_ASIDE, _ASIDE))
        target = jnp.where((jnp.abs(aside) > _ASIDE)[:, None], waypoint, target)
        arrived = norm(stray - goal) < params.goal_radius
        action = jnp.where(arrived[:, None], 0.0, target / (params.herder_speed * params.dt))
        return action / jnp.maximum(norm(action), 1.0)[:, None]

    return policy


def _bearing(axis: jax.Array, vectors: jax.Array) -> jax.Array:
    """The angles of vectors `[..., 2]` from an axis `[..., 2]`, to its left."""
    axis = jnp.broadcast_to(axis, vectors.shape)
    return jnp.arctan2(cross(axis, vectors), jnp.sum(axis * vectors, axis=-1))


def _rotate(vectors: jax.Array, angles: jax.Array) -> jax.Array:
    """Vectors `[..., 2]` turned to the left by angles `[...]`."""
    c, s = jnp.cos(angles), jnp.sin(angles)
    x, y = vectors[..., 0], vectors[..., 1]
    return jnp.stack([c * x - s * y, s * x + c * y], axis=-1)
