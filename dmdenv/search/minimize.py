"""A search on the host: many starts in one compiled program, checkpoints, a progress bar, and safe interruption.

All that evolves is in one state, the history included, and the result does not depend, bit for bit, on how many updates
are made in one call of the compiled function: a search that goes on from a checkpoint equals the uninterrupted one.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmdenv._core.fields import Real, Whole
from dmdenv._core.keys import one_key, typed_key
from dmdenv.search.arguments import GRADIENT_COST, as_partial, check_objective, plan
from dmdenv.search.domain import Tree, make_domain
from dmdenv.search.program import Search, SearchState, advance, compare, init
from dmdenv.search.result import SearchResult
from dmdenv.simulation.checkpoints import (
    CheckpointNotWritten,
    restore_checkpoint,
    restore_item,
    save_checkpoint,
    saved_steps,
)
from dmdenv.simulation.interruption import Interruption
from dmdenv.simulation.lock import lock_folder
from dmdenv.simulation.progress import compile_first, say
from dmdenv.simulation.progress import progress as progress_bar

ENLARGED = "enlarged"  # among the settings in a checkpoint
CALL = 0.2  # seconds, about: updates in one call of the compiled function become more until it takes so long


def minimize(
    objective: Callable[[Any, jax.Array], Any],
    params: Any,
    key: jax.Array,
    *,
    bounds: Any = None,
    method: str = "gradient",
    starts: int = 8,
    updates: int | None = None,
    evaluations: int | None = None,
    keys_per_update: int = 1,
    final_keys: int | None = None,
    optimizer: optax.GradientTransformation | None = None,
    population: int | None = None,
    spread: float = 1.0,
    trace: bool = False,
    enlarge: Callable[[], Callable[[Any, jax.Array], Any]] | None = None,
    folder: Path | str | None = None,
    save_interval: float = 60.0,
    progress: bool = True,
) -> SearchResult:
    """Search for the parameters at which the mean of an objective over random keys is least.

        result = minimize(objective, {"stiffness": 1.0}, key, bounds={"stiffness": (0.1, 10.0, "log")}, starts=16)
        result.best_params, result.best_value

    The first start is at `params`; the others are a Latin hypercube between the bounds, or normal around `params` where
    there is no interval. All methods move u, a number without bounds: `x = low + (high - low) / (1 + exp(-u))` between
    two bounds, `x = low + log(1 + exp(u))` above one, `x = u` without any, and the same for log x. Give bounds, or
    "log", to parameters that are not of order 1.

    In each update all points of all starts are evaluated with the same new keys. A point of which the value or the
    gradient is not finite moves nothing and is counted. A start that learnt nothing in three updates in a row, or a
    CMA-ES that has contracted to a point, begins anew at a random point. At the end the best point of each start and
    the method's estimate of the minimum (where the gradient has led; the mean of CMA-ES) are evaluated with other keys,
    again the same for all, and the better of the two is kept: the least of many noisy values would be too low.

    Args:
        objective: `objective(params, key) -> float []`, pure; differentiable for the method "gradient". It is called
            under `jax.vmap` and `jax.jit`. With `enlarge` it returns a pair, see there.
        params: any pytree of floating-point numbers and arrays.
        key: for all random numbers, consumed.
        bounds: a tree like `params` with `(low, high)` or `(low, high, "log")` in the place of each leaf, or None.
            An end is None, a number, or an array of the leaf's shape. A start at a bound is moved inside by 0.1 % of
            the interval.
        method: "gradient"; "cmaes", for up to 1000 numbers; "random".
        starts: independent searches, side by side.
        updates: of each start; 100 by default.
        evaluations: in place of `updates`: all evaluations that may be used, where one with its gradient counts as 4.
            For comparisons of methods at equal cost. Those at the end are not among them.
        keys_per_update: K, over which an update averages.
        final_keys: over which the values at the end are averaged; K by default.
        optimizer: of the method "gradient", for each start by itself; by default Adam (0.9, 0.95), whose rate falls
            from 0.1, in units of u, along half a cosine. It may ask for the value, as Polyak's step does:
            `optax.chain(optax.scale_by_polyak(), optax.scale(-2.0))` takes Newton's steps to a target where the
            objective is the square of a distance to it.
        population: points per update and start of "cmaes" and "random"; 4 + 3 ln n for n numbers by default.
        spread: standard deviation of starts around `params`, and the first step size of CMA-ES, in units of u.
        trace: whether to keep the method's estimate after each update, `result.trace`.
        enlarge: for an objective with static capacities, which then returns `(value, overflow)`, a bool []. Updates in
            which it overflowed are discarded, and repeated with the objective that `enlarge()` returns, which has
            larger ones. Each call returns a larger one than the call before; a search that goes on from a checkpoint
            calls it as often as had been done there.
        folder: for checkpoints. Called again with the folder of a search that was interrupted, and otherwise the same
            arguments, it goes on from there. One process at a time uses a folder.
        save_interval: seconds between two checkpoints; there is also one at the end, at an interruption and an error.
        progress: whether to show a bar, and to say what is being compiled, on stderr.

    Raises:
        ValueError: for a bad argument, before anything is compiled; for a folder of another search.
        TypeError: for what is no key, and for an objective that is none.
        FloatingPointError: when no value was finite.
        CheckpointNotWritten: when the disk is full; the message says which checkpoint is safe.
        DamagedCheckpoint: when the last checkpoint in the folder is not what was written.
        BlockingIOError: when another process uses the folder.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    key, objective = typed_key(one_key(key)), as_partial(objective, overflows=enlarge is not None)
    starts = Whole(at_least=1).convert("starts", starts)
    keys_per_update = Whole(at_least=1).convert("keys_per_update", keys_per_update)
    final_keys = keys_per_update if final_keys is None else Whole(at_least=1).convert("final_keys", final_keys)
    if not isinstance(trace, bool):
        raise ValueError(f"trace = {trace!r}; must be True or False")
    domain = make_domain(params, bounds, Real(above=0).convert("spread", spread))
    chosen, updates = plan(domain, method, starts, updates, evaluations, keys_per_update, optimizer, population)
    check_objective(objective, domain, key)
    search = Search(objective, chosen, domain, key, keys_per_update)

    folder = None if folder is None else Path(folder)
    with contextlib.nullcontext() if folder is None else lock_folder(folder), Interruption() as interruption:
        settings = _settings(search, method, starts, updates, trace)
        growing = _Growing(search, enlarge, interruption, aloud=progress)
        state = _last(folder, settings, growing, jax.eval_shape(lambda: init(search, starts, updates, trace)))
        state = init(search, starts, updates, trace) if state is None else state
        state = _run(growing, state, folder, settings, save_interval, interruption, aloud=progress)
        while True:
            arguments = growing.search, state, final_keys
            compile_first("the comparison", compare, *arguments, interruption=interruption, aloud=progress)
            points, values, overflow = interruption.wait_for(lambda found=arguments: jax.device_get(compare(*found)))
            if not overflow:
                break
            growing.enlarge("the comparison")
    if not np.any(np.isfinite(values)):
        raise FloatingPointError(
            f"no value of the objective was finite, of {updates} updates of {starts} starts; must be finite somewhere"
            " within the bounds"
        )
    best = int(np.nanargmin(values))
    each = starts * keys_per_update * chosen.points
    return SearchResult(
        method=method,
        best_params=jax.tree.map(lambda leaf: leaf[best], points),
        best_value=float(values[best]),
        params=points,
        values=values,
        history=np.asarray(state.history),
        evaluations=updates * each + 2 * starts * final_keys,
        gradients=updates * each if method == "gradient" else 0,
        cost_per_update=each * (GRADIENT_COST if method == "gradient" else 1.0),
        nonfinite=np.asarray(state.starts.nonfinite),
        restarts=np.asarray(state.starts.restarts),
        trace=None if state.trace is None else jax.device_get(jax.vmap(jax.vmap(domain.params))(state.trace)),
    )


