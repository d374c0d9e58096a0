"""Operations on the files of a folder, one by one: what a process leaves that is killed between two, and a full disk.

Python announces each operation to its audit hooks before it happens, those of libraries included, and does not carry it
out if a hook raises an error.
"""

import contextlib
import errno
import itertools
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

Snapshot = dict[str, bytes | None]  # by relative path; None for a folder

_OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
_lock = threading.Lock()
_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []


def _announce(event: str, arguments: tuple[Any, ...]) -> None:
    if _watchers and event in _OPERATIONS:
        _watchers[-1](event, arguments)


sys.addaudithook(_announce)  # it stays as long as the process


@contextlib.contextmanager
def watched(folder: pathlib.Path, before: Callable[[pathlib.Path, bool], None]) -> Iterator[None]:
    """A context that calls `before(path, adds)` before each operation in the folder; `adds`: whether it needs room."""
    folder, inside = folder.absolute(), threading.local()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        path, others = arguments[0], arguments[1:]
        relative_to_a_folder = event in ("os.remove", "os.rmdir") and others[-1] != -1  # as in shutil.rmtree
        if getattr(inside, "now", False) or not isinstance(path, str | os.PathLike):
            return
        path = pathlib.Path(os.path.abspath(os.fspath(path)))
        if relative_to_a_folder or path == folder or folder in path.parents:
            inside.now = True
            try:
                with _lock:
                    before(path, event == "os.mkdir" or (event == "open" and bool(others[1] & os.O_ACCMODE)))
            finally:
                inside.now = False

    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


@contextlib.contextmanager
def snapshots(folder: pathlib.Path) -> Iterator[list[Snapshot]]:
    """A list of what a process would leave in the folder if it were killed, in the order of its operations."""
    found: list[Snapshot] = []

    def take(path: pathlib.Path, adds: bool) -> None:
        now = _contents(folder)
        if not found or found[-1] != now:
            found.append(now)

    with watched(folder, take):
        yield found


def write_snapshot(snapshot: Snapshot, folder: pathlib.Path) -> None:
    """A new folder with the contents of a snapshot."""
    folder.mkdir(parents=True)
    for name, content in sorted(snapshot.items()):
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


@contextlib.contextmanager
def full_disk(folder: pathlib.Path, after: int | None) -> Iterator[list[pathlib.Path]]:
    """A context in which the disk is full after some operations that need room; None for never.

    Where it is full, files can be read and deleted. The list has the paths of all operations that need room. Those of
    orbax are not among them: its threads would wait for each other for minutes.
    """
    count, paths = itertools.count(), []

    def refuse(path: pathlib.Path, adds: bool) -> None:
        if not adds or ".orbax-checkpoint-tmp" in str(path):
            return
        paths.append(path)
        if after is not None and next(count) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with watched(folder, refuse):
        yield paths


def _contents(folder: pathlib.Path) -> Snapshot:
    contents: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        with contextlib.suppress(FileNotFoundError):  # other threads go on
            contents[name] = None if path.is_dir() else path.read_bytes()
    return contents
