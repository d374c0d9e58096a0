"""The Lennard-Jones fluid: against the core's dynamics, exact relations of work, differences, and its own baselines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dmdenv
from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.lj_fluid.fluid import box_shape, liquids
from dmdenv.envs.pool import prepare
from dmdenv.integrators import Langevin
from dmdenv.lattice import triangular
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PerParticle, harmonic_trap, lennard_jones
from dmdenv.quantities import bond_order
from dmdenv.space import Periodic
from marks import by_default
from systems import central_difference

TASKS = ("anneal", "drag")


def small(task, **config):
    return dmdenv.make_env("lj_fluid", task=task, **{"particles": 30, "substeps": 2, **config})


@functools.cache
def rollout_of(env):
    """Compiled: the last state and all outputs of some steps from a state."""

    @jax.jit
    def run(state, actions, keys, params):
        def step(state, inputs):
            key, action = inputs
            obs, state, reward, terminated, _, info = env.step_env(key, state, action, params)
            return state, (obs, reward, terminated, info)

        return jax.lax.scan(step, state, (keys, actions))

    return run


# --- physics inside equals the core's ---------------------------------------------------------------------------------


def by_the_core(env, task, params):
    """The same system by the core alone: its space and potential, and its Langevin dynamics from a state with a key."""
    space = Periodic(jnp.asarray(box_shape(env.particles)) * np.sqrt(env.particles / float(params.density)))
    fluid = lennard_jones(cutoff=float(params.cutoff), truncation="force_shifted")
    first = PerParticle(float(params.stiffness) * (jnp.arange(env.particles) == 0)) if task == "drag" else None
    method = Langevin(dt=float(params.dt), temperature=float(params.temperature), friction=float(params.friction))

    @jax.jit
    def moved(state, key):
        potential = fluid if first is None else fluid + harmonic_trap(stiffness=first, center=state.trap)
        inside = method.init(potential, space, state.positions, velocities=state.velocities, key=key)
        return jax.lax.scan(lambda s, _: (method.step(potential, s), None), inside, None, length=env.substeps)[0]

    return space, fluid, moved


@pytest.mark.parametrize("task", by_default(TASKS, "drag"))
def test_a_step_without_action_is_the_langevin_dynamics_of_the_core(task, x64):
    env = small(task)
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    key = jax.random.key(1)
    _, moved, _, _, _, info = env.step_env(key, state, jnp.zeros(env.action_shape), params)
    space, fluid, follow = by_the_core(env, task, params)
    inside = follow(state, key)
    assert_allclose(moved.positions, inside.positions, atol=1e-12)
    assert_allclose(moved.velocities, inside.velocities, atol=1e-12)
    assert not np.allclose(moved.positions, state.positions)
    if task == "anneal":
        energy = fluid.energy(space, inside.positions, AllPairs()) / env.particles
        assert_allclose(info["energy"], energy, rtol=1e-12)
        kinetic = float(inside.kinetic_energy) / env.particles
        assert_allclose(info["temperature"], kinetic, rtol=1e-12)
        psi = bond_order(space, inside.positions, AllPairs(), cutoff=1.6, onset=1.3)
        assert_allclose(info["order"], np.mean(np.abs(psi)), rtol=1e-12)
        assert_allclose(info["global_order"], np.abs(np.mean(psi)), rtol=1e-12)
    else:
        assert_allclose(info["work"], 0.0, atol=1e-14)


@pytest.mark.parametrize("task", [pytest.param("anneal", marks=pytest.mark.slow), "drag"])
def test_motion_has_the_temperature_of_the_bath(task):
    """Over 64 liquids and 50 steps; in the harmonic trap also the particle's distance from its centre."""
    env = small(task, substeps=10)
    params = env.default_params.replace(max_steps=1000)
    keys = jax.random.split(jax.random.key(0), 64)

    @jax.jit
    @jax.vmap
    def episode(key):
        _, state = env.reset(key, params)

        def step(state, key):
            _, state, *_ = env.step_env(key, state, jnp.zeros(env.action_shape), params)
            away = state.positions[0] - (state.trap if task == "drag" else 0.0)
            return state, (jnp.mean(state.velocities**2), jnp.mean(away**2))

        return jax.lax.scan(step, state, jax.random.split(key, 50))[1]

    heat, spread = (np.asarray(x).mean(axis=1) for x in episode(keys))
    T = float(params.temperature)
    assert abs(heat.mean() / T - 1) < 4 * heat.std() / 8 / T + 0.01  # the time step cools by about 0.5 %
    if task == "drag":
        assert abs(spread.mean() - T / 10.0) < 4 * spread.std() / 8


