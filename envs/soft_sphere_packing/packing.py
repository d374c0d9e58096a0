"""Packings of soft discs and spheres: the physics that the tasks of `soft_sphere_packing` share.

n frictionless particles in a periodic cube (square) of side L repel where they overlap, by
`dmdenv.potentials.soft_sphere` with epsilon = 1. Their volumes over that of the box, overlaps counted twice, are the
packing fraction

    phi = v_d sum_i D_i^d / L^d,    v_2 = pi / 4,  v_3 = pi / 6.

All pairs interact by the nearest image, so the longest diameter must not exceed L / 2.

References: O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), section II, for the model, for contacts and
rattlers.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PairPotential, PerParticle, soft_sphere
from dmdenv.quantities import backbone_contacts, pressure
from dmdenv.space import Periodic, norm

TOO_LARGE = (
    "soft_sphere_packing: a diameter exceeds half of the box; must be <= half of it: take more particles, diameters"
    " closer to each other, or lower packing fractions"
)


def discs(diameters: jax.Array, alpha: jax.Array | float = 2.0) -> PairPotential:
    """The potential of particles with these diameters `[n]`, unit length."""
    return soft_sphere(sigma=PerParticle(diameters), alpha=alpha)


def bidisperse(particles: int, ratio: jax.Array | float) -> jax.Array:
    """Diameters `[n]`: 1 for the first half of the particles, `ratio` for the others."""
    return jnp.where(jnp.arange(particles) < particles // 2, 1.0, jnp.asarray(ratio, jnp.result_type(float)))


def solid_volume(diameters: jax.Array, dimension: int) -> jax.Array:
    """`v_d sum_i D_i^d`, `[]`, unit length^d."""
    return math.pi / (2 * dimension) * jnp.sum(diameters**dimension)


def all_pairs(potential: PairPotential, space: Periodic, dimension: int) -> AllPairs:
    """All pairs, `incomplete` where the longest diameter exceeds half of the box, so that pairs have several images."""
    return AllPairs().flag_cutoff(potential.cutoff, space, dimension)


class Measurement(NamedTuple):
    """What is known of a packing."""

    energy: jax.Array  # float [], per particle, unit energy
    pressure: jax.Array  # float [], unit energy / length^d
    residual: jax.Array  # float [], the largest force on a particle, unit energy / length
    contacts: jax.Array  # float [], mean contact number of all but rattlers; 0 where all are


def measure(potential: PairPotential, space: Periodic, positions: jax.Array, forces: jax.Array) -> Measurement:
    """Energy, pressure, residual force and contact number of a packing.

    All but the contact number are differentiable; that is a count and has derivative 0.

    Args:
        potential: from `discs`.
        space: the box.
        positions: `[n, d]`, unit length.
        forces: at these positions, `[n, d]`, unit energy / length.
    """
    pairs = all_pairs(potential, space, positions.shape[1])
    counts, held = count_contacts(potential, space, positions)
    return Measurement(
        energy=potential.energy(space, positions, pairs) / len(positions),
        pressure=pressure(potential, space, positions, pairs),
        residual=jnp.max(norm(forces)),
        contacts=jnp.sum(counts) / jnp.maximum(jnp.sum(held), 1),
    )


def count_contacts(potential: PairPotential, space: Periodic, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Contacts of each particle without those of rattlers, int `[n]`, and which are no rattlers, bool `[n]`."""
    potential, space, positions = jax.lax.stop_gradient((potential, space, positions))
    pairs = all_pairs(potential, space, positions.shape[1])
    return backbone_contacts(space, positions, pairs, diameter=potential.parameters["sigma"])
