"""Agents: the protocol that all of them keep, and the analytic policy gradient on probes with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents import apg
from dmdenv.agents.base import UnfitError, get_agent, registered_agents
from dmdenv.agents.evaluate import evaluate, run_episode
from dmdenv.agents.networks import deterministic_policy
from dmdenv.agents.policies import random_policy, zero_policy
from probe_envs import BestAction, Brittle, Misfit, PointMass, ReadTheCue

KEY = jax.random.key(0)
SMALL = apg.Config(updates=3, num_envs=4, window=6, hidden=(8,))

init = jax.jit(apg.init, static_argnums=(0, 1))
update = jax.jit(apg.update, static_argnums=(0, 1))
train = jax.jit(apg.train, static_argnums=(0, 1))
jitted_evaluate = jax.jit(evaluate, static_argnums=0, static_argnames=("episodes", "steps"))


def assert_equal(left, right):
    """Bit by bit, keys included."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), left, right)


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


# --- the protocol -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registered_agents())
def test_agent_keeps_the_protocol(name):
    agent = get_agent(name)
    config = agent.Config()
    assert hash(config) == hash(agent.Config())
    assert config.updates >= 1
    assert all(callable(getattr(agent, function)) for function in ("init", "update", "train", "policy"))


def test_unknown_agent_is_refused():
    with pytest.raises(ValueError, match="unknown agent 'nope'; valid agents: apg"):
        get_agent("nope")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates = 0 is not valid; valid: whole numbers from 1"),
        ({"num_envs": 2.0}, "num_envs = 2.0 is not valid"),
        ({"window": True}, "window = True is not valid"),
        ({"hidden": (8, 0)}, r"hidden = \(8, 0\) is not valid; valid: a tuple of whole numbers from 1"),
        ({"hidden": [8]}, r"hidden = \[8\] is not valid"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0 is not valid; valid: finite numbers above 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan is not valid"),
        ({"max_gradient_norm": "1"}, "max_gradient_norm = '1' is not valid"),
        ({"discount": 1.5}, "discount = 1.5 is not valid; valid: finite numbers above 0 up to 1"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        apg.Config(**changes)


# --- known answers ----------------------------------------------------------------------------------------------------


def test_best_action_is_found_for_every_target_at_once():
    env, config = BestAction(), apg.Config(updates=200, num_envs=4, window=4, hidden=(8,), learning_rate=0.03)
    targets = jnp.array([-0.6, 0.1, 0.5])

    @jax.jit
    @jax.vmap
    def learn(target):
        state, _ = apg.train(env, config, KEY, params=env.default_params.replace(target=target))
        return apg.policy(env, config, state)(KEY, jnp.zeros(1))[0]

    np.testing.assert_allclose(learn(targets), targets, atol=1e-3)


def test_every_row_reads_its_own_cue_however_many_there_are():
    env, config = ReadTheCue(), apg.Config(updates=150, num_envs=32, window=8, hidden=(16,), learning_rate=0.03)
    state, metrics = train(env, config, KEY)
    cue = jnp.linspace(-0.9, 0.9, 7)
    observation = jnp.stack([cue, jnp.ones_like(cue)], axis=-1)
    np.testing.assert_allclose(apg.policy(env, config, state)(KEY, observation), 0.5 * cue, atol=0.03)
    assert metrics["reward"].shape == (150,)


def test_mass_is_steered_to_the_origin():
    env, config = PointMass(), apg.Config(updates=150, num_envs=16, window=16, hidden=(16,), learning_rate=0.03)
    state, metrics = train(env, config, KEY)
    trained, idle = (
        jitted_evaluate(env, policy, jax.random.key(1), episodes=32, steps=32).final_means(8)["distance"]
        for policy in (apg.policy(env, config, state), zero_policy(env))
    )
    assert jnp.mean(trained) < 0.01 < 0.3 < jnp.mean(idle)
    assert metrics["distance"][-1] < metrics["distance"][0]


@pytest.mark.parametrize(("window", "blind"), [(1, True), (6, False)])
def test_gradient_sees_as_far_as_the_window(window, blind):
    env, config = PointMass(), dataclasses.replace(SMALL, window=window)
    _, metrics = update(env, config, init(env, config, KEY), params=env.default_params)
    assert (metrics["gradient_norm"] == 0.0) == blind


# --- the gradient -----------------------------------------------------------------------------------------------------


def test_gradient_equals_finite_differences():
    with jax.enable_x64(True):
        env, config = PointMass(), dataclasses.replace(SMALL, window=10, discount=0.9)
        state = init(env, config, jax.random.key(3))

        def loss(policy, params):
            arguments = (state.env_states, state.observations, jax.random.key(4))
            return apg.window_loss(env, config, policy, *arguments, params=params)[0]

        value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
        # the last layer begins small: enlarged, so that the first one's gradient is of the same size
        policy = jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), state.policy)
        direction = jax.tree.map(lambda x: jnp.sin(1.0 + jnp.arange(x.size)).reshape(x.shape), policy)
        step = 1e-5
        ahead, behind = (jax.tree.map(lambda x, d, by=by: x + by * d, policy, direction) for by in (step, -step))
        for max_steps in (32, 4):  # one episode; resets within the window
            params = env.default_params.replace(max_steps=max_steps)
            along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient(policy, params), direction)))
            difference = (value(ahead, params) - value(behind, params)) / (2 * step)
            assert difference.dtype == jnp.float64
            assert abs(along) > 1e-3
            np.testing.assert_allclose(along, difference, rtol=1e-7)


