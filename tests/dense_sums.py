"""A sum over neighbours that stores every pair, kernels of many kinds, and arbitrary symmetric graphs.

The reference for `neighbor_sum`: evaluated and differentiated by JAX alone.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.neighbors import AllPairs, NeighborList, neighbor_sum
from dmdenv.space import Free, Periodic

N = 6


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
        row_capacity=1,
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

    return jax.jit(evaluated)


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
