"""Environments through Stable-Baselines3; only where it is installed (`make interop`), as it brings torch."""

import pathlib
import pickle
import re

import gymnasium
import jax
import numpy as np
import pytest

import dmdenv  # noqa: F401 - registers the ids
from small_envs import GYMNASIUM, NAMES, SMALL, TASKS, small_env

pytest.importorskip("stable_baselines3")
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from dmdenv.envs.adapters.gymnasium import GymnasiumEnv, GymnasiumVectorEnv
from dmdenv.envs.adapters.sb3 import SB3VecEnv
from dmdenv.envs.adapters.views import centralise
from probe_envs import PointMass
from rounding import assert_equal_up_to_rounding

torch.set_num_threads(1)  # its threads and XLA's hinder each other

FLOCK = {"boids": 5, "params": {"max_steps": 3}}
every_task = pytest.mark.parametrize("name", TASKS, ids=NAMES)
every_id = pytest.mark.parametrize("id", GYMNASIUM)


@every_id
@pytest.mark.filterwarnings("ignore:.*unconventional shape:UserWarning")  # rows of agents; SB3 flattens them
def test_sb3_own_checks_pass(id):
    check_env(gymnasium.make(id, render_mode="rgb_array", **SMALL[GYMNASIUM[id]]).unwrapped)


@every_task
def test_the_flat_view_passes_sb3_own_checks_without_a_warning(name):
    check_env(GymnasiumEnv(centralise(small_env(*name))))


@every_task
def test_it_does_what_the_gymnasium_environment_does(name):
    """Transition for transition, over ends of episodes, in the terms of SB3; both run the same program."""
    id, task = name
    keywords = {"task": task, "params": {"max_steps": 3}, **SMALL[name]}
    reference = GymnasiumVectorEnv(id, 2, autoreset_mode="SameStep", **keywords)
    envs = SB3VecEnv(id, 2, **keywords)
    envs.action_space.seed(0)
    assert envs.observation_space == reference.single_observation_space
    assert envs.action_space == reference.single_action_space
    assert list(envs.seed(5)) == [5, 6]
    assert_equal_up_to_rounding(envs.reset(), reference.reset(seed=5)[0])
    finite = small_env(*name).finite_horizon
    for t in range(7):
        actions = np.stack([envs.action_space.sample() for _ in range(2)])
        observations, rewards, dones, infos = envs.step(actions)
        expected_observations, expected_rewards, terminated, truncated, info = reference.step(actions)
        assert_equal_up_to_rounding(observations, expected_observations)
        assert_equal_up_to_rounding(rewards, expected_rewards)
        assert rewards.dtype == np.float32 and dones.dtype == bool
        assert observations.dtype == envs.observation_space.dtype and observations.flags.writeable
        over = t % 3 == 2
        np.testing.assert_array_equal(dones, [over] * 2)
        told = info["final_info"] if over else info
        for i in range(2):
            assert infos[i].pop("TimeLimit.truncated") is (over and not finite)
            if over:
                assert_equal_up_to_rounding(infos[i].pop("terminal_observation"), info["final_obs"][i])
            assert set(infos[i]) == {name for name in told if not name.startswith("_")}
            for metric, value in infos[i].items():
                assert_equal_up_to_rounding(value, told[metric][i])


@pytest.mark.parametrize("seeded", [True, False])
def test_its_outputs_are_those_of_sb3_own_vector_environment(seeded):
    reference = DummyVecEnv([lambda: gymnasium.make("dmdenv/Flocking-v0", **FLOCK)] * 2)
    envs = SB3VecEnv("flocking", 2, **FLOCK)
    if seeded:
        assert envs.seed(5) == reference.seed(5)
        assert_equal_up_to_rounding(envs.reset(), reference.reset())
    else:
        assert envs.reset().shape == reference.reset().shape
    for _ in range(4):
        actions = np.full((2, 5), 0.5, np.float32)
        for found, expected in zip(envs.step(actions)[:3], reference.step(actions)[:3], strict=True):
            assert (type(found), found.dtype, found.shape) == (type(expected), expected.dtype, expected.shape)
        for found, expected in zip(envs.step(actions)[3], reference.step(actions)[3], strict=True):
            assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize("per_agent", [False, True])
