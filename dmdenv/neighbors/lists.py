"""Verlet lists: the neighbours of each particle up to a cutoff and a skin.

A `NeighborList` is full and symmetric, has static capacities and never drops a pair silently: what does not fit sets
`overflow`, which sticks until the list is allocated anew. It holds all pairs closer than `cutoff + skin`, and stays
complete for `cutoff` until two particles have moved as far as the skin together; `update` rebuilds only then, also
under `vmap`.
"""

import functools
import math
from collections.abc import Callable
from typing import TypeVar, final

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv._core.control_flow import cond
from dmdenv._core.fields import Real
from dmdenv._core.in_batch import any_in_batch
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors.bits import WORD
from dmdenv.neighbors.cells import choose_cells
from dmdenv.neighbors.pairs import AllPairs, Pairs, beyond_limit, exceeds
from dmdenv.neighbors.particles_last import over_particles, split
from dmdenv.neighbors.search import Neighbors, find_neighbors
from dmdenv.space import Space, squared_distance

P = TypeVar("P", bound=Pairs)


@final
@pytree
class NeighborList(Pairs):
    """The neighbours of n particles, in K columns. Made by `allocate`, kept up to date by `update`."""

    indices: jax.Array  # int32 [K, n]; a particle's own index pads its column
    columns: jax.Array  # int32 [], columns in use: the largest number of neighbours
    positions: jax.Array  # float [n, d], at the last build, unit length
    space: Space  # at the last build
    cutoff: jax.Array  # float [], unit length
    skin: jax.Array  # float [], unit length
    # bool [], sticky: pairs may be missing, as a capacity or a cell is too small, or a position is not finite
    overflow: jax.Array
    cells: tuple[int, ...] = static()  # along each axis; none: all particles are candidates
    row_capacity: int = static()  # candidates of a particle in a row of cells

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        return self.indices, jnp.minimum(self.columns, self.indices.shape[0])

    @property
    def count(self) -> int:
        """The number of particles."""
        return self.indices.shape[1]

    @property
    def list_cutoff(self) -> jax.Array:
        """The distance up to which pairs are in the list when it is built, `cutoff + skin`, float [], unit length."""
        return self.cutoff + self.skin

    @property
    def incomplete(self) -> jax.Array:
        """bool []: the list has overflowed, so that pairs may be missing."""
        return self.overflow

    @property
    def cannot_overflow(self) -> bool:
        """Whether its capacities suffice for any positions, so that larger ones would change nothing."""
        capacity, n = self.indices.shape[-2:]
        return capacity >= n - 1 and (not self.cells or self.row_capacity >= n)

    def update(self, space: Space, positions: jax.Array) -> "NeighborList":
        neighbors, space, positions = lax.stop_gradient((self, space, positions))
        updated = cond(
            any_in_batch(_is_outdated(neighbors, space, positions)),
            _rebuild,
            lambda neighbors, space, positions: neighbors,
            *(neighbors, space, positions),
        )
        return _flag_long_cutoff(updated, space)

    def flag_cutoff(self, cutoff: jax.Array, space: Space, dimension: int) -> "NeighborList":
        return self.replace(overflow=self.overflow | exceeds(cutoff, self.cutoff))

    def in_space(self, change: Callable[[Space], Space]) -> "NeighborList":
        return self.replace(space=change(self.space))

    def largest_cutoff(self, space: Space, dimension: int) -> jax.Array:
        """The list's own cutoff."""
        return self.cutoff

    def check_cutoff(
        self, name: str, cutoff: jax.Array | float, space: Space, dimension: int, *, endless: bool = False
    ) -> None:
        if beyond := beyond_limit(cutoff, lambda: self.cutoff):
            raise ValueError(f"{name} = {beyond[0]:g}; must be at most {beyond[1]:g}, the cutoff of the neighbour list")


