"""Computations apart from their surroundings: what they return, under `jit` and `vmap`, and that they stay apart."""

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.isolate import isolated, unknown


def polynomial(x, c):
    return {"y": x * x + c, "rounded": jnp.round(x).astype(jnp.int32)}


def test_the_result_is_that_of_the_function():
    x, c = jnp.arange(5.0), jnp.float32(2.0)
    for number in (-3, -2, 0, 7):
        found = jax.jit(lambda n: isolated(polynomial, n, x, c))(jnp.int32(number))
        jax.tree.map(np.testing.assert_array_equal, found, polynomial(x, c))


def test_instances_share_the_conditional():
    x, c = jnp.arange(6.0).reshape(2, 3), jnp.array([1.0, 2.0])
    apart = jax.vmap(lambda n, x, c: isolated(polynomial, n, x, c))
    numbers = jnp.array([3, -4])
    jax.tree.map(np.testing.assert_array_equal, apart(numbers, x, c), jax.vmap(polynomial)(x, c))
    assert " cond[" in str(jax.make_jaxpr(apart)(numbers, x, c))  # not a selection between two results


def test_the_compiled_program_keeps_the_branch():
    def program(n, x):
        return isolated(jnp.sin, n, x) + 1.0

    text = jax.jit(program).lower(jnp.int32(1), jnp.arange(5.0)).compile().as_text()
    assert text.count(" conditional(") == 1


def test_hidden_numbers_keep_their_values_and_what_is_no_number_stays():
    tree = {"x": jnp.array([1.0, jnp.nan]), "n": jnp.int32(4), "flag": jnp.array(True), "key": jax.random.key(0)}
    hidden = jax.jit(lambda n: unknown(tree, n))(jnp.int32(-5))
    np.testing.assert_array_equal(hidden["x"], tree["x"])
    assert hidden["n"] == 4 and hidden["flag"] and hidden["key"] == tree["key"]


def test_hidden_constants_are_not_folded():
    def program(n):
        return unknown(jnp.float32(3.0), n) * 2.0

    text = jax.jit(program).lower(jnp.int32(1)).compile().as_text()
    assert " select(" in text and "constant(6)" not in text
