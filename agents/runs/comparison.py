"""Compare a trained policy with the untrained one, zero and random actions and baselines, on the same episodes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dmdenv.agents.base import InformedPolicy, Policy
from dmdenv.agents.evaluate import Evaluation, evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.agents.runs.capacity import compute_within_capacity
from dmdenv.agents.runs.run import Run
from dmdenv.envs.base import Env
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import compile_first

FINAL_STEPS = 64  # metrics are averaged over these last steps of an episode

LEARNED = ("trained", "untrained")
SUMMARISED = {"return", "metrics", "per_step"}

Summary = dict[str, Any]

_evaluate = jax.jit(evaluate, static_argnums=0, static_argnames=("episodes", "steps"))


def compare_policies(run: Run, state: Any, *, episodes: int, interruption: Interruption) -> Summary:
    """Evaluate the policies on the same new episodes.

    Those that training does not change are evaluated once: their results are taken from the run's `evaluation.json`
    where that has the same number of episodes.

    Args:
        run: the run; the episodes follow from its seed.
        state: the training state to evaluate.
        episodes: how many, at least 2.
        interruption: checked before and after each compilation.

    Returns:
        What `evaluation.json` holds: for each policy the return and the final means, with standard errors, and the
        means per step over whole episodes.
    """
    policies: dict[str, Policy | InformedPolicy] = {
        "trained": run.policy(state),
        "untrained": run.policy(run.initial_state(interruption)),
        "zero": zero_policy(run.env),
        "random": random_policy(run.env),
        **{f"baseline {name}": jax.tree_util.Partial(policy) for name, policy in run.env.baselines(run.params).items()},
    }
    options = {"episodes": episodes, "steps": int(run.params.max_steps), "params": run.params}
    known = _read_untrained(run.evaluation_path, episodes)
    results = {}
    env = run.env
    for name, policy in policies.items():
        interruption.check()
        if name in known:
            results[name] = known[name]
            continue

        def compute(env: Env, name: str = name, policy: Policy | InformedPolicy = policy) -> Evaluation:
            arguments = env, policy, run.keys.evaluation
            compile_first(f"the evaluation of {name}", _evaluate, *arguments, interruption=interruption, **options)
            interruption.check()
            result = _evaluate(*arguments, **options)
            return interruption.wait_for(lambda: jax.block_until_ready(result))

        env, evaluation = compute_within_capacity(env, compute, lambda evaluation: evaluation.overflow)
        results[name] = summarise(evaluation)
    return {"episodes": episodes, "final_steps": FINAL_STEPS, "policies": results}


def step_means(summary: Summary) -> dict[str, dict[str, float]]:
    """From what `compare_policies` returns: by policy, the means per step of those that training does not change."""
    return {name: policy["per_step"] for name, policy in summary["policies"].items() if name not in LEARNED}


def _read_untrained(path: Path, episodes: int) -> dict[str, Summary]:
    """The policies in an earlier `evaluation.json` that training does not change; none where it does not fit."""
    try:
        summary = json.loads(path.read_bytes())
        same = (summary["episodes"], summary["final_steps"]) == (episodes, FINAL_STEPS)
        whole = all(policy.keys() == SUMMARISED for policy in summary["policies"].values())
        return {n: p for n, p in summary["policies"].items() if n != "trained"} if same and whole else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def summarise(evaluation: Evaluation) -> Summary:
    """Mean and standard error over the episodes of the return and of each metric's mean over the final steps.

    And the mean per step, over whole episodes, of the reward and of each metric, as an agent logs them.
    """
    finals = evaluation.final_means(FINAL_STEPS)
    return {
        "return": _mean_and_error(evaluation.returns),
        "metrics": {name: _mean_and_error(values) for name, values in finals.items()},
        "per_step": {name: float(mean) for name, mean in evaluation.step_means.items()},
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
