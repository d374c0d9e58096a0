"""A two-dimensional Lennard-Jones fluid in a heat bath: what the tasks of `lj_fluid` have in common.

n particles of diameter sigma, well depth epsilon and mass m, which are the units of length, energy and mass, interact
by

    u(r) = 4 (r^-12 - r^-6),  cut off with a continuous force at `cutoff`,

and touch a heat bath: Langevin dynamics by `dmdenv.integrators.Langevin`, several time steps per step of the
environment. The box is periodic and has the shape of a triangular lattice with as many sites, so that the crystal fits
into it without a defect.

References: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 1.6.2 and 5.2.3 (the
potential); the integrator: see `dmdenv.integrators.langevin`.
"""

import dataclasses
import functools
import math
from typing import ClassVar, Generic, Literal, TypeVar, cast

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, choice, real, whole
from dmdenv.envs import pool
from dmdenv.envs.base import Env, State
from dmdenv.envs.lj_fluid.parameters import FluidParams
from dmdenv.envs.lj_fluid.starts import ALL_PAIRS_UP_TO, SKIN, box_shape, liquids, move_at_random
from dmdenv.envs.neighborhood import Neighborhood, Sample
from dmdenv.integrators import Langevin, StochasticState, maxwell_boltzmann
from dmdenv.potentials import Potential, lennard_jones
from dmdenv.space import Periodic


class FluidState(State):
    """Particles in motion.

    The forces at the beginning of a step are those at the end of the one before. So parameters that change between two
    steps act from the first new positions on; only the box follows the density at once, and the particles the box.
    """

    motion: StochasticState  # positions, velocities and forces [n, 2]; box, neighbours, bath_energy since the reset

    @property
    def positions(self) -> jax.Array:
        """`[n, 2]`, unit length; in the box."""
        return self.motion.positions

    @property
    def velocities(self) -> jax.Array:
        """`[n, 2]`, unit length / time."""
        return self.motion.velocities

    @property
    def box(self) -> jax.Array:
        """The sides of the periodic box, `[2]`, unit length."""
        return cast(Periodic, self.motion.space).box


S = TypeVar("S", bound=FluidState)
P = TypeVar("P", bound=FluidParams)


@dataclasses.dataclass(frozen=True)
class LJFluid(Env[S, P], Generic[S, P]):
    """Base of the tasks: the box, the neighbours, the bath and the initial liquid.

    Each task's class describes the fields.
    """

    particles: int = whole(100, at_least=2, at_most=MOST_PARTICLES)
    substeps: int = whole(20, at_least=1, at_most=10**9)
    pairs: Literal["auto", "all", "list"] = choice("auto", of=("auto", "all", "list"))
    slack: float = real(1.5, at_least=1.0)

    finite_horizon = True
    actions: ClassVar[int]  # how many numbers an action has
    observations: ClassVar[int]  # and an observation

    def __post_init__(self):
        super().__post_init__()
        self.validate(jax.tree.map(np.asarray, self.default_params))

    def validate(self, params: P) -> None:
        half = float(np.min(box_shape(self.particles))) * math.sqrt(self.particles / float(params.density)) / 2
        if params.cutoff > half:
            raise ValueError(
                f"cutoff = {params.cutoff:g} with {self.particles} particles at density = {params.density:g}; must be"
                f" <= half the shorter side of the box, {half:.4g} (more particles give a larger one)"
            )

    def action_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.actions,), np.float32)

    def observation_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.observations,), np.float32)

    # --- the start ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        pool.prepare(liquids, *self._pool)
        super().prepare()

    def space(self, params: P) -> Periodic:
        """The box of a reset: at the density of the parameters."""
        return Periodic(jnp.asarray(box_shape(self.particles)) * jnp.sqrt(self.particles / params.density))

    def begin(self, key: jax.Array, params: P) -> tuple[StochasticState, jax.Array]:
        """A liquid in equilibrium, unlike any other: `motion` and `overflow` of a `FluidState` at the start."""
        draw, move, thermal = jax.random.split(key, 3)
        space = self.space(params)
        fractions = move_at_random(move, pool.draw(draw, liquids, *self._pool))
        positions = fractions * space.box[None, :]
        velocities = maxwell_boltzmann(thermal, jnp.ones(self.particles), params.temperature, 2, zero_momentum=False)
        pairs = self.neighborhood.find(space, positions, params.cutoff)
        motion = langevin(params, params.temperature).init(
            interaction(params), space, positions, velocities=velocities, pairs=pairs, key=draw
        )
        return motion, self._lacks_pairs(motion, params)

    @functools.cached_property
    def _pool(self) -> tuple[int, float, float, float]:
        """The arguments of `liquids`: those of the default parameters."""
        with jax.ensure_compile_time_eval():
            params = self.default_params
            return self.particles, float(params.density), float(params.temperature), float(params.cutoff)

    # --- a step ---------------------------------------------------------------------------------------------------

    def resume(self, key: jax.Array, state: S, params: P) -> StochasticState:
        """The motion at the start of a step: with fresh noise, and in the box of the parameters."""
        old, new = state.motion, self.space(params)
        positions, _ = old.space.follow(old.positions, new)
        return old.reseed(key).replace(space=new, positions=positions, forces=old.forces)

    def with_motion(self, state: S, motion: StochasticState, params: P) -> S:
        """The state after `substeps` time steps, which led to `motion`."""
        return dataclasses.replace(state, motion=motion, overflow=state.overflow | self._lacks_pairs(motion, params))

    def _lacks_pairs(self, motion: StochasticState, params: P) -> jax.Array:
        """bool []: interactions may be missing."""
        return self.neighborhood.incomplete(motion.pairs, motion.space, params.cutoff)

    # --- neighbours -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def neighborhood(self) -> Neighborhood:
        return Neighborhood(
            particles=self.particles,
            pairs=self.pairs,
            crossover=ALL_PAIRS_UP_TO,
            slack=self.slack,
            skin=SKIN,
            skin_unit="length",
            sample=self._sample,
            remedy="the cutoff is too long, and not the capacity too small; must be <= half the shorter side of the"
            " box, and with a neighbour list <= the cutoff at the reset",
        )

    def _sample(self) -> Sample:
        params = self.default_params
        space = self.space(params)
        positions = pool.prepare(liquids, *self._pool)[0] * space.box[None, :]
        return Sample(space, positions, float(params.cutoff))

    def with_capacity(self, state: S) -> S:
        """A state of this environment with other capacities, as one of this one.

        Its overflow flag stays: a list that overflowed has left its mark on the forces.
        """
        grown = super().with_capacity(state)
        return dataclasses.replace(grown, overflow=grown.overflow | state.overflow)


def langevin(params: FluidParams, temperature: jax.Array) -> Langevin:
    """The bath at a temperature, `[]`, unit energy."""
    return Langevin(dt=params.dt, temperature=temperature, friction=params.friction)


def interaction(params: FluidParams) -> Potential:
    """Lennard-Jones with a force that ends continuously."""
    return lennard_jones(cutoff=params.cutoff, truncation="force_shifted")
