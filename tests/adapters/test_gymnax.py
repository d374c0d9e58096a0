"""Environments through the API of gymnax, and a training loop in the manner of purejaxrl over it."""

import copy
import functools
import importlib.metadata
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmdenv import registered_tasks
from dmdenv.envs.adapters.gymnax import GymnaxEnv, make
from marks import by_default
from probe_envs import BestAction, PointMass, ReadTheCue
from rounding import assert_equal_up_to_rounding
from small_envs import SMALL, TASKS, small_env

KEY = jax.random.key(0)
one_task = pytest.mark.parametrize(("id", "task"), by_default(TASKS, ("trap_drag", "drag")))


@one_task
def test_it_is_the_same_environment_with_one_done(id, task):
    env, params = make(id, task=task, step_values=5, **SMALL[id, task])
    params = params.replace(max_steps_in_episode=2)
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


@pytest.mark.parametrize(("version", "values"), [("0.0.9", 5), ("1.0.1", 6), ("2.0.0", 6), (None, 6)])
def test_the_number_of_values_is_that_of_the_gymnax_that_is_installed(monkeypatch, version, values):
    def installed(name):
        assert name == "gymnax"
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert make(BestAction())[0].step_values == GymnaxEnv(BestAction()).step_values == values


def test_six_values_as_in_gymnax_1():
    env, params = make("trap_drag", step_values=6, particles=4)
    _, state = env.reset(KEY)
    observation, state, reward, terminated, truncated, info = env.step(KEY, state, jnp.zeros(2), params)
    assert not terminated and not truncated and state.time == 1
    assert env.name == "TrapDrag" and env.num_actions == 2
    with pytest.raises(ValueError, match="step_values = 4; must be 5, with one done, or 6"):
        GymnaxEnv(env.env, 4)


def test_actions_may_lack_axes_of_length_one():
    env, params = make(PointMass())
    _, state = env.reset(KEY, params)
    for step in (env.step, env.step_env):
        for found, expected in zip(*(step(KEY, state, jnp.full(s, 0.3), params)[:3] for s in ((), (1,))), strict=True):
            assert_equal_up_to_rounding(found, expected)
        with pytest.raises(ValueError, match=r"action has shape \(2,\); must be \(1,\)"):
            step(KEY, state, jnp.zeros(2), params)


def test_steps_without_a_reset_tell_their_end_as_in_gymnax():
    for values in (5, 6):
        env, params = make(PointMass(), step_values=values)
        params = params.replace(max_steps=1)
        _, state = env.reset_env(KEY, params)
        assert not env.is_truncated(state, params)
        _, state, reward, end, info = env.step_env(KEY, state, jnp.zeros(1), params)
        assert env.is_truncated(state, params) and bool(end) == (values == 5)
        assert state.time == 1 and info["truncated"] and info["discount"] == 1.0
    env, params = make("trap_drag", particles=4)
    _, state = env.reset(KEY, params)
    assert not env.is_truncated(state.replace(time=params.max_steps.astype(int)), params)  # it terminates there


def test_the_time_limit_has_the_name_of_gymnax_too():
    env, params = make(PointMass())
    assert params.max_steps_in_episode == 32 and params.max_steps_in_episode.dtype == jnp.int32
    for changed in (params.replace(max_steps_in_episode=3), params.replace(max_steps=3)):
        assert changed.max_steps_in_episode == changed.max_steps == 3
        for other in (copy.deepcopy(changed), pickle.loads(pickle.dumps(changed)), jax.tree.map(jnp.copy, changed)):
            assert type(other) is type(params) and other.max_steps_in_episode == 3
    with pytest.raises(ValueError, match="max_steps_in_episode beside max_steps; must be one of them"):
        params.replace(max_steps_in_episode=3, max_steps=4)
    with pytest.raises(ValueError, match=r"MassParams.max_steps = 0; must be a whole number >= 1"):
        params.replace(max_steps_in_episode=0)
    with pytest.raises(ValueError, match="MassParams has no field 'fource'; valid fields: max_steps, force"):
        params.replace(fource=1.0)
    own = PointMass().default_params  # those of the environment do, too
    for given in (params, own, None):
        np.testing.assert_array_equal(env.reset(KEY, given)[0], env.env.reset(KEY, own)[0])
    assert jax.jit(lambda params: params.max_steps_in_episode)(params) == 32


