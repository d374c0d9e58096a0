"""Derivatives through time (`rollout`, `reversible_rollout`), how fast they grow (`tangent_growth`), through minima
(`implicit`), and of averages in equilibrium (`reweight`).
"""

from dmdenv.differentiation import implicit
from dmdenv.differentiation.reversible import reversible_rollout
from dmdenv.differentiation.reweighting import Reweighted, reweight
from dmdenv.differentiation.rollout import bytes_of, rollout, segments
from dmdenv.differentiation.tangent_growth import tangent_growth

__all__ = [
    "Reweighted",
    "bytes_of",
    "implicit",
    "reversible_rollout",
    "reweight",
    "rollout",
    "segments",
    "tangent_growth",
]
