"""Minimisers against known minima, in the energy and in the enthalpy; their derivatives against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import dmdenv.minimizers
from dmdenv.minimizers import FIRE, GradientDescent, Minimizer, minimize
from dmdenv.neighbors import allocate
from dmdenv.potentials import PerParticle, lennard_jones, pair_potential
from dmdenv.space import Free, Periodic, Triclinic
from marks import by_default
from systems import FCC, Well, central_difference, crystal, run

pytestmark = pytest.mark.usefixtures("x64")

EVERY = {
    "gradient_descent": lambda **options: GradientDescent(step_size=1e-3, max_displacement=0.05, **options),
    "fire": lambda **options: FIRE(dt=0.01, max_displacement=0.1, **options),
}
every = pytest.mark.parametrize("name", EVERY)


def overlap(r, diameter):
    return 0.5 * (1 - r / diameter) ** 2


def soft_spheres(diameters):
    """Harmonic repulsion of overlapping particles."""
    values = PerParticle(jnp.asarray(diameters))
    return pair_potential(overlap, cutoff=values, diameter=values)


def packing(n=40, fraction=0.95):
    """Random discs of diameters 1 and 1.4, half of each, overcompressed: potential, positions, side."""
    diameters = np.where(np.arange(n) % 2, 1.4, 1.0)
    side = np.sqrt(np.pi / 4 * np.sum(diameters**2) / fraction)
    r = np.random.default_rng(0).random((n, 2)) * side
    return soft_spheres(diameters), jnp.asarray(r), side


# --- fixed boxes ------------------------------------------------------------------------------------------------------


def test_gradient_descent_decays_geometrically_in_a_quadratic_bowl():
    r = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    method = GradientDescent(step_size=0.3)
    state = method.init(Well(2.0), Free(), r)
    _, found = run(method, Well(2.0), state, 20, lambda m, p, s: s.positions)
    exact = (1 - 0.3 * 2.0) ** np.arange(1, 21)[:, None, None] * np.asarray(r)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def fire_by_the_book(force, x, dt0, steps):
    """The published algorithm, step by step on the host; `delay` 20 and all the other recommended values."""
    v, dt, alpha, good = np.zeros_like(x), dt0, 0.25, 0
    path = []
    for i in range(steps):
        F = force(x)
        if np.sum(F * v) > 0:
            good += 1
            if good > 20:
                dt, alpha = min(1.1 * dt, 10 * dt0), 0.99 * alpha
        else:
            good = 0
            x = x - 0.5 * dt * v
            if i >= 20:
                dt, alpha = (0.5 * dt if 0.5 * dt >= 0.02 * dt0 else dt), 0.25
            v = np.zeros_like(v)
        v = v + dt * F
        v = (1 - alpha) * v + alpha * F * np.linalg.norm(v) / np.linalg.norm(F)
        x = x + dt * v
        path.append(x)
    return np.array(path)


def test_fire_takes_the_published_steps():
    r, k = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[1.0, 30.0], [5.0, 2.0]])
    anisotropic = Well(jnp.asarray(k))
    state = FIRE(dt=0.05).init(anisotropic, Free(), jnp.asarray(r))
    end, found = run(FIRE(dt=0.05), anisotropic, state, 200, lambda m, p, s: s.positions)
    expected = fire_by_the_book(lambda x: -k * x, r, 0.05, 200)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert end.dt != 0.05
    assert np.max(np.abs(end.positions)) < 1e-3


@every
def test_thirteen_atoms_find_the_icosahedron(name):
    """The global minimum of 13 Lennard-Jones atoms, -44.326801 (Northby; Cambridge cluster database)."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (1, -1) for b in (1, -1)]
    corners = np.array([np.roll(corner, k) for corner in corners for k in range(3)])
    shell = 1.08 * corners / np.linalg.norm(corners[0])
    r = np.concatenate([np.zeros((1, 3)), shell]) + 0.05 * np.random.default_rng(1).normal(size=(13, 3))
    potential, method = lennard_jones(cutoff=np.inf), EVERY[name]()
    found = minimize(
        method, potential, method.init(potential, Free(), jnp.asarray(r)), tolerance=1e-8, max_steps=20_000
    )
    assert found.converged
    np.testing.assert_allclose(method.objective(potential, found.state), -44.326801, atol=1e-6)