@pytest.mark.parametrize("id", ["trap_drag", "flocking"])
def test_spaces_of_observations_actions_and_states(id):
    env, params = make(id, **SMALL[id, registered_tasks(id)[0]])
    observation, state = env.reset(KEY, params)
    assert env.observation_space(params).contains(observation)
    space = env.state_space(params)
    assert space.contains(state) and not space.contains(state.replace(time=jnp.nan))
    assert {"time", "overflow", "nonfinite", "positions"} <= set(space.spaces)
    assert space.spaces["positions"].shape == state.positions.shape
    assert space.spaces["time"].dtype == jnp.int32 and space.spaces["overflow"].dtype == bool
    assert set(space.sample(KEY)) == set(space.spaces)


def test_flat_observations_and_actions():
    env, params = make(ReadTheCue(rows=5), flat=True)
    assert env.observation_space(params).shape == (10,) and env.action_space(params).shape == (5,)


def test_a_loop_in_the_manner_of_purejaxrl_learns():
    """Everything in one jitted program: vmapped steps with auto-reset in a scan, and updates by REINFORCE."""
    env, params = make(BestAction(), step_values=5)
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


# --- with gymnax ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # gymnax and what it imports warn
def test_gymnax_own_wrappers_take_it():
    purerl = pytest.importorskip("gymnax.wrappers.purerl")
    env, params = make("trap_drag", particles=4)
    params = params.replace(max_steps_in_episode=3)
    logged = purerl.LogWrapper(purerl.FlattenObservationWrapper(env))
    _, state = logged.reset(KEY, params)
    total = 0.0
    for _ in range(3):
        _, state, reward, *_, info = logged.step(KEY, state, jnp.zeros(2), params)
        total += float(reward)
    assert info["returned_episode"] and int(info["returned_episode_lengths"]) == 3
    np.testing.assert_allclose(info["returned_episode_returns"], total, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_gymnax_knows_the_spaces():
    spaces = pytest.importorskip("gymnax.environments.spaces")
    env, params = make(PointMass())
    assert type(env.observation_space(params)) is type(env.action_space(params)) is spaces.Box
    assert type(env.state_space(params)) is spaces.Dict
    assert spaces.gymnax_space_to_gym_space(env.observation_space(params)) == env.env.observation_space()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["GymnaxToGymWrapper", "GymnaxToVectorGymWrapper"])
def test_gymnax_takes_it_to_gymnasium(name):
    wrappers = pytest.importorskip("gymnax.wrappers.gym")
    env, params = make(PointMass())
    many = {"num_envs": 2} if "Vector" in name else {}
    wrapped = getattr(wrappers, name)(env, params=params.replace(max_steps_in_episode=1), **many)
    wrapped.reset(seed=0)
    _, _, terminated, truncated, _ = wrapped.step(np.zeros((2, 1) if many else 1))
    assert np.all(truncated) and not np.any(terminated)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("env", "config"), [(PointMass(), {}), ("trap_drag", {"particles": 4})], ids=["probe", "trap"])
def test_rejax_trains_on_it(env, config):
    """With one done, as the released rejax wants, whatever gymnax is installed."""
    rejax = pytest.importorskip("rejax")
    env, params = make(env, step_values=5, **config)
    with jax.numpy_rank_promotion("allow"):
        agent = rejax.PPO.create(
            env=env, env_params=params, num_envs=8, num_steps=16, num_minibatches=2, num_epochs=1, eval_freq=128,
            total_timesteps=256,
        )  # fmt: skip
        trained, (lengths, returns) = jax.jit(agent.train)(KEY)
    np.testing.assert_array_equal(lengths, 32)
    assert np.all(np.isfinite(returns))
    begun, ended = (jax.tree.leaves(state.actor_ts.params) for state in (agent.init_state(KEY), trained))
    assert all(np.all(np.isfinite(after)) for after in ended)
    assert all(np.any(before != after) for before, after in zip(begun, ended, strict=True))
