"""Who the neighbours are: all other particles, or those in a list built through cells.

A `NeighborList` is full and symmetric, has static capacities and never drops a pair silently: what does not fit sets
`overflow`, which sticks until the list is allocated anew. It holds all pairs closer than `cutoff + skin`, and stays
complete for `cutoff` until a particle has moved half the skin; `update` rebuilds only then, under `vmap` too.

Building, for n particles in cells at least half as wide as `cutoff + skin`:

1. Particles are sorted by cell, x fastest, so that the cells of one row along x are one contiguous run.
2. The candidates of a particle are the runs of five cells in the 5 (2-D) or 25 (3-D) rows around it. A run is read in
   segments of up to 32 candidates; which of them are neighbours is one bit each of an unsigned integer.
3. The bits are read out, lowest first, for all particles at once: the k-th pass gives every particle's k-th neighbour.

Every step is a loop over contiguous arrays; nothing is scattered. Free space uses the same cells, repeated
periodically: far images share a cell and the distance tells them apart.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 5.3.1 and 5.3.2.
"""

import itertools
import math

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.any_in_batch import any_in_batch
from dmdenv.particles_last import over_particles
from dmdenv.pytree import Replaceable, pytree, static
from dmdenv.space import Free, Periodic, Space, Triclinic

_WORD = 32  # candidates in a segment: bits of an unsigned integer
_REACH = 2  # cells to each side that hold all neighbours


@pytree
class AllPairs:
    """Every particle is every other one's neighbour: best for small systems."""

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        return ()

    @property
    def count(self) -> int | None:
        """The number of particles, or None for any."""
        return None


@pytree
class NeighborList(Replaceable):
    """The neighbours of n particles, in K columns. Made by `allocate`, kept up to date by `update`."""

    indices: jax.Array  # int32 [K, n]; a particle's own index pads its column
    columns: jax.Array  # int32 [], columns in use: the largest number of neighbours
    positions: jax.Array  # float [n, d], at the last build, unit length
    space: Space  # at the last build
    cutoff: jax.Array  # float [], unit length
    skin: jax.Array  # float [], unit length
    overflow: (
        jax.Array
    )  # bool [], sticky: a capacity was exceeded or the cells do not fit the box; pairs may be missing
    cells: tuple[int, ...] = static()  # along each axis
    run_capacity: int = static()  # particles in five cells in a row

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        return self.indices, jnp.minimum(self.columns, self.indices.shape[0])

    @property
    def count(self) -> int | None:
        """The number of particles."""
        return self.indices.shape[1]

    @property
    def is_complete(self) -> bool:
        """Whether its capacities suffice for any positions, so that larger ones would change nothing."""
        capacity, n = self.indices.shape
        return capacity >= n - 1 and self.run_capacity >= n


Pairs = AllPairs | NeighborList


