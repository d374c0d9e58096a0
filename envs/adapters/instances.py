"""A batch of instances on the host: NumPy in, NumPy out, with seeds, and capacities that grow.

Every adapter for the host is built on it. All instances run in one compiled program. Each has a random key of its own,
so that what it does depends on its seed and its actions, and neither on the other instances nor on their number. Where
a static capacity overflows, the step is repeated with a larger one.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import seeding

from dmdenv._core.fields import is_integer, shown
from dmdenv.envs.base import Env, Params

SEEDS = 2**32  # seeds of an instance are below it
RENDER_FPS = 30  # frames per second of films, which adapters tell their libraries
RENDER_MODES = (None, "rgb_array")

_log = logging.getLogger("dmdenv")


class Step(NamedTuple):
    """The result of a step, arrays with a leading axis of instances; the NumPy arrays are writeable copies."""

    observations: np.ndarray
    rewards: np.ndarray  # float64 [num]
    terminated: np.ndarray  # bool [num]
    truncated: np.ndarray  # bool [num]
    info: dict[str, np.ndarray]  # metrics and flags; without the final observation
    final_observations: jax.Array | None  # with autoreset: those before a reset, on the device, as they are rarely read


class Instances:
    """A number of instances of one environment.

    Args:
        env: the environment; replaced by one with larger capacities when that is needed.
        num: number of instances.
        params: the parameters, or some of them by name; the others are those of `env.default_params`.
        max_episode_steps: another name for the parameter `max_steps`.

    Raises:
        ValueError: for an unknown parameter or a bad value; the message names it and says what is valid.
    """

    def __init__(
        self,
        env: Env,
        num: int,
        params: Params | Mapping[str, Any] | None = None,
        *,
        max_episode_steps: int | None = None,
    ):
        if not is_integer(num) or num < 1:
            raise ValueError(f"num_envs = {shown(num)}; must be an integer >= 1")
        env.prepare()
        self.env, self.num = env, int(num)
        self.params = env.default_params
        self.set_params(params)
        self.set_params(None if max_episode_steps is None else {"max_steps": max_episode_steps})
        self._keys: jax.Array | None = None  # key data, [num, ...]
        self._states: Any = None

    def set_params(self, params: Params | Mapping[str, Any] | None) -> None:
        """Use other parameters from now on; nothing is compiled again."""
        if params is not None:
            new = self.params.replace(**params) if isinstance(params, Mapping) else params
            if type(new) is not type(self.params):
                raise ValueError(f"params is a {type(new).__name__}; must be a {type(self.params).__name__}, or a dict")
            self.env.validate(jax.tree.map(np.asarray, new))
            self.params = new

    def seed(self, seeds: Sequence[int], where: np.ndarray | None = None) -> None:
        """Give instances (all, or where the mask is true) the random keys of these seeds, one each."""
        fresh: jax.Array = _keys_of_seeds(np.asarray(seeds, np.uint32))
        if self._keys is not None and where is not None:
            fresh = jnp.where(jnp.asarray(where)[:, None], fresh, self._keys)
        self._keys = fresh

    @property
    def started(self) -> bool:
        """Whether there has been a reset."""
        return self._states is not None

    def reset(self, where: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in all instances, or where the mask is true; the observations of all."""
        if where is None or not self.started:
            return np.array(self._run(lambda programs, states: programs.begin(self._keys, self.params)))
        return np.array(self._run(lambda programs, states: programs.reset(self._keys, states, where, self.params)))

    def step(self, actions: np.ndarray, *, restart: np.ndarray | None = None, autoreset: bool = False) -> Step:
        """One step of every instance.

        Args:
            actions: `[num, *action]`.
            restart: mask `[num]`, where to begin an episode instead; the action is ignored there, the reward is 0.
            autoreset: whether to begin an episode in the same step where one ends.
        """
        self._check_started()
        actions = np.asarray(actions)
        expected = (self.num, *self.env.action_shape)
        if actions.shape != expected:
            raise ValueError(f"actions has shape {actions.shape}; must be {expected}, values in [-1, 1]")
        if autoreset:
            out = self._run(lambda programs, states: programs.autoreset(self._keys, states, actions, self.params))
        else:
            restart = np.zeros(self.num, bool) if restart is None else restart
            out = self._run(lambda programs, states: programs.step(self._keys, states, actions, restart, self.params))
        observations, rewards, terminated, truncated, info = out
        final = info.pop("final_observation", None)
        rest = jax.device_get((rewards, terminated, truncated, info))
        rewards, terminated, truncated, info = jax.tree.map(np.array, rest)
        return Step(np.array(observations), rewards.astype(np.float64), terminated, truncated, info, final)

    def render(self, index: int = 0) -> np.ndarray:
        """A picture of one instance."""
        return self.env.render(self.state(index), self.params)

    def state(self, index: int = 0) -> Any:
        """The state of one instance."""
        self._check_started()
        return jax.tree.map(lambda leaf: leaf[index], self._states)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: jax.tree.map(_to_host, getattr(self, name)) for name in _ON_DEVICE}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, **{name: jax.tree.map(_to_device, state[name]) for name in _ON_DEVICE}})
        self.env.prepare()  # perhaps in a new process

    def _check_started(self) -> None:
        if not self.started:
            raise gymnasium.error.ResetNeeded("step and render need a reset() before them")

    def _run(self, program: Callable) -> Any:
        """Run a program from the present states, with larger capacities where one overflows; keeps keys and states.

        The result is still on the device.
        """
        while True:
            keys, after, overflow, out = program(_programs(self.env), self._states)
            if not np.asarray(overflow).any():
                self._keys, self._states = keys, after
                return out
            self.env = self.env.enlarged()
            self.env.prepare()
            if self.started:
                self._states = jax.jit(jax.vmap(self.env.with_capacity))(self._states)
            _log.info("a capacity of %s overflowed; the step is repeated with a larger one", self.env.id)


