"""Thermodynamics, structure, transport and polymers, each against a closed form, plain sums or finite differences."""

import functools
import math

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import lattice, quantities
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones, pair_potential
from dmdenv.space import Free, Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("x64")

CELL = np.array([[6.0, 0, 0], [1.5, 5.5, 0], [-1.0, 2.0, 7.0]])
BOX = np.array([6.0, 5.5, 7.0])


def random_fluid(cell: np.ndarray, count: int = 60, seed: int = 0) -> np.ndarray:
    """Independent positions, some of them outside of the cell."""
    fractional = np.random.default_rng(seed).random((count, len(cell))) * 1.5
    return fractional @ cell


def displacements(cell: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The shortest image of r_i - r_j by trying all, `[n, n, d]`."""
    shifts = np.stack(np.meshgrid(*[[-3, -2, -1, 0, 1, 2, 3]] * len(cell), indexing="ij"), -1).reshape(-1, len(cell))
    d = (r[:, None] - r[None])[None] + (shifts @ cell)[:, None, None]
    nearest = np.argmin(np.sum(d**2, axis=-1), axis=0)
    return np.take_along_axis(d, nearest[None, :, :, None], axis=0)[0]


@functools.cache
def neighbor_list():
    """Of `random_fluid(CELL)`; building one is the slowest part of these tests."""
    return allocate(Triclinic(CELL), random_fluid(CELL), cutoff=2.6, skin=0.2)


def central_difference(function, x: np.ndarray, direction: np.ndarray, h: float = 1e-5) -> float:
    return (float(function(x + h * direction)) - float(function(x - h * direction))) / (2 * h)


def assert_gradient_is_right(function, x, rtol=1e-6):
    """A directional derivative in float64."""
    x = np.asarray(x, float)
    direction = np.random.default_rng(7).normal(size=x.shape)
    function = jax.jit(jax.value_and_grad(function))
    expected = central_difference(lambda x: function(x)[0], x, direction)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(np.sum(function(x)[1] * direction), expected, rtol=rtol)


# --- thermodynamics ---------------------------------------------------------------------------------------------------


def test_temperature_is_twice_the_kinetic_energy_a_degree_of_freedom():
    v = np.array([[1.0, 2.0], [0.0, -3.0], [2.0, 0.0]])
    m = np.array([1.0, 2.0, 0.5])
    np.testing.assert_allclose(quantities.kinetic_energy(v, m), 0.5 * (5 + 18 + 2))
    np.testing.assert_allclose(quantities.kinetic_energy(v), 0.5 * (5 + 9 + 4))
    np.testing.assert_allclose(quantities.temperature(v, m), 25 / 6)
    np.testing.assert_allclose(quantities.temperature(v, m, constraints=2), 25 / 4)


def test_an_ideal_gas_has_its_pressure():
    v = np.random.default_rng(0).normal(size=(50, 3))
    m = np.random.default_rng(1).uniform(1, 2, 50)
    r = random_fluid(np.diag(BOX), 50)
    nothing = lennard_jones(epsilon=0.0)
    p = pressure(nothing, Periodic(BOX), r, AllPairs(), velocities=v, masses=m)
    np.testing.assert_allclose(p, 50 * quantities.temperature(v, m) / np.prod(BOX), rtol=1e-12)
    stress = stress_tensor(nothing, Periodic(BOX), r, AllPairs(), velocities=v, masses=m)
    np.testing.assert_allclose(stress, -np.einsum("i,ia,ib->ab", m, v, v) / np.prod(BOX), rtol=1e-12)


def repulsion(r, k):
    return k * (1 - r / 2.2) ** 3


def soft(k: float = 3.0):
    return pair_potential(repulsion, cutoff=2.2, k=k)


stress_tensor = jax.jit(quantities.stress_tensor)
pressure = jax.jit(quantities.pressure)


@pytest.mark.parametrize(("cell", "listed"), [(np.diag(BOX), False), (CELL, True)], ids=["box", "cell, list"])
def test_pressure_and_stress_are_derivatives_of_the_energy(cell, listed):
    space = Triclinic(cell)
    r = random_fluid(cell)
    pairs = neighbor_list() if listed else AllPairs()
    volume = np.linalg.det(cell)

    @jax.jit
    def energy_at(potential, strain):
        deformation = jnp.eye(3) + strain
        return potential.energy(Triclinic(cell @ deformation.T), r @ deformation.T, pairs)

    energy = functools.partial(energy_at, soft())
    stress = np.asarray(stress_tensor(soft(), space, r, pairs))
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]:  # upper triangular strains keep the cell's form
        direction = np.zeros((3, 3))
        direction[a, b] = 1.0
        expected = central_difference(energy, np.zeros((3, 3)), direction) / volume
        np.testing.assert_allclose(stress[a, b], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(stress[b, a], stress[a, b], rtol=1e-10)
    expected = -central_difference(energy, np.zeros((3, 3)), np.eye(3)) / (3 * volume)
    np.testing.assert_allclose(-np.trace(stress) / 3, expected, rtol=1e-6)


def test_pressure_of_the_lammps_benchmark():
    """Step 0 of bench/in.lj: 32,000 atoms, T = 1.44, p = -5.0197073; its kinetic part is known exactly."""
    space, r = lattice.fcc(5, density=0.8442)
    kinetic = 1.44 * 0.8442 * (1 - 1 / 32_000)
    p = pressure(lennard_jones(cutoff=2.5), space, r, AllPairs())
    np.testing.assert_allclose(p + kinetic, -5.0197073, atol=1e-6)


def test_pressure_is_differentiable_in_positions_velocities_box_and_potential():
    r, v = random_fluid(np.diag(BOX)), np.random.default_rng(3).normal(size=(60, 3))

    def at(x):
        return quantities.pressure(soft(x["k"]), Periodic(x["box"]), x["r"], AllPairs(), velocities=x["v"])

    flat, restore = jax.flatten_util.ravel_pytree({"k": jnp.asarray(3.0), "box": BOX, "r": r, "v": v})
    assert_gradient_is_right(lambda x: at(restore(x)), flat)


# --- structure --------------------------------------------------------------------------------------------------------

EDGES = np.linspace(0.0, 2.6, 27)
radial_distribution = jax.jit(quantities.radial_distribution)


def test_the_shells_of_a_crystal_are_the_peaks_of_its_pair_distribution():
    space, r = lattice.fcc(4, density=1.0)
    a = 4 ** (1 / 3)
    edges = a * np.array([0.0, 0.6, 0.8, 0.9, 1.1, 1.15, 1.3])
    g = radial_distribution(space, r, AllPairs(), edges)
    np.testing.assert_allclose(g * 4 / 3 * math.pi * np.diff(edges**3), [0, 12, 0, 6, 0, 24], rtol=1e-12)


@pytest.mark.parametrize(
    ("cell", "listed"),
    [(np.diag(BOX), False), (CELL, True), (CELL[:2, :2], False)],
    ids=["box", "cell, list", "plane"],
)
def test_pair_distributions_equal_a_sum_over_all_pairs(cell, listed):
    n, d = 60, len(cell)
    r = random_fluid(cell, n)
    species = np.arange(n) % 3 // 2  # 40 of kind 0, 20 of kind 1
    space = Triclinic(cell) if d == 2 or cell is CELL else Periodic(BOX)
    pairs = neighbor_list() if listed else AllPairs()
    g = jax.jit(quantities.partial_radial_distributions, static_argnames="kinds")(
        space, r, pairs, EDGES, species, kinds=2
    )
    distance = np.linalg.norm(displacements(cell, r), axis=-1)
    shell = (4 / 3 * math.pi if d == 3 else math.pi) * np.diff(EDGES**d)
    for a in range(2):
        for b in range(2):
            rows, columns = np.where(species == a)[0], np.where(species == b)[0]
            found = distance[np.ix_(rows, columns)][rows[:, None] != columns[None]]
            expected = np.histogram(found, EDGES)[0] * np.linalg.det(cell) / (len(rows) * len(columns) * shell)
            np.testing.assert_allclose(g[a, b], expected, rtol=1e-10, atol=1e-12)
    total = radial_distribution(space, r, pairs, EDGES)
    weights = np.array([[16, 8], [8, 4]]) / 36
    np.testing.assert_allclose(np.einsum("ab,abk->k", weights, g), total, rtol=1e-10)


def test_an_ideal_gas_has_no_structure():
    n = 1500
    r = np.random.default_rng(0).random((n, 3)) * BOX
    edges = np.linspace(0.3, 2.7, 9)
    g = radial_distribution(Periodic(BOX), r, AllPairs(), edges)
    pairs = n**2 / 2 * 4 / 3 * math.pi * np.diff(edges**3) / np.prod(BOX)
    assert np.all(np.abs(g - (1 - 1 / n)) < 4 / np.sqrt(pairs))
    assert np.all(4 / np.sqrt(pairs) < 0.07)


def test_pair_distribution_agrees_with_freud():
    freud = pytest.importorskip("freud")
    r = random_fluid(np.diag([6.0, 6.0, 6.0]), 200).astype(np.float32) % 6
    rdf = freud.density.RDF(bins=25, r_max=2.5, normalization_mode="exact").compute((freud.box.Box.cube(6), r - 3))
    g = radial_distribution(Periodic(6.0), r, AllPairs(), np.linspace(0, 2.5, 26, dtype=np.float32))
    np.testing.assert_allclose(g, rdf.rdf, rtol=1e-4)


def test_broadening_smears_the_histogram_and_keeps_the_number_of_pairs():
    r = random_fluid(np.diag(BOX))
    sharp = radial_distribution(Periodic(BOX), r, AllPairs(), EDGES)
    np.testing.assert_allclose(radial_distribution(Periodic(BOX), r, AllPairs(), EDGES, broadening=1e-9), sharp)

    space, r = lattice.fcc(3, density=0.5)  # one distance, 2^(1/2), in the middle of the range
    edges = np.linspace(0.7, 2.1, 200)
    smooth = radial_distribution(space, r, AllPairs(), edges, broadening=0.05)
    counts = smooth * 0.5 * 4 / 3 * math.pi * np.diff(edges**3)
    middle = 0.5 * (edges[1:] + edges[:-1])
    density = counts / np.diff(edges)
    expected = 12 * np.exp(-0.5 * ((middle - 2**0.5) / 0.05) ** 2) / (0.05 * math.sqrt(2 * math.pi))
    near = np.abs(middle - 2**0.5) < 0.3  # the next distance is 2
    np.testing.assert_allclose(density[near], expected[near], atol=2e-3 * expected.max())  # bins have a width
    np.testing.assert_allclose(np.sum(counts[middle < 1.7]), 12, rtol=1e-6)


def test_a_broadened_pair_distribution_is_differentiable():
    weights = np.random.default_rng(2).normal(size=26)
    r = random_fluid(np.diag(BOX))

    def moment(x):
        positions, box, broadening = x[:180].reshape(60, 3), x[180:183], x[183]
        return weights @ quantities.radial_distribution(
            Periodic(box), positions, AllPairs(), EDGES, broadening=broadening
        )

    assert_gradient_is_right(moment, np.concatenate([r.ravel(), BOX, [0.07]]))


structure_factor = jax.jit(quantities.structure_factor, static_argnames="chunk")


def test_a_crystal_scatters_at_its_reciprocal_lattice_only():
    space, r = lattice.fcc(3, density=1.0)
    integers = quantities.wave_integers(space, 3, largest=15.0)
    s = structure_factor(space, r, integers)
    h = integers / 3
    bragg = np.all(h % 1 == 0, axis=1) & (np.all(h % 2 == 1, axis=1) | np.all(h % 2 == 0, axis=1))
    assert 10 < bragg.sum() < len(bragg) / 20
    np.testing.assert_allclose(s, np.where(bragg, len(r), 0), atol=1e-9)


@pytest.mark.parametrize("dimension", [2, 3])
def test_structure_factor_equals_a_sum_of_phases(dimension):
    space, cell = (Periodic(BOX[:2]), np.diag(BOX[:2])) if dimension == 2 else (Triclinic(CELL), CELL)
    r = random_fluid(cell)
    integers = quantities.wave_integers(space, len(cell), largest=5.0)
    q = np.asarray(quantities.wave_vectors(space, integers))
    np.testing.assert_allclose(q @ cell.T, 2 * math.pi * integers, atol=1e-12)
    expected = np.abs(np.exp(1j * r @ q.T).sum(axis=0)) ** 2 / len(r)
    s = structure_factor(space, r, integers)
    np.testing.assert_allclose(s, expected, rtol=1e-9)
    if dimension == 2:
        np.testing.assert_allclose(structure_factor(space, r, integers, chunk=7), s, rtol=1e-12)
    length = np.linalg.norm(q, axis=1)
    edges = np.array([0.0, 0.3, 2.0, 3.0, 5.0])
    means, counts = jax.jit(quantities.spherical_average)(space, integers, s, edges)
    for k in range(4):
        inside = (edges[k] <= length) & (length < edges[k + 1])
        assert counts[k] == inside.sum()
        np.testing.assert_allclose(means[k], expected[inside].mean() if inside.any() else 0.0)
    assert counts[0] == 0


def test_wave_vectors_are_all_of_the_box_up_to_a_length_and_one_of_each_pair():
    integers = quantities.wave_integers(Triclinic(CELL), 3, largest=4.0)
    grid = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    length = np.linalg.norm(2 * math.pi * grid @ np.linalg.inv(CELL).T, axis=1)
    expected = {tuple(m) for m in grid[(length <= 4.0) & (length > 0)]}
    found = {tuple(m) for m in integers}
    assert len(found) == len(integers)
    assert not found & {tuple(-m) for m in integers}
    assert found | {tuple(-m) for m in integers} == expected
    q = np.linalg.norm(quantities.wave_vectors(Triclinic(CELL), integers), axis=1)
    assert np.all(np.diff(q) > -1e-12)


def test_structure_factor_is_differentiable():
    integers = quantities.wave_integers(Periodic(BOX), 3, largest=2.0)
    weights = np.random.default_rng(4).normal(size=len(integers))

    def moment(x):
        return weights @ quantities.structure_factor(Periodic(x[180:]), x[:180].reshape(60, 3), integers)

    assert_gradient_is_right(moment, np.concatenate([random_fluid(np.diag(BOX)).ravel(), BOX]))


# --- transport --------------------------------------------------------------------------------------------------------

msd_series = jax.jit(quantities.mean_squared_displacement_series)
vacf_series = jax.jit(quantities.velocity_autocorrelation_series)


def trajectory(steps: int, n: int = 4, d: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(steps).normal(size=(steps, n, d)), axis=0) + 5.0


@pytest.mark.parametrize("steps", [1, 2, 9, 16])
def test_transforms_equal_sums_over_time_origins(steps):
    r = trajectory(steps)
    msd = [np.mean(np.sum((r[lag:] - r[: steps - lag]) ** 2, axis=-1)) for lag in range(steps)]
    vacf = [np.mean(np.sum(r[lag:] * r[: steps - lag], axis=-1)) for lag in range(steps)]
    np.testing.assert_allclose(msd_series(r), msd, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(vacf_series(r), vacf, rtol=1e-10)


def test_one_moment_against_another_is_one_term_of_the_series():
    r = jnp.asarray(trajectory(6))
    series = msd_series(r)
    np.testing.assert_allclose(quantities.mean_squared_displacement(r[5], r[0]), series[5])
    series = vacf_series(r)
    np.testing.assert_allclose(quantities.velocity_autocorrelation(r[5], r[0]), series[5])


def test_free_flight_is_ballistic_and_keeps_its_velocity():
    v = np.random.default_rng(0).normal(size=(20, 2))
    t = 0.1 * np.arange(50)
    msd = msd_series(100.0 + t[:, None, None] * v)
    np.testing.assert_allclose(msd, np.mean(np.sum(v**2, -1)) * t**2, atol=1e-10)
    vacf = vacf_series(jnp.broadcast_to(v, (50, 20, 2)))
    np.testing.assert_allclose(vacf, np.mean(np.sum(v**2, -1)), rtol=1e-12)


def test_displacements_far_from_the_origin_are_accurate_in_single_precision():
    r = (1000.0 + trajectory(64, 10)).astype(np.float32)
    msd = msd_series(r)
    assert msd.dtype == jnp.float32
    expected = msd_series(r.astype(float))
    np.testing.assert_allclose(msd, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("series", [msd_series, vacf_series])
def test_series_are_differentiable(series):
    weights = np.random.default_rng(5).normal(size=9)
    assert_gradient_is_right(lambda r: weights @ series(r), trajectory(9))


# --- polymers ---------------------------------------------------------------------------------------------------------

radius_of_gyration = jax.jit(quantities.radius_of_gyration)


def test_a_rod_has_the_size_of_a_rod():
    rod = jnp.arange(10.0)[:, None] * jnp.array([[0.3, 0.4, 0.0]])
    np.testing.assert_allclose(radius_of_gyration(rod) ** 2, 0.25 * (10**2 - 1) / 12)
    np.testing.assert_allclose(quantities.end_to_end_vector(rod), [2.7, 3.6, 0.0])
    np.testing.assert_allclose(quantities.end_to_end_distance(rod), 4.5)
    axis = np.array([0.6, 0.8, 0.0])
    np.testing.assert_allclose(quantities.gyration_tensor(rod), 0.25 * 99 / 12 * np.outer(axis, axis), atol=1e-12)


def test_radius_of_gyration_is_the_mean_over_pairs_of_beads():
    """Lagrange's theorem: R_g^2 = sum_ij m_i m_j r_ij^2 / (2 M^2)."""
    rng = np.random.default_rng(0)
    chains, m = rng.normal(size=(2, 5, 8, 3)), rng.uniform(1, 3, 8)
    squared = np.sum((chains[..., :, None, :] - chains[..., None, :, :]) ** 2, axis=-1)
    expected = np.einsum("i,j,...ij->...", m, m, squared) / (2 * m.sum() ** 2)
    np.testing.assert_allclose(radius_of_gyration(chains, m) ** 2, expected)
    np.testing.assert_allclose(np.trace(quantities.gyration_tensor(chains, m), axis1=-2, axis2=-1), expected)
    np.testing.assert_allclose(radius_of_gyration(chains) ** 2, squared.mean(axis=(-2, -1)) / 2)


def test_wrapped_chains_unfold():
    melt = lattice.chain_melt(6, 20, key=jax.random.key(0))
    chains = melt.positions.reshape(6, 20, 3)
    wrapped = melt.space.wrap(chains)
    assert jnp.max(jnp.abs(wrapped - chains)) > melt.space.box / 2
    unfolded = jax.jit(quantities.unfold)(melt.space, wrapped)
    np.testing.assert_allclose(unfolded - unfolded[:, :1], chains - chains[:, :1], atol=1e-12)


def test_sizes_of_chains_are_differentiable_also_where_they_vanish():
    chains = np.random.default_rng(1).normal(size=(3, 6, 2))
    assert_gradient_is_right(lambda x: jnp.sum(quantities.radius_of_gyration(x) ** 3), chains)
    assert_gradient_is_right(lambda x: jnp.sum(quantities.end_to_end_distance(x) ** 3), chains)
    for size in (quantities.radius_of_gyration, quantities.end_to_end_distance):
        np.testing.assert_allclose(jax.jit(jax.grad(size))(jnp.ones((6, 2))), 0.0, atol=1e-12)


# --- all of them ------------------------------------------------------------------------------------------------------

INTEGERS = np.array([[1, 0, 0], [2, -1, 3]])


@jax.jit
def measured(potential, box, r, v):
    space, pairs = Periodic(box), AllPairs()
    edges = jnp.asarray(EDGES, r.dtype)
    return {
        "temperature": quantities.temperature(v),
        "stress": quantities.stress_tensor(potential, space, r, pairs, velocities=v),
        "g": quantities.radial_distribution(space, r, pairs, edges),
        "smooth g": quantities.radial_distribution(space, r, pairs, edges, broadening=0.1),
        "s": quantities.structure_factor(space, r, INTEGERS),
        "msd": quantities.mean_squared_displacement_series(jnp.stack([r, r + v])),
        "psi": quantities.bond_order(Periodic(box[:2]), r[:, :2], pairs, cutoff=1.5),
        "q": quantities.averaged_steinhardt(space, r, pairs, l=4, cutoff=1.5, onset=1.2),
        "polar": quantities.polar_order(v),
        "contacts": quantities.contact_numbers(space, r, pairs, diameter=1.0),
        "size": quantities.radius_of_gyration(quantities.unfold(space, r)),
    }


@pytest.mark.slow
def test_a_batch_equals_a_loop():
    batch = (
        BOX + np.random.default_rng(0).uniform(0, 1, (3, 3)),
        np.stack([random_fluid(np.diag(BOX), 30, seed) for seed in range(3)]),
        np.random.default_rng(1).normal(size=(3, 30, 3)),
    )
    together = jax.jit(jax.vmap(measured, (None, 0, 0, 0)))(soft(), *batch)
    for k in range(3):
        alone = measured(soft(), *(x[k] for x in batch))
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, atol=1e-10), together, alone)


