"""Predators: they turn towards the boids they see, keep away from obstacles as a boid does, and sprint.

A predator with heading phi follows the cohesion rule, of strength `chase`, towards the mean position of the boids in
its field of view within `chase_range`. It sprints when a boid comes close and it has rested: its speed is
s + b exp(-t / t_s), t the time since its last sprint began.

Reference: the flocking notebook of JAX MD (Schoenholz and Cubuk, NeurIPS 2020).
"""

import jax
import jax.numpy as jnp

from dmdenv.envs.flocking.geometry import Poses, columns, locate
from dmdenv.envs.flocking.parameters import SteeredParams
from dmdenv.envs.flocking.rules import cohesion_torque, field_of_view, sum_obstacle_rule
from dmdenv.envs.flocking.state import Obstacles, Predators
from dmdenv.space import Space, norm, unit


def move_predators(
    space: Space,
    predators: Predators,
    boids: jax.Array,
    moved_boids: jax.Array,
    obstacles: Obstacles,
    params: SteeredParams,
    present: jax.Array | None = None,
) -> Predators:
    """The predators one step later.

    Args:
        space: where they are.
        predators: p predators.
        boids: positions of the boids that they chase, `[n, 2]`, unit length.
        moved_boids: positions of the boids after the step, `[n, 2]`, which may start a sprint.
        obstacles: the obstacles.
        params: strengths and ranges, speeds and times.
        present: bool `[n]`, which boids take part; None: all.
    """
    agents = Poses.of(predators.positions, predators.headings)
    u = agents.u
    center = _hunted_center(space, agents, boids, params, present)
    torque = cohesion_torque(params.chase, center, agents)
    force = _chase_force(params.chase, center, u)
    if obstacles.positions.shape[0]:
        push, turn = sum_obstacle_rule(space, agents, obstacles, params)
        force, torque = force + push, torque + turn
    since_sprint = _time_since_sprint(space, predators, moved_boids, params, present)
    speed = params.predator_speed + params.sprint_speed * jnp.exp(-since_sprint / params.sprint_time)
    return Predators(
        positions=space.shift(predators.positions, params.dt * (speed[:, None] * u + force)),
        headings=predators.headings + params.dt * torque,
        since_sprint=since_sprint,
    )


def _hunted_center(
    space: Space, agents: Poses, boids: jax.Array, params: SteeredParams, present: jax.Array | None
) -> jax.Array:
    """From each predator to the mean position of the boids that it sees, `[p, 2]`; 0 where it sees none."""
    seen = locate(space, columns(boids), agents)
    least, most = field_of_view(params)
    hunted = (seen.distance < params.chase_range) & (least <= seen.ahead) & (seen.ahead <= most)
    hunted = hunted if present is None else hunted & present[:, None]
    total = jnp.stack([jnp.sum(jnp.where(hunted, d, 0.0), axis=0) for d in (seen.x, seen.y)], axis=-1)
    count = jnp.maximum(jnp.sum(hunted, axis=0), 1)
    return total / count[:, None]


def _chase_force(strength: jax.Array, center: jax.Array, u: jax.Array) -> jax.Array:
    """`-J (1 - k) (u - k c) / |center|` with c the direction of `center` and k = c.u, `[p, 2]`.

    The energy of the chase depends on where the predator is, which pulls it aside a little.
    """
    c, distance = unit(center), norm(center)
    k = jnp.sum(c * u, axis=-1, keepdims=True)
    near = distance[:, None] > 0
    pull = -strength * (1 - k) * (u - k * c) / jnp.where(near, distance[:, None], 1.0)
    return jnp.where(near, pull, 0.0)


def _time_since_sprint(
    space: Space, predators: Predators, boids: jax.Array, params: SteeredParams, present: jax.Array | None
) -> jax.Array:
    """Time since the last sprint began, `[p]`: 0 where a boid is close and the predator has rested."""
    gap = norm(space.displacement(boids[None, :, :], predators.positions[:, None, :]))
    gap = gap if present is None else jnp.where(present[None, :], gap, jnp.inf)
    rested = predators.since_sprint > params.sprint_rest
    starts = (jnp.min(gap, axis=1) < params.sprint_range) & rested
    return jnp.where(starts, 0.0, predators.since_sprint + params.dt)
