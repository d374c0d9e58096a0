"""Sums of many small increments that lose nothing to rounding."""

import jax
from jax import lax


def accumulate(total: jax.Array, lost: jax.Array, increment: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`total + increment`, and what rounding took from it, to be added next time.

    A float32 number near 1e4 does not change when 1e-4 is added, however often. The error of one addition is a
    floating-point number itself, which is found by subtraction; new errors have no derivative.

    Args:
        total: the sum so far.
        lost: what it lacks, of the same shape.
        increment: of the same shape.

    Returns:
        `(total, lost)` after it.

    Reference: Knuth, The Art of Computer Programming, vol. 2, 3rd ed. (1997), section 4.2.2, theorem B.
    """
    increment = increment + lost
    new = total + increment
    before, added, after = lax.stop_gradient((total, increment, new))
    share = after - before
    return new, (before - (after - share)) + (added - share)
