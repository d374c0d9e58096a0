"""`grad_report`: how the gradient of a return depends on the horizon, measured over instances."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Real, Whole, as_array, shown
from dmdenv._core.keys import one_key, typed_key
from dmdenv.envs.base import Env, Params
from dmdenv.envs.gradients.program import (
    Actions,
    Gradients,
    Growth,
    Returns,
    differentiate,
    displace,
    numbers,
    perturb,
)
from dmdenv.envs.gradients.report import GradReport
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import compile_first, say
from dmdenv.simulation.progress import progress as progress_bar


def grad_report(
    env: Env,
    policy_or_actions: Callable[[jax.Array, jax.Array], jax.Array] | jax.Array | np.ndarray,
    horizons: Sequence[int] | None = None,
    *,
    params: Params | None = None,
    key: jax.Array | None = None,
    instances: int = 16,
    directions: int = 8,
    step: float = 1e-2,
    progress: bool = True,
) -> GradReport:
    """Measure up to which horizon the gradient of a return can be trusted.

        report = dmdenv.grad_report(env, jnp.zeros((32, *env.action_shape)))
        print(report)
        report.plot("gradients.png")

    The gradient is that of `J(H) = r_1 + ... + r_H` by the numbers x of a policy, or by a sequence of actions that all
    instances share, in reverse mode through the dynamics. It is compared with

        D_k = (J(x + h v_k) - J(x - h v_k)) / 2h

    along K random orthogonal directions v_k, of the same initial states and the same noise. The step h is of the size
    of an update, not as small as possible: where J is rugged on this scale, its exact derivative points nowhere. The
    exponent is the mean rate at which a random displacement of the state grows, in steps H/2 to H.

    Everything is computed by three compiled programs, whatever the number of horizons. Where a capacity of the
    environment overflows, it is enlarged.

    Args:
        env: the environment.
        policy_or_actions: a pytree with floating-point numbers, `policy(key, observation) -> action`; or actions
            `[steps, *action]` within [-1, 1].
        horizons: numbers of steps; by default powers of two, up to the length of an episode or of the actions.
        params: of the environment, `env.default_params` by default.
        key: for initial states, noise and directions, consumed; `jax.random.key(0)` by default.
        instances: B, independent episodes; at least 2.
        directions: K; as many as x has numbers are enough for the whole gradient.
        step: h, which each number of x changes by on average (root mean square).
        progress: whether to show a bar, and to say what is being compiled, on stderr.

    Raises:
        TypeError: for what is no environment, no parameters of it, or no key.
        ValueError: for another bad argument, before anything is compiled.
        CapacityExceeded: when a capacity overflows and cannot grow.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    if not isinstance(env, Env):
        raise TypeError(f"env = {env!r}; must be an environment, such as dmdenv.make_env('flocking')")
    params = env._params(params)
    key = typed_key(one_key(jax.random.key(0) if key is None else key))
    instances = Whole(at_least=2).convert("instances", instances)
    directions = Whole(at_least=1).convert("directions", directions)
    step = Real(above=0).convert("step", step)
    policy, longest = _policy(env, policy_or_actions, params)
    horizons = _horizons(horizons, longest)

    x, _ = numbers(policy)
    instances_key, direction_key = jax.random.split(key)
    keys = jax.random.split(instances_key, instances)
    v = _orthogonal(direction_key, min(directions, x.size), x.size)
    with Interruption() as interruption:

        def run(what: str, function: Any, *arguments: Any) -> Any:
            arguments = (horizons[-1], params, policy, keys, *arguments)
            compile_first(what, function, env, *arguments, interruption=interruption, aloud=progress)
            interruption.check()
            return interruption.wait_for(lambda: jax.device_get(function(env, *arguments)))

        if progress:
            say(f"preparing {env.id} ...")
        interruption.wait_for(env.prepare)
        while True:
            returns: Returns = run("the perturbed episodes", perturb, jnp.asarray(step * v, x.dtype))
            growth: Growth = run("the growth of a displacement", displace)
            if not (returns.overflow or growth.overflow):
                break
            env = env.enlarged()
            interruption.wait_for(env.prepare)
            if progress:
                say(f"a capacity of {env.id} overflowed; repeating with a larger one")
        columns = []
        with progress_bar(horizons, desc="gradients", unit="horizon", disable=not progress) as bar:
            for horizon in bar:
                interruption.check()
                arguments = (env, horizons[-1], params, policy, keys, jnp.int32(horizon))
                if not columns:
                    compile_first("the gradient", differentiate, *arguments, interruption=interruption, aloud=progress)
                found = interruption.wait_for(lambda arguments=arguments: jax.device_get(differentiate(*arguments)))
                columns.append(_summary(found, _slopes(returns, horizon, step), v, growth, horizon))
    summary = {name: np.array([column[name] for column in columns]) for name in columns[0]}
    return GradReport(
        title=f"{env.id} {env.task}",
        varied=f"{x.size} numbers of {'the actions' if isinstance(policy, Actions) else 'the policy'}",
        instances=instances,
        directions=len(v),
        step=step,
        horizons=np.array(horizons),
        **summary,
    )


