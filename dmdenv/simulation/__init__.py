"""The host's side of a long run: `simulate`, its checkpoints, its progress bar, and how it is interrupted."""

from dmdenv.simulation.interruption import Interrupted, Interruption
from dmdenv.simulation.simulate import Recorder, simulate

__all__ = ["Interrupted", "Interruption", "Recorder", "simulate"]
