"""What a derivative rule of one's own needs: the floats of a tree, which of them matter, and cotangents as a tree."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from dmdenv.neighbors import Pairs

PyTree = Any


class Floats:
    """Floating-point leaves of a tree, without those of neighbours, which have no derivatives.

    Args:
        tree: any pytree.
        wanted: which of these leaves, in their order; by default all.
    """

    def __init__(self, tree: PyTree, wanted: Sequence[bool] | None = None):
        self._leaves, self._structure = jax.tree.flatten(tree, is_leaf=_is_pairs)
        floats = [not _is_pairs(leaf) and is_float(leaf) for leaf in self._leaves]
        among = iter([True] * sum(floats) if wanted is None else wanted)
        self._chosen = [is_one and next(among) for is_one in floats]
        self.values = self.pick(tree)

    def pick(self, tree: PyTree) -> list[Any]:
        """The leaves at these places of a tree alike, such as one of cotangents."""
        leaves = jax.tree.leaves(tree, is_leaf=_is_pairs)
        return [leaf for leaf, chosen in zip(leaves, self._chosen, strict=True) if chosen]

    def merge(self, values: Sequence[jax.Array]) -> PyTree:
        """The tree with others in their place."""
        return self._with(values, self._leaves)

    def cotangents(self, values: Sequence[jax.Array]) -> PyTree:
        """The tree with these cotangents in their place, and None, which stands for 0, for all other leaves."""
        return self._with(values, [None] * len(self._leaves))

    def _with(self, values: Sequence[jax.Array], others: Sequence[Any]) -> PyTree:
        it = iter(values)
        leaves = [next(it) if chosen else other for chosen, other in zip(self._chosen, others, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)


def is_float(leaf: Any) -> bool:
    """Whether a leaf has derivatives."""
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact)


def add(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """The sums of two lists of arrays."""
    return jax.tree.map(jnp.add, a, b)


def _is_pairs(node: Any) -> bool:
    return isinstance(node, Pairs)


# --- rules with symbolic zeros ----------------------------------------------------------------------------------------


def primals(inputs: PyTree) -> PyTree:
    """The values of the inputs of a forward rule."""
    return jax.tree.map(lambda leaf: leaf.value, inputs, is_leaf=_is_primal)


def perturbed(inputs: PyTree) -> PyTree:
    """Whether each input of a forward rule has a derivative that is wanted."""
    return jax.tree.map(lambda leaf: bool(leaf.perturbed), inputs, is_leaf=_is_primal)


def materialized(cotangents: PyTree) -> PyTree:
    """The cotangents of a backward rule, zeros among them as arrays."""

    def array(leaf: Any) -> Any:
        is_zero, dtype = isinstance(leaf, SymbolicZero), getattr(leaf, "dtype", None)
        return jnp.zeros(leaf.shape, dtype) if is_zero and is_float(leaf) else leaf

    return jax.tree.map(array, cotangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))


def once(tree: PyTree) -> PyTree:
    """The same tree, whose floats refuse to be differentiated."""
    return jax.tree.map(lambda leaf: _undifferentiable(leaf) if is_float(leaf) else leaf, tree)


@jax.custom_jvp
def _undifferentiable(a: jax.Array) -> jax.Array:
    return a


@_undifferentiable.defjvp
def _refuse(primals, tangents):
    raise TypeError("reversible_rollout has first derivatives only, in reverse mode; use rollout for others")


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, CustomVJPPrimal)
