"""Whether a computation runs now, or is being recorded to run later."""

import numpy as np
from jax import lax
from jax.core import Tracer

_ONE = np.float32(1.0)


def is_tracing() -> bool:
    """Whether operations on constants are being recorded (by `jit`, `scan`, `eval_shape`, ...) instead of executed.

    Under `grad` and `vmap` alone they are executed.
    """
    return isinstance(lax.neg(_ONE), Tracer)
