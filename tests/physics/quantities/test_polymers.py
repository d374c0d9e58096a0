"""Sizes of chains, and the superposition of shapes."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import lattice, quantities
from fluids import assert_gradient_is_right

pytestmark = pytest.mark.usefixtures("x64")

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
    np.testing.assert_allclose(quantities.superpose(turned, z), quantities.superpose(w, z), atol=1e-12)
    np.testing.assert_allclose(quantities.superpose(w, turned), turned, atol=1e-12)
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
