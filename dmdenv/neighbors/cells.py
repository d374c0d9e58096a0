"""Cell lists: particles in the order of their cells, so that the candidates of each are a few contiguous runs.

For n particles, in cells an eighth of the list's cutoff wide along the last axis and half of it across, or wider:

1. Particles are sorted by cell, the last axis fastest (as the particles of a lattice are), so that neighbouring cells
   of a row along it are one contiguous run. The particles of a row stand in the order twice, one copy after the other,
   so that a run may cross the periodic boundary.
2. The candidates of a particle are one run in each row of its stencil, of 5 (2-D) or 25 (3-D) rows.

Open space uses the same cells, repeated periodically: far particles share a cell and the distance tells them apart.

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
_BRUTE_FORCE_UP_TO = {2: 512, 3: 2048}  # particles up to which testing all pairs is faster, by the dimension


def choose_cells(space: Space, positions: jax.Array, list_cutoff: float) -> tuple[int, ...]:
    """The number of cells along each axis, on the host: as many as the cutoff (and rounding) allows, but few beside n.

    None for a small system, where testing all pairs is faster.
    """
    n, dimension = positions.shape
    if n <= _BRUTE_FORCE_UP_TO[dimension]:
        return ()
    sides, most = np.asarray(_cells_per_side(dimension)), int((2 * n) ** (1 / dimension))
    covering = 2 * sides + 1
    counts = space.bin_counts(positions, list_cutoff / sides, covering)
    return tuple(map(int, np.minimum(counts, np.maximum(covering, most * sides // _ACROSS))))


class Row(NamedTuple):
    """A row of the stencil, parallel to the last axis; the fields may have a common leading axis."""

    offset: jax.Array  # int32 [d - 1], cells across
    width: jax.Array  # int32 [], cells to each side that may hold neighbours; 0 where all of the row may


class CellList(NamedTuple):
    """Particles in the order of their cells, those of each row twice."""

    images: jax.Array  # [d, n], positions of images in one place
    cell: jax.Array  # int32 [d, n], coordinates of the particles' cells
    too_narrow: jax.Array  # bool [], cells are too narrow for the cutoff
    order: jax.Array  # int32 [2 n], the particle at each place of the order
    first: jax.Array  # int32 [n], the place of each particle,
    second: jax.Array  # int32 [n], and its place in the copy
    starts: jax.Array  # int32 [rows, 2 cells + 1], where each cell of a row and of its copy begins, and where they end

    def block(self, start: jax.Array, size: int) -> Self:
        """The same order, for the candidates of `size` particles from number `start` on."""
        own = {name: getattr(self, name) for name in ("images", "cell", "first", "second")}
        return self._replace(**{name: lax.dynamic_slice_in_dim(a, start, size, axis=-1) for name, a in own.items()})

    def candidates(self, row: Row, cells: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """The candidates of each particle in a row: the place of the first one and their number, int32 `[n]`."""
        starts, stride = self.starts.reshape(-1), self.starts.shape[1]
        start = stride * _row_number(self.cell, row.offset, cells)
        span = cells[-1]
        if span > 2 * _ALONG + 1:
            left = self.cell[-1] - row.width
            start, span = start + jnp.where(left < 0, left + span, left), 2 * row.width + 1
        begin = take(starts, start)
        return begin, take(starts, start + span) - begin


def build_cell_list(space: Space, positions: jax.Array, list_cutoff: jax.Array, cells: tuple[int, ...]) -> CellList:
    """The cell list of particles `[n, d]`, to find all pairs within the cutoff."""
    n, along = positions.shape[0], cells[-1]
    images, cell, too_narrow = _assign_cells(space, positions, list_cutoff, cells)
    number = cell[-1] + along * _row_number(cell, np.zeros(len(cells) - 1, np.int32), cells)
    by_cell, numbers = _sort_by_number(number, math.prod(cells))

    occupants = jnp.zeros(math.prod(cells), jnp.int32).at[numbers].add(1, indices_are_sorted=True)
    starts = (jnp.cumsum(occupants) - occupants).reshape(-1, along)
    row_start = starts[:, 0]
    row_end = jnp.concatenate([row_start[1:], jnp.full(1, n, jnp.int32)])
    length = row_end - row_start

    # the copies of row r take the places from 2 row_start[r] to 2 row_end[r]
    twice = jnp.concatenate([starts, starts + length[:, None], (row_end + length)[:, None]], axis=1)
    twice = twice + row_start[:, None]

    place = lax.iota(jnp.int32, 2 * n)
    row = take(numbers, place // 2) // along
    within = place - 2 * take(row_start, row)
    length_here = take(length, row)
    within = jnp.where(within < length_here, within, within - length_here)
    order = take(by_cell, take(row_start, row) + within)

    rank = jnp.zeros(n, jnp.int32).at[by_cell].set(lax.iota(jnp.int32, n), unique_indices=True)
    own_row = number // along
    first = take(row_start, own_row) + rank
    second = first + take(length, own_row)
    return CellList(images, cell, too_narrow, order, first, second, twice)


def stencil(space: Space, cells: tuple[int, ...]) -> Row:
    """The rows in which a particle may have neighbours, stacked."""
    across = 2 * _ACROSS + 1
    sides = (range(-_ACROSS, _ACROSS + 1) if m > across else range(m) for m in cells[:-1])
    offsets = list(itertools.product(*sides))
    widths = []
    for offset in offsets:
        # where axes are orthogonal, the far ends of a row that is some cells away are beyond the cutoff
        apart = [max(abs(o) - 1, 0) for o, m in zip(offset, cells[:-1], strict=True) if m > across]
        squared = sum(o * o for o in apart) if space.orthogonal else 0
        width = math.ceil(_ALONG * math.sqrt(1 - squared / _ACROSS**2))
        widths.append(0 if cells[-1] <= 2 * _ALONG + 1 else width)
    return Row(jnp.asarray(offsets, jnp.int32), jnp.asarray(widths, jnp.int32))


def _assign_cells(
    space: Space, positions: jax.Array, list_cutoff: jax.Array, cells: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images in one place `[d, n]`, coordinates of cells int32 `[d, n]`, and whether cells are too narrow, `[]`."""
    counts, sides = jnp.asarray(cells), jnp.asarray(_cells_per_side(len(cells)))
    images, cell, narrow = space.assign_bins(positions, counts, list_cutoff / sides)
    return images.T, cell.T, jnp.any((counts > 2 * sides + 1) & narrow)


