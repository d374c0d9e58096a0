"""Derivatives of minima: against unrolled minimisations, finite differences, closed forms and published numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.differentiation import implicit, rollout
from dmdenv.minimizers import FIRE, GradientDescent, minimize
from dmdenv.neighbors import AllPairs, allocate, neighbor_sum
from dmdenv.potentials import BySpecies, PerParticle, lennard_jones, pair_potential, soft_sphere
from dmdenv.space import Free, Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("x64")

STOP = {"tolerance": 1e-14, "max_steps": 100_000}


def discs(ratio, n, *, mean=2.0):
    """Harmonic discs of two diameters in equal numbers, the second ones `ratio` times the first ones."""
    second = np.arange(n) % 2
    first = mean / (1 + 0.4 * second.mean())
    return soft_sphere(sigma=PerParticle(first * jnp.where(second == 1, ratio, 1.0)))


def packed(potential, space, start):
    fire = FIRE(dt=0.1, max_displacement=0.1)
    return minimize(fire, potential, fire.init(potential, space, start), **STOP)


# --- springs: everything in closed form -------------------------------------------------------------------------------


def harmonic(r, *, stiffness, rest):
    return 0.5 * stiffness * (r - rest) ** 2


def two_on_springs(x, stiffness, rest, pull):
    """One particle tied to the origin, the second one to the first, both on a line; a force pulls the second."""
    return harmonic(x[0], stiffness=1.0, rest=1.0) + harmonic(x[1] - x[0], stiffness=stiffness, rest=rest) - pull * x[1]


def stretched(stiffness, rest, pull):
    """`x_1 = 1 + f`, `x_2 = x_1 + l + f / k`."""
    x = jnp.stack([1.0 + pull, 1.0 + pull + rest + pull / stiffness])
    return implicit.minimum(lambda x: two_on_springs(x, stiffness, rest, pull), jax.lax.stop_gradient(x))


def test_particles_on_springs_move_as_in_closed_form():
    k, rest, f = 2.5, 0.7, 0.3
    expected = np.array([[0.0, 0.0, 1.0], [-f / k**2, 1.0, 1.0 + 1 / k]])
    for mode in (jax.jacfwd, jax.jacrev):
        found = np.stack(jax.jit(mode(stretched, argnums=(0, 1, 2)))(k, rest, f), axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_second_derivatives_are_right_too():
    found = jax.jit(jax.hessian(lambda k: stretched(k, 0.7, 0.3)[1]))(2.5)
    np.testing.assert_allclose(found, 2 * 0.3 / 2.5**3, rtol=1e-10)


@pytest.mark.parametrize(("space", "mode"), [(Free(), jax.jacrev), (Periodic(10.0), jax.jacfwd)])
def test_a_dimer_stays_where_it_is_and_changes_its_length_only(space, mode):
    """Its translations and, in free space, its rotations are zero modes."""
    start = jnp.asarray([[1.0, 2.0, 3.0], [1.6, 2.0, 3.8]])  # 1 apart

    def length_and_place(rest):
        spring = pair_potential(harmonic, cutoff=3.0, stiffness=7.0, rest=rest)
        return implicit.minimum(lambda x: spring.energy(space, x, AllPairs()), start)

    along = np.array([0.3, 0.0, 0.4])
    np.testing.assert_allclose(jax.jit(mode(length_and_place))(1.0), np.stack([-along, along]), atol=1e-12)


# --- packings ---------------------------------------------------------------------------------------------------------

SEVEN = np.sqrt(7 / 0.3)  # the side of the box
SEVEN_AT = np.array(
    """2.2571011 3.23102976 2.82204694 2.2189232 1.20430478 3.20836644 1.74239073 2.70748538 0.21680259 1.06177165
    4.71370903 3.5145022 0.75025194 0.3507898""".split(),
    float,
).reshape(7, 2)  # jax.random.uniform of the older, not partitionable random numbers, from the second half of key 5


def test_seven_soft_discs_have_the_published_energy_and_gradient():
    """JAX MD's notebook on implicit differentiation: diameter 2, number density 0.3, a diameter for each pair."""

    def energy(sigma):
        potential = soft_sphere(sigma=BySpecies(sigma, np.arange(7)))
        found = packed(jax.lax.stop_gradient(potential), Periodic(SEVEN), jnp.asarray(SEVEN_AT))
        x = implicit.minimum(lambda x: potential.energy(Periodic(SEVEN), x, AllPairs()), found.state.positions)
        return potential.energy(Periodic(SEVEN), x, AllPairs()), found.converged

    (value, converged), gradient = jax.jit(jax.value_and_grad(energy, has_aux=True))(jnp.full((7, 7), 2.0))
    assert converged
    np.testing.assert_allclose(value, 0.0615943027340254, rtol=1e-13)
    published = [0, 0.00297984, 0.00736627, 0.015354, 0, 0.015354, 0.00297984]
    np.testing.assert_allclose(gradient[0], published, atol=5e-9)


