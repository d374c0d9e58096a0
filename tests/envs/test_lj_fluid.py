"""The Lennard-Jones fluid: against the core's dynamics, exact relations of work, differences, and its own lists.

All in float64 and with one compiled program per task: `BATCH` episodes of `STEPS` steps. What the baselines achieve is
in `test_lj_fluid_baselines.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dmdenv
from dmdenv.envs import pool
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.lj_fluid.anneal import LJAnneal, measure
from dmdenv.envs.lj_fluid.drag import LJDrag
from dmdenv.envs.lj_fluid.fluid import interaction, langevin
from dmdenv.envs.lj_fluid.parameters import DragParams
from dmdenv.envs.lj_fluid.starts import box_shape, liquids
from dmdenv.integrators import Langevin
from dmdenv.lattice import triangular
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PerParticle, harmonic_trap, lennard_jones
from dmdenv.quantities import bond_order
from dmdenv.space import Periodic
from marks import by_default
from systems import central_difference

pytestmark = pytest.mark.usefixtures("x64")

TASKS = ("anneal", "drag")
STEPS, BATCH = 6, 64


@dataclasses.dataclass(frozen=True)
class Drag(LJDrag):
    """The task `drag` in the liquid of `anneal`, so that one pool is prepared for both."""

    @property
    def default_params(self):
        return DragParams(density=0.82, temperature=0.8)


def small(task, **config):
    env = {"anneal": LJAnneal, "drag": Drag}[task](**{"particles": 30, "substeps": 10, **config})
    env.prepare()
    return env


@functools.partial(jax.jit, static_argnums=0)
def play(env, keys, actions, params):
    """Episodes: observation and state at the start; observations, states, rewards, ends and `info` of the steps.

    One after the other, which compiles faster than a batch.
    """

    def episode(inputs):
        key, actions = inputs
        begin, go = jax.random.split(key)
        obs, state = env.reset(begin, params)
        return (obs, state), jax.lax.scan(step, state, (step_keys(go), actions))[1]

    def step(state, inputs):
        obs, state, reward, terminated, _, info = env.step_env(inputs[0], state, inputs[1], params)
        return state, (obs, state, reward, terminated, info)

    return jax.lax.map(episode, (keys, actions))


def step_keys(key):
    return jax.random.split(key, STEPS)


def keys(seed):
    return jax.random.split(jax.random.key(seed), BATCH)


def same_actions(*steps):
    """The same `STEPS` actions `[m]` in every episode of a batch."""
    return jnp.tile(jnp.asarray(steps, float), (BATCH, 1, 1))


def at(index, tree):
    return jax.tree.map(lambda leaf: leaf[index], tree)


# --- physics inside equals the core's ---------------------------------------------------------------------------------


def by_the_core(env, task, params, state, key):
    """The same system by the core alone: its Langevin dynamics from a state, at its beginning and `substeps` later."""
    space = Periodic(jnp.asarray(box_shape(env.particles)) * np.sqrt(env.particles / float(params.density)))
    fluid = lennard_jones(cutoff=float(params.cutoff), truncation="force_shifted")
    first = PerParticle(float(params.stiffness) * (jnp.arange(env.particles) == 0)) if task == "drag" else None
    method = Langevin(dt=float(params.dt), temperature=float(params.temperature), friction=float(params.friction))

    @jax.jit
    def follow(state, key):
        potential = fluid if first is None else fluid + harmonic_trap(stiffness=first, center=state.trap)
        begin = method.init(potential, space, state.positions, velocities=state.velocities, key=key)
        end, _ = jax.lax.scan(lambda s, _: (method.step(potential, s), None), begin, None, length=env.substeps)
        psi = bond_order(space, end.positions, AllPairs(), cutoff=1.6, onset=1.3)
        return begin, end, psi, fluid.energy(space, end.positions, AllPairs())

    return follow(state, key)


@pytest.mark.parametrize("task", by_default(TASKS, "anneal"))
def test_a_step_without_action_is_the_langevin_dynamics_of_the_core(task):
    env = small(task)
    params = env.default_params
    (_, start), (_, states, _, _, info) = play(env, keys(0), jnp.zeros((BATCH, STEPS, *env.action_shape)), params)
    start, state, info = at(0, start), at((0, 0), states), at((0, 0), info)
    key = step_keys(jax.random.split(keys(0)[0])[1])[0]
    begin, end, psi, energy = by_the_core(env, task, params, start, key)
    assert_allclose(start.motion.forces, begin.forces, atol=1e-11)
    for name in ("positions", "velocities", "forces"):
        assert_allclose(getattr(state.motion, name), getattr(end, name), atol=1e-11)
    assert_allclose(state.motion.bath_energy, end.bath_energy, atol=1e-11)
    assert not np.allclose(state.positions, start.positions)
    if task == "anneal":
        assert_allclose(info["energy"], energy / env.particles, rtol=1e-12)
        assert_allclose(info["temperature"], end.kinetic_energy / env.particles, rtol=1e-12)
        assert_allclose(info["order"], np.mean(np.abs(psi)), rtol=1e-12)
        assert_allclose(info["global_order"], np.abs(np.mean(psi)), rtol=1e-12)
    else:
        assert_allclose(info["work"], 0.0, atol=1e-14)


@pytest.mark.parametrize(("task", "sums"), [("anneal", 3), ("drag", 1)])
def test_a_step_sums_over_pairs_once_per_time_step_and_measurement(task, sums):
    """In its program there is one sum in the loop over the time steps; `anneal` measures energy and order as well."""
    env = small(task)
    state = jax.eval_shape(env.reset, jax.random.key(0))[1]
    program = jax.make_jaxpr(env.step_env)(jax.random.key(1), state, jnp.zeros(env.action_shape))
    assert str(program).count("= neighbor_sum[") == sums


def test_a_bath_that_is_cooled_follows_the_action_and_stays_in_its_range():
    env = small("anneal")
    params = env.default_params.replace(rate=2.0, max_steps=STEPS)
    cooled, heated = (at(0, play(env, keys(0), same_actions(*[[a]] * STEPS), params)[1]) for a in (-0.7, 1.0))
    expected = np.maximum(0.8 - 0.7 * 2.0 * 0.1 * np.arange(1, STEPS + 1), 0.01)
    assert expected[-1] == 0.01
    assert_allclose(cooled[4]["bath"], expected, rtol=1e-4)
    assert_allclose(cooled[0][:, 1], 2 * (expected - 0.01) / 1.19 - 1, atol=1e-5)
    assert float(heated[4]["bath"][-1]) == pytest.approx(1.2)


@pytest.mark.parametrize("task", TASKS)
def test_random_actions_leave_all_finite_and_in_space(task):
    env = small(task)
    actions = jax.random.uniform(jax.random.key(1), (BATCH, STEPS, *env.action_shape), minval=-1, maxval=1)
    (first, _), (obs, states, rewards, _, info) = play(env, keys(0), actions, env.default_params)
    assert np.max(np.abs(first)) <= 1 and np.max(np.abs(obs)) <= 1
    assert np.all(np.isfinite(rewards)) and np.all(np.isfinite(states.positions))
    assert not np.any(info["nonfinite"] | info["overflow"])


# --- where an episode begins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_reset_gives_liquids_moved_and_reflected_at_random(task):
    """Each is a member of the pool: the distances within it are those of one, up to the symmetries of the box."""
    env = small(task)
    params = env.default_params
    (_, states), _ = play(env, keys(0), jnp.zeros((BATCH, STEPS, *env.action_shape)), params)
    space = env.space(params)
    defaults = (float(getattr(params, name)) for name in ("density", "temperature", "cutoff"))
    members = pool.prepare(liquids, 30, *defaults) * np.asarray(space.box)

    @jax.jit
    @jax.vmap
    def distances(r):
        d = space.displacement(r[:, None], r[None])
        return jnp.sort(jnp.sum(d**2, axis=-1).ravel())

    found, known = np.asarray(distances(states.positions)), np.asarray(distances(jnp.asarray(members)))
    assert np.max(np.min(np.max(np.abs(found[:, None] - known[None]), axis=2), axis=1)) < 1e-8
    assert np.all((np.asarray(states.positions) >= 0) & (np.asarray(states.positions) < np.asarray(space.box)))
    assert np.std(states.positions[:, 0], axis=0).min() > 1.0
    assert_allclose(np.var(states.velocities), params.temperature, rtol=0.1)


@pytest.mark.parametrize(("n", "cells"), [(100, (10, 5)), (30, (5, 3)), (56, (7, 4))])
def test_the_crystal_fits_into_the_box(n, cells):
    space, _ = triangular(cells, density=1.0)
    assert_allclose(box_shape(n) * np.sqrt(n), space.box, rtol=1e-6)


def test_a_box_in_which_no_crystal_fits_is_a_square():
    assert_allclose(box_shape(97), [1, 1])


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_the_return_of_annealing_is_the_gain_and_the_final_order():
    env = small("anneal")
    params = env.default_params.replace(max_steps=STEPS, gain_weight=2.0, final_weight=3.0)
    (first, _), (_, _, rewards, terminated, info) = play(env, keys(0), same_actions(*[[-1.0]] * STEPS), params)
    gain = info["order"][:, -1] - first[:, 4]
    assert_allclose(np.sum(rewards, axis=1), 2 * gain + 3 * info["global_order"][:, -1], rtol=1e-10)
    assert_array_equal(terminated, [[False] * (STEPS - 1) + [True]] * BATCH)


def test_the_perfect_crystal_has_order_one():
    env = small("anneal")
    params = env.default_params.replace(density=0.9)
    space, positions = triangular((5, 3), density=0.9)
    bath = langevin(params, params.temperature)

    @jax.jit
    def measured():
        motion = bath.init(interaction(params), space, positions, velocities=0 * positions, key=jax.random.key(0))
        return measure(motion, params)

    found = measured()
    assert_allclose([found["order"], found["global_order"]], [1, 1], atol=1e-9)
    assert float(found["temperature"]) == 0


def test_work_is_what_changes_of_the_trap_do_to_a_particle_at_rest():
    """Without dynamics to speak of: `V(new) - V(old)`, step by step and at the end."""
    env = small("drag")
    params = env.default_params.replace(
        dt=1e-6, speed=2e4, temperature=0.001, max_steps=STEPS, distance=0.5, stiffness_range=3.0, friction=1e-3
    )
    actions = np.array([[0.4, 1.0], [-0.2, 0.3], [0.6, -1.0], [0.1, 0.0], [-0.5, 0.2], [0.3, -0.4]])
    (_, start), (_, states, rewards, terminated, info) = at(0, play(env, keys(0), same_actions(*actions), params))
    y = np.asarray(start.positions[0] - start.trap)

    def V(place, k):
        return 0.5 * k * ((y[0] - place) ** 2 + y[1] ** 2)

    ks = 10.0 * 3.0 ** actions[:, 1]
    places = np.cumsum(0.2 * actions[:, 0])
    energies = [V(p, k) for p, k in zip(places, ks, strict=True)]
    works = np.diff([V(0.0, 10.0), *energies])
    works[-1] += V(0.5, 10.0) - energies[-1]
    assert_allclose(-rewards, works, rtol=1e-3, atol=1e-3)
    assert_allclose(info["work"], -rewards)
    last = at(-1, states)
    assert_allclose(last.trap - start.trap, [0.5, 0.0], atol=1e-12)
    assert float(last.stiffness) == 10.0 and bool(terminated[-1]) and not np.any(terminated[:-1])


@pytest.mark.slow
def test_work_obeys_jarzynskis_relation():
    """`<exp(-W / T)> = 1`, whatever the protocol: it begins in equilibrium and ends in the same trap.

    The protocol is fast and changes the stiffness, far from equilibrium, but does little work.
    """
    env = small("drag")
    params = env.default_params.replace(max_steps=STEPS, distance=0.4)
    actions = same_actions([0.5, 0.3], [0.2, -0.3], [0.4, 0.2], [-0.2, 0.0], [0.3, -0.2], [-0.2, 0.2])
    batches = [play(env, keys(seed), actions, params)[1][2] for seed in range(32)]
    work = -np.sum(np.concatenate(batches), axis=1)
    weights = np.exp(-work / float(params.temperature))
    error = weights.std() / np.sqrt(len(work))
    assert abs(weights.mean() - 1) < 4 * error
    assert error < 0.05
    assert work.mean() > 0.2  # it says something: the mean of exp(-W / T) would be far from 1 at a work of the mean


# --- derivatives ------------------------------------------------------------------------------------------------------


def check_gradient(env, steps):
    """Of a return, with respect to actions, the initial motion and every parameter but the number of steps.

    The parameters count twice, at the reset and in the steps.
    """
    params = env.default_params.replace(max_steps=steps)
    names = [name for name in vars(params) if name != "max_steps"]
    actions = 0.9 * jax.random.uniform(jax.random.key(1), (steps, *env.action_shape), minval=-1, maxval=1)

    @jax.jit
    @jax.value_and_grad
    def total(point):
        changed = [params.replace(**dict(zip(names, values, strict=True))) for values in point["params"]]
        _, state = env.reset(jax.random.key(0), changed[0])
        motion = state.motion.replace(velocities=state.velocities + point["kick"])
        motion = motion.replace(positions=motion.positions + point["shift"], forces=motion.forces)
        state = dataclasses.replace(state, motion=motion)

        def step(state, inputs):
            key, action = inputs
            _, state, reward, *_ = env.step_env(key, state, action, changed[1])
            return state, reward

        inputs = jax.random.split(jax.random.key(2), steps), point["actions"]
        return jnp.sum(jax.lax.scan(step, state, inputs)[1])

    zero = jnp.zeros((env.particles, 2))
    values = jnp.stack([getattr(params, name) for name in names])
    point = {"actions": actions, "kick": zero, "shift": zero, "params": (values, values)}
    _, gradient = total(point)
    assert np.all(gradient["actions"]) and np.any(gradient["kick"]) and np.any(gradient["shift"])
    by_reset, by_step = (dict(zip(names, leaf, strict=True)) for leaf in gradient["params"])
    assert float(by_reset["density"]) != 0 and float(by_step["density"]) != 0
    assert np.count_nonzero(gradient["params"][1]) > len(names) / 2
    for seed in range(3):
        leaves, structure = jax.tree.flatten(point)
        draws = jax.random.split(jax.random.key(seed), len(leaves))
        direction = structure.unflatten([jax.random.normal(k, x.shape) for k, x in zip(draws, leaves, strict=True)])
        along = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert_allclose(along, central_difference(lambda x: total(x)[0], point, direction, 1e-7), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_of_a_return_agrees_with_central_differences(task):
    check_gradient(small(task), 6)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_of_a_32_step_return_agrees_with_central_differences(task):
    """In the smooth regime: 2 time steps per step, so that the return reaches over 0.64 units of time, about as long as
    it takes for neighbouring trajectories to part by a factor of e.
    """
    check_gradient(small(task, substeps=2), 32)


# --- lists and capacities ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_lists_and_all_pairs_give_the_same_steps(task):
    """Neighbour lists are rebuilt on the way; rounding grows a little."""
    params = small(task).default_params.replace(max_steps=100)
    actions = jax.random.uniform(jax.random.key(1), (BATCH, STEPS, *small(task).action_shape), minval=-1, maxval=1)
    ends = []
    for pairs in ("all", "list"):
        (_, start), (obs, states, rewards, _, info) = play(small(task, pairs=pairs), keys(0), actions, params)
        assert not np.any(info["overflow"])
        ends.append((states.positions, obs, rewards))
    lists = start.motion.pairs.positions, states.motion.pairs.positions[:, -1]
    assert np.any(np.asarray(lists[0]) != np.asarray(lists[1]))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-8), *ends)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["all", "list"])
def test_the_box_follows_the_density_and_the_particles_the_box(pairs):
    """Between two steps; in `drag` so does the trap, and the forces after the step are those in the new box."""
    env = small("drag", pairs=pairs)
    _, state = env.reset(jax.random.key(0))
    params = env.default_params.replace(density=0.8, dt=1e-6, speed=1e-6, temperature=1e-3)
    _, new, *_ = jax.jit(env.step_env)(jax.random.key(1), state, jnp.zeros(2), params)
    stretch = float(jnp.sqrt(env.default_params.density / 0.8))
    assert_allclose(new.box, stretch * state.box, rtol=1e-12)
    assert_allclose(new.motion.unwrapped, stretch * state.positions, atol=1e-3)
    assert_allclose(new.offset, stretch * state.offset, atol=1e-3)
    held = PerParticle(jnp.where(jnp.arange(env.particles) == 0, new.stiffness, 0.0))
    potential = interaction(params) + harmonic_trap(stiffness=held, center=new.trap)
    assert_allclose(new.motion.forces, potential.forces(new.motion.space, new.positions, AllPairs()), atol=1e-9)
    assert not bool(new.overflow)


@pytest.mark.slow
def test_a_list_that_is_too_small_is_flagged_and_grows():
    """The flag sticks to a state whose forces lacked pairs; a new episode in the larger environment is right."""
    env = small("anneal", pairs="list", slack=1.0)
    dense = env.default_params.replace(density=1.1, dt=1e-4)
    _, crowded = env.reset(jax.random.key(0), dense)
    assert bool(crowded.overflow)
    larger = env.enlarged()
    assert larger.slack == 2.0
    assert bool(larger.with_capacity(crowded).overflow)
    actions = jnp.ones((BATCH, STEPS, 1))
    _, by_list = play(larger, keys(0), actions, dense)
    _, by_all = play(small("anneal", pairs="all"), keys(0), actions, dense)
    assert not np.any(by_list[1].overflow)
    assert_allclose(by_list[1].positions, by_all[1].positions, atol=1e-10)


@pytest.mark.slow
def test_a_state_goes_on_with_a_larger_list():
    env = small("drag", pairs="list", slack=1.0)
    resets = (env.reset(key)[1] for key in keys(0))
    state = next(state for state in resets if not state.overflow)
    larger = env.enlarged()
    grown = larger.with_capacity(state)
    assert not bool(grown.overflow)
    assert grown.motion.pairs.indices.shape > state.motion.pairs.indices.shape
    action, key = jnp.ones(2), jax.random.key(1)
    before, after = (e.step_env(key, s, action)[1] for e, s in ((env, state), (larger, grown)))
    assert_allclose(after.positions, before.positions, atol=1e-12)


def test_growth_ends_where_it_would_change_nothing():
    with pytest.raises(CapacityExceeded, match="the cutoff is too long"):
        small("anneal").enlarged()


@pytest.mark.parametrize("pairs", by_default(["all", "list"], "all"))
def test_a_traced_cutoff_that_does_not_fit_sets_the_overflow_flag(pairs):
    env = small("anneal", pairs=pairs)
    reset = jax.jit(lambda params: env.reset(jax.random.key(0), params)[1].overflow)
    assert bool(reset(env.default_params.replace(cutoff=3.5)))
    assert not bool(reset(env.default_params))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"particles": 1}, r"particles = 1; must be an integer >= 2"),
        ({"substeps": 0}, r"substeps = 0; must be an integer >= 1"),
        ({"substeps": 2.0}, r"substeps = 2.0; must be an integer >= 1"),
        ({"pairs": "some"}, r"pairs = 'some'; must be one of 'auto', 'all', 'list'"),
        ({"slack": 0.5}, r"slack = 0.5; must be a finite number >= 1"),
        ({"particles": 12}, r"cutoff = 2.5 with 12 particles at density = 0.\d+; must be <= half the shorter side"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_bad_configurations_are_refused(task, config, message):
    with pytest.raises(ValueError, match=message):
        dmdenv.make_env("lj_fluid", task=task, **config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 2.0}, r"temperature = 2; must be >= temperature_min = 0.01 and <= temperature_max = 1.2"),
        ({"order_cutoff": 1.2}, r"order_cutoff = 1.2; must be > order_onset = 1.3 and <= cutoff = 2.5"),
        ({"cutoff": 4.0}, r"cutoff = 4 with 30 particles at density = 0.82; must be <= half"),
        ({"density": 1.19}, r"cutoff = 2.5 with 30 particles at density = 1.19; must be <= half"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_refused(changes, message):
    env = small("anneal")
    with pytest.raises(ValueError, match=message):
        env.reset(jax.random.key(0), env.default_params.replace(**changes))
