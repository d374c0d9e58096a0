"""The interface of a minimiser: `init` and `step`; its state, and what the steps of all methods share."""

import abc
import dataclasses
import functools
from typing import Any, Generic, Self, TypeVar, get_args

import jax
import jax.core
import jax.numpy as jnp

from dmdenv._core.fields import Declared, Scalar, choice, number
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.integrators.state import check_replaced
from dmdenv.minimizers import box as boxes
from dmdenv.minimizers.box import BoxMode
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space, norm

Direction = tuple[jax.Array, ...]  # [n, d] for the particles and, where the box may change, [d, d], unit length


@pytree
class MinimizerState(Replaceable):
    """A configuration on its way to a minimum. Made by a minimiser's `init`, advanced by its `step`."""

    space: Space
    positions: jax.Array  # [n, d], unit length; not wrapped
    forces: jax.Array  # [n, d], unit energy / length, at these positions
    box_force: jax.Array | None  # [d, d], unit energy / length, `P(W - p V 1) / l`; None where the box is fixed
    pairs: Pairs

    @property
    def direction(self) -> Direction:
        """Steepest descent: minus the derivative of the energy, or of the enthalpy where the box may change."""
        return (self.forces,) if self.box_force is None else (self.forces, self.box_force)

    @property
    def largest_force(self) -> jax.Array:
        """`max_i |F_i|`, `[]`, unit energy / length; NaN where a force is."""
        return jnp.sqrt(jnp.max(jnp.sum(self.forces**2, axis=1)))

    @property
    def largest_stress(self) -> jax.Array:
        """The stress left on the box, `max_ab |P(W / V - p)_ab|`, `[]`, unit pressure; 0 where it is fixed.

        For an isotropic box that is the deviation of the pressure from its target.
        """
        if self.box_force is None:
            return jnp.zeros((), self.positions.dtype)
        scale = boxes.length(self.space, self.positions) / self.space.volume(self.positions.shape[1])
        return scale * jnp.max(jnp.abs(self.box_force))

    @property
    def overflow(self) -> jax.Array:
        """bool []: pairs may be missing, as a list's capacity or half the box has been exceeded."""
        return self.pairs.incomplete

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            ValueError: for a name that is not a field; for a space or positions without forces, which would be those of
                another configuration: begin with `init` there.
        """
        check_replaced(self, changes, "begin there with init(potential, space, positions)")
        return super().replace(**changes)


S = TypeVar("S", bound=MinimizerState)


@pytree
class Minimizer(Declared, abc.ABC, Generic[S]):
    """A method to minimise the energy of the positions, or the enthalpy U + p V of positions and box.

    A minimiser is a pytree whose leaves are its dynamic parameters. Everything is pure and differentiable: a fixed
    number of steps may be scanned and differentiated; `minimize` stops by itself and has no reverse derivative.

    Args:
        box_mode: what the box may do: "fixed", "isotropic" (change its size), "axes" (each side by itself), "cell"
            (size and shape, of a `Triclinic` space).
        pressure: p, unit energy / length^d, for a box that is not fixed.

    Raises:
        ValueError: for another `box_mode`, a pressure that is not finite, or a pressure on a fixed box.
    """

    _: dataclasses.KW_ONLY
    box_mode: BoxMode = choice("fixed", of=get_args(BoxMode))
    pressure: Scalar = number(0.0)

    def __post_init__(self):
        super().__post_init__()
        if self.box_mode == "fixed" and not isinstance(self.pressure, jax.core.Tracer) and self.pressure != 0:
            raise ValueError(f"{type(self).__name__}.pressure = {self.pressure:g}; must be 0 for box_mode = 'fixed'")

    @abc.abstractmethod
    def init(self, potential: Potential, space: Space, positions: jax.Array, *, pairs: Pairs = AllPairs()) -> S:
        """The initial state.

        Args:
            potential: what to minimise.
            space: where the particles are.
            positions: `[n, d]`, unit length.
            pairs: `AllPairs()`, or a neighbour list with at least the cutoff of the potential.

        Raises:
            ValueError: for positions that are not `[n, d]` floats, a potential with a longer cutoff than the pairs, or
                a space without the degrees of freedom of `box_mode`.
        """

    @abc.abstractmethod
    def step(self, potential: Potential, state: S) -> S:
        """The state after one step, with one evaluation of the forces, and of the virial where the box may change."""

    def objective(self, potential: Potential, state: S) -> jax.Array:
        """The objective, `[]`, unit energy: U, or U + p V where the box may change."""
        energy = potential.energy(state.space, state.positions, state.pairs)
        if self.box_mode == "fixed":
            return energy
        return energy + self.pressure * state.space.volume(state.positions.shape[1])

    def _start(
        self, kind: type[S], potential: Potential, space: Space, positions: jax.Array, pairs: Pairs, **own: Any
    ) -> S:
        """The state at checked positions; `own` are the fields that the method adds."""
        d = positions.shape[1]
        pairs.check_cutoff("potential.cutoff", potential.cutoff, space, d, endless=True)
        space = boxes.prepare_space(self.box_mode, space, d)
        pairs = pairs.in_space(lambda space: boxes.prepare_space(self.box_mode, space, d))
        state = kind(space=space, positions=positions, forces=positions, box_force=None, pairs=pairs, **own)
        return self.evaluate(potential, state, space, positions)

    def _move(self, potential: Potential, state: S, displacement: Direction) -> S:
        """The state after a displacement of the particles and the box, with its forces."""
        space, positions = state.space, state.positions + displacement[0]
        if self.box_mode != "fixed":
            strain = displacement[1] / boxes.length(space, positions)
            space, positions = boxes.deform(space, positions, strain)
        return self.evaluate(potential, state, space, positions)

    @functools.partial(jax.jit, inline=True)  # so that `init` outside of compiled code compiles once
    def evaluate(self, potential: Potential, state: S, space: Space, positions: jax.Array) -> S:
        """The state at these positions in this space, with the neighbours and the forces there."""
        d = positions.shape[1]
        pairs = state.pairs.update(space, positions).flag_cutoff(potential.cutoff, space, d)
        forces = potential.forces(space, positions, pairs)
        state = state.replace(space=space, positions=positions, pairs=pairs, forces=forces)
        if self.box_mode == "fixed":
            return state
        push = self.pressure * space.volume(d) * jnp.eye(d, dtype=positions.dtype)
        net = boxes.project(self.box_mode, potential.virial(space, positions, pairs) - push)
        return state.replace(box_force=net / boxes.length(space, positions))


def no_motion(positions: jax.Array, box_mode: BoxMode) -> Direction:
    """A displacement of zero, of the particles and of the box."""
    d = positions.shape[1]
    particles = jnp.zeros_like(positions)
    return (particles,) if box_mode == "fixed" else (particles, jnp.zeros((d, d), positions.dtype))


def limit(displacement: Direction, largest: jax.Array | None) -> Direction:
    """The displacement, shortened as a whole so that no particle and no row of the box moves farther than `largest`."""
    if largest is None:
        return displacement
    farthest = jnp.max(jnp.concatenate([norm(part) for part in displacement]))
    factor = largest / jnp.maximum(farthest, largest)
    return tuple(factor * part for part in displacement)
