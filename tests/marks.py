"""What saves compilation: of many cases alike only some run by default, and few programs are optimised.

Where a test is about rounding, or about the program that users get, it compiles with `compiler_options=OPTIMIZED`.
"""

import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

# XLA's own settings, also in a run without `--optimized`, and those of such a run: programs compile in a quarter of the
# time, run up to ten times longer, and differ by rounding. An XLA that does not know a flag refuses to start.
OPTIMIZED: dict[str, Any] = {"xla_backend_optimization_level": 3}
QUICK = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True
    QUICK += " --xla_cpu_use_fusion_emitters=false"


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
