"""Long runs on the host: `simulate`, its checkpoints, its progress bar, and interruption."""

from dmdenv.simulation.checkpoints import CheckpointNotWritten, DamagedCheckpoint
from dmdenv.simulation.interruption import Interrupted, Interruption
from dmdenv.simulation.simulate import Recorder, simulate

__all__ = ["CheckpointNotWritten", "DamagedCheckpoint", "Interrupted", "Interruption", "Recorder", "simulate"]
