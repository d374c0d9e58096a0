"""The state that integrators carry from step to step.

In a periodic space positions are kept in the cell, with the number of its copy in which a particle is: far from the
origin floating-point numbers are too coarse for distances. What rounding takes from positions, times and heat at each
step is kept too and added at the next one, so that an error does not grow with the number of steps.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from dmdenv._core.accumulate import accumulate
from dmdenv._core.fields import Number
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.neighbors import Pairs
from dmdenv.potentials import Potential
from dmdenv.quantities import kinetic_energy
from dmdenv.space import Space


@pytree
class IntegratorState(Replaceable):
    """A configuration in motion. Made by an integrator's `init`, advanced by its `step`.

    `place` moves the particles, and `deform` the box with them.
    """

    summed: ClassVar[tuple[str, ...]] = ()  # fields of a subclass that are sums over the steps

    space: Space
    positions: jax.Array  # [n, d], unit length; in the cell of a periodic space
    images: jax.Array  # int32 [n, d], in which copy of the cell a particle is: see `unwrapped`
    velocities: jax.Array  # [n, d], unit length / time
    forces: jax.Array  # [n, d], unit energy / length, at these positions
    masses: jax.Array  # [n], unit mass
    pairs: Pairs
    time: jax.Array  # float [], unit time; the sum of all time steps
    lost: dict[str, jax.Array]  # what rounding has taken from a field, by its name

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
        sums = {"time": jnp.zeros((), positions.dtype)}
        sums |= {name: own[name] for name in cls.summed if name in own}
        state = cls(
            space=space,
            positions=positions,
            images=jnp.zeros(positions.shape, jnp.int32),
            velocities=velocities,
            forces=jnp.zeros_like(positions),
            masses=check_masses(masses, positions),
            pairs=pairs,
            lost={name: jnp.zeros_like(value) for name, value in {"positions": positions, **sums}.items()},
            **own | sums,
        )
        return state.place(potential, positions)

    def place(self, potential: Potential, positions: jax.Array) -> Self:
        """The state with its particles elsewhere, at `[n, d]`, unit length, and the neighbours and forces there.

        Args:
            potential: gives the forces.
            positions: `[n, d]`, unit length, in any copy of the cell: the new `unwrapped`.
        """
        lost = {**self.lost, "positions": jnp.zeros_like(positions)}
        return self._evaluate(potential, self.space, positions, jnp.zeros_like(self.images), lost)

    def move(self, potential: Potential, displacement: jax.Array) -> Self:
        """The state after a displacement, `[n, d]`, unit length, with the neighbours and the forces there."""
        positions, lost = accumulate(self.positions, self.lost["positions"], displacement)
        return self._evaluate(potential, self.space, positions, self.images, {**self.lost, "positions": lost})

    def deform(self, potential: Potential, space: Space) -> Self:
        """The state in another box, into which the particles follow, each in its copy of the cell, at their velocities.

        Args:
            potential: gives the forces.
            space: of the same class.

        Raises:
            TypeError: for a space of another class.
        """
        if type(space) is not type(self.space):
            raise TypeError(f"space is a {type(space).__name__}; must be a {type(self.space).__name__}, as before")
        positions, _ = self.space.follow(self.positions, space)
        return self._evaluate(potential, space, positions, self.images, self.lost)

    def add(self, **increments: jax.Array) -> Self:
        """The state with increments of `time` or `bath_energy` added."""
        changed, lost = {}, dict(self.lost)
        for name, increment in increments.items():
            changed[name], lost[name] = accumulate(getattr(self, name), lost[name], increment)
        return self.replace(lost=lost, **changed)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            ValueError: for a name that is not a field; for a space or positions without forces, which would be those of
                another configuration.
        """
        check_replaced(self, changes, "use place(potential, positions) or deform(potential, space)")
        return super().replace(**changes)

    def _evaluate(
        self, potential: Potential, space: Space, positions: jax.Array, images: jax.Array, lost: dict[str, jax.Array]
    ) -> Self:
        """The state at positions in any copy of the cell, wrapped, with what rounding takes, neighbours and forces."""
        moved, wrapped, rounding = space.split(positions)
        lost = {**lost, "positions": lost["positions"] + rounding}
        pairs, forces = _interact(potential, space, wrapped, self.pairs)
        return self.replace(
            space=space, positions=wrapped, images=images + moved, lost=lost, pairs=pairs, forces=forces
        )

    @property
    def unwrapped(self) -> jax.Array:
        """Positions that are continuous in time, `[n, d]`, unit length: `positions` and whole edges of the cell."""
        return self.positions + self.space.offset(self.images).astype(self.positions.dtype)

    @property
    def kinetic_energy(self) -> jax.Array:
        """`K = sum_i m_i v_i^2 / 2`, `[]`, unit energy."""
        return kinetic_energy(self.velocities, self.masses)

    @property
    def overflow(self) -> jax.Array:
        """bool []: pairs may be missing, as a list's capacity or half the box has been exceeded."""
        return self.pairs.incomplete


@functools.partial(jax.jit, inline=True)  # so that `init` outside of compiled code compiles once
def _interact(potential: Potential, space: Space, positions: jax.Array, pairs: Pairs) -> tuple[Pairs, jax.Array]:
    """The neighbours and the forces at new positions."""
    pairs = pairs.update(space, positions).flag_cutoff(potential.cutoff, space, positions.shape[1])
    return pairs, potential.forces(space, positions, pairs)


@pytree
class StochasticState(IntegratorState):
    """A state of a method with noise, and the energy that noise and friction have exchanged with the bath."""

    summed: ClassVar = ("bath_energy",)

    key: jax.Array  # key [], split at each step
    bath_energy: jax.Array  # float [], unit energy: taken from the heat bath so far

    def reseed(self, key: jax.Array) -> Self:
        """The same state with the noise of another key, which is consumed, as `init` would have begun it."""
        return self.replace(key=jax.random.split(key)[0])


def check_replaced(state: Replaceable, changes: Mapping[str, Any], remedy: str) -> None:
    """Refuse to replace the configuration alone, and keep the forces of another one."""
    alone = [name for name in ("space", "positions") if name in changes and "forces" not in changes]
    if alone:
        raise ValueError(
            f"{type(state).__name__}.replace({alone[0]}=...) would keep forces and neighbours of another configuration;"
            f" {remedy}"
        )


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
