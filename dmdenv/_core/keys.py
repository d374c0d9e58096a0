"""Random keys that users give, of either kind."""

from typing import Any

import jax
import jax.numpy as jnp

from dmdenv._core.fields import shown


def one_key(key: Any, *, advice: str = "") -> jax.Array:
    """The key, refused unless it is one, of either kind.

    Args:
        key: what a user gave.
        advice: ends the message about several keys.

    Raises:
        TypeError: for what is no key.
        ValueError: for several keys.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        raise TypeError(f"key = {shown(key)}; must be a key, such as jax.random.key(0)")
    if len(key.shape) != (0 if typed else 1):
        raise ValueError(f"key has shape {key.shape}; must be one key{advice}")
    return key


def typed_key(key: jax.Array) -> jax.Array:
    """A key of either kind as a typed one: states that hold a key then do not depend on the kind that a user has."""
    typed = jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key)
    return key if typed else jax.random.wrap_key_data(key)
