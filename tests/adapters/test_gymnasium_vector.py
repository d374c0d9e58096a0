"""Environments through Gymnasium, many instances in one program."""

import copy
import pickle
import re

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from dmdenv.envs.adapters.gymnasium import GymnasiumVectorEnv
from functional_reference import Reference
from marks import by_default
from probe_envs import Crowded, PointMass
from rounding import assert_equal_up_to_rounding
from small_envs import GYMNASIUM, SMALL, small_env

MASS = "dmdenv/PointMass-v0"
MODES = [mode.value for mode in AutoresetMode]
SHORT = {"params": {"max_steps": 3}}
every_id = pytest.mark.parametrize("id", by_default([MASS, *GYMNASIUM], MASS))


def functional(id):
    return small_env(*GYMNASIUM[id]) if id in GYMNASIUM else PointMass()


def make(id, num_envs, **keywords):
    """An environment with seeded spaces, in its small configuration."""
    config = SMALL[GYMNASIUM[id]] if id in GYMNASIUM else {}
    envs = gymnasium.make_vec(id, num_envs=num_envs, **config, **keywords)
    envs.action_space.seed(0)
    return envs


@every_id
@pytest.mark.parametrize("mode", MODES)
def test_instances_do_what_the_functional_environment_does(id, mode):
    """Transition for transition, over ends of episodes at different times, whatever resets them."""
    params = functional(id).default_params.replace(max_steps=3)
    envs = make(id, 3, autoreset_mode=mode, **SHORT)
    assert isinstance(envs, GymnasiumVectorEnv)
    references = [Reference(functional(id), seed, params) for seed in (5, 6, 7)]
    observations, _ = envs.reset(seed=5)
    assert_equal_up_to_rounding(observations, np.stack([r.observation for r in references]))
    ended = np.zeros(3, bool)
    if mode == "Disabled":  # instance 1 gets out of step with the others
        envs.step(actions := envs.action_space.sample())
        for reference, action in zip(references, actions, strict=True):
            reference.step(action)
        envs.reset(options={"reset_mask": np.array([False, True, False])})
        references[1].reset()
    for _ in range(9):
        if mode == "Disabled" and ended.any():
            observations, _ = envs.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended):
                references[i].reset()
                assert_equal_up_to_rounding(observations[i], references[i].observation)
        for i, reference in enumerate(references):  # one step at a time is compared
            reference.state = envs.instances.state(i)
        actions = envs.action_space.sample()
        observations, rewards, terminated, truncated, info = envs.step(actions)
        for i, reference in enumerate(references):
            if mode == "NextStep" and ended[i]:
                reference.reset()
                assert rewards[i] == 0 and not terminated[i] and not truncated[i]
                assert all(not info[name][i] for name in info if name.startswith("_"))
                assert_equal_up_to_rounding(observations[i], reference.observation)
                continue
            step = reference.step_and_reset if mode == "SameStep" else reference.step
            reward, end, cut, expected = step(actions[i])
            assert_equal_up_to_rounding(rewards[i], reward)
            assert (terminated[i], truncated[i]) == (bool(end), bool(cut))
            over = bool(end) or bool(cut)
            told = info["final_info"] if mode == "SameStep" and over else info
            final = expected.pop("final_observation")
            assert_equal_up_to_rounding({name: told[name][i] for name in expected}, expected)
            assert all(told[f"_{name}"][i] for name in expected)
            if mode == "SameStep" and over:
                assert_equal_up_to_rounding(info["final_obs"][i], final)
            assert_equal_up_to_rounding(observations[i], reference.observation)
        ended = terminated | truncated
    assert rewards.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
    assert envs.observation_space.contains(observations)


@every_id
def test_an_instance_does_not_depend_on_how_many_there_are(id):
    few, many = make(id, 2, **SHORT), make(id, 7, **SHORT)
    for seed in range(11, 15):
        assert_equal_up_to_rounding(few.reset(seed=seed)[0], many.reset(seed=seed)[0][:2])
        actions = many.action_space.sample()
        assert_equal_up_to_rounding(few.step(actions[:2])[0], many.step(actions)[0][:2])


def test_gymnasiums_own_vectors_work():
    """`vectorization_mode="sync"`; "async" is tried in processes of their own."""
    envs = make(MASS, 2, vectorization_mode="sync", **SHORT)
    assert isinstance(envs, SyncVectorEnv)
    ours = make(MASS, 2, **SHORT)
    assert_equal_up_to_rounding(envs.reset(seed=3)[0], ours.reset(seed=3)[0])
    actions = ours.action_space.sample()
    assert_equal_up_to_rounding(envs.step(actions)[0], ours.step(actions)[0])


