"""A perceptron on rows that talk to their neighbours."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dmdenv.agents.perceptron import Perceptron, linear
from dmdenv.envs.row_neighbors import RowNeighbors
from dmdenv.neighbors import AllPairs, neighbor_sum

MESSAGE = 16  # components of a message


class MessagePerceptron(nnx.Module):
    """A perceptron f on each row and on the weighted mean of its neighbours' messages:

        y_i = f(x_i, m_i),    m_i = sum_j w_ij tanh(A x_i + B x_j + C g_ij + b) / (1 + sum_j w_ij).

    Weight w and relation g (where j is, and how it is turned, as seen from i) are those of `RowNeighbors.relate`.
    Without them, all rows are neighbours of each other, w = 1, and there is no g. The 1 in the denominator is a silent
    message of the row to itself: m does not grow with the number of neighbours, and goes smoothly to zero where the
    last one goes away.

    Weights do not depend on the number of rows. A permutation of the rows permutes the outputs. Within the network a
    row sees as far as the range; beyond, it sees nothing.

    Args:
        sizes: features of a row, sizes of the hidden layers of f, outputs of a row.
        relation_size: components of g; 0 for none.
        rngs: for the initial weights.
    """

    def __init__(self, sizes: Sequence[int], *, relation_size: int, rngs: nnx.Rngs):
        features, *others = sizes
        self.message = linear(2 * features + relation_size, MESSAGE, math.sqrt(2.0), rngs)  # A, B and C, b
        self.rows = Perceptron((features + MESSAGE, *others), rngs=rngs)

    def __call__(self, x: jax.Array, neighbors: RowNeighbors | None) -> jax.Array:
        """`[n, sizes[0]] -> [n, sizes[-1]]`."""
        kernel, bias = self.message.kernel[...], self.message.bias[...]  # pyright: ignore[reportOptionalSubscript]
        a, b, c = jnp.split(kernel, (x.shape[-1], 2 * x.shape[-1]))
        listeners, speakers = x @ a + jnp.broadcast_to(bias, (len(x), MESSAGE)), x @ b

        if neighbors is None:
            place, pairs = (), AllPairs()
        else:
            place, pairs = neighbors.features, neighbors.pairs

        def say(i, j):
            if neighbors is None:
                weight, heard = jnp.ones((), x.dtype), i[0] + j[1]
            else:
                weight, relation = neighbors.relate(i[2], j[2])
                heard = i[0] + j[1] + relation @ c
            return weight * jnp.tanh(heard), weight

        total, weight = neighbor_sum(say, (listeners, speakers, place), pairs)
        return self.rows(jnp.concatenate([x, total / (1.0 + weight)[:, None]], axis=-1))
