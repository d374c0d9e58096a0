"""Pools of initial states: what takes long to prepare is prepared once, on the host; a reset draws from it.

A pool is a function `prepare(*configuration)` that returns a pytree of arrays, leaves `[size, ...]`: equilibrated
fluids, minimised packings. It runs once for each configuration and precision in a process, at the first reset, also
where that is being traced.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def drawn(key: jax.Array, prepare: Callable[..., PyTree], *configuration: Hashable) -> PyTree:
    """One member of a pool, chosen at random.

    Args:
        key: consumed.
        prepare: `prepare(*configuration) -> pytree`, leaves `[size, ...]`; a function of a module, with seeds of its
            own, so that the pool is the same in every process.
        configuration: static values that the pool depends on.

    Returns:
        The pytree, leaves without the axis of the pool.
    """
    pool = members(prepare, *configuration)
    index = jax.random.randint(key, (), 0, jax.tree.leaves(pool)[0].shape[0])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], pool)


def members(prepare: Callable[..., PyTree], *configuration: Hashable) -> PyTree:
    """The whole pool, numpy arrays `[size, ...]`; prepared at the first call."""
    return _members(prepare, configuration, str(jnp.result_type(float)))


@functools.cache
def _members(prepare: Callable[..., PyTree], configuration: tuple[Hashable, ...], precision: str) -> PyTree:
    # compiled also for who debugs with jit disabled: thousands of steps would take for ever otherwise
    with jax.ensure_compile_time_eval(), jax.disable_jit(False):
        return jax.tree.map(np.asarray, prepare(*configuration))
