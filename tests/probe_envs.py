"""Tiny environments with known answers, for tests of agents and of the command line."""

import dataclasses
from typing import ClassVar, Generic, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Env, Params, State, Transition, initial_flags, parameter
from dmdenv.pytree import pytree


class ProbeParams(Params):
    """Parameters that all probes have."""

    max_steps: jax.Array = parameter(16, unit="steps", doc="length of an episode", low=1)
    target: jax.Array = parameter(0.5, unit="1", doc="the action that is best", low=-1.0, high=1.0)


class MassParams(Params):
    """Parameters of the point mass."""

    max_steps: jax.Array = parameter(32, unit="steps", doc="length of an episode", low=1)
    force: jax.Array = parameter(1.0, unit="force", doc="force of a full action", low=0.0)
    friction: jax.Array = parameter(0.5, unit="1/time", doc="friction per mass", low=0.0)
    spread: jax.Array = parameter(1.0, unit="length", doc="initial positions are within this distance", low=0.0)


@pytree
class CueState(State):
    """A cue that the agent may or may not see."""

    cue: jax.Array  # float, the shape of an action, within [-1, 1]


@pytree
class MassState(State):
    """A point mass on a line."""

    position: jax.Array  # float [], length
    velocity: jax.Array  # float [], length/time


S = TypeVar("S", bound=State)
P = TypeVar("P", bound=Params)


@dataclasses.dataclass(frozen=True)
class Probe(Env[S, P], Generic[S, P]):
    """What the probes share: spaces by shape, and a picture."""

    observation_shape: ClassVar[tuple[int, ...]]

    def observation_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-np.inf, np.inf, self.observation_shape)

    def action_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, self.acting_shape)

    @property
    def acting_shape(self) -> tuple[int, ...]:
        return (1,)

    def render(self, state: S, params: P | None = None) -> np.ndarray:
        return np.full((16, 20, 3), int(state.time) % 256, np.uint8)


@dataclasses.dataclass(frozen=True)
class BestAction(Probe[CueState, ProbeParams]):
    """Reward -(action - target)^2, whatever the state: the best return is 0 at action = target."""

    id: ClassVar[str] = "best_action"
    state_type: ClassVar[type[State]] = CueState
    observation_shape: ClassVar[tuple[int, ...]] = (1,)
    scale: float = 1.0  # of the reward
    label: str = "probe"

    def __post_init__(self):
        if self.scale <= 0.0:
            raise ValueError(f"scale = {self.scale!r} is out of range; valid: numbers above 0")

    @property
    def default_params(self) -> ProbeParams:
        return ProbeParams()

    def initial_state(self, key: jax.Array, params: ProbeParams) -> CueState:
        return CueState(cue=jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0), **initial_flags())

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        miss = action[0] - params.target
        return Transition(state, -self.scale * miss**2, jnp.asarray(False), {"miss": jnp.abs(miss)})

    def observe(self, state: CueState, params: ProbeParams) -> jax.Array:
        return jnp.zeros(1)


@dataclasses.dataclass(frozen=True)
class ReadTheCue(Probe[CueState, ProbeParams]):
    """Reward -mean((action - target cue)^2) with one cue a row, fresh at every step: each row must read its own.

    Observations `[rows, 2]` (cue, one), actions `[rows]`.
    """

    id: ClassVar[str] = "read_the_cue"
    state_type: ClassVar[type[State]] = CueState
    rows: int = 3

    @property
    def observation_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.rows, 2)

    @property
    def acting_shape(self) -> tuple[int, ...]:
        return (self.rows,)

    @property
    def default_params(self) -> ProbeParams:
        return ProbeParams()

    def initial_state(self, key: jax.Array, params: ProbeParams) -> CueState:
        return CueState(cue=self.new_cue(key), **initial_flags())

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        reward = -jnp.mean((action - params.target * state.cue) ** 2)
        return Transition(state.replace(cue=self.new_cue(key)), reward, jnp.asarray(False), {})

    def observe(self, state: CueState, params: ProbeParams) -> jax.Array:
        return jnp.stack([state.cue, jnp.ones_like(state.cue)], axis=-1)

    def new_cue(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (self.rows,), minval=-1.0, maxval=1.0)


@dataclasses.dataclass(frozen=True)
class PointMass(Probe[MassState, MassParams]):
    """A mass on a line, to be steered to the origin: x' = v, v' = force * action - friction * v, reward -x^2.

    The reward does not depend on the action of the same step (explicit Euler), so that the policy improves only by the
    gradient through the dynamics.
    """

    id: ClassVar[str] = "point_mass"
    state_type: ClassVar[type[State]] = MassState
    observation_shape: ClassVar[tuple[int, ...]] = (2,)
    time_step: float = 0.2
    escape: float = np.inf  # |x| beyond which an episode terminates

    @property
    def default_params(self) -> MassParams:
        return MassParams()

    def initial_state(self, key: jax.Array, params: MassParams) -> MassState:
        position = params.spread * jax.random.uniform(key, minval=-1.0, maxval=1.0)
        return MassState(position=position, velocity=jnp.zeros_like(position), **initial_flags())

    def advance(self, key: jax.Array, state: MassState, action: jax.Array, params: MassParams) -> Transition[MassState]:
        x = state.position + self.time_step * state.velocity
        v = state.velocity + self.time_step * (params.force * action[0] - params.friction * state.velocity)
        metrics = {"distance": jnp.abs(x)}
        return Transition(state.replace(position=x, velocity=v), -(x**2), jnp.abs(x) > self.escape, metrics)

    def observe(self, state: MassState, params: MassParams) -> jax.Array:
        return jnp.stack([state.position, state.velocity])


@dataclasses.dataclass(frozen=True)
class Brittle(BestAction):
    """The best-action probe, whose gradient (not its reward) is NaN in the episodes that begin with a positive cue."""

    id: ClassVar[str] = "brittle"

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        state, reward, terminated, metrics = super().advance(key, state, action, params)
        zero = 0.0 * action[0]
        poison = jnp.where(state.cue[0] > params.target, jnp.sqrt(zero), 0.0)  # 0, with derivative 0 * inf
        return Transition(state, reward + poison, terminated, metrics)


PROBES = {cls.id: f"probe_envs:{cls.__name__}" for cls in (BestAction, ReadTheCue, PointMass, Brittle)}
