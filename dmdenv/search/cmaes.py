"""CMA-ES: a normal distribution that learns, from the ranks of its samples, where to go and how to scale.

A generation draws λ points around the mean m, and moves m to the weighted mean of the better half:

    x_k = m + σ B D z_k,    z_k ~ N(0, 1),    C = B D^2 B^T

The step size σ grows where successive moves of m point the same way and shrinks where they cancel (path p_σ); the
covariance C learns from the path p_c of the mean and from the better points. Of a point that is not finite nothing is
learnt. λ = 4 + 3 ln n by default. This is the algorithm of the reference without negative weights.

Reference: N. Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772 (2016), figure 6 and table 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.search.domain import Domain, Tree
from dmdenv.search.methods import Found, Objective, all_finite, count_infinite, or_infinity

MOST_NUMBERS = 1000  # of a search: the covariance is n x n, and decomposed in each generation


def default_population(n: int) -> int:
    """λ for n numbers."""
    return 4 + math.floor(3 * math.log(n))


class Constants(NamedTuple):
    """Table 1 of the reference."""

    weights: np.ndarray  # [mu], sum 1
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float  # the expected length of a normal vector

    @classmethod
    def of(cls, n: int, population: int) -> "Constants":
        """Those of n numbers and λ points."""
        mu = population // 2
        raw = math.log((population + 1) / 2) - np.log(np.arange(1, mu + 1))
        w = raw / raw.sum()
        mu_eff = float(1 / np.sum(w**2))
        c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
        c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
        return cls(
            weights=w,
            mu_eff=mu_eff,
            c_sigma=c_sigma,
            d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma,
            c_c=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
            c_1=c_1,
            c_mu=min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff)),
            chi=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2)),
        )


@pytree
class Distribution(Replaceable):
    """Where the points of the next generation are drawn."""

    mean: jax.Array  # m, float [n]
    sigma: jax.Array  # float []
    covariance: jax.Array  # C, float [n, n]
    path_sigma: jax.Array  # float [n]
    path_c: jax.Array  # float [n]
    generation: jax.Array  # int32 []

    @classmethod
    def around(cls, mean: jax.Array, sigma: float | jax.Array) -> "Distribution":
        """The first one, with covariance 1."""
        zero = jnp.zeros_like(mean)
        sigma = jnp.asarray(sigma, mean.dtype)
        return cls(mean, sigma, jnp.eye(mean.size, dtype=mean.dtype), zero, zero, jnp.int32(0))


class Generation(NamedTuple):
    """λ points of a distribution."""

    points: jax.Array  # x = m + σ y, float [λ, n]
    moves: jax.Array  # y = B D z, float [λ, n]
    whitened: jax.Array  # B z, float [λ, n]
    widest: jax.Array  # the largest of D, float []


def draw(key: jax.Array, state: Distribution, population: int) -> Generation:
    """λ points; the key is consumed."""
    m, sigma = state.mean, state.sigma
    eigenvalues, B = jnp.linalg.eigh(state.covariance)
    eps = jnp.finfo(m.dtype).eps
    D = jnp.sqrt(jnp.maximum(eigenvalues, eps * eigenvalues[-1]))  # smaller ones are rounding
    z = jax.random.normal(key, (population, m.size), m.dtype)
    y = (z * D[None]) @ B.T
    return Generation(points=m[None] + sigma * y, moves=y, whitened=z @ B.T, widest=D[-1])


def learn(state: Distribution, generation: Generation, values: jax.Array) -> tuple[Distribution, jax.Array]:
    """The distribution after a generation.

    Args:
        state: the distribution from which the points were drawn.
        generation: its points.
        values: of the points, the less the better, `[λ]`; infinite or NaN where there is none.

    Returns:
        `(state, failed)`: the next distribution; where nothing could be learnt, bool [], it is the same one.
    """
    m, sigma, y = state.mean, state.sigma, generation.moves
    values = or_infinity(values)
    n, k = m.size, Constants.of(m.size, len(values))
    better = jnp.argsort(values)[: len(k.weights)]
    w = jnp.where(jnp.isfinite(values[better]), jnp.asarray(k.weights, m.dtype), 0.0)
    total = jnp.sum(w)
    w = w / jnp.where(total > 0, total, 1.0)
    y_w = w @ y[better]
    whitened = w @ generation.whitened[better]
    path_sigma = (1 - k.c_sigma) * state.path_sigma + math.sqrt(k.c_sigma * (2 - k.c_sigma) * k.mu_eff) * whitened
    length = jnp.linalg.norm(path_sigma)
    forgotten = 1 - (1 - k.c_sigma) ** (2 * (state.generation + 1))
    h = (length < (1.4 + 2 / (n + 1)) * k.chi * jnp.sqrt(forgotten)).astype(m.dtype)  # else p_c stalls
    path_c = (1 - k.c_c) * state.path_c + h * math.sqrt(k.c_c * (2 - k.c_c) * k.mu_eff) * y_w
    kept = 1 - k.c_1 - k.c_mu + (1 - h) * k.c_1 * k.c_c * (2 - k.c_c)
    by_points = jnp.einsum("k,ki,kj->ij", w, y[better], y[better])
    following = Distribution(
        mean=m + sigma * y_w,
        sigma=sigma * jnp.exp(k.c_sigma / k.d_sigma * (length / k.chi - 1)),
        covariance=kept * state.covariance + k.c_1 * jnp.outer(path_c, path_c) + k.c_mu * by_points,
        path_sigma=path_sigma,
        path_c=path_c,
        generation=state.generation + 1,
    )
    finite = (total > 0) & all_finite(following)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), following, state), ~finite


@pytree
class CMAES(Replaceable):
    """Covariance matrix adaptation."""

    population: int = static()  # λ

    @property
    def points(self) -> int:
        return self.population

    def init(self, domain: Domain, key: jax.Array, u: Tree) -> Distribution:
        return Distribution.around(ravel_pytree(u)[0], domain.spread)

    def update(
        self, objective: Objective, domain: Domain, key: jax.Array, state: Distribution
    ) -> tuple[Distribution, Found]:
        _, unravel = ravel_pytree(domain.center)
        generation = draw(key, state, self.population)
        x = generation.points
        values, overflow = jax.vmap(lambda point: objective(unravel(point)))(x)
        values = or_infinity(values)
        following, failed = learn(state, generation, values)
        best = jnp.argmin(values)
        eps = float(jnp.finfo(x.dtype).eps)
        smallest = max(1e-12, 10 * eps) * jnp.maximum(1.0, jnp.max(jnp.abs(state.mean)))
        spent = state.sigma * generation.widest < smallest
        found = Found(unravel(x[best]), values[best], count_infinite(values), failed, jnp.any(overflow), spent=spent)
        return following, found

    def estimate(self, state: Distribution, best: Tree) -> Tree:
        return ravel_pytree(best)[1](state.mean)
