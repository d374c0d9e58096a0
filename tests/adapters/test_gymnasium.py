"""Environments through Gymnasium, one instance at a time."""

import copy
import dataclasses
import pickle
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from dmdenv.envs.adapters.gymnasium import GymnasiumEnv
from functional_reference import Reference
from marks import by_default
from probe_envs import PointMass
from rounding import assert_equal_up_to_rounding
from small_envs import GYMNASIUM, SMALL, small_env

MASS, TRAP = "dmdenv/PointMass-v0", "dmdenv/TrapDrag-v0"
SHORT = {"params": {"max_steps": 3}}


# mechanics are those of one class for all environments: by default they run on a probe, which compiles in a second
every_id = pytest.mark.parametrize("id", by_default([MASS, *GYMNASIUM], MASS))
real_ids = pytest.mark.parametrize("id", by_default(GYMNASIUM, TRAP))


def functional(id):
    return small_env(*GYMNASIUM[id]) if id in GYMNASIUM else PointMass()


def make(id, **keywords):
    """An environment with seeded spaces, in its small configuration."""
    env = gymnasium.make(id, **(SMALL[GYMNASIUM[id]] if id in GYMNASIUM else {}), **keywords)
    env.action_space.seed(0)
    return env


@real_ids
def test_gymnasiums_own_checks_pass(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(id, render_mode="rgb_array").unwrapped)


@real_ids
def test_ids_are_found_with_the_module_in_front(id):
    env = gymnasium.make(f"dmdenv:{id}", **SMALL[GYMNASIUM[id]])
    assert isinstance(env.unwrapped, GymnasiumEnv)
    assert env.spec is not None and env.spec.id == id


def test_an_environment_is_made_again_from_its_specification():
    first = gymnasium.make(TRAP, particles=4, params={"stiffness": 2.0})
    assert first.spec is not None and first.spec.kwargs["env"] == "trap_drag"
    for env in (gymnasium.make(first.spec.id, **first.spec.kwargs), gymnasium.make(first.spec)):
        instances = env.unwrapped.instances
        assert instances.env is first.unwrapped.instances.env and instances.params.stiffness == 2.0


@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("make_it", [gymnasium.make, gymnasium.make_vec])
def test_a_specification_survives_json(make_it, as_object):
    params = {"stiffness": np.float32(2.3), "max_steps": jax.numpy.int32(5)}
    if make_it is gymnasium.make_vec:
        params["stiffness"] = np.float32([2.3, 0.1])
    given = small_env(*GYMNASIUM[TRAP]).default_params.replace(**params) if as_object else params
    extra = {"num_envs": 2, "autoreset_mode": AutoresetMode.SAME_STEP} if make_it is gymnasium.make_vec else {}
    first = make_it(TRAP, particles=np.int64(4), params=given, **extra)
    again = make_it(EnvSpec.from_json(first.spec.to_json()))
    assert again.spec == first.spec and again.unwrapped.instances.env is first.unwrapped.instances.env
    jax.tree.map(np.testing.assert_array_equal, again.unwrapped.instances.params, first.unwrapped.instances.params)
    assert again.metadata == first.metadata


@dataclasses.dataclass(frozen=True)
class Layered(PointMass):
    """A point mass with a static tuple."""

    layers: tuple = ()


def test_tuples_of_a_specification_survive_json():
    gymnasium.register("Layered-v0", GymnasiumEnv, kwargs={"env": f"{__name__}:Layered"})
    try:
        first = gymnasium.make("Layered-v0", layers=(3, (4, 5)))
        first.spec.entry_point = "dmdenv.envs.adapters.gymnasium:GymnasiumEnv"  # JSON knows no classes
        again = gymnasium.make(EnvSpec.from_json(first.spec.to_json()))
        assert again.unwrapped.instances.env.layers == (3, (4, 5))
    finally:
        del gymnasium.registry["Layered-v0"]


@every_id
def test_outputs_are_of_the_declared_types_and_belong_to_the_caller(id):
    env = make(id)
    observation, info = env.reset(seed=3)
    assert info == {}
    for _ in range(3):
        assert env.observation_space.contains(observation)
        assert observation.flags.writeable
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
        assert all(type(value) in (float, bool) for value in info.values())
    assert "final_observation" not in info


