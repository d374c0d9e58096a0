"""Two systems whose parameters are hidden: a flock of which trajectories were seen, a fluid of which g(r) is known.

Each is an `objective(params, key)` for `dmdenv.search.minimize`, which simulates all instances side by side, with the
truth to compare with.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import dmdenv
from dmdenv.differentiation import reweight, rollout
from dmdenv.integrators import Langevin
from dmdenv.lattice import square
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import lennard_jones
from dmdenv.quantities import radial_distribution
from dmdenv.space import Periodic

Values = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is searched for, and where."""

    name: str
    objective: Partial  # (params, key) -> float []
    truth: dict[str, float]
    start: dict[str, float]
    bounds: dict[str, tuple]
    steps: int  # simulated steps of all instances in one evaluation
    physical: Callable[[Any], Any] = lambda values: values  # the parameters of the truth, of those that are searched


# --- a flock ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Flocks:
    """Flocks without an agent, seen at a start and some steps later.

    Cohesion ends at its range by a jump, so that a trajectory has no derivative by that range. So the model fades
    within an `edge`, whose middle is taken for the range; what is observed has none.
    """

    instances: int = 1024
    boids: int = 24
    box: float = 10.0  # unit length
    steps: int = 6
    noise: float = 0.01  # standard deviation of what is observed, unit length and angle
    edge: float = 0.05  # of the model, unit length

    truth: ClassVar[dict[str, float]] = {
        "alignment": 3.0, "alignment_range": 3.5, "avoidance": 1.5, "avoidance_range": 1.4, "cohesion": 0.6,
        "cohesion_range": 2.5,
    }  # fmt: skip
    start: ClassVar[dict[str, float]] = {
        "alignment": 1.0, "alignment_range": 2.5, "avoidance": 0.5, "avoidance_range": 2.0, "cohesion": 0.2,
        "cohesion_range": 3.5,
    }  # fmt: skip
    bounds: ClassVar[dict[str, tuple]] = {
        "alignment": (0.3, 30.0, "log"), "alignment_range": (1.0, 4.9), "avoidance": (0.15, 15.0, "log"),
        "avoidance_range": (0.5, 4.0), "cohesion": (0.06, 6.0, "log"), "cohesion_range": (1.0, 4.5),
    }  # fmt: skip

    @property
    def env(self) -> Any:
        return dmdenv.make_env("flocking", boids=self.boids, obstacles=0)

    def fly(self, values: Values, edge: float, states: Any) -> Any:
        """All flocks some steps later."""
        env = self.env
        reach = values["cohesion_range"] + 0.5 * edge
        params = env.default_params.replace(
            **{**values, "box": self.box, "cohesion_range": reach, "cohesion_edge": edge}
        )

        def step(state, _):
            return env.move(state, jnp.zeros(env.boids), params)[0], None

        return jax.vmap(lambda state: jax.lax.scan(step, state, None, length=self.steps)[0])(states)

    def problem(self, key: jax.Array) -> Problem:
        """Observe flocks that start at random places with random headings; the key is consumed."""
        env = self.env
        start_key, place_key, heading_key = jax.random.split(key, 3)
        params = env.default_params.replace(box=self.box)
        starts = jax.jit(jax.vmap(lambda key: env.initial_state(key, params)))(
            jax.random.split(start_key, self.instances)
        )
        seen = jax.jit(functools.partial(self.fly, edge=0.0))(self.truth, states=starts)
        positions = seen.positions + self.noise * jax.random.normal(place_key, seen.positions.shape)
        headings = seen.headings + self.noise * jax.random.normal(heading_key, seen.headings.shape)
        objective = Partial(self.deviation, starts, positions, headings)
        return Problem("flock", objective, self.truth, self.start, self.bounds, self.steps * self.instances)

    def deviation(self, states: Any, positions: jax.Array, headings: jax.Array, values: Values, key: jax.Array):
        """Mean squared deviation from what was observed: positions relative to a length of 0.3, headings to 1."""
        found = self.fly(values, self.edge, states)
        away = Periodic(jnp.asarray(self.box)).displacement(found.positions, positions)
        return jnp.mean(jnp.sum(away**2, -1)) / 0.3**2 + jnp.mean(2 - 2 * jnp.cos(found.headings - headings))


