"""Flocking, task `align`: forces from energies, closed forms, what a boid observes, and capacities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boid_energies import notebook_forces, wrapped
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.flocking.align import polar_order
from dmdenv.envs.flocking.parameters import BoidParams
from dmdenv.neighbors import AllPairs
from dmdenv.space import Free
from flock_checks import KEY, make, measured, notebook_flock
from marks import by_default

pytestmark = pytest.mark.usefixtures("x64")

OFF = dict.fromkeys(("avoidance", "cohesion", "alignment", "flight", "obstacle"), 0.0)


# --- the rules as energies --------------------------------------------------------------------------------------------


def notebook_step(state, params):
    """One explicit Euler step of the notebook: boids' positions and headings, and the predators."""
    p, box = {f.name: getattr(params, f.name) for f in dataclasses.fields(BoidParams)}, float(params.box)
    p |= {name: getattr(params, name) for name in ("obstacle", "chase", "chase_range")}
    obstacles, predators = state.obstacles, state.predators
    force, torque, pull, turn = notebook_forces(
        state.positions, state.headings, obstacles.positions, obstacles.ranges, predators.positions,
        predators.headings, p, box,
    )  # fmt: skip
    u, up = (np.stack([np.cos(t), np.sin(t)], -1) for t in (state.headings, predators.headings))
    dt = float(params.dt)
    positions = state.positions + dt * (params.speed * u + force)
    gap = np.linalg.norm(wrapped(positions[None] - predators.positions[:, None], box), axis=-1).min(1)
    starts = (gap < params.sprint_range) & (predators.since_sprint > params.sprint_rest)
    since = np.where(starts, 0.0, predators.since_sprint + dt)
    speed = params.predator_speed + params.sprint_speed * np.exp(-since / params.sprint_time)
    return {
        "positions": positions,
        "headings": state.headings + dt * torque,
        "predator_positions": predators.positions + dt * (speed[:, None] * up + pull),
        "predator_headings": predators.headings + dt * turn,
        "since_sprint": since,
    }


@pytest.mark.parametrize(
    ("pairs", "seed"), by_default([("all", 0), ("all", 1), ("list", 0), ("list", 1)], ("all", 0), ("all", 1))
)
def test_a_step_follows_the_energies_of_jax_mds_notebook(pairs, seed):
    """The notebook's simulation (200 boids, 5 obstacles, a predator; crowded here) is one configuration of ours."""
    env, params = notebook_flock(pairs)
    _, state = env.reset(jax.random.key(seed), params)
    state = state.replace(predators=state.predators.replace(since_sprint=jnp.array([0.0, 400.0, 500.0])))
    _, new, *_ = env.step_env(jax.random.key(1), state, jnp.zeros(20), params)
    expected = notebook_step(state, params)
    found = {
        "positions": new.positions,
        "headings": new.headings,
        "predator_positions": new.predators.positions,
        "predator_headings": new.predators.headings,
        "since_sprint": new.predators.since_sprint,
    }
    for name, a in found.items():
        difference = a - expected[name]
        difference = wrapped(difference, 150.0) if "positions" in name else difference
        np.testing.assert_allclose(difference, 0, atol=1e-9, err_msg=name)
    assert float(jnp.max(jnp.abs(new.headings - state.headings))) > 0.1  # the rules did something
    assert not new.overflow


