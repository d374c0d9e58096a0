"""What the tests of packings share: sums over pairs, scores of policies, random actions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from marks import OPTIMIZED


def score(env, episodes, seed=0):
    """Every policy on the same episodes, in one program: `{name: evaluation}`."""
    steps = int(env.default_params.max_steps)
    policies = {"zero": zero_policy(env), "random": random_policy(env), **env.baselines()}

    @functools.partial(jax.jit, compiler_options=OPTIMIZED)
    def run(chosen, key):
        def policy(key, observation):
            return jnp.stack([policy(key, observation) for policy in policies.values()])[chosen]

        return evaluate(env, policy, key, episodes=episodes, steps=steps)

    return {name: run(i, jax.random.key(seed)) for i, name in enumerate(policies)}


def mean(values):
    return float(np.mean(values))


def last(evaluation, metric):
    return np.asarray(evaluation.metrics[metric][:, -1])


def by_pairs(positions, diameters, side, alpha):
    """Energy, pressure, largest force and contacts of each particle, pair by pair."""
    n, d = positions.shape
    energy, virial, forces, touching = 0.0, 0.0, np.zeros((n, d)), np.zeros((n, n), bool)
    for i in range(n):
        for j in range(i):
            r = positions[i] - positions[j]
            r -= side * np.round(r / side)
            distance, sigma = np.linalg.norm(r), 0.5 * (diameters[i] + diameters[j])
            if distance < sigma:
                overlap = 1 - distance / sigma
                energy += overlap**alpha / alpha
                force = overlap ** (alpha - 1) / sigma
                virial += force * distance
                forces[i] += force * r / distance
                forces[j] -= force * r / distance
                touching[i, j] = touching[j, i] = True
    return energy / n, virial / (d * side**d), np.max(np.linalg.norm(forces, axis=1)), touching


def without_rattlers(touching, dimension):
    """The mean contact number of the particles that are held."""
    while len(touching):
        held = touching.sum(axis=1) > dimension
        if held.all():
            return touching.sum() / len(touching)
        touching = touching[held][:, held]
    return 0.0


def wander(env, steps, instances):
    """Random actions; whether all was finite and in the space of observations."""
    params = env.default_params.replace(max_steps=50)

    @jax.jit
    def run(key):
        def step(states, key):
            keys = jax.random.split(key, (2, instances))
            actions = jax.vmap(lambda key: jax.random.uniform(key, env.action_shape, minval=-1, maxval=1))(keys[0])
            obs, states, reward, _, _, info = jax.vmap(env.step, (0, 0, 0, None))(keys[1], states, actions, params)
            seen = jnp.stack([obs, info["final_observation"]])
            inside = jnp.all((seen >= -1) & (seen <= 1)) & jnp.all(jnp.isfinite(reward))
            return states, (inside, jnp.any(info["nonfinite"]), jnp.any(info["overflow"]))

        states = jax.vmap(env.reset, (0, None))(jax.random.split(key, instances), params)[1]
        return jax.lax.scan(step, states, jax.random.split(key, steps))[1]

    inside, nonfinite, overflow = run(jax.random.key(0))
    assert np.all(inside) and not np.any(nonfinite) and not np.any(overflow)
