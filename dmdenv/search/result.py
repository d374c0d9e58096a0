"""What a search found, and how it got there."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what only draws is imported where it is used
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class SearchResult:
    """The result of `minimize`; arrays are NumPy's."""

    method: str
    best_params: Any  # of the best start
    best_value: float  # of the objective there, averaged over the keys at the end
    params: Any  # of each start, leaves [starts, ...]
    values: np.ndarray  # of the objective there, with the same keys, float [starts]; NaN where it never was finite
    history: np.ndarray  # float [updates, starts], the least value of each update; NaN where none was finite
    evaluations: int  # calls of the objective, those at the end included
    gradients: int  # of these, calls with the gradient
    cost_per_update: float  # of all starts, in evaluations, where one with its gradient counts as 4
    nonfinite: np.ndarray  # int32 [starts], points of which the value or the gradient was not finite
    restarts: np.ndarray  # int32 [starts], how often a start began anew
    trace: Any = None  # the method's estimate after each update, leaves [updates, starts, ...]; if it was kept

    @property
    def best_history(self) -> np.ndarray:
        """The least value so far, float `[updates, starts]`; infinite before there is one."""
        return np.minimum.accumulate(np.where(np.isnan(self.history), np.inf, self.history), axis=0)

    @property
    def costs(self) -> np.ndarray:
        """Evaluations of all starts after each update, where one with its gradient counts as 4, float `[updates]`."""
        return self.cost_per_update * np.arange(1, len(self.history) + 1)

    def plot(self, target: "Path | str | Axes") -> None:
        """Draw the least value so far against the cost: a faint line for each start, a bold one for all together.

        Args:
            target: a picture to write (its suffix is the format), or axes to draw on; several results on the same axes
                are compared at equal cost.
        """
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure

        if isinstance(target, Axes):
            self._draw(target)
        else:
            figure = Figure(figsize=(6, 4), layout="constrained", dpi=120)
            self._draw(figure.subplots())
            figure.savefig(target)

    def _draw(self, axes: "Axes") -> None:
        best = np.where(np.isinf(self.best_history), np.nan, self.best_history)
        overall = np.fmin.reduce(best, axis=1)
        marker = "o" if len(best) == 1 else None
        (line,) = axes.plot(
            self.costs, overall, lw=2, marker=marker, zorder=3, label=f"{self.method}: {self.best_value:.4g}"
        )
        axes.plot(self.costs, best, color=line.get_color(), lw=0.8, alpha=0.35)
        shown = np.concatenate([np.ravel(each.get_ydata()) for each in axes.lines])
        shown = shown[np.isfinite(shown)]
        if shown.size and shown.min() > 0 and shown.max() > 100 * shown.min():
            axes.set_yscale("log")
        axes.set(xlabel="evaluations (4 for one with its gradient)", ylabel="least value so far")
        axes.legend(frameon=False)
