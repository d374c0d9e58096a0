"""Minimisers of the energy, or of the enthalpy in positions and box. One method per file."""

from dmdenv.minimizers.base import Minimizer, MinimizerState
from dmdenv.minimizers.fire import FIRE, FIREState
from dmdenv.minimizers.gradient_descent import GradientDescent
from dmdenv.minimizers.minimize import Minimum, minimize

__all__ = ["FIRE", "FIREState", "GradientDescent", "Minimizer", "MinimizerState", "Minimum", "minimize"]
