"""Pair potentials against closed forms and other codes."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import (
    BySpecies,
    PerPair,
    PerParticle,
    buckingham,
    lennard_jones,
    mie,
    morse,
    pair_potential,
    soft_sphere,
    wca,
    yukawa,
)
from dmdenv.potentials.pair import truncate
from dmdenv.space import Free, Periodic, Triclinic
from marks import OPTIMIZED

pytestmark = pytest.mark.usefixtures("x64")


@jax.jit
def evaluate(potential, space, r, pairs):
    return potential.energy(space, r, pairs), potential.forces(space, r, pairs), potential.virial(space, r, pairs)


# --- other codes ------------------------------------------------------------------------------------------------------

N = 48
CELLS = {
    "box": lambda: Periodic(np.array([5.6, 6.0, 5.3])),
    "cell": lambda: Triclinic(np.array([[5.6, 0, 0], [-1.9, 5.7, 0], [2.1, 1.7, 5.3]])),
}


def liquid(space) -> np.ndarray:
    """N particles off a lattice in the box, some of them outside of it."""
    rng = np.random.default_rng(4)
    lattice = np.stack(np.meshgrid(*map(np.arange, (4, 4, 3)), indexing="ij"), axis=-1).reshape(-1, 3) / (4, 4, 3)
    edges = np.diag(np.asarray(space.box)) if isinstance(space, Periodic) else np.asarray(space.cell)
    turns = rng.integers(-1, 2, (N, 3))
    return (lattice + rng.uniform(-0.035, 0.035, (N, 3)) + turns) @ edges


DIAMETERS = np.random.default_rng(5).uniform(0.9, 1.3, N)
KINDS = np.arange(N) % 2
LJ = "4 * epsilon * ((sigma / r)^12 - (sigma / r)^6)"
MIXED = "; sigma = (d1 + d2) / 2"
# ours, and the same for OpenMM: expression, cutoff
TWINS = {
    "lennard_jones": (
        lambda: lennard_jones(epsilon=1.3, sigma=1.1),
        (f"{LJ}; epsilon = 1.3; sigma = 1.1", 2.5),
    ),
    "lennard_jones force_shifted": (
        lambda: lennard_jones(sigma=BySpecies(np.array([[1.0, 0.8], [0.8, 0.88]]), KINDS), truncation="force_shifted"),
        (
            "u - at_end - (r - 2.5) * slope; u = 4 * ((sigma / r)^12 - (sigma / r)^6);"
            "at_end = 4 * ((sigma / 2.5)^12 - (sigma / 2.5)^6);"
            "slope = 4 * (6 * (sigma / 2.5)^6 - 12 * (sigma / 2.5)^12) / 2.5;"
            "sigma = select(k1 + k2, select(k1 * k2, 0.88, 0.8), 1)",
            2.5,
        ),
    ),
    "wca": (
        lambda: wca(epsilon=0.7, sigma=PerParticle(DIAMETERS)),
        (f"step(2^(1/6) * sigma - r) * ({LJ} + epsilon); epsilon = 0.7{MIXED}", 2.5),
    ),
    "soft_sphere": (
        lambda: soft_sphere(epsilon=3.0, sigma=PerParticle(1.5 * DIAMETERS), alpha=2.5),
        (f"step(1.5 * sigma - r) * 3 / 2.5 * (max(0, 1 - r / (1.5 * sigma)))^2.5{MIXED}", 2.5),
    ),
    "morse": (
        lambda: morse(epsilon=2.0, sigma=1.2, alpha=3.0),
        ("2 * ((1 - exp(-3 * (r - 1.2)))^2 - 1)", 2.5),
    ),
    "yukawa": (
        lambda: yukawa(strength=1.4, screening=0.8, cutoff=2.2, truncation="shifted"),
        ("1.4 * (exp(-0.8 * r) / r - exp(-0.8 * 2.2) / 2.2)", 2.2),
    ),
    "mie": (
        lambda: mie(epsilon=1.3, sigma=1.1, n=9.0, m=3.0),
        ("1.3 * 1.5 * 3^0.5 * ((1.1 / r)^9 - (1.1 / r)^3)", 2.5),
    ),
    "buckingham": (
        lambda: buckingham(repulsion=700.0, length=0.25, dispersion=1.5, cutoff=2.5),
        ("700 * exp(-r / 0.25) - 1.5 / r^6", 2.5),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_energy_and_forces_are_those_of_openmm(name):
    openmm = import_openmm()
    space = CELLS["box" if list(TWINS).index(name) % 2 else "cell"]()
    r = liquid(space)
    ours, (expression, cutoff) = TWINS[name]
    force = openmm.CustomNonbondedForce(expression)
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(cutoff)
    for parameter in ("d", "k"):
        force.addPerParticleParameter(parameter)
    for own in zip(DIAMETERS, KINDS, strict=True):
        force.addParticle([float(x) for x in own])
    expected_energy, expected_forces = by_openmm(openmm, force, space, r)
    energy, forces, _ = evaluate(ours(), space, jnp.asarray(r), AllPairs())
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=1e-10, atol=1e-10 * np.abs(expected_forces).max())


def import_openmm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("openmm")


def by_openmm(openmm, force, space, r: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces by OpenMM's platform of double precision; its units are taken as reduced ones."""
    system = openmm.System()
    edges = np.diag(np.asarray(space.box)) if isinstance(space, Periodic) else np.asarray(space.cell)
    system.setDefaultPeriodicBoxVectors(*[openmm.Vec3(*map(float, edge)) for edge in edges])
    for _ in r:
        system.addParticle(1.0)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(r)
    state = context.getState(getEnergy=True, getForces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(
    ("truncation", "own", "of_ase"),
    [("shifted", {}, {}), ("switched", {"onset": 1.5}, {"ro": 1.5, "smooth": True})],
)
def test_energy_forces_stress_and_shares_are_those_of_ase(kind, truncation, own, of_ase):
    ase, calculators = pytest.importorskip("ase"), pytest.importorskip("ase.calculators.lj")
    space = CELLS[kind]()
    r = liquid(space)
    potential = lennard_jones(epsilon=1.3, sigma=1.1, cutoff=2.4, truncation=truncation, **own)
    energy, forces, virial = evaluate(potential, space, jnp.asarray(r), AllPairs())
    edges = np.diag(np.asarray(space.box)) if isinstance(space, Periodic) else np.asarray(space.cell)
    atoms = ase.Atoms("H" * N, r, cell=edges, pbc=True)
    atoms.calc = calculators.LennardJones(epsilon=1.3, sigma=1.1, rc=2.4, **of_ase)
    np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-10)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-10, atol=1e-10 * np.abs(forces).max())
    stress = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(-virial / space.volume(3), stress, rtol=1e-10, atol=1e-10 * np.abs(stress).max())
    shares = potential.energies(space, jnp.asarray(r), AllPairs())
    np.testing.assert_allclose(shares, atoms.get_potential_energies(), rtol=1e-10)


