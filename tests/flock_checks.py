"""Flocks that tests share, and what the tests of all tasks with boids check in the same way."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import dmdenv
from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.envs.flocking.align import polar_order
from dmdenv.envs.flocking.herders import measure_herd
from dmdenv.envs.flocking.parameters import FlockingParams

KEY = jax.random.key(0)


def make(task, **config):
    return dmdenv.make_env("flocking", task=task, **config)


# Their `reset` and `step_env` are compiled once in a process, as long as every test takes them from here. A file asks
# for float64, or for float32, as a whole: the cached states have the precision of their first use.


@functools.cache
def notebook_flock(pairs="all"):
    """Task `align` with everything in it, and the parameters of JAX MD's notebook, in a small box: `env, params`."""
    env = make("align", boids=20, obstacles=3, predators=3, nearest=3, pairs=pairs, max_range_fraction=0.49)
    return env, FlockingParams.reynolds(box=150.0, perception=70.0, turn_rate=0.0)


@functools.cache
def hunted_crowd(pairs="all"):
    """Task `evade`: a dense flock with predators beside it, all rules at work: `env, params, state`."""
    env = make("evade", boids=20, obstacles=3, predators=3, nearest=3, pairs=pairs)
    params = env.default_params.replace(
        start_distance=4.0, start_radius=2.0, alignment=0.5, cohesion=0.5, flight=2.0, collision_range=1.2
    )
    return env, params, env.reset(jax.random.key(1), params)[1]


@functools.cache
def driven_crowd():
    """Task `shepherd`, with a list: boids close to herders, some of which stand in the flock: `env, params, state`."""
    env = make("shepherd", boids=20, herders=3, pairs="list")
    params = env.default_params.replace(start_distance=5.0, alignment=0.5, collision_range=2.5)
    return env, params, env.reset(jax.random.key(1), params)[1]


def measured(state, params):
    """The state with what is measured of it once per step measured anew."""
    if hasattr(state, "herd"):
        return state.replace(herd=measure_herd(state.positions, params))
    return state.replace(polar_order=polar_order(state.headings)) if hasattr(state, "polar_order") else state


# --- gradients --------------------------------------------------------------------------------------------------------


def return_of_32_steps(env, key, **fixed):
    """`total(point, params)`: the rewards of an episode and a term of its observations, from a reset on.

    `point` has the `actions` `[32, ...]` and what is added to fields of the initial state, of which some are `fixed`.
    """

    def total(point, params):
        _, state = env.reset(key, params)
        moved = {
            name: jax.tree.map(jnp.add, getattr(state, name), change)
            for name, change in point.items()
            if name != "actions"
        }
        state = measured(dataclasses.replace(state, **moved, **fixed), params)

        def one(state, action):
            obs, state, reward, *_ = env.step_env(KEY, state, action, params)
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
    leaves, tree = jax.tree.flatten(point)
    for k, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(by_point), strict=True)):
        along = jax.random.normal(jax.random.key(k), leaf.shape)
        moved = ([*leaves[:k], leaf + sign * h * along, *leaves[k + 1 :]] for sign in (1, -1))
        up, down = (value(jax.tree.unflatten(tree, leaves), params) for leaves in moved)
        assert float(jnp.linalg.norm(slope)) > 0, k
        np.testing.assert_allclose(jnp.vdot(slope, along), (up - down) / (2 * h), rtol=tolerance, err_msg=str(k))
    for field in dataclasses.fields(params):
        if field.name == "max_steps":
            continue
        x = float(getattr(params, field.name))
        low, high = max(x - h, field.metadata["low"]), min(x + h, field.metadata["high"])
        up, down = (value(point, params.replace(**{field.name: at})) for at in (high, low))
        expected, found = float(up - down) / (high - low), float(getattr(by_params, field.name))
        allowed = tolerance if high - low > 1.5 * h else 100 * tolerance
        assert abs(found - expected) < allowed * max(abs(expected), 1e-2), (field.name, found, expected)


# --- episodes ---------------------------------------------------------------------------------------------------------


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

    states = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(KEY, instances), params)[1]
    for t in range(0, steps, chunk):
        states, faulty, largest = run(jax.random.key(t), states)
        assert not faulty and largest <= 1.0


def evaluations(env, episodes):
    """Whole episodes under the zero-action, the random and the baseline policies, `{name: Evaluation}`; one program."""
    policies = {"zero": zero_policy(env), "random": random_policy(env), **env.baselines()}
    steps = int(env.default_params.max_steps)

    @jax.jit
    def run(index):
        def policy(key, observation):
            return jax.lax.switch(index, list(policies.values()), key, observation)

        return evaluate(env, policy, KEY, episodes=episodes, steps=steps)

    return {name: run(index) for index, name in enumerate(policies)}


def recorded(env, params, actions, key, view):
    """Observations, rewards, overflow flags and views of the state in an episode with given actions `[steps, ...]`."""

    def one(state, action):
        obs, state, reward, *_ = env.step_env(KEY, state, action, params)
        return state, (obs, reward, state.overflow, view(state))

    return jax.jit(lambda: jax.lax.scan(one, env.reset(key, params)[1], actions)[1])()
