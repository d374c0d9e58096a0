"""Derivatives through time: a trajectory as one differentiable function, within a memory budget.

The reverse derivative of a trajectory visits every step again, last to first. Storing what it needs of all T steps
takes memory in proportion to T, of which a neighbour list is by far the largest part: `[K, n]` integers per step.
Checkpointing cuts the trajectory into segments of s_1 steps, stores the states between them, and recomputes a segment
when its derivative is due. Segments may be cut again, into s_2 steps, and so on. With k such levels,

    memory = S (T / s_1 + s_1 / s_2 + ... + s_{k-1} / s_k) + R s_k

for a state of S bytes and a step whose derivative needs R bytes, while every step is computed k + 1 times, and once
backwards. The best lengths make all terms equal, so that each level takes one more root: `(k + 1) (T S^k R)^{1/(k+1)}`.

Reference: Griewank, Optim. Methods Softw. 1, 35 (1992), on multilevel checkpointing.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from dmdenv._core.control_flow import scan
from dmdenv._core.fields import Whole

State = TypeVar("State")
Body = Callable[[Any, None], tuple[Any, Any]]  # of a scan


def rollout(
    step: Callable[[State], State],
    state: State,
    steps: int,
    *,
    observe: Callable[[State], Any] | None = None,
    every: int = 1,
    memory: float | None = None,
) -> tuple[State, Any]:
    """The state after some steps and the observations on the way, pure and differentiable.

        state, energies = rollout(functools.partial(nve.step, potential), state, 1000, observe=energy, every=10)

    Derivatives, forward and reverse, reach the state and all that `step` and `observe` close over. Call it under
    `jax.jit`. Check the overflow of neighbour lists in the state: see `dmdenv.neighbors.grow`.

    Args:
        step: one time step, from state to state.
        state: any pytree of arrays.
        steps: how many, 0 or more.
        observe: what to record of a state, a pytree of arrays; None for nothing.
        every: steps from one observation to the next. The first one is made after `every` steps; steps after the last
            one, where `every` does not divide `steps`, go unobserved.
        memory: bytes that the reverse derivative may keep of the trajectory (observations not counted; for one
            instance, under `vmap`). The less, the more often steps are recomputed: see `segments`. None keeps
            everything and recomputes nothing. Without a reverse derivative it has no effect.

    Returns:
        `(state, observations)`: the last state; and the observations, leaves `[steps // every, ...]`, or None.

    Raises:
        ValueError: for `steps` below 0, `every` below 1, or a `memory` in which no trajectory of this length fits.
    """
    steps, every = Whole(at_least=0).convert("steps", steps), Whole(at_least=1).convert("every", every)
    if observe is None:
        every = max(1, steps)
    cuts = () if memory is None or steps == 0 else segments(steps, *bytes_of(step, state), memory, every=every)
    within = tuple(cut for cut in cuts if cut < every)
    whole = tuple(cut // every for cut in cuts if cut > every)

    def advance(state, _):
        return step(state), None

    def block(state, _):
        state, _ = _loop(advance, state, every, within)
        return state, None if observe is None else observe(state)

    if every in cuts:
        block = jax.checkpoint(block, prevent_cse=False)
    state, observations = _loop(block, state, steps // every, whole)
    if steps % every:
        state, _ = _loop(advance, state, steps % every, within)
    return state, observations


def _loop(body: Body, state: Any, count: int, cuts: tuple[int, ...]) -> tuple[Any, Any]:
    """`lax.scan` of the body, in checkpointed segments of `cuts[0]`, each of them in segments of `cuts[1]` ..."""
    if not cuts:
        return scan(body, state, None, length=count)

    def segment(length: int) -> Body:
        return jax.checkpoint(lambda state, _: _loop(body, state, length, cuts[1:]), prevent_cse=False)

    whole, rest = divmod(count, cuts[0])
    state, outputs = scan(segment(cuts[0]), state, None, length=whole)
    outputs = jax.tree.map(lambda y: y.reshape(whole * cuts[0], *y.shape[2:]), outputs)
    if rest:
        state, tail = segment(rest)(state, None)
        outputs = jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, tail)
    return state, outputs


# --- the schedule -----------------------------------------------------------------------------------------------------


def segments(steps: int, state: int, residuals: int, memory: float, *, every: int = 1) -> tuple[int, ...]:
    """Where to cut a trajectory, so that its reverse derivative fits into a memory with the least recomputation.

    Args:
        steps: of the trajectory, 1 or more.
        state: bytes of a state.
        residuals: bytes that the derivative of one step needs.
        memory: bytes to stay within.
        every: steps from one observation to the next: cuts lie between two of these blocks, or within one.

    Returns:
        The lengths of the segments of each level in steps, longest first; empty where nothing is recomputed.

    Raises:
        ValueError: when the memory is too small for any number of levels.
    """
    least = math.inf
    for levels in range(steps.bit_length() + 1):
        lengths = _lengths(steps, state, residuals, levels, every)
        needed = _memory(steps, state, residuals, lengths)
        if needed <= memory:
            return lengths
        least = min(least, needed)
    raise ValueError(f"memory = {memory:.4g} bytes; must be >= {least:.4g} for {steps} steps of {state} bytes")


def bytes_of(step: Callable[[State], State], state: State) -> tuple[int, int]:
    """Bytes of a state, and of what the reverse derivative of a step keeps; computed by tracing, nothing is run."""
    pure, closed_over = jax.closure_convert(step, state)

    def residuals(steps: int) -> Any:
        def advance(state, values):
            return scan(lambda state, _: (pure(state, *values), None), state, None, length=steps)[0]

        return jax.eval_shape(lambda *primals: jax.vjp(advance, *primals)[1], state, closed_over)

    return _bytes(state), max(1, _bytes(residuals(3)) - _bytes(residuals(2)))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in map(jax.typeof, jax.tree.leaves(tree)))


def _memory(steps: int, state: int, residuals: int, lengths: tuple[int, ...]) -> float:
    counts = [math.ceil(outer / inner) for outer, inner in zip((steps, *lengths), lengths, strict=False)]
    return state * sum(counts) + residuals * (lengths[-1] if lengths else steps)


def _lengths(steps: int, state: int, residuals: int, levels: int, every: int) -> tuple[int, ...]:
    """Segments that make all terms of the memory about equal, and divide each other where that is possible."""
    share = (steps * state**levels * residuals) ** (1 / (levels + 1))
    innermost = min(max(1.0, share / residuals), steps)
    ratio = (steps / innermost) ** (1 / levels) if levels else 1.0
    lengths = []
    outer = steps
    for level in range(1, levels + 1):
        outer = _near(steps / ratio**level, outer, every)
        lengths.append(outer)
    return tuple(lengths)


def _near(wanted: float, outer: int, every: int) -> int:
    """A length near the wanted one, of whole blocks or within one, that divides the next longer segment if any does."""
    low, high = math.ceil(wanted / 1.5), math.floor(wanted * 1.5)
    whole = [every * m for m in range(max(1, low // every), high // every + 1)]
    within = range(max(1, low), min(high, every - 1) + 1)

    def unfit(length: int) -> tuple[bool, float]:
        around = outer - outer % every if length >= every else min(outer, every)
        return around % length != 0, abs(math.log(length / wanted))

    return min([*whole, *within], key=unfit, default=1)
