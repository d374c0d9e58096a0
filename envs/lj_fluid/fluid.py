"""A two-dimensional Lennard-Jones fluid in a heat bath: what the tasks of `lj_fluid` have in common.

n particles of diameter sigma, well depth epsilon and mass m, which are the units of length, energy and mass, interact
by

    u(r) = 4 (r^-12 - r^-6),  cut off with a continuous force at `cutoff`,

and touch a heat bath: Langevin dynamics by `dmdenv.integrators.Langevin`, several time steps in a step of an
environment. The box is periodic and has the shape of a triangular lattice with as many sites, so that the crystal fits
into it without a defect.

Initial states come from a pool of configurations of the liquid. Moved and reflected at random they are new ones, as the
box has these symmetries.

References: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 1.6.2 and 5.2.3 (the
potential); the integrator: see `dmdenv.integrators.langevin`.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.envs import pool
from dmdenv.envs.base import CapacityExceeded, Env, Params, State, parameter
from dmdenv.integrators import Langevin, StochasticState, maxwell_boltzmann
from dmdenv.lattice import random
from dmdenv.neighbors import AllPairs, NeighborList, Pairs, allocate, build
from dmdenv.potentials import Potential, lennard_jones
from dmdenv.space import Periodic

# on a CPU the list is faster from about 100 particles on; up to a few more, all pairs cannot overflow
_ALL_PAIRS_UP_TO = 128
_POOL = 32  # members, of up to 100 particles; fewer larger ones
_SKIN = 0.4  # how much farther than the cutoff a neighbour list reaches, unit length


class FluidParams(Params):
    """Dynamic parameters of the fluid. Reduced units: sigma, epsilon, the mass and Boltzmann's constant are 1."""

    max_steps: jax.Array = parameter(default=128, unit="steps", doc="length of an episode", low=1)
    dt: jax.Array = parameter(default=0.01, unit="time", doc="time step of the dynamics", low=1e-6, high=0.02)
    density: jax.Array = parameter(
        default=0.82, unit="1 / length^2", doc="particles an area; the box follows", low=1e-3, high=1.2
    )
    temperature: jax.Array = parameter(default=0.8, unit="energy", doc="T of the bath at the start", low=1e-3)
    friction: jax.Array = parameter(default=1.0, unit="1 / time", doc="gamma of the bath", low=1e-6)
    cutoff: jax.Array = parameter(default=2.5, unit="length", doc="range of the interaction", low=1.0)


class FluidState(State):
    """Particles in motion."""

    positions: jax.Array  # [n, 2], unit length; not wrapped: continuous in time
    velocities: jax.Array  # [n, 2], unit length / time
    pairs: Pairs  # who may interact with whom


S = TypeVar("S", bound=FluidState)
P = TypeVar("P", bound=FluidParams)


@dataclasses.dataclass(frozen=True)
class LJFluid(Env[S, P], Generic[S, P]):
    """Base of the tasks: the box, the neighbours, the bath and the initial liquid.

    Each task's class describes the fields.
    """

    particles: int = 100
    substeps: int = 20
    pairs: Literal["auto", "all", "list"] = "auto"
    slack: float = 1.5

    finite_horizon = True
    actions: ClassVar[int]  # how many numbers an action has
    observations: ClassVar[int]  # and an observation

    def __post_init__(self):
        for name, low in (("particles", 2), ("substeps", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} = {value!r}; valid: a whole number from {low}")
        if self.pairs not in ("auto", "all", "list"):
            raise ValueError(f"pairs = {self.pairs!r}; valid: 'auto', 'all', 'list'")
        if not 1 <= self.slack < np.inf:
            raise ValueError(f"slack = {self.slack!r}; valid: a number from 1")
        self.validate(jax.tree.map(np.asarray, self.default_params))

    def validate(self, params: P) -> None:
        half = float(np.min(box_shape(self.particles))) * math.sqrt(self.particles / float(params.density)) / 2
        if params.cutoff > half:
            raise ValueError(
                f"cutoff = {params.cutoff:g} with {self.particles} particles at density = {params.density:g}; valid:"
                f" up to half the shorter side of the box, {half:.4g} (more particles give a larger one)"
            )

    def action_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.actions,), np.float32)

    def observation_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.observations,), np.float32)

    # --- physics --------------------------------------------------------------------------------------------------

    def space(self, params: P) -> Periodic:
        """The box at the density of the parameters."""
        return Periodic(jnp.asarray(box_shape(self.particles)) * jnp.sqrt(self.particles / params.density))

    def prepare(self) -> None:
        super().prepare()
        pool.prepare(liquids, self.particles, *self._prepared)

    def fluid(self, key: jax.Array, params: P) -> dict[str, Any]:
        """The fields of a `FluidState` at the start of an episode: a liquid in equilibrium, unlike any other."""
        draw, move, heat = jax.random.split(key, 3)
        n, (density, temperature) = self.particles, self._prepared
        fractions = pool.draw(draw, liquids, n, density, temperature)
        numbers = jax.random.uniform(move, (5,))
        mirror = jnp.where(numbers[:2] < 0.5, -1.0, 1.0)
        moved = mirror[None, :] * jnp.roll(fractions, jnp.int32(numbers[4] * n), axis=0) + numbers[None, 2:4]
        space = self.space(params)
        positions = (moved - jnp.floor(moved)) * space.box[None, :]
        velocities = maxwell_boltzmann(heat, jnp.ones(n), params.temperature, 2, zero_momentum=False)
        pairs = AllPairs()
        if self._listed:
            pairs = build(self._template, space, positions, cutoff=params.cutoff, skin=jnp.asarray(_SKIN))
        overflow = self._misfit(pairs, params)
        return {"overflow": overflow, "positions": positions, "velocities": velocities, "pairs": pairs}

    def in_bath(self, key: jax.Array, state: S, potential: Potential, params: P) -> StochasticState:
        """The state as one of the core's Langevin dynamics, whose noise begins with the key."""
        return langevin(params, params.temperature).init(
            potential, self.space(params), state.positions, velocities=state.velocities, pairs=state.pairs, key=key
        )

    def out_of_bath(self, state: S, moved: StochasticState, params: P) -> S:
        """The state with the particles where the dynamics brought them."""
        overflow = state.overflow | self._misfit(moved.pairs, params)
        return dataclasses.replace(
            state, positions=moved.positions, velocities=moved.velocities, pairs=moved.pairs, overflow=overflow
        )

    # --- neighbours and capacities --------------------------------------------------------------------------------

    def enlarged(self) -> Self:
        if not self._listed or self._template.cannot_overflow:
            raise CapacityExceeded(
                "lj_fluid: the cutoff is too long, and not the capacity too small; valid: up to half the shorter side"
                " of the box, and with a neighbour list up to the cutoff at the reset"
            )
        return dataclasses.replace(self, slack=2.0 * self.slack)

    def with_capacity(self, state: S) -> S:
        pairs = state.pairs
        if isinstance(pairs, NeighborList):
            pairs = build(self._template, pairs.space, state.positions, cutoff=pairs.cutoff, skin=pairs.skin)
            return dataclasses.replace(state, pairs=pairs, overflow=pairs.overflow)
        return state

    @functools.cached_property
    def _prepared(self) -> tuple[float, float]:
        """Density and temperature of the pool, those of `default_params`."""
        with jax.ensure_compile_time_eval():
            params = self.default_params
            return float(params.density), float(params.temperature)

    @property
    def _listed(self) -> bool:
        return self.pairs == "list" or (self.pairs == "auto" and self.particles > _ALL_PAIRS_UP_TO)

    @functools.cached_property
    def _template(self) -> NeighborList:
        """A list with the capacities for the liquid, chosen once on the host."""
        with jax.ensure_compile_time_eval():
            params = self.default_params
            space = self.space(params)
            positions = pool.prepare(liquids, self.particles, *self._prepared)[0] * space.box[None, :]
            return allocate(space, positions, cutoff=float(params.cutoff), skin=_SKIN, slack=self.slack)

    def _misfit(self, pairs: Pairs, params: P) -> jax.Array:
        """bool []: pairs may be missing: a capacity is exceeded, or the cutoff too long for the list or the box."""
        if isinstance(pairs, NeighborList):
            return pairs.overflow | (params.cutoff > pairs.cutoff)
        return params.cutoff > self.space(params).largest_cutoff(2)


