"""Observations and actions as one vector, and by agent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.envs.adapters.gymnasium import GymnasiumVectorEnv
from dmdenv.envs.adapters.views import AgentKeyed, Centralised, centralise, join, key_by_agent, split
from probe_envs import BestAction, Crowded, Misfit, PointMass, ReadTheCue
from rounding import assert_equal_up_to_rounding
from small_envs import NAMES, TASKS, small_env, unprepared

KEY = jax.random.key(0)
CUES = ReadTheCue(rows=5)


@dataclasses.dataclass(frozen=True)
class Pairs(ReadTheCue):
    """Two numbers per agent."""

    @property
    def shapes(self):
        return (self.rows, 2), (self.rows, 2)

    def advance(self, key, state, action, params):
        return super().advance(key, state, action[:, 0] + 0.5 * action[:, 1], params)

    def baselines(self, params=None):
        return {"echo": lambda key, observation: 0.1 * observation}


@functools.cache
def compiled(env):
    return jax.jit(env.reset), jax.jit(env.step), jax.jit(env.step_env)


def actions_of(env, seed=1):
    return jax.random.uniform(jax.random.key(seed), env.action_shape, minval=-1, maxval=1)


def test_agents_are_rows_that_act_on_their_own():
    assert CUES.agents == 5 and CUES.row_action == ()
    assert Pairs(rows=4).agents == 4 and Pairs(rows=4).row_action == (2,)
    assert BestAction().agents is None and BestAction().row_action == (1,)
    assert PointMass().agents is None
    assert Misfit().agents is None and Misfit().row_action is None


@pytest.mark.parametrize("name", TASKS, ids=NAMES)
def test_every_environment_has_a_flat_view(name):
    env = unprepared(*name)
    flat = centralise(env)
    assert flat.observation_shape == (np.prod(env.observation_shape),)
    assert flat.action_shape == (np.prod(env.action_shape),)
    assert (flat.id, flat.task, flat.finite_horizon) == (env.id, env.task, env.finite_horizon)
    assert centralise(flat) is flat
    assert (flat is env) == (len(env.observation_shape) == len(env.action_shape) == 1)


with_agents = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: CUES, id="cues"),
        pytest.param(lambda: Pairs(rows=3), id="pairs"),
        pytest.param(lambda: small_env("flocking", "align"), id="flocking", marks=pytest.mark.slow),
    ],
)


@with_agents
@pytest.mark.parametrize("ending", [False, True])
def test_the_flat_view_is_the_same_environment(make, ending):
    env = make()
    flat = centralise(env)
    params = env.default_params.replace(max_steps=1 if ending else 100)
    observation, state = compiled(flat)[0](KEY, params)
    expected, expected_state = compiled(env)[0](KEY, params)
    np.testing.assert_array_equal(observation, expected.ravel())
    action = actions_of(env)
    found = compiled(flat)[1](KEY, state, action.ravel(), params)
    expected = compiled(env)[1](KEY, expected_state, action, params)
    assert_equal_up_to_rounding((found[0], found[2]), (expected[0].ravel(), expected[2]))
    assert bool(found[4]) == bool(expected[4]) == ending
    assert_equal_up_to_rounding(found[5]["final_observation"], expected[5]["final_observation"].ravel())


def test_the_flat_view_is_an_environment_like_any_other():
    """Hashable, with its baselines, its pictures and its capacities; adapters take it."""
    env = Pairs(rows=3)
    flat = centralise(env)
    assert flat == centralise(Pairs(rows=3)) != centralise(Pairs(rows=4)) and hash(flat) == hash(Centralised(env))
    observation, state = compiled(flat)[0](KEY, flat.default_params)
    action = flat.baselines()["echo"](KEY, observation)
    expected = env.baselines()["echo"](KEY, observation.reshape(env.observation_shape))
    np.testing.assert_array_equal(action, expected.ravel())
    np.testing.assert_array_equal(flat.render(state), env.render(state))
    envs = GymnasiumVectorEnv(flat, 2)
    assert envs.observation_space.shape == (2, *flat.observation_shape)
    assert envs.reset(seed=0)[0].shape == (2, *flat.observation_shape)
    dmdenv.check_env(flat, gradients=False, seeds=4)


def test_the_capacities_of_a_flat_view_grow():
    envs = GymnasiumVectorEnv(Centralised(Crowded()), 2, params={"target": -0.5})  # needs a capacity of 4
    envs.reset(seed=0)
    assert not envs.step(np.zeros((2, 1), np.float32))[4]["overflow"].any()
    assert envs.instances.env == Centralised(Crowded(capacity=4))


@with_agents
def test_the_view_by_agent_is_the_same_environment(make):
    env = make()
    keyed = key_by_agent(env)
    params = env.default_params.replace(max_steps=2)
    observations, state = keyed.reset(KEY, params)
    assert tuple(observations) == keyed.agents == tuple(f"agent_{i}" for i in range(env.agents))
    expected_observation, expected_state = env.reset(KEY, params)
    actions = actions_of(env)
    by_agent = split(env, actions)
    step = jax.jit(keyed.step)
    for _ in range(2):
        for i, name in enumerate(keyed.agents):
            assert_equal_up_to_rounding(observations[name], expected_observation[i])
            assert keyed.action_spaces[name].contains(np.asarray(by_agent[name]))
            assert keyed.observation_spaces[name].shape == observations[name].shape
        observations, state, reward, terminated, truncated, info = step(KEY, state, by_agent, params)
        expected_observation, expected_state, *expected = compiled(env)[1](KEY, expected_state, actions, params)
        assert_equal_up_to_rounding(reward, expected[0])
    assert truncated and expected[2]
    final = jnp.stack(list(info["final_observation"].values()))
    assert_equal_up_to_rounding(final, expected[3]["final_observation"])
    assert not np.allclose(final, expected_observation)


def test_the_view_by_agent_is_differentiable_and_batched():
    keyed = key_by_agent(Pairs(rows=3))
    params = keyed.default_params
    _, states = jax.vmap(keyed.reset, (0, None))(jax.random.split(KEY, 3), params)

    def total(actions):
        step = jax.vmap(keyed.step_env, (None, 0, 0, None))
        return jnp.sum(step(KEY, states, actions, params)[2])

    actions = {name: jnp.full((3, 2), 0.1) for name in keyed.agents}
    gradient = jax.jit(jax.grad(total))(actions)
    assert all(np.all(np.isfinite(g)) and np.all(g != 0) for g in gradient.values())


def test_misuse_of_views_is_refused():
    with pytest.raises(ValueError, match=r"observations \[4, 2\] and actions \[3\], so no agents; must have obs"):
        key_by_agent(Misfit())
    with pytest.raises(ValueError, match=r"'trap_drag', task 'drag', has .* no agents; must have observat"):
        AgentKeyed(dmdenv.make_env("trap_drag"))
    actions = split(CUES, jnp.zeros(5))
    assert len(join(CUES, actions)) == 5
    with pytest.raises(ValueError, match=r"'agent_5' is no agent, but in the actions; must be .* agent_0 to agent_4"):
        join(CUES, {**actions, "agent_5": jnp.zeros(1)})
    del actions["agent_3"]
    with pytest.raises(ValueError, match="'agent_3' is missing from the actions"):
        join(CUES, actions)
