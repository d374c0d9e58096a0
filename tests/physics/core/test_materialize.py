"""`stored` is an identity in every way but for what XLA makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dmdenv._core.materialize import materialize
from marks import OPTIMIZED

pytestmark = pytest.mark.usefixtures("x64")

X = np.random.default_rng(0).normal(size=(4, 3))


def through(x):
    pieces = materialize({"sines": jnp.sin(x), "rest": [x[0], 2 * x]})
    return jnp.sum(pieces["sines"] * pieces["rest"][1]) + jnp.sum(pieces["rest"][0] ** 3)


def around(x):
    return jnp.sum(jnp.sin(x) * 2 * x) + jnp.sum(x[0] ** 3)


def test_values_and_derivatives_are_those_without_it():
    for transform in (lambda f: f, jax.grad, jax.hessian, lambda f: jax.vmap(jax.grad(lambda x: f(x[None])))):
        np.testing.assert_allclose(jax.jit(transform(through))(X), jax.jit(transform(around))(X), rtol=1e-13)
    check_grads(through, (X,), order=2, modes=["fwd", "rev"], rtol=1e-6)


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -0.0, np.int32(-1), np.uint8(255), np.array(False), np.zeros((0, 3)), 1 + 2j]
)
def test_any_value_comes_through(value):
    """Of those that the conditional in it reads."""
    value = jnp.asarray(value)
    out, other = jax.jit(lambda a: materialize((a, 1.0)))(value)
    assert out.dtype == value.dtype
    np.testing.assert_array_equal(out, value)
    assert other == 1.0


def test_no_fusion_goes_through_it():
    """The pieces of a concatenation are computed before it; without `stored` within it."""

    def columns(x, keep):
        pieces = [jnp.exp(x) * q for q in range(1, 4)]
        return jnp.stack(materialize(pieces) if keep else pieces, axis=-1)

    def conditionals(keep):
        return jax.jit(lambda x: columns(x, keep)).lower(jnp.ones(8)).compile(OPTIMIZED).as_text().count("conditional(")

    assert conditionals(True) == 1
    assert conditionals(False) == 0


def test_an_empty_tree_stays_empty():
    assert materialize({}) == {}
