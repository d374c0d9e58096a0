"""What an integrator is: `init` and `step`."""

import abc
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Declared
from dmdenv.integrators.state import State, checked_positions
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space

S = TypeVar("S", bound=State)


class Integrator(Declared, abc.ABC, Generic[S]):
    """Equations of motion with a way to step through them: a pytree whose leaves are its dynamic parameters.

    Everything is pure and differentiable in all floating-point leaves; changing one (a time step, a temperature that
    follows a schedule) compiles nothing anew. Temperatures are in units of energy: Boltzmann's constant is 1.
    """

    state_type: ClassVar[type[State]] = State

    def init(
        self,
        potential: Potential,
        space: Space,
        positions: jax.Array,
        *,
        velocities: jax.Array | None = None,
        masses: jax.Array | float = 1.0,
        pairs: Pairs = AllPairs(),
        key: jax.Array | None = None,
    ) -> S:
        """The state to start from.

        Args:
            potential: gives the forces.
            space: where the particles are.
            positions: `[n, d]`, unit length.
            velocities: `[n, d]`, unit length / time. By default those of the thermostat's temperature, drawn with
                `key`; without a thermostat, at rest.
            masses: `[]` or `[n]`, unit mass.
            pairs: `AllPairs()`, or a neighbour list that reaches as far as the potential.
            key: for what the method draws; it is consumed. Not used where it draws nothing.

        Raises:
            ValueError: see `State.start`; without a key where one is needed.
        """
        positions = checked_positions(positions)
        own, draw = self._begin(positions, key)
        state: Any = self.state_type.start(
            potential, space, positions, velocities=velocities, masses=masses, pairs=pairs, **own
        )
        return state if velocities is not None else state.replace(velocities=self._thermal_velocities(state, draw))

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        """What the method's own fields of the state begin with, and a key for velocities."""
        return {}, key

    def _thermal_velocities(self, state: S, key: jax.Array | None) -> jax.Array:
        """Those of an equilibrium, `[n, d]`; at rest without a thermostat."""
        return state.velocities

    @abc.abstractmethod
    def step(self, potential: Potential, state: S) -> S:
        """The state one time step later; one evaluation of the forces."""

    @abc.abstractmethod
    def conserved(self, potential: Potential, state: S) -> jax.Array:
        """The quantity that exact dynamics would conserve, `[]`, unit energy: its drift measures the time step."""


def for_particles(value: jax.Array) -> jax.Array:
    """A parameter `[]` or `[n]` in a shape that goes with `[n, d]`."""
    return value[:, None] if jnp.ndim(value) else value


def needed_key(key: jax.Array | None, purpose: str) -> jax.Array:
    """The key, refused where there is none."""
    if key is None:
        raise ValueError(f"key = None; must be a key (jax.random.key) for {purpose}")
    return key


def noisy(positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array]:
    """How the fields of a `StochasticState` begin, and a key for something else."""
    key, draw = jax.random.split(needed_key(key, "the noise"))
    return {"key": key, "heat": jnp.zeros((), positions.dtype)}, draw


def degrees_of_freedom(given: jax.Array | None, positions: jax.Array) -> jax.Array:
    """What was given, else `d (n - 1)`, `[]`: all but those of the centre of mass.

    Raises:
        ValueError: by default, for a single particle.
    """
    if given is not None:
        return given
    n, d = positions.shape
    if n == 1:
        raise ValueError("degrees_of_freedom = None for one particle; must be a number, such as d without a wall")
    return jnp.asarray(d * (n - 1), positions.dtype)