def langevin(params: FluidParams, temperature: jax.Array) -> Langevin:
    """The bath at a temperature, `[]`, unit energy."""
    return Langevin(dt=params.dt, temperature=temperature, friction=params.friction)


def interaction(params: FluidParams) -> Potential:
    """Lennard-Jones with a force that ends continuously."""
    return lennard_jones(cutoff=params.cutoff, truncation="force_shifted")


def box_shape(particles: int) -> np.ndarray:
    """The sides of the box `[2]` over the root of its area: those of a triangular lattice with as many sites.

    The lattice has an even number of rows along x, sqrt(3) / 2 of the distance in a row apart. Of those that fill a box
    the one that is nearest to a square is taken; where none is near, a square, in which no crystal fits.
    """
    rows = [m for m in range(2, particles + 1, 2) if particles % m == 0]
    ratios = [particles / m / (m * math.sqrt(3) / 2) for m in rows]  # of the sides
    ratio = min(ratios, key=lambda x: abs(math.log(x)), default=1.0)
    ratio = ratio if 1 / 1.6 < ratio < 1.6 else 1.0
    return np.array([math.sqrt(ratio), 1 / math.sqrt(ratio)])


def liquids(particles: int, density: float, temperature: float) -> jax.Array:
    """A pool of configurations in equilibrium, `[count, n, 2]`, coordinates as fractions of the box.

    Random arrangements, which short steps and then long ones bring into equilibrium with the bath.

    Raises:
        CapacityExceeded: when a liquid is so uneven that its neighbour list overflows.
    """
    count = max(4, min(_POOL, 100 * _POOL // particles))
    starts = [
        random(particles, key=key, density=density, dimension=2, min_distance=0.9)
        for key in jax.random.split(jax.random.key(particles), count)
    ]
    space = Periodic(jnp.asarray(box_shape(particles)) * math.sqrt(particles / density))
    positions = jnp.stack([r / square.box for square, r in starts]) * space.box[None, None, :]
    potential = lennard_jones(cutoff=float(FluidParams().cutoff), truncation="force_shifted")
    pairs = AllPairs()
    if particles > _ALL_PAIRS_UP_TO:
        pairs = allocate(space, positions[0], cutoff=float(potential.cutoff), skin=_SKIN, slack=2.0)

    dts = jnp.concatenate([jnp.full(400, 0.002), jnp.full(1000, 0.01)])

    @jax.jit
    @jax.vmap
    def relaxed(positions, key):
        method = Langevin(dt=0.002, temperature=temperature, friction=1.0)
        state = method.init(potential, space, positions, pairs=pairs, key=key)
        state, _ = lax.scan(lambda state, dt: (method.replace(dt=dt).step(potential, state), None), state, dts)
        return space.fractional(space.wrap(state.positions)), state.overflow

    fractions, overflow = relaxed(positions, jax.random.split(jax.random.key(particles + 1), count))
    if np.any(overflow):
        raise CapacityExceeded("lj_fluid: the neighbour list with which the pool is prepared is too small")
    return fractions
