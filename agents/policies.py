"""Policies that need no training: the zero action, and uniform random actions."""

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.envs.base import Env


@pytree
class ZeroPolicy(Replaceable):
    """The action zero, always."""

    shape: tuple[int, ...] = static()

    def __call__(self, key: jax.Array, observation: jax.Array) -> jax.Array:
        """Zeros; the key is not used."""
        return jnp.zeros(self.shape)


@pytree
class RandomPolicy(Replaceable):
    """Actions independent and uniform in [-1, 1]."""

    shape: tuple[int, ...] = static()

    def __call__(self, key: jax.Array, observation: jax.Array) -> jax.Array:
        """A fresh action for each key."""
        return jax.random.uniform(key, self.shape, minval=-1.0, maxval=1.0)


def zero_policy(env: Env) -> ZeroPolicy:
    """The zero action of this environment."""
    return ZeroPolicy(shape=env.action_shape)


def random_policy(env: Env) -> RandomPolicy:
    """Uniform random actions, for this environment."""
    return RandomPolicy(shape=env.action_shape)
