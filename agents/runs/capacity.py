"""Static capacities on the host: what overflowed is computed again with more room."""

import sys
from collections.abc import Callable
from typing import TypeVar

from dmdenv.envs.base import Env

T = TypeVar("T")


def with_room(env: Env, compute: Callable[[Env], T], overflow: Callable[[T], float]) -> tuple[Env, T]:
    """`compute(env)`, repeated in ever larger environments until nothing overflows.

    Args:
        env: the environment.
        compute: anything pure.
        overflow: the share of the steps in which the result overflowed.

    Returns:
        `(env, result)`: the environment that was large enough, and what it gave.

    Raises:
        CapacityExceeded: when there is nothing to enlarge.
    """
    while share := overflow(result := compute(env)):
        env = env.enlarged()
        env.prepare()
        tell_growth(env, share)
    return env, result


def tell_growth(env: Env, share: float) -> None:
    """Say that a computation is repeated, and why."""
    what = f"a capacity of {env.id} overflowed in {share:.1%} of the steps"
    print(f"{what}; repeating them with more room (compiles again) ...", file=sys.stderr, flush=True)
