"""Potentials: functions of one pair (bond, angle, particle), lifted to the energy, forces and virial of a system."""

from dmdenv.potentials.base import Potential, Sum
from dmdenv.potentials.lennard_jones import lennard_jones
from dmdenv.potentials.pair import PairPotential, pair_potential
from dmdenv.potentials.parameters import BySpecies, PerParticle

__all__ = ["BySpecies", "PairPotential", "PerParticle", "Potential", "Sum", "lennard_jones", "pair_potential"]
