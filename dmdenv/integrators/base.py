"""The interface of an integrator: `init` and `step`."""

import abc
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Declared
from dmdenv.integrators.state import IntegratorState, check_positions
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space

S = TypeVar("S", bound=IntegratorState)


class Integrator(Declared, abc.ABC, Generic[S]):
    """Equations of motion and a method to integrate them: a pytree whose leaves are its dynamic parameters.

    Everything is pure and differentiable in all floating-point leaves; changing one (a time step, a temperature that
    follows a schedule) recompiles nothing. Temperatures are in units of energy: Boltzmann's constant is 1.
    """

    state_type: ClassVar[type[IntegratorState]] = IntegratorState

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
        """The initial state.

        Args:
            potential: gives the forces.
            space: where the particles are.
            positions: `[n, d]`, unit length.
            velocities: `[n, d]`, unit length / time. By default those of the thermostat's temperature, drawn with
                `key`; without a thermostat, at rest.
            masses: `[]` or `[n]`, unit mass.
            pairs: `AllPairs()`, or a neighbour list with at least the cutoff of the potential.
            key: for the random numbers of the method; consumed. Not used by a deterministic one.

        Raises:
            ValueError: see `IntegratorState.start`; without a key where one is needed.
        """
        positions = check_positions(positions)
        own, draw = self._begin(positions, key)
        state: Any = self.state_type.start(
            potential, space, positions, velocities=velocities, masses=masses, pairs=pairs, **own
        )
        return state if velocities is not None else state.replace(velocities=self._thermal_velocities(state, draw))

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        """Initial values of the fields that only this method's state has, and a key for velocities."""
        return {}, key

    def _thermal_velocities(self, state: S, key: jax.Array | None) -> jax.Array:
        """Velocities in equilibrium, `[n, d]`; at rest without a thermostat."""
        return state.velocities

    @abc.abstractmethod
    def step(self, potential: Potential, state: S) -> S:
        """The state one time step later, with one evaluation of the forces."""

    @abc.abstractmethod
    def conserved(self, potential: Potential, state: S) -> jax.Array:
        """The quantity that exact dynamics conserve, `[]`, unit energy: its drift is the error of the time step."""


def per_particle(value: jax.Array) -> jax.Array:
    """A parameter `[]` or `[n]` in a shape that broadcasts with `[n, d]`."""
    return value[:, None] if jnp.ndim(value) else value


def require_key(key: jax.Array | None, purpose: str) -> jax.Array:
    """The key, refused where there is none."""
    if key is None:
        raise ValueError(f"key = None; must be a key (jax.random.key) for {purpose}")
    return key


def begin_noise(positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array]:
    """Initial values of the fields of a `StochasticState`, and a key for other random numbers."""
    key, draw = jax.random.split(require_key(key, "the noise"))
    return {"key": key, "bath_energy": jnp.zeros((), positions.dtype)}, draw


def degrees_of_freedom(given: jax.Array | None, positions: jax.Array) -> jax.Array:
    """The given number, or by default `d (n - 1)`, `[]`: all but those of the centre of mass.

    Raises:
        ValueError: by default, for a single particle.
    """
    if given is not None:
        return given
    n, d = positions.shape
    if n == 1:
        raise ValueError("degrees_of_freedom = None for one particle; must be a number, such as d without a wall")
    return jnp.asarray(d * (n - 1), positions.dtype)
