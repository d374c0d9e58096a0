"""The one primitive of the core: a sum over neighbours.

    y_i = sum_{j in N(i)} k(x_i, x_j)

A pair force, a boid's alignment, a local density and a histogram of distances are all of this form. The user writes
the kernel `k` of one pair; layout, masking, batching and derivatives are here.

The neighbour relation is symmetric (j in N(i) if and only if i in N(j)), which closes the sum under differentiation:

- the tangent is a neighbour sum over the features `(x, dx)` with the kernel
  `d1 k(x_i, x_j) dx_i + d2 k(x_i, x_j) dx_j`;
- the cotangent is a neighbour sum over the features `(x, g)` with the kernel
  `d1 k(x_i, x_j)^T g_i + d2 k(x_j, x_i)^T g_j`: particle i gathers from its neighbours what automatic differentiation
  would scatter to them. If `k(a, b) = p k(b, a)` with parity `p = +1` or `-1`, it is `d1 k(x_i, x_j)^T (g_i + p g_j)`,
  half the work.

So derivatives of any order, forward and reverse, are neighbour sums again, and no particle is ever scattered to.
What a kernel closes over (a box, a coefficient) is an operand like the features and has derivatives too.

Two forms compute the sum, chosen by the platform the program is compiled for: a sweep over neighbour columns on CPUs
(one vectorised loop over particles a column, no pair is ever stored) and one fused gather-and-reduce elsewhere.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from dmdenv.neighbors import Pairs
from dmdenv.particles_last import evaluate, take

PyTree = Any

_BLOCK = 32_768  # particles whose sums a CPU forms at once: what they read stays in its cache


def neighbor_sum(
    kernel: Callable[[PyTree, PyTree], PyTree], features: PyTree, pairs: Pairs, *, parity: PyTree = 0
) -> PyTree:
    """`y_i = sum_{j in N(i)} kernel(x_i, x_j)`, differentiable to any order, forward and reverse, without scatter.

    A pair (i, i) and the padding of a list contribute nothing: what the kernel gives for them is discarded, in the
    sum and in each of its derivatives, so it may be infinite or NaN there. A neighbour list holds pairs somewhat
    beyond its cutoff, so a kernel with a finite range must vanish by itself outside of it.

    Call it under `jax.jit`: each call traces the kernel anew.

    Args:
        kernel: the contribution of one pair; takes the features of particle i and of particle j (the tree of
            `features`, leaves without the particle axis) and returns a pytree of arrays. It may close over traced
            values and is differentiable in them.
        features: pytree of arrays, leaves `[n, ...]`.
        pairs: `AllPairs()` or a `NeighborList`.
        parity: what is known of the kernel under exchange of its arguments, for all outputs or as a tree prefix of
            them: `+1` symmetric, `-1` antisymmetric, `0` neither. A wrong declaration gives wrong derivatives.

    Returns:
        The kernel's output tree, each leaf summed over the neighbours, `[n, ...]`.

    Raises:
        ValueError: features without leaves or with different numbers of particles, or not as many as the list's; a
            parity other than -1, 0, 1.
        TypeError: a kernel that returns something else than numbers.
    """
    leaves, tree = jax.tree.flatten(features)
    leaves = [jnp.asarray(x) for x in leaves]
    _check_particle_count(leaves, pairs)
    one = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves])
    traced, out = jax.make_jaxpr(kernel, return_shape=True)(one, one)
    shared = traced.consts  # whatever the kernel closes over, traced values among it
    body = functools.partial(jax.core.eval_jaxpr, traced.jaxpr)
    x = [jnp.moveaxis(leaf, 0, -1) for leaf in leaves]
    pair_kernel = Kernel.trace(lambda shared, xi, xj: body(shared, *xi, *xj), shared, [_one(a) for a in x])
    for aval in pair_kernel.jaxpr.out_avals:
        if not jnp.issubdtype(aval.dtype, jnp.number):
            raise TypeError(f"kernel returned {aval.dtype}; valid: numbers (count with jnp.where(condition, 1, 0))")
    y = _bind(pair_kernel, _parities(parity, out), shared, x, pairs.arrays)
    return jax.tree.unflatten(jax.tree.structure(out), [jnp.moveaxis(a, -1, 0) for a in y])


def _check_particle_count(leaves: Sequence[jax.Array], pairs: Pairs) -> None:
    if not leaves:
        raise ValueError("features has no leaves; valid: a pytree of arrays [n, ...]")
    shapes = [leaf.shape for leaf in leaves]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"features has leaves of shape {shapes}; valid: arrays [n, ...] with one common n")
    n = shapes[0][0]
    if pairs.count is not None and pairs.count != n:
        raise ValueError(
            f"features has {n} particles; valid: {pairs.count}, as many as the neighbour list was built for"
        )


def _parities(parity: PyTree, out: PyTree) -> tuple[int, ...]:
    values = jax.tree.leaves(jax.tree.map(lambda p, sub: jax.tree.map(lambda _: p, sub), parity, out))
    if any(p not in (-1, 0, 1) for p in values):
        raise ValueError(f"parity = {parity!r}; valid: -1, 0 or 1, for all outputs of the kernel or for each")
    return tuple(values)


# --- kernels ----------------------------------------------------------------------------------------------------------


class Kernel:
    """A traced pair function `(shared, x_i, x_j) -> outputs` on flat lists; compared by identity, as jaxprs are.

    Particles stand on the last axis of a feature array, so the kernel's own axes come first.
    """

    def __init__(self, jaxpr: ClosedJaxpr, shared: int, features: int):
        self.jaxpr, self.shared, self.features = jaxpr, shared, features

    @classmethod
    def trace(cls, fun: Callable, shared: Sequence, features: Sequence) -> "Kernel":
        """Trace `fun(shared, x_i, x_j)` on the shapes of the shared values and of one particle's features."""
        jaxpr = jax.make_jaxpr(fun)(*(list(map(_struct, avals)) for avals in (shared, features, features)))
        return cls(jaxpr, len(shared), len(features))

    def __call__(self, shared: Sequence, xi: Sequence, xj: Sequence) -> list:
        return jaxpr_as_fun(self.jaxpr)(*shared, *xi, *xj)

    def over(
        self,
        shared: Sequence,
        xi: Sequence,
        xj: Sequence,
        particles: tuple[int, ...],
        *,
        xj_mapped: bool,
        store: Callable[[jax.Array], jax.Array] = lambda array: array,
    ) -> list:
        """The kernel of many pairs at once: `xi` and (where mapped) `xj` have the particle axes last."""
        mapped = [False] * len(shared) + [True] * len(xi) + [xj_mapped] * len(xj)
        return evaluate(self.jaxpr, [*shared, *xi, *xj], mapped, particles, store)

    @property
    def shared_avals(self) -> list:
        return list(self.jaxpr.in_avals[: self.shared])

    @property
    def feature_avals(self) -> list:
        return list(self.jaxpr.in_avals[self.shared : self.shared + self.features])

    def __repr__(self) -> str:
        return str(self.jaxpr)


