"""Environments through the API of Brax; with Brax itself where it is installed."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.envs.adapters.brax import BraxEnv, State, wrap
from dmdenv.envs.adapters.parameters import axes
from dmdenv.envs.adapters.views import centralise
from marks import by_default
from probe_envs import PointMass
from rounding import assert_equal_up_to_rounding
from small_envs import SMALL, TASKS, small_env

KEY = jax.random.PRNGKey(0)  # Brax's keys
one_task = pytest.mark.parametrize(("id", "task"), by_default(TASKS, ("trap_drag", "drag")))


def types(tree):
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


@one_task
def test_it_is_the_same_environment(id, task):
    env = BraxEnv(id, task=task, params={"max_steps": 2}, **SMALL[id, task])
    flat = centralise(small_env(id, task))
    state = jax.jit(env.reset)(KEY)
    assert state.obs.shape == (env.observation_size,) and env.episode_length == 2 and env.unwrapped is env
    step, expected_step = jax.jit(env.step), jax.jit(flat.step_env)
    for t in range(2):
        action = jnp.linspace(-1, 1, env.action_size)
        _, key = jax.random.split(state.info["rng"])
        expected = expected_step(key, state.pipeline_state, action, env.params)
        following = step(state, action)
        assert types(following) == types(state)  # it can be scanned
        assert_equal_up_to_rounding((following.obs, following.reward), (expected[0], expected[2]))
        assert set(following.metrics) == set(expected[5]) - {"final_observation", "overflow", "nonfinite"}
        for metric, value in following.metrics.items():
            assert_equal_up_to_rounding(value, expected[5][metric])
        over = t == 1
        assert float(following.done) == float(over and flat.finite_horizon)
        assert float(following.info["truncation"]) == float(over and not flat.finite_horizon)
        state = following
    assert env.render([state.pipeline_state])[0].dtype == np.uint8


def test_wrapped_for_training_a_batch_begins_fresh_episodes():
    env = wrap(BraxEnv(PointMass()), episode_length=3)
    states = jax.jit(env.reset)(jax.random.split(KEY, 2))
    assert states.obs.shape == (2, env.observation_size)
    step, first, total = jax.jit(env.step), states.obs, 0.0
    for t in range(1, 7):
        before, states = states, step(states, jnp.full((2, env.action_size), 0.3))
        assert types(states) == types(before)
        over = t % 3 == 0
        np.testing.assert_array_equal(states.done, [over] * 2)
        np.testing.assert_array_equal(states.info["truncation"], [over] * 2)
        np.testing.assert_array_equal(states.info["steps"], [(t - 1) % 3 + 1] * 2)
        total = np.asarray(states.reward) + (0.0 if t % 3 == 1 else total)
        np.testing.assert_allclose(states.info["episode_metrics"]["sum_reward"], total, rtol=1e-5)
        np.testing.assert_array_equal(states.pipeline_state.time, [0 if over else t % 3] * 2)
        assert over != np.allclose(states.obs, states.info["final_obs"])
        if over:  # fresh, and not the first state again as with Brax's own wrapper
            assert not np.allclose(states.obs, first) and not np.allclose(states.obs[0], states.obs[1])


def test_an_end_before_the_time_limit_is_no_truncation():
    env = wrap(BraxEnv(PointMass(), params={"escape": 1.0, "force": 50.0}), episode_length=20)
    states = env.reset(jax.random.split(KEY, 4))
    step = jax.jit(env.step)
    for _ in range(5):
        states = step(states, jnp.ones((4, 1)))
        if np.any(states.done):
            break
    assert np.any(states.done)
    np.testing.assert_array_equal(states.info["truncation"], 0.0)


def test_the_end_of_a_finite_horizon_is_no_truncation():
    """Whatever the length of an episode that a trainer asks for."""
    env = wrap(BraxEnv(FixedTime()), episode_length=3)
    assert env.episode_length == 3
    states = env.reset(jax.random.split(KEY, 2))
    step = jax.jit(env.step)
    for t in range(1, 7):
        states = step(states, jnp.zeros((2, 1)))
        np.testing.assert_array_equal(states.done, [t % 3 == 0] * 2)
        np.testing.assert_array_equal(states.info["truncation"], 0.0)


class FixedTime(PointMass):
    """A point mass for a given time."""

    finite_horizon = True


@pytest.mark.parametrize("repeat", [1, 2, 5])
def test_an_action_is_repeated_until_the_episode_ends(repeat):
    """As by steps with that action one by one; the episode of 3 steps may end in the middle of them."""
    env, single = wrap(BraxEnv(PointMass()), 3, repeat), wrap(BraxEnv(PointMass()), 3)
    keys, step, step_single = jax.random.split(KEY, 2), jax.jit(env.step), jax.jit(single.step)
    states, expected = env.reset(keys), single.reset(keys)
    actions = jnp.array([[0.4], [-0.7]])
    for steps in [repeat] * (3 // repeat) + [3 % repeat] * (3 % repeat > 0):
        before, states = states, step(states, actions)
        assert types(states) == types(before)
        rewards = 0.0
        for _ in range(steps):
            expected = step_single(expected, actions)
            rewards += expected.reward
        assert_equal_up_to_rounding(states.info["final_obs"], expected.info["final_obs"])
        assert_equal_up_to_rounding((states.reward, states.metrics), (rewards, expected.metrics))
        for name in ("steps", "truncation"):
            np.testing.assert_array_equal(states.info[name], expected.info[name])
        for name in ("sum_reward", "length"):
            totals = (found.info["episode_metrics"][name] for found in (states, expected))
            np.testing.assert_allclose(*totals, rtol=1e-5)
    np.testing.assert_array_equal(states.done, 1.0)
    following = step(states, actions)
    np.testing.assert_array_equal(following.info["episode_metrics"]["length"], min(repeat, 3))


def randomize(params, rng):
    """A force for each key; the others in common."""
    params = params.replace(force=jax.vmap(lambda key: jax.random.uniform(key, minval=1.0, maxval=5.0))(rng))
    return params, axes(params)


@pytest.mark.parametrize("all_axes", [False, True])
def test_instances_have_the_parameters_of_a_randomization(all_axes):
    keys = jax.random.split(jax.random.key(3), 3)

    def randomization(params):
        if all_axes:
            return jax.vmap(lambda key: params.replace(force=jax.random.uniform(key, minval=1.0, maxval=5.0)))(keys), 0
        return randomize(params, keys)

    forces = randomize(PointMass().default_params, keys)[0].force
    env = wrap(BraxEnv(PointMass()), 2, randomization_fn=randomization)
    states = env.reset(jax.random.split(KEY, 3))
    step = jax.jit(env.step)
    for _ in range(2):  # episodes
        start = states.pipeline_state
        states = step(states, jnp.ones((3, 1)))
        np.testing.assert_allclose(states.obs[:, 1], 0.2 * forces, rtol=1e-6)
        states = step(states, jnp.ones((3, 1)))
        np.testing.assert_array_equal(states.done, 1.0)
        np.testing.assert_allclose(states.info["final_obs"][:, 0], start.position + 0.04 * forces, rtol=1e-5)
    with pytest.raises(ValueError, match=r"rng has 2 keys; must have 3, one for each instance of randomization_fn"):
        env.reset(jax.random.split(KEY, 2))


def test_misuse_is_refused():
    env = BraxEnv(PointMass())
    for name in ("episode_length", "action_repeat"):
        for value in (0, 2.5):
            with pytest.raises(ValueError, match=rf"{name} = {value}; must be an integer >= 1"):
                wrap(env, **{name: value})
    with pytest.raises(TypeError, match=r"randomization_fn returns None; must be a MassParams and its in_axes"):
        wrap(env, randomization_fn=print)
    with pytest.raises(ValueError, match=r"MassParams.force = \[1.0, -1.0\]; must be a finite number >= 0"):
        wrap(env, randomization_fn=lambda params: (params.replace(force=[1.0, -1.0]), axes(params)))
    with pytest.raises(ValueError, match=r"MassParams.force has shape \(2, 3\); must be a number, or an array \[2\]"):
        wrap(env, randomization_fn=lambda params: (varied := params.replace(force=jnp.ones((2, 3))), axes(varied)))
    with pytest.raises(ValueError, match=r"MassParams.force has shape \(2,\); must be a number$"):
        BraxEnv(PointMass(), params={"force": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"has no field 'sped'; valid fields: max_steps"):
        BraxEnv("trap_drag", params={"sped": 1.0})


# --- with Brax --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # Brax and what it imports warn
def test_the_state_has_the_fields_of_brax():
    base = pytest.importorskip("brax.envs.base")
    assert set(State.__dataclass_fields__) == set(base.State.__dataclass_fields__)


@pytest.mark.filterwarnings("ignore")
def test_brax_own_wrappers_take_it():
    training = pytest.importorskip("brax.envs.wrappers.training")
    env = training.EvalWrapper(training.wrap(BraxEnv("flocking", boids=5), episode_length=3))
    states = env.reset(jax.random.split(KEY, 2))
    step = jax.jit(env.step)
    for t in range(1, 5):
        states = step(states, jnp.full((2, env.action_size), 0.3))
        np.testing.assert_array_equal(states.done, [t == 3] * 2)
        np.testing.assert_array_equal(states.info["truncation"], [t == 3] * 2)
    np.testing.assert_array_equal(states.info["eval_metrics"].episode_steps, [3, 3])


@pytest.mark.filterwarnings("ignore")
def test_brax_own_randomization_takes_it():
    training = pytest.importorskip("brax.envs.wrappers.training")
    keys = jax.random.split(jax.random.key(3), 2)
    wrapped = [
        each(BraxEnv(PointMass()), 3, 1, lambda params: randomize(params, keys)) for each in (training.wrap, wrap)
    ]
    states = [jax.jit(env.reset)(jax.random.split(KEY, 2)) for env in wrapped]
    found, expected = (jax.jit(env.step)(state, jnp.ones((2, 1))) for env, state in zip(wrapped, states, strict=True))
    assert_equal_up_to_rounding(found.obs[:, 1], expected.obs[:, 1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("own_wrapper", [True, False])
def test_brax_ppo_learns(own_wrapper):
    ppo = pytest.importorskip("brax.training.agents.ppo.train")
    env = BraxEnv(PointMass())
    rewards = []
    with jax.numpy_rank_promotion("allow"):
        ppo.train(
            environment=env,
            episode_length=env.episode_length,
            num_timesteps=40_000,
            num_evals=3,
            num_envs=64,
            batch_size=64,
            num_minibatches=4,
            num_updates_per_batch=4,
            unroll_length=8,
            learning_rate=1e-3,
            entropy_cost=1e-3,
            discounting=0.95,
            normalize_observations=True,
            progress_fn=lambda step, metrics: rewards.append(float(metrics["eval/episode_reward"])),
            **({"wrap_env_fn": wrap, "action_repeat": 2, "randomization_fn": randomize} if own_wrapper else {}),
        )
    assert rewards[-1] > rewards[0] + 1.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_example_of_the_page_runs():
    pytest.importorskip("brax.training.agents.ppo.train")
    page = pathlib.Path(__file__).parents[2] / "docs" / "adapters.md"
    (block,) = (block for block in re.findall(r"```py\n(.*?)```", page.read_text(), re.S) if "brax" in block)
    with jax.numpy_rank_promotion("allow"):
        exec(compile(block, str(page), "exec"), {"env": BraxEnv("flocking", boids=5), "wrap": wrap})
