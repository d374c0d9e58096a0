"""`dmdenv gradients`: up to which horizon the gradient of a return can be trusted."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Real, Whole
from dmdenv.agents.cli.arguments import check_at_least, check_output, check_seed
from dmdenv.agents.cli.errors import as_usage_error
from dmdenv.agents.cli.options import GradientsOptions
from dmdenv.agents.cli.setup import UNTRAINED, choose_setup
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.gradients import grad_report
from dmdenv.simulation import Interrupted, Interruption
from dmdenv.simulation.disk import one_line


def gradients(options: GradientsOptions) -> int:
    """Print the report of an environment and a policy, and draw it if asked to.

    Returns:
        The exit code.

    Raises:
        UsageError: for an argument that is not valid.
    """
    check_at_least("--instances", options.instances, 2)
    check_at_least("--directions", options.directions, 1)
    check_seed(options.seed)
    with as_usage_error(f"--step {options.step}"):
        Real(above=0).convert("step", options.step)
    check_output("--picture", options.picture, ".png")
    with Interruption() as interruption:
        try:
            env, params, policy = interruption.wait_for(lambda: choose_setup(options))
            varied: Any = policy
            episode = int(params.max_steps)
            for horizon in options.horizons:
                with as_usage_error(f"--horizons {horizon}"):
                    Whole(at_least=1, at_most=episode).convert("horizon", horizon)
            action_key, key = jax.random.split(jax.random.key(options.seed))
            if options.policy in UNTRAINED:
                keys = jax.random.split(action_key, max(options.horizons, default=episode))
                varied = jax.vmap(policy, (0, None))(keys, jnp.zeros(env.observation_shape))
            report = grad_report(
                env,
                varied,
                options.horizons or None,
                params=params,
                key=key,
                instances=options.instances,
                directions=options.directions,
                step=options.step,
            )
            print(report)
            if options.picture is not None:
                options.picture.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(options.picture) as partial:
                    report.plot(partial)
                print(f"wrote\n  {options.picture}")
        except Interrupted as stop:
            return stop.exit_code
        except (CapacityExceeded, OSError) as error:
            print(f"dmdenv: error: {one_line(error)}", file=sys.stderr)
            return 1
    return 0
