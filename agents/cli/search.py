"""`dmdenv search`: a search for parameters of an environment, from its arguments to its picture."""

import contextlib
import dataclasses
import datetime
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from dmdenv._core.fields import Choice, field_values
from dmdenv.agents.cli.arguments import check_at_least, check_seed, parse_vary, prepare_env
from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.agents.cli.options import SearchOptions
from dmdenv.agents.cli.setup import Setup, choose_setup, pin_policy
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.agents.runs.comparison import FINAL_STEPS
from dmdenv.agents.runs.episode_objective import RETURN, episode_objective, objective_names
from dmdenv.agents.runs.recipe import check_precision, read_checked, uses_float64, write_checked
from dmdenv.agents.runs.run import CHECKPOINTS, RECIPE, make_new_folder
from dmdenv.envs.base import CapacityExceeded
from dmdenv.search import SearchResult, minimize
from dmdenv.search.arguments import METHODS, plan
from dmdenv.search.domain import make_domain
from dmdenv.simulation import CheckpointNotWritten, Interrupted, Interruption
from dmdenv.simulation.checkpoints import saved_steps
from dmdenv.simulation.disk import one_line
from dmdenv.simulation.lock import LOCK, lock_folder
from dmdenv.simulation.progress import say


def search(options: SearchOptions) -> int:
    """Search, write the result and draw it; or resume an interrupted search.

    Returns:
        The exit code.

    Raises:
        UsageError: for an argument that is not valid.
    """
    with contextlib.ExitStack() as held:
        try:
            with Interruption() as interruption:
                if options.resume is not None:
                    options = _resumed(options, options.resume, held)
                _check(options)
                setup = interruption.wait_for(lambda: choose_setup(options))
                start, bounds = parse_vary(setup.env, setup.params, options.vary)
                _check_plan(options, start, bounds)
                setup = setup._replace(env=interruption.wait_for(lambda: prepare_env(setup.env)))
                objective, enlarge = _objective(options, setup)
                interruption.check()
                path = _create(options, setup, held) if options.resume is None else options.resume
                print(f"run folder: {path}", flush=True)
        except Interrupted as stop:
            return stop.exit_code
        try:
            result = minimize(
                objective,
                start,
                jax.random.key(options.seed),
                bounds=bounds,
                method=options.method,
                starts=options.starts,
                updates=options.updates,
                evaluations=options.evaluations,
                keys_per_update=options.episodes,
                final_keys=options.eval_episodes,
                enlarge=enlarge,
                folder=path / CHECKPOINTS,
            )
            _report(path, options, result, start, bounds)
        except Interrupted as stop:
            print(f"interrupted by {stop}; {_reached(path)}. To resume:\n  {_resume_command(path)}", flush=True)
            return stop.exit_code
        except OSError as error:  # a checkpoint says itself what is safe
            safe = "" if isinstance(error, CheckpointNotWritten) else f"; {_reached(path)}"
            resume = f"To resume: {_resume_command(path)}"
            print(f"dmdenv: error: {one_line(error)}{safe}. {resume}", file=sys.stderr)
            return 1
        except (FloatingPointError, ValueError) as error:  # nothing finite; a damaged checkpoint
            print(f"dmdenv: error: {one_line(error)}", file=sys.stderr)
            return 1
    return 0


# --- arguments --------------------------------------------------------------------------------------------------------


def _check(options: SearchOptions) -> None:
    """Refuse what can be refused without the environment."""
    if not options.vary:
        raise UsageError("--vary: missing; must be PARAMETER=LOW:HIGH, with a parameter of the environment")
    if options.objective is None:
        raise UsageError(f"--objective: missing; must be {RETURN}, or a metric of the environment")
    with as_usage_error(f"--method {options.method}"):
        Choice(METHODS).convert("method", options.method)
    check_at_least("--starts", options.starts, 1)
    check_at_least("--episodes", options.episodes, 1)
    check_at_least("--eval-episodes", options.eval_episodes, 1)
    check_seed(options.seed)


def _check_plan(options: SearchOptions, start: dict[str, float], bounds: dict[str, tuple]) -> None:
    """Refuse a number of updates or of evaluations that is too small, or both of them."""
    flag = f"--updates {options.updates}" if options.evaluations is None else f"--evaluations {options.evaluations}"
    with as_usage_error(flag):
        domain = make_domain(start, bounds, 1.0)
        counts = options.starts, options.updates, options.evaluations, options.episodes
        plan(domain, options.method, *counts, optimizer=None, population=None)


