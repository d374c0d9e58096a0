"""What an episode is run with on the command line: the environment, its parameters, and a policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax

from dmdenv._core.fields import field_values
from dmdenv.agents.base import InformedPolicy, Policy, SpaceMismatchError
from dmdenv.agents.cli.arguments import configure_env, parse_env, parse_env_id, parse_params
from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.agents.runs.run import CHECKPOINTS, Run
from dmdenv.envs.acting import act
from dmdenv.envs.base import Env, Params
from dmdenv.simulation.checkpoints import saved_steps

UNTRAINED = {"zero": zero_policy, "random": random_policy}


class Options(Protocol):
    """The options of a command that name an environment and a policy."""

    @property
    def env_id(self) -> str | None: ...
    @property
    def policy(self) -> str: ...
    @property
    def env(self) -> Sequence[str]: ...
    @property
    def params(self) -> Sequence[str]: ...


class Setup(NamedTuple):
    """What an episode is run with."""

    env: Env
    params: Params
    policy: Policy | InformedPolicy


def choose_setup(options: Options) -> Setup:
    """The environment, which is not prepared unless the policy is from a run, its parameters, and the policy.

    Raises:
        UsageError: for an option that is not valid.
    """
    return _untrained(options) if options.policy in UNTRAINED else _trained(options)


def pin_policy(policy: str) -> str:
    """A valid --policy as one that means the same later, from another folder: of a run, its last checkpoint."""
    if policy in UNTRAINED:
        return policy
    path = Path(policy).absolute()
    if path.parent.name == CHECKPOINTS:
        return str(path)
    return str(path / CHECKPOINTS / str(saved_steps(path / CHECKPOINTS)[-1]))


def _untrained(options: Options) -> Setup:
    """An environment by its id, and a policy that needs no training."""
    if options.env_id is None:
        raise UsageError("ENV: missing; must be an environment of `dmdenv list`, or use --policy RUN_DIR")
    env = configure_env(options.env_id, options.env)
    return Setup(env, parse_params(env.default_params, options.params), UNTRAINED[options.policy](env))


def _trained(options: Options) -> Setup:
    """The environment and the policy of a run, changed by --env and --params.

    A policy that acts row by row also works in an environment of another size, if the rows have the same features.
    """
    argument = f"--policy {options.policy}"
    path = Path(options.policy)
    update = None
    if path.parent.name == CHECKPOINTS and path.name.isdigit():
        path, update = path.parents[1], int(path.name)
    if not path.is_dir():
        raise UsageError(f"{argument}: must be zero, random, RUN_DIR or RUN_DIR/{CHECKPOINTS}/N")
    with as_usage_error(argument):
        run = Run.open(path, update)
        if not run.saved_updates():
            raise UsageError(f"{argument}: no checkpoint yet; must be a run that has written one")
        policy = run.policy(run.restore(update))
    _check_task(run.env, options)
    env = parse_env(run.env.id, options.env, base={"task": run.env.task, **field_values(run.env)})
    params = parse_params(run.params, options.params)
    with as_usage_error(f"--env {' '.join(options.env)}", (SpaceMismatchError,)):
        _check_action_shape(env, policy, params)
    return Setup(env, params, policy)


def _check_task(env: Env, options: Options) -> None:
    """Refuse another environment or another task than those that the policy was trained for."""
    trained = f"the policy was trained in {env.id}, task {env.task}"
    if parse_env_id(options.env_id) not in (None, env.id):
        raise UsageError(f"ENV {options.env_id}: {trained}; must be {env.id} or absent")
    for assignment in options.env:
        name, _, task = assignment.partition("=")
        if name == "task" and task != env.task:
            raise UsageError(f"--env {assignment}: {trained}; must be {env.task} or absent")


def _check_action_shape(env: Env, policy: Policy | InformedPolicy, params: Params) -> None:
    """Refuse a policy whose actions do not have the environment's shape."""

    def first_action(key):
        observation, state = env.reset(key, params)
        return act(policy, key, observation, env, state, params)

    action = jax.eval_shape(first_action, jax.random.key(0))
    if action.shape != env.action_shape:
        raise SpaceMismatchError(
            f"actions of the policy are {list(action.shape)}, those of the environment {list(env.action_shape)}"
        )