def allocate(space: Space, positions: jax.Array, *, cutoff: float, skin: float, slack: float = 1.25) -> NeighborList:
    """Choose capacities for these positions, on the host, and build the list.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length, d = 2 or 3; they may lie outside of a periodic box.
        cutoff: the range of the interaction, unit length.
        skin: how much farther the list reaches, unit length. Larger skins are rebuilt more rarely and cost more pairs.
        slack: capacities over what these positions need.

    Raises:
        ValueError: when `cutoff` is not positive or exceeds half the box (a pair would interact with two images),
            `skin` is negative, `slack` is below 1, or positions are not finite `[n, 2]` or `[n, 3]`.
        TypeError: inside of jit, where no capacity can be chosen; use `update` there.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((space, positions, cutoff, skin))):
        raise TypeError("allocate chooses array sizes, so it runs outside of jit and vmap; inside, use update")
    positions = jnp.asarray(positions)
    if positions.ndim != 2 or positions.shape[1] not in (2, 3) or not len(positions):
        raise ValueError(f"positions has shape {positions.shape}; valid: [n, 2] or [n, 3]")
    if not (jnp.issubdtype(positions.dtype, jnp.floating) and np.all(np.isfinite(positions))):
        raise ValueError(
            f"positions holds {positions.dtype}, not all finite or not floating-point; valid: finite floats"
        )
    if not (cutoff > 0 and math.isfinite(cutoff)):
        raise ValueError(f"cutoff = {cutoff}; valid: a positive length")
    if not (skin >= 0 and math.isfinite(skin)):
        raise ValueError(f"skin = {skin}; valid: a length of 0 or more")
    if not slack >= 1:
        raise ValueError(f"slack = {slack}; valid: 1 or more")
    dimension = positions.shape[1]
    if isinstance(space, Free):
        extent = np.ptp(np.asarray(positions, float), axis=0)
    else:
        extent, largest = np.asarray(space.heights(dimension), float), float(space.largest_cutoff(dimension))
        if cutoff > largest:
            raise ValueError(
                f"cutoff = {cutoff} in a box of {extent.tolist()}; valid: up to half the shortest side, {largest:g}"
            )
    empty = NeighborList(
        indices=jnp.zeros((1, len(positions)), jnp.int32),
        columns=jnp.int32(0),
        positions=positions,
        space=space,
        cutoff=jnp.asarray(cutoff, positions.dtype),
        skin=jnp.asarray(skin, positions.dtype),
        overflow=jnp.asarray(False),
        cells=_choose_cells(space, extent, cutoff + skin, positions),
        run_capacity=1,
    )
    longest = int(jax.jit(_longest_run)(empty, space, positions))
    sized = empty.replace(run_capacity=min(math.ceil(slack * max(1, longest)), len(positions)))
    needed = int(jax.jit(_build)(sized, space, positions).columns)
    capacity = min(math.ceil(slack * max(1, needed)), max(1, len(positions) - 1))
    sized = sized.replace(indices=jnp.zeros((capacity, len(positions)), jnp.int32), overflow=jnp.asarray(False))
    return jax.jit(_build)(sized, space, positions)


def empty_like(
    template: NeighborList, space: Space, positions: jax.Array, *, cutoff: jax.Array, skin: jax.Array
) -> NeighborList:
    """An unbuilt list with the capacities of `template`, for other positions, box and ranges; works inside of jit.

    Its reference positions are NaN, so the first `update` builds it.
    """
    n = positions.shape[0]
    if n != template.count:
        raise ValueError(f"positions has {n} particles; valid: {template.count}, as many as the template")
    return template.replace(
        indices=jnp.broadcast_to(lax.iota(jnp.int32, n)[None, :], template.indices.shape),
        columns=jnp.int32(0),
        positions=jnp.full_like(positions, jnp.nan),
        space=space,
        cutoff=jnp.asarray(cutoff, positions.dtype),
        skin=jnp.asarray(skin, positions.dtype),
        overflow=jnp.asarray(False),
    )


def update(neighbors: NeighborList, space: Space, positions: jax.Array) -> NeighborList:
    """The list for new positions, `[n, d]`, and a new box: rebuilt where it might be incomplete, else as it was.

    Pure; the neighbours are not differentiable, the sums over them are. Under `vmap` all instances rebuild when one
    needs to, and none otherwise.

    Returns:
        A list of the same capacities; check its `overflow` on the host, and `allocate` anew where it is set.
    """
    neighbors, space, positions = lax.stop_gradient((neighbors, space, positions))
    updated = lax.cond(
        any_in_batch(_outdated(neighbors, space, positions)),
        _build,
        lambda neighbors, space, positions: neighbors,
        *(neighbors, space, positions),
    )
    fits = neighbors.cutoff <= space.largest_cutoff(positions.shape[1])
    return updated.replace(overflow=updated.overflow | ~fits)


def _outdated(neighbors: NeighborList, space: Space, positions: jax.Array) -> jax.Array:
    """bool []: some pair within the cutoff may be missing.

    Two particles that were farther apart than `cutoff + skin` are still farther than `s (cutoff + skin) - 2 u`, where
    s is the least factor by which the deformation of the box stretched any vector, and u the largest displacement
    besides that deformation.
    """
    carried, least = _deformed(neighbors.space, space, neighbors.positions)
    moved = jnp.max(jnp.sum(space.displacement(positions, carried) ** 2, axis=-1), initial=0.0)
    closest = least * (neighbors.cutoff + neighbors.skin)
    # not (a <= b), so that a NaN counts as outdated
    return ~(2.0 * jnp.sqrt(moved) <= closest - neighbors.cutoff)


def _deformed(old: Space, new: Space, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions that follow the deformation of the box, and the least stretch of any vector, float []."""
    if isinstance(old, Periodic) and isinstance(new, Periodic):
        stretch = jnp.broadcast_to(new.box / old.box, positions.shape[1:])
        return positions * stretch[None, :], jnp.min(stretch)
    if isinstance(old, Triclinic) and isinstance(new, Triclinic):
        deformation = jnp.linalg.solve(old.cell, new.cell)
        squares = jnp.linalg.eigvalsh(deformation @ deformation.T)
        return positions @ deformation, jnp.sqrt(jnp.maximum(squares[0], 0.0))
    return positions, jnp.ones((), positions.dtype)


