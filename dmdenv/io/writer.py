"""What the writers of trajectories have in common: they grow a file while a simulation runs."""

import abc
import os
from typing import Any, Literal, Self, get_args

import numpy as np

from dmdenv._core.fields import Choice
from dmdenv.io.trajectory import Particles, Trajectory, frames
from dmdenv.space import Space

Mode = Literal["x", "w", "a"]


class Writer(abc.ABC):
    """Writes frames as they come: `writer(steps, observations)`; a context manager that closes the file.

    After each call the frames are with the operating system, so what a crash of the program can cost is the call in
    which it happens. A simulation that restarts from a checkpoint goes on with mode "a": frames up to the last step
    in the file are there already and are not written twice.

    Args:
        path: of the file.
        space: of every frame, where the observations do not tell it.
        particles: what the particles are.
        mode: "x" a new file, "w" one that may replace another, "a" one that may be continued.

    Raises:
        FileExistsError: for a file that exists, with mode "x".
        ValueError: for another mode; and see `Particles`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        space: Space | None = None,
        particles: Particles | None = None,
        mode: Mode = "x",
    ):
        mode = Choice(get_args(Mode)).convert("mode", mode)
        self._space, self._given = space, particles if particles is not None else Particles()
        self._particles: Particles | None = None
        self._last_step = self._open(os.fspath(path), mode)

    def __call__(self, steps: Any, observations: Any) -> None:
        """Append m frames.

        Args:
            steps: int `[m]`.
            observations: a mapping, or an object with attributes, of arrays with a leading axis m: `positions`
                `[m, n, d]`, not wrapped, and optionally `velocities [m, n, d]` and one of `space` (a space of arrays
                `[m, ...]`), `box` (`[m]` or `[m, d]`) and `cell` (`[m, d, d]`). Others are not written.

        Raises:
            ValueError: for other shapes, and where neither they nor the writer have a space.
        """
        chunk = frames(steps, observations, self._space)
        if self._particles is None:
            self._particles = self._checked(self._given.of(chunk.positions.shape[1]))
        elif len(self._particles.masses) != chunk.positions.shape[1]:
            raise ValueError(
                f"positions has {chunk.positions.shape[1]} particles; must be {len(self._particles.masses)}, as before"
            )
        new = chunk.steps > self._last_step
        self._write(
            Trajectory(
                steps=chunk.steps[new],
                positions=chunk.positions[new],
                velocities=None if chunk.velocities is None else chunk.velocities[new],
                cell=None if chunk.cell is None else chunk.cell[new],
                particles=self._particles,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file; nothing can be written after that."""

    @abc.abstractmethod
    def _open(self, path: str, mode: Mode) -> int | float:
        """Open the file; the step of the last frame in it, or -infinity."""

    def _checked(self, particles: Particles) -> Particles:
        """Refuse what the format cannot hold."""
        return particles

    @abc.abstractmethod
    def _write(self, trajectory: Trajectory) -> None:
        """Append whole frames, and hand them to the operating system."""


def in_three_dimensions(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[..., d]` with zeros in the place of further coordinates, `[..., 3]`."""
    return np.concatenate([vectors, np.zeros((*vectors.shape[:-1], 3 - vectors.shape[-1]), vectors.dtype)], axis=-1)
