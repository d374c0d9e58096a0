"""Deterministic policies, and which network each of them is made of.

| network | the action of a row depends on | spaces |
|---|---|---|
| `rows` | what the row observes | `[m]` and `[a]`; `[n, m]` and `[n]` or `[n, a]`, of any n |
| `neighbors` | that, and messages of its neighbours | `[n, m]` and `[n]` or `[n, a]`, of any n |
| `whole` | all that is observed | any |
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.agents.base import SpaceMismatchError
from dmdenv.agents.messages import MessagePerceptron
from dmdenv.agents.perceptron import Perceptron
from dmdenv.envs.base import Env
from dmdenv.envs.row_neighbors import RowNeighbors

NETWORKS = ("rows", "neighbors", "whole")


@pytree
class DeterministicPolicy(Replaceable):
    """`action = tanh(network(observation))`: a `Policy`, for neighbours an `InformedPolicy`.

    Row by row, an observation `[*rows, m]` gives an action `[*rows, *row_action]`. The weights do not depend on the
    number of rows, so a policy trained on 32 particles acts on 1,000. As a whole, it is one row.
    """

    weights: nnx.State
    graph: nnx.GraphDef = static()
    network: str = static()
    observation: tuple[int, ...] = static()  # shape of the observation, in the environment that it was made for
    relation_size: int = static()  # of the neighbours, 0 for none
    row_action: tuple[int, ...] = static()  # shape of one row's action

    @property
    def takes(self) -> tuple[str, ...]:
        """What it takes beside the observation, see `dmdenv.envs.acting.asked_by`."""
        return ("neighbors",) if self.network == "neighbors" else ()

    def __call__(self, key: jax.Array, observation: jax.Array, *more: Any) -> jax.Array:
        """The action within [-1, 1]; the key is not used.

        Raises:
            SpaceMismatchError: for an observation that the network does not fit.
        """
        return self.squash(self.unsquashed(observation, *more))

    def unsquashed(self, observation: jax.Array, *more: Any) -> jax.Array:
        """The network's output `[*rows, k]`, with k the number of components of a row's action.

        Raises:
            SpaceMismatchError: as a call does.
        """
        if self.network == "whole":
            if observation.shape != self.observation:
                found, valid = list(observation.shape), list(self.observation)
                raise SpaceMismatchError(f"observations are {found}; the policy takes {valid}")
            observation = observation.reshape(-1)
        else:
            check_features(observation, self.observation[-1])
        if self.network == "neighbors":
            (neighbors,) = more
            if (size := relation_size(neighbors)) != self.relation_size:
                found, valid = _positions(size), _positions(self.relation_size)
                raise SpaceMismatchError(f"rows have {found}; the policy takes {valid}")
        return nnx.merge(self.graph, self.weights)(observation, *more)

    def squash(self, outputs: jax.Array) -> jax.Array:
        """The action of outputs `[*rows, k]`."""
        return jnp.tanh(outputs).reshape(*outputs.shape[:-1], *self.row_action)


def deterministic_policy(
    env: Env, hidden: Sequence[int], key: jax.Array, *, network: str = "rows"
) -> DeterministicPolicy:
    """A policy with initial weights that fits the environment's spaces.

    Args:
        env: with spaces that the network fits, see the module's table.
        hidden: sizes of the hidden layers.
        key: for the initial weights, consumed.
        network: one of `NETWORKS`.

    Raises:
        SpaceMismatchError: when the network does not fit the spaces; the message says what would.
    """
    row_action = _row_action(env, network)
    shape = env.observation_shape
    sizes = (math.prod(shape) if network == "whole" else shape[-1], *hidden, math.prod(row_action))
    rngs, relation = nnx.Rngs(key), 0
    if network == "neighbors":
        relation = relation_size(jax.eval_shape(lambda key: _first_neighbors(env, key), key))
        model = MessagePerceptron(sizes, relation_size=relation, rngs=rngs)
    else:
        model = Perceptron(sizes, rngs=rngs)
    graph, weights = nnx.split(model)
    return DeterministicPolicy(
        weights=weights,
        graph=graph,
        network=network,
        observation=shape,
        relation_size=relation,
        row_action=row_action,
    )


def check_features(observation: jax.Array, features: int) -> None:
    """Refuse an observation whose last axis has another length than the policy's.

    Raises:
        SpaceMismatchError: naming both lengths.
    """
    if observation.shape[-1] != features:
        raise SpaceMismatchError(
            f"observations have {observation.shape[-1]} features per row; the policy takes {features}"
        )


def relation_size(neighbors: RowNeighbors | None) -> int:
    """Components of the relation of two rows; 0 where there is none."""
    return 0 if neighbors is None else neighbors.relation_size


def _positions(size: int) -> str:
    """Positions whose relation has a size, in words."""
    return f"positions of {size // 2} dimensions" if size else "no positions"


def _first_neighbors(env: Env, key: jax.Array) -> RowNeighbors | None:
    params = env.default_params
    return env.row_neighbors(env.reset(key, params)[1], params)


def _row_action(env: Env, network: str) -> tuple[int, ...]:
    """The shape of one row's action."""
    if network == "whole":
        return env.action_shape
    several = network == "neighbors"
    if env.row_action is None or (several and env.agents is None):
        spaces = "[n, m] and [n] or [n, a]" if several else "[m] and [a], or [n, m] and [n] or [n, a]"
        raise SpaceMismatchError(
            f"{type(env).__name__} has observations {list(env.observation_shape)} and actions {list(env.action_shape)};"
            f" must be {spaces}, for network = '{network}'; 'whole' fits any"
        )
    return env.row_action
