"""One contract, every registered environment and task, in small configurations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv._core.fields import field_values
from dmdenv.envs.rendering import Canvas
from marks import by_default
from small_envs import NAMES, TASKS, small_env, unprepared

# what compiles whole programs runs by default over one cheap environment, and over all of them among the slow tests
CHEAP = ("trap_drag", "drag")
BATCH = 3


@pytest.fixture(params=by_default(TASKS, CHEAP, ids=NAMES))
def name(request):
    return request.param


@pytest.fixture(params=TASKS, ids=NAMES)
def any_name(request):
    return request.param


@functools.cache
def compiled(name):
    """An environment, its reset for a batch and its step, shared by the tests."""
    env = small_env(*name)
    return env, jax.jit(jax.vmap(env.reset, (0, None))), jax.jit(jax.vmap(env.step, (0, 0, 0, None)))


def keys(seed):
    return jax.random.split(jax.random.key(seed), BATCH)


def actions_of(env, *batch):
    return jax.random.uniform(jax.random.key(0), (*batch, *env.action_shape), minval=-1, maxval=1)


def test_the_contract_is_kept(name):
    env = small_env(*name)
    params = env.default_params
    if name == ("soft_sphere_packing", "design"):  # the derivative of a minimum is as exact as the minimum
        env, params = dataclasses.replace(env, relaxation_steps=3000), params.replace(force_tolerance=1e-10)
    dmdenv.check_env(env, params=params)


# --- more than `check_env` asks for -----------------------------------------------------------------------------------


def test_a_scan_equals_a_loop_over_ends_of_episodes(name):
    env, reset, step = compiled(name)
    params = env.default_params.replace(max_steps=4)  # so that a reset falls into the rollout
    _, states = reset(keys(0), params)
    actions = actions_of(env, 6, BATCH)
    step_keys = [jax.vmap(jax.random.fold_in, (0, None))(keys(1), t) for t in range(6)]

    @jax.jit
    def scanned(states):
        def one(states, inputs):
            out = jax.vmap(env.step, (0, 0, 0, None))(*inputs[:1], states, inputs[1], params)
            return out[1], (out[0], *out[2:])

        return jax.lax.scan(one, states, (jnp.stack(step_keys), actions))

    _, outputs = scanned(states)
    for t in range(6):
        obs, states, *rest = step(step_keys[t], states, actions[t], params)
        for a, b in zip(jax.tree.leaves((obs, *rest)), jax.tree.leaves(outputs), strict=True):
            np.testing.assert_allclose(a, b[t], rtol=2e-4, atol=2e-4)


def test_episodes_start_differently(name):
    env, reset, step = compiled(name)
    params = env.default_params.replace(max_steps=1)
    obs, states = reset(keys(0), params)
    fresh, *_ = step(keys(1), states, actions_of(env, BATCH), params)
    starts = np.concatenate([obs, fresh])
    assert all(not np.allclose(a, b) for i, a in enumerate(starts) for b in starts[:i])


def test_under_vmap_the_reset_is_a_conditional(name):
    """It runs only in a step in which some instance ends: the compiled program still has a branch."""
    env, reset, step = compiled(name)
    params = env.default_params
    _, states = reset(keys(0), params)
    lowered = step.lower(keys(1), states, actions_of(env, BATCH), params)
    assert "stablehlo.case" in lowered.as_text()
    assert "conditional" in lowered.compile().as_text()


def test_the_gradient_of_a_step_is_finite_in_single_precision(name):
    env, reset, _ = compiled(name)

    @jax.jit
    def gradient(state, action, params):
        def seen(state, action, params):
            obs, _, reward, *_ = env.step_env(jax.random.key(1), state, action, params)
            return reward + jnp.sum(obs)

        return jax.grad(seen, argnums=(1, 2))(state, action, params)

    params = env.default_params
    state = jax.tree.map(lambda leaf: leaf[0], reset(keys(0), params)[1])
    by_action, by_params = gradient(state, actions_of(env), params)
    assert np.any(by_action) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves((by_action, by_params)))


def test_a_picture_shows_the_state_and_says_what_its_colours_are(name, monkeypatch):
    env, reset, _ = compiled(name)
    states = reset(keys(0), env.default_params)[1]
    drawn, image = [], Canvas.image
    monkeypatch.setattr(Canvas, "image", lambda canvas: drawn.append(canvas) or image(canvas))
    pictures = [env.render(jax.tree.map(lambda leaf, i=i: leaf[i], states)) for i in (0, 1)]
    assert len(drawn[0].captions) == 1
    assert len(drawn[0].labels) >= 1
    assert np.mean(pictures[0] != pictures[1]) > 0.005


# --- configurations and parameters: nothing is compiled ---------------------------------------------------------------


def test_equal_configurations_are_one_environment_and_different_ones_differ(any_name):
    env = unprepared(*any_name)
    assert unprepared(*any_name) == env and hash(unprepared(*any_name)) == hash(env)
    assert env != type(env)() and hash(env) != hash(type(env)())
    assert small_env(*CHEAP) is small_env(*CHEAP)


def test_every_parameter_has_unit_meaning_and_range_and_refuses_what_is_invalid(any_name):
    params = unprepared(*any_name).default_params
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
    with pytest.raises(ValueError, match=r"has no field 'sped'; valid fields: max_steps, "):
        params.replace(sped=1.0)


def test_unknown_tasks_and_configuration_fields_are_refused_with_the_valid_ones(any_name):
    id, task = any_name
    with pytest.raises(ValueError, match=rf"task = 'alin'; must be one of .*{task}.* for '{id}'"):
        dmdenv.make_env(id, task="alin")
    fields = ", ".join(["task", *field_values(unprepared(*any_name))])
    with pytest.raises(ValueError, match=rf"'{id}' has no configuration field 'boid'; valid fields: {fields}"):
        dmdenv.make_env(id, task=task, boid=3)


def test_an_action_of_the_wrong_shape_is_refused(any_name):
    with pytest.raises(ValueError, match=r"action has shape \(5, 7\); must be .*jax.vmap"):
        unprepared(*any_name).step(jax.random.key(1), None, jnp.zeros((5, 7)))
