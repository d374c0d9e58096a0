"""Which cases of a test run by default: compilation takes most of the time, so of many alike only some do."""

from collections.abc import Iterable
from typing import Any

import pytest


def by_default(values: Iterable[Any], *chosen: Any) -> list[Any]:
    """The cases of a test for `parametrize`: the chosen ones run by default, the others among the slow tests."""
    values = list(values)
    unknown = [choice for choice in chosen if choice not in values]
    if unknown:
        raise ValueError(f"{unknown} is not among the cases {values}")
    marks = [[] if value in chosen else [pytest.mark.slow] for value in values]
    cases = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*case, marks=mark) for case, mark in zip(cases, marks, strict=True)]
