"""Which particles of an environment may interact: all pairs, or a neighbour list whose capacity grows on demand.

An environment declares the flat fields `pairs` and `slack`, and derives from them

    @functools.cached_property
    def neighborhood(self) -> Neighborhood:
        return Neighborhood(particles=self.boids, pairs=self.pairs, slack=self.slack, ...)

Its `initial_state` finds the pairs, its `advance` updates them (integrators do that by themselves), and both set the
state's `overflow` where they are `incomplete`. `Env.enlarged` and `Env.with_capacity` do the rest.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dmdenv.neighbors import AllPairs, NeighborList, Pairs, allocate, build, neighbor_lists
from dmdenv.space import Space

S = TypeVar("S")


class Sample(NamedTuple):
    """Positions as crowded as they are expected to be, from which the capacities of a list follow."""

    space: Space
    positions: jax.Array  # float [n, d], unit length
    cutoff: float  # unit length


@dataclasses.dataclass(frozen=True)
class Neighborhood:
    """How an environment of n particles finds their neighbours.

    Args:
        particles: n.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of particles.
        crossover: the largest n for which "auto" takes all pairs.
        slack: capacities of the list over what the sample needs, from 1.
        skin: how much farther than the cutoff a list reaches, in `skin_unit`.
        skin_unit: "length", or "cutoff": a fraction of the cutoff.
        sample: called once, on the host, and only where there is a list.
        remedy: what to change where interactions are missing although the capacities suffice.
        dimension: of space.
    """

    particles: int
    pairs: Literal["auto", "all", "list"]
    crossover: int
    slack: float
    skin: float
    skin_unit: Literal["length", "cutoff"]
    sample: Callable[[], Sample]
    remedy: str
    dimension: int = 2

    @property
    def listed(self) -> bool:
        """Whether there is a list."""
        return self.pairs == "list" or (self.pairs == "auto" and self.particles > self.crossover)

    @property
    def can_grow(self) -> bool:
        """Whether a larger `slack` would give larger capacities."""
        return self.listed and not self.template.cannot_overflow

    @functools.cached_property
    def template(self) -> NeighborList:
        """A list of the capacities that the sample needs, times `slack`; made on the host, also while tracing."""
        with jax.ensure_compile_time_eval():
            space, positions, cutoff = self.sample()
            return allocate(space, positions, cutoff=cutoff, skin=self._skin(cutoff), slack=self.slack)

    def prepare(self) -> None:
        """Choose the capacities now, and not at the first `find`."""
        if self.listed:
            _ = self.template

    def find(self, space: Space, positions: jax.Array, cutoff: jax.Array) -> Pairs:
        """The neighbours closer than `cutoff`, `[]`, at `positions`, `[n, d]`, unit length."""
        if not self.listed:
            return AllPairs()
        return build(self.template, space, positions, cutoff=cutoff, skin=jnp.asarray(self._skin(cutoff)))

    def incomplete(self, pairs: Pairs, space: Space, cutoff: jax.Array) -> jax.Array:
        """Whether pairs closer than `cutoff`, `[]`, may be missing, bool [].

        Of a list a capacity is exceeded, or it was built for a shorter cutoff; of all pairs the cutoff exceeds half
        the box, so that there are further images.
        """
        return pairs.incomplete | (cutoff > pairs.largest_cutoff(space, self.dimension))

    def with_capacity(self, state: S) -> S:
        """A state that holds `positions`, flags and a list, with its list built anew, of these capacities."""
        if not self.listed:
            return state
        given: Any = state

        def rebuild(node: Any) -> Any:
            if not isinstance(node, NeighborList):
                return node
            return build(self.template, node.space, given.positions, cutoff=node.cutoff, skin=node.skin)

        rebuilt = jax.tree.map(rebuild, given, is_leaf=lambda node: isinstance(node, NeighborList))
        (found,) = neighbor_lists(rebuilt)
        return dataclasses.replace(rebuilt, overflow=found.overflow & ~given.nonfinite)

    def _skin(self, cutoff: Any) -> Any:
        return self.skin * cutoff if self.skin_unit == "cutoff" else self.skin
