"""Neighbours: for every particle, all others closer than some reach.

Which candidates of a particle are its neighbours is one bit each of an unsigned integer for a segment of up to 32 of
them. In a small system everybody is a candidate, and a segment is 32 vectorised loops over the particles without a
gather. In a large one the candidates stand in cells, see `cells.py`. The bits are then read out, lowest first, for
all particles at once: the k-th pass gives every particle's k-th neighbour.

Every step is a loop over contiguous arrays; no pair is stored before it is known to be near, and none is scattered.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv._core.in_batch import max_in_batch
from dmdenv.neighbors import bits
from dmdenv.neighbors.bits import WORD
from dmdenv.neighbors.cells import Sorted, rows_around, sort_by_cell
from dmdenv.neighbors.particles_last import Mapped, over_particles, split, take
from dmdenv.space import Space, squared_distance

PyTree = Any

_BLOCK = 8_192  # particles that are searched for at once: what they need stays in a processor's cache


class Neighbors(NamedTuple):
    """What a search finds."""

    indices: jax.Array  # int32 [capacity, n]; a particle's own index pads its column
    columns: jax.Array  # int32 [], the largest number of neighbours, perhaps beyond the capacity
    row_candidates: jax.Array  # int32 [], the largest number of candidates of a particle in a row of cells
    overflow: jax.Array  # bool [], a capacity was exceeded or the cells do not fit the box: pairs may be missing


def find_neighbors(
    space: Space, positions: jax.Array, reach: jax.Array, into: jax.Array, *, cells: tuple[int, ...], row_capacity: int
) -> Neighbors:
    """All pairs closer than the reach.

    Args:
        space: where the particles are.
        positions: `[n, d]`, d = 2 or 3 with cells, anywhere in a periodic space.
        reach: unit length, `[]`.
        into: int32 `[capacity, n]`, replaced by the indices: so a program need not hold two of them.
        cells: see `dmdenv.neighbors.cells.choose_cells`; without any, everybody is a candidate.
        row_capacity: candidates in a row of cells.
    """
    capacity, n = into.shape
    if not cells:
        found = _read_out(_look_at_everybody(space, space.wrap(positions).T, reach), into, jnp.int32(0))
        return found._replace(overflow=found.columns > capacity)
    sorted_ = sort_by_cell(space, positions, reach, cells)
    candidates = split(take(sorted_.inside, sorted_.particles), 1)  # here: each block would copy its slices
    blocks = math.ceil(n / _BLOCK)
    size = math.ceil(n / blocks)

    def add_block(b, found: Neighbors) -> Neighbors:
        start = jnp.int32(jnp.minimum(b * size, n - size))  # the last block goes over some particles again
        mine = sorted_.block(start, size)
        here = _read_out(_look_in_cells(space, reach, mine, candidates, cells, row_capacity), found.indices, start)
        return Neighbors(
            here.indices,
            jnp.maximum(found.columns, here.columns),
            jnp.maximum(found.row_candidates, here.row_candidates),
            found.overflow,
        )

    nothing = Neighbors(into, jnp.int32(0), jnp.int32(0), sorted_.misfit)
    found = lax.fori_loop(0, blocks, add_block, nothing) if blocks > 1 else add_block(0, nothing)
    overflow = found.overflow | (found.row_candidates > row_capacity) | (found.columns > capacity)
    return found._replace(overflow=overflow)


class _Seen(NamedTuple):
    """The candidates of m particles, in segments, and which of them are near."""

    words: jax.Array  # uint32 [segments, m], bit b: candidate b is near
    occupied: jax.Array  # uint32 [ceil(segments / 32), m], bit s: segment s has a near one
    near: jax.Array  # int32 [m], near ones of a particle
    longest: jax.Array  # int32 [], see `Neighbors.row_candidates`
    who: Callable[[jax.Array, jax.Array], jax.Array]  # the particle at a segment and a bit, each int32 [m]


def _look_at_everybody(space: Space, inside: jax.Array, reach: jax.Array) -> _Seen:
    """Segment s holds the particles from 32 s on; `inside` are positions `[d, n]`."""
    n = inside.shape[1]
    own, mine = lax.iota(jnp.int32, n), split(inside, 1)

    def segment(s):
        first = WORD * s

        def test(bit):
            j = first + bit
            other = jax.tree.map(lambda a: jnp.broadcast_to(lax.dynamic_slice_in_dim(a, j, 1, axis=-1), a.shape), mine)
            (distance,) = over_particles(squared_distance, (n,), space, mine, other)
            return (distance < reach**2) & (own != j)

        return _word(test, jnp.minimum(n - first, WORD), n), None

    words, occupied, near, _ = _look(segment, math.ceil(n / WORD))
    return _Seen(words, occupied, near, jnp.int32(0), lambda s, bit: WORD * s + bit)


def _look_in_cells(
    space: Space,
    reach: jax.Array,
    mine: Sorted,
    candidates: Mapped,
    cells: tuple[int, ...],
    row_capacity: int,
) -> _Seen:
    """Segment s holds a part of a run of candidates, which are 2 n positions in the order of their cells."""
    m, last = mine.inside.shape[1], len(mine.particles) - 1
    inside = split(mine.inside, 1)
    rows = rows_around(space, cells)
    words_a_row = math.ceil(row_capacity / WORD)
    bits_a_word = math.ceil(row_capacity / words_a_row)

    def segment(s):
        before = (s % words_a_row) * bits_a_word
        row = jax.tree.map(lambda a: a[s // words_a_row], rows)
        begin, length = mine.run(row, cells)
        begin, left = begin + before, length - before

        def test(bit):
            place = jnp.minimum(begin + bit, last)
            other = jax.tree.map(lambda a: take(a, place), candidates)
            (distance,) = over_particles(squared_distance, (m,), space, inside, other)
            return (distance < reach**2) & (bit < left) & (place != mine.first) & (place != mine.second)

        longest = jnp.max(left, initial=0)
        word = _word(test, max_in_batch(jnp.minimum(longest, bits_a_word)), m)
        return word, (begin, longest + before)

    words, occupied, near, (begins, longest) = _look(segment, len(rows.width) * words_a_row)
    lane = lax.iota(jnp.int32, m)

    def who(s, bit):
        place = jnp.minimum(take(begins.reshape(-1), s * m + lane) + bit, last)
        return take(mine.particles, place)

    return _Seen(words, occupied, near, jnp.max(longest), who)


def _look(segment: Callable, segments: int) -> tuple[jax.Array, jax.Array, jax.Array, PyTree]:
    """`words`, `occupied` and `near` of `_Seen`, and what else the segments return, stacked.

    Args:
        segment: from the number of a segment, its word `[m]` and anything else.
        segments: how many.
    """

    def visit(near, s):
        word, rest = segment(s)
        return near + lax.population_count(word).astype(jnp.int32), (word, rest)

    m = jax.eval_shape(segment, jnp.int32(0))[0].shape[0]
    near, (words, rest) = lax.scan(visit, jnp.zeros(m, jnp.int32), jnp.arange(segments, dtype=jnp.int32))
    return words, bits.pack(words != 0), near, rest


def _word(test: Callable[[jax.Array], jax.Array], count: jax.Array, m: int) -> jax.Array:
    """A word `[m]` whose first `count` bits are what the test gives for each."""

    def add_bit(bit, word):
        return word | (test(bit).astype(jnp.uint32) << bit.astype(jnp.uint32))

    return lax.fori_loop(0, count, add_bit, jnp.zeros(m, jnp.uint32))


def _read_out(seen: _Seen, into: jax.Array, first: jax.Array) -> Neighbors:
    """The neighbours of m particles, numbered from `first` on, put into the indices of all, `[capacity, n]`."""
    capacity, m = into.shape[0], seen.near.shape[0]
    lane, table = lax.iota(jnp.int32, m), seen.words.reshape(-1)
    columns = jnp.max(seen.near, initial=0)
    used = max_in_batch(jnp.minimum(columns, capacity))
    own = first + lane

    def put(indices, c, column):
        return lax.dynamic_update_slice(indices, column[None, :], (lax.convert_element_type(c, jnp.int32), first))

    def read_column(c, carry):
        indices, left, word, s = carry
        left, next_, found = bits.take_lowest(left, word == 0)
        s: Any = jnp.where(found, next_, s)
        word: Any = jnp.where(found, take(table, s * m + lane), word)
        column = jnp.where(word != 0, seen.who(s, bits.lowest(word)), own)
        return put(indices, c, column), left, word & (word - 1), s

    start = into, seen.occupied, jnp.zeros(m, jnp.uint32), jnp.zeros(m, jnp.int32)
    indices, *_ = lax.fori_loop(0, used, read_column, start)
    indices = lax.fori_loop(used, jnp.int32(capacity), lambda c, indices: put(indices, c, own), indices)
    return Neighbors(indices, columns, seen.longest, jnp.asarray(False))
