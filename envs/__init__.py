"""Environments: one scenario per file or folder, all behind one contract (`base`), found by id (`registry`).

What a new environment is written with is here: `from dmdenv.envs import Env, Params, State, Transition, parameter`.
Names are imported when they are used, so that the table of environments can be read without JAX.
"""

if __name__ == "envs":
    raise ImportError("import dmdenv.envs instead of envs: a second copy of every class would be made otherwise")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdenv._core.fields import choice, real, whole
    from dmdenv.envs.base import CapacityExceeded, Env, Params, State, Transition, derived, parameter
    from dmdenv.envs.checking import ContractError, check_env
    from dmdenv.envs.gradients import GradReport, grad_report
    from dmdenv.envs.registry import make_env, register, registered_envs, registered_tasks

__all__ = [
    "CapacityExceeded",
    "ContractError",
    "Env",
    "GradReport",
    "Params",
    "State",
    "Transition",
    "check_env",
    "choice",
    "derived",
    "grad_report",
    "make_env",
    "parameter",
    "real",
    "register",
    "registered_envs",
    "registered_tasks",
    "whole",
]

_MODULES = {
    "dmdenv._core.fields": ("choice", "real", "whole"),
    "dmdenv.envs.base": ("CapacityExceeded", "Env", "Params", "State", "Transition", "derived", "parameter"),
    "dmdenv.envs.checking": ("ContractError", "check_env"),
    "dmdenv.envs.gradients": ("GradReport", "grad_report"),
    "dmdenv.envs.registry": ("make_env", "register", "registered_envs", "registered_tasks"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
