"""The sum over neighbours and its derivatives, against automatic differentiation of a sum that stores every pair.

The lists here are arbitrary symmetric graphs: which pairs a list holds is for test_neighbors.py.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

import dmdenv.neighbors.lowering
from dmdenv.neighbors import AllPairs, NeighborList, allocate, neighbor_sum
from dmdenv.neighbors.lowering import column_sweep, gather_and_reduce
from dmdenv.neighbors.particles_last import bind
from dmdenv.neighbors.sum import _lowered, neighbor_sum_p
from dmdenv.space import Free, Periodic
from marks import by_default

pytestmark = pytest.mark.usefixtures("x64")

N = 6
QUICK = {"xla_backend_optimization_level": 0}  # to compile references


# --- reference --------------------------------------------------------------------------------------------------------


def dense_sum(kernel, features, adjacent):
    """Every pair but (i, i) evaluated and stored, those that are not adjacent dropped, the rest added up."""
    n = adjacent.shape[0]
    i, j = np.nonzero(~np.eye(n, dtype=bool))
    y = jax.vmap(kernel)(*(jax.tree.map(lambda a, k=k: a[k], features) for k in (i, j)))

    def summed(a):
        keep = adjacent[i, j].reshape(-1, *[1] * (a.ndim - 1))
        return jnp.where(keep, a, jnp.zeros_like(a)).reshape(n, n - 1, *a.shape[1:]).sum(1, dtype=a.dtype)

    return jax.tree.map(summed, y)


def graph_list(adjacent) -> NeighborList:
    """A list of the pairs of a symmetric graph, in a random order."""
    n = len(adjacent)
    rows = [np.random.default_rng(i).permutation(np.flatnonzero(row)) for i, row in enumerate(adjacent)]
    indices = np.array([[*row, *[i] * (n - len(row))] for i, row in enumerate(rows)], np.int32).T
    zero = jnp.zeros([])
    return NeighborList(
        indices=jnp.asarray(indices),
        columns=jnp.int32(max(map(len, rows))),
        positions=jnp.zeros((n, 3)),
        space=Free(),
        cutoff=zero,
        skin=zero,
        overflow=jnp.asarray(False),
        cells=(1, 1, 1),
        run_capacity=1,
    )


def random_graph(seed: int) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).random((N, N)) < 0.6, 1)
    return upper | upper.T


COMPLETE = ~np.eye(N, dtype=bool)
GRAPH = random_graph(0)


def both_kinds_of_pairs() -> dict[str, tuple[Any, np.ndarray]]:
    """Pairs as the library takes them, and the graph they stand for."""
    return {"all pairs": (AllPairs(), COMPLETE), "list": (graph_list(GRAPH), GRAPH)}


def as_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def random_like(tree, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=np.shape(a))), tree)


def agree(value, reference, tolerance: float = 1e-12):
    """Equal relative to the largest entry of each array, which is not zero."""
    assert jax.tree.structure(value) == jax.tree.structure(reference)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(value), jax.tree.leaves(reference), strict=True):
        a, b, name = np.asarray(a), np.asarray(b), jax.tree_util.keystr(path)
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        scale = np.max(np.abs(b))
        assert scale > 1e-6, f"{name} vanishes, so it tests nothing"
        assert np.max(np.abs(a - b)) <= tolerance * scale, name


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def weighted(y):
    """A scalar of the sums in which each particle has its own weight, so that no derivative vanishes by symmetry."""

    def of_leaf(a):
        weight = jnp.asarray(np.cos(1.7 * np.arange(a.size)).reshape(a.shape), a.dtype)
        return jnp.sum(weight * (a + 0.3 * a**2))

    return sum(of_leaf(a) for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating))


# --- kernels ----------------------------------------------------------------------------------------------------------

rng = np.random.default_rng(7)
POSITIONS = rng.uniform(0, 4, (N, 3))
SPECIES = np.array([0, 1, 2, 1, 0, 2])
BOX = np.array([4.0, 4.3, 4.6])


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel `(theta, a, b)` that closes over theta, and what to evaluate it on."""

    kernel: Callable
    theta: Any
    features: Any
    parity: Any = 0
    fixed: dict | None = None  # further features, integers, out of the way of `jax.grad`

    @property
    def point(self):
        return as_jax({"theta": self.theta, "features": self.features})

    def _parts(self, point):
        features = point["features"] if self.fixed is None else {**point["features"], **as_jax(self.fixed)}
        return functools.partial(self.kernel, point["theta"]), features

    def sum(self, point, pairs, parity=None):
        return neighbor_sum(*self._parts(point), pairs, parity=self.parity if parity is None else parity)

    def reference(self, point, adjacent):
        return dense_sum(*self._parts(point), adjacent)