def test_implicit_equals_unrolled():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(7, 2)))
    weights -= jnp.mean(weights, axis=0, keepdims=True)
    descent = GradientDescent(step_size=0.4)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def unrolled(ratio):
        potential = discs(ratio, 7)
        state = descent.init(potential, Periodic(SEVEN), jnp.asarray(SEVEN_AT))
        state, _ = rollout(functools.partial(descent.step, potential), state, 2500, memory=1e6)
        return jnp.sum(weights * state.positions), state

    (value, state), by_steps = unrolled(1.4)
    assert state.largest_force < 1e-12

    @jax.jit
    @jax.value_and_grad
    def at_minimum(ratio):
        potential = discs(ratio, 7)
        x = implicit.minimum(lambda x: potential.energy(Periodic(SEVEN), x, AllPairs()), state.positions)
        return jnp.sum(weights * x)

    found, by_minimum = at_minimum(1.4)
    np.testing.assert_allclose(found, value, rtol=1e-13)
    np.testing.assert_allclose(by_minimum, by_steps, rtol=1e-6)
    assert abs(by_minimum) > 0.01


N = 55
BOX = float(np.sqrt(N / 0.5))
START = np.random.default_rng(5).uniform(0, BOX, (N, 2))
WEIGHTS = np.random.default_rng(6).normal(size=(N, 2))


@jax.jit
def relax(ratio, box, start):
    return packed(discs(ratio, N), Periodic(box), start)


def observables(ratio, box, start, pairs):
    """Of the minimum: a random sum of positions (relative to their mean), and the pressure times the volume."""
    potential, space = discs(ratio, N), Periodic(box)
    x = implicit.minimum(lambda x: potential.energy(space, x, pairs), start)
    relative = x - jnp.mean(x, axis=0, keepdims=True)
    return jnp.stack([jnp.sum(WEIGHTS * relative), jnp.trace(potential.virial(space, x, pairs))])


@jax.jit
def jacobians(ratio, box, start):
    """By the ratio and by the box, `[2]` each, in reverse mode."""
    return jax.jacrev(observables, argnums=(0, 1))(ratio, box, start, AllPairs())


values = jax.jit(observables)


@pytest.fixture(scope="module")
def packing():
    """55 bidisperse discs of mean diameter 2 at number density 0.5: area fraction 1.6, deep in the jammed state."""
    with jax.enable_x64(True):
        found = relax(1.4, BOX, jnp.asarray(START))
        assert found.converged
        return found.state


@pytest.mark.slow
def test_the_gradient_of_a_packing_of_55_discs_equals_finite_differences(packing):
    """Each minimised again to machine precision, from the minimum."""
    by_ratio, by_box = jacobians(1.4, BOX, packing.positions)

    def relaxed(ratio, box):
        found = relax(ratio, box, packing.positions)
        assert found.converged
        return np.asarray(values(ratio, box, found.state.positions, AllPairs()))

    h = 1e-6
    by_differences = (relaxed(1.4 + h, BOX) - relaxed(1.4 - h, BOX)) / (2 * h)
    np.testing.assert_allclose(by_ratio, by_differences, rtol=1e-5)
    by_differences = (relaxed(1.4, BOX + h) - relaxed(1.4, BOX - h)) / (2 * h)
    np.testing.assert_allclose(by_box, by_differences, rtol=1e-5)
    assert np.all(np.abs(by_ratio) > 1)


@pytest.mark.slow
def test_forward_mode_equals_reverse_mode_and_a_list_equals_all_pairs(packing):
    pairs = allocate(Periodic(BOX), packing.positions, cutoff=2.4, skin=0.2)
    forward = jax.jit(jax.jacfwd(observables, argnums=(0, 1)))(1.4, BOX, packing.positions, pairs)
    np.testing.assert_allclose(forward, jacobians(1.4, BOX, packing.positions), rtol=1e-8)


