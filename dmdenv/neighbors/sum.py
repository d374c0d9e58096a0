"""The one primitive of the core: a sum over neighbours.

    y_i = sum_{j in N(i)} k(x_i, x_j)

A pair force, a boid's alignment, a local density and a histogram of distances are all of this form. The user writes
the kernel `k` of one pair; layout, masking, batching and derivatives are handled here.

The neighbour relation is symmetric (j in N(i) if and only if i in N(j)), which closes the sum under differentiation:

- the tangent is a neighbour sum over the features `(x, dx)` with the kernel
  `d1 k(x_i, x_j) dx_i + d2 k(x_i, x_j) dx_j`;
- the cotangent is a neighbour sum over the features `(x, g)` with the kernel
  `d1 k(x_i, x_j)^T g_i + d2 k(x_j, x_i)^T g_j`: particle i gathers from its neighbours what automatic differentiation
  would scatter to them.

So derivatives of any order, forward and reverse, are neighbour sums again, and no particle is ever scattered to.
What a kernel closes over (a box, a coefficient) is an operand like the features and has derivatives too.

The kernel is traced for both particles of a pair, as `k(x_i, x_j)` and `k(x_j, x_i)`. With a parity p,
`k(b, a) = p k(a, b)`, the second is p times the first, so that each pair is evaluated once, and so are its
derivatives: the kernel of the cotangent is then `d1 k(x_i, x_j)^T (g_i + p g_j)`. How the sum is computed on a platform
is in `dmdenv.neighbors.lowering`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from dmdenv._core.varying import lower_fun, shaped, unchecked, vary_together
from dmdenv.neighbors.kernel import Kernel, shape_of
from dmdenv.neighbors.lowering import cpu_form, gather_and_reduce
from dmdenv.neighbors.pairs import Pairs

PyTree = Any


def neighbor_sum(
    kernel: Callable[[PyTree, PyTree], PyTree], features: PyTree, pairs: Pairs, *, parity: PyTree = 0
) -> PyTree:
    """`y_i = sum_{j in N(i)} kernel(x_i, x_j)`, differentiable to any order, forward and reverse, without scatter.

    A pair (i, i) and the padding of a list contribute nothing: the kernel's values for them are discarded, in the sum
    and in each of its derivatives, so they may be infinite or NaN. A neighbour list holds pairs somewhat beyond its
    cutoff, so a kernel with a finite range must vanish by itself outside of it.

    A particle of which a feature is infinite or NaN has a sum of NaN, and so have its derivatives, whatever the kernel
    makes of it (a comparison drops a NaN). Sums of integers have no NaN: there the caller has to look.

    A kernel that uses one comparison in two `jnp.where`, the inner one to keep an argument in its domain, should
    substitute a value just inside the cutoff, not an arbitrary one: a compiler may evaluate the comparison twice with
    different roundings, and then returns the result of the substitute.

    Call it under `jax.jit`: each call traces the kernel again.

    Args:
        kernel: the contribution of one pair; takes the features of particle i and of particle j (the tree of
            `features`, leaves without the particle axis) and returns a pytree of arrays. It may close over traced
            values and is differentiable in them.
        features: pytree of arrays, leaves `[n, ...]`.
        pairs: `AllPairs()` or a `NeighborList`.
        parity: the symmetry of the kernel under exchange of its arguments, for all outputs or as a tree prefix of
            them: `+1` symmetric, `-1` antisymmetric, `0` neither. A wrong declaration gives wrong sums and derivatives.

    Returns:
        The kernel's output tree, each leaf summed over the neighbours, `[n, ...]`.

    Raises:
        ValueError: for features without leaves, with different numbers of particles, or with another number than the
            list has; for a parity other than -1, 0, 1.
        TypeError: for a kernel that returns anything but numbers.
    """
    leaves, tree = jax.tree.flatten(features)
    leaves = [jnp.asarray(x) for x in leaves]
    _check_particle_count(leaves, pairs)
    one = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves])
    with unchecked():  # a kernel knows of no devices
        traced, out = jax.make_jaxpr(kernel, return_shape=True)(one, one)
    for aval in map(shape_of, traced.out_avals):
        if not jnp.issubdtype(aval.dtype, jnp.number):
            raise TypeError(f"kernel returned {aval.dtype}; must be numbers (count with jnp.where(condition, 1, 0))")
    parities = _parities(parity, out)
    shared = traced.consts  # whatever the kernel closes over, traced values among it
    body = functools.partial(jax.core.eval_jaxpr, traced.jaxpr)

    def pair(shared, xi, xj):
        to_i = body(shared, *xi, *xj)
        exchanged = to_i if all(parities) else body(shared, *xj, *xi)
        return to_i, [{1: a, -1: jnp.negative(a), 0: b}[p] for p, a, b in zip(parities, to_i, exchanged, strict=True)]

    x = [jnp.moveaxis(leaf, 0, -1) for leaf in leaves]
    y = _bind(Kernel.trace(pair, shared, jax.tree.leaves(one)), shared, x, pairs.arrays)
    return jax.tree.unflatten(jax.tree.structure(out), [jnp.moveaxis(a, -1, 0) for a in y])


def _check_particle_count(leaves: Sequence[jax.Array], pairs: Pairs) -> None:
    if not leaves:
        raise ValueError("features has no leaves; must be a pytree of arrays [n, ...]")
    shapes = [leaf.shape for leaf in leaves]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"features has leaves of shape {shapes}; must be arrays [n, ...] with one common n")
    n = shapes[0][0]
    if pairs.count is not None and pairs.count != n:
        raise ValueError(f"features has {n} particles; must be {pairs.count}, as many as the neighbour list has")


def _parities(parity: PyTree, out: PyTree) -> tuple[int, ...]:
    values = jax.tree.leaves(jax.tree.map(lambda p, sub: jax.tree.map(lambda _: p, sub), parity, out))
    if any(p not in (-1, 0, 1) for p in values):
        raise ValueError(f"parity = {parity!r}; must be -1, 0 or 1, for all outputs of the kernel or for each")
    return tuple(values)


# --- the primitive ----------------------------------------------------------------------------------------------------
# Operands: shared values `[*s]`, then features `[*s, n]`, then the arrays of `Pairs` (none for all pairs; for a list
# the indices [K, n], in which a particle's own index pads, and the number of columns in use). In a batch of m instances
# with the same pairs the features are `[*s, n, m]`, and shared values may be `[*s, m]`.

neighbor_sum_p = Primitive("neighbor_sum")
neighbor_sum_p.multiple_results = True


def _bind(kernel: Kernel, shared: Sequence, x: Sequence, pairs: Sequence) -> list[jax.Array]:
    return neighbor_sum_p.bind(*vary_together(*shared, *x, *pairs), kernel=kernel)


def _split(operands: Sequence, kernel: Kernel) -> tuple[list, list, list]:
    s, f = kernel.shared, kernel.shared + kernel.features
    return list(operands[:s]), list(operands[s:f]), list(operands[f:])


def _particles(kernel: Kernel, x: Sequence) -> tuple[int, ...]:
    """`(n,)` or `(n, m)`."""
    return x[0].shape[len(kernel.feature_avals[0].shape) :]


def _abstract(*operands, kernel: Kernel) -> list:
    particles = _particles(kernel, operands[kernel.shared :])
    return [shaped((*aval.shape, *particles), aval.dtype, *operands) for aval in kernel.out_avals]


def _lower(form: Callable) -> Callable:
    """A form of `dmdenv.neighbors.lowering` for the operands of the primitive."""

    def lower(*operands, kernel: Kernel):
        shared, x, pairs = _split(operands, kernel)
        if len(_particles(kernel, x)) == 2:
            return form(kernel, shared, x, pairs)
        x = [a[..., None] for a in x]
        return [y[..., 0] for y in form(kernel, shared, x, pairs)]

    return lower


def _jvp(primals, tangents, *, kernel: Kernel):
    """The tangent is a neighbour sum over the features `(x, dx)`."""
    shared, x, pairs = _split(primals, kernel)
    y = _bind(kernel, shared, x, pairs)
    dshared, dx, _ = _split(tangents, kernel)
    moving_s, moving_x = _moving(dshared), _moving(dx)
    smooth = [q for q, aval in enumerate(kernel.out_avals) if jnp.issubdtype(aval.dtype, jnp.inexact)]
    dy: list[Any] = [ad.Zero(jax.typeof(a).to_tangent_aval()) for a in y]
    if not smooth or not (moving_s or moving_x):
        return y, dy

    def tangent(shared, xi, xj):
        s, xi, xj = (list(v) for v in (shared, xi, xj))
        ds, dxi, dxj = s[kernel.shared :], xi[kernel.features :], xj[kernel.features :]
        s, xi, xj = s[: kernel.shared], xi[: kernel.features], xj[: kernel.features]

        def evaluate(s_moving, xi_moving, xj_moving):
            y = kernel(_put(s, moving_s, s_moving), _put(xi, moving_x, xi_moving), _put(xj, moving_x, xj_moving))
            return [_pick(side, smooth) for side in y]

        at = _pick(s, moving_s), _pick(xi, moving_x), _pick(xj, moving_x)
        return jax.jvp(evaluate, at, (ds, dxi, dxj))[1]

    live_s, live_x = _pick(dshared, moving_s), _pick(dx, moving_x)
    tangent_kernel = Kernel.trace(
        tangent,
        kernel.shared_avals + _pick(kernel.shared_avals, moving_s),
        kernel.feature_avals + _pick(kernel.feature_avals, moving_x),
    )
    return y, _put(dy, smooth, _bind(tangent_kernel, shared + live_s, x + live_x, pairs))


def _transpose(cotangents, *operands, kernel: Kernel):
    """The cotangent of features is a gather over `(residuals, g)`; that of shared values adds up over particles."""
    shared, x, pairs = _split(operands, kernel)
    linear_s, linear_x = _undefined(shared), _undefined(x)
    known_s, known_x = _others(shared, linear_s), _others(x, linear_x)
    nonzero = [q for q, g in enumerate(cotangents) if type(g) is not ad.Zero]
    s_avals, x_avals = _pick(kernel.shared_avals, linear_s), _pick(kernel.feature_avals, linear_x)

    def cotangent(shared, xi, xj):
        residual_i, g_i = list(xi[: len(known_x)]), list(xi[len(known_x) :])
        residual_j, g_j = list(xj[: len(known_x)]), list(xj[len(known_x) :])

        def sums(s_linear, i_linear, j_linear):
            """What the pair contributes to both, linear in the linear operands."""
            y = kernel(
                _merge(list(shared), known_s, s_linear, linear_s),
                _merge(residual_i, known_x, i_linear, linear_x),
                _merge(residual_j, known_x, j_linear, linear_x),
            )
            return [_pick(side, nonzero) for side in y]

        def zeros(avals):
            return [jnp.zeros(aval.shape, aval.dtype) for aval in avals]

        def pull_back(fun, g, *avals):
            return jax.linear_transpose(fun, *(list(map(shape_of, a)) for a in avals))(g)

        to_i, to_j = [], []
        if linear_x:
            features = functools.partial(sums, zeros(s_avals))
            to_i, to_j = pull_back(features, [g_i, g_j], x_avals, x_avals)
        if linear_s:
            rest = zeros(x_avals)
            to_i = to_i + pull_back(lambda s: sums(s, rest, rest)[0], g_i, s_avals)[0]
            to_j = to_j + pull_back(lambda s: sums(s, rest, rest)[1], g_j, s_avals)[0]
        return to_i, to_j

    g = [cotangents[q] for q in nonzero]
    known_avals = _pick(kernel.feature_avals, known_x) + _pick(kernel.out_avals, nonzero)
    cotangent_kernel = Kernel.trace(cotangent, _pick(kernel.shared_avals, known_s), known_avals)
    out = _bind(cotangent_kernel, _pick(shared, known_s), _pick(x, known_x) + g, pairs)
    result: list[Any] = [None] * len(operands)
    for position, value in zip(linear_x, out, strict=False):
        result[kernel.shared + position] = value
    for position, value in zip(linear_s, out[len(linear_x) :], strict=True):
        own, whole = len(kernel.shared_avals[position].shape), len(shared[position].aval.shape)
        # over the particles, and over the instances where they share the value
        result[position] = jnp.sum(value, axis=tuple(range(own, value.ndim - (whole - own))))
    return result


def _batch(operands, axes, *, kernel: Kernel):
    """A batch with the same pairs has an axis of instances; one of lists is a larger system of disconnected parts."""
    _, _, pair_axes = _split(axes, kernel)
    unmapped = all(axis is None for axis in pair_axes)
    return (_batch_instances if unmapped else _batch_lists)(operands, axes, kernel)


def _batch_instances(operands, axes, kernel: Kernel):
    size = _batch_size(operands, axes)
    (shared, x, pairs), (shared_axes, x_axes, _) = _split(operands, kernel), _split(axes, kernel)
    particles = _particles(kernel, [_without(a, axis) for a, axis in zip(x, x_axes, strict=True)])
    instances = particles[1:]  # of batches around which this one is

    def of_instances(a, axis, own):
        """`[*own, ...]` with the instances of this batch and of those inside of it as the last axis."""
        a = jnp.broadcast_to(a[..., None], (*a.shape, size)) if axis is None else jnp.moveaxis(a, axis, -1)
        if len(a.shape) == len(own) + 1:
            a = jnp.broadcast_to(a.reshape(*own, *(1 for _ in instances), size), (*own, *instances, size))
        return a.reshape(*own, -1)

    x = [
        of_instances(a, axis, (*aval.shape, particles[0]))
        for a, axis, aval in zip(x, x_axes, kernel.feature_avals, strict=True)
    ]
    shared = [
        a if axis is None and a.shape == aval.shape else of_instances(a, axis, aval.shape)
        for a, axis, aval in zip(shared, shared_axes, kernel.shared_avals, strict=True)
    ]
    out = _bind(kernel, shared, x, pairs)
    out = [y.reshape(*y.shape[:-1], *instances, size) for y in out]
    return out, [y.ndim - 1 for y in out]


def _batch_lists(operands, axes, kernel: Kernel):
    size = _batch_size(operands, axes)
    (shared, x, pairs), (shared_axes, x_axes, pair_axes) = _split(operands, kernel), _split(axes, kernel)
    particles = _particles(kernel, [_without(a, axis) for a, axis in zip(x, x_axes, strict=True)])
    n, instances = particles[0], particles[1:]

    def batch_first(a, axis):
        return jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)

    def join(a, own):
        """`[size, *own, n, ...]` as the particles of one system, `[*own, size n, ...]`."""
        return jnp.moveaxis(a, 0, len(own)).reshape(*own, size * n, *instances)

    indices, columns = map(batch_first, pairs, pair_axes)
    indices = indices + n * lax.broadcasted_iota(indices.dtype, (size, 1, 1), 0)
    pairs = [jnp.moveaxis(indices, 0, -2).reshape(-1, size * n), jnp.max(columns)]
    x = [join(batch_first(a, axis), aval.shape) for a, axis, aval in zip(x, x_axes, kernel.feature_avals, strict=True)]
    # a shared value that differs between the systems becomes a feature of their particles
    common = [q for q, axis in enumerate(shared_axes) if axis is None]
    own = _others(shared, common)
    for q in own:
        shape = kernel.shared_avals[q].shape
        a = jnp.moveaxis(shared[q], shared_axes[q], 0)
        inner = a.shape[1 + len(shape) :] or tuple(1 for _ in instances)
        a = a.reshape(size, *shape, 1, *inner)
        x.append(join(jnp.broadcast_to(a, (size, *shape, n, *instances)), shape))

    def joint(shared, xi, xj):
        f = kernel.features
        # equal values, but each particle's sum depends on its own
        of_i, of_j = (_merge(shared, common, x[f:], own) for x in (xi, xj))
        return kernel(of_i, xi[:f], xj[:f])[0], kernel(of_j, xi[:f], xj[:f])[1]

    joint_kernel = Kernel.trace(
        joint, _pick(kernel.shared_avals, common), kernel.feature_avals + _pick(kernel.shared_avals, own)
    )
    out = _bind(joint_kernel, _pick(shared, common), x, pairs)
    own_axes = [len(aval.shape) for aval in kernel.out_avals]
    return [y.reshape(*y.shape[:k], size, n, *instances) for y, k in zip(out, own_axes, strict=True)], own_axes


def _batch_size(operands, axes) -> int:
    return next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)


def _without(a, axis: int | None) -> jax.ShapeDtypeStruct:
    """The array without its batch axis."""
    return jax.ShapeDtypeStruct([size for q, size in enumerate(a.shape) if q != axis], a.dtype)


def _evaluate_eagerly(*operands, **static):
    with jax.disable_jit(False):  # under jax.disable_jit, bind would come back here
        return jax.jit(functools.partial(neighbor_sum_p.bind, **static))(*operands)


neighbor_sum_p.def_impl(_evaluate_eagerly)
neighbor_sum_p.def_abstract_eval(_abstract)
ad.primitive_jvps[neighbor_sum_p] = _jvp
ad.primitive_transposes[neighbor_sum_p] = _transpose
batching.primitive_batchers[neighbor_sum_p] = _batch
mlir.register_lowering(neighbor_sum_p, lower_fun(_lower(gather_and_reduce), multiple_results=True))
mlir.register_lowering(neighbor_sum_p, lower_fun(_lower(cpu_form), multiple_results=True), platform="cpu")


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
