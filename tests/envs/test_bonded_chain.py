"""Chains that reach, swim and fold: against the core, closed forms and differences; baselines in order."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dmdenv
from dmdenv.agents.evaluate import run_episode
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.envs import pool
from dmdenv.envs.bonded_chain import chain
from dmdenv.envs.bonded_chain.fold import ChainFoldParams, _free_chains, _shapes, model
from dmdenv.envs.bonded_chain.reach import ChainReachParams, _random_path
from dmdenv.envs.bonded_chain.swim import ChainSwimParams
from dmdenv.integrators import Filament, Langevin
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import (
    PerParticle,
    cosine_angles,
    cosine_turns,
    external_potential,
    fene_bonds,
    harmonic_bonds,
    harmonic_trap,
    soft_sphere,
    wca,
)
from dmdenv.quantities import rmsd
from dmdenv.space import Free
from marks import by_default
from systems import central_difference

pytestmark = pytest.mark.usefixtures("x64")

TASKS = ("reach", "swim", "fold")
every_task = pytest.mark.parametrize("task", TASKS)
SMALL = {
    "reach": {"beads": 5, "substeps": 12},
    "swim": {"beads": 6, "substeps": 50},
    "fold": {"beads": 8, "groups": 4, "substeps": 20},
}


# programs that run for a moment: two thirds of their time would go into optimising them
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def small(task):
    return dmdenv.make_env("bonded_chain", task=task, **SMALL[task])


@functools.cache
def started(task):
    env = small(task)
    return jax.jit(env.reset)(jax.random.key(0), env.default_params)[1]


# --- baselines, and spaces under them ---------------------------------------------------------------------------------


@functools.cache
def run(task: str, episodes: int, steps: int):
    """Returns, metrics and observations of every policy in the same episodes, in one program."""
    env = small(task)
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

    keys = jax.random.split(jax.random.key(0), episodes)
    run = jax.jit(jax.vmap(one, (None, 0)))
    return {name: run(index, keys) for index, name in enumerate(policies)}


def returns(task, episodes, steps):
    return {name: np.asarray(found.returns) for name, (found, _) in run(task, episodes, steps).items()}


SHORT = {"reach": (24, 128), "swim": (8, 64), "fold": (16, 64)}


@pytest.mark.parametrize(
    ("task", "better", "worse"),
    by_default(
        [
            ("reach", "inverse", ("transpose", "constant", "zero", "random")),
            ("reach", "transpose", ("constant", "zero", "random")),
            ("swim", "wave", ("reciprocal", "constant", "zero", "random")),
            ("fold", "steered", ("constant", "zero", "random")),
        ],
        ("reach", "transpose", ("constant", "zero", "random")),
    ),
)
def test_informed_baselines_are_clearly_better(task, better, worse):
    found = returns(task, *SHORT[task])
    for name in worse:
        ahead = found[better] - found[name]  # in the same episodes
        assert ahead.mean() > 3 * ahead.std(ddof=1) / np.sqrt(len(ahead)), name


@pytest.mark.parametrize("task", by_default(TASKS, "reach"))
def test_no_policy_leaves_the_spaces_or_breaks_anything(task):
    for found, largest in run(task, *SHORT[task]).values():
        assert np.max(largest) <= 1
        assert not np.any(found.metrics["nonfinite"])
        assert not np.any(found.metrics["overflow"])
        assert np.all(found.lengths == SHORT[task][1])


@every_task
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


def test_a_reciprocal_stroke_does_not_swim_and_a_wave_does():
    """To the noise: the centre diffuses with about D = 3 T / (4 n gamma)."""
    episodes, steps = SHORT["swim"]
    progress = {
        name: np.sum(found.metrics["progress"], axis=1) for name, (found, _) in run("swim", episodes, steps).items()
    }
    drift = {name: np.sum(found.metrics["drift"], axis=1) for name, (found, _) in run("swim", episodes, steps).items()}
    noise = np.sqrt(2 * 0.75 * 0.002 / 6 * 0.25 * steps)
    # what it is off at the end is its place within a period, and where the start has left it
    assert np.all(np.hypot(progress["reciprocal"], drift["reciprocal"]) < 0.35 + 4 * noise)
    assert np.all(np.hypot(progress["wave"], drift["wave"]) > 1.0)


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
    turns = p.max_turn * action
    if task == "reach":
        turns = jnp.clip(state.turns + p.period * p.turn_rate * action, -p.max_turn, p.max_turn)
    own = harmonic_bonds(bonds, stiffness=p.bond_stiffness) + cosine_turns(
        joints, stiffness=p.joint_stiffness, turn=turns
    )
    own = own + soft_sphere(epsilon=p.contact_stiffness * p.diameter**2, sigma=p.diameter)
    if task == "reach":
        held = np.where(np.arange(n) < 2, float(p.anchor_stiffness), 0.0)
        own = own + harmonic_trap(stiffness=PerParticle(held), center=np.array([[-1.0, 0.0]] + [[0.0, 0.0]] * (n - 1)))
    return own


@pytest.mark.parametrize("task", by_default(TASKS, "fold"))
def test_a_step_is_that_of_the_cores_integrator_in_the_cores_potentials(task):
    env = small(task)
    p = env.default_params
    state = started(task)
    action = jax.random.uniform(jax.random.key(1), env.action_shape, minval=-1, maxval=1)
    found = jax.jit(env.advance, compiler_options=QUICK)(jax.random.key(2), state, action, p).state
    potential = own_potential(task, env, state, action, p)
    common = {"dt": p.period / env.substeps, "temperature": p.temperature, "friction": p.friction}
    key = jax.random.split(jax.random.key(2))[0] if task == "reach" else jax.random.key(2)
    if task == "swim":
        method, options = Filament(**common, anisotropy=p.anisotropy), {}
    else:
        method, options = Langevin(**common), {"velocities": state.velocities}
    core = method.init(potential, Free(), state.positions, key=key, **options)

    def steps(s):
        return jax.lax.fori_loop(0, env.substeps, lambda _, s: method.step(potential, s), s)

    core = jax.jit(steps, compiler_options=QUICK)(core)
    assert np.max(np.abs(core.positions - state.positions)) > 1e-3
    assert_allclose(found.positions, core.positions, atol=1e-11)
    if task != "swim":
        assert_allclose(found.velocities, core.velocities, atol=1e-10)


@pytest.mark.slow
def test_the_work_of_a_swimmer_goes_into_its_energy_and_into_the_fluid():
    """Without noise: W = dU + what the drag dissipates, to the order of the time step."""
    env = dmdenv.make_env("bonded_chain", task="swim", beads=5, substeps=400)
    p = env.default_params.replace(temperature=0.0)
    state = env.reset(jax.random.key(0), p)[1]
    method = Filament(dt=p.period / 400, temperature=0.0, friction=p.friction, anisotropy=p.anisotropy)

    def energy(positions, turns):
        return chain.jointed(p, 5, turns).energy(Free(), positions, AllPairs())

    action = jnp.array([0.5, -0.3, 0.8])
    after = jax.jit(env.advance)(jax.random.key(1), state, action, p)
    potential = chain.jointed(p, 5, p.max_turn * action)
    moving = method.init(potential, Free(), state.positions, key=jax.random.key(0))
    moving = jax.jit(lambda s: jax.lax.fori_loop(0, 400, lambda _, s: method.step(potential, s), s))(moving)
    change = energy(after.state.positions, after.state.turns) - energy(state.positions, state.turns)
    assert after.metrics["work"] > 1
    assert_allclose(after.metrics["work"], change - moving.heat, rtol=1e-3)
    assert moving.heat < 0


@pytest.mark.parametrize("task", ["reach", "swim"])
@pytest.mark.slow
def test_bonds_and_joints_have_the_energies_of_equilibrium(task):
    """<u> of a joint is k (1 - I_1 / I_0), of a bond in the plane that of p(r) ~ r exp(-k (r - 1)^2 / 2 T)."""
    env = small(task)
    # the time step of `swim` takes a tenth of the energy of bonds at this temperature; its error falls as dt^2
    env = dataclasses.replace(env, substeps=4 * env.substeps)
    T = 0.2
    p = env.default_params.replace(temperature=T, max_steps=100_000)

    @jax.jit
    @jax.vmap
    def energies(key):
        def step(state, key):
            state = env.advance(key, state, jnp.zeros(env.action_shape), p).state
            bonds, joints, *_ = chain.jointed(p, env.beads, jnp.zeros(env.beads - 2)).terms
            of_bonds, of_joints = (term.term_energies(Free(), state.positions) for term in (bonds, joints))
            return state, (jnp.mean(of_bonds[1:]), jnp.mean(of_joints))  # the anchor holds the first bond of `reach`

        start = env.reset(key, p)[1].replace(turns=jnp.zeros(env.beads - 2))
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
    members = pool.prepare(_free_chains, n)
    start = jnp.asarray(members)
    longer = chain.thermalised(
        lambda turns: model(p, n), jnp.zeros((32, n - 2)), start, jax.random.key(9),
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
    env, p = small("reach"), ChainReachParams(interval=16.0)
    paths = jax.jit(jax.vmap(_random_path))(jax.random.split(jax.random.key(0), 500))
    at = jax.jit(jax.vmap(lambda path, t: env.target(path, t, p), (0, None)))
    place, velocity = at(paths, 7.0)
    before, after = at(paths, 7.0 - 1e-4)[0], at(paths, 7.0 + 1e-4)[0]
    assert_allclose(velocity, (after - before) / (2e-4 * p.period), atol=1e-6)
    r, angle = np.linalg.norm(place, axis=1), np.arctan2(place[:, 1], place[:, 0])
    assert np.all((r > 0.5 * 3) & (r < 0.9 * 3) & (np.abs(angle) < 1.5))
    assert r.min() < 1.55 and r.max() > 2.65 and angle.min() < -1.4 and angle.max() > 1.4

    step = jax.jit(env.step_env)  # and motors stop at their range
    state, seen = started("reach"), []
    for t in range(33):
        seen.append(np.asarray(state.path))
        state = step(jax.random.key(t), state, jnp.array([1.0, -1.0, 0.0]), p)[1]
    assert [t for t in range(1, 33) if np.any(seen[t] != seen[t - 1])] == [16, 32]
    assert_allclose(state.turns[:2], [1.5, -1.5])


def test_a_chain_that_has_its_shape_has_no_distance_however_it_lies():
    env, state = small("fold"), started("fold")
    there = chain.rotated(state.target, jnp.asarray(2.0)) + jnp.array([[5.0, -3.0]])
    away = env.observe(dataclasses.replace(state, positions=there), env.default_params)[4 * 8 :]
    assert_allclose(away, 0.0, atol=1e-12)
    mirrored = dataclasses.replace(state, positions=there * jnp.array([[1.0, -1.0]]))
    assert float(rmsd(mirrored.target, mirrored.positions)) > 0.2


@pytest.mark.parametrize("shape", ["ring", "hairpin", "wave", "spiral"])
def test_shapes_are_chains_without_overlap(shape):
    for n in (8, 16, 32):
        (target,) = _shapes(n, shape)
        bonds = np.linalg.norm(np.diff(target, axis=0), axis=-1)
        assert np.all((bonds > 0.85) & (bonds < 1.1))
        distances = np.linalg.norm(target[:, None] - target[None], axis=-1) + 9 * np.eye(n)
        assert distances.min() > 0.85


def test_a_broken_bond_ends_the_episode():
    env, state = small("fold"), started("fold")
    torn = dataclasses.replace(state, positions=state.positions.at[3:].add(5.0))
    _, _, _, terminated, truncated, info = jax.jit(env.step_env)(jax.random.key(0), torn, jnp.zeros(env.action_shape))
    assert terminated and not truncated and not info["nonfinite"]


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["reach", "fold", pytest.param("swim", marks=pytest.mark.slow)])
def test_gradients_of_a_return_agree_with_central_differences(task):
    """32 steps, by actions, initial state and parameters; motors within their range, no jump of a target."""
    env = small(task)
    steps = 32
    params = env.default_params.replace(**{"reach": {"interval": 64.0}, "swim": {}, "fold": {"period": 0.05}}[task])
    state = started(task)
    fields = [f for f in ("positions", "velocities") if hasattr(state, f)]
    names = [f.name for f in dataclasses.fields(params) if f.name not in ("max_steps", "interval", "inner", "outer")]
    names = [name for name in names if jnp.ndim(getattr(params, name)) == 0 and name != "course"]
    keys = jax.random.split(jax.random.key(1), steps)
    actions = 0.3 * jax.random.normal(jax.random.key(2), (steps, *env.action_shape))
    actions = jnp.clip(actions, -0.9, 0.9)

    def total(point):
        actions, physical, values = point
        p = params.replace(**dict(zip(names, values, strict=True)))

        def step(state, inputs):
            key, action = inputs
            _, state, reward, *_ = env.step_env(key, state, action, p)
            return state, reward

        start = dataclasses.replace(state, **dict(zip(fields, physical, strict=True)))
        return jnp.sum(jax.lax.scan(step, start, (keys, actions))[1])

    point = actions, [getattr(state, f) for f in fields], jnp.stack([getattr(params, name) for name in names])
    program = jax.jit(
        jax.value_and_grad(total), compiler_options=QUICK
    )  # one program for both: compiling is what takes time
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


# --- bad input --------------------------------------------------------------------------------------------------------

BAD = {
    r"beads = 2; valid: a whole number from 3": ("reach", {"beads": 2}),
    r"substeps = 0; valid: a whole number from 1": ("swim", {"substeps": 0}),
    r"groups = 9; valid: up to beads = 8": ("fold", {"beads": 8, "groups": 9}),
    r"shape = 'knot'; valid: 'any', 'ring'": ("fold", {"shape": "knot"}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_configurations_are_refused(message):
    task, config = BAD[message]
    with pytest.raises(ValueError, match=message):
        dmdenv.make_env("bonded_chain", task=task, **config)


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("reach", {"inner": 0.95}, r"inner = 0.95; valid: up to outer = 0.9"),
        ("reach", {"joint_stiffness": 1e5}, r"period = 0.1 in 12 substeps; valid: up to 0.0\d+, since the time step"),
        ("swim", {"anisotropy": 0.1}, r"period = 0.25 in 50 substeps; valid: up to 0.02\d+, since"),
        ("fold", {"period": 1.0}, r"period = 1 in 20 substeps; valid: up to 0.2\d+, since"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(task, params, message):
    env = small(task)
    with pytest.raises(ValueError, match=message):
        env.reset(jax.random.key(0), env.default_params.replace(**params))


def test_parameters_out_of_range_are_refused():
    for kind in (ChainReachParams, ChainSwimParams):
        with pytest.raises(ValueError, match=r"diameter = 1.2; must be"):
            kind(diameter=1.2)
