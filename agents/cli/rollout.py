"""`dmdenv rollout`: one episode of a policy, in numbers and as a film."""

import sys

import jax

from dmdenv.agents.cli.arguments import check_at_least, check_output, check_seed, prepare_env
from dmdenv.agents.cli.errors import as_usage_error
from dmdenv.agents.cli.options import RolloutOptions
from dmdenv.agents.cli.setup import choose_setup
from dmdenv.agents.runs.comparison import FINAL_STEPS, format_table, summarise
from dmdenv.agents.runs.film import film_states, record_episode
from dmdenv.envs.base import CapacityExceeded
from dmdenv.simulation import Interrupted, Interruption
from dmdenv.simulation.disk import one_line


def rollout(options: RolloutOptions) -> int:
    """Run one episode, print its return and metrics, and film it if asked to.

    Returns:
        The exit code.

    Raises:
        UsageError: for an argument that is not valid.
    """
    check_at_least("--fps", options.fps, 1)
    check_seed(options.seed)
    check_output("--film", options.film, ".mp4")
    with Interruption() as interruption:
        try:
            env, params, policy = interruption.wait_for(lambda: choose_setup(options))
            if options.steps is not None:
                with as_usage_error(f"--steps {options.steps}"):
                    params = params.replace(max_steps=options.steps)
            env = interruption.wait_for(lambda: prepare_env(env))
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
