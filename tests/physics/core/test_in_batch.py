"""A conditional that stays one under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dmdenv._core.in_batch import any_in_batch
from marks import OPTIMIZED


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("mode", [jax.jit, lambda f: f])
def test_it_is_the_identity_outside_of_a_batch(mode, value):
    assert mode(any_in_batch)(value) == value


@pytest.mark.parametrize("holds", [[False, False, False], [False, True, False]])
def test_all_instances_see_whether_it_holds_for_any(holds):
    np.testing.assert_array_equal(jax.vmap(any_in_batch)(jnp.array(holds)), [any(holds)] * 3)


def test_nested_batches_are_all_reduced():
    holds = jnp.zeros((2, 3), bool).at[1, 2].set(True)
    assert np.all(jax.jit(jax.vmap(jax.vmap(any_in_batch)))(holds))
    assert np.all(jax.vmap(jax.vmap(any_in_batch, in_axes=0), in_axes=1)(holds))
    assert not np.any(jax.vmap(jax.vmap(any_in_batch))(jnp.zeros((2, 3), bool)))


def test_it_sees_only_the_batches_that_the_predicate_has():
    x = jnp.arange(3.0)
    result = jax.vmap(lambda x: x * any_in_batch(jnp.array(True)))(x)
    np.testing.assert_array_equal(result, x)


def costly_or_not(reduced):
    """A conditional with a branch that XLA does not evaluate for nothing."""

    def function(x):
        asked = reduced(jnp.sum(x) > 1.0)
        return lax.cond(asked, lambda x: lax.fori_loop(0, 10, lambda _, x: jnp.sin(jnp.sort(x)), x), lambda x: 2 * x, x)

    return function


def losses(reduced):
    f = costly_or_not(reduced)
    one = jax.grad(lambda x: jnp.sum(f(x) ** 2))
    return {
        "vmap": jax.vmap(f),
        "vmap of grad": jax.vmap(one),
        "grad of vmap": jax.grad(lambda x: jnp.sum(jax.vmap(f)(x) ** 2)),
        "scan of vmap": lambda x: lax.scan(lambda x, _: (jax.vmap(f)(x), None), x, None, length=3)[0],
        "nested vmap": lambda x: jax.vmap(jax.vmap(f))(jnp.stack([x, x])),
    }


@pytest.mark.parametrize("name", losses(any_in_batch))
def test_the_compiled_program_keeps_the_conditional(name):
    """And would not without the reduction: the text that is looked for means what it should."""
    x = jnp.zeros((4, 5))
    with_any, without = (
        jax.jit(losses(f)[name]).lower(x).compile(OPTIMIZED).as_text() for f in (any_in_batch, lambda p: p)
    )
    assert "conditional(" in with_any
    assert "conditional(" not in without


@pytest.mark.parametrize("name", ["vmap of grad", "grad of vmap"])
@pytest.mark.parametrize("asked", [True, False])
def test_gradients_are_those_of_the_branch_taken(name, asked):
    x = jnp.full((3, 5), 0.1).at[1, 0].set(5.0 if asked else 0.2)
    taken = jax.vmap(jax.grad(lambda x: jnp.sum(costly_or_not(lambda _: jnp.array(asked))(x) ** 2)))
    np.testing.assert_allclose(jax.jit(losses(any_in_batch)[name])(x), taken(x), rtol=1e-6)


def test_it_may_be_asked_of_what_is_differentiated():
    """Also where the predicate is carried by a loop."""

    def trajectory(x):
        def step(carry, _):
            x, large = carry
            x = lax.cond(any_in_batch(large), lambda x: 0.5 * x, lambda x: 2.0 * x, x)
            return (x, x > 4.0), None

        return lax.scan(step, (x, x > 4.0), None, length=4)[0][0]

    assert jax.grad(trajectory)(1.0) == 2.0**3 * 0.5
    np.testing.assert_allclose(jax.vmap(jax.grad(trajectory))(jnp.array([1.0, 1.1])), [4.0, 4.0])