def test_a_bath_that_is_cooled_follows_the_action_and_stays_in_its_range():
    env = small("anneal")
    params = env.default_params.replace(rate=10.0, max_steps=6)
    _, state = env.reset(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(1), 6)
    _, (obs, _, _, info) = rollout_of(env)(state, jnp.full((6, 1), -0.7), keys, params)
    expected = np.maximum(0.8 - 0.7 * 10.0 * 0.02 * np.arange(1, 7), 0.01)
    assert expected[-1] == 0.01
    assert_allclose(info["bath"], expected, rtol=1e-4)
    assert_allclose(obs[:, 1], 2 * (expected - 0.01) / 1.19 - 1, atol=1e-5)
    _, (_, _, _, info) = rollout_of(env)(state, jnp.ones((6, 1)), keys, params)
    assert float(info["bath"][-1]) == pytest.approx(1.2)


@pytest.mark.parametrize("task", ["anneal", pytest.param("drag", marks=pytest.mark.slow)])
def test_reset_gives_liquids_moved_and_reflected_at_random(task):
    """Each is a member of the pool: the distances within it are those of one, up to the symmetries of the box."""
    env = small(task)
    params = env.default_params
    states = jax.jit(jax.vmap(lambda key: env.reset(key, params)[1]))(jax.random.split(jax.random.key(0), 8))
    space = env.space(params)
    prepared = prepare(liquids, 30, *env._prepared) * np.asarray(space.box)

    def distances(r):
        d = np.asarray(space.displacement(jnp.asarray(r)[:, None], jnp.asarray(r)[None]))
        return np.sort(np.linalg.norm(d, axis=-1).ravel())

    known = [distances(r) for r in prepared]
    for r in states.positions:
        assert min(np.max(np.abs(distances(r) - k)) for k in known) < 1e-4
        assert np.all((r >= 0) & (np.asarray(r) < np.asarray(space.box)))
    assert np.std(np.asarray(states.positions)[:, 0], axis=0).min() > 1.0
    assert_allclose(np.var(states.velocities), params.temperature, rtol=0.2)


@pytest.mark.slow
def test_liquids_are_in_equilibrium_at_the_reset():
    """Without action their mean energy stays where it is, but for the noise of a pool of 32."""
    env = dmdenv.make_env("lj_fluid")
    found = jax.jit(lambda key: evaluate(env, zero_policy(env), key, episodes=64, steps=64))(jax.random.key(0))
    energy = np.asarray(found.metrics["energy"])
    first, last = energy[:, 0], energy[:, 32:].mean(axis=1)
    assert abs(first.mean() - last.mean()) < 4 * first.std() / np.sqrt(32)
    assert first.std() < 0.15  # the pool's members differ by what fluctuates, not by how they were made


@pytest.mark.parametrize(("n", "cells"), [(100, (10, 5)), (30, (5, 3)), (56, (7, 4))])
def test_the_crystal_fits_into_the_box(n, cells):
    space, _ = triangular(cells, density=1.0)
    assert_allclose(box_shape(n) * np.sqrt(n), space.box, rtol=1e-6)


def test_a_box_in_which_no_crystal_fits_is_a_square():
    assert_allclose(box_shape(97), [1, 1])


