"""The interface of environments: what each of them provides, and what all of them share.

The physics of an environment is in three methods (`initial_state`, `advance`, `observe`); time limit, flags, `info` and
automatic resets are implemented here, once. `dmdenv.check_env` checks an environment against it.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, dataclass_transform, get_args

import gymnasium
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import cond
from dmdenv._core.fields import Declared, number
from dmdenv._core.in_batch import any_in_batch
from dmdenv._core.keys import one_key, typed_key
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv._core.tracing import is_tracing
from dmdenv._core.varying import vary, vary_together, varying_axes
from dmdenv.envs.neighborhood import Neighborhood
from dmdenv.envs.registry import KEPT_FROM_PARAMETERS, check_names, entry_of
from dmdenv.envs.row_neighbors import RowNeighbors

Info = dict[str, Any]
Observation = jax.Array
Baseline = Callable[[jax.Array, jax.Array], jax.Array]

# names that a metric must not take: those of the agents' logs, and of `info`
LOGGED = {"reward", "loss", "value_loss", "gradient_norm", "policy_entropy", "kl", "clip_fraction", "skipped"}
RESERVED = LOGGED | {"final_observation", "overflow", "nonfinite"}

MANY = " (for a batch of instances use jax.vmap)"  # ends a message about several keys


def parameter(*, default: float | int, unit: str, doc: str, low: float = -np.inf, high: float = np.inf) -> Any:
    """A field of `Params`: its default (an integer admits whole numbers only), unit, meaning and closed range."""
    about = {"unit": unit, "doc": doc, "low": low, "high": high}
    whole = isinstance(default, int)
    return number(default, at_least=low, at_most=high, integral=whole, batched=True, metadata=about)


@dataclass_transform(frozen_default=True, field_specifiers=(parameter,))
@pytree
class Params(Declared):
    """Base of an environment's dynamic parameters: a frozen pytree whose every leaf is an array.

    Changing a parameter never recompiles; parameters can be differentiated and vmapped. All become floating arrays of
    the default precision, whole numbers too, so that `jax.grad` takes the whole tree. Concrete values are checked at
    construction, by the ranges that `parameter` declares; tracers pass unchecked.

    Raises:
        ValueError: for a value that is not finite or out of its range; the message names the field, the value and
            what is valid.
        TypeError: for a value that is not a real number or an array of real numbers.

    A subclass with a parameter that has a name which hosts keep for themselves (`state`) is refused by ValueError.
    """

    max_steps: jax.Array = parameter(default=256, unit="steps", doc="length of an episode", low=1)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        pytree(cls)
        check_names(cls.__name__, (field.name for field in dataclasses.fields(cls)), KEPT_FROM_PARAMETERS)


def _off() -> jax.Array:
    return jnp.asarray(False)


def derived(*sources: str, by: str) -> Any:
    """A field of `State` that follows from other fields of it, and is kept to save time.

    Args:
        sources: the names of these fields, which `State.replace` does not change alone.
        by: what gives the value, for the message.
    """
    return dataclasses.field(metadata={"sources": sources, "by": by})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, derived))
@pytree
class State(Replaceable):
    """Base of an environment's states: frozen pytrees of arrays. All shapes are for one instance.

    A subclass adds the fields of its physics, without defaults: `DriftState(positions=x)` is a state at the start of an
    episode. `step` maintains the fields below, whatever `advance` returns: time is counted, and flags are sticky.

    A field that follows from others (forces, a neighbour list, what was measured) is declared by `derived`.
    """

    # int32 [], steps since the reset
    time: jax.Array = dataclasses.field(default_factory=lambda: jnp.int32(0), kw_only=True)
    # bool [], sticky: a static capacity (of a neighbour list) was exceeded in this episode
    overflow: jax.Array = dataclasses.field(default_factory=_off, kw_only=True)
    # bool [], sticky: a NaN or an infinity appeared in this episode
    nonfinite: jax.Array = dataclasses.field(default_factory=_off, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        pytree(cls)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            ValueError: for a name that is not a field; for a field without those that are derived from it.
        """
        for field in dataclasses.fields(self):
            changed = [name for name in field.metadata.get("sources", ()) if name in changes]
            if changed and field.name not in changes:
                raise ValueError(
                    f"{type(self).__name__}.replace({changed[0]}=...) would keep {field.name}, which follows from"
                    f" {' and '.join(field.metadata['sources'])}; must come with {field.name} from"
                    f" {field.metadata['by']}"
                )
        return super().replace(**changes)


