"""What is checked by running: finite numbers, batches, compiled against eager, the ends of episodes, pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Env, Params
from dmdenv.envs.checking.broken import as_numbers, fail, is_float, named_leaves, require, value_difference

_STEPS = 8  # in them an episode of each instance ends


class _Programs(NamedTuple):
    """Compiled functions of a batch, and of one instance."""

    reset: Callable
    step: Callable
    single: Callable
    traces: list[None]  # one entry for each trace of `single`


class _Step(NamedTuple):
    """A step of the batch."""

    keys: jax.Array
    states: Any
    actions: jax.Array
    outputs: tuple[Any, ...]


def check_behaviour(env: Env, params: Params, seeds: int) -> None:
    """Check what takes compilation, without derivatives.

    Raises:
        ContractError: for the first thing that is broken.
    """
    traces: list[None] = []

    def single(key, state, action, params):
        traces.append(None)
        return env.step(key, state, action, params)

    programs = _Programs(
        jax.jit(jax.vmap(env.reset, (0, None))), jax.jit(jax.vmap(env.step, (0, 0, 0, None))), jax.jit(single), traces
    )
    steps = _check_episodes(env, programs, params, seeds)
    _check_bad_instance(env, programs, params, steps[0])
    _check_clipping(env, programs, params, steps[0])
    _check_single(env, programs, params, steps)
    _check_parameters_are_dynamic(env, programs, params, steps[0])
    _check_eager(env, programs, params, steps[0])
    _check_picture(env, params, instance(steps[0].states, 0))


def _check_episodes(env: Env, programs: _Programs, params: Params, seeds: int) -> list[_Step]:
    """From many seeds, with random actions and over the end of an episode in each instance."""
    space, limit = env.observation_space(params), int(params.max_steps)
    obs, states = programs.reset(jax.random.split(jax.random.key(0), seeds), params)
    _check_values(env, "reset", obs, {}, states, space)
    require(env, not np.any(states.time), "initial_state returns a time that is not 0")
    require(env, not np.any(states.nonfinite), "initial_state returns a state with nonfinite set")
    # clocks that make the episodes end one after another
    states = dataclasses.replace(states, time=jnp.maximum(limit - 1 - jnp.arange(seeds) % _STEPS, 0).astype(jnp.int32))
    steps = []
    for t in range(_STEPS):
        key, action_key = jax.random.split(jax.random.key(1 + t))
        keys = jax.random.split(key, seeds)
        actions = jax.random.uniform(action_key, (seeds, *env.action_shape), minval=-1, maxval=1)
        outputs = programs.step(keys, states, actions, params)
        steps.append(_Step(keys, states, actions, outputs))
        obs, after, reward, terminated, truncated, info = outputs
        require(env, not np.any(info["nonfinite"]), f"at a random action, numbers are not finite (seed {_first(info)})")
        _check_values(env, "step", obs, {**info, "reward": reward}, after, space)
        _check_end(env, programs, params, steps[-1], limit)
        states = after
    return steps


def _check_values(env: Env, name: str, obs: jax.Array, info: dict[str, Any], states: Any, space: Any) -> None:
    for what, values in {**dict(named_leaves(states)), **info, "the observation": obs}.items():
        if is_float(values):
            require(env, np.all(np.isfinite(values)), f"after {name}, {what} is not finite")
    for values in (obs, info.get("final_observation", obs)):
        inside = np.all(np.asarray(values) >= space.low) and np.all(np.asarray(values) <= space.high)
        require(env, inside, f"after {name}, an observation is outside of observation_space")


def _check_end(env: Env, programs: _Programs, params: Params, step: _Step, limit: int) -> None:
    """Episodes end at their limit, and a fresh one begins in the same step."""
    obs, after, _, terminated, truncated, info = (jax.tree.map(as_numbers, part) for part in step.outputs)
    over, done = np.asarray(step.states.time) + 1 >= limit, terminated | truncated
    require(env, np.all(done[over]), "an episode goes on beyond max_steps")
    require(env, not np.any(truncated & (terminated | ~over)), "an episode is truncated before max_steps")
    require(env, not env.finite_horizon or not np.any(truncated), "an episode of finite horizon is truncated")
    time = np.where(done, 0, np.asarray(step.states.time) + 1)
    require(env, np.array_equal(after.time, time), "the time of a state is not the number of steps in its episode")
    last = info["final_observation"]
    require(env, np.array_equal(last[~done], obs[~done]), "final_observation is not the observation of a step")
    if done.any():
        reset_keys = jax.vmap(jax.random.split)(step.keys)[:, 1]
        fresh = jax.tree.map(lambda leaf: leaf[done], programs.reset(reset_keys, params))
        found = jax.tree.map(lambda leaf: leaf[done], (step.outputs[0], step.outputs[1]))
        if problem := value_difference(fresh, found):
            fail(env, f"after the end of an episode, the state is not a fresh one: {problem}")


def _check_bad_instance(env: Env, programs: _Programs, params: Params, step: _Step) -> None:
    """A NaN in one instance ends it, is not passed on, and harms no other instance."""
    states = jax.tree.map(lambda x: x.at[1].set(jnp.nan) if is_float(x) else x, step.states)
    if not any(is_float(leaf) for leaf in jax.tree.leaves(states)):
        return
    outputs = programs.step(step.keys, states, step.actions, params)
    obs, after, reward, terminated, _, info = outputs
    require(env, info["nonfinite"][1] and terminated[1], "a state that is NaN does not set nonfinite and terminate")
    for what, values in dict(named_leaves((obs, after, reward, info))).items():
        require(env, not is_float(values) or np.all(np.isfinite(values)), f"a NaN of a state leaks into {what}")
    others = np.arange(len(step.keys)) != 1
    kept = [jax.tree.map(lambda leaf: leaf[others], tree) for tree in (step.outputs, outputs)]
    if problem := value_difference(*kept):
        fail(env, f"a NaN in one instance changes another one: {problem}")


def _check_clipping(env: Env, programs: _Programs, params: Params, step: _Step) -> None:
    corners = jnp.where(step.actions > 0, 1.0, -1.0).astype(step.actions.dtype)
    inside, outside = (programs.step(step.keys, step.states, scale * corners, params) for scale in (1.0, 7.0))
    if problem := value_difference(inside, outside):
        fail(env, f"actions beyond [-1, 1] are not clipped: {problem}")


def _check_single(env: Env, programs: _Programs, params: Params, steps: list[_Step]) -> None:
    """One instance does what it does in a batch, in a step that ends its episode too."""
    tolerances = _sensitivity(programs, params, steps[0])
    for step, i in ((steps[0], 0), (steps[0], 1), (steps[0], 2)):  # the first one ends its episode
        single = programs.single(step.keys[i], instance(step.states, i), step.actions[i], params)
        if problem := value_difference(instance(step.outputs, i), single, tolerances):
            fail(env, f"one instance and the same one in a batch differ: {problem}")
        step_key, _ = jax.random.split(step.keys[i])
        obs, *rest = env.step_env(step_key, instance(step.states, i), step.actions[i], params)
        if problem := value_difference(single[2:], rest[1:], [max(tolerances)] * len(tolerances)):
            fail(env, f"step and step_env differ in reward, terminated, truncated and info: {problem}")
        if problem := value_difference(single[5]["final_observation"], obs, [max(tolerances)]):
            fail(env, f"final_observation is not that of step_env: {problem}")


def _sensitivity(programs: _Programs, params: Params, step: _Step) -> list[float]:
    """How much a change of the states by rounding errors changes each output, times 16."""

    def nudge(leaf):
        return leaf * (1 + jnp.finfo(leaf.dtype).eps) if is_float(leaf) else leaf

    outputs = programs.step(step.keys, jax.tree.map(nudge, step.states), step.actions, params)
    pairs = zip(jax.tree.leaves(step.outputs), jax.tree.leaves(outputs), strict=True)
    return [
        16.0 * float(np.max(np.abs(as_numbers(a) - as_numbers(b)), initial=0.0)) if is_float(a) else 0.0
        for a, b in pairs
    ]


def _check_parameters_are_dynamic(env: Env, programs: _Programs, params: Params, step: _Step) -> None:
    for max_steps in (5, np.float64(7), jnp.float32(9)):
        changed = params.replace(max_steps=max_steps)
        programs.single(step.keys[0], instance(step.states, 0), step.actions[0], changed)
    require(env, len(programs.traces) == 1, "step is compiled anew where a parameter changes")


def _check_eager(env: Env, programs: _Programs, params: Params, step: _Step) -> None:
    """Outside of `jit` the functions compute the same, and leave their arguments as they were."""
    state, action = instance(step.states, 1), step.actions[1]
    step_key, reset_key = jax.random.split(step.keys[1])
    arguments = (state, params)
    before = jax.tree.map(lambda leaf: np.array(as_numbers(leaf)), arguments)
    fresh = env.initial_state(reset_key, params)
    moved, reward, terminated, metrics = env.advance(step_key, state, action, params)
    moved = dataclasses.replace(moved, time=state.time + 1)
    observations = env.observe(fresh, params), env.observe(moved, params)
    unchanged = jax.tree.map(lambda leaf, old: np.array_equal(as_numbers(leaf), old), arguments, before)
    require(env, jax.tree.all(unchanged), "advance, observe or initial_state changes its arguments")
    compiled_obs, compiled_fresh = env.reset(reset_key, params)
    if problem := value_difference((compiled_obs, compiled_fresh), (observations[0], fresh)):
        fail(env, f"initial_state and observe, compiled and eager, differ: {problem}")
    compiled = env.step_env(step_key, state, action, params)
    tolerances = max(_sensitivity(programs, params, step))
    names = ("observation", "state", "reward")
    for name, a, b in zip(names, compiled, (observations[1], moved, reward), strict=False):
        if problem := value_difference(a, b, [tolerances] * len(jax.tree.leaves(a))):
            fail(env, f"advance and observe, compiled and eager, differ: the {name}, {problem}")


def _check_picture(env: Env, params: Params, state: Any) -> None:
    picture = env.render(state, params)
    image = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    image = image and picture.ndim == 3 and picture.shape[2] == 3 and min(picture.shape) > 0
    require(env, image, "render returns no image, uint8 [H, W, 3]")


def instance(tree: Any, index: int) -> Any:
    """One instance of a batch."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _first(info: dict[str, jax.Array]) -> int:
    return int(np.argmax(info["nonfinite"]))