def soft_repulsion(theta, a, b):
    r = Periodic(theta["box"]).displacement(a, b)
    return theta["strength"] * jnp.exp(-jnp.sum(r**2) / 2)


def multipoles(theta, a, b):
    """Scalar, vector and matrix features; outputs even, odd and neither under exchange, in a tree."""
    r = a["x"] - b["x"]
    w = jnp.exp(-0.2 * jnp.sum(r**2))
    rotated = theta["frame"] @ a["dipole"]
    return {
        "even": w * (a["charge"] * b["charge"] + a["dipole"] @ b["dipole"]),
        "odd": (w * r, w * (a["dipole"] - b["dipole"])),
        "neither": [w * jnp.outer(rotated, b["dipole"]) @ b["matrix"], a["matrix"] @ r * jnp.tanh(b["charge"])],
    }


def species_table(theta, a, b):
    """Coefficients looked up by dynamic indices, integer features and an integer output."""
    r = a["x"] - b["x"]
    row = jnp.take(theta["table"], a["species"], axis=0)
    s = jnp.sum(r**2) / theta["table"][b["species"], a["species"]]
    return {"energy": row[b["species"]] * jnp.exp(-s), "count": jnp.where(s < 3.0, b["species"], 0)}


def infinite_on_itself(theta, a, b):
    """1 / 0, 0 / 0 and log 0 for the pair (i, i)."""
    r = a - b
    s = jnp.sum(r**2)
    return {"power": theta / s**3, "direction": r / jnp.linalg.norm(r), "log": jnp.log(s)}


def masked(theta, a, b):
    """`where` inside and outside, a safe norm, a finite range."""
    r = a - b
    s = jnp.sum(r**2)
    near = (s > 0) & (s < theta["range"] ** 2)
    distance = jnp.linalg.norm(jnp.where(near, r, jnp.ones_like(r)))
    return jnp.where(near, (1.0 - distance / theta["range"]) ** 4, 0.0)


def custom_derivatives(theta, a, b):
    r = a - b
    return {"relu": jax.nn.relu(theta * r - 0.1) ** 3, "softplus": jax.nn.softplus(r)}


def control_flow(theta, a, b):
    """cond, scan and fori_loop whose operands are the pair's."""
    r = a["x"] - b["x"]
    branch = lax.cond(a["species"] > b["species"], lambda r: jnp.sin(r), lambda r: theta["polynomial"][0] * r**2, r)
    horner, _ = lax.scan(lambda y, c: (y * jnp.tanh(r) + c, None), jnp.zeros(3), theta["polynomial"])
    power = lax.fori_loop(0, 3, lambda _, y: y * jnp.cos(r), r)
    return {"cond": branch, "scan": horner, "fori_loop": jax.jit(jnp.sum)(power)}


def arrays_in_a_kernel(theta, a, b):
    """Operations that move entries about, and products too large to be written out."""
    r = a - b
    outer = r[:, None] * theta[0, None, :3]
    hidden = jnp.tanh(theta @ jnp.concatenate([r, a, b]))
    return {
        "layer": theta.T @ hidden,
        "transposed": lax.reshape(outer, (9,), dimensions=(1, 0)) * outer.T.reshape(9),
        "sorted": jnp.sort(r**3)[::-1] + jnp.cumsum(r**2),
        "extremes": jnp.max(r) * jnp.min(b) + jnp.prod(a),
        "padded": jnp.pad(r**2, 1)[jnp.argmax(r) + 1] + jnp.roll(a, 1)[0] * jnp.stack([r, b])[1, 2] ** 2,
        "solved": jnp.linalg.cholesky(jnp.eye(3) + jnp.outer(r, r)),
    }


CASES = {
    "soft repulsion": Case(soft_repulsion, {"box": BOX, "strength": 1.3}, POSITIONS, parity=1),
    "multipoles": Case(
        multipoles,
        {"frame": rng.normal(size=(3, 3))},
        {
            "x": POSITIONS,
            "charge": rng.normal(size=N),
            "dipole": rng.normal(size=(N, 3)),
            "matrix": rng.normal(size=(N, 3, 3)),
        },
        parity={"even": 1, "odd": -1, "neither": 0},
    ),
    "infinite on itself": Case(infinite_on_itself, 1.4, POSITIONS, parity={"power": 1, "direction": -1, "log": 1}),
    "masked": Case(masked, {"range": 2.6}, POSITIONS, parity=1),
    "species table": Case(
        species_table, {"table": rng.uniform(1, 2, (3, 3))}, {"x": POSITIONS}, fixed={"species": SPECIES}
    ),
    "control flow": Case(
        control_flow, {"polynomial": np.array([0.8, -0.5, 1.1])}, {"x": POSITIONS}, fixed={"species": SPECIES}
    ),
    "custom derivatives": Case(custom_derivatives, 1.2, POSITIONS),
    "arrays": Case(arrays_in_a_kernel, rng.normal(size=(9, 9)), POSITIONS),
}
# --- derivatives ------------------------------------------------------------------------------------------------------


