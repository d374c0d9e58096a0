"""The command `dmdenv`: parses the command line, and imports a command only when it runs."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import tyro
from tyro.conf import OmitArgPrefixes

from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.agents.cli.options import GradientsOptions, ListOptions, RolloutOptions, SearchOptions, TrainOptions


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: what follows `dmdenv`; None for those of `sys.argv`.

    Raises:
        SystemExit: with 0; 1 when the computation failed; 2 for bad arguments; 130 or 143 after SIGINT or SIGTERM.
    """
    if "" not in sys.path:
        sys.path.append("")  # MODULE:CLASS is found in the current folder, as with `python -m`
    try:
        code = _run(_parse(list(sys.argv[1:] if arguments is None else arguments)))
        sys.stdout.flush()
    except UsageError as error:
        print(f"dmdenv: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader has gone, as in `dmdenv list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _parse(arguments: list[str]) -> Any:
    """The options of the command; exits with 2 where they cannot be parsed."""
    return tyro.extras.subcommand_cli_from_dict(
        {
            "list": ListOptions,
            "train": _train_options(arguments[1:]) if arguments[:1] == ["train"] else TrainOptions,
            "rollout": RolloutOptions,
            "gradients": GradientsOptions,
            "search": SearchOptions,
        },
        prog="dmdenv",
        description="Differentiable many-body physics environments: list them, train agents in them, film them, search"
        " for their parameters, and measure their gradients.",
        args=arguments,
    )


def _train_options(arguments: list[str]) -> type[TrainOptions]:
    """`TrainOptions` with the agent's settings for the task; when a run is resumed, with its settings and options."""
    from dmdenv.agents.base import get_agent
    from dmdenv.agents.settings import best_agent, tuned_settings

    first = argparse.ArgumentParser(prog="dmdenv train", add_help=False, allow_abbrev=False)
    first.add_argument("--agent")
    first.add_argument("--env", action="append", default=[])
    first.add_argument("--resume", type=Path)
    known, others = first.parse_known_args(arguments)
    agent, options, task = known.agent, {}, None
    if known.resume is not None:
        from dmdenv.agents.runs.run import read_settings_of_run

        with as_usage_error(f"--resume {known.resume}"):
            config, options = read_settings_of_run(known.resume)
    else:
        task = _find_task(others, known.env)
        agent = agent or best_agent(*task)
        with as_usage_error(f"--agent {agent}"):
            config = get_agent(agent).Config(**tuned_settings(*task, agent))
    # Values are checked when the command runs, not while tyro parses, so that the message is the Config's own.
    unchecked = type("Settings", (type(config),), {"__doc__": type(config).__doc__, "__post_init__": lambda self: None})
    default = unchecked(**dataclasses.asdict(config))
    fields: list[Any] = [("config", OmitArgPrefixes[unchecked], dataclasses.field(default=default))]
    types = get_type_hints(TrainOptions, include_extras=True)
    fields += [(name, types[name], dataclasses.field(default=value)) for name, value in options.items()]
    namespace = {"__doc__": TrainOptions.__doc__, "tuned_for": task, "default_agent": agent}
    return dataclasses.make_dataclass("TrainOptions", fields, bases=(TrainOptions,), frozen=True, namespace=namespace)


def _find_task(words: Sequence[str], assignments: Sequence[str]) -> tuple[str | None, str | None]:
    """The environment and the task of a command line that is not parsed yet; None where it names none that we know.

    Args:
        words: among them the environment.
        assignments: the values of `--env`.
    """
    from dmdenv.envs.registry import registered_envs, registered_tasks

    id = next((word for word in words if word in registered_envs()), None)
    tasks = [text.removeprefix("task=") for text in assignments if text.startswith("task=")]
    return id, tasks[-1] if tasks else registered_tasks(id)[0] if id else None


def _run(options: Any) -> int:
    """Run a command; returns the exit code."""
    match options:
        case ListOptions():
            from dmdenv.agents.cli.list import list_envs

            list_envs(options.env_id)
            return 0
        case RolloutOptions():
            from dmdenv.agents.cli.rollout import rollout

            return rollout(options)
        case GradientsOptions():
            from dmdenv.agents.cli.gradients import gradients

            return gradients(options)
        case SearchOptions():
            from dmdenv.agents.cli.search import search

            return search(options)
        case _:
            from dmdenv.agents.cli.train import train

            return train(options, vars(options.config))
