"""The training loop on the host: compile, update, log, save, and stop on a signal."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax

from dmdenv.agents.base import Agent, Metrics
from dmdenv.agents.runs.capacity import report_overflow
from dmdenv.agents.runs.metrics import append_metrics, truncate_metrics
from dmdenv.agents.runs.run import Run
from dmdenv.envs.base import RESERVED, Env, Params
from dmdenv.simulation import CheckpointNotWritten, Interruption
from dmdenv.simulation.progress import compile_first, progress

METRICS_SHOWN = 5  # beside the progress bar


def train_run(run: Run, *, checkpoint_every: int, interruption: Interruption) -> tuple[Run, Any]:
    """Train from the run's last checkpoint, or from the start, to the end.

    Each update is one call of the same compiled function, so that a resumed run equals an uninterrupted one bit for
    bit. Progress goes to stderr, the metrics of each update to the run's log. After a signal it finishes the update,
    after a second one it stops at once. Before it stops, for whatever reason, it writes a checkpoint of the finished
    updates. An update in which a capacity of the environment overflowed is discarded and repeated with a larger one.

    Args:
        run: the run folder.
        checkpoint_every: updates between two checkpoints; one is always written at the end.
        interruption: checked before and after each update.

    Returns:
        `(run, state)`: the run, with larger capacities where they were needed, and the training state after
        `run.config.updates` updates.

    Raises:
        Interrupted: after a signal.
        CapacityExceeded: when the environment reports overflow and cannot grow.
        OSError: when metrics or a checkpoint cannot be written, as on a full disk; checkpoints from before remain.
    """
    state = run.restore(interruption=interruption)
    saved = done = int(state.updates)
    total = run.config.updates
    truncate_metrics(run.metrics_path, done)
    if done == total:
        return run, state
    skipped = 0
    try:
        update = _compile_update(run, state, interruption)
        interruption.check()
        with progress(desc=run.env.id, total=total, initial=done, unit="update") as bar:
            while done < total:
                began = time.perf_counter()
                result = update(state, run.params)
                next_state, metrics = interruption.wait_for(lambda result=result: jax.block_until_ready(result))
                row = {name: float(value) for name, value in jax.device_get(metrics).items()}
                if row.get("overflow", 0.0) > 0.0:
                    run, state = run.enlarged(state)
                    report_overflow(run.env, row["overflow"])
                    update = _compile_update(run, state, interruption)
                    continue
                append_metrics(run.metrics_path, {"update": done + 1, "seconds": time.perf_counter() - began, **row})
                state, done = next_state, done + 1
                skipped += int(row.get("skipped", 0))
                bar.set_postfix(_postfix(row, skipped), refresh=False)
                bar.update()
                if done % checkpoint_every == 0 or done == total:
                    saved = _save(run, state, interruption)
                interruption.check()
    except CheckpointNotWritten:
        raise
    except BaseException:
        if done > saved:
            _save(run, state, interruption)
        raise
    return run, state


def _save(run: Run, state: Any, interruption: Interruption) -> int:
    """Write a checkpoint, signals or not; returns its number of updates."""
    with interruption.deferred():
        run.save(state)
    return int(state.updates)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _update(agent: Agent, env: Env, config: Any, state: Any, params: Params) -> tuple[Any, Metrics]:
    return agent.update(env, config, state, params=params)


def _compile_update(run: Run, state: Any, interruption: Interruption) -> Callable[[Any, Params], tuple[Any, Metrics]]:
    """The update as a function of training state and parameters, compiled now."""
    arguments = run.agent, run.env, run.config, state, run.params
    return compile_first(f"the update of {run.agent_name}", _update, *arguments, interruption=interruption)


def _postfix(row: dict[str, float], skipped: int) -> dict[str, str]:
    """What the progress bar shows: the reward, the task's metrics, and the number of skipped updates if any."""
    names = ["reward", *(name for name in row if name not in RESERVED)]
    shown = {name: f"{row[name]:.3g}" for name in names[:METRICS_SHOWN] if name in row}
    return shown | ({"skipped": str(skipped)} if skipped else {})
