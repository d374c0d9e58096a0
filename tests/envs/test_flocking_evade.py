"""Flocking, task `evade`: lost boids act on no other one, the catch, closed forms, and the start of an episode."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boid_energies import wrapped
from dmdenv.envs.flocking.evade import togetherness
from dmdenv.envs.flocking.parameters import EvadeParams, FlockingParams
from dmdenv.envs.flocking.state import FlockingState
from dmdenv.neighbors import AllPairs, nearest
from dmdenv.space import Free, Periodic
from flock_checks import KEY, hunted_crowd, make, measured, notebook_flock
from marks import by_default

pytestmark = pytest.mark.usefixtures("x64")

ACTION = np.sin(np.arange(20.0))


# --- physics ----------------------------------------------------------------------------------------------------------


def with_predators(state, *places):
    return state.replace(predators=state.predators.replace(positions=jnp.stack(places)))


def distances(params, a, b):
    """`[n, m]`, of positions `[n, 2]` and `[m, 2]` in the box."""
    return np.linalg.norm(wrapped(np.asarray(a)[:, None] - np.asarray(b)[None], float(params.box)), axis=-1)


def test_with_all_alive_boids_and_predators_move_as_in_align():
    """Whose step is tested against energies."""
    env, params, state = hunted_crowd()
    align, _ = notebook_flock()
    shared = {f.name: getattr(params, f.name) for f in dataclasses.fields(FlockingParams) if hasattr(params, f.name)}
    same = {f.name: getattr(state, f.name) for f in dataclasses.fields(FlockingState) if hasattr(state, f.name)}
    same = measured(FlockingState(**same, polar_order=jnp.asarray(0.0)), params)
    obs, new, *_ = env.step_env(KEY, state, ACTION, params.replace(catch_range=0.0))
    expected_obs, expected, *_ = align.step_env(KEY, same, ACTION, FlockingParams().replace(**shared))
    assert np.all(new.alive)
    np.testing.assert_allclose(obs, expected_obs, atol=1e-12)
    for name in ("positions", "headings", "predators"):
        for a, b in zip(*(jax.tree.leaves(getattr(s, name)) for s in (new, expected)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12, err_msg=name)


def with_lost_boid(state, position, heading, alive):
    """The state with boid 5 somewhere."""
    return dataclasses.replace(
        state,
        positions=state.positions.at[5].set(position),
        headings=state.headings.at[5].set(heading),
        alive=state.alive.at[5].set(alive),
    )


def seen_by_others(outcome):
    """What a step gives, but for where boid 5 itself is."""
    obs, new, reward, terminated, _, info = outcome
    others = np.arange(20) != 5
    return obs, reward, terminated, info, new.positions[others], new.headings[others], new.alive[others], new.predators


@pytest.mark.parametrize("pairs", by_default(["all", "list"], "all"))
def test_a_lost_boid_acts_on_no_other_one(pairs):
    """Wherever it is: no other one moves, is seen or rewarded differently."""
    env, params, state = hunted_crowd(pairs)

    def step(*boid):
        return env.step_env(KEY, env.with_capacity(with_lost_boid(state, *boid)), ACTION, params)

    place = state.predators.positions[0] + 0.1
    near, far = step(place, 0.3, False), step(jnp.array([1.0, 23.0]), 2.0, False)
    for a, b in zip(*map(jax.tree.leaves, map(seen_by_others, (near, far))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_array_equal(near[0][5], 0.0)
    np.testing.assert_allclose(near[1].positions[5], place, atol=1e-12)  # it stays where it is
    assert float(near[1].headings[5]) == pytest.approx(0.3)
    alive = step(state.positions[4] + 0.3, 0.3, True)
    assert np.max(np.abs(seen_by_others(alive)[4] - seen_by_others(near)[4])) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["all", "list"])
def test_no_derivative_reaches_a_lost_boid(pairs):
    env, params, state = hunted_crowd(pairs)

    @jax.jit
    @jax.grad
    def slope(place, alive):
        there = env.with_capacity(with_lost_boid(state, place, 0.3, alive))
        obs, _, reward, *_ = env.step_env(KEY, there, ACTION, params)
        return reward + jnp.sum(obs)

    np.testing.assert_array_equal(slope(state.predators.positions[0] + 0.1, False), 0.0)
    assert np.all(slope(state.positions[4] + 0.3, True) != 0)


@pytest.mark.parametrize("space", by_default([Periodic(9.0), Free()], Periodic(9.0), ids=["periodic", "free"]))
def test_the_nearest_are_found_among_those_present(space):
    x = 9.0 * jax.random.uniform(KEY, (12, 2))
    present = np.arange(12) % 3 != 1
    find = jax.jit(lambda present: nearest(space, x, AllPairs(), 3, present=present))
    found, alone = find(present), find(np.arange(12) == 4)
    for i in range(12):
        r = np.linalg.norm(np.asarray(space.displacement(x, x[i : i + 1])), axis=1)
        r[i] = np.inf
        r[~present] = np.inf
        np.testing.assert_array_equal(found[i], np.argsort(r)[:3])
    np.testing.assert_array_equal(alone[4], [4, 4, 4])
    np.testing.assert_array_equal(alone[0], [4, 0, 0])


def test_a_boid_that_a_predator_reaches_is_lost_for_good_and_the_end_is_when_all_are():
    env, params, state = hunted_crowd()
    state = with_predators(state, *state.positions[np.array([3, 7, 11])] + 0.5)
    _, new, _, terminated, _, info = env.step_env(KEY, state, ACTION, params)
    reached = distances(params, new.positions, new.predators.positions).min(axis=1) < 0.8
    assert 0 < reached.sum() < 20
    np.testing.assert_array_equal(new.alive, ~reached)
    assert float(info["survivors"]) == pytest.approx(1 - reached.mean()) and not terminated
    away = with_predators(new, *new.predators.positions + 10.0)
    assert not np.any(env.step_env(KEY, away, ACTION, params)[1].alive[reached])
    obs, _, reward, terminated, truncated, info = env.step_env(KEY, state, ACTION, params.replace(catch_range=50.0))
    assert terminated and not truncated and float(info["survivors"]) == float(info["together"]) == 0.0
    np.testing.assert_array_equal(obs, 0.0)
    assert np.isfinite(reward)


def test_togetherness_has_its_known_values():
    n, alive = 8, np.full(8, True)
    for space in (Periodic(20.0), Free()):
        measure = jax.jit(lambda positions, alive, R, space=space: togetherness(space, positions, alive, R))
        one_place = jnp.full((n, 2), 3.0)
        assert float(measure(one_place, alive, 5.0)) == pytest.approx(1.0)
        assert float(measure(one_place, np.arange(n) < 4, 5.0)) == pytest.approx(0.5)  # the lost ones count nothing
        pair = jnp.array([[2.0, 19.5], [8.0, 19.5]] * 4)  # each 3 from the middle, on both sides of a boundary
        shifted = space.wrap(pair + jnp.array([[-5.0, 2.0]]))
        assert float(measure(shifted, alive, 6.0)) == pytest.approx(1 / (1 + 9 / 36))


def test_the_reward_is_what_the_documentation_says():
    env, params, state = hunted_crowd()
    state = with_predators(state, *state.positions[np.array([0, 9, 12])] + np.array([[2.0], [-2.0], [2.5]]))
    state = state.replace(alive=state.alive.at[2].set(False))
    _, new, reward, _, _, info = env.step_env(KEY, state, ACTION, params)
    before, alive, box = np.asarray(state.alive), np.asarray(new.alive), float(params.box)
    x = np.asarray(new.positions)
    r = distances(params, x, new.predators.positions)
    danger = np.mean(before * np.sum(np.maximum(1 - (r / 4.0) ** 2, 0) ** 2, axis=1))
    phases = np.exp(2j * np.pi * x[alive] / box)
    middle = box * np.angle(phases.mean(axis=0)) / (2 * np.pi)
    together = np.mean(alive / (1 + np.sum(wrapped(x - middle, box) ** 2, axis=1) / 25.0))
    gap = distances(params, state.positions, state.positions)
    gap[~before] = gap[:, ~before] = np.inf
    np.fill_diagonal(gap, np.inf)
    overlap = np.mean(np.sum(np.maximum(1 - gap / 1.2, 0) ** 2, axis=1))
    effort = np.mean(before * ACTION**2)
    assert overlap > 0.01 and danger > 0.05
    expected = alive.mean() + together - danger - overlap - 0.02 * effort
    assert float(reward) == pytest.approx(float(expected), abs=1e-12)
    assert float(info["together"]) == pytest.approx(float(together / alive.mean()), abs=1e-12)
    assert float(info["effort"]) == pytest.approx(float(effort), abs=1e-12)
    assert float(info["collisions"]) == pytest.approx(float(np.mean(np.sum(gap < 1.2, axis=1))) / 2, abs=1e-12)


def test_danger_tells_where_to_go():
    """The reward falls where a boid comes nearer to a predator, although no count changes."""
    env, params, state = hunted_crowd()
    params = params.replace(together_weight=0.0, collision_weight=0.0, flight=0.0)
    state = with_predators(state, *state.positions[:1] + np.array([[2.0, 0.0], [10.0, 10.0], [9.0, 10.0]]))
    nearer = dataclasses.replace(state, positions=state.positions.at[0, 0].add(1e-3))
    rewards = [env.step_env(KEY, s, ACTION, params)[2] for s in (state, nearer)]
    assert float(rewards[1] - rewards[0]) < -1e-6


def test_an_episode_starts_with_a_flock_apart_from_predators_and_obstacles():
    env, _, _ = hunted_crowd()
    params = env.default_params
    for seed in range(16):
        _, state = env.reset(jax.random.key(seed), params)
        x = np.asarray(state.positions)
        assert np.all((x >= 0) & (x < float(params.box))) and np.all(state.alive)
        assert distances(params, state.predators.positions, x).min() > 9.0 - 4.0 - 0.5
        to_obstacles = distances(params, state.obstacles.positions, x).min(axis=1)
        assert np.all(to_obstacles > np.asarray(state.obstacles.ranges) - 0.5)
        assert (distances(params, x, x) + 1e3 * np.eye(20)).min() > 0.3
        assert np.abs(np.mean(np.exp(1j * np.asarray(state.headings)))) > 0.9


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"predators": 0}, "predators = 0; must be an integer >= 1"),
        ({"boids": 1}, "boids = 1; must be an integer >= 2"),
        ({"herders": 2}, "'flocking' has no configuration field 'herders'"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make("evade", **config)


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="catch_range = -1; must be"):
        EvadeParams(catch_range=-1)
    env = make("evade")
    with pytest.raises(ValueError, match="perception = 13; must be at most half the periodic box, 12"):
        env.reset(KEY, env.default_params.replace(perception=13.0))
