"""Values reduced over the batch, so that control flow stays what it is under `vmap`.

`lax.cond` on a batched predicate becomes a `select`: both branches always run. A `fori_loop` with a batched bound
selects its whole carry in each iteration. A value that has been reduced over the batch axis is not batched any more, so
the conditional survives, and its expensive branch (rebuilding a neighbour list, resetting an environment) runs only in
steps in which some instance needs it.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

max_in_batch_p = Primitive("max_in_batch")
max_in_batch_p.def_impl(lambda value: value)
max_in_batch_p.def_abstract_eval(lambda value: value)
mlir.register_lowering(max_in_batch_p, lambda ctx, *operands, **_: list(operands))


def _batch(args, dims):
    return max_in_batch_p.bind(jnp.max(args[0], axis=dims[0])), None


batching.primitive_batchers[max_in_batch_p] = _batch


def any_in_batch(predicate: jax.Array | bool) -> jax.Array:
    """True when the predicate holds for any instance of the surrounding `vmap`s; the identity outside of one.

    Args:
        predicate: bool, shape `[]`.

    Returns:
        bool, shape `[]`, never batched, so that `lax.cond(any_in_batch(p), ...)` stays a conditional under `vmap`.
    """
    return max_in_batch_p.bind(jnp.asarray(predicate))


def max_in_batch(value: jax.Array | int) -> jax.Array:
    """The largest value of any instance of the surrounding `vmap`s; the identity outside of one.

    Args:
        value: integer, shape `[]`.

    Returns:
        integer, shape `[]`, never batched, so that `lax.fori_loop(0, max_in_batch(n), ...)` selects nothing.
    """
    return max_in_batch_p.bind(jnp.asarray(value))
