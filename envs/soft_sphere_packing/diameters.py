"""The diameters that an action of the task `design` chooses."""

from typing import Literal

import jax
import jax.numpy as jnp

from dmdenv.envs.soft_sphere_packing.packing import bidisperse, solid_volume
from dmdenv.envs.soft_sphere_packing.parameters import PackingDesignParams

Diameters = Literal["populations", "each"]


def count_choices(diameters: Diameters, particles: int) -> int:
    """The number m of diameters to choose."""
    return 1 if diameters == "populations" else particles


def choose_diameters(
    action: jax.Array,
    fraction: jax.Array,
    params: PackingDesignParams,
    *,
    diameters: Diameters,
    particles: int,
    dimension: int,
) -> jax.Array:
    """The diameters that an action means at a packing fraction, `[n]`, in a box of volume n.

    Args:
        action: `[m]`, in [-1, 1]: from `diameter_min` to `diameter_max`.
        fraction: phi, `[]`; it determines a common factor of all diameters.
        params: the range of diameters.
        diameters: which of them the action chooses.
        particles: n.
        dimension: d.
    """
    low, high = params.diameter_min, params.diameter_max
    chosen = low + 0.5 * (1.0 + action) * (high - low)
    relative = bidisperse(particles, chosen[0]) if diameters == "populations" else chosen
    volume = fraction * side_of_box(particles, dimension) ** dimension
    return relative * (volume / solid_volume(relative, dimension)) ** (1 / dimension)


def extreme_actions(diameters: Diameters, particles: int) -> list[jax.Array]:
    """Actions of which one makes the longest diameter."""
    if diameters == "populations":
        return [jnp.full(1, -1.0), jnp.full(1, 1.0)]
    return [jnp.full(particles, -1.0).at[0].set(1.0)]  # one large among small ones


def side_of_box(particles: int, dimension: int) -> float:
    """The side of a box of volume n, unit length."""
    return particles ** (1 / dimension)