def test_every_agent_may_count_as_an_environment(per_agent):
    envs = SB3VecEnv("flocking", 2, per_agent=per_agent, render_mode="rgb_array", **FLOCK)
    whole = SB3VecEnv("flocking", 2, **FLOCK)
    rows = 5 if per_agent else 1
    assert envs.num_envs == 2 * rows
    assert envs.action_space.shape == ((1,) if per_agent else (5,))
    for env in (envs, whole):
        env.seed(0)
    envs.action_space.seed(0)
    assert_equal_up_to_rounding(envs.reset(), whole.reset().reshape(2 * rows, *envs.observation_space.shape))
    for _ in range(3):
        actions = np.stack([envs.action_space.sample() for _ in range(envs.num_envs)])
        found, expected = envs.step(actions), whole.step(actions.reshape(2, 5))
        assert_equal_up_to_rounding(found[0], expected[0].reshape(found[0].shape))
        assert_equal_up_to_rounding(found[1], np.repeat(expected[1], rows))
    assert found[2].all()
    last, expected_last = (np.stack([info["terminal_observation"] for info in out[3]]) for out in (found, expected))
    assert_equal_up_to_rounding(last, expected_last.reshape(last.shape))
    assert len({id(info) for info in found[3]}) == envs.num_envs
    assert len(envs.get_images()) == 2 and envs.render().dtype == np.uint8
    assert len(envs.get_attr("box")) == envs.num_envs
    assert len(envs.env_method("render", indices=[0, 1])) == 2


def test_seeds_repeat_and_go_on():
    envs = SB3VecEnv("flocking", 2, **FLOCK)
    first = envs.reset()
    assert not np.allclose(first[0], first[1])
    envs.seed(1)
    seeded, following = envs.reset(), envs.reset()
    envs.seed(1)
    np.testing.assert_array_equal(envs.reset(), seeded)
    np.testing.assert_array_equal(envs.reset(), following)
    assert not np.allclose(seeded, following) and not np.allclose(first, seeded)
    envs.seed(2)  # instance i has the seed s + i
    np.testing.assert_array_equal(envs.reset()[0], seeded[1])


def test_parameters_are_attributes_and_options():
    envs = SB3VecEnv("flocking", 3, boids=5, max_episode_steps=2)
    envs.reset()
    assert [float(x) for x in envs.get_attr("max_steps")] == [2.0] * 3
    envs.set_attr("speed", 2.5)
    assert [float(p.speed) for p in envs.get_attr("params", indices=[0, 2])] == [2.5, 2.5]
    envs.set_options({"params": {"max_steps": 1}})
    envs.reset()
    assert envs.step(np.zeros((3, 5)))[2].all()
    assert envs.get_attr("boids", 1) == [5] and envs.get_attr("render_mode") == [None] * 3
    assert envs.get_attr("state", 0)[0].positions.shape == (5, 2)
    assert envs.has_attr("turn_rate") and not envs.has_attr("turn_rat")
    assert envs.env_is_wrapped(Monitor) == [False] * 3
    assert len(envs.env_method("observation_space", indices=1)) == 1
    with pytest.raises(ValueError, match=r"indices = \[1\]; must be None"):
        envs.set_attr("speed", 1.0, indices=[1])
    with pytest.raises(ValueError, match=r"has no field 'sped'; valid fields: max_steps"):
        envs.set_attr("sped", 1.0)
    envs.set_options({"parms": {}})
    with pytest.raises(ValueError, match=r"unknown option 'parms'; must be params"):
        envs.reset()
    envs.set_options([{}, {"params": {"speed": 1.0}}, {}])
    with pytest.raises(ValueError, match="options differ between instances; must be the same for all"):
        envs.reset()


