"""Bond order, polar order and contacts, against published values, spherical harmonics, plain sums and freud."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.legendre import Legendre

from dmdenv import lattice, quantities
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import BySpecies, PerParticle
from dmdenv.quantities.order import spherical_harmonics
from dmdenv.space import Free, Periodic
from marks import by_default

pytestmark = pytest.mark.usefixtures("x64")

polar_order = jax.jit(quantities.polar_order)
contact_numbers = jax.jit(quantities.contact_numbers)
rattlers = jax.jit(quantities.rattlers)
bond_order = jax.jit(quantities.bond_order, static_argnames="k")
steinhardt = jax.jit(quantities.steinhardt, static_argnames="l")
averaged_steinhardt = jax.jit(quantities.averaged_steinhardt, static_argnames="l")


def fluid(dimension: int, count: int = 60) -> tuple[float, np.ndarray]:
    """A box of density 1 and independent positions in it."""
    side = count ** (1 / dimension)
    return side, np.random.default_rng(dimension).random((count, dimension)) * side


@functools.cache
def listed_fluid():
    side, r = fluid(3)
    return allocate(Periodic(side), r, cutoff=1.4, skin=0.2)


def bonds(side: float, r: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors from i to j `[n, n, d]`, and whether they are bonds `[n, n]`."""
    d = r[None] - r[:, None]
    d -= side * np.round(d / side)
    return d, (np.linalg.norm(d, axis=-1) < cutoff) & ~np.eye(len(r), dtype=bool)


# --- psi --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cells", "k"), [("triangular", 4, 6), ("square", (8, 4), 4)])
def test_a_planar_crystal_is_perfectly_ordered(name, cells, k):
    space, r = getattr(lattice, name)(cells, lattice_constant=1.0)
    psi = bond_order(space, r, AllPairs(), cutoff=1.2, k=k, onset=0.9)
    np.testing.assert_allclose(psi, 1.0, atol=1e-12)


def test_a_rotated_crystal_has_a_rotated_phase():
    _, r = lattice.triangular(4, lattice_constant=1.0)
    angle = 0.2
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    psi = bond_order(Free(), r @ rotation.T, AllPairs(), cutoff=1.2)
    inner = np.sum(bonds(1e9, np.asarray(r), 1.2)[1], axis=1) == 6
    assert inner.sum() >= 8
    np.testing.assert_allclose(psi[inner], np.exp(6j * angle), atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 4, 6])
def test_bond_order_equals_a_sum_over_angles(k):
    side, r = fluid(2)
    d, bonded = bonds(side, r, 1.5)
    phases = np.where(bonded, np.exp(1j * k * np.arctan2(d[..., 1], d[..., 0])), 0)
    expected = phases.sum(axis=1) / np.maximum(bonded.sum(axis=1), 1)
    np.testing.assert_allclose(bond_order(Periodic(side), r, AllPairs(), cutoff=1.5, k=k), expected, atol=1e-12)


# --- Steinhardt -------------------------------------------------------------------------------------------------------

# Mickel et al., J. Chem. Phys. 138, 044501 (2013), table I: (cells of 108 particles, cutoff, q4, q6)
CRYSTALS = {
    "fcc": ((3, 3, 3), 0.85, 0.19094, 0.57452),
    "bcc": ((3, 3, 6), 1.2, 0.03637, 0.51069),
    "hcp": ((3, 3, 3), 1.2, 0.09722, 0.48476),
    "simple_cubic": ((3, 6, 6), 1.2, 0.76376, 0.35355),
}


@jax.jit
def orders(space, r, cutoff):
    return [
        [order(space, r, AllPairs(), l=l, cutoff=cutoff) for l in (4, 6)]
        for order in (quantities.steinhardt, quantities.averaged_steinhardt)
    ]


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_have_their_published_order(name):
    cells, cutoff, *published = CRYSTALS[name]
    space, r = getattr(lattice, name)(cells, lattice_constant=1.0)
    for found in orders(space, r, cutoff):
        for q, value in zip(found, published, strict=True):
            np.testing.assert_allclose(q, value, atol=6e-6)


@pytest.mark.parametrize("l", range(13))
def test_spherical_harmonics_obey_the_addition_theorem(l):
    a, b = np.random.default_rng(l).normal(size=(2, 20, 3))
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    ya, yb = (np.stack(spherical_harmonics(jnp.asarray(v).T, l)) for v in (a, b))
    assert len(ya) == 2 * l + 1
    np.testing.assert_allclose(np.sum(ya * yb, axis=0), Legendre.basis(l)(np.sum(a * b, axis=-1)), atol=1e-12)


def test_spherical_harmonics_are_orthogonal():
    """On a product of Gauss-Legendre points and equal angles, which integrates them exactly."""
    l = 12
    z, weights = np.polynomial.legendre.leggauss(l + 1)
    phi = 2 * math.pi * np.arange(2 * l + 2) / (2 * l + 2)
    s = np.sqrt(1 - z**2)[:, None]
    n = np.stack(np.broadcast_arrays(s * np.cos(phi), s * np.sin(phi), z[:, None]))
    y = np.stack(spherical_harmonics(jnp.asarray(n), l))
    products = np.einsum("aij,bij,i->ab", y, y, weights) * 2 * math.pi / len(phi)
    np.testing.assert_allclose(products, 4 * math.pi / (2 * l + 1) * np.eye(2 * l + 1), atol=1e-12)


