"""Environments: one scenario a file, all behind one contract (`base`), found by id (`registry`)."""

if __name__ == "envs":
    raise ImportError("import dmdenv.envs instead of envs: a second copy of every class would be made otherwise")

from dmdenv.envs.base import Env, Params, State
from dmdenv.envs.registry import make_env, registered_envs, registered_tasks

__all__ = ["Env", "Params", "State", "make_env", "registered_envs", "registered_tasks"]
