"""The run folder: all that a training writes, and enough to rebuild it.

| name | what it is |
|---|---|
| `config.json` | the recipe: environment, parameters, agent, seed, precision; and the versions that made it |
| `metrics.jsonl` | one line for each update |
| `checkpoints/` | the last few complete states, by the number of updates: a resumed run equals an unbroken one |
| `learning_curve.png`, `film.mp4`, `evaluation.json` | what came out |
"""

import dataclasses
import functools
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

import dmdenv
from dmdenv.agents.base import Agent, Policy, get_agent
from dmdenv.agents.runs.files import replacing
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import make_env
from dmdenv.simulation.checkpoints import restore_checkpoint, restore_item, save_checkpoint, saved_steps

CHECKPOINTS = "checkpoints"


class Keys(NamedTuple):
    """Independent random keys of a run, all from its seed."""

    train: jax.Array
    evaluation: jax.Array
    film: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run folder, and what its recipe describes. Begin one by `create`, come back to it by `open`."""

    path: Path
    env: Env
    params: Params
    agent_name: str
    config: Any  # the agent's Config
    seed: int

    def create(self) -> Self:
        """Make the folder and write the recipe into it.

        Raises:
            FileExistsError: when there is something at this path already.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(f"{self.path} exists and is not an empty folder; valid: a new path")
        self.path.mkdir(parents=True, exist_ok=True)
        recipe = {
            "env": {"id": self.env.id, "config": field_values(self.env), "params": _numbers(self.params)},
            "agent": {"name": self.agent_name, "config": field_values(self.config)},
            "seed": self.seed,
            "float64": uses_float64(),
            "versions": {
                "dmdenv": dmdenv.__version__,
                "jax": jax.__version__,
                "jaxlib": importlib.metadata.version("jaxlib"),
                "python": platform.python_version(),
            },
        }
        with replacing(self.path / "config.json") as partial:
            partial.write_text(json.dumps(recipe, indent=2) + "\n")
        return self

    @classmethod
    def open(cls, path: Path, update: int | None = None) -> Self:
        """The run in an existing folder: environment, parameters, agent and settings, rebuilt from its recipe.

        Args:
            path: the folder.
            update: the checkpoint whose capacities the environment is to have; None for the last one.

        Raises:
            FileNotFoundError: when the folder is missing or holds no run.
            ValueError: when the recipe is not understood, or fits neither this version nor this precision; when there
                is no such checkpoint.
        """
        try:
            recipe = json.loads((path / "config.json").read_text())
            if recipe["float64"] != uses_float64():
                raise ValueError(f"{path} was made with JAX_ENABLE_X64={int(recipe['float64'])}; set it to go on")
            checkpoints = path / CHECKPOINTS
            saved = [update] if update is not None else saved_steps(checkpoints)[-1:]
            static = restore_item(checkpoints, saved[0], "env") if saved else recipe["env"]["config"]
            env = make_env(recipe["env"]["id"], **_tuples(static))
            name, config = recipe["agent"]["name"], _tuples(recipe["agent"]["config"])
            return cls(
                path=path,
                env=env,
                params=env.default_params.replace(**_tuples(recipe["env"]["params"])),
                agent_name=name,
                config=get_agent(name).Config(**config),
                seed=recipe["seed"],
            )
        except (FileNotFoundError, NotADirectoryError):
            problem = "has no config.json" if path.is_dir() else "is not a folder"
            raise FileNotFoundError(f"{path} {problem}; valid: a folder that `dmdenv train` has written") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path / 'config.json'} is not the recipe of a run ({error!r})") from None

    @property
    def agent(self) -> Agent:
        """The agent's module."""
        return get_agent(self.agent_name)

    @property
    def keys(self) -> Keys:
        """The random keys of training, evaluation and film."""
        return Keys(*jax.random.split(jax.random.key(self.seed), 3))

    # --- the state ------------------------------------------------------------------------------------------------

    def initial_state(self) -> Any:
        """The training state before the first update."""
        return self._init(self.keys.train, self.params)

    def saved_updates(self) -> list[int]:
        """The updates of which there is a checkpoint, in order."""
        return saved_steps(self.checkpoints_path)

    def save(self, state: Any) -> Path:
        """Write a checkpoint; returns its folder."""
        return save_checkpoint(self.checkpoints_path, int(state.updates), state, env=field_values(self.env))

    def restore(self, update: int | None = None) -> Any:
        """The training state of a checkpoint.

        Args:
            update: which checkpoint; None for the last one, or the initial state where there is none yet.

        Raises:
            ValueError: when there is no such checkpoint, or it does not fit the recipe.
        """
        saved = self.saved_updates()
        if update is None and not saved:
            return self.initial_state()
        template = jax.eval_shape(self._init, self.keys.train, self.params)
        return restore_checkpoint(self.checkpoints_path, saved[-1] if update is None else update, template)

    def enlarged(self, state: Any) -> tuple[Self, Any]:
        """This run and a training state with larger static capacities of the environment.

        Raises:
            CapacityExceeded: when there is nothing to enlarge.
        """
        run = dataclasses.replace(self, env=self.env.enlarged())
        run.env.prepare()
        return run, self.agent.with_capacity(run.env, state, params=run.params)

    def policy(self, state: Any) -> Policy:
        """The policy of a training state."""
        return self.agent.policy(self.env, self.config, state)

    @functools.cached_property
    def _init(self):
        return jax.jit(lambda key, params: self.agent.init(self.env, self.config, key, params=params))

    # --- the files ------------------------------------------------------------------------------------------------

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints, one a number of updates."""
        return self.path / CHECKPOINTS

    @property
    def metrics_path(self) -> Path:
        """One line of JSON for each update."""
        return self.path / "metrics.jsonl"

    @property
    def learning_curve_path(self) -> Path:
        """The metrics as a picture."""
        return self.path / "learning_curve.png"

    @property
    def film_path(self) -> Path:
        """One episode of the trained policy."""
        return self.path / "film.mp4"

    @property
    def evaluation_path(self) -> Path:
        """Trained, untrained, zero and random policies on the same episodes."""
        return self.path / "evaluation.json"


def uses_float64() -> bool:
    """Whether numbers have double precision, as under `JAX_ENABLE_X64=1`."""
    return jnp.result_type(float) == jnp.float64


def field_values(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass instance by name, not copied."""
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def _numbers(params: Params) -> dict[str, Any]:
    """All parameters as numbers and lists, so that a run keeps its own when a default changes later."""
    return {name: np.asarray(value).tolist() for name, value in field_values(params).items()}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and static fields must be hashable."""
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
