"""Training runs on the host: the run folder, the training loop, and what comes out of it."""

from dmdenv.agents.runs.comparison import compare_policies
from dmdenv.agents.runs.film import record_episode, write_film
from dmdenv.agents.runs.learning_curve import draw_learning_curve
from dmdenv.agents.runs.metrics import read_metrics
from dmdenv.agents.runs.run import Run
from dmdenv.agents.runs.training import train_run

__all__ = [
    "Run",
    "compare_policies",
    "draw_learning_curve",
    "read_metrics",
    "record_episode",
    "train_run",
    "write_film",
]