def test_single_precision_stays_single_precision():
    example = (soft(), BOX, random_fluid(np.diag(BOX), 30), np.zeros((30, 3)))
    found = jax.eval_shape(measured, *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), example))
    dtypes = {name: str(leaf.dtype) for name, leaf in found.items()}
    assert dtypes == {**dict.fromkeys(found, "float32"), "psi": "complex64", "contacts": "int32"}


# --- what is refused --------------------------------------------------------------------------------------------------

R = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantities.temperature(R, constraints=12), "constraints = 12; must be"),
        (lambda: quantities.pressure(soft(), Free(), R, AllPairs()), "space = Free.*; valid: a periodic space"),
        (lambda: quantities.stress_tensor(soft(), Free(), R, AllPairs()), "space = Free.*; valid: a periodic space"),
        (lambda: quantities.radial_distribution(Free(), R, AllPairs(), EDGES), "space = Free"),
        (
            lambda: quantities.radial_distribution(Periodic(5.0), R, AllPairs(), EDGES),
            r"edges\[-1\] = 2.6; valid: up to half",
        ),
        (
            lambda: quantities.radial_distribution(Periodic(9.0), R, AllPairs(), EDGES[::-1]),
            "edges = .*; must increase",
        ),
        (
            lambda: quantities.radial_distribution(Periodic(9.0), R, AllPairs(), EDGES[:1]),
            r"edges has shape \(1,\); must be",
        ),
        (
            lambda: quantities.radial_distribution(Triclinic(CELL), random_fluid(CELL), neighbor_list(), 1.2 * EDGES),
            r"edges\[-1\] = 3.12; valid: up to the cutoff of the neighbour list, 2.6",
        ),
        (lambda: quantities.wave_integers(Free(), 3, largest=3.0), "space = Free"),
        (lambda: quantities.wave_integers(Periodic(5.0), 3, largest=1.0), "largest = 1.0; must be .* about 1.25664"),
        (lambda: quantities.structure_factor(Periodic(5.0), R, np.ones((2, 2), int)), "integers has shape .*; must be"),
        (
            lambda: quantities.structure_factor(Periodic(5.0), R, np.ones((2, 3), int), chunk=0),
            "chunk = 0; must be an integer >= 1",
        ),
        (lambda: quantities.mean_squared_displacement_series(R), "trajectory has shape .*; must be"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_exported_name_resolves():
    assert all(hasattr(quantities, name) for name in quantities.__all__)
    assert list(quantities.__all__) == sorted(quantities.__all__)


# --- superposition ----------------------------------------------------------------------------------------------------


def shape(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(7, 2)))


