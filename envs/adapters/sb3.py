"""Environments through the API of Stable-Baselines3: a `VecEnv` whose instances run in one compiled program.

    PPO("MlpPolicy", VecMonitor(SB3VecEnv("flocking", num_envs=64))).learn(100_000)

Stable-Baselines3 is the extra `sb3`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports] - an extra

from dmdenv.envs.adapters.instances import Instances, check_num_envs, check_render_mode, instance_seed, random_seeds
from dmdenv.envs.adapters.parameters import Draw, Some
from dmdenv.envs.adapters.views import agent_names, agent_spaces
from dmdenv.envs.base import Env
from dmdenv.envs.registry import as_env


class SB3VecEnv(VecEnv):
    """Many instances of an environment in one compiled program.

    Where an episode ends, the same step begins the next one: the last observation is in
    `infos[i]["terminal_observation"]`, and `infos[i]["TimeLimit.truncated"]` tells a time limit from an end.
    `seed(s)` seeds instance i with `s + i` at the next reset, as the Gymnasium adapters do.

    Parameters are attributes: `get_attr("speed")`, `set_attr("speed", 2.0)` or, one for each instance,
    `set_attr("speed", [2.0, 3.0])`; and also options: `set_options({"params": {...}})`, which the next reset takes.
    Other attributes are those of the environment, `params`, `state`, `render_mode`; the methods of `env_method` those
    of the environment, and `render`.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        num_envs: number of instances.
        params: dynamic parameters, all of them or some by name, each a number for all instances or an array
            `[num_envs]` with one for each; or a function of a random key that returns those of one instance, called at
            the start of each episode.
        per_agent: each agent (each row of the observation) counts as an environment of its own, so that all learn one
            policy. There are then `num_envs` times n of them, those of an instance next to each other, with
            observations `[m]`, actions `[a]`, and the team's reward.
        render_mode: "rgb_array", or None for no pictures.
        max_episode_steps: another name for the parameter `max_steps`.
        config: static configuration, see the environment.

    Raises:
        ValueError: for unknown names or bad values, or `per_agent` where there are no agents; the message says what is
            valid.
    """

    def __init__(
        self,
        env: str | Env,
        num_envs: int = 1,
        *,
        params: Some | Draw | None = None,
        per_agent: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **config: Any,
    ):
        env = as_env(env, **config)
        self.instances = Instances(env, check_num_envs(num_envs), params, max_episode_steps=max_episode_steps)
        self._render_mode = check_render_mode(render_mode)
        if per_agent:
            first = agent_names(env)[0]
            spaces = [spaces[first] for spaces in agent_spaces(env, self.instances.params_of())]
        else:
            spaces = self.instances.spaces()
        self._rows = (env.agents or 1) if per_agent else 1  # of an instance
        self._actions: np.ndarray | None = None
        super().__init__(self.instances.num * self._rows, *spaces)

    def reset(self) -> np.ndarray:
        self.instances.set_params(self._common_options().get("params"))
        seeds = self._seeds[:: self._rows]
        others = random_seeds(seeding.np_random()[0], len(seeds))
        given = np.array([own is not None for own in seeds])
        fresh = given | (not self.instances.started)
        if fresh.any():
            seeds = [other if own is None else instance_seed(own) for own, other in zip(seeds, others, strict=True)]
            self.instances.seed(seeds, fresh)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._own(self.instances.reset())

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds for the next reset, one for each instance and the same for all its agents."""
        per_instance = super().seed(seed)[: self.instances.num]
        self._seeds = [s for s in per_instance for _ in range(self._rows)]
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        if self._actions is None:
            raise RuntimeError("step_wait() without actions; step_async(actions) must come before it")
        expected = (self.num_envs, *(self.action_space.shape or ()))
        if self._actions.shape != expected:
            raise ValueError(f"actions has shape {self._actions.shape}; must be {expected}, values in [-1, 1]")
        actions, self._actions = self._actions.reshape(self.instances.num, *self.instances.env.action_shape), None
        step = self.instances.step(actions, autoreset=True)
        done = step.terminated | step.truncated
        columns = {**step.info, "TimeLimit.truncated": step.truncated}
        rows = zip(*(value.tolist() for value in columns.values()), strict=True)
        infos = [dict(zip(columns, row, strict=True)) for row in rows for _ in range(self._rows)]
        done_rows = np.repeat(done, self._rows)
        if done.any():
            final = self._own(np.asarray(step.final_observations)[done])
            for i, observation in zip(np.flatnonzero(done_rows), final, strict=True):
                infos[i]["terminal_observation"] = np.array(observation)
        rewards = np.repeat(step.rewards.astype(np.float32), self._rows)
        return self._own(step.observations), rewards, done_rows, infos

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A picture of each instance; of its agents there is one picture."""
        if self.render_mode is None:
            gymnasium.logger.warn("no pictures without a render mode; make it with render_mode='rgb_array'")
            return [None] * self.instances.num
        return [self.instances.render(i) for i in range(self.instances.num)]

    def close(self) -> None:
        """There is nothing to release."""

    def _common_options(self) -> dict[str, Any]:
        first, *others = self._options
        unknown = sorted(set(first) - {"params"})
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; must be params")
        if any(options is not first and options != first for options in others):
            raise ValueError(
                "options differ between instances; must be the same for all, with arrays [num_envs] of parameters"
            )
        return first

    # --- attributes of the instances ------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [self._attribute(attr_name, i // self._rows) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"indices = {indices!r}; must be None, with an array [num_envs] of values")
        self.instances.set_params(value if attr_name == "params" else {attr_name: value})

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        methods = [self._attribute(method_name, i // self._rows) for i in self._get_indices(indices)]
        return [method(*method_args, **method_kwargs) for method in methods]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        """False: nothing wraps a single instance."""
        return [False for _ in self._get_indices(indices)]

    def _attribute(self, name: str, instance: int) -> Any:
        own = {
            "params": lambda: self.instances.params_of(instance),
            "render_mode": lambda: self._render_mode,
            "render": lambda: functools.partial(self.instances.render, instance),
            "state": lambda: self.instances.state(instance),
        }
        if name in own:
            return own[name]()
        if name in vars(self.instances.params):
            return getattr(self.instances.params_of(instance), name)
        return getattr(self.instances.env, name)

    def _own(self, observations: np.ndarray) -> np.ndarray:
        """`[instances, *observation]` as the caller's own array, an axis of environments in front."""
        shape = self.observation_space.shape or ()
        return observations.astype(self.observation_space.dtype, copy=False).reshape(-1, *shape)