def test_a_packing_of_soft_discs_comes_to_rest():
    potential, r, side = packing()
    method = FIRE(dt=0.2)
    state = method.init(potential, Periodic(side), r)
    found = minimize(method, potential, state, tolerance=1e-10, max_steps=20_000)
    assert found.converged
    assert found.state.largest_force < 1e-10
    assert 0 < method.objective(potential, found.state) < 0.1 * method.objective(potential, state)
    forces = np.asarray(potential.forces(Periodic(side), found.state.positions, state.pairs))
    np.testing.assert_allclose(found.state.largest_force, np.max(np.linalg.norm(forces, axis=1)))


def test_minimize_gives_up_after_the_steps_it_has():
    potential, r, side = packing()
    state = FIRE(dt=0.2).init(potential, Periodic(side), r)
    found = minimize(FIRE(dt=0.2), potential, state, tolerance=1e-10, max_steps=7)
    assert not found.converged
    assert found.steps == found.state.steps == 7
    at_once = minimize(FIRE(dt=0.2), potential, state, tolerance=1e6, max_steps=7)
    assert at_once.converged
    assert at_once.steps == 0


def test_minimize_reports_what_is_broken():
    potential, r, side = packing()
    state = FIRE(dt=0.2).init(potential, Periodic(side), r)
    nan = minimize(FIRE(dt=0.2), potential, state.replace(forces=state.forces * jnp.nan), tolerance=1e-10, max_steps=7)
    assert not nan.converged
    assert nan.steps == 0
    crystal_like = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, side, 6, endpoint=False)] * 2), -1).reshape(-1, 2)
    potential = soft_spheres(np.ones(36))
    pairs = allocate(Periodic(side), crystal_like, cutoff=1.0, skin=0.1, slack=1.0)
    state = FIRE(dt=0.2).init(potential, Periodic(side), 0.3 * crystal_like, pairs=pairs)
    assert state.overflow

    def run(state):
        return minimize(FIRE(dt=0.2), potential, state, tolerance=1e-10, max_steps=100)

    found = jax.jit(run)(state)  # no shape can change
    assert found.state.overflow and not found.converged and found.steps == 0
    grown = run(state)
    complete = run(FIRE(dt=0.2).init(potential, Periodic(side), 0.3 * crystal_like))
    assert not grown.state.overflow and grown.steps == complete.steps
    np.testing.assert_allclose(grown.state.forces, complete.state.forces, atol=1e-10)


@every
def test_no_particle_moves_farther_than_allowed(name):
    potential, r, side = packing()
    method = EVERY[name]().replace(max_displacement=0.003)
    state = method.init(potential, Periodic(side), r)
    if name == "gradient_descent":
        method = method.replace(step_size=1.0)
    _, path = run(method, potential, state, 30, lambda m, p, s: s.positions)
    hops = np.linalg.norm(np.diff(np.asarray(path), axis=0), axis=-1)
    assert np.max(hops) < 0.003 * 1.5 + 1e-12  # FIRE may take half a hop back
    assert np.max(hops) > 0.0029


def test_nothing_moves_at_the_minimum_and_derivatives_are_finite_there():
    r = jnp.zeros((2, 2))
    for method in (FIRE(dt=0.1), GradientDescent(step_size=0.1)):
        state = method.init(Well(1.0), Free(), r)
        end, _ = run(method, Well(1.0), state, 3)
        assert not np.any(end.positions)
        slope = jax.grad(lambda r, m=method: jnp.sum(run(m, Well(1.0), m.init(Well(1.0), Free(), r), 3)[0].positions))(
            r
        )
        assert np.all(np.isfinite(slope))


# --- boxes that may change --------------------------------------------------------------------------------------------


@functools.cache
def lattice_sum(cutoff=2.5):
    """The energy an atom of an fcc crystal of constant a, by counting neighbours; independent of the package."""
    grid = np.array(np.meshgrid(*[range(-4, 5)] * 3)).reshape(3, -1).T
    sites = (grid[:, None] + np.array(FCC)[None]).reshape(-1, 3)
    distances = np.linalg.norm(sites, axis=1)
    distances = distances[distances > 0]

    def energy(a):
        r = a * distances[a * distances < cutoff]
        return 2 * np.sum(r**-12.0 - r**-6.0)

    return energy


