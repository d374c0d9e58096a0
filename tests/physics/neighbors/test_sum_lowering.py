"""How a sum over neighbours is computed: without scatters, in blocks, and in two forms that agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import dmdenv.neighbors.lowering
from dense_sums import (
    CASES,
    GRAPH,
    POSITIONS,
    agree,
    as_jax,
    batch_of_lists,
    batch_of_points,
    both_kinds_of_pairs,
    directions,
    gradient_and_hvp,
    graph_list,
    orders_zero_and_one,
    soft_repulsion,
    through_list,
    weighted,
)
from dmdenv.neighbors import AllPairs, allocate, neighbor_sum
from dmdenv.neighbors.lowering import column_sweep, gather_and_reduce
from dmdenv.neighbors.particles_last import bind
from dmdenv.neighbors.sum import _lower, neighbor_sum_p
from dmdenv.space import Free

pytestmark = pytest.mark.usefixtures("x64")


def test_long_lists_are_swept_block_by_block(monkeypatch):
    """In a few blocks, and with a block for each particle."""
    case, pairs = CASES["multipoles"], graph_list(GRAPH)

    def summed(point):
        return case.sum(point, pairs, case.parity)

    whole = jax.jit(summed)(case.point)
    for most in (len(GRAPH) - 2, 1):
        monkeypatch.setattr(dmdenv.neighbors.lowering, "_LIST_BLOCK", most)
        program = jax.jit(lambda point: summed(point)).lower(case.point)
        assert "dynamic_update_slice" in program.as_text()
        agree(program.compile()(case.point), whole)


@pytest.mark.parametrize("n", [11, 12])
def test_blocks_need_not_divide_the_particles(n, monkeypatch):
    """The last one then goes over some particles of the one before again."""
    monkeypatch.setattr(dmdenv.neighbors.lowering, "_LIST_BLOCK", 4)
    x = np.random.default_rng(n).random((n, 2))
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    near = (d < 0.5) & ~np.eye(n, dtype=bool)
    pairs = allocate(Free(), x, cutoff=0.5, skin=0.0)

    def kernel(a, b):
        s = jnp.sum((a - b) ** 2)
        return jnp.where(s < 0.25, s, 0.0)

    agree(jax.jit(lambda x: neighbor_sum(kernel, x, pairs))(x), np.sum(np.where(near, d**2, 0), axis=1))


@pytest.mark.parametrize("n", [1, 2, 5, 6])
@pytest.mark.parametrize("block", [1, 8, 10_000])
def test_batches_of_all_pairs_are_swept_instances_by_instances(n, block, monkeypatch):
    """Odd and even numbers of particles; blocks of one, of some and of all instances, each with its coefficient."""
    monkeypatch.setattr(dmdenv.neighbors.lowering, "_BLOCK", block)
    rng = np.random.default_rng(n)
    x, k = rng.normal(size=(5, n, 2)), rng.uniform(0.5, 1.0, 5)

    def kernel(k, a, b):
        r = a - b
        w = jnp.exp(-k * jnp.sum(r**2))
        return {"odd": w * r, "even": w, "neither": w * a[0]}

    def batch(x, k):
        parity = {"odd": -1, "even": 1, "neither": 0}
        return jax.vmap(lambda x, k: neighbor_sum(functools.partial(kernel, k), x, AllPairs(), parity=parity))(x, k)

    y = jax.jit(batch)(x, k)
    r = x[:, :, None] - x[:, None]
    w = np.exp(-k[:, None, None] * np.sum(r**2, axis=-1)) * ~np.eye(n, dtype=bool)
    expected = {"odd": np.sum(w[..., None] * r, 2), "even": np.sum(w, 2), "neither": np.sum(w * x[:, :, :1], 2)}
    for name, value in expected.items():
        np.testing.assert_allclose(y[name], value, rtol=1e-13, atol=1e-14, err_msg=name)


def sub_jaxprs(params: dict):
    """The programs in an equation's parameters, the kernel of a neighbour sum among them."""
    for value in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)):
        value = getattr(value, "jaxpr", value)  # a kernel, or a closed program
        value = getattr(value, "jaxpr", value)
        if isinstance(value, Jaxpr):
            yield value


