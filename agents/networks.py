"""Networks of the agents: a perceptron on the last axis of the observation, so that rows share one policy."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.agents.base import SpaceMismatchError
from dmdenv.envs.base import Env

LAST_LAYER_SCALE = 0.01  # initial actions are close to zero, where the derivative of the outer tanh is 1


class Perceptron(nnx.Module):
    """`x -> W_L s(... s(W_1 x + b_1) ...) + b_L` on the last axis, with `s = tanh`.

    tanh is smooth, so that a gradient through the physics never meets a kink of the policy. Kernels are initialised
    orthogonal, biases to zero, in the default precision.

    Args:
        sizes: length of the last axis at the input, after each hidden layer, and at the output.
        last_scale: of the last layer's initial kernel.
        rngs: for the initial weights.
    """

    def __init__(self, sizes: Sequence[int], *, last_scale: float = LAST_LAYER_SCALE, rngs: nnx.Rngs):
        scales = [math.sqrt(2.0)] * (len(sizes) - 2) + [last_scale]
        self.layers = nnx.List(
            nnx.Linear(
                inputs,
                outputs,
                kernel_init=nnx.initializers.orthogonal(scale),
                param_dtype=jnp.result_type(float),
                rngs=rngs,
            )
            for inputs, outputs, scale in zip(sizes[:-1], sizes[1:], scales, strict=True)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., sizes[0]] -> [..., sizes[-1]]`."""
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.tanh(layer(x))
        return last(x)


@pytree
class DeterministicPolicy(Replaceable):
    """`action = tanh(perceptron(observation))`, row by row: a `Policy`.

    An observation `[*rows, m]` gives an action `[*rows, *row_action]`. The weights do not depend on the number of rows,
    so a policy trained on 32 particles acts on 1,000.
    """

    weights: nnx.State
    graph: nnx.GraphDef = static()
    features: int = static()  # m, length of one row's observation
    row_action: tuple[int, ...] = static()  # shape of one row's action

    def __call__(self, key: jax.Array, observation: jax.Array) -> jax.Array:
        """The action within [-1, 1]; the key is not used.

        Raises:
            SpaceMismatchError: for an observation whose last axis has another length than the policy's.
        """
        return self.squash(self.unsquashed(observation))

    def unsquashed(self, observation: jax.Array) -> jax.Array:
        """The perceptron's output `[*rows, k]`, with k the number of components of a row's action.

        Raises:
            SpaceMismatchError: as a call does.
        """
        check_features(observation, self.features)
        return nnx.merge(self.graph, self.weights)(observation)

    def squash(self, outputs: jax.Array) -> jax.Array:
        """The action of outputs `[*rows, k]`."""
        return jnp.tanh(outputs).reshape(*outputs.shape[:-1], *self.row_action)


def deterministic_policy(env: Env, hidden: Sequence[int], key: jax.Array) -> DeterministicPolicy:
    """A policy with initial weights that fits the environment's spaces.

    Args:
        env: with observations `[m]` and actions `[a]`, or one row for each particle: `[n, m]` and `[n]` or `[n, a]`.
        hidden: sizes of the hidden layers.
        key: for the initial weights, consumed.

    Raises:
        SpaceMismatchError: when no policy on the last axis fits the shapes; the message says what would.
    """
    row_action, features = _row_action(env), env.observation_shape[-1]
    network = Perceptron((features, *hidden, math.prod(row_action)), rngs=nnx.Rngs(key))
    graph, weights = nnx.split(network)
    return DeterministicPolicy(weights=weights, graph=graph, features=features, row_action=row_action)


def check_features(observation: jax.Array, features: int) -> None:
    """Refuse an observation whose last axis has another length than the policy's.

    Raises:
        SpaceMismatchError: naming both lengths.
    """
    if observation.shape[-1] != features:
        raise SpaceMismatchError(
            f"observations have {observation.shape[-1]} features per row; the policy takes {features}"
        )


def _row_action(env: Env) -> tuple[int, ...]:
    """The shape of one row's action."""
    if env.row_action is None:
        raise SpaceMismatchError(
            f"{type(env).__name__} has observations {list(env.observation_shape)} and actions {list(env.action_shape)};"
            " must be [m] and [a], or [n, m] and [n] or [n, a], for a policy that acts on each row of the observations"
        )
    return env.row_action
