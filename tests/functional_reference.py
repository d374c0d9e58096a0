"""What instances of an adapter have to do: one by one, by the functional environment and their seeds alone."""

import functools

import jax
import numpy as np

from dmdenv.envs.adapters.instances import instance_seed


@functools.cache
def compiled(env):
    """Shared by all references."""
    return jax.jit(env.reset), jax.jit(env.step_env)


class Reference:
    """One instance."""

    def __init__(self, env, seed, params):
        (self.reset_, self.step_), self.params = compiled(env), params
        self.key = jax.random.key(np.uint32(instance_seed(seed)))
        self.reset()

    def split_key(self):
        self.key, key = jax.random.split(self.key)
        return key

    def reset(self, key=None):
        self.observation, self.state = self.reset_(self.split_key() if key is None else key, self.params)

    def step(self, action, key=None):
        """Reward, terminated, truncated and info."""
        key = self.split_key() if key is None else key
        self.observation, self.state, *rest = self.step_(key, self.state, action, self.params)
        return rest

    def step_and_reset(self, action):
        """A step, and where it ends an episode a reset within it, as `Env.step` splits its keys."""
        step_key, reset_key = jax.random.split(self.split_key())
        reward, terminated, truncated, info = self.step(action, step_key)
        if terminated or truncated:
            self.reset(reset_key)
        return reward, terminated, truncated, info
