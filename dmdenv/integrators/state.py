"""The state that integrators carry from step to step."""

from typing import Any, Self

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Number
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.neighbors import Pairs
from dmdenv.potentials import Potential
from dmdenv.quantities import kinetic_energy
from dmdenv.space import Space


@pytree
class IntegratorState(Replaceable):
    """A configuration in motion. Made by an integrator's `init`, advanced by its `step`.

    The box may change between steps: `state.replace(space=...)`.
    """

    space: Space
    positions: jax.Array  # [n, d], unit length; not wrapped: continuous in time
    velocities: jax.Array  # [n, d], unit length / time
    forces: jax.Array  # [n, d], unit energy / length, at these positions
    masses: jax.Array  # [n], unit mass
    pairs: Pairs
    time: jax.Array  # float [], unit time; the sum of all time steps, with its rounding errors

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
                positive, `[]` or `[n]`, or a potential with a longer cutoff than the pairs.
        """
        positions = check_positions(positions)
        velocities = jnp.zeros_like(positions) if velocities is None else jnp.asarray(velocities, positions.dtype)
        if velocities.shape != positions.shape:
            raise ValueError(f"velocities has shape {velocities.shape}; must be {positions.shape}, as positions")
        pairs.check_cutoff("potential.cutoff", potential.cutoff, space, positions.shape[1], endless=True)
        state = cls(
            space=space,
            positions=positions,
            velocities=velocities,
            forces=jnp.zeros_like(positions),
            masses=check_masses(masses, positions),
            pairs=pairs,
            time=jnp.zeros((), positions.dtype),
            **own,
        )
        return state.move_to(potential, positions)

    def move_to(self, potential: Potential, positions: jax.Array) -> Self:
        """The state at other positions, `[n, d]`, with the neighbours and the forces there."""
        pairs = self.pairs.update(self.space, positions)
        forces = potential.forces(self.space, positions, pairs)
        return self.replace(positions=positions, pairs=pairs, forces=forces)

    @property
    def kinetic_energy(self) -> jax.Array:
        """`K = sum_i m_i v_i^2 / 2`, `[]`, unit energy."""
        return kinetic_energy(self.velocities, self.masses)

    @property
    def overflow(self) -> jax.Array:
        """bool []: a capacity of the neighbour list has been exceeded, so that pairs may be missing."""
        return self.pairs.incomplete


@pytree
class StochasticState(IntegratorState):
    """A state of a method with noise, and the energy that noise and friction have exchanged with the bath."""

    key: jax.Array  # key [], split at each step
    bath_energy: jax.Array  # float [], unit energy: taken from the heat bath so far, with its rounding errors

    def reseed(self, key: jax.Array) -> Self:
        """The same state with the noise of another key, which is consumed, as `init` would have begun it."""
        return self.replace(key=jax.random.split(key)[0])


def check_positions(positions: jax.Array) -> jax.Array:
    """Positions as an array, refused unless they are floats `[n, d]` of at least one particle."""
    positions = jnp.asarray(positions)
    if positions.ndim != 2 or 0 in positions.shape or not jnp.issubdtype(positions.dtype, jnp.floating):
        raise ValueError(
            f"positions is {positions.dtype}{list(positions.shape)}; must be floating-point [n, d], n >= 1"
        )
    return positions


def check_masses(masses: jax.Array | float, positions: jax.Array) -> jax.Array:
    """Masses `[n]`, refused unless they are positive, `[]` or `[n]`."""
    n = positions.shape[0]
    found = Number(above=0, axes=1).convert("masses", masses)
    if found.shape not in ((), (n,)):
        raise ValueError(f"masses has shape {found.shape}; must be [] or [{n}]")
    return jnp.broadcast_to(found.astype(positions.dtype), (n,))
