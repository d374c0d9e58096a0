"""Minimisers: ways downhill in the energy, or in the enthalpy of positions and box. One method a file."""

from dmdenv.minimizers.base import Minimizer, State
from dmdenv.minimizers.fire import FIRE, FIREState
from dmdenv.minimizers.gradient_descent import GradientDescent
from dmdenv.minimizers.minimize import Minimum, minimize

__all__ = ["FIRE", "FIREState", "GradientDescent", "Minimizer", "Minimum", "State", "minimize"]