def legendre_order(side, r, cutoff, l):
    """q_l by the addition theorem: the mean of P_l over all pairs of bonds of a particle."""
    d, bonded = bonds(side, r, cutoff)
    out = np.zeros(len(r))
    for i in range(len(r)):
        n = d[i, bonded[i]] / np.linalg.norm(d[i, bonded[i]], axis=-1, keepdims=True)
        out[i] = math.sqrt(max(0, np.mean(Legendre.basis(l)(np.clip(n @ n.T, -1, 1))))) if len(n) else 0
    return out


@pytest.mark.parametrize("l", [3, 6, 12])
def test_steinhardt_order_is_a_mean_over_angles_between_bonds(l):
    side, r = fluid(3)
    q = steinhardt(Periodic(side), r, AllPairs(), l=l, cutoff=1.4)
    np.testing.assert_allclose(q, legendre_order(side, r, 1.4, l), atol=1e-7)


def test_orders_agree_for_lists_and_all_pairs():
    side, r = fluid(3)
    for order in (steinhardt, averaged_steinhardt):
        q = [order(Periodic(side), r, pairs, l=6, cutoff=1.4) for pairs in (AllPairs(), listed_fluid())]
        np.testing.assert_allclose(*q, atol=1e-12)


def test_order_agrees_with_freud():
    freud = pytest.importorskip("freud")
    side, r = fluid(3)
    system = (freud.box.Box.cube(side), r - side / 2)
    for l in (3, 6, 12):
        peer = freud.order.Steinhardt(l=l).compute(system, neighbors={"r_max": 1.4}).particle_order
        q = steinhardt(Periodic(side), r, AllPairs(), l=l, cutoff=1.4)
        np.testing.assert_allclose(q, np.nan_to_num(peer), atol=1e-5)  # freud has NaN where nobody is near, this 0
    peer = freud.order.Steinhardt(l=6, average=True).compute(system, neighbors={"r_max": 1.4}).particle_order
    q = averaged_steinhardt(Periodic(side), r, AllPairs(), l=6, cutoff=1.4)
    np.testing.assert_allclose(q, np.nan_to_num(peer), atol=1e-5)
    side, r = fluid(2)
    system = (freud.box.Box.square(side), np.pad(r - side / 2, [(0, 0), (0, 1)]))
    peer = freud.order.Hexatic(k=6).compute(system, neighbors={"r_max": 1.5}).particle_order
    np.testing.assert_allclose(bond_order(Periodic(side), r, AllPairs(), cutoff=1.5), np.nan_to_num(peer), atol=1e-5)


# --- derivatives ------------------------------------------------------------------------------------------------------


def hexatic(r, side, cutoff):
    psi = quantities.bond_order(Periodic(side), r, AllPairs(), cutoff=cutoff, onset=1.0)
    return jnp.sum(jnp.abs(psi) ** 2) + jnp.abs(jnp.mean(psi))


def crystalline(r, side, cutoff):
    return jnp.sum(quantities.averaged_steinhardt(Periodic(side), r, AllPairs(), l=4, cutoff=cutoff, onset=1.0))


hexatic_and_gradient = jax.jit(jax.value_and_grad(hexatic, argnums=(0, 1, 2)))
crystalline_and_gradient = jax.jit(jax.value_and_grad(crystalline, argnums=(0, 1, 2)))


ORDERS = [(2, hexatic_and_gradient), (3, crystalline_and_gradient)]


@pytest.mark.parametrize(("dimension", "order"), by_default(ORDERS, ORDERS[0]))
def test_smooth_order_is_differentiable_in_positions_box_and_cutoff(dimension, order):
    side, r = fluid(dimension)
    rng = np.random.default_rng(0)
    x = (r, side, 1.5)
    directions = rng.normal(size=r.shape), rng.normal(), rng.normal()
    gradient = order(*x)[1]
    h = 1e-6
    there, back = (order(*(a + s * h * d for a, d in zip(x, directions, strict=True)))[0] for s in (1, -1))
    expected = (there - back) / (2 * h)
    assert abs(expected) > 1e-2
    found = sum(np.sum(g * d) for g, d in zip(gradient, directions, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("dimension", "order"), ORDERS)
def test_derivatives_are_finite_for_coincident_and_lonely_particles(dimension, order):
    r = np.full((60, dimension), 9.0)  # a pile
    r[:20] = np.arange(20)[:, None] * 3.0  # and a line of particles without neighbours
    value, gradient = order(r, 100.0, 1.5)
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in gradient)


# --- polar order ------------------------------------------------------------------------------------------------------


