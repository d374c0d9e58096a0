"""`lax.cond`, `lax.scan`, `lax.fori_loop` and `lax.while_loop` as they are, and inside of `jax.shard_map` too.

There JAX refuses branches, or a carry before and after a loop's body, that vary over different axes of the mesh, as a
carry does that begins with a constant. Here all of them vary over the axes of any of them, and over those of what
decides about the branch or about the number of iterations.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

from dmdenv._core.varying import axes_of_call, manual_axes, vary, varying_axes

C = TypeVar("C")


def cond(predicate: jax.Array, if_true: Callable[..., C], if_false: Callable[..., C], *operands: Any) -> C:
    """`lax.cond`."""
    if not manual_axes():
        return lax.cond(predicate, if_true, if_false, *operands)
    # before the branch: the transpose adds up over devices, which may take different ones
    operands = vary(operands, varying_axes(predicate, operands))
    axes = axes_of_call(lambda *x: (if_true(*x), if_false(*x)), *operands) | varying_axes(predicate)
    branches = (lambda *x, branch=branch: vary(branch(*x), axes) for branch in (if_true, if_false))
    return lax.cond(predicate, *branches, *operands)


def scan(
    body: Callable[[C, Any], tuple[C, Any]],
    init: C,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
):
    """`lax.scan`."""
    if not manual_axes():
        return lax.scan(body, init, xs, length=length, reverse=reverse)
    axes = axes_of_call(lambda carry: lax.scan(lambda _, x: (None, body(carry, x)[0]), None, xs, length=length), init)

    def agreeing(carry, x):
        carry, y = body(carry, x)
        return vary(carry, axes), y

    return lax.scan(agreeing, vary(init, axes), xs, length=length, reverse=reverse)


def fori_loop(lower: Any, upper: Any, body: Callable[[Any, C], C], init: C) -> C:
    """`lax.fori_loop`."""
    if not manual_axes():
        return lax.fori_loop(lower, upper, body, init)
    axes = axes_of_call(body, lower, init) | varying_axes(upper)
    return lax.fori_loop(lower, upper, lambda i, carry: vary(body(i, carry), axes), vary(init, axes))


def while_loop(unfinished: Callable[[C], jax.Array], body: Callable[[C], C], init: C) -> C:
    """`lax.while_loop`."""
    if not manual_axes():
        return lax.while_loop(unfinished, body, init)
    axes = axes_of_call(lambda carry: (unfinished(carry), body(carry)), init)
    return lax.while_loop(unfinished, lambda carry: vary(body(carry), axes), vary(init, axes))
