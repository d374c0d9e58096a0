"""Embedding potentials, Mie and Buckingham against published numbers and loops in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs
from dmdenv.potentials import (
    BySpecies,
    PerPair,
    PerParticle,
    buckingham,
    embedding_potential,
    gupta,
    lennard_jones,
    mie,
    sutton_chen,
)
from dmdenv.potentials.buckingham import inner_maximum
from dmdenv.space import Free

pytestmark = pytest.mark.usefixtures("x64")

HALVES = np.array([k for k in itertools.product(range(-12, 13), repeat=3) if sum(k) % 2 == 0]) / 2
SHELLS = np.linalg.norm(HALVES, axis=1)  # of a face-centred cubic crystal, in units of its edge
BKS = {"repulsion": 18003.7572, "length": 1 / 4.87318, "dispersion": 133.5381}  # of Si-O, eV and Angstrom


def ball(edge: float, radius: float) -> jax.Array:
    """A crystal within a radius of one of its atoms, which is the first."""
    inside = HALVES[radius + 1e-9 >= SHELLS]
    return jnp.asarray(edge * inside[np.argsort(np.linalg.norm(inside, axis=1), kind="stable")])


def energies(potential, r):
    return potential.energies(Free(), r, AllPairs())


def pair_energy(potential, x):
    return potential.energy(Free(), jnp.zeros((2, 3)).at[1, 0].set(x), AllPairs())


def test_a_trimer_of_gold_has_the_energy_that_jax_md_tests():
    gold = gupta(repulsion=1.727 * 0.118428, hopping=1.727, p=10.15, q=4.13, length=2.96, cutoff=8.0)
    r = jnp.array([[0, 0, 0], [0, 0, 2.9], [0, 2.9, 2.9]])
    np.testing.assert_allclose(jnp.sum(energies(gold, r)), -5.4632421255957135, rtol=1e-14)


def test_gupta_gold_coheres_as_published():
    """3.779 eV, to which Cleri and Rosato fitted up to the fifth neighbours."""
    x = SHELLS[(SHELLS > 0) & (SHELLS < 1.6)] * 4.079 / 2.884
    expected = 0.2061 * np.sum(np.exp(-10.229 * (x - 1))) - 1.790 * np.sqrt(np.sum(np.exp(-2 * 4.036 * (x - 1))))
    found = energies(gupta(cutoff=1.6 * 4.079), ball(4.079, 1.6))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found, -3.779, atol=1e-3)


def test_sutton_chen_gold_is_its_lattice_sum_and_coheres_as_published():
    def lattice_sum(k, radius):
        return np.sum(SHELLS[(SHELLS > 0) & (radius > SHELLS)] ** -float(k))

    found = energies(sutton_chen(cutoff=1.9 * 4.08), ball(4.08, 1.9))[0]
    expected = 0.012793 * (lattice_sum(10, 1.9) / 2 - 34.408 * np.sqrt(lattice_sum(8, 1.9)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # the endless sums, tabulated in units of the nearest distance, and the c that puts their minimum at a
    tenth, eighth = 32 * 12.311246, 16 * 12.801935
    for k, whole in ((10, tenth), (8, eighth)):
        np.testing.assert_allclose(lattice_sum(k, 6.0) + 16 * np.pi / (k - 3) * 6.0 ** (3 - k), whole, rtol=1e-6)
    np.testing.assert_allclose(10 * tenth / (8 * np.sqrt(eighth)), 34.408, rtol=1e-4)
    np.testing.assert_allclose(0.012793 * (tenth / 2 - 34.408 * np.sqrt(eighth)), -3.78, atol=2e-3)


def test_forces_of_an_alloy_are_derivatives_of_a_loop_without_scatter_alone_and_in_batches():
    kinds, rng = np.array([0, 1, 1, 0, 1]), np.random.default_rng(0)
    hopping, repulsion = np.array([[1.7, 1.2], [1.2, 1.0]]), np.array([[0.3, 0.4], [0.4, 0.5]])
    alloy = gupta(
        repulsion=BySpecies(repulsion, kinds), hopping=BySpecies(hopping, kinds), p=9.0, q=3.0, length=1.1, cutoff=9.0
    )
    r = rng.uniform(0, 1.2, (2, 5, 3)) + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])

    def loop(r):
        total = 0.0
        for i in range(5):
            push = pull = 0.0
            for j in set(range(5)) - {i}:
                x = np.linalg.norm(r[i] - r[j]) / 1.1 - 1
                push += repulsion[kinds[i], kinds[j]] * np.exp(-9 * x)
                pull += hopping[kinds[i], kinds[j]] ** 2 * np.exp(-6 * x)
            total += push - np.sqrt(pull)
        return total

    def slope(r, v, h=1e-3):  # of order h^6
        at = [loop(r + k * h * v) - loop(r - k * h * v) for k in (1, 2, 3)]
        return (45 * at[0] - 9 * at[1] + at[2]) / (60 * h)

    def forces(r):
        return alloy.forces(Free(), r, AllPairs())

    batch = jax.jit(jax.vmap(forces))(r)
    for one, found in zip(r, batch, strict=True):
        v = rng.normal(size=(5, 3))
        np.testing.assert_allclose(-np.sum(found * v), slope(one, v), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found, forces(jnp.asarray(one)), rtol=1e-12, atol=1e-12)
    for function in (
        forces,
        jax.grad(lambda r: jnp.sum(energies(alloy, r))),
        jax.grad(lambda r: jnp.sum(forces(r) ** 2)),
    ):
        assert "scatter" not in str(jax.make_jaxpr(function)(r[0]))


def test_a_particle_alone_and_one_that_meets_another_have_finite_forces_and_gradients():
    r = jnp.array([[0.0, 0, 0], [2.8, 0, 0], [50.0, 0, 0], [90.0, 0, 0], [90.0, 0, 0]])
    metal = gupta(cutoff=5.0)
    found = metal.forces(Free(), r, AllPairs())
    slopes = jax.grad(lambda r: jnp.sum(energies(metal, r)))(r)
    by_hopping = jax.grad(lambda xi: jnp.sum(energies(gupta(cutoff=5.0, hopping=xi), r)))(1.79)
    np.testing.assert_allclose(found, -slopes, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found[2:], 0)
    assert energies(metal, r)[2] == 0 and np.isfinite(by_hopping) and np.all(np.isfinite(slopes))


def test_mie_is_lennard_jones_for_12_and_6_and_has_its_minimum_at_minus_epsilon():
    x = jnp.linspace(0.8, 2.4, 5)
    np.testing.assert_allclose(
        jax.vmap(lambda x: pair_energy(mie(epsilon=1.3, sigma=1.1), x))(x),
        jax.vmap(lambda x: pair_energy(lennard_jones(epsilon=1.3, sigma=1.1), x))(x),
        rtol=1e-12,
    )
    potential, least = mie(epsilon=1.3, sigma=0.9, n=23.0, m=6.7), 0.9 * (23 / 6.7) ** (1 / (23 - 6.7))
    energy, slope = jax.value_and_grad(lambda x: pair_energy(potential, x))(least)
    np.testing.assert_allclose([energy, slope], [-1.3, 0], rtol=1e-13, atol=1e-12)


def test_buckingham_is_mirrored_below_its_inner_maximum_with_continuous_energy_and_force():
    a, rho, c = BKS.values()
    r = np.linspace(1.0, 1.2, 2001)
    plain = a * np.exp(-r / rho) - c / r**6
    found = float(inner_maximum(*map(jnp.asarray, BKS.values())))
    np.testing.assert_allclose(found, r[np.argmax(plain)], atol=1e-4)
    np.testing.assert_allclose(a / rho * np.exp(-found / rho), 6 * c / found**7, rtol=1e-11)

    def u(x):
        return a * np.exp(-x / rho) - c / x**6

    x = np.array([1e-3, 0.5, found - 1e-7, found + 1e-7, 1.6, 4.0])
    energy, slope = jax.vmap(jax.value_and_grad(lambda x: pair_energy(buckingham(**BKS, cutoff=5.0), x)))(x)
    np.testing.assert_allclose(energy[:2], 2 * u(found) - u(x[:2]), rtol=1e-11)
    np.testing.assert_allclose(energy[4:], u(x[4:]), rtol=1e-11)
    np.testing.assert_allclose(energy[2], energy[3], rtol=1e-12)
    np.testing.assert_allclose(slope[2:4], 0, atol=1e-3)  # 1e-7 from the maximum
    assert np.all(slope[:2] < 0)


def test_buckingham_without_a_maximum_does_nothing_or_says_so():
    off = BySpecies(np.array([[1388.773, 0.0], [0.0, 0.0]]), np.array([1, 1]))
    assert pair_energy(buckingham(repulsion=off, length=0.36, dispersion=0.0, cutoff=5.0), 1.0) == 0
    energy = jax.jit(lambda c: pair_energy(buckingham(repulsion=1.0, length=0.1, dispersion=c, cutoff=5.0), 1.0))
    assert np.isnan(energy(1.0)) and np.isfinite(energy(0.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gupta(cutoff=3.0, length=0.0), "length = 0.0; must be a finite number > 0"),
        (lambda: gupta(cutoff=3.0, cutoff_unit="q"), "cutoff_unit = 'q'; must be 'length' or None"),
        (lambda: sutton_chen(cutoff=3.0, strength=PerPair(np.ones((2, 2)))), "strength is PerPair; must be a number"),
        (lambda: sutton_chen(cutoff=3.0, n=-1.0), "n = -1.0; must be a finite number > 0"),
        (lambda: mie(n=6.0), "n = 6; must be above m, 6"),
        (
            lambda: buckingham(repulsion=1.0, length=0.1, dispersion=1.0, cutoff=2.0),
            "dispersion = 1.0 for repulsion = 1",
        ),
        (
            lambda: energies(sutton_chen(cutoff=3.0, strength=PerParticle(np.ones(3))), jnp.zeros((2, 3))),
            "strength has 3 values; must be 2, one per particle",
        ),
    ],
)
def test_a_bad_parameter_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_density_must_be_a_pair_potential():
    with pytest.raises(TypeError, match="density = 3; must be a PairPotential"):
        embedding_potential(jnp.negative, density=3, pair=lennard_jones())
