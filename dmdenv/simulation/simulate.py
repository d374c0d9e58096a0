"""Simulation on the host: compiled chunks, files, a progress bar, and safe interruption.

The steps run in chunks, by one compiled function. Between two chunks the host checks the state:

- a neighbour list has overflowed: its capacities grow, and the chunk is repeated from its start;
- a number is no longer finite: the first such step of the chunk is found, and the simulation stops there;
- otherwise the writers receive the observations, and from time to time a checkpoint is written.

A trajectory does not depend, bit for bit, on how it was cut into chunks, so a simulation that continues from a
checkpoint equals the uninterrupted one. (Where a list has grown, pairs may be in another order, and sums round
differently; then chunks of the same length give the same bits.)
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from dmdenv._core.fields import Whole
from dmdenv.neighbors import ListOverflow, capacities, grow, overflowed, with_capacities
from dmdenv.simulation.checkpoints import (
    CheckpointNotWritten,
    restore_checkpoint,
    restore_item,
    save_checkpoint,
    saved_steps,
)
from dmdenv.simulation.interruption import Interruption
from dmdenv.simulation.lock import lock_folder
from dmdenv.simulation.progress import compile_first
from dmdenv.simulation.progress import progress as progress_bar

State = TypeVar("State")

CHUNK = 1000  # steps, about
ATTEMPTS = 8  # times that lists may grow in one chunk


class Writer(Protocol):
    """A receiver of the observations of each chunk: a file, a plot, a `Recorder`."""

    def __call__(self, steps: np.ndarray, observations: Any) -> None:
        """Receive m observations.

        A simulation that was killed, rather than interrupted, continues from its last checkpoint and may pass
        observations that a writer has already received: the same steps, the same bits.

        Args:
            steps: int64 `[m]`, the number of steps before each observation.
            observations: the tree that `observe` returned, leaves `[m, ...]` on the host.
        """


class Recorder:
    """A writer that keeps all observations in memory."""

    def __init__(self):
        self._chunks: list[tuple[np.ndarray, Any]] = []

    def __call__(self, steps: np.ndarray, observations: Any) -> None:
        self._chunks.append((steps, observations))

    @property
    def steps(self) -> np.ndarray:
        """The number of steps before each observation, int64 `[m]`."""
        return np.concatenate([np.zeros(0, np.int64), *(steps for steps, _ in self._chunks)])

    @property
    def observations(self) -> Any:
        """All observations, leaves `[m, ...]`; None before the first one."""
        if not self._chunks:
            return None
        return jax.tree.map(lambda *parts: np.concatenate(parts), *(observations for _, observations in self._chunks))


def simulate(
    step: Callable[[State], State],
    state: State,
    steps: int,
    *,
    observe: Callable[[State], Any] | None = None,
    every: int = 1,
    writers: Sequence[Writer] = (),
    chunk: int | None = None,
    folder: Path | str | None = None,
    save_interval: float = 60.0,
    progress: bool = True,
) -> State:
    """Run a simulation of any length.

        state = simulate(Partial(NVE.step, nve, potential), state, 10**6, observe=energy, every=100, writers=[recorder])

    Called again with the `folder` of a simulation that was interrupted, it continues where that one stopped; with more
    steps, it continues a finished one. Ctrl-C and SIGTERM stop it after the present chunk, a second one at once, with a
    checkpoint of all finished chunks if there is a folder. One simulation at a time uses a folder.

    Args:
        step: one time step, from state to state. As a `jax.tree_util.Partial` of a function and its arguments it is
            not compiled again for other values of these (another potential, another time step).
        state: any pytree of arrays, one system or a batch; the state before the first step.
        steps: how many, including those before a checkpoint.
        observe: what the writers receive of a state, a pytree of arrays.
        every: steps from one observation to the next; the first one is made after `every` steps.
        writers: called after each chunk with `(steps, observations)`: see `Writer`.
        chunk: steps in one call of the compiled function, a multiple of `every`; about 1000 by default. Observations of
            a chunk are on the device at once.
        folder: for checkpoints: at the end, at an interruption, at an error, and in between.
        save_interval: seconds between two checkpoints.
        progress: whether to show a bar, and to say what is being compiled, on stderr.

    Returns:
        The state after all steps; its neighbour lists may have larger capacities than those of `state`.

    Raises:
        ValueError: for `steps` below 0, `every` below 1, a chunk that is no multiple of `every`; for a folder with
            more steps than these, or with a state of another structure.
        DamagedCheckpoint: when the last checkpoint in the folder is not what was written; the message names it, and the
            one before it to go on from.
        CheckpointNotWritten: when the disk is full; the message says which checkpoint is safe.
        BlockingIOError: when another process uses the folder.
        ListOverflow: when a neighbour list overflows with any capacity, or has overflowed before the start.
        FloatingPointError: when a number in the state is no longer finite; the message says which and at which step.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    steps, every = Whole(at_least=0).convert("steps", steps), Whole(at_least=1).convert("every", every)
    chunk = every * max(1, round(CHUNK / every)) if chunk is None else chunk
    if chunk < 1 or chunk % every:
        raise ValueError(f"chunk = {chunk}; must be a multiple of every = {every}")
    if overflowed(state):
        raise ListOverflow(
            "a neighbour list of the state has overflowed before the first step; allocate it with more slack"
        )
    folder = None if folder is None else Path(folder)
    with contextlib.nullcontext() if folder is None else lock_folder(folder), Interruption() as interruption:
        done, state = _last(folder, state)
        if done > steps:
            raise ValueError(f"steps = {steps}; must be >= {done}, the steps that {folder} holds")
        chunks = _Chunks(step, observe, chunk if observe is None else every, chunk, interruption, aloud=progress)
        checkpoints = _Checkpoints(folder, interruption)
        try:
            with progress_bar(total=steps, initial=done, unit="step", unit_scale=True, disable=not progress) as bar:
                while done < steps:
                    count = min(chunk - done % chunk, steps - done)
                    state, following, observations = chunks.run_checked(state, done, count)
                    numbers = np.arange(done // every + 1, (done + count) // every + 1) * every
                    if observe is not None and len(numbers):
                        observed = _on_host(observations, len(numbers))
                        for writer in writers:
                            writer(numbers, observed)
                    state, done = following, done + count
                    bar.update(count)
                    if checkpoints.age() > save_interval:
                        checkpoints.save(done, state)
                    interruption.check()
        except CheckpointNotWritten:
            raise
        except BaseException as error:
            try:
                checkpoints.save(done, state)
            except CheckpointNotWritten as failed:
                error.add_note(str(failed))
            raise
        checkpoints.save(done, state)
    return state


def _last(folder: Path | None, state: State) -> tuple[int, State]:
    """The last checkpoint of a folder; step 0 and the state where there is none."""
    if folder is None or not (saved := saved_steps(folder)):
        return 0, state
    template = with_capacities(state, restore_item(folder, saved[-1], "capacities"))
    return saved[-1], restore_checkpoint(folder, saved[-1], template)


class _Checkpoints:
    """The checkpoints that a simulation writes, if it has a folder."""

    def __init__(self, folder: Path | None, interruption: Interruption):
        self.folder, self.interruption = folder, interruption
        self._saved_at = time.monotonic()

    def age(self) -> float:
        """Seconds since the last one, or since the start."""
        return time.monotonic() - self._saved_at

    def save(self, done: int, state: Any) -> None:
        """Write one, unless it is there already."""
        if self.folder is not None:
            with self.interruption.deferred():
                save_checkpoint(self.folder, done, state, capacities=capacities(state))
            self._saved_at = time.monotonic()


def _on_host(observations: Any, count: int) -> Any:
    """The first few of the observations, as numpy arrays."""
    return jax.tree.map(lambda y: np.asarray(y)[:count], observations)


class _Chunks:
    """A compiled chunk, and its repetition where it failed."""

    def __init__(
        self,
        step: Callable,
        observe: Callable | None,
        every: int,
        chunk: int,
        interruption: Interruption,
        *,
        aloud: bool,
    ):
        self.step, self.observe = _partial(step), _partial(observe or _nothing)
        self.static: dict[str, Any] = {"every": every, "slots": chunk // every}
        self.interruption, self.aloud = interruption, aloud
        self._compiled_for: Any = None

    def run(self, state: Any, done: int, count: int) -> tuple[Any, Any]:
        """The state and the observations `count` steps after step `done`."""
        arguments = self.step, self.observe, state, jnp.int32(done % self.static["every"]), jnp.int32(count)
        types = [(jax.typeof(leaf), getattr(leaf, "sharding", None)) for leaf in jax.tree.leaves(state)]
        if types != self._compiled_for:
            about = {"interruption": self.interruption, "aloud": self.aloud}
            compile_first("the simulation", _run, *arguments, **about, **self.static)
            self._compiled_for = types
        result = _run(*arguments, **self.static)
        return self.interruption.wait_for(lambda: jax.block_until_ready(result))

    def run_checked(self, state: State, done: int, count: int) -> tuple[State, State, Any]:
        """The state, perhaps with larger lists; and the state and the observations `count` steps later."""
        for _ in range(ATTEMPTS):
            after, observations = self.run(state, done, count)
            if _became_nonfinite(state, after):
                after, at = self._first_fault(state, done, count)
                if names := _became_nonfinite(state, after):
                    raise FloatingPointError(
                        f"{', '.join(names)} became infinite or NaN in step {at} (of steps {done} to {done + count});"
                        " try a smaller time step, or an initial state without overlaps"
                    )
            elif not overflowed(after):
                return state, after, observations
            state = grow(state, after)
        raise ListOverflow(
            f"a neighbour list overflowed between steps {done} and {done + count}, {ATTEMPTS} times, with ever"
            " larger capacities: particles collapse, or the box is narrower than twice the cutoff"
        )

    def _first_fault(self, state: Any, done: int, count: int) -> tuple[Any, int]:
        """The first state that has overflowed or is not finite, and its step, by bisection."""
        good, bad = 0, count
        while bad - good > 1:
            middle = (good + bad) // 2
            after, _ = self.run(state, done, middle)
            good, bad = (good, middle) if overflowed(after) or _became_nonfinite(state, after) else (middle, bad)
        return self.run(state, done, bad)[0], done + bad


@functools.partial(jax.jit, static_argnames=("every", "slots"))
def _run(step: Partial, observe: Partial, state: Any, phase: jax.Array, steps: jax.Array, *, every: int, slots: int):
    """Some steps, with an observation wherever their number, counted from `-phase`, is a multiple of `every`."""

    def block(carry):
        done, slot, state, observations = carry
        following = jnp.minimum(done + every - (phase + done) % every, steps)
        state = lax.fori_loop(done, following, lambda _, state: step(state), state)
        observations = jax.tree.map(
            lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, slot, 0), observations, observe(state)
        )
        return following, slot + 1, state, observations

    empty = jax.tree.map(lambda y: jnp.zeros((slots, *y.shape), y.dtype), jax.eval_shape(observe, state))
    start = jnp.int32(0), jnp.int32(0), state, empty
    _, _, state, observations = lax.while_loop(lambda carry: carry[0] < steps, block, start)
    return state, observations


def _became_nonfinite(before: Any, after: Any) -> list[str]:
    """The paths of the leaves with a number that was finite and is no longer."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(before)]
    return [path for path, found in zip(paths, _nonfinite(before, after), strict=True) if found]


@jax.jit
def _nonfinite(before: Any, after: Any) -> list[jax.Array]:
    def found(a: jax.Array, b: jax.Array) -> jax.Array:
        if a.shape != b.shape or not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(False)
        return jnp.any(jnp.isfinite(a) & ~jnp.isfinite(b))

    return [found(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]


def _partial(function: Callable) -> Partial:
    """A function as a pytree, whose leaves are its bound arguments."""
    return function if isinstance(function, Partial) else Partial(function)


def _nothing(state: Any) -> None:
    return None
