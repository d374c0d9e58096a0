"""Environments through the API of gymnax, and a training loop in the manner of purejaxrl over it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmdenv.envs.adapters.gymnax import GymnaxEnv, make
from marks import by_default
from probe_envs import BestAction, ReadTheCue
from rounding import assert_equal_up_to_rounding
from small_envs import SMALL, TASKS, small_env

KEY = jax.random.key(0)
one_task = pytest.mark.parametrize(("id", "task"), by_default(TASKS, ("trap_drag", "drag")))


@one_task
def test_it_is_the_same_environment_with_one_done(id, task):
    env, params = make(id, task=task, **SMALL[id, task])
    params = params.replace(max_steps=2)
    reference = small_env(id, task)
    assert env.env is reference
    observation, state = env.reset(KEY, params)
    step, expected_step = jax.jit(env.step), jax.jit(reference.step)
    assert env.observation_space(params).contains(observation)
    for t in range(2):
        action = env.action_space(params).sample(jax.random.key(t))
        assert env.action_space(params).contains(action) and action.shape == reference.action_shape
        expected = expected_step(KEY, state, action, params)
        observation, state, reward, done, info = step(KEY, state, action, params)
        assert_equal_up_to_rounding((observation, reward), (expected[0], expected[2]))
        assert bool(done) == (t == 1)
    assert bool(info["terminated"]) == reference.finite_horizon and bool(info["truncated"]) != reference.finite_horizon
    assert float(info["discount"]) == (0.0 if reference.finite_horizon else 1.0)
    assert_equal_up_to_rounding(info["final_observation"], expected[5]["final_observation"])


def test_six_values_as_in_gymnax_1():
    env, params = make("trap_drag", step_values=6, particles=4)
    _, state = env.reset(KEY)
    observation, state, reward, terminated, truncated, info = env.step(KEY, state, jnp.zeros(2), params)
    assert not terminated and not truncated and state.time == 1
    assert env.name == "TrapDrag" and env.num_actions == 2
    with pytest.raises(ValueError, match="step_values = 4; must be 5, with one done, or 6"):
        GymnaxEnv(env.env, 4)


def test_flat_observations_and_actions():
    env, params = make(ReadTheCue(rows=5), flat=True)
    assert env.observation_space(params).shape == (10,) and env.action_space(params).shape == (5,)


def test_a_loop_in_the_manner_of_purejaxrl_learns():
    """Everything in one jitted program: vmapped steps with auto-reset in a scan, and updates by REINFORCE."""
    env, params = make(BestAction())
    params = params.replace(max_steps=4, target=0.4)
    num, steps, width = 32, 8, 0.2
    optimizer = optax.adam(0.05)

    def update(carry, _):
        mean, optimizer_state, observations, states, key = carry

        def one(carry, _):
            observations, states, key = carry
            key, noise_key, step_key = jax.random.split(key, 3)
            actions = mean + width * jax.random.normal(noise_key, (num, env.action_space(params).shape[0]))
            out = jax.vmap(env.step, (0, 0, 0, None))(jax.random.split(step_key, num), states, actions, params)
            observations, states, rewards, done, info = out
            return (observations, states, key), (actions, rewards, done)

        carry, (actions, rewards, done) = jax.lax.scan(one, (observations, states, key), length=steps)

        def surrogate(mean):
            log_density = -0.5 * jnp.sum((actions - mean) ** 2, axis=-1) / width**2
            return -jnp.mean(log_density * (rewards - jnp.mean(rewards)))

        updates, optimizer_state = optimizer.update(jax.grad(surrogate)(mean), optimizer_state)
        return (optax.apply_updates(mean, updates), optimizer_state, *carry), (jnp.mean(rewards), jnp.sum(done))

    @functools.partial(jax.jit, static_argnames="updates")
    def train(key, updates):
        key, reset_key = jax.random.split(key)
        observations, states = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, num), params)
        mean = jnp.zeros(())
        carry = mean, optimizer.init(mean), observations, states, key
        return jax.lax.scan(update, carry, length=updates)

    (mean, *_), (returns, done) = train(KEY, 60)
    assert abs(float(mean) - 0.4) < 0.05
    assert returns[-1] > returns[0]
    np.testing.assert_array_equal(done, num * steps / 4)


def test_gymnax_own_wrappers_take_it():
    purerl = pytest.importorskip("gymnax.wrappers.purerl")
    env, params = make("trap_drag", step_values=6, particles=4)
    params = params.replace(max_steps=3)
    logged = purerl.LogWrapper(env)
    _, state = logged.reset(KEY, params)
    total = 0.0
    for _ in range(3):
        _, state, reward, terminated, truncated, info = logged.step(KEY, state, jnp.zeros(2), params)
        total += float(reward)
    assert info["returned_episode"] and int(info["returned_episode_lengths"]) == 3
    np.testing.assert_allclose(info["returned_episode_returns"], total, rtol=1e-5)