def test_instances_may_have_parameters_of_their_own():
    envs = SB3VecEnv(PointMass(), 3, params={"force": [1.0, 2.0, 3.0], "friction": 0.0})
    envs.reset()
    np.testing.assert_allclose(envs.step(np.ones((3, 1)))[0][:, 1], [0.2, 0.4, 0.6], rtol=1e-6)
    envs.set_attr("force", [3.0, 2.0, 1.0])
    envs.set_options({"params": {"escape": np.array([7.0, 8.0, 9.0])}})
    envs.reset()
    assert [(float(p.force), float(p.escape)) for p in envs.get_attr("params")] == [(3, 7), (2, 8), (1, 9)]
    with pytest.raises(ValueError, match=r"MassParams.force has shape \(2,\); must be a number, or an array \[3\]"):
        envs.set_attr("force", [1.0, 2.0])
    rows = SB3VecEnv("flocking", 2, per_agent=True, boids=5, params={"speed": [1.0, 2.0]})
    assert [float(speed) for speed in rows.get_attr("speed")] == [1.0] * 5 + [2.0] * 5
    drawn = SB3VecEnv(PointMass(), 3, params=lambda key: {"force": jax.random.uniform(key)}, max_episode_steps=1)
    drawn.reset()
    before = drawn.get_attr("force")
    drawn.step(np.ones((3, 1)))
    assert len({*map(float, before), *map(float, drawn.get_attr("force"))}) == 6


def test_copies_go_on_alike_and_misuse_is_refused():
    envs = SB3VecEnv("flocking", 2, **FLOCK)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"need a reset\(\) before them"):
        envs.step(np.zeros((2, 5)))
    envs.reset()
    other = pickle.loads(pickle.dumps(envs))
    actions = np.full((2, 5), 0.5)
    np.testing.assert_array_equal(envs.step(actions)[0], other.step(actions)[0])
    with pytest.raises(ValueError, match=r"actions has shape \(2, 4\); must be \(2, 5\), values in \[-1, 1\]"):
        envs.step(np.zeros((2, 4)))
    with pytest.raises(RuntimeError, match=r"step_wait\(\) without actions; step_async\(actions\) must come before it"):
        SB3VecEnv("flocking", 2, **FLOCK).step_wait()
    with pytest.raises(ValueError, match=r"'trap_drag', task 'drag', has .* no agents; must have"):
        SB3VecEnv("trap_drag", per_agent=True)
    envs.close()
    envs.close()


def test_the_examples_of_the_page_run():
    page = pathlib.Path(__file__).parents[2] / "docs" / "adapters.md"
    blocks = [block for block in re.findall(r"```py\n(.*?)```", page.read_text(), re.S) if "SB3VecEnv" in block]
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert names["model"].num_timesteps >= 1_024


# --- its agents -------------------------------------------------------------------------------------------------------


@every_id
def test_ppo_runs_on_every_environment(id):
    many = SB3VecEnv(small_env(*GYMNASIUM[id]), num_envs=4)
    for env in (gymnasium.make(id, **SMALL[GYMNASIUM[id]]), VecNormalize(VecMonitor(many))):
        model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
        model.learn(64)
        assert model.num_timesteps == 64


def test_ppo_learns_what_is_to_be_learnt():
    envs = VecMonitor(SB3VecEnv(PointMass(), 32))
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=256, learning_rate=3e-3, gamma=0.9, seed=0, device="cpu")
    evaluation = VecMonitor(SB3VecEnv(PointMass(), 32))

    def score():
        evaluation.seed(1)
        return evaluate_policy(model, evaluation, n_eval_episodes=32)[0]

    before = score()
    model.learn(15_000)
    assert score() > before + 3.0


def test_off_policy_agents_and_shared_policies_run():
    model = SAC("MlpPolicy", SB3VecEnv("flocking", 2, per_agent=True, **FLOCK), learning_starts=20, device="cpu")
    model.learn(60)
    assert model.num_timesteps == 60
