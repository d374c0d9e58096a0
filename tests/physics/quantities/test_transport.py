"""Mean squared displacements and velocity autocorrelations against sums over time origins."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import quantities
from fluids import assert_gradient_is_right

pytestmark = pytest.mark.usefixtures("x64")

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