# --- ends and middles -------------------------------------------------------------------------------------------------


@jax.jit
def along(potential, r):
    """Energy, force and stiffness `u''` of two particles at distances r, `[k]`."""

    def energy(r):
        return potential.energy(Free(), jnp.zeros((2, 3), r.dtype).at[1, 0].set(r), AllPairs())

    def force(r):
        return potential.forces(Free(), jnp.zeros((2, 3), r.dtype).at[1, 0].set(r), AllPairs())[1, 0]

    return jax.vmap(energy)(r), jax.vmap(force)(r), -jax.vmap(jax.grad(force))(r)


@pytest.mark.parametrize("alpha", [2.0, 2.5, 3.7])
def test_soft_spheres_have_the_derivatives_of_the_formula_up_to_contact(alpha):
    epsilon, sigma = 1.7, 1.3
    r = np.array([1e-3, 0.4, 1.0, 1.3 * (1 - 1e-9), 1.3, 1.4])
    x = np.maximum(1 - r / sigma, 0)
    expected = (
        epsilon / alpha * x**alpha,
        epsilon / sigma * x ** (alpha - 1),
        np.where(r < sigma, epsilon / sigma**2 * (alpha - 1) * x ** (alpha - 2), 0.0),
    )
    potential = soft_sphere(epsilon=epsilon, sigma=sigma, alpha=alpha)
    for found, formula in zip(along(potential, jnp.asarray(r)), expected, strict=True):
        np.testing.assert_allclose(found, formula, rtol=1e-5, atol=1e-16)  # 1 - r / sigma loses digits near contact
        np.testing.assert_allclose(found[:3], formula[:3], rtol=1e-12)