def _struct(aval) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _one(x) -> jax.ShapeDtypeStruct:
    """The shape of one particle's share of a feature array `[..., n]`."""
    return jax.ShapeDtypeStruct(x.shape[:-1], x.dtype)


# --- the two forms ----------------------------------------------------------------------------------------------------


def _masked(outputs: Sequence[jax.Array], keep: jax.Array) -> list[jax.Array]:
    """The outputs `[..., *keep.shape]` where `keep`, 0 elsewhere."""
    return [jnp.where(jnp.expand_dims(keep, tuple(range(y.ndim - keep.ndim))), y, jnp.zeros_like(y)) for y in outputs]


def _column_sweep(*operands, kernel: Kernel, parity: tuple[int, ...]) -> list[jax.Array]:
    """A loop over neighbour columns; each is one vectorised loop over particles that adds to the running sums.

    With a list of many particles it goes through all columns for one block of particles after the other, so that what
    a column reads and adds to stays in the processor's cache.
    """
    shared, x, pairs = _split(operands, kernel)
    n = x[0].shape[-1]
    sums = [jnp.zeros((*aval.shape, n), aval.dtype) for aval in kernel.jaxpr.out_avals]
    if n == 0:
        return sums
    if not pairs or n <= _BLOCK:
        return _sweep(kernel, shared, x, x, pairs, jnp.int32(0))

    blocks = math.ceil(n / _BLOCK)
    size = math.ceil(n / blocks)

    def add_block(b, sums):
        start = jnp.minimum(b * size, n - size)  # the last block goes over some particles again
        own = [lax.dynamic_slice_in_dim(a, start, size, axis=-1) for a in x]
        indices = lax.dynamic_slice_in_dim(pairs[0], start, size, axis=-1)
        block = _sweep(kernel, shared, own, x, [indices, pairs[1]], start)
        return [lax.dynamic_update_slice_in_dim(y, part, start, -1) for y, part in zip(sums, block, strict=True)]

    return lax.fori_loop(0, blocks, add_block, sums)


