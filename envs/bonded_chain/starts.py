"""Initial conformations of chains: pools in equilibrium with the default parameters, by Langevin dynamics."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.bonded_chain.chain import anchored_chain, flexible_chain, jointed_chain, place_beads, rotate, simulate
from dmdenv.envs.bonded_chain.parameters import ChainFoldParams, ChainReachParams, ChainSwimParams
from dmdenv.envs.bonded_chain.shapes import BOND
from dmdenv.integrators import Langevin
from dmdenv.potentials import Potential
from dmdenv.space import Free

POOL = 32  # chains in a pool


def anchored_chains(beads: int) -> tuple[jax.Array, jax.Array]:
    """Anchored chains with random rest angles: positions `[POOL, n, 2]`, rest angles `[POOL, n - 2]`, unit radian."""
    params = ChainReachParams()
    draw, bath = jax.random.split(jax.random.key(2))
    rest_angles = 0.4 * jax.random.normal(draw, (POOL, beads - 2))
    rest_angles = jnp.clip(rest_angles, -params.max_rest_angle, params.max_rest_angle)
    starts = place_beads(rest_angles) - jnp.array([[[1.0, 0.0]]])
    positions = equilibrate(
        functools.partial(anchored_chain, params), rest_angles, starts, bath,
        temperature=float(params.temperature), friction=2.0, dt=0.0125, steps=1500,
    )  # fmt: skip
    return positions, rest_angles


def straight_chains(beads: int) -> jax.Array:
    """Jointed chains without rest angles, centred at the origin and with their ends along x, `[POOL, n, 2]`."""
    params = ChainSwimParams()
    rest_angles = jnp.zeros((POOL, beads - 2))
    positions = equilibrate(
        functools.partial(jointed_chain, params), rest_angles, place_beads(rest_angles), jax.random.key(1),
        temperature=float(params.temperature), friction=1.0, dt=0.04, steps=2000,
    )  # fmt: skip
    positions = positions - jnp.mean(positions, axis=1, keepdims=True)
    ends = positions[:, -1] - positions[:, 0]
    return jax.vmap(rotate)(positions, -jnp.arctan2(ends[:, 1], ends[:, 0]))


def flexible_chains(beads: int) -> jax.Array:
    """Flexible chains without an external field, centred at the origin, `[POOL, n, 2]`."""
    params = ChainFoldParams()
    draw, bath = jax.random.split(jax.random.key(3))
    angles = jnp.abs(0.3 * jax.random.normal(draw, (POOL, beads - 2)))
    zigzag = np.where(np.arange(beads - 2) % 2 == 0, 1.0, -1.0)  # it does not cross itself
    starts = BOND * place_beads(angles * jnp.asarray(zigzag, angles.dtype)[None])
    positions = equilibrate(
        lambda _: flexible_chain(params, beads), angles, starts, bath,
        temperature=float(params.temperature), friction=0.5, dt=0.01, steps=max(3000, 20 * beads**2),
    )  # fmt: skip
    return positions - jnp.mean(positions, axis=1, keepdims=True)


def equilibrate(
    potential_of: Callable[[jax.Array], Potential],
    rest_angles: jax.Array,
    starts: jax.Array,
    key: jax.Array,
    *,
    temperature: float,
    friction: float,
    dt: float,
    steps: int,
) -> jax.Array:
    """Chains after some time in a heat bath.

    Args:
        potential_of: the potential of a chain from its rest angles.
        rest_angles: `[m, n - 2]`, unit radian.
        starts: `[m, n, 2]`, unit length.
        key: consumed.
        temperature: unit energy.
        friction: unit 1 / time; equilibrium does not depend on it.
        dt: time step, unit time.
        steps: how many.

    Returns:
        Positions `[m, n, 2]`.
    """
    method = Langevin(dt=dt, temperature=temperature, friction=friction)

    def one(rest_angles: jax.Array, positions: jax.Array, key: jax.Array) -> jax.Array:
        potential = potential_of(rest_angles)
        motion = method.init(potential, Free(), positions, key=key)
        return simulate(method, potential, motion, steps).positions

    return jax.jit(jax.vmap(one))(rest_angles, starts, jax.random.split(key, len(starts)))
