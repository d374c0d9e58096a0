"""The critic: the value of what an instance observes, one vector or rows."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.agents.perceptron import Perceptron
from dmdenv.envs.base import Env


class ValueNetwork(nnx.Module):
    """`V(o) = f(1/n sum_i s(W o_i + b))` of rows `[n, m]`, and `f(s(W o + b))` of one vector `[m]`; `s = tanh`.

    The reward belongs to the whole, so a value does, too. The mean over rows of what the first layer sees, before the
    layers f, makes it independent of the rows' order and number, and lets it see more than a mean of the rows' values
    would: properties of the distribution of rows, such as a common direction.

    Args:
        features: m.
        hidden: sizes of the hidden layers; the first one, if there is any, is applied to each row.
        rngs: for the initial weights.
    """

    def __init__(self, features: int, hidden: Sequence[int], *, rngs: nnx.Rngs):
        sizes = (features, *hidden)
        self.rows = nnx.List(Perceptron(sizes[:2], last_scale=2.0**0.5, rngs=rngs) for _ in hidden[:1])
        self.whole = Perceptron((*(hidden or sizes), 1), rngs=rngs)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """`[m]` or `[n, m]` -> `[]`."""
        for layer in self.rows:
            observation = nnx.tanh(layer(observation))
        return self.whole(jnp.mean(observation, axis=tuple(range(observation.ndim - 1))))[0]


@pytree
class Critic(Replaceable):
    """One or several value networks of independent initial weights."""

    weights: nnx.State  # each leaf [networks, ...]
    graph: nnx.GraphDef = static()
    whole: bool = static()  # whether rows are one vector to it

    def each(self, observation: jax.Array) -> jax.Array:
        """The value of each network, `[networks]`, for one observation of an instance."""
        observation = observation.reshape(-1) if self.whole else observation
        return jax.vmap(lambda weights: nnx.merge(self.graph, weights)(observation))(self.weights)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Their mean, `[]`."""
        return jnp.mean(self.each(observation))


def critic(env: Env, hidden: Sequence[int], key: jax.Array, *, networks: int = 1, network: str = "rows") -> Critic:
    """A critic with initial weights, for observations `[m]` or `[n, m]`.

    Args:
        env: of which the critic observes what the policy does.
        hidden: sizes of the hidden layers.
        key: for the initial weights, consumed.
        networks: how many.
        network: of the policy; to a critic of `whole`, rows are one vector.
    """
    shape, whole = env.observation_shape, network == "whole"

    def build(key):
        return nnx.split(ValueNetwork(math.prod(shape) if whole else shape[-1], hidden, rngs=nnx.Rngs(key)))

    weights = jax.vmap(lambda key: build(key)[1])(jax.random.split(key, networks))
    return Critic(weights, build(key)[0], whole)