def test_loss_is_the_discounted_reward_of_a_loop_over_steps():
    env, config = PointMass(), dataclasses.replace(SMALL, num_envs=2, window=5, discount=0.5)
    params = env.default_params.replace(max_steps=3)
    state = init(env, config, KEY, params=params)
    key = jax.random.key(5)
    loss, (env_states, observations, metrics) = jax.jit(apg.window_loss, static_argnums=(0, 1))(
        env, config, state.policy, state.env_states, state.observations, key, params=params
    )
    step = jax.jit(env.step)
    rewards = np.zeros((5, 2))
    for i in range(2):
        one, observation = jax.tree.map(lambda x, i=i: x[i], (state.env_states, state.observations))
        for t, key_t in enumerate(jax.random.split(key, (5, 2))[:, i]):
            policy_key, step_key = jax.random.split(key_t)
            action = state.policy(policy_key, observation)
            observation, one, rewards[t, i], *_ = step(step_key, one, action, params)
        np.testing.assert_allclose(observations[i], observation, rtol=1e-5)
        assert env_states.time[i] == one.time
    weights = 0.5 ** np.arange(5)
    np.testing.assert_allclose(loss, -np.mean(weights @ rewards) / np.sum(weights), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"], np.mean(rewards), rtol=1e-5)


def test_gradient_that_is_not_finite_is_dropped_and_counted():
    env, config = Brittle(), SMALL
    state = init(env, config, KEY)
    poisoned, metrics = update(env, config, state, params=env.default_params.replace(target=-0.5))
    assert metrics["skipped"] == 1.0
    assert jnp.isnan(metrics["gradient_norm"])
    assert_equal((poisoned.policy, poisoned.optimizer), (state.policy, state.optimizer))
    assert poisoned.updates == 1
    healthy, metrics = update(env, config, poisoned, params=env.default_params.replace(target=0.5))
    assert metrics["skipped"] == 0.0
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.any(a != b), healthy.policy, state.policy)))


# --- a pure function --------------------------------------------------------------------------------------------------


def test_scan_equals_a_loop_of_updates():
    env = PointMass()
    scanned, metrics = train(env, SMALL, KEY)
    state = init(env, SMALL, KEY)
    losses = []
    for _ in range(SMALL.updates):
        state, row = update(env, SMALL, state, params=env.default_params)
        losses.append(row["loss"])
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), scanned.policy, state.policy)
    assert_equal(scanned.key, state.key)