def test_superposition_is_the_best_rotation_and_shift():
    """Against the singular value decomposition (Kabsch), and blind to where the reference lies."""
    w, z = shape(0), shape(1)
    a, b = (x - x.mean(axis=0) for x in (np.asarray(w), np.asarray(z)))
    u, s, vt = np.linalg.svd(a.T @ b)
    sign = np.sign(np.linalg.det(u @ vt))
    expected = np.sqrt((np.sum(a**2) + np.sum(b**2) - 2 * (s[0] + sign * s[1])) / 7)
    np.testing.assert_allclose(quantities.rmsd(w, z), expected)
    turned = w @ np.array([[np.cos(2.0), np.sin(2.0)], [-np.sin(2.0), np.cos(2.0)]]) + np.array([[3.0, -1.0]])
    np.testing.assert_allclose(quantities.rmsd(turned, z), expected)
    np.testing.assert_allclose(quantities.superposed(turned, z), quantities.superposed(w, z), atol=1e-12)
    np.testing.assert_allclose(quantities.superposed(w, turned), turned, atol=1e-12)
    assert quantities.rmsd(w, w * np.array([[1.0, -1.0]])) > 0.5  # a mirror image is another shape


def test_the_gradient_of_a_superposition_is_right_and_finite_everywhere():
    w, z, v = shape(0), shape(1), shape(2)
    slope = (quantities.rmsd(w, z + 1e-6 * v) - quantities.rmsd(w, z - 1e-6 * v)) / 2e-6
    np.testing.assert_allclose(jnp.sum(jax.grad(quantities.rmsd, argnums=1)(w, z) * v), slope, rtol=1e-7)
    for there in (z, jnp.zeros_like(z)):  # at a perfect fit; where no rotation is best
        assert np.all(np.isfinite(jax.grad(quantities.rmsd, argnums=1)(z, there)))


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"reference has shape \(7, 2\) and positions \(6, 2\); must be the same"):
        quantities.rmsd(shape(0), shape(0)[:6])
