"""The interface of a potential: energies, from which forces and virials follow."""

import abc
import functools

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.neighbors import Pairs
from dmdenv.space import Deformed, Space


class Potential(Replaceable, abc.ABC):
    """The potential energy of a configuration, a pytree whose leaves are its dynamic parameters.

    A subclass gives `cutoff` and `energies`; everything else is derived from them, and may be overridden where there is
    a faster way. `pairs` are the neighbours; potentials with a topology of their own (bonds) ignore them.
    The sum `a + b` of two potentials is a potential.
    """

    @property
    @abc.abstractmethod
    def cutoff(self) -> jax.Array:
        """The distance beyond which two particles do not interact, float [], unit length.

        A neighbour list needs at least this cutoff. 0 for a potential without pairs, infinite for one without cutoff.
        """

    @abc.abstractmethod
    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """The share of each particle in the energy, `[n]`; a pair's energy is shared equally."""

    def energy(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """The potential energy U, `[]`."""
        return jnp.sum(self.energies(space, positions, pairs))

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """`F_i = -dU/dr_i`, `[n, d]`, in units of energy over length."""
        return -jax.grad(self.energy, argnums=1)(space, positions, pairs)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """`W_ab = -dU/d(strain_ab)`, `[d, d]`, in units of energy: `sum_{i<j} r_a F_b` for pairs.

        The strain e deforms all displacements and the box, r -> (1 + e) r. The stress is `-W / V` plus the kinetic
        part. Reference: Thompson, Plimpton and Mattson, J. Chem. Phys. 131, 154107 (2009), eq. 12.
        """

        def strained_energy(deformation):
            return self.energy(Deformed(space, deformation), positions, pairs)  # pyright: ignore[reportArgumentType]

        return -jax.grad(strained_energy)(jnp.eye(positions.shape[-1], dtype=positions.dtype))

    def __add__(self, other: "Potential") -> "Sum":
        if not isinstance(other, Potential):
            return NotImplemented
        return Sum(terms=(*_terms(self), *_terms(other)))


def _terms(potential: Potential) -> tuple[Potential, ...]:
    return potential.terms if isinstance(potential, Sum) else (potential,)


@pytree
class Sum(Potential):
    """The sum of potentials."""

    terms: tuple[Potential, ...]

    @property
    def cutoff(self) -> jax.Array:
        """The longest of the terms."""
        return functools.reduce(jnp.maximum, [term.cutoff for term in self.terms])

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return sum(term.energies(space, positions, pairs) for term in self.terms)  # pyright: ignore[reportReturnType]

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return sum(term.forces(space, positions, pairs) for term in self.terms)  # pyright: ignore[reportReturnType]

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return sum(term.virial(space, positions, pairs) for term in self.terms)  # pyright: ignore[reportReturnType]
