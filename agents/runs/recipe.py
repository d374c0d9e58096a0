"""`config.json`: the recipe of a run, from which environment, parameters, agent and settings are rebuilt."""

import hashlib
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
    """What determines the result of a run, and the options of the command that started it."""

    env: Env
    params: Params
    agent_name: str
    config: Any  # the agent's Config
    seed: int
    options: dict[str, Any]  # of the command: what a resumed run keeps, and does not change its result


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as JSON, with the precision and the versions in use, and a checksum.

    All parameters are written, so that a run keeps its own when a default changes later.
    """
    env, params, agent_name, config, seed, options = recipe
    content = {
        "env": {
            **entry_of(type(env)).arguments,  # id, and task where it has several
            "config": field_values(env),
            "params": {name: np.asarray(value).tolist() for name, value in field_values(params).items()},
        },
        "agent": {"name": agent_name, "config": field_values(config)},
        "seed": seed,
        "options": options,
    }
    write_checked(path, content)


def read_recipe(path: Path, *, env_config: dict[str, Any] | None = None) -> Recipe:
    """Rebuild a recipe.

    Args:
        path: a file that `write_recipe` has written.
        env_config: static fields of the environment that replace those of the recipe, such as larger capacities.

    Raises:
        ValueError: when the file is not a recipe, is damaged, or fits neither this version nor this precision.
    """
    content = read_checked(path)
    try:
        check_precision(path, content)
        env, agent = content["env"], content["agent"]
        static = _lists_to_tuples(env["config"] if env_config is None else env_config)
        rebuilt = make_env(env["id"], task=env.get("task"), **static)
        config, options = _settings(content)
        return Recipe(
            env=rebuilt,
            params=rebuilt.default_params.replace(**_lists_to_tuples(env["params"])),
            agent_name=agent["name"],
            config=config,
            seed=content["seed"],
            options=options,
        )
    except (KeyError, TypeError) as error:
        raise _not_a_recipe(path, error) from None


def read_settings(path: Path) -> tuple[Any, dict[str, Any]]:
    """The agent's `Config` and the options of a recipe, without its environment.

    Raises:
        ValueError: as `read_recipe`.
    """
    content = read_checked(path)
    try:
        return _settings(content)
    except (KeyError, TypeError) as error:
        raise _not_a_recipe(path, error) from None


def _settings(content: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    agent = content["agent"]
    return get_agent(agent["name"]).Config(**_lists_to_tuples(agent["config"])), content["options"]


# --- files ------------------------------------------------------------------------------------------------------------


def write_checked(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, with the precision and the versions in use, and a checksum."""
    content = {
        **content,
        "float64": uses_float64(),
        "versions": {
            "dmdenv": dmdenv.__version__,
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "python": platform.python_version(),
        },
    }
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({**content, "sha256": _checksum(content)}, indent=2) + "\n")


def read_checked(path: Path) -> dict[str, Any]:
    """What `write_checked` has written.

    Raises:
        ValueError: when it is something else, or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_a_recipe(path, error) from None
    if checksum != _checksum(content):
        raise ValueError(f"{path} is damaged or has been edited: it does not agree with its sha256")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _not_a_recipe(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not the recipe of a run ({error!r})")


def check_precision(path: Path, content: dict[str, Any]) -> None:
    """Refuse, by ValueError, what was written in another precision; KeyError where it does not say in which."""
    if (float64 := content["float64"]) != uses_float64():
        raise ValueError(f"{path} was written with JAX_ENABLE_X64={int(float64)}; set it to resume the run")


def uses_float64() -> bool:
    """Whether numbers have double precision, as under `JAX_ENABLE_X64=1`."""
    return jnp.result_type(float) == jnp.float64


def _lists_to_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and static fields must be hashable."""
    return {name: _list_to_tuple(value) for name, value in values.items()}


def _list_to_tuple(value: Any) -> Any:
    return tuple(map(_list_to_tuple, value)) if isinstance(value, list) else value