@pytest.mark.parametrize("task", ["anneal", pytest.param("drag", marks=pytest.mark.slow)])
def test_lists_and_all_pairs_give_the_same_steps(task):
    """Neighbour lists are rebuilt on the way; rounding grows a little."""
    params = small(task).default_params.replace(max_steps=100)
    ends = []
    for pairs in ("all", "list"):
        env = small(task, substeps=10, pairs=pairs)
        _, start = env.reset(jax.random.key(0), params)
        actions = jax.random.uniform(jax.random.key(1), (12, *env.action_shape), minval=-1, maxval=1)
        keys = jax.random.split(jax.random.key(2), 12)
        last, (obs, reward, _, info) = rollout_of(env)(start, actions, keys, params)
        assert not np.any(info["overflow"])
        ends.append((last.positions, obs, reward))
    assert np.any(np.asarray(last.pairs.positions) != np.asarray(start.pairs.positions))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-3), *ends)


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_the_return_of_annealing_is_the_gain_and_the_final_order():
    env = small("anneal")
    params = env.default_params.replace(max_steps=6, gain_weight=2.0, final_weight=3.0)
    obs, state = env.reset(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(1), 6)
    _, (_, reward, terminated, info) = rollout_of(env)(state, jnp.full((6, 1), -1.0), keys, params)
    gain = float(info["order"][-1]) - float(obs[4])
    assert_allclose(np.sum(reward), 2 * gain + 3 * info["global_order"][-1], rtol=1e-4)
    np.testing.assert_array_equal(terminated, [False] * 5 + [True])


def test_the_perfect_crystal_has_order_one(x64):
    env = small("anneal")
    params = env.default_params.replace(density=0.9)
    _, state = env.reset(jax.random.key(0), params)
    _, positions = triangular((5, 3), density=0.9)
    obs = env.observe(state.replace(positions=positions), params)
    assert_allclose(obs[4:], [1, 1], atol=1e-9)


def test_work_is_what_changes_of_the_trap_do_to_a_particle_at_rest(x64):
    """Without dynamics to speak of: `V(new) - V(old)`, step by step and at the end."""
    env = small("drag")
    params = env.default_params.replace(
        dt=1e-6, speed=1e5, temperature=0.001, max_steps=3, distance=0.5, stiffness_range=3.0, friction=1e-3
    )
    _, state = env.reset(jax.random.key(0), params)
    actions = jnp.array([[0.4, 1.0], [-0.2, 0.3], [0.6, -1.0]])
    last, (_, reward, terminated, info) = rollout_of(env)(
        state, actions, jax.random.split(jax.random.key(1), 3), params
    )
    y = np.asarray(state.positions[0] - state.trap)

    def V(place, k):
        return 0.5 * k * ((y[0] - place) ** 2 + y[1] ** 2)

    ks = 10.0 * 3.0 ** np.asarray(actions[:, 1])
    places = np.cumsum(0.2 * np.asarray(actions[:, 0]))
    energies = [V(p, k) for p, k in zip(places, ks, strict=True)]
    works = np.diff([V(0.0, 10.0), *energies])
    works[-1] += V(0.5, 10.0) - energies[-1]
    assert_allclose(-reward, works, rtol=1e-3, atol=1e-3)
    assert_allclose(info["work"], -reward)
    assert_allclose(last.trap - state.trap, [0.5, 0.0], atol=1e-12)
    assert float(last.stiffness) == 10.0 and bool(terminated[-1]) and not np.any(terminated[:-1])


