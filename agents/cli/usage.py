"""How the command line refuses what was typed."""

import contextlib
from collections.abc import Iterator


class UsageError(Exception):
    """Something typed is not valid; the message is one line that names the argument, the value and what is valid."""


@contextlib.contextmanager
def blaming(argument: str, errors: tuple[type[Exception], ...] = (ValueError, TypeError, OSError)) -> Iterator[None]:
    """Turn what the library refuses into a `UsageError` about an argument of the command line.

    Args:
        argument: what was typed.
        errors: the kinds of error that are the argument's fault.
    """
    try:
        yield
    except errors as error:
        raise UsageError(f"{argument}: {error}") from error
