"""Chains that reach, swim and fold: against the core, closed forms and differences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dmdenv
from dmdenv.envs import pool
from dmdenv.envs.bonded_chain import chain
from dmdenv.envs.bonded_chain.fold import ChainFold, ChainFoldState
from dmdenv.envs.bonded_chain.parameters import ChainFoldParams, ChainReachParams, ChainSwimParams
from dmdenv.envs.bonded_chain.reach import ChainReach, ChainReachState, draw_path
from dmdenv.envs.bonded_chain.shapes import target_shapes
from dmdenv.envs.bonded_chain.starts import equilibrate, flexible_chains
from dmdenv.envs.bonded_chain.swim import TRACK, ChainSwim, ChainSwimState
from dmdenv.integrators import Filament, Langevin
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import (
    PerParticle,
    cosine_angles,
    cosine_signed_angles,
    external_potential,
    fene_bonds,
    harmonic_bonds,
    harmonic_trap,
    soft_sphere,
    wca,
)
from dmdenv.quantities import superpose
from dmdenv.space import Free
from marks import by_default
from systems import central_difference

pytestmark = pytest.mark.usefixtures("x64")

TASKS = ("reach", "swim", "fold")
# their pools need not be prepared: states are made by hand
ENVS = {
    "reach": ChainReach(beads=5, substeps=12),
    "swim": ChainSwim(beads=6, substeps=50),
    "fold": ChainFold(beads=8, groups=4, substeps=20),
}
STEPS = {task: jax.jit(env.step_env) for task, env in ENVS.items()}


def begin(task, p):
    """A chain that is bent, out of equilibrium and in motion, with its forces."""
    n = ENVS[task].beads
    draws = [jax.random.normal(key, (n, 2)) for key in jax.random.split(jax.random.key(0), 3)]
    rest_angles = 0.3 * draws[0][2:, 0]
    positions = chain.place_beads(rest_angles + 0.1) + 0.03 * draws[1] - jnp.array([[1.0, 0.0]])
    velocities = jnp.zeros((n, 2)) if task == "swim" else jnp.sqrt(p.temperature) * draws[2]
    potential = {
        "reach": lambda: chain.anchored_chain(p, rest_angles),
        "swim": lambda: chain.jointed_chain(p, rest_angles),
        "fold": lambda: chain.flexible_chain(p, n),
    }[task]()
    method = Langevin(dt=1.0, temperature=1.0, friction=1.0)
    motion = method.init(potential, Free(), positions, velocities=velocities, key=jax.random.key(0))
    if task == "reach":
        return ChainReachState(motion=motion, rest_angles=rest_angles, path=draw_path(jax.random.key(0)))
    if task == "swim":
        return ChainSwimState(motion=motion, rest_angles=rest_angles, track=jnp.zeros((TRACK, 2)))
    (target,) = jnp.asarray(target_shapes(n, "hairpin"))
    shape = superpose(target, positions)
    return ChainFoldState(motion=motion, field=jnp.zeros((4, 2)), target=target, superposed=shape)


@functools.cache
def started(task):
    """A state after one step, with an action behind it."""
    env = ENVS[task]
    first = jax.jit(functools.partial(begin, task))(env.default_params)
    return STEPS[task](jax.random.key(1), first, random_action(env, 3), env.default_params)[1]


def random_action(env, seed):
    return jax.random.uniform(jax.random.key(seed), env.action_shape, minval=-1, maxval=1)


# --- the core's physics -----------------------------------------------------------------------------------------------


def own_potential(task, env, state, action, p):
    """The task's energy during a step, from the core's potentials by hand."""
    n = env.beads
    bonds, joints = np.array([[i, i + 1] for i in range(n - 1)]), np.array([[i, i + 1, i + 2] for i in range(n - 2)])
    if task == "fold":
        group = [i * env.groups // n for i in range(n)]
        force = p.force * action.reshape(env.groups, 2)[np.array(group)]
        field = external_potential(lambda r, f: -jnp.sum(f * r), f=PerParticle(force))
        return fene_bonds(bonds) + wca() + cosine_angles(joints, stiffness=p.bending) + field
    rest_angles = p.max_rest_angle * action
    if task == "reach":
        rest_angles = state.rest_angles + p.period * p.turn_rate * action
        rest_angles = jnp.clip(rest_angles, -p.max_rest_angle, p.max_rest_angle)
    own = harmonic_bonds(bonds, stiffness=p.bond_stiffness) + cosine_signed_angles(
        joints, stiffness=p.joint_stiffness, angle=rest_angles
    )
    own = own + soft_sphere(epsilon=p.contact_stiffness * p.diameter**2, sigma=p.diameter)
    if task == "reach":
        held = jnp.where(jnp.arange(n) < 2, p.anchor_stiffness, 0.0)
        own = own + harmonic_trap(stiffness=PerParticle(held), center=np.array([[-1.0, 0.0]] + [[0.0, 0.0]] * (n - 1)))
    return own


@pytest.mark.parametrize("task", by_default(TASKS, "reach", "fold"))
def test_a_step_is_that_of_the_cores_integrator_in_the_cores_potentials(task):
    """Also where it begins with the forces of the step before, of other rest angles or another field."""
    env, state = ENVS[task], started(task)
    p, action, key = env.default_params, random_action(env, 4), jax.random.key(2)

    def steps(key, state, action, p):
        potential = own_potential(task, env, state, action, p)
        common = {"dt": p.period / env.substeps, "temperature": p.temperature, "friction": p.friction}
        if task == "swim":
            method, options = Filament(**common, anisotropy=p.anisotropy), {}
        else:
            method, options = Langevin(**common), {"velocities": state.velocities}
        core = method.init(potential, Free(), state.positions, key=key, **options)
        return jax.lax.fori_loop(0, env.substeps, lambda _, s: method.step(potential, s), core)

    found = STEPS[task](key, state, action, p)[1]
    noise = jax.random.split(key)[0] if task == "reach" else key
    core = jax.jit(steps)(noise, state, action, p)
    assert np.max(np.abs(core.positions - state.positions)) > 1e-3
    assert_allclose(found.positions, core.positions, atol=1e-11)
    assert_allclose(found.motion.velocities, core.velocities, atol=1e-10)
    assert_allclose(found.motion.forces, core.forces, atol=1e-8)


@pytest.mark.slow
def test_the_work_of_a_swimmer_goes_into_its_energy_and_into_the_fluid():
    """Without noise: W = dU + what the drag dissipates, to the order of the time step."""
    env = dmdenv.make_env("bonded_chain", task="swim", beads=5, substeps=400)
    p = env.default_params.replace(temperature=0.0)
    state = env.reset(jax.random.key(0), p)[1]
    method = Filament(dt=p.period / 400, temperature=0.0, friction=p.friction, anisotropy=p.anisotropy)

    def energy(state):
        return chain.jointed_chain(p, state.rest_angles).energy(Free(), state.positions, AllPairs())

    action = jnp.array([0.5, -0.3, 0.8])
    after = jax.jit(env.advance)(jax.random.key(1), state, action, p)
    potential = chain.jointed_chain(p, p.max_rest_angle * action)
    moving = method.init(potential, Free(), state.positions, key=jax.random.key(0))
    moving = jax.jit(lambda s: jax.lax.fori_loop(0, 400, lambda _, s: method.step(potential, s), s))(moving)
    change = energy(after.state) - energy(state)
    assert after.metrics["work"] > 1
    assert_allclose(after.metrics["work"], change - moving.bath_energy, rtol=1e-3)
    assert moving.bath_energy < 0


@pytest.mark.parametrize("task", ["reach", "swim"])
@pytest.mark.slow
def test_bonds_and_joints_have_the_energies_of_equilibrium(task):
    """<u> of a joint is k (1 - I_1 / I_0), of a bond in the plane that of p(r) ~ r exp(-k (r - 1)^2 / 2 T)."""
    env = ENVS[task]
    # the time step of `swim` takes a tenth of the energy of bonds at this temperature; its error falls as dt^2
    env = dataclasses.replace(env, substeps=4 * env.substeps)
    env.prepare()
    T = 0.2
    p = env.default_params.replace(temperature=T, max_steps=100_000)

    straight = jnp.zeros(env.beads - 2)

    @jax.jit
    @jax.vmap
    def energies(key):
        def step(state, key):
            state = env.advance(key, state, jnp.zeros(env.action_shape), p).state
            bonds, joints, *_ = chain.jointed_chain(p, straight).terms
            of_bonds, of_joints = (term.term_energies(Free(), state.positions) for term in (bonds, joints))
            return state, (jnp.mean(of_bonds[1:]), jnp.mean(of_joints))  # the anchor holds the first bond of `reach`

        start = dataclasses.replace(env.reset(key, p)[1], rest_angles=straight)
        found = jax.lax.scan(step, start, jax.random.split(key, 2000))[1]
        return jax.tree.map(lambda x: jnp.mean(x[500:]), found)

    found = [np.asarray(x, float) for x in energies(jax.random.split(jax.random.key(0), 48))]
    k_bond, k_joint = float(p.bond_stiffness), float(p.joint_stiffness)
    phi = np.linspace(-np.pi, np.pi, 20_001)
    r = np.linspace(0.0, 3.0, 20_001)
    for values, u, measure in (
        (found[0], 0.5 * k_bond * (r - 1) ** 2, r),
        (found[1], k_joint * (1 - np.cos(phi)), np.ones_like(phi)),
    ):
        weight = measure * np.exp(-u / T)
        expected = np.sum(u * weight) / np.sum(weight)
        error = values.std(ddof=1) / np.sqrt(len(values))
        # what the time step and, of these, contacts add or take
        assert abs(values.mean() - expected) < 4 * error + 0.03 * expected


@pytest.mark.slow
def test_the_pool_of_free_chains_is_in_equilibrium():
    """Its mean size is that of a run ten times as long, and bonds have their usual length."""
    p, n = ChainFoldParams(), 16
    members = pool.prepare(flexible_chains, n)
    start = jnp.asarray(members)
    longer = equilibrate(
        lambda _: chain.flexible_chain(p, n), jnp.zeros((32, n - 2)), start, jax.random.key(9),
        temperature=1.0, friction=0.5, dt=0.005, steps=100_000,
    )  # fmt: skip
    sizes = [
        np.mean(np.sum(np.asarray(x) ** 2, axis=-1), axis=1) for x in (start, longer - longer.mean(1, keepdims=True))
    ]
    error = np.hypot(*(x.std(ddof=1) / np.sqrt(len(x)) for x in sizes))
    assert abs(sizes[0].mean() - sizes[1].mean()) < 3 * error
    lengths = np.linalg.norm(np.diff(members, axis=1), axis=-1)
    assert_allclose(lengths.mean(), 0.97, atol=0.01)


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_targets_stay_within_reach_move_smoothly_and_jump_at_each_interval():
    env, p = ENVS["reach"], ChainReachParams(interval=16.0)
    paths = jax.jit(jax.vmap(draw_path))(jax.random.split(jax.random.key(0), 500))
    at = jax.jit(jax.vmap(lambda path, t: env.target(path, t, p), (0, None)))
    place, velocity = at(paths, 7.0)
    before, after = at(paths, 7.0 - 1e-4)[0], at(paths, 7.0 + 1e-4)[0]
    assert_allclose(velocity, (after - before) / (2e-4 * p.period), atol=1e-6)
    r, angle = np.linalg.norm(place, axis=1), np.arctan2(place[:, 1], place[:, 0])
    assert np.all((r > 0.5 * 3) & (r < 0.9 * 3) & (np.abs(angle) < 1.5))
    assert r.min() < 1.55 and r.max() > 2.65 and angle.min() < -1.4 and angle.max() > 1.4

    state, paths = started("reach").replace(time=jnp.int32(0)), []  # and motors stop at their range
    for t in range(33):
        paths.append(np.asarray(state.path))
        state = STEPS["reach"](jax.random.key(t), state, jnp.array([1.0, -1.0, 0.0]), p)[1]
    assert [t for t in range(1, 33) if np.any(paths[t] != paths[t - 1])] == [16, 32]
    assert_allclose(state.rest_angles[:2], [1.5, -1.5])


def test_a_chain_that_has_its_shape_has_no_distance_however_it_lies():
    env, state = ENVS["fold"], started("fold")
    p = env.default_params.replace(period=1e-6)  # in which nothing moves

    def step_from(positions):
        start = dataclasses.replace(state, motion=state.motion.replace(positions=positions, forces=state.motion.forces))
        observation, *_, info = STEPS["fold"](jax.random.key(0), start, jnp.zeros(8), p)
        return info["rmsd"], observation[4 * 8 :]

    there = chain.rotate(state.target, jnp.asarray(2.0)) + jnp.array([[5.0, -3.0]])
    assert_allclose(step_from(there)[0], 0.0, atol=1e-5)
    assert_allclose(step_from(there)[1], 0.0, atol=1e-5)
    assert step_from(there * jnp.array([[1.0, -1.0]]))[0] > 0.2


@pytest.mark.parametrize("shape", ["ring", "hairpin", "wave", "spiral"])
def test_shapes_are_chains_without_overlap(shape):
    for n in (8, 16, 32):
        (target,) = target_shapes(n, shape)
        bonds = np.linalg.norm(np.diff(target, axis=0), axis=-1)
        assert np.all((bonds > 0.85) & (bonds < 1.1))
        distances = np.linalg.norm(target[:, None] - target[None], axis=-1) + 9 * np.eye(n)
        assert distances.min() > 0.85


def test_a_broken_bond_ends_the_episode():
    env, state = ENVS["fold"], started("fold")
    torn = state.positions.at[3:].add(5.0)
    torn = dataclasses.replace(state, motion=state.motion.replace(positions=torn, forces=state.motion.forces))
    *_, terminated, truncated, info = STEPS["fold"](jax.random.key(0), torn, jnp.zeros(8), env.default_params)
    assert terminated and not truncated and not info["nonfinite"]


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_a_return_agree_with_central_differences(task):
    """32 steps, by actions, initial state and parameters, also in the first forces; no motor at its range, no jump."""
    env = ENVS[task]
    params = env.default_params.replace(**{"fold": {"period": 0.05}}.get(task, {}))
    names = [f.name for f in dataclasses.fields(params) if f.name not in ("max_steps", "interval", "course")]
    keys = jax.random.split(jax.random.key(1), 32)
    actions = jnp.clip(0.3 * jax.random.normal(jax.random.key(2), (32, *env.action_shape)), -0.9, 0.9)

    def total(point):
        actions, shifts, values = point
        p = params.replace(**dict(zip(names, values, strict=True)))

        def step(state, inputs):
            key, action = inputs
            _, state, reward, *_ = env.step_env(key, state, action, p)
            return state, reward

        start = begin(task, p)
        shifted = {name: getattr(start.motion, name) + shift for name, shift in shifts.items()}
        start = dataclasses.replace(start, motion=start.motion.replace(**shifted))
        return jnp.sum(jax.lax.scan(step, start, (keys, actions))[1])

    fields = ("positions", "forces") if task == "swim" else ("positions", "velocities", "forces")
    shifts = {name: jnp.zeros((env.beads, 2)) for name in fields}
    point = actions, shifts, jnp.stack([getattr(params, name) for name in names])
    # one program for both: compiling is what takes time
    program = jax.jit(jax.value_and_grad(total))
    gradient = program(point)[1]
    assert all(np.all(np.any(g != 0)) for g in jax.tree.leaves(gradient))
    for part in range(3):
        leaves = jax.tree.map(jnp.zeros_like, point)
        draw = jax.tree.map(lambda x: jax.random.normal(jax.random.key(7), x.shape), point[part])
        scale = jnp.abs(point[2]) if part == 2 else 1.0
        draw = jax.tree.map(lambda d, scale=scale: d * scale, draw)
        direction = tuple(draw if q == part else leaves[q] for q in range(3))
        along = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert_allclose(along, central_difference(lambda x: program(x)[0], point, direction, 1e-6), rtol=1e-5)
    if task == "swim":  # finite where there is no noise, too
        cold = point[2].at[names.index("temperature")].set(0.0)
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(program((*point[:2], cold))[1]))


# --- input ------------------------------------------------------------------------------------------------------------

BAD = {
    r"ChainReach.beads = 2; must be an integer >= 3": ("reach", {"beads": 2}),
    r"ChainSwim.substeps = 0; must be an integer >= 1": ("swim", {"substeps": 0}),
    r"ChainFold.groups = 9; must be <= beads = 8": ("fold", {"beads": 8, "groups": 9}),
    r"ChainFold.shape = 'knot'; must be one of 'any', 'ring'": ("fold", {"shape": "knot"}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_configurations_are_refused(message):
    task, config = BAD[message]
    with pytest.raises(ValueError, match=message):
        dmdenv.make_env("bonded_chain", task=task, **config)


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("reach", {"inner": 0.95}, r"inner = 0.95; must be <= outer = 0.9"),
        (
            "reach",
            {"joint_stiffness": 1e5},
            r"period = 0.1 in 12 substeps; must be <= 0.0\d+, beyond which",
        ),
        ("swim", {"anisotropy": 0.1}, r"period = 0.25 in 50 substeps; must be <= 0.02\d+, beyond"),
        ("fold", {"period": 1.0}, r"period = 1 in 20 substeps; must be <= 0.2\d+, beyond"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(task, params, message):
    env = ENVS[task]
    with pytest.raises(ValueError, match=message):
        env.reset(jax.random.key(0), env.default_params.replace(**params))


def test_states_do_not_depend_on_the_kind_of_key():
    env, state = ENVS["reach"], started("reach")
    raw = jax.eval_shape(env.step_env, jax.random.PRNGKey(0), state, jnp.zeros(env.action_shape))[1]
    assert raw.motion.key.dtype == state.motion.key.dtype


def test_parameters_out_of_range_are_refused():
    for kind in (ChainReachParams, ChainSwimParams):
        with pytest.raises(ValueError, match=r"diameter = 1.2; must be a finite number"):
            kind(diameter=1.2)
