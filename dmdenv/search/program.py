"""The compiled part of a search: all starts side by side, with K random keys that they share in each update."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.search.domain import Domain, Tree
from dmdenv.search.methods import Method

PATIENCE = 3  # updates in a row in which a start learns nothing, before it begins anew


@pytree
class Search(Replaceable):
    """What an update depends on beside the state."""

    objective: Partial  # (params, key) -> (value, overflow)
    method: Method
    domain: Domain
    key: jax.Array
    keys_per_update: int = static()


@pytree
class Start(Replaceable):
    """One of the starts; all of them with leaves `[starts, ...]`."""

    method: Any  # the state of the method
    best: Tree  # u of the best point so far
    best_value: jax.Array  # float [], infinite before there is one
    failures: jax.Array  # int32 [], updates in a row in which nothing was learnt
    nonfinite: jax.Array  # int32 []
    restarts: jax.Array  # int32 []


@pytree
class SearchState(Replaceable):
    """Everything that evolves during a search."""

    starts: Start
    history: jax.Array  # float [updates, starts], the least value of each update; NaN where there is none (yet)
    updates: jax.Array  # int32 [], done so far
    trace: Tree | None  # u of the method's estimate after each update, leaves [updates, starts, ...], if it is kept


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def init(search: Search, starts: int, updates: int, trace: bool) -> SearchState:
    """The state before the first update; `trace`: whether the estimates after each are kept."""
    draw_key, key = jax.random.split(jax.random.fold_in(search.key, updates))
    u = search.domain.draw(draw_key, starts, stratified=True)
    u = jax.tree.map(lambda all_, one: all_.at[0].set(one), u, search.domain.center)
    value, _ = jax.eval_shape(functools.partial(_mean, search), jax.random.split(key), search.domain.center)
    none = jnp.zeros(starts, jnp.int32)
    return SearchState(
        starts=Start(
            method=jax.vmap(functools.partial(search.method.init, search.domain))(jax.random.split(key, starts), u),
            best=u,
            best_value=jnp.full(starts, jnp.inf, value.dtype),
            failures=none,
            nonfinite=none,
            restarts=none,
        ),
        history=jnp.full((updates, starts), jnp.nan, value.dtype),
        updates=jnp.int32(0),
        trace=jax.tree.map(lambda leaf: jnp.full((updates, *leaf.shape), jnp.nan, leaf.dtype), u) if trace else None,
    )


@jax.jit
def advance(search: Search, state: SearchState, count: jax.Array) -> tuple[SearchState, jax.Array]:
    """The state some updates later, and whether the objective overflowed in one of them, bool [].

    The number of updates is dynamic, so that any two calls share compiled code.
    """

    def body(_, carry):
        state, before = carry
        state, overflow = _update(search, state)
        return state, before | overflow

    return lax.fori_loop(0, count, body, (state, jnp.asarray(False)))


def _update(search: Search, state: SearchState) -> tuple[SearchState, jax.Array]:
    """One update of all starts, and whether the objective overflowed."""
    objective_key, key = jax.random.split(jax.random.fold_in(search.key, state.updates))
    objective = functools.partial(_mean, search, jax.random.split(objective_key, search.keys_per_update))

    def update_one(key: jax.Array, start: Start) -> tuple[Start, jax.Array, jax.Array]:
        update_key, draw_key, init_key = jax.random.split(key, 3)
        following, found = search.method.update(objective, search.domain, update_key, start.method)
        better = found.value < start.best_value
        failures = jnp.where(found.failed, start.failures + 1, 0)
        anew = (failures >= PATIENCE) | found.spent
        u = jax.tree.map(lambda leaf: leaf[0], search.domain.draw(draw_key, 1))
        fresh = search.method.init(search.domain, init_key, u)
        start = Start(
            method=_where(anew, fresh, following),
            best=_where(better, found.point, start.best),
            best_value=jnp.where(better, found.value, start.best_value),
            failures=jnp.where(anew, 0, failures),
            nonfinite=start.nonfinite + found.nonfinite,
            restarts=start.restarts + anew,
        )
        return start, jnp.where(jnp.isfinite(found.value), found.value, jnp.nan), found.overflow

    keys = jax.random.split(key, len(state.starts.best_value))
    starts, values, overflow = jax.vmap(update_one)(keys, state.starts)
    history, trace = state.history.at[state.updates].set(values), state.trace
    if trace is not None:
        estimate = jax.vmap(search.method.estimate)(starts.method, starts.best)
        trace = jax.tree.map(lambda kept, leaf: kept.at[state.updates].set(leaf), trace, estimate)
    state = SearchState(starts=starts, history=history, updates=state.updates + 1, trace=trace)
    return state, jnp.any(overflow)


@functools.partial(jax.jit, static_argnums=2)
def compare(search: Search, state: SearchState, final_keys: int) -> tuple[Tree, jax.Array, jax.Array]:
    """The better of the best point and the method's estimate, by start: parameters `[starts, ...]`, values `[starts]`.

    The third is whether the objective overflowed, bool []. Where neither point is finite with the new keys, it is the
    best one with its value in the search.
    """
    key = jax.random.fold_in(search.key, len(state.history) + 1)
    objective = jax.vmap(functools.partial(_mean, search, jax.random.split(key, final_keys)))
    best = state.starts.best
    estimate = jax.vmap(search.method.estimate)(state.starts.method, best)
    (value, overflow), (other, overflow_too) = objective(best), objective(estimate)
    value = jnp.where(jnp.isfinite(value), value, jnp.inf)
    better = other < value
    points = jax.vmap(_where)(better, estimate, best)
    values = jnp.where(better, other, value)
    values = jnp.where(jnp.isfinite(values), values, state.starts.best_value)
    values = jnp.where(jnp.isfinite(values), values, jnp.nan)
    return jax.vmap(search.domain.params)(points), values, jnp.any(overflow | overflow_too)


def _mean(search: Search, keys: jax.Array, u: Tree) -> tuple[jax.Array, jax.Array]:
    """The objective at a point, averaged over keys, and whether it overflowed for one of them."""
    values, overflow = jax.vmap(search.objective, (None, 0))(search.domain.params(u), keys)
    return jnp.mean(values), jnp.any(overflow)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, condition), one, other)
