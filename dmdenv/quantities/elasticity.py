"""Elastic moduli of a solid at zero temperature, with the relaxation of its particles.

An affine strain e of all particles, `r -> (1 + e) r`, changes the stress by the Born term. It also leaves forces Xi on
particles whose surroundings are not symmetric, which move by u until these forces vanish,

    H u_cd = Xi_cd,    H = d2U/dr dr,    Xi_cd = dF/d e_cd,
    C_abcd = d(sigma_ab)/d(e_cd) = C^Born_abcd - C^nonaffine_abcd,
    V C^nonaffine_abcd = Xi_ab . u_cd = Xi_ab . u_cd + Xi_cd . u_ab - u_ab . H u_cd

H is applied, never formed, and the systems are solved by conjugate gradients. The last form is stationary in u: what is
left of the residual counts by its square, and a reverse derivative by what H and Xi depend on finds u as it is, without
further systems to solve. These moduli are the response of the
(Cauchy) stress, as measured at finite strain: under stress they differ from second derivatives of the energy by the
stress itself.

References: Lutsko, J. Appl. Phys. 65, 2991 (1989); Maloney and Lemaitre, Phys. Rev. E 74, 016118 (2006), section II;
under stress: Wallace, Thermodynamics of Crystals (1972), chapter 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.conjugate_gradients import conjugate_gradients
from dmdenv._core.fields import Real
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.space import Deformed, Space, require_periodic


@pytree
class Elasticity(Replaceable):
    """The result of `elasticity`."""

    born: jax.Array  # [d, d, d, d], for an affine strain of all particles, unit energy / length^d
    nonaffine: jax.Array  # [d, d, d, d], the reduction by their relaxation, unit energy / length^d
    displacements: jax.Array  # [d, d, n, d], the relaxation u_cd of each particle for a unit strain cd, unit length
    residual: jax.Array  # [], the largest remaining force, relative to that of a typical pair: small if solved
    # int32 [], products of H with a vector that all solves took: each costs about as much as two forces
    products: jax.Array

    @property
    def stiffness(self) -> jax.Array:
        """`C_abcd = d(sigma_ab)/d(e_cd)`, `[d, d, d, d]`, unit energy / length^d; simple shear is `[0, 1, 0, 1]`."""
        return self.born - self.nonaffine

    @property
    def bulk_modulus(self) -> jax.Array:
        """`K = -V dp/dV = sum_ab C_aabb / d^2`, `[]`, unit energy / length^d."""
        d = self.born.shape[0]
        return jnp.einsum("aabb", self.stiffness) / d**2

    @property
    def shear_modulus(self) -> jax.Array:
        """The mean over orientations, `G = (C_abab - C_aabb / d) / ((d - 1) (d + 2))`, `[]`, unit energy / length^d."""
        d = self.born.shape[0]
        traces = jnp.einsum("abab", self.stiffness) - jnp.einsum("aabb", self.stiffness) / d
        return traces / ((d - 1) * (d + 2))

    @property
    def poisson_ratio(self) -> jax.Array:
        """`nu = (d K - 2 G) / (d (d - 1) K + 2 G)`, `[]`, no unit: of an isotropic solid with these moduli."""
        d, K, G = self.born.shape[0], self.bulk_modulus, self.shear_modulus
        return (d * K - 2 * G) / (d * (d - 1) * K + 2 * G)


def elasticity(
    potential: Potential,
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    tolerance: float = 1e-5,
    max_iterations: int | None = None,
) -> Elasticity:
    """The elastic moduli of a configuration in mechanical equilibrium.

    Translations and rattlers, whose motion no force opposes, are allowed. Differentiable at given positions; how these
    depend on parameters of the potential is not included (see `dmdenv.differentiation.implicit`).

    Args:
        potential: twice differentiable; it depends on distances only (no external field).
        space: a periodic one.
        positions: `[n, d]`, unit length, a minimum of the energy: the forces vanish.
        pairs: the neighbours for the potential.
        tolerance: the force that may remain, relative to that of a typical pair; the error of the moduli is of second
            order in it.
        max_iterations: of conjugate gradients; 10 n d by default.

    Raises:
        ValueError: in free space, which has no volume; for a tolerance that is not positive.
    """
    require_periodic(space)
    tolerance = Real(above=0).convert("tolerance", tolerance)
    n, d = positions.shape
    volume, identity = space.volume(d), jnp.eye(d, dtype=positions.dtype)

    def deform(strain) -> Any:
        return Deformed(space, identity + strain)

    def forces(strain, r):
        return potential.forces(deform(strain), r, pairs)

    def stress(strain, r):
        virial = potential.virial(deform(strain), r, pairs)
        return -virial / (volume * jnp.linalg.det(identity + strain))

    def by_strain(function, strain):
        return jax.jvp(lambda e: function(e, positions), (jnp.zeros_like(identity),), (strain,))[1]

    def by_positions(function, u):
        return jax.jvp(lambda r: function(jnp.zeros_like(identity), r), (positions,), (u,))[1]

    def hessian(u):
        return -by_positions(forces, u)

    first, second = np.triu_indices(d)
    strains = 0.5 * (identity[first][:, :, None] * identity[second][:, None, :])
    strains = strains + jnp.swapaxes(strains, 1, 2)  # [d (d + 1) / 2, d, d], symmetric

    born = jax.vmap(lambda strain: by_strain(stress, strain))(strains)
    xi = jax.vmap(lambda strain: by_strain(forces, strain))(strains)
    typical = jnp.max(jnp.abs(born)) * (volume / n) ** (1.0 - 1.0 / d)
    typical = jax.lax.stop_gradient(jnp.where(typical == 0, 1.0, typical))

    def relax(xi):
        """In units of the typical force, so that the tolerance is absolute, also without any force."""
        found = conjugate_gradients(hessian, xi / typical, tolerance=tolerance, max_iterations=max_iterations)
        return typical * found.x, found.iterations

    u, iterations = jax.vmap(relax)(xi)
    left = jax.vmap(hessian)(u) - xi
    product = jnp.einsum("knd,lnd->kl", xi, u)
    nonaffine = (product - jnp.einsum("knd,lnd->kl", u, left)) / volume  # Xi_k . u_l + (Xi_l - H u_l) . u_k

    index = np.zeros((d, d), int)
    index[first, second] = index[second, first] = np.arange(len(first))
    return Elasticity(
        born=jnp.moveaxis(born[index], (0, 1), (2, 3)),
        nonaffine=nonaffine[index][:, :, index],
        displacements=u[index],
        residual=jnp.max(jnp.abs(left)) / typical,
        products=jnp.sum(iterations) + len(strains),
    )
