"""One contract, every registered environment and task, in small configurations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from marks import by_default
from small_envs import NAMES, TASKS, TYPICAL, small_env

BATCH = 3


@functools.cache
def compiled(name):
    """An environment and its jitted functions, shared by the tests: compilation is what takes time."""
    env = small_env(*name)
    return env, jax.jit(env.reset), jax.jit(env.step), jax.jit(env.step_env)


@functools.cache
def compiled_batch(name):
    env = small_env(*name)
    return jax.jit(jax.vmap(env.reset, (0, None))), jax.jit(jax.vmap(env.step, (0, 0, 0, None)))


# what compiles whole programs runs over one task of each kind by default, and over all of them among the slow tests
@pytest.fixture(params=by_default(TASKS, *TYPICAL, ids=NAMES))
def name(request):
    return request.param


@pytest.fixture(params=TASKS, ids=NAMES)
def any_name(request):
    return request.param


def keys(seed, n=BATCH):
    return jax.random.split(jax.random.key(seed), n)


def random_action(env, seed=0, batch=()):
    return jax.random.uniform(jax.random.key(seed), (*batch, *env.action_shape), minval=-1, maxval=1)


def assert_close(a, b, tolerance=1e-5):
    def compare(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)

    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(compare, a, b)


def test_observations_and_actions_are_in_their_spaces(name):
    env, reset, step, _ = compiled(name)
    params = env.default_params
    obs, state = reset(jax.random.key(0), params)
    assert env.observation_space(params).contains(np.asarray(obs))
    action = env.action_space(params).sample()
    assert np.all(env.action_space(params).low == -1) and np.all(env.action_space(params).high == 1)
    obs, state, reward, terminated, truncated, info = step(jax.random.key(1), state, action, params)
    assert env.observation_space(params).contains(np.asarray(obs))
    assert reward.shape == () and jnp.issubdtype(reward.dtype, jnp.floating)
    assert terminated.dtype == truncated.dtype == bool and terminated.shape == truncated.shape == ()
    assert {"final_observation", "overflow", "nonfinite"} < set(info)


def test_equal_configurations_are_one_environment_and_different_ones_differ(any_name):
    env = small_env(*any_name)
    assert small_env(*any_name) is env
    assert hash(dataclasses.replace(env)) == hash(env) and dataclasses.replace(env) == env


def test_every_leaf_of_the_parameters_and_of_the_state_is_an_array(name):
    env, reset, _, _ = compiled(name)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(env.default_params))
    assert len(jax.tree.leaves(env.default_params)) == len(dataclasses.fields(env.default_params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(reset(jax.random.key(0), env.default_params)))


@pytest.mark.parametrize("any_name", by_default(TASKS, ("trap_drag", "drag"), ids=NAMES), indirect=True)
def test_jit_equals_eager(any_name):
    name = any_name
    env, reset, step, _ = compiled(name)
    params = env.default_params
    action = random_action(env)
    with jax.disable_jit():
        eager = env.reset(jax.random.key(0))
        stepped = env.step(jax.random.key(1), eager[1], action)
    assert_close(eager, reset(jax.random.key(0), params))
    assert_close(stepped, step(jax.random.key(1), eager[1], action, params))
    assert_close(stepped, env.step(jax.random.key(1), eager[1], action))


def test_vmap_equals_a_loop_and_scan_equals_a_loop(name):
    env, reset, step, _ = compiled(name)
    batch_reset, batch_step = compiled_batch(name)
    params = env.default_params.replace(max_steps=4)  # so that a reset falls into the rollout
    _, states = batch_reset(keys(0), params)
    actions = random_action(env, batch=(6, BATCH))

    def scanned(states):
        def one(states, inputs):
            t, action = inputs
            out = jax.vmap(env.step, (0, 0, 0, None))(
                jax.vmap(jax.random.fold_in, (0, None))(keys(1), t), states, action, params
            )
            return out[1], (out[0], *out[2:])

        return jax.lax.scan(one, states, (jnp.arange(6), actions))

    final, outputs = jax.jit(scanned)(states)
    for b in range(BATCH):
        state = jax.tree.map(lambda x, b=b: x[b], states)
        for t in range(6):
            out = step(jax.random.fold_in(keys(1)[b], t), state, actions[t, b], params)
            state = out[1]
            assert_close((out[0], *out[2:]), jax.tree.map(lambda x, t=t, b=b: x[t, b], outputs), 2e-4)
        assert_close(state, jax.tree.map(lambda x, b=b: x[b], final), 2e-4)


def test_step_is_step_env_until_the_episode_ends(name):
    env, reset, step, step_env = compiled(name)
    params = env.default_params
    _, state = reset(jax.random.key(0), params)
    action = random_action(env)
    key = jax.random.key(1)
    step_key, _ = jax.random.split(key)
    assert_close(step(key, state, action, params), step_env(step_key, state, action, params), 1e-6)


def test_a_step_at_the_time_limit_ends_and_returns_a_fresh_episode(name):
    """It truncates, but where the end belongs to the task: there it terminates."""
    env, reset, step, step_env = compiled(name)
    params = env.default_params.replace(max_steps=2)
    _, state = reset(jax.random.key(0), params)
    action = random_action(env)
    _, state, _, terminated, truncated, _ = step(jax.random.key(1), state, action, params)
    assert not terminated and not truncated and state.time == 1
    step_key, reset_key = jax.random.split(jax.random.key(2))
    last = step_env(step_key, state, action, params)
    obs, state, reward, terminated, truncated, info = step(jax.random.key(2), state, action, params)
    assert (terminated, truncated) == (env.finite_horizon, not env.finite_horizon) and state.time == 0
    assert_close((obs, state), reset(reset_key, params), 1e-6)
    assert_close(info["final_observation"], last[0], 1e-6)
    assert_close(reward, last[2], 1e-6)
    assert not np.allclose(obs, info["final_observation"])


def test_instances_reset_independently_and_differently(name):
    env, _, _, _ = compiled(name)
    batch_reset, batch_step = compiled_batch(name)
    params = env.default_params.replace(max_steps=3)
    obs, states = batch_reset(keys(0), params)
    assert not np.allclose(obs[0], obs[1])
    states = dataclasses.replace(states, time=jnp.array([0, 2, 0]))
    obs, states, _, terminated, truncated, info = batch_step(
        keys(1), states, random_action(env, batch=(BATCH,)), params
    )
    np.testing.assert_array_equal(terminated if env.finite_horizon else truncated, [False, True, False])
    np.testing.assert_array_equal(truncated if env.finite_horizon else terminated, [False, False, False])
    np.testing.assert_array_equal(states.time, [1, 0, 1])
    np.testing.assert_array_equal(obs[0], info["final_observation"][0])
    assert not np.allclose(obs[1], info["final_observation"][1])


def test_under_vmap_the_reset_is_a_conditional(name):
    """It runs only in a step in which some instance ends: the compiled program still has a branch."""
    env, _, _, _ = compiled(name)
    _, batch_step = compiled_batch(name)
    params = env.default_params
    _, states = compiled_batch(name)[0](keys(0), params)
    lowered = batch_step.lower(keys(1), states, random_action(env, batch=(BATCH,)), params)
    assert "stablehlo.case" in lowered.as_text()
    assert "conditional" in lowered.compile().as_text()


def test_changing_parameters_does_not_recompile(name):
    env = small_env(*name)
    traces = []

    @jax.jit
    def step(key, state, action, params):
        traces.append(1)
        return env.step(key, state, action, params)

    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    for factor in (1.0, 0.99):
        for max_steps in (5, np.float64(7), jnp.float32(9)):
            changed = jax.tree.map(functools.partial(jnp.multiply, factor), params).replace(max_steps=max_steps)
            step(jax.random.key(1), state, random_action(env), changed)
    assert len(traces) == 1


def test_no_gradient_flows_through_a_reset(name):
    env, reset, _, _ = compiled(name)

    @jax.jit
    def gradients(state, action, params):
        def fresh(state, action, params):
            obs, state, *_ = env.step(jax.random.key(1), state, action, params)
            floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
            return jnp.sum(obs) + sum(jnp.sum(x**2) for x in floats)

        return jax.grad(fresh, argnums=(1, 2))(state, action, params)

    ending = env.default_params.replace(max_steps=1)
    _, state = reset(jax.random.key(0), ending)
    action = random_action(env)
    assert all(not np.any(g) for g in jax.tree.leaves(gradients(state, action, ending)))
    going_on = gradients(state, action, env.default_params)
    assert np.any(going_on[0]) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(going_on))


def test_a_nonfinite_instance_is_flagged_ends_and_harms_no_other(name):
    env, _, _, _ = compiled(name)
    batch_reset, batch_step = compiled_batch(name)
    params = env.default_params
    _, states = batch_reset(keys(0), params)
    action = random_action(env, batch=(BATCH,))
    healthy = batch_step(keys(1), states, action, params)
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x, states)
    out = batch_step(keys(1), broken, action, params)
    np.testing.assert_array_equal(out[5]["nonfinite"], [False, True, False])
    np.testing.assert_array_equal(out[3], [False, True, False])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((out[0], out[2], out[5])))
    assert out[1].time[1] == 0 and not out[1].nonfinite[1]
    for b in (0, 2):
        assert_close(*(jax.tree.map(lambda x, b=b: x[b], x) for x in (out, healthy)), 1e-6)


def test_actions_beyond_the_space_are_clipped(name):
    env, reset, step, _ = compiled(name)
    params = env.default_params
    _, state = reset(jax.random.key(0), params)
    action = random_action(env)
    over = jnp.where(action > 0, 1.0, -1.0)
    assert_close(step(jax.random.key(1), state, 7.0 * over, params), step(jax.random.key(1), state, over, params), 1e-6)


def test_an_action_of_the_wrong_shape_is_refused(name):
    env, reset, _, _ = compiled(name)
    _, state = reset(jax.random.key(0), env.default_params)
    with pytest.raises(ValueError, match=r"action has shape \(5, 7\); .* takes .*jax.vmap"):
        env.step(jax.random.key(1), state, jnp.zeros((5, 7)))


def test_every_parameter_has_unit_meaning_and_range_and_refuses_what_is_invalid(any_name):
    params = small_env(*any_name).default_params
    for field in dataclasses.fields(params):
        assert {"unit", "doc", "low", "high"} <= set(field.metadata)
        full = f"{type(params).__name__}.{field.name}"
        with pytest.raises(ValueError, match=rf"{full} = nan; must be a (finite|whole) number"):
            params.replace(**{field.name: float("nan")})
        with pytest.raises(TypeError, match=rf"{full} = 'x'; must be a"):
            params.replace(**{field.name: "x"})
        low, high = field.metadata["low"], field.metadata["high"]
        for outside in (x for x in (low - 1, high + 1) if np.isfinite(x)):
            with pytest.raises(ValueError, match=f"{full} = .*; must be a"):
                params.replace(**{field.name: outside})
    with pytest.raises(ValueError, match=r"max_steps = 2.5; must be a whole number >= 1"):
        params.replace(max_steps=2.5)


def test_unknown_parameters_are_refused_with_the_valid_ones(any_name):
    params = small_env(*any_name).default_params
    with pytest.raises(ValueError, match=r"has no field 'sped'; valid fields: max_steps, "):
        params.replace(sped=1.0)


def test_unknown_ids_tasks_and_configuration_fields_are_refused_with_the_valid_ones(any_name):
    id, task = any_name
    with pytest.raises(ValueError, match=rf"id = 'floking'; must be one of .*{id}"):
        dmdenv.make_env("floking")
    with pytest.raises(ValueError, match=rf"task = 'alin'; must be one of .*{task}.* for '{id}'"):
        dmdenv.make_env(id, task="alin")
    fields = ", ".join(["task", *(f.name for f in dataclasses.fields(small_env(*any_name)))])
    with pytest.raises(ValueError, match=rf"'{id}' has no configuration field 'boid'; valid fields: {fields}"):
        dmdenv.make_env(id, task=task, boid=3)


def test_a_picture_is_an_image_and_shows_the_state(name):
    env, reset, _, _ = compiled(name)
    pictures = [env.render(reset(jax.random.key(seed), env.default_params)[1]) for seed in (0, 1)]
    assert pictures[0].dtype == np.uint8 and pictures[0].ndim == 3 and pictures[0].shape[2] == 3
    assert np.mean(pictures[0] != pictures[1]) > 0.005


def test_legacy_keys_work_too(name):
    env = small_env(*name)
    obs, state = env.reset(jax.random.PRNGKey(0))
    assert np.all(np.isfinite(env.step(jax.random.PRNGKey(1), state, random_action(env))[0]))


def test_ids_are_sorted_and_in_the_facade():
    ids = dmdenv.registered_envs()
    assert tuple(sorted(ids)) == ids
    assert all(dmdenv.make_env(id).task == dmdenv.registered_tasks(id)[0] for id in ids)
