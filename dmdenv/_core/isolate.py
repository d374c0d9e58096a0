"""A computation that a compiler cannot merge with what surrounds it, so that its result has the same bits everywhere.

XLA fuses an expression with its surroundings, and the fused loop may contract a product and a sum into one rounding, or
share a part with a neighbour. The same expression in another program, or at another place of one program, then differs
by rounding. The branch of a conditional is a computation of its own, whose inputs are whatever is passed: compiled
twice, it is the same code.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from dmdenv._core.control_flow import cond
from dmdenv._core.in_batch import any_in_batch

R = TypeVar("R")


def isolated(function: Callable[..., R], number: jax.Array, *operands: Any) -> R:
    """`function(*operands)`, compiled apart from everything else; it must not close over traced values.

    Args:
        function: of pytrees of arrays; without random keys among its results.
        number: int `[]`, anything that is not known when the program is compiled.
        operands: pytrees of arrays.
    """
    shapes = jax.eval_shape(function, *operands)

    def never(*operands: Any) -> R:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    return cond(any_in_batch(number % 2 < 2), function, never, *operands)


def unknown(tree: Any, number: jax.Array) -> Any:
    """The same tree, of whose numbers a compiler knows nothing: a constant could be folded at one place only.

    Args:
        tree: any pytree; what is not a number stays.
        number: int `[]`, anything that is not known when the program is compiled.
    """
    yes = any_in_batch(number % 2 < 2)  # so that what instances share, they share still

    def hide(leaf: Any) -> Any:
        array = jnp.asarray(leaf)
        return jnp.where(yes, array, array + 1) if jnp.issubdtype(array.dtype, jnp.number) else leaf

    return jax.tree.map(hide, tree)
