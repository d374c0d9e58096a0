"""`dmdenv rollout`: one episode of a policy, in numbers and as a film."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax

from dmdenv.agents.base import Policy, UnfitError
from dmdenv.agents.cli.arguments import environment, parameters
from dmdenv.agents.cli.options import RolloutOptions
from dmdenv.agents.cli.usage import UsageError, blaming
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.agents.runs.comparison import FINAL_STEPS, summarise, table
from dmdenv.agents.runs.film import film_states, record
from dmdenv.agents.runs.run import Run, field_values
from dmdenv.envs.base import CapacityExceeded, Env, Params
from dmdenv.simulation import Interrupted, Interruption

SIMPLE = {"zero": zero_policy, "random": random_policy}


class Scene(NamedTuple):
    """Who acts, and where."""

    env: Env
    params: Params
    policy: Policy


def rollout(options: RolloutOptions) -> int:
    """Run one episode, print its return and metrics, and film it if asked to.

    Returns:
        The exit code.

    Raises:
        UsageError: for what was typed and is not valid.
    """
    if options.fps < 1:
        raise UsageError(f"--fps {options.fps}: out of range; valid: whole numbers from 1")
    if options.film is not None and options.film.suffix != ".mp4":
        raise UsageError(f"--film {options.film}: not an MP4 file; valid: a path that ends in .mp4")
    env, params, policy = _simple_scene(options) if options.policy in SIMPLE else _run_scene(options)
    if options.steps is not None:
        with blaming(f"--steps {options.steps}"):
            params = params.replace(max_steps=options.steps)
    with Interruption() as interruption:
        try:
            evaluation, states = record(env, policy, jax.random.key(options.seed), params)
            print(f"{env.id}, {len(states)} steps, metrics over the last {FINAL_STEPS}")
            print(table({options.policy: summarise(evaluation)}))
            if options.film is not None:
                film_states(options.film, env, states, params, interruption=interruption, fps=options.fps)
                print(f"wrote\n  {options.film}")
        except Interrupted as stop:
            return stop.exit_code
        except CapacityExceeded as error:
            print(f"dmdenv: error: {error}", file=sys.stderr)
            return 1
    return 0


def _simple_scene(options: RolloutOptions) -> Scene:
    """An environment by its id, and a policy that needs no training."""
    if options.env_id is None:
        raise UsageError("ENV: missing; valid: an environment of `dmdenv list`, or --policy RUN_DIR")
    env = environment(options.env_id, options.env)
    return Scene(env, parameters(env.default_params, options.params), SIMPLE[options.policy](env))


def _run_scene(options: RolloutOptions) -> Scene:
    """The environment and the policy of a run, with what was typed on top.

    A policy that acts row by row goes into an environment of another size; whether it fits, the first call tells.
    """
    argument = f"--policy {options.policy}"
    path = Path(options.policy)
    update = None
    if path.parent.name == "checkpoints" and path.name.isdigit():
        path, update = path.parents[1], int(path.name)
    with blaming(f"{argument} (valid: zero, random, RUN_DIR, RUN_DIR/checkpoints/N)"):
        run = Run.open(path, update)
        if not run.saved_updates():
            raise UsageError(f"{argument}: there is no checkpoint yet; valid: a run that has written one")
        policy = run.policy(run.restore(update))
    if options.env_id not in (None, run.env.id):
        raise UsageError(
            f"ENV {options.env_id}: the policy was trained in {run.env.id}; valid: {run.env.id}, or no ENV"
        )
    env = environment(run.env.id, options.env, base=field_values(run.env))
    params = parameters(run.params, options.params)
    with blaming(f"--env {' '.join(options.env)}", (UnfitError,)):
        observation, _ = jax.eval_shape(env.reset, jax.random.key(0), params)
        _check_fit(env, policy, observation)
    return Scene(env, params, policy)


def _check_fit(env: Env, policy: Policy, observation: jax.ShapeDtypeStruct) -> None:
    """Refuse a policy whose actions do not have the environment's shape."""
    action = jax.eval_shape(policy, jax.random.key(0), observation)
    if action.shape != env.action_shape:
        raise UnfitError(f"the policy's actions are {list(action.shape)}, the environment's {list(env.action_shape)}")
