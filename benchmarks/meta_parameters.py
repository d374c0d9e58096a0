"""Hidden parameters from observations: six coefficients of a flock, sigma and epsilon of a fluid.

    python -m benchmarks.meta_parameters [--quick] [--json PATH]

1,024 flocks of 24 boids are seen at a start and, with noise, six steps later: which strengths and ranges of alignment,
avoidance and cohesion do they have? 1,024 Lennard-Jones fluids of 16 particles are simulated at the temperature and
density of one whose g(r) is known: which sigma and epsilon does it have? Both are searched by the gradient and by
CMA-ES, with the same objective, from the same starts and with the same number of instances in each evaluation.

Counted are the steps that all instances were simulated until every parameter is within 1 % of the truth and stays so,
where an evaluation with its gradient counts as many steps more as it takes more processor time, measured here. The
median is over the starts; one that never gets there counts as infinitely many.
"""

import dataclasses
import pathlib
import time
from typing import Annotated, Any

import jax
import numpy as np
import optax
import tyro

from benchmarks import harness
from benchmarks.hidden_parameters import Flocks, Fluids, Problem
from dmdenv.search import SearchResult, minimize

TOLERANCE = 0.01  # of every parameter, relative
METHODS = ("gradient", "cmaes")


@dataclasses.dataclass(frozen=True)
class Options:
    """Parameters of a flock and of a fluid, recovered from observations."""

    quick: Annotated[bool, tyro.conf.arg(help="few instances and updates: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(
            help="where to write results, with a figure beside; by default into results/, nowhere with --quick"
        ),
    ] = None
    only: Annotated[str | None, tyro.conf.arg(help="flock or fluid; None: both")] = None


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long each method searches."""

    starts: int
    rate: float  # of Adam, in units of the search's u, at the beginning
    momentum: float
    updates: dict[str, int]


EFFORT = {
    "flock": Effort(starts=5, rate=0.3, momentum=0.9, updates={"gradient": 120, "cmaes": 150}),
    "fluid": Effort(starts=3, rate=0.4, momentum=0.8, updates={"gradient": 60, "cmaes": 60}),
}
QUICK = Effort(starts=2, rate=0.3, momentum=0.9, updates={"gradient": 3, "cmaes": 2})


def largest_errors(problem: Problem, values: Any) -> np.ndarray:
    """The largest relative error of a parameter, of the shape of the values."""
    found = problem.physical(jax.tree.map(np.asarray, values))
    return np.max([np.abs(np.asarray(found[name]) / true - 1) for name, true in problem.truth.items()], axis=0)


def updates_until(errors: np.ndarray) -> np.ndarray:
    """The update after which the error of a start is at most the tolerance until the end, `[starts]`; else infinite.

    Args:
        errors: `[updates, starts]`.
    """
    outside = errors > TOLERANCE
    last = len(errors) - np.argmax(outside[::-1], axis=0)  # updates up to the last one that is outside
    until = np.where(outside.any(axis=0), last + 1, 1).astype(float)
    return np.where(until > len(errors), np.inf, until)


def seconds_per_evaluation(problem: Problem) -> dict[str, float]:
    """Processor time of one evaluation, without ("cmaes") and with ("gradient") its gradient."""
    key = jax.random.key(0)
    value = jax.jit(problem.objective)
    both = jax.jit(jax.value_and_grad(problem.objective))
    start = {name: np.float32(number) for name, number in problem.start.items()}
    race = {"cmaes": lambda: value(start, key), "gradient": lambda: both(start, key)}
    return {name: timing.median for name, timing in harness.race(race, rounds=5, clock=time.process_time).items()}


def search(problem: Problem, effort: Effort, method: str) -> SearchResult:
    updates = effort.updates[method]
    schedule = optax.cosine_decay_schedule(effort.rate, updates)
    optimizer = optax.adam(schedule, b1=effort.momentum, b2=0.95) if method == "gradient" else None
    return minimize(
        problem.objective,
        problem.start,
        jax.random.key(1),
        bounds=problem.bounds,
        method=method,
        starts=effort.starts,
        updates=updates,
        optimizer=optimizer,
        trace=True,
    )


def compare(problem: Problem, effort: Effort) -> dict[str, Any]:
    """Both methods on a problem."""
    seconds, rows = seconds_per_evaluation(problem), {}
    for method in METHODS:
        began = time.process_time()
        found = search(problem, effort, method)
        errors = largest_errors(problem, found.trace)
        per_update = _points(found, effort)
        cost = per_update * seconds[method] / seconds["cmaes"]  # in evaluations without gradient
        until = updates_until(errors)
        rows[method] = {
            "best": {name: float(value) for name, value in problem.physical(found.best_params).items()},
            "error_of_best": float(largest_errors(problem, found.best_params)),
            "errors": largest_errors(problem, found.params).tolist(),
            "reached": int(np.isfinite(until).sum()),
            "updates": _number(np.median(until)),
            "evaluations": _number(np.median(until) * per_update),
            "steps": _number(np.median(until) * cost * problem.steps),
            "seconds": _number(np.median(until) * per_update * seconds[method]),
            "cost_per_update": cost,
            "cpu_seconds_in_all": time.process_time() - began,
            "trace": {name: np.asarray(values).tolist() for name, values in problem.physical(found.trace).items()},
            "largest_errors": errors.tolist(),
        }
    steps = [rows[method]["steps"] for method in METHODS]
    factor = None if None in steps else steps[1] / steps[0]
    return {
        "truth": problem.truth,
        "starts": effort.starts,
        "steps_per_evaluation": problem.steps,
        "gradient_over_value": seconds["gradient"] / seconds["cmaes"],
        "seconds_per_evaluation": seconds,
        "methods": rows,
        "factor": factor,
    }


def _points(found: SearchResult, effort: Effort) -> float:
    """Evaluations per update and start."""
    return (found.evaluations - 2 * effort.starts) / effort.starts / len(found.history)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def report(name: str, result: dict[str, Any], instances: int) -> list[harness.Target]:
    """Print what was found; what was to be reached."""
    print(f"{name}: a gradient takes {result['gradient_over_value']:.2f} of an evaluation without")
    header = (name, "largest error", "starts within 1 %", "evaluations", "steps", "CPU seconds")
    table = []
    for method, row in result["methods"].items():
        counts = [row["evaluations"], row["steps"], row["seconds"]]
        shown = ["-" if count is None else f"{count:.3g}" for count in counts]
        table.append((method, f"{row['error_of_best']:.2%}", f"{row['reached']} of {result['starts']}", *shown))
    harness.print_table(header, table)
    factor = result["factor"]
    print(f"{name}: CMA-ES needs {'-' if factor is None else f'{factor:.3g}'} times as many steps\n")
    error = result["methods"]["gradient"]["error_of_best"]
    return [
        harness.Target(f"{name}: instances", instances, at_least=1000),
        harness.Target(f"{name}: largest error by gradient, per cent", 100 * error, at_most=100 * TOLERANCE),
        harness.Target(f"{name}: steps of CMA-ES over those of the gradient", factor, at_least=1.0),
    ]


def draw(path: pathlib.Path, results: dict[str, Any]) -> None:
    """The error of each parameter against the simulated steps, by method, for the median of the starts."""
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(
        len(results), 2, figsize=(8, 3.4 * len(results)), sharey="row", squeeze=False, layout="constrained"
    )
    for axes, (name, result) in zip(rows, results.items(), strict=True):
        for axis, (method, row) in zip(axes, result["methods"].items(), strict=True):
            for parameter, true in result["truth"].items():
                errors = np.median(np.abs(np.array(row["trace"][parameter]) / true - 1), axis=1)
                steps = np.arange(1, len(errors) + 1) * row["cost_per_update"] * result["steps_per_evaluation"]
                axis.loglog(steps, errors, label=parameter)
            axis.axhline(TOLERANCE, color="grey", ls=":")
            axis.set(title=f"{name}, {method}", xlabel="simulated steps of all instances")
        axes[0].set_ylabel("relative error, median of the starts")
        axes[1].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(options: Options) -> None:
    systems = {
        "flock": Flocks(instances=8) if options.quick else Flocks(),
        "fluid": Fluids(instances=4, relax=10, samples=2, every=5) if options.quick else Fluids(),
    }
    if options.only is not None and options.only not in systems:
        raise SystemExit(f"only = {options.only!r}; must be one of {', '.join(systems)}")
    jax.config.update("jax_platforms", "cpu")
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    results, targets = {}, []
    for name, system in systems.items():
        if options.only in (None, name):
            problem = system.problem(jax.random.key(0))
            results[name] = compare(problem, QUICK if options.quick else EFFORT[name])
            targets += report(name, results[name], system.instances)
    harness.print_table(harness.TARGET_HEADER, [target.row() for target in targets])
    path = options.json or (None if options.quick else harness.RESULTS / "meta_parameters.json")
    if path is not None:
        record = {"benchmark": "meta_parameters", "quick": options.quick, "machine": machine, "problems": results}
        harness.write_json(path, record | {"targets": [target.record() for target in targets]})
        draw(path.with_suffix(".png"), results)
    if not options.quick and any(target.verdict != "pass" for target in targets):
        raise SystemExit("a target was not reached")


if __name__ == "__main__":
    main(tyro.cli(Options))
