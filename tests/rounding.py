"""Comparison of two programs that compute the same: they may round differently."""

import jax
import numpy as np


def assert_equal_up_to_rounding(found, expected):
    """Trees of arrays agree to half of their digits, relative to the largest number of each array (at least 1).

    Two programs of some hundred operations differ by some hundred rounding errors, which one step of the dynamics may
    amplify by as much; a mistake is larger. More than one step is not to be compared: trajectories part exponentially.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        tolerance = float(np.finfo(np.float32).eps) ** 0.5 * max(1.0, np.max(np.abs(b), initial=0.0))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
