"""The options of the command `dmdenv`, one class per subcommand; their docstrings are the help texts.

Nothing heavy is imported here, so that `dmdenv --help` is quick.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, UseAppendAction, arg

KEPT_OPTIONS = ("checkpoint_every", "eval_episodes", "film", "film_steps")  # of `train`; a resumed run keeps them


def _option(metavar: str, default: str) -> Any:
    """How the help shows an optional argument."""
    return arg(metavar=metavar, help_behavior_hint=f"({default})")


Assignments = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")]


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """List the environments: description, spaces, configuration, and every parameter with its unit and range.

    For example:
        dmdenv list
        dmdenv list flocking
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "default: all")] = None
    """List this environment only."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Train an agent, compare it with zero-action and random policies and baselines, and film it.

    For example:
        dmdenv train flocking
        dmdenv train flocking --seed 1 --env boids=64 --params speed=2
        dmdenv train trap_drag --agent open_loop
        dmdenv train --resume runs/flocking-apg-20260131-120000

    Everything is written into one run folder: config.json, metrics.jsonl, checkpoints/, learning_curve.png,
    evaluation.json, film.mp4. Ctrl-C finishes the current update, writes a checkpoint and prints the command that
    resumes the run; the result is bit for bit that of an uninterrupted run. A second Ctrl-C stops at once.
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "required unless a run is resumed")] = None
    """Environment, see `dmdenv list`; or MODULE:CLASS for one of your own."""
    agent: Annotated[str | None, _option("NAME", "default: the best one known for ENV")] = None
    """Agent. For its own options, with their values for a task: `dmdenv train ENV --agent NAME --help`."""
    seed: Annotated[int | None, _option("INT", "default: 0")] = None
    """Seed of all random numbers of the run."""
    env: Assignments = ()
    """Static field of the environment, such as its size."""
    params: Assignments = ()
    """Dynamic parameter of the environment, such as a speed, or max_steps, the length of an episode."""
    run_dir: Annotated[Path | None, _option("DIR", "default: runs/ENV-AGENT-TIME")] = None
    """The run folder, a new one."""
    resume: Annotated[Path | None, _option("DIR", "default: start a new run")] = None
    """Resume the run in this folder, with its environment, agent, settings and seed."""
    checkpoint_every: int = 50
    """Updates between checkpoints."""
    eval_episodes: int = 64
    """New episodes on which the policies are compared at the end."""
    film: bool = True
    """Film one episode of the trained policy."""
    film_steps: Annotated[int | None, _option("INT", "default: until the reward has settled")] = None
    """Steps of the episode that are filmed, one frame per step; the film lasts about 6 s."""

    tuned_for: ClassVar[tuple[str | None, str | None] | None] = None  # id and task, whose settings are the defaults
    default_agent: ClassVar[str | None] = None  # the best one known for it


@dataclasses.dataclass(frozen=True)
class RolloutOptions:
    """Run one episode of a policy, print its return and metrics, and film it if asked to.

    For example:
        dmdenv rollout flocking --policy random --film random.mp4
        dmdenv rollout --policy runs/flocking-apg-20260131-120000 --film flock.mp4 --steps 1000
        dmdenv rollout --policy runs/flocking-apg-20260131-120000/checkpoints/50 --env boids=256
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "required unless the policy is from a run")] = None
    """Environment, see `dmdenv list`; or MODULE:CLASS for one of your own."""
    policy: str = "zero"
    """zero, random, a run folder (its last checkpoint), or a checkpoint: RUN_DIR/checkpoints/N."""
    film: Annotated[Path | None, _option("FILE.mp4", "default: no film")] = None
    """Write a film to this file."""
    steps: Annotated[int | None, _option("INT", "default: the environment's or the run's")] = None
    """Length of the episode: sets the parameter max_steps."""
    seed: int = 0
    """Seed of the initial state and of all random numbers of the episode."""
    env: Assignments = ()
    """Static field of the environment; default: that of the run, if the policy is from a run."""
    params: Assignments = ()
    """Dynamic parameter of the environment; default: that of the run, if the policy is from a run."""
    fps: int = 30
    """Frames per second of the film, one frame per step."""


