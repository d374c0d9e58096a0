"""Policies worth beating in the tasks of `bonded_chain`; what each does is said by `env.baselines`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline
from dmdenv.envs.bonded_chain.chain import QUARTER_TURN, divisor, group_indices, place_beads
from dmdenv.envs.bonded_chain.parameters import ChainFoldParams, ChainReachParams, ChainSwimParams

# found by searches with the default parameters (docs/bonded_chain.md)
LEAD = 1.0  # of `inverse`: how far it looks ahead, unit time
GAIN = 2.0  # of `transpose`, unit 1 / time
AMPLITUDE, WAVE_NUMBER, FREQUENCY = 1.0, 1.0, 1.9  # of a stroke, over max_rest_angle; radian per joint; radian per time
BEND = 0.3  # of `steered`, over max_rest_angle, per radian off the course
STIFFNESS = 8.0  # of the force on a group, unit energy / length^2


def reach_policies(params: ChainReachParams, beads: int) -> dict[str, Baseline]:
    """`inverse`, `transpose`, `constant` of `reach`; see `ChainReach.baselines`."""
    R, step = beads - 2, params.turn_rate * params.period

    def parts(observation: jax.Array) -> tuple[jax.Array, ...]:
        """Positions of the beads from the root on, rest angles, position and velocity of the target."""
        positions = jnp.concatenate([jnp.zeros((1, 2)), R * observation[: 2 * R].reshape(R, 2)])
        rest = observation[4 * R :]
        velocity = 2 * R * params.target_rate * rest[R + 2 : R + 4]
        return positions, params.max_rest_angle * rest[:R], R * rest[R : R + 2], velocity

    def jacobian(positions: jax.Array) -> jax.Array:
        """The derivative of the tip's position by each joint's angle, `[R, 2]`."""
        return (positions[-1:] - positions[:-1]) @ QUARTER_TURN.astype(positions.dtype)

    def solve_damped(J: jax.Array, error: jax.Array) -> jax.Array:
        return J @ jnp.linalg.solve(J.T @ J + 0.02 * R**2 * jnp.eye(2), error)

    def inverse(key: jax.Array, observation: jax.Array) -> jax.Array:
        _, rest_angles, target, velocity = parts(observation)
        positions = place_beads(rest_angles)[1:] - jnp.array([[1.0, 0.0]])  # at rest, which the chain follows
        error, J = target + LEAD * velocity - positions[-1], jacobian(positions)
        change = solve_damped(J, error)
        inside = jnp.abs(rest_angles + step * jnp.sign(change)) < params.max_rest_angle
        change = solve_damped(jnp.where(inside[:, None], J, 0.0), error)  # without joints that would leave their range
        rates = change / step
        return rates / jnp.maximum(1.0, jnp.max(jnp.abs(rates)))

    def transpose(key: jax.Array, observation: jax.Array) -> jax.Array:
        positions, _, target, _ = parts(observation)
        pull = jacobian(positions) @ (target - positions[-1])
        return jnp.clip(GAIN * pull / R**2 / params.turn_rate, -1.0, 1.0)

    return {"inverse": inverse, "transpose": transpose, "constant": lambda key, observation: jnp.ones(R)}


def swim_policies(params: ChainSwimParams, beads: int) -> dict[str, Baseline]:
    """`wave`, `steered`, `reciprocal`, `constant` of `swim`; see `ChainSwim.baselines`."""
    joints = jnp.arange(beads - 2.0)

    def phase(observation: jax.Array) -> jax.Array:
        return FREQUENCY * observation[-1] * params.max_steps * params.period

    def wave(key: jax.Array, observation: jax.Array, bend: float = 0.0) -> jax.Array:
        ahead = jnp.where(observation[0] >= 0, 1.0, -1.0)  # which end leads
        off_course = jnp.arctan2(observation[1], jnp.abs(observation[0])) * ahead  # from the axis that leads to +x
        stroke = AMPLITUDE * jnp.sin(ahead * WAVE_NUMBER * joints + phase(observation))
        return jnp.clip(stroke + bend * off_course, -1.0, 1.0)

    return {
        "wave": wave,
        "steered": functools.partial(wave, bend=BEND),
        "reciprocal": lambda key, observation: jnp.full(beads - 2, AMPLITUDE * jnp.sin(phase(observation))),
        "constant": lambda key, observation: jnp.full(beads - 2, AMPLITUDE),
    }


def fold_policies(params: ChainFoldParams, beads: int, groups: int) -> dict[str, Baseline]:
    """`steered`, `constant` of `fold`; see `ChainFold.baselines`."""
    members = group_indices(beads, groups)
    share = (members[None] == np.arange(groups)[:, None]) / np.bincount(members)[:, None]
    pull = np.where(np.arange(groups) < groups / 2, -0.1, 0.1)

    def steered(key: jax.Array, observation: jax.Array) -> jax.Array:
        away = 0.5 * beads * observation[4 * beads :].reshape(beads, 2)
        mean = jnp.asarray(share, away.dtype) @ away
        return jnp.clip(STIFFNESS * mean / divisor(params.force), -1.0, 1.0).reshape(-1)

    return {
        "steered": steered,
        "constant": lambda key, observation: jnp.stack([jnp.asarray(pull), jnp.zeros(groups)], 1).reshape(-1),
    }
