"""How one start of a search moves: along the gradient, or to random points. `cmaes` is the third method.

A method is `init` and `update` of one start, pure, to be vmapped over starts. Points are u of the search's `Domain`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.search.domain import Domain, Tree

Objective = Callable[[Tree], tuple[jax.Array, jax.Array]]  # (value, overflow) of u, with the keys of this update


class Found(NamedTuple):
    """What an update of one start found."""

    point: Tree  # u with the least value of this update
    value: jax.Array  # float [], infinite where no value was finite
    nonfinite: jax.Array  # int32 [], points of which the value or the gradient was not finite
    failed: jax.Array  # bool [], nothing could be learnt from this update
    overflow: jax.Array  # bool [], of a point
    spent: jax.Array | bool = False  # bool [], nothing is left to learn from where it is


class Method(Protocol):
    """The functions of a method."""

    @property
    def points(self) -> int:
        """Points that an update of one start evaluates."""
        ...

    def init(self, domain: Domain, key: jax.Array, u: Tree) -> Any:
        """The state of a start at a point; the key is consumed."""
        ...

    def update(self, objective: Objective, domain: Domain, key: jax.Array, state: Any) -> tuple[Any, Found]:
        """The next state, finite if this one is, and what was found; the key is consumed."""
        ...

    def estimate(self, state: Any, best: Tree) -> Tree:
        """Where the method takes the minimum to be, given the best point so far."""
        ...


@pytree
class Gradient(Replaceable):
    """Steps of an optimiser along the gradient; one that is not finite is left out."""

    optimizer: optax.GradientTransformation = static()

    @property
    def points(self) -> int:
        return 1

    def init(self, domain: Domain, key: jax.Array, u: Tree) -> tuple[Tree, optax.OptState]:
        return u, self.optimizer.init(u)

    def update(self, objective: Objective, domain: Domain, key: jax.Array, state: Any) -> tuple[Any, Found]:
        u, memory = state
        (value, overflow), gradient = jax.value_and_grad(objective, has_aux=True)(u)
        optimizer = optax.with_extra_args_support(self.optimizer)  # of which some, Polyak's step, ask for the value
        changes, following = optimizer.update(gradient, memory, u, value=value)
        moved = optax.apply_updates(u, changes)
        finite = all_finite((value, optax.tree.norm(gradient), moved))
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (moved, following), state)
        found = Found(u, or_infinity(value), (~finite).astype(jnp.int32), ~finite, overflow)
        return state, found

    def estimate(self, state: Any, best: Tree) -> Tree:
        return state[0]


@pytree
class Random(Replaceable):
    """Independent random points; the first one is where the start is."""

    population: int = static()

    @property
    def points(self) -> int:
        return self.population

    def init(self, domain: Domain, key: jax.Array, u: Tree) -> Tree:
        others = domain.draw(key, self.population)
        return jax.tree.map(lambda all_, one: all_.at[0].set(one), others, u)

    def update(self, objective: Objective, domain: Domain, key: jax.Array, state: Tree) -> tuple[Tree, Found]:
        values, overflow = jax.vmap(objective)(state)
        values = or_infinity(values)
        best = jnp.argmin(values)
        point = jax.tree.map(lambda leaf: leaf[best], state)
        found = Found(point, values[best], count_infinite(values), jnp.asarray(False), jnp.any(overflow))
        return domain.draw(key, self.population), found

    def estimate(self, state: Tree, best: Tree) -> Tree:
        return best


def or_infinity(values: jax.Array) -> jax.Array:
    """Values, infinite where they are not finite, so that they are the worst."""
    return jnp.where(jnp.isfinite(values), values, jnp.inf)


def count_infinite(values: jax.Array) -> jax.Array:
    """How many, int32 []."""
    return jnp.sum(~jnp.isfinite(values), dtype=jnp.int32)


def all_finite(tree: Any) -> jax.Array:
    """bool []: every number of a tree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
