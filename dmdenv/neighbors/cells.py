"""Particles in the order of their cells, so that the candidates of each one are a few contiguous runs.

For n particles, in cells an eighth of the reach wide along the last axis and half of it across, or somewhat wider:

1. Particles are sorted by cell, the last axis fastest (as the particles of a lattice are), so that neighbouring cells
   of a row along it are one contiguous run. The sorted particles of a row stand there twice, one copy after the other,
   so that a run may pass the periodic boundary.
2. The candidates of a particle are one run in each of the 5 (2-D) or 25 (3-D) rows around its own.

Free space uses the same cells, repeated periodically: far images share a cell and the distance tells them apart.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 5.3.1 and 5.3.2.
"""

import contextlib
import itertools
import math
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.neighbors.particles_last import take
from dmdenv.space import Space

_ALONG, _ACROSS = 8, 2  # cells to each side that hold all neighbours: along the last axis, and along the other ones
_BRUTE_FORCE_UP_TO = {2: 512, 3: 2048}  # particles up to which a look at everybody takes less time, by the dimension


def choose_cells(space: Space, positions: jax.Array, reach: float) -> tuple[int, ...]:
    """Cells along each axis, on the host: as narrow as the reach allows (and rounding), but few beside n.

    None, for a small system: a look at everybody is faster.
    """
    n, dimension = positions.shape
    if n <= _BRUTE_FORCE_UP_TO[dimension]:
        return ()
    sides, most = np.asarray(_sides(dimension)), int((2 * n) ** (1 / dimension))
    covering = 2 * sides + 1
    counts = space.bin_counts(positions, reach / sides, covering)
    return tuple(map(int, np.minimum(counts, np.maximum(covering, most * sides // _ACROSS))))


class Row(NamedTuple):
    """A row of cells along the last axis beside the particle's own; the fields may have a common leading axis."""

    offset: jax.Array  # int32 [d - 1], cells across
    width: jax.Array  # int32 [], how many cells to each side are in reach; 0 where all of the row are


class Sorted(NamedTuple):
    """Particles in the order of their cells, those of each row twice."""

    inside: jax.Array  # [d, n], positions in one image
    coordinates: jax.Array  # int32 [d, n], of the particles' cells
    misfit: jax.Array  # bool [], cells are too narrow for the reach
    particles: jax.Array  # int32 [2 n], who stands at each place of the order
    first: jax.Array  # int32 [n], the place of each particle,
    second: jax.Array  # int32 [n], and its place in the copy
    places: jax.Array  # int32 [rows, 2 cells + 1], where each cell of a row and of its copy begins, and where they end

    def block(self, start: jax.Array, size: int) -> Self:
        """The same order for the candidates of `size` particles only, from number `start` on."""
        own = {name: getattr(self, name) for name in ("inside", "coordinates", "first", "second")}
        return self._replace(**{name: lax.dynamic_slice_in_dim(a, start, size, axis=-1) for name, a in own.items()})

    def run(self, row: Row, cells: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """The candidates of each particle in a row: the place of the first one and their number, int32 `[n]`."""
        begins, stride = self.places.reshape(-1), self.places.shape[1]
        start = stride * _row_beside(self.coordinates, row.offset, cells)
        span = cells[-1]
        if span > 2 * _ALONG + 1:
            left = self.coordinates[-1] - row.width
            start, span = start + jnp.where(left < 0, left + span, left), 2 * row.width + 1
        begin = take(begins, start)
        return begin, take(begins, start + span) - begin


def sort_by_cell(space: Space, positions: jax.Array, reach: jax.Array, cells: tuple[int, ...]) -> Sorted:
    """Sort particles `[n, d]` for a search of all that is closer than the reach."""
    n, along = positions.shape[0], cells[-1]
    inside, coordinates, misfit = _in_one_image(space, positions, reach, cells)
    identity = coordinates[-1] + along * _row_beside(coordinates, np.zeros(len(cells) - 1, np.int32), cells)
    order, identities = _sort_by(identity, math.prod(cells))

    occupants = jnp.zeros(math.prod(cells), jnp.int32).at[identities].add(1, indices_are_sorted=True)
    starts = (jnp.cumsum(occupants) - occupants).reshape(-1, along)
    row_start = starts[:, 0]
    row_end = jnp.concatenate([row_start[1:], jnp.full(1, n, jnp.int32)])
    length = row_end - row_start

    # the copies of row r take the places from 2 row_start[r] to 2 row_end[r]
    places = jnp.concatenate([starts, starts + length[:, None], (row_end + length)[:, None]], axis=1)
    places = places + row_start[:, None]

    place = lax.iota(jnp.int32, 2 * n)
    row = take(identities, place // 2) // along
    into = place - 2 * take(row_start, row)
    length_here = take(length, row)
    into = jnp.where(into < length_here, into, into - length_here)
    particles = take(order, take(row_start, row) + into)

    rank = jnp.zeros(n, jnp.int32).at[order].set(lax.iota(jnp.int32, n), unique_indices=True)
    own_row = identity // along
    first = take(row_start, own_row) + rank
    second = first + take(length, own_row)
    return Sorted(inside, coordinates, misfit, particles, first, second, places)


def _in_one_image(
    space: Space, positions: jax.Array, reach: jax.Array, cells: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions in one image `[d, n]`, cell coordinates int32 `[d, n]`, and whether the cells are too narrow, `[]`."""
    counts, sides = jnp.asarray(cells), jnp.asarray(_sides(len(cells)))
    inside, coordinates, narrow = space.assign_bins(positions, counts, reach / sides)
    return inside.T, coordinates.T, jnp.any((counts > 2 * sides + 1) & narrow)


def _sort_by(identity: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The order of particles by an integer below `count`, int32 `[n]`, and the integers in that order."""
    n = identity.shape[0]
    bits = max(1, (n - 1).bit_length())
    # one number for both sorts several times faster than a pair
    packed = np.dtype(np.uint32 if count << bits <= 1 << 32 else np.uint64)
    with jax.enable_x64(True) if packed == np.uint64 else contextlib.nullcontext():
        particle = lax.iota(packed, n)
        numbers = lax.sort((identity.astype(packed) << packed.type(bits)) | particle)
        order, identities = numbers & packed.type((1 << bits) - 1), numbers >> packed.type(bits)
        return order.astype(jnp.int32), identities.astype(jnp.int32)


def _sides(dimension: int) -> tuple[int, ...]:
    """Cells to each side that hold all neighbours, along each axis."""
    return (*[_ACROSS] * (dimension - 1), _ALONG)


def rows_around(space: Space, cells: tuple[int, ...]) -> Row:
    """The rows in which a particle has neighbours, stacked."""
    across = 2 * _ACROSS + 1
    sides = (range(-_ACROSS, _ACROSS + 1) if m > across else range(m) for m in cells[:-1])
    offsets = list(itertools.product(*sides))
    widths = []
    for offset in offsets:
        # where axes are orthogonal, a row that is some cells away is out of reach at its far ends
        apart = [max(abs(o) - 1, 0) for o, m in zip(offset, cells[:-1], strict=True) if m > across]
        squared = sum(o * o for o in apart) if space.orthogonal else 0
        width = math.ceil(_ALONG * math.sqrt(1 - squared / _ACROSS**2))
        widths.append(0 if cells[-1] <= 2 * _ALONG + 1 else width)
    return Row(jnp.asarray(offsets, jnp.int32), jnp.asarray(widths, jnp.int32))


def _row_beside(coordinates: jax.Array, offset: jax.Array | np.ndarray, cells: tuple[int, ...]) -> jax.Array:
    """The number of the row at this offset across from each particle's own, int32 `[n]`."""
    number = jnp.zeros_like(coordinates[0])
    for axis, count in enumerate(cells[:-1]):
        c = coordinates[axis] + offset[axis]
        c = jnp.where(c < 0, c + count, jnp.where(c >= count, c - count, c))
        number = count * number + c
    return number
