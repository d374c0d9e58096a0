"""Environments through the Gymnasium API: single, and vectorised in one compiled program.

    gymnasium.make("dmdenv/Flocking-v0", boids=64, params={"speed": 2.0})
    gymnasium.make_vec("dmdenv/Flocking-v0", num_envs=1024, params={"speed": np.linspace(1.0, 3.0, 1024)})

Outputs are NumPy arrays of the declared types; they belong to the caller.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dmdenv._core.fields import field_values
from dmdenv.envs.adapters.instances import (
    RENDER_FPS,
    Instances,
    Step,
    check_num_envs,
    check_render_mode,
    instance_seed,
    random_seeds,
)
from dmdenv.envs.adapters.parameters import Draw, Some
from dmdenv.envs.base import Env, Params
from dmdenv.envs.registry import as_env


class _Described:
    """An environment whose specification can be written as JSON, and made again from it."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """As Gymnasium sets it, with parameters, arrays and modes as dicts, lists and words."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = None if spec is None else dataclasses.replace(spec, kwargs=_plain(spec.kwargs))


class GymnasiumEnv(_Described, gymnasium.Env[np.ndarray, np.ndarray]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """One instance of an environment.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        params: dynamic parameters, all of them or some by name; or a function of a random key that returns them, called
            at the start of each episode.
        render_mode: "rgb_array", or None for no pictures.
        max_episode_steps: another name for the parameter `max_steps`; `gymnasium.make` has an argument of this name.
        config: static configuration, see the environment.

    `reset(options={"params": {...}})` changes parameters from then on.

    A wrapper that truncates (`gymnasium.wrappers.TimeLimit`) cannot be seen from here: where `env.finite_horizon`, give
    `params={"max_steps": n}` instead.

    Raises:
        ValueError: for unknown names or bad values; the message says what is valid.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # noqa: RUF012 - as in the base class

    def __init__(
        self,
        env: str | Env,
        *,
        params: Some | Draw | None = None,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **config: Any,
    ):
        self.render_mode = check_render_mode(render_mode)
        env = as_env(env, **_hashable(config))
        limit = self._limit_of_make()
        if limit is not None and env.finite_horizon:
            raise ValueError(
                f"max_episode_steps = {limit}: gymnasium.make truncates episodes there, and those of {env.id!r}, task"
                f" {env.task!r}, terminate at their finite horizon; must be given as params={{'max_steps': {limit}}}"
            )
        limit = max_episode_steps if limit is None else limit
        self.instances = Instances(env, params=params, max_episode_steps=limit)
        self.observation_space, self.action_space = self.instances.spaces()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        _take_options(self.instances, options)
        if seed is not None or not self.instances.started:
            self.instances.seed(random_seeds(self.np_random, 1))
        return self._own(self.instances.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self.instances.step(np.asarray(action)[None])
        info = {name: value[0].item() for name, value in step.info.items()}
        observation = self._own(step.observations)
        return observation, float(step.rewards[0]), bool(step.terminated[0]), bool(step.truncated[0]), info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render mode; make the environment with render_mode='rgb_array'")
            return None
        return self.instances.render()

    def _limit_of_make(self) -> int | None:
        """The `max_episode_steps` of a `gymnasium.make` that is making this environment.

        `make` keeps it for a clock of its own (`TimeLimit`), and tells the environment of it neither by an argument nor
        by its `spec`, so that it can only be read from the calling frame.
        """
        frame = inspect.currentframe()
        while frame is not None and frame.f_locals.get("self") is self:
            frame = frame.f_back
        if frame is None or frame.f_code is not gymnasium.make.__code__:
            return None
        limit, spec = frame.f_locals.get("max_episode_steps"), frame.f_locals.get("env_spec")
        limit = spec.max_episode_steps if limit is None and spec is not None else limit
        return None if limit == -1 else limit  # -1: no clock

    def _own(self, observations: np.ndarray) -> np.ndarray:
        return observations[0].astype(self.observation_space.dtype, copy=False)


class GymnasiumVectorEnv(_Described, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Many instances of an environment in one compiled program.

    An instance depends on its own seed and its own actions only. `reset(seed=s)` seeds instance i with `s + i`.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        num_envs: number of instances.
        params: dynamic parameters, all of them or some by name, each a number for all instances or an array
            `[num_envs]` with one for each; or a function of a random key that returns those of one instance, called at
            the start of each episode.
        autoreset_mode: what happens where an episode has ended. "NextStep": the next step begins the next one and
            ignores the action. "SameStep": the step that ends it begins the next one, its last observation is in
            `info["final_obs"]`. "Disabled": it is up to `reset(options={"reset_mask": mask})`.
        render_mode: "rgb_array", or None for no pictures.
        max_episode_steps: another name for the parameter `max_steps`.
        config: static configuration, see the environment.

    Raises:
        ValueError: for unknown names or bad values; the message says what is valid.
    """

    def __init__(
        self,
        env: str | Env,
        num_envs: int = 1,
        *,
        params: Some | Draw | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **config: Any,
    ):
        self.render_mode = check_render_mode(render_mode)
        self.mode = _check_autoreset_mode(autoreset_mode)
        self.metadata = {**GymnasiumEnv.metadata, "autoreset_mode": self.mode}
        env = as_env(env, **_hashable(config))
        self.num_envs = check_num_envs(num_envs)
        self.instances = Instances(env, self.num_envs, params, max_episode_steps=max_episode_steps)
        self.single_observation_space, self.single_action_space = self.instances.spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._ended = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        options = dict(options or {})
        where = self._check_mask(options.pop("reset_mask")) if "reset_mask" in options else None
        _take_options(self.instances, options)
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        if seed is None and not self.instances.started:
            seed = [None] * self.num_envs
        if seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"seed has {len(seed)} entries; must have one per instance, {self.num_envs}")
            given = np.array([s is not None for s in seed])
            others = random_seeds(self.np_random, self.num_envs)
            affected = np.ones(self.num_envs, bool) if where is None else where
            keep = affected & (given | (not self.instances.started))
            seeds = [other if own is None else instance_seed(own) for own, other in zip(seed, others, strict=True)]
            self.instances.seed(seeds, keep)
        self._ended = np.zeros(self.num_envs, bool) if where is None else self._ended & ~where
        return self._own(self.instances.reset(where)), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self.mode == AutoresetMode.DISABLED and self._ended.any():
            raise ValueError(
                f"instances {np.flatnonzero(self._ended).tolist()} have ended; must be reset first, by"
                ' reset(options={"reset_mask": mask})'
            )
        restart = self._ended if self.mode == AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, bool)
        step = self.instances.step(actions, restart=restart, autoreset=self.mode == AutoresetMode.SAME_STEP)
        self._ended = step.terminated | step.truncated
        return self._own(step.observations), step.rewards, step.terminated, step.truncated, self._info(step, ~restart)

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render mode; make the environment with render_mode='rgb_array'")
            return None
        return tuple(self.instances.render(i) for i in range(self.num_envs))

    def _info(self, step: Step, stepped: np.ndarray) -> dict[str, Any]:
        """Metrics with their masks; where an episode ended and the next one has begun, what it ended with."""

        def masked(values: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
            zeroed = {name: np.where(mask, value, np.zeros_like(value)) for name, value in values.items()}
            return {**zeroed, **{f"_{name}": mask.copy() for name in values}}

        if self.mode != AutoresetMode.SAME_STEP or not self._ended.any():
            return masked(step.info, stepped)
        final, observed = np.full(self.num_envs, None, object), np.asarray(step.final_observations)
        for i in np.flatnonzero(self._ended):
            final[i] = np.array(observed[i], self.observation_space.dtype)
        last = {"final_obs": final, "_final_obs": self._ended.copy(), "_final_info": self._ended.copy()}
        return {**masked(step.info, ~self._ended), **last, "final_info": masked(step.info, self._ended)}

    def _own(self, observations: np.ndarray) -> np.ndarray:
        return observations.astype(self.observation_space.dtype, copy=False)

    def _check_mask(self, mask: Any) -> np.ndarray:
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset_mask = {mask!r}; must be a bool array [{self.num_envs}] with some True in it")
        return mask


def _check_autoreset_mode(mode: Any) -> AutoresetMode:
    known = {known.value: known for known in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    if not isinstance(mode, str) or mode not in known:
        raise ValueError(f"autoreset_mode = {mode!r}; must be one of {', '.join(map(repr, known))}")
    return known[mode]


def _take_options(instances: Instances, options: Mapping[str, Any] | None) -> None:
    unknown = sorted(set(options or {}) - {"params"})
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; must be params, or in a vector environment reset_mask")
    instances.set_params((options or {}).get("params"))


# --- specifications ---------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Arguments as JSON knows them."""
    if isinstance(value, Params):
        value = field_values(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, AutoresetMode):
        return value.value
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value


def _hashable(value: Any) -> Any:
    """Static configuration as it was before it went through JSON, which makes lists of tuples."""
    if isinstance(value, dict):
        return {name: _hashable(each) for name, each in value.items()}
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