def test_seeds_are_those_of_single_instances():
    envs = make(MASS, 2)
    single = gymnasium.make(MASS)
    np.testing.assert_array_equal(envs.reset(seed=[4, 1])[0][1], single.reset(seed=1)[0])
    np.testing.assert_array_equal(envs.reset(seed=0)[0][1], single.reset(seed=1)[0])
    with pytest.raises(ValueError, match="seed has 3 entries; must have one per instance, 2"):
        envs.reset(seed=[1, 2, 3])
    assert not np.allclose(*envs.reset(seed=[None, None])[0])


def test_time_limits_and_statistics_of_episodes():
    envs = make(MASS, 2, max_episode_steps=2)
    envs.reset(seed=0)
    assert [envs.step(envs.action_space.sample())[3].tolist() for _ in range(2)] == [[False] * 2, [True] * 2]
    for mode in ("NextStep", "SameStep"):
        envs = RecordEpisodeStatistics(make(MASS, 2, autoreset_mode=mode, **SHORT))
        envs.reset(seed=0)
        total = np.zeros(2)
        for _ in range(3):
            _, rewards, _, _, info = envs.step(envs.action_space.sample())
            total += rewards
        np.testing.assert_allclose(info["episode"]["r"], total, rtol=1e-6)
        assert info["episode"]["l"].tolist() == [3, 3]


@every_id
def test_copies_and_pictures(id):
    envs = make(id, 2, render_mode="rgb_array")
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    others = [copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))]
    actions = envs.action_space.sample()
    expected = envs.step(actions)[0]
    for other in others:
        np.testing.assert_array_equal(other.step(actions)[0], expected)
    single = gymnasium.make(id, render_mode="rgb_array", **(SMALL[GYMNASIUM[id]] if id in GYMNASIUM else {}))
    single.reset(seed=0)
    envs.reset(seed=0)
    pictures = envs.render()
    assert len(pictures) == 2 and pictures[0].dtype == np.uint8 and pictures[0].shape[2] == 3
    np.testing.assert_array_equal(pictures[0], single.render())
    envs.close()


# --- what may go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_capacity_that_overflows_grows_and_the_step_is_repeated(mode):
    """Also where the step that overflows is the last of an episode."""
    keywords = {"params": {"target": -0.5, "max_steps": 1}, "autoreset_mode": mode}  # needs a capacity of 4
    tight, roomy = GymnasiumVectorEnv(Crowded(), 2, **keywords), GymnasiumVectorEnv(Crowded(capacity=4), 2, **keywords)
    tight.reset(seed=0)
    roomy.reset(seed=0)
    found, expected = (envs.step(np.full((2, 1), 0.3, np.float32)) for envs in (tight, roomy))
    assert not found[4].get("final_info", found[4])["overflow"].any()
    assert tight.instances.env == Crowded(capacity=4)
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_neighbor_list_that_overflows_grows(mode):
    """As if the capacity had been large from the start."""
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
    for num_envs in (0, True, 1.5):
        with pytest.raises(ValueError, match=rf"num_envs = {num_envs}; must be an integer >= 1"):
            GymnasiumVectorEnv(PointMass(), num_envs)
    envs = make(MASS, np.int64(2), autoreset_mode="Disabled", **SHORT)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"need a reset\(\) before them"):
        envs.step(np.zeros((2, 1)))
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions has shape \(2, 4\); must be \(2, 1\)"):
        envs.step(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"reset_mask = .*; must be a bool array \[2\] with some True in it"):
        envs.reset(options={"reset_mask": np.zeros(2, bool)})
    for _ in range(3):
        envs.step(np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"instances \[0, 1\] have ended; must be reset first"):
        envs.step(np.zeros((2, 1)))


@pytest.mark.parametrize("num", [0, -1, 2.0, None, "3", True, [3], 10**30])
def test_what_is_no_number_of_instances_is_refused(num):
    with pytest.raises(ValueError, match=rf"num_envs = {re.escape(repr(num))}; must be an integer >= 1"):
        GymnasiumVectorEnv(PointMass(), num)


@pytest.mark.parametrize("mode", ["nextstep", 1, None, ["NextStep"]])
def test_what_is_no_mode_is_refused(mode):
    message = re.escape(f"autoreset_mode = {mode!r}; must be one of 'NextStep', 'SameStep', 'Disabled'")
    with pytest.raises(ValueError, match=message):
        GymnasiumVectorEnv(PointMass(), autoreset_mode=mode)