def test_energy_and_force_reach_the_cutoff_as_each_truncation_says():
    near = jnp.array([2.5 * (1 - 1e-7), 2.5 * (1 + 1e-7)])
    u, slope = 4 * (2.5**-12 - 2.5**-6), 4 * (6 * 2.5**-7 - 12 * 2.5**-13)
    jumps = {"truncated": (u, slope), "shifted": (0, slope), "force_shifted": (0, 0), "switched": (0, 0)}
    for truncation, jump in jumps.items():
        potential = lennard_jones(truncation=truncation, onset=2.0 if truncation == "switched" else None)
        energy, force, _ = along(potential, near)
        np.testing.assert_allclose([energy[0], -force[0]], jump, atol=2e-7)
        np.testing.assert_array_equal([energy[1], force[1]], 0)
    energy, force, _ = along(wca(sigma=1.7), 1.7 * 2 ** (1 / 6) * near / 2.5)
    np.testing.assert_allclose([energy, force], 0, atol=1e-5)


def test_the_switch_leaves_the_potential_alone_up_to_its_onset():
    r = jnp.array([0.9, 1.2, 1.9])
    switched, plain = lennard_jones(truncation="switched", onset=2.0), lennard_jones()
    for found, expected in zip(along(switched, r), along(plain, r), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("potential", "cutoff", "d"),
    [
        (lennard_jones(truncation="force_shifted"), 2.5, 3),
        (wca(), 2 ** (1 / 6), 2),
        pytest.param(lennard_jones(truncation="switched", onset=2.0), 2.5, 3, marks=pytest.mark.slow),
        pytest.param(soft_sphere(), 1.0, 2, marks=pytest.mark.slow),
        pytest.param(soft_sphere(alpha=2.5), 1.0, 3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ["list", "batch"])
def test_no_pair_within_rounding_of_the_cutoff_has_a_force(kind, potential, cutoff, d):
    """A compiled program may compare a distance with the cutoff several times, with different roundings."""
    generator, apart = np.random.default_rng(0), 8.0
    grid = np.stack(np.meshgrid(*[np.arange({2: 60, 3: 16}[d]) * apart] * d, indexing="ij"), -1).reshape(-1, d)
    bond = generator.normal(size=grid.shape)
    bond *= cutoff * (1 + generator.uniform(-3e-7, 3e-7, (len(grid), 1))) / np.linalg.norm(bond, axis=1, keepdims=True)
    with jax.enable_x64(False):
        r = np.stack([0 * grid, bond], 1).astype(np.float32)
        if kind == "batch":
            forces = jax.jit(jax.vmap(lambda r: potential.forces(Free(), r, AllPairs())), compiler_options=OPTIMIZED)(r)
        else:
            r = (r + grid[:, None]).reshape(-1, d).astype(np.float32)
            pairs = allocate(Free(), r, cutoff=1.01 * cutoff, skin=0.1)
            assert pairs.columns == 1
            forces = jax.jit(potential.forces, compiler_options=OPTIMIZED)(Free(), r, pairs)
    assert np.abs(forces).max() < 0.01  # the steepest grows by 57 a unit length


def test_an_energy_that_is_infinite_at_its_cutoff_has_finite_derivatives_beyond():
    wall = pair_potential(lambda r: -jnp.log1p(-((r / 1.5) ** 2)), cutoff=1.5)
    r = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.7, 0.0]])
    hessian = jax.jit(jax.hessian(lambda r: wall.energy(Free(), r, AllPairs())))(r)
    assert np.all(np.isfinite(hessian))
    assert np.all(hessian[2] == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "potential",
    [
        lambda: soft_sphere(),
        lambda: soft_sphere(alpha=2.5),
        lambda: morse(truncation="force_shifted"),
        lambda: pair_potential(gaussian, cutoff=3.0, width=1.0, truncation="shifted"),
    ],
)
def test_two_particles_at_one_place_have_their_energy_and_finite_derivatives(potential, dtype):
    potential = jax.tree.map(lambda leaf: leaf.astype(dtype), potential())
    r = jnp.zeros((3, 3), dtype).at[2, 0].set(0.5)

    def derivatives(potential, r):
        def energy(potential, r):
            return potential.energy(Free(), r, AllPairs())

        forces = potential.forces(Free(), r, AllPairs())
        tangent = jax.jvp(lambda r: potential.forces(Free(), r, AllPairs()), (r,), (jnp.ones_like(r).at[0, 0].set(0),))
        gradient = jax.grad(energy, argnums=(0, 1))(potential, r)
        curvature = jax.grad(lambda r: jnp.sum(jax.grad(energy, argnums=1)(potential, r)[:, 0] ** 2))(r)
        return energy(potential, r), forces, tangent, gradient, curvature, potential.virial(Free(), r, AllPairs())

    found = jax.jit(derivatives)(potential, r)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(found[1], -found[3][1], rtol=1e-5)
    s = np.array([0.0, 0.25, 0.25], dtype)  # squared distances of the three pairs, and their energies one by one
    limits = potential.truncation, potential.pair_cutoff, None, potential.parameters
    if potential.cutoff_unit:
        limits = potential.truncation, potential.pair_cutoff * potential.parameters[potential.cutoff_unit], *limits[2:]
    expected = sum(float(truncate(potential.function, limits[0], jnp.asarray(x), *limits[1:])) for x in s)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5 if dtype == np.float32 else 1e-14)


