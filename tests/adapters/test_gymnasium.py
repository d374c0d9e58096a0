"""Environments through Gymnasium: one at a time, and many in one program."""

import copy
import functools
import pickle
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics

from dmdenv.envs.adapters.gymnasium import GymnasiumEnv, GymnasiumVectorEnv
from dmdenv.envs.adapters.instances import own_seed
from marks import by_default
from small_envs import GYMNASIUM, SMALL, small_env

MODES = [mode.value for mode in AutoresetMode]
FLOCK = {"boids": 5, "params": {"max_steps": 3}}


FASTEST = "dmdenv/TrapDrag-v0"


@pytest.fixture(params=by_default(GYMNASIUM, "dmdenv/Flocking-v0", FASTEST))
def id(request):
    return request.param


every_id_slowly = pytest.mark.parametrize("id", by_default(GYMNASIUM, FASTEST))


def small(id: str) -> dict:
    return SMALL[GYMNASIUM[id]]


@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checks_pass(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(id, render_mode="rgb_array", **small(id)).unwrapped)


def test_ids_are_found_with_the_module_in_front(id):
    env = gymnasium.make(f"dmdenv:{id}", **small(id))
    assert isinstance(env.unwrapped, GymnasiumEnv)
    assert env.spec is not None and env.spec.id == id


def test_outputs_are_of_the_declared_types_and_belong_to_the_caller(id):
    env = gymnasium.make(id, **small(id))
    observation, info = env.reset(seed=3)
    assert info == {}
    for _ in range(3):
        assert env.observation_space.contains(observation)
        assert observation.flags.writeable
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
        assert all(type(value) in (float, bool) for value in info.values())
    assert "final_observation" not in info


# --- equal to the functional environment ------------------------------------------------------------------------------


@functools.cache
def functional(id: str):
    env = small_env(*GYMNASIUM[id])
    return env, jax.jit(env.reset), jax.jit(env.step_env)


class Reference:
    """One instance, by the functional environment and its seed alone."""

    def __init__(self, id: str, seed: int, params):
        (_, self.reset_, self.step_), self.params = functional(id), params
        self.key = jax.random.key(np.uint32(own_seed(seed)))
        self.reset()

    def draw(self):
        self.key, drawn = jax.random.split(self.key)
        return drawn

    def reset(self):
        self.observation, self.state = self.reset_(self.draw(), self.params)

    def step(self, action):
        self.observation, self.state, *rest = self.step_(self.draw(), self.state, action, self.params)
        return rest


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_one_instance_does_what_the_functional_environment_does(id):
    env = gymnasium.make(id, params={"max_steps": 4}, **small(id))
    reference = Reference(id, 7, functional(id)[0].default_params.replace(max_steps=4))
    observation, _ = env.reset(seed=7)
    for _ in range(2):
        same(observation, reference.observation)
        for t in range(4):
            action = env.action_space.sample()
            observation, reward, terminated, truncated, info = env.step(action)
            expected_reward, expected_terminated, expected_truncated, expected_info = reference.step(action)
            same(observation, reference.observation)
            same(reward, expected_reward)
            assert (terminated, truncated) == (bool(expected_terminated), bool(expected_truncated))
            assert (terminated or truncated) == (t == 3)
            for name, value in info.items():
                same(value, expected_info[name])
        observation, _ = env.reset()
        reference.reset()


