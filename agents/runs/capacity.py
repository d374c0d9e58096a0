"""Static capacities on the host: a computation in which one overflowed is repeated with a larger one."""

from collections.abc import Callable
from typing import TypeVar

from dmdenv.envs.base import Env
from dmdenv.simulation.progress import say

T = TypeVar("T")


def compute_within_capacity(env: Env, compute: Callable[[Env], T], overflow: Callable[[T], float]) -> tuple[Env, T]:
    """`compute(env)`, repeated in ever larger environments until nothing overflows.

    Args:
        env: the environment.
        compute: a pure function of the environment.
        overflow: the fraction of the steps in which a result overflowed.

    Returns:
        `(env, result)`: the environment that was large enough, and its result.

    Raises:
        CapacityExceeded: when there is nothing to enlarge.
    """
    while fraction := overflow(result := compute(env)):
        env = env.enlarged()
        env.prepare()
        report_overflow(env, fraction)
    return env, result


def report_overflow(env: Env, fraction: float) -> None:
    """Say on stderr that a computation is repeated, and why."""
    say(f"a capacity of {env.id} overflowed in {fraction:.1%} of the steps; repeating them with a larger one")
