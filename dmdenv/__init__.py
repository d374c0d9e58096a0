"""Differentiable many-body physics environments in JAX."""

from typing import TYPE_CHECKING, Any

from dmdenv import gymnasium_ids

if TYPE_CHECKING:
    from dmdenv.envs.base import Env
    from dmdenv.envs.registry import make_env, registered_envs, registered_tasks

__version__ = "0.1.0"
__all__ = ["Env", "__version__", "make_env", "registered_envs", "registered_tasks"]

gymnasium_ids.register()

_ENVIRONMENT_API = ("Env", "make_env", "registered_envs", "registered_tasks")


def __getattr__(name: str) -> Any:
    if name in _ENVIRONMENT_API:
        from dmdenv import envs

        return getattr(envs, name)
    raise AttributeError(f"module 'dmdenv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ENVIRONMENT_API})
