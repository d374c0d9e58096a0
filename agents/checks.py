"""Checks of the fields of an agent's `Config`."""

import math
from typing import Any


def check_whole(config: Any, *names: str, low: int = 1) -> None:
    """Refuse fields that are not whole numbers of at least `low`.

    Raises:
        ValueError: naming the field, its value and what is valid.
    """
    for name in names:
        value = getattr(config, name)
        if not _is_whole(value) or value < low:
            raise ValueError(f"{name} = {value!r} is not valid; valid: whole numbers from {low}")


def check_number(config: Any, *names: str, above: float = 0.0, to: float = math.inf) -> None:
    """Refuse fields that are not finite numbers with `above < value <= to`.

    Raises:
        ValueError: naming the field, its value and what is valid.
    """
    upper = "" if math.isinf(to) else f" up to {to:g}"
    for name in names:
        value = getattr(config, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not above < value <= to:
            raise ValueError(f"{name} = {value!r} is not valid; valid: finite numbers above {above:g}{upper}")


def check_sizes(config: Any, *names: str) -> None:
    """Refuse fields that are not tuples of whole numbers of at least 1; the empty tuple is valid.

    Raises:
        ValueError: naming the field, its value and what is valid.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, tuple) or not all(_is_whole(size) and size >= 1 for size in value):
            raise ValueError(f"{name} = {value!r} is not valid; valid: a tuple of whole numbers from 1")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
