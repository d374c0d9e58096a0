"""Long runs on the host: `simulate`, its checkpoints, its progress bar, and interruption."""

from dmdenv.simulation.interruption import Interrupted, Interruption
from dmdenv.simulation.simulate import Recorder, simulate

__all__ = ["Interrupted", "Interruption", "Recorder", "simulate"]
