"""Compare a trained policy with the untrained one, zero actions and random actions, on the same episodes."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dmdenv.agents.base import Policy
from dmdenv.agents.evaluate import Evaluation, evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.agents.runs.capacity import compute_within_capacity
from dmdenv.agents.runs.run import Run
from dmdenv.envs.base import Env
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import compile_first

FINAL_STEPS = 64  # metrics are averaged over these last steps of an episode

Summary = dict[str, Any]

_evaluate = jax.jit(evaluate, static_argnums=0, static_argnames=("episodes", "steps"))


def compare_policies(run: Run, state: Any, *, episodes: int, interruption: Interruption) -> Summary:
    """Evaluate the four policies on the same new episodes.

    Args:
        run: the run; the episodes follow from its seed.
        state: the training state to evaluate.
        episodes: how many, at least 2.
        interruption: checked before and after each compilation.

    Returns:
        What `evaluation.json` holds: for each policy the return and the final means, with standard errors.
    """
    policies: dict[str, Policy] = {
        "trained": run.policy(state),
        "untrained": run.policy(run.initial_state(interruption)),
        "zero": zero_policy(run.env),
        "random": random_policy(run.env),
    }
    options = {"episodes": episodes, "steps": int(run.params.max_steps), "params": run.params}
    results = {}
    env = run.env
    for name, policy in policies.items():
        interruption.check()

        def compute(env: Env, name: str = name, policy: Policy = policy) -> Evaluation:
            arguments = env, policy, run.keys.evaluation
            compile_first(f"the evaluation of {name}", _evaluate, *arguments, interruption=interruption, **options)
            interruption.check()
            result = _evaluate(*arguments, **options)
            return interruption.wait_for(lambda: jax.block_until_ready(result))

        env, evaluation = compute_within_capacity(env, compute, lambda evaluation: evaluation.overflow)
        results[name] = summarise(evaluation)
    return {"episodes": episodes, "final_steps": FINAL_STEPS, "policies": results}


def summarise(evaluation: Evaluation) -> Summary:
    """Mean and standard error over the episodes: of the return, and of each metric's mean over the final steps."""
    finals = evaluation.final_means(FINAL_STEPS)
    return {
        "return": _mean_and_error(evaluation.returns),
        "metrics": {name: _mean_and_error(values) for name, values in finals.items()},
    }


def _mean_and_error(values: jax.Array) -> dict[str, float | None]:
    x = np.asarray(values, np.float64)
    error = float(np.std(x, ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None
    return {"mean": float(np.mean(x)), "standard_error": error}


def format_table(policies: Mapping[str, Summary]) -> str:
    """The summaries as a small table, one policy per line; flags only where they were set."""
    metrics = next(iter(policies.values()))["metrics"]
    flags = ("overflow", "nonfinite")
    shown = [m for m in metrics if m not in flags or any(p["metrics"][m]["mean"] > 0 for p in policies.values())]
    lines = [["policy", "return", *shown]]
    for name, summary in policies.items():
        lines.append([name, _number(summary["return"]), *(_number(summary["metrics"][m]) for m in shown)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _number(value: dict[str, float | None]) -> str:
    """`mean ± standard error`."""
    mean, error = value["mean"], value["standard_error"]
    return f"{mean:.4g}" if error is None else f"{mean:.4g} ± {error:.2g}"
