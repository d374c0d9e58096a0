"""Terms of a fixed topology: a function of the length of a bond, of an angle or of a dihedral."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from dmdenv._core.fields import Number
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.potentials.topology import Topology, topology
from dmdenv.space import Space

TermParameter = Any  # a number for all terms, an array [m] with one for each term, or a tuple of these


@pytree
class Bonded(Potential):
    """The energy of m terms, each a function of one coordinate of k particles.

    Made by `bond_potential`, `angle_potential`, `dihedral_potential` and by each potential's own function. It needs no
    neighbours: `pairs` is ignored, and `cutoff` is 0. In a periodic box terms take the nearest images. The energy of a
    term is shared equally by its particles.
    """

    function: Callable[..., jax.Array] = static()  # (coordinate, **parameters) -> energy, all []
    coordinate: Callable[..., Any] = static()  # (space, *positions [d]) -> [], or a tuple of []
    topology: Topology
    parameters: dict[str, TermParameter]  # leaves [] or [m]; differentiable

    @property
    def cutoff(self) -> jax.Array:
        return jnp.asarray(0.0)

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        terms = self.term_energies(space, positions)
        roles = len(self.topology.particles)
        return self.topology.collect(jnp.broadcast_to(terms / roles, (roles, len(terms))), len(positions))

    def energy(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return jnp.sum(self.term_energies(space, positions))

    def coordinates(self, space: Space, positions: jax.Array) -> Any:
        """The coordinate of each term, such as a length or an angle, `[m]` or a tuple of these."""
        return jax.vmap(self.coordinate, (None, *[-1] * len(self.topology.particles)))(
            space, *jnp.moveaxis(self.topology.gather(positions), -2, 0)
        )

    def term_energies(self, space: Space, positions: jax.Array) -> jax.Array:
        """The energy of each term, `[m]`."""
        per_term = jax.tree.map(lambda p: 0 if jnp.ndim(p) else None, self.parameters)
        x = self.coordinates(space, positions)
        return jax.vmap(lambda x, own: self.function(x, **own), (0, per_term))(x, self.parameters)


def make_bonded(
    function: Callable[..., jax.Array],
    coordinate: Callable[..., Any],
    name: str,
    particles: ArrayLike,
    roles: int,
    parameters: dict[str, TermParameter],
    *,
    above: dict[str, float] | None = None,
) -> Bonded:
    """A `Bonded` of checked topology and parameters, some of which have lower bounds `above`."""
    terms = topology(name, particles, roles)
    own = {
        key: as_term_parameter(key, value, terms.count, (above or {}).get(key, -math.inf))
        for key, value in parameters.items()
    }
    return Bonded(function=function, coordinate=coordinate, topology=terms, parameters=own)


def as_term_parameter(name: str, value: TermParameter, terms: int, above: float = -math.inf) -> TermParameter:
    """The parameter as arrays of the default precision.

    Raises:
        ValueError: for an array that is neither a number nor one for each term; for concrete values that are not
            finite, or not above `above`.
    """
    if isinstance(value, tuple):
        return tuple(as_term_parameter(name, part, terms, above) for part in value)
    found = Number(above=above, axes=None).convert(name, value)
    if found.shape not in ((), (terms,)):
        raise ValueError(f"{name} has shape {found.shape}; must be a number or [{terms}], one per term")
    return found
