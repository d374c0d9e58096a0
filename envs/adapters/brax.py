"""Environments through the API of Brax: `reset(rng) -> State`, `step(state, action) -> State`.

    env = BraxEnv("flocking", boids=16)
    ppo.train(environment=env, episode_length=env.episode_length, wrap_env_fn=wrap, ...)

Brax is not needed to import this: a `State` is one by its fields, an environment by its methods. Observations and
actions are one vector each, as Brax's networks want them (`dmdenv.envs.adapters.views.centralise`).

References: `brax.envs.base`, `brax.envs.wrappers.training` of Brax 0.14.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.in_batch import any_in_batch
from dmdenv._core.pytree import Replaceable, pytree
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
    from the same state.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        params: dynamic parameters, all of them or some by name.
        config: static configuration, see the environment.

    Raises:
        ValueError: for unknown names or bad values; the message says what is valid.
    """

    backend = "dmdenv"

    def __init__(self, env: str | Env, *, params: Params | Mapping[str, Any] | None = None, **config: Any):
        self.env = centralise(as_env(env, **config))
        given = self.env.default_params
        given = given.replace(**params) if isinstance(params, Mapping) else given if params is None else params
        self.env.validate(jax.tree.map(np.asarray, given))
        self.params = given

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
        episode_length: the time limit, in steps.
    """

    def __init__(self, env: BraxEnv, episode_length: int):
        self.env, self.episode_length = env, episode_length

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, rng: jax.Array) -> State:
        """`[batch]` random keys give `[batch]` states."""
        return jax.vmap(self._reset)(rng)

    def step(self, state: State, action: jax.Array) -> State:
        """`[batch]` states and actions `[batch, a]` give `[batch]` states."""
        return jax.vmap(self._step)(state, action)

    def _reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        zero = state.done
        totals = {name: zero for name in ("sum_reward", "length", *state.metrics)}
        more = {"steps": zero, "final_obs": state.obs, "episode_done": zero, "episode_metrics": totals}
        return state.replace(info={**state.info, **more})

    def _step(self, state: State, action: jax.Array) -> State:
        rng, own = _split(state.info["rng"])
        after = self.env.step(state.replace(info={**state.info, "rng": rng}), action)
        steps = state.info["steps"] * (1.0 - state.done) + 1.0
        truncation = jnp.where(steps >= self.episode_length, 1.0 - after.done, 0.0)
        done = jnp.maximum(after.done, truncation)
        # sums over the episode, for the logs of a trainer
        new = {"sum_reward": after.reward, "length": jnp.ones_like(done), **after.metrics}
        totals = state.info["episode_metrics"]
        totals = {name: totals[name] * (1.0 - state.done) + new[name] for name in totals}

        def reset_where_done(now):
            fresh = self.env.env.reset(own, self.env.params)
            return jax.tree.map(lambda a, b: jnp.where(done > 0, a, b), jax.lax.stop_gradient(fresh), now)

        now = after.obs, after.pipeline_state
        obs, pipeline_state = jax.lax.cond(any_in_batch(done > 0), reset_where_done, lambda now: now, now)
        info = {
            **after.info,
            "truncation": truncation,
            "steps": steps,
            "final_obs": after.obs,
            "episode_done": done,
            "episode_metrics": totals,
        }
        return after.replace(pipeline_state=pipeline_state, obs=obs, done=done, info=info)


def wrap(
    env: BraxEnv, episode_length: int = 1000, action_repeat: int = 1, randomization_fn: Callable | None = None
) -> TrainingWrapper:
    """A `wrap_env_fn` for Brax's trainers: a batch, with a time limit and fresh episodes.

    Args:
        env: the environment of one instance.
        episode_length: the time limit, in steps; `env.episode_length` is the task's.
        action_repeat: 1.
        randomization_fn: None; parameters are randomised by `jax.vmap` over `Env.step` and its `params`.

    Raises:
        ValueError: for another `action_repeat` or a `randomization_fn`.
    """
    if action_repeat != 1:
        raise ValueError(f"action_repeat = {action_repeat!r}; must be 1")
    if randomization_fn is not None:
        raise ValueError(f"randomization_fn = {randomization_fn!r}; must be None")
    return TrainingWrapper(env, episode_length)


def _split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    following, own = jax.random.split(key)
    return following, own