@every_id_slowly
@pytest.mark.parametrize("mode", MODES)
def test_many_instances_do_what_the_functional_environment_does(id, mode):
    """Transition for transition, over ends of episodes at different times, whatever resets them."""
    params = functional(id)[0].default_params.replace(max_steps=3)
    envs = gymnasium.make_vec(id, num_envs=3, autoreset_mode=mode, params={"max_steps": 3}, **small(id))
    assert isinstance(envs, GymnasiumVectorEnv)
    references = [Reference(id, seed, params) for seed in (5, 6, 7)]
    observations, _ = envs.reset(seed=5)
    same(observations, np.stack([r.observation for r in references]))
    ended = np.zeros(3, bool)
    if mode == "Disabled":  # instance 1 gets out of step with the others
        mask = np.array([False, True, False])
        envs.step(actions := envs.action_space.sample())
        for reference, action in zip(references, actions, strict=True):
            reference.step(action)
        envs.reset(options={"reset_mask": mask})
        for i, reference in enumerate(references):
            drawn = reference.draw() if i == 1 else None
            if drawn is not None:
                reference.observation, reference.state = reference.reset_(drawn, params)
    for _ in range(9):
        actions = envs.action_space.sample()
        if mode == "Disabled" and ended.any():
            observations, _ = envs.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended):
                references[i].reset()
            same(observations, np.stack([r.observation for r in references]))
        observations, rewards, terminated, truncated, info = envs.step(actions)
        for i, reference in enumerate(references):
            if mode == "NextStep" and ended[i]:
                reference.reset()
                assert rewards[i] == 0 and not terminated[i] and not truncated[i]
                assert all(not info[name][i] for name in info if name.startswith("_"))
                same(observations[i], reference.observation)
                continue
            reward, end, cut, expected = step_or_reset(reference, actions[i], same_step=mode == "SameStep")
            same(rewards[i], reward)
            assert (terminated[i], truncated[i]) == (bool(end), bool(cut))
            over = bool(end) or bool(cut)
            told = info["final_info"] if mode == "SameStep" and over else info
            for name, value in expected.items():
                if name != "final_observation":
                    same(told[name][i], value)
                    assert told[f"_{name}"][i]
            if mode == "SameStep" and over:
                same(info["final_obs"][i], expected["final_observation"])
            same(observations[i], reference.observation)
        ended = terminated | truncated
    assert rewards.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
    assert envs.observation_space.contains(observations)


def step_or_reset(reference, action, *, same_step):
    """A step, and where it ends an episode perhaps a reset within it, as `Env.step` draws its keys."""
    if not same_step:
        return reference.step(action)
    step_key, reset_key = jax.random.split(reference.draw())
    reference.observation, reference.state, reward, end, cut, info = reference.step_(
        step_key, reference.state, action, reference.params
    )
    if end or cut:
        reference.observation, reference.state = reference.reset_(reset_key, reference.params)
    return reward, end, cut, info


@every_id_slowly
def test_an_instance_does_not_depend_on_how_many_there_are(id):
    def observed(num):
        envs = gymnasium.make_vec(id, num_envs=num, params={"max_steps": 3}, **small(id))
        rng = np.random.default_rng(0)
        out = [envs.reset(seed=11)[0][1]]
        actions = rng.uniform(-1, 1, (8, 7, *envs.single_action_space.shape)).astype(np.float32)
        for t in range(8):
            out.append(envs.step(actions[t, :num])[0][1])
        return np.stack(out)

    same(observed(2), observed(7))


# --- Gymnasium's tools ------------------------------------------------------------------------------------------------


def test_seeds_repeat_and_differ():
    env = gymnasium.make("dmdenv/Flocking-v0", **FLOCK)
    first, again, other = env.reset(seed=1)[0], env.reset(seed=1)[0], env.reset(seed=2)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(env.reset()[0], env.reset()[0])
    envs = gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=2, **FLOCK)
    np.testing.assert_array_equal(envs.reset(seed=[4, 1])[0][1], first)
    with pytest.raises(ValueError, match="seed has 3 entries; valid: one for each of the 2 instances"):
        envs.reset(seed=[1, 2, 3])
    assert not np.allclose(*envs.reset(seed=[None, None])[0])


def test_parameters_change_by_options_and_nothing_compiles_anew():
    env = gymnasium.make("dmdenv/Flocking-v0", **FLOCK)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with jax.log_compiles(False):
        env.reset(options={"params": {"speed": 3.0, "max_steps": 1}})
    assert env.unwrapped.instances.params.speed == 3.0
    assert env.step(env.action_space.sample())[3]
    with pytest.raises(ValueError, match=r"has no field 'sped'; valid fields: max_steps"):
        env.reset(options={"params": {"sped": 3.0}})
    with pytest.raises(ValueError, match=r"unknown option 'parms'; valid: params"):
        env.reset(options={"parms": {}})


def test_time_limits_of_gymnasium_and_of_the_environment():
    limited = gymnasium.make("dmdenv/Flocking-v0", boids=5, max_episode_steps=2)
    assert isinstance(limited, TimeLimit)
    limited.reset(seed=0)
    assert [limited.step(limited.action_space.sample())[3] for _ in range(2)] == [False, True]
    envs = gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=2, boids=5, max_episode_steps=2)
    envs.reset(seed=0)
    assert [envs.step(envs.action_space.sample())[3].tolist() for _ in range(2)] == [[False] * 2, [True] * 2]


