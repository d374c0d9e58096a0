"""Packings of prescribed moduli: the gradient that the benchmark counts and uses, and designs that reach a target."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import moduli
from dmdenv.differentiation import implicit

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def comparison():
    """Four packings of twelve discs, minimised until differences of 1e-6 in u can be seen."""
    design = moduli.Design(12, force_tolerance=1e-12)
    return moduli.Comparison.prepare(design, starts=4, budget=15_000, key=jax.random.key(2))


def test_the_gradient_of_a_modulus_is_that_of_packings_minimised_anew():
    """Both moduli; central differences of minimisations in float64, in a random direction."""
    c, h = comparison(), 1e-6
    direction = jax.random.normal(jax.random.key(1), c.u.shape)
    around = jnp.stack([c.u + h * direction, c.u - h * direction], axis=1)
    *both, _ = c.evaluate(around, c.packings)
    for shear, values in zip((True, False), both, strict=True):
        found, gradient = c.differentiate(jnp.asarray(shear), c.u, c.packings)
        difference = (values[:, 0] - values[:, 1]) / (2 * h)
        assert np.all(np.isfinite(found.value)) and np.all(found.cost > 100)
        np.testing.assert_allclose(jnp.mean(values, axis=1), found.value, rtol=1e-6)
        slope = jnp.sum(gradient * direction, axis=1)
        np.testing.assert_allclose(slope, difference, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(gradient))))


@pytest.mark.slow
def test_the_gradient_is_that_of_the_modulus_at_the_implicit_minimum():
    c = comparison()

    def shear_modulus(u, start):
        x, *_ = c.design.relax(u, start)
        minimum = implicit.minimum(functools.partial(c.design.energy, u), x, tolerance=1e-10)
        return c.design.elasticity(u, minimum).shear_modulus

    gradient = jax.jit(jax.vmap(jax.grad(shear_modulus)))(c.u, c.packings)
    np.testing.assert_allclose(c.differentiate(jnp.asarray(True), c.u, c.packings)[1], gradient, rtol=1e-5, atol=1e-9)


def test_designs_by_the_gradient_reach_their_target():
    """A shear modulus above that of every start's packing, reached within 1e-6 by most."""
    c = comparison()
    start = c.differentiate(jnp.asarray(True), c.u, c.packings)[0].value
    target = 1.05 * float(jnp.max(start))
    record, designs = c.by_gradient("shear_modulus", target, jax.random.key(0))
    error = record.best_at(np.inf)
    assert np.sum(error < 1e-6) >= 2
    assert np.all(np.diff(record.costs, axis=0) > 0)
    np.testing.assert_allclose(record.best_at(float(record.costs[0].max())), record.errors[0])
    found, _ = c.differentiate(jnp.asarray(True), designs, c.packings)
    np.testing.assert_allclose(np.abs(found.value / target - 1), error, atol=1e-12)
    diameters = jax.vmap(c.design.domain.params)(designs)
    assert np.all((diameters >= 0.7) & (diameters <= 1.3))


def test_a_record_knows_the_best_within_a_budget_and_what_a_design_cost():
    record = moduli.Record(np.array([[0.5, 1.0], [0.1, np.inf], [0.3, 0.004]]), np.array([[10, 5], [20, 9], [30, 50]]))
    np.testing.assert_array_equal(record.best_at(4), [np.inf, np.inf])
    np.testing.assert_array_equal(record.best_at(29), [0.1, 1.0])
    np.testing.assert_array_equal(record.cost_to(0.2), [20, 50])
    found = moduli.summarise(record, np.array([4.0, 60.0]))
    assert found["median"] == [None, 0.1] and found["best"] == 0.004 and found["reached"] == 0.5
    assert found["evaluations"] == 3
