"""Evaluate a function of one pair for all particles at once, with the particle axes last.

`jax.vmap` chooses the place of a batch axis operation by operation; inside a pair function it mixes `[n, 3]` with
`[3, n]`, and the transposes cost ten times the arithmetic. Here the particle axes stay last, so that each operation is
a contiguous loop over particles, and small vectors and matrices are taken apart: each component is an array of its own
over the particles. So sums over components, slices and products of small matrices become plain
arithmetic, which a CPU's compiler vectorises; within one array it vectorises none of them. What does not depend on the
particle is computed once.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal  # pyright: ignore[reportPrivateImportUsage]

from dmdenv._core.varying import unchecked, vary_together

_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow
    is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma pow real reduce_precision
    rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor""".split()
)
_REDUCED_BY: dict[str, Callable] = {
    "reduce_sum": lax.add,
    "reduce_prod": lax.mul,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_and": lax.bitwise_and,
    "reduce_or": lax.bitwise_or,
}
_REDUCTIONS = frozenset([*_REDUCED_BY, "argmax", "argmin"])
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
_COMPONENTS = 15  # of a value, up to which it is taken apart: tensors are, layers of networks are not
_SMALL_PRODUCT = 64  # multiply-adds of a matrix product per pair, up to which it is written out


class Stacked(NamedTuple):
    """A value of many components for every particle, in one array."""

    array: jax.Array  # [*s, *particles]


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Components:
    """A value of few components for every particle; as a tree, its leaves are their arrays."""

    entries: np.ndarray  # objects [*s]: arrays [*particles], or [] where all particles have the same

    @classmethod
    def vector(cls, *components: jax.Array) -> "Components":
        """The vector with these components, arrays `[*particles]`."""
        return cls.tree_unflatten((len(components),), components)

    def tree_flatten(self):
        return tuple(self.entries.flat), self.entries.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple[int, ...], leaves: Iterable) -> "Components":
        it = iter(leaves)
        return cls(_object_array(shape, lambda index: next(it)))


Mapped = Stacked | Components
Value = Any  # Mapped, or an array [*s] that all particles share


def split(array: jax.Array, axes: int) -> Mapped:
    """The value whose array is `[*s, *particles]`, with `axes` particle axes."""
    shape = array.shape[: array.ndim - axes]
    if not _is_small(shape):
        return Stacked(array)
    return Components(_object_array(shape, lambda index: array[index] if index else array))


def join(value: Mapped, particles: tuple[int, ...]) -> jax.Array:
    """The array `[*s, *particles]` of a value."""
    if isinstance(value, Stacked):
        return value.array
    entries = [_broadcast(entry, particles) for entry in value.entries.flat]
    if not value.entries.shape:
        return entries[0]
    return jnp.stack(entries).reshape(*value.entries.shape, *particles)


def evaluate(
    jaxpr: ClosedJaxpr,
    operands: Sequence[Value],
    particles: tuple[int, ...],
    *,
    outputs: slice = slice(None),
    store: Callable[[jax.Array], jax.Array] = lambda array: array,
) -> list[Mapped]:
    """The outputs of `jaxpr` for every particle.

    Args:
        jaxpr: a function of one pair, with operands of shape `s_q`.
        operands: values of the particles, or arrays `[*s_q]` that all particles share.
        particles: the shape of the particle axes.
        outputs: which of its outputs; nothing is computed for the others.
        store: an identity, applied to each array that the function uses for several components, such as the magnitude
            of a force along its direction.

    Returns:
        One value per output, all of its arrays over the particles.
    """
    results = _run(jaxpr, list(operands), particles, store, outputs)
    axes = len(particles)
    avals: list[Any] = jaxpr.out_avals[outputs]
    return [
        jax.tree.map(lambda a: a if a.ndim >= axes else _broadcast(a, particles), r)
        if _is_mapped(r)
        else split(_broadcast_shared(r, aval.shape, particles), axes)
        for r, aval in zip(results, avals, strict=True)
    ]


