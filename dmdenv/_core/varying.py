"""Over which axes of a device mesh a value varies, inside of `jax.shard_map`.

There the type of an array says along which mesh axes the devices may hold different values, its varying axes. What is
made of constants varies along none, and JAX refuses to mix the two in a primitive, in the branches of a `cond` or in
the carry of a loop. Outside of `shard_map` nothing varies and all functions here are identities.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.core
from jax._src import config
from jax.interpreters import mlir

T = TypeVar("T")

# A context in which types do not say what varies, for functions of one pair or of one device, which are traced by
# themselves. JAX has no public name for it.
unchecked: Callable[[], Any] = functools.partial(config._check_vma, False)


def manual_axes() -> frozenset[str]:
    """The mesh axes over which values may vary here; none outside of `shard_map`, or where it does not check."""
    return frozenset(jax.sharding.get_abstract_mesh().manual_axes if config._check_vma.value else ())


def varying_axes(*trees: Any) -> frozenset[str]:
    """The mesh axes over which any leaf, an array or the type of one, varies."""
    return frozenset().union(*map(_axes, jax.tree.leaves(trees)))


def axes_of_call(function: Callable, *arguments: Any) -> frozenset[str]:
    """The axes over which the arguments vary, and what the function returns for them; it may close over what varies."""
    axes = varying_axes(arguments)
    if axes == manual_axes():  # there are no others: the function need not be traced
        return axes
    return axes | varying_axes(jax.make_jaxpr(function)(*arguments).out_avals)


def vary(tree: T, axes: frozenset[str]) -> T:
    """The tree, declared to vary over these mesh axes too. The transpose adds up over the devices."""
    return jax.tree.map(lambda leaf: _vary(leaf, axes), tree) if axes else tree


def vary_together(*trees: Any) -> tuple[Any, ...]:
    """The trees, all leaves varying over the axes of any."""
    return vary(trees, varying_axes(trees)) if manual_axes() else trees


def shaped(shape: tuple[int, ...], dtype: Any, *like: Any) -> jax.core.ShapedArray:
    """The type of an array that varies as values of the types `like`, which agree, do."""
    if not varying_axes(*like):
        return jax.core.ShapedArray(shape, dtype)
    whole = jax.sharding.NamedSharding(like[0].sharding.mesh, jax.sharding.PartitionSpec())
    return like[0].update(shape=shape, dtype=dtype, weak_type=False, sharding=whole)


def lower_fun(fun: Callable, *, multiple_results: bool) -> Callable:
    """`mlir.lower_fun` of a function on one device, whose loops need not know what varies over the others."""
    rule = mlir.lower_fun(fun, multiple_results=multiple_results)

    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        if varying_axes(ctx.avals_in):
            ctx = ctx.replace(avals_in=[jax.core.ShapedArray(a.shape, a.dtype) for a in ctx.avals_in])
        with unchecked():
            return rule(ctx, *operands, **params)

    return lower


def _axes(leaf: Any) -> frozenset[str]:
    aval = leaf if isinstance(leaf, jax.core.AbstractValue) else jax.typeof(leaf)
    manual = getattr(aval, "manual_axis_type", None)  # jax 0.10 and later
    return aval.vma if manual is None else manual.varying  # pyright: ignore[reportAttributeAccessIssue]


def _vary(leaf: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - _axes(leaf)))
    if not missing:
        return leaf
    return jax.lax.pcast(leaf, missing, to="varying")
