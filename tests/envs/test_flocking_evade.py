"""Flocking, task `evade`: lost boids act on nobody, the catch, closed forms, differences, and Reynolds' rules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from boid_energies import wrapped
from dmdenv.envs.flocking.boids import FlockingParams, FlockingState
from dmdenv.envs.flocking.evade import EvadeParams, togetherness
from dmdenv.neighbors import AllPairs, nearest
from dmdenv.space import Free, Periodic
from flock_checks import (
    assert_gradient_agrees,
    assert_random_steps_are_sound,
    evaluations,
    recorded,
    return_of_32_steps,
)


def make(**config):
    return dmdenv.make_env("flocking", task="evade", **config)


@functools.cache
def crowd(pairs="all"):
    """A dense flock with a predator beside it, all rules at work; and a compiled step."""
    env = make(boids=14, nearest=4, pairs=pairs)
    params = env.default_params.replace(
        start_distance=4.0, start_radius=2.0, alignment=0.5, cohesion=0.5, flight=2.0, collision_range=1.2
    )
    _, state = jax.jit(env.reset)(jax.random.key(1), params)
    return env, params, state, jax.jit(env.step_env)


ACTION = jnp.sin(jnp.arange(14.0))


# --- physics ----------------------------------------------------------------------------------------------------------


def test_with_all_alive_boids_and_predators_move_as_in_align():
    """Whose step is tested against energies."""
    env, params, state, step = crowd()
    align = dmdenv.make_env("flocking", boids=14, nearest=4, obstacles=3, predators=1)
    shared = {f.name: getattr(params, f.name) for f in dataclasses.fields(FlockingParams) if hasattr(params, f.name)}
    same = FlockingState(**{f.name: getattr(state, f.name) for f in dataclasses.fields(FlockingState)})
    safe = params.replace(catch_range=0.0)
    obs, new, *_ = step(jax.random.key(0), state, ACTION, safe)
    expected_obs, expected, *_ = jax.jit(align.step_env)(
        jax.random.key(0), same, ACTION, FlockingParams().replace(**shared)
    )
    assert bool(jnp.all(new.alive))
    np.testing.assert_allclose(obs, expected_obs, atol=1e-6)
    for name in ("positions", "headings", "predators", "predator_headings", "since_sprint"):
        np.testing.assert_allclose(getattr(new, name), getattr(expected, name), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pairs", ["all", pytest.param("list", marks=pytest.mark.slow)])
def test_a_lost_boid_acts_on_nobody(pairs):
    """Wherever it lies: nothing else moves otherwise, is seen or rewarded otherwise, and no derivative reaches it."""
    env, params, state, _ = crowd(pairs)
    lost = 5
    others = np.arange(14) != lost

    def outcome(place, heading, alive):
        there = dataclasses.replace(
            state,
            positions=state.positions.at[lost].set(place),
            headings=state.headings.at[lost].set(heading),
            alive=state.alive.at[lost].set(alive),
        )
        obs, new, reward, _, _, info = env.step_env(jax.random.key(0), env.with_capacity(there), ACTION, params)
        moved = [getattr(new, name)[others] for name in ("positions", "headings", "alive")]
        predators = new.predators, new.predator_headings, new.since_sprint
        return reward + jnp.sum(obs), (obs, reward, info, moved, predators, new.positions[lost], new.headings[lost])

    run = jax.jit(jax.value_and_grad(outcome, has_aux=True))
    place = state.predators[0] + 0.1
    (_, near), push = run(place, 0.3, False)
    (_, far), _ = run(jnp.array([1.0, 23.0]), 2.0, False)
    for a, b in zip(jax.tree.leaves(near[:5]), jax.tree.leaves(far[:5]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(push, 0.0)
    np.testing.assert_array_equal(near[0][lost], 0.0)
    np.testing.assert_allclose(near[5], place, atol=1e-6)  # it stays where it is
    assert float(near[6]) == pytest.approx(0.3)
    # while alive it does act
    (_, (_, _, _, (positions, *_), *_)), push = run(state.positions[4] + 0.3, 0.3, True)
    assert float(jnp.max(jnp.abs(positions - near[3][0]))) > 1e-2 and np.all(push != 0)


@pytest.mark.parametrize("space", [Periodic(jnp.array(9.0)), Free()])
def test_the_nearest_are_found_among_those_present(space):
    x = 9.0 * jax.random.uniform(jax.random.key(0), (12, 2))
    present = jnp.arange(12) % 3 != 1
    found = np.asarray(nearest(space, x, AllPairs(), 3, present=present))
    for i in range(12):
        r = np.linalg.norm(np.asarray(space.displacement(x, x[i : i + 1])), axis=1)
        r[i] = np.inf
        r[~np.asarray(present)] = np.inf
        np.testing.assert_array_equal(found[i], np.argsort(r)[:3])
    alone = np.asarray(nearest(space, x, AllPairs(), 2, present=jnp.arange(12) == 4))
    np.testing.assert_array_equal(alone[4], [4, 4])
    np.testing.assert_array_equal(alone[0], [4, 0])


def test_a_boid_that_a_predator_reaches_is_lost_for_good_and_the_end_is_when_all_are():
    env, params, state, step = crowd()
    state = dataclasses.replace(state, predators=state.positions[3:4] + 0.5)
    _, new, _, terminated, _, info = step(jax.random.key(0), state, ACTION, params)
    box = float(params.box)
    reached = np.linalg.norm(wrapped(np.asarray(new.positions - new.predators), box), axis=1) < 0.8
    assert 0 < reached.sum() < 14
    np.testing.assert_array_equal(new.alive, ~reached)
    assert float(info["survivors"]) == pytest.approx(1 - reached.mean()) and not terminated
    away = dataclasses.replace(new, predators=new.predators + 10.0)
    assert not np.any(step(jax.random.key(0), away, ACTION, params)[1].alive[reached])
    obs, _, reward, terminated, truncated, info = step(
        jax.random.key(0), state, ACTION, params.replace(catch_range=50.0)
    )
    assert terminated and not truncated and float(info["survivors"]) == float(info["together"]) == 0.0
    np.testing.assert_array_equal(obs, 0.0)
    assert np.isfinite(reward)


def test_togetherness_has_its_known_values(x64):
    n, alive = 8, jnp.full(8, True)
    for space in (Periodic(jnp.array(20.0)), Free()):
        one_place = jnp.full((n, 2), 3.0)
        assert float(togetherness(space, one_place, alive, jnp.array(5.0))) == pytest.approx(1.0)
        half = togetherness(space, one_place, jnp.arange(n) < 4, jnp.array(5.0))
        assert float(half) == pytest.approx(0.5)  # the lost ones count nothing
        pair = jnp.array([[2.0, 19.5], [8.0, 19.5]])  # each 3 from the middle, on both sides of a boundary
        shifted = space.wrap(pair + jnp.array([[-5.0, 2.0]]))
        both = jnp.full(2, True)
        assert float(togetherness(space, shifted, both, jnp.array(6.0))) == pytest.approx(1 / (1 + 9 / 36))


def test_the_reward_is_what_the_documentation_says():
    env, params, state, step = crowd()
    state = dataclasses.replace(state, alive=state.alive.at[2].set(False), predators=state.positions[:1] + 2.0)
    _, new, reward, _, _, info = step(jax.random.key(0), state, ACTION, params)
    box, before, alive = float(params.box), np.asarray(state.alive), np.asarray(new.alive)
    x, start = np.asarray(new.positions, float), np.asarray(state.positions, float)
    r = np.linalg.norm(wrapped(x - np.asarray(new.predators), box), axis=1)
    danger = np.mean(before * np.maximum(1 - (r / 4.0) ** 2, 0) ** 2)
    phases = np.exp(2j * np.pi * x[alive] / box)
    middle = box * np.angle(phases.mean(axis=0)) / (2 * np.pi)
    together = np.mean(alive / (1 + np.sum(wrapped(x - middle, box) ** 2, axis=1) / 25.0))
    gap = np.array(np.linalg.norm(wrapped(start[:, None] - start[None], box), axis=-1))
    gap[~before] = gap[:, ~before] = np.inf
    np.fill_diagonal(gap, np.inf)
    overlap = np.mean(np.sum(np.maximum(1 - gap / 1.2, 0) ** 2, axis=1))
    effort = np.mean(before * np.asarray(ACTION) ** 2)
    assert overlap > 0.01 and danger > 0.05
    expected = alive.mean() + together - danger - overlap - 0.02 * effort
    assert float(reward) == pytest.approx(float(expected), abs=1e-4)
    assert float(info["together"]) == pytest.approx(float(together / alive.mean()), abs=1e-4)
    assert float(info["effort"]) == pytest.approx(float(effort), abs=1e-5)
    assert float(info["collisions"]) == pytest.approx(float(np.mean(np.sum(gap < 1.2, axis=1))) / 2, abs=1e-5)


def test_danger_tells_a_gradient_where_to_go():
    """The derivative of the reward by a boid's place points away from the predator, although no count changes."""
    env, params, state, _ = crowd()
    params = params.replace(together_weight=0.0, collision_weight=0.0, flight=0.0)
    state = dataclasses.replace(state, predators=state.positions[:1] + jnp.array([[2.0, 0.0]]))

    @jax.jit
    def reward(places):
        return env.step_env(jax.random.key(0), dataclasses.replace(state, positions=places), ACTION, params)[2]

    assert float(jax.grad(reward)(state.positions)[0, 0]) < -1e-3


