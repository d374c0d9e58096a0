"""How fast nearby trajectories part, and with them a gradient through time grows: the largest Lyapunov exponent.

A small displacement d of a state follows the linearised dynamics `d_{t+1} = J(s_t) d_t`. Almost every one turns into
the direction that grows fastest, where

    |d_t| ~ exp(lambda t),

and so does the derivative of what is late by what was early. With lambda > 0, trajectories are chaotic.

Reference: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15, 9 (1980): d is scaled to length 1 after each step.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from dmdenv._core.control_flow import scan
from dmdenv._core.fields import Whole
from dmdenv._core.pytree import split_floats
from dmdenv.neighbors import NeighborList

State = TypeVar("State")


def tangent_growth(step: Callable[[State], State], state: State, steps: int, key: jax.Array) -> tuple[State, jax.Array]:
    """The logarithm of the growth of a random displacement in each step, by forward derivatives.

        _, growth = tangent_growth(step, state, 1000, key)
        exponent = growth[500:].mean()  # the first half is for the displacement to turn

    All floating-point numbers of the state are displaced, those of neighbour lists excepted. What is constant in a
    state has the exponent 0, which is the largest one where everything else contracts.

    Args:
        step: one time step, from state to state.
        state: any pytree of arrays.
        steps: how many, 1 or more.
        key: for the displacement, consumed.

    Returns:
        `(state, growth)`: the last state, and `log |d_{t+1}| - log |d_t|`, float `[steps]`; -inf from where on a state
        has forgotten the displacement.

    Raises:
        ValueError: for `steps` below 1.
    """
    steps = Whole(at_least=1).convert("steps", steps)
    floats, _ = _floats(state)
    keys = jax.random.split(key, max(1, len(floats)))
    tangents = [jax.random.normal(key, x.shape, x.dtype) for key, x in zip(keys, floats, strict=False)]

    def advance(carry, _):
        state, tangents = carry
        floats, merge = _floats(state)

        def following(floats):
            state = step(merge(floats))
            return _floats(state)[0], state

        _, tangents, state = jax.jvp(following, (floats,), (tangents,), has_aux=True)
        tangents, length = _scaled(tangents)
        return (state, tangents), jnp.log(length)

    (state, _), growth = scan(advance, (state, _scaled(tangents)[0]), None, length=steps)
    return state, growth


def _floats(state):
    return split_floats(state, except_in=(NeighborList,))


def _scaled(tangents: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """Tangents of length 1, where they are not 0, and what their length was."""
    length = jnp.sqrt(sum((jnp.sum(d * d) for d in tangents), jnp.zeros(())))
    return [d / jnp.where(length > 0, length, 1.0).astype(d.dtype) for d in tangents], length
