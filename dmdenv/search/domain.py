"""Where a search looks: parameters x within bounds, as a smooth increasing function of numbers u without any.

    bounds            parameter
    (low, high)       x = low + (high - low) / (1 + exp(-u))
    (low, None)       x = low + log(1 + exp(u))
    (None, high)      x = high - log(1 + exp(-u))
    (None, None)      x = u

With "log" as a third entry the same holds for the logarithms of x and of its bounds.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import ndtri

from dmdenv._core.fields import as_array, shown
from dmdenv._core.pytree import Replaceable, pytree, static

Tree = Any

MARGIN = 1e-3  # of an interval: a start is no nearer to a bound, where u hardly moves it
SOME_BOUNDS = 'must be None or (low, high), each None, a number or an array, perhaps with "log" as a third entry'


@pytree
class Domain(Replaceable):
    """The parameters of a search as a function of u, and where it begins."""

    center: Tree  # u of the parameters that were given
    low: Tree  # of the same structure; -inf where there is no bound
    high: Tree
    spread: jax.Array  # float [], of starts where there is no interval, in units of u
    logs: tuple[bool, ...] = static()  # by leaf: whether its logarithm is searched

    def params(self, u: Tree) -> Tree:
        """The parameters at u; within their bounds, rounding included."""
        return self._map(_within, u)

    def draw(self, key: jax.Array, count: int, *, stratified: bool = False) -> Tree:
        """Random points: x (or its logarithm) uniform between two bounds, otherwise u normal around the centre.

        Args:
            key: consumed.
            count: how many.
            stratified: whether they are a Latin hypercube: each number has one point in each of `count` equally
                probable strata.

        Returns:
            u, leaves `[count, ...]`.
        """
        flat, unravel = ravel_pytree(self.center)
        place, order = jax.random.split(key)
        fractions = jax.random.uniform(place, (count, flat.size), flat.dtype)
        if stratified:
            strata = jnp.broadcast_to(jnp.arange(count, dtype=flat.dtype)[:, None], fractions.shape)
            fractions = (jax.random.permutation(order, strata, independent=True) + fractions) / count
        quantile = functools.partial(_quantile, self.spread)
        return jax.vmap(lambda row: self._map(quantile, unravel(row), self.center))(fractions)

    def _map(self, function: Callable[..., jax.Array], *trees: Tree) -> Tree:
        """`function(low, high, log, *values)` of each leaf."""
        structure = jax.tree.structure(self.center)
        columns = [structure.flatten_up_to(tree) for tree in (self.low, self.high, *trees)]
        leaves = [
            function(low, high, log, *values)
            for log, low, high, *values in zip(self.logs, *columns, strict=True)
        ]  # fmt: skip
        return jax.tree.unflatten(structure, leaves)


def _within(low: jax.Array, high: jax.Array, log: bool, u: jax.Array) -> jax.Array:
    """x at u."""
    least, most = (jnp.log(low), jnp.log(high)) if log else (low, high)
    bounded_below, bounded_above = jnp.isfinite(least), jnp.isfinite(most)
    a, b = jnp.where(bounded_below, least, 0.0), jnp.where(bounded_above, most, 0.0)
    x = jnp.where(
        bounded_below,
        jnp.where(bounded_above, a + (b - a) * jax.nn.sigmoid(u), a + jax.nn.softplus(u)),
        jnp.where(bounded_above, b - jax.nn.softplus(-u), u),
    )
    return jnp.clip(jnp.exp(x) if log else x, low, high)


def _quantile(
    spread: jax.Array, low: jax.Array, high: jax.Array, log: bool, fraction: jax.Array, center: jax.Array
) -> jax.Array:
    """u below which a fraction of the random points is."""
    least, most = (jnp.log(low), jnp.log(high)) if log else (low, high)
    fraction = jnp.clip(fraction, MARGIN, 1 - MARGIN)
    logit, normal = jnp.log(fraction) - jnp.log1p(-fraction), ndtri(fraction)
    interval = jnp.isfinite(least) & jnp.isfinite(most)
    return jnp.where(interval, logit, center + spread.astype(center.dtype) * normal)


# --- what a user gives ------------------------------------------------------------------------------------------------


def make_domain(params: Tree, bounds: Tree, spread: float) -> Domain:
    """The domain of parameters and their bounds, see `minimize`.

    Raises:
        ValueError: for what is no tree of finite real numbers, for bounds of another structure, that are no bounds, or
            between which the parameters are not.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path) for path, _ in named]
    values = [_numbers(f"params{name}", value) for name, (_, value) in zip(names, named, strict=True)]
    if not sum(value.size for value in values):
        raise ValueError(f"params = {params!r}; must hold at least one number")
    try:
        given = [None] * len(values) if bounds is None else structure.flatten_up_to(bounds)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"bounds has another structure than params; must be a tree of (low, high) like {structure} ({error})"
        ) from None
    columns = [_bounds(name, value, one) for name, value, one in zip(names, values, given, strict=True)]
    center, low, high = (
        jax.tree.unflatten(
            structure, [jnp.asarray(leaf, value.dtype) for leaf, value in zip(column, values, strict=True)]
        )
        for column in list(zip(*columns, strict=True))[:3]
    )
    return Domain(center, low, high, jnp.asarray(spread), logs=tuple(log for *_, log in columns))


