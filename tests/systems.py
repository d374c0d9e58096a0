"""Small systems that the tests of dynamics and of minimisers share."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import pytree
from dmdenv.neighbors import Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space

FCC = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))


@pytree
class Well(Potential):
    """Each particle by itself, `u(r) = sum_a k_a r_a^2 / 2`, whatever the space."""

    stiffness: jax.Array  # k, [] or [n, d]

    @property
    def reach(self) -> jax.Array:
        return jnp.zeros(())

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return 0.5 * jnp.sum(self.stiffness * positions**2, axis=1)


def crystal(cells: int, density: float, basis=FCC, *, noise: float = 0.0) -> tuple[jax.Array, float]:
    """A cubic crystal, positions `[cells^d len(basis), d]` with some noise, and the side of its box."""
    basis = np.asarray(basis)
    d = basis.shape[1]
    side = (len(basis) / density) ** (1 / d)
    corners = np.array(list(itertools.product(range(cells), repeat=d)))
    r = ((corners[:, None] + basis[None]).reshape(-1, d) + 0.25) * side
    return jnp.asarray(r + noise * np.random.default_rng(0).normal(size=r.shape)), cells * side


@functools.partial(jax.jit, static_argnames=("steps", "observe"))
def run(method, potential, state, steps: int, observe=None):
    """The state after some steps of an integrator or a minimiser, and what was observed after each."""

    def advance(state, _):
        state = method.step(potential, state)
        return state, None if observe is None else observe(method, potential, state)

    return jax.lax.scan(advance, state, None, length=steps)


def central_difference(function, x, direction, h: float) -> float:
    """The directional derivative of a function of a pytree, of order h^2."""

    def at(t):
        return float(function(jax.tree.map(lambda a, b: a + t * b, x, direction)))

    return (at(h) - at(-h)) / (2 * h)