def gaussian(r, width):
    return jnp.exp(-(r**2) / width**2)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_by_species_and_mixed_are_those_of_each_pair():
    """Against a double loop in numpy over pairs with their own numbers."""
    rng, n = np.random.default_rng(0), 10
    r, kinds = rng.uniform(0, 3, (n, 2)), rng.integers(0, 3, n)
    strengths, diameters = np.array([[1, 2, 3], [2, 4, 5], [3, 5, 6]]) / 3, rng.uniform(0.8, 1.4, n)
    expected = 0.0
    for i in range(n):
        for j in range(i):
            sigma = (diameters[i] + diameters[j]) / 2
            overlap = 1 - np.linalg.norm(r[i] - r[j]) / sigma
            alpha = math.sqrt((2 + kinds[i]) * (2 + kinds[j]))
            expected += strengths[kinds[i], kinds[j]] / alpha * max(overlap, 0) ** alpha
    potential = soft_sphere(
        epsilon=BySpecies(strengths, kinds),
        sigma=PerParticle(diameters),
        alpha=PerParticle(2.0 + kinds, mix="geometric"),
    )
    np.testing.assert_allclose(jax.jit(potential.energy)(Free(), jnp.asarray(r), AllPairs()), expected, rtol=1e-12)


def test_the_cutoff_follows_the_diameter_when_that_changes():
    potential = soft_sphere(sigma=1.0)
    larger = potential.replace(parameters={**potential.parameters, "sigma": jnp.asarray(2.0)})
    assert larger.cutoff == 2.0
    np.testing.assert_allclose(along(larger, jnp.array([1.5]))[0], 0.5 * 0.25**2, rtol=1e-14)
    mixture = lennard_jones(sigma=BySpecies(np.array([[1.0, 0.8], [0.8, 0.88]]), np.array([0, 1])), cutoff_unit="sigma")
    assert mixture.cutoff == 2.5
    energy, _, _ = along(mixture, jnp.array([1.99, 2.01]))  # 2.5 x 0.8 = 2
    np.testing.assert_allclose(energy, [4 * ((0.8 / 1.99) ** 12 - (0.8 / 1.99) ** 6), 0], rtol=1e-13)


@pytest.mark.parametrize("kinds", [2, 4])  # one-hot, and from a table
def test_a_traced_species_without_a_row_gives_nan(kinds):
    r, matrix = jnp.linspace(0, 1, 6).reshape(3, 2), jnp.ones((kinds, kinds))

    @jax.jit
    def energy(species):
        return soft_sphere(sigma=BySpecies(matrix, species)).energy(Free(), r, AllPairs())

    assert np.isfinite(energy(jnp.array([0, 1, kinds - 1])))
    assert np.isnan(energy(jnp.array([0, 1, kinds]))) and np.isnan(energy(jnp.array([0, -1, 1])))


