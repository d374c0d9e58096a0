"""The learning curve: each metric against environment steps, beside policies that need no training, as a picture."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.envs.base import RESERVED
from dmdenv.envs.rendering import BACKGROUND, FONT, TEXT

COLUMNS = 3
MEAN_COLOR, UPDATE_COLOR, SKIPPED_COLOR = "#6fd3ff", "#2f6482", "#ff4d5e"
REFERENCE_LINE, REFERENCE_COLORS = (0, (5, 3)), (TEXT, "#8794bd", "#ffb454", "#7cf2b0", "#ff7ac6", "#b39cff")
UNTRAINED = ("zero", "random")
TIME_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
NOT_SHOWN = {"update", "seconds"}
FLAGS = {"skipped", "overflow", "nonfinite"}  # drawn only where they were set
STYLE: dict[Any, Any] = {
    "font.family": FONT,
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": "#232c47",
    "legend.frameon": False,
}


def draw_learning_curve(path: Path, rows: Sequence[dict[str, float | None]], **options: Any) -> None:
    """Draw the figure of `learning_curve`, which has the `options`, into a PNG."""
    figure = learning_curve(rows, **options)
    with atomic_write(path) as partial:
        figure.savefig(partial)


def learning_curve(
    rows: Sequence[dict[str, float | None]],
    *,
    title: str,
    steps_per_update: int,
    references: Mapping[str, Mapping[str, float]] | None = None,
    episodes: int = 0,
) -> Figure:
    """One panel per metric: the value at each update as a faint line, the mean of the last few as a bold one.

    Updates that were skipped are marked on the axis. Times are those of the updates, without compilation.

    Args:
        rows: lines of the metrics log; at least one.
        title: above the panels.
        steps_per_update: environment steps of an update, in all environments together.
        references: by name of the policy and of the metric, means per step over whole episodes: horizontal lines. Those
            that are far from the curve are given as numbers below the panel.
        episodes: over how many episodes the references are.
    """
    columns = {name: np.array([math.nan if row[name] is None else row[name] for row in rows]) for name in rows[0]}
    names = [name for name in columns if name not in NOT_SHOWN and (name not in FLAGS or np.any(columns[name] > 0))]
    names.sort(key=lambda name: (name != "reward", name in RESERVED))  # the task's own metrics come first
    steps, window = columns["update"] * steps_per_update, max(1, len(rows) // 25)
    references = references or {}
    colors = dict(zip(references, itertools.cycle(REFERENCE_COLORS), strict=False))
    height = math.ceil(len(names) / COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * COLUMNS, 1.7 + 2.7 * height), layout="constrained", dpi=120)
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
        panels = figure.subplots(height, COLUMNS, squeeze=False).ravel()
        for panel, name in zip(panels, names, strict=False):
            _draw_curve(panel, name, steps, columns[name], window)
            for step in steps[columns.get("skipped", np.zeros(len(rows))) > 0]:
                panel.axvline(step, ymax=0.04, color=SKIPPED_COLOR, linewidth=1.0)
            means = {policy: values[name] for policy, values in references.items() if name in values}
            _draw_references(panel, columns[name], means, colors)
        for panel in panels[: min(COLUMNS, len(names))]:
            _add_wall_time(panel, steps, columns["seconds"])
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        _add_legend(figure, window, colors, episodes)
    return figure


def _draw_curve(panel: Axes, name: str, steps: Any, values: Any, window: int) -> None:
    panel.plot(steps, values, color=UPDATE_COLOR, linewidth=1.0)
    marker = "o" if len(steps) == 1 else None
    panel.plot(steps, _running_mean(values, window), color=MEAN_COLOR, linewidth=1.8, marker=marker)
    if name == "gradient_norm" and np.any(values > 0):
        panel.set_yscale("log")
    panel.set_title("reward per step" if name == "reward" else name.replace("_", " "), fontsize=11, loc="left")
    panel.set_xlabel("environment steps", fontsize=9)
    panel.set_xlim(0, steps[-1])
    panel.xaxis.set_major_formatter(EngFormatter())
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", linewidth=0.8)
    panel.set_axisbelow(True)


def _draw_references(panel: Axes, values: Any, means: Mapping[str, float], colors: Mapping[str, str]) -> None:
    """A line for each mean that is no farther from the curve than the curve is high; the others below the axis."""
    finite = values[np.isfinite(values)]
    low, high = (np.min(finite), np.max(finite)) if len(finite) else (-math.inf, math.inf)
    margin = (high - low) or 0.1 * abs(high) or 1.0
    far = []
    for name, mean in means.items():
        if low - margin <= mean <= high + margin:
            panel.axhline(mean, color=colors[name], linewidth=1.2, linestyle=REFERENCE_LINE)
        else:
            far.append(f"{name} {mean:.3g}")
    if far:
        panel.set_xlabel(f"{panel.get_xlabel()}\nout of view: {', '.join(far)}")


def _add_wall_time(panel: Axes, steps: Any, seconds: Any) -> None:
    """A second axis on top: the time that all updates up to there took."""
    steps, seconds = np.append(0.0, steps), np.append(0.0, np.cumsum(seconds))
    if not seconds[-1] > 0:  # nor where one of them is unknown
        return
    unit, name = next((unit, name) for unit, name in TIME_UNITS if seconds[-1] >= 3 * unit or unit == 1.0)
    to_time: Any = functools.partial(np.interp, xp=steps, fp=seconds / unit)
    to_steps: Any = functools.partial(np.interp, xp=seconds / unit, fp=steps)
    axis = panel.secondary_xaxis("top", functions=(to_time, to_steps))
    axis.set_xlabel(f"wall time of the updates ({name})", fontsize=9)
    axis.tick_params(labelsize=8)


def _add_legend(figure: Figure, window: int, colors: Mapping[str, str], episodes: int) -> None:
    lines = [Line2D([], [], color=UPDATE_COLOR, linewidth=1.0, label="each update")] if window > 1 else []
    label = f"mean of the last {window} updates" if window > 1 else "each update"
    lines.append(Line2D([], [], color=MEAN_COLOR, linewidth=1.8, label=label))
    for name, color in colors.items():
        label = f"{name} policy" if name in UNTRAINED else name
        lines.append(Line2D([], [], color=color, linewidth=1.2, linestyle=REFERENCE_LINE, label=label))
    title = "curves: means per step over the batch and window of an update"
    if colors:
        title += f"; dashed lines: means per step over {episodes} whole episodes"
    figure.legend(
        handles=lines, loc="outside lower center", ncols=min(6, len(lines)), title=title, fontsize=9, title_fontsize=9
    )


def _running_mean(values: Any, window: int) -> Any:
    """The mean of the finite ones among the last `window` values, at each value."""
    finite = np.isfinite(values)
    total = np.cumsum(np.where(finite, values, 0.0))
    count = np.cumsum(finite)
    total[window:], count[window:] = total[window:] - total[:-window], count[window:] - count[:-window]
    return np.divide(total, count, out=np.full(len(values), math.nan), where=count > 0)