def _sort_by_number(number: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The order of particles by an integer below `count`, int32 `[n]`, and the integers in that order."""
    n = number.shape[0]
    bits = max(1, (n - 1).bit_length())
    # one integer for both sorts several times faster than a pair
    packed = np.dtype(np.uint32 if count << bits <= 1 << 32 else np.uint64)
    with jax.enable_x64(True) if packed == np.uint64 else contextlib.nullcontext():
        particle = lax.iota(packed, n)
        keys = lax.sort((number.astype(packed) << packed.type(bits)) | particle)
        order, numbers = keys & packed.type((1 << bits) - 1), keys >> packed.type(bits)
        return order.astype(jnp.int32), numbers.astype(jnp.int32)


def _cells_per_side(dimension: int) -> tuple[int, ...]:
    """Cells to each side that hold all neighbours, along each axis."""
    return (*[_ACROSS] * (dimension - 1), _ALONG)


def _row_number(cell: jax.Array, offset: jax.Array | np.ndarray, cells: tuple[int, ...]) -> jax.Array:
    """The number of the row at this offset across from each particle's cell, int32 `[n]`."""
    number = jnp.zeros_like(cell[0])
    for axis, count in enumerate(cells[:-1]):
        c = cell[axis] + offset[axis]
        c = jnp.where(c < 0, c + count, jnp.where(c >= count, c - count, c))
        number = count * number + c
    return number
