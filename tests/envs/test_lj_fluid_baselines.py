"""The Lennard-Jones fluid over many episodes: equilibrium, endurance, and what its baselines achieve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.envs.lj_fluid.baselines import follow_schedule

pytestmark = pytest.mark.slow

TASKS = ("anneal", "drag")


# --- equilibrium and endurance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_motion_has_the_temperature_of_the_bath(task):
    """Over 64 liquids and 50 steps; in the harmonic trap also the particle's distance from its centre."""
    env = dmdenv.make_env("lj_fluid", task=task, particles=30, substeps=10)
    params = env.default_params.replace(max_steps=1000)
    keys = jax.random.split(jax.random.key(0), 64)

    @jax.jit
    @jax.vmap
    def episode(key):
        _, state = env.reset(key, params)

        def step(state, key):
            _, state, *_ = env.step_env(key, state, jnp.zeros(env.action_shape), params)
            offset = state.offset if task == "drag" else state.positions[0]
            return state, (jnp.mean(state.velocities**2), jnp.mean(offset**2))

        return jax.lax.scan(step, state, jax.random.split(key, 50))[1]

    heat, spread = (np.asarray(x).mean(axis=1) for x in episode(keys))
    T = float(params.temperature)
    assert abs(heat.mean() / T - 1) < 4 * heat.std() / 8 / T + 0.01  # the time step cools by about 0.5 %
    if task == "drag":
        assert abs(spread.mean() - T / 10.0) < 4 * spread.std() / 8


def test_liquids_are_in_equilibrium_at_the_reset():
    """Without action their mean energy stays where it is, but for the noise of a pool of 32."""
    env = dmdenv.make_env("lj_fluid")
    found = jax.jit(lambda key: evaluate(env, zero_policy(env), key, episodes=64, steps=64))(jax.random.key(0))
    energy = np.asarray(found.metrics["energy"])
    first, last = energy[:, 0], energy[:, 32:].mean(axis=1)
    assert abs(first.mean() - last.mean()) < 4 * first.std() / np.sqrt(32)
    assert first.std() < 0.15  # the pool's members differ by what fluctuates, not by how they were made


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("substeps", "steps"), [(2, 300), (20, 10_000)])
def test_random_actions_leave_all_finite_and_in_space(task, substeps, steps):
    """Over many episodes, with resets."""
    env = dmdenv.make_env("lj_fluid", task=task, particles=30, substeps=substeps)
    params = env.default_params

    @jax.jit
    def run(key):
        def step(states, key):
            act, go = jax.random.split(key)
            actions = jax.random.uniform(act, (64, *env.action_shape), minval=-1, maxval=1)
            obs, states, reward, _, _, info = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(go, 64), states, actions, params
            )
            largest = jnp.stack([jnp.max(jnp.abs(obs)), jnp.max(jnp.abs(reward))])
            return states, (largest, jnp.any(info["nonfinite"] | info["overflow"]))

        states = jax.vmap(env.reset, (0, None))(jax.random.split(key, 64), params)[1]
        return jax.lax.scan(step, states, jax.random.split(key, steps))[1]

    largest, wrong = run(jax.random.key(0))
    assert not np.any(wrong)
    assert np.all(np.isfinite(largest)) and np.max(largest[:, 0]) <= 1.0


# --- scores -----------------------------------------------------------------------------------------------------------


@functools.cache
def cool():
    """Compiled: final order of linear cooling from T0 to nothing at a share of the time; T0 = 0 is a quench."""
    env = dmdenv.make_env("lj_fluid")

    @jax.jit
    def score(start, end, key):
        policy = follow_schedule(lambda s: start * (1.0 - s / end), env.default_params, env.substeps)
        found = evaluate(env, policy, key, episodes=64, steps=128)
        return found.returns, found.metrics["order"][:, -1], found.metrics["global_order"][:, -1]

    return score


def test_better_cooling_gives_more_order():
    """A liquid that is quenched, one that is annealed, one that stays hot: the same 64 of each."""
    key = jax.random.key(0)
    quenched, annealed, hot = (
        [np.asarray(x) for x in cool()(*how, key)] for how in ((0.0, 1.0), (0.8, 0.5), (0.8, 1e6))
    )
    for measure in range(3):
        gain = annealed[measure] - quenched[measure]
        assert gain.mean() > 0
        assert np.mean(hot[measure]) < np.mean(quenched[measure]) - 0.2
    assert np.mean(annealed[2]) > 0.9


def scores(env, names, episodes, key):
    steps = int(env.default_params.max_steps)
    policies = {**env.baselines(), "zero": zero_policy(env), "random": random_policy(env)}

    @functools.partial(jax.jit, static_argnums=0)
    def run(name, key):
        return evaluate(env, policies[name], key, episodes=episodes, steps=steps).returns

    return {name: np.asarray(run(name, key)) for name in names}


def mean_difference(a, b):
    """The mean of a - b in units of its standard error."""
    return float(np.mean(a - b) / (np.std(a - b) / np.sqrt(len(a))))


def test_every_informed_cooling_beats_a_quench_and_chance():
    env = dmdenv.make_env("lj_fluid")
    names = ("quench", "constant", "linear", "exponential", "zero", "random")
    found = scores(env, names, 256, jax.random.key(0))
    for name in ("linear", "exponential"):
        assert mean_difference(found[name], found["quench"]) > 3
        assert mean_difference(found[name], found["constant"]) > 3
    assert max(found["zero"].mean(), found["random"].mean()) < found["quench"].mean() - 0.3


def test_informed_protocols_do_much_less_work_than_the_zero_and_random_policies():
    env = dmdenv.make_env("lj_fluid", task="drag", particles=30)
    found = scores(env, ("linear", "zero", "random"), 24, jax.random.key(0))
    linear, zero, random = (-found[name].mean() for name in ("linear", "zero", "random"))
    assert linear < 10
    assert zero > linear + 8
    assert random > linear + 8


def test_jumps_do_less_work_than_a_uniform_ramp_and_feedback_does_still_less():
    env = dmdenv.make_env("lj_fluid", task="drag")
    found = scores(env, ("linear", "jumps", "feedback"), 1024, jax.random.key(0))
    assert mean_difference(found["jumps"], found["linear"]) > 3
    assert mean_difference(found["feedback"], found["jumps"]) > 3
