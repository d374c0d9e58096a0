"""Potentials: functions of one pair (bond, angle, particle), lifted to the energy, forces and virial of a system."""

from dmdenv.potentials.angles import angle_potential, cosine_angles, harmonic_angles
from dmdenv.potentials.base import Potential, Sum
from dmdenv.potentials.bonded import Bonded
from dmdenv.potentials.bonds import bond_potential, fene_bonds, harmonic_bonds
from dmdenv.potentials.buckingham import buckingham
from dmdenv.potentials.damped_shifted_force import DampedShiftedForce, damped_shifted_force
from dmdenv.potentials.dihedrals import (
    cosine_dihedrals,
    dihedral_potential,
    opls_dihedrals,
    ryckaert_bellemans_dihedrals,
)
from dmdenv.potentials.embedding import EmbeddingPotential, embedding_potential, square_root
from dmdenv.potentials.energy_function import EnergyFunction, from_energy
from dmdenv.potentials.ewald import Ewald, ewald
from dmdenv.potentials.external import External, external_potential, harmonic_trap, uniform_field
from dmdenv.potentials.gupta import gupta
from dmdenv.potentials.lennard_jones import lennard_jones, tail_energy, tail_pressure
from dmdenv.potentials.mie import mie
from dmdenv.potentials.morse import morse
from dmdenv.potentials.pair import PairPotential, pair_potential
from dmdenv.potentials.parameters import BySpecies, PerPair, PerParticle
from dmdenv.potentials.signed_angles import cosine_signed_angles
from dmdenv.potentials.soft_sphere import soft_sphere
from dmdenv.potentials.sutton_chen import sutton_chen
from dmdenv.potentials.wca import wca
from dmdenv.potentials.yukawa import yukawa

__all__ = [
    "Bonded",
    "BySpecies",
    "DampedShiftedForce",
    "EmbeddingPotential",
    "EnergyFunction",
    "Ewald",
    "External",
    "PairPotential",
    "PerPair",
    "PerParticle",
    "Potential",
    "Sum",
    "angle_potential",
    "bond_potential",
    "buckingham",
    "cosine_angles",
    "cosine_dihedrals",
    "cosine_signed_angles",
    "damped_shifted_force",
    "dihedral_potential",
    "embedding_potential",
    "ewald",
    "external_potential",
    "fene_bonds",
    "from_energy",
    "gupta",
    "harmonic_angles",
    "harmonic_bonds",
    "harmonic_trap",
    "lennard_jones",
    "mie",
    "morse",
    "opls_dihedrals",
    "pair_potential",
    "ryckaert_bellemans_dihedrals",
    "soft_sphere",
    "square_root",
    "sutton_chen",
    "tail_energy",
    "tail_pressure",
    "uniform_field",
    "wca",
    "yukawa",
]