@pytest.mark.slow
def test_reynolds_boids_flock_by_themselves():
    """With the notebook's coefficients and no agent, polar order rises from its random start."""
    env, params = make("align", boids=64, obstacles=0), notebook_flock()[1]
    params = params.replace(box=220.0, perception=100.0, view_max=np.pi, max_steps=10_000)

    def run(key):
        _, state = env.reset(key, params)
        keys = jax.random.split(key, 3000)
        return jax.lax.scan(lambda s, k: (env.step_env(k, s, jnp.zeros(64), params)[1], None), state, keys)[0]

    assert float(jnp.mean(jax.jit(jax.vmap(run))(jax.random.split(KEY, 4)).polar_order)) > 0.7


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_polar_order_has_its_known_values():
    """1 for a common heading, 0 for opposite ones, and sqrt(pi / (4 n)) on average for independent ones."""
    n = 50
    measure = jax.jit(jax.vmap(polar_order))
    headings = np.random.default_rng(0).uniform(0, 2 * np.pi, (20_000, n))
    headings[0], headings[1] = 2.0, 0.5 + np.pi * (np.arange(n) % 2)
    orders = np.asarray(measure(headings))
    assert orders[0] == pytest.approx(1.0) and orders[1] == pytest.approx(0.0, abs=1e-12)
    error = np.std(orders) / np.sqrt(len(orders))
    assert np.mean(orders) == pytest.approx(np.sqrt(np.pi / (4 * n)), abs=4 * error + 0.01 / n)


def test_the_derivative_of_order_is_finite_where_order_vanishes():
    derivative = jax.jit(jax.grad(polar_order))
    assert np.all(np.isfinite(derivative(jnp.array([0.0, np.pi]))))
    assert np.all(np.isfinite(derivative(jnp.zeros(2))))


def test_without_rules_and_action_boids_fly_straight():
    env, params = notebook_flock()
    params = params.replace(**OFF)
    _, start = env.reset(KEY, params)
    state = start
    for _ in range(5):
        _, state, *_ = env.step_env(KEY, state, jnp.zeros(20), params)
    u = np.stack([np.cos(start.headings), np.sin(start.headings)], -1)
    np.testing.assert_allclose(wrapped(state.positions - start.positions - 5 * 0.1 * u, 150.0), 0, atol=1e-12)
    np.testing.assert_allclose(state.headings, start.headings, atol=1e-12)


def test_a_full_action_turns_at_the_turn_rate():
    env, params = notebook_flock()
    params = params.replace(**OFF, turn_rate=2.0)
    _, state = env.reset(KEY, params)
    action = jnp.linspace(-1, 1, 20)
    _, new, *_ = env.step_env(KEY, state, action, params)
    np.testing.assert_allclose(new.headings - state.headings, 0.1 * 2.0 * action, atol=1e-12)


def test_an_aligned_flock_without_noise_stays_aligned():
    """Vicsek: without noise an aligned flock stays at order 1 (no obstacle or predator breaks the symmetry)."""
    env, params = notebook_flock()
    params = params.replace(**{**OFF, "alignment": 1.0, "avoidance": 1.0})
    _, state = env.reset(KEY, params)
    state = measured(dataclasses.replace(state, headings=jnp.full_like(state.headings, 1.0)), params)
    for _ in range(10):
        _, state, *_, info = env.step_env(KEY, state, jnp.zeros(20), params)
    assert float(info["polar_order"]) == pytest.approx(1.0, abs=1e-12)


def test_the_reward_is_what_the_documentation_says():
    env, params = notebook_flock()
    params = params.replace(turn_rate=2.0)
    _, state = env.reset(jax.random.key(2), params)
    action = jax.random.uniform(jax.random.key(3), (20,), minval=-1, maxval=1)
    _, new, reward, _, _, info = env.step_env(KEY, state, action, params)
    order = [abs(np.mean(np.exp(1j * np.asarray(s.headings)))) for s in (state, new)]
    r = np.array(jnp.linalg.norm(wrapped(state.positions[None] - state.positions[:, None], 150.0), axis=-1))
    np.fill_diagonal(r, np.inf)
    overlap = np.mean(np.sum(np.maximum(0, 1 - r / 12.0) ** 2, axis=1))
    expected = order[1] + 10 * (order[1] - order[0]) - overlap - 0.02 * np.mean(action**2)
    assert overlap > 0.01
    assert float(reward) == pytest.approx(float(expected), rel=1e-12)
    assert float(info["polar_order"]) == float(new.polar_order) == pytest.approx(float(order[1]), rel=1e-12)
    assert float(info["collisions"]) == pytest.approx(float(np.mean(np.sum(r < 12.0, axis=1))) / 2, rel=1e-12)


