"""What a search minimises: a metric of an episode, or its return, as a function of some of the parameters."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from dmdenv.agents.base import InformedPolicy, Policy
from dmdenv.agents.evaluate import run_episode
from dmdenv.agents.runs.comparison import FINAL_STEPS
from dmdenv.envs.base import Env, Params

RETURN = "return"
FLAGS = ("overflow", "nonfinite")


def objective_names(env: Env, policy: Policy | InformedPolicy, params: Params) -> tuple[str, ...]:
    """What `episode_objective` takes, sorted; nothing is compiled. The environment must be prepared."""
    evaluation, _ = jax.eval_shape(
        lambda key, params: run_episode(env, policy, key, steps=1, params=params), jax.random.key(0), params
    )
    return tuple(sorted({RETURN, *evaluation.metrics} - set(FLAGS)))


def episode_objective(
    env: Env,
    policy: Policy | InformedPolicy,
    params: Params,
    name: str,
    *,
    maximize: bool,
    leave_out_overflow: bool = False,
) -> Partial:
    """`objective(varied, key) -> (value, overflow)` of one episode, to be minimised by `dmdenv.search.minimize`.

    The value, float [], is the return, or the mean of a metric over the last 64 steps; the negative of it, where that
    is to be maximised. It is NaN where something was not finite, at any step. `overflow`, bool [], is whether a
    capacity overflowed while everything was finite.

    Args:
        env: the environment.
        policy: the policy that acts.
        params: all parameters; `max_steps` must be concrete.
        name: one of `objective_names`.
        maximize: whether the search is for the greatest value.
        leave_out_overflow: whether the value is NaN also where a capacity overflowed, which is then not told.
    """
    steps, sign = int(params.max_steps), -1.0 if maximize else 1.0

    def objective(
        policy: Policy | InformedPolicy, params: Params, varied: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        params = params.replace(**varied)
        evaluation, _ = run_episode(env, policy, key, steps=steps, params=params, record=lambda state: None)
        one = jax.tree.map(lambda leaf: leaf[None], evaluation)
        value: jax.Array = (one.returns if name == RETURN else one.final_means(FINAL_STEPS)[name])[0]
        overflow, nonfinite = (jnp.any(evaluation.metrics[flag] > 0) for flag in FLAGS)  # 1.0 where it was set
        broken = nonfinite | overflow if leave_out_overflow else nonfinite
        return jnp.where(broken, jnp.nan, sign * value), overflow & ~broken

    return Partial(objective, policy, params)
