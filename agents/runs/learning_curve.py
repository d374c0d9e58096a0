"""The learning curve: each metric against the number of updates, as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmdenv.agents.runs.atomic_write import atomic_write

COLUMNS = 3
MEAN_COLOR, UPDATE_COLOR, SKIPPED_COLOR = "#1b6ca8", "#a9cbe3", "#c0392b"
NOT_SHOWN = {"update", "seconds"}
OPTIMISATION = {"loss", "gradient_norm"}
FLAGS = {"skipped", "overflow", "nonfinite"}  # drawn only where they were set


def draw_learning_curve(path: Path, rows: Sequence[dict[str, float | None]], *, title: str) -> None:
    """Draw one panel per metric: the value at each update as a faint line, and the running mean.

    Updates that were skipped are marked on the axis.

    Args:
        path: the picture (PNG).
        rows: lines of the metrics log; at least one.
        title: above the panels.
    """
    columns = {name: np.array([math.nan if row[name] is None else row[name] for row in rows]) for name in rows[0]}
    names = [name for name in columns if name not in NOT_SHOWN and (name not in FLAGS or np.any(columns[name] > 0))]
    names.sort(key=lambda name: (name != "reward", name in OPTIMISATION))  # the task's own metrics come first
    height = math.ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 0.6 + 2.6 * height), layout="constrained", dpi=120)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    panels = figure.subplots(height, COLUMNS, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        _draw_panel(panel, name, columns["update"], columns[name])
        for update in columns["update"][columns.get("skipped", np.zeros(len(rows))) > 0]:
            panel.axvline(update, ymax=0.04, color=SKIPPED_COLOR, linewidth=1.0)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    with atomic_write(path) as partial:
        figure.savefig(partial)


def _draw_panel(panel: Axes, name: str, updates: Any, values: Any) -> None:
    window = max(1, len(values) // 25)
    panel.plot(updates, values, color=UPDATE_COLOR, linewidth=1.0)
    panel.plot(updates, _running_mean(values, window), color=MEAN_COLOR, linewidth=1.8)
    if name == "gradient_norm" and np.any(values > 0):
        panel.set_yscale("log")
    panel.set_title(name.replace("_", " "), fontsize=10, loc="left")
    panel.set_xlabel("update", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)


def _running_mean(values: Any, window: int) -> Any:
    """The mean of the finite ones among the last `window` values, at each value."""
    finite = np.isfinite(values)
    total = np.cumsum(np.where(finite, values, 0.0))
    count = np.cumsum(finite)
    total[window:], count[window:] = total[window:] - total[:-window], count[window:] - count[:-window]
    return np.divide(total, count, out=np.full(len(values), math.nan), where=count > 0)
