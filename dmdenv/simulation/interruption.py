"""Ctrl-C and SIGTERM, handled at a safe moment."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")

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

    The second signal raises `Interrupted` at once, but for what is `deferred`. Python handles no signal while it waits
    for the compiler or for a device, often for minutes; `wait_for` waits in a way that does. Outside the main thread,
    where Python handles no signals, nothing is recorded.
    """

    def __init__(self):
        self.signum: int | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._repeated = self._deferred = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._record) for number in _SIGNALS if main}
        return self

    def __exit__(self, *exception: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def check(self) -> None:
        """Raise `Interrupted` if there was a signal."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def wait_for(self, compute: Callable[[], T]) -> T:
        """`compute()`, in a thread of its own, which is left behind at the second signal.

        Args:
            compute: what takes long; the settings that JAX keeps for each thread are the default ones there.

        Raises:
            Interrupted: at the second signal.
        """
        if not self._previous:
            return compute()
        if self._repeated:  # what was raised by the second signal has been caught by somebody else
            self.check()
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(compute())
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        # the system may give a signal to any thread, which does not wake this one, where Python handles it
        while not wait([result], timeout=0.1).done:
            pass
        return result.result()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A context in which the second signal waits too: what is short, and must not be torn."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self._repeated, self.signum = self.signum is not None, signum
        if self._repeated and not self._deferred:
            raise Interrupted(signum)
        # os.write, because print may be interrupted while it holds the stream's lock
        os.write(2, b"\nstopping at the next safe moment; repeat to stop at once\n")
