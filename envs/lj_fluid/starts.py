"""Where episodes of `lj_fluid` begin: liquids in equilibrium, from a pool, in a box into which the crystal fits."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import scan
from dmdenv.envs.base import CapacityExceeded
from dmdenv.integrators import Langevin
from dmdenv.lattice import random
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones
from dmdenv.space import Periodic

# on a CPU a list is faster from about 100 particles on; up to a few more, all pairs cannot overflow
ALL_PAIRS_UP_TO = 128
SKIN = 0.4  # how much farther than the cutoff a neighbour list reaches, unit length

_POOL = 32  # members, of up to 100 particles each; fewer larger ones
_TIME_STEPS = np.repeat([0.002, 0.01], [400, 1000])  # short ones where particles still overlap, unit time


def box_shape(particles: int) -> np.ndarray:
    """The sides of the box, `[2]`, over the square root of its area: those of a triangular lattice with as many sites.

    The lattice has an even number of rows along x, sqrt(3) / 2 of the distance in a row apart. Of those that fill a box
    the one that is nearest to a square is taken; where none is near, a square, into which no crystal fits.
    """
    rows = [m for m in range(2, particles + 1, 2) if particles % m == 0]
    ratios = [particles / m / (m * math.sqrt(3) / 2) for m in rows]  # of the sides
    ratio = min(ratios, key=lambda x: abs(math.log(x)), default=1.0)
    ratio = ratio if 1 / 1.6 < ratio < 1.6 else 1.0
    return np.array([math.sqrt(ratio), 1 / math.sqrt(ratio)])


def liquids(particles: int, density: float, temperature: float, cutoff: float) -> np.ndarray:
    """A pool of configurations in equilibrium, `[count, n, 2]`, coordinates as fractions of the box.

    Random arrangements that Langevin dynamics at the temperature equilibrates.

    Raises:
        CapacityExceeded: when a liquid is so uneven that its neighbour list overflows.
    """
    count = max(4, min(_POOL, 100 * _POOL // particles))
    space = Periodic(jnp.asarray(box_shape(particles)) * math.sqrt(particles / density))
    keys = jax.random.split(jax.random.key(particles), count)
    starts = [random(particles, key=keys[k], density=density, dimension=2, min_distance=0.9) for k in range(count)]
    # in NumPy, which has nothing to compile
    positions = np.stack([np.asarray(r) / np.asarray(square.box) for square, r in starts]) * np.asarray(space.box)
    potential = lennard_jones(cutoff=cutoff, truncation="force_shifted")
    pairs = AllPairs()
    if particles > ALL_PAIRS_UP_TO:
        pairs = allocate(space, positions[0], cutoff=cutoff, skin=SKIN, slack=2.0)

    @jax.jit
    @jax.vmap
    def equilibrate(positions, key):
        method = Langevin(dt=_TIME_STEPS[0], temperature=temperature, friction=1.0)

        def step(state, dt):
            return method.replace(dt=dt).step(potential, state), None

        state = method.init(potential, space, positions, pairs=pairs, key=key)
        state, _ = scan(step, state, jnp.asarray(_TIME_STEPS))
        return space.fractional(space.wrap(state.positions)), state.overflow

    fractions, overflow = equilibrate(positions, jax.random.split(jax.random.key(particles + 1), count))
    if np.any(overflow):
        raise CapacityExceeded("lj_fluid: the neighbour list that equilibrates the pool is too small")
    return np.asarray(fractions)


def move_at_random(key: jax.Array, fractions: jax.Array) -> jax.Array:
    """A configuration translated, reflected and renumbered at random: as likely as before, as the box is symmetric.

    Args:
        key: consumed.
        fractions: `[n, 2]`, coordinates as fractions of the box.

    Returns:
        `[n, 2]`, from 0 to below 1.
    """
    numbers = jax.random.uniform(key, (5,))
    mirror = jnp.where(numbers[:2] < 0.5, -1.0, 1.0)
    first = jnp.int32(numbers[4] * fractions.shape[0])
    moved = mirror[None, :] * jnp.roll(fractions, first, axis=0) + numbers[None, 2:4]
    return moved - jnp.floor(moved)
