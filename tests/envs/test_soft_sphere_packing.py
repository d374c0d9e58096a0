"""Soft sphere packing, task `compress`: against sums over pairs, what is known of jamming, differences; bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dmdenv
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.pool import prepare
from dmdenv.envs.soft_sphere_packing.compress import PackingCompress, PackingCompressState
from dmdenv.envs.soft_sphere_packing.design import PackingDesign
from dmdenv.envs.soft_sphere_packing.packing import bidisperse, discs, solid_volume
from dmdenv.envs.soft_sphere_packing.starts import apply_random_symmetry, loose_packings
from packing_checks import by_pairs, last, mean, score, wander, without_rattlers
from small_envs import small_env

ID = "soft_sphere_packing"


@functools.cache
def compiled(env):
    return jax.jit(env.step_env)


def begin(env, fraction, ratio=1.4, seed=0):
    """Random positions at a packing fraction, as if nothing had been measured of them: no pool has to be prepared."""
    n, d = env.particles, env.dimension
    box = (solid_volume(bidisperse(n, ratio), d) / fraction) ** (1 / d)
    positions = box * jax.random.uniform(jax.random.key(seed), (n, d))
    unknown = dict.fromkeys(("energy", "pressure", "residual", "contacts", "quality"), jnp.zeros(()))
    return PackingCompressState(positions=positions, box=box, **unknown)


# --- packings ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dimension", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_what_is_measured_of_a_packing_is_what_its_pairs_say(dimension):
    n = {2: 12, 3: 24}[dimension]
    env = PackingCompress(particles=n, dimension=dimension, relaxation_steps=6)
    params = env.default_params.replace(alpha=2.5, ratio=1.3)
    state = begin(env, params.densest, ratio=1.3)
    _, state, _, _, _, info = compiled(env)(jax.random.key(1), state, jnp.array([-0.5, -1.0]), params)
    side = float(state.box)
    diameters = np.asarray(bidisperse(n, 1.3))
    energy, pressure, residual, touching = by_pairs(np.asarray(state.positions), diameters, side, 2.5)
    assert energy > 1e-4
    assert_allclose([info["energy"], state.energy], energy, rtol=1e-9)
    assert_allclose([info["pressure"], state.pressure], pressure, rtol=1e-9)
    assert_allclose([info["residual"], state.residual], residual, rtol=1e-6)
    assert_allclose([info["contact_number"], state.contacts], without_rattlers(touching, dimension), rtol=1e-12)
    volume = {2: np.pi / 4, 3: np.pi / 6}[dimension] * np.sum(diameters**dimension)
    assert_allclose(info["packing_fraction"], volume / side**dimension, rtol=1e-12)


@pytest.mark.slow
def test_starts_do_not_overlap_and_copies_are_the_same_packing():
    diameters = bidisperse(32, 1.4)
    pool = prepare(loose_packings, 32, 2)
    assert pool.shape == (64, 32, 2)
    side = float((solid_volume(diameters, 2) / PackingCompress().default_params.start_max) ** 0.5)
    energies = [by_pairs(side * positions, np.asarray(diameters), side, 2.0)[0] for positions in pool[:2]]
    assert_array_equal(energies, 0.0)
    distances = []
    copies = [apply_random_symmetry(jax.random.key(seed), jnp.asarray(pool[0])) for seed in range(4)]
    for positions in (pool[0], *copies):
        apart = np.asarray(positions)[:, None] - np.asarray(positions)[None]
        distances.append(np.linalg.norm(apart - np.round(apart), axis=-1))
    for copy in distances[1:]:
        assert_allclose(copy, distances[0], atol=1e-6)


# --- compress --------------------------------------------------------------------------------------------------------


@functools.cache
def compressed():
    return score(dmdenv.make_env(ID, particles=32), 12)


@pytest.mark.slow
def test_discs_jam_near_a_packing_fraction_of_084_with_four_contacts():
    """At the low target pressure a packing is just above its own jamming; the band is that of protocols and sizes."""
    end = compressed()["feedback"]
    assert_allclose(np.median(last(end, "pressure")), 1e-3, rtol=0.05)
    assert 0.82 < mean(last(end, "packing_fraction")) < 0.855
    assert 3.85 < np.median(last(end, "contact_number")) < 4.25


def test_feedback_beats_a_constant_rate_and_this_beats_zero_and_chance():
    returns = {name: mean(evaluation.returns) for name, evaluation in compressed().items()}
    assert abs(returns["zero"]) < 0.02 and abs(returns["random"]) < 0.15
    assert returns["constant"] > returns["random"] + 0.4
    assert returns["feedback"] > returns["constant"] + 0.3
    assert returns["feedback"] <= 1.5


def test_the_return_is_what_the_packing_has_gained():
    """From no contact: the distance to the target and that to 2 d contacts, each 1 times its weight."""
    end = compressed()["feedback"]
    z, f = last(end, "contact_number"), last(end, "residual")
    left = last(end, "distance") + 0.5 * f / (f + 1e-3) + 0.5 * np.abs(z / 4 - 1)
    assert_allclose(end.returns, 1.5 - left, atol=2e-2)  # the start has a small residual


@pytest.mark.slow
def test_spheres_jam_near_064_with_six_contacts():
    env = dmdenv.make_env(ID, dimension=3)
    end = score(env, 16)["feedback"]
    assert_allclose(np.median(last(end, "pressure")), 1e-3, rtol=0.1)
    assert 0.61 < mean(last(end, "packing_fraction")) < 0.67
    assert 5.7 < np.median(last(end, "contact_number")) < 6.5


@pytest.mark.slow
def test_agitation_leads_to_less_energy_at_a_packing_fraction():
    scores = score(dmdenv.make_env(ID, target="packing_fraction"), 128)
    returns = {name: np.asarray(evaluation.returns) for name, evaluation in scores.items()}
    gain = returns["anneal"] - returns["feedback"]
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))
    assert mean(returns["feedback"]) > 0.25
    assert max(mean(returns[name]) for name in ("zero", "random")) < 0.05
    assert_allclose(last(scores["anneal"], "distance"), 0.0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("target", ["pressure", "packing_fraction"])
def test_the_gradient_of_a_return_agrees_with_central_differences(target):
    """Over 32 steps, with respect to actions, initial positions, box and every parameter but the number of steps.

    Where it is smooth: in a jammed packing, at small strain and agitation, and within differences over which no contact
    opens or closes and FIRE does not turn at another step.
    """
    env = PackingCompress(particles=12, relaxation_steps=6, target=target)
    params = env.default_params.replace(strain=1e-4, kick=1e-5, energy_weight=0.3)
    state = begin(env, 0.99)
    # at rest, and at different distances from all targets
    for _ in range(100):
        state = compiled(env)(jax.random.key(1), state, jnp.array([0.0, -1.0]), params)[1]
    actions = 0.9 * jax.random.uniform(jax.random.key(1), (32, 2), minval=-1, maxval=1)
    keys = jax.random.split(jax.random.key(2), 32)
    names = [name for name in vars(params) if name != "max_steps"]

    def total(point):
        actions, positions, box, values = point
        p = params.replace(**dict(zip(names, values, strict=True)))

        def step(state, inputs):
            key, action = inputs
            _, state, reward, *_ = env.step_env(key, state, action, p)
            return state, reward

        start = dataclasses.replace(state, positions=positions, box=box)
        return jnp.sum(jax.lax.scan(step, start, (keys, actions))[1])

    point = actions, state.positions, state.box, jnp.stack([getattr(params, name) for name in names])
    program = jax.jit(jax.value_and_grad(total))  # one program for both: compiling is what takes time
    gradient = program(point)[1]
    scales = 1.0, 1e-3, 1e-3, 1e-2 * point[3]  # so that a step is small for each
    for seed in range(4):
        draws = jax.random.split(jax.random.key(seed), 4)
        direction = tuple(s * jax.random.normal(k, x.shape) for s, k, x in zip(scales, draws, point, strict=True))
        for part in range(4):
            along = tuple(d if i == part else jnp.zeros_like(d) for i, d in enumerate(direction))
            up, down = (program(jax.tree.map(lambda x, d, h=h: x + h * d, point, along))[0] for h in (1e-4, -1e-4))
            assert abs(up - down) > 1e-12
            assert_allclose(jnp.vdot(gradient[part], along[part]), (up - down) / 2e-4, rtol=1e-5, atol=1e-11)


@pytest.mark.slow
def test_ten_thousand_random_actions_in_many_instances_do_no_harm():
    wander(small_env(ID, "compress"), 10_000, 64)


@pytest.mark.usefixtures("x64")
def test_particles_too_large_for_the_box_are_flagged_where_parameters_are_traced():
    env = PackingCompress(particles=12, relaxation_steps=6)
    params = env.default_params.replace(densest=2.0)
    for fraction, expected in ((0.7, False), (1.9, True)):
        *_, info = compiled(env)(jax.random.key(1), begin(env, fraction), -jnp.ones(2), params)
        assert info["overflow"] == expected
    with pytest.raises(CapacityExceeded, match="a diameter exceeds half of the box"):
        env.enlarged()


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "config", "message"),
    [
        (PackingCompress, {"particles": 3}, "PackingCompress.particles = 3; must be an integer >= 4"),
        (PackingCompress, {"dimension": 4}, "PackingCompress.dimension = 4; must be one of 2, 3"),
        (PackingCompress, {"relaxation_steps": 0}, "relaxation_steps = 0; must be an integer >= 1"),
        (PackingCompress, {"target": "order"}, "target = 'order'; must be one of 'pressure', 'packing_fraction'"),
        (PackingDesign, {"target": "order"}, "target = 'order'; must be one of 'energy', 'pressure'"),
        (PackingDesign, {"diameters": "all"}, "diameters = 'all'; must be one of 'populations', 'each'"),
    ],
)
def test_bad_configurations_are_refused(env, config, message):
    with pytest.raises(ValueError, match=message):
        env(**config)


@pytest.mark.parametrize(
    ("env", "values", "message"),
    [
        (PackingCompress(), {"start_min": 0.8}, r"start_min = 0.8; must be <= start_max = 0.7392"),
        (PackingCompress(), {"start_max": 1.2}, r"start_max = 1.2; must be <= densest = 1.09"),
        (PackingCompress(particles=6), {}, r"diameters up to 1.4 in a box of 2.5\d*.*; must be <= half of it"),
        (PackingDesign(), {"target_min": 1.0}, r"target_min = 1; must be <= target_max = 0.0034"),
        (PackingDesign(particles=8), {}, r"diameters up to 1.45\d* in a box of 2.8\d*; must be <= half"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(env, values, message):
    with pytest.raises(ValueError, match=message):
        env.reset(jax.random.key(0), env.default_params.replace(**values))


def test_the_potential_is_the_cores_soft_sphere():
    potential = discs(jnp.array([1.0, 1.4]), 2.0)
    energy = potential.energy(dmdenv.space.Free(), jnp.array([[0.0, 0.0], [0.9, 0.0]]), dmdenv.neighbors.AllPairs())
    assert_allclose(energy, 0.5 * (1 - 0.9 / 1.2) ** 2, rtol=1e-6)
