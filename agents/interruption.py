"""Ctrl-C and SIGTERM, as the whole library takes them."""

from dmdenv.interruption import Interrupted, Interruption

__all__ = ["Interrupted", "Interruption"]
