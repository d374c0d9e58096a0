"""Derivatives against central differences, in float64; and none through a reset.

The function is two steps long, from a state y under actions a and with parameters p,

    F(y, a, p) = (observation, final observation, reward) of each step,

so that derivatives pass through the state. For a direction v in y, in a or in p, each component of

    D(h) = (F(x + h v) - F(x - h v)) / 2 h

is compared with reverse mode, w . D(h) = (w J) . v, for random weights w of the observations, and of the rewards.
A component has weight 0 where D(h) and D(h / 2), or the slopes to the two sides, do not agree: a jump, or a kink.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import split_floats
from dmdenv.envs.base import Env, Params
from dmdenv.envs.checking.broken import fail, is_float, named_leaves, require
from dmdenv.neighbors import NeighborList

_STEPS = 2
_POINTS = 4
_H = 1e-6  # in units of 1, or of a parameter
_STENCIL = (0.0, _H, -_H, _H / 2, -_H / 2)
_GROUPS = ("state", "actions", "parameters")
_OUTPUTS = ("observation", "reward")


class _Inputs(NamedTuple):
    """What a rollout depends on; for a batch, leaves with a leading axis of points."""

    state: Any
    actions: jax.Array  # [steps, *action]
    parameters: Any
    keys: jax.Array  # [steps]


class _Differences(NamedTuple):
    """Central differences of one output along one direction, `[points, ...]`."""

    slope: np.ndarray  # at half of the step size
    error: np.ndarray  # by how much that at the whole step size differs, and rounding
    smooth: np.ndarray  # bool: neither a jump nor a kink


def check_gradients(env: Env, params: Params) -> None:
    """Check derivatives; to be called with float64 enabled.

    Raises:
        ContractError: where the environment does not compute in float64; where a derivative is not finite, differs from
            central differences, or flows through a reset; where there is nothing smooth to compare.
    """
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    env.prepare()

    def rollout(inputs: _Inputs) -> tuple[dict[str, jax.Array], tuple[Any, jax.Array]]:
        def step(state, inputs_of_step):
            key, action = inputs_of_step
            obs, state, reward, terminated, truncated, info = env.step(key, state, action, inputs.parameters)
            seen = {"observation": jnp.stack([info["final_observation"], obs]), "reward": reward}
            return state, (seen, terminated | truncated)

        state, (seen, done) = jax.lax.scan(step, inputs.state, (inputs.keys, inputs.actions))
        return seen, (state, jnp.any(done))

    def pull_back(inputs: _Inputs, weights: dict[str, jax.Array]) -> list[jax.Array]:
        floats, merge = split_floats(inputs)
        _, pull = jax.vjp(lambda floats: rollout(merge(floats))[0], floats)
        return pull(weights)[0]

    compiled = jax.jit(jax.vmap(rollout)), jax.jit(jax.vmap(pull_back))
    inputs = _points(env, params)
    # two steps before, as the start of an episode may be a special place: at rest, or on a kink
    _, (states, _) = compiled[0](_concatenated([inputs] * (len(_GROUPS) * len(_STENCIL))))
    states = jax.tree.map(lambda leaf: leaf[:_POINTS], states)
    for ending in (False, True):
        time = jnp.full(_POINTS, int(params.max_steps) - 1 if ending else 0, jnp.int32)
        _compare(env, *compiled, inputs._replace(state=dataclasses.replace(states, time=time)), ending)


def _points(env: Env, params: Params) -> _Inputs:
    """Starts of episodes, with random actions."""
    reset_key, action_key, step_key = jax.random.split(jax.random.key(11), 3)
    obs, states = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(reset_key, _POINTS), params)
    for name, leaf in named_leaves({"observation": obs, "state": states}):
        require(env, not is_float(leaf) or leaf.dtype == jnp.float64, f"with jax_enable_x64, {name} is {leaf.dtype}")
    return _Inputs(
        state=states,
        actions=jax.random.uniform(action_key, (_POINTS, _STEPS, *env.action_shape), minval=-0.9, maxval=0.9),
        parameters=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (_POINTS, *leaf.shape)), params),
        keys=jax.random.split(step_key, (_POINTS, _STEPS)),
    )


def _compare(env: Env, rollout: Callable, pull_back: Callable, inputs: _Inputs, ending: bool) -> None:
    """Compare at some points, in steps of which the first ends the episode, or none does."""
    floats, merge = split_floats(inputs)
    directions = _directions(inputs)
    stencils = [
        merge([x if v is None else x + h * v for x, v in zip(floats, directions[group], strict=True)])
        for group in _GROUPS
        for h in _STENCIL
    ]
    seen, (_, done) = rollout(_concatenated(stencils))
    parts = (len(_GROUPS), len(_STENCIL), _POINTS)
    ended = np.asarray(done).reshape(parts).any(axis=(0, 1))
    rng, weights, differences = np.random.default_rng(0), {}, {}
    for g, group in enumerate(_GROUPS):
        for name in _OUTPUTS:
            values = np.asarray(seen[name])
            found = _difference(values.reshape(*parts, *values.shape[1:])[g])
            w = rng.normal(size=found.slope.shape) * found.smooth
            if group == "parameters":
                w[ended] = 0.0  # a fresh episode depends on them, and the gradient stops there
            elif not w.any():
                fail(
                    env,
                    f"the derivative of the {name} with respect to {group} cannot be checked: central differences of"
                    " two step sizes agree nowhere; it must be smooth in places (or pass gradients=False)",
                )
            weights[group, name], differences[group, name] = w, found
    if ending:
        _check_reset(env, pull_back, inputs, weights)
    for (group, name), gradient in _gradients(pull_back, inputs, weights).items():
        for point in range(_POINTS):
            w, found = weights[group, name][point], differences[group, name]
            pairs = [(x[point], v[point]) for x, v in zip(gradient, directions[group], strict=True) if v is not None]
            if not w.any() or not pairs:
                continue
            what = f"the derivative of the {name} with respect to {group}"
            require(env, all(np.all(np.isfinite(x)) for x, _ in pairs), f"{what} is not finite")
            slope, expected = sum(np.sum(x * v) for x, v in pairs), np.sum(w * found.slope[point])
            allowed = np.sum(np.abs(w) * (1e-4 * np.abs(found.slope[point]) + 2 * found.error[point]))
            close = abs(slope - expected) <= allowed
            require(env, close, f"{what} is {slope:.6g} by reverse mode, and {expected:.6g} by central differences")


def _check_reset(env: Env, pull_back: Callable, inputs: _Inputs, weights: dict[tuple[str, str], np.ndarray]) -> None:
    """The first observation of an episode has no derivative by what was before it, nor by a parameter."""
    fresh = {pair: np.zeros_like(w) for pair, w in weights.items()}
    for (_, name), w in fresh.items():
        if name == "observation":
            w[:, 0, 1] = 1.0  # after the first step, which ends an episode
    gradients = _gradients(pull_back, inputs, fresh).values()
    stopped = all(not np.any(leaf) for gradient in gradients for leaf in gradient)
    require(env, stopped, "a gradient flows through a reset")


def _gradients(
    pull_back: Callable, inputs: _Inputs, weights: dict[tuple[str, str], np.ndarray]
) -> dict[tuple[str, str], list[np.ndarray]]:
    """For the weights of each group and output, the derivatives by each float leaf of the inputs, `[points, ...]`."""
    stacked = {
        name: np.concatenate(
            [w if own == name else np.zeros_like(weights[group, name]) for (group, own), w in weights.items()]
        )
        for name in _OUTPUTS
    }
    result = pull_back(_concatenated([inputs] * len(weights)), stacked)
    leaves = [np.asarray(leaf).reshape(len(weights), _POINTS, *leaf.shape[1:]) for leaf in result]
    return {pair: [leaf[i] for leaf in leaves] for i, pair in enumerate(weights)}


def _difference(values: np.ndarray) -> _Differences:
    """Central differences of values at the stencil, `[stencil, points, ...]`."""
    middle, ahead, behind, near_ahead, near_behind = values
    slope = (near_ahead - near_behind) / _H
    rounding = 1e2 * np.finfo(float).eps * (1.0 + np.abs(middle)) / _H
    error = np.abs(slope - (ahead - behind) / (2 * _H))
    kink = np.abs(near_ahead - 2 * middle + near_behind) / (_H / 2)  # the slopes to the two sides differ by it
    allowed = 1e-2 * np.abs(slope) + 10 * rounding
    return _Differences(slope, error + rounding, (error <= allowed) & (kink <= allowed))


def _directions(inputs: _Inputs) -> dict[str, list[np.ndarray | None]]:
    """A random direction in each group, by float leaf, `[points, ...]`; None for what stays as it is.

    These are what a list of neighbours holds, whole numbers among the parameters, and those at an end of their range.
    """
    rng = np.random.default_rng(1)

    def is_list(node):
        return isinstance(node, NeighborList)

    fixed = jax.tree.map(lambda node: jax.tree.map(lambda _: is_list(node), node), inputs, is_leaf=is_list)
    found: dict[str, list[np.ndarray | None]] = {group: [] for group in _GROUPS}
    for (path, leaf), stays in zip(jax.tree_util.tree_leaves_with_path(inputs), jax.tree.leaves(fixed), strict=True):
        if not is_float(leaf):
            continue
        own = path[0].name
        scale = _scale(inputs.parameters, path[-1].name) if own == "parameters" else np.ones(_POINTS)
        v = rng.normal(size=leaf.shape) * scale.reshape(-1, *[1] * (leaf.ndim - 1))
        for group in _GROUPS:
            found[group].append(v if group == own and not stays and scale.any() else None)
    return found


def _scale(params: Params, name: str) -> np.ndarray:
    """By how much a parameter may change, in units of the step size, `[points]`; 0 where it may not."""
    (field,) = (field for field in dataclasses.fields(params) if field.name == name)
    value = np.asarray(getattr(params, name)).reshape(_POINTS, -1)
    size = np.where(np.any(value != 0, axis=1), np.max(np.abs(value), axis=1), 1.0)
    room = np.minimum(np.min(value, axis=1) - field.metadata["low"], field.metadata["high"] - np.max(value, axis=1))
    return np.where(room > 10 * _H * size, size, 0.0) * (not field.metadata["rule"].integral)


def _concatenated(batches: list[_Inputs]) -> _Inputs:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