def _sweep(
    kernel: Kernel, shared: Sequence, own: Sequence, x: Sequence, pairs: Sequence, start: jax.Array
) -> list[jax.Array]:
    """The sums of a block of particles: `own` are its features, `x` those of all, its numbers count from `start`."""
    m = own[0].shape[-1]
    particle = start + lax.iota(jnp.int32, m)
    columns = pairs[1] if pairs else m

    def add_column(c, sums):
        if pairs:
            j = lax.dynamic_index_in_dim(pairs[0], c, keepdims=False)
            xj = [take(a, j) for a in x]
        else:
            j = c
            xj = [lax.dynamic_index_in_dim(a, c, -1, keepdims=False) for a in x]
        one = jnp.where(c >= 0, 1, 2)  # which XLA does not know

        def store(a):
            """All components of a force share this; XLA would repeat it for each, but it does not repeat a division.

            Beside the gathers of a list the repetition is cheaper than one more loop over the particles.
            """
            return a / one.astype(a.dtype) if not pairs and jnp.issubdtype(a.dtype, jnp.inexact) else a

        outputs = kernel.over(shared, own, xj, (m,), xj_mapped=bool(pairs), store=store)
        return [total + y for total, y in zip(sums, _masked(outputs, particle != j), strict=True)]

    zeros = [jnp.zeros((*aval.shape, m), aval.dtype) for aval in kernel.jaxpr.out_avals]
    return lax.fori_loop(0, columns, add_column, zeros)


def _gather_and_reduce(*operands, kernel: Kernel, parity: tuple[int, ...]) -> list[jax.Array]:
    """All pairs at once, `[..., K, n]`, reduced over K; an accelerator's compiler fuses it into one kernel."""
    shared, x, pairs = _split(operands, kernel)
    n = x[0].shape[-1]
    particle = lax.iota(jnp.int32, n)
    if pairs:
        indices = pairs[0]
        xj = [take(a, indices) for a in x]
    else:
        indices = jnp.broadcast_to(particle[:, None], (n, n))
        xj = [jnp.broadcast_to(a[..., :, None], (*a.shape, n)) for a in x]
    grid = indices.shape
    xi = [jnp.broadcast_to(a[..., None, :], (*a.shape[:-1], *grid)) for a in x]
    outputs = kernel.over(shared, xi, xj, grid, xj_mapped=True)
    return [jnp.sum(y, axis=-2, dtype=y.dtype) for y in _masked(outputs, indices != particle[None, :])]


# --- the primitive ----------------------------------------------------------------------------------------------------
# Operands: shared values, then features [..., n], then the arrays of `Pairs` (none for all pairs; for a list the
# indices [K, n], in which a particle's own index pads, and the number of columns in use).

neighbor_sum_p = Primitive("neighbor_sum")
neighbor_sum_p.multiple_results = True


def _bind(kernel: Kernel, parity: Sequence[int], shared: Sequence, x: Sequence, pairs: Sequence) -> list[jax.Array]:
    return neighbor_sum_p.bind(*shared, *x, *pairs, kernel=kernel, parity=tuple(parity))


def _split(operands: Sequence, kernel: Kernel) -> tuple[list, list, list]:
    s, f = kernel.shared, kernel.shared + kernel.features
    return list(operands[:s]), list(operands[s:f]), list(operands[f:])


def _abstract(*operands, kernel: Kernel, parity: tuple[int, ...]) -> list:
    n = operands[kernel.shared].shape[-1]
    return [jax.core.ShapedArray((*aval.shape, n), aval.dtype) for aval in kernel.jaxpr.out_avals]