@pytest.mark.slow
def test_a_batch_of_parameters_equals_a_loop(packing):
    def gradient(ratio):
        found = relax(ratio, BOX, packing.positions)
        return jnp.stack(jacobians(ratio, BOX, found.state.positions))

    ratios = jnp.asarray([1.38, 1.4, 1.41])
    batch = jax.vmap(gradient)(ratios)
    np.testing.assert_allclose(batch, [gradient(ratio) for ratio in ratios], rtol=1e-6)
    assert np.all(np.ptp(batch, axis=0) > 0.01)


NEAR_JAMMING = 1.47  # mean diameter: area fraction 0.87


@jax.jit
def near_jamming(ratio, start):
    """The packing, and how many others each disc touches."""
    potential, space = discs(ratio, N, mean=NEAR_JAMMING), Periodic(BOX)
    found = packed(potential, space, start)

    def touch(a, b):
        d = space.displacement(a["x"], b["x"])
        return jnp.where(jnp.sum(d * d) < (0.5 * (a["sigma"] + b["sigma"])) ** 2, 1, 0)

    features = {"x": found.state.positions, "sigma": potential.parameters["sigma"].values}
    return found, neighbor_sum(touch, features, AllPairs(), parity=1)


def moved(ratio, start):
    potential = discs(ratio, N, mean=NEAR_JAMMING)
    return implicit.minimum(lambda x: potential.energy(Periodic(BOX), x, AllPairs()), start)


by_the_ratio = jax.jit(jax.jacfwd(moved))
of_a_random_sum = jax.jit(jax.grad(lambda ratio, start: jnp.sum(WEIGHTS * moved(ratio, start))))


@pytest.mark.slow
def test_rattlers_stay_where_they_are_and_the_others_move_as_in_finite_differences():
    found, contacts = near_jamming(1.4, jnp.asarray(np.random.default_rng(1).uniform(0, BOX, (N, 2))))
    x, rattlers = found.state.positions, np.asarray(contacts) == 0
    assert found.converged
    assert np.sum(rattlers) == 1
    forward = by_the_ratio(1.4, x)
    np.testing.assert_array_equal(forward[rattlers], 0.0)
    h = 1e-7
    plus, minus = (near_jamming(1.4 + s * h, x)[0].state.positions for s in (1, -1))
    differences = (plus - minus) / (2 * h)
    np.testing.assert_allclose(forward, differences, atol=1e-5 * np.abs(differences).max())
    np.testing.assert_allclose(of_a_random_sum(1.4, x), jnp.sum(WEIGHTS * forward), rtol=1e-6)


def test_contacts_about_to_break_do_not_disturb_the_solve():
    """A rattler that rests against one disc is held in one direction and is free in the other."""
    found, contacts = near_jamming(1.4, jnp.asarray(np.random.default_rng(3).uniform(0, BOX, (N, 2))))
    assert found.converged
    assert {0, 1} <= set(np.asarray(contacts).tolist())
    x = found.state.positions
    np.testing.assert_allclose(of_a_random_sum(1.4, x), jnp.sum(WEIGHTS * by_the_ratio(1.4, x)), rtol=1e-6)


def test_discs_that_do_not_touch_do_not_answer():
    """An unjammed packing: every direction is flat, every derivative 0."""
    start = jnp.asarray([[1.0, 1.0], [3.5, 1.0], [1.0, 4.0]])

    @jax.jit
    @jax.jacrev
    def derivative(sigma):
        potential = soft_sphere(sigma=sigma)
        return implicit.minimum(lambda x: potential.energy(Free(), x, AllPairs()), start)

    np.testing.assert_array_equal(derivative(2.0), 0.0)


# --- the linear system ------------------------------------------------------------------------------------------------


def test_the_response_is_the_pseudo_inverse_of_the_hessian(packing):
    potential = discs(1.4, N)

    def energy(x):
        return potential.energy(Periodic(BOX), x, AllPairs())

    force = jnp.asarray(WEIGHTS)  # its mean is not zero: a part of it is along the translations
    found = jax.jit(lambda f: implicit.response(energy, packing.positions, f))(force)
    assert found.converged
    assert found.residual < 1e-9
    hessian = np.asarray(jax.jit(jax.hessian(energy))(packing.positions)).reshape(2 * N, 2 * N)
    expected = np.linalg.pinv(hessian, rcond=1e-10, hermitian=True) @ WEIGHTS.ravel()
    np.testing.assert_allclose(found.displacement.ravel(), expected, atol=1e-7 * np.abs(expected).max())
    damped = jax.jit(lambda f: implicit.response(energy, packing.positions, f, damping=0.01).displacement)(force)
    values, modes = np.linalg.eigh(hessian)
    answer = np.where(values > 1e-10, 1 / (values + 0.01), 0.0)
    np.testing.assert_allclose(damped.ravel(), modes @ (answer * (modes.T @ WEIGHTS.ravel())), atol=1e-7)


