"""Evaluation equals a loop over the steps of an episode, and stops counting at its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents.evaluate import evaluate, run_episode
from dmdenv.agents.policies import random_policy, zero_policy
from probe_envs import PointMass, ReadTheCue

KEY = jax.random.key(0)

jitted_evaluate = jax.jit(evaluate, static_argnums=0, static_argnames=("episodes", "steps"))


def test_evaluation_is_zero_after_the_end_of_an_episode():
    env = PointMass()
    params = env.default_params.replace(escape=0.5, max_steps=10)
    many = jitted_evaluate(env, random_policy(env), KEY, episodes=20, steps=10, params=params)
    assert many.rewards.shape == many.metrics["distance"].shape == (20, 10)
    assert jnp.min(many.lengths) == 1
    assert jnp.max(many.lengths) == 10
    after = jnp.arange(10)[None, :] >= many.lengths[:, None]
    assert jnp.all(jnp.where(after, many.rewards, 0.0) == 0.0)
    assert jnp.all(jnp.where(after, many.metrics["distance"], 0.0) == 0.0)


def test_evaluation_equals_a_loop_over_steps():
    env, policy, key = PointMass(), random_policy(PointMass()), jax.random.key(7)
    evaluation = jitted_evaluate(env, policy, key, episodes=20, steps=10, params=env.default_params)
    one = jax.random.split(key, 20)[2]
    _, positions = jax.jit(lambda key: run_episode(env, policy, key, steps=10, record=lambda state: state.position))(
        one
    )
    reset_key, episode_key = jax.random.split(one)
    observation, state = env.reset(reset_key)
    rewards, distances, expected = [], [], []
    for key_t in jax.random.split(episode_key, 10):
        expected.append(state.position)
        policy_key, step_key = jax.random.split(key_t)
        observation, state, reward, _, _, info = env.step_env(step_key, state, policy(policy_key, observation))
        rewards.append(reward)
        distances.append(info["distance"])
    np.testing.assert_allclose(positions, expected, rtol=1e-5)
    np.testing.assert_allclose(evaluation.returns[2], np.sum(rewards), rtol=1e-5)
    np.testing.assert_allclose(evaluation.final_means(2)["distance"][2], np.mean(distances[-2:]), rtol=1e-5)
    np.testing.assert_allclose(evaluation.final_means(99)["distance"][2], np.mean(distances), rtol=1e-5)


def test_evaluation_refuses_what_it_cannot_run():
    env = PointMass()
    with pytest.raises(ValueError, match="episodes = 0; must be an integer >= 1"):
        evaluate(env, zero_policy(env), KEY, episodes=0)
    with pytest.raises(ValueError, match="steps = 0; must be an integer >= 1"):
        evaluate(env, zero_policy(env), KEY, episodes=1, steps=0)
    with pytest.raises(ValueError, match=r"steps = None with a traced params\.max_steps"):
        jax.jit(lambda params: evaluate(env, zero_policy(env), KEY, episodes=1, params=params))(env.default_params)


def test_policies_draw_within_the_action_space():
    env = ReadTheCue()
    observation = jnp.zeros((3, 2))
    np.testing.assert_array_equal(zero_policy(env)(KEY, observation), np.zeros(3))
    actions = jax.vmap(lambda key: random_policy(env)(key, observation))(jax.random.split(KEY, 1000))
    assert jnp.all(jnp.abs(actions) <= 1.0)
    assert abs(jnp.mean(actions)) < 0.05
    assert abs(jnp.var(actions) - 1.0 / 3.0) < 0.02


def test_means_per_step_weigh_every_step_alike():
    env = PointMass()
    params = env.default_params.replace(escape=0.5, max_steps=10)
    many = jitted_evaluate(env, random_policy(env), KEY, episodes=20, steps=10, params=params)
    rewards, distances = (
        np.concatenate([row[:length] for row, length in zip(rows, many.lengths, strict=True)])
        for rows in (many.rewards, many.metrics["distance"])
    )
    means = many.step_means
    assert len(rewards) < 200
    np.testing.assert_allclose([means["reward"], means["distance"]], [np.mean(rewards), np.mean(distances)], rtol=1e-5)
