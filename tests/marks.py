"""Which cases of a test run by default: compilation takes most of the time, so of many alike only some do."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def by_default(values: Iterable[Any], *chosen: Any, ids: Sequence[str] | None = None) -> list[Any]:
    """The cases of a test for `parametrize`: the chosen ones run by default, the others among the slow tests.

    With `ids`, each value is one argument, and that of a fixture, also where it is a tuple.
    """
    values = list(values)
    unknown = [choice for choice in chosen if choice not in values]
    if unknown:
        raise ValueError(f"{unknown} is not among the cases {values}")
    marks = [[] if value in chosen else [pytest.mark.slow] for value in values]
    if ids is not None:
        return [pytest.param(value, marks=mark, id=id) for value, mark, id in zip(values, marks, ids, strict=True)]
    cases = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*case, marks=mark) for case, mark in zip(cases, marks, strict=True)]
