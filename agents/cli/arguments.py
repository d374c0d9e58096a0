"""`KEY=VALUE` on the command line: the static fields and the parameters of an environment."""

import ast
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dmdenv._core.fields import field_values
from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import configured, entry_of, env_class, make_env
from dmdenv.search.domain import make_domain
from dmdenv.simulation.progress import say


def parse_env_id(typed: str | None) -> str | None:
    """The id of an environment, which may have been typed as the MODULE:CLASS of a registered one.

    Raises:
        UsageError: for an unknown id.
    """
    with as_usage_error("ENV"):
        return None if typed is None else entry_of(env_class(typed)).id


def parse_env(id: str, assignments: Sequence[str], *, base: dict[str, Any] | None = None) -> Env:
    """The environment of `ENV --env KEY=VALUE ...`, prepared; as `configure_env` otherwise."""
    return prepare_env(configure_env(id, assignments, base=base))


def configure_env(id: str, assignments: Sequence[str], *, base: dict[str, Any] | None = None) -> Env:
    """The environment of `ENV --env KEY=VALUE ...`, not yet prepared: nothing is compiled.

    Args:
        id: environment id.
        assignments: `KEY=VALUE` for the task and static fields.
        base: fields to start from instead of the environment's defaults.

    Raises:
        UsageError: for an unknown id, an unknown task or field, or a value of the wrong type or out of range.
    """
    config = dict(base or {})
    with as_usage_error("ENV"):
        env_class(id)
    for assignment in sorted(assignments, key=lambda assignment: not assignment.startswith("task=")):
        with as_usage_error(f"--env {assignment}"):
            name, value = _parse_assignment(assignment)
            fields = {field.name: field for field in dataclasses.fields(env_class(id, config.get("task")))}  # pyright: ignore[reportArgumentType]
            if name in fields:
                _check_type(name, value, fields[name])
            config[name] = value
            configured(id, **config)  # one by one, so that the message names the right argument
    return configured(id, **config)


def prepare_env(env: Env) -> Env:
    """An environment as from `make_env`."""
    if type(env).prepare is not Env.prepare or env.neighborhood is not None:
        say(f"preparing {env.id}: compiling what its initial states need ...")
    return make_env(env.id, task=env.task, **field_values(env))


def parse_params(defaults: Params, assignments: Sequence[str]) -> Params:
    """The parameters of `--params KEY=VALUE ...`.

    Raises:
        UsageError: for an unknown parameter, or a value that is out of range.
    """
    params = defaults
    for assignment in assignments:
        with as_usage_error(f"--params {assignment}"):
            name, value = _parse_assignment(assignment)
            params = params.replace(**{name: value})
            if shape := getattr(params, name).shape:
                raise ValueError(f"{name} has shape {shape}; must be one number")
    return params


def parse_vary(
    env: Env, params: Params, assignments: Sequence[str]
) -> tuple[dict[str, float], dict[str, tuple[Any, ...]]]:
    """The start and the bounds of `--vary PARAMETER=LOW:HIGH[:log] ...`, as `dmdenv.search.minimize` takes them.

    The start is a parameter's value, or the middle where that is not between the bounds.

    Raises:
        UsageError: for an unknown parameter, one that is a whole number, or bounds that are none, or not in its range.
    """
    start: dict[str, float] = {}
    bounds: dict[str, tuple[Any, ...]] = {}
    for assignment in assignments:
        with as_usage_error(f"--vary {assignment}"):
            name, _, text = assignment.partition("=")
            *ends, scale = text.split(":") if text.endswith(":log") else [*text.split(":"), None]
            try:
                low, high = map(float, ends)
            except ValueError:
                raise ValueError("must be PARAMETER=LOW:HIGH or PARAMETER=LOW:HIGH:log, with two numbers") from None
            if name in start:
                raise ValueError(f"{name} is given twice; must be given once")
            low, high = (_at_bound(env, params, name, end) for end in (low, high))
            value = float(getattr(params, name))
            start[name] = value if low <= value <= high else 0.5 * (low + high)
            bounds[name] = (low, high) if scale is None else (low, high, scale)
            make_domain({name: start[name]}, {name: bounds[name]}, 1.0)
    return start, bounds


def _at_bound(env: Env, params: Params, name: str, value: float) -> float:
    """A bound in the precision of the parameters; ValueError where the environment does not take it."""
    changed = params.replace(**{name: value})
    (field,) = (field for field in dataclasses.fields(params) if field.name == name)
    if field.metadata["rule"].integral:
        raise ValueError(f"{name} is a whole number; must be a parameter that can change by small steps")
    if shape := getattr(params, name).shape:
        raise ValueError(f"{name} has shape {shape}; must be one number")
    env.validate(jax.tree.map(np.asarray, changed))
    return float(getattr(changed, name))


def _parse_assignment(text: str) -> tuple[str, Any]:
    """The name and the value of `KEY=VALUE`: a number, a tuple, True, False, None, or else a word."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError("must be KEY=VALUE, without spaces")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _check_type(name: str, value: Any, field: dataclasses.Field) -> None:
    """Refuse a value of another type than the default, unless the field is declared with a rule of its own."""
    kinds = {bool: "True or False", int: "an integer", float: "a number", str: "a word", tuple: "a tuple"}
    kind = type(field.default)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if kind in kinds and not fits and "rule" not in field.metadata:
        raise ValueError(f"{name} = {value!r}; must be {kinds[kind]}, such as {field.default!r}")


def check_at_least(flag: str, value: int, least: int) -> None:
    """Refuse an option's value below the least valid one.

    Raises:
        UsageError: naming the option, its value and what is valid.
    """
    if value < least:
        raise UsageError(f"{flag} {value}: must be an integer >= {least}")


def check_output(flag: str, path: Path | None, suffix: str) -> None:
    """Refuse a file to write that has another suffix, or is a folder; None for no file.

    Raises:
        UsageError: naming the option and the path.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise UsageError(f"{flag} {path}: must end in {suffix}")
    if path.is_dir():
        raise UsageError(f"{flag} {path}: is a folder; must be a file")


def check_seed(seed: int) -> None:
    """Refuse a seed that JAX would cut to 32 bits: two of them would be the same.

    Raises:
        UsageError: naming the option, its value and what is valid.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed}: must be an integer from 0 to {2**32 - 1}")