def over_particles(function: Callable, particles: tuple[int, ...], shared, *own: Mapped) -> list[jax.Array]:
    """`function(shared, *own)` for every particle: a flat list of its outputs, particle axes last.

    Args:
        function: takes the shared tree and one particle's arrays.
        particles: the shape of the particle axes.
        shared: a tree of values that all particles share.
        own: values of the particles.
    """
    one = [_of_one(value, len(particles)) for value in own]
    with unchecked():
        jaxpr = jax.make_jaxpr(function)(shared, *one)
    return [join(value, particles) for value in evaluate(jaxpr, [*jax.tree.leaves(shared), *own], particles)]


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Entries `[..., *index.shape]` of a table `[..., n]`, for indices that are known to be within it."""
    return table.at[..., index].get(mode="promise_in_bounds", wrap_negative_indices=False)


# --- equations --------------------------------------------------------------------------------------------------------


def _run(
    jaxpr: ClosedJaxpr, operands: list[Value], particles: tuple[int, ...], store: Callable, outputs: slice
) -> list[Value]:
    env: dict = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    env.update(zip(jaxpr.jaxpr.invars, operands, strict=True))

    def read(atom) -> Value:
        if isinstance(atom, Literal):
            return np.asarray(atom.val, atom.aval.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        return env[atom]

    wanted = jaxpr.jaxpr.outvars[outputs]
    for equation in _needed(jaxpr, wanted):
        results = _apply(equation, list(map(read, equation.invars)), particles, store)
        env.update(zip(equation.outvars, results, strict=True))
    return list(map(read, wanted))


def _needed(jaxpr: ClosedJaxpr, outvars: Sequence) -> list:
    """The equations on which these variables depend, in order."""
    needed, kept = {v for v in outvars if not isinstance(v, Literal)}, []
    for equation in reversed(jaxpr.jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, Literal))
    return kept[::-1]


def _apply(equation, operands: list[Value], particles: tuple[int, ...], store: Callable) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        inner = params[_CALLS[name]]
        inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
        return _run(inner, operands, particles, store, slice(None))
    if not any(map(_is_mapped, operands)):
        return bind(equation, operands)
    shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
    if all(map(_is_small, shapes)):
        results = _on_components(equation, operands, particles, store)
        if results is not None:
            return list(map(Components, results))
    return _on_arrays(equation, operands, particles)


def bind(equation, operands: Sequence[jax.Array]) -> list[jax.Array]:
    """The outputs of an equation of a jaxpr for these operands."""
    bound = equation.primitive.get_bind_params(dict(equation.params))
    subfunctions, params = bound if isinstance(bound, tuple) else ((), bound)  # jax 0.12: functions are parameters too
    out = equation.primitive.bind(*subfunctions, *vary_together(*operands), **params)
    return out if equation.primitive.multiple_results else [out]


def _bind(primitive, *operands, **params) -> jax.Array:
    return primitive.bind(*vary_together(*operands), **params)


# --- values that are taken apart --------------------------------------------------------------------------------------


def _on_components(
    equation, operands: list[Value], particles: tuple[int, ...], store: Callable
) -> list[np.ndarray] | None:
    """Entries of the outputs; None for an operation that is not written here."""
    name, params = equation.primitive.name, equation.params
    shapes, shape = [v.aval.shape for v in equation.invars], equation.outvars[0].aval.shape
    entries = [_entries(value, s) for value, s in zip(operands, shapes, strict=True)]
    first = entries[0]
    if name == "broadcast_in_dim" or name in _ELEMENTWISE:
        entries = [_store_entries(e, store, particles) if e.size < math.prod(shape) else e for e in entries]
        first = entries[0]
    if name in _ELEMENTWISE:
        of = functools.partial(_bind, equation.primitive, **params)
        return [_elementwise(of, entries, shape, particles)]
    if name in _REDUCED_BY:
        return [_reduce(_elementwise_of(_REDUCED_BY[name], particles), first, tuple(params["axes"]))]
    if name == "broadcast_in_dim":
        where = dict(zip(params["broadcast_dimensions"], first.shape, strict=True))
        return [np.broadcast_to(first.reshape([where.get(q, 1) for q in range(len(shape))]), shape)]
    if name == "squeeze" or (name == "reshape" and params["dimensions"] is None):
        return [first.reshape(shape)]
    if name == "transpose":
        return [first.transpose(params["permutation"])]
    if name == "rev":
        return [np.flip(first, params["dimensions"])]
    if name == "split":
        return np.split(first, np.cumsum(params["sizes"])[:-1], params["axis"])
    if name == "concatenate":
        return [np.concatenate(entries, params["dimension"])]
    if name == "stack":
        return [np.stack(entries, params["axis"])]
    if name == "unstack":
        return [part.reshape(shape) for part in np.split(first, len(equation.outvars), params["axis"])]
    if name == "slice":
        strides = params["strides"] or [1] * first.ndim
        return [first[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]]
    if name == "pad" and all(low >= 0 and high >= 0 for low, high, _ in params["padding_config"]):
        padded = _object_array(shape, lambda index: entries[1][()])
        config = zip(params["padding_config"], first.shape, strict=True)
        padded[tuple(slice(low, low + (n - 1) * (gap + 1) + 1, gap + 1) for (low, _, gap), n in config)] = first
        return [padded]
    if name == "dot_general":
        return _small_product(equation, entries, particles)
    return None


def _elementwise(
    of: Callable, operands: Sequence[np.ndarray], shape: tuple[int, ...], particles: tuple[int, ...]
) -> np.ndarray:
    """The operation for each component."""
    function = _elementwise_of(of, particles)
    operands = [np.broadcast_to(e, shape) for e in operands]
    return _object_array(shape, lambda index: function(*(e[index] for e in operands)))


def _elementwise_of(of: Callable, particles: tuple[int, ...]) -> Callable:
    """An operation on arrays of one shape, for arrays `[*particles]` and `[]`."""

    def function(*args):
        if all(np.shape(a) == () for a in args):
            return of(*args)
        return of(*(_broadcast(a, particles) for a in args))

    return function


def _reduce(of: Callable, entries: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The entries combined along axes."""
    rest = [q for q in range(entries.ndim) if q not in axes]
    rows = entries.transpose(*rest, *axes).reshape(*(entries.shape[q] for q in rest), -1)
    return _object_array(rows.shape[:-1], lambda index: functools.reduce(of, rows[index]))


