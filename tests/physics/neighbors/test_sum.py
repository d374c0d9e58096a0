"""The sum over neighbours and its derivatives, against automatic differentiation of a sum that stores every pair.

The lists here are arbitrary symmetric graphs: which pairs a list holds is for test_lists.py.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_sums import (
    CASES,
    COMPLETE,
    GRAPH,
    POSITIONS,
    SPECIES,
    N,
    agree,
    as_jax,
    both_kinds_of_pairs,
    dense_sum,
    directions,
    gradient_and_hvp,
    graph_list,
    hessian,
    order_three,
    orders_one_and_two,
    random_like,
    reference_program,
    species_table,
    weighted,
)
from dmdenv.neighbors import AllPairs, neighbor_sum
from marks import by_default

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("kind", "derivatives"),
    by_default(
        itertools.product(["all pairs", "list"], [orders_one_and_two, order_three, hessian]),
        ("all pairs", orders_one_and_two),
        ("all pairs", hessian),
        ("list", orders_one_and_two),
    ),
)
def test_derivatives_of_every_order_agree_with_dense_autodiff(kind, derivatives):
    """With respect to positions, box and a coefficient at once."""
    case, (pairs, adjacent) = CASES["soft repulsion"], both_kinds_of_pairs()[kind]
    at = directions(case.point)
    program = jax.jit(lambda *at: derivatives(lambda p: weighted(case.sum(p, pairs, parity=0)), *at))
    agree(program(*at), reference_program(derivatives, "soft repulsion")(adjacent, *at)[1])


@pytest.mark.parametrize(
    "name", by_default(CASES, "soft repulsion", "infinite on itself", "species table", "custom derivatives")
)
def test_kernels_of_every_kind_agree_with_dense_autodiff(name):
    """Sums, gradients and products with the Hessian; parity declared where there is one."""
    case, at = CASES[name], directions(CASES[name].point)
    kinds = both_kinds_of_pairs()
    reference = {k: reference_program(gradient_and_hvp, name)(adjacent, *at) for k, (_, adjacent) in kinds.items()}

    def evaluated(p, u, v):
        def through(kind):
            return lambda p: case.sum(p, kinds[kind][0])

        sums = {kind: through(kind)(p) for kind in kinds}
        all_pairs = jax.grad(lambda p: weighted(through("all pairs")(p)))(p)
        return sums, all_pairs, gradient_and_hvp(lambda p: weighted(through("list")(p)), p, u, v)

    sums, of_all_pairs, of_list = jax.jit(evaluated)(*at)
    for kind in kinds:
        agree(sums[kind], reference[kind][0])
    agree(of_all_pairs, reference["all pairs"][1]["gradient"])
    agree(of_list, reference["list"][1])


def test_declared_parity_gives_the_same_derivatives_as_none():
    """Even, odd and undeclared outputs in one tree."""
    case, pairs = CASES["multipoles"], graph_list(GRAPH)

    def gradients(p):
        return [jax.grad(lambda p, y=y: weighted(case.sum(p, pairs, y)))(p) for y in (case.parity, 0)]

    declared, undeclared = jax.jit(gradients)(case.point)
    agree(declared, undeclared)


def test_an_energy_has_third_derivatives_with_its_force_declared_antisymmetric():
    """What a pair potential does: the force is a sum of its own."""

    def force(x):
        return neighbor_sum(lambda a, b: (a - b) * jnp.exp(-jnp.sum((a - b) ** 2)), x, AllPairs(), parity=-1)

    def dense(x):
        return dense_sum(lambda a, b: (a - b) * jnp.exp(-jnp.sum((a - b) ** 2)), x, COMPLETE)

    x, u, v = directions(jnp.asarray(POSITIONS))
    at = (x / 3, u, v)  # close enough to interact
    agree(
        jax.jit(lambda *at: order_three(lambda x: weighted(force(x)), *at))(*at),
        jax.jit(lambda *at: order_three(lambda x: weighted(dense(x)), *at))(*at),
    )


def test_a_while_loop_in_a_kernel_has_forward_derivatives():
    def kernel(a, b):
        s = jnp.sum((a - b) ** 2)
        return lax.while_loop(lambda y: y < 10.0, lambda y: 1.5 * y + jnp.cos(s) ** 2 + 0.1, s)

    def forward(summed):
        return jax.jit(lambda x, u: jax.jvp(summed, (x,), (u,)))(POSITIONS, random_like(POSITIONS, 1))

    agree(forward(lambda x: neighbor_sum(kernel, x, graph_list(GRAPH))), forward(lambda x: dense_sum(kernel, x, GRAPH)))


def test_a_kernel_may_have_its_own_reverse_rule():
    @jax.custom_vjp
    def cube(r):
        return jnp.sum(r**3)

    cube.defvjp(lambda r: (jnp.sum(r**3), r), lambda r, g: (3 * g * r**2,))

    def gradient(cube):
        summed = jax.grad(lambda x: weighted(neighbor_sum(lambda a, b: cube(a - b), x, graph_list(GRAPH))))
        return jax.jit(lambda x: (summed(x), jax.vmap(summed)(x[None])))(POSITIONS)

    agree(gradient(cube), gradient(lambda r: jnp.sum(r**3)))


def test_integers_among_differentiated_arguments_have_no_tangents():
    features = {"x": jnp.asarray(POSITIONS), "species": jnp.asarray(SPECIES)}
    theta = as_jax(CASES["species table"].theta)

    def total(summed, features):
        return weighted(summed(functools.partial(species_table, theta), features))

    def gradient(summed):
        return jax.jit(jax.grad(functools.partial(total, summed), allow_int=True))(features)

    of_list = gradient(lambda kernel, features: neighbor_sum(kernel, features, graph_list(GRAPH)))
    agree(of_list["x"], gradient(lambda kernel, features: dense_sum(kernel, features, GRAPH))["x"])
    assert of_list["species"].dtype == jax.dtypes.float0


def test_derivatives_pass_through_scan_and_checkpoint():
    """The gradient of a short trajectory with respect to its start and to a coefficient of the force."""

    def force(summed, k, x):
        return summed(lambda a, b: k * (a - b) * jnp.exp(-jnp.sum((a - b) ** 2)), x)

    def loss(summed, start):
        step = jax.checkpoint(lambda x, k: x + 0.1 * force(summed, k, x))
        return weighted(lax.scan(lambda x, _: (step(x, start["k"]), None), start["x"], None, length=3)[0])

    start = as_jax({"x": POSITIONS / 3, "k": 0.7})
    pairs = graph_list(GRAPH)
    agree(
        jax.jit(jax.grad(lambda s: loss(lambda kernel, x: neighbor_sum(kernel, x, pairs, parity=-1), s)))(start),
        jax.jit(jax.grad(lambda s: loss(lambda kernel, x: dense_sum(kernel, x, GRAPH), s)))(start),
    )


@pytest.mark.parametrize("kind", ["all pairs", "list"])
def test_derivatives_are_finite_where_particles_coincide_and_at_the_cutoff(kind):
    """A soft sphere with a safe norm: what coincides or just touches is at rest, the others feel what they should."""
    sigma = 1.5
    x = jnp.array([[0.0, 0, 0], [0, 0, 0], [sigma, 0, 0], [3.0, 0, 0], [3.0, 1.0, 0], [9, 9, 9]])
    pairs = {"all pairs": AllPairs(), "list": graph_list(COMPLETE)}[kind]

    def energy(x):
        def kernel(a, b):
            r = a - b
            s = jnp.sum(r**2)
            near = (s > 0) & (s < sigma**2)
            distance = jnp.sqrt(jnp.where(near, s, 1.0))
            overlap = jnp.where(s == 0, 1.0, 1.0 - distance / sigma)
            return jnp.where(s < sigma**2, overlap**2 / 2, 0.0)

        return jnp.sum(neighbor_sum(kernel, x, pairs, parity=1)) / 2

    u = random_like(x, 1)
    value, gradient, hvp = jax.jit(
        lambda x: (energy(x), jax.grad(energy)(x), jax.jvp(jax.grad(energy), (x,), (u,))[1])
    )(x)
    pull = (1 - 1.0 / sigma) / sigma
    assert value == pytest.approx(0.5 + (1 - 1.0 / sigma) ** 2 / 2, rel=1e-14)
    np.testing.assert_allclose(gradient, [[0, 0, 0]] * 3 + [[0, pull, 0], [0, -pull, 0], [0, 0, 0]], atol=1e-15)
    assert np.all(np.isfinite(hvp))
    assert np.all(hvp[:3] == 0)


def test_no_pair_is_added_for_a_particle_without_neighbours():
    empty = graph_list(np.zeros((N, N), bool))
    total = jax.jit(lambda x: neighbor_sum(lambda a, b: jnp.exp(a + b), x, empty))(POSITIONS)
    assert np.all(total == 0)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_particles_are_no_special_case(n):
    x = jnp.asarray(POSITIONS[:n])
    total = jax.jit(jax.value_and_grad(lambda x: jnp.sum(neighbor_sum(lambda a, b: a * b, x, AllPairs()))))(x)
    np.testing.assert_allclose(total[0], 2 * np.prod(x, axis=0).sum() if n == 2 else 0.0)
    np.testing.assert_allclose(total[1], 2 * x[::-1] if n == 2 else np.zeros((n, 3)))


# --- precision, dtypes, modes -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_float32_is_as_accurate_as_float32_can_be():
    """Sums, gradients and products with the Hessian, against float64."""
    case, (pairs, adjacent) = CASES["multipoles"], both_kinds_of_pairs()["list"]
    at = directions(case.point)
    exact = reference_program(gradient_and_hvp, "multipoles")(adjacent, *at)
    with jax.enable_x64(False):
        single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), at)
        value = jax.jit(
            lambda p, u, v: (case.sum(p, pairs), gradient_and_hvp(lambda p: weighted(case.sum(p, pairs)), p, u, v))
        )(*single)
    assert {a.dtype for a in jax.tree.leaves(value)} == {jnp.dtype("float32")}
    agree(jax.tree.map(lambda a: np.asarray(a, np.float64), value), exact, tolerance=3e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int32", "complex64"])
def test_a_dtype_is_kept_as_the_kernel_has_it(dtype):
    """With float64 enabled, nothing is promoted to it; literals of the kernel take the features' type."""
    x = jnp.asarray(POSITIONS).astype(dtype)

    def kernel(a, b):
        return {"vector": (a - b) * 2, "scalar": jnp.where(a[0] == b[0], a[0], 1 * b[1])}

    y = jax.jit(lambda x: neighbor_sum(kernel, x, AllPairs()))(x)
    assert {a.dtype for a in y.values()} == {jnp.dtype(dtype)}
    reference = dense_sum(kernel, x.astype("complex128"), COMPLETE)
    for name, a in y.items():
        np.testing.assert_allclose(np.asarray(a).astype("complex128"), reference[name], rtol=0.02, atol=0.1)