def test_an_episode_starts_with_a_flock_apart_from_predators_and_obstacles():
    env = make()
    params = env.default_params
    state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 16), params)[1]
    x, box = np.asarray(state.positions, float), float(params.box)

    def gap(a, b):
        return np.linalg.norm(wrapped(np.asarray(a, float)[:, :, None] - np.asarray(b, float)[:, None], box), axis=-1)

    assert np.all((x >= 0) & (x < box)) and np.all(state.alive)
    assert gap(state.predators, x).min() > 9.0 - 4.0 - 0.5
    assert np.all(gap(state.obstacles, x).min(axis=2) > np.asarray(state.obstacle_ranges) - 0.5)
    assert (gap(x, x) + 1e3 * np.eye(32)).min() > 0.3
    order = np.abs(np.mean(np.exp(1j * np.asarray(state.headings)), axis=1))
    assert order.min() > 0.9


@pytest.mark.slow
def test_lists_and_all_pairs_give_the_same_episode(x64):
    """With losses on the way."""
    actions = 0.5 * jnp.sin(jnp.arange(50.0)[:, None] + jnp.arange(48.0)[None, :])
    found = []
    for pairs in ("all", "list"):
        env = make(boids=48, pairs=pairs)
        params = env.default_params.replace(start_distance=5.0, alignment=0.5)
        found.append(recorded(env, params, actions, jax.random.key(4), lambda state: (state.positions, state.alive)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert not np.any(found[1][2]) and 0 < np.sum(~np.asarray(found[1][3][1][-1])) < 48


# --- the task ---------------------------------------------------------------------------------------------------------


def check_scores(found):
    mean = {name: float(jnp.mean(evaluation.returns)) for name, evaluation in found.items()}
    left = {name: float(jnp.mean(evaluation.final_means(8)["survivors"])) for name, evaluation in found.items()}
    assert max(mean["zero"], mean["random"]) + 40 < mean["reynolds"]
    assert left["reynolds"] > 0.85 > 0.8 > max(left["zero"], left["random"])


def test_reynolds_rules_save_and_keep_together_more_than_nothing_and_chance():
    check_scores(evaluations(make(), 12))


@pytest.mark.slow
def test_so_they_do_in_many_episodes():
    check_scores(evaluations(make(), 128))


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["all", "list"])
def test_the_gradient_of_a_32_step_return_agrees_with_central_differences(pairs, x64):
    """For actions, the initial state and every parameter; the reset and observations included.

    Smooth as long as nobody is caught or comes into view just there; a boid is lost from the start.
    """
    env = make(boids=8, nearest=3, obstacles=2, pairs=pairs)
    rules = {"alignment": 0.3, "cohesion": 0.2, "flight": 1.0, "collision_range": 1.0}
    params = env.default_params.replace(**rules, start_distance=6.0, start_radius=1.8)  # all rules at work

    point = {
        "actions": 0.5 * jnp.sin(jnp.arange(32.0)[:, None] + 2.0 * jnp.arange(8.0)[None, :]),
        "positions": jnp.zeros((8, 2)),
        "headings": jnp.zeros(8),
        "predators": jnp.zeros((1, 2)),
        "predator_headings": jnp.zeros(1),
    }
    assert_gradient_agrees(return_of_32_steps(env, jax.random.key(2), alive=jnp.arange(8) != 3), point, params)


# --- soundness and bad input ------------------------------------------------------------------------------------------


def test_random_turns_leave_everything_finite_and_in_its_space():
    assert_random_steps_are_sound(make(), instances=8, steps=100)


@pytest.mark.slow
def test_ten_thousand_random_steps_of_64_instances_are_sound():
    assert_random_steps_are_sound(make(boids=40), instances=64, steps=10_000)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"predators": 0}, "predators = 0; valid: a whole number from 1"),
        ({"boids": 1}, "boids = 1; valid: a whole number from 2"),
        ({"space": "sphere"}, "space = 'sphere'; valid: 'periodic', 'free'"),
        ({"reach": 0.6}, "reach = 0.6; valid: a fraction of the box up to 0.5, or None"),
        ({"herders": 2}, "'flocking' has no configuration field 'herders'"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make(**config)


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="catch_range = -1; must be"):
        EvadeParams(catch_range=-1)
    env = make()
    with pytest.raises(ValueError, match="perception = 13 in a periodic box of 24; valid: up to half the box, 12"):
        env.reset(jax.random.key(0), env.default_params.replace(perception=13.0))
