"""Functions of one pair evaluated for all particles, against nested `jax.vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dmdenv.neighbors.particles_last import evaluate, join, over_particles, split

S = (3,)  # of one particle's vectors


def evaluated_arrays(jaxpr, operands, mapped, particles):
    """`evaluate` from arrays to arrays."""
    values = [split(a, len(particles)) if m else a for a, m in zip(operands, mapped, strict=True)]
    return [join(value, particles) for value in evaluate(jaxpr, values, particles)]


FUNCTIONS = {
    # elementwise, with literals, scalars and shared operands
    "arithmetic": lambda s, a, b: 2 * a - b / (1 + a**2) + s * a,
    "powers": lambda s, a, b: jnp.abs(a) ** 1.5 + b**3 + jnp.sqrt(jnp.abs(s)) * lax.rsqrt(1 + a**2),
    "scalar times vector": lambda s, a, b: s[0] * a[1] * b,
    "where of a scalar": lambda s, a, b: jnp.where(a[0] > b[0], a, s),
    "where of a vector": lambda s, a, b: jnp.where(a > 0, 0.0, b),
    "where of what is shared": lambda s, a, b: jnp.where(s[0] > 0, a, b),
    "clip": lambda s, a, b: jnp.clip(a, -0.5, b[0]) + jnp.clip(b, s.min(), s.max()),
    "special": lambda s, a, b: lax.erfc(a) + lax.lgamma(jnp.abs(b) + 1) + lax.erf_inv(jnp.tanh(a)),
    "integers": lambda s, a, b: (a > b).astype(jnp.int32) * jnp.floor(5 * b).astype(jnp.int32) % 3,
    "remainder": lambda s, a, b: jnp.remainder(a, 0.3) + jnp.round(b) + jnp.sign(a) + jnp.minimum(a, 0.2),
    # reductions
    "sums": lambda s, a, b: jnp.sum(a) + jnp.max(b) * jnp.min(a) + jnp.prod(jnp.outer(a, b)) + jnp.mean(s),
    "logic": lambda s, a, b: jnp.where(jnp.any(a > 0) & jnp.all(b < 1), jnp.argmax(a), jnp.argmin(jnp.outer(a, b))),
    "axis": lambda s, a, b: jnp.sum(jnp.outer(a, b), axis=0) + jnp.max(jnp.outer(a, s), axis=1),
    "norm": lambda s, a, b: a / jnp.linalg.norm(a - b),
    # shapes
    "broadcast": lambda s, a, b: jnp.broadcast_to(a, (2, 3)) + b[0] + jnp.ones((2, 1)),
    "reshape": lambda s, a, b: jnp.outer(a, b).reshape(-1)[:6].reshape(3, 2),
    "reshape in another order": lambda s, a, b: lax.reshape(jnp.outer(a, b), (9,), dimensions=(1, 0)),
    "fortran order": lambda s, a, b: jnp.ravel(jnp.outer(a, b), order="F"),
    "transpose": lambda s, a, b: jnp.transpose(a[:, None, None] * b[None, :, None] * s[None, None, :], (2, 0, 1)),
    "concatenate": lambda s, a, b: jnp.concatenate([a, s, jnp.stack([b[0], jnp.float32(7)])]),
    "slices": lambda s, a, b: a[:2] + b[-2:] + a[1] + s[1],
    "pad": lambda s, a, b: lax.pad(jnp.outer(a, b), jnp.float32(2), [(1, 0, 1), (0, 2, 0)]),
    "pad with a value of its own": lambda s, a, b: lax.pad(a, b[0], [(1, 1, 0)]) + lax.pad(s, b[1], [(2, 0, 0)]),
    "split, roll, reverse": lambda s, a, b: jnp.roll(a, 1)[::-1] + jnp.concatenate(jnp.split(b, 3)[::-1]) + a[-1],
    "strides": lambda s, a, b: a[::2] * b[1:],
    "derivative of a concatenation": lambda s, a, b: jax.grad(lambda a: jnp.prod(jnp.stack([a[0], *b, a[2]])))(a),
    # products
    "matrix times vector": lambda s, a, b: jnp.outer(s, s) @ a,
    "matrix times matrix": lambda s, a, b: jnp.outer(a, b) @ jnp.outer(b, a),
    "einsum": lambda s, a, b: jnp.einsum("ij,kj,k->ik", jnp.outer(a, b), jnp.outer(s, a), b),
    "batched product": lambda s, a, b: jnp.einsum(
        "ci,cij->cj", jnp.outer(a, b), jnp.tile(jnp.outer(b, s)[None], (3, 1, 1))
    ),
    "product of integers": lambda s, a, b: jnp.floor(5 * a).astype(jnp.int8) @ jnp.floor(5 * b).astype(jnp.int8),
    "large product": lambda s, a, b: jnp.outer(jnp.tile(s, 4), jnp.tile(s, 4)) @ jnp.tile(a, 4),
    "cross": lambda s, a, b: jnp.cross(a, b),
    # operations that need vmap
    "sort": lambda s, a, b: jnp.sort(a) * jnp.cumsum(b) + jnp.argsort(b),
    "dynamic index": lambda s, a, b: s[jnp.argmax(a)] * a[jnp.argmin(b)],
    "dynamic slice": lambda s, a, b: lax.dynamic_slice(jnp.outer(a, b), (jnp.argmax(a), 1), (1, 2)),
    "scatter": lambda s, a, b: jnp.zeros(4).at[jnp.argmax(b)].add(a[0]),
    "linear algebra": lambda s, a, b: jnp.linalg.solve(jnp.eye(3) + jnp.outer(a, a), b),
    "cond": lambda s, a, b: lax.cond(a[0] > 0, lambda x: x + s, lambda x: x * b, a),
    "cond on what is shared": lambda s, a, b: lax.cond(s[0] > 0, lambda x: x + s, lambda x: x * b, a),
    "switch": lambda s, a, b: lax.switch(jnp.argmax(a), [jnp.sin, jnp.cos, jnp.exp], b),
    "scan": lambda s, a, b: lax.scan(lambda c, t: (c * b + t, c[0]), a, s),
    "while": lambda s, a, b: lax.while_loop(lambda x: jnp.sum(x) < 5, lambda x: x + jnp.abs(a) + 0.1, b),
    # calls
    "jit": lambda s, a, b: jax.jit(lambda x, y: (x @ y, s * y))(a, b),
    "custom_jvp": lambda s, a, b: jax.nn.relu(a) + jax.nn.silu(b),
    "checkpoint": lambda s, a, b: jax.checkpoint(lambda x: jnp.sin(x) * b)(a),
    # outputs that do not depend on the particle, or are operands
    "shared output": lambda s, a, b: (jnp.sin(s), 1.0, a),
}


@pytest.fixture(scope="module", params=[(5,), (2, 5)], ids=["columns", "grid"])
def evaluated(request):
    """Every function over the particle axes, by `evaluate` and by vmap, in one program each; `b` has the last only."""
    particles = request.param
    rng = np.random.default_rng(3)
    s, a, b = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (S, (*S, *particles), (*S, *particles)))

    def ours(s, a, b):
        one = jax.ShapeDtypeStruct(S, jnp.float32)
        return {
            name: evaluated_arrays(jax.make_jaxpr(f)(one, one, one), [s, a, b], [False, True, True], particles)
            for name, f in FUNCTIONS.items()
        }

    def by_vmap(s, a, b):
        def mapped(f):
            for _ in particles:
                f = jax.vmap(f, in_axes=(None, -1, -1), out_axes=-1)
            return jax.tree.leaves(f(s, a, b))

        return {name: mapped(f) for name, f in FUNCTIONS.items()}

    return [jax.jit(side)(s, a, b) for side in (ours, by_vmap)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_gives_what_vmap_gives(evaluated, name):
    value, reference = (side[name] for side in evaluated)
    assert [a.dtype for a in value] == [a.dtype for a in reference]
    for a, b in zip(value, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def program(f, n=5):
    one, all_ = jax.ShapeDtypeStruct(S, jnp.float32), jax.ShapeDtypeStruct((*S, n), jnp.float32)
    jaxpr = jax.make_jaxpr(f)(one, one, one)
    return jax.make_jaxpr(lambda s, a, b: evaluated_arrays(jaxpr, [s, a, b], [False, True, True], (n,)))(
        one, all_, all_
    ).jaxpr


SMALL = [
    "concatenate",
    "derivative of a concatenation",
    "arithmetic",
    "where of a scalar",
    "norm",
    "axis",
    "slices",
    "matrix times vector",
    "einsum",
    "cross",
    "pad",
]


@pytest.mark.parametrize("name", SMALL)
def test_small_kernels_stay_loops_over_particles(name):
    """Every array has the particles last: nothing moves an axis, no small product goes to a matrix library."""
    for equation in program(FUNCTIONS[name]).eqns:
        assert equation.primitive.name != "dot_general"
        if equation.primitive.name == "transpose":
            permutation = equation.params["permutation"]
            assert permutation[-1] == len(permutation) - 1


def test_what_is_shared_is_computed_once():
    equations = program(lambda s, a, b: jnp.sum(jnp.exp(s)) * a).eqns
    assert [e.outvars[0].aval.shape for e in equations if e.primitive.name == "exp"] == [S]


def test_a_function_of_trees_is_evaluated_on_a_shared_tree_and_mapped_arrays():
    a = jnp.arange(12.0).reshape(3, 4)
    total, scaled = over_particles(lambda s, v: (jnp.sum(v), s["k"] * v), (4,), {"k": jnp.float32(2)}, split(a, 1))
    np.testing.assert_allclose(total, a.sum(0))
    np.testing.assert_allclose(scaled, 2 * a)


def test_the_second_argument_may_be_shared_too():
    """As in a sweep over all pairs: one particle against all."""
    jaxpr = jax.make_jaxpr(lambda a, b: a @ b)(jnp.zeros(3), jnp.zeros(3))
    a, b = jnp.arange(12.0).reshape(3, 4), jnp.arange(3.0)
    np.testing.assert_allclose(evaluated_arrays(jaxpr, [a, b], [True, False], (4,))[0], b @ a)
