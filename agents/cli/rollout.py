"""`dmdenv rollout`: one episode of a policy, in numbers and as a film."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax

from dmdenv._core.fields import field_values
from dmdenv.agents.base import Policy, SpaceMismatchError
from dmdenv.agents.cli.arguments import check_at_least, check_seed, parse_env, parse_env_id, parse_params
from dmdenv.agents.cli.errors import UsageError, as_usage_error
from dmdenv.agents.cli.options import RolloutOptions
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.agents.runs.comparison import FINAL_STEPS, format_table, summarise
from dmdenv.agents.runs.film import film_states, record_episode
from dmdenv.agents.runs.run import CHECKPOINTS, Run
from dmdenv.envs.base import CapacityExceeded, Env, Params
from dmdenv.simulation import Interrupted, Interruption
from dmdenv.simulation.disk import one_line

UNTRAINED = {"zero": zero_policy, "random": random_policy}


class Setup(NamedTuple):
    """What an episode is run with."""

    env: Env
    params: Params
    policy: Policy


def rollout(options: RolloutOptions) -> int:
    """Run one episode, print its return and metrics, and film it if asked to.

    Returns:
        The exit code.

    Raises:
        UsageError: for an argument that is not valid.
    """
    check_at_least("--fps", options.fps, 1)
    check_seed(options.seed)
    if options.film is not None and options.film.suffix != ".mp4":
        raise UsageError(f"--film {options.film}: must end in .mp4")
    if options.film is not None and options.film.is_dir():
        raise UsageError(f"--film {options.film}: is a folder; must be a file")
    with Interruption() as interruption:
        try:
            make = _untrained if options.policy in UNTRAINED else _trained
            env, params, policy = interruption.wait_for(lambda: make(options))
            if options.steps is not None:
                with as_usage_error(f"--steps {options.steps}"):
                    params = params.replace(max_steps=options.steps)
            key = jax.random.key(options.seed)
            evaluation, states = record_episode(env, policy, key, params, interruption=interruption)
            print(f"{env.id}, {len(states)} steps, metrics over the last {FINAL_STEPS}")
            print(format_table({options.policy: summarise(evaluation)}))
            if options.film is not None:
                film_states(options.film, env, states, params, interruption=interruption, fps=options.fps)
                print(f"wrote\n  {options.film}")
        except Interrupted as stop:
            return stop.exit_code
        except (CapacityExceeded, OSError) as error:
            print(f"dmdenv: error: {one_line(error)}", file=sys.stderr)
            return 1
    return 0


def _untrained(options: RolloutOptions) -> Setup:
    """An environment by its id, and a policy that needs no training."""
    if options.env_id is None:
        raise UsageError("ENV: missing; must be an environment of `dmdenv list`, or use --policy RUN_DIR")
    env = parse_env(options.env_id, options.env)
    return Setup(env, parse_params(env.default_params, options.params), UNTRAINED[options.policy](env))


def _trained(options: RolloutOptions) -> Setup:
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
        observation, _ = jax.eval_shape(env.reset, jax.random.key(0), params)
        _check_action_shape(env, policy, observation)
    return Setup(env, params, policy)


def _check_task(env: Env, options: RolloutOptions) -> None:
    """Refuse another environment or another task than those that the policy was trained for."""
    trained = f"the policy was trained in {env.id}, task {env.task}"
    if parse_env_id(options.env_id) not in (None, env.id):
        raise UsageError(f"ENV {options.env_id}: {trained}; must be {env.id} or absent")
    for assignment in options.env:
        name, _, task = assignment.partition("=")
        if name == "task" and task != env.task:
            raise UsageError(f"--env {assignment}: {trained}; must be {env.task} or absent")


def _check_action_shape(env: Env, policy: Policy, observation: jax.ShapeDtypeStruct) -> None:
    """Refuse a policy whose actions do not have the environment's shape."""
    action = jax.eval_shape(policy, jax.random.key(0), observation)
    if action.shape != env.action_shape:
        raise SpaceMismatchError(
            f"actions of the policy are {list(action.shape)}, those of the environment {list(env.action_shape)}"
        )
