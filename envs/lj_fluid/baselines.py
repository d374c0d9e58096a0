"""Policies worth beating in the tasks of `lj_fluid`; what each does is said by `env.baselines`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dmdenv.envs.base import Baseline
from dmdenv.envs.lj_fluid.parameters import AnnealParams, DragParams

FRICTION = 13.0  # xi of a particle in the liquid of the default parameters of `drag`, unit energy time / length^2


def anneal_policies(params: AnnealParams, substeps: int) -> dict[str, Baseline]:
    """`quench`, `constant`, `linear`, `exponential` of `anneal`; see `LJAnneal.baselines`.

    Their coefficients, over the starting temperature, were found by a search for the default parameters.
    """
    T = params.temperature
    schedules = {
        "quench": lambda s: params.temperature_min,
        "constant": lambda s: T / 8.0,
        "linear": lambda s: T * 0.625 * (1.0 - s / 0.75),
        "exponential": lambda s: T * jnp.exp(-s / 0.15),
    }
    return {name: follow_schedule(schedule, params, substeps) for name, schedule in schedules.items()}


def follow_schedule(schedule: Callable[[jax.Array], jax.Array], params: AnnealParams, substeps: int) -> Baseline:
    """The policy of `anneal` that follows a schedule of the bath as fast as the rate allows.

    Args:
        schedule: the temperature, `[]`, unit energy, at a fraction of the time from 0 to 1, `[]`.
        params: give the rate and the range of the temperature.
        substeps: of the environment.
    """
    low, high = params.temperature_min, params.temperature_max
    largest_change = params.rate * params.dt * substeps

    def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
        now = low + 0.5 * (observation[1] + 1.0) * (high - low)
        target = jnp.clip(schedule(observation[0] + 1.0 / params.max_steps), low, high)
        return jnp.clip((target - now) / largest_change, -1.0, 1.0)[None]

    return policy


def drag_policies(params: DragParams, substeps: int) -> dict[str, Baseline]:
    """`linear`, `jumps`, `feedback` of `drag`; see `LJDrag.baselines`."""
    z = params.stiffness * params.max_steps * substeps * params.dt / FRICTION  # k t / xi

    def elapsed(observation: jax.Array) -> jax.Array:
        return observation[0] + 1.0 / params.max_steps  # fraction of the time, at the end of the step

    def restart(observation: jax.Array) -> jax.Array:
        particle = 2.0 * observation[1] + observation[3]
        return particle + (1.0 - particle) / (2.0 + z * (1.0 - observation[0]))

    protocols = {
        "linear": elapsed,
        "jumps": lambda observation: (1.0 + z * elapsed(observation)) / (2.0 + z),
        "feedback": restart,
    }
    return {name: follow_protocol(protocol, params, substeps) for name, protocol in protocols.items()}


def follow_protocol(protocol: Callable[[jax.Array], jax.Array], params: DragParams, substeps: int) -> Baseline:
    """The policy of `drag` that moves the trap by a protocol as fast as the trap can, at its nominal stiffness.

    Args:
        protocol: where the trap is to be at the end of the step, over L, `[]`, by the observation before it, `[7]`.
        params: give the speed and L.
        substeps: of the environment.
    """
    largest_step = params.speed * params.dt * substeps

    def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
        to_go = protocol(observation) - 2.0 * observation[1]
        return jnp.stack([jnp.clip(params.distance * to_go / largest_step, -1.0, 1.0), jnp.zeros_like(to_go)])

    return policy
