"""Values that are computed once and stored, where XLA would compute them anew in each place of their use.

XLA fuses what an array is made of into the loop that makes it. On a CPU this costs more than it saves where that loop
puts pieces together: a concatenation of ten computed columns becomes a loop that no vector unit runs.
`lax.optimization_barrier` does not help: XLA has removed it by then.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

PyTree = Any

stored_p = Primitive("stored")
stored_p.multiple_results = True


def stored(values: PyTree) -> PyTree:
    """The same tree of arrays, which no fusion goes through on a CPU; differentiable to any order."""
    leaves, tree = jax.tree.flatten(values)
    return jax.tree.unflatten(tree, stored_p.bind(*leaves)) if leaves else values


def _through_conditional(*arrays: jax.Array) -> list[jax.Array]:
    """Fusions end at a conditional, if its branches differ and XLA does not know which of them is taken."""
    if not all(a.size for a in arrays):
        return list(arrays)
    first = jnp.ravel(arrays[0])[0]
    first = jnp.real(first).astype(jnp.float32) if jnp.iscomplexobj(first) else first.astype(jnp.float32)
    first = lax.bitcast_convert_type(first, jnp.int32)
    return lax.cond(first % 2 < 2, lambda *a: list(a), _exchanged, *arrays)


def _exchanged(*arrays: jax.Array) -> list[jax.Array]:
    """Each array replaced by the next one of its kind, which costs nothing, or where there is none by zeros."""
    out = []
    for q, a in enumerate(arrays):
        alike = [b for b in (*arrays[q + 1 :], *arrays[:q]) if b.shape == a.shape and b.dtype == a.dtype]
        out.append(alike[0] if alike else jnp.zeros_like(a))
    return out


def _jvp(primals, tangents):
    nonzero = [q for q, t in enumerate(tangents) if type(t) is not ad.Zero]
    out = list(tangents)
    for q, t in zip(nonzero, stored_p.bind(*(tangents[q] for q in nonzero)) if nonzero else [], strict=True):
        out[q] = t
    return stored_p.bind(*primals), out


def _batch(arrays, axes):
    return stored_p.bind(*arrays), axes


stored_p.def_impl(lambda *arrays: list(arrays))
stored_p.def_abstract_eval(lambda *arrays: list(arrays))
ad.primitive_jvps[stored_p] = _jvp
ad.primitive_transposes[stored_p] = lambda cotangents, *arrays: cotangents
batching.primitive_batchers[stored_p] = _batch
mlir.register_lowering(stored_p, lambda ctx, *operands, **_: list(operands))
mlir.register_lowering(stored_p, mlir.lower_fun(_through_conditional, multiple_results=True), platform="cpu")
