"""Parameters of adapters on the host: common to all instances, one value for each, or drawn for each episode."""

import dataclasses
import functools
import pickle

import gymnasium
import jax
import numpy as np
import pytest

from dmdenv.envs.adapters.gymnasium import GymnasiumEnv, GymnasiumVectorEnv
from probe_envs import MassParams, PointMass, ReadTheCue
from rounding import assert_equal_up_to_rounding

MODES = ("NextStep", "SameStep")
FORCES = [1.0, 2.0, 3.0]
PUSH = np.ones((3, 1), np.float32)


def draw_force(key):
    return {"force": jax.random.uniform(key, minval=1.0, maxval=5.0)}


def forces_of(envs):
    return np.array([envs.instances.params_of(i).force for i in range(envs.num_envs)])


class Ordered(PointMass):
    """A point mass that demands an order of two parameters."""

    def validate(self, params):
        if params.friction > params.force:
            raise ValueError(f"friction = {params.friction:g}; must be <= force = {params.force:g}")


@dataclasses.dataclass(frozen=True)
class Bounded(PointMass):
    """A point mass whose space of observations depends on a parameter."""

    def observation_space(self, params=None):
        bound = 10.0 if params is None else float(params.escape)
        return gymnasium.spaces.Box(-bound, bound, (2,))


# --- one value for each instance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_instance_does_what_it_does_alone_with_its_parameters(mode):
    varied = {"force": FORCES, "max_steps": np.array([2, 3, 4])}
    envs = GymnasiumVectorEnv(PointMass(), 3, params={**varied, "friction": 0.1}, autoreset_mode=mode)
    observations, _ = envs.reset(seed=0)
    alone = []
    for i in range(3):
        own = {name: values[i] for name, values in varied.items()}
        alone.append(GymnasiumVectorEnv(PointMass(), params={**own, "friction": 0.1}, autoreset_mode=mode))
        assert_equal_up_to_rounding(observations[i], alone[i].reset(seed=i)[0][0])
    for _ in range(5):
        observations, rewards, terminated, truncated, _ = envs.step(PUSH)
        for i, env in enumerate(alone):
            expected = env.step(PUSH[:1])
            assert_equal_up_to_rounding((observations[i], rewards[i]), (expected[0][0], expected[1][0]))
            assert (terminated[i], truncated[i]) == (expected[2][0], expected[3][0])


def test_they_change_by_options_and_survive_a_copy():
    envs = GymnasiumVectorEnv(PointMass(), 3, params=MassParams(force=FORCES))
    envs.reset(seed=0, options={"params": {"friction": [0.1, 0.2, 0.3]}})
    other = pickle.loads(pickle.dumps(envs))
    np.testing.assert_array_equal(forces_of(other), FORCES)
    np.testing.assert_array_equal(envs.step(PUSH)[0], other.step(PUSH)[0])
    envs.reset(options={"params": MassParams()})
    np.testing.assert_array_equal(forces_of(envs), 1.0)


def test_of_many_environments_each_is_pictured_with_its_own():
    envs = GymnasiumVectorEnv(Pictured(), 3, params={"force": FORCES}, render_mode="rgb_array")
    envs.reset(seed=0)
    assert [picture[0, 0, 0] for picture in envs.render()] == [1, 2, 3]


class Pictured(PointMass):
    def render(self, state, params=None):
        return np.full((2, 2, 3), params.force, np.uint8)


@pytest.mark.parametrize("force", [[1.0], [1.0, 2.0], np.ones((1, 3)), np.ones((3, 1))])
def test_arrays_of_another_length_are_refused(force):
    shape = str(np.shape(force)).replace("(", r"\(").replace(")", r"\)")
    message = rf"MassParams.force has shape {shape}; must be a number, or an array \[3\] with one for each instance"
    for params in ({"force": force}, MassParams(force=force)):
        with pytest.raises(ValueError, match=message):
            GymnasiumVectorEnv(PointMass(), 3, params=params)
    envs = GymnasiumVectorEnv(PointMass(), 3)
    with pytest.raises(ValueError, match=message):
        envs.reset(options={"params": {"force": force}})
    np.testing.assert_array_equal(forces_of(envs), 1.0)


def _pettingzoo(env, **keywords):
    adapter = pytest.importorskip("dmdenv.envs.adapters.pettingzoo", reason="needs PettingZoo")
    return adapter.parallel_env(env, **keywords)


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.2]])
def test_a_single_instance_refuses_arrays(values):
    single = (
        functools.partial(GymnasiumEnv, PointMass(), params={"force": values}),
        functools.partial(_pettingzoo, ReadTheCue(), params={"target": values}),
    )
    for make in single:
        with pytest.raises(ValueError, match=r"Params.\w+ has shape \(\d,\); must be a number$"):
            make()


