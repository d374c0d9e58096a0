"""The training loop on the host: compile, update, log, save, and stop on a signal."""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from dmdenv.agents.base import Agent, Metrics
from dmdenv.agents.runs.capacity import report_overflow
from dmdenv.agents.runs.metrics import append_metrics, truncate_metrics
from dmdenv.agents.runs.run import Run
from dmdenv.envs.base import Env, Params
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import progress

METRICS_SHOWN = 5  # beside the progress bar


def train_run(run: Run, *, checkpoint_every: int, interruption: Interruption) -> tuple[Run, Any]:
    """Train from the run's last checkpoint, or from the start, to the end.

    Each update is one call of the same compiled function, so that a resumed run equals an uninterrupted one bit for
    bit. Progress goes to stderr, the metrics of each update to the run's log. After a signal it finishes the update and
    writes a checkpoint before it stops. An update in which a capacity of the environment overflowed is discarded and
    repeated with a larger one.

    Args:
        run: the run folder.
        checkpoint_every: updates between two checkpoints; one is always written at the end.
        interruption: checked after each update.

    Returns:
        `(run, state)`: the run, with larger capacities where they were needed, and the training state after
        `run.config.updates` updates.

    Raises:
        Interrupted: after a signal.
        CapacityExceeded: when the environment reports overflow and cannot grow; checkpoints from before remain.
    """
    state = run.restore()
    done, total = int(state.updates), run.config.updates
    truncate_metrics(run.metrics_path, done)
    if done == total:
        return run, state
    update = _compile_update(run, state)
    skipped = 0
    with progress(desc=run.env.id, total=total, initial=done, unit="update") as bar:
        while done < total:
            began = time.perf_counter()
            next_state, metrics = update(state, run.params)
            row = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if row.get("overflow", 0.0) > 0.0:
                run, state = run.enlarged(state)
                report_overflow(run.env, row["overflow"])
                update = _compile_update(run, state)
                continue
            state = next_state
            done += 1
            append_metrics(run.metrics_path, {"update": done, "seconds": time.perf_counter() - began, **row})
            skipped += int(row.get("skipped", 0))
            bar.set_postfix(_postfix(row, skipped), refresh=False)
            bar.update()
            stop = interruption.signum is not None  # read once: a signal during the save is for the next update
            if done % checkpoint_every == 0 or done == total or stop:
                run.save(state)
            if stop:
                interruption.check()
    return run, state


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _update(agent: Agent, env: Env, config: Any, state: Any, params: Params) -> tuple[Any, Metrics]:
    return agent.update(env, config, state, params=params)


def _compile_update(run: Run, state: Any) -> Callable[[Any, Params], tuple[Any, Metrics]]:
    """The update as a function of training state and parameters, compiled now."""
    print(f"compiling the update of {run.agent_name} ...", file=sys.stderr, flush=True)
    began = time.perf_counter()
    compiled = _update.lower(run.agent, run.env, run.config, state, run.params).compile()
    print(f"compiled in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return compiled


def _postfix(row: dict[str, float], skipped: int) -> dict[str, str]:
    """What the progress bar shows: the reward, the task's metrics, and the number of skipped updates if any."""
    own = ("reward", "skipped", "overflow", "nonfinite", "loss", "gradient_norm")
    names = ["reward", *(name for name in row if name not in own)]
    shown = {name: f"{row[name]:.3g}" for name in names[:METRICS_SHOWN] if name in row}
    return shown | ({"skipped": str(skipped)} if skipped else {})
