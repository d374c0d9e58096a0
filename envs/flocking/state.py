"""States of the tasks, and what they are made of."""

import jax

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.envs.base import State, derived
from dmdenv.neighbors import Pairs

_UPDATE = "state.pairs.update(space, positions)"


@pytree
class Obstacles(Replaceable):
    """o round obstacles at rest."""

    positions: jax.Array  # float [o, 2], unit length
    ranges: jax.Array  # float [o], D of the obstacle rule, unit length


@pytree
class Predators(Replaceable):
    """p predators."""

    positions: jax.Array  # float [p, 2], unit length
    headings: jax.Array  # float [p], angle
    since_sprint: jax.Array  # float [p], time since the last sprint began


@pytree
class Herd(Replaceable):
    """What is measured of n boids that are driven to a goal, once per step."""

    distances: jax.Array  # float [n], from the goal's centre, unit length
    share: jax.Array  # float [], G: the share of boids in the goal, with a smooth edge
    center: jax.Array  # float [2], centre of mass, unit length
    spread: jax.Array  # float [], root mean square distance from the centre of mass, unit length
    farthest: jax.Array  # float [2], position of the boid farthest from the centre of mass, unit length


class FlockingState(State):
    """Task `align`: n boids among obstacles and predators."""

    positions: jax.Array  # float [n, 2], unit length
    headings: jax.Array  # float [n], angle
    pairs: Pairs = derived("positions", by=_UPDATE)  # which boids may interact
    obstacles: Obstacles
    predators: Predators
    polar_order: jax.Array = derived(
        "headings", by="dmdenv.envs.flocking.align.polar_order"
    )  # float [], |1/n sum_i u_i|


class EvadeState(State):
    """Task `evade`: n boids, some of them lost, among obstacles and predators."""

    positions: jax.Array  # float [n, 2], unit length
    headings: jax.Array  # float [n], angle
    alive: jax.Array  # bool [n], not lost to a predator
    pairs: Pairs = derived("positions", by=_UPDATE)  # which boids may interact
    obstacles: Obstacles
    predators: Predators


class ShepherdState(State):
    """Task `shepherd`: n boids and h herders."""

    positions: jax.Array  # float [n, 2], unit length
    headings: jax.Array  # float [n], angle
    pairs: Pairs = derived("positions", by=_UPDATE)  # which boids may interact
    herders: jax.Array  # float [h, 2], positions, unit length
    herder_headings: jax.Array  # float [h], angle, for pictures: where a herder went last
    herd: Herd = derived("positions", by="dmdenv.envs.flocking.herders.measure_herd")
