"""Spaces in JAX: those of gymnax where it is installed, so that its clients know them, and else the same by name.

Reference: `gymnax.environments.spaces`.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """A space of arrays within bounds."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniformly random member."""
        return jax.random.uniform(key, self.shape, minval=self.low, maxval=self.high).astype(self.dtype)

    def contains(self, x: jax.Array) -> jax.Array:
        """bool []: whether all values are within the bounds."""
        return jnp.all((x >= self.low) & (x <= self.high))


@dataclasses.dataclass(frozen=True, eq=False)
class Dict:
    """A space of objects with a space for each of their attributes."""

    spaces: Mapping[str, Any]

    def sample(self, key: jax.Array) -> dict[str, Any]:
        """A random member, by name."""
        keys = jax.random.split(key, len(self.spaces))
        return {name: space.sample(own) for own, (name, space) in zip(keys, self.spaces.items(), strict=True)}

    def contains(self, x: Any) -> jax.Array:
        """bool []: whether all attributes are within their spaces."""
        return jnp.all(jnp.stack([space.contains(getattr(x, name)) for name, space in self.spaces.items()]))


@functools.cache
def library() -> ModuleType:
    """The module whose spaces are used."""
    try:
        from gymnax.environments import spaces  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        return sys.modules[__name__]
    return spaces


def box(space: gymnasium.spaces.Box) -> Any:
    """A box of Gymnasium as one in JAX."""
    return library().Box(jnp.asarray(space.low), jnp.asarray(space.high), tuple(space.shape), space.dtype)


def space_of(shapes: Any) -> Any:
    """The space of all that has the given shapes and types: a box of an array, a dict of what has attributes.

    Args:
        shapes: a pytree, of arrays or as from `jax.eval_shape`. What holds no numbers, as random keys, is left out.
    """
    if hasattr(shapes, "dtype"):
        lowest, highest = _limits(shapes.dtype)
        return library().Box(lowest, highest, tuple(shapes.shape), shapes.dtype)
    children, _ = jax.tree_util.tree_flatten_with_path(shapes, is_leaf=lambda node: node is not shapes)
    spaces = {jax.tree_util.keystr(path, simple=True): child for path, child in children if _has_numbers(child)}
    return library().Dict({name: space_of(child) for name, child in spaces.items()})


def _has_numbers(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree)
    return any(jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == jnp.bool_ for leaf in leaves)


def _limits(dtype: Any) -> tuple[Any, Any]:
    if dtype == jnp.bool_:
        return False, True
    about = jnp.finfo(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype)
    return about.min, about.max