def primitives(jaxpr) -> list[str]:
    """The name of every operation, however deep."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        for inner in sub_jaxprs(equation.params):
            names += primitives(inner)
    return names


PROGRAMS = {
    "grad": lambda energy: jax.grad(energy),
    "hvp": lambda energy: lambda x: jax.jvp(jax.grad(energy), (x,), (x,))[1],
    "grad of a function of forces": lambda energy: jax.grad(lambda x: weighted(jax.grad(energy)(x))),
    "vmap of grad": lambda energy: jax.vmap(jax.grad(energy)),
    "grad of vmap": lambda energy: jax.grad(lambda x: weighted(jax.vmap(energy)(x))),
}


@pytest.mark.parametrize("kind", ["all pairs", "list"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_derivative_scatters(name, kind):
    pairs = both_kinds_of_pairs()[kind][0]
    theta = as_jax(CASES["soft repulsion"].theta)

    def energy(x):
        return weighted(neighbor_sum(functools.partial(soft_repulsion, theta), x, pairs))

    x = jnp.asarray(POSITIONS)
    program = PROGRAMS[name](energy)
    x = jnp.stack([x, x]) if "vmap" in name else x
    names = primitives(jax.make_jaxpr(program)(x).jaxpr)
    assert "neighbor_sum" in names
    assert "exp" in names  # kernels have been looked into
    assert not [n for n in names if "scatter" in n]
    assert "scatter" not in jax.jit(program).lower(x).as_text()


def test_no_derivative_scatters_with_a_batch_of_lists():
    def energy(x, pairs):
        return weighted(neighbor_sum(lambda a, b: jnp.exp(-jnp.sum((a - b) ** 2)), x, pairs))

    program = jax.jit(jax.vmap(jax.grad(energy)))
    assert "scatter" not in program.lower(batch_of_points()["x"], batch_of_lists()[0]).as_text()


def with_form(form, program, *args):
    """The program with every neighbour sum computed by `form`, whatever the platform prefers."""
    jaxpr, out = jax.make_jaxpr(program, return_shape=True)(*args)

    def run(jaxpr, consts, operands):
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *operands), strict=True))
        for equation in jaxpr.eqns:
            inputs = [jnp.asarray(v.val) if hasattr(v, "val") else env[v] for v in equation.invars]
            if equation.primitive is neighbor_sum_p:
                outputs = _lower(form)(*inputs, **equation.params)
            elif equation.primitive.name in ("jit", "pjit"):
                outputs = run(equation.params["jaxpr"].jaxpr, equation.params["jaxpr"].consts, inputs)
            else:
                outputs = bind(equation, inputs)
            env.update(zip(equation.outvars, outputs, strict=True))
        return [v.val if hasattr(v, "val") else env[v] for v in jaxpr.outvars]

    consts = as_jax(jaxpr.consts)
    leaves = jax.jit(lambda *leaves: run(jaxpr.jaxpr, consts, leaves))(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(out), leaves)


@pytest.mark.parametrize("name", ["soft repulsion", "species table"])
def test_both_forms_agree(name):
    """The sweep over columns and the gather of all pairs at once."""
    case, at = CASES[name], directions(CASES[name].point)

    def evaluated(p, u, v):
        def through(pairs):
            return lambda p: weighted(case.sum(p, pairs))

        of_list = (gradient_and_hvp if name == "soft repulsion" else orders_zero_and_one)(
            through(graph_list(GRAPH)), p, u, v
        )
        return case.sum(p, AllPairs()), of_list

    agree(with_form(gather_and_reduce, evaluated, *at), with_form(column_sweep, evaluated, *at))


def test_both_forms_agree_on_batches():
    at, (lists, _) = batch_of_points(), batch_of_lists()

    def evaluated(at, lists):
        of_lists = jax.vmap(jax.grad(through_list))(at, lists)
        return of_lists, jax.vmap(jax.grad(lambda at: through_list(at, AllPairs())))(at)

    agree(with_form(gather_and_reduce, evaluated, at, lists), with_form(column_sweep, evaluated, at, lists))


@pytest.mark.parametrize("form", [column_sweep, gather_and_reduce])
@pytest.mark.parametrize("kind", ["all pairs", "list"])
def test_what_a_kernel_gives_for_a_particle_and_itself_is_discarded(kind, form):
    """Infinite or NaN there, in the sum and in each derivative; no other particle's value is touched."""
    case = CASES["infinite on itself"]
    pairs, _ = both_kinds_of_pairs()[kind]
    at = directions(case.point)

    def evaluated(p, u, v):
        return case.sum(p, pairs), gradient_and_hvp(lambda p: weighted(case.sum(p, pairs)), p, u, v)

    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(with_form(form, evaluated, *at)))
