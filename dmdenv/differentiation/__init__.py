"""Derivatives through time (`rollout`), how fast they grow (`tangent_growth`), and through minima (`implicit`)."""

from dmdenv.differentiation import implicit
from dmdenv.differentiation.rollout import bytes_of, rollout, segments
from dmdenv.differentiation.tangent_growth import tangent_growth

__all__ = ["bytes_of", "implicit", "rollout", "segments", "tangent_growth"]