# --- building ---------------------------------------------------------------------------------------------------------


def _choose_cells(space: Space, extent: np.ndarray, reach: float, positions: jax.Array) -> tuple[int, ...]:
    """Cells along each axis: as narrow as half the reach allows (with a margin for rounding), but few beside n."""
    width = reach / _REACH * (1 + 1e-4) + 4 * float(jnp.finfo(positions.dtype).eps) * extent
    covering = 2 * _REACH + 1
    limit = max(covering, int((8 * len(positions)) ** (1 / len(extent))))
    if isinstance(space, Free):
        return tuple(int(min(max(covering, count + 1), limit)) for count in extent // width)
    return tuple(int(min(max(1, count), limit)) for count in extent // width)


def _grid(neighbors: NeighborList, space: Space, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions in one image `[d, n]`, cell coordinates int32 `[d, n]`, and whether the cells are too narrow, `[]`."""
    cells = jnp.asarray(neighbors.cells)
    reach = neighbors.cutoff + neighbors.skin
    # rounding moves a coordinate by up to eps times its range; two of them must not add a cell to a pair's distance
    eps = float(jnp.finfo(positions.dtype).eps)
    if not isinstance(space, Free):
        inside = space.wrap(positions)
        coordinates = jnp.floor(space.fractional(inside) * cells[None, :]).astype(jnp.int32)
        misfit = jnp.any((cells > 2 * _REACH + 1) & ((_REACH / cells - 4 * eps) * space.heights(len(cells)) < reach))
        coordinates = jnp.clip(coordinates, 0, cells[None, :] - 1)
    else:
        inside = positions  # as they are: a shift of the origin would round the distances
        width = reach / _REACH * (1 + 1e-4) + 2 * eps * jnp.max(jnp.abs(positions))
        coordinates = jnp.floor(positions / width).astype(jnp.int32) % cells[None, :]
        misfit = jnp.asarray(False)
    return inside.T, coordinates.T, misfit


def _runs(neighbors: NeighborList, coordinates: jax.Array) -> tuple[jax.Array, ...]:
    """The candidates of every particle, as runs of the sorted order in the rows of cells around it.

    Returns:
        `order` int32 `[n]`: particles sorted by cell; and for each row, int32 `[rows, n]`: where the run `begin`s and
        how `long` it is, the `end` of the row, and the `turn` to subtract where a run passes it (the row is a ring).
    """
    across = neighbors.cells[0]
    identity = coordinates[0]
    stride = across
    strides = []
    for axis, cells in enumerate(neighbors.cells[1:], start=1):
        identity = identity + stride * coordinates[axis]
        strides.append(stride)
        stride = stride * cells
    order = jnp.argsort(identity).astype(jnp.int32)
    start = jnp.searchsorted(identity[order], jnp.arange(stride + 1)).astype(jnp.int32)

    covering = 2 * _REACH + 1
    shifts = [range(-_REACH, _REACH + 1) if m > covering else range(m) for m in neighbors.cells[1:]]
    offsets = jnp.asarray(list(itertools.product(*shifts)), jnp.int32)  # [rows, d - 1]
    base = jnp.zeros((len(offsets), coordinates.shape[1]), jnp.int32)
    for axis, stride in enumerate(strides, start=1):
        base += stride * ((coordinates[axis][None, :] + offsets[:, axis - 1 : axis]) % neighbors.cells[axis])
    row, end = _look_up(start, base), _look_up(start, base + across)
    if across <= covering:
        return order, row, end - row, end, jnp.zeros_like(row)
    first = (coordinates[0] - _REACH) % across
    last = (coordinates[0] + _REACH) % across
    turn = end - row
    begin = _look_up(start, base + first[None, :])
    stop = _look_up(start, base + last[None, :] + 1)
    long = stop - begin + jnp.where((last < first)[None, :], turn, 0)
    return order, begin, long, end, turn


def _longest_run(neighbors: NeighborList, space: Space, positions: jax.Array) -> jax.Array:
    _, coordinates, _ = _grid(neighbors, space, positions)
    _, _, long, _, _ = _runs(neighbors, coordinates)
    return jnp.max(long, initial=0)


def _build(neighbors: NeighborList, space: Space, positions: jax.Array) -> NeighborList:
    """A list of the same capacities for these positions."""
    n = positions.shape[0]
    own = lax.iota(jnp.int32, n)
    inside, coordinates, misfit = _grid(neighbors, space, positions)
    order, begin, long, end, turn = _runs(neighbors, coordinates)
    rank = jnp.zeros(n, jnp.int32).at[order].set(own, unique_indices=True)
    in_order = _look_up(inside, order)
    within = (neighbors.cutoff + neighbors.skin) ** 2

    words_a_row = math.ceil(neighbors.run_capacity / _WORD)
    bits = math.ceil(neighbors.run_capacity / words_a_row)
    rows = begin.shape[0]

    def candidate(begin, end, turn, t):
        """The position in `order` of the t-th candidate of each run."""
        q = begin + t
        q = jnp.where(q >= end, q - turn, q)
        return jnp.clip(q, 0, n - 1)

    def word(segment):
        row, first = segment // words_a_row, (segment % words_a_row) * bits

        def add_bit(bit, word):
            t = first + bit
            q = candidate(begin[row], end[row], turn[row], t)
            (distance,) = over_particles(_squared_distance, (n,), space, inside, _look_up(in_order, q))
            near = (distance < within) & (t < long[row]) & (q != rank)
            return word | (near.astype(jnp.uint32) << bit.astype(jnp.uint32))

        return lax.fori_loop(0, bits, add_bit, jnp.zeros(n, jnp.uint32))

    words = lax.map(word, jnp.arange(rows * words_a_row, dtype=jnp.int32))
    count = jnp.sum(lax.population_count(words), axis=0).astype(jnp.int32)

    # the next segment with a neighbour in it, from each segment on; the one past the last stands for none
    segments = rows * words_a_row
    words = jnp.concatenate([words, jnp.zeros((1, n), jnp.uint32)])
    last = jnp.full(n, segments, jnp.int32)
    numbers = jnp.arange(segments, dtype=jnp.int32)

    def nearest_segment(after, s):
        here = jnp.where(words[s] != 0, s, after)
        return here, here

    _, following = lax.scan(nearest_segment, last, numbers, reverse=True)
    following = jnp.concatenate([following, last[None], last[None]])

    def at(table, row):
        return _look_up(table.reshape(-1), row * n + own)

    def read_column(carry, _):
        segment, word = carry
        lowest = word & (~word + 1)
        bit = lax.population_count(lowest - 1).astype(jnp.int32)
        row = jnp.minimum(segment // words_a_row, rows - 1)
        q = candidate(at(begin, row), at(end, row), at(turn, row), (segment % words_a_row) * bits + bit)
        column = jnp.where(word != 0, _look_up(order, q), own)
        word = word ^ lowest
        segment = jnp.where(word != 0, segment, at(following, jnp.minimum(segment + 1, segments)))
        word = jnp.where(word != 0, word, at(words, segment))
        return (segment, word), column

    first = following[0]
    _, indices = lax.scan(read_column, (first, at(words, first)), None, length=neighbors.indices.shape[0])
    columns = jnp.max(count, initial=0)
    overflow = misfit | (jnp.max(long, initial=0) > neighbors.run_capacity) | (columns > neighbors.indices.shape[0])
    return neighbors.replace(
        indices=indices,
        columns=columns,
        positions=positions,
        space=space,
        overflow=neighbors.overflow | overflow,
    )


def _squared_distance(space: Space, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(space.displacement(a, b) ** 2)


def _look_up(table: jax.Array, index: jax.Array) -> jax.Array:
    return table.at[..., index].get(mode="promise_in_bounds", wrap_negative_indices=False)
