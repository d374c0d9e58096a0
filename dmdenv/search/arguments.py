"""The arguments of a search, checked before anything is compiled."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from dmdenv._core.fields import Choice, Whole
from dmdenv.search.cmaes import CMAES, MOST_NUMBERS, default_population
from dmdenv.search.domain import Domain
from dmdenv.search.methods import Gradient, Method, Random

METHODS = ("gradient", "cmaes", "random")
UPDATES = 100  # by default
GRADIENT_COST = 4.0  # evaluations that one with its gradient counts for: the bound of reverse mode
LEARNING_RATE = 0.1  # in units of u


def plan(
    domain: Domain,
    method: str,
    starts: int,
    updates: int | None,
    evaluations: int | None,
    keys_per_update: int,
    optimizer: optax.GradientTransformation | None,
    population: int | None,
) -> tuple[Method, int]:
    """The method, and how many updates it makes."""
    Choice(METHODS).convert("method", method)
    if updates is not None and evaluations is not None:
        raise ValueError(f"updates = {updates} and evaluations = {evaluations}; must be one of them")
    if method != "gradient" and optimizer is not None:
        raise ValueError(f"optimizer = {optimizer}; must be None for the method {method!r}")
    if method == "gradient" and population is not None:
        raise ValueError(f"population = {population}; must be None for the method 'gradient'")
    n = sum(leaf.size for leaf in jax.tree.leaves(domain.center))
    if method == "cmaes" and n > MOST_NUMBERS:
        raise ValueError(f"params holds {n} numbers; must be at most {MOST_NUMBERS} for the method 'cmaes'")
    if method == "gradient":
        points, cost = 1, GRADIENT_COST
    else:
        least = 2 if method == "cmaes" else 1
        points = (
            default_population(n) if population is None else Whole(at_least=least).convert("population", population)
        )
        cost = 1.0
    if evaluations is not None:
        cost = math.ceil(starts * keys_per_update * points * cost)
        updates = Whole(at_least=cost).convert("evaluations", evaluations) // cost
    updates = UPDATES if updates is None else Whole(at_least=1).convert("updates", updates)
    if method != "gradient":
        return (CMAES if method == "cmaes" else Random)(population=points), updates
    optimizer = _default_optimizer(updates) if optimizer is None else optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer = {optimizer!r}; must be an optax.GradientTransformation, or None")
    return Gradient(optimizer=optimizer), updates


@functools.cache  # so that equal searches share compiled code
def _default_optimizer(updates: int) -> optax.GradientTransformation:
    return optax.adam(
        optax.cosine_decay_schedule(LEARNING_RATE, updates), b2=0.95
    )  # a short memory, for curved valleys


def as_partial(objective: Any, *, overflows: bool) -> Partial:
    """The objective as a pytree, whose leaves are its bound arguments; it returns `(value, overflow)`.

    Args:
        objective: a function.
        overflows: whether it does already; otherwise `overflow` is False.

    Raises:
        TypeError: for what is no function.
    """
    if not callable(objective):
        raise TypeError(f"objective = {objective!r}; must be a function of (params, key)")
    objective = objective if isinstance(objective, Partial) else Partial(objective)
    return objective if overflows else Partial(_without_overflow, objective)


def _without_overflow(objective: Partial, params: Any, key: jax.Array) -> tuple[Any, jax.Array]:
    return objective(params, key), jnp.asarray(False)


def check_objective(objective: Partial, domain: Domain, key: jax.Array) -> None:
    """Refuse, by ValueError, an objective that does not return one real number (and a flag); nothing is computed."""
    found = jax.eval_shape(lambda u, key: objective(domain.params(u), key), domain.center, key)
    flag = found[1] if isinstance(found, tuple) and len(found) == 2 else None
    if not isinstance(flag, jax.ShapeDtypeStruct) or flag.shape or flag.dtype != bool:
        raise ValueError("objective returns no pair; must be (value, overflow), a bool of shape [], with `enlarge`")
    value = found[0]
    kind = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(value)]
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"objective returns {', '.join(kind) or None}; must be one floating-point number, of shape []")
