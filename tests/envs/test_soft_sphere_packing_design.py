"""Soft sphere packing, task `design`: against sums over pairs and differences; baselines; robustness."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dmdenv
from packing_checks import by_pairs, mean, score, wander
from small_envs import small_env

ID = "soft_sphere_packing"


@functools.cache
def compiled():
    env = small_env(ID, "design")
    return env, jax.jit(env.reset), jax.jit(env.step_env)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "diameters", "dimension"),
    [
        ("pressure", "populations", 2),
        ("energy", "populations", 2),
        ("pressure", "each", 2),
        ("pressure", "populations", 3),
        ("shear_modulus", "each", 2),
        ("poisson_ratio", "populations", 2),
    ],
)
def test_the_gradient_of_an_attempt_agrees_with_central_differences(target, diameters, dimension):
    """Through the implicit minimum; with respect to action, instance and parameters; in one and the same network."""
    particles = 32 if dimension == 3 or diameters == "each" else 12
    env = dmdenv.make_env(
        ID, task="design", target=target, diameters=diameters, dimension=dimension, particles=particles,
        relaxation_steps=20_000,
    )  # fmt: skip
    params = env.default_params.replace(force_tolerance=1e-13)
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    names = ["target_scale", "diameter_min", "diameter_max", "alpha", "fire_dt", "force_tolerance"]
    action = 0.5 * jax.random.uniform(jax.random.key(1), env.action_shape, minval=-1, maxval=1)

    def reward(point):
        action, fraction, wanted, start, values = point
        p = params.replace(**dict(zip(names, values, strict=True)))
        begun = state.replace(start=start, fraction=fraction, target=wanted)
        _, _, reward, _, _, info = env.step_env(jax.random.key(0), begun, action, p)
        return reward, info["converged"]

    values = jnp.stack([getattr(params, name) for name in names])
    point = action, state.fraction, state.target, state.start, values
    program = jax.jit(jax.value_and_grad(reward, has_aux=True))  # one for both: compiling is what takes time
    (_, converged), gradient = program(point)
    assert converged
    assert_array_equal(gradient[3], 0.0)  # the minimum does not move with the start
    assert_array_equal(gradient[4][-2:], 0.0)  # nor with how it is found
    scales = 1.0, 1.0, point[2], 0.0, jnp.where(jnp.arange(6) < 4, values, 0.0)
    for part in (0, 1, 2, 4):
        for seed in range(2):
            draw = jax.random.normal(jax.random.key(seed), jnp.shape(point[part]))
            along = tuple(scales[i] * draw if i == part else jnp.zeros_like(x) for i, x in enumerate(point))
            h = 1e-6
            up, down = (program(jax.tree.map(lambda x, d, h=h: x + h * d, point, along))[0][0] for h in (h, -h))
            assert abs(up - down) > 1e-9
            assert_allclose(jnp.vdot(gradient[part], along[part]), (up - down) / (2 * h), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["energy", "pressure"])
def test_feedback_and_search_find_better_diameters_than_the_middle_and_chance(target):
    scores = score(dmdenv.make_env(ID, task="design", target=target), 128)
    returns = {name: mean(evaluation.returns) for name, evaluation in scores.items()}
    poor = max(returns["zero"], returns["random"])
    assert returns["random_search"] > poor + 0.03
    assert returns["feedback"] > returns["random_search"] + 0.05
    assert returns["gradient"] > returns["feedback"]


@pytest.mark.slow
def test_feedback_comes_nearer_to_the_target_than_the_middle():
    env, reset, step = compiled()
    params = env.default_params
    distances = []
    for seed in range(24):
        observation, state = reset(jax.random.key(seed), params)
        found = [step(jax.random.key(0), state, jnp.zeros(1), params)[5]["distance"]]
        for _ in range(8):
            action = env.baselines(params)["feedback"](None, observation)
            observation, state, *_, info = step(jax.random.key(0), state, action, params)
            found.append(info["distance"])
        distances.append([float(x) for x in found])
    middle, *_, last_one = np.mean(distances, axis=0)
    assert last_one < 0.7 * middle


def test_an_attempt_has_the_packing_fraction_of_the_instance_and_the_energy_of_its_pairs():
    env, reset, step = compiled()
    params = env.default_params
    _, state = reset(jax.random.key(3), params)
    _, state, reward, _, _, info = step(jax.random.key(0), state, jnp.array([0.4]), params)
    assert info["converged"]
    diameters = np.asarray(env.choose_diameters(state.action, state.fraction, params))
    assert_allclose(diameters[-1] / diameters[0], 0.82, rtol=1e-6)  # from 0.4 to 1
    assert_allclose(np.pi / 4 * np.sum(diameters**2) / 10, state.fraction, rtol=1e-6)
    energy, _, residual, _ = by_pairs(np.asarray(state.positions, float), diameters, 10**0.5, 2.0)
    assert_allclose(info["property"], energy, rtol=1e-4)
    assert residual < 3e-5
    distance = abs(energy - float(state.target)) / float(params.target_scale)
    assert_allclose(reward, -distance / (1 + distance) / 8, rtol=1e-3)


def test_attempts_do_not_depend_on_the_ones_before():
    env, reset, step = compiled()
    _, state = reset(jax.random.key(4), env.default_params)
    first = step(jax.random.key(0), state, jnp.array([0.3]), env.default_params)
    between = step(jax.random.key(0), state, jnp.array([-0.8]), env.default_params)
    again = step(jax.random.key(0), between[1], jnp.array([0.3]), env.default_params)
    assert between[5]["property"] != first[5]["property"]
    assert again[5]["property"] == first[5]["property"]


def gradients_are_finite(env, count):
    @jax.jit
    def all_of_them(key):
        def one(key):
            state_key, action_key = jax.random.split(key)
            state = env.reset(state_key)[1]
            action = jax.random.uniform(action_key, env.action_shape, minval=-1, maxval=1)

            def reward(action, params):
                out = env.step_env(key, state, action, params)
                return out[2], out[5]["converged"]

            return jax.grad(reward, argnums=(0, 1), has_aux=True)(action, env.default_params)

        return jax.vmap(one)(jax.random.split(key, count))

    gradients, converged = all_of_them(jax.random.key(2))
    assert np.mean(converged) > 0.7
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    return converged


@pytest.mark.slow
def test_gradients_are_finite_in_single_precision_where_no_minimum_was_found_too():
    env = dmdenv.make_env(ID, task="design", particles=10, relaxation_steps=200)
    assert not np.all(gradients_are_finite(env, 128))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["energy", "pressure", "shear_modulus", "poisson_ratio"])
def test_gradients_are_finite_in_single_precision(target):
    """Of 1 in some hundred of these the linear system is not solved."""
    gradients_are_finite(dmdenv.make_env(ID, task="design", target=target), 1024)


# --- random actions ---------------------------------------------------------------------------------------------------


def test_random_actions_do_no_harm():
    env, reset, step = compiled()
    observation, state = reset(jax.random.key(0), env.default_params)
    for key in jax.random.split(jax.random.key(1), 40):
        action = jax.random.uniform(key, env.action_shape, minval=-1, maxval=1)
        observation, state, reward, *_, info = step(key, state, action, env.default_params)
        assert np.all(np.abs(observation) <= 1) and np.isfinite(reward)
        assert not info["nonfinite"] and not info["overflow"]


@pytest.mark.slow
def test_ten_thousand_random_actions_in_many_instances_do_no_harm():
    wander(small_env(ID, "design"), 10_000, 64)


def test_particles_too_large_for_the_box_are_flagged_where_parameters_are_traced():
    env, reset, step = compiled()
    large = env.default_params.replace(fraction_min=1.2, fraction_max=1.2)
    for params, expected in ((env.default_params, False), (large, True)):
        _, state = reset(jax.random.key(0), params)
        assert step(jax.random.key(1), state, -jnp.ones(1), params)[5]["overflow"] == expected
