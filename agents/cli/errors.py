"""How the command line refuses arguments."""

import contextlib
from collections.abc import Iterator


class UsageError(Exception):
    """An argument is not valid; the message is one line that names the argument, its value and what is valid."""


@contextlib.contextmanager
def as_usage_error(
    argument: str, errors: tuple[type[Exception], ...] = (ValueError, TypeError, OSError, ImportError)
) -> Iterator[None]:
    """Turn the library's errors into a `UsageError` that names an argument of the command line.

    Args:
        argument: the argument, as it was typed.
        errors: the kinds of error that the argument can cause.
    """
    try:
        yield
    except errors as error:
        raise UsageError(f"{argument}: {error}") from error
