"""`config.json`: the recipe of a run, from which environment, parameters, agent and settings are rebuilt."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dmdenv
from dmdenv._core.fields import field_values
from dmdenv.agents.base import get_agent
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import entry_of, make_env


class Recipe(NamedTuple):
    """What determines the result of a run."""

    env: Env
    params: Params
    agent_name: str
    config: Any  # the agent's Config
    seed: int


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as JSON, with the precision and the versions in use.

    All parameters are written, so that a run keeps its own when a default changes later.
    """
    env, params, agent_name, config, seed = recipe
    content = {
        "env": {
            **entry_of(type(env)).arguments,  # id, and task where it has several
            "config": field_values(env),
            "params": {name: np.asarray(value).tolist() for name, value in field_values(params).items()},
        },
        "agent": {"name": agent_name, "config": field_values(config)},
        "seed": seed,
        "float64": uses_float64(),
        "versions": {
            "dmdenv": dmdenv.__version__,
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "python": platform.python_version(),
        },
    }
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def read_recipe(path: Path, *, env_config: dict[str, Any] | None = None) -> Recipe:
    """Rebuild a recipe.

    Args:
        path: a file that `write_recipe` has written.
        env_config: static fields of the environment that replace those of the recipe, such as larger capacities.

    Raises:
        ValueError: when the file is not a recipe, or fits neither this version nor this precision.
    """
    try:
        content = json.loads(path.read_text())
        float64, env, agent = content["float64"], content["env"], content["agent"]
        if float64 != uses_float64():
            raise ValueError(f"{path} was written with JAX_ENABLE_X64={int(float64)}; set it to resume the run")
        static = _lists_to_tuples(env["config"] if env_config is None else env_config)
        rebuilt = make_env(env["id"], task=env.get("task"), **static)
        return Recipe(
            env=rebuilt,
            params=rebuilt.default_params.replace(**_lists_to_tuples(env["params"])),
            agent_name=agent["name"],
            config=get_agent(agent["name"]).Config(**_lists_to_tuples(agent["config"])),
            seed=content["seed"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not the recipe of a run ({error!r})") from None


def uses_float64() -> bool:
    """Whether numbers have double precision, as under `JAX_ENABLE_X64=1`."""
    return jnp.result_type(float) == jnp.float64


def _lists_to_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and static fields must be hashable."""
    return {name: _list_to_tuple(value) for name, value in values.items()}


def _list_to_tuple(value: Any) -> Any:
    return tuple(map(_list_to_tuple, value)) if isinstance(value, list) else value