@every_id
def test_it_does_what_the_functional_environment_does(id):
    env = make(id, params={"max_steps": 4})
    reference = Reference(functional(id), 7, functional(id).default_params.replace(max_steps=4))
    observation, _ = env.reset(seed=7)
    for _ in range(2):
        assert_equal_up_to_rounding(observation, reference.observation)
        for t in range(4):
            reference.state = env.unwrapped.instances.state()
            action = env.action_space.sample()
            observation, reward, terminated, truncated, info = env.step(action)
            expected_reward, expected_terminated, expected_truncated, expected_info = reference.step(action)
            assert_equal_up_to_rounding(observation, reference.observation)
            assert_equal_up_to_rounding(reward, expected_reward)
            assert (terminated, truncated) == (bool(expected_terminated), bool(expected_truncated))
            assert (terminated or truncated) == (t == 3)
            assert_equal_up_to_rounding(info, {name: expected_info[name] for name in info})
        observation, _ = env.reset()
        reference.reset()


def test_seeds_repeat_and_differ():
    env = make(MASS)
    first, again, other = env.reset(seed=1)[0], env.reset(seed=1)[0], env.reset(seed=2)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(env.reset()[0], env.reset()[0])


def test_parameters_change_by_options_and_nothing_is_compiled_again(caplog):
    env = make(MASS)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        env.reset(options={"params": {"force": 3.0, "max_steps": 1}})
        assert env.step(env.action_space.sample())[3]
    assert not caplog.records
    assert env.unwrapped.instances.params.force == 3.0
    with pytest.raises(ValueError, match=r"has no field 'fource'; valid fields: max_steps"):
        env.reset(options={"params": {"fource": 3.0}})
    with pytest.raises(ValueError, match=r"unknown option 'parms'; must be params"):
        env.reset(options={"parms": {}})


@pytest.mark.parametrize("limit", [2, 40])  # the default is 32
def test_the_time_limit_of_make_is_that_of_the_environment(limit):
    first = make(MASS, max_episode_steps=limit)
    assert isinstance(first, TimeLimit)
    again = gymnasium.make(first.spec)
    (other,) = gymnasium.make_vec(MASS, vectorization_mode="sync", max_episode_steps=limit).envs
    for env in (first, again, other):
        assert env.unwrapped.instances.params.max_steps == limit
    again.reset(seed=0)
    assert [again.step(np.zeros(1, np.float32))[3] for _ in range(limit)] == [False] * (limit - 1) + [True]
    assert make(MASS, max_episode_steps=-1).unwrapped.instances.params.max_steps == 32  # no clock of Gymnasium's


class PointMassTask(GymnasiumEnv):
    """An environment that somebody makes of an adapter, with its own constructor."""

    def __init__(self, **keywords):
        super().__init__(PointMass(), **keywords)


def test_a_finite_horizon_never_becomes_a_truncation():
    message = (
        r"max_episode_steps = 3: gymnasium.make truncates .* 'trap_drag', .* must be given as params={'max_steps': 3}"
    )
    limited = dataclasses.replace(gymnasium.spec(TRAP), max_episode_steps=3)
    for make_limited in (
        lambda: make(TRAP, max_episode_steps=3),
        lambda: gymnasium.make(limited, particles=4),
        lambda: gymnasium.make_vec(TRAP, vectorization_mode="sync", max_episode_steps=3, particles=4),
    ):
        with pytest.raises(ValueError, match=message):
            make_limited()
    env = make(TRAP, params={"max_steps": 3})
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, False)]
    envs = gymnasium.make_vec(TRAP, num_envs=2, max_episode_steps=1, particles=4)
    envs.reset(seed=0)
    _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert terminated.all() and not truncated.any()


def test_a_time_limit_is_found_by_subclasses_and_only_where_make_asks_for_it():
    gymnasium.register("Task-v0", PointMassTask, max_episode_steps=5)
    try:
        assert gymnasium.make("Task-v0").unwrapped.instances.params.max_steps == 5
        assert PointMassTask().instances.params.max_steps == 32
    finally:
        del gymnasium.registry["Task-v0"]