S = TypeVar("S", bound=State)
P = TypeVar("P", bound=Params)


class CapacityExceeded(RuntimeError):
    """A static capacity (a neighbour list's) was too small, so that interactions were missing, and cannot grow."""


class Transition(NamedTuple, Generic[S]):
    """The result of `advance`: the physics of one step, without time limit and flags."""

    state: S
    reward: jax.Array  # float []
    terminated: jax.Array | bool = False  # bool []
    metrics: Mapping[str, jax.Array] = MappingProxyType({})  # scalars, the same keys at every step


class Env(Declared, abc.ABC, Generic[S, P]):
    """A frozen, hashable description of an environment: its static configuration and its pure functions.

    A subclass is a frozen dataclass whose fields are declared by `whole`, `real` and `choice` (`dmdenv.envs`), which
    check them at construction. Everything that may change without recompilation is in `Params`. The functions of states
    are pure, so they can be jitted, vmapped, scanned and differentiated; `reset`, `step` and `step_env` are compiled at
    their first call. Keys are consumed.
    """

    finite_horizon: ClassVar[bool] = False  # whether the end at `max_steps` belongs to the task, and is no time limit

    # --- what an environment provides -----------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def default_params(self) -> P:
        """The parameters of the task as documented; a starting point for `.replace(...)`."""

    @abc.abstractmethod
    def initial_state(self, key: jax.Array, params: P) -> S:
        """A random state at the start of an episode."""

    @abc.abstractmethod
    def advance(self, key: jax.Array, state: S, action: jax.Array, params: P) -> Transition[S]:
        """The physics of one step; `action` is within [-1, 1] and of the declared shape."""

    @abc.abstractmethod
    def observe(self, state: S, params: P) -> Observation:
        """What the agent sees of a state: an array of the observation space's shape."""

    @abc.abstractmethod
    def observation_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        """The space of observations of one instance."""

    @abc.abstractmethod
    def action_space(self, params: P | None = None) -> gymnasium.spaces.Box:
        """The space of actions of one instance: a box from -1 to 1."""

    def render(self, state: S, params: P | None = None) -> np.ndarray:
        """A picture of one (unbatched) state, uint8 `[H, W, 3]`; by default its observation, as bars."""
        from dmdenv.envs.rendering import bars

        params = self.default_params if params is None else params
        space = self.observation_space(params)
        return bars(np.asarray(self.observe(state, params)), space.low, space.high, caption=f"step {int(state.time)}")

    def baselines(self, params: P | None = None) -> dict[str, Baseline]:
        """Policies worth beating, by name: `policy(key, observation) -> action`, pure."""
        return {}

    def row_neighbors(self, state: S, params: P) -> RowNeighbors | None:
        """Where the rows of an observation are, for policies whose rows talk to their neighbours.

        None, the default: it is not said, and to such a policy all rows are neighbours of each other.
        """
        return None

    def validate(self, params: P) -> None:
        """Check parameters (numpy leaves) against each other and against the configuration; raises ValueError."""

    def prepare(self) -> None:
        """Compute on the host what a reset needs: capacities of lists, pools of initial states. Quick the second time.

        `make_env`, the adapters and a `reset` that is not being traced do so; call it for an environment that was made
        otherwise, before `reset` is compiled. An environment with a pool (`dmdenv.envs.pool`) extends it.
        """
        if self.neighborhood is not None:
            self.neighborhood.prepare()

    # static capacities: loops on the host enlarge them where `overflow` is set, and repeat the steps

    @functools.cached_property
    def neighborhood(self) -> Neighborhood | None:
        """How neighbours are found, in an environment with fields `pairs` and `slack`; None in any other."""
        return None

    def enlarged(self) -> Self:
        """The same environment with about twice the static capacities.

        Raises:
            CapacityExceeded: when there is nothing to enlarge; the message says what to change instead.
        """
        if self.neighborhood is None:
            raise CapacityExceeded(f"{type(self).__name__} has no capacity that could grow")
        if not self.neighborhood.can_grow:
            raise CapacityExceeded(f"{self.id}: {self.neighborhood.remedy}")
        return self.replace(slack=2.0 * self.neighborhood.slack)

    def with_capacity(self, state: S) -> S:
        """A state of this environment with other capacities, as one of this one; its overflow flag is cleared."""
        return state if self.neighborhood is None else self.neighborhood.with_capacity(state)

    # --- what all environments share ------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id by which the class is registered; `module:Class` where it is not."""
        return entry_of(type(self)).id

    @property
    def task(self) -> str:
        """The task by which the class is registered."""
        return entry_of(type(self)).task

    @functools.cached_property
    def observation_shape(self) -> tuple[int, ...]:
        return tuple(self.observation_space().shape)

    @functools.cached_property
    def action_shape(self) -> tuple[int, ...]:
        return tuple(self.action_space().shape)

    @functools.cached_property
    def row_action(self) -> tuple[int, ...] | None:
        """The shape of the action that belongs to one row (the last axis) of an observation.

        It is the rest of the action's shape behind the observation's rows: `[m]` and `[a]` give `(a,)`, `[n, m]` and
        `[n]` give `()`, `[n, m]` and `[n, a]` give `(a,)`. None where the action has other rows.
        """
        rows = self.observation_shape[:-1]
        fits = self.observation_shape and self.action_shape[: len(rows)] == rows
        return self.action_shape[len(rows) :] if fits else None

    @functools.cached_property
    def agents(self) -> int | None:
        """Number of agents: n where observations are `[n, m]` and actions `[n]` or `[n, a]`, else None."""
        several = len(self.observation_shape) == 2 and self.row_action is not None
        return self.observation_shape[0] if several else None

    def reset(self, key: jax.Array, params: P | None = None) -> tuple[Observation, S]:
        """Start an episode.

        Returns:
            `(obs, state)`.

        Raises:
            TypeError: for what is no key, or no parameters of this environment.
            ValueError: for several keys, or several values of a parameter; for parameters that do not fit together.
        """
        key, params = one_key(key, advice=MANY), self._params(params)  # refused before anything is computed
        if not is_tracing():
            self.prepare()
        return _reset(self, key, params)

    def step_env(
        self, key: jax.Array, state: S, action: jax.Array, params: P | None = None
    ) -> tuple[Observation, S, jax.Array, jax.Array, jax.Array, Info]:
        """One transition, never resetting: the one to differentiate.

        Actions outside of [-1, 1] are clipped. A step after which anything is not finite terminates, with reward 0,
        an observation and metrics of zeros and `info["nonfinite"]` set.

        Returns:
            `(obs, state, reward, terminated, truncated, info)`; `truncated` at `params.max_steps` unless terminated,
            which a task with a finite horizon is there.

        Raises:
            TypeError: for what is no key, no state or no parameters of this environment, or a complex action.
            ValueError: when the action has the wrong shape; for several keys, or several values of a parameter.
        """
        action, params = self._action(action), self._params(params)
        return _step_env(self, one_key(key, advice=MANY), self._state(state), action, params)

    def step(
        self, key: jax.Array, state: S, action: jax.Array, params: P | None = None
    ) -> tuple[Observation, S, jax.Array, jax.Array, jax.Array, Info]:
        """One transition; where it ends an episode, the returned `obs` and `state` are those of a fresh one.

        `info["final_observation"]` is the observation before the reset. No gradient flows through a reset. Under
        `vmap` the reset runs only in a step in which some instance ends.

        Returns:
            `(obs, state, reward, terminated, truncated, info)`.
        """
        action, params = self._action(action), self._params(params)
        return _step(self, one_key(key, advice=MANY), self._state(state), action, params)

    def _action(self, action: jax.Array) -> jax.Array:
        """The action as an array, refused when it is not real or has the wrong shape."""
        action = jnp.asarray(action)
        if jnp.issubdtype(action.dtype, jnp.complexfloating):
            raise TypeError(f"action has type {action.dtype}; must be real numbers in [-1, 1]")
        if action.shape != self.action_shape:
            raise ValueError(
                f"action has shape {action.shape}; must be {self.action_shape}, values in [-1, 1] (for a batch of"
                " instances use jax.vmap)"
            )
        return action

    def _params(self, params: P | None) -> P:
        """The defaults for None; those of one instance, checked.

        Concrete parameters are validated; traced ones were so before, or set flags.
        """
        if params is None:
            return self.default_params
        if not isinstance(params, self._params_type):
            raise TypeError(
                f"params is a {type(params).__name__}; must be {self._params_type.__name__}, such as"
                " env.default_params.replace(...)"
            )
        for field in dataclasses.fields(params):
            if shape := jnp.shape(getattr(params, field.name)):
                raise ValueError(
                    f"{type(params).__name__}.{field.name} has shape {shape}; must be one number (for a batch of"
                    " instances use jax.vmap)"
                )
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)):
            self.validate(jax.tree.map(np.asarray, params))
        return params

    @functools.cached_property
    def _params_type(self) -> type[Params]:
        return type(self.default_params)

    @functools.cached_property
    def _state_type(self) -> type[State]:
        """The type of states that the class names in `Env[State, Params]`."""
        bases = [base for cls in type(self).__mro__ for base in getattr(cls, "__orig_bases__", ())]
        named = [a for base in bases for a in get_args(base) if isinstance(a, type) and issubclass(a, State)]
        return named[0] if named else State

    def _state(self, state: S) -> S:
        """The state, refused when it is another environment's."""
        if not isinstance(state, self._state_type):
            valid = f"must be {self._state_type.__name__}, from reset of {type(self).__name__}"
            raise TypeError(f"state is a {type(state).__name__}; {valid}")
        return state