# --- observations -----------------------------------------------------------------------------------------------------


def observed_by_hand(state, params, boid, k):
    """The k nearest neighbours' rows as the class documents them, for one boid."""
    R, x, t = float(params.perception), np.asarray(state.positions), np.asarray(state.headings)
    d = np.asarray(wrapped(x - x[boid], float(params.box)))
    r = np.linalg.norm(d, axis=1)
    r[boid] = np.inf
    c, s = np.cos(t[boid]), np.sin(t[boid])
    rows = []
    for j in np.argsort(r)[:k]:
        p = max(0.0, 1 - (r[j] / R) ** 2) ** 2
        ahead, left = c * d[j, 0] + s * d[j, 1], -s * d[j, 0] + c * d[j, 1]
        rows.append(p * np.array([1, ahead / R, left / R, np.cos(t[j] - t[boid]), np.sin(t[j] - t[boid])]))
    return np.concatenate(rows)


@pytest.mark.parametrize("pairs", ["all", "list"])
def test_a_boid_observes_its_nearest_neighbours_in_its_own_frame(pairs):
    env, params = notebook_flock(pairs)
    obs, state = env.reset(jax.random.key(4), params)
    for boid in (0, 7, 19):
        expected = observed_by_hand(state, params, boid, 3)
        np.testing.assert_allclose(obs[boid, :15], expected, atol=1e-12)
        np.testing.assert_array_equal(env.perception.split(obs).boids[boid].ravel(), obs[boid, :15])


def turned(state):
    """Everything rotated and displaced."""
    c, s = np.cos(1.1), np.sin(1.1)

    def turn(x):
        return x @ jnp.array([[c, s], [-s, c]]) + jnp.array([[500.0, 300.0]])

    obstacles, predators = state.obstacles, state.predators
    return dataclasses.replace(
        state,
        positions=turn(state.positions),
        headings=state.headings + 1.1,
        obstacles=obstacles.replace(positions=turn(obstacles.positions)),
        predators=predators.replace(positions=turn(predators.positions), headings=predators.headings + 1.1),
    )


def test_observations_do_not_depend_on_where_the_flock_is_or_how_it_is_turned():
    """In a box so large that nothing is seen across its boundary; a step of no duration observes without moving."""
    env, params = notebook_flock()
    _, state = env.reset(KEY, params)
    params = params.replace(box=1000.0, dt=0.0)
    obs, other = (env.step_env(KEY, s, jnp.zeros(20), params)[0] for s in (state, turned(state)))
    np.testing.assert_allclose(other, obs, atol=1e-12)


@pytest.mark.slow
def test_nor_do_they_in_free_space():
    env, params = notebook_flock()
    _, state = env.reset(KEY, params)
    observe = jax.jit(lambda state: env.perception.observe(Free(), state, params))
    np.testing.assert_allclose(observe(turned(state)), observe(state), atol=1e-12)


# --- lists, capacities and bad input ----------------------------------------------------------------------------------


def test_lists_and_all_pairs_give_the_same_steps():
    """So fast that the list is rebuilt on the way, by rules so weak that rounding does not grow."""
    weak = {"avoidance": 1.0, "alignment": 1.0, "cohesion": 0.05, "chase": 0.1}
    params = notebook_flock()[1].replace(**{**OFF, **weak}, turn_rate=0.2, speed=50.0)
    found = []
    for pairs in ("all", "list"):
        env, _ = notebook_flock(pairs)
        _, state = env.reset(KEY, params)
        start, steps = state.pairs, []
        for t in range(8):
            obs, state, reward, *_ = env.step_env(KEY, state, jnp.sin(t + jnp.arange(20.0)), params)
            steps.append((obs, reward, state.positions))
        found.append(steps)
    assert not state.overflow and np.any(state.pairs.positions != start.positions)
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_a_range_beyond_half_the_box_sets_the_overflow_flag():
    """Also one that grows in the course of an episode; traced parameters have no values that a host could check."""
    env, params = notebook_flock()

    @jax.jit
    def at_reset(params):
        return env.reset(KEY, params)[1].overflow

    @jax.jit
    def after_a_step(state, params):
        return env.step_env(KEY, state, jnp.zeros(20), params)[1].overflow

    _, state = env.reset(KEY, params)
    for perception, too_long in ((70.0, False), (80.0, True)):
        changed = params.replace(perception=perception)
        assert bool(at_reset(changed)) is bool(after_a_step(state, changed)) is too_long