@pytest.mark.parametrize("limit", [0, -3, 2.5, True, "9", 10**30])
def test_what_is_no_time_limit_is_refused(limit):
    message = rf"max_episode_steps = {limit!r}; must be an integer >= 1"
    for make_limited in (make, gymnasium.make_vec):
        with pytest.raises(ValueError, match=message):
            make_limited(MASS, max_episode_steps=limit)


def test_two_time_limits_are_refused():
    for make_limited in (make, gymnasium.make_vec):
        for params in ({"max_steps": 3}, PointMass().default_params.replace(max_steps=3)):
            with pytest.raises(
                ValueError, match=r"max_episode_steps = 5 beside params with max_steps = 3.0; must be eq"
            ):
                make_limited(MASS, max_episode_steps=5, params=params)
            assert make_limited(MASS, max_episode_steps=3, params=params).unwrapped.instances.params.max_steps == 3


@pytest.mark.parametrize("name", ["additional_wrappers", "apply_api_compatibility", "autoreset", "num_envs", "seed"])
def test_arguments_that_gymnasium_does_not_take_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"has no configuration field {name!r}; valid fields: task, time_step"):
        gymnasium.make(MASS, **{name: 1})
    if name != "num_envs":
        with pytest.raises(ValueError, match=f"has no configuration field {name!r}; valid fields: task, time_step"):
            gymnasium.make_vec(MASS, **{name: 1})


@pytest.mark.parametrize("arguments", [{"wrappers": [TimeLimit]}, {"vector_kwargs": {"copy": False}}])
def test_arguments_that_gymnasium_keeps_for_its_own_vectors_are_refused_by_ours(arguments):
    with pytest.raises(gymnasium.error.Error, match=next(iter(arguments))):
        gymnasium.make_vec(MASS, **arguments)


def test_statistics_of_episodes_are_recorded():
    env = RecordEpisodeStatistics(make(MASS, **SHORT))
    env.reset(seed=0)
    rewards = [(out := env.step(env.action_space.sample()))[1] for _ in range(3)]
    np.testing.assert_allclose(out[4]["episode"]["r"], sum(rewards), rtol=1e-6)


@every_id
def test_copies_and_pickles_go_on_alike(id):
    env = make(id)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    others = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    action = env.action_space.sample()
    expected = env.step(action)[0]
    for other in others:
        np.testing.assert_array_equal(other.step(action)[0], expected)
    env.close()
    env.close()


def test_a_film_is_recorded(tmp_path):
    env = gymnasium.wrappers.RecordVideo(
        make(TRAP, render_mode="rgb_array", **SHORT), str(tmp_path / "films"), disable_logger=True
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
    by_hand = AsyncVectorEnv([make_in_another_process] * 2, context="spawn")
    by_name = gymnasium.make_vec(
        TRAP, num_envs=2, vectorization_mode="async", vector_kwargs={"context": "spawn"}, particles=4
    )
    for envs in (by_hand, by_name):
        envs.action_space.seed(0)
        observations, _ = envs.reset(seed=0)
        assert observations.shape == (2, 3)
        assert envs.step(envs.action_space.sample())[1].shape == (2,)
        envs.close()


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="render_mode = 'human'; must be one of None, 'rgb_array'"):
        GymnasiumEnv(PointMass(), render_mode="human")
    with pytest.raises(ValueError, match="has no configuration field 'mas'; valid fields: task, time_step"):
        gymnasium.make(MASS, mas=3)
    with pytest.raises(ValueError, match=r"'rows' beside an environment; must be given with an id, or to dataclasses"):
        GymnasiumEnv(PointMass(), rows=3)
    with pytest.raises(ValueError, match="MassParams has no field 3; valid fields: max_steps, force"):
        GymnasiumEnv(PointMass(), params={3: 1.0})
    with pytest.raises(TypeError, match="env = 3; must be an environment, or an id"):
        GymnasiumEnv(3)
    with pytest.raises(ValueError, match="params is a TrapDragParams; must be a MassParams, or a dict"):
        GymnasiumEnv(PointMass(), params=small_env(*GYMNASIUM[TRAP]).default_params)