def _jvp(primals, tangents, *, kernel: Kernel, parity: tuple[int, ...]):
    """The tangent is a neighbour sum over the features `(x, dx)`, of the same parity."""
    shared, x, pairs = _split(primals, kernel)
    y = _bind(kernel, parity, shared, x, pairs)
    dshared, dx, _ = _split(tangents, kernel)
    moving_s, moving_x = _moving(dshared), _moving(dx)
    smooth = [q for q, aval in enumerate(kernel.jaxpr.out_avals) if jnp.issubdtype(aval.dtype, jnp.inexact)]
    dy: list[Any] = [ad.Zero(jax.typeof(a).to_tangent_aval()) for a in y]
    if not smooth or not (moving_s or moving_x):
        return y, dy

    def tangent(shared, xi, xj):
        s, xi, xj = (list(v) for v in (shared, xi, xj))
        ds, dxi, dxj = s[kernel.shared :], xi[kernel.features :], xj[kernel.features :]
        s, xi, xj = s[: kernel.shared], xi[: kernel.features], xj[: kernel.features]

        def moved(s_moving, xi_moving, xj_moving):
            out = kernel(_put(s, moving_s, s_moving), _put(xi, moving_x, xi_moving), _put(xj, moving_x, xj_moving))
            return [out[q] for q in smooth]

        at = _pick(s, moving_s), _pick(xi, moving_x), _pick(xj, moving_x)
        return jax.jvp(moved, at, (ds, dxi, dxj))[1]

    live_s, live_x = _pick(dshared, moving_s), _pick(dx, moving_x)
    tangent_kernel = Kernel.trace(
        tangent,
        kernel.shared_avals + _pick(kernel.shared_avals, moving_s),
        kernel.feature_avals + _pick(kernel.feature_avals, moving_x),
    )
    live = _bind(tangent_kernel, _pick(parity, smooth), shared + live_s, x + live_x, pairs)
    return y, _put(dy, smooth, live)


def _transpose(cotangents, *operands, kernel: Kernel, parity: tuple[int, ...]):
    """The cotangent of features is a gather over `(residuals, g)`; that of shared values adds up over particles."""
    shared, x, pairs = _split(operands, kernel)
    linear_s, linear_x = _undefined(shared), _undefined(x)
    known_s, known_x = _others(shared, linear_s), _others(x, linear_x)
    seen = [q for q, g in enumerate(cotangents) if type(g) is not ad.Zero]
    one_sided = [q for q in seen if parity[q] == 0]

    def zeros(avals):
        return [jnp.zeros(aval.shape, aval.dtype) for aval in avals]

    s_avals, x_avals = _pick(kernel.shared_avals, linear_s), _pick(kernel.feature_avals, linear_x)

    def cotangent(shared, xi, xj):
        residual_i, g_i = list(xi[: len(known_x)]), dict(zip(seen, xi[len(known_x) :], strict=True))
        residual_j, g_j = list(xj[: len(known_x)]), dict(zip(seen, xj[len(known_x) :], strict=True))

        def pair(s_linear, a, b, outputs):
            """k, linear in the linear operands, of a first and a second particle: (residuals, linear operands)."""
            s = _merge(list(shared), known_s, s_linear, linear_s)
            out = kernel(s, _merge(a[0], known_x, a[1], linear_x), _merge(b[0], known_x, b[1], linear_x))
            return [out[q] for q in outputs]

        def pulled_back(fun, avals, g):
            return jax.linear_transpose(fun, list(map(_struct, avals)))(g)[0]

        rest_x, rest_s = (residual_j, zeros(x_avals)), zeros(s_avals)
        out = []
        if linear_x:
            g = [g_i[q] + parity[q] * g_j[q] if parity[q] else g_i[q] for q in seen]
            out = pulled_back(lambda t: pair(rest_s, (residual_i, t), rest_x, seen), x_avals, g)
            if one_sided:
                second = pulled_back(
                    lambda t: pair(rest_s, rest_x, (residual_i, t), one_sided), x_avals, [g_j[q] for q in one_sided]
                )
                out = [a + b for a, b in zip(out, second, strict=True)]
        if linear_s:
            here, there = (residual_i, zeros(x_avals)), rest_x
            out = out + pulled_back(lambda t: pair(t, here, there, seen), s_avals, [g_i[q] for q in seen])
        return out

    g = [cotangents[q] for q in seen]
    cotangent_kernel = Kernel.trace(
        cotangent,
        _pick(kernel.shared_avals, known_s),
        _pick(kernel.feature_avals, known_x) + [_one(a) for a in g],
    )
    out = _bind(
        cotangent_kernel,
        [0] * (len(linear_x) + len(linear_s)),
        _pick(shared, known_s),
        _pick(x, known_x) + g,
        pairs,
    )
    result: list[Any] = [None] * len(operands)
    for position, value in zip(linear_x, out, strict=False):
        result[kernel.shared + position] = value
    for position, value in zip(linear_s, out[len(linear_x) :], strict=True):
        result[position] = jnp.sum(value, axis=-1)
    return result


def _batch(operands, axes, *, kernel: Kernel, parity: tuple[int, ...]):
    """A batch of features goes into the kernel; a batch of lists is one larger system of disconnected parts."""
    _, _, pair_axes = _split(axes, kernel)
    unmapped = all(axis is None for axis in pair_axes)
    return (_batch_kernel if unmapped else _batch_lists)(operands, axes, kernel, parity)


