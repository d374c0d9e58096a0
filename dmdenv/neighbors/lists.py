"""Who the neighbours are: all other particles, or those in a list.

A `NeighborList` is full and symmetric, has static capacities and never drops a pair silently: what does not fit sets
`overflow`, which sticks until the list is allocated anew. It holds all pairs closer than `cutoff + skin`, and stays
complete for `cutoff` until two particles have moved as far as the skin together; `update` rebuilds only then, under
`vmap` too.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv._core.in_batch import any_in_batch
from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.neighbors.bits import WORD
from dmdenv.neighbors.cells import choose_cells
from dmdenv.neighbors.particles_last import over_particles, split
from dmdenv.neighbors.search import Neighbors, find_neighbors
from dmdenv.space import Periodic, Space, Triclinic, squared_distance


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
    cells: tuple[int, ...] = static()  # along each axis; none: everybody is a candidate
    run_capacity: int = static()  # candidates of a particle in a row of cells

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
        capacity, n = self.indices.shape[-2:]
        return capacity >= n - 1 and (not self.cells or self.run_capacity >= n)


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
    largest = float(space.largest_cutoff(dimension))
    if cutoff > largest:
        box = space.cell if isinstance(space, Triclinic) else space.heights(dimension)  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            f"cutoff = {cutoff} in a box of {np.asarray(box, float).tolist()}; valid: up to half the shortest side"
            f" (of a cell: half its smallest diagonal element), {largest:g}"
        )
    cells, reach = choose_cells(space, positions, cutoff + skin), jnp.asarray(cutoff + skin, positions.dtype)
    capacity, run_capacity = room(
        lambda run_capacity: _count(space, positions, reach, cells, run_capacity), len(positions), slack
    )
    unbuilt = NeighborList(
        indices=jnp.zeros((capacity, len(positions)), jnp.int32),
        columns=jnp.int32(0),
        positions=positions,
        space=space,
        cutoff=jnp.asarray(cutoff, positions.dtype),
        skin=jnp.asarray(skin, positions.dtype),
        overflow=jnp.asarray(False),
        cells=cells,
        run_capacity=run_capacity,
    )
    return jax.jit(build)(unbuilt, space, positions)


def room(count: Callable[[int], Neighbors], n: int, slack: float, *, run_capacity: int = WORD) -> tuple[int, int]:
    """The capacities of a list of n particles, `(capacity, run_capacity)`, on the host.

    Args:
        count: a search of all neighbours with this `run_capacity`, or a batch of them.
        n: particles.
        slack: room over what they need.
        run_capacity: the least; up to whole words it costs nothing.
    """
    while True:
        found = count(run_capacity)
        needed = WORD * math.ceil(min(slack * int(np.max(found.longest_run)), n) / WORD)
        if needed <= run_capacity:
            capacity = min(math.ceil(slack * max(1, int(np.max(found.columns)))), max(1, n - 1))
            return capacity, run_capacity
        run_capacity = needed


@functools.partial(jax.jit, static_argnums=(3, 4))
def _count(
    space: Space, positions: jax.Array, reach: jax.Array, cells: tuple[int, ...], run_capacity: int
) -> Neighbors:
    column = jnp.zeros((1, len(positions)), jnp.int32)
    return find_neighbors(space, positions, reach, column, cells=cells, run_capacity=run_capacity)


def build(
    template: NeighborList,
    space: Space,
    positions: jax.Array,
    *,
    cutoff: jax.Array | None = None,
    skin: jax.Array | None = None,
) -> NeighborList:
    """A list of the capacities of `template` for any positions, `[n, d]`, box and ranges; works inside of jit.

    Args:
        template: a list for as many particles; its ranges are kept where no others are given.
        space: where the particles are.
        positions: `[n, d]`, unit length.
        cutoff: the range of the interaction, unit length.
        skin: how much farther the list reaches, unit length.
    """
    n = positions.shape[0]
    if n != template.count:
        raise ValueError(f"positions has {n} particles; valid: {template.count}, as many as the template")
    template, space, positions = lax.stop_gradient((template, space, positions))
    cutoff = template.cutoff if cutoff is None else lax.stop_gradient(cutoff)
    skin = template.skin if skin is None else lax.stop_gradient(skin)
    cutoff, skin = jnp.asarray(cutoff, positions.dtype), jnp.asarray(skin, positions.dtype)
    empty = template.replace(cutoff=cutoff, skin=skin, overflow=jnp.asarray(False))
    return _fitting(_build(empty, space, positions), space)


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
    return _fitting(updated, space)


def _fitting(neighbors: NeighborList, space: Space) -> NeighborList:
    """The list, with its flag set where the cutoff is too long for the box."""
    fits = neighbors.cutoff <= space.largest_cutoff(neighbors.positions.shape[1])
    return neighbors.replace(overflow=neighbors.overflow | ~fits)


def _outdated(neighbors: NeighborList, space: Space, positions: jax.Array) -> jax.Array:
    """bool []: some pair within the cutoff may be missing.

    Two particles that were farther apart than `cutoff + skin` are still farther than `s (cutoff + skin) - u - u'`,
    where s is the least factor by which the deformation of the box stretched any vector, and u and u' the two largest
    displacements besides that deformation.
    """
    carried, least = _deformed(neighbors.space, space, neighbors.positions)
    at, before = split(positions.T, 1), split(carried.T, 1)
    (moved,) = over_particles(squared_distance, positions.shape[:1], space, at, before)
    first, second = _two_largest(moved)
    reach = neighbors.cutoff + neighbors.skin
    if isinstance(neighbors.space, Triclinic):  # farther pairs may have a nearer image than the one in the list
        reach = jnp.minimum(reach, neighbors.space.largest_cutoff(positions.shape[1]))
    closest = least * reach
    # not (a <= b), so that a NaN counts as outdated
    return ~(jnp.sqrt(first) + jnp.sqrt(second) <= closest - neighbors.cutoff)


def _two_largest(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of numbers `[n]` from 0 up and the next one, which may be equal; NaN where there is one."""

    def merge(a, b):
        return jnp.maximum(a[0], b[0]), jnp.maximum(jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1]))

    zero = jnp.zeros((), values.dtype)
    return lax.reduce((values, jnp.zeros_like(values)), (zero, zero), merge, (0,))


def _deformed(old: Space, new: Space, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions that follow the deformation of the box, and the least stretch of any vector, float []."""
    if isinstance(old, Periodic) and isinstance(new, Periodic):
        stretch = jnp.broadcast_to(new.box / old.box, positions.shape[1:])
        return positions * stretch[None, :], jnp.min(stretch)
    if isinstance(old, Triclinic) and isinstance(new, Triclinic):
        deformation = jnp.linalg.solve(old.cell, new.cell)
        squares = jnp.linalg.eigvalsh(jnp.matmul(deformation, deformation.T, precision="highest"))
        return jnp.matmul(positions, deformation, precision="highest"), jnp.sqrt(jnp.maximum(squares[0], 0.0))
    return positions, jnp.ones((), positions.dtype)


def _build(neighbors: NeighborList, space: Space, positions: jax.Array) -> NeighborList:
    """A list of the same capacities for these positions."""
    found = find_neighbors(
        space,
        positions,
        neighbors.cutoff + neighbors.skin,
        neighbors.indices,
        cells=neighbors.cells,
        run_capacity=neighbors.run_capacity,
    )
    return neighbors.replace(
        indices=found.indices,
        columns=found.columns,
        positions=positions,
        space=space,
        overflow=neighbors.overflow | found.overflow,
    )
