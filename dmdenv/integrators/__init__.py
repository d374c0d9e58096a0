"""Integrators: equations of motion, stepped through time. One method per file, each with `init` and `step`."""

from dmdenv.integrators.base import Integrator
from dmdenv.integrators.brownian import Brownian, BrownianState
from dmdenv.integrators.bussi import Bussi
from dmdenv.integrators.filament import Filament
from dmdenv.integrators.langevin import Langevin
from dmdenv.integrators.nose_hoover import NoseHoover, NoseHooverState
from dmdenv.integrators.nve import NVE
from dmdenv.integrators.state import IntegratorState, StochasticState
from dmdenv.integrators.velocities import maxwell_boltzmann

__all__ = [
    "NVE",
    "Brownian",
    "BrownianState",
    "Bussi",
    "Filament",
    "Integrator",
    "IntegratorState",
    "Langevin",
    "NoseHoover",
    "NoseHooverState",
    "StochasticState",
    "maxwell_boltzmann",
]
