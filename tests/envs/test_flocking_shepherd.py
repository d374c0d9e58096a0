"""Flocking, task `shepherd`: forces from energies, closed forms, differences, and Stroembom's heuristic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from boid_energies import notebook_energies
from dmdenv.envs.flocking.shepherd import ShepherdParams, alarm
from flock_checks import (
    assert_gradient_agrees,
    assert_random_steps_are_sound,
    evaluations,
    recorded,
    return_of_32_steps,
)


def make(**config):
    return dmdenv.make_env("flocking", task="shepherd", **config)


# --- physics ----------------------------------------------------------------------------------------------------------


@functools.cache
def crowd():
    """Boids within the reach of herders, some of which stand in the flock; and a compiled step."""
    env = make(boids=12, herders=3)
    params = env.default_params.replace(start_distance=5.0, alignment=0.5, collision_range=2.5)
    _, state = jax.jit(env.reset)(jax.random.key(1), params)
    return env, params, state, jax.jit(env.step_env)


def alarm_by_hand(positions, herders, D):
    d = np.linalg.norm(np.asarray(positions)[:, None] - np.asarray(herders)[None], axis=-1)
    return 1 - np.prod(1 - np.maximum(1 - (d / D) ** 2, 0) ** 2, axis=1)


def test_boids_move_by_the_gradients_of_the_energies(x64):
    """Avoidance and flight push, alignment, cohesion and flight turn; alarm makes boids run along their headings."""
    crowd.cache_clear()
    env, params, state, step = crowd()
    action = jnp.zeros((3, 2))
    _, new, *_ = step(jax.random.key(0), state, action, params)
    nothing = {"obstacle": 0.0, "chase": 0.0, "chase_range": 1.0}
    p = {**{f.name: getattr(params, f.name) for f in dataclasses.fields(params)}, **nothing}

    def energy(positions, headings, names):
        nowhere = jnp.zeros((0, 2)), jnp.zeros(0)
        energies = notebook_energies(positions, headings, *nowhere, state.herders, jnp.zeros(3), p, 1e9)
        return sum(energies[name] for name in names)

    force = -jax.grad(energy, 0)(state.positions, state.headings, ["avoid", "flee"])
    torque = -jax.grad(energy, 1)(state.positions, state.headings, ["align", "cohesion", "flee"])
    pace = 0.1 + 1.5 * alarm_by_hand(state.positions, state.herders, 8.0)
    u = np.stack([np.cos(state.headings), np.sin(state.headings)], -1)
    np.testing.assert_allclose(new.positions, state.positions + 0.1 * (pace[:, None] * u + force), atol=1e-10)
    np.testing.assert_allclose(new.headings, state.headings + 0.1 * torque, atol=1e-10)
    assert np.abs(torque).max() > 0.1 and np.abs(force).max() > 0.1 and pace.max() > 0.3
    crowd.cache_clear()


def test_alarm_is_what_the_documentation_says_and_ends_at_the_flight_range():
    params = ShepherdParams()
    boids = jnp.array([[0.0, 0.0], [3.0, 1.0], [7.9, 0.0], [-8.1, 0.0]])
    herders = jnp.array([[0.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(alarm(boids, herders, params), alarm_by_hand(boids, herders, 8.0), atol=1e-6)
    assert float(alarm(boids, herders, params)[0]) == 1.0  # a herder is upon it
    assert float(alarm(boids[3:], herders[:1], params)[0]) == 0.0


def test_far_from_herders_a_lone_boid_grazes_along_its_heading():
    env, params, state, step = crowd()
    far = dataclasses.replace(state, positions=state.positions + 1000.0 * jnp.arange(1.0, 13.0)[:, None])
    _, new, *_ = step(jax.random.key(0), far, jnp.zeros((3, 2)), params)
    np.testing.assert_allclose(jnp.linalg.norm(new.positions - far.positions, axis=1), 0.1 * 0.1, atol=2e-3)
    np.testing.assert_allclose(new.headings, far.headings, atol=1e-6)


def test_herders_go_where_they_are_sent_at_most_at_their_speed():
    env, params, state, step = crowd()
    action = jnp.array([[0.5, 0.0], [1.0, 1.0], [0.0, 0.0]])
    _, new, _, _, _, info = step(jax.random.key(0), state, action, params)
    expected = 0.1 * 2.0 * np.array([[0.5, 0.0], [2**-0.5, 2**-0.5], [0.0, 0.0]])
    np.testing.assert_allclose(new.herders - state.herders, expected, atol=1e-5)
    assert float(info["effort"]) == pytest.approx((0.25 + 1.0) / 3, rel=1e-5)
    np.testing.assert_allclose(new.herder_headings, [0.0, np.pi / 4, state.herder_headings[2]], atol=1e-6)


def test_the_reward_and_the_metrics_are_what_the_documentation_says():
    env, params, state, step = crowd()
    action = 0.5 * jnp.ones((3, 2))
    _, new, reward, _, _, info = step(jax.random.key(0), state, action, params)
    before, after = (np.linalg.norm(np.asarray(s.positions, float), axis=1) for s in (state, new))
    inside = np.mean(1 / (1 + np.exp(-(5.0 - after) / 0.5)))
    assert float(reward) == pytest.approx(inside + 2 * np.mean(before - after) - 0.02 * 0.5, abs=1e-4)
    assert float(info["in_goal"]) == pytest.approx(np.mean(after < 5.0)) and 0 < np.mean(after < 5.0) < 1
    assert float(info["distance"]) == pytest.approx(np.mean(after), rel=1e-5)
    start = np.asarray(state.positions, float)
    near = np.linalg.norm(start[:, None] - start, axis=-1) < float(params.collision_range)
    assert float(info["collisions"]) == pytest.approx((near.sum() - 12) / 24)
    x = np.asarray(new.positions, float)
    assert float(info["spread"]) == pytest.approx(np.sqrt(np.mean(np.sum((x - x.mean(0)) ** 2, 1))), rel=1e-5)


# --- observations and starts ------------------------------------------------------------------------------------------


def test_a_herder_sees_goal_flock_stray_nearest_boids_and_the_others():
    env, params, state, _ = crowd()
    obs = np.asarray(env.observe(state, params))
    x, herders = np.asarray(state.positions, float), np.asarray(state.herders, float)

    def shown(d):
        return d / np.sqrt(d @ d + 100.0)

    center = x.mean(axis=0)
    far = np.linalg.norm(x - center, axis=1)
    for h in range(3):
        near = np.argsort(np.linalg.norm(x - herders[h], axis=1))[:4]
        others = [j for j in range(3) if j != h]
        places = [np.zeros(2), center, x[np.argmax(far)], *x[near], *herders[others]]
        expected = np.concatenate([shown(place - herders[h]) for place in places])
        np.testing.assert_allclose(np.delete(obs[h], [6, 7]), expected, atol=1e-5)
        spread = np.sqrt(np.mean(far**2))
        share = np.mean(1 / (1 + np.exp(-(5.0 - np.linalg.norm(x, axis=1)) / 0.5)))
        np.testing.assert_allclose(obs[h, 6:8], [spread / np.sqrt(spread**2 + 100), share], atol=1e-5)


def test_an_episode_starts_with_a_loose_flock_beside_the_goal_and_herders_at_its_edge():
    env = make()
    params = env.default_params
    state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 32), params)[1]
    x = np.asarray(state.positions, float)
    center = x.mean(axis=1)
    np.testing.assert_allclose(np.linalg.norm(center, axis=1), 18.0, atol=0.5)
    assert np.linalg.norm(x - center[:, None], axis=2).max() < 7.0 + 1.0
    apart = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) + 1e3 * np.eye(32)
    assert apart.min() > 0.3  # nobody stands on another one
    np.testing.assert_allclose(np.linalg.norm(state.herders, axis=2), 5.0, atol=1e-4)
    sides = np.arctan2(center[:, 1], center[:, 0])
    assert np.histogram(sides, 4, (-np.pi, np.pi))[0].min() > 2  # on all sides


@pytest.mark.slow
def test_lists_and_all_pairs_give_the_same_episode(x64):
    actions = 0.9 * jnp.stack([jnp.cos(jnp.arange(40) / 9), jnp.sin(jnp.arange(40) / 9)], -1)
    actions = jnp.broadcast_to(actions[:, None], (40, 2, 2))
    found = []
    for pairs in ("all", "list"):
        env = make(boids=48, pairs=pairs)
        params = env.default_params.replace(start_distance=8.0)
        found.append(recorded(env, params, actions, jax.random.key(0)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert not np.any(found[1][2])


# --- the task ---------------------------------------------------------------------------------------------------------


def check_scores(found):
    mean = {name: float(jnp.mean(evaluation.returns)) for name, evaluation in found.items()}
    assert mean["stroembom"] > 150 and mean["zero"] < 5 and mean["random"] < 5
    home = np.asarray(found["stroembom"].final_means(8)["in_goal"])
    assert np.mean(home > 0.9) >= 0.75
    assert float(jnp.max(found["zero"].final_means(8)["in_goal"])) == 0.0


def test_stroembom_brings_the_flock_home_and_nothing_and_chance_do_not():
    check_scores(evaluations(make(), 4))


@pytest.mark.slow
def test_so_it_does_in_many_episodes():
    check_scores(evaluations(make(), 64))


@pytest.mark.slow
@pytest.mark.parametrize(("config", "least"), [({"herders": 3}, 200), ({"boids": 64, "herders": 4}, 150)])
def test_more_herders_drive_more_boids(config, least):
    returns = evaluations(make(**config), 32)["stroembom"].returns
    assert float(jnp.mean(returns)) > least


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", ["all", pytest.param("list", marks=pytest.mark.slow)])
def test_the_gradient_of_a_32_step_return_agrees_with_central_differences(pairs, x64):
    """For actions shorter than 1, the initial state and every parameter; the reset and observations included.

    Smooth as long as nobody comes into or out of the cohesion range or changes its rank in an observation just there.
    """
    env = make(boids=8, herders=2, nearest=3, pairs=pairs)
    params = env.default_params.replace(alignment=0.3, start_distance=9.0, start_radius=2.0)

    t = jnp.arange(32.0)
    actions = 0.6 * jnp.stack([jnp.cos(t / 5), jnp.sin(t / 7)], -1)
    point = {
        "actions": jnp.stack([actions, -0.7 * actions[:, ::-1]], axis=1),
        "positions": jnp.zeros((8, 2)),
        "headings": jnp.zeros(8),
        "herders": jnp.zeros((2, 2)),
    }
    assert_gradient_agrees(return_of_32_steps(env, jax.random.key(3)), point, params)


# --- soundness and bad input ------------------------------------------------------------------------------------------


def test_random_herders_leave_everything_finite_and_in_its_space():
    assert_random_steps_are_sound(make(), instances=8, steps=100)


@pytest.mark.slow
def test_ten_thousand_random_steps_of_64_instances_are_sound():
    assert_random_steps_are_sound(make(boids=40), instances=64, steps=10_000)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"boids": 1}, "boids = 1; valid: a whole number from 2"),
        ({"herders": 0}, "herders = 0; valid: a whole number from 1"),
        ({"nearest": 33}, "nearest = 33; valid: up to the number of boids, 32"),
        ({"pairs": "some"}, "pairs = 'some'; valid: 'auto', 'all', 'list'"),
        ({"slack": 0.5}, "slack = 0.5; valid: a number from 1"),
        ({"obstacles": 2}, "'flocking' has no configuration field 'obstacles'"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make(**config)


def test_parameters_that_do_not_fit_each_other_are_refused():
    env = make()
    with pytest.raises(ValueError, match="view_min = 2; valid: up to view_max = 1"):
        env.reset(jax.random.key(0), env.default_params.replace(view_min=2.0, view_max=1.0))
    with pytest.raises(ValueError, match="herder_speed = -1; must be"):
        env.default_params.replace(herder_speed=-1)
