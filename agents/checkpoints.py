"""Checkpoints of a training: its state, and the configuration of its environment, whose capacities may have grown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmdenv import checkpoints
from dmdenv.checkpoints import KEPT, from_arrays, restore_checkpoint, to_arrays
from dmdenv.checkpoints import saved_steps as saved_updates

__all__ = [
    "KEPT",
    "from_arrays",
    "restore_checkpoint",
    "save_checkpoint",
    "saved_env",
    "saved_updates",
    "to_arrays",
]


def save_checkpoint(folder: Path, update: int, state: object, env: Mapping[str, Any]) -> Path:
    """Write the state after `update` updates and the environment's static configuration, as JSON knows it."""
    return checkpoints.save_checkpoint(folder, update, state, env=dict(env))


def saved_env(folder: Path, update: int) -> dict[str, Any]:
    """The static configuration of the environment after `update` updates.

    Raises:
        ValueError: when there is no such checkpoint.
    """
    return checkpoints.restore_item(folder, update, "env")