def _batch_kernel(operands, axes, kernel: Kernel, parity: tuple[int, ...]):
    axis_of = [None if axis is None else 0 for axis in axes]
    operands = [
        a if to is None else jnp.moveaxis(a, axis, 0) for a, axis, to in zip(operands, axes, axis_of, strict=True)
    ]
    shared, x, pairs = _split(operands, kernel)
    shared_axes, x_axes, _ = _split(axis_of, kernel)
    batched = jax.vmap(kernel, in_axes=(shared_axes, x_axes, x_axes))
    batched_kernel = Kernel.trace(batched, shared, [_one(a) for a in x])
    out = _bind(batched_kernel, parity, shared, x, pairs)
    return out, [0] * len(out)


def _batch_lists(operands, axes, kernel: Kernel, parity: tuple[int, ...]):
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)

    def batch_first(a, axis):
        return jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)

    def joined(a):
        """`[..., size, n]` as the particles of one system, `[..., size * n]`."""
        return a.reshape(*a.shape[:-2], -1)

    (shared, x, pairs), (shared_axes, x_axes, pair_axes) = _split(operands, kernel), _split(axes, kernel)
    indices, columns = map(batch_first, pairs, pair_axes)
    n = indices.shape[-1]
    indices = indices + n * lax.broadcasted_iota(indices.dtype, (size, 1, 1), 0)
    x = [joined(jnp.moveaxis(batch_first(a, axis), 0, -2)) for a, axis in zip(x, x_axes, strict=True)]
    # a shared value that differs between instances becomes a feature of each instance's particles
    common = [q for q, axis in enumerate(shared_axes) if axis is None]
    own = _others(shared, common)
    for a, axis in zip(_pick(shared, own), _pick(shared_axes, own), strict=True):
        per_instance = jnp.moveaxis(a, axis, -1)[..., None]
        x.append(joined(jnp.broadcast_to(per_instance, (*per_instance.shape[:-1], n))))

    def joint(shared, xi, xj):
        f = kernel.features
        return kernel(_merge(shared, common, xi[f:], own), xi[:f], xj[:f])

    shared = _pick(shared, common)
    joint_kernel = Kernel.trace(joint, shared, [_one(a) for a in x])
    out = _bind(joint_kernel, parity, shared, x, [joined(jnp.moveaxis(indices, 0, -2)), jnp.max(columns)])
    out = [y.reshape(*y.shape[:-1], size, n) for y in out]
    return out, [y.ndim - 2 for y in out]


def _evaluate_eagerly(*operands, **static):
    with jax.disable_jit(False):  # under jax.disable_jit, bind would come back here
        return jax.jit(functools.partial(neighbor_sum_p.bind, **static))(*operands)


neighbor_sum_p.def_impl(_evaluate_eagerly)
neighbor_sum_p.def_abstract_eval(_abstract)
ad.primitive_jvps[neighbor_sum_p] = _jvp
ad.primitive_transposes[neighbor_sum_p] = _transpose
batching.primitive_batchers[neighbor_sum_p] = _batch
mlir.register_lowering(neighbor_sum_p, mlir.lower_fun(_gather_and_reduce, multiple_results=True))
mlir.register_lowering(neighbor_sum_p, mlir.lower_fun(_column_sweep, multiple_results=True), platform="cpu")


# --- positions in flat operand lists ----------------------------------------------------------------------------------


def _moving(tangents: Sequence) -> list[int]:
    """Where a tangent is not known to be zero."""
    return [
        q for q, t in enumerate(tangents) if type(t) is not ad.Zero and getattr(t, "dtype", None) != jax.dtypes.float0
    ]


def _undefined(operands: Sequence) -> list[int]:
    """Where an operand is one to transpose with respect to."""
    return [q for q, a in enumerate(operands) if ad.is_undefined_primal(a)]


def _others(values: Sequence, positions: Sequence[int]) -> list[int]:
    return [q for q in range(len(values)) if q not in positions]


def _pick(values: Sequence, positions: Sequence[int]) -> list:
    return [values[q] for q in positions]


def _put(values: Sequence, positions: Sequence[int], new: Sequence) -> list:
    """A copy of `values` with `new` at `positions`."""
    out = list(values)
    for q, value in zip(positions, new, strict=True):
        out[q] = value
    return out


def _merge(a: Sequence, a_positions: Sequence[int], b: Sequence, b_positions: Sequence[int]) -> list:
    """One list with the values of `a` and of `b` at their positions."""
    return _put(_put([None] * (len(a) + len(b)), a_positions, a), b_positions, b)
