"""`KEY=VALUE` on the command line: the static fields and the parameters of an environment."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

from dmdenv.agents.cli.usage import blaming
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import env_class, make_env


def environment(id: str, assignments: Sequence[str], *, base: dict[str, Any] | None = None) -> Env:
    """The environment of `ENV --env KEY=VALUE ...`.

    Args:
        id: environment id.
        assignments: `KEY=VALUE` for the task and static fields.
        base: fields to start from instead of the environment's defaults.

    Raises:
        UsageError: for an unknown id, an unknown task or field, or a value of the wrong type or out of range.
    """
    config = dict(base or {})
    with blaming("ENV"):
        env_class(id)
    for assignment in sorted(assignments, key=lambda assignment: not assignment.startswith("task=")):
        with blaming(f"--env {assignment}"):
            name, value = _assignment(assignment)
            fields = {field.name: field for field in dataclasses.fields(env_class(id, config.get("task")))}  # pyright: ignore[reportArgumentType]
            if name in fields:
                _check_type(value, fields[name].default)
            config[name] = value
            make_env(id, **config)  # one by one, so that the message names the right argument
    return make_env(id, **config)


def parameters(defaults: Params, assignments: Sequence[str]) -> Params:
    """The parameters of `--params KEY=VALUE ...`.

    Raises:
        UsageError: for an unknown parameter, or a value that is out of range.
    """
    params = defaults
    for assignment in assignments:
        with blaming(f"--params {assignment}"):
            name, value = _assignment(assignment)
            params = params.replace(**{name: value})
    return params


def _assignment(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with a number, a tuple, True, False, or else a word."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError("not an assignment; valid: KEY=VALUE, without spaces")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _check_type(value: Any, default: Any) -> None:
    """Refuse a value of another type than the field's default; a whole number is a number as well."""
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a word", tuple: "a tuple"}
    kind = type(default)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if kind in kinds and not fits:
        raise ValueError(f"{value!r} is not {kinds[kind]}; the default is {default!r}")
