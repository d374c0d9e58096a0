"""Ctrl-C and SIGTERM, handled at a safe moment."""

import os
import signal
import threading
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The program was asked to stop.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum  # as shells do: 130 for SIGINT, 143 for SIGTERM


class Interruption:
    """A context in which SIGINT and SIGTERM are recorded, and raised by `check` at a safe moment.

    The second signal raises `Interrupted` at once. Outside the main thread, where Python handles no signals, nothing is
    recorded.
    """

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._record) for number in _SIGNALS if main}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` if there was a signal."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise Interrupted(signum)
        self.signum = signum
        # os.write, because print may be interrupted while it holds the stream's lock
        os.write(2, b"\nstopping at the next safe moment; repeat to stop at once\n")
