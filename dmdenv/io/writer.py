"""The common part of writers, which extend a file while a simulation runs."""

import abc
import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator
from typing import Any, Literal, Self, get_args

import numpy as np

from dmdenv._core.fields import Choice
from dmdenv.io.identity import require_same
from dmdenv.io.trajectory import Particles, Trajectory, as_trajectory
from dmdenv.space import Space

Mode = Literal["x", "w", "a"]


class Writer(abc.ABC):
    """Writes frames as they come: `writer(steps, observations)`; a context manager.

    After each call the frames are handed to the operating system, so a crash of the program loses the present call at
    most. The file is open during a call only. Each call looks at what the file holds: frames of steps that are in it
    are not written twice, whoever wrote them: this writer before an exception, another one, or an earlier process. So
    a simulation that restarts from a checkpoint continues its file with mode "a".

    Args:
        path: of the file.
        space: of every frame, where the observations do not contain it.
        particles: their species, masses and bonds; by default those of a `Trajectory`, and one species elsewhere.
        mode: "x" for a new file, "w" to replace an existing one at the first call, "a" to continue it.

    Raises:
        FileExistsError: for a file that exists, with mode "x".
        ValueError: for another mode, and for a file that mode "a" cannot continue; and see `Particles`.
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
        self._path, self._space, self._particles = os.fspath(path), space, particles
        self._replaces, self._closed = mode == "w", False
        self._forget()
        open(self._path, "xb" if mode == "x" else "ab").close()
        if mode == "a":
            with self._alone():
                self._look()

    def __call__(self, steps: Any, observations: Any) -> None:
        """Append m frames; nothing is written when one of them is refused.

        Args:
            steps: int `[m]`, >= 0 and increasing.
            observations: a mapping, or an object with attributes, of arrays with a leading axis m: `positions`
                `[m, n, d]`, not wrapped unless there are `images [m, n, d]`, and optionally `velocities [m, n, d]` and
                one of `space` (a space of arrays `[m, ...]`), `box` (`[m]` or `[m, d]`) and `cell` (`[m, d, d]`).
                Others are ignored.

        Raises:
            ValueError: for other shapes, where neither they nor the writer have a space, for other particles than those
                in the file, for steps before the last one in the file that are not in it, and after `close`.
        """
        if self._closed:
            raise ValueError(f"{self._path} is closed; must be written before close()")
        trajectory = as_trajectory(steps, observations, self._space, self._particles)
        trajectory = dataclasses.replace(trajectory, particles=self._check(trajectory))
        with self._alone():
            if not self._replaces:
                self._look()
            if self._first is not None:
                require_same(trajectory, self._first, "the frames", self._path)
            new = trajectory.select(self._is_new(trajectory.steps))
            if len(new):
                self._append(new)
                self._steps += new.steps.tolist()
                self._first = self._first or new.select(slice(1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing can be written after that."""
        self._closed = True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other writer, of this process or another one, touches the file."""
        with open(self._path, "rb") as file:
            with contextlib.suppress(OSError):  # file systems without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _look(self) -> None:
        """Find out what the file holds."""
        try:
            self._read_on()
        except Warning:  # made an error by the user's filters, whatever the file is
            raise
        except Exception as error:  # the readers of a format raise anything for a damaged file
            raise ValueError(f"{self._path} cannot be continued: {error}") from error

    def _replace(self) -> None:
        """Empty the file at the first frames of mode "w"."""
        if self._replaces:
            os.truncate(self._path, 0)
            self._replaces = False

    def _forget(self) -> None:
        """Know nothing of the file."""
        self._steps: list[int] = []  # of the frames in it
        self._first: Trajectory | None = None  # one frame of it

    def _is_new(self, steps: np.ndarray) -> np.ndarray:
        """Which steps are after those in the file, bool [m]."""
        last = max(self._steps, default=-1)
        new = steps > last
        lost = np.setdiff1d(steps[~new], self._steps)
        if lost.size:
            raise ValueError(
                f"steps has {lost[0]}, which {self._path} lacks although it goes to {last}; must be in it, or above"
            )
        return new

    @abc.abstractmethod
    def _check(self, trajectory: Trajectory) -> Particles:
        """The particles as the format stores them; what it cannot store is refused."""

    @abc.abstractmethod
    def _read_on(self) -> None:
        """Extend `_steps` by the frames that have been added to the file, and set `_first`."""

    @abc.abstractmethod
    def _append(self, trajectory: Trajectory) -> None:
        """Append frames, at least one, and hand them to the operating system, after a call of `_replace`."""


def in_three_dimensions(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[..., d]` padded with zeros, `[..., 3]`."""
    return np.concatenate([vectors, np.zeros((*vectors.shape[:-1], 3 - vectors.shape[-1]), vectors.dtype)], axis=-1)