_ON_DEVICE = ("_keys", "_states")  # attributes of `Instances`


@dataclasses.dataclass
class _KeyData:
    """A random key as it can be pickled."""

    data: np.ndarray


def _to_host(leaf: jax.Array) -> np.ndarray | _KeyData:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return _KeyData(np.asarray(jax.random.key_data(leaf))) if is_key else np.asarray(leaf)


def _to_device(leaf: np.ndarray | _KeyData) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(leaf.data)) if isinstance(leaf, _KeyData) else jnp.asarray(leaf)


class _Programs(NamedTuple):
    """Compiled functions of a batch; keys are data, so that they pickle."""

    begin: Callable  # (keys, params) -> keys, states, overflow, observations
    reset: Callable  # (keys, states, where, params) -> keys, states, overflow, observations
    step: Callable  # (keys, states, actions, restart, params) -> keys, states, overflow, the rest of a step
    autoreset: Callable  # (keys, states, actions, params) -> the same


@functools.cache
def _programs(env: Env) -> _Programs:
    observe, reset_all = jax.vmap(env.observe, (0, None)), jax.vmap(env.reset, (0, None))

    def split(keys):
        pairs = jax.vmap(jax.random.split)(jax.random.wrap_key_data(keys))
        return jax.random.key_data(pairs[:, 0]), pairs[:, 1]

    def select(where, yes, no):
        return jax.tree.map(lambda a, b: jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)

    @jax.jit
    def begin(keys, params):
        keys, own = split(keys)
        observations, states = reset_all(own, params)
        return keys, states, states.overflow, observations

    @jax.jit
    def reset(keys, states, where, params):
        following, fresh, overflow, observations = begin(keys, params)
        following, states = select(where, (following, fresh), (keys, states))
        return following, states, overflow & where, select(where, observations, observe(states, params))

    @jax.jit
    def step(keys, states, actions, restart, params):
        keys, own = split(keys)
        out = jax.vmap(env.step_env, (0, 0, 0, None))(own, states, actions, params)
        observations, after, rewards, terminated, truncated, info = out
        # without a reset it is the observation itself, and every output costs its memory
        info = {name: value for name, value in info.items() if name != "final_observation"}

        def begin_again(now):
            return select(restart, reset_all(own, params), now)

        following = observations, after
        observations, after = jax.lax.cond(jnp.any(restart), begin_again, lambda now: now, following)
        overflow = info["overflow"] | after.overflow  # of the episode that ended, and of the one that began
        rewards = jnp.where(restart, 0.0, rewards)
        return keys, after, overflow, (observations, rewards, terminated & ~restart, truncated & ~restart, info)

    @jax.jit
    def autoreset(keys, states, actions, params):
        keys, own = split(keys)
        observations, after, *rest = jax.vmap(env.step, (0, 0, 0, None))(own, states, actions, params)
        return keys, after, rest[-1]["overflow"] | after.overflow, (observations, *rest)

    return _Programs(begin, reset, step, autoreset)


@jax.jit
def _keys_of_seeds(seeds: jax.Array) -> jax.Array:
    return jax.vmap(lambda seed: jax.random.key_data(jax.random.key(seed)))(seeds)


# --- what adapters have in common -------------------------------------------------------------------------------------


def instance_seed(seed: int) -> int:
    """The seed of an instance from the number that a user gives, the same through every library."""
    return int(seeding.np_random(seed)[0].integers(SEEDS))


def random_seeds(rng: np.random.Generator, num: int) -> list[int]:
    """Seeds for instances that the user has not seeded."""
    return rng.integers(SEEDS, size=num).tolist()


def check_render_mode(mode: str | None) -> str | None:
    """The mode; raises ValueError for an unknown one."""
    if mode not in RENDER_MODES:
        raise ValueError(f"render_mode = {mode!r}; must be one of {', '.join(map(repr, RENDER_MODES))}")
    return mode
