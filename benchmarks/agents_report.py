"""The table and the learning curves of docs/agents.md, from the cells that `benchmarks.agents` has measured.

python -m benchmarks.agents_report [--folder DIR] [--no-write]
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks import harness
from benchmarks.agents import CELLS, GRADIENTS, REFERENCES, TASKS
from benchmarks.harness import TARGET_HEADER, Target
from dmdenv.agents.base import registered_agents
from dmdenv.agents.runs.learning_curve import REFERENCE_COLORS, REFERENCE_LINE, STYLE

PAGE = harness.FOLDER.parent / "docs" / "agents.md"
PICTURE = PAGE.parent / "images" / "agents.png"
RESAMPLES = 2000  # of the bootstrap
SHARE = 0.9  # of the way from zero actions to the best known return
OPTIMUM = {"trap_drag.drag": "optimal"}  # a shipped policy that nothing can beat
GRADIENT_AGENTS = ("apg", "shac")
COLORS: dict[str, str] = dict(zip(("apg", "shac", "open_loop", "ppo", "es"), REFERENCE_COLORS[1:], strict=True))


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the results of the agents into docs/agents.md."""

    folder: Annotated[pathlib.Path, tyro.conf.arg(help="where the cells are")] = CELLS
    write: Annotated[bool, tyro.conf.arg(help="into the page; otherwise print only")] = True


def main(options: Options) -> None:
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(options.folder.glob("*.json"))}
    tasks = [task for task in TASKS if f"{task}.{REFERENCES}" in cells]
    if not tasks:
        raise SystemExit(f"--folder {options.folder}: holds no results of `python -m benchmarks.agents`")
    results = {task: Result(task, cells) for task in tasks}
    tables = {"returns": returns_table(results), "costs": costs_table(results), "targets": targets_table(results)}
    for header, rows in tables.values():
        harness.print_table(header, rows)
    if options.write:
        text = PAGE.read_text()
        for name, table in tables.items():
            text = replace_between(text, name, markdown(*table))
        PAGE.write_text(text)
        draw(results, PICTURE)
        print(f"wrote {PAGE} and {PICTURE}")


class Result:
    """What was measured on one task."""

    def __init__(self, task: str, cells: dict[str, Any]):
        self.task = task
        self.policies = {name: np.array(x) for name, x in cells[f"{task}.{REFERENCES}"]["policies"].items()}
        self.agents = {name: cells[f"{task}.{name}"] for name in registered_agents() if f"{task}.{name}" in cells}
        self.trusted = cells[f"{task}.{GRADIENTS}"]["trusted"] if f"{task}.{GRADIENTS}" in cells else None
        shipped = [name for name in self.policies if name not in ("zero", "random", OPTIMUM.get(task))]
        self.baseline = max(shipped, key=lambda name: self.policies[name].mean())

    @property
    def best(self) -> float:
        """The best known return."""
        return max(
            *(float(returns.mean()) for returns in self.policies.values()),
            *(interquartile_mean(x["returns"]) for x in self.agents.values()),
        )

    def gain(self, agent: str) -> tuple[float, float]:
        """The mean return over that of the best baseline, on the same episodes, and its standard error."""
        more = np.array(self.agents[agent]["episodes"]) - self.policies[self.baseline]
        return float(more.mean()), float(more.std(ddof=1) / math.sqrt(len(more)))

    def cost(self, agent: str) -> tuple[float, float, float] | None:
        """Environment steps, gradient steps and seconds of one seed until 90 % of the best known return; medians.

        Linear in between two points of the learning curve; None where less than half of the seeds come there.
        """
        cell = self.agents[agent]
        zero = self.policies["zero"].mean()
        needed = self.updates_until(agent, zero + SHARE * (self.best - zero))
        if not math.isfinite(needed):
            return None
        updates = [point["updates"] for point in cell["curve"]]
        seconds = np.array([point["seconds"] for point in cell["curve"]]) / len(cell["returns"])
        gradient_steps = math.nan if agent == "es" else needed * cell["gradient_steps_per_update"]
        return needed * cell["steps_per_update"], gradient_steps, float(np.interp(needed, updates, seconds))

    def updates_until(self, agent: str, wanted: float, metric: str | None = None) -> float:
        """Updates until the return, or a metric, is at a value for good: the median over seeds; infinite if never."""
        curve = self.agents[agent]["curve"]
        updates = np.array([point["updates"] for point in curve], float)
        values = np.array([point["metrics"][metric] if metric else point["returns"] for point in curve])
        return float(np.median([reached_for_good(updates, column, wanted) for column in values.T]))

    def steps_until(self, agent: str, wanted: float, metric: str | None = None) -> float:
        """Environment steps of one seed, as `updates_until`."""
        return self.updates_until(agent, wanted, metric) * self.agents[agent]["steps_per_update"]


