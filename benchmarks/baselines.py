"""Scores of the baselines that environments ship, beside doing nothing and chance.

    python -m benchmarks.baselines [--quick] [--json PATH]

Every policy sees the same episodes of its environment, so that differences between policies are more certain than each
of the means. Returns are means over the episodes with their standard errors.
"""

import dataclasses
import math
import pathlib
import time
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import dmdenv
from benchmarks import harness
from dmdenv.agents.evaluate import Evaluation, evaluate
from dmdenv.agents.policies import random_policy, zero_policy

CASES = tuple((id, {"task": task}) for id in dmdenv.registered_envs() for task in dmdenv.registered_tasks(id))
LAST = 64  # steps over which metrics are averaged


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores of the baselines of every environment."""

    quick: Annotated[bool, tyro.conf.arg(help="a few episodes: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write the results; by default into results/, and nowhere with --quick"),
    ] = None
    episodes: Annotated[int, tyro.conf.arg(help="how many")] = 256


def mean_and_error(values: Any) -> tuple[float, float]:
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def scores(id: str, config: dict[str, Any], episodes: int) -> list[dict[str, Any]]:
    """A row for each policy."""
    env = dmdenv.make_env(id, **config)
    steps = int(env.default_params.max_steps)
    policies = {"zero": zero_policy(env), "random": random_policy(env), **env.baselines()}
    rows = []
    for name, policy in policies.items():
        start = time.perf_counter()

        @jax.jit
        def run(key: jax.Array, policy=policy) -> Evaluation:
            return evaluate(env, policy, key, episodes=episodes, steps=steps)

        found = run(jax.random.key(0))
        if found.overflow:
            raise RuntimeError(f"{id}: a capacity overflowed under the policy {name!r}; give the case a larger one")
        score, error = mean_and_error(found.returns)
        metrics = {metric: mean_and_error(x) for metric, x in found.final_means(LAST).items()}
        rows.append(
            {
                "env": id,
                **config,
                "policy": name,
                "return": score,
                "standard_error": error,
                "metrics": {k: v for k, v in metrics.items() if k not in ("overflow", "nonfinite")},
                "nonfinite": float(np.sum(found.metrics["nonfinite"])),
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    metrics = ", ".join(f"{name} {mean:.3g}" for name, (mean, _) in row["metrics"].items())
    return [f"{row['env']} {row['task']}", row["policy"], f"{row['return']:.4g} ± {row['standard_error']:.2g}", metrics]


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    machine = harness.machine(None)
    harness.print_machine(machine)
    rows = []
    for id, config in CASES:
        rows += scores(id, config, 4 if options.quick else options.episodes)
    harness.print_table(
        ("environment", "policy", "return", f"metrics, last {LAST} steps"), [cells(row) for row in rows]
    )
    path = options.json or (None if options.quick else harness.RESULTS / "baselines.json")
    if path is not None:
        record = {"benchmark": "baselines", "quick": options.quick, "machine": machine, "rows": rows}
        harness.write_json(path, record)


if __name__ == "__main__":
    main(tyro.cli(Options))
