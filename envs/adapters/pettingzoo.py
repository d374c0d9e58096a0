"""Environments with many agents through the parallel API of PettingZoo: all agents act at the same time.

    parallel_env("flocking", boids=16)

PettingZoo is the extra `pettingzoo`.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from dmdenv.envs.adapters.instances import RENDER_FPS, Instances, check_render_mode, random_seeds
from dmdenv.envs.adapters.parameters import Draw, Some
from dmdenv.envs.adapters.views import agent_names, agent_spaces, centralise, join, split
from dmdenv.envs.base import Env
from dmdenv.envs.registry import as_env


class PettingZooEnv(ParallelEnv[str, np.ndarray, np.ndarray]):
    """One instance of an environment with agents, one for each row of its observation.

    The reward is the team's: each agent gets all of it. An episode ends for all agents at once. An agent's action is a
    vector, of length 1 where the environment takes one number per agent. `state()` is what all agents observe, as one
    vector.

    `reset(options={"params": {...}})` changes parameters from then on; other options are ignored, as PettingZoo's own
    tests demand.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        params: dynamic parameters, all of them or some by name; or a function of a random key that returns them, called
            at the start of each episode.
        render_mode: "rgb_array", or None for no pictures.
        max_episode_steps: another name for the parameter `max_steps`.
        config: static configuration, see the environment.

    Raises:
        ValueError: for an environment without agents, for unknown names or bad values; the message says what is valid.
    """

    def __init__(
        self,
        env: str | Env = "flocking",
        *,
        params: Some | Draw | None = None,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **config: Any,
    ):
        self.render_mode = check_render_mode(render_mode)
        env = as_env(env, **config)
        self.instances = Instances(env, params=params, max_episode_steps=max_episode_steps)
        self.metadata = {
            "name": f"{env.id}_{env.task}_v0",
            "render_modes": ["rgb_array"],
            "render_fps": RENDER_FPS,
            "is_parallelizable": True,
        }
        self.possible_agents = list(agent_names(env))
        self.agents: list[str] = []
        observations, actions = agent_spaces(env, self.instances.params_of())
        self.observation_spaces, self.action_spaces = {**observations}, {**actions}
        self.state_space = centralise(env).observation_space(self.instances.params_of())
        self._rng, _ = seeding.np_random()
        self._observation = np.zeros(env.observation_shape, self.state_space.dtype)

    def observation_space(self, agent: str) -> gymnasium.spaces.Space[np.ndarray]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.spaces.Space[np.ndarray]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        self.instances.set_params((options or {}).get("params"))
        if seed is not None:
            self._rng, _ = seeding.np_random(seed)
        if seed is not None or not self.instances.started:
            self.instances.seed(random_seeds(self._rng, 1))
        self.agents = list(self.possible_agents)
        return self._observed(self.instances.reset()), {name: {} for name in self.agents}

    def step(
        self, actions: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        if not self.agents:
            raise gymnasium.error.ResetNeeded("there are no agents to act; must be reset() first")
        env = self.instances.env
        step = self.instances.step(np.stack(join(env, actions)).reshape(1, *env.action_shape))
        info = {name: value[0].item() for name, value in step.info.items()}
        names, terminated, truncated = self.agents, bool(step.terminated[0]), bool(step.truncated[0])
        if terminated or truncated:
            self.agents = []
        return (
            self._observed(step.observations),
            dict.fromkeys(names, float(step.rewards[0])),
            dict.fromkeys(names, terminated),
            dict.fromkeys(names, truncated),
            {name: dict(info) for name in names},
        )

    def state(self) -> np.ndarray:
        """What all agents observe, one after another, `[n m]`."""
        return self._observation.flatten()

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render mode; make the environment with render_mode='rgb_array'")
            return None
        return self.instances.render()

    def close(self) -> None:
        """There is nothing to release."""

    def _observed(self, observations: np.ndarray) -> dict[str, np.ndarray]:
        own = observations[0].astype(self.state_space.dtype, copy=False)
        self._observation = own.copy()  # the rows belong to the caller
        return split(self.instances.env, own)


def parallel_env(env: str | Env = "flocking", **keywords: Any) -> PettingZooEnv:
    """The usual constructor of a PettingZoo environment; arguments as for `PettingZooEnv`."""
    return PettingZooEnv(env, **keywords)
