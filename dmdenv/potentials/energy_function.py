"""Any function of a configuration as a potential: a learned energy, another code's model, a formula of your own.

    U = function(positions, space, **parameters),  F = -dU/dr,  W = -dU/d(strain)

all by automatic differentiation. The strain deforms the positions and the cell: the virial is right for a function that
reads positions and the cell's vectors, as for one that asks the space for displacements.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Number
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.space import PeriodicSpace, Space, Triclinic


@pytree
class EnergyFunction(Potential):
    """An energy function and its parameters. Made by `from_energy`."""

    function: Callable[..., jax.Array] = static()
    parameters: dict[str, Any]  # pytrees of arrays; differentiable
    pair_cutoff: jax.Array | None  # of the neighbours that the function is given; None: it is given none

    @property
    def cutoff(self) -> jax.Array:
        """That of the neighbours; 0 for a function that is given none."""
        return jnp.asarray(0.0) if self.pair_cutoff is None else self.pair_cutoff

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """What the function returns for each particle, `[n]`; equal shares of an energy that it returns as one."""
        found = self._evaluate(space, positions, pairs)
        return found if found.ndim else jnp.full(len(positions), found / len(positions))

    def energy(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return jnp.sum(self._evaluate(space, positions, pairs))

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """`W_ab = -dU/d(strain_ab)`, `[d, d]`, symmetric: the energy is taken to be the same after a rotation."""
        if self.pair_cutoff is not None:
            return super().virial(space, positions, pairs)  # lists and kernels ask the space for displacements
        cell = space.cell_vectors(positions.shape[-1])
        if isinstance(space, PeriodicSpace) and cell is not None:
            space = Triclinic(cell)

        def strained_energy(deformation):
            # a cell stays lower triangular under the upper triangle of a strain; rotation gives the rest
            return self.energy(*space.deform(jnp.triu(deformation), positions), pairs)

        slopes = -jax.grad(strained_energy)(jnp.eye(positions.shape[-1], dtype=positions.dtype))
        return slopes + jnp.triu(slopes, 1).T

    def _evaluate(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        if self.pair_cutoff is None:
            found = self.function(positions, space, **self.parameters)
        else:
            found = self.function(positions, space, pairs, **self.parameters)
        found = jnp.asarray(found)
        if found.shape not in ((), (len(positions),)) or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"{self.function} returns {found.dtype}{list(found.shape)}; must be an energy [], or one per particle"
                f" [{len(positions)}], of floating-point numbers"
            )
        return found


def from_energy(function: Callable[..., jax.Array], *, cutoff: float | None = None, **parameters: Any) -> Potential:
    """A potential from your own energy of a configuration, differentiated by JAX.

        def energy(positions, space, stiffness):
            bonds = space.displacement(positions[1:], positions[:-1])
            return 0.5 * stiffness * jnp.sum(bonds**2)

        spring = from_energy(energy, stiffness=3.0)

    Args:
        function: `function(positions, space, **parameters)`, positions `[n, d]`, returns the energy `[]`, unit energy,
            or the share of each particle, `[n]`. It should know nothing of direction: the virial takes the energy to be
            the same after a rotation. Cells are in `space.cell_vectors(d)` (for the virial even an orthorhombic box is
            a `Triclinic`). A function that is defined once (not a new lambda at each call) shares compiled code.
        cutoff: for a function that sums over neighbours, `function(positions, space, pairs, **parameters)`: how far
            they must reach, unit length. `pairs` is what integrators and minimisers keep up to date, all pairs or a
            list; `dmdenv.neighbors.neighbor_sum` sums over it. There only displacements are strained for the virial.
        parameters: numbers, arrays, or pytrees of them, such as the weights of a network; differentiable.

    Raises:
        TypeError, ValueError: for what is no function, parameters that are not finite numbers, a cutoff that is not
            positive; when it is evaluated, for an energy of another shape.
    """
    if not callable(function):
        raise TypeError(f"function = {function!r}; must be a function of positions and space")
    reach = None if cutoff is None else Number(above=0.0).convert("cutoff", cutoff)
    return EnergyFunction(
        function=function,
        parameters={name: _arrays(name, value) for name, value in parameters.items()},
        pair_cutoff=reach,
    )


def _arrays(name: str, value: Any) -> Any:
    def convert(path, leaf):
        return Number(axes=None, keep_precision=True).convert(name + jax.tree_util.keystr(path), leaf)

    return jax.tree_util.tree_map_with_path(convert, value)
