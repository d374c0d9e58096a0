"""Environments through the API of Brax: `reset(rng) -> State`, `step(state, action) -> State`.

    env = BraxEnv("flocking", boids=16)
    ppo.train(environment=env, episode_length=env.episode_length, wrap_env_fn=wrap, ...)

Brax is not needed to import this: a `State` is one by its fields, an environment by its methods. Observations and
actions are one vector each, as Brax's networks want them (`dmdenv.envs.adapters.views.centralise`).

References: `brax.envs.base`, `brax.envs.wrappers.training` of Brax 0.14.
"""

import copy
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import cond, scan
from dmdenv._core.fields import Whole
from dmdenv._core.in_batch import any_in_batch
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.envs.adapters.parameters import Some, check, replaced
from dmdenv.envs.adapters.views import centralise
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import as_env


@pytree
class State(Replaceable):
    """A state with what the step before it gave, fields and types as in Brax."""

    pipeline_state: Any  # the environment's own state
    obs: jax.Array  # float [m]
    reward: jax.Array  # float []
    done: jax.Array  # float [], 1 where the episode has ended
    metrics: dict[str, jax.Array]  # floats, 0 after a reset
    info: dict[str, Any]  # "rng", "truncation" (float), "overflow", "nonfinite", and what wrappers put there


class BraxEnv:
    """An environment behind Brax's interface; its methods are pure.

    As in Brax, `done` says that the episode terminated, and the time limit is the business of a wrapper, to which
    `episode_length` is to be told: then `info["truncation"]` and the bootstrap of a trainer are right. Without a
    wrapper `info["truncation"]` is 1 at the environment's own time limit and from then on.

    Where a trainer takes a wrapper (`wrap_env_fn`), give it `wrap`: Brax's own one starts every episode of an instance
    from the same state, and truncates a task with a finite horizon where `episode_length` is not its `max_steps`.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        params: dynamic parameters, all of them or some by name; numbers.
        config: static configuration, see the environment.

    Raises:
        ValueError: for unknown names or bad values; the message says what is valid.
    """

    backend = "dmdenv"

    def __init__(self, env: str | Env, *, params: Some | None = None, **config: Any):
        self.env = centralise(as_env(env, **config))
        self.params = replaced(self.env.default_params, {} if params is None else params)
        check(self.env, self.params, None)

    def with_params(self, params: Params) -> Self:
        """The same environment with other parameters, which are not checked."""
        other = copy.copy(self)
        other.params = params
        return other

    @property
    def sys(self) -> Params:
        """The parameters, by the name under which Brax's own wrapper replaces them (`randomization_fn`)."""
        return self.params

    @sys.setter
    def sys(self, params: Params) -> None:
        self.params = params

    @property
    def observation_size(self) -> int:
        return self.env.observation_shape[0]

    @property
    def action_size(self) -> int:
        return self.env.action_shape[0]

    @property
    def episode_length(self) -> int:
        """The time limit of the task, in steps."""
        return int(self.params.max_steps)

    @property
    def unwrapped(self) -> "BraxEnv":
        return self

    def reset(self, rng: jax.Array) -> State:
        """The start of an episode; `rng` is consumed."""
        rng, own = _split(rng)
        obs, state = self.env.reset(own, self.params)
        zero = jnp.zeros((), obs.dtype)
        action = jnp.zeros(self.env.action_shape, obs.dtype)
        *_, info = jax.eval_shape(self.env.step_env, own, state, action, self.params)
        metrics = dict.fromkeys(info.keys() - _FLAGS, zero)
        flags = {"overflow": state.overflow, "nonfinite": state.nonfinite}
        return State(state, obs, zero, zero, metrics, {"rng": rng, "truncation": zero, **flags})

    def step(self, state: State, action: jax.Array) -> State:
        """One transition, never resetting."""
        rng, own = _split(state.info["rng"])
        obs, pipeline_state, reward, terminated, truncated, info = self.env.step_env(
            own, state.pipeline_state, action, self.params
        )
        metrics = {name: value.astype(obs.dtype) for name, value in info.items() if name not in _FLAGS}
        flags = {"overflow": info["overflow"], "nonfinite": info["nonfinite"]}
        return State(
            pipeline_state,
            obs,
            reward,
            terminated.astype(obs.dtype),
            {**state.metrics, **metrics},
            {**state.info, "rng": rng, "truncation": truncated.astype(obs.dtype), **flags},
        )

    def render(self, trajectory: list[Any], *_: Any, **__: Any) -> list[np.ndarray]:
        """A picture of each `pipeline_state`; sizes are the environment's own."""
        return [self.env.render(state, self.params) for state in trajectory]


_FLAGS = {"final_observation", "overflow", "nonfinite"}