# --- what a user gives ------------------------------------------------------------------------------------------------


def _policy(env: Env, given: Any, params: Any) -> tuple[Any, int]:
    """A policy, or actions in the place of one, and the longest horizon."""
    max_steps = int(params.max_steps)
    if callable(given):
        if jax.tree_util.all_leaves([given]) or not numbers(given)[0].size:
            raise ValueError(
                f"policy_or_actions = {given!r} has nothing to differentiate by; must be a pytree with floating-point"
                f" numbers, or actions [steps, {', '.join(map(str, env.action_shape))}]"
            )
        return given, max_steps
    valid = f"must be a policy, or finite actions [steps, {', '.join(map(str, env.action_shape))}]"
    values = as_array("policy_or_actions", given, valid.removeprefix("must be "))
    if values.ndim == 0 or values.shape[1:] != env.action_shape or not len(values):
        raise ValueError(f"policy_or_actions has shape {values.shape}; {valid}")
    if values.dtype.kind not in "iuf" or not np.all(np.isfinite(values)):
        raise ValueError(f"policy_or_actions = {shown(values)}; {valid}")
    return Actions(jnp.asarray(values, jnp.result_type(float))), min(max_steps, len(values))


def _horizons(given: Any, longest: int) -> list[int]:
    """Horizons in order, each of them once."""
    if given is None:
        return sorted({2**i for i in range(longest.bit_length())} | {longest})
    if np.ndim(given) != 1 or not len(given):
        raise ValueError(f"horizons = {shown(given)}; must be a sequence of integers from 1 to {longest}")
    rule = Whole(at_least=1, at_most=longest)
    return sorted({rule.convert(f"horizons[{i}]", horizon) for i, horizon in enumerate(given)})


# --- statistics -------------------------------------------------------------------------------------------------------


def _orthogonal(key: jax.Array, count: int, n: int) -> np.ndarray:
    """Random orthogonal directions `[count, n]` whose components are of order 1."""
    normal = np.asarray(jax.random.normal(key, (n, count)), np.float64)
    return np.linalg.qr(normal)[0].T * np.sqrt(n)


def _slopes(returns: Returns, horizon: int, step: float) -> np.ndarray:
    """D of each direction and instance, `[directions, instances]`; NaN where an episode was not finite."""
    ahead, behind = (np.sum(part[..., :horizon], axis=-1, dtype=np.float64) for part in returns.rewards)
    broken = np.any(returns.nonfinite[..., horizon - 1], axis=0)
    return np.where(broken, np.nan, (ahead - behind) / (2 * step))


def _summary(found: Gradients, slopes: np.ndarray, v: np.ndarray, growth: Growth, horizon: int) -> dict[str, float]:
    """The numbers of one horizon."""
    gradients = np.asarray(found.gradients, np.float64)
    finite = ~found.nonfinite & np.all(np.isfinite(gradients), axis=1)
    both = finite & np.all(np.isfinite(slopes), axis=0)
    cosine, ratio = _agreement(_mean(gradients[both]) @ v.T, _mean(slopes[:, both].T))
    return {
        "returns": float(_mean(found.returns[finite])),
        "norm": float(np.linalg.norm(_mean(gradients[finite]))),
        "variance": float(np.sum(np.var(gradients[finite], axis=0, ddof=1))) if np.sum(finite) > 1 else np.nan,
        "nonfinite": float(np.mean(~finite)),
        "cosine": cosine,
        "ratio": ratio,
        "exponent": _exponent(growth, horizon),
    }


def _mean(rows: Any) -> Any:
    """The mean of rows; NaN where there is none."""
    return np.mean(rows, axis=0, dtype=np.float64) if len(rows) else np.full(rows.shape[1:], np.nan)


def _agreement(by_reverse_mode: np.ndarray, by_differences: np.ndarray) -> tuple[float, float]:
    """The cosine of two vectors, and the length of the second over that of the first; 1 and 1 where both vanish."""
    a, b = np.linalg.norm(by_reverse_mode), np.linalg.norm(by_differences)
    if a == b == 0:
        return 1.0, 1.0
    if a == 0 or b == 0:
        return 0.0, float(np.inf if a == 0 else 0.0)
    return float(np.clip(by_reverse_mode / a @ (by_differences / b), -1.0, 1.0)), float(b / a)


def _exponent(growth: Growth, horizon: int) -> float:
    """The mean rate of the second half of the horizon, or of the episode where that ended earlier."""
    rates = [
        np.mean(row[end // 2 : end], dtype=np.float64)
        for row, end in zip(growth.growth, np.minimum(growth.lengths, horizon), strict=True)
    ]
    finite = [rate for rate in rates if not np.isnan(rate)]
    return float(np.mean(finite)) if finite else np.nan