def test_a_range_beyond_that_of_the_list_sets_the_overflow_flag():
    env, params = notebook_flock("list")
    _, state = env.reset(KEY, params.replace(perception=50.0))
    assert not env.step_env(KEY, state, jnp.zeros(20), params.replace(perception=50.0))[1].overflow
    assert env.step_env(KEY, state, jnp.zeros(20), params)[1].overflow


@pytest.mark.slow
def test_a_crowd_beyond_the_lists_capacity_is_flagged_until_an_enlarged_flock_takes_it_over():
    env = make("align", boids=200, pairs="list", slack=1.0)
    params = env.default_params
    _, state = env.reset(KEY, params)
    crowd = dataclasses.replace(state, positions=state.positions * 0.7)
    _, after, *_, info = env.step_env(KEY, crowd, jnp.zeros(200), params)
    assert info["overflow"]
    apart = dataclasses.replace(after, positions=state.positions)
    assert env.step_env(KEY, apart, jnp.zeros(200), params)[5]["overflow"]
    enlarged, taken = env, after
    while taken.overflow:
        enlarged = enlarged.enlarged()
        taken = enlarged.with_capacity(crowd.replace(overflow=jnp.asarray(True)))
    complete = make("align", boids=200, pairs="all")
    _, expected, *_ = complete.step_env(
        KEY, complete.with_capacity(crowd.replace(pairs=AllPairs())), jnp.zeros(200), params
    )
    _, actual, *_ = enlarged.step_env(KEY, taken, jnp.zeros(200), params)
    assert not actual.overflow
    np.testing.assert_allclose(actual.positions, expected.positions, atol=1e-9)
    np.testing.assert_allclose(actual.headings, expected.headings, atol=1e-9)


def test_growth_ends_where_it_would_change_nothing():
    with pytest.raises(CapacityExceeded, match="flocking: a range of the parameters is too long; must be at most half"):
        make("align", pairs="all").enlarged()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"boids": 1}, "boids = 1; must be an integer >= 2"),
        ({"boids": 3.5}, "boids = 3.5; must be an integer >= 2"),
        ({"obstacles": -1}, "obstacles = -1; must be an integer >= 0"),
        ({"nearest": 0}, "nearest = 0; must be an integer >= 1"),
        ({"space": "sphere"}, "space = 'sphere'; must be one of 'periodic', 'free'"),
        ({"pairs": "some"}, "pairs = 'some'; must be one of 'auto', 'all', 'list'"),
        ({"max_range_fraction": 0.6}, "max_range_fraction = 0.6; must be a finite number > 0 and <= 0.5 or None"),
        ({"slack": 0.5}, "slack = 0.5; must be a finite number >= 1"),
        ({"slack": float("nan")}, "slack = nan; must be a finite number >= 1"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make("align", **config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perception": 9.0}, "perception = 9; must be at most half the periodic box, 8"),
        ({"box": 4.0}, "perception = 5; must be at most half the periodic box, 2"),
        ({"view_min": 2.0, "view_max": 1.0}, "view_min = 2; must be at most view_max = 1"),
        ({"obstacle_min": 3.0}, "obstacle_min = 3; must be at most obstacle_max = 2"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_refused(changes, message):
    env = make("align")
    with pytest.raises(ValueError, match=message):
        env.reset(KEY, env.default_params.replace(**changes))