class TrainingWrapper:
    """A batch of instances with a time limit and automatic resets, as `wrap` returns it.

    Where an episode ends, `done` is 1, `info["truncation"]` tells a time limit from an end, `obs` and `pipeline_state`
    are those of a fresh episode, and `info["final_obs"]` is the observation before. `info["steps"]` counts the steps
    of the episode. Under `vmap` the reset runs only in a step in which some instance ends.

    Args:
        env: the environment of one instance.
        params: parameters with leaves `[batch]` or `[]`; `max_steps` is the time limit.
        in_axes: which is which, as for `jax.vmap`.
        batch_size: number of instances; None for any.
        action_repeat: number of steps of the environment in each step.
    """

    def __init__(self, env: BraxEnv, params: Params, in_axes: Any, batch_size: int | None, action_repeat: int):
        self.env, self.batch_size, self.action_repeat = env, batch_size, action_repeat
        self._params, self._in_axes = params, in_axes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, rng: jax.Array) -> State:
        """`[batch]` random keys give `[batch]` states.

        Raises:
            ValueError: for another number of keys than there are instances of a `randomization_fn`.
        """
        if self.batch_size not in (None, len(rng)):
            valid = f"{self.batch_size}, one for each instance of randomization_fn"
            raise ValueError(f"rng has {len(rng)} keys; must have {valid}")
        return jax.vmap(self._reset, (0, self._in_axes))(rng, self._params)

    def step(self, state: State, action: jax.Array) -> State:
        """`[batch]` states and actions `[batch, a]` give `[batch]` states."""
        return jax.vmap(self._step, (0, 0, self._in_axes))(state, action, self._params)

    def _reset(self, rng: jax.Array, params: Params) -> State:
        state = self.env.with_params(params).reset(rng)
        zero = state.done
        totals = {name: zero for name in ("sum_reward", "length", *state.metrics)}
        more = {"steps": zero, "final_obs": state.obs, "episode_done": zero, "episode_metrics": totals}
        return state.replace(info={**state.info, **more})

    def _step(self, state: State, action: jax.Array, params: Params) -> State:
        rng, own = _split(state.info["rng"])
        after = self._repeat(state.replace(info={**state.info, "rng": rng}), action, params)
        done = jnp.maximum(after.done, after.info["truncation"])
        steps = after.pipeline_state.time.astype(done.dtype)
        # sums over the episode, for the logs of a trainer
        goes_on = 1.0 - state.done
        new = {"sum_reward": after.reward, "length": steps - goes_on * state.info["steps"], **after.metrics}
        totals = state.info["episode_metrics"]
        totals = {name: goes_on * totals[name] + new[name] for name in totals}

        def reset_where_done(now):
            fresh = self.env.env.reset(own, params)
            return jax.tree.map(lambda a, b: jnp.where(done > 0, a, b), jax.lax.stop_gradient(fresh), now)

        now = after.obs, after.pipeline_state
        obs, pipeline_state = cond(any_in_batch(done > 0), reset_where_done, lambda now: now, now)
        more = {"steps": steps, "final_obs": after.obs, "episode_done": done, "episode_metrics": totals}
        return after.replace(pipeline_state=pipeline_state, obs=obs, done=done, info={**after.info, **more})

    def _repeat(self, state: State, action: jax.Array, params: Params) -> State:
        """Steps with the same action, until the episode ends; the reward is their sum, the metrics are of the last."""
        env = self.env.with_params(params)
        if self.action_repeat == 1:
            return env.step(state, action)

        def one(state, _):
            after = env.step(state, action)
            after = after.replace(reward=state.reward + after.reward)
            ended = jnp.maximum(state.done, state.info["truncation"]) > 0
            return jax.tree.map(lambda a, b: jnp.where(ended, a, b), state, after), None

        zero = jnp.zeros_like(state.done)
        start = state.replace(reward=zero, done=zero, info={**state.info, "truncation": zero})
        return scan(one, start, length=self.action_repeat)[0]


def wrap(
    env: BraxEnv,
    episode_length: int | None = None,
    action_repeat: int = 1,
    randomization_fn: Callable[[Params], tuple[Params, Any]] | None = None,
) -> TrainingWrapper:
    """A `wrap_env_fn` for Brax's trainers: a batch, with a time limit and fresh episodes.

    Args:
        env: the environment of one instance.
        episode_length: the time limit in steps of the environment, another name for the parameter `max_steps`; by
            default that of `env`. Where the task has a finite horizon, it is the horizon.
        action_repeat: number of steps of the environment in each step, with the same action; the reward is their sum.
            An episode may end at any of them.
        randomization_fn: `fn(params) -> (params, in_axes)`, parameters of which some differ between instances, and
            the axes of instances as for `jax.vmap` (`dmdenv.envs.adapters.parameters.axes(params)`); the batch then has
            this size. Brax's trainers call it with an argument `rng`, too, one key for each instance.

    Raises:
        ValueError: for bad numbers or parameters; the message says what is valid.
        TypeError: for a `randomization_fn` that returns anything else.
    """
    action_repeat = Whole(at_least=1).convert("action_repeat", action_repeat)
    if episode_length is not None:
        episode_length = Whole(at_least=1).convert("episode_length", episode_length)
        env = env.with_params(env.params.replace(max_steps=episode_length))
        check(env.env, env.params, None)
    params, in_axes, batch_size = env.params, None, None
    if randomization_fn is not None:
        params, in_axes, batch_size = _randomized(env, randomization_fn)
    return TrainingWrapper(env, params, in_axes, batch_size, action_repeat)


def _randomized(env: BraxEnv, randomization_fn: Callable[[Params], tuple[Params, Any]]) -> tuple[Params, Any, int]:
    """What the function returns, checked for every instance, and their number."""
    returned = randomization_fn(env.params)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], type(env.params)):
        raise TypeError(f"randomization_fn returns {returned!r}; must be a {type(env.params).__name__} and its in_axes")
    params, in_axes = returned
    each = jax.vmap(lambda params: params, (in_axes,))(params)  # leaves [batch], all of them
    batch_size = len(each.max_steps)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(each)):
        check(env.env, each, batch_size)
    return params, in_axes, batch_size


def _split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    following, own = jax.random.split(key)
    return following, own
