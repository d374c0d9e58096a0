"""The run folder: everything that a training run writes, and enough to rebuild it.

| name | what it is |
|---|---|
| `config.json` | the recipe: environment, parameters, agent, seed, precision; options, versions, checksum |
| `metrics.jsonl` | one line per update |
| `checkpoints/` | the last few training states, by number of updates; a resumed run equals an uninterrupted one |
| `learning_curve.png`, `evaluation.json`, `film.mp4` | the results |
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax

from dmdenv._core.fields import field_values
from dmdenv.agents.base import Agent, InformedPolicy, Policy, get_agent
from dmdenv.agents.runs.atomic_write import partial_path
from dmdenv.agents.runs.recipe import Recipe, read_recipe, read_settings, write_recipe
from dmdenv.envs.base import Env, Params
from dmdenv.simulation import Interruption
from dmdenv.simulation.checkpoints import restore_checkpoint, restore_item, save_checkpoint, saved_steps
from dmdenv.simulation.lock import LOCK
from dmdenv.simulation.progress import compile_first

CHECKPOINTS = "checkpoints"
RECIPE = "config.json"


class Keys(NamedTuple):
    """Independent random keys of a run, all from its seed."""

    train: jax.Array
    evaluation: jax.Array
    film: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run folder and its recipe. `create` starts a new one, `open` rebuilds an existing one.

    Where the agent's settings have `steps = None`, it becomes the length of an episode.
    """

    path: Path
    env: Env
    params: Params
    agent_name: str
    config: Any  # the agent's Config
    seed: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the command, for when the run is resumed

    def __post_init__(self):
        if getattr(self.config, "steps", 0) is None:
            config = dataclasses.replace(self.config, steps=int(self.params.max_steps))
            object.__setattr__(self, "config", config)

    def create(self) -> Self:
        """Make the folder and write the recipe into it.

        Raises:
            FileExistsError: when the path exists and is not an empty folder.
        """
        make_new_folder(self.path)
        recipe = Recipe(self.env, self.params, self.agent_name, self.config, self.seed, self.options)
        write_recipe(self.path / RECIPE, recipe)
        return self

    @classmethod
    def open(cls, path: Path, update: int | None = None) -> Self:
        """The run in an existing folder, rebuilt from its recipe.

        Args:
            path: the folder.
            update: the checkpoint whose capacities the environment gets; None for the last one.

        Raises:
            FileNotFoundError: when the folder is missing or holds no run.
            ValueError: when the recipe is not understood, is damaged, or fits neither this version nor this precision;
                when there is no such checkpoint, or it is damaged.
        """
        _check_run(path)
        checkpoints = path / CHECKPOINTS
        saved = [update] if update is not None else saved_steps(checkpoints)[-1:]
        env_config = restore_item(checkpoints, saved[0], "env") if saved else None
        return cls(path, **read_recipe(path / RECIPE, env_config=env_config)._asdict())

    @property
    def agent(self) -> Agent:
        """The agent's module."""
        return get_agent(self.agent_name)

    @property
    def keys(self) -> Keys:
        """The random keys of training, evaluation and film."""
        return Keys(*jax.random.split(jax.random.key(self.seed), 3))

    # --- the training state ---------------------------------------------------------------------------------------

    def initial_state(self, interruption: Interruption | None = None) -> Any:
        """The training state before the first update; with an `interruption`, it says that it is compiled."""
        arguments = self.agent, self.env, self.config, self.keys.train, self.params
        if interruption is not None:
            compile_first(f"the initial state of {self.agent_name}", _init, *arguments, interruption=interruption)
        return _init(*arguments)

    def saved_updates(self) -> list[int]:
        """The numbers of updates at which there is a checkpoint, in order."""
        return saved_steps(self.checkpoints_path)

    def save(self, state: Any) -> Path:
        """Write a checkpoint; returns its folder."""
        return save_checkpoint(self.checkpoints_path, int(state.updates), state, env=field_values(self.env))

    def restore(self, update: int | None = None, *, interruption: Interruption | None = None) -> Any:
        """The training state of a checkpoint.

        Args:
            update: which checkpoint; None for the last one, or the initial state where there is none yet.
            interruption: as in `initial_state`.

        Raises:
            ValueError: when there is no such checkpoint, it is damaged, or it does not fit the recipe.
        """
        saved = self.saved_updates()
        if update is None and not saved:
            return self.initial_state(interruption)
        template = jax.eval_shape(self.initial_state)
        return restore_checkpoint(self.checkpoints_path, saved[-1] if update is None else update, template)

    def enlarged(self, state: Any) -> tuple[Self, Any]:
        """This run and a training state with larger static capacities of the environment.

        Raises:
            CapacityExceeded: when there is nothing to enlarge.
        """
        run = dataclasses.replace(self, env=self.env.enlarged())
        run.env.prepare()
        return run, self.agent.with_capacity(run.env, state, params=run.params)

    def policy(self, state: Any) -> Policy | InformedPolicy:
        """The policy of a training state."""
        return self.agent.policy(self.env, self.config, state)

    # --- files ----------------------------------------------------------------------------------------------------

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints, one folder for each."""
        return self.path / CHECKPOINTS

    @property
    def metrics_path(self) -> Path:
        """One line of JSON per update."""
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
        """Trained, untrained, zero-action and random policies on the same episodes."""
        return self.path / "evaluation.json"


def make_new_folder(path: Path) -> None:
    """Make a folder, which may be there if it is empty, or has only what a process has left that was killed here.

    Raises:
        FileExistsError: when the path exists and is not an empty folder.
    """
    left = (LOCK, partial_path(path / RECIPE).name)
    if path.exists() and (not path.is_dir() or any(entry.name not in left for entry in path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; must be a new path")
    path.mkdir(parents=True, exist_ok=True)


def read_settings_of_run(path: Path) -> tuple[Any, dict[str, Any]]:
    """The agent's `Config` and the options of the command of a run; its environment is not made.

    Raises:
        FileNotFoundError: when the folder is missing or holds no run.
        ValueError: when the recipe is not understood, or is damaged.
    """
    _check_run(path)
    return read_settings(path / RECIPE)


def _check_run(path: Path) -> None:
    if not (path / RECIPE).is_file():
        problem = f"has no {RECIPE}" if path.is_dir() else "is not a folder"
        raise FileNotFoundError(f"{path} {problem}; must be a folder that `dmdenv train` has written")


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _init(agent: Agent, env: Env, config: Any, key: jax.Array, params: Params) -> Any:
    return agent.init(env, config, key, params=params)