@dataclasses.dataclass(frozen=True)
class GradientsOptions:
    """Measure up to which horizon the gradient of a return can be trusted.

    For each horizon: its norm, its variance over instances, the share of those that are not finite, the cosine with a
    gradient by finite differences, and the largest Lyapunov exponent of the dynamics.

    For example:
        dmdenv gradients flocking
        dmdenv gradients trap_drag --policy random --horizons 1 8 32 --picture gradients.png
        dmdenv gradients --policy runs/flocking-apg-20260131-120000
    """

    env_id: Annotated[Positional[str | None], _option("ENV", "required unless the policy is from a run")] = None
    """Environment, see `dmdenv list`; or MODULE:CLASS for one of your own."""
    policy: str = "zero"
    """zero or random: the gradient is by a sequence of such actions; or a run folder, or a checkpoint of it,
    RUN_DIR/checkpoints/N: the gradient is by the numbers of its policy."""
    horizons: Annotated[tuple[int, ...], _option("INT ...", "default: powers of two, up to the whole episode")] = ()
    """Steps whose rewards the return adds up."""
    instances: int = 16
    """Independent episodes."""
    directions: int = 8
    """Random directions of the finite differences."""
    step: float = 0.01
    """Step of the finite differences, in each number of actions or policy."""
    picture: Annotated[Path | None, _option("FILE.png", "default: no picture")] = None
    """Draw the report into this file."""
    seed: int = 0
    """Seed of initial states, noise, random actions and directions."""
    env: Assignments = ()
    """Static field of the environment; default: that of the run, if the policy is from a run."""
    params: Assignments = ()
    """Dynamic parameter of the environment; default: that of the run, if the policy is from a run."""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Search for the parameters of an environment at which a metric is least, or greatest.

    For example:
        dmdenv search flocking --vary cohesion=0.01:1:log --objective polar_order --maximize
        dmdenv search trap_drag --vary stiffness=0.5:2 --objective work --method cmaes --starts 4
        dmdenv search --resume runs/flocking-search-gradient-20260131-120000

    All episodes are played by one policy. Everything is written into one run folder: config.json, checkpoints/,
    result.json, search.png. Ctrl-C writes a checkpoint and prints the command that resumes the search; the result is
    bit for bit that of an uninterrupted one.
    """

    env_id: Annotated[
        Positional[str | None], _option("ENV", "required unless resumed, or the policy is from a run")
    ] = None
    """Environment, see `dmdenv list`; or MODULE:CLASS for one of your own."""
    vary: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PARAMETER=LOW:HIGH[:log]")] = ()
    """Parameter of the environment to search for, and its bounds, on a linear or a logarithmic scale; from its value,
    where that is between the bounds."""
    objective: Annotated[str | None, _option("METRIC", "required unless a search is resumed")] = None
    """`return`, or a metric of the environment, averaged over the last 64 steps of an episode."""
    maximize: bool = False
    """Search for the greatest value instead of the least."""
    policy: str = "zero"
    """zero, random, a run folder (its last checkpoint), or a checkpoint: RUN_DIR/checkpoints/N."""
    method: str = "gradient"
    """gradient, cmaes or random."""
    starts: int = 8
    """Independent searches, side by side."""
    updates: Annotated[int | None, _option("INT", "default: 100")] = None
    """Updates of each start."""
    evaluations: Annotated[int | None, _option("INT", "default: as many as the updates need")] = None
    """In place of --updates: episodes to use in all, where one with its gradient counts as 4."""
    episodes: int = 4
    """Episodes over which an update averages."""
    eval_episodes: int = 64
    """New episodes on which the best parameters of the starts are compared at the end."""
    seed: int = 0
    """Seed of all random numbers of the search."""
    env: Assignments = ()
    """Static field of the environment; default: that of the run, if the policy is from a run."""
    params: Assignments = ()
    """Dynamic parameter of the environment; default: that of the run, if the policy is from a run."""
    run_dir: Annotated[Path | None, _option("DIR", "default: runs/ENV-search-METHOD-TIME")] = None
    """The run folder, a new one."""
    resume: Annotated[Path | None, _option("DIR", "default: start a new search")] = None
    """Resume the search in this folder; without other options."""
