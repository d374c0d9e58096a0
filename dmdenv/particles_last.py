"""Evaluate a function of one pair for all particles at once, with the particle axes last.

`jax.vmap` chooses where a batch axis stands operation by operation; inside a pair function it mixes `[n, 3]` with
`[3, n]`, and the transposes cost ten times the arithmetic. Here every array keeps the kernel's own axes first and the
particle axes last, so that each operation is a contiguous, vectorised loop over particles. What does not depend on
the particle is computed once.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow
    is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma pow real reduce_precision
    rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor""".split()
)
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split())
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
_SMALL_PRODUCT = 64  # multiply-adds of a matrix product a pair, up to which it is written out


def evaluate(
    jaxpr: ClosedJaxpr,
    operands: Sequence[jax.Array],
    mapped: Sequence[bool],
    particles: tuple[int, ...],
    store: Callable[[jax.Array], jax.Array] = lambda array: array,
) -> list[jax.Array]:
    """The outputs of `jaxpr` for every particle.

    Args:
        jaxpr: a function of one pair, with operands of shape `s_q`.
        operands: arrays `[*s_q, *particles]` where mapped, `[*s_q]` where all particles share the value.
        mapped: which operands have the particle axes.
        particles: the shape of the particle axes.
        store: an identity, applied to each array that the function broadcasts over further axes of its own, such as
            the magnitude of a force along its direction.

    Returns:
        One array `[*s, *particles]` an output.
    """
    values = _run(jaxpr, list(zip(operands, mapped, strict=True)), particles, store)
    return [_spread(value, aval.shape, particles) for value, aval in zip(values, jaxpr.out_avals, strict=True)]


Value = tuple[jax.Array, bool]  # an array, and whether it has the particle axes


def _run(jaxpr: ClosedJaxpr, operands: Sequence[Value], particles: tuple[int, ...], store: Callable) -> list[Value]:
    env: dict = dict(zip(jaxpr.jaxpr.constvars, [(c, False) for c in jaxpr.consts], strict=True))
    env.update(zip(jaxpr.jaxpr.invars, operands, strict=True))

    def read(atom) -> Value:
        return (atom.val, False) if isinstance(atom, Literal) else env[atom]

    for equation in jaxpr.jaxpr.eqns:
        results = _apply(equation, list(map(read, equation.invars)), particles, store)
        env.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.jaxpr.outvars))


def _apply(equation, operands: list[Value], particles: tuple[int, ...], store: Callable) -> list[Value]:
    name, params = equation.primitive.name, dict(equation.params)
    if name in _CALLS:
        inner = params[_CALLS[name]]
        return _run(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), operands, particles, store)
    arrays, mapped = [a for a, _ in operands], [m for _, m in operands]
    if not any(mapped):
        return [(a, False) for a in bind(equation, arrays)]

    out_aval = equation.outvars[0].aval
    k, shape = len(particles), out_aval.shape
    trailing = tuple(range(len(shape), len(shape) + k))
    if name == "broadcast_in_dim" or name in _ELEMENTWISE:
        operands = [(store(a) if m and math.prod(a.shape[:-k]) < math.prod(shape) else a, m) for a, m in operands]
    if name in _ELEMENTWISE:
        return [(equation.primitive.bind(*(_spread(v, shape, particles) for v in operands), **params), True)]
    if name in _REDUCTIONS:
        return [(equation.primitive.bind(*arrays, **params), True)]
    if name == "broadcast_in_dim":
        dimensions = (*params["broadcast_dimensions"], *trailing)
        return [(lax.broadcast_in_dim(operands[0][0], (*shape, *particles), dimensions), True)]
    if name == "squeeze" or (name == "reshape" and params["dimensions"] is None):
        return [(lax.reshape(arrays[0], (*shape, *particles)), True)]
    if name == "transpose":
        return [(lax.transpose(arrays[0], (*params["permutation"], *trailing)), True)]
    if name == "rev":
        return [(lax.rev(arrays[0], params["dimensions"]), True)]
    if name == "split":
        return [(part, True) for part in lax.split(arrays[0], params["sizes"], params["axis"])]
    if name in ("concatenate", "stack"):
        full = [_spread(v, atom.aval.shape, particles) for v, atom in zip(operands, equation.invars, strict=True)]
        if name == "stack":
            return [(jnp.stack(full, params["axis"]), True)]
        return [(lax.concatenate(full, params["dimension"]), True)]
    if name == "unstack":
        parts = range(len(equation.outvars))
        return [(lax.index_in_dim(arrays[0], q, params["axis"], keepdims=False), True) for q in parts]
    if name == "slice":
        starts, limits = (*params["start_indices"], *([0] * k)), (*params["limit_indices"], *particles)
        strides = None if params["strides"] is None else (*params["strides"], *([1] * k))
        return [(lax.slice(arrays[0], starts, limits, strides), True)]
    if name == "pad":
        padding = [*params["padding_config"], *([(0, 0, 0)] * k)]
        if not mapped[1]:
            return [(lax.pad(arrays[0], arrays[1], padding), True)]
    if name == "dot_general":
        product = _small_product(equation, operands, particles)
        if product is not None:
            return [(product, True)]
    return _mapped_by_vmap(equation, arrays, mapped, k)


