"""Files that are written as a whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dmdenv.simulation.disk import flush


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, to write to; it replaces `path` unless an error occurs.

    Raises:
        OSError: when it cannot be written, as on a full disk; it names `path`.
    """
    partial = partial_path(path)
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """The temporary path beside `path`, which a killed process may leave."""
    return path.with_name(f".partial-{path.name}")
