"""Two ways to compute a sum over neighbours: a sweep over neighbour columns, for CPUs, and one fused reduction.

Arrays of features are `[*s, n, m]` here, for n particles in each of m instances. The instances are last, so that a
column of all of them is one contiguous piece, however small a system is; both axes together are the particles of
`dmdenv.neighbors.particles_last`. Values that all particles share are `[*s]`, and those of an instance `[*s, m]`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv._core.materialize import materialize
from dmdenv.neighbors.kernel import Kernel
from dmdenv.neighbors.particles_last import Mapped, Value, join, split, take

_BLOCK = 8_192  # particles of all instances that are summed over at once: what they read stays in the cache
_LIST_BLOCK = 131_072  # the same with a list, whose columns are read from memory: longer pieces are faster
_AT_ONCE = range(48, 400)  # particles of one system for which a loop over its short columns costs more than it saves


def cpu_form(kernel: Kernel, shared: Sequence, x: Sequence, pairs: Sequence) -> list[jax.Array]:
    """The faster of the two on a CPU."""
    n, m = x[0].shape[-2:]
    form = gather_and_reduce if not pairs and m == 1 and n in _AT_ONCE else column_sweep
    return form(kernel, shared, x, pairs)


def column_sweep(kernel: Kernel, shared: Sequence, x: Sequence, pairs: Sequence) -> list[jax.Array]:
    """A loop over neighbour columns; each is one vectorised loop over particles that adds to the running sums.

    It sweeps all columns for one block of particles or instances after the other, so that what a column reads and adds
    to stays in the processor's cache.
    """
    n, m = x[0].shape[-2:]
    if n == 0 or m == 0:
        return [jnp.zeros((*aval.shape, n, m), aval.dtype) for aval in kernel.out_avals]
    if pairs:
        indices, columns = pairs
        # split here: each block would copy its slices
        table = [split(a.reshape(*a.shape[:-2], n) if m == 1 else a, 1 if m == 1 else 2) for a in x]

        def rows(start, size):
            return _list_sweep(kernel, shared, x, table, indices, columns, start, size)

        return _in_blocks(rows, n, max(1, _LIST_BLOCK // m), axis=-2)

    def instances(start, size):
        def block(a):
            return lax.dynamic_slice_in_dim(a, start, size, -1)

        own = [block(a) if _of_instance(a, aval) else a for a, aval in zip(shared, kernel.shared_avals, strict=True)]
        return _half_sweep(kernel, own, [block(a) for a in x])

    return _in_blocks(instances, m, max(1, _BLOCK // n), axis=-1)


def gather_and_reduce(kernel: Kernel, shared: Sequence, x: Sequence, pairs: Sequence) -> list[jax.Array]:
    """All pairs at once, `[K, n, m]`, reduced over K; an accelerator's compiler fuses it into one kernel."""
    n, m = x[0].shape[-2:]
    particle = lax.iota(jnp.int32, n)
    indices = pairs[0] if pairs else jnp.broadcast_to(particle[:, None], (n, n))
    grid = (indices.shape[0], n, m) if m > 1 else (indices.shape[0], n)

    def broadcast_to_grid(a):
        """An array `[*s, K, n, m]`, of which some axes are 1, over the grid."""
        if m == 1:
            a = a[..., 0]
        return jnp.broadcast_to(a, (*a.shape[: a.ndim - len(grid)], *grid))

    def gather(a):
        return jnp.moveaxis(take(jnp.moveaxis(a, -1, 0), indices), 0, -1) if pairs else a[..., :, None, :]

    def value(a):
        return split(broadcast_to_grid(a), len(grid))

    xi, xj = [value(a[..., None, :, :]) for a in x], [value(gather(a)) for a in x]
    own = [
        value(a[..., None, None, :]) if _of_instance(a, aval) else a
        for a, aval in zip(shared, kernel.shared_avals, strict=True)
    ]
    keep = broadcast_to_grid((indices != particle[None, :])[..., None])
    terms = _mask(kernel.evaluate(own, xi, xj, grid, both=False), keep)
    sums = jax.tree.map(lambda a: jnp.sum(a, axis=-len(grid), dtype=a.dtype), terms)
    totals = [a.reshape(*a.shape[: a.ndim - len(grid) + 1], n, m) for a in (join(total, grid[1:]) for total in sums)]
    return [a + first.reshape(*a.shape) for a, first in zip(totals, _beginnings(kernel, _origin(x)), strict=True)]


def _origin(x: Sequence) -> jax.Array:
    """What the sums of a particle begin with, `[n, m]`: 0, or NaN where a feature `[*s, n, m]` of it is not finite."""
    real = [jnp.abs(a) if jnp.iscomplexobj(a) else a for a in x if jnp.issubdtype(a.dtype, jnp.inexact)]
    zero = jnp.zeros(x[0].shape[-2:], jnp.result_type(float, *real))
    return sum((jnp.sum(0 * a, axis=tuple(range(a.ndim - 2))) for a in real), zero)  # 0 x is 0 or NaN


# --- sweeps -----------------------------------------------------------------------------------------------------------


def _in_blocks(sums: Callable, total: int, size: int, axis: int) -> list[jax.Array]:
    """`sums(start, size)` of blocks of an axis, put together along it; the last block repeats a part."""
    blocks = math.ceil(total / size)
    if blocks == 1:
        return sums(jnp.int32(0), total)
    size = math.ceil(total / blocks)

    def add_block(b, y):
        start = jnp.int32(jnp.minimum(b * size, total - size))
        return [
            lax.dynamic_update_slice_in_dim(a, part, start, axis) for a, part in zip(y, sums(start, size), strict=True)
        ]

    block = jax.eval_shape(lambda: sums(jnp.int32(0), size))
    whole = [(*a.shape[:axis], total, *a.shape[a.ndim + axis + 1 :]) for a in block]
    return lax.fori_loop(0, blocks, add_block, [jnp.zeros(s, a.dtype) for s, a in zip(whole, block, strict=True)])