@pytest.mark.parametrize(
    ("box", "pressure"), by_default([("isotropic", 5.0), ("axes", 0.0), ("cell", 5.0)], ("cell", 5.0))
)
def test_a_crystal_finds_the_lattice_constant_of_its_pressure(box, pressure):
    """The enthalpy of the lattice sum, minimised as a function of one number."""

    def enthalpy(a):
        return lattice_sum()(a) + pressure * a**3 / 4

    best = scipy.optimize.minimize_scalar(enthalpy, bounds=(1.45, 1.6), method="bounded", options={"xatol": 1e-10})
    r, side = crystal(4, 4 / 1.58**3, noise=0.01)
    space = Triclinic(np.eye(3) * side) if box == "cell" else Periodic(np.array([1.0, 0.99, 1.01]) * side)
    if box == "isotropic":
        space = Periodic(side)
    potential, method = lennard_jones(), FIRE(dt=0.02, box_mode=box, pressure=pressure)
    found = minimize(method, potential, method.init(potential, space, r), tolerance=1e-6, max_steps=3000)
    assert found.converged
    edges = found.state.space.cell if box == "cell" else jnp.diag(found.state.space.box)
    np.testing.assert_allclose(edges, np.eye(3) * 4 * best.x, atol=1e-5)
    np.testing.assert_allclose(method.objective(potential, found.state), 256 * best.fun, rtol=1e-9)
    virial = potential.virial(found.state.space, found.state.positions, found.state.pairs)
    np.testing.assert_allclose(virial / found.state.space.volume(3), np.eye(3) * pressure, atol=1e-5)


def test_a_sheared_cell_relaxes_to_zero_stress():
    """A square-celled crystal of discs, sheared and stretched, finds the triangular lattice whatever its cell."""
    side, n = 1.1, 5
    cell = n * side * np.array([[1.0, 0.0], [0.3, 0.9]])
    fractional = np.array([[i, j] for i in range(n) for j in range(n)]) / n
    potential = lennard_jones(cutoff=2.2)
    method = FIRE(dt=0.02, box_mode="cell")
    state = method.init(potential, Triclinic(cell), jnp.asarray(fractional @ cell))
    assert state.largest_stress > 0.1
    found = minimize(method, potential, state, tolerance=1e-9, max_steps=5000)
    assert found.converged
    end = found.state
    virial = potential.virial(end.space, end.positions, end.pairs)
    np.testing.assert_allclose(virial, np.zeros((2, 2)), atol=1e-7)
    # each lattice vector of a triangular lattice has the same length, and two of them an angle of 60 degrees
    a, b = np.asarray(end.space.cell) / n
    best = scipy.optimize.minimize_scalar(
        lambda x: sum(6 * 2 * ((x * s) ** -12.0 - (x * s) ** -6.0) for s in (1.0, np.sqrt(3)) if x * s < 2.2),
        bounds=(1.0, 1.2),
        method="bounded",
        options={"xatol": 1e-10},
    )
    lengths = sorted(np.linalg.norm([a, b, a - b, a + b], axis=1))[:3]
    np.testing.assert_allclose(lengths, best.x, atol=1e-6)
    assert end.space.cell[0, 1] == 0.0


@pytest.mark.parametrize("box", by_default(["fixed", "isotropic", "axes", "cell"], "cell"))
def test_the_generalised_force_is_the_derivative_of_the_enthalpy(box):
    """A small move along a random direction changes H by minus the direction times the force."""
    r, side = crystal(3, 0.9, noise=0.05)
    cell = np.array([[1.0, 0, 0], [0.1, 0.97, 0], [-0.08, 0.05, 1.04]]) * side
    potential = lennard_jones(cutoff=1.8, truncation="force_shifted")
    method = GradientDescent(step_size=1.0, box_mode=box, pressure=0.0 if box == "fixed" else 2.0)
    state = method.init(potential, Triclinic(cell), r)
    rng = np.random.default_rng(0)
    direction = [jnp.asarray(rng.normal(size=part.shape)) for part in state.direction]
    if box != "fixed":
        allowed = {"isotropic": np.eye(3), "axes": np.diag([0.3, -1.0, 2.0]), "cell": np.triu(np.ones((3, 3)))}[box]
        direction[1] = jnp.asarray(allowed)

    def enthalpy(t):
        return method.objective(potential, method._move(potential, state, tuple(t * part for part in direction)))

    slope = central_difference(enthalpy, 0.0, 1.0, 1e-5)
    force = sum(float(jnp.vdot(a, b)) for a, b in zip(direction, state.direction, strict=True))
    np.testing.assert_allclose(-slope, force, rtol=1e-6)


