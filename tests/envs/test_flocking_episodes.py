"""Flocking, whole episodes of all tasks: gradients, lists, the baselines' scores, and ten thousand random steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flock_checks import (
    assert_gradient_agrees,
    assert_random_steps_are_sound,
    evaluations,
    make,
    recorded,
    return_of_32_steps,
)

pytestmark = pytest.mark.slow

T = np.arange(32.0)
BOTH = pytest.mark.parametrize("pairs", ["all", "list"])


# --- gradients --------------------------------------------------------------------------------------------------------
# for actions, the initial state and every parameter; the reset and observations included


def zeros(state, *names):
    """Changes of fields of a state, by which to differentiate."""
    return {name: jax.tree.map(jnp.zeros_like, getattr(state, name)) for name in names}


@BOTH
def test_the_gradient_of_align_agrees_with_central_differences(pairs, x64):
    env = make("align", boids=16, pairs=pairs, predators=1)
    params = env.default_params.replace(alignment=0.3)
    _, state = env.reset(jax.random.key(5), params)
    actions = 0.9 * jnp.sin(T[:, None] + 2.0 * np.arange(16.0)[None, :])
    point = {"actions": actions, **zeros(state, "positions", "headings", "predators")}
    assert_gradient_agrees(return_of_32_steps(env, jax.random.key(5)), point, params)


@BOTH
def test_the_gradient_of_evade_agrees_with_central_differences(pairs, x64):
    """Smooth as long as no boid is caught or comes into view just there; one is lost from the start."""
    env = make("evade", boids=8, nearest=3, obstacles=2, pairs=pairs)
    rules = {"alignment": 0.3, "cohesion": 0.2, "flight": 1.0, "collision_range": 1.0}
    params = env.default_params.replace(**rules, start_distance=6.0, start_radius=1.8)  # all rules at work
    _, state = env.reset(jax.random.key(2), params)
    actions = 0.5 * jnp.sin(T[:, None] + 2.0 * np.arange(8.0)[None, :])
    point = {"actions": actions, **zeros(state, "positions", "headings", "predators")}
    assert_gradient_agrees(return_of_32_steps(env, jax.random.key(2), alive=jnp.arange(8) != 3), point, params)


@BOTH
def test_the_gradient_of_shepherd_agrees_with_central_differences(pairs, x64):
    """For actions shorter than 1; smooth as long as no boid comes into or out of the cohesion range just there."""
    env = make("shepherd", boids=8, herders=2, nearest=3, pairs=pairs)
    params = env.default_params.replace(alignment=0.3, start_distance=9.0, start_radius=2.0)
    _, state = env.reset(jax.random.key(3), params)
    actions = 0.6 * jnp.stack([jnp.cos(T / 5), jnp.sin(T / 7)], -1)
    actions = jnp.stack([actions, -0.7 * actions[:, ::-1]], axis=1)
    point = {"actions": actions, **zeros(state, "positions", "headings", "herders")}
    assert_gradient_agrees(return_of_32_steps(env, jax.random.key(3)), point, params)


# --- lists ------------------------------------------------------------------------------------------------------------


def assert_lists_give_the_same_episode(task, key, actions, view=lambda state: state.positions, config=None, **changes):
    """Returns what was viewed."""
    found = []
    for pairs in ("all", "list"):
        env = make(task, boids=48, pairs=pairs, **(config or {}))
        found.append(recorded(env, env.default_params.replace(**changes), actions, key, view))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert not np.any(found[1][2])
    return found[1][3]


@pytest.mark.parametrize("space", ["periodic", "free"])
def test_lists_and_all_pairs_give_the_same_episode_of_align(space, x64):
    actions = jnp.sin(np.arange(60.0)[:, None] + np.arange(48.0)[None, :])
    config = {"predators": 1, "space": space}
    assert_lists_give_the_same_episode("align", jax.random.key(0), actions, config=config)


def test_lists_and_all_pairs_give_the_same_episode_of_evade(x64):
    """With losses on the way."""
    actions = 0.5 * jnp.sin(np.arange(50.0)[:, None] + np.arange(48.0)[None, :])
    _, alive = assert_lists_give_the_same_episode(
        "evade",
        jax.random.key(4),
        actions,
        lambda state: (state.positions, state.alive),
        start_distance=5.0,
        alignment=0.5,
    )
    assert 0 < np.sum(~np.asarray(alive[-1])) < 48


def test_lists_and_all_pairs_give_the_same_episode_of_shepherd(x64):
    t = np.arange(40.0)
    actions = 0.9 * jnp.stack([jnp.cos(t / 9), jnp.sin(t / 9)], -1)
    actions = jnp.broadcast_to(actions[:, None], (40, 2, 2))
    assert_lists_give_the_same_episode("shepherd", jax.random.key(0), actions, start_distance=8.0)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_reynolds_rules_save_and_keep_together_more_boids_than_zero_and_random_actions():
    found = evaluations(make("evade"), 128)
    mean = {name: float(jnp.mean(evaluation.returns)) for name, evaluation in found.items()}
    left = {name: float(jnp.mean(evaluation.final_means(8)["survivors"])) for name, evaluation in found.items()}
    assert max(mean["zero"], mean["random"]) + 40 < mean["reynolds"]
    assert left["reynolds"] > 0.85 > 0.8 > max(left["zero"], left["random"])


def test_stroembom_brings_the_flock_home_and_zero_and_random_actions_do_not():
    found = evaluations(make("shepherd"), 64)
    mean = {name: float(jnp.mean(evaluation.returns)) for name, evaluation in found.items()}
    assert mean["stroembom"] > 150 and mean["zero"] < 5 and mean["random"] < 5
    home = np.asarray(found["stroembom"].final_means(8)["in_goal"])
    assert np.mean(home > 0.9) >= 0.75
    assert float(jnp.max(found["zero"].final_means(8)["in_goal"])) == 0.0


@pytest.mark.parametrize(("config", "least"), [({"herders": 3}, 200), ({"boids": 64, "herders": 4}, 150)])
def test_more_herders_drive_more_boids(config, least):
    returns = evaluations(make("shepherd", **config), 32)["stroembom"].returns
    assert float(jnp.mean(returns)) > least


# --- soundness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["shepherd", "evade"])
def test_ten_thousand_random_steps_of_64_instances_are_sound(task):
    assert_random_steps_are_sound(make(task, boids=40), instances=64, steps=10_000)
