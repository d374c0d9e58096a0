"""Spaces: how two positions differ, how a position moves.

A space is a pytree, so a box can be traced, differentiated, vmapped and changed in time. Vectors stand on the last
axis; every method takes any leading shape.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 1.6.
"""

from dmdenv.space.base import Space, squared_distance
from dmdenv.space.deformed import Deformed
from dmdenv.space.open import Free, OpenSpace
from dmdenv.space.periodic import Periodic, PeriodicSpace, require_periodic
from dmdenv.space.triclinic import Triclinic, lower_triangular
from dmdenv.space.vectors import norm, unit

__all__ = [
    "Deformed",
    "Free",
    "OpenSpace",
    "Periodic",
    "PeriodicSpace",
    "Space",
    "Triclinic",
    "lower_triangular",
    "norm",
    "require_periodic",
    "squared_distance",
    "unit",
]
