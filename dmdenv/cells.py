"""Neighbours through cells: all pairs closer than some reach, without looking at all pairs.

For n particles, in cells an eighth of the reach wide along x and half of it across, or somewhat wider:

1. Particles are sorted by cell, x fastest, so that neighbouring cells of a row along x are one contiguous run. The
   sorted particles of a row stand there twice, one copy after the other, so that a run may pass the periodic boundary.
2. The candidates of a particle are one run in each of the 5 (2-D) or 25 (3-D) rows around its own. A run is read in
   segments of up to 32 candidates; which of them are neighbours is one bit each of an unsigned integer.
3. The bits are read out, lowest first, for all particles at once: the k-th pass gives every particle's k-th neighbour.

Every step is a loop over contiguous arrays; no pair is scattered. Free space uses the same cells, repeated
periodically: far images share a cell and the distance tells them apart.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 5.3.1 and 5.3.2.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.in_batch import max_in_batch
from dmdenv.particles_last import over_particles
from dmdenv.space import Free, Space, Triclinic

WORD = 32  # candidates in a segment: bits of an unsigned integer
_BLOCK = 65_536  # particles that are searched for at once: what they need stays in a processor's cache
_ALONG, _ACROSS = 8, 2  # cells to each side that hold all neighbours: along x, and along the other axes


class Neighbors(NamedTuple):
    """What a search finds."""

    indices: jax.Array  # int32 [capacity, n]; a particle's own index pads its column
    columns: jax.Array  # int32 [], the largest number of neighbours, perhaps beyond the capacity
    longest_run: jax.Array  # int32 [], the largest number of candidates of a particle in a row
    overflow: jax.Array  # bool [], a capacity was exceeded or the cells do not fit the box: pairs may be missing


def choose_cells(space: Space, positions: jax.Array, reach: float) -> tuple[int, ...]:
    """Cells along each axis, on the host: as narrow as the reach allows (and rounding), but few beside n."""
    n, dimension = positions.shape
    free = isinstance(space, Free)
    extent = np.ptp(np.asarray(positions, float), axis=0) if free else np.asarray(space.heights(dimension), float)
    rounding = float(jnp.finfo(positions.dtype).eps)
    most = int((2 * n) ** (1 / dimension))
    cells = []
    for length, sides in zip(extent, _sides(dimension), strict=True):
        count = length // (reach / sides * (1 + 1e-4) + 4 * rounding * length)
        covering = 2 * sides + 1
        limit = max(covering, most * sides // _ACROSS)
        cells.append(int(min(max(covering, count + 1) if free else max(1, count), limit)))
    return tuple(cells)


def longest_run(space: Space, positions: jax.Array, reach: jax.Array, cells: tuple[int, ...]) -> jax.Array:
    """The largest number of candidates of a particle in a row, int32 []."""
    sorted_ = _sort(space, positions, reach, cells)

    def of_row(row: jax.Array) -> jax.Array:
        return jnp.max(_run(sorted_.places, sorted_.coordinates, row, cells)[1], initial=0)

    return jnp.max(lax.map(of_row, _rows(space, cells)))


def find_neighbors(
    space: Space, positions: jax.Array, reach: jax.Array, *, cells: tuple[int, ...], run_capacity: int, capacity: int
) -> Neighbors:
    """All pairs closer than the reach.

    Args:
        space: where the particles are.
        positions: `[n, d]`, d = 2 or 3, anywhere in a periodic space.
        reach: unit length, `[]`.
        cells: see `choose_cells`.
        run_capacity: candidates in a row, see `longest_run`.
        capacity: neighbours of a particle.
    """
    n = positions.shape[0]
    sorted_ = _sort(space, positions, reach, cells)
    candidates = _look_up(sorted_.inside, sorted_.particles)
    size = min(n, _BLOCK)

    def add_block(b, found: Neighbors) -> Neighbors:
        start = jnp.minimum(b * size, n - size)  # the last block goes over some particles again
        mine = _Block.of(sorted_, start, size)
        here = _search(space, reach, sorted_, candidates, mine, cells, run_capacity, capacity)
        return Neighbors(
            lax.dynamic_update_slice(found.indices, here.indices, (0, start)),
            jnp.maximum(found.columns, here.columns),
            jnp.maximum(found.longest_run, here.longest_run),
            found.overflow,
        )

    nothing = Neighbors(jnp.zeros((capacity, n), jnp.int32), jnp.int32(0), jnp.int32(0), sorted_.misfit)
    found = lax.fori_loop(0, math.ceil(n / size), add_block, nothing) if n > size else add_block(0, nothing)
    overflow = found.overflow | (found.longest_run > run_capacity) | (found.columns > capacity)
    return found._replace(overflow=overflow)


class _Block(NamedTuple):
    """Some particles in the order of the input."""

    numbers: jax.Array  # int32 [m]
    inside: jax.Array  # [d, m], positions in one image
    coordinates: jax.Array  # int32 [d, m], of the particles' cells
    first: jax.Array  # int32 [m], the place of each particle,
    second: jax.Array  # int32 [m], and its place in the copy

    @classmethod
    def of(cls, sorted_: "_Sorted", start: jax.Array, size: int) -> "_Block":
        """The particles from number `start` on."""
        of_all = sorted_.inside, sorted_.coordinates, sorted_.first, sorted_.second
        own = [lax.dynamic_slice_in_dim(a, start, size, axis=-1) for a in of_all]
        return cls(start + lax.iota(jnp.int32, size), *own)


def _search(
    space: Space,
    reach: jax.Array,
    sorted_: "_Sorted",
    candidates: jax.Array,
    mine: _Block,
    cells: tuple[int, ...],
    run_capacity: int,
    capacity: int,
) -> Neighbors:
    """The neighbours of a block of particles, which is small enough for the processor's cache."""
    m, last = mine.numbers.shape[0], candidates.shape[-1] - 1
    lane = lax.iota(jnp.int32, m)
    within = reach**2
    rows = _rows(space, cells)
    words_a_row = math.ceil(run_capacity / WORD)
    bits = math.ceil(run_capacity / words_a_row)
    segments = len(rows) * words_a_row

    def segment(s):
        """Which of the candidates of segment s are neighbours, and where in the sorted order the first one stands."""
        first = (s % words_a_row) * bits
        begin, long = _run(sorted_.places, mine.coordinates, rows[s // words_a_row], cells)
        begin, long = begin + first, long - first

        def add_bit(bit, word):
            place = jnp.minimum(begin + bit, last)
            (distance,) = over_particles(_squared_distance, (m,), space, mine.inside, _look_up(candidates, place))
            near = (distance < within) & (bit < long) & (place != mine.first) & (place != mine.second)
            return word | (near.astype(jnp.uint32) << bit.astype(jnp.uint32))

        longest = jnp.max(long, initial=0)
        word = lax.fori_loop(0, max_in_batch(jnp.minimum(longest, bits)), add_bit, jnp.zeros(m, jnp.uint32))
        return word, begin, longest + first

    words, begins, longest = lax.map(segment, jnp.arange(segments, dtype=jnp.int32))
    columns = jnp.max(jnp.sum(lax.population_count(words), axis=0, dtype=jnp.uint32), initial=0).astype(jnp.int32)

    def at(table: jax.Array, s: jax.Array) -> jax.Array:
        return _look_up(table.reshape(-1), s * m + lane)

    def read_column(c: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]):
        left, word, begin, indices = carry
        left, s, found = _take_lowest_bit(left, word == 0)
        word, begin = jnp.where(found, at(words, s), word), jnp.where(found, at(begins, s), begin)
        place = jnp.minimum(begin + _lowest_bit(word), last)
        column = jnp.where(word != 0, _look_up(sorted_.particles, place), mine.numbers)
        return left, word & (word - 1), begin, lax.dynamic_update_index_in_dim(indices, column, c, 0)

    nothing, nowhere = jnp.zeros(m, jnp.uint32), jnp.zeros(m, jnp.int32)
    indices = jnp.broadcast_to(mine.numbers[None, :], (capacity, m))
    used = max_in_batch(jnp.minimum(columns, capacity))
    *_, indices = lax.fori_loop(0, used, read_column, (_nonzero(words), nothing, nowhere, indices))
    return Neighbors(indices, columns, jnp.max(longest, initial=0), jnp.asarray(False))


# --- sorting ----------------------------------------------------------------------------------------------------------


class _Sorted(NamedTuple):
    """Particles in the order of their cells, those of each row along x twice."""

    inside: jax.Array  # [d, n], positions in one image
    coordinates: jax.Array  # int32 [d, n], of the particles' cells
    misfit: jax.Array  # bool [], cells are too narrow for the reach
    particles: jax.Array  # int32 [2 n], who stands at each place of the order
    first: jax.Array  # int32 [n], the place of each particle,
    second: jax.Array  # int32 [n], and its place in the copy
    places: jax.Array  # int32 [rows, 2 cells + 1], where each cell of a row and of its copy begins, and where they end


def _sort(space: Space, positions: jax.Array, reach: jax.Array, cells: tuple[int, ...]) -> _Sorted:
    n, across = positions.shape[0], cells[0]
    inside, coordinates, misfit = _place(space, positions, reach, cells)
    identity = coordinates[0] + across * _row_beside(coordinates, np.zeros(len(cells) - 1, np.int32), cells)
    order, identities = _sort_by(identity, math.prod(cells))

    starts = jnp.searchsorted(identities, jnp.arange(math.prod(cells))).astype(jnp.int32).reshape(-1, across)
    row_start = starts[:, 0]
    row_end = jnp.concatenate([row_start[1:], jnp.full(1, n, jnp.int32)])
    length = row_end - row_start

    # the copies of row r take the places from 2 row_start[r] to 2 row_end[r]
    places = jnp.concatenate([starts, starts + length[:, None], (row_end + length)[:, None]], axis=1)
    places = places + row_start[:, None]

    place = lax.iota(jnp.int32, 2 * n)
    row = _look_up(identities, place // 2) // across
    into = place - 2 * _look_up(row_start, row)
    length_here = _look_up(length, row)
    into = jnp.where(into < length_here, into, into - length_here)
    particles = _look_up(order, _look_up(row_start, row) + into)

    rank = jnp.zeros(n, jnp.int32).at[order].set(lax.iota(jnp.int32, n), unique_indices=True)
    own_row = identity // across
    first = _look_up(row_start, own_row) + rank
    second = first + _look_up(length, own_row)
    return _Sorted(inside, coordinates, misfit, particles, first, second, places)


def _place(
    space: Space, positions: jax.Array, reach: jax.Array, cells: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions in one image `[d, n]`, cell coordinates int32 `[d, n]`, and whether the cells are too narrow, `[]`."""
    counts, sides = jnp.asarray(cells), jnp.asarray(_sides(len(cells)))
    # rounding moves a coordinate by up to eps times its range; two of them must not add a cell to a pair's distance
    eps = float(jnp.finfo(positions.dtype).eps)
    if isinstance(space, Free):
        inside = positions  # as they are: a shift of the origin would round the distances
        width = reach / sides * (1 + 1e-4) + 2 * eps * jnp.max(jnp.abs(positions))
        coordinates = jnp.floor(positions / width[None, :]).astype(jnp.int32) % counts[None, :]
        misfit = jnp.asarray(False)
    else:
        inside = space.wrap(positions)
        coordinates = jnp.floor(space.fractional(inside) * counts[None, :]).astype(jnp.int32)
        coordinates = jnp.clip(coordinates, 0, counts[None, :] - 1)
        narrow = (sides / counts - 4 * eps) * space.heights(len(cells)) < reach
        misfit = jnp.any((counts > 2 * sides + 1) & narrow)
    return inside.T, coordinates.T, misfit


def _sort_by(identity: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The order of particles by an integer below `count`, int32 `[n]`, and the integers in that order."""
    n = identity.shape[0]
    particle = lax.iota(jnp.int32, n)
    bits = max(1, (n - 1).bit_length())
    if count << bits <= 1 << 32:  # one number for both sorts several times faster than a pair
        packed = lax.sort((identity.astype(jnp.uint32) << bits) | particle.astype(jnp.uint32))
        return (packed & ((1 << bits) - 1)).astype(jnp.int32), (packed >> bits).astype(jnp.int32)
    identities, order = lax.sort((identity, particle), num_keys=1)
    return order, identities


def _sides(dimension: int) -> tuple[int, ...]:
    """Cells to each side that hold all neighbours, along each axis."""
    return (_ALONG, *[_ACROSS] * (dimension - 1))


def _rows(space: Space, cells: tuple[int, ...]) -> jax.Array:
    """The rows around a cell, int32 `[rows, d]`: offsets across, and how many cells to each side along x are in reach.

    The number is 0 where all cells of the row are.
    """
    across = 2 * _ACROSS + 1
    rows = []
    for offset in itertools.product(*(range(-_ACROSS, _ACROSS + 1) if m > across else range(m) for m in cells[1:])):
        # where axes are orthogonal, a row that is some cells away is out of reach at its far ends
        apart = [max(abs(o) - 1, 0) for o, m in zip(offset, cells[1:], strict=True) if m > across]
        squared = 0 if isinstance(space, Triclinic) else sum(o * o for o in apart)
        width = math.ceil(_ALONG * math.sqrt(1 - squared / _ACROSS**2))
        rows.append((*offset, 0 if cells[0] <= 2 * _ALONG + 1 else width))
    return jnp.asarray(rows, jnp.int32)


def _run(
    places: jax.Array, coordinates: jax.Array, row: jax.Array, cells: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The candidates of each particle in one of `_rows`: the place of the first one and their number, int32 `[n]`."""
    begins, stride = places.reshape(-1), places.shape[1]
    start = stride * _row_beside(coordinates, row[:-1], cells)
    width, span = row[-1], cells[0]
    if cells[0] > 2 * _ALONG + 1:
        left = coordinates[0] - width
        start, span = start + jnp.where(left < 0, left + cells[0], left), 2 * width + 1
    begin = _look_up(begins, start)
    return begin, _look_up(begins, start + span) - begin


def _row_beside(coordinates: jax.Array, offset: jax.Array | np.ndarray, cells: tuple[int, ...]) -> jax.Array:
    """The number of the row at this offset across from each particle's own, int32 `[n]`."""
    number, stride = jnp.zeros_like(coordinates[0]), 1
    for axis, count in enumerate(cells[1:], start=1):
        c = coordinates[axis] + offset[axis - 1]
        c = jnp.where(c < 0, c + count, jnp.where(c >= count, c - count, c))
        number, stride = number + stride * c, stride * count
    return number


# --- bits -------------------------------------------------------------------------------------------------------------


def _nonzero(words: jax.Array) -> jax.Array:
    """One bit a word, set where it is not zero: uint32 `[segments, n]` to uint32 `[ceil(segments / 32), n]`."""
    segments, n = words.shape
    padded = jnp.pad(words != 0, ((0, -segments % WORD), (0, 0))).reshape(-1, WORD, n)
    shifts = lax.iota(jnp.uint32, WORD)[None, :, None]
    return jnp.sum(padded.astype(jnp.uint32) << shifts, axis=1, dtype=jnp.uint32)


def _take_lowest_bit(sets: jax.Array, asked: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Remove the lowest bit of each set where asked: the sets left, its number, and whether there was one to take.

    A set is one column of the uint32 `[words, n]`.
    """
    row = jnp.argmax(sets != 0, axis=0).astype(jnp.int32)  # the first word that is not 0
    chosen = lax.iota(jnp.int32, len(sets))[:, None] == row[None, :]
    word = jnp.sum(jnp.where(chosen, sets, 0), axis=0, dtype=sets.dtype)
    found = asked & (word != 0)
    return jnp.where(chosen & found[None, :], sets & (sets - 1), sets), WORD * row + _lowest_bit(word), found


def _lowest_bit(word: jax.Array) -> jax.Array:
    """The number of the lowest bit that is set, int32; 32 where none is."""
    return lax.population_count(~word & (word - 1)).astype(jnp.int32)


def _squared_distance(space: Space, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(space.displacement(a, b) ** 2)


def _look_up(table: jax.Array, index: jax.Array) -> jax.Array:
    return table.at[..., index].get(mode="promise_in_bounds", wrap_negative_indices=False)
