"""Pair distributions and structure factors against closed forms and plain sums."""

import math

import jax
import jax.flatten_util
import numpy as np
import pytest

from dmdenv import lattice, quantities
from dmdenv.neighbors import AllPairs
from dmdenv.space import Periodic, Triclinic
from fluids import BOX, CELL, EDGES, assert_gradient_is_right, displacements, neighbor_list, random_fluid

pytestmark = pytest.mark.usefixtures("x64")

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