def _half_sweep(kernel: Kernel, shared: Sequence, x: Sequence) -> list[jax.Array]:
    """The sums over all pairs: in column c are the pairs (i, i + c), of which each contributes to both particles.

    So half of the columns are enough. After the last particle the first ones follow again.
    """
    n, m = x[0].shape[-2:]
    count, half = n * m, n // 2
    own = _flat(x)
    twice = jax.tree.map(lambda a: jnp.concatenate([a, a[..., : half * m]], -1), own)
    values = _shared_values(kernel, shared, n, m)

    def add_column(c, sums):
        to_first, to_second = sums
        begin = c * m
        xj = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, begin, count, -1), twice)
        y = kernel.evaluate(values, own, xj, (count,), both=True, store=_make_store(c))

        def add(total: jax.Array, a: Any) -> jax.Array:
            if n % 2 == 0:  # the column of opposite particles holds each pair twice
                a = jnp.where(2 * c < n, a, jnp.zeros_like(a))
            a = a + lax.dynamic_slice_in_dim(total, begin, count, -1)
            return lax.dynamic_update_slice_in_dim(total, a, begin, -1)

        first, second = y[: kernel.outputs], y[kernel.outputs :]
        return jax.tree.map(jnp.add, to_first, first), jax.tree.map(add, to_second, second)

    origins = _origin(x).reshape(count), jnp.zeros(count + half * m)
    start = tuple([split(a, 1) for a in _beginnings(kernel, origin)] for origin in origins)
    to_first, to_second = lax.fori_loop(1, half + 1, add_column, start)

    def total(a, b):
        beyond = jnp.pad(b[..., count:], [(0, 0)] * (b.ndim - 1) + [(0, count - half * m)])
        return a + b[..., :count] + beyond

    return _outputs(jax.tree.map(total, to_first, to_second), n, m)


def _list_sweep(
    kernel: Kernel,
    shared: Sequence,
    x: Sequence,
    table: Sequence[Mapped],
    indices: jax.Array,
    columns: jax.Array,
    start: jax.Array,
    b: int,
) -> list[jax.Array]:
    """The sums of b particles, from number `start` on, over their neighbours, whose features are in the table."""
    n, m = x[0].shape[-2:]
    count = b * m
    block = [lax.dynamic_slice_in_dim(a, start, b, -2) for a in x]
    own = _flat(block)
    values = _shared_values(kernel, shared, b, m)
    particle = start + lax.iota(jnp.int32, b)

    def add_column(c, sums):
        j = lax.dynamic_slice(indices, (c, start), (1, b))[0]  # here: a slice of all columns would be copied

        def of_neighbors(a):
            if m == 1:
                return take(a, j)
            return jnp.moveaxis(take(jnp.moveaxis(a, -1, 0), j), 0, -1).reshape(*a.shape[:-2], count)

        y = kernel.evaluate(values, own, jax.tree.map(of_neighbors, table), (count,), both=False, store=_make_store(c))
        keep = jnp.broadcast_to((particle != j)[:, None], (b, m)).reshape(count)
        return jax.tree.map(jnp.add, sums, _mask(y, keep))

    nothing = [split(a, 1) for a in _beginnings(kernel, _origin(block).reshape(count))]
    return _outputs(lax.fori_loop(0, columns, add_column, nothing), b, m)


def _of_instance(a: jax.Array, aval) -> bool:
    """Whether a shared value is one of each instance."""
    return a.ndim > aval.ndim


def _shared_values(kernel: Kernel, shared: Sequence, n: int, m: int) -> list[Value]:
    """Shared values, those of an instance spread over its n particles."""
    return [
        split(jnp.broadcast_to(a[..., None, :], (*a.shape[:-1], n, m)).reshape(*a.shape[:-1], n * m), 1)
        if _of_instance(a, aval)
        else a
        for a, aval in zip(shared, kernel.shared_avals, strict=True)
    ]


def _flat(x: Sequence) -> list[Mapped]:
    return [split(a.reshape(*a.shape[:-2], -1), 1) for a in x]


def _beginnings(kernel: Kernel, origin: jax.Array) -> list[jax.Array]:
    """What each output is added to, `[*s, *particles]`: the origin `[*particles]`, 0 for whole numbers."""
    return [
        jnp.broadcast_to(origin.astype(aval.dtype), (*aval.shape, *origin.shape))
        if jnp.issubdtype(aval.dtype, jnp.inexact)
        else jnp.zeros((*aval.shape, *origin.shape), aval.dtype)
        for aval in kernel.out_avals
    ]


def _outputs(sums: Sequence[Mapped], n: int, m: int) -> list[jax.Array]:
    """The outputs `[*s, n, m]` of sums over n m particles."""
    return [a.reshape(*a.shape[:-1], n, m) for a in (join(total, (n * m,)) for total in materialize(sums))]


def _mask(values: Sequence[Mapped], keep: jax.Array) -> Sequence[Mapped]:
    """The values where `keep` `[*particles]`, 0 elsewhere."""

    def mask(a: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(keep, tuple(range(a.ndim - keep.ndim))), a, jnp.zeros_like(a))

    return jax.tree.map(mask, values)


def _make_store(c: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """An identity that keeps what several components share, such as the magnitude of a force.

    XLA would repeat the arithmetic for each component, but it does not repeat a division.
    """
    one = jnp.where(c >= 0, 1, 2)  # which XLA does not know

    def store(a):
        return a / one.astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    return store