# --- the pure functions: compiled where they are called one by one, inlined into other compiled code ------------------

_compiled = functools.partial(jax.jit, static_argnums=0, inline=True)


@_compiled
def _reset(env: Env, key: jax.Array, params: Params) -> tuple[Observation, State]:
    state = env.initial_state(typed_key(key), params)
    return vary((env.observe(state, params), state), varying_axes(key, params))


@_compiled
def _step_env(env: Env, key: jax.Array, state: State, action: jax.Array, params: Params):
    key, before, action, params = vary_together(key, state, action, params)
    action = jnp.clip(action.astype(jnp.result_type(float)), -1.0, 1.0)
    state, reward, terminated, metrics = env.advance(typed_key(key), before, action, params)
    metrics = dict(metrics)
    time = before.time + 1
    state = dataclasses.replace(state, time=time)
    obs = env.observe(state, params)
    nonfinite = before.nonfinite | state.nonfinite | ~_all_finite((state, reward, obs, metrics))
    overflow = before.overflow | (state.overflow & ~nonfinite)  # a larger capacity is no remedy for NaN
    state = dataclasses.replace(state, overflow=overflow, nonfinite=nonfinite)
    obs = jnp.where(nonfinite, jnp.zeros_like(obs), obs)
    reward = jnp.where(nonfinite, jnp.zeros_like(reward), reward)
    metrics = {name: jnp.where(nonfinite, jnp.zeros_like(x), x) for name, x in metrics.items()}
    over = time >= params.max_steps
    terminated = terminated | nonfinite | (over & env.finite_horizon)
    truncated = over & ~terminated
    taken = RESERVED & set(metrics)
    if taken:
        raise ValueError(f"metrics has {sorted(taken)[0]!r}; must not be one of {', '.join(sorted(RESERVED))}")
    info = {"final_observation": obs, "overflow": state.overflow, "nonfinite": nonfinite, **metrics}
    return vary((obs, state, reward, terminated, truncated, info), varying_axes(key))


@_compiled
def _step(env: Env, key: jax.Array, state: State, action: jax.Array, params: Params):
    key, state, action, params = vary_together(key, state, action, params)
    step_key, reset_key = jax.random.split(key)
    obs, state, reward, terminated, truncated, info = _step_env(env, step_key, state, action, params)
    done = terminated | truncated
    fixed = jax.lax.stop_gradient(params)

    def reset_where_done(now):
        fresh = jax.lax.stop_gradient(_reset(env, reset_key, fixed))
        return jax.tree.map(functools.partial(jnp.where, done), fresh, now)

    obs, state = cond(any_in_batch(done), reset_where_done, lambda now: now, (obs, state))
    return obs, state, reward, terminated, truncated, info


def _all_finite(tree: Any) -> jax.Array:
    """bool []: every floating leaf of the tree is finite."""

    def finite(x):
        # 0 x is 0 or NaN; on a CPU rows add up in a vector unit, and `all` goes through them one by one
        return jnp.all(jnp.isfinite(jnp.sum(0 * x, axis=0) if jnp.ndim(x) > 1 else x))

    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return functools.reduce(jnp.logical_and, map(finite, leaves), jnp.asarray(True))
