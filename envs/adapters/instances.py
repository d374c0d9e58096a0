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

from dmdenv._core.control_flow import cond
from dmdenv._core.fields import MOST_PARTICLES, Whole, shown
from dmdenv.envs.adapters.parameters import Draw, Some, axes, check, drawn, drawn_names, of_instance, replaced
from dmdenv.envs.base import Env, Params

SEEDS = 2**32  # seeds of an instance are below it
RENDER_FPS = 30  # frames per second of films, which adapters tell their libraries
RENDER_MODES = (None, "rgb_array")
_STEPS = Whole(at_least=1, at_most=2**31 - 1)  # of an episode, which are counted in 32 bits
_DRAW = 2**32 - 1  # folded into the key of an episode for its parameters; not the number of a key that `split` makes

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
        num: number of instances; None for a single one, whose parameters are numbers.
        params: the parameters, or some of them by name; the others are those of `env.default_params`. Each is a number
            for all instances, or an array `[num]` with one for each. Or a function of a random key that returns those
            of one instance, called at the start of each episode.
        max_episode_steps: another name for the parameter `max_steps`.

    Raises:
        ValueError: for an unknown parameter or a bad value; the message names it and says what is valid.
    """

    def __init__(
        self,
        env: Env,
        num: int | None = None,
        params: Some | Draw | None = None,
        *,
        max_episode_steps: int | None = None,
    ):
        self.num = 1 if num is None else check_num_envs(num)
        self.single = num is None
        env.prepare()
        self.env = env
        self.params = env.default_params  # leaves [] or [num]
        self.draw: Draw | None = None
        self._drawn: frozenset[str] = frozenset()  # names of the parameters that it draws
        self._keys: jax.Array | None = None  # key data, [num, ...]
        self._episodes: Episode | None = None
        self.set_params(params)
        if max_episode_steps is not None:
            limit, given = _STEPS.convert("max_episode_steps", max_episode_steps), self.params.max_steps
            if np.any((given != limit) & (given != env.default_params.max_steps)):
                raise ValueError(
                    f"max_episode_steps = {limit} beside params with max_steps = {shown(given)}; must be equal"
                )
            self.set_params({"max_steps": limit})

    def set_params(self, params: Some | Draw | None) -> None:
        """Use other parameters from now on, those of a function from the next episode of each instance on.

        Nothing is compiled again, but for a new function, and where a number becomes an array.
        """
        if callable(params):
            self._set_draw(params, drawn_names(params, self.params))
        elif params is not None:
            taken = sorted(self._drawn & set(params)) if isinstance(params, Mapping) else []
            if taken:
                raise ValueError(f"params[{taken[0]!r}] is drawn for each episode; must be changed by a function")
            new = replaced(self.params, params)
            check(self.env, new, None if self.single else self.num)
            self.params = new
            if not isinstance(params, Mapping):
                self._set_draw(None, frozenset())

    def _set_draw(self, draw: Draw | None, names: frozenset[str]) -> None:
        if self._episodes is not None:  # those that have begun keep their parameters
            now = [vars(self.params_of(i)) for i in range(self.num)] if names else []
            values = {name: jnp.stack([each[name] for each in now]) for name in names}
            self._episodes = self._episodes._replace(drawn=values)
        self.draw, self._drawn = draw, names

    def seed(self, seeds: Sequence[int], where: np.ndarray | None = None) -> None:
        """Give instances (all, or where the mask is true) the random keys of these seeds, one each."""
        fresh: jax.Array = _keys_of_seeds(np.asarray(seeds, np.uint32))
        if self._keys is not None and where is not None:
            fresh = jnp.where(jnp.asarray(where)[:, None], fresh, self._keys)
        self._keys = fresh

    def spaces(self) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Box]:
        """The spaces of observations and of actions.

        Raises:
            ValueError: where they depend on parameters that differ between instances.
        """
        varied = any(np.ndim(leaf) for leaf in jax.tree.leaves(self.params))
        each = [self.params_of(i) for i in range(self.num if varied else 1)]
        spaces, *others = [(self.env.observation_space(params), self.env.action_space(params)) for params in each]
        if any(other != spaces for other in others):
            raise ValueError("params give the instances spaces that differ; must be the same spaces for all")
        return spaces

    @property
    def started(self) -> bool:
        """Whether there has been a reset."""
        return self._episodes is not None

    def reset(self, where: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in all instances, or where the mask is true; the observations of all."""
        if where is None or not self.started:
            where = np.ones(self.num, bool)
            observations = self._run(lambda programs: programs.begin(self._keys, self.params))
        else:
            observations = self._run(lambda programs: programs.reset(self._keys, self._episodes, where, self.params))
        self._check_drawn(where)
        return np.array(observations)

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
        restart = np.zeros(self.num, bool) if restart is None else restart
        if autoreset:
            out = self._run(lambda programs: programs.autoreset(self._keys, self._episodes, actions, self.params))
        else:
            out = self._run(lambda programs: programs.step(self._keys, self._episodes, actions, restart, self.params))
        observations, rewards, terminated, truncated, info = out
        final = info.pop("final_observation", None)
        rest = jax.device_get((rewards, terminated, truncated, info))
        rewards, terminated, truncated, info = jax.tree.map(np.array, rest)
        self._check_drawn(terminated | truncated if autoreset else restart)
        return Step(np.array(observations), rewards.astype(np.float64), terminated, truncated, info, final)

    def render(self, index: int = 0) -> np.ndarray:
        """A picture of one instance."""
        return self.env.render(self.state(index), self.params_of(index))

    def state(self, index: int = 0) -> Any:
        """The state of one instance."""
        return jax.tree.map(lambda leaf: leaf[index], self._check_started().state)

    def params_of(self, index: int = 0) -> Params:
        """The parameters of one instance, in its present episode."""
        values = {} if self._episodes is None else self._episodes.drawn
        return of_instance(self.params.replace(**values), index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: jax.tree.map(_to_host, getattr(self, name)) for name in _ON_DEVICE}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, **{name: jax.tree.map(_to_device, state[name]) for name in _ON_DEVICE}})
        self.env.prepare()  # perhaps in a new process

    def _check_started(self) -> "Episode":
        if self._episodes is None:
            raise gymnasium.error.ResetNeeded("step and render need a reset() before them")
        return self._episodes

    def _check_drawn(self, begun: np.ndarray) -> None:
        """Refuse parameters that have been drawn for the episodes that have begun, as at construction."""
        if self._drawn and begun.any():
            params = self.params.replace(**self._check_started().drawn)
            check(self.env, params, self.num, np.flatnonzero(begun))

    def _run(self, program: Callable) -> Any:
        """Run a program from the present episodes, with larger capacities where one overflows; keeps what comes after.

        The result is still on the device.
        """
        while True:
            keys, after, overflow, out = program(_programs(self.env, self.draw))
            if not np.asarray(overflow).any():
                self._keys, self._episodes = keys, after
                return out
            self.env = self.env.enlarged()
            self.env.prepare()
            if self._episodes is not None:
                state = jax.jit(jax.vmap(self.env.with_capacity))(self._episodes.state)
                self._episodes = self._episodes._replace(state=state)
            _log.info("a capacity of %s overflowed; the step is repeated with a larger one", self.env.id)


