"""Running mean and variance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents.normalizer import Normalizer, normalizer


@pytest.mark.usefixtures("x64")
def test_merged_batches_equal_all_samples_at_once():
    random = np.random.default_rng(0)
    batches = [random.normal(5.0, scale, size=(*shape, 3)) for scale, shape in ((1.0, (7,)), (0.01, (4, 2)), (9.0, ()))]

    @jax.jit
    def merged(*batches):
        return functools.reduce(Normalizer.merge, batches, normalizer(batches[0].shape[-1:]))

    found = merged(*batches)
    samples = np.concatenate([batch.reshape(-1, 3) for batch in batches])
    assert found.count == len(samples)
    np.testing.assert_allclose(found.mean, np.mean(samples, axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.variance, np.var(samples, axis=0), rtol=1e-13)
    normalized = jax.jit(Normalizer.__call__)(found, samples)
    np.testing.assert_allclose([np.mean(normalized), np.std(normalized)], [0.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(found.restore(normalized[0]), samples[0])


def test_nothing_is_changed_before_the_first_batch_nor_by_one_that_is_not_finite():
    fresh, x = normalizer((2,)), jnp.array([[0.5, -2.0]])
    np.testing.assert_allclose(fresh(x), x)
    merged = jax.jit(fresh.merge)(jnp.array([[jnp.inf, 0.0], [1.0, 1.0]]))
    assert merged.count == 0.0
    np.testing.assert_array_equal(merged.mean, fresh.mean)


def test_a_constant_becomes_zero_and_outliers_are_bounded():
    found = jax.jit(lambda batch, x: normalizer((2,)).merge(batch)(x))
    np.testing.assert_allclose(found(jnp.array([[3.0, 1.0], [3.0, -1.0]]), jnp.array([3.0, 1e6])), [0.0, 10.0])
