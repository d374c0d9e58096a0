"""Derivatives through time (`rollout`) and through minima (`implicit`)."""

from dmdenv.differentiation import implicit
from dmdenv.differentiation.rollout import bytes_of, rollout, segments

__all__ = ["bytes_of", "implicit", "rollout", "segments"]
