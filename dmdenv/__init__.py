"""Differentiable many-body physics environments in JAX."""

from typing import TYPE_CHECKING, Any

from dmdenv.envs.registry import make_env, publish, register, registered_envs, registered_tasks

if TYPE_CHECKING:
    from dmdenv.envs.base import Env
    from dmdenv.envs.checking import check_env
    from dmdenv.envs.gradients import grad_report

__version__ = "0.1.0"
__all__ = [
    "Env",
    "__version__",
    "check_env",
    "grad_report",
    "make_env",
    "register",
    "registered_envs",
    "registered_tasks",
]

publish()


def __getattr__(name: str) -> Any:
    if name in ("Env", "check_env", "grad_report"):  # which import JAX
        from dmdenv import envs

        return getattr(envs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
