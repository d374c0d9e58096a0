"""Open-loop control: protocols with known answers, and policies that take the time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents import open_loop
from dmdenv.agents.evaluate import evaluate, run_episode
from dmdenv.agents.open_loop import OpenLoopPolicy
from dmdenv.envs.acting import act
from dmdenv.envs.registry import make_env
from probe_envs import BestAction, Brittle, PointMass, ReadTheCue

KEY = jax.random.key(0)
LEAST_WORK, NO_WORK = 25 / 3, 12.5  # of trap_drag: of the best protocol, and of the zero action

update = jax.jit(open_loop.update, static_argnums=(0, 1))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "Config.updates = 0; must be an integer >= 1"),
        ({"steps": 0}, "Config.steps = 0; must be an integer >= 1 and <= 1000000000 or None"),
        ({"cycles": 1.0}, "Config.cycles = 1.0; must be"),
        ({"instances": 3}, "Config.instances = 3; must be one of 'fresh', 'same'"),
        ({"momentum": "drop"}, "Config.momentum = 'drop'; must be one of 'keep', 'reset'"),
        ({"learning_rate": 0.0}, "Config.learning_rate = 0.0; must be a finite number > 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        open_loop.Config(**changes)


def test_the_length_is_needed_where_that_of_the_episode_is_not_known():
    env, config = PointMass(), open_loop.Config()
    with pytest.raises(ValueError, match=r"steps = None with a traced params\.max_steps; must be an integer >= 1"):
        jax.eval_shape(lambda params: open_loop.init(env, config, KEY, params=params), env.default_params)
    with pytest.raises(ValueError, match=r"Config\.steps = None; must be an integer >= 1 for the number of steps"):
        _ = config.steps_per_update
    assert jax.eval_shape(lambda: open_loop.init(env, config, KEY)).policy.inputs.shape == (32, 1)
    assert dataclasses.replace(config, steps=10).steps_per_update == 160


# --- known answers ----------------------------------------------------------------------------------------------------


def test_some_updates_find_the_least_work_of_four_steps():
    env = make_env("trap_drag", particles=2)
    config = open_loop.Config(updates=60, num_envs=2, steps=4, learning_rate=0.1)
    params = env.default_params.replace(temperature=0.0, max_steps=4)  # without noise the work is its exact mean
    _, metrics = jax.jit(lambda key: open_loop.train(env, config, key, params=params))(KEY)
    work = -4 * metrics["reward"]
    np.testing.assert_allclose(work[0], NO_WORK, rtol=0.02)
    np.testing.assert_allclose(work[-1], LEAST_WORK, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"cycles": 3}, {"cycles": 3, "momentum": "reset"}], ids=str)
def test_300_updates_find_the_least_work_to_1_percent(changes):
    env, config = make_env("trap_drag"), open_loop.Config(updates=300, num_envs=4, **changes)
    cold = env.default_params.replace(temperature=0.0)  # the work is a quadratic function: its exact mean

    @jax.jit
    @jax.vmap
    def train_and_measure(key):
        state, _ = open_loop.train(env, config, key)
        policy = open_loop.policy(env, config, state)
        return -evaluate(env, policy, key, episodes=1, steps=32, params=cold).returns[0]

    work = train_and_measure(jax.random.split(KEY, 3))
    assert jnp.all(work >= LEAST_WORK * (1 - 1e-5))
    assert jnp.all(work <= LEAST_WORK * 1.01)


@pytest.mark.slow
def test_each_value_of_the_parameters_gets_its_own_protocol():
    env, config = BestAction(), open_loop.Config(updates=150, num_envs=1, steps=2, learning_rate=0.1)
    targets = jnp.array([-0.6, 0.1, 0.5])

    @jax.jit
    @jax.vmap
    def learn(key, target):
        state, _ = open_loop.train(env, config, key, params=env.default_params.replace(target=target))
        return jnp.tanh(state.policy.inputs)[:, 0]

    np.testing.assert_allclose(learn(jax.random.split(KEY, 3), targets), jnp.stack([targets] * 2, 1), atol=0.01)


def test_the_same_instances_in_all_updates_give_each_key_the_protocol_of_its_own_instance():
    env = ReadTheCue(rows=1)  # the best protocol is half of the cues, which differ from instance to instance
    config = open_loop.Config(instances="same", updates=100, num_envs=1, steps=2, learning_rate=0.1)

    @jax.jit
    @jax.vmap
    def learn(key):
        state, metrics = open_loop.train(env, config, key)
        _, cues = run_episode(env, state.policy, jax.random.split(state.key, 1)[0], steps=2, record=lambda s: s.cue)
        return jnp.tanh(state.policy.inputs), cues, metrics["reward"]

    actions, cues, rewards = learn(jax.random.split(KEY, 2))
    np.testing.assert_allclose(actions, 0.5 * cues, atol=0.01)
    assert jnp.all(rewards[:, -1] > -1e-4)


# --- the gradient -----------------------------------------------------------------------------------------------------


def test_gradient_equals_finite_differences():
    env, config = make_env("trap_drag", particles=2), open_loop.Config(num_envs=2, steps=4)
    with jax.enable_x64(True):
        params = env.default_params.replace(max_steps=4)
        policy = OpenLoopPolicy(inputs=0.3 * np.cos(np.arange(8.0)).reshape(4, 2))

        @jax.jit
        @jax.value_and_grad
        def loss(policy):
            return open_loop.episode_loss(env, config, policy, KEY, params=params)[0]

        gradient, step = loss(policy)[1].inputs, 1e-5
        for i in range(8):
            ahead, behind = (
                loss(policy.replace(inputs=policy.inputs + h * np.eye(8)[i].reshape(4, 2)))[0] for h in (step, -step)
            )
            assert ahead.dtype == jnp.float64
            np.testing.assert_allclose(gradient.reshape(-1)[i], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)


def test_the_derivative_of_an_episode_stores_the_square_root_of_its_steps():
    env = make_env("trap_drag", particles=64)

    def stored(steps):
        def total(inputs):
            return evaluate(env, OpenLoopPolicy(inputs=inputs), KEY, episodes=1, steps=steps).returns[0]

        leaves = jax.tree.leaves(jax.eval_shape(lambda inputs: jax.vjp(total, inputs)[1], jnp.zeros((steps, 2))))
        return sum(math.prod(leaf.shape) for leaf in leaves if 64 in leaf.shape)  # of the particles

    assert stored(256) < 5 * stored(16)


def test_gradient_that_is_not_finite_is_dropped_and_counted():
    env, config = Brittle(), open_loop.Config(updates=4, num_envs=1, steps=2, cycles=2, momentum="reset")
    state = open_loop.init(env, config, KEY)
    dropped, metrics = update(env, config, state, params=env.default_params.replace(target=-0.5))
    assert metrics["skipped"] == 1.0
    assert jnp.isnan(metrics["gradient_norm"])
    assert jnp.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, dropped.policy, state.policy)
    jax.tree.map(np.testing.assert_array_equal, dropped.optimizer, state.optimizer)
    counts = []
    for _ in range(3):  # a cycle, which the dropped update has begun, has two of them
        dropped, metrics = update(env, config, dropped, params=env.default_params)
        assert metrics["skipped"] == 0.0
        counts.append(int(dropped.optimizer[1].count))
    assert counts == [1, 1, 2]
    assert dropped.updates == 4


# --- policies that take the time --------------------------------------------------------------------------------------


def test_evaluation_hands_over_the_time_and_the_last_action_is_held():
    env, policy = BestAction(), OpenLoopPolicy(inputs=jnp.array([[-1.0], [0.0], [2.0]]))
    actions = np.tanh([-1.0, 0.0, 2.0, 2.0, 2.0])
    evaluation, times = jax.jit(lambda: run_episode(env, policy, KEY, steps=5, record=lambda state: state.time))()
    np.testing.assert_allclose(evaluation.rewards, -((actions - 0.5) ** 2), rtol=1e-5)
    np.testing.assert_array_equal(times, np.arange(5))


def test_a_protocol_begins_again_with_the_next_episode():
    env, policy = BestAction(), OpenLoopPolicy(inputs=jnp.array([[-1.0], [0.0], [2.0]]))
    params = env.default_params.replace(max_steps=3)

    @jax.jit
    def rewards(key):
        def step(carry, key):
            observation, state = carry
            action = act(policy, key, observation, env, state, params)
            observation, state, reward, *_ = env.step(key, state, action, params)
            return (observation, state), reward

        return jax.lax.scan(step, env.reset(key, params), jax.random.split(key, 5))[1]

    actions = np.tanh([-1.0, 0.0, 2.0, -1.0, 0.0])
    np.testing.assert_allclose(rewards(KEY), -((actions - 0.5) ** 2), rtol=1e-5)
