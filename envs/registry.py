"""Environment ids and their tasks, in one table."""

import dataclasses
import functools
import importlib
from typing import Any

from dmdenv.envs.base import Env

# id: {task: class}; the first task is the default one
_ENVS: dict[str, dict[str, str]] = {
    "bonded_chain": {
        "reach": "dmdenv.envs.bonded_chain.reach:ChainReach",
        "swim": "dmdenv.envs.bonded_chain.swim:ChainSwim",
        "fold": "dmdenv.envs.bonded_chain.fold:ChainFold",
    },
    "flocking": {
        "align": "dmdenv.envs.flocking.align:Flocking",
        "shepherd": "dmdenv.envs.flocking.shepherd:Shepherd",
        "evade": "dmdenv.envs.flocking.evade:Evade",
    },
    "lj_fluid": {
        "anneal": "dmdenv.envs.lj_fluid.anneal:LJAnneal",
        "drag": "dmdenv.envs.lj_fluid.drag:LJDrag",
    },
    "soft_sphere_packing": {
        "compress": "dmdenv.envs.soft_sphere_packing.compress:PackingCompress",
        "design": "dmdenv.envs.soft_sphere_packing.design:PackingDesign",
    },
    "trap_drag": {"drag": "dmdenv.envs.trap_drag:TrapDrag"},
}


def registered_envs() -> tuple[str, ...]:
    """The ids that `make_env` takes, sorted."""
    return tuple(sorted(_ENVS))


def registered_tasks(id: str) -> tuple[str, ...]:
    """The tasks of an environment, which `make_env` takes as `task`; the first one is the default.

    Raises:
        ValueError: for an unknown id; the message lists the valid ones.
    """
    if id not in _ENVS:
        raise ValueError(f"unknown environment id {id!r}; valid ids: {', '.join(registered_envs())}")
    return tuple(_ENVS[id])


def env_class(id: str, task: str | None = None) -> type[Env]:
    """The class behind an id and a task (by default the first one).

    Raises:
        ValueError: for an unknown id or task; the message lists the valid ones.
    """
    tasks = registered_tasks(id)
    task = tasks[0] if task is None else task
    if task not in tasks:
        raise ValueError(f"{id!r} has no task {task!r}; valid tasks: {', '.join(tasks)}")
    module, name = _ENVS[id][task].split(":")
    return getattr(importlib.import_module(module), name)


def make_env(id: str, *, task: str | None = None, **config: Any) -> Env:
    """An environment by its id, prepared: a compiled `reset` only draws from what has been computed here.

    Equal ids and configurations give the same object, so that they share compiled code.

    Args:
        id: one of `registered_envs()`.
        task: one of `registered_tasks(id)`, by default the first one.
        config: static configuration, the fields of the environment's class (sizes, capacities).

    Raises:
        ValueError: for an unknown id, task or field (the message lists the valid ones), or a value that the
            environment refuses.
    """
    cls = env_class(id, task)
    fields = [f.name for f in dataclasses.fields(cls) if f.init]  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(config) - set(fields))
    if unknown:
        raise ValueError(f"{id!r} has no configuration field {unknown[0]!r}; valid fields: task, {', '.join(fields)}")
    env = _intern(cls(**config))
    env.prepare()
    return env


def as_env(env: str | Env, **config: Any) -> Env:
    """An environment as it is, or the one of an id and a configuration, prepared: what adapters take.

    Raises:
        ValueError: for a configuration beside an environment that has its own, and as `make_env` does.
    """
    if not isinstance(env, Env):
        return make_env(env, **config)
    if config:
        raise ValueError(
            f"{sorted(config)[0]!r} beside an environment; valid: dataclasses.replace(env, ...), or an id instead"
        )
    env.prepare()
    return env


@functools.cache
def _intern(env: Env) -> Env:
    return env