def test_mixtures_are_made_inside_of_compiled_code_as_outside():
    matrix, species = jnp.array([[1.0, 0.8], [0.8, 0.9]]), jnp.array([0, 1])

    def energy(r):
        ends = BySpecies(2.5 * matrix, species), BySpecies(2.0 * np.asarray(matrix), species)
        mixture = lennard_jones(sigma=BySpecies(matrix, species), cutoff=ends[0], onset=ends[1], truncation="switched")
        return mixture.energy(Free(), r, AllPairs())

    r = jnp.array([[0.0, 0.0], [1.7, 0.0]])
    np.testing.assert_allclose(jax.jit(energy)(r), energy(r), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lennard_jones(sigma=np.nan), "sigma = nan; must be a finite number"),
        (
            lambda: lennard_jones(epsilon=np.ones(3)),
            r"epsilon has shape \(3,\); must be a number, BySpecies, PerPair or PerPart",
        ),
        (lambda: lennard_jones(cutoff=-1.0), "cutoff = -1.0; must be a finite number > 0"),
        (
            lambda: lennard_jones(truncation="cut"),
            "truncation = 'cut'; must be one of 'truncated', 'shifted', 'force_shifted'",
        ),
        (lambda: lennard_jones(onset=2.0), "onset = 2.0; must be None for truncation = 'truncated'"),
        (
            lambda: lennard_jones(truncation="switched", onset=3.0),
            "onset = 3.0; must be >= 0 and below the cutoff, 2.5",
        ),
        (lambda: lennard_jones(cutoff_unit="s"), "cutoff_unit = 's'; must be one of 'epsilon', 'sigma'"),
        (
            lambda: lennard_jones(cutoff=np.inf, truncation="shifted"),
            "truncation = 'shifted'; must be 'truncated' without a cutoff",
        ),
        (lambda: soft_sphere(sigma=PerParticle(np.array([1.0, 0.0]))), r"sigma = \[1.0, 0.0\]; must be .* > 0"),
        (lambda: soft_sphere(alpha=1.0), "alpha = 1.0; must be a finite number > 1"),
        (lambda: soft_sphere(sigma=PerParticle(np.ones((2, 2)))), r"sigma has values of shape \(2, 2\); must be \[n\]"),
        (
            lambda: PerParticle(np.ones(2), mix="mean"),
            "PerParticle.mix = 'mean'; must be one of 'arithmetic', 'geometric', 'product'",
        ),
        (
            lambda: PerParticle(np.array([1.0, -1.0]), mix="geometric"),
            r"mix = 'geometric' = \[1.0, -1.0\]; must be .* >= 0",
        ),
        (lambda: PerParticle(np.zeros(0)), r"PerParticle.values has shape \(0,\); must not be empty"),
        (lambda: PerPair(np.ones((2, 3))), r"PerPair.matrix = .*; must be a symmetric matrix"),
        (lambda: wca(sigma=PerPair(np.zeros((2, 2)))), "sigma = .*; must be a finite number > 0"),
        (lambda: PerParticle(1.0), r"PerParticle.values has shape \(\); must be \[n\], one per particle"),
        (lambda: BySpecies(np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([0])), "must be a symmetric matrix"),
        (lambda: BySpecies(np.eye(2), np.array([0, 2])), r"BySpecies.species = \[0, 2\]; must be >= 0 and < 2"),
        (lambda: BySpecies(np.eye(2), np.array([0.5])), r"BySpecies.species has type float64\[1\]; must be int \[n\]"),
    ],
)
def test_a_bad_parameter_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pairs_that_would_be_missed_are_refused():
    r = jnp.asarray(np.random.default_rng(0).uniform(0, 4, (5, 3)))
    potential, space = lennard_jones(), Periodic(4.0)  # known outside of jit, and so inside
    for call in (potential.energy, lambda *at: jax.eval_shape(lambda r: potential.energy(space, r, AllPairs()), r)):
        with pytest.raises(ValueError, match=r"cutoff = 2.5; must be at most 2 in Periodic space"):
            call(space, r, AllPairs())
    with pytest.raises(ValueError, match=r"cutoff = 2.5; must be at most 2 in Triclinic space"):
        lennard_jones().energy(Triclinic(4.0 * np.eye(3)), r, AllPairs())
    with pytest.raises(ValueError, match=r"cutoff = 2.5; must be at most 1, the cutoff of the neighbour list"):
        lennard_jones().energy(Free(), r, allocate(Free(), r, cutoff=1.0, skin=0.1))