def test_a_solve_that_does_not_converge_is_never_taken_for_an_answer(packing):
    def answer(ratio, unsolved):
        energy = functools.partial(discs(ratio, N).energy, Periodic(BOX), pairs=AllPairs())
        x = implicit.minimum(energy, packing.positions, iterations=5, unsolved=unsolved)
        return ratio**2 + jnp.sum(WEIGHTS * x)

    def value_and_derivative(mode, unsolved):
        if mode is jax.jvp:
            return jax.jvp(lambda ratio: answer(ratio, unsolved), (1.4,), (1.0,))
        return jax.value_and_grad(answer)(1.4, unsolved)

    for mode in (jax.jvp, jax.vjp):
        for unsolved, expected in (("nan", np.nan), ("frozen", 2 * 1.4)):
            value, derivative = jax.jit(value_and_derivative, static_argnums=(0, 1))(mode, unsolved)
            assert np.isfinite(value)
            np.testing.assert_allclose(derivative, expected)
    with pytest.raises(ValueError, match="unsolved = 'zero'; must be one of 'nan', 'frozen'"):
        answer(1.4, "zero")


# --- box --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("box", ["isotropic", "cell"])
def test_a_crystal_at_a_pressure_has_the_lattice_constant_of_the_closed_form(box):
    """A square lattice of springs of length l: a particle has 2 of them and the area a^2.

    Its enthalpy, `k (a - l)^2 + p a^2`, is least at `a = k l / (k + p)`.
    """
    k, rest, p, side = 3.0, 1.0, 0.2, 4
    a = k * rest / (k + p)
    positions = jnp.asarray(a * np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1).reshape(-1, 2))
    lattice = Triclinic(side * a * np.eye(2)) if box == "cell" else Periodic(side * a)

    def spacing(stiffness, rest, pressure):
        potential = pair_potential(harmonic, cutoff=1.2, stiffness=stiffness, rest=rest)
        space, x = implicit.minimum_at_pressure(potential, lattice, positions, pressure=pressure, box_mode=box)
        bond = space.displacement(x[side], x[0])  # the next one along x
        value = jnp.stack([space.volume(2) ** 0.5 / side, bond[0]])
        return value, value

    derivatives, value = jax.jit(jax.jacfwd(spacing, argnums=(0, 1, 2), has_aux=True))(k, rest, p)
    np.testing.assert_allclose(value, [a, a], rtol=1e-12)
    expected = [p * rest / (k + p) ** 2, k / (k + p), -k * rest / (k + p) ** 2]
    np.testing.assert_allclose(derivatives, np.stack([expected, expected], axis=1), rtol=1e-8)


@pytest.mark.slow
def test_the_box_of_a_packing_answers_to_pressure_as_in_finite_differences(packing):
    fire = FIRE(dt=0.1, box_mode="axes", pressure=0.1)

    @jax.jit
    def relaxed(pressure, space, start):
        minimizer = fire.replace(pressure=pressure)
        return minimize(minimizer, discs(1.4, N), minimizer.init(discs(1.4, N), space, start), **STOP)

    at = relaxed(0.1, Periodic(BOX), packing.positions)
    assert at.converged

    @jax.jit
    @jax.jacrev
    def gradient(pressure):
        state, options = at.state, {"pressure": pressure, "box_mode": "axes"}
        space, _ = implicit.minimum_at_pressure(discs(1.4, N), state.space, state.positions, **options)
        return space.box

    h = 1e-6
    moved = [relaxed(0.1 + s * h, at.state.space, at.state.positions).state.space.box for s in (1, -1)]
    np.testing.assert_allclose(gradient(0.1), (moved[0] - moved[1]) / (2 * h), rtol=1e-5)


def test_bad_boxes_are_named():
    x = jnp.zeros((2, 2))
    with pytest.raises(ValueError, match="box_mode = 'fixed'; must be one of 'isotropic', 'axes', 'cell'"):
        implicit.minimum_at_pressure(lennard_jones(), Periodic(9.0), x, pressure=1.0, box_mode="fixed")
    with pytest.raises(ValueError, match="box_mode = 'cell'; must be 'fixed', 'isotropic', 'axes' in Periodic space"):
        implicit.minimum_at_pressure(lennard_jones(), Periodic(9.0), x, pressure=1.0, box_mode="cell")
