"""The contract of environments as a function: `check_env` says what an environment breaks, if anything.

Its parts, from what costs nothing to what takes compilation: `description` (configuration, parameters, spaces, types,
purity), `behaviour` (finite numbers, batches, the ends of episodes), `gradients` (against central differences).
"""

import jax

from dmdenv.envs.base import Env, Params
from dmdenv.envs.checking.behaviour import check_behaviour
from dmdenv.envs.checking.broken import ContractError
from dmdenv.envs.checking.description import check_description
from dmdenv.envs.checking.gradients import check_gradients

__all__ = ["ContractError", "check_env"]


def check_env(env: Env, *, params: Params | None = None, gradients: bool = True, seeds: int = 64) -> None:
    """Check that an environment keeps the contract that agents, adapters and other people's code rely on.

    - It is frozen and hashable, equal to its copies; its parameters are declared; spaces, shapes and types agree.
    - Its functions are pure: traced twice they are the same program, which leaves the environment as it was; compiled
      and eager, single and in a batch, they compute the same up to rounding; other parameters compile nothing anew.
    - From many seeds, under random actions, everything is finite and inside of its space; episodes end at their time
      limit and begin afresh; an instance that is not finite ends and harms no other one; a picture is an image.
    - Gradients of observations and rewards by state, actions and parameters agree with central differences in float64,
      also across the end of an episode, and none flows through a reset.

    Where an observation or a reward jumps or has a kink, differences of two step sizes, or to the two sides, disagree.
    There they are not compared, so that rewards may be discontinuous; if there is no other place, the check fails.

    It takes seconds to a few minutes, most of it compilation: check a small configuration.

    Args:
        env: the environment.
        params: where to check it; None for its `default_params`.
        gradients: whether derivatives are checked. False for dynamics that cannot be differentiated.
        seeds: number of instances, at least 4.

    Raises:
        ContractError: for the first thing that is broken; the message says what it is.
        ValueError: for fewer than 4 seeds.
    """
    if seeds < 4:
        raise ValueError(f"seeds = {seeds!r}; must be an integer >= 4")
    params = check_description(env, params)
    env.prepare()
    check_behaviour(env, params, seeds)
    if gradients:
        with jax.enable_x64(True):
            check_gradients(env, params)
