"""The damped shifted force: charges with a cutoff, without a sum over reciprocal vectors.

Reference: Fennell and Gezelter, J. Chem. Phys. 124, 234104 (2006), eq. 18; the idea and the self energy: Wolf,
Keblinski, Phillpot and Eggebrecht, J. Chem. Phys. 110, 8254 (1999), section III.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Number
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.potentials.pair import PairPotential, distance
from dmdenv.potentials.parameters import BySpecies, Parameter, PerParticle, products
from dmdenv.space import Space


@pytree
class DampedShiftedForce(Potential):
    """Charges that interact up to a cutoff. Made by `damped_shifted_force`."""

    charges: jax.Array | BySpecies  # [n] or [], unit charge, or their products by species
    damping: jax.Array  # alpha, [], unit 1 / length
    pair_cutoff: jax.Array  # [], unit length
    coulomb_constant: jax.Array  # [], unit energy length / charge^2
    self_energy: bool = static()

    @property
    def cutoff(self) -> jax.Array:
        return self.pair_cutoff

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        energies = self._pairs.energies(space, positions, pairs)
        return energies + self._own_energies(len(positions)) if self.self_energy else energies

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return self._pairs.forces(space, positions, pairs)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return self._pairs.virial(space, positions, pairs)

    @property
    def _pairs(self) -> PairPotential:
        product: Parameter
        if isinstance(self.charges, BySpecies):
            product = self.charges
        else:
            product = products(self.charges) if self.charges.ndim else self.charges**2
        return PairPotential(
            function=_energy,
            parameters={"product": product, "damping": self.damping, "coulomb_constant": self.coulomb_constant},
            pair_cutoff=self.pair_cutoff,
            onset=None,
            cutoff_unit=None,
            truncation="force_shifted",
        )

    def _own_energies(self, n: int) -> jax.Array:
        """Half of what remains of u(r) at r = 0 without q^2 / r, `[n]`."""
        if isinstance(self.charges, BySpecies):
            kinds = jax.nn.one_hot(self.charges.species, len(self.charges.matrix), dtype=self.charges.matrix.dtype)
            diagonal = jnp.sum(
                self.charges.matrix * jnp.eye(len(self.charges.matrix), dtype=self.charges.matrix.dtype), axis=0
            )
            squares = jnp.sum(kinds * diagonal[None, :], axis=1)
        else:
            squares = jnp.broadcast_to(self.charges**2, (n,))
        x = self.damping * self.pair_cutoff
        gauss = self.damping / math.sqrt(math.pi)
        at_origin = 2.0 * jax.lax.erfc(x) / self.pair_cutoff + 2.0 * gauss * (1.0 + jnp.exp(-(x**2)))
        return -0.5 * self.coulomb_constant * at_origin * squares


def damped_shifted_force(
    *,
    charges: float | np.ndarray | jax.Array | PerParticle | BySpecies,
    damping: float | jax.Array = 0.0,
    cutoff: float | jax.Array,
    coulomb_constant: float | jax.Array = 1.0,
    self_energy: bool = True,
) -> DampedShiftedForce:
    """Charges whose energy and force go smoothly to zero at a cutoff: O(n), for any space and any net charge.

        u(r) = C q_i q_j (v(r) - v(rc) - (r - rc) v'(rc)),  v(r) = erfc(alpha r) / r

    Each sphere of radius rc is neutral, as if the charges inside had their opposites on its surface. The energy of a
    charge with its own opposite is constant and does no work; with it, the energy of a crystal is close to that of its
    full Coulomb sum (Madelung's):

        u_self = C q_i^2 (v(r) - v(rc) - (r - rc) v'(rc) - 1 / r) / 2 at r = 0
               = -C q_i^2 (erfc(alpha rc) / rc + (alpha / sqrt(pi)) (1 + exp(-alpha^2 rc^2)))

    Without damping it is the shifted-force Coulomb sum. For liquids, alpha rc of about 2 is usual.

    Args:
        charges: q, unit charge: `[n]`, one number for all, `PerParticle(..., mix="product")`, or `BySpecies` with the
            products q_a q_b of the species as its matrix.
        damping: alpha, >= 0, unit 1 / length.
        cutoff: rc, unit length.
        coulomb_constant: C, unit energy length / charge^2: 1 in reduced units, 14.399645 eV A / e^2.
        self_energy: whether the energies have the self energy; forces do not depend on it.

    Raises:
        ValueError: for a value that is not finite or out of range, or charges that are mixed in another way.
    """
    if isinstance(charges, PerParticle):
        if charges.mix != "product":
            raise ValueError(f"charges has mix = {charges.mix!r}; must be 'product'")
        charges = charges.values
    return DampedShiftedForce(
        charges=charges if isinstance(charges, BySpecies) else Number(axes=1).convert("charges", charges),
        damping=Number(at_least=0).convert("damping", damping),
        pair_cutoff=Number(above=0).convert("cutoff", cutoff),
        coulomb_constant=Number(above=0).convert("coulomb_constant", coulomb_constant),
        self_energy=bool(self_energy),
    )


def _energy(s: jax.Array, *, product: jax.Array, damping: jax.Array, coulomb_constant: jax.Array) -> jax.Array:
    r = distance(s)
    return coulomb_constant * product * jax.lax.erfc(damping * r) / r
