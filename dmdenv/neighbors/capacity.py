"""Static capacities on the host: more room for the neighbour lists of a state.

A list that overflows lacks pairs from then on, so what it took part in is computed again, from a state before:

    after = run(before)
    while overflowed(after):
        before = grow(before, after)
        after = run(before)  # compiles again: the shapes are others
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.neighbors.lists import NeighborList, build, room
from dmdenv.neighbors.search import Neighbors, find_neighbors

T = TypeVar("T")

SLACK = 1.25  # capacities over what is needed
FACTOR = 1.5  # by which they grow where that is not known


class ListOverflow(RuntimeError):
    """A neighbour list has overflowed and more room does not help."""


def neighbor_lists(state: Any) -> list[NeighborList]:
    """The neighbour lists in a pytree, in its order."""
    return [node for node in jax.tree.leaves(state, is_leaf=_is_list) if _is_list(node)]


def overflowed(state: Any) -> bool:
    """Whether any neighbour list in a pytree has overflowed (in any instance of a batch)."""
    return any(bool(np.any(found.overflow)) for found in neighbor_lists(state))


def grow(state: T, after: T | None = None) -> T:
    """The state with more room in each neighbour list that overflowed after it.

    The room is what the positions at the overflow need, and some more. The lists are rebuilt where they were built
    before: the same pairs, perhaps in another order, so that sums differ in their rounding. Runs on the host, for one
    system or a batch of them.

    Args:
        state: any pytree with neighbour lists in it, from before the overflow.
        after: the state in which lists have overflowed; by default the state itself.

    Raises:
        ListOverflow: when a list that overflowed has room for all pairs: its cutoff exceeds half the box.
    """
    before, later = neighbor_lists(state), neighbor_lists(state if after is None else after)
    lists = iter(
        _enlarged(found, full) if np.any(full.overflow) else found for found, full in zip(before, later, strict=True)
    )
    return jax.tree.map(lambda node: next(lists) if _is_list(node) else node, state, is_leaf=_is_list)


def capacities(state: Any) -> list[dict[str, Any]]:
    """The room of each neighbour list in a state, as JSON knows it."""
    return [
        {"capacity": found.indices.shape[-2], "row_capacity": found.row_capacity, "cells": list(found.cells)}
        for found in neighbor_lists(state)
    ]


def with_capacities(state: T, capacities: Sequence[dict[str, Any]]) -> T:
    """The shapes of a state with the room that `capacities` told of another one: a template, leaves without values."""

    def resized(found: NeighborList, *, capacity: int, row_capacity: int, cells: Iterable[int]) -> NeighborList:
        *batch, _, n = found.indices.shape
        indices = jax.ShapeDtypeStruct((*batch, capacity, n), found.indices.dtype)
        return found.replace(indices=indices, row_capacity=row_capacity, cells=tuple(cells))

    shapes = jax.eval_shape(lambda: state)
    room = iter(capacities)
    return jax.tree.map(lambda node: resized(node, **next(room)) if _is_list(node) else node, shapes, is_leaf=_is_list)


def _is_list(node: Any) -> bool:
    return isinstance(node, NeighborList)


def _enlarged(found: NeighborList, full: NeighborList) -> NeighborList:
    """A list with the pairs of `found` and more room than `full`, which overflowed."""
    n = full.indices.shape[-1]
    before, after = _heights(found), _heights(full)  # infinite without a box
    shrunk = np.minimum(1.0, np.divide(after, before, out=np.ones_like(after), where=np.isfinite(before)))
    cells = tuple(
        max(1, int(count * by / SLACK)) if by < 1 else count for count, by in zip(full.cells, shrunk, strict=False)
    )
    had = full.indices.shape[-2], full.row_capacity
    needed = [
        room(functools.partial(_count, at, cells), n, SLACK, row_capacity=full.row_capacity) for at in (found, full)
    ]
    capacity, row_capacity = (max(rooms) for rooms in zip(had, *needed, strict=True))
    if (capacity, row_capacity, cells) == (*had, full.cells):  # there was more need on the way
        capacity, row_capacity = math.ceil(FACTOR * capacity), math.ceil(FACTOR * row_capacity)
    capacity = max(had[0], min(capacity, n - 1))
    row_capacity = max(had[1], min(row_capacity, n)) if cells else had[1]
    if (capacity, row_capacity, cells) == (*had, full.cells):
        cutoff = np.max(full.cutoff)
        raise ListOverflow(
            f"a neighbour list with room for all pairs overflowed: its cutoff, {cutoff:g}, exceeds half the box"
        )
    return _rebuilt(found, capacity, row_capacity, cells)


def _heights(found: NeighborList) -> np.ndarray:
    """Distances between the faces of the box at the last build, `[d]`, the smallest of a batch."""
    dimension = found.positions.shape[-1]
    heights = _of_one(lambda found: found.space.heights(dimension), found)(found)
    return np.asarray(heights, float).reshape(-1, dimension).min(0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _count(at: NeighborList, cells: tuple[int, ...], row_capacity: int) -> Neighbors:
    """What a search in these cells finds where `at` was built last."""

    def search(at: NeighborList) -> Neighbors:
        reach = at.cutoff + at.skin
        return find_neighbors(at.space, at.positions, reach, at.indices[:1], cells=cells, row_capacity=row_capacity)

    return _of_one(search, at)(at)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _rebuilt(found: NeighborList, capacity: int, row_capacity: int, cells: tuple[int, ...]) -> NeighborList:
    """A list with this room, built where `found` was built last."""

    def enlarged(found: NeighborList) -> NeighborList:
        indices = jnp.zeros((capacity, found.positions.shape[0]), jnp.int32)
        template = found.replace(indices=indices, row_capacity=row_capacity, cells=cells)
        return build(template, found.space, found.positions)

    return _of_one(enlarged, found)(found)


def _of_one(function: Callable[[NeighborList], Any], found: NeighborList) -> Callable[[NeighborList], Any]:
    """A function of one system's list as one of a list with as many batch axes as `found` has."""
    for _ in range(found.indices.ndim - 2):
        function = jax.vmap(function)
    return function
