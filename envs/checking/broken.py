"""How a check fails, and comparisons that say where two trees differ."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Env


class ContractError(AssertionError):
    """An environment breaks the contract; the message says where and how."""


def fail(env: Env, problem: str) -> NoReturn:
    """Raise ContractError."""
    raise ContractError(f"{type(env).__name__}: {problem}")


def require(env: Env, holds: Any, problem: str) -> None:
    """Raise ContractError unless `holds`."""
    if not holds:
        fail(env, problem)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths, such as `.positions`."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def type_difference(expected: Any, found: Any) -> str | None:
    """Where two trees differ in structure, shape or type; None where they agree."""
    if jax.tree.structure(expected) != jax.tree.structure(found):
        names, others = {name for name, _ in named_leaves(expected)}, {name for name, _ in named_leaves(found)}
        odd = sorted(names ^ others)
        return f"{odd[0]} is {'missing' if odd[0] in names else 'new'}" if odd else "the structure differs"
    for (name, a), (_, b) in zip(named_leaves(expected), named_leaves(found), strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{name} is {b.dtype}{list(b.shape)}, and was {a.dtype}{list(a.shape)}"
    return None


def is_float(leaf: Any) -> bool:
    """Whether a leaf holds floating-point numbers."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def as_numbers(leaf: Any) -> np.ndarray:
    """A leaf as NumPy numbers, random keys as their data."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def value_difference(expected: Any, found: Any, tolerances: Any | None = None) -> str | None:
    """The first leaf in which two trees differ by more than rounding; None where they agree.

    Args:
        expected: a tree of arrays.
        found: one of the same structure.
        tolerances: how much each leaf may differ at most besides, floats.
    """
    for i, ((name, a), (_, b)) in enumerate(zip(named_leaves(expected), named_leaves(found), strict=True)):
        x, y = as_numbers(a), as_numbers(b)
        allowed = 0.0
        if np.issubdtype(x.dtype, np.floating):
            # half of the digits, relative to the largest number of the leaf
            allowed = float(np.finfo(x.dtype).eps) ** 0.5 * max(1.0, float(np.max(np.abs(x), initial=0.0)))
            allowed += 0.0 if tolerances is None else tolerances[i]
            gap = float(np.max(np.abs(x - y), initial=0.0))
        else:
            gap = float(np.any(x != y))
        if not gap <= allowed:
            return f"{name or 'the value'} differs by {gap:.3g}" if allowed else f"{name or 'the value'} differs"
    return None
