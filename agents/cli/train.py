"""`dmdenv train`: a run from its first update to its film."""

import contextlib
import dataclasses
import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dmdenv._core.fields import field_values
from dmdenv.agents.base import SpaceMismatchError, get_agent
from dmdenv.agents.cli.arguments import check_at_least, check_seed, parse_env, parse_env_id, parse_params
from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.agents.cli.options import KEPT_OPTIONS, TrainOptions
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.agents.runs.comparison import FINAL_STEPS, compare_policies, format_table, step_means
from dmdenv.agents.runs.film import choose_length, choose_pace, film_states, record_episode
from dmdenv.agents.runs.learning_curve import draw_learning_curve
from dmdenv.agents.runs.metrics import read_metrics
from dmdenv.agents.runs.recipe import uses_float64
from dmdenv.agents.runs.run import Run
from dmdenv.agents.runs.training import train_run
from dmdenv.agents.settings import ANY_TASK, best_agent, is_known, tuned_settings
from dmdenv.envs.base import CapacityExceeded, Env
from dmdenv.simulation import CheckpointNotWritten, Interrupted, Interruption
from dmdenv.simulation.disk import one_line
from dmdenv.simulation.lock import LOCK, lock_folder
from dmdenv.simulation.progress import say


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
    if options.film_steps is not None:
        check_at_least("--film-steps", options.film_steps, 1)
    with Interruption() as interruption, contextlib.ExitStack() as held:
        try:
            if options.resume is None:
                run = _create(options, settings, interruption, held)
            else:
                run = _resume(options, options.resume, settings, interruption, held)
            print(f"run folder: {run.path}", flush=True)
        except Interrupted as stop:
            return stop.exit_code
        try:
            run, state = train_run(run, checkpoint_every=options.checkpoint_every, interruption=interruption)
            _report(run, state, options, interruption)
        except Interrupted as stop:
            print(f"interrupted by {stop}; {_reached(run)}. To resume:\n  {_resume_command(run, options)}", flush=True)
            return stop.exit_code
        except OSError as error:  # a checkpoint says itself what is safe
            safe = "" if isinstance(error, CheckpointNotWritten) else f"; {_reached(run)}"
            resume = f"To resume: {_resume_command(run, options)}"
            print(f"dmdenv: error: {one_line(error)}{safe}. {resume}", file=sys.stderr)
            return 1
        except CapacityExceeded as error:
            print(f"dmdenv: error: {error}", file=sys.stderr)
            return 1
    return 0


def _reached(run: Run) -> str:
    """Where a run is safe."""
    saved = run.saved_updates()
    return f"checkpoint after update {saved[-1]} of {run.config.updates}" if saved else "no checkpoint yet"


def _create(
    options: TrainOptions, settings: dict[str, Any], interruption: Interruption, held: contextlib.ExitStack
) -> Run:
    """A new run and its folder, which is locked as long as `held`."""
    if options.env_id is None:
        raise UsageError("ENV: missing; must be an environment of `dmdenv list`, or use --resume RUN_DIR")
    id, agent_name = options.env_id, options.agent or options.default_agent or ANY_TASK
    seed = 0 if options.seed is None else options.seed
    check_seed(seed)
    config = _agent_config(agent_name, settings)
    env = interruption.wait_for(lambda: parse_env(id, options.env))
    _check_tuning(options, env, agent_name)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = options.run_dir or Path("runs") / f"{env.id.replace(':', '.')}-{agent_name}-{now}"
    run = Run(
        path=path,
        env=env,
        params=parse_params(env.default_params, options.params),
        agent_name=agent_name,
        config=config,
        seed=seed,
        options={name: getattr(options, name) for name in KEPT_OPTIONS},
    )
    with as_usage_error(f"ENV {id}", (SpaceMismatchError,)):
        jax.eval_shape(run.initial_state)
    interruption.check()
    with as_usage_error(f"--run-dir {path}"):
        held.enter_context(lock_folder(path))
        run.create()
    _say_tuning(options, env, agent_name)
    return run


def _check_tuning(options: TrainOptions, env: Env, agent_name: str) -> None:
    """Refuse defaults of another task than the environment's: they are chosen before the command line is parsed."""
    if options.tuned_for is None:
        return
    id, task = options.tuned_for
    same = tuned_settings(id, task, agent_name) == tuned_settings(env.id, env.task, agent_name)
    if not same or not (options.agent or agent_name == best_agent(env.id, env.task)):
        raise UsageError(f"ENV {env.id}: must come first, as in `dmdenv train {env.id} --agent {agent_name}`")


def _say_tuning(options: TrainOptions, env: Env, agent_name: str) -> None:
    """Say which agent was chosen, and which of its settings are tuned."""
    name = f"{env.id}, task {env.task}"
    if not options.agent:
        known = "the best one known for" if is_known(env.id, env.task) else "the default for"
        print(f"agent: {agent_name}, {known} {name}")
    if tuned := tuned_settings(env.id, env.task, agent_name):
        print(f"defaults for {name}: {' '.join(f'{_flag(key)} {_as_typed(value)}' for key, value in tuned.items())}")


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


def _resume(
    options: TrainOptions,
    path: Path,
    settings: dict[str, Any],
    interruption: Interruption,
    held: contextlib.ExitStack,
) -> Run:
    """The run of an existing folder, which is locked as long as `held`; what determines its result cannot change."""
    with as_usage_error(f"--resume {path}"):
        held.enter_context(lock_folder(path))
        run = interruption.wait_for(lambda: Run.open(path))
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
    for name in KEPT_OPTIONS:
        value = getattr(options, name)
        if value == run.options.get(name) == getattr(TrainOptions, name):
            continue
        words += [_flag(name if value else f"no_{name}")] if isinstance(value, bool) else [_flag(name), str(value)]
    return ("JAX_ENABLE_X64=1 " if uses_float64() else "") + shlex.join(words)


def _report(run: Run, state: Any, options: TrainOptions, interruption: Interruption) -> None:
    """Compare policies, draw the learning curve, film an episode, and print what was written."""
    rows = read_metrics(run.metrics_path)
    skipped = sum(row.get("skipped") or 0 for row in rows)
    if skipped:
        print(f"{skipped:.0f} of {len(rows)} updates were skipped: their gradient was not finite")
    say(f"evaluating on {options.eval_episodes} episodes ...")
    summary = compare_policies(run, state, episodes=options.eval_episodes, interruption=interruption)
    with atomic_write(run.evaluation_path) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    if rows:  # those that are damaged have been named, and left out
        draw_learning_curve(
            run.learning_curve_path,
            rows,
            title=f"{run.env.id} {run.env.task}, {run.agent_name}, seed {run.seed}",
            steps_per_update=run.config.steps_per_update,
            references=step_means(summary),
            episodes=options.eval_episodes,
        )
    print(f"\n{format_table(summary['policies'])}\n")
    print(f"return of {options.eval_episodes} episodes, metrics over the last {FINAL_STEPS} steps, ± standard error\n")
    if options.film:
        policy = run.policy(state)
        evaluation, states = record_episode(run.env, policy, run.keys.film, run.params, interruption=interruption)
        states = states[: options.film_steps or choose_length(np.asarray(evaluation.rewards[0, : len(states)]))]
        pace = choose_pace(len(states))
        film_states(run.film_path, run.env, states, run.params, interruption=interruption, fps=pace)
    print("wrote")
    for path in sorted(run.path.iterdir()):
        if path.name != LOCK:
            print(f"  {path}")


def _flag(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def _as_typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
