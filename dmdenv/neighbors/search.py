"""The search for neighbours: for every particle, all others within a cutoff.

Which candidates of a particle are its neighbours is one bit each of an unsigned integer, for a segment of up to 32 of
them. In a small system all particles are candidates, and a segment is 32 vectorised loops over the particles without a
gather. In a large one candidates come from a cell list, see `cells.py`. The bits are then read out, lowest first, for
all particles at once: the k-th pass gives every particle's k-th neighbour.

Every step is a loop over contiguous arrays; no pair is stored before it is known to be near, and none is scattered.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv._core.control_flow import fori_loop, scan
from dmdenv._core.in_batch import max_in_batch
from dmdenv.neighbors import bits
from dmdenv.neighbors.bits import WORD
from dmdenv.neighbors.cells import CellList, build_cell_list, stencil
from dmdenv.neighbors.particles_last import Mapped, over_particles, split, take
from dmdenv.space import Space, squared_distance

PyTree = Any

_BLOCK = 8_192  # particles that are searched for at once: what they need stays in a processor's cache


class Neighbors(NamedTuple):
    """The result of a search."""

    indices: jax.Array  # int32 [capacity, n]; a particle's own index pads its column
    columns: jax.Array  # int32 [], the largest number of neighbours, perhaps beyond the capacity
    row_candidates: jax.Array  # int32 [], the largest number of candidates of a particle in a row of cells
    overflow: jax.Array  # bool [], a capacity is exceeded or the cells are too narrow: pairs may be missing


def find_neighbors(
    space: Space,
    positions: jax.Array,
    list_cutoff: jax.Array,
    into: jax.Array,
    *,
    cells: tuple[int, ...],
    row_capacity: int,
) -> Neighbors:
    """All pairs within the cutoff.

    Args:
        space: where the particles are.
        positions: `[n, d]`, d = 2 or 3 with cells, anywhere in a periodic space.
        list_cutoff: unit length, `[]`.
        into: int32 `[capacity, n]`, replaced by the indices, so that a program need not hold two of them.
        cells: see `dmdenv.neighbors.cells.choose_cells`; without any, all particles are candidates.
        row_capacity: candidates of a particle in a row of cells.
    """
    capacity, n = into.shape
    if not cells:
        tested = _test_all(space, space.wrap(positions).T, list_cutoff)
        found = _read_out(tested, into, jnp.int32(0))
        return found._replace(overflow=found.columns > capacity)
    cell_list = build_cell_list(space, positions, list_cutoff, cells)
    candidates = split(take(cell_list.images, cell_list.order), 1)  # here: each block would copy its slices
    blocks = math.ceil(n / _BLOCK)
    size = math.ceil(n / blocks)

    def add_block(b, found: Neighbors) -> Neighbors:
        start = jnp.int32(jnp.minimum(b * size, n - size))  # the last block repeats some particles
        block = cell_list.block(start, size)
        tested = _test_cells(space, list_cutoff, block, candidates, cells, row_capacity)
        here = _read_out(tested, found.indices, start)
        return Neighbors(
            here.indices,
            jnp.maximum(found.columns, here.columns),
            jnp.maximum(found.row_candidates, here.row_candidates),
            found.overflow,
        )

    nothing = Neighbors(into, jnp.int32(0), jnp.int32(0), cell_list.too_narrow)
    found = fori_loop(0, blocks, add_block, nothing) if blocks > 1 else add_block(0, nothing)
    overflow = found.overflow | (found.row_candidates > row_capacity) | (found.columns > capacity)
    return found._replace(overflow=overflow)


class _Tested(NamedTuple):
    """The candidates of m particles, in segments, with a bit for each that is a neighbour."""

    words: jax.Array  # uint32 [segments, m], bit b: candidate b is a neighbour
    nonzero: jax.Array  # uint32 [ceil(segments / 32), m], bit s: segment s has one
    counts: jax.Array  # int32 [m], neighbours of a particle
    row_candidates: jax.Array  # int32 [], see `Neighbors.row_candidates`
    candidate: Callable[[jax.Array, jax.Array], jax.Array]  # the particle of a segment and a bit, each int32 [m]


def _test_all(space: Space, images: jax.Array, list_cutoff: jax.Array) -> _Tested:
    """All particles as candidates: segment s holds those from 32 s on; `images` are positions `[d, n]`."""
    n = images.shape[1]
    own, here = lax.iota(jnp.int32, n), split(images, 1)

    def segment(s):
        first = WORD * s

        def test(bit):
            j = first + bit
            there = jax.tree.map(lambda a: jnp.broadcast_to(lax.dynamic_slice_in_dim(a, j, 1, axis=-1), a.shape), here)
            (squared,) = over_particles(squared_distance, (n,), space, here, there)
            return (squared < list_cutoff**2) & (own != j)

        return _test_word(test, jnp.minimum(n - first, WORD), n), None

    words, nonzero, counts, _ = _test_segments(segment, math.ceil(n / WORD))
    return _Tested(words, nonzero, counts, jnp.int32(0), lambda s, bit: WORD * s + bit)


def _test_cells(
    space: Space,
    list_cutoff: jax.Array,
    block: CellList,
    candidates: Mapped,
    cells: tuple[int, ...],
    row_capacity: int,
) -> _Tested:
    """Candidates from the stencil, in order `[2 n]`: a segment is a part of a run of them."""
    m, last = block.images.shape[1], len(block.order) - 1
    here = split(block.images, 1)
    rows = stencil(space, cells)
    words_per_row = math.ceil(row_capacity / WORD)
    bits_per_word = math.ceil(row_capacity / words_per_row)

    def segment(s):
        before = (s % words_per_row) * bits_per_word
        row = jax.tree.map(lambda a: a[s // words_per_row], rows)
        begin, length = block.candidates(row, cells)
        begin, left = begin + before, length - before

        def test(bit):
            place = jnp.minimum(begin + bit, last)
            there = jax.tree.map(lambda a: take(a, place), candidates)
            (squared,) = over_particles(squared_distance, (m,), space, here, there)
            return (squared < list_cutoff**2) & (bit < left) & (place != block.first) & (place != block.second)

        longest = jnp.max(left, initial=0)
        word = _test_word(test, max_in_batch(jnp.minimum(longest, bits_per_word)), m)
        return word, (begin, longest + before)

    words, nonzero, counts, (begins, longest) = _test_segments(segment, len(rows.width) * words_per_row)
    lane = lax.iota(jnp.int32, m)

    def candidate(s, bit):
        place = jnp.minimum(take(begins.reshape(-1), s * m + lane) + bit, last)
        return take(block.order, place)

    return _Tested(words, nonzero, counts, jnp.max(longest), candidate)


def _test_segments(segment: Callable, segments: int) -> tuple[jax.Array, jax.Array, jax.Array, PyTree]:
    """`words`, `nonzero` and `counts` of `_Tested`, and what else the segments return, stacked.

    Args:
        segment: from the number of a segment, its word `[m]` and anything else.
        segments: how many.
    """

    def visit(counts, s):
        word, rest = segment(s)
        return counts + lax.population_count(word).astype(jnp.int32), (word, rest)

    m = jax.eval_shape(segment, jnp.int32(0))[0].shape[0]
    counts, (words, rest) = scan(visit, jnp.zeros(m, jnp.int32), jnp.arange(segments, dtype=jnp.int32))
    return words, bits.pack(words != 0), counts, rest


def _test_word(test: Callable[[jax.Array], jax.Array], count: jax.Array, m: int) -> jax.Array:
    """A word `[m]` whose first `count` bits are the results of a test of each."""

    def add_bit(bit, word):
        return word | (test(bit).astype(jnp.uint32) << bit.astype(jnp.uint32))

    return fori_loop(0, count, add_bit, jnp.zeros(m, jnp.uint32))


def _read_out(tested: _Tested, into: jax.Array, first: jax.Array) -> Neighbors:
    """The neighbours of m particles, numbered from `first` on, put into the indices of all, `[capacity, n]`."""
    capacity, m = into.shape[0], tested.counts.shape[0]
    lane, table = lax.iota(jnp.int32, m), tested.words.reshape(-1)
    columns = jnp.max(tested.counts, initial=0)
    used = max_in_batch(jnp.minimum(columns, capacity))
    own = first + lane

    def put(indices, c, column):
        c = lax.convert_element_type(c, jnp.int32)  # eager loops count in int64 where that is the default
        return lax.dynamic_update_slice(indices, column[None, :], (c, first))

    def read_column(c, carry):
        indices, left, word, s = carry
        left, next_, found = bits.take_lowest(left, word == 0)
        s: Any = jnp.where(found, next_, s)
        word: Any = jnp.where(found, take(table, s * m + lane), word)
        column = jnp.where(word != 0, tested.candidate(s, bits.lowest(word)), own)
        return put(indices, c, column), left, word & (word - 1), s

    start = into, tested.nonzero, jnp.zeros(m, jnp.uint32), jnp.zeros(m, jnp.int32)
    indices, *_ = fori_loop(0, used, read_column, start)
    indices = fori_loop(used, jnp.int32(capacity), lambda c, indices: put(indices, c, own), indices)
    return Neighbors(indices, columns, tested.row_candidates, jnp.asarray(False))
