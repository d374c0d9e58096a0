"""Pools of initial states: what takes long to prepare is prepared once, on the host; a reset draws from it.

A pool is a function of static values, `function(*configuration)`, that returns a pytree of arrays `[size, ...]`:
equilibrated fluids, minimised packings. It is a function of a module, with seeds of its own, so that the pool is the
same in every process. It runs once per process, configuration and precision, and never while tracing:

    prepare(liquids, 100, 0.8)       # in `Env.prepare`
    draw(key, liquids, 100, 0.8)     # in `Env.initial_state`
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.tracing import is_tracing

PyTree = Any

_pools: dict[tuple[Hashable, ...], PyTree] = {}


def prepare(function: Callable[..., PyTree], *configuration: Hashable) -> PyTree:
    """The pool of a function and its configuration, computed at the first call.

    Args:
        function: `function(*configuration) -> pytree`, leaves `[size, ...]`.
        configuration: static values on which the pool depends.

    Returns:
        The pytree, leaves NumPy arrays `[size, ...]`.

    Raises:
        RuntimeError: when the pool is not there yet and JAX is tracing.
    """
    key = (function, configuration, str(jnp.result_type(float)))
    if key not in _pools:
        if is_tracing():
            raise RuntimeError(
                f"the pool {function.__name__}{configuration} is not prepared, and cannot be while JAX traces; call"
                " prepare() of the environment first, in the precision of the trace (`make_env` does)"
            )
        # compiled even where a user debugs with jit disabled: thousands of steps would take for ever otherwise
        with jax.ensure_compile_time_eval(), jax.disable_jit(False):
            _pools[key] = jax.tree.map(np.asarray, function(*configuration))
    return _pools[key]


def draw(key: jax.Array, function: Callable[..., PyTree], *configuration: Hashable) -> PyTree:
    """One member of a prepared pool, chosen at random.

    Args:
        key: consumed.
        function: as of `prepare`.
        configuration: as of `prepare`.

    Returns:
        The pytree, leaves without the axis of the pool.

    Raises:
        RuntimeError: when the pool is not prepared and JAX is tracing.
    """
    pool = prepare(function, *configuration)
    index = jax.random.randint(key, (), 0, jax.tree.leaves(pool)[0].shape[0])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], pool)
