"""Static capacities, on the host: larger ones for the neighbour lists of a state.

A list that has overflowed may lack pairs, so whatever used it is computed again, from a state before:

    after = run(before)
    while overflowed(after):
        before = grow(before, after)
        after = run(before)  # compiles again: shapes have changed
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.neighbors.lists import NeighborList, build, choose_capacities
from dmdenv.neighbors.pairs import Pairs, exceeds
from dmdenv.neighbors.search import Neighbors, find_neighbors

T = TypeVar("T")

SLACK = 1.25  # capacities, relative to what is needed
FACTOR = 1.5  # by which they grow where that is not known


class ListOverflow(RuntimeError):
    """A neighbour list has overflowed and larger capacities do not help."""


def neighbor_lists(state: Any) -> list[NeighborList]:
    """The neighbour lists in a pytree, in its order."""
    return [node for node in jax.tree.leaves(state, is_leaf=_is_list) if _is_list(node)]


def overflowed(state: Any) -> bool:
    """Whether any pairs in a pytree are incomplete (in any instance of a batch): lists, or all pairs in a small box."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Pairs))
    return any(bool(np.any(node.incomplete)) for node in nodes if isinstance(node, Pairs))


def grow(state: T, after: T | None = None) -> T:
    """The state, with larger capacities of each neighbour list that has overflowed.

    They are what the positions at the overflow need, and some more. The lists are rebuilt at the positions where they
    were built before: the same pairs, perhaps in another order, so that sums round differently. Runs on the host, for
    one system or a batch of them.

    Args:
        state: any pytree with neighbour lists in it, from before the overflow.
        after: the state in which lists have overflowed; by default the state itself.

    Raises:
        ListOverflow: when a list that has overflowed has capacity for all pairs: its cutoff exceeds half the box; when
            positions are not finite; when it is all pairs whose cutoff exceeds half the box.
    """
    before, later = neighbor_lists(state), neighbor_lists(state if after is None else after)
    if overflowed(state if after is None else after) and not any(np.any(found.overflow) for found in later):
        raise ListOverflow(
            "the box has become narrower than twice the cutoff, where pairs have more than one image: take a larger box"
            " (replicate the configuration) or a shorter cutoff"
        )
    lists = iter(
        _enlarge(found, full) if np.any(full.overflow) else found for found, full in zip(before, later, strict=True)
    )
    return jax.tree.map(lambda node: next(lists) if _is_list(node) else node, state, is_leaf=_is_list)


def capacities(state: Any) -> list[dict[str, Any]]:
    """The capacities of each neighbour list in a state, for JSON."""
    return [
        {"capacity": found.indices.shape[-2], "row_capacity": found.row_capacity, "cells": list(found.cells)}
        for found in neighbor_lists(state)
    ]


def with_capacities(state: T, capacities: Sequence[dict[str, Any]]) -> T:
    """A template, leaves without values, of a state with the capacities that `capacities` gave of another one."""

    def resize(found: NeighborList, *, capacity: int, row_capacity: int, cells: Iterable[int]) -> NeighborList:
        *batch, _, n = found.indices.shape
        indices = jax.ShapeDtypeStruct((*batch, capacity, n), found.indices.dtype)
        return found.replace(indices=indices, row_capacity=row_capacity, cells=tuple(cells))

    shapes = jax.eval_shape(lambda: state)
    sizes = iter(capacities)
    return jax.tree.map(lambda node: resize(node, **next(sizes)) if _is_list(node) else node, shapes, is_leaf=_is_list)


def _is_list(node: Any) -> bool:
    return isinstance(node, NeighborList)


def _enlarge(found: NeighborList, full: NeighborList) -> NeighborList:
    """A list with the pairs of `found` and larger capacities than `full`, which has overflowed."""
    n = full.indices.shape[-1]
    if not np.all(np.isfinite(full.positions)):
        raise ListOverflow("a neighbour list was built at positions that are not finite")
    largest = _vmap_over(lambda full: full.space.largest_cutoff(full.positions.shape[-1]), full)(full)
    if np.any(exceeds(full.cutoff, largest)):
        raise ListOverflow(f"the cutoff of a neighbour list, {np.max(full.cutoff):g}, exceeds half the box")
    before, after = _heights(found), _heights(full)  # infinite without a box
    shrunk = np.minimum(1.0, np.divide(after, before, out=np.ones_like(after), where=np.isfinite(before)))
    cells = tuple(
        max(1, int(count * by / SLACK)) if by < 1 else count for count, by in zip(full.cells, shrunk, strict=False)
    )
    had = full.indices.shape[-2], full.row_capacity
    needed = [
        choose_capacities(functools.partial(_search, at, cells), n, SLACK, row_capacity=full.row_capacity)
        for at in (found, full)
    ]
    capacity, row_capacity = map(max, zip(had, *needed, strict=True))
    if (capacity, row_capacity, cells) == (*had, full.cells):  # more was needed on the way
        capacity, row_capacity = math.ceil(FACTOR * capacity), math.ceil(FACTOR * row_capacity)
    capacity = max(had[0], min(capacity, n - 1))
    row_capacity = max(had[1], min(row_capacity, n)) if cells else had[1]
    if (capacity, row_capacity, cells) == (*had, full.cells):
        cutoff = np.max(full.cutoff)
        raise ListOverflow(
            f"a neighbour list with capacity for all pairs overflowed: its cutoff, {cutoff:g}, exceeds half the box"
        )
    return _rebuild(found, capacity, row_capacity, cells)


def _heights(found: NeighborList) -> np.ndarray:
    """Distances between the faces of the box at the last build, `[d]`, the smallest of a batch."""
    dimension = found.positions.shape[-1]
    heights = _vmap_over(lambda found: found.space.heights(dimension), found)(found)
    return np.asarray(heights, float).reshape(-1, dimension).min(0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _search(at: NeighborList, cells: tuple[int, ...], row_capacity: int) -> Neighbors:
    """A search with these cells at the positions where `at` was built last."""

    def search(at: NeighborList) -> Neighbors:
        column = at.indices[:1]
        return find_neighbors(at.space, at.positions, at.list_cutoff, column, cells=cells, row_capacity=row_capacity)

    return _vmap_over(search, at)(at)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _rebuild(found: NeighborList, capacity: int, row_capacity: int, cells: tuple[int, ...]) -> NeighborList:
    """A list with these capacities, built at the positions where `found` was built last."""

    def enlarge(found: NeighborList) -> NeighborList:
        indices = jnp.zeros((capacity, found.positions.shape[0]), jnp.int32)
        template = found.replace(indices=indices, row_capacity=row_capacity, cells=cells)
        return build(template, found.space, found.positions)

    return _vmap_over(enlarge, found)(found)


def _vmap_over(function: Callable[[NeighborList], Any], found: NeighborList) -> Callable[[NeighborList], Any]:
    """A function of one system's list as one of a list with as many batch axes as `found` has."""
    for _ in range(found.indices.ndim - 2):
        function = jax.vmap(function)
    return function