def _small_product(equation, entries: list[np.ndarray], particles: tuple[int, ...]) -> list[np.ndarray] | None:
    """A product of small matrices, written out; None when it is not small."""
    (contract_a, contract_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    out, (a, b) = equation.outvars[0].aval, entries
    free_a = [q for q in range(a.ndim) if q not in (*contract_a, *batch_a)]
    free_b = [q for q in range(b.ndim) if q not in (*contract_b, *batch_b)]
    batch, rows, columns, depth = (
        math.prod(a.shape[q] for q in axes) if array is a else math.prod(b.shape[q] for q in axes)
        for array, axes in ((a, batch_a), (a, free_a), (b, free_b), (a, contract_a))
    )
    if rows * columns * depth > _SMALL_PRODUCT:
        return None
    a = a.transpose(*batch_a, *free_a, *contract_a).reshape(batch, rows, depth)
    b = b.transpose(*batch_b, *free_b, *contract_b).reshape(batch, columns, depth)
    multiply, add = _elementwise_of(lax.mul, particles), _elementwise_of(lax.add, particles)

    def convert(entry):
        return jnp.asarray(entry).astype(out.dtype)

    def entry(index):
        q, i, j = index
        terms = [multiply(convert(a[q, i, p]), convert(b[q, j, p])) for p in range(depth)]
        return functools.reduce(add, terms)

    return [_object_array((batch, rows, columns), entry).reshape(out.shape)]


def _store_entries(entries: np.ndarray, store: Callable, particles: tuple[int, ...]) -> np.ndarray:
    """Entries with those over particles stored."""
    return _object_array(
        entries.shape,
        lambda index: store(entries[index]) if np.shape(entries[index]) == particles else entries[index],
    )


def _entries(value: Value, shape: tuple[int, ...]) -> np.ndarray:
    """The entries of a small value, shared ones too."""
    if isinstance(value, Components):
        return value.entries
    return _object_array(shape, lambda index: value[index] if np.ndim(value) else value)


def _object_array(shape: tuple[int, ...], entry: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    """An array of objects, each a function of its index; given a list of arrays, numpy would stack them."""
    filled = np.empty(math.prod(shape), object)
    for position, index in enumerate(itertools.product(*map(range, shape))):
        filled[position] = entry(index)
    return filled.reshape(shape)


# --- values as one array ----------------------------------------------------------------------------------------------


def _on_arrays(equation, operands: list[Value], particles: tuple[int, ...]) -> list[Value]:
    """The outputs by operations on arrays `[*s, *particles]`."""
    name, params = equation.primitive.name, equation.params
    mapped = list(map(_is_mapped, operands))
    operands = [join(v, particles) if m else v for v, m in zip(operands, mapped, strict=True)]
    axes, shape = len(particles), equation.outvars[0].aval.shape
    trailing = tuple(range(len(shape), len(shape) + axes))

    def broadcast(q):
        """Operand q broadcast to the particle axes and to its own, along either of which it may have size 1."""
        array, target = jnp.asarray(operands[q]), equation.invars[q].aval.shape
        target = target if name not in _ELEMENTWISE else shape
        if not mapped[q]:
            return _broadcast_shared(array, target, particles)
        own = range(array.ndim - axes)
        return lax.broadcast_in_dim(array, (*target, *particles), (*own, *range(len(target), len(target) + axes)))

    every = range(len(operands))
    if name in _ELEMENTWISE:
        out = [_bind(equation.primitive, *map(broadcast, every), **params)]
    elif name in _REDUCTIONS:
        out = [_bind(equation.primitive, *operands, **params)]
    elif name == "broadcast_in_dim":
        dimensions = (*params["broadcast_dimensions"], *trailing)
        out = [lax.broadcast_in_dim(operands[0], (*shape, *particles), dimensions)]
    elif name == "squeeze" or (name == "reshape" and params["dimensions"] is None):
        out = [lax.reshape(operands[0], (*shape, *particles))]
    elif name == "transpose":
        out = [lax.transpose(operands[0], (*params["permutation"], *trailing))]
    elif name == "split":
        out = lax.split(operands[0], params["sizes"], params["axis"])
    elif name == "concatenate":
        out = [lax.concatenate(list(map(broadcast, every)), params["dimension"])]
    elif name == "stack":
        out = [jnp.stack(list(map(broadcast, every)), params["axis"])]
    elif name == "slice":
        starts, limits = (*params["start_indices"], *([0] * axes)), (*params["limit_indices"], *particles)
        strides = None if params["strides"] is None else (*params["strides"], *([1] * axes))
        out = [lax.slice(operands[0], starts, limits, strides)]
    elif name == "pad" and not mapped[1]:
        out = [lax.pad(operands[0], operands[1], [*params["padding_config"], *([(0, 0, 0)] * axes)])]
    else:
        out = _by_vmap(equation, operands, mapped, axes)
    return [split(a, axes) for a in out]


def _by_vmap(equation, operands: Sequence[jax.Array], mapped: Sequence[bool], axes: int) -> list[jax.Array]:
    """Any other operation: `jax.vmap` over the particle axes, from the last to the first and put back there."""

    def function(*operands):
        return bind(equation, operands)

    fun: Callable = function
    for _ in range(axes):
        fun = jax.vmap(fun, in_axes=tuple(-1 if m else None for m in mapped), out_axes=-1)
    return fun(*operands)


def _of_one(value: Mapped, axes: int) -> jax.ShapeDtypeStruct:
    """Shape and type of a particle's value."""
    if isinstance(value, Stacked):
        return jax.ShapeDtypeStruct(value.array.shape[: value.array.ndim - axes], value.array.dtype)
    return jax.ShapeDtypeStruct(value.entries.shape, value.entries.flat[0].dtype)


def _is_small(shape: tuple[int, ...]) -> bool:
    """Whether values of this shape are taken apart."""
    return 0 < math.prod(shape) <= _COMPONENTS


def _is_mapped(value: Value) -> bool:
    return isinstance(value, Stacked | Components)


def _broadcast(array: jax.Array, particles: tuple[int, ...]) -> jax.Array:
    """An array `[*particles]`, perhaps of one value `[]`."""
    return array if np.shape(array) == particles else lax.broadcast(jnp.asarray(array), particles)


def _broadcast_shared(array: jax.Array, shape: tuple[int, ...], particles: tuple[int, ...]) -> jax.Array:
    """What all particles share, a scalar or of shape `[*s]`, as an array `[*s, *particles]`."""
    array = jnp.asarray(array)
    return lax.broadcast_in_dim(array, (*shape, *particles), range(array.ndim))