def test_work_obeys_jarzynskis_relation():
    """`<exp(-W / T)> = 1`, whatever the protocol: it begins in equilibrium and ends in the same trap.

    The protocol is fast and changes the stiffness, far from equilibrium, but does little work.
    """
    env = small("drag", substeps=10)
    params = env.default_params.replace(max_steps=4, distance=0.4)
    actions = jnp.array([[0.5, 0.5], [0.2, -0.5], [0.5, 0.3], [-0.3, 0.0]])

    @jax.jit
    @jax.vmap
    def episode(key):
        reset_key, key = jax.random.split(key)
        _, state = env.reset(reset_key, params)
        return -jnp.sum(rollout_of(env)(state, actions, jax.random.split(key, 4), params)[1][1])

    work = np.asarray(episode(jax.random.split(jax.random.key(0), 8192)), float)
    weights = np.exp(-work / 0.7)
    error = weights.std() / np.sqrt(len(work))
    assert abs(weights.mean() - 1) < 4 * error
    assert error < 0.05
    assert work.mean() > 0.2  # it says something: the mean of exp(-W / T) would be far from 1 at a work of the mean


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", by_default(TASKS, "drag"))
def test_the_gradient_of_a_32_step_return_agrees_with_central_differences(task, x64):
    """With respect to actions, the initial state and every parameter but the number of steps.

    In the smooth regime: 2 time steps in a step, so that the return reaches over 0.64 units of time, about as long as
    it takes for neighbouring trajectories to part by a factor of e.
    """
    env = small(task)
    params = env.default_params.replace(max_steps=32)
    _, state = env.reset(jax.random.key(0), params)
    actions = 0.9 * jax.random.uniform(jax.random.key(1), (32, *env.action_shape), minval=-1, maxval=1)
    keys = jax.random.split(jax.random.key(2), 32)
    names = [name for name in vars(params) if name != "max_steps"]
    physics = ("positions", "velocities", "temperature", "trap", "travelled", "stiffness")
    parts = [name for name in physics if hasattr(state, name)]

    @jax.jit
    def total(point):
        actions, begin, values = point
        p = params.replace(**dict(zip(names, values, strict=True)))
        run = rollout_of(env)(state.replace(**begin), actions, keys, p)
        return jnp.sum(run[1][1])

    point = (
        actions,
        {name: getattr(state, name) for name in parts},
        jnp.stack([getattr(params, name) for name in names]),
    )
    gradient = jax.jit(jax.grad(total))(point)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    for seed in range(3):
        leaves, structure = jax.tree.flatten(point)
        draws = jax.random.split(jax.random.key(seed), len(leaves))
        direction = structure.unflatten([jax.random.normal(k, x.shape) for k, x in zip(draws, leaves, strict=True)])
        along = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert_allclose(along, central_difference(total, point, direction, 1e-7), rtol=1e-5)


# --- baselines --------------------------------------------------------------------------------------------------------


@functools.cache
def cooled():
    """Compiled: final order of linear cooling from T0 to nothing at a share of the time; T0 = 0 is a quench."""
    env = dmdenv.make_env("lj_fluid")
    params = env.default_params

    @jax.jit
    def score(start, end, key):
        policy = env.following(lambda s: start * (1.0 - s / end), params)
        found = evaluate(env, policy, key, episodes=64, steps=128)
        return found.returns, found.metrics["order"][:, -1], found.metrics["global_order"][:, -1]

    return score


@pytest.mark.slow
def test_better_cooling_gives_more_order():
    """A liquid that is quenched, one that is annealed, one that stays hot: the same 64 of each."""
    key = jax.random.key(0)
    quenched, annealed, hot = (
        [np.asarray(x) for x in cooled()(*how, key)] for how in ((0.0, 1.0), (0.8, 0.5), (0.8, 1e6))
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


@pytest.mark.slow
def test_every_informed_cooling_beats_a_quench_and_chance():
    found = scores(
        dmdenv.make_env("lj_fluid"),
        ("quench", "constant", "linear", "exponential", "zero", "random"),
        256,
        jax.random.key(0),
    )
    for name in ("linear", "exponential"):
        assert mean_difference(found[name], found["quench"]) > 3
        assert mean_difference(found[name], found["constant"]) > 3
    assert max(found["zero"].mean(), found["random"].mean()) < found["quench"].mean() - 0.3


def test_informed_protocols_do_much_less_work_than_chance_and_doing_nothing():
    env = small("drag", substeps=20)
    params = env.default_params
    speed = params.distance / (32 * env.substeps * params.dt) / params.speed
    ramp = jnp.tile(jnp.stack([speed, jnp.zeros(())]), (24, 32, 1))

    @jax.jit
    @jax.vmap
    def work(key, actions):
        reset_key, key = jax.random.split(key)
        _, state = env.reset(reset_key, params)
        return -jnp.sum(rollout_of(env)(state, actions, jax.random.split(key, 32), params)[1][1])

    chance = jax.random.uniform(jax.random.key(1), ramp.shape, minval=-1, maxval=1)
    keys = jax.random.split(jax.random.key(0), 24)
    linear, zero, random = (np.mean(work(keys, actions)) for actions in (ramp, jnp.zeros_like(ramp), chance))
    assert linear < 10
    assert zero > linear + 8
    assert random > linear + 8


@pytest.mark.slow
def test_jumps_do_less_work_than_a_uniform_ramp_and_feedback_does_still_less():
    env = dmdenv.make_env("lj_fluid", task="drag")
    found = scores(env, ("linear", "jumps", "feedback"), 1024, jax.random.key(0))
    assert mean_difference(found["jumps"], found["linear"]) > 3
    assert mean_difference(found["feedback"], found["jumps"]) > 3


# --- endurance, capacities, bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", by_default(TASKS, "anneal"))
@pytest.mark.parametrize(("substeps", "steps"), by_default([(2, 300), (20, 10_000)], (2, 300)))
def test_random_actions_leave_all_finite_and_in_space(task, substeps, steps):
    env = small(task, substeps=substeps)
    params = env.default_params

    @jax.jit
    def run(key):
        def step(states, key):
            act, go = jax.random.split(key)
            actions = jax.random.uniform(act, (64, *env.action_shape), minval=-1, maxval=1)
            obs, states, reward, _, _, info = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(go, 64), states, actions, params
            )
            seen = jnp.stack([jnp.max(jnp.abs(obs)), jnp.max(jnp.abs(reward))])
            return states, (seen, jnp.any(info["nonfinite"] | info["overflow"]))

        states = jax.vmap(env.reset, (0, None))(jax.random.split(key, 64), params)[1]
        return jax.lax.scan(step, states, jax.random.split(key, steps))[1]

    seen, wrong = run(jax.random.key(0))
    assert not np.any(wrong)
    assert np.all(np.isfinite(seen)) and np.max(seen[:, 0]) <= 1.0


