"""The command `dmdenv`: what was typed is understood here, and the commands are imported when they run."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes

from dmdenv.agents.cli.options import DEFAULT_AGENT, ListOptions, RolloutOptions, TrainOptions
from dmdenv.agents.cli.usage import UsageError, blaming


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: what was typed behind `dmdenv`; None for `sys.argv`.

    Raises:
        SystemExit: with 0; 1 when the computation failed; 2 for bad arguments; 130 or 143 after SIGINT or SIGTERM.
    """
    try:
        code = _run(_parse(list(sys.argv[1:] if arguments is None else arguments)))
        sys.stdout.flush()
    except UsageError as error:
        print(f"dmdenv: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # nobody reads on, as in `dmdenv list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _parse(arguments: list[str]) -> Any:
    """The options of the command that was typed; exits with 2 where they are not understood."""
    return tyro.extras.subcommand_cli_from_dict(
        {
            "list": ListOptions,
            "train": _train_options(arguments[1:]) if arguments[:1] == ["train"] else TrainOptions,
            "rollout": RolloutOptions,
        },
        prog="dmdenv",
        description="Differentiable many-body physics environments: list them, train agents in them, film them.",
        args=arguments,
    )


def _train_options(arguments: list[str]) -> type[TrainOptions]:
    """`TrainOptions` with the settings of the agent that was asked for, those of the run where one is resumed."""
    from dmdenv.agents.base import get_agent
    from dmdenv.agents.runs.run import Run

    early = argparse.ArgumentParser(prog="dmdenv train", add_help=False, allow_abbrev=False)
    early.add_argument("--agent")
    early.add_argument("--resume", type=Path)
    known, _ = early.parse_known_args(arguments)
    if known.resume is not None:
        with blaming(f"--resume {known.resume}"):
            config = Run.open(known.resume).config
    else:
        with blaming(f"--agent {known.agent}"):
            config = get_agent(known.agent or DEFAULT_AGENT).Config()
    # Checked when the command runs, and not while tyro parses: so a bad value is refused in the words of the Config.
    unchecked = type("Settings", (type(config),), {"__doc__": type(config).__doc__, "__post_init__": lambda self: None})
    default = unchecked(**dataclasses.asdict(config))
    fields = [("config", OmitArgPrefixes[unchecked], dataclasses.field(default=default))]
    return dataclasses.make_dataclass(
        "TrainOptions", fields, bases=(TrainOptions,), frozen=True, namespace={"__doc__": TrainOptions.__doc__}
    )


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
        case _:
            from dmdenv.agents.cli.train import train

            return train(options, vars(options.config))