def _objective(options: SearchOptions, setup: Setup) -> tuple[Any, Callable[[], Any]]:
    """What is to be minimised, and a function that returns the same with larger capacities of the environment.

    Where they cannot grow, points that overflow are left out from there on.
    """
    name = options.objective or RETURN
    names = objective_names(setup.env, setup.policy, setup.params)
    if name not in names:
        raise UsageError(f"--objective {name}: must be one of {', '.join(names)}")
    env = setup.env

    def objective(**more: bool) -> Any:
        return episode_objective(env, setup.policy, setup.params, name, maximize=options.maximize, **more)

    def enlarge() -> Any:
        nonlocal env
        try:
            env = env.enlarged()
        except CapacityExceeded as error:
            say(f"{error}; points where it overflows are left out")
            return objective(leave_out_overflow=True)
        env.prepare()
        return objective()

    return objective(), enlarge


# --- the run folder ---------------------------------------------------------------------------------------------------


def _create(options: SearchOptions, setup: Setup, held: contextlib.ExitStack) -> Path:
    """A new run folder, locked as long as `held`, with the options of the search, defaults of environments included."""
    env, params, _ = setup
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = options.run_dir or Path("runs") / f"{env.id.replace(':', '.')}-search-{options.method}-{now}"
    dynamic = {name: np.asarray(value).tolist() for name, value in field_values(params).items()}
    complete = dataclasses.replace(
        options,
        env_id=env.id,
        policy=pin_policy(options.policy),
        env=(f"task={env.task}", *(f"{name}={value!r}" for name, value in field_values(env).items())),
        params=tuple(f"{name}={value!r}" for name, value in dynamic.items()),
        run_dir=None,
    )
    with as_usage_error(f"--run-dir {path}"):
        held.enter_context(lock_folder(path))
        make_new_folder(path)
        write_checked(path / RECIPE, {"search": field_values(complete)})
    return path


def _resumed(options: SearchOptions, path: Path, held: contextlib.ExitStack) -> SearchOptions:
    """The options of the search in an existing folder, which is locked as long as `held`."""
    for name, value in field_values(options).items():
        if name != "resume" and value != getattr(SearchOptions, name):
            flag = "ENV" if name == "env_id" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: cannot change when a search is resumed; must be absent")
    recipe = path / RECIPE
    if not recipe.is_file():
        raise UsageError(f"--resume {path}: has no {RECIPE}; must be a folder that `dmdenv search` has written")
    with as_usage_error(f"--resume {path}"):
        held.enter_context(lock_folder(path))
        content = read_checked(recipe)
        check_precision(recipe, content)
        if "search" not in content:
            raise ValueError(f"{recipe} is not that of a search; must be a folder that `dmdenv search` has written")
        lists = {name: tuple(content["search"][name]) for name in ("vary", "env", "params")}
        return SearchOptions(**{**content["search"], **lists, "resume": path})


def _reached(path: Path) -> str:
    """Where a search is safe."""
    saved = saved_steps(path / CHECKPOINTS)
    return f"checkpoint after update {saved[-1]}" if saved else "no checkpoint yet"


def _resume_command(path: Path) -> str:
    """The command that resumes a search."""
    return ("JAX_ENABLE_X64=1 " if uses_float64() else "") + shlex.join(["dmdenv", "search", "--resume", str(path)])


# --- the result -------------------------------------------------------------------------------------------------------


def _report(
    path: Path, options: SearchOptions, result: SearchResult, start: dict[str, float], bounds: dict[str, tuple]
) -> None:
    """Write the result, draw it, print it, and what was written."""
    sign = -1.0 if options.maximize else 1.0
    best = {name: float(value) for name, value in result.best_params.items()}
    content = {
        "objective": options.objective,
        "maximize": options.maximize,
        "method": result.method,
        "best_params": best,
        "best_value": sign * result.best_value,
        "params": {name: _numbers(values) for name, values in result.params.items()},
        "values": _numbers(sign * result.values),
        "history": [_numbers(row) for row in sign * result.history],
        "evaluations": result.evaluations,
        "gradients": result.gradients,
        "nonfinite": result.nonfinite.tolist(),
        "restarts": result.restarts.tolist(),
    }
    with atomic_write(path / "result.json") as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    figure = Figure(figsize=(6, 4), layout="constrained", dpi=120)
    axes = figure.subplots()
    result.plot(axes)
    axes.set_ylabel(f"least {'negative ' if options.maximize else ''}{options.objective} so far")
    with atomic_write(path / "search.png") as partial:
        figure.savefig(partial)

    lines = [["parameter", "start", "best", "low", "high"]]
    lines += [[name, *(f"{x:.4g}" for x in (start[name], best[name], *bounds[name][:2]))] for name in best]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\n" + "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines) + "\n")
    over = "" if options.objective == RETURN else f", mean over the last {FINAL_STEPS} steps"
    print(f"{options.objective}{over}: {sign * result.best_value:.4g} in {options.eval_episodes} new episodes")
    if broken := int(result.nonfinite.sum()):
        print(f"{broken} points were left out: something was not finite in their episodes, or no capacity was enough")
    print("\nwrote")
    for file in sorted(path.iterdir()):
        if file.name != LOCK:
            print(f"  {file}")


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them: null for what is not finite."""
    return [float(x) if np.isfinite(x) else None for x in values]
