"""Policies worth beating in the tasks of `soft_sphere_packing`; what each does is said by `env.baselines`."""

import jax
import jax.numpy as jnp

from dmdenv.envs.base import Baseline
from dmdenv.envs.soft_sphere_packing.diameters import Diameters, count_choices
from dmdenv.envs.soft_sphere_packing.parameters import PackingCompressParams
from dmdenv.envs.soft_sphere_packing.properties import Property

MODULUS = 0.3  # dp / d ln(phi) of a harmonic packing in 2-D near jamming, about
STILL = -1.0  # the action without agitation

# (dimension, diameters, target): the first action of `gradient` as a linear function of 1 and of what is observed of
# target, property and packing fraction, found by gradient ascent
FIRST: dict[tuple[int, str, str], tuple[float, ...]] = {
    (2, "populations", "energy"): (0.02, 0.81, -0.37, -0.88),
    (2, "populations", "pressure"): (0.03, 1.41, -0.45, -0.88),
}


def compress_policies(params: PackingCompressParams, target: str) -> dict[str, Baseline]:
    """`constant`, `feedback`, `anneal` of `compress`; see `PackingCompress.baselines`."""

    def to_fraction(observation: jax.Array) -> jax.Array:
        """The relative change of the packing fraction that leads to phi*."""
        return -jnp.log1p(params.fraction_scale / params.target_fraction * observation[2])

    def to_target(observation: jax.Array) -> jax.Array:
        """The relative change of the packing fraction that leads to the target."""
        if target == "packing_fraction":
            return to_fraction(observation)
        wanted, floor = params.target_pressure, params.pressure_floor
        pressure = floor * ((wanted + floor) / floor) ** (1.0 + observation[1]) - floor
        return jnp.where(observation[2] < -0.1, jnp.inf, (wanted - pressure) / MODULUS)

    def constant(key: jax.Array, observation: jax.Array) -> jax.Array:
        steps_left = jnp.maximum(params.max_steps * (1.0 - observation[0]), 1.0)
        rate = to_fraction(observation) / steps_left / params.strain
        return jnp.stack([jnp.clip(rate, -1.0, 1.0), jnp.asarray(STILL)])

    def feedback(key: jax.Array, observation: jax.Array) -> jax.Array:
        return jnp.stack([jnp.clip(to_target(observation) / params.strain, -1.0, 1.0), jnp.asarray(STILL)])

    def anneal(key: jax.Array, observation: jax.Array) -> jax.Array:
        energy = 10.0 ** (4.0 * (observation[4] - 1.0))
        enough = energy < params.energy_scale * (0.5 + 0.6 * observation[0])
        rest = (observation[0] > 0.9) | (enough & (jnp.abs(observation[2]) < 1e-3))
        return feedback(key, observation).at[1].set(jnp.where(rest, STILL, 1.0))

    policies: dict[str, Baseline] = {"constant": constant, "feedback": feedback}
    return policies | ({"anneal": anneal} if target == "packing_fraction" else {})


def design_policies(particles: int, dimension: int, diameters: Diameters, target: Property) -> dict[str, Baseline]:
    """`random_search`, `feedback`, `gradient` of `design`; see `PackingDesign.baselines`."""
    choices = count_choices(diameters, particles)

    def random_search(key: jax.Array, observation: jax.Array) -> jax.Array:
        near = jnp.abs(observation[1] - observation[2]) < 0.1 + 0.3 * observation[0]
        fresh = jax.random.uniform(key, (choices,), minval=-1.0, maxval=1.0)
        return jnp.where(near, observation[4:], fresh)

    def feedback(key: jax.Array, observation: jax.Array) -> jax.Array:
        missing = observation[1] - observation[2]
        if diameters == "populations":
            return jnp.clip(observation[4:] + 0.5 * missing, -1.0, 1.0)
        pattern = jnp.where(jnp.arange(particles) < particles // 2, 1.0, -1.0)  # half of them large, half small
        return jnp.clip(jnp.vdot(pattern, observation[4:]) / particles - missing, 0.0, 1.0) * pattern

    def gradient(key: jax.Array, observation: jax.Array) -> jax.Array:
        weights = jnp.asarray(FIRST[dimension, diameters, target])
        first = jnp.clip(weights[:1] + jnp.sum(weights[1:] * observation[1:4], keepdims=True), -1.0, 1.0)
        return jnp.where(observation[0] > 0, feedback(key, observation), first)

    policies: dict[str, Baseline] = {"random_search": random_search}
    if target in ("energy", "pressure"):
        policies["feedback"] = feedback
    if (dimension, diameters, target) in FIRST:
        policies["gradient"] = gradient
    return policies
