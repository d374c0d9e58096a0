"""Where episodes start: pools of relaxed packings, of which each episode takes a random symmetric copy."""

import itertools

import jax
import jax.numpy as jnp

from dmdenv.envs.soft_sphere_packing.diameters import Diameters, choose_diameters, count_choices, side_of_box
from dmdenv.envs.soft_sphere_packing.packing import bidisperse, discs, solid_volume
from dmdenv.envs.soft_sphere_packing.parameters import DESIGN_FRACTION, JAMMING, design_params
from dmdenv.envs.soft_sphere_packing.properties import Property, measure_property
from dmdenv.minimizers import FIRE, minimize
from dmdenv.space import Periodic

POOL = 64  # packings in a pool


def loose_packings(particles: int, dimension: int) -> jax.Array:
    """Packings without contacts up to 0.93 of the jamming fraction, `[POOL, n, d]`, in units of the box."""
    return relax_random_positions(particles, dimension, 1.4, 0.93 * JAMMING[dimension])


def compressed_packings(
    particles: int, dimension: int, diameters: Diameters, target: Property
) -> tuple[jax.Array, jax.Array]:
    """Packings at the middle diameters and packing fraction of `design`.

    Returns:
        `(positions, property)`: `[POOL, n, d]`, in units of the box; `[POOL]`, the targeted property.
    """
    params, fraction = design_params(dimension, diameters, target), DESIGN_FRACTION[dimension]
    ratio = 0.5 * float(params.diameter_min + params.diameter_max) if diameters == "populations" else 1.0
    positions = relax_random_positions(particles, dimension, ratio, fraction)
    middle = jnp.zeros(count_choices(diameters, particles))
    sizes = choose_diameters(
        middle, jnp.asarray(fraction), params, diameters=diameters, particles=particles, dimension=dimension
    )
    potential, side = discs(sizes, params.alpha), side_of_box(particles, dimension)
    space = Periodic(jnp.asarray(side))
    known = jax.jit(jax.vmap(lambda x: measure_property(target, potential, space, side * x)[0]))(positions)
    return positions, known


def relax_random_positions(particles: int, dimension: int, ratio: float, fraction: float) -> jax.Array:
    """Random positions, minimised by FIRE; in units of the box, `[POOL, n, d]`.

    Args:
        particles: n.
        dimension: d.
        ratio: of the diameters of the two halves.
        fraction: packing fraction.
    """
    diameters = bidisperse(particles, ratio)
    side = (solid_volume(diameters, dimension) / fraction) ** (1 / dimension)
    space, potential, minimizer = Periodic(side), discs(diameters), FIRE(dt=0.1, max_displacement=0.1)

    def one(positions: jax.Array) -> jax.Array:
        state = minimizer.init(potential, space, side * positions)
        return minimize(minimizer, potential, state, tolerance=1e-5, max_steps=1000).state.positions / side

    return jax.jit(jax.vmap(one))(jax.random.uniform(jax.random.key(0), (POOL, particles, dimension)))


def apply_random_symmetry(key: jax.Array, positions: jax.Array) -> jax.Array:
    """The same packing, shifted, reflected and with its axes exchanged, at random; in units of the box, `[n, d]`."""
    d = positions.shape[1]
    draws = jax.random.uniform(key, (2 * d + 1,))
    orders = jnp.asarray(list(itertools.permutations(range(d))))
    order = orders[jnp.minimum((draws[-1] * len(orders)).astype(int), len(orders) - 1)]
    signs = jnp.where(draws[d : 2 * d] < 0.5, -1.0, 1.0)
    copy = signs[None, :] * positions[:, order] + draws[None, :d]
    return copy - jnp.floor(copy)