@pytest.mark.slow
def test_the_number_of_steps_does_not_depend_on_the_size():
    """Strains and positions are commensurate: eight times the atoms need about as many steps."""
    steps = []
    for cells in (2, 4):
        r, side = crystal(cells, 0.9)
        potential, method = lennard_jones(cutoff=1.5, truncation="force_shifted"), FIRE(dt=0.02, box_mode="isotropic")
        found = minimize(method, potential, method.init(potential, Periodic(side), r), tolerance=1e-8, max_steps=3000)
        assert found.converged
        steps.append(int(found.steps))
    assert max(steps) < 1.2 * min(steps)


def test_lists_follow_a_box_that_changes():
    r, side = crystal(4, 0.95, noise=0.01)
    potential = lennard_jones(truncation="force_shifted")
    method = FIRE(dt=0.02, box_mode="isotropic", pressure=3.0)
    pairs = allocate(Periodic(side), r, cutoff=2.5, skin=0.1, slack=1.5)
    found = minimize(
        method, potential, method.init(potential, Periodic(side), r, pairs=pairs), tolerance=1e-6, max_steps=999
    )
    assert found.converged
    assert not found.state.overflow
    assert np.max(found.state.space.box) < 0.99 * side
    end = found.state
    fresh = allocate(end.space, end.positions, cutoff=2.5, skin=0.0)
    energy = potential.energy(end.space, end.positions, fresh)
    np.testing.assert_allclose(potential.energy(end.space, end.positions, end.pairs), energy, rtol=1e-12)


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "box"),
    by_default([("gradient_descent", "axes"), ("fire", "fixed"), ("fire", "cell")], ("fire", "fixed")),
)
def test_gradients_through_unrolled_steps_equal_finite_differences(name, box):
    """By positions, parameters of the potential and of the method, and the box, through 60 steps."""
    r, side = crystal(4, 0.7, basis=((0.0, 0.0),), noise=0.05)
    x = {
        "positions": r,
        "potential": lennard_jones(epsilon=1.1, sigma=0.98, cutoff=2.2, onset=1.8, truncation="switched"),
        "method": EVERY[name](box_mode=box, **({} if box == "fixed" else {"pressure": 0.5})),
        "cell": jnp.asarray([[side, 0.0], [0.2, side]]),
    }

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        state = x["method"].init(x["potential"], Triclinic(x["cell"]), x["positions"])
        end, _ = run(x["method"], x["potential"], state, 60)
        return jnp.sum(jnp.sin(end.positions)) + jnp.sum(end.space.cell**2)

    _, slope = loss(x)
    rng = np.random.default_rng(5)
    for part in x:
        zeros = jax.tree.map(jnp.zeros_like, x)
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.1) * a, x[part])
        expected = central_difference(lambda x: loss(x)[0], x, {**zeros, part: direction}, 1e-6)
        pieces = zip(jax.tree.leaves(slope[part]), jax.tree.leaves(direction), strict=True)
        found = sum(float(jnp.vdot(a, b)) for a, b in pieces)
        assert abs(expected) > 1e-8
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8, err_msg=part)


