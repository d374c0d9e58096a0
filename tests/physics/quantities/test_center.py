"""The centre of particles: the mean where they are together, and independent of the box's origin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.quantities import center
from dmdenv.space import Free, Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("x64")

CLOUD = 0.3 * np.random.default_rng(0).normal(size=(9, 2))


@pytest.mark.parametrize(
    "space",
    [Periodic(np.array(6.0)), Periodic(np.array([5.0, 9.0])), Triclinic(np.array([[7.0, 0.0], [2.0, 5.0]]))],
)
def test_a_small_cloud_has_its_mean_as_centre_across_the_boundary_too(space):
    """To third order in its size; exactly for a symmetric cloud."""
    cloud = jnp.concatenate([CLOUD, -CLOUD])
    for middle in (jnp.array([[2.0, 2.5]]), jnp.array([[0.05, 4.98]])):
        found = center(space, space.wrap(cloud + middle))
        np.testing.assert_allclose(space.displacement(found, middle[0]), 0.0, atol=1e-12)
    skewed = center(space, CLOUD + middle)
    np.testing.assert_allclose(space.displacement(skewed, middle[0]), jnp.mean(CLOUD, axis=0), atol=0.03)


def test_weights_are_masses():
    weights = jnp.arange(9.0)
    np.testing.assert_allclose(center(Free(), CLOUD, weights), weights @ CLOUD / 36.0, atol=1e-14)
    mask = jnp.arange(9) < 4
    for space in (Free(), Periodic(np.array(6.0))):
        np.testing.assert_allclose(center(space, CLOUD, mask), center(space, CLOUD[:4]), atol=1e-14)


@pytest.mark.parametrize("space", [Free(), Periodic(np.array(6.0))])
def test_of_nobody_it_is_the_origin_with_a_finite_derivative(space):
    np.testing.assert_array_equal(center(space, CLOUD, jnp.zeros(9)), 0.0)
    gradient = jax.grad(lambda x, w: jnp.sum(center(space, x, w)), argnums=(0, 1))(CLOUD, jnp.zeros(9))
    assert all(np.all(np.isfinite(g)) for g in gradient)


ONE = np.zeros((9, 2))
ONE[4, 1] = 1.0


def test_its_derivative_is_a_share_of_each_particle():
    gradient = jax.grad(lambda x: center(Free(), x)[0])(CLOUD)
    np.testing.assert_allclose(gradient, np.tile([1 / 9, 0.0], (9, 1)), atol=1e-14)
    space, at = Periodic(np.array(6.0)), CLOUD + 3.0
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(center(space, x))))(at)
    up, down = (jnp.sum(jnp.sin(center(space, at + h * ONE))) for h in (1e-6, -1e-6))
    assert float(gradient[4, 1]) == pytest.approx(float(up - down) / 2e-6, rel=1e-6)
