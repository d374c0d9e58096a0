"""Derivatives through time (`rollout`, `reversible_rollout`), how fast they grow, and through minima (`implicit`)."""

from dmdenv.differentiation import implicit
from dmdenv.differentiation.reversible import reversible_rollout
from dmdenv.differentiation.rollout import bytes_of, rollout, segments
from dmdenv.differentiation.tangent_growth import tangent_growth

__all__ = ["bytes_of", "implicit", "reversible_rollout", "rollout", "segments", "tangent_growth"]
