"""jaxlib 0.9.1 to 0.10.2 give wrong numbers here, silently, on the CPU: a later bad one is to be caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marks import OPTIMIZED


@pytest.mark.parametrize("n", [16_385, 20_000, 33_000, 40_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_constant_matrix_times_many_vectors_is_summed_right(n, dtype):
    with jax.enable_x64(dtype == "float64"):
        M = jnp.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 0.5], [0.25, -1.0, 2.0]], dtype)
        r = np.random.default_rng(0).normal(size=(n, 3)).astype(dtype)
        value = jax.jit(jax.vmap(lambda r: jnp.sum(M @ r)), compiler_options=OPTIMIZED)(r)
        reference = (r.astype("float64") @ np.asarray(M, "float64").T).sum(1)
        np.testing.assert_allclose(value, reference, atol=1e-5 if dtype == "float32" else 1e-13)