# --- what all have in common ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", by_default(EVERY, "fire"))
def test_jit_equals_eager_and_vmap_equals_a_loop(name):
    potential, r, side = packing(n=10)
    method = EVERY[name](box_mode="isotropic", pressure=0.1)

    @jax.jit
    def end(shift, pressure):
        moved = method.replace(pressure=pressure)
        return run(moved, potential, moved.init(potential, Periodic(side), r + shift * jnp.sin(r)), 3)[0]

    shifts, pressures = jnp.array([0.0, 0.1, 0.2]), jnp.array([0.0, 0.1, 1.0])
    together = jax.jit(jax.vmap(end))(shifts, pressures)
    for i in range(3):
        alone = end(shifts[i], pressures[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-12, atol=1e-14)

    state = method.init(potential, Periodic(side), r)
    expected, _ = run(method, potential, state, 1)
    np.testing.assert_allclose(method.step(potential, state).positions, expected.positions, rtol=1e-12)


def test_minimize_maps_over_many_starts():
    potential, r, side = packing(n=10)
    method = FIRE(dt=0.2)
    starts = jnp.stack([r, r[::-1], 0.9 * r])

    @jax.jit
    def lowest(r):
        found = minimize(method, potential, method.init(potential, Periodic(side), r), tolerance=1e-8, max_steps=5000)
        return found.converged, found.steps, method.objective(potential, found.state)

    converged, steps, energies = jax.vmap(lowest)(starts)
    assert np.all(converged)
    for i in range(3):
        _, alone, energy = lowest(starts[i])
        assert steps[i] == alone
        np.testing.assert_allclose(energies[i], energy, rtol=1e-6, atol=1e-14)


@every
def test_changing_a_parameter_compiles_nothing(name, compilations):
    potential, r, side = packing(n=10)
    method = EVERY[name](box_mode="isotropic", pressure=0.1)
    others = [jax.tree.map(lambda leaf: 0.5 * leaf, method), method.replace(pressure=0.7)]
    step = jax.jit(type(method).step)
    state = step(method, potential, method.init(potential, Periodic(side), r))
    compilations.clear()
    for other in others:
        state = step(other, potential, state)
    assert compilations == []


@every
def test_precision_is_that_of_the_positions(name):
    with jax.enable_x64(False):
        potential, r, side = packing(n=10)
        method = EVERY[name](box_mode="isotropic")
        state = method.init(potential, Periodic(side), jnp.asarray(r, "float32"))
        end, _ = run(method, potential, state, 2)
        assert {a.dtype.name for a in jax.tree.leaves(end)} <= {"float32", "int32", "bool"}
        assert jax.tree.structure(end) == jax.tree.structure(state)


BAD = {
    "FIRE.box_mode = 'free'; must be one of 'fixed', 'isotropic', 'axes', 'cell'": lambda: FIRE(
        dt=0.1, box_mode="free"
    ),
    "FIRE.pressure = 1; must be 0 for box_mode = 'fixed'": lambda: FIRE(dt=0.1, pressure=1.0),
    "FIRE.pressure = inf; must be a finite number": lambda: FIRE(dt=0.1, box_mode="axes", pressure=np.inf),
    "FIRE.dt = 0.0; must be a finite number > 0": lambda: FIRE(dt=0.0),
    "FIRE.mixing = -0.1; must be a finite number >= 0": lambda: FIRE(dt=0.1, mixing=-0.1),
    "GradientDescent.step_size = -1.0; must be a finite number > 0": lambda: GradientDescent(step_size=-1.0),
    "GradientDescent.max_displacement = 0.0; must be": lambda: GradientDescent(step_size=1.0, max_displacement=0.0),
    "box_mode = 'cell'; must be 'fixed', 'isotropic', 'axes' in Periodic space": lambda: start("cell", Periodic(2.0)),
    "box_mode = 'axes'; must be 'fixed' in Free space": lambda: start("axes", Free()),
    r"positions is float64\[2\]; must be": lambda: start("fixed", Free(), np.ones(2)),
    "tolerance = -1.0; must be a finite number >= 0": lambda: minimize(
        FIRE(dt=0.1), Well(1.0), start("fixed", Free()), tolerance=-1.0, max_steps=3
    ),
    "max_steps = -3; must be an integer >= 0": lambda: minimize(
        FIRE(dt=0.1), Well(1.0), start("fixed", Free()), tolerance=1.0, max_steps=-3
    ),
}


def start(box, space, r=((0.0, 1.0), (1.0, 0.0))):
    return FIRE(dt=0.1, box_mode=box).init(Well(1.0), space, np.asarray(r))


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_every_exported_name_exists_and_every_minimizer_is_tested():
    exported = [getattr(dmdenv.minimizers, name) for name in dmdenv.minimizers.__all__]
    minimizers = {c for c in exported if isinstance(c, type) and issubclass(c, Minimizer)} - {Minimizer}
    assert minimizers == {type(make()) for make in EVERY.values()}