def test_vmapped_seeds_equal_single_seeds():
    env, keys = PointMass(), jax.random.split(KEY, 3)
    together, metrics = jax.jit(jax.vmap(lambda key: apg.train(env, SMALL, key)))(keys)
    assert metrics["loss"].shape == (3, SMALL.updates)
    alone, _ = train(env, SMALL, keys[1])
    one = jax.tree.map(lambda x: x[1], together)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.policy, alone.policy)


def test_other_parameters_do_not_recompile():
    env, traced = PointMass(), []

    @jax.jit
    def policy_update(state, params):
        traced.append(params)
        return apg.update(env, SMALL, state, params=params)[0]

    state = init(env, SMALL, KEY)
    for friction in (0.1, 0.2):
        state = policy_update(state, env.default_params.replace(friction=friction))
    assert len(traced) == 1


def test_episodes_end_in_turn_and_between_windows():
    env = PointMass()
    params = env.default_params.replace(max_steps=2 * SMALL.window)
    state = init(env, SMALL, KEY, params=params)
    for _ in range(3):
        np.testing.assert_array_equal(np.sort(state.env_states.time), [0, 0, 6, 6])
        state, _ = update(env, SMALL, state, params=params)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [PointMass(), ReadTheCue(rows=5)], ids=["one vector", "rows"])
def test_policy_fits_the_spaces(env):
    policy = deterministic_policy(env, (8,), KEY)
    observation = 100.0 * jax.random.normal(KEY, env.observation_space().shape)
    action = policy(KEY, observation)
    assert action.shape == env.action_shape
    assert jnp.all(jnp.abs(action) <= 1.0)


def test_policy_refuses_rows_of_another_length():
    policy = deterministic_policy(PointMass(), (8,), KEY)
    with pytest.raises(UnfitError, match="the policy reads 2 numbers a row; here a row has 3"):
        policy(KEY, jnp.zeros(3))


def test_policy_has_the_default_precision():
    with jax.enable_x64(True):
        policy = deterministic_policy(PointMass(), (8,), jax.random.key(0))
        assert policy(jax.random.key(0), jnp.zeros(2)).dtype == jnp.float64


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(UnfitError, match=r"Misfit has observations \[4, 2\] and actions \[3\].* fits actions \[4\] or"):
        apg.init(Misfit(), SMALL, KEY)


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_evaluation_is_zero_behind_the_end_of_an_episode():
    env = PointMass()
    params = env.default_params.replace(escape=0.5, max_steps=10)
    many = jitted_evaluate(env, random_policy(env), KEY, episodes=20, steps=10, params=params)
    assert many.rewards.shape == many.metrics["distance"].shape == (20, 10)
    assert jnp.min(many.lengths) == 1
    assert jnp.max(many.lengths) == 10
    behind = jnp.arange(10)[None, :] >= many.lengths[:, None]
    assert jnp.all(jnp.where(behind, many.rewards, 0.0) == 0.0)
    assert jnp.all(jnp.where(behind, many.metrics["distance"], 0.0) == 0.0)


def test_evaluation_equals_a_loop_over_steps():
    env, policy, key = PointMass(), random_policy(PointMass()), jax.random.key(7)
    evaluation = jitted_evaluate(env, policy, key, episodes=3, steps=5)
    step = jax.jit(env.step_env)
    one = jax.random.split(key, 3)[2]
    _, positions = run_episode(env, policy, one, steps=5, record=lambda state: state.position)
    reset_key, episode_key = jax.random.split(one)
    observation, state = env.reset(reset_key)
    rewards, distances, seen = [], [], []
    for key_t in jax.random.split(episode_key, 5):
        seen.append(state.position)
        policy_key, step_key = jax.random.split(key_t)
        observation, state, reward, _, _, info = step(step_key, state, policy(policy_key, observation))
        rewards.append(reward)
        distances.append(info["distance"])
    np.testing.assert_allclose(positions, seen, rtol=1e-5)
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