def test_statistics_of_episodes_are_recorded():
    env = RecordEpisodeStatistics(gymnasium.make("dmdenv/Flocking-v0", **FLOCK))
    env.reset(seed=0)
    rewards = [(out := env.step(env.action_space.sample()))[1] for _ in range(3)]
    np.testing.assert_allclose(out[4]["episode"]["r"], sum(rewards), rtol=1e-6)
    for mode in ("NextStep", "SameStep"):
        envs = RecordVectorStatistics(
            gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=2, autoreset_mode=mode, **FLOCK)
        )
        envs.reset(seed=0)
        total = np.zeros(2)
        for _ in range(3):
            _, rewards, _, _, info = envs.step(envs.action_space.sample())
            total += rewards
        np.testing.assert_allclose(info["episode"]["r"], total, rtol=1e-6)
        assert info["episode"]["l"].tolist() == [3, 3]


@every_id_slowly
def test_copies_and_pickles_go_on_alike(id):
    for env in (gymnasium.make(id, **small(id)), gymnasium.make_vec(id, num_envs=2, **small(id))):
        env.reset(seed=0)
        env.step(env.action_space.sample())
        others = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
        action = env.action_space.sample()
        expected = env.step(action)[0]
        for other in others:
            np.testing.assert_array_equal(other.step(action)[0], expected)
        env.close()
        env.close()


@every_id_slowly
def test_pictures(id):
    env = gymnasium.make(id, render_mode="rgb_array", **small(id))
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    envs = gymnasium.make_vec(id, num_envs=2, render_mode="rgb_array", **small(id))
    envs.reset(seed=0)
    assert len(envs.render()) == 2
    np.testing.assert_array_equal(envs.render()[0], picture)


def test_a_film_is_recorded(tmp_path):
    env = gymnasium.wrappers.RecordVideo(
        gymnasium.make("dmdenv/Flocking-v0", render_mode="rgb_array", **FLOCK),
        str(tmp_path / "films"),
        disable_logger=True,
    )
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.close()
    assert [path.stat().st_size > 1000 for path in tmp_path.glob("films/*.mp4")] == [True]


def make_in_another_process():
    return gymnasium.make("dmdenv:dmdenv/TrapDrag-v0", particles=4)


@pytest.mark.slow
def test_processes_of_their_own_work():
    envs = AsyncVectorEnv([make_in_another_process] * 2, context="spawn")
    observations, _ = envs.reset(seed=0)
    assert observations.shape == (2, 3)
    assert envs.step(envs.action_space.sample())[1].shape == (2,)
    envs.close()


# --- what may go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", by_default(["NextStep", "SameStep"], "NextStep"))
def test_a_list_that_overflows_grows_and_the_step_is_repeated(mode):
    """As if there had been room from the start; also where the step that overflows is the last of an episode."""
    crowd = {"boids": 40, "pairs": "list", "autoreset_mode": mode}
    crowd["params"] = {"cohesion": 50.0, "avoidance": 0.0, "max_steps": 1 if mode == "SameStep" else 256}
    tight = gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=2, slack=1.0, **crowd)
    roomy = gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=2, slack=30.0, **crowd)
    tight.reset(seed=0)
    roomy.reset(seed=0)
    for _ in range(60):
        actions = np.zeros((2, 40), np.float32)
        found, expected = tight.step(actions), roomy.step(actions)
        assert not found[4]["overflow"].any()
    assert tight.unwrapped.instances.env.slack > 1.0
    np.testing.assert_allclose(found[1], expected[1], rtol=0.05, atol=0.05)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="render_mode = 'human'; valid: None, 'rgb_array'"):
        GymnasiumEnv("flocking", render_mode="human")
    with pytest.raises(ValueError, match="num_envs = 0; valid: a whole number from 1"):
        GymnasiumVectorEnv("flocking", 0)
    with pytest.raises(ValueError, match="'flocking' has no configuration field 'boid'"):
        gymnasium.make("dmdenv/Flocking-v0", boid=3)
    envs = gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=2, autoreset_mode="Disabled", **FLOCK)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"need a reset\(\) before them"):
        envs.step(np.zeros((2, 5)))
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions has shape \(2, 4\); valid: \(2, 5\)"):
        envs.step(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"reset_mask = .*; valid: a bool array \[2\] with some True in it"):
        envs.reset(options={"reset_mask": np.zeros(2, bool)})
    for _ in range(3):
        envs.step(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"instances \[0, 1\] have ended; valid: reset them first"):
        envs.step(np.zeros((2, 5)))
