"""Physical quantities: functions of positions and velocities, differentiable where that makes sense."""

from dmdenv.quantities.center import center
from dmdenv.quantities.contacts import backbone_contacts, contact_numbers, rattlers
from dmdenv.quantities.elasticity import Elasticity, elasticity
from dmdenv.quantities.order import averaged_steinhardt, bond_order, polar_order, steinhardt
from dmdenv.quantities.polymers import (
    end_to_end_distance,
    end_to_end_vector,
    gyration_tensor,
    radius_of_gyration,
    unfold,
)
from dmdenv.quantities.structure import (
    partial_radial_distributions,
    radial_distribution,
    spherical_average,
    structure_factor,
    wave_integers,
    wave_vectors,
)
from dmdenv.quantities.superposition import rmsd, superpose
from dmdenv.quantities.thermodynamics import kinetic_energy, pressure, stress_tensor, temperature
from dmdenv.quantities.transport import (
    mean_squared_displacement,
    mean_squared_displacement_series,
    velocity_autocorrelation,
    velocity_autocorrelation_series,
)

__all__ = [
    "Elasticity",
    "averaged_steinhardt",
    "backbone_contacts",
    "bond_order",
    "center",
    "contact_numbers",
    "elasticity",
    "end_to_end_distance",
    "end_to_end_vector",
    "gyration_tensor",
    "kinetic_energy",
    "mean_squared_displacement",
    "mean_squared_displacement_series",
    "partial_radial_distributions",
    "polar_order",
    "pressure",
    "radial_distribution",
    "radius_of_gyration",
    "rattlers",
    "rmsd",
    "spherical_average",
    "steinhardt",
    "stress_tensor",
    "structure_factor",
    "superpose",
    "temperature",
    "unfold",
    "velocity_autocorrelation",
    "velocity_autocorrelation_series",
    "wave_integers",
    "wave_vectors",
]
