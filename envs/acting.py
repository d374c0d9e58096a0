"""How a policy acts in a state: what it gets beside the observation, if it asks for it."""

from typing import Any

import jax

from dmdenv.envs.base import Env, Observation, Params, State

_OFFERED = {
    "time": lambda env, state, params: state.time,
    "neighbors": lambda env, state, params: env.row_neighbors(state, params),
}


def asked_by(policy: Any, env: Env, state: State, params: Params) -> tuple[Any, ...]:
    """What a policy takes beside key and observation, as the words in its attribute `takes` say; often nothing.

    - `time`: `state.time`, int32 [], the steps since the reset.
    - `neighbors`: `env.row_neighbors(state, params)`, see there; None where the environment has none.

    Raises:
        ValueError: for another word.
    """
    takes = getattr(policy, "takes", ())
    for word in takes:
        if word not in _OFFERED:
            raise ValueError(f"{type(policy).__name__}.takes = {takes!r}; must be words of {', '.join(_OFFERED)}")
    return tuple(_OFFERED[word](env, state, params) for word in takes)


def act(policy: Any, key: jax.Array, observation: Observation, env: Env, state: State, params: Params) -> jax.Array:
    """The action of any policy, `policy(key, observation, *asked_by(policy, ...))`, of one instance.

    Args:
        policy: the policy.
        key: consumed.
        observation: of the state.
        env: the environment.
        state: of the environment.
        params: of the environment.
    """
    return policy(key, observation, *asked_by(policy, env, state, params))
