"""Observations and actions as one vector, and by agent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.envs.adapters.gymnasium import GymnasiumVectorEnv
from dmdenv.envs.adapters.views import AgentKeyed, Centralised, agent_keyed, centralised, joined, split
from probe_envs import BestAction, Crowded, Misfit, PointMass, ReadTheCue
from small_envs import NAMES, TASKS, small_env

KEY = jax.random.key(0)
FLOCK = dmdenv.make_env("flocking", boids=5)


class Pairs(ReadTheCue):
    """Two numbers an agent."""

    @property
    def shapes(self):
        return (self.rows, 2), (self.rows, 2)

    def advance(self, key, state, action, params):
        return super().advance(key, state, action[:, 0] + 0.5 * action[:, 1], params)


@functools.cache
def compiled(env):
    return jax.jit(env.reset), jax.jit(env.step), jax.jit(env.step_env)


def actions_of(env, seed=1):
    return jax.random.uniform(jax.random.key(seed), env.action_shape, minval=-1, maxval=1)


def test_agents_are_rows_that_act_on_their_own():
    assert FLOCK.agents == 5 and FLOCK.row_action == ()
    assert ReadTheCue(rows=4).agents == 4 and Pairs(rows=4).row_action == (2,)
    assert BestAction().agents is None and BestAction().row_action == (1,)
    assert PointMass().agents is None
    assert Misfit().agents is None and Misfit().row_action is None


@pytest.mark.parametrize("name", TASKS, ids=NAMES)
def test_every_environment_has_a_flat_view(name):
    env = small_env(*name)
    flat = centralised(env)
    assert flat.observation_shape == (np.prod(env.observation_shape),)
    assert flat.action_shape == (np.prod(env.action_shape),)
    assert (flat.id, flat.task, flat.finite_horizon) == (env.id, env.task, env.finite_horizon)
    assert centralised(flat) is flat
    assert (flat is env) == (len(env.observation_shape) == len(env.action_shape) == 1)


@pytest.mark.parametrize("env", [FLOCK, Pairs(rows=3)], ids=["flocking", "pairs"])
@pytest.mark.parametrize("ending", [False, True])
def test_the_flat_view_is_the_same_environment(env, ending):
    flat = centralised(env)
    params = env.default_params.replace(max_steps=1 if ending else 100)
    observation, state = compiled(flat)[0](KEY, params)
    expected, expected_state = compiled(env)[0](KEY, params)
    np.testing.assert_array_equal(observation, expected.ravel())
    action = actions_of(env)
    found = compiled(flat)[1](KEY, state, action.ravel(), params)
    expected = compiled(env)[1](KEY, expected_state, action, params)
    np.testing.assert_allclose(found[0], expected[0].ravel(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)
    assert bool(found[4]) == bool(expected[4]) == ending
    np.testing.assert_allclose(
        found[5]["final_observation"], expected[5]["final_observation"].ravel(), rtol=1e-5, atol=1e-6
    )


def test_the_flat_view_is_an_environment_like_any_other():
    """Hashable, with its baselines, its pictures and its capacities; adapters take it."""
    flat = centralised(FLOCK)
    assert flat == centralised(dmdenv.make_env("flocking", boids=5)) and hash(flat) == hash(Centralised(FLOCK))
    observation, state = compiled(flat)[0](KEY, flat.default_params)
    action = flat.baselines()["vicsek"](KEY, observation)
    expected = FLOCK.baselines()["vicsek"](KEY, observation.reshape(FLOCK.observation_shape))
    np.testing.assert_array_equal(action, expected)
    np.testing.assert_array_equal(flat.render(state), FLOCK.render(state))
    envs = GymnasiumVectorEnv(flat, 2)
    assert envs.observation_space.shape == (2, *flat.observation_shape)
    assert envs.reset(seed=0)[0].shape == (2, *flat.observation_shape)
    with pytest.raises(ValueError, match=r"'boids' beside an environment; valid: dataclasses.replace\(env, ...\)"):
        GymnasiumVectorEnv(flat, 2, boids=5)


def test_the_capacities_of_a_flat_view_grow():
    envs = GymnasiumVectorEnv(Centralised(Crowded()), 2, params={"target": -0.5})  # needs room for 4
    envs.reset(seed=0)
    assert not envs.step(np.zeros((2, 1), np.float32))[4]["overflow"].any()
    assert envs.instances.env == Centralised(Crowded(capacity=4))


@pytest.mark.parametrize("env", [FLOCK, Pairs(rows=3)], ids=["flocking", "pairs"])
def test_the_view_by_agent_is_the_same_environment(env):
    keyed = agent_keyed(env)
    params = env.default_params.replace(max_steps=2)
    observations, state = keyed.reset(KEY, params)
    assert tuple(observations) == keyed.agents == tuple(f"agent_{i}" for i in range(env.agents))
    expected_observation, expected_state = env.reset(KEY, params)
    actions = actions_of(env)
    by_agent = split(env, actions)
    step = jax.jit(keyed.step)
    for _ in range(2):
        for i, name in enumerate(keyed.agents):
            np.testing.assert_allclose(observations[name], expected_observation[i], rtol=1e-5, atol=1e-6)
            assert keyed.action_spaces[name].contains(np.asarray(by_agent[name]))
            assert keyed.observation_spaces[name].shape == observations[name].shape
        observations, state, reward, terminated, truncated, info = step(KEY, state, by_agent, params)
        expected_observation, expected_state, *expected = compiled(env)[1](KEY, expected_state, actions, params)
        np.testing.assert_allclose(reward, expected[0], rtol=1e-5)
    assert truncated and expected[2]
    final = jnp.stack(list(info["final_observation"].values()))
    np.testing.assert_allclose(final, expected[3]["final_observation"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(final, expected_observation)


def test_the_view_by_agent_is_differentiable_and_batched():
    keyed = agent_keyed(Pairs(rows=3))
    params = keyed.default_params
    _, states = jax.vmap(keyed.reset, (0, None))(jax.random.split(KEY, 3), params)

    def total(actions):
        step = jax.vmap(keyed.step_env, (None, 0, 0, None))
        return jnp.sum(step(KEY, states, actions, params)[2])

    actions = {name: jnp.full((3, 2), 0.1) for name in keyed.agents}
    gradient = jax.jit(jax.grad(total))(actions)
    assert all(np.all(np.isfinite(g)) and np.all(g != 0) for g in gradient.values())


def test_misuse_of_views_is_refused():
    with pytest.raises(ValueError, match=r"observations \[4, 2\] and actions \[3\], so no agents; valid: observations"):
        agent_keyed(Misfit())
    with pytest.raises(ValueError, match=r"'trap_drag', task 'drag', has .* no agents; valid: observations \[n, m\]"):
        AgentKeyed(dmdenv.make_env("trap_drag"))
    actions = split(FLOCK, jnp.zeros(5))
    assert len(joined(FLOCK, actions)) == 5
    with pytest.raises(ValueError, match=r"'agent_5' is no agent, but in the actions; valid: .* agent_0 to agent_4"):
        joined(FLOCK, {**actions, "agent_5": jnp.zeros(1)})
    del actions["agent_3"]
    with pytest.raises(ValueError, match="'agent_3' is missing from the actions"):
        joined(FLOCK, actions)


def test_a_flat_view_of_other_sizes_is_another_environment():
    other = dataclasses.replace(FLOCK, boids=6)
    assert centralised(other) != centralised(FLOCK)
