"""Loops and branches whose values differ between devices, inside of shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from devices import DIVIDED, SHARED, on_devices
from dmdenv._core.control_flow import cond, fori_loop, scan, while_loop

X = jnp.array([1.0, 2.0, 3.0, 4.0])  # two numbers for each of two devices


FUNCTIONS = {
    "scan from a constant": lambda x: scan(lambda c, _: (c + x, None), jnp.zeros(2), length=3)[0],
    "scan over what varies": lambda x: scan(lambda c, v: (c + v, c), 0.0, x)[1],
    "scan that forgets": lambda x: scan(lambda c, _: (jnp.zeros(2), c), x, length=2)[1].sum(axis=0),
    "fori_loop from a constant": lambda x: fori_loop(0, 3, lambda i, c: c * x + i, jnp.ones(2)),
    "fori_loop of varying length": lambda x: fori_loop(0, x[0].astype(int), lambda i, c: c + 1, jnp.zeros(2)),
    "while_loop of varying length": lambda x: while_loop(lambda c: c[0] < x[1], lambda c: c + 1, jnp.zeros(2)),
    "while_loop over a tree": lambda x: while_loop(
        lambda c: c["n"] < 3, lambda c: {"n": c["n"] + 1, "y": c["y"] * x}, {"n": 0, "y": jnp.ones(2)}
    )["y"],
    "cond of constants": lambda x: cond(x[0] > 2, lambda: jnp.ones(2), lambda: jnp.zeros(2)),
    "cond of a constant and an operand": lambda x: cond(x[0] > 2, lambda x: jnp.ones(2), lambda x: x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_devices_may_hold_different_values(name):
    function = FUNCTIONS[name]
    np.testing.assert_array_equal(on_devices(function)(X), jnp.concatenate([function(X[:2]), function(X[2:])]))


def test_several_axes_of_devices_may_differ():
    mesh = jax.sharding.AbstractMesh((2, 2), ("a", "b"), axis_types=2 * (jax.sharding.AxisType.Auto,))

    def function(x, y):
        total, seen = scan(lambda c, v: (c + v * y[0], c), 0.0, x)
        return while_loop(lambda c: c < total, lambda c: c + 1, seen[0])[None]

    mapped = jax.shard_map(function, mesh=mesh, in_specs=(P("a"), P("b")), out_specs=P(("a", "b")))
    assert jax.eval_shape(mapped, X, X).shape == (4,)


def test_a_count_that_may_differ_does_not_pass_as_common_to_all_devices():
    def count(x):
        return while_loop(lambda c: c < x[0], lambda c: c + 1, 0.0)

    with pytest.raises(ValueError, match="out_specs"):
        on_devices(count, out_specs=SHARED)(X)


def test_derivatives_add_up_over_devices_that_take_different_branches():
    def loss(p, x):
        return jax.lax.psum(cond(x[0] > 2, lambda p: 5 * p, lambda p: p * p, p), "device")

    slope = on_devices(jax.grad(loss), in_specs=(SHARED, DIVIDED), out_specs=SHARED)
    assert slope(3.0, X) == 5 + 2 * 3


def test_outside_of_shard_map_they_are_those_of_jax():
    for ours, theirs, arguments in (
        (cond, jax.lax.cond, (True, jnp.sin, jnp.cos, 1.0)),
        (fori_loop, jax.lax.fori_loop, (0, 3, lambda i, c: c + i, 0)),
        (while_loop, jax.lax.while_loop, (lambda c: c < 3, lambda c: c + 1, 0)),
        (scan, jax.lax.scan, (lambda c, x: (c + x, c), 0.0, X)),
    ):
        assert str(jax.make_jaxpr(lambda f=ours, a=arguments: f(*a))()) == str(
            jax.make_jaxpr(lambda f=theirs, a=arguments: f(*a))()
        )