def reached_for_good(x: np.ndarray, y: np.ndarray, wanted: float) -> float:
    """From where on y is at the wanted value or above it; infinite if it ends below.

    A learning curve is noisy: where it first comes there may be luck.
    """
    below = np.flatnonzero(~(y >= wanted))
    if not len(below):
        return float(x[0])
    k = below[-1]
    if k == len(y) - 1:
        return math.inf
    return float(x[k] + (x[k + 1] - x[k]) * (wanted - y[k]) / (y[k + 1] - y[k]))


def interquartile_mean(values: Any) -> float:
    """The mean of the middle half."""
    ordered = np.sort(np.asarray(values, float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def interval(values: Any) -> tuple[float, float]:
    """The 95 % bootstrap interval of the interquartile mean over seeds."""
    values, random = np.asarray(values, float), np.random.default_rng(0)
    means = [interquartile_mean(random.choice(values, len(values))) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


# --- tables -----------------------------------------------------------------------------------------------------------

Table = tuple[tuple[str, ...], list[list[str]]]


def returns_table(results: dict[str, Result]) -> Table:
    """A row for each task: returns of zero and random actions, the best baseline, each agent; the trusted horizon."""
    names = [name for name in COLORS if any(name in result.agents for result in results.values())]
    rows = []
    for task, result in results.items():
        row = [task.replace(".", " "), *(f"{result.policies[name].mean():.4g}" for name in ("zero", "random"))]
        row += [f"{result.policies[result.baseline].mean():.4g} ({result.baseline})"]
        for name in names:
            if name not in result.agents:
                row.append("")
                continue
            returns = result.agents[name]["returns"]
            low, high = interval(returns)
            text = f"{interquartile_mean(returns):.4g} ({low:.4g} to {high:.4g})"
            row.append(f"**{text}**" if _beats(result, name) else text)
        rows.append([*row, "" if result.trusted is None else str(result.trusted)])
    return ("task", "zero", "random", "best baseline", *names, "trusted horizon"), rows


def costs_table(results: dict[str, Result]) -> Table:
    """A row for each task: what each agent needs until 90 % of the best known return."""
    names = [name for name in COLORS if any(name in result.agents for result in results.values())]
    rows = []
    for task, result in results.items():
        zero = result.policies["zero"].mean()
        row = [task.replace(".", " "), f"{zero + SHARE * (result.best - zero):.4g}"]
        for name in names:
            cost = result.cost(name) if name in result.agents else None
            row.append("-" if cost is None else f"{_short(cost[0])} / {_short(cost[1])} / {cost[2]:.2g} s")
        rows.append(row)
    return ("task", "return", *names), rows


def targets_table(results: dict[str, Result]) -> Table:
    """What was expected of the agents, and what was measured; returns are medians over seeds."""
    targets = [target for task, expect in EXPECTED.items() if task in results for target in expect(results[task])]
    beaten = [task for task, result in results.items() if any(_beats(result, name) for name in result.agents)]
    targets.append(Target("tasks on which an agent beats the best baseline", len(beaten), at_least=9))
    return TARGET_HEADER, [list(target.row()) for target in targets]


def _expect_of_trap_drag(result: Result) -> Iterator[Target]:
    optimum = float(result.policies[OPTIMUM[result.task]].mean())
    for agent, least in (("open_loop", 1.01 * optimum), ("apg", -8.5), ("shac", -8.5), ("ppo", -8.8), ("es", -8.8)):
        if agent in result.agents:
            yield Target(f"trap_drag: return of {agent}", _median_return(result, agent), at_least=least)
    yield _fewer_steps(result, "trap_drag: times fewer steps than ppo to -8.8", -8.8)


def _expect_of_align(result: Result) -> Iterator[Target]:
    yield _fewer_steps(result, "align: times fewer steps than ppo to order 0.95", 0.95, "polar_order")
    for agent in GRADIENT_AGENTS:
        if "larger" in result.agents.get(agent, {}):
            order = float(np.median(result.agents[agent]["larger"]["polar_order"]))
            yield Target(f"align: order of 512 boids after 4,096 steps, {agent}", order, at_least=0.95)


EXPECTED = {"trap_drag.drag": _expect_of_trap_drag, "flocking.align": _expect_of_align}


def _fewer_steps(result: Result, name: str, wanted: float, metric: str | None = None) -> Target:
    """How many times more steps ppo needs than the better one of apg and shac."""
    gradient = [result.steps_until(agent, wanted, metric) for agent in GRADIENT_AGENTS if agent in result.agents]
    factor = result.steps_until("ppo", wanted, metric) / min(gradient) if gradient and "ppo" in result.agents else None
    return Target(name, factor, at_least=10)


def _median_return(result: Result, agent: str) -> float:
    return float(np.median(result.agents[agent]["returns"]))


def _beats(result: Result, agent: str) -> bool:
    """Whether an agent is better than the best baseline by more than two standard errors."""
    more, error = result.gain(agent)
    return more > 2 * error


def _short(x: float) -> str:
    if not math.isfinite(x):
        return "none"
    return f"{x:.2g}" if x < 1000 else f"{float(f'{x / 1000:.2g}'):g}k" if x < 1e6 else f"{float(f'{x / 1e6:.2g}'):g}M"


def markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def replace_between(text: str, name: str, new: str) -> str:
    """The text with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n?<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE}: has no marks <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda match: f"{match[1]}{new}\n<!-- /{name} -->", text)


# --- picture ----------------------------------------------------------------------------------------------------------


def draw(results: dict[str, Result], path: pathlib.Path) -> None:
    """A panel for each task: the interquartile mean of the return over seeds against environment steps, their range."""
    columns = 3
    height = math.ceil(len(results) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 0.8 + 2.6 * height), layout="constrained", dpi=120)
        panels = figure.subplots(height, columns, squeeze=False).ravel()
        for panel, (task, result) in zip(panels, results.items(), strict=False):
            for name in (name for name in COLORS if name in result.agents):
                cell = result.agents[name]
                points = [point for point in cell["curve"] if point["updates"]]
                steps = [point["updates"] * cell["steps_per_update"] for point in points]
                returns = np.array([point["returns"] for point in points])
                middle = [interquartile_mean(values) for values in returns]
                panel.plot(steps, middle, color=COLORS[name], linewidth=1.6, label=name)
                panel.fill_between(
                    steps, returns.min(axis=1), returns.max(axis=1), color=COLORS[name], alpha=0.2, linewidth=0
                )
            baseline, zero = result.policies[result.baseline].mean(), result.policies["zero"].mean()
            panel.axhline(baseline, color=STYLE["text.color"], linewidth=1.2, linestyle=REFERENCE_LINE)
            margin = 0.1 * abs(result.best - zero)
            panel.set_ylim(zero - 2 * margin, result.best + margin)
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.set_title(f"{task.replace('.', ' ')}; dashed: {result.baseline}", fontsize=10, loc="left")
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", linewidth=0.8)
            panel.set_axisbelow(True)
        for panel in panels[len(results) :]:
            panel.set_axis_off()
        figure.supxlabel("environment steps of one seed", fontsize=10)
        figure.supylabel("return of an episode", fontsize=10)
        handles = {label: h for p in panels for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), fontsize=10)
        figure.savefig(path)


if __name__ == "__main__":
    main(tyro.cli(Options))
