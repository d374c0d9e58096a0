"""What `grad_report` measured, as a table and as a picture."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what only draws is imported where it is used
    from matplotlib.axes import Axes

# where two gradients are taken to agree
COSINE = 0.9
RATIO = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class GradReport:
    """The gradient of a return against the horizon; arrays `[horizons]` of NumPy. What is not finite is left out."""

    title: str  # the environment
    varied: str  # what the gradient is by
    instances: int
    directions: int  # of the finite differences
    step: float  # of the finite differences
    horizons: np.ndarray  # int, steps, increasing
    returns: np.ndarray  # up to the horizon, mean over instances
    norm: np.ndarray  # of the gradient's mean over instances
    variance: np.ndarray  # of the gradient over instances, summed over its components
    nonfinite: np.ndarray  # share of the instances whose gradient or episode was not finite
    cosine: np.ndarray  # between reverse mode and finite differences, means over instances
    ratio: np.ndarray  # of their lengths, finite differences over reverse mode
    exponent: np.ndarray  # the largest Lyapunov exponent, 1 / step

    @property
    def trusted(self) -> int:
        """The longest horizon up to which all gradients are finite and agree with finite differences; 0 if none.

        They agree where the cosine is at least 0.9 and their lengths differ by a factor of at most 2.
        """
        fine = (self.nonfinite == 0) & (self.cosine >= COSINE) & (self.ratio >= 1 / RATIO) & (self.ratio <= RATIO)
        count = len(fine) if fine.all() else int(np.argmin(fine))
        return int(self.horizons[count - 1]) if count else 0

    def __str__(self) -> str:
        """A table with a line for each horizon, and what it says."""
        columns = {
            "horizon": (self.horizons, "d"),
            "return": (self.returns, ".4g"),
            "norm": (self.norm, ".3g"),
            "variance": (self.variance, ".3g"),
            "non-finite": (self.nonfinite, ".0%"),
            "cosine": (self.cosine, ".3f"),
            "ratio": (self.ratio, ".3g"),
            "exponent": (self.exponent, ".3g"),
        }
        cells = [[name, *(format(x, kind) for x in values)] for name, (values, kind) in columns.items()]
        widths = [max(map(len, column)) for column in cells]
        table = ["  ".join(map(str.rjust, row, widths)) for row in zip(*cells, strict=True)]
        return "\n".join(
            [
                f"{self.title}: gradient of the return by {self.varied}, {self.instances} instances",
                "",
                *table,
                "",
                "norm: of the mean over instances; variance: over instances, summed over components",
                "cosine, ratio of lengths: finite differences"
                f" (±{self.step:g}, {self.directions} directions) to reverse mode",
                "exponent: the largest Lyapunov exponent, per step",
                "",
                self._verdict,
            ]
        )

    def plot(self, target: Path | str) -> None:
        """Draw the report; where the gradient is trusted, the background is green.

        Args:
            target: a picture to write; its suffix is the format.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 6), layout="constrained", dpi=120)
        figure.suptitle(f"{self.title}, by {self.varied}\n{self._verdict}", fontsize=10)
        panels = figure.subplots(2, 2, sharex=True).ravel()
        for panel in panels:
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
            if horizon := self.trusted:
                panel.axvspan(self.horizons[0], horizon, color="tab:green", alpha=0.1, lw=0)
        size, agreement, share, exponent = panels
        self._draw(size, self.norm, label="norm")
        self._draw(size, self.norm * self.ratio, label="by finite differences", ls=":")
        self._draw(size, np.sqrt(self.variance), label="standard deviation", ls="--")
        if np.any(self.norm > 0) or np.any(self.variance > 0):
            size.set_yscale("log")
        size.legend(frameon=False)
        size.set_ylabel("gradient")
        self._draw(agreement, self.cosine)
        agreement.axhline(COSINE, color="0.6", lw=0.8)
        agreement.set(ylabel="cosine with finite differences", ylim=(-1.05, 1.05))
        self._draw(share, self.nonfinite)
        share.set(ylabel="share of non-finite", ylim=(-0.05, 1.05), xlabel="horizon, steps")
        self._draw(exponent, self.exponent)
        exponent.axhline(0.0, color="0.6", lw=0.8)
        exponent.set(ylabel="Lyapunov exponent, 1 / step", xlabel="horizon, steps")
        figure.savefig(target)

    @property
    def _verdict(self) -> str:
        upto = f"horizon {self.trusted}" if self.trusted else "no horizon"
        return f"trusted up to {upto} (all finite, cosine >= {COSINE}, ratio {1 / RATIO:g} to {RATIO:g})"

    def _draw(self, axes: "Axes", values: np.ndarray, **options: Any) -> None:
        axes.plot(self.horizons, np.where(np.isfinite(values), values, np.nan), marker="o", ms=4, **options)
