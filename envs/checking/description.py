"""What is checked without running anything: configuration, parameters, spaces, shapes and types, purity."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dmdenv.envs.base import RESERVED, Env, Params, State
from dmdenv.envs.checking.broken import as_numbers, fail, is_float, require, type_difference
from dmdenv.envs.registry import check_class


def check_description(env: Env, params: Params | None) -> Params:
    """Check all that needs no compilation.

    Returns:
        The parameters, the defaults for None.

    Raises:
        ContractError: for the first thing that is broken.
    """
    _check_configuration(env)
    params = _check_parameters(env, params)
    env.validate(jax.tree.map(np.asarray, params))
    _check_spaces(env, params)
    env.prepare()
    _check_types(env, params)
    _check_purity(env, params)
    return params


def _check_configuration(env: Env) -> None:
    try:
        check_class(type(env), type(env).__name__)
    except TypeError as error:
        fail(env, str(error))
    try:
        hash(env)
    except TypeError as error:
        fail(env, f"it is not hashable ({error}); every field must be, for example a tuple instead of a list")
    copy = dataclasses.replace(env)  # pyright: ignore[reportArgumentType]
    require(env, copy == env and hash(copy) == hash(env), "a copy of the same fields is not equal to it")


def _check_parameters(env: Env, given: Params | None) -> Params:
    """Check that parameters are declared; returns the given ones, the defaults for None."""
    params: Params = env.default_params
    require(env, isinstance(params, Params), f"default_params is a {type(params).__name__}, and no Params")
    for field in dataclasses.fields(params):  # pyright: ignore[reportArgumentType]
        about = f"the parameter {field.name!r}"
        require(
            env, {"unit", "doc", "low", "high"} <= set(field.metadata), f"{about} is not declared by parameter(...)"
        )
        value = getattr(params, field.name)
        array = isinstance(value, jax.Array) and is_float(value)
        require(env, array, f"{about} is {value!r}, and no floating-point array")
    same = jax.tree.map(np.array_equal, params, env.default_params)
    require(env, jax.tree.all(same), "default_params differs from one call to the next")
    if given is None:
        return params
    require(env, type(given) is type(params), f"params is a {type(given).__name__}, and no {type(params).__name__}")
    return given


def _check_spaces(env: Env, params: Params) -> None:
    for name in ("observation_space", "action_space"):
        space, default = getattr(env, name)(params), getattr(env, name)()
        require(env, isinstance(space, gymnasium.spaces.Box), f"{name} is {space!r}, and no Box")
        require(env, np.issubdtype(space.dtype, np.floating), f"{name} has dtype {space.dtype}, and no floats")
        require(env, space.shape == default.shape, f"{name} has another shape with parameters than without")
    space = env.action_space(params)
    require(env, np.all(space.low == -1) and np.all(space.high == 1), f"action_space is {space}, and not from -1 to 1")


def _check_types(env: Env, params: Params) -> None:
    """Shapes and types of what each function returns, by tracing alone."""
    key = jax.random.key(0)
    action = jax.ShapeDtypeStruct(env.action_shape, jnp.result_type(float))
    state = _traced(env, "initial_state", env.initial_state, key, params)
    require(env, isinstance(state, State), f"initial_state returns a {type(state).__name__}, and no State")
    obs = _traced(env, "observe", env.observe, state, params)
    _check_observation(env, obs, params)

    def advance(*arguments):
        state, reward, terminated, metrics = env.advance(*arguments)
        return state, jnp.asarray(reward), jnp.asarray(terminated), {k: jnp.asarray(v) for k, v in metrics.items()}

    after, reward, terminated, metrics = _traced(env, "advance", advance, key, state, action, params)
    if problem := type_difference(state, after):
        fail(env, f"advance returns a state of another type: {problem}")
    require(env, reward.shape == () and is_float(reward), f"advance returns a reward {_type(reward)}, and no float []")
    require(env, _type(terminated) == "bool[]", f"advance returns terminated as {_type(terminated)}, and no bool []")
    for name, value in metrics.items():
        require(env, name not in RESERVED, f"the metric {name!r} has a name that is reserved: {', '.join(RESERVED)}")
        require(env, value.shape == (), f"the metric {name!r} is {_type(value)}, and no scalar")
    for name, policy in env.baselines(params).items():
        found = _traced(env, f"the baseline {name!r}", policy, key, obs)
        require(env, found.shape == action.shape, f"the baseline {name!r} gives actions {list(found.shape)}")

    for any_key in (key, jax.random.PRNGKey(0)):
        if problem := type_difference((obs, state), _traced(env, "reset", env.reset, any_key, params)):
            fail(env, f"reset returns something else than observe and initial_state: {problem}")
        steps = [_traced(env, f.__name__, f, any_key, state, action, params) for f in (env.step_env, env.step)]
        if problem := type_difference(*steps):
            fail(env, f"step returns something else than step_env: {problem}")
        info = steps[0][5]
        expected = {"final_observation", "overflow", "nonfinite", *metrics}
        require(env, set(info) == expected, f"info has {', '.join(info)}, and not {', '.join(sorted(expected))}")
    try:
        jax.eval_shape(env.step, key, state, jax.ShapeDtypeStruct((*env.action_shape, 7), action.dtype), params)
    except ValueError:
        return
    fail(env, "step takes an action of the wrong shape")


def _check_observation(env: Env, obs: Any, params: Params) -> None:
    shape = env.observation_space(params).shape
    require(env, hasattr(obs, "shape"), f"observe returns {obs}, and no array")
    require(env, obs.shape == shape, f"observe returns shape {list(obs.shape)}, observation_space has {list(shape)}")
    require(env, is_float(obs), f"observe returns {obs.dtype}, and no floats")


def _check_purity(env: Env, params: Params) -> None:
    """Tracing twice gives the same program."""
    key, action = jax.random.key(0), jnp.zeros(env.action_shape)
    state = jax.eval_shape(env.initial_state, key, params)
    calls = {
        "initial_state": (key, params),
        "advance": (key, state, action, params),
        "observe": (state, params),
    }
    for name, arguments in calls.items():
        programs = [_program(getattr(env, name), *arguments) for _ in range(2)]
        require(env, programs[0] == programs[1], f"{name} is not pure: traced twice, it is not the same program")


def _program(function: Callable, *arguments: Any) -> tuple[str, list[bytes]]:
    """What is traced, and its constants, without addresses of memory."""

    def plain(*arguments):  # a new function each time, as traces are kept; without mappings, which are no trees
        result = function(*arguments)
        return (*result[:3], dict(result[3])) if isinstance(result, tuple) and len(result) == 4 else result

    closed = jax.make_jaxpr(plain)(*arguments)
    return re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)), [as_numbers(leaf).tobytes() for leaf in closed.consts]


def _traced(env: Env, name: str, function: Callable, *arguments: Any) -> Any:
    """The types of what a function returns; the environment must keep nothing of the trace."""
    try:
        types = jax.eval_shape(function, *arguments)
        for attribute, value in vars(env).items():
            kept = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))
            require(env, not kept, f"its attribute {attribute!r} keeps a value of a trace; compute it in prepare()")
        return types
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError, jax.errors.UnexpectedTracerError) as error:
        fail(env, f"{name} cannot be compiled: {error}")


def _type(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
