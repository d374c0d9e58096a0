"""`dmdenv list`: every environment with its spaces, configuration and parameters."""

import dataclasses
import inspect
import math
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmdenv._core.fields import field_values
from dmdenv.agents.cli.errors import as_usage_error
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import configured, registered_envs, registered_tasks


def list_envs(id: str | None) -> None:
    """Print one environment, or all.

    Raises:
        UsageError: for an unknown id.
    """
    if id is None:
        shown = [_describe_if_possible(id, task) for id in registered_envs() for task in registered_tasks(id)]
    else:
        with as_usage_error("ENV"):
            shown = [describe(configured(id, task=task)) for task in registered_tasks(id)]
    print("\n\n".join(shown))


def _describe_if_possible(id: str, task: str) -> str:
    """As `describe`, or the error: an environment of another package may be broken."""
    try:
        return describe(configured(id, task=task))
    except (ImportError, TypeError, ValueError) as error:
        return f"{id}, task {task}: {error}"


def describe(env: Env) -> str:
    """An environment with its default configuration, as text."""
    title = (inspect.getdoc(type(env)) or "").split("\n\n")[0].replace("\n", " ")
    meanings = _documented_arguments(type(env))
    task = ("task", repr(env.task), f"one of {', '.join(registered_tasks(env.id))}")
    config = [(name, repr(value), meanings.get(name, "")) for name, value in field_values(env).items()]
    params = env.default_params
    rows = [_parameter_row(field, params) for field in dataclasses.fields(params)]
    sections = [
        f"{env.id}, task {env.task}: {title}",
        f"  observations  {env.observation_space(params)}",
        f"  actions       {env.action_space(params)}",
        "  configuration (--env KEY=VALUE)",
        *_table(("field", "default", "meaning"), [task, *config]),
        "  parameters (--params KEY=VALUE)",
        *_table(("parameter", "default", "unit", "range", "meaning"), rows),
    ]
    return "\n".join(sections)


def _documented_arguments(cls: type) -> dict[str, str]:
    """The description of each argument in the `Args` sections of the docstrings of a class and its bases."""
    meanings = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nArgs:\n")
        section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
        entries = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
        meanings |= {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}
    return meanings


def _parameter_row(field: dataclasses.Field, params: Params) -> tuple[str, ...]:
    value = np.asarray(getattr(params, field.name))
    about = field.metadata
    return field.name, _short(value), about["unit"], _range(about["low"], about["high"]), about["doc"]


def _short(value: np.ndarray) -> str:
    return f"{value:g}" if value.ndim == 0 else "(" + ", ".join(f"{x:g}" for x in value.ravel()) + ")"


def _range(low: float, high: float) -> str:
    match math.isinf(low), math.isinf(high):
        case True, True:
            return "any"
        case False, True:
            return f">= {low:g}"
        case True, False:
            return f"<= {high:g}"
        case _:
            return f"{low:g} to {high:g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Indented lines of aligned columns; the last column is wrapped to the terminal's width."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)]
    indent = 4 + sum(widths) + 2 * len(widths)
    width_left = max(24, shutil.get_terminal_size((120, 40)).columns - indent)
    lines = []
    for row in cells:
        first = "    " + "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        wrapped = textwrap.wrap(row[-1], width_left) or [""]
        lines += [(first + wrapped[0]).rstrip(), *(" " * indent + line for line in wrapped[1:])]
    return lines
