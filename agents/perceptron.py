"""The perceptron, of which policies and critics are made."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

LAST_LAYER_SCALE = 0.01  # initial actions are close to zero, where the derivative of the outer tanh is 1


def linear(inputs: int, outputs: int, scale: float, rngs: nnx.Rngs) -> nnx.Linear:
    """A layer `x -> W x + b`, with an orthogonal kernel of this scale and biases of zero, in the default precision."""
    init = nnx.initializers.orthogonal(scale)
    return nnx.Linear(inputs, outputs, kernel_init=init, param_dtype=jnp.result_type(float), rngs=rngs)


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
            linear(inputs, outputs, scale, rngs)
            for inputs, outputs, scale in zip(sizes[:-1], sizes[1:], scales, strict=True)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., sizes[0]] -> [..., sizes[-1]]`."""
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.tanh(layer(x))
        return last(x)
