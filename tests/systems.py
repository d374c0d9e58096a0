"""Small systems and integrators that the tests of dynamics and of minimisers share."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import pytree
from dmdenv.integrators import NVE, Brownian, Bussi, Filament, Langevin, NoseHoover
from dmdenv.neighbors import Pairs
from dmdenv.potentials import Potential, lennard_jones
from dmdenv.space import Periodic, Space
from marks import OPTIMIZED

FCC = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))


@pytree
class Well(Potential):
    """Each particle by itself, `u(r) = sum_a k_a r_a^2 / 2`, whatever the space."""

    stiffness: jax.Array  # k, [] or [n, d]

    @property
    def cutoff(self) -> jax.Array:
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


def _run(method, potential, state, steps: int, observe=None):
    """The state after some steps of an integrator or a minimiser, and what was observed after each."""

    def advance(state, _):
        state = method.step(potential, state)
        return state, None if observe is None else observe(method, potential, state)

    return jax.lax.scan(advance, state, None, length=steps)


_compiled = functools.partial(jax.jit, _run, static_argnames=("steps", "observe"))
run, run_long = _compiled(), _compiled(compiler_options=OPTIMIZED)  # the second one for thousands of steps


def central_difference(function, x, direction, h: float) -> float:
    """The directional derivative of a function of a pytree, of order h^2."""

    def at(t):
        return float(function(jax.tree.map(lambda a, b: a + t * b, x, direction)))

    return (at(h) - at(-h)) / (2 * h)


# --- integrators, and a liquid that they move -------------------------------------------------------------------------

INTEGRATORS = {
    "nve": lambda dt=0.002: NVE(dt=dt),
    "nose_hoover": lambda dt=0.002: NoseHoover(dt=dt, temperature=0.9, relaxation_time=0.2),
    "langevin": lambda dt=0.002: Langevin(dt=dt, temperature=0.9, friction=1.5),
    "bussi": lambda dt=0.002: Bussi(dt=dt, temperature=0.9, relaxation_time=0.2),
    "brownian": lambda dt=0.0005: Brownian(dt=dt, temperature=0.9, friction=2.0),
    "filament": lambda dt=0.0002: Filament(dt=dt, temperature=0.9, friction=2.0),
}


def conserved(method, potential, state):
    return method.conserved(potential, state)


def positions(method, potential, state):
    return state.positions


def momentum(method, potential, state):
    return jnp.sum(state.masses[:, None] * state.velocities, axis=0)


def smooth_lennard_jones(**parameters):
    return lennard_jones(cutoff=2.5, onset=2.0, truncation="switched", **parameters)


@functools.cache
def liquid(dtype="float64"):
    """108 particles of a Lennard-Jones liquid at density 0.8442, somewhat equilibrated: positions, velocities, side."""
    r, side = crystal(3, 0.8442)
    method = Langevin(dt=0.005, temperature=0.9, friction=1.0)
    state = method.init(smooth_lennard_jones(), Periodic(side), r, key=jax.random.key(0))
    state, _ = run_long(method, smooth_lennard_jones(), state, steps=1000)
    v = state.velocities - jnp.mean(state.velocities, axis=0, keepdims=True)
    return np.asarray(state.positions, dtype), np.asarray(v, dtype), side


def small_liquid():
    """16 discs in a square box: positions, masses, box."""
    r, side = crystal(4, 0.6, basis=((0.0, 0.0),), noise=0.05)
    return r, 1.0 + jnp.arange(16.0) / 8, side


def started(method, **options):
    r, v, side = liquid()
    if not isinstance(method, Brownian | Filament):
        options["velocities"] = v
    return method.init(smooth_lennard_jones(), Periodic(side), r, key=jax.random.key(1), **options)
