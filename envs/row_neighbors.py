"""Where the rows of an observation are, so that a policy's rows can talk to their neighbours."""

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.neighbors import Pairs
from dmdenv.space import Space


@pytree
class RowNeighbors(Replaceable):
    """n rows in space, each with a frame of its own, and which of them are near each other."""

    space: Space
    positions: jax.Array  # float [n, d], unit length
    frames: jax.Array  # float [n, d, d], the axes of each row's own frame, orthonormal
    present: jax.Array  # float [n], 1; 0 for rows that nobody sees
    range: jax.Array  # float [], how far rows see, unit length
    pairs: Pairs  # all that are closer than the range, at least

    @property
    def features(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What `relate` compares, leaves `[n, ...]`."""
        return self.positions, self.frames, self.present

    def relate(
        self, i: tuple[jax.Array, jax.Array, jax.Array], j: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """How row i sees row j, whose `features` are given.

        Returns:
            `(weight, relation)`. The weight is `(1 - r^2 / range^2)^2` within the range and 0 beyond, [], so that
            nothing jumps when a neighbour comes into view. The relation, `[2 d]`, is the vector to j, over the range,
            and the first axis of j's frame, both in the frame of i.
        """
        (here, frame, present), (there, other, seen) = i, j
        away = self.space.displacement(there, here) / self.range
        near = jnp.maximum(1.0 - jnp.sum(away**2), 0.0) ** 2
        return present * seen * near, jnp.concatenate([frame @ away, frame @ other[0]])

    @property
    def relation_size(self) -> int:
        """2 d."""
        return 2 * self.positions.shape[-1]