def orders_one_and_two(f, p, u, v):
    gradient = jax.grad(f)
    return {
        "value": f(p),
        "gradient": gradient(p),
        "jvp": jax.jvp(f, (p,), (u,))[1],
        "jvp of grad": jax.jvp(gradient, (p,), (u,))[1],
        "grad of jvp": jax.grad(lambda q: jax.jvp(f, (q,), (u,))[1])(p),
        "grad of grad": jax.grad(lambda q: dot(gradient(q), u))(p),
    }


def order_three(f, p, u, v):
    def hvp(q):
        return jax.jvp(jax.grad(f), (q,), (u,))[1]

    return {"jvp of hvp": jax.jvp(hvp, (p,), (v,))[1], "grad of hvp": jax.grad(lambda q: dot(hvp(q), v))(p)}


def hessian(f, p, u, v):
    return jax.hessian(f)(p)


def orders_zero_and_one(f, p, u, v):
    return jax.value_and_grad(f)(p)


def gradient_and_hvp(f, p, u, v):
    return {"gradient": jax.grad(f)(p), "hvp": jax.jvp(jax.grad(f), (p,), (u,))[1]}


def directions(point):
    return point, random_like(point, 1), random_like(point, 2)


@functools.cache
def reference_program(derivatives, name: str):
    """`(graph, point, directions) -> sums, derivatives` of a case, by automatic differentiation of the dense sum."""

    def evaluated(adjacent, *at):
        def summed(point):
            return CASES[name].reference(point, adjacent)

        return summed(at[0]), derivatives(lambda p: weighted(summed(p)), *at)

    return jax.jit(evaluated, compiler_options=QUICK)


@pytest.mark.parametrize(
    ("kind", "derivatives"),
    by_default(
        itertools.product(["all pairs", "list"], [orders_one_and_two, order_three, hessian]),
        ("all pairs", orders_one_and_two),
        ("all pairs", hessian),
        ("list", order_three),
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
        jax.jit(lambda *at: order_three(lambda x: weighted(dense(x)), *at), compiler_options=QUICK)(*at),
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


# --- batches ----------------------------------------------------------------------------------------------------------

B = 3


def batch_of_points():
    """theta, features and graphs of three instances, each leaf with a leading batch axis."""
    rng = np.random.default_rng(11)
    return {
        "box": jnp.asarray(BOX * rng.uniform(0.9, 1.1, (B, 1))),
        "strength": jnp.asarray(rng.uniform(1, 2, B)),
        "x": jnp.asarray(rng.uniform(0, 4, (B, N, 3))),
    }


def batch_of_lists() -> tuple[NeighborList, jax.Array]:
    """Three graphs with different numbers of columns in use, as lists of one capacity and as matrices."""
    graphs = [random_graph(seed) for seed in (1, 2, 5)]
    lists = [graph_list(g) for g in graphs]
    assert len({int(a.columns) for a in lists}) > 1
    return jax.tree.map(lambda *a: jnp.stack(a), *lists), jnp.asarray(np.stack(graphs))


def repulsion_of(point, kernel_sum):
    theta = {"box": point["box"], "strength": point["strength"]}
    return weighted(kernel_sum(functools.partial(soft_repulsion, theta), point["x"]))


def through_list(point, pairs):
    return repulsion_of(point, lambda kernel, x: neighbor_sum(kernel, x, pairs))


def through_graph(point, adjacent):
    return repulsion_of(point, lambda kernel, x: dense_sum(kernel, x, adjacent))


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
    reference = jax.jit(
        lambda at, graph: batched_derivatives(through_graph, at, graph, at_axes, axis), compiler_options=QUICK
    )(at, adjacent)
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
        jax.jit(lambda at, graphs: evaluated(through_graph, at, graphs), compiler_options=QUICK)(at, graphs),
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


# --- how it is computed -----------------------------------------------------------------------------------------------


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
                outputs = _lowered(form)(*inputs, **equation.params)
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
