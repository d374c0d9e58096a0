"""Which boids may interact: how far the rules reach, and the neighbourhood that is made for it."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from dmdenv.envs.flocking.parameters import BoidParams
from dmdenv.envs.neighborhood import Neighborhood, Sample

RULE_RANGES = ("alignment_range", "avoidance_range", "cohesion_range", "collision_range")
_ALL_PAIRS_UP_TO = 64  # boids; `benchmarks/env_throughput.py --crossover` compares


def longest_range(params: BoidParams, names: tuple[str, ...] = RULE_RANGES) -> jax.Array:
    """The longest of some ranges, float [], unit length."""
    return functools.reduce(jnp.maximum, [getattr(params, name) for name in names])


def flock_neighborhood(
    boids: int, pairs: Literal["auto", "all", "list"], slack: float, sample: Callable[[], Sample]
) -> Neighborhood:
    """The neighbourhood of a flock whose list is sized for a sample of it."""
    return Neighborhood(
        particles=boids,
        pairs=pairs,
        crossover=_ALL_PAIRS_UP_TO,
        slack=slack,
        skin=0.25,
        skin_unit="cutoff",
        sample=sample,
        remedy="a range of the parameters is too long; must be at most half the side of a periodic box, and in the"
        " course of an episode at most that at its reset",
    )
