"""Initial states: boids that are scattered, that fly together, or that graze, and what surrounds them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.flocking.geometry import direction
from dmdenv.envs.flocking.parameters import EvadeParams, FlockingParams, ShepherdParams
from dmdenv.envs.flocking.state import Obstacles, Predators
from dmdenv.space import Space

_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


class Start(NamedTuple):
    """A flock among obstacles and predators."""

    positions: jax.Array  # [n, 2], unit length
    headings: jax.Array  # [n], angle
    obstacles: Obstacles
    predators: Predators


def sunflower_positions(key: jax.Array, n: int, radius: jax.Array) -> jax.Array:
    """Positions `[n, 2]` that fill a disc around 0 evenly, as the seeds of a sunflower do, turned at random.

    Each is displaced at random by up to a distance at which it does not meet another one.

    Reference: Vogel, Math. Biosci. 44, 179 (1979).
    """
    k, draws = jnp.arange(n), 2 * np.pi * jax.random.uniform(key, (n + 1,))
    positions = radius * ((k + 0.5) / n)[:, None] ** 0.5 * direction(_GOLDEN_ANGLE * k + draws[n])
    return positions + 0.3 * radius / n**0.5 * direction(draws[:n])


def scattered_boids(key: jax.Array, boids: int, obstacles: int, predators: int, params: FlockingParams) -> Start:
    """Everything at independent uniform positions in the box, with independent uniform headings."""
    n, o, p = boids, obstacles, predators
    # one draw of a flat array: every random call costs compile time, and more so with axes
    draws = jax.random.uniform(key, (3 * (n + o + p),)).reshape(-1, 3)
    positions, headings = params.box * draws[:, :2], 2 * np.pi * draws[:, 2]
    return Start(
        positions=positions[:n],
        headings=headings[:n],
        obstacles=Obstacles(positions[n : n + o], _obstacle_ranges(draws[n : n + o, 2], params)),
        predators=Predators(positions[n + o :], headings[n + o :], jnp.zeros(p)),
    )


def hunted_flock(
    key: jax.Array, boids: int, obstacles: int, predators: int, space: Space, params: EvadeParams
) -> Start:
    """A disc of boids somewhere in the box, headings within 30 degrees of a common one.

    Obstacles are on all sides of it, predators at `start_distance`, heading for it within 30 degrees.
    """
    n, o, p = boids, obstacles, predators
    disc_key, key = jax.random.split(key)
    draws = jax.random.uniform(key, (n + 3 * o + 2 * p + 3,))
    spread, rest = draws[:n], draws[n + 3 :]
    middle, course = params.box * draws[None, n : n + 2], 2 * np.pi * draws[n + 2]
    turns, distances, sizes = rest[: 3 * o].reshape(3, o)
    sides, courses = rest[3 * o :].reshape(2, p)
    least, most = params.start_radius + params.obstacle_max, params.box / 2
    distances = least + jnp.maximum(most - least, 0.0) * distances
    angles = 2 * np.pi * (jnp.arange(o) + turns) / max(o, 1)
    sides = 2 * np.pi * sides
    return Start(
        positions=space.wrap(middle + sunflower_positions(disc_key, n, params.start_radius)),
        headings=course + np.pi / 3 * (spread - 0.5),
        obstacles=Obstacles(
            space.wrap(middle + distances[:, None] * direction(angles)), _obstacle_ranges(sizes, params)
        ),
        predators=Predators(
            positions=space.wrap(middle + params.start_distance * direction(sides)),
            headings=sides + np.pi + np.pi / 3 * (courses - 0.5),
            since_sprint=jnp.zeros(p),
        ),
    )


def grazing_flock(
    key: jax.Array, boids: int, herders: int, params: ShepherdParams
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A loose disc of boids at `start_distance` from the goal, on a random side of it, with random headings.

    Returns:
        Positions `[n, 2]` and headings `[n]` of the boids; positions `[h, 2]` of the herders, evenly along the edge of
        the goal, and their headings `[h]`, away from its centre.
    """
    disc_key, key = jax.random.split(key)
    draws = 2 * np.pi * jax.random.uniform(key, (boids + 2,))
    headings, side, first = draws[:boids], draws[boids], draws[boids + 1]
    disc = sunflower_positions(disc_key, boids, params.start_radius)
    positions = params.start_distance * direction(side)[None, :] + disc
    angles = first + 2 * np.pi / herders * jnp.arange(herders)
    return positions, headings, params.goal_radius * direction(angles), angles


def _obstacle_ranges(draws: jax.Array, params: FlockingParams | EvadeParams) -> jax.Array:
    return params.obstacle_min + (params.obstacle_max - params.obstacle_min) * draws
