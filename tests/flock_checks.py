"""What the tests of the tasks with boids check in the same way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.policies import random_policy, zero_policy


def return_of_32_steps(env, key, **fixed):
    """`total(point, params)`: the rewards of an episode and a term of its observations, from a reset on.

    `point` has the `actions` `[32, ...]` and what is added to fields of the initial state, of which some are `fixed`.
    """

    def total(point, params):
        _, state = env.reset(key, params)
        moved = {name: getattr(state, name) + change for name, change in point.items() if name != "actions"}
        state = dataclasses.replace(state, **moved, **fixed)

        def one(state, action):
            obs, state, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
            return state, reward + 0.1 * jnp.mean(jnp.sin(3 * obs))

        return jnp.sum(jax.lax.scan(one, state, point["actions"])[1])

    return total


def assert_gradient_agrees(total, point, params, *, h=1e-6, tolerance=1e-5):
    """The gradient of `total(point, params)` against central differences, to a relative tolerance.

    Each leaf of `point` along a random direction, and every parameter by itself but the number of steps; one-sided
    differences where a parameter is at the end of its range.
    """
    value = jax.jit(total)
    by_point, by_params = jax.jit(jax.grad(total, argnums=(0, 1)))(point, params)
    for name, leaf in point.items():
        along = jax.random.normal(jax.random.key(len(name)), leaf.shape)
        up, down = (value({**point, name: leaf + sign * h * along}, params) for sign in (1, -1))
        assert float(jnp.linalg.norm(by_point[name])) > 0, name
        np.testing.assert_allclose(jnp.vdot(by_point[name], along), (up - down) / (2 * h), rtol=tolerance, err_msg=name)
    for field in dataclasses.fields(params):
        if field.name == "max_steps":
            continue
        x = float(getattr(params, field.name))
        low, high = max(x - h, field.metadata["low"]), min(x + h, field.metadata["high"])
        up, down = (value(point, params.replace(**{field.name: at})) for at in (high, low))
        expected, found = float(up - down) / (high - low), float(getattr(by_params, field.name))
        allowed = tolerance if high - low > 1.5 * h else 100 * tolerance
        assert abs(found - expected) < allowed * max(abs(expected), 1e-2), (field.name, found, expected)


def assert_random_steps_are_sound(env, *, instances, steps, chunk=50):
    """Random actions with resets: no NaN, no overflow, observations in their space."""
    params = env.default_params.replace(max_steps=min(int(env.default_params.max_steps), steps // 2))

    @jax.jit
    def run(key, states):
        def one(states, key):
            action_key, key = jax.random.split(key)
            actions = jax.random.uniform(action_key, (instances, *env.action_shape), minval=-1, maxval=1)
            keys = jax.random.split(key, instances)
            obs, states, reward, *_, info = jax.vmap(env.step, (0, 0, 0, None))(keys, states, actions, params)
            faults = jnp.any(info["nonfinite"]) | jnp.any(info["overflow"]) | ~jnp.all(jnp.isfinite(reward))
            return states, (faults | ~jnp.all(jnp.isfinite(obs)), jnp.max(jnp.abs(obs)))

        states, (faults, largest) = jax.lax.scan(one, states, jax.random.split(key, chunk))
        return states, jnp.any(faults), jnp.max(largest)

    states = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), instances), params)[1]
    for t in range(0, steps, chunk):
        states, faulty, largest = run(jax.random.key(t), states)
        assert not faulty and largest <= 1.0


def evaluations(env, episodes):
    """Whole episodes under doing nothing, chance and the baselines, `{name: Evaluation}`; one program for all."""
    policies = {"zero": zero_policy(env), "random": random_policy(env), **env.baselines()}
    steps = int(env.default_params.max_steps)

    @jax.jit
    def run(index):
        def policy(key, observation):
            return jax.lax.switch(index, list(policies.values()), key, observation)

        return evaluate(env, policy, jax.random.key(0), episodes=episodes, steps=steps)

    return {name: run(index) for index, name in enumerate(policies)}


def recorded(env, params, actions, key, view=lambda state: state.positions):
    """Observations, rewards, overflow flags and views of the state in an episode with given actions `[steps, ...]`."""

    def one(state, action):
        obs, state, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
        return state, (obs, reward, state.overflow, view(state))

    return jax.jit(lambda: jax.lax.scan(one, env.reset(key, params)[1], actions)[1])()
