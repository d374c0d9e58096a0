"""Neighbour relations: their interface, and the relation of all pairs."""

import abc
from collections.abc import Callable
from typing import Any, Self, final

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.space import Space


class Pairs(Replaceable, abc.ABC):
    """A symmetric relation between particles: j is a neighbour of i if and only if i is one of j."""

    @property
    @abc.abstractmethod
    def arrays(self) -> tuple[jax.Array, ...]:
        """The indices of neighbours, int32 `[K, n]`, and how many of the K columns are in use; none for all pairs."""

    @property
    @abc.abstractmethod
    def count(self) -> int | None:
        """The number of particles, or None for any."""

    @property
    @abc.abstractmethod
    def incomplete(self) -> jax.Array:
        """bool []: a capacity has been exceeded, so that pairs may be missing."""

    @abc.abstractmethod
    def update(self, space: Space, positions: jax.Array) -> Self:
        """The neighbours at new positions `[n, d]`, perhaps in a new box: see `dmdenv.neighbors.update`."""

    @abc.abstractmethod
    def flag_cutoff(self, cutoff: jax.Array, space: Space, dimension: int) -> Self:
        """The same pairs, `incomplete` from now on where a finite cutoff, `[]`, exceeds the largest one.

        What `check_cutoff` refuses outside of compiled code: to be called where a box or a cutoff may have changed.
        """

    @abc.abstractmethod
    def in_space(self, change: Callable[[Space], Space]) -> Self:
        """The same pairs, with a change made to the space that they store, if they store one."""

    @abc.abstractmethod
    def largest_cutoff(self, space: Space, dimension: int) -> jax.Array:
        """The distance up to which all pairs are present, each once, float [], unit length."""

    @abc.abstractmethod
    def check_cutoff(
        self, name: str, cutoff: jax.Array | float, space: Space, dimension: int, *, endless: bool = False
    ) -> None:
        """Refuse a cutoff beyond the largest one, where both are concrete.

        Args:
            name: what the message calls the cutoff.
            cutoff: unit length.
            space: where the particles are.
            dimension: d.
            endless: whether an infinite cutoff is fine where there are all pairs, each of which counts once.

        Raises:
            ValueError: for a longer cutoff.
        """

    def within(
        self, name: str, cutoff: jax.Array | float, space: Space, positions: jax.Array, *, endless: bool = False
    ) -> jax.Array:
        """The positions `[n, d]`, for a sum up to a cutoff: see `check_cutoff`.

        In compiled code they are NaN for a longer cutoff, which every sum passes on, unless `incomplete` says already
        that pairs may be missing.
        """
        dimension = positions.shape[1]
        self.check_cutoff(name, cutoff, space, dimension, endless=endless)
        limit = _known(lambda: self.largest_cutoff(space, dimension))
        if not isinstance(limit, jax.core.Tracer) and (np.isinf(limit) or not isinstance(cutoff, jax.core.Tracer)):
            return positions
        beyond = exceeds(cutoff, limit) & ~self.incomplete
        if endless:
            beyond &= jnp.isfinite(cutoff)
        return positions + jnp.where(beyond, jnp.nan, 0.0).astype(positions.dtype)


@final
@pytree
class AllPairs(Pairs):
    """All particles are neighbours of each other: best for small systems."""

    # bool [], sticky: a cutoff has exceeded half the box, so that there are further images; None where nobody looks
    overflow: jax.Array | None = None

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        return ()

    @property
    def count(self) -> int | None:
        """None: any number of particles."""
        return None

    @property
    def incomplete(self) -> jax.Array:
        """bool []: a cutoff has exceeded half the box, so that pairs have more than one image."""
        return jnp.asarray(False) if self.overflow is None else self.overflow

    def update(self, space: Space, positions: jax.Array) -> Self:
        return self

    def flag_cutoff(self, cutoff: jax.Array, space: Space, dimension: int) -> Self:
        limit = _known(lambda: space.largest_cutoff(dimension))
        if not isinstance(limit, jax.core.Tracer) and np.isinf(limit):
            return self  # nothing exceeds it
        beyond = exceeds(cutoff, limit) & jnp.isfinite(cutoff)
        return self.replace(overflow=self.incomplete | beyond)

    def in_space(self, change: Callable[[Space], Space]) -> Self:
        return self

    def largest_cutoff(self, space: Space, dimension: int) -> jax.Array:
        """That of the space."""
        return space.largest_cutoff(dimension)

    def check_cutoff(
        self, name: str, cutoff: jax.Array | float, space: Space, dimension: int, *, endless: bool = False
    ) -> None:
        beyond = beyond_limit(cutoff, lambda: space.largest_cutoff(dimension))
        if beyond and not (endless and np.isinf(beyond[0])):
            kind = f"in {type(space).__name__} space, for a pair to have one image"
            raise ValueError(f"{name} = {beyond[0]:g}; must be at most {beyond[1]:g} {kind}")


def beyond_limit(cutoff: jax.Array | float, limit: Callable[[], jax.Array]) -> tuple[float, float] | None:
    """Cutoff and limit, where both are concrete and the first exceeds the second by more than rounding."""
    known = _known(limit)
    if isinstance(cutoff, jax.core.Tracer) or isinstance(known, jax.core.Tracer):
        return None
    longest, shortest = np.max(np.asarray(cutoff)), np.min(np.asarray(known))
    return (float(longest), float(shortest)) if exceeds(longest, shortest, jnp.result_type(cutoff, known)) else None


def _known(limit: Callable[[], jax.Array]) -> jax.Array:
    """A limit that is concrete inside of compiled code too, if all it depends on is."""
    with jax.ensure_compile_time_eval():
        return limit()


def exceeds(cutoff: Any, limit: Any, dtype: DTypeLike | None = None) -> Any:
    """Whether a cutoff is longer than a limit, by more than the rounding of what both are computed from, bool []."""
    eps = float(jnp.finfo(jnp.result_type(cutoff, limit) if dtype is None else dtype).eps)
    return cutoff > limit * (1 + 4 * eps)