def allocate(space: Space, positions: jax.Array, *, cutoff: float, skin: float, slack: float = 1.25) -> NeighborList:
    """Choose capacities for these positions, on the host, and build the list.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length, d = 2 or 3; they may lie outside of a periodic box.
        cutoff: the range of the interaction, unit length.
        skin: how much the list's own cutoff exceeds it, unit length. A larger skin means fewer rebuilds and more pairs.
        slack: capacities, relative to what these positions need.

    Raises:
        ValueError: when `cutoff` is not positive or exceeds half the box (a pair would interact with two images),
            `skin` is negative, `slack` is below 1, or positions are not finite `[n, 2]` or `[n, 3]`.
        TypeError: inside of jit, where no capacity can be chosen; use `update` there.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((space, positions, cutoff, skin))):
        raise TypeError("allocate chooses array sizes, so it runs outside of jit and vmap; inside, use update")
    positions = jnp.asarray(positions)
    if positions.ndim != 2 or positions.shape[1] not in (2, 3) or not len(positions):
        raise ValueError(f"positions has shape {positions.shape}; must be [n, 2] or [n, 3]")
    if not (jnp.issubdtype(positions.dtype, jnp.floating) and np.all(np.isfinite(positions))):
        raise ValueError(f"positions holds {positions.dtype}, perhaps infinite or NaN; must be finite floats")
    cutoff, skin = Real(above=0).convert("cutoff", cutoff), Real(at_least=0).convert("skin", skin)
    slack = Real(at_least=1).convert("slack", slack)
    AllPairs().check_cutoff("cutoff", cutoff, space, positions.shape[1])
    cells = choose_cells(space, positions, cutoff + skin)
    list_cutoff = jnp.asarray(cutoff + skin, positions.dtype)
    capacity, row_capacity = choose_capacities(
        lambda row_capacity: _search(space, positions, list_cutoff, cells, row_capacity), len(positions), slack
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
        row_capacity=row_capacity,
    )
    return jax.jit(build)(unbuilt, space, positions)


def choose_capacities(
    search: Callable[[int], Neighbors], n: int, slack: float, *, row_capacity: int = WORD
) -> tuple[int, int]:
    """The capacities of a list of n particles, `(capacity, row_capacity)`, on the host.

    Args:
        search: finds all neighbours with a given `row_capacity`, in one system or a batch.
        n: particles.
        slack: capacities, relative to what is needed.
        row_capacity: the least; up to whole words it costs nothing.
    """
    while True:
        found = search(row_capacity)
        needed = WORD * math.ceil(min(slack * int(np.max(found.row_candidates)), n) / WORD)
        if needed <= row_capacity:
            capacity = min(math.ceil(slack * max(1, int(np.max(found.columns)))), max(1, n - 1))
            return capacity, row_capacity
        row_capacity = needed


@functools.partial(jax.jit, static_argnums=(3, 4))
def _search(
    space: Space, positions: jax.Array, list_cutoff: jax.Array, cells: tuple[int, ...], row_capacity: int
) -> Neighbors:
    column = jnp.zeros((1, len(positions)), jnp.int32)
    return find_neighbors(space, positions, list_cutoff, column, cells=cells, row_capacity=row_capacity)


def build(
    template: NeighborList,
    space: Space,
    positions: jax.Array,
    *,
    cutoff: jax.Array | None = None,
    skin: jax.Array | None = None,
) -> NeighborList:
    """A list with the capacities of `template`, for any positions, box and cutoff; works inside of jit.

    Args:
        template: a list for as many particles; its cutoff and skin are kept where no others are given.
        space: where the particles are.
        positions: `[n, d]`, unit length.
        cutoff: the range of the interaction, unit length.
        skin: how much the list's own cutoff exceeds it, unit length.
    """
    n = positions.shape[0]
    if n != template.count:
        raise ValueError(f"positions has {n} particles; must be {template.count}, as many as the template has")
    template, space, positions = lax.stop_gradient((template, space, positions))
    cutoff = template.cutoff if cutoff is None else lax.stop_gradient(cutoff)
    skin = template.skin if skin is None else lax.stop_gradient(skin)
    cutoff, skin = jnp.asarray(cutoff, positions.dtype), jnp.asarray(skin, positions.dtype)
    empty = template.replace(cutoff=cutoff, skin=skin, overflow=jnp.asarray(False))
    return _flag_long_cutoff(_rebuild(empty, space, positions), space)


def update(pairs: P, space: Space, positions: jax.Array) -> P:
    """The pairs for new positions, `[n, d]`, and a new box: a list is rebuilt if pairs might be missing.

    Pure; the neighbours are not differentiable, the sums over them are. Under `vmap` all instances rebuild when one
    has to, and none otherwise.

    Returns:
        Pairs of the same capacities; check `overflow` of a list on the host, and `allocate` anew where it is set.
    """
    return pairs.update(space, positions)


def _flag_long_cutoff(neighbors: NeighborList, space: Space) -> NeighborList:
    """The list, with its flag set where the cutoff is too long for the box."""
    beyond = exceeds(neighbors.cutoff, space.largest_cutoff(neighbors.positions.shape[1]))
    return neighbors.replace(overflow=neighbors.overflow | beyond)


def _is_outdated(neighbors: NeighborList, space: Space, positions: jax.Array) -> jax.Array:
    """bool []: some pair within the cutoff may be missing.

    Two particles that were farther apart than `r = cutoff + skin` are still farther than `s r - u - u'`, where s is the
    least factor by which the deformation of the box stretched any vector, and u and u' are the two largest
    displacements besides that deformation.
    """
    start, least_stretch = neighbors.space.follow(neighbors.positions, space)
    now, before = split(positions.T, 1), split(start.T, 1)
    (squares,) = over_particles(squared_distance, positions.shape[:1], space, now, before)
    first, second = _two_largest(squares)
    # a farther pair may have a nearer image than the one that was tested
    r = jnp.minimum(neighbors.list_cutoff, neighbors.space.minimum_image_range(positions.shape[1]))
    # not (a <= b), so that a NaN counts as outdated
    return ~(jnp.sqrt(first) + jnp.sqrt(second) <= least_stretch * r - neighbors.cutoff)


def _two_largest(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest and second largest of numbers `[n]` >= 0, which may be equal; NaN if there is one."""

    def merge(a, b):
        return jnp.maximum(a[0], b[0]), jnp.maximum(jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1]))

    zero = jnp.zeros((), values.dtype)
    return lax.reduce((values, jnp.zeros_like(values)), (zero, zero), merge, (0,))


def _rebuild(neighbors: NeighborList, space: Space, positions: jax.Array) -> NeighborList:
    """A list of the same capacities for these positions."""
    found = find_neighbors(
        space,
        positions,
        neighbors.list_cutoff,
        neighbors.indices,
        cells=neighbors.cells,
        row_capacity=neighbors.row_capacity,
    )
    return neighbors.replace(
        indices=found.indices,
        columns=found.columns,
        positions=positions,
        space=space,
        overflow=neighbors.overflow | found.overflow | ~jnp.all(jnp.isfinite(positions)),
    )
