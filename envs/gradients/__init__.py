"""Is an environment differentiable enough? `grad_report` measures the gradient of its return against the horizon."""

from dmdenv.envs.gradients.measure import grad_report
from dmdenv.envs.gradients.report import GradReport

__all__ = ["GradReport", "grad_report"]
