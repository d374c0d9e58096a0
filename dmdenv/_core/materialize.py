"""Values that are computed once and stored, where XLA would recompute them wherever they are used.

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

from dmdenv._core.varying import lower_fun

PyTree = Any

materialize_p = Primitive("materialize")
materialize_p.multiple_results = True


def materialize(values: PyTree) -> PyTree:
    """The same tree of arrays, stored in memory: on a CPU no fusion crosses it. Differentiable to any order."""
    leaves, tree = jax.tree.flatten(values)
    return jax.tree.unflatten(tree, materialize_p.bind(*leaves)) if leaves else values


def _through_conditional(*arrays: jax.Array) -> list[jax.Array]:
    """Fusions end at a conditional whose branches differ, if XLA does not know which of them is taken."""
    if not all(a.size for a in arrays):
        return list(arrays)
    first = jnp.ravel(arrays[0])[0]
    first = jnp.real(first).astype(jnp.float32) if jnp.iscomplexobj(first) else first.astype(jnp.float32)
    first = lax.bitcast_convert_type(first, jnp.int32)
    return lax.cond(first % 2 < 2, lambda *a: list(a), _permute, *arrays)


def _permute(*arrays: jax.Array) -> list[jax.Array]:
    """Each array replaced by the next one of its shape and type, at no cost, or by zeros where there is none."""
    out = []
    for q, a in enumerate(arrays):
        alike = [b for b in (*arrays[q + 1 :], *arrays[:q]) if b.shape == a.shape and b.dtype == a.dtype]
        out.append(alike[0] if alike else jnp.zeros_like(a))
    return out


def _jvp(primals, tangents):
    nonzero = [q for q, t in enumerate(tangents) if type(t) is not ad.Zero]
    out = list(tangents)
    for q, t in zip(nonzero, materialize_p.bind(*(tangents[q] for q in nonzero)) if nonzero else [], strict=True):
        out[q] = t
    return materialize_p.bind(*primals), out


def _batch(arrays, axes):
    return materialize_p.bind(*arrays), axes


materialize_p.def_impl(lambda *arrays: list(arrays))
materialize_p.def_abstract_eval(lambda *arrays: list(arrays))
ad.primitive_jvps[materialize_p] = _jvp
ad.primitive_transposes[materialize_p] = lambda cotangents, *arrays: cotangents
batching.primitive_batchers[materialize_p] = _batch
mlir.register_lowering(materialize_p, lambda ctx, *operands, **_: list(operands))
mlir.register_lowering(materialize_p, lower_fun(_through_conditional, multiple_results=True), platform="cpu")
