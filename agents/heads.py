"""Stochastic heads of policies: a Gaussian, squashed into [-1, 1] by tanh."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents.base import InformedPolicy, Policy
from dmdenv.agents.networks import DeterministicPolicy, check_features, deterministic_policy
from dmdenv.agents.normalizer import Normalizer
from dmdenv.envs.base import Env


@pytree
class SquashedGaussian(Replaceable):
    """`a = tanh(u)` with `u ~ N(mean, deviation^2)`, whose components, on the last axis, are independent.

    Sample and density are functions of u: near the bounds, u cannot be had from a.
    """

    mean: jax.Array  # float [..., k]
    log_deviation: jax.Array  # float [k]

    def sample(self, key: jax.Array) -> jax.Array:
        """A sample of u, `[..., k]`, differentiable by mean and deviation; the key is consumed."""
        return self.mean + jnp.exp(self._log_deviation) * jax.random.normal(key, self.mean.shape)

    def log_probability(self, u: jax.Array) -> jax.Array:
        """The logarithm of the density of `a = tanh(u)` at u `[..., k]`, over the components, `[...]`.

        log p(a) = sum_k  log N(u; mean, deviation^2) - log(1 - tanh(u)^2)
        """
        z = (u - self.mean) * jnp.exp(-self._log_deviation)
        log_gaussian = -0.5 * z**2 - self._log_deviation - 0.5 * math.log(2 * math.pi)
        return jnp.sum(log_gaussian - log_slope(u), axis=-1)

    def entropy(self, key: jax.Array) -> jax.Array:
        """The differential entropy of a, estimated without bias from one sample, `[...]`; the key is consumed.

            H(a) = sum_k  log(deviation) + log(2 pi e) / 2 + <log(1 - tanh(u)^2)>

        Only the last term is sampled. The uniform distribution has the largest entropy, log 2 per component.
        """
        exact = self._log_deviation + 0.5 * math.log(2 * math.pi * math.e)
        return jnp.sum(exact + log_slope(self.sample(key)), axis=-1)

    @property
    def _log_deviation(self) -> jax.Array:
        return jnp.broadcast_to(self.log_deviation, self.mean.shape)


def log_slope(u: jax.Array) -> jax.Array:
    """`log(1 - tanh(u)^2) = 2 (log 2 - u - log(1 + exp(-2 u)))`, without loss of precision for large u."""
    return 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))


@pytree
class GaussianPolicy(Replaceable):
    """A squashed Gaussian around a deterministic policy, with one deviation for all rows and states."""

    center: DeterministicPolicy
    log_deviation: jax.Array  # float [k], a row's components

    def distribution(self, observation: jax.Array, *more: Any) -> SquashedGaussian:
        """The distribution of the action, its components on the last axis: `[*rows, k]`.

        Raises:
            SpaceMismatchError: as `DeterministicPolicy`.
        """
        return SquashedGaussian(self.center.unsquashed(observation, *more), self.log_deviation)


def gaussian_policy(
    env: Env, hidden: Sequence[int], key: jax.Array, *, deviation: float, network: str = "rows"
) -> GaussianPolicy:
    """A policy with initial weights that fits the environment's spaces; arguments and errors as `deterministic_policy`.

    Args:
        env: as there.
        hidden: as there.
        key: as there.
        deviation: the initial standard deviation before tanh.
        network: as there.
    """
    center = deterministic_policy(env, hidden, key, network=network)
    log_deviation = jnp.full(math.prod(center.row_action), math.log(deviation), jnp.result_type(float))
    return GaussianPolicy(center, log_deviation)


@pytree
class NormalizedPolicy(Replaceable):
    """A policy of normalised observations."""

    normalizer: Normalizer
    policy: Policy | InformedPolicy

    @property
    def takes(self) -> tuple[str, ...]:
        """What the policy takes."""
        return getattr(self.policy, "takes", ())

    def __call__(self, key: jax.Array, observation: jax.Array, *more: Any) -> jax.Array:
        """The policy's action.

        Raises:
            SpaceMismatchError: for an observation whose last axis has another length than the policy's.
        """
        check_features(observation, self.normalizer.mean.shape[-1])
        return self.policy(key, self.normalizer(observation), *more)
