"""The host's side of a training: compile, update, log, save, and stop in good order."""

import sys
import time
from typing import Any

import jax

from dmdenv.agents.runs.capacity import tell_growth
from dmdenv.agents.runs.metrics import append_metrics, truncate_metrics
from dmdenv.agents.runs.run import Run
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import progress

SHOWN = 5  # metrics beside the progress bar


def train_run(run: Run, *, checkpoint_every: int, interruption: Interruption) -> tuple[Run, Any]:
    """Train from the run's last checkpoint (or from the start) to the end.

    Every update is one call of the same compiled function, so that a resumed training is bit by bit the same as an
    unbroken one. Progress goes to stderr, each update's metrics to the run's log. When asked to stop it finishes the
    update and writes a checkpoint first. An update in which a capacity of the environment overflowed is discarded and
    done again with a larger one.

    Args:
        run: the run folder.
        checkpoint_every: updates between two checkpoints; one is always written at the end.
        interruption: asked after every update.

    Returns:
        `(run, state)`: the run, its environment perhaps enlarged, and the agent's state after `run.config.updates`
        updates.

    Raises:
        Interrupted: when asked to stop.
        CapacityExceeded: when the environment reports overflow and cannot grow; checkpoints from before remain.
    """
    state = run.restore()
    done, total = int(state.updates), run.config.updates
    truncate_metrics(run.metrics_path, done)
    if done == total:
        return run, state
    update = _compiled_update(run, state)
    skipped = 0
    with progress(desc=run.env.id, total=total, initial=done, unit="update") as bar:
        while done < total:
            began = time.perf_counter()
            following, metrics = update(state, run.params)
            row = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if row.get("overflow", 0.0) > 0.0:
                run, state = run.enlarged(state)
                tell_growth(run.env, row["overflow"])
                update = _compiled_update(run, state)
                continue
            state = following
            done += 1
            append_metrics(run.metrics_path, {"update": done, "seconds": time.perf_counter() - began, **row})
            skipped += int(row.get("skipped", 0))
            bar.set_postfix(_shown(row, skipped), refresh=False)
            bar.update()
            stop = (
                interruption.signum is not None
            )  # asked once, so that a signal during the save waits for the next one
            if done % checkpoint_every == 0 or done == total or stop:
                run.save(state)
            if stop:
                interruption.check()
    return run, state


def _compiled_update(run: Run, state: Any):
    def update(state, params):
        return run.agent.update(run.env, run.config, state, params=params)

    print(f"compiling the update of {run.agent_name} ...", file=sys.stderr, flush=True)
    began = time.perf_counter()
    compiled = jax.jit(update).lower(state, run.params).compile()
    print(f"compiled in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return compiled


def _shown(row: dict[str, float], skipped: int) -> dict[str, str]:
    """What stands beside the progress bar: the reward, the task's metrics, and trouble if there was any."""
    quiet = ("reward", "skipped", "overflow", "nonfinite", "loss", "gradient_norm")
    names = ["reward", *(name for name in row if name not in quiet)]
    shown = {name: f"{row[name]:.3g}" for name in names[:SHOWN] if name in row}
    return shown | ({"skipped": str(skipped)} if skipped else {})
