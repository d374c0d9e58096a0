"""Baselines of chains that reach, swim and fold: better than none, and nothing breaks under them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.agents.evaluate import run_episode
from dmdenv.agents.policies import random_policy, zero_policy

pytestmark = pytest.mark.usefixtures("x64")

TASKS = ("reach", "swim", "fold")
SMALL = {
    "reach": {"beads": 5, "substeps": 12},
    "swim": {"beads": 6, "substeps": 50},
    "fold": {"beads": 8, "groups": 4, "substeps": 20},
}
EPISODES, STEPS = {"reach": 24, "swim": 8, "fold": 16}, {"reach": 128, "swim": 64, "fold": 64}


@functools.cache
def run(task: str):
    """Every policy in the same episodes, by one program: evaluations, and the largest component of any observation."""
    env, steps = dmdenv.make_env("bonded_chain", task=task, **SMALL[task]), STEPS[task]
    params = env.default_params.replace(max_steps=steps, **({"course": 0.5} if task == "swim" else {}))
    policies = {"zero": zero_policy(env), "random": random_policy(env), **env.baselines(params)}

    def one(index, key):
        def policy(key, observation):
            actions = [functools.partial(policy, key) for policy in policies.values()]
            return jax.lax.switch(index, actions, observation)

        return run_episode(
            env,
            policy,
            key,
            steps=steps,
            params=params,
            record=lambda state: jnp.max(jnp.abs(env.observe(state, params))),
        )

    keys = jax.random.split(jax.random.key(0), EPISODES[task])
    program = jax.jit(jax.vmap(one, (None, 0)))
    return {name: program(index, keys) for index, name in enumerate(policies)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "better", "worse"),
    [
        ("reach", "inverse", ("transpose", "constant", "zero", "random")),
        ("reach", "transpose", ("constant", "zero", "random")),
        ("swim", "wave", ("reciprocal", "constant", "zero", "random")),
        ("fold", "steered", ("constant", "zero", "random")),
    ],
)
def test_informed_baselines_are_clearly_better(task, better, worse):
    found = {name: np.asarray(evaluation.returns) for name, (evaluation, _) in run(task).items()}
    for name in worse:
        ahead = found[better] - found[name]  # in the same episodes
        assert ahead.mean() > 3 * ahead.std(ddof=1) / np.sqrt(len(ahead)), name


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_no_policy_leaves_the_spaces_or_breaks_anything(task):
    for found, largest in run(task).values():
        assert np.max(largest) <= 1
        assert not np.any(found.metrics["nonfinite"])
        assert not np.any(found.metrics["overflow"])
        assert np.all(found.lengths == STEPS[task])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_ten_thousand_random_steps_leave_nothing_broken(task):
    env = dmdenv.make_env("bonded_chain", task=task)

    @jax.jit
    @jax.vmap
    def stress(key):
        reset_key, key = jax.random.split(key)

        def step(carry, key):
            state, bad, largest = carry
            draw, key = jax.random.split(key)
            action = jnp.sign(jax.random.uniform(draw, env.action_shape, minval=-1, maxval=1))  # the hardest ones
            observation, state, _, terminated, _, info = env.step(key, state, action)
            bad = bad | info["nonfinite"] | info["overflow"] | terminated
            return (state, bad, jnp.maximum(largest, jnp.max(jnp.abs(observation)))), None

        start = env.reset(reset_key)[1], jnp.asarray(False), jnp.zeros(())
        (_, bad, largest), _ = jax.lax.scan(step, start, jax.random.split(key, 10_000))
        return bad, largest

    bad, largest = stress(jax.random.split(jax.random.key(0), 64))
    assert not np.any(bad)
    assert np.max(largest) <= 1


@pytest.mark.slow
def test_a_reciprocal_stroke_does_not_swim_and_a_wave_does():
    """To the noise: the centre diffuses with about D = 3 T / (4 n gamma)."""
    distance = {
        name: np.hypot(*(np.sum(found.metrics[along], axis=1) for along in ("progress", "drift")))
        for name, (found, _) in run("swim").items()
    }
    noise = np.sqrt(2 * 0.75 * 0.002 / 6 * 0.25 * STEPS["swim"])
    # at the end a stroke is somewhere within its period, and not where the straight chain began
    assert np.all(distance["reciprocal"] < 0.35 + 4 * noise)
    assert np.all(distance["wave"] > 1.0)
