"""`dmdenv train`: a run from its first update to its film."""

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax

from dmdenv.agents.base import UnfitError, get_agent
from dmdenv.agents.cli.arguments import environment, parameters
from dmdenv.agents.cli.options import DEFAULT_AGENT, TrainOptions
from dmdenv.agents.cli.usage import UsageError, blaming
from dmdenv.agents.runs.comparison import FINAL_STEPS, compare_policies, table
from dmdenv.agents.runs.files import replacing
from dmdenv.agents.runs.film import film_states, record
from dmdenv.agents.runs.learning_curve import draw_learning_curve
from dmdenv.agents.runs.metrics import read_metrics
from dmdenv.agents.runs.run import Run, field_values, uses_float64
from dmdenv.agents.runs.training import train_run
from dmdenv.envs.base import CapacityExceeded
from dmdenv.simulation import Interrupted, Interruption


def train(options: TrainOptions, settings: dict[str, Any]) -> int:
    """Train, compare, draw and film; or go on where an interrupted run stopped.

    Args:
        options: of the command.
        settings: the fields of the agent's `Config`, not yet checked.

    Returns:
        The exit code.

    Raises:
        UsageError: for what was typed and is not valid.
    """
    _check_least("--checkpoint-every", options.checkpoint_every, 1)
    _check_least("--eval-episodes", options.eval_episodes, 2)
    run = _begin(options, settings) if options.resume is None else _resume(options, options.resume, settings)
    print(f"run folder: {run.path}", flush=True)
    with Interruption() as interruption:
        try:
            run, state = train_run(run, checkpoint_every=options.checkpoint_every, interruption=interruption)
            _finish(run, state, options, interruption)
        except Interrupted as stop:
            saved = run.saved_updates()
            reached = f"checkpoint after update {saved[-1]} of {run.config.updates}" if saved else "no checkpoint yet"
            print(f"interrupted by {stop}; {reached}. To go on:\n  {_resume_command(run, options)}", flush=True)
            return stop.exit_code
        except CapacityExceeded as error:
            print(f"dmdenv: error: {error}", file=sys.stderr)
            return 1
    return 0


def _begin(options: TrainOptions, settings: dict[str, Any]) -> Run:
    """A new run folder."""
    if options.env_id is None:
        raise UsageError("ENV: missing; valid: an environment of `dmdenv list`, or --resume RUN_DIR")
    env = environment(options.env_id, options.env)
    agent_name = options.agent or DEFAULT_AGENT
    with blaming(f"--agent {agent_name}"):
        config = get_agent(agent_name).Config(**settings)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = options.run_dir or Path("runs") / f"{options.env_id}-{agent_name}-{now}"
    run = Run(
        path=path,
        env=env,
        params=parameters(env.default_params, options.params),
        agent_name=agent_name,
        config=config,
        seed=options.seed or 0,
    )
    with blaming(f"ENV {options.env_id}", (UnfitError,)):
        jax.eval_shape(run.initial_state)
    with blaming(f"--run-dir {path}"):
        return run.create()


def _resume(options: TrainOptions, path: Path, settings: dict[str, Any]) -> Run:
    """An existing run folder; what it was begun with cannot change."""
    with blaming(f"--resume {path}"):
        run = Run.open(path)
    begun_with = field_values(run.config)
    fixed = {
        "ENV": (options.env_id, run.env.id),
        "--agent": (options.agent, run.agent_name),
        "--seed": (options.seed, run.seed),
        "--run-dir": (options.run_dir, path),
        "--env": (options.env or None, "what config.json says"),
        "--params": (options.params or None, "what config.json says"),
        **{f"--{name.replace('_', '-')}": (settings[name], value) for name, value in begun_with.items()},
    }
    for argument, (asked, begun) in fixed.items():
        if asked is not None and asked != begun:
            shown = " ".join(map(str, asked)) if isinstance(asked, tuple) else asked
            raise UsageError(
                f"{argument} {shown}: cannot change in a resumed run; valid: {begun}, with which {path} began"
            )
    return run


def _resume_command(run: Run, options: TrainOptions) -> str:
    """What to type to go on with a run."""
    words = ["dmdenv", "train", "--resume", str(run.path)]
    for name in ("checkpoint_every", "eval_episodes"):
        value = getattr(options, name)
        if value != type(options).__dataclass_fields__[name].default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += [] if options.film else ["--no-film"]
    return ("JAX_ENABLE_X64=1 " if uses_float64() else "") + shlex.join(words)


def _finish(run: Run, state: Any, options: TrainOptions, interruption: Interruption) -> None:
    """Draw, compare and film what was trained, and say where it all is."""
    rows = read_metrics(run.metrics_path)
    draw_learning_curve(run.learning_curve_path, rows, title=f"{run.env.id}, {run.agent_name}, seed {run.seed}")
    skipped = sum(row.get("skipped") or 0 for row in rows)
    if skipped:
        print(f"{skipped:.0f} of {len(rows)} updates were skipped: their gradient was not finite")
    print(f"evaluating on {options.eval_episodes} episodes ...", file=sys.stderr, flush=True)
    summary = compare_policies(run, state, episodes=options.eval_episodes, interruption=interruption)
    with replacing(run.evaluation_path) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{table(summary['policies'])}\n")
    print(f"return of {options.eval_episodes} episodes, metrics over the last {FINAL_STEPS} steps, ± standard error\n")
    if options.film:
        _, states = record(run.env, run.policy(state), run.keys.film, run.params)
        film_states(run.film_path, run.env, states, run.params, interruption=interruption)
    print("wrote")
    for path in sorted(run.path.iterdir()):
        print(f"  {path}")


def _check_least(flag: str, value: int, low: int) -> None:
    if value < low:
        raise UsageError(f"{flag} {value}: out of range; valid: whole numbers from {low}")
