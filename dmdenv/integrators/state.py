"""What every integrator carries from step to step."""

from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Number
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.neighbors import AllPairs, NeighborList, Pairs, update
from dmdenv.potentials import Potential
from dmdenv.quantities import kinetic_energy
from dmdenv.space import Space


@pytree
class State(Replaceable):
    """A configuration in motion. Made by an integrator's `init`, moved on by its `step`.

    The box may change between steps: `state.replace(space=...)`.
    """

    space: Space
    positions: jax.Array  # [n, d], unit length; not wrapped: continuous in time
    velocities: jax.Array  # [n, d], unit length / time
    forces: jax.Array  # [n, d], unit energy / length, at these positions
    masses: jax.Array  # [n], unit mass
    pairs: Pairs
    time: jax.Array  # float [], unit time; the sum of the steps, with the rounding of its precision

    @classmethod
    def start(
        cls,
        potential: Potential,
        space: Space,
        positions: jax.Array,
        *,
        velocities: jax.Array | None,
        masses: jax.Array | float,
        pairs: Pairs,
        **own: Any,
    ) -> Self:
        """The state at time 0, with the forces of the potential; at rest without velocities.

        Raises:
            ValueError: for positions that are not `[n, d]` floats, velocities of another shape, masses that are not
                positive, `[]` or `[n]`, a neighbour list that reaches less far than the potential.
        """
        positions = checked_positions(positions)
        velocities = jnp.zeros_like(positions) if velocities is None else jnp.asarray(velocities, positions.dtype)
        if velocities.shape != positions.shape:
            raise ValueError(f"velocities has shape {velocities.shape}; must be {positions.shape}, as positions")
        check_reach(potential, pairs)
        state = cls(
            space=space,
            positions=positions,
            velocities=velocities,
            forces=jnp.zeros_like(positions),
            masses=checked_masses(masses, positions),
            pairs=pairs,
            time=jnp.zeros((), positions.dtype),
            **own,
        )
        return state.moved_to(potential, positions)

    def moved_to(self, potential: Potential, positions: jax.Array) -> Self:
        """The state at other positions, `[n, d]`, with the neighbours and the forces there."""
        pairs = refreshed(self.pairs, self.space, positions)
        forces = potential.forces(self.space, positions, pairs)
        return self.replace(positions=positions, pairs=pairs, forces=forces)

    @property
    def kinetic_energy(self) -> jax.Array:
        """`K = sum_i m_i v_i^2 / 2`, `[]`, unit energy."""
        return kinetic_energy(self.velocities, self.masses)

    @property
    def overflow(self) -> jax.Array:
        """bool []: a capacity of the neighbour list has been exceeded, so that pairs may be missing."""
        return overflow(self.pairs)


@pytree
class StochasticState(State):
    """A state with noise to draw, and the account of what the noise and the friction have done."""

    key: jax.Array  # key [], split at each step
    heat: jax.Array  # float [], unit energy: taken from the heat bath so far; the sum of the steps, as they round


def refreshed(pairs: Pairs, space: Space, positions: jax.Array) -> Pairs:
    """The neighbours at these positions: a list is updated, all pairs are all pairs."""
    return update(pairs, space, positions) if isinstance(pairs, NeighborList) else pairs


def overflow(pairs: Pairs) -> jax.Array:
    """bool []: the overflow of a list, False for all pairs."""
    return pairs.overflow if isinstance(pairs, NeighborList) else jnp.asarray(False)


def checked_positions(positions: jax.Array) -> jax.Array:
    """Positions as an array, refused unless they are floats `[n, d]`."""
    positions = jnp.asarray(positions)
    if positions.ndim != 2 or not jnp.issubdtype(positions.dtype, jnp.floating):
        raise ValueError(f"positions is {positions.dtype}{list(positions.shape)}; must be floating-point [n, d]")
    return positions


def checked_masses(masses: jax.Array | float, positions: jax.Array) -> jax.Array:
    """Masses `[n]`, refused unless they are positive, `[]` or `[n]`."""
    n = positions.shape[0]
    found = Number(above=0, axes=1).converted("masses", masses)
    if found.shape not in ((), (n,)):
        raise ValueError(f"masses has shape {found.shape}; must be [] or [{n}]")
    return jnp.broadcast_to(found.astype(positions.dtype), (n,))


def check_reach(potential: Potential, pairs: Pairs) -> None:
    """Refuse a neighbour list, where its values are concrete, that reaches less far than the potential."""
    if isinstance(pairs, AllPairs):
        return
    reach, cutoff = potential.reach, pairs.cutoff
    if isinstance(reach, jax.core.Tracer) or isinstance(cutoff, jax.core.Tracer):
        return
    if np.any(np.asarray(reach) > np.asarray(cutoff) * (1 + 1e-5)):
        raise ValueError(f"pairs has cutoff = {cutoff}; valid: at least the reach of the potential, {reach}")