class _Growing:
    """A search, and how often its objective was enlarged."""

    def __init__(
        self, search: Search, enlarge: Callable[[], Any] | None, interruption: Interruption, *, aloud: bool
    ) -> None:
        self.search, self.times = search, 0
        self._enlarge, self._interruption, self._aloud = enlarge, interruption, aloud

    def enlarge(self, repeated: str | None = None) -> None:
        """Enlarge the objective, and say what is repeated."""
        assert self._enlarge is not None  # otherwise nothing overflows
        if self._aloud and repeated:
            say(f"a capacity overflowed: enlarging it, and repeating {repeated}")
        enlarged = self._interruption.wait_for(self._enlarge)
        self.search = self.search.replace(objective=as_partial(enlarged, overflows=True))
        self.times += 1


def _run(
    growing: _Growing,
    state: SearchState,
    folder: Path | None,
    settings: dict[str, Any],
    save_interval: float,
    interruption: Interruption,
    *,
    aloud: bool,
) -> SearchState:
    """The state after all updates."""
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal saved_at
        if folder is not None:
            with interruption.deferred():
                save_checkpoint(folder, int(state.updates), state, settings={**settings, ENLARGED: growing.times})
            saved_at = time.monotonic()

    done, updates, count = int(state.updates), len(state.history), 1

    def compile_advance() -> None:
        arguments = growing.search, state, jnp.int32(count)
        compile_first("the search", advance, *arguments, interruption=interruption, aloud=aloud)

    try:
        if done < updates:
            compile_advance()
        with progress_bar(desc="search", total=updates, initial=done, unit="update", disable=not aloud) as bar:
            while done < updates:
                interruption.check()
                began = time.monotonic()
                following = advance(growing.search, state, jnp.int32(count))
                following, overflow = interruption.wait_for(lambda found=following: jax.block_until_ready(found))
                if overflow:
                    growing.enlarge("updates")
                    compile_advance()
                    continue
                state, done = following, done + count
                bar.set_postfix(best=f"{float(jnp.min(state.starts.best_value)):.4g}", refresh=False)
                bar.update(count)
                if time.monotonic() - saved_at > save_interval:
                    save()
                more = time.monotonic() - began < CALL
                count = min(2 * count if more else max(1, count // 2), updates - done)
        interruption.check()
    except CheckpointNotWritten:
        raise
    except BaseException as error:
        try:
            save()
        except CheckpointNotWritten as failed:
            error.add_note(str(failed))
        raise
    save()
    return state


def _last(
    folder: Path | None, settings: dict[str, Any], growing: _Growing, template: SearchState
) -> SearchState | None:
    """The last checkpoint of a folder, if it is that of this search; None where there is none.

    The objective is enlarged as often as it was there.
    """
    if folder is None or not (saved := saved_steps(folder)):
        return None
    theirs = restore_item(folder, saved[-1], "settings")
    for name, mine in settings.items():
        if mine != theirs.get(name):
            raise ValueError(f"{name} = {mine}; must be {theirs.get(name)}, as in {folder}, to go on with that search")
    state = restore_checkpoint(folder, saved[-1], template)
    while growing.times < theirs.get(ENLARGED, 0):
        growing.enlarge()
    return state


def _settings(search: Search, method: str, starts: int, updates: int, trace: bool) -> dict[str, Any]:
    """What another call must have in common with the one that wrote a checkpoint; values that JSON keeps."""

    def digest(tree: Tree) -> str:
        parts = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
        return f"those with the checksum {hashlib.sha256(b'|'.join(parts)).hexdigest()[:12]}"

    domain = search.domain
    return {
        "method": method,
        "starts": starts,
        "updates": updates,
        "keys_per_update": search.keys_per_update,
        "population": search.method.points,
        "key": jax.random.key_data(search.key).tolist(),
        "spread": float(domain.spread),
        "trace": trace,
        "params": digest(domain.center),
        "bounds": digest((domain.low, domain.high, domain.logs)),
    }
