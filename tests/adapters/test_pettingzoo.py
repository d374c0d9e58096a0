"""Environments with many agents through PettingZoo."""

import functools
import pickle
import warnings

import gymnasium
import numpy as np
import pytest

from marks import by_default
from probe_envs import ReadTheCue
from small_envs import SMALL, TASKS, unprepared

pytest.importorskip("pettingzoo")
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dmdenv.envs.adapters.gymnasium import GymnasiumEnv
from dmdenv.envs.adapters.pettingzoo import PettingZooEnv, parallel_env

# tasks with agents; by default a probe, which compiles in a second
CUE = ("read_the_cue", "probe")
with_agents = pytest.mark.parametrize(
    ("id", "task"), by_default([CUE, *(task for task in TASKS if unprepared(*task).agents)], CUE)
)


def make(id, task, cls=PettingZooEnv):
    env = cls(id, task=task, params={"max_steps": 6}, **SMALL.get((id, task), {}))
    if cls is PettingZooEnv:
        for i, name in enumerate(env.possible_agents):
            env.action_space(name).seed(i)
    return env


@with_agents
def test_pettingzoos_own_tests_pass(id, task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make(id, task), num_cycles=20)
        parallel_seed_test(functools.partial(make, id, task), num_cycles=4)


@with_agents
def test_it_does_what_the_gymnasium_environment_does(id, task):
    env, reference = make(id, task), make(id, task, GymnasiumEnv)
    observations, infos = env.reset(seed=3)
    expected, _ = reference.reset(seed=3)
    for t in range(6):
        assert env.agents == env.possible_agents == list(observations) == list(infos)
        np.testing.assert_array_equal(np.stack(list(observations.values())), expected)
        np.testing.assert_array_equal(env.state(), expected.ravel())
        assert env.state_space.contains(env.state())
        for name in env.agents:
            assert env.observation_space(name).contains(observations[name])
        actions = {name: env.action_space(name).sample() for name in env.agents}
        action = np.stack(list(actions.values())).reshape(reference.action_space.shape)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        expected, reward, end, cut, info = reference.step(action)
        assert set(rewards.values()) == {reward}
        assert set(terminated.values()) == {end} and set(truncated.values()) == {cut}
        assert all(each == info for each in infos.values())
        assert (end or cut) == (t == 5)
    assert env.agents == []


def test_parameters_and_pictures_and_copies():
    env = parallel_env(ReadTheCue(rows=5), render_mode="rgb_array", params={"max_steps": 3})
    assert str(env) == "read_the_cue_probe_v0" and env.max_num_agents == 5 and env.num_agents == 0
    env.reset(seed=0, options={"params": {"max_steps": 1}})
    picture = env.render()
    assert picture is not None and picture.dtype == np.uint8 and picture.shape[2] == 3
    actions = {name: np.zeros(1, np.float32) for name in env.agents}
    other = pickle.loads(pickle.dumps(env))
    first, again = env.step(actions), other.step(actions)
    np.testing.assert_array_equal(first[0]["agent_0"], again[0]["agent_0"])
    assert all(first[3].values())
    observations, _ = env.reset()
    observations["agent_0"][:] = 7.0  # the caller's own
    env.state()[:] = 7.0
    assert not np.any(env.state() == 7.0)
    env.close()
    env.close()


def test_misuse_is_refused():
    with pytest.raises(ValueError, match=r"'trap_drag', task 'drag', has .* no agents; must have observat"):
        parallel_env("trap_drag")
    env = parallel_env(ReadTheCue())
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"there are no agents to act; must be reset\(\) first"):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'agent_0' is missing from the actions"):
        env.step({})
    for name in ("max_cycles", "num_envs", "seed"):  # which other environments of PettingZoo take
        with pytest.raises(
            ValueError, match=f"'flocking' has no configuration field {name!r}; valid fields: task, boid"
        ):
            parallel_env("flocking", **{name: 1})
    with pytest.raises(ValueError, match=r"max_episode_steps = 5 beside params with max_steps = 3.0; must be equal"):
        parallel_env(ReadTheCue(), params={"max_steps": 3}, max_episode_steps=5)
