"""Flocking, task `shepherd`: forces from energies, closed forms, and what a herder sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boid_energies import notebook_forces
from dmdenv.envs.flocking.herders import alarm
from dmdenv.envs.flocking.parameters import BoidParams, ShepherdParams
from flock_checks import KEY, driven_crowd, make

pytestmark = pytest.mark.usefixtures("x64")


# --- physics ----------------------------------------------------------------------------------------------------------


def alarm_by_hand(positions, herders, D):
    d = np.linalg.norm(np.asarray(positions)[:, None] - np.asarray(herders)[None], axis=-1)
    return 1 - np.prod(1 - np.maximum(1 - (d / D) ** 2, 0) ** 2, axis=1)


def test_boids_move_by_the_gradients_of_the_energies():
    """Avoidance and flight push, alignment, cohesion and flight turn; alarm makes boids run along their headings."""
    env, params, state = driven_crowd()
    action = jnp.zeros((3, 2))
    _, new, *_ = env.step_env(KEY, state, action, params)
    p = {f.name: getattr(params, f.name) for f in dataclasses.fields(BoidParams)}
    nothing = {"obstacle": 0.0, "chase": 0.0, "chase_range": 1.0}
    force, torque, _, _ = notebook_forces(
        state.positions, state.headings, jnp.zeros((3, 2)), jnp.ones(3), state.herders, jnp.zeros(3),
        {**p, **{name: jnp.asarray(value, float) for name, value in nothing.items()}}, 1e9,
    )  # fmt: skip
    pace = 0.1 + 1.5 * alarm_by_hand(state.positions, state.herders, 8.0)
    u = np.stack([np.cos(state.headings), np.sin(state.headings)], -1)
    np.testing.assert_allclose(new.positions, state.positions + 0.1 * (pace[:, None] * u + force), atol=1e-10)
    np.testing.assert_allclose(new.headings, state.headings + 0.1 * torque, atol=1e-10)
    assert np.abs(torque).max() > 0.1 and np.abs(force).max() > 0.1 and pace.max() > 0.3


def test_alarm_is_what_the_documentation_says_and_ends_at_the_flight_range():
    measure = jax.jit(lambda boids, herders: alarm(boids, herders, ShepherdParams()))
    boids = jnp.array([[0.0, 0.0], [3.0, 1.0], [7.9, 0.0], [-8.1, 0.0]])
    herders = jnp.array([[0.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(measure(boids, herders), alarm_by_hand(boids, herders, 8.0), atol=1e-12)
    assert float(measure(boids, herders)[0]) == 1.0  # a herder is upon it
    assert float(measure(boids, herders[:1].repeat(2, 0))[3]) == 0.0


def test_far_from_herders_a_lone_boid_grazes_along_its_heading():
    env, params, state = driven_crowd()
    far = dataclasses.replace(state, positions=state.positions + 1000.0 * np.arange(1.0, 21.0)[:, None])
    _, new, *_ = env.step_env(KEY, far, jnp.zeros((3, 2)), params)
    np.testing.assert_allclose(jnp.linalg.norm(new.positions - far.positions, axis=1), 0.1 * 0.1, atol=1e-10)
    np.testing.assert_allclose(new.headings, far.headings, atol=1e-12)


def test_herders_go_where_they_are_sent_at_most_at_their_speed():
    env, params, state = driven_crowd()
    action = jnp.array([[0.5, 0.0], [1.0, 1.0], [0.0, 0.0]])
    _, new, _, _, _, info = env.step_env(KEY, state, action, params)
    expected = 0.1 * 2.0 * np.array([[0.5, 0.0], [2**-0.5, 2**-0.5], [0.0, 0.0]])
    np.testing.assert_allclose(new.herders - state.herders, expected, atol=1e-12)
    assert float(info["effort"]) == pytest.approx((0.25 + 1.0) / 3, rel=1e-12)
    np.testing.assert_allclose(new.herder_headings, [0.0, np.pi / 4, state.herder_headings[2]], atol=1e-12)


def test_the_reward_and_the_metrics_are_what_the_documentation_says():
    env, params, state = driven_crowd()
    action = 0.5 * jnp.ones((3, 2))
    _, new, reward, _, _, info = env.step_env(KEY, state, action, params)
    before, after = (np.linalg.norm(np.asarray(s.positions), axis=1) for s in (state, new))
    inside = np.mean(1 / (1 + np.exp(-(5.0 - after) / 0.5)))
    assert float(reward) == pytest.approx(inside + 2 * np.mean(before - after) - 0.02 * 0.5, abs=1e-12)
    assert float(info["in_goal"]) == pytest.approx(np.mean(after < 5.0)) and 0 < np.mean(after < 5.0) < 1
    assert float(info["distance"]) == pytest.approx(np.mean(after), rel=1e-12)
    start = np.asarray(state.positions)
    near = np.linalg.norm(start[:, None] - start, axis=-1) < float(params.collision_range)
    assert float(info["collisions"]) == pytest.approx((near.sum() - 20) / 40)
    x = np.asarray(new.positions)
    assert float(info["spread"]) == pytest.approx(np.sqrt(np.mean(np.sum((x - x.mean(0)) ** 2, 1))), rel=1e-12)


# --- observations and starts ------------------------------------------------------------------------------------------


def test_a_herder_sees_goal_flock_stray_nearest_boids_and_the_others():
    env, params, state = driven_crowd()
    obs = np.asarray(env.reset(jax.random.key(1), params)[0])  # of the same state
    x, herders = np.asarray(state.positions), np.asarray(state.herders)

    def shown(d):
        return d / np.sqrt(d @ d + 100.0)

    center = x.mean(axis=0)
    far = np.linalg.norm(x - center, axis=1)
    for h in range(3):
        near = np.argsort(np.linalg.norm(x - herders[h], axis=1))[:4]
        others = [j for j in range(3) if j != h]
        places = [np.zeros(2), center, x[np.argmax(far)], *x[near], *herders[others]]
        expected = np.concatenate([shown(place - herders[h]) for place in places])
        np.testing.assert_allclose(np.delete(obs[h], [6, 7]), expected, atol=1e-12)
        spread = np.sqrt(np.mean(far**2))
        share = np.mean(1 / (1 + np.exp(-(5.0 - np.linalg.norm(x, axis=1)) / 0.5)))
        np.testing.assert_allclose(obs[h, 6:8], [spread / np.sqrt(spread**2 + 100), share], atol=1e-12)


def test_an_episode_starts_with_a_loose_flock_beside_the_goal_and_herders_at_its_edge():
    env = driven_crowd()[0]
    states = [env.reset(jax.random.key(seed), env.default_params)[1] for seed in range(32)]
    x, herders = (np.stack([getattr(state, name) for state in states]) for name in ("positions", "herders"))
    center = x.mean(axis=1)
    np.testing.assert_allclose(np.linalg.norm(center, axis=1), 18.0, atol=0.5)
    assert np.linalg.norm(x - center[:, None], axis=2).max() < 7.0 + 1.0
    apart = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) + 1e3 * np.eye(20)
    assert apart.min() > 0.3  # none in the place of another one
    np.testing.assert_allclose(np.linalg.norm(herders, axis=2), 5.0, atol=1e-12)
    sides = np.arctan2(center[:, 1], center[:, 0])
    assert np.histogram(sides, 4, (-np.pi, np.pi))[0].min() > 2  # on all sides


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"boids": 1}, "boids = 1; must be an integer >= 2"),
        ({"herders": 0}, "herders = 0; must be an integer >= 1"),
        ({"nearest": 33}, "nearest = 33; must be at most boids = 32"),
        ({"pairs": "some"}, "pairs = 'some'; must be one of 'auto', 'all', 'list'"),
        ({"slack": 0.5}, "slack = 0.5; must be a finite number >= 1"),
        ({"obstacles": 2}, "'flocking' has no configuration field 'obstacles'"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make("shepherd", **config)


def test_parameters_that_do_not_fit_each_other_are_refused():
    env = make("shepherd")
    with pytest.raises(ValueError, match="view_min = 2; must be at most view_max = 1"):
        env.reset(KEY, env.default_params.replace(view_min=2.0, view_max=1.0))
    with pytest.raises(ValueError, match="herder_speed = -1; must be"):
        env.default_params.replace(herder_speed=-1)