_ON_DEVICE = ("_keys", "_episodes")  # attributes of `Instances`


@dataclasses.dataclass
class _KeyData:
    """A random key as it can be pickled."""

    data: np.ndarray


def _to_host(leaf: jax.Array) -> np.ndarray | _KeyData:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return _KeyData(np.asarray(jax.random.key_data(leaf))) if is_key else np.asarray(leaf)


def _to_device(leaf: np.ndarray | _KeyData) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(leaf.data)) if isinstance(leaf, _KeyData) else jnp.asarray(leaf)


class Episode(NamedTuple):
    """The present episode of an instance; of a batch, with a leading axis of instances."""

    state: Any  # the environment's own
    drawn: dict[str, jax.Array]  # parameters that have been drawn for it, by name; they replace those of the instance


class _Programs(NamedTuple):
    """Compiled functions of a batch; keys are data, so that they pickle."""

    begin: Callable  # (keys, params) -> keys, episodes, overflow, observations
    reset: Callable  # (keys, episodes, where, params) -> keys, episodes, overflow, observations
    step: Callable  # (keys, episodes, actions, restart, params) -> keys, episodes, overflow, the rest of a step
    autoreset: Callable  # (keys, episodes, actions, params) -> the same


@functools.cache
def _programs(env: Env, draw: Draw | None) -> _Programs:
    # of one instance
    def begin_one(key, params):
        values = {} if draw is None else drawn(draw, jax.random.fold_in(key, _DRAW), params)
        observation, state = env.reset(key, params.replace(**values))
        return observation, Episode(state, values)

    def observe_one(episode, params):
        return env.observe(episode.state, params.replace(**episode.drawn))

    def step_one(key, episode, action, params):
        observation, state, *rest = env.step_env(key, episode.state, action, params.replace(**episode.drawn))
        return observation, Episode(state, episode.drawn), *rest

    # of all
    def each(function, *arguments, params):
        return jax.vmap(function, (*[0] * len(arguments), axes(params)))(*arguments, params)

    def split(keys):
        pairs = jax.vmap(jax.random.split)(keys)
        return pairs[:, 0], pairs[:, 1]

    def split_data(keys):
        following, own = split(jax.random.wrap_key_data(keys))
        return jax.random.key_data(following), own

    def select(where, yes, no):
        return jax.tree.map(lambda a, b: jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)

    def begin_where(where, own, now, params):
        """Observations and episodes: fresh ones where the mask is true, elsewhere the present ones."""

        def begin_again(now):
            return select(where, each(begin_one, own, params=params), now)

        return cond(jnp.any(where), begin_again, lambda now: now, now)

    @jax.jit
    def begin(keys, params):
        keys, own = split_data(keys)
        observations, episodes = each(begin_one, own, params=params)
        return keys, episodes, episodes.state.overflow, observations

    @jax.jit
    def reset(keys, episodes, where, params):
        following, fresh, overflow, observations = begin(keys, params)
        following, after = select(where, (following, fresh), (keys, episodes))
        present = each(observe_one, episodes, params=params)
        return following, after, overflow & where, select(where, observations, present)

    @jax.jit
    def step(keys, episodes, actions, restart, params):
        keys, own = split_data(keys)
        observations, after, rewards, terminated, truncated, info = each(
            step_one, own, episodes, actions, params=params
        )
        # without a reset it is the observation itself, and every output costs its memory
        info = {name: value for name, value in info.items() if name != "final_observation"}
        observations, after = begin_where(restart, own, (observations, after), params)
        overflow = info["overflow"] | after.state.overflow  # of the episode that ended, and of the one that began
        rewards = jnp.where(restart, 0.0, rewards)
        return keys, after, overflow, (observations, rewards, terminated & ~restart, truncated & ~restart, info)

    @jax.jit
    def autoreset(keys, episodes, actions, params):
        keys, own = split_data(keys)
        own, fresh = split(own)  # as `Env.step` does
        observations, after, rewards, terminated, truncated, info = each(
            step_one, own, episodes, actions, params=params
        )
        observations, after = begin_where(terminated | truncated, fresh, (observations, after), params)
        overflow = info["overflow"] | after.state.overflow
        return keys, after, overflow, (observations, rewards, terminated, truncated, info)

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


def check_num_envs(num: int) -> int:
    """The number of instances; raises ValueError for what is none."""
    return Whole(at_least=1, at_most=MOST_PARTICLES).convert("num_envs", num)


def check_render_mode(mode: str | None) -> str | None:
    """The mode; raises ValueError for an unknown one."""
    if mode not in RENDER_MODES:
        raise ValueError(f"render_mode = {mode!r}; must be one of {', '.join(map(repr, RENDER_MODES))}")
    return mode