def test_polar_order_is_one_for_a_common_direction_and_zero_for_opposite_ones():
    v = np.array([[1.0, 1.0], [2.0, 2.0], [0.1, 0.1]])
    np.testing.assert_allclose(polar_order(v), 1.0)
    np.testing.assert_allclose(polar_order(np.concatenate([v, -3 * v])), 0.0, atol=1e-15)
    np.testing.assert_allclose(polar_order(np.array([[1.0, 0], [0, 5]])), math.sqrt(0.5))
    assert np.all(np.isfinite(jax.jit(jax.grad(polar_order))(jnp.zeros((3, 2)))))


def test_independent_headings_have_the_order_of_a_random_walk():
    """sqrt(pi / (4 n)) on average, for a Rayleigh distributed sum in two dimensions."""
    v = jax.random.normal(jax.random.key(0), (2000, 50, 2))
    order = jax.vmap(polar_order)(v)
    expected = math.sqrt(math.pi / 200)
    assert abs(jnp.mean(order) - expected) < 4 * expected * math.sqrt(4 / math.pi - 1) / math.sqrt(2000) + 1e-3


# --- contacts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "diameter", "contacts"), [("fcc", 0.72, 12), ("bcc", 0.9, 8), ("simple_cubic", 1.01, 6)]
)
def test_crystals_have_their_coordination_number(name, diameter, contacts):
    space, r = getattr(lattice, name)(3, lattice_constant=1.0)
    numbers = contact_numbers(space, r, AllPairs(), diameter=diameter)
    assert numbers.dtype == jnp.int32
    np.testing.assert_array_equal(numbers, contacts)
    np.testing.assert_array_equal(rattlers(space, r, AllPairs(), diameter=diameter), False)


def test_contacts_equal_a_count_over_all_pairs():
    side, r = fluid(3)
    species = np.arange(60) % 2
    matrix = np.array([[0.8, 1.1], [1.1, 1.4]])
    d, _ = bonds(side, r, 1.0)
    distance = np.linalg.norm(d, axis=-1) + np.diag(np.full(60, np.inf))
    expected = np.sum(distance < matrix[species[:, None], species[None]], axis=1)
    for diameter in (BySpecies(matrix, species), PerParticle(np.where(species, 1.4, 0.8))):
        for pairs in (AllPairs(), listed_fluid()):
            found = contact_numbers(Periodic(side), r, pairs, diameter=diameter)
            np.testing.assert_array_equal(found, expected)


def test_rattlers_are_found_one_after_the_other():
    """A branch that grows out of a crystal falls with its tip; the crystal stays."""
    crystal = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    branch = np.array([[2.5, 5.7], [2.5, 6.6], [2.5, 7.5], [3.3, 7.5], [20.0, 20.0]])
    r = np.concatenate([crystal, branch])
    present = np.ones(len(r), bool)
    while True:  # the definition
        distance = np.linalg.norm(r[:, None] - r[None], axis=-1) + np.diag(np.full(len(r), np.inf))
        counts = np.sum((distance < 1.05) & present[None] & present[:, None], axis=1)
        if np.all(present == (present & (counts >= 3))):
            break
        present &= counts >= 3
    found = rattlers(Free(), r, AllPairs(), diameter=1.05)
    np.testing.assert_array_equal(found, ~present)
    counts = np.where(present, counts, 0)
    np.testing.assert_array_equal(contact_numbers(Free(), r, AllPairs(), diameter=1.05, present=~found), counts)
    found, held = quantities.backbone_contacts(Free(), r, AllPairs(), diameter=1.05)
    np.testing.assert_array_equal(found, counts)
    np.testing.assert_array_equal(held, present)


SPACE, R2, R3 = Periodic(5.0), np.zeros((4, 2)), np.zeros((4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: quantities.bond_order(SPACE, R3, AllPairs(), cutoff=1.0),
            r"positions has shape \(4, 3\); must be \[n, 2\]",
        ),
        (lambda: quantities.bond_order(SPACE, R2, AllPairs(), cutoff=1.0, k=0), "k = 0; must be an integer >= 1"),
        (
            lambda: quantities.bond_order(SPACE, R2, AllPairs(), cutoff=1.0, onset=1.0),
            "onset = 1.0; must be .* cutoff, 1.0",
        ),
        (
            lambda: quantities.bond_order(SPACE, R2, AllPairs(), cutoff=3.0),
            "cutoff = 3; must be at most 2.5 in Periodic space",
        ),
        (
            lambda: quantities.steinhardt(SPACE, R2, AllPairs(), cutoff=1.0, l=6),
            r"positions has shape \(4, 2\); must be",
        ),
        (lambda: quantities.steinhardt(SPACE, R3, AllPairs(), cutoff=1.0, l=-1), "l = -1; must be an integer >= 0"),
        (lambda: quantities.steinhardt(SPACE, R3, AllPairs(), cutoff=0.0, l=6), "cutoff = 0; must be > 0"),
        (lambda: quantities.contact_numbers(SPACE, R3, AllPairs(), diameter=-1.0), "diameter = -1.0; must be"),
        (
            lambda: quantities.rattlers(SPACE, R3, AllPairs(), diameter=4.0),
            "diameter = 4; must be at most 2.5",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
