"""The common part of writers, which extend a file while a simulation runs."""

import abc
import os
from typing import Any, Literal, Self, get_args

import numpy as np

from dmdenv._core.fields import Choice
from dmdenv.io.trajectory import Particles, Trajectory, as_trajectory
from dmdenv.space import Space

Mode = Literal["x", "w", "a"]


class Writer(abc.ABC):
    """Writes frames as they come: `writer(steps, observations)`; a context manager that closes the file.

    After each call the frames are handed to the operating system, so a crash of the program loses the present call at
    most. A simulation that restarts from a checkpoint continues with mode "a": frames up to the last step in the file
    are not written twice.

    Args:
        path: of the file.
        space: of every frame, where the observations do not contain it.
        particles: their species, masses and bonds.
        mode: "x" for a new file, "w" to replace an existing one, "a" to continue it.

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
                `[m, n, d]`, not wrapped unless there are `images [m, n, d]`, and optionally `velocities [m, n, d]` and
                one of `space` (a space of arrays `[m, ...]`), `box` (`[m]` or `[m, d]`) and `cell` (`[m, d, d]`).
                Others are ignored.

        Raises:
            ValueError: for other shapes, and where neither they nor the writer have a space.
        """
        chunk = as_trajectory(steps, observations, self._space)
        if self._particles is None:
            self._particles = self._check(self._given.of(chunk.positions.shape[1]))
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

    def _check(self, particles: Particles) -> Particles:
        """The particles, refused if the format cannot store them."""
        return particles

    @abc.abstractmethod
    def _write(self, trajectory: Trajectory) -> None:
        """Append frames, and hand them to the operating system."""


def in_three_dimensions(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[..., d]` padded with zeros, `[..., 3]`."""
    return np.concatenate([vectors, np.zeros((*vectors.shape[:-1], 3 - vectors.shape[-1]), vectors.dtype)], axis=-1)