# --- a fluid ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fluids:
    """Lennard-Jones fluids in two dimensions at a known temperature and density, by Langevin dynamics.

    The derivative of g(r) is that of the equilibrium average, by `reweight`, and not that of the trajectories. A g(r)
    tells the most of where particles repel each other, so sigma and epsilon are strongly correlated in it. Searched
    are epsilon and the `diameter` at which the energy of a pair is the temperature; sigma follows from both.
    """

    instances: int = 1024
    side: int = 4  # n = side^2 particles
    density: float = 0.2  # unit 1 / length^2
    temperature: float = 1.0  # unit energy
    dt: float = 0.02
    friction: float = 1.0
    relax: int = 500  # steps after the parameters have changed; with half as many epsilon is found too large
    samples: int = 5
    every: int = 20  # steps between samples
    target_samples: int = 240  # of each instance, for the target
    bins: int = 22

    truth: ClassVar[dict[str, float]] = {"sigma": 1.04, "epsilon": 0.87}
    start: ClassVar[dict[str, float]] = {"diameter": 0.85, "epsilon": 0.5}
    bounds: ClassVar[dict[str, tuple]] = {"diameter": (0.75, 1.2), "epsilon": (0.2, 3.0, "log")}
    widest: ClassVar[dict[str, float]] = {"sigma": 1.25, "epsilon": 0.87}  # equilibrated; from it none overlap

    @property
    def edges(self) -> jax.Array:
        return jnp.linspace(0.6, 2.8, self.bins + 1)

    @property
    def langevin(self) -> Langevin:
        return Langevin(dt=self.dt, temperature=self.temperature, friction=self.friction)

    def physical(self, values: Values) -> Values:
        """sigma and epsilon, where `4 epsilon (x^2 - x) = temperature` with `x = (sigma / diameter)^6`."""
        x = 0.5 * (1 + jnp.sqrt(1 + self.temperature / values["epsilon"]))
        return {"sigma": values["diameter"] * x ** (1 / 6), "epsilon": values["epsilon"]}

    def space(self) -> Periodic:
        return square((self.side, self.side), density=self.density)[0]

    def potential(self, values: Values):
        return lennard_jones(sigma=values["sigma"], epsilon=values["epsilon"], cutoff=2.5, truncation="force_shifted")

    def sample(self, values: Values, positions: jax.Array, key: jax.Array, relax: int, samples: int) -> jax.Array:
        """Positions `[instances, samples, n, 2]` of fluids that began at `positions` `[instances, n, 2]`."""
        potential, langevin, space = self.potential(values), self.langevin, self.space()
        step = functools.partial(langevin.step, potential)

        def run(positions, key):
            state, _ = rollout(step, langevin.init(potential, space, positions, key=key), relax)
            return rollout(step, state, samples * self.every, observe=lambda s: s.positions, every=self.every)[1]

        return jax.vmap(run)(positions, jax.random.split(key, len(positions)))

    def average(self, values: Values, positions: jax.Array, key: jax.Array, relax: int, samples: int) -> jax.Array:
        """g(r) `[bins]` of the fluids, with its derivative by the parameters."""
        constants = jax.lax.stop_gradient(values)
        x = self.sample(constants, positions, key, relax, samples)
        x = jax.lax.stop_gradient(x.reshape(-1, *x.shape[2:]))
        potential, space = self.potential(values), self.space()
        energies = jax.vmap(lambda x: potential.energy(space, x, AllPairs()))(x)
        g = jax.vmap(lambda x: radial_distribution(space, x, AllPairs(), self.edges))(x)
        return reweight(g, energies / self.temperature).mean

    def problem(self, key: jax.Array) -> Problem:
        """Measure the g(r) of the hidden fluid in a long run; equilibrate fluids at the start; the key is consumed."""
        start_key, target_key = jax.random.split(key)
        _, lattice = square((self.side, self.side), density=self.density)
        lattices = jnp.broadcast_to(lattice, (self.instances, *lattice.shape))
        run = jax.jit(self.sample, static_argnums=(3, 4))
        positions = run(self.widest, lattices, start_key, 2000, 1)[:, -1]
        target = jax.jit(self.average, static_argnums=(3, 4))(
            self.truth, lattices, target_key, 2000, self.target_samples
        )
        objective = Partial(self.deviation, positions, target)
        steps = (self.relax + self.samples * self.every) * self.instances
        return Problem("fluid", objective, self.truth, self.start, self.bounds, steps, self.physical)

    def deviation(self, positions: jax.Array, target: jax.Array, values: Values, key: jax.Array) -> jax.Array:
        """Mean squared deviation of g(r) from the target."""
        g = self.average(self.physical(values), positions, key, self.relax, self.samples)
        return jnp.mean((g - target) ** 2)
