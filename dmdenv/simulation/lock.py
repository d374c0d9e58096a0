"""A folder for one process alone."""

import contextlib
import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

LOCK = ".lock"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where there is none, until the context ends.

    The lock is the operating system's (`flock`), and ends with the process, however that ends: a file `.lock` that a
    killed process has left locks nothing. Where the file system has no locks, there is a warning and no lock.

    Raises:
        BlockingIOError: when another process, or another part of this one, holds the folder; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with contextlib.ExitStack() as held:
        while True:
            file = held.enter_context(path.open("a+"))
            _lock(file, folder)
            if _is_at(file, path):
                break  # else its last holder has deleted it in the meantime
        held.callback(path.unlink, missing_ok=True)
        with contextlib.suppress(OSError):  # the disk is full: the lock holds nevertheless
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())  # nothing is left to flush
        yield


def _lock(file: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise BlockingIOError(
            f"{folder} is in use by {file.read() or 'another process'}; must be free: wait for it, or stop it"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): make sure that no other process writes into it",
            stacklevel=4,
        )


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