def bind(equation, operands: Sequence[jax.Array]) -> list[jax.Array]:
    """The outputs of an equation of a jaxpr for these operands."""
    bound = equation.primitive.get_bind_params(dict(equation.params))
    subfunctions, params = bound if isinstance(bound, tuple) else ((), bound)  # jax 0.12: functions are parameters too
    out = equation.primitive.bind(*subfunctions, *operands, **params)
    return out if equation.primitive.multiple_results else [out]


def _spread(value: Value, shape: tuple[int, ...], particles: tuple[int, ...]) -> jax.Array:
    """The array over the kernel's own axes `shape`, over which it may be a scalar, and over the particle axes."""
    array, mapped = jnp.asarray(value[0]), value[1]
    target = (*shape, *particles)
    if array.shape == target and mapped:
        return array
    trailing = range(len(shape), len(target)) if mapped else ()
    own = range(array.ndim - len(trailing))
    return lax.broadcast_in_dim(array, target, (*own, *trailing))


def _small_product(equation, operands: list[Value], particles: tuple[int, ...]) -> jax.Array | None:
    """A product of small matrices, written out as multiply and add over the particles; None when it is not small."""
    (contract_a, contract_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    avals = [v.aval for v in equation.invars]
    out = equation.outvars[0].aval
    depth = math.prod(avals[0].shape[q] for q in contract_a)
    free_a = [q for q in range(len(avals[0].shape)) if q not in (*contract_a, *batch_a)]
    free_b = [q for q in range(len(avals[1].shape)) if q not in (*contract_b, *batch_b)]
    if math.prod(out.shape[len(batch_a) :]) * depth > _SMALL_PRODUCT:
        return None
    rank = len(out.shape) + len(contract_a)
    sizes = (*out.shape, *(avals[0].shape[q] for q in contract_a))
    at_batch, at_a = range(len(batch_a)), range(len(batch_a), len(batch_a) + len(free_a))
    at_b, at_contract = range(len(batch_a) + len(free_a), len(out.shape)), range(len(out.shape), rank)
    trailing = range(rank, rank + len(particles))

    def laid_out(operand, batch, free, at_free, contract):
        array = _spread(operands[operand], avals[operand].shape, particles).astype(out.dtype)
        where = dict(zip((*batch, *free, *contract), (*at_batch, *at_free, *at_contract), strict=True))
        own = [where[q] for q in range(len(where))]
        order = sorted(range(len(own)), key=own.__getitem__)
        array = lax.transpose(array, (*order, *range(len(own), array.ndim)))
        return lax.broadcast_in_dim(array, (*sizes, *particles), (*sorted(own), *trailing))

    a = laid_out(0, batch_a, free_a, at_a, contract_a)
    b = laid_out(1, batch_b, free_b, at_b, contract_b)
    return jnp.sum(a * b, axis=tuple(at_contract), dtype=out.dtype)


def _mapped_by_vmap(equation, arrays: Sequence[jax.Array], mapped: Sequence[bool], axes: int) -> list[Value]:
    """Any other operation: `jax.vmap` over the particle axes, from the last to the first and put back there."""

    def function(*operands):
        return bind(equation, operands)

    fun: Callable = function
    for _ in range(axes):
        fun = jax.vmap(fun, in_axes=tuple(-1 if m else None for m in mapped), out_axes=-1)
    return [(a, True) for a in fun(*arrays)]


def over_particles(function: Callable, particles: tuple[int, ...], shared, *mapped) -> list[jax.Array]:
    """`function(shared, *own)` for every particle: a flat list of its outputs, particle axes last.

    Args:
        function: takes the shared tree and one particle's arrays.
        particles: the shape of the particle axes.
        shared: a tree of values that all particles share.
        mapped: arrays `[..., *particles]`.
    """
    own = [jax.ShapeDtypeStruct(a.shape[: a.ndim - len(particles)], a.dtype) for a in mapped]
    leaves = jax.tree.leaves(shared)
    jaxpr = jax.make_jaxpr(function)(shared, *own)
    return evaluate(jaxpr, [*leaves, *mapped], [False] * len(leaves) + [True] * len(mapped), particles)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Entries `[..., *index.shape]` of a table `[..., n]`, for indices that are known to be within it."""
    return table.at[..., index].get(mode="promise_in_bounds", wrap_negative_indices=False)