def test_conditions_between_parameters_hold_in_every_instance():
    with pytest.raises(ValueError, match=r"friction = 0.5; must be <= force = 0.25"):
        GymnasiumVectorEnv(Ordered(), 3, params={"force": [1.0, 0.25, 1.0]})
    with pytest.raises(ValueError, match=r"MassParams.force = \[1.0, -2.0, 3.0\]; must be a finite number >= 0"):
        GymnasiumVectorEnv(PointMass(), 3, params={"force": [1.0, -2.0, 3.0]})
    with pytest.raises(ValueError, match="params give the instances spaces that differ; must be the same spaces"):
        GymnasiumVectorEnv(Bounded(), 3, params={"escape": FORCES})


# --- drawn for each episode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_function_draws_them_for_each_episode(mode):
    keywords = {"max_episode_steps": 2, "autoreset_mode": mode}
    envs, plain = (GymnasiumVectorEnv(PointMass(), 3, params=params, **keywords) for params in (draw_force, None))
    observations, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(observations, plain.reset(seed=0)[0])  # the initial states are the same ones
    seen = []
    for _ in range(3):  # episodes
        before = forces_of(envs)
        seen += [*before]
        for t in range(2):
            velocities = observations[:, 1]
            observations, _, _, truncated, info = envs.step(PUSH)
            last = np.stack(info["final_obs"]) if "final_obs" in info else observations
            np.testing.assert_allclose(last[:, 1], velocities + 0.2 * (before - 0.5 * velocities), rtol=1e-5)
            np.testing.assert_array_equal(truncated, t == 1)
        if mode == "NextStep":
            np.testing.assert_array_equal(forces_of(envs), before)  # still that of the episode that has ended
            observations, *_ = envs.step(PUSH)
    assert len(set(seen)) == 9 and np.all((np.array(seen) >= 1.0) & (np.array(seen) <= 5.0))
    envs.reset(seed=0)
    np.testing.assert_array_equal(forces_of(envs), seen[:3])


def test_a_masked_reset_draws_for_those_alone():
    envs = GymnasiumVectorEnv(PointMass(), 3, params=draw_force, autoreset_mode="Disabled")
    envs.reset(seed=0)
    before = forces_of(envs)
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(forces_of(envs) == before, [True, False, True])


def test_a_new_function_is_for_episodes_to_come():
    envs = GymnasiumVectorEnv(PointMass(), 3, params={"force": FORCES, "friction": 0.0}, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.reset(options={"params": draw_force, "reset_mask": np.array([True, False, False])})
    assert forces_of(envs)[0] != 1.0
    np.testing.assert_array_equal(forces_of(envs)[1:], FORCES[1:])
    np.testing.assert_allclose(envs.step(PUSH)[0][1:, 1], [0.4, 0.6], rtol=1e-6)
    envs.reset(options={"params": MassParams()})
    np.testing.assert_array_equal(forces_of(envs), 1.0)


def test_a_function_may_return_all_parameters_and_serves_a_single_instance():
    env = GymnasiumEnv(PointMass(), params=lambda key: MassParams(max_steps=jax.random.randint(key, (), 1, 4)))
    lengths = set()
    for seed in range(8):
        env.reset(seed=seed)
        limit = int(env.instances.params_of().max_steps)
        assert [env.step(PUSH[0])[3] for _ in range(limit)] == [False] * (limit - 1) + [True]
        lengths.add(limit)
    assert lengths == {1, 2, 3}


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda key: 3.0, TypeError, r"params\(key\) = 3.0; must be a MassParams, or a dict"),
        (lambda key: {3: 1.0}, ValueError, "MassParams has no field 3; valid fields: max_steps, force"),
        (lambda key: {"fource": 1.0}, ValueError, "MassParams has no field 'fource'; valid fields: max_steps, force"),
        (lambda key: {"force": FORCES}, ValueError, r"params\(key\)\['force'\] has shape \(3,\); must be a number"),
        (lambda key: {"force": -1.0}, ValueError, "MassParams.force = -1.0; must be a finite number >= 0"),
        (lambda key: {"force": -jax.random.uniform(key)}, ValueError, r"MassParams.force = \[-.*\]; must be a finite"),
        (lambda key: {"force": 0.4 * jax.random.uniform(key)}, ValueError, "friction = 0.5; must be <= force = "),
    ],
)
def test_what_a_function_must_not_return_is_refused(draw, error, message):
    with pytest.raises(error, match=message):
        GymnasiumVectorEnv(Ordered(), 3, params=draw).reset(seed=0)


def test_a_drawn_parameter_has_no_other_value():
    envs = GymnasiumVectorEnv(PointMass(), 3, params=draw_force)
    envs.reset(seed=0, options={"params": {"friction": 0.25}})
    with pytest.raises(ValueError, match=r"params\['force'\] is drawn for each episode; must be changed by a function"):
        envs.reset(options={"params": {"force": 2.0}})
    with pytest.raises(ValueError, match=r"params\['max_steps'\] is drawn for each episode"):
        GymnasiumVectorEnv(PointMass(), params=lambda key: {"max_steps": 3}, max_episode_steps=3)
