"""A predicate reduced over the batch, so that `lax.cond` stays a conditional under `vmap`.

`lax.cond` on a batched predicate becomes a `select`: both branches run, always. A predicate that has been reduced
over the batch axis is not batched any more, so the conditional survives and its expensive branch (rebuilding a
neighbour list, resetting an environment) runs only in a step in which some instance asks for it.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

any_in_batch_p = Primitive("any_in_batch")
any_in_batch_p.def_impl(lambda predicate: predicate)
any_in_batch_p.def_abstract_eval(lambda predicate: predicate)
mlir.register_lowering(any_in_batch_p, lambda ctx, *operands, **_: list(operands))


def _batch(args, dims):
    return any_in_batch_p.bind(jnp.any(args[0], axis=dims[0])), None


batching.primitive_batchers[any_in_batch_p] = _batch


def any_in_batch(predicate: jax.Array | bool) -> jax.Array:
    """True when the predicate holds for any instance of the surrounding `vmap`s; the identity outside of one.

    Args:
        predicate: bool, shape `[]`.

    Returns:
        bool, shape `[]`, never batched, so that `lax.cond(any_in_batch(p), ...)` stays a conditional under `vmap`.
    """
    return any_in_batch_p.bind(jnp.asarray(predicate))
