"""Frozen dataclasses that are JAX pytrees.

`jax.tree_util.register_dataclass` rebuilds an instance through `__init__`, so a class could not both check what a user
passes and hold the tracers, `None`s and sentinels with which JAX fills a tree. Here the two are separate: construction
by a user runs `__post_init__`, rebuilding by JAX does not.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A field that is part of the tree's structure (hashable, fixed at trace time) instead of a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree with named keys.

    Fields declared by `static()` become part of the tree's structure, all others are children.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    leaf_names = tuple(f.name for f in fields if not f.metadata.get("static"))
    static_names = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(self):
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in leaf_names]
        return children, tuple(getattr(self, name) for name in static_names)

    def flatten(self):
        return [getattr(self, name) for name in leaf_names], tuple(getattr(self, name) for name in static_names)

    def unflatten(aux, children):
        self = object.__new__(cls)
        for name, value in (*zip(leaf_names, children, strict=True), *zip(static_names, aux, strict=True)):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Replaceable:
    """Adds `replace(**changes)` to a frozen dataclass, refusing unknown fields by name."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            ValueError: for a name that is not a field; the message lists the valid ones.
        """
        names = [f.name for f in dataclasses.fields(self)]  # pyright: ignore[reportArgumentType]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no field {unknown[0]!r}; valid fields: {', '.join(names)}")
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]


def split_floats(
    tree: Any, *, except_in: tuple[type, ...] = ()
) -> tuple[list[jax.Array], Callable[[Sequence[jax.Array]], Any]]:
    """The floating-point leaves of a tree, and a function that puts others in their place.

    Args:
        tree: any pytree.
        except_in: nodes of these types keep what they hold.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, except_in))
    chosen = [
        not isinstance(leaf, except_in) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves
    ]

    def merge(floats: Sequence[jax.Array]) -> Any:
        others = iter(floats)
        return jax.tree.unflatten(
            structure, [next(others) if float_ else leaf for leaf, float_ in zip(leaves, chosen, strict=True)]
        )

    return [leaf for leaf, float_ in zip(leaves, chosen, strict=True) if float_], merge