def test_counts_are_exact_integers():
    graph = graph_list(GRAPH)
    count = neighbor_sum(lambda a, b: jnp.where(b == 1, 1, 0), jnp.asarray(SPECIES), graph)
    assert jnp.issubdtype(count.dtype, jnp.integer)
    np.testing.assert_array_equal(count, (GRAPH & (SPECIES[None, :] == 1)).sum(1))


def test_jit_equals_eager():
    case, (pairs, _) = CASES["soft repulsion"], both_kinds_of_pairs()["list"]

    def evaluated(p):
        return case.sum(p, pairs), jax.grad(lambda p: weighted(case.sum(p, pairs)))(p)

    agree(evaluated(case.point), jax.jit(evaluated)(case.point), tolerance=1e-14)


def test_it_runs_while_jit_is_disabled():
    with jax.disable_jit():
        y = neighbor_sum(lambda a, b: a - b, POSITIONS, AllPairs())
    np.testing.assert_allclose(y, N * POSITIONS - POSITIONS.sum(0, keepdims=True), rtol=1e-14)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "features has no leaves; must be a pytree of arrays"),
        (3.0, r"features has leaves of shape \[\(\)\]; must be arrays \[n, ...\]"),
        ({"x": np.zeros((4, 3)), "q": np.zeros(5)}, r"\(5,\), \(4, 3\).*one common n"),
        (np.zeros((4, 3)), f"features has 4 particles; must be {N}, as many as the neighbour list"),
    ],
)
def test_bad_features_are_named(features, message):
    with pytest.raises(ValueError, match=message):
        neighbor_sum(lambda a, b: 1.0, features, graph_list(GRAPH))


@pytest.mark.parametrize("parity", [2, 0.5, {"a": 1, "b": 3}])
def test_a_bad_parity_is_named(parity):
    with pytest.raises(ValueError, match=r"parity = .*; must be -1, 0 or 1"):
        neighbor_sum(lambda a, b: {"a": a, "b": b}, POSITIONS, AllPairs(), parity=parity)


def test_a_kernel_that_returns_booleans_is_told_to_count():
    with pytest.raises(TypeError, match=r"kernel returned bool; must be numbers \(count with jnp.where"):
        neighbor_sum(lambda a, b: a[0] < b[0], POSITIONS, AllPairs())


def test_a_kernel_may_be_constant():
    count = jax.jit(lambda x: neighbor_sum(lambda a, b: jnp.ones(()), x, AllPairs()))
    np.testing.assert_array_equal(count(jnp.zeros(3)), 2.0)
