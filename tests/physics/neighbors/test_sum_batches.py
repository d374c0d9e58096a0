"""Sums over neighbours under `jax.vmap`: of features, of what a kernel closes over, of lists."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_sums import (
    CASES,
    COMPLETE,
    B,
    N,
    agree,
    as_jax,
    batch_of_lists,
    batch_of_points,
    dense_sum,
    random_like,
    through_graph,
    through_list,
    weighted,
)
from dmdenv.neighbors import AllPairs, neighbor_sum

pytestmark = pytest.mark.usefixtures("x64")


def batched_derivatives(f, at, other, at_axes, other_axes):
    """vmap of value, grad and hvp; grad of vmap; hvp of vmap."""

    def hvp(f, p):
        return jax.jvp(jax.grad(f), (p,), (random_like(p, 5),))[1]

    def over_batch(g):
        return jax.vmap(g, in_axes=(at_axes, other_axes))

    def total(p):
        return weighted(over_batch(f)(p, other))

    return {
        "vmap": over_batch(f)(at, other),
        "vmap of grad": over_batch(jax.grad(f))(at, other),
        "vmap of hvp": over_batch(lambda p, o: hvp(lambda q: f(q, o), p))(at, other),
        "grad of vmap": jax.grad(total)(at),
        "hvp of vmap": hvp(total, at),
    }


MAPPED = {  # which of the kernel's operands have a batch axis, and which pairs
    "box": ({"box"}, "one list"),
    "lists": (set(), "many lists"),
    "features, box and coefficient": ({"x", "box", "strength"}, "all pairs"),
    "everything": ({"x", "box", "strength"}, "many lists"),
}


@pytest.mark.parametrize("mapped", MAPPED)
def test_batches_agree_with_dense_autodiff(mapped):
    """vmap of grad and grad of vmap, with a batch of features, of what the kernel closes over, or of lists."""
    batched, kind = MAPPED[mapped]
    at = {name: a if name in batched else a[0] for name, a in batch_of_points().items()}
    at_axes = {name: 0 if name in batched else None for name in at}
    lists, graphs = batch_of_lists()
    pairs, adjacent, axis = {
        "all pairs": (AllPairs(), jnp.asarray(COMPLETE), None),
        "one list": (*jax.tree.map(lambda a: a[0], (lists, graphs)), None),
        "many lists": (lists, graphs, 0),
    }[kind]

    value = jax.jit(lambda at, pairs: batched_derivatives(through_list, at, pairs, at_axes, axis))(at, pairs)
    reference = jax.jit(lambda at, graph: batched_derivatives(through_graph, at, graph, at_axes, axis))(at, adjacent)
    agree(value, reference)


@pytest.mark.parametrize("inner", ["features", "lists"])
def test_nested_batches_agree_with_dense_autodiff(inner):
    """An outer batch of everything around an inner one, gradients inside and outside."""
    lists, graphs = batch_of_lists()
    at = batch_of_points()
    if inner == "features":  # [outer, inner, n, d]
        at["x"] = jnp.stack([at["x"], 1.1 * at["x"][::-1]], axis=1)
    if inner == "lists":  # [inner, outer, ...]: the inner axis behind
        lists, graphs = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), (lists, graphs))
    x_axis, list_axis = 0 if inner == "features" else None, 0 if inner == "lists" else None

    def evaluated(f, at, other):
        def total(at):
            over_inner = jax.vmap(f, in_axes=({"box": None, "strength": None, "x": x_axis}, list_axis))
            return weighted(jax.vmap(over_inner, in_axes=(0, 1 if inner == "lists" else 0))(at, other))

        def gradients(at, other):
            inner_gradient = jax.vmap(jax.grad(f), in_axes=({"box": None, "strength": None, "x": x_axis}, list_axis))
            return jax.vmap(inner_gradient, in_axes=(0, 1 if inner == "lists" else 0))(at, other)

        return {"grad of vmaps": jax.grad(total)(at), "vmaps of grad": gradients(at, other)}

    agree(
        jax.jit(lambda at, lists: evaluated(through_list, at, lists))(at, lists),
        jax.jit(lambda at, graphs: evaluated(through_graph, at, graphs))(at, graphs),
    )


def test_a_batch_equals_a_loop_over_its_instances():
    """A kernel with small matrix products and many outputs; all but the table it closes over has a batch axis."""
    case = CASES["multipoles"]
    lists, _ = batch_of_lists()
    points = [jax.tree.map(lambda a, k=k: a * (1 + 0.1 * k), case.point["features"]) for k in range(B)]

    def gradient(features, pairs):
        def total(features):
            return weighted(case.sum({"theta": as_jax(case.theta), "features": features}, pairs))

        return jax.grad(total)(features)

    one = jax.jit(gradient)
    loop = [one(features, jax.tree.map(lambda a, k=k: a[k], lists)) for k, features in enumerate(points)]
    batched_features = jax.tree.map(lambda *a: jnp.stack(a), *points)
    agree(jax.jit(jax.vmap(gradient))(batched_features, lists), jax.tree.map(lambda *a: jnp.stack(a), *loop))


@pytest.mark.parametrize("parity", [0, -1])
def test_a_coefficient_of_each_instance_has_its_gradient_through_a_batch_of_lists(parity):
    """Declared antisymmetric, the kernel is so only for equal coefficients, which those of two instances are not."""
    rng = np.random.default_rng(2)
    x, k, weight = rng.normal(size=(3, N, 2)), rng.uniform(0.5, 1.0, 3), rng.normal(size=(1, N, 2))
    lists, graphs = batch_of_lists()

    def force(k, a, b):
        return (a - b) * jnp.exp(-k * jnp.sum((a - b) ** 2))

    def ours(k):
        y = jax.vmap(lambda k, x, pairs: neighbor_sum(functools.partial(force, k), x, pairs, parity=parity))(
            k, x, lists
        )
        return jnp.sum(weight * y)

    def dense(k):
        y = jax.vmap(lambda k, x, graph: dense_sum(functools.partial(force, k), x, graph))(k, x, graphs)
        return jnp.sum(weight * y)

    agree(jax.jit(jax.grad(ours))(k), jax.jit(jax.grad(dense))(k))
