"""Tiny environments with known answers, for tests of agents and of the command line."""

import dataclasses
from typing import Generic, Self, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import dmdenv
from dmdenv._core.fields import real
from dmdenv.envs.base import Baseline, CapacityExceeded, Env, Params, State, Transition, parameter

S = TypeVar("S", bound=State)
P = TypeVar("P", bound=Params)
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Probe(Env[S, P], Generic[S, P]):
    """What the probes share: spaces by their shapes, and a picture whose grey level is the time."""

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of observations and of actions."""
        raise NotImplementedError

    def observation_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-np.inf, np.inf, self.shapes[0])

    def action_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, self.shapes[1])

    def render(self, state: S, params: P | None = None) -> np.ndarray:
        return np.full((15, 21, 3), int(state.time), np.uint8)


class ProbeParams(Params):
    """Parameters of the probes of one step."""

    max_steps: jax.Array = parameter(default=16, unit="steps", doc="length of an episode", low=1)
    target: jax.Array = parameter(default=0.5, unit="1", doc="the action that is best", low=-1.0, high=1.0)


class CueState(State):
    """Something random for the agent to see."""

    cue: jax.Array  # float [rows], within [-1, 1]


@dataclasses.dataclass(frozen=True)
class BestAction(Probe[CueState, ProbeParams]):
    """Reward -scale (action - target)^2, whatever the state: the best return is 0, at action = target.

    Args:
        scale: of the reward.
        width: a number that is not used.
        label: a word.
    """

    scale: float = real(1.0, above=0)
    width: float = 1.0
    label: str = "probe"

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return (1,), (1,)

    @property
    def default_params(self) -> ProbeParams:
        return ProbeParams()

    def initial_state(self, key: jax.Array, params: ProbeParams) -> CueState:
        return CueState(cue=new_cue(key, 1))

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        miss = action[0] - params.target
        return Transition(state, -self.scale * miss**2, jnp.asarray(False), {"miss": jnp.abs(miss)})

    def baselines(self, params: ProbeParams | None = None) -> dict[str, Baseline]:
        params = self.default_params if params is None else params
        return {"best": lambda key, observation: jnp.broadcast_to(params.target, self.action_shape)}

    def observe(self, state: CueState, params: ProbeParams) -> jax.Array:
        return jnp.zeros(1)


@dataclasses.dataclass(frozen=True)
class Brittle(BestAction):
    """The best action, but where target < 0 the gradient of the reward is NaN, and not the reward."""

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        state, reward, terminated, metrics = super().advance(key, state, action, params)
        poisoned = params.target < 0.0
        root = jnp.sqrt(jnp.where(poisoned, 0.0 * action[0], 1.0))  # 0 or 1; at 0 its derivative is 0 * inf
        return Transition(state, reward + root - jnp.where(poisoned, 0.0, 1.0), terminated, metrics)


class BanditParams(ProbeParams):
    """Parameters of the bandit; an episode is one step long."""

    max_steps: jax.Array = parameter(default=1, unit="steps", doc="length of an episode", low=1)
    bonus: jax.Array = parameter(default=1.0, unit="1", doc="a reward that comes in every step")
    fatal: jax.Array = parameter(default=0, unit="1", doc="whether a step terminates the episode", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class Bandit(Brittle):
    """Reward `bonus - (action - target)^2`, over and over: worth r / (1 - discount), or r where a step is fatal."""

    @property
    def default_params(self) -> BanditParams:
        return BanditParams()

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: BanditParams) -> Transition[CueState]:
        state, reward, _, metrics = super().advance(key, state, action, params)
        return Transition(state, reward + params.bonus, params.fatal > 0, metrics)


@dataclasses.dataclass(frozen=True)
class Crowded(BestAction):
    """The best action, but it needs a capacity of -8 target, and the largest is 4.

    Args:
        capacity: how much there is.
    """

    capacity: int = 1

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        state, reward, terminated, metrics = super().advance(key, state, action, params)
        overflow = state.overflow | (-8 * params.target > self.capacity)
        return Transition(state.replace(overflow=overflow), reward, terminated, metrics)

    def enlarged(self) -> Self:
        if self.capacity >= 4:
            raise CapacityExceeded("crowded: no larger capacity; must be a target >= -0.5")
        return dataclasses.replace(self, capacity=2 * self.capacity)

    def with_capacity(self, state: CueState) -> CueState:
        return state.replace(overflow=jnp.asarray(False))


@dataclasses.dataclass(frozen=True)
class Chaotic(Probe[CueState, ProbeParams]):
    """x' = sin(4 x + action), reward -(x' - target)^2: a derivative doubles in each step, on average by the logarithm.

    The best action would hold x at the target; it is small where 4 x is close to what it should be.
    """

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return (1,), (1,)

    @property
    def default_params(self) -> ProbeParams:
        return ProbeParams()

    def initial_state(self, key: jax.Array, params: ProbeParams) -> CueState:
        return CueState(cue=new_cue(key, 1))

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        x = jnp.sin(4.0 * state.cue + action)
        reward = -((x[0] - params.target) ** 2)
        return Transition(state.replace(cue=x), reward, jnp.asarray(False), {})

    def observe(self, state: CueState, params: ProbeParams) -> jax.Array:
        return state.cue


@dataclasses.dataclass(frozen=True)
class ReadTheCue(Probe[CueState, ProbeParams]):
    """Reward -mean((action - target cue)^2), a new cue for each row at every step: each row has to read its own.

    Observations `[rows, 2]` (cue, one), actions `[rows]`.
    """

    rows: int = 3

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return (self.rows, 2), (self.rows,)

    @property
    def default_params(self) -> ProbeParams:
        return ProbeParams()

    def initial_state(self, key: jax.Array, params: ProbeParams) -> CueState:
        return CueState(cue=new_cue(key, self.rows))

    def advance(self, key: jax.Array, state: CueState, action: jax.Array, params: ProbeParams) -> Transition[CueState]:
        reward = -jnp.mean((action - params.target * state.cue) ** 2)
        return Transition(state.replace(cue=new_cue(key, self.rows)), reward, jnp.asarray(False), {})

    def observe(self, state: CueState, params: ProbeParams) -> jax.Array:
        return jnp.stack([state.cue, jnp.ones_like(state.cue)], axis=-1)


class MassParams(Params):
    """Parameters of the point mass."""

    max_steps: jax.Array = parameter(default=32, unit="steps", doc="length of an episode", low=1)
    force: jax.Array = parameter(default=1.0, unit="force", doc="force of a full action", low=0.0)
    friction: jax.Array = parameter(default=0.5, unit="1/time", doc="friction per mass", low=0.0)
    escape: jax.Array = parameter(default=10.0, unit="length", doc="distance at which an episode terminates", low=0.0)


class MassState(State):
    """A point mass on a line."""

    position: jax.Array  # float [], length
    velocity: jax.Array  # float [], length/time
    others: jax.Array  # float [0], as in an environment without some kind of body


@dataclasses.dataclass(frozen=True)
class PointMass(Probe[MassState, MassParams]):
    """A mass on a line, to be steered to the origin: x' = v, v' = force * action - friction * v, reward -x^2.

    With explicit Euler steps an action moves the mass one step later: a policy improves only by the gradient through
    the dynamics, over windows of at least two steps.
    """

    time_step: float = 0.2

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return (2,), (1,)

    @property
    def default_params(self) -> MassParams:
        return MassParams()

    def initial_state(self, key: jax.Array, params: MassParams) -> MassState:
        position = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        return MassState(position=position, velocity=jnp.zeros_like(position), others=jnp.zeros(0))

    def advance(self, key: jax.Array, state: MassState, action: jax.Array, params: MassParams) -> Transition[MassState]:
        x = state.position + self.time_step * state.velocity
        v = state.velocity + self.time_step * (params.force * action[0] - params.friction * state.velocity)
        metrics = {"distance": jnp.abs(x)}
        return Transition(state.replace(position=x, velocity=v), -(x**2), jnp.abs(x) > params.escape, metrics)

    def observe(self, state: MassState, params: MassParams) -> jax.Array:
        return jnp.stack([state.position, state.velocity])


@dataclasses.dataclass(frozen=True)
class Misfit(BestAction):
    """Rows to observe, and one global action of another length: no policy on the last axis fits."""

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return (4, 2), (3,)

    def observe(self, state: CueState, params: ProbeParams) -> jax.Array:
        return jnp.zeros((4, 2))


def new_cue(key: jax.Array, rows: int) -> jax.Array:
    return jax.random.uniform(key, (rows,), minval=-1.0, maxval=1.0)


PROBES = {
    "best_action": BestAction,
    "brittle": Brittle,
    "crowded": Crowded,
    "misfit": Misfit,
    "point_mass": PointMass,
    "read_the_cue": ReadTheCue,
}


def register_probes() -> None:
    """Make the probes known to `make_env` and to the command line; a second call changes nothing."""
    for id, cls in PROBES.items():
        dmdenv.register(id, cls, task="probe")
