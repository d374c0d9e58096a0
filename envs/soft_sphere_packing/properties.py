"""Properties of a packing at rest, for which the task `design` has targets."""

from typing import Literal

import jax
import jax.numpy as jnp

from dmdenv.envs.soft_sphere_packing.packing import all_pairs
from dmdenv.potentials import PairPotential
from dmdenv.quantities import elasticity, pressure
from dmdenv.space import Periodic

Property = Literal["energy", "pressure", "shear_modulus", "poisson_ratio"]


def measure_property(
    name: Property, potential: PairPotential, space: Periodic, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A property of a packing at rest.

    Args:
        name: "energy" (per particle), "pressure", "shear_modulus" or "poisson_ratio".
        potential: from `discs`.
        space: the box.
        positions: of a minimum of the energy, `[n, d]`, unit length.

    Returns:
        `(value, solved)`: its value, `[]`; whether the linear systems behind it have been solved, bool `[]`.
    """
    pairs = all_pairs(potential, space, positions.shape[1])
    if name == "energy":
        return potential.energy(space, positions, pairs) / len(positions), jnp.asarray(True)
    if name == "pressure":
        return pressure(potential, space, positions, pairs), jnp.asarray(True)
    tolerance = float(jnp.finfo(positions.dtype).eps) ** (2 / 3)
    moduli = elasticity(potential, space, positions, pairs, tolerance=tolerance)
    value = moduli.shear_modulus if name == "shear_modulus" else moduli.poisson_ratio
    return value, moduli.residual <= 10.0 * tolerance
