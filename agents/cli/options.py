"""The options of the command `dmdenv`, one class a subcommand; the help that it prints is their docstrings.

Nothing heavy is imported here, so that `dmdenv --help` is quick.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

DEFAULT_AGENT = "apg"


def _option(metavar: str, default: str) -> Any:
    """How an option that may be left out is shown in the help."""
    return arg(metavar=metavar, help_behavior_hint=f"({default})")


Assignments = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")]


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Show the environments: what each is, its spaces, its configuration, and every parameter with unit and range.

    For example:
        dmdenv list
        dmdenv list flocking
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "default: all")] = None
    """Show this environment only."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Train an agent, compare it with doing nothing and with chance, and film it.

    For example:
        dmdenv train flocking
        dmdenv train flocking --seed 1 --env boids=64 --params speed=2
        dmdenv train --resume runs/flocking-apg-20260131-120000

    All is written into one run folder: config.json, metrics.jsonl, checkpoints/, learning_curve.png, evaluation.json,
    film.mp4. Ctrl-C finishes the update, writes a checkpoint and prints the command that goes on from there; the
    result is bit by bit that of an unbroken training.
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "needed unless a run is resumed")] = None
    """Environment, one of those that `dmdenv list` shows."""
    agent: Annotated[str | None, _option("NAME", f"default: {DEFAULT_AGENT}")] = None
    """How to train. The options of an agent's own: `dmdenv train --agent NAME --help`."""
    seed: Annotated[int | None, _option("INT", "default: 0")] = None
    """Of all random numbers of the run."""
    env: Assignments = ()
    """A static field of the environment, such as its size."""
    params: Assignments = ()
    """A dynamic parameter of the environment, such as a speed, or max_steps, the length of an episode."""
    run_dir: Annotated[Path | None, _option("DIR", "default: runs/ENV-AGENT-TIME")] = None
    """A new folder to write to."""
    resume: Annotated[Path | None, _option("DIR", "default: begin a new run")] = None
    """Go on with the run in this folder, with its environment, agent, settings and seed."""
    checkpoint_every: int = 50
    """Updates between checkpoints."""
    eval_episodes: int = 64
    """Fresh episodes on which the policies are compared at the end."""
    film: bool = True
    """Film one episode of the trained policy."""


@dataclasses.dataclass(frozen=True)
class RolloutOptions:
    """Run one episode of a policy, print what came out of it, and film it if asked to.

    For example:
        dmdenv rollout flocking --policy random --film random.mp4
        dmdenv rollout --policy runs/flocking-apg-20260131-120000 --film flock.mp4 --steps 1000
        dmdenv rollout --policy runs/flocking-apg-20260131-120000/checkpoints/50 --env boids=256
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "needed unless the policy is that of a run")] = None
    """Environment, one of those that `dmdenv list` shows."""
    policy: str = "zero"
    """zero, random, a run folder (its last checkpoint), or one checkpoint: RUN_DIR/checkpoints/N."""
    film: Annotated[Path | None, _option("FILE.mp4", "default: no film")] = None
    """Film to write."""
    steps: Annotated[int | None, _option("INT", "default: the environment's or the run's")] = None
    """Length of the episode: sets the parameter max_steps."""
    seed: int = 0
    """Of the initial state and of all that is random on the way."""
    env: Assignments = ()
    """A static field of the environment; starts from the run's, if the policy is that of a run."""
    params: Assignments = ()
    """A dynamic parameter of the environment; starts from the run's, if the policy is that of a run."""
    fps: int = 30
    """Frames (steps) per second of the film."""
