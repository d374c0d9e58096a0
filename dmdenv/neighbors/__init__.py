"""Neighbours, and sums over them: the one primitive of the core.

A neighbour relation is `AllPairs()` or a `NeighborList`; `neighbor_sum` adds up a kernel of one pair over either.
"""

from dmdenv.neighbors.capacity import ListOverflow, capacities, grow, neighbor_lists, overflowed, with_capacities
from dmdenv.neighbors.lists import NeighborList, allocate, build, update
from dmdenv.neighbors.nearest import nearest
from dmdenv.neighbors.pairs import AllPairs, Pairs
from dmdenv.neighbors.sum import neighbor_sum

__all__ = [
    "AllPairs",
    "ListOverflow",
    "NeighborList",
    "Pairs",
    "allocate",
    "build",
    "capacities",
    "grow",
    "nearest",
    "neighbor_lists",
    "neighbor_sum",
    "overflowed",
    "update",
    "with_capacities",
]
