"""Conjugate gradients which count their iterations.

Reference: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952), section 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv._core.control_flow import while_loop


class Solution(NamedTuple):
    """What conjugate gradients have found."""

    x: jax.Array  # that of b
    iterations: jax.Array  # int32 [], each of which took one product with A


def conjugate_gradients(
    A: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    *,
    tolerance: jax.Array | float,
    max_iterations: int | None = None,
) -> Solution:
    """x with `A x = b`, from x = 0, for a symmetric A without negative eigenvalues and b in the range of A.

    A number that is NaN, in b or on the way, makes all of x NaN.

    Differentiable in forward and reverse mode, to any order; each derivative solves one more such system, to the same
    tolerance.

    Args:
        A: a linear function of arrays like b.
        b: any shape.
        tolerance: it stops once `|b - A x| <= tolerance`, the length of all numbers together; unit of b.
        max_iterations: at most; by default 10 times the size of b.
    """
    most = 10 * b.size if max_iterations is None else max_iterations

    def solve(A: Callable[[jax.Array], jax.Array], b: jax.Array) -> tuple[jax.Array, jax.Array]:
        def unfinished(carry):
            _, _, _, squared, k = carry
            return (squared > tolerance**2) & (k < most)

        def iterate(carry):
            x, r, p, squared, k = carry
            Ap = A(p)
            step = squared / jnp.sum(p * Ap)
            x, r = x + step * p, r - step * Ap
            following = jnp.sum(r * r)
            return x, r, r + following / squared * p, following, k + 1

        x, _, _, squared, k = while_loop(unfinished, iterate, (jnp.zeros_like(b), b, b, jnp.sum(b * b), jnp.int32(0)))
        return jnp.where(jnp.isnan(squared), jnp.nan, x), k

    return Solution(*lax.custom_linear_solve(A, b, solve, symmetric=True, has_aux=True))