def _numbers(name: str, value: Any) -> np.ndarray:
    """Finite floating-point numbers."""
    valid = "must be finite floating-point numbers"
    found = as_array(name, value, valid)
    if jnp.issubdtype(found.dtype, jnp.integer):
        raise ValueError(f"{name} = {shown(value)}; {valid}: an integer cannot change by small steps")
    if not jnp.issubdtype(found.dtype, jnp.floating) or not np.all(np.isfinite(found)):
        raise ValueError(f"{name} = {shown(value)}; {valid}")
    return found.astype(jax.dtypes.canonicalize_dtype(found.dtype))


def _bounds(name: str, value: np.ndarray, given: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """u of the value, its bounds `(low, high)`, and whether their logarithms are meant."""
    argument = f"bounds{name} = {given!r}"
    entries = (None, None) if given is None else given
    log = isinstance(entries, tuple | list) and len(entries) == 3 and entries[2] == "log"
    if not isinstance(entries, tuple | list) or not (len(entries) == 2 or log):
        raise ValueError(f"{argument}; {SOME_BOUNDS}")
    open_ends = 0.0 if log else -np.inf, np.inf
    low, high = (
        np.asarray(end if entry is None else _end(argument, entry, value), value.dtype)
        for entry, end in zip(entries[:2], open_ends, strict=True)
    )
    low, high = np.broadcast_to(low, value.shape), np.broadcast_to(high, value.shape)
    if not np.all(low < high):
        raise ValueError(f"{argument}; must have low < high")
    if log and np.any(low < 0):
        raise ValueError(f"{argument}; must have low >= 0 for the scale log")
    outside = (value < low) | (value > high) | (log and value <= 0)
    if np.any(outside):
        raise ValueError(f"params{name} = {shown(value)}; must be within {argument}")
    return _unbounded(value, low, high, log), low, high, log


def _end(argument: str, entry: Any, value: np.ndarray) -> np.ndarray:
    """A bound as an array that fits the parameter."""
    end = as_array("bounds", entry, SOME_BOUNDS)
    if end.dtype.kind not in "iuf" or np.any(np.isnan(end)):
        raise ValueError(f"{argument}; {SOME_BOUNDS}")
    try:
        np.broadcast_to(end, value.shape)
    except ValueError:
        raise ValueError(
            f"{argument}; must have the shape of the parameter, {list(value.shape)}, or be numbers"
        ) from None
    return end


def _unbounded(x: np.ndarray, low: np.ndarray, high: np.ndarray, log: bool) -> np.ndarray:
    """u at x, which is moved inside by the margin where it is at a bound."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x, low, high = (np.asarray(part, np.float64) for part in (x, low, high))
        if log:
            x, low, high = np.log(x), np.log(low), np.log(high)
        fraction = np.clip((x - low) / (high - low), MARGIN, 1 - MARGIN)
        above, below = np.maximum(x - low, MARGIN), np.maximum(high - x, MARGIN)
        logit = np.log(fraction) - np.log1p(-fraction)
        from_low, from_high = above + np.log(-np.expm1(-above)), -below - np.log(-np.expm1(-below))
        has_low, has_high = np.isfinite(low), np.isfinite(high)
        return np.where(has_low, np.where(has_high, logit, from_low), np.where(has_high, from_high, x))
