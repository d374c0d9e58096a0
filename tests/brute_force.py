"""What a neighbour list should hold, by distances of all pairs in float64; lists and positions that tests share."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.neighbors import NeighborList, allocate, update
from dmdenv.space import Periodic, Triclinic

ROUNDING = 1e-5  # of distances in float32, relative to the reach


def distances(space, positions) -> np.ndarray:
    """In float64, of float32 positions."""
    difference = np.asarray(positions, float)[:, None] - np.asarray(positions, float)[None]
    if isinstance(space, Periodic):
        box = np.asarray(space.box, float)
        difference -= box * np.round(difference / box)
    if isinstance(space, Triclinic):
        return distances_to_nearest_images(np.asarray(space.cell, float), difference)
    return np.linalg.norm(difference, axis=-1)


def distances_to_nearest_images(cell: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Brute force over all images that may be the nearest one: `[n, n, d]` to `[n, n]`."""
    inside = difference - np.floor(difference @ np.linalg.inv(cell)) @ cell
    turns = np.ones(len(cell))
    for k in reversed(range(len(cell) - 1)):
        turns[k] += np.ceil(np.abs(cell[k + 1 :, k]) @ turns[k + 1 :] / cell[k, k])
    squares = np.full(inside.shape[:-1], np.inf)
    for turn in itertools.product(*[range(-int(k), int(k) + 1) for k in turns]):
        squares = np.minimum(squares, np.sum((inside + np.array(turn) @ cell) ** 2, axis=-1))
    return np.sqrt(squares)


def held_pairs(neighbors: NeighborList) -> np.ndarray:
    """The list as a matrix, once it has been seen to be well formed."""
    indices, (capacity, n) = np.asarray(neighbors.indices), neighbors.indices.shape
    assert indices.dtype == np.int32
    assert np.all((indices >= 0) & (indices < n))
    counts = np.zeros((n, n), int)
    np.add.at(counts, (np.broadcast_to(np.arange(n), (capacity, n)), indices), 1)
    np.fill_diagonal(counts, 0)  # padding
    assert counts.max(initial=0) <= 1, "a pair is held twice"
    held = counts == 1
    assert int(neighbors.columns) >= held.sum(1).max(initial=0)
    in_use = neighbors.arrays[1]
    assert np.all(indices[int(in_use) :] == np.arange(n)), "neighbours beyond the columns in use"
    np.testing.assert_array_equal(held, held.T)
    return held


def assert_holds_all_within_reach(neighbors: NeighborList, space, positions):
    """Exactly the pairs within cutoff + skin, but for those at its very rim."""
    reach = float(neighbors.cutoff) + float(neighbors.skin)
    held, d = held_pairs(neighbors), distances(space, positions)
    other = ~np.eye(len(d), dtype=bool)
    missing = other & (d <= reach * (1 - ROUNDING)) & ~held
    assert not missing.any(), f"missing at {d[missing] / reach} of the reach"
    assert not (held & (d >= reach * (1 + ROUNDING))).any()
    assert int(neighbors.columns) == held.sum(1).max()


def misses_a_pair(neighbors: NeighborList, space, positions) -> bool:
    """Of those within the cutoff."""
    d = distances(space, positions)
    near = ~np.eye(len(d), dtype=bool) & (d <= float(neighbors.cutoff) * (1 - ROUNDING))
    return bool((near & ~held_pairs(neighbors)).any())


@functools.cache
def gas_with_little_room():
    """Positions in a box, and a list that has room for them and no more."""
    x = (np.random.default_rng(3).random((60, 3)) * 8).astype(np.float32)
    return x, Periodic(8.0), allocate(Periodic(8.0), x, cutoff=1.2, skin=0.2, slack=1.0)


@jax.jit
def rebuilt(neighbors, space, x):
    return update(neighbors.replace(positions=jnp.full_like(x, jnp.inf)), space, x)


@functools.cache
def room_to_move():
    """Positions in a box, and a list with a wide skin that has room for three times as many neighbours."""
    x = (np.random.default_rng(8).random((60, 3)) * 7).astype(np.float32)
    return x, Periodic(7.0), allocate(Periodic(7.0), x, cutoff=1.2, skin=0.4, slack=3.0)


def is_rebuilt(neighbors: NeighborList, x) -> bool:
    """The positions of the last build are these ones."""
    return bool(jnp.all(neighbors.positions == x))
