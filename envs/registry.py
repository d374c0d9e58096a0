"""Environment ids, in one table."""

import dataclasses
import functools
import importlib
from typing import Any

from dmdenv.envs.base import Env

_ENVS = {
    "flocking": "dmdenv.envs.flocking:Flocking",
    "trap_drag": "dmdenv.envs.trap_drag:TrapDrag",
}


def registered_envs() -> tuple[str, ...]:
    """The ids that `make_env` takes, sorted."""
    return tuple(sorted(_ENVS))


def env_class(id: str) -> type[Env]:
    """The class behind an id.

    Raises:
        ValueError: for an unknown id; the message lists the valid ones.
    """
    if id not in _ENVS:
        raise ValueError(f"unknown environment id {id!r}; valid ids: {', '.join(registered_envs())}")
    module, name = _ENVS[id].split(":")
    return getattr(importlib.import_module(module), name)


def make_env(id: str, **config: Any) -> Env:
    """An environment by its id.

    Equal ids and configurations give the same object, so that they share compiled code.

    Args:
        id: one of `registered_envs()`.
        config: static configuration, the fields of the environment's class (sizes, capacities, task).

    Raises:
        ValueError: for an unknown id or field (the message lists the valid ones), or a value that the environment
            refuses.
    """
    cls = env_class(id)
    fields = [f.name for f in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(config) - set(fields))
    if unknown:
        raise ValueError(f"{id!r} has no configuration field {unknown[0]!r}; valid fields: {', '.join(fields)}")
    return _intern(cls(**config))


@functools.cache
def _intern(env: Env) -> Env:
    return env
