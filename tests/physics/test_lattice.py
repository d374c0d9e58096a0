"""Crystals have their neighbours, random arrangements their distances, chains their statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import lattice
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import lennard_jones

# shells: (distance in units of the lattice constant, number of neighbours), nearest first
CRYSTALS = {
    "square": (1, [(1, 4), (2**0.5, 4), (2, 4)]),
    "triangular": (2, [(1, 6), (3**0.5, 6), (2, 6)]),
    "simple_cubic": (1, [(1, 6), (2**0.5, 12), (3**0.5, 8)]),
    "bcc": (2, [(0.75**0.5, 8), (1, 6), (2**0.5, 12)]),
    "fcc": (4, [(0.5**0.5, 12), (1, 6), (1.5**0.5, 24)]),
    "diamond": (8, [(3**0.5 / 4, 4), (0.5**0.5, 12), (11**0.5 / 4, 12)]),
    "hcp": (4, [(1, 12), (2**0.5, 6), ((8 / 3) ** 0.5, 2)]),
}
PLANAR = ("square", "triangular")


def distances(space, positions) -> np.ndarray:
    """Between all particles, `[n, n]`, infinite on the diagonal."""
    box, r = np.asarray(space.box, float), np.asarray(positions, float)
    d = r[:, None] - r[None]
    d -= box * np.round(d / box)
    return np.linalg.norm(d, axis=-1) + np.diag(np.full(len(r), np.inf))


@pytest.mark.parametrize("name", CRYSTALS)
def test_every_particle_of_a_crystal_has_the_shells_of_its_lattice(name):
    _, shells = CRYSTALS[name]
    space, positions = getattr(lattice, name)(5 if name in PLANAR else (4, 3, 3), lattice_constant=1.7)
    r = distances(space, positions)
    for distance, neighbors in shells:
        np.testing.assert_array_equal(np.sum(np.abs(r - 1.7 * distance) < 1e-4, axis=1), neighbors)
    gaps = [1.7 * distance for distance, _ in shells]
    assert np.sum(r < gaps[-1] + 1e-4) == len(r) * sum(neighbors for _, neighbors in shells)


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_has_the_density_asked_for_and_lies_in_its_box(name):
    per_cell, _ = CRYSTALS[name]
    cells = (3, 2) if name in PLANAR else (3, 2, 4)
    space, positions = getattr(lattice, name)(cells, density=0.8442)
    n, d = positions.shape
    assert n == per_cell * np.prod(cells)
    np.testing.assert_allclose(n / space.volume(d), 0.8442, rtol=1e-6)
    assert positions.dtype == space.box.dtype == jnp.float32
    assert np.all(positions >= 0) and np.all(positions < space.box[None, :])


def test_density_is_dynamic_and_differentiable():
    @jax.jit
    def volume(density):
        space, positions = lattice.fcc(2, density=density)
        return space.volume(3) + 0.0 * jnp.sum(positions)

    np.testing.assert_allclose(jax.grad(volume)(0.5), -32 / 0.5**2, rtol=1e-5)


def test_a_lennard_jones_crystal_has_the_energy_of_the_lammps_benchmark(x64):
    space, positions = lattice.fcc(5, density=0.8442)
    energy = jax.jit(lennard_jones(cutoff=2.5).energy)(space, positions, AllPairs())
    np.testing.assert_allclose(energy / len(positions), -6.7733681, atol=5e-8)


@pytest.mark.parametrize(
    ("dimension", "density", "distance"), [(1, 0.5, 1.0), (2, 0.8, 0.95), (3, 0.85, 0.9), (3, 1.0, 1.0)]
)
def test_random_particles_keep_their_distance(dimension, density, distance):
    space, positions = lattice.random(
        500, key=jax.random.key(3), density=density, dimension=dimension, min_distance=distance
    )
    assert positions.shape == (500, dimension) and positions.dtype == jnp.float32
    np.testing.assert_allclose(500 / space.volume(dimension), density, rtol=1e-6)
    assert np.min(distances(space, positions)) >= distance
    assert np.all(positions >= 0) and np.all(positions <= space.box)


def test_the_key_decides_where_random_particles_are():
    def positions(seed):
        return lattice.random(50, key=jax.random.key(seed), density=0.5, dimension=3, min_distance=0.8)[1]

    np.testing.assert_array_equal(positions(1), positions(1))
    assert not np.allclose(positions(1), positions(2))


def test_without_a_distance_random_particles_are_uniform():
    space, positions = lattice.random(4000, key=jax.random.key(0), density=1.0, dimension=2)
    counts = np.histogram2d(*np.asarray(positions).T, bins=10, range=[[0, float(space.box)]] * 2)[0]
    chi_squared = np.sum((counts - 40) ** 2) / 40
    assert abs(chi_squared - 99) < 4 * np.sqrt(2 * 99)


def test_impossible_arrangements_are_refused():
    def place(**changes):
        return lattice.random(100, key=jax.random.key(0), **{"density": 1.0, "dimension": 3, **changes})

    with pytest.raises(ValueError, match=r"min_distance = 1.2 at density = 1.0: .* fill 0.905 .* at most 0.740"):
        place(min_distance=1.2)
    with pytest.raises(ValueError, match=r"pairs are still closer after 20 sweeps \(packing fraction 0.697\)"):
        place(min_distance=1.1, sweeps=20)


def test_chains_have_their_bonds_and_do_not_fold_back():
    melt = lattice.chain_melt(20, 30, key=jax.random.key(1))
    chains = np.asarray(melt.positions, float).reshape(20, 30, 3)
    np.testing.assert_allclose(np.linalg.norm(np.diff(chains, axis=1), axis=-1), 0.97, rtol=1e-5)
    next_nearest = np.linalg.norm(chains[:, 2:] - chains[:, :-2], axis=-1)
    assert 1.02 - 1e-5 < next_nearest.min() < 1.05 and 1.9 < next_nearest.max() < 1.94
    np.testing.assert_allclose(600 / melt.space.volume(3), 0.85, rtol=1e-6)
    np.testing.assert_array_equal(melt.bonds[:30], [*([k, k + 1] for k in range(29)), [30, 31]])
    np.testing.assert_array_equal(melt.angles[:29], [*([k, k + 1, k + 2] for k in range(28)), [30, 31, 32]])
    assert melt.bonds.shape == (20 * 29, 2) and melt.angles.shape == (20 * 28, 3)


@pytest.mark.parametrize("next_nearest", [0.0, 1.02])
def test_chains_are_as_long_as_freely_rotating_ones(next_nearest):
    """Flory, Statistical Mechanics of Chain Molecules (1969), section I.3: <R^2> of m bonds with mean cosine c."""
    chains, m, b = 4000, 24, 0.97
    melt = lattice.chain_melt(chains, m + 1, key=jax.random.key(2), next_nearest=next_nearest)
    r = np.asarray(melt.positions, float).reshape(chains, m + 1, 3)
    squared = np.sum((r[:, -1] - r[:, 0]) ** 2, axis=-1)
    c = next_nearest**2 / (4 * b**2)  # the middle of the interval of cosines
    expected = m * b**2 * ((1 + c) / (1 - c) - 2 * c * (1 - c**m) / (m * (1 - c) ** 2))
    assert abs(squared.mean() - expected) < 4 * squared.std() / np.sqrt(chains)


def test_two_beads_are_a_chain_without_angles():
    melt = lattice.chain_melt(3, 2, key=jax.random.key(0))
    np.testing.assert_array_equal(melt.bonds, [[0, 1], [2, 3], [4, 5]])
    assert melt.angles.shape == (0, 3)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lattice.fcc(0, density=1.0), r"cells = \(0, 0, 0\); must be an integer >= 1, or 3 of them"),
        (lambda: lattice.square((2, 2, 2), density=1.0), r"cells = \(2, 2, 2\); must be an integer >= 1, or 2"),
        (lambda: lattice.bcc(2.5, density=1.0), r"cells = .* must be"),
        (lambda: lattice.hcp(2), "density = None, lattice_constant = None; must be exactly one"),
        (lambda: lattice.hcp(2, density=1.0, lattice_constant=1.0), "must be exactly one"),
        (lambda: lattice.hcp(2, density=-1.0), "density = -1.0; must be a finite number > 0"),
        (lambda: lattice.hcp(2, lattice_constant=np.nan), "lattice_constant = nan; must be"),
        (lambda: lattice.random(0, key=KEY, density=1.0, dimension=3), "count = 0; must be an integer >= 1"),
        (lambda: lattice.random(9, key=KEY, density=1.0, dimension=4), "dimension = 4; must be one of 1, 2, 3"),
        (lambda: lattice.random(9, key=KEY, density=1.0, dimension=2, min_distance=2.0), "min_distance = 2.0; must be"),
        (lambda: lattice.chain_melt(0, 5, key=KEY), "chains = 0; must be"),
        (lambda: lattice.chain_melt(5, 1, key=KEY), "beads = 1; must be"),
        (lambda: lattice.chain_melt(5, 5, key=KEY, bond_length=0.0), "bond_length = 0.0; must be"),
        (lambda: lattice.chain_melt(5, 5, key=KEY, next_nearest=2.0), "next_nearest = 2.0; must be"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
