"""Steps of an optimiser: Adam on clipped gradients, in epochs of minibatches, and without what is not finite."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

T = TypeVar("T")


def clipped_adam(
    learning_rate: float, *, steps: int, max_gradient_norm: float, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """Adam, whose learning rate decays to zero along half a cosine.

    Args:
        learning_rate: the first one.
        steps: until it is zero.
        max_gradient_norm: longer gradients are scaled down to this norm.
        b1: Adam's decay of the mean of gradients.
        b2: Adam's decay of the mean of their squares.
    """
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), optax.adam(schedule, b1, b2))


def descend(
    optimizer: optax.GradientTransformation, gradient: T, parameters: T, state: optax.OptState
) -> tuple[T, optax.OptState, dict[str, jax.Array]]:
    """One step, unless the gradient is not finite: then parameters and state stay as they are.

    Returns:
        `(parameters, state, metrics)`; the metrics are `gradient_norm` (before clipping) and `skipped` (1 where the
        gradient was dropped), [].
    """
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm)
    changes, new_state = optimizer.update(gradient, state)  # pyright: ignore[reportArgumentType]
    new = optax.apply_updates(parameters, changes)  # pyright: ignore[reportArgumentType]
    kept = jax.tree.map(functools.partial(jnp.where, finite), (new, new_state), (parameters, state))
    return *kept, {"gradient_norm": norm, "skipped": 1.0 - finite.astype(norm.dtype)}


def inverse_variance_weights(gradients: jax.Array) -> jax.Array:
    """Weights of T steps by how much the derivatives by their actions differ between B instances, `[T]`, of mean 1.

        w_t = c / (v_0 + v_t),    v_t = 1/B sum_b |g_tb - 1/B sum_b' g_tb'|^2,

    the inverse of the variance but for v_0, the first decile of all v_t above zero. A variance below it is rather that
    of a small effect than of a precise estimate: without v_0 the last step of a window, which moves nothing before the
    next one, would have all the weight. Steps of equal variance have weight 1; a variance that is NaN gives NaN.

    Args:
        gradients: g, float `[T, B, ...]`.
    """
    deviations = gradients - jnp.mean(gradients, axis=1, keepdims=True)
    variance = jnp.mean(jnp.sum(deviations.reshape(*deviations.shape[:2], -1) ** 2, axis=2), axis=1)
    least = jnp.nanquantile(jnp.where(variance > 0, variance, jnp.nan), 0.1)
    weights = 1.0 / (1.0 + jnp.where(variance == 0, 0.0, variance / least))
    return weights / jnp.mean(weights)


def scan_minibatches(
    step: Callable[[T, Any], tuple[T, Any]], carry: T, samples: Any, key: jax.Array, *, epochs: int, minibatches: int
) -> tuple[T, Any]:
    """`step(carry, minibatch) -> (carry, output)` over all samples, some times, each time in another order.

    Args:
        step: of one minibatch, each leaf `[samples / minibatches, ...]`.
        carry: to begin with.
        samples: each leaf `[samples, ...]`.
        key: of the orders, consumed.
        epochs: how many times.
        minibatches: in an epoch; must divide the number of samples.

    Returns:
        `(carry, outputs)`, the outputs `[epochs, minibatches, ...]`.
    """
    count = len(jax.tree.leaves(samples)[0])

    def epoch(carry, key):
        order = jax.random.permutation(key, count).reshape(minibatches, -1)
        return jax.lax.scan(lambda carry, rows: step(carry, jax.tree.map(lambda x: x[rows], samples)), carry, order)

    return jax.lax.scan(epoch, carry, jax.random.split(key, epochs))