def test_a_list_that_is_too_small_is_flagged_and_grows():
    env = small("anneal", pairs="list", slack=1.0)
    dense = env.default_params.replace(density=1.1, dt=1e-4)
    _, state = env.reset(jax.random.key(0), dense)
    assert bool(state.overflow)
    larger = env.enlarged()
    assert larger.slack == 2.0
    adopted = larger.with_capacity(state)
    assert not bool(adopted.overflow)
    complete = small("anneal", pairs="all")
    everybody = state.replace(pairs=AllPairs(), overflow=jnp.asarray(False))
    action, key = jnp.ones(1), jax.random.key(1)
    by_list = larger.step_env(key, adopted, action, dense)[1]
    assert_allclose(by_list.positions, complete.step_env(key, everybody, action, dense)[1].positions, atol=1e-5)


def test_growth_ends_where_it_would_change_nothing():
    with pytest.raises(CapacityExceeded, match="the cutoff is too long"):
        small("anneal").enlarged()


@pytest.mark.parametrize("pairs", ["all", "list"])
def test_a_traced_cutoff_that_does_not_fit_sets_the_overflow_flag(pairs):
    env = small("anneal", pairs=pairs)
    reset = jax.jit(lambda params: env.reset(jax.random.key(0), params)[1].overflow)
    assert bool(reset(env.default_params.replace(cutoff=3.5)))
    assert not bool(reset(env.default_params))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"particles": 1}, r"particles = 1; valid: a whole number from 2"),
        ({"substeps": 0}, r"substeps = 0; valid: a whole number from 1"),
        ({"substeps": 2.0}, r"substeps = 2.0; valid: a whole number from 1"),
        ({"pairs": "some"}, r"pairs = 'some'; valid: 'auto', 'all', 'list'"),
        ({"slack": 0.5}, r"slack = 0.5; valid: a number from 1"),
        ({"particles": 12}, r"cutoff = 2.5 with 12 particles at density = 0.\d+; valid: up to half the shorter side"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_bad_configurations_are_refused(task, config, message):
    with pytest.raises(ValueError, match=message):
        dmdenv.make_env("lj_fluid", task=task, **config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 2.0}, r"temperature = 2; valid: from temperature_min = 0.01 to temperature_max = 1.2"),
        ({"order_cutoff": 1.2}, r"order_cutoff = 1.2; valid: above order_onset = 1.3, up to cutoff = 2.5"),
        ({"cutoff": 4.0}, r"cutoff = 4 with 30 particles at density = 0.82; valid: up to half"),
        ({"density": 1.19}, r"cutoff = 2.5 with 30 particles at density = 1.19; valid: up to half"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_refused(changes, message):
    env = small("anneal")
    with pytest.raises(ValueError, match=message):
        env.reset(jax.random.key(0), env.default_params.replace(**changes))
