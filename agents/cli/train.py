"""`dmdenv train`: a run from its first update to its film."""

import dataclasses
import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax

from dmdenv._core.fields import field_values
from dmdenv.agents.base import SpaceMismatchError, get_agent
from dmdenv.agents.cli.arguments import check_at_least, parse_env, parse_env_id, parse_params
from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.agents.cli.options import DEFAULT_AGENT, TrainOptions
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.agents.runs.comparison import FINAL_STEPS, compare_policies, format_table
from dmdenv.agents.runs.film import film_states, record_episode
from dmdenv.agents.runs.learning_curve import draw_learning_curve
from dmdenv.agents.runs.metrics import read_metrics
from dmdenv.agents.runs.recipe import uses_float64
from dmdenv.agents.runs.run import Run
from dmdenv.agents.runs.training import train_run
from dmdenv.envs.base import CapacityExceeded
from dmdenv.simulation import Interrupted, Interruption


def train(options: TrainOptions, settings: dict[str, Any]) -> int:
    """Train, compare, draw and film; or resume an interrupted run.

    Args:
        options: of the command.
        settings: the fields of the agent's `Config`, not yet checked.

    Returns:
        The exit code.

    Raises:
        UsageError: for an argument that is not valid.
    """
    check_at_least("--checkpoint-every", options.checkpoint_every, 1)
    check_at_least("--eval-episodes", options.eval_episodes, 2)
    run = _create(options, settings) if options.resume is None else _resume(options, options.resume, settings)
    print(f"run folder: {run.path}", flush=True)
    with Interruption() as interruption:
        try:
            run, state = train_run(run, checkpoint_every=options.checkpoint_every, interruption=interruption)
            _report(run, state, options, interruption)
        except Interrupted as stop:
            saved = run.saved_updates()
            reached = f"checkpoint after update {saved[-1]} of {run.config.updates}" if saved else "no checkpoint yet"
            print(f"interrupted by {stop}; {reached}. To resume:\n  {_resume_command(run, options)}", flush=True)
            return stop.exit_code
        except CapacityExceeded as error:
            print(f"dmdenv: error: {error}", file=sys.stderr)
            return 1
    return 0


def _create(options: TrainOptions, settings: dict[str, Any]) -> Run:
    """A new run and its folder."""
    if options.env_id is None:
        raise UsageError("ENV: missing; must be an environment of `dmdenv list`, or use --resume RUN_DIR")
    env = parse_env(options.env_id, options.env)
    agent_name = options.agent or DEFAULT_AGENT
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = options.run_dir or Path("runs") / f"{env.id.replace(':', '.')}-{agent_name}-{now}"
    run = Run(
        path=path,
        env=env,
        params=parse_params(env.default_params, options.params),
        agent_name=agent_name,
        config=_agent_config(agent_name, settings),
        seed=options.seed or 0,
    )
    with as_usage_error(f"ENV {options.env_id}", (SpaceMismatchError,)):
        jax.eval_shape(run.initial_state)
    with as_usage_error(f"--run-dir {path}"):
        return run.create()


def _agent_config(agent_name: str, settings: dict[str, Any]) -> Any:
    """The agent's `Config`; a value that its field refuses is reported under its option."""
    agent_config = get_agent(agent_name).Config
    for field in dataclasses.fields(agent_config):
        if rule := field.metadata.get("rule"):
            value = settings[field.name]
            with as_usage_error(f"{_flag(field.name)} {_as_typed(value)}"):
                rule.convert(field.name, value)
    with as_usage_error(f"--agent {agent_name}"):
        return agent_config(**settings)


def _resume(options: TrainOptions, path: Path, settings: dict[str, Any]) -> Run:
    """The run of an existing folder; what determines its result cannot change."""
    with as_usage_error(f"--resume {path}"):
        run = Run.open(path)
    fixed = {
        "ENV": (parse_env_id(options.env_id), run.env.id),
        "--agent": (options.agent, run.agent_name),
        "--seed": (options.seed, run.seed),
        "--run-dir": (options.run_dir, path),
        "--env": (options.env or None, "that of config.json"),
        "--params": (options.params or None, "that of config.json"),
        **{_flag(name): (settings[name], value) for name, value in field_values(run.config).items()},
    }
    for argument, (value, begun_with) in fixed.items():
        if value is not None and value != begun_with:
            raise UsageError(
                f"{argument} {_as_typed(value)}: cannot change when a run is resumed; must be {_as_typed(begun_with)},"
                f" as in {path}"
            )
    return run


def _resume_command(run: Run, options: TrainOptions) -> str:
    """The command that resumes a run."""
    words = ["dmdenv", "train", "--resume", str(run.path)]
    for name in ("checkpoint_every", "eval_episodes"):
        value = getattr(options, name)
        if value != type(options).__dataclass_fields__[name].default:
            words += [_flag(name), str(value)]
    words += [] if options.film else ["--no-film"]
    return ("JAX_ENABLE_X64=1 " if uses_float64() else "") + shlex.join(words)


def _report(run: Run, state: Any, options: TrainOptions, interruption: Interruption) -> None:
    """Draw the learning curve, compare policies, film an episode, and print what was written."""
    rows = read_metrics(run.metrics_path)
    draw_learning_curve(run.learning_curve_path, rows, title=f"{run.env.id}, {run.agent_name}, seed {run.seed}")
    skipped = sum(row.get("skipped") or 0 for row in rows)
    if skipped:
        print(f"{skipped:.0f} of {len(rows)} updates were skipped: their gradient was not finite")
    print(f"evaluating on {options.eval_episodes} episodes ...", file=sys.stderr, flush=True)
    summary = compare_policies(run, state, episodes=options.eval_episodes, interruption=interruption)
    with atomic_write(run.evaluation_path) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{format_table(summary['policies'])}\n")
    print(f"return of {options.eval_episodes} episodes, metrics over the last {FINAL_STEPS} steps, ± standard error\n")
    if options.film:
        _, states = record_episode(run.env, run.policy(state), run.keys.film, run.params)
        film_states(run.film_path, run.env, states, run.params, interruption=interruption)
    print("wrote")
    for path in sorted(run.path.iterdir()):
        print(f"  {path}")


def _flag(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def _as_typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
