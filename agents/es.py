"""Evolution strategies: search the weights of a policy by the returns of a population, without a derivative.

The weights are normally distributed around the mean m. Each update draws a population of P members, runs all of them
through the same fresh episodes, and moves the distribution towards those with the higher mean returns:

- `openai`: `N(m, s^2)` with a fixed s, drawn in pairs `w_i = m + s z_i` and `m - s z_i`; Adam ascends
  `sum_i rank_i z_i / (P s)`, which estimates the derivative of the mean return by m, with ranks in [-1/2, 1/2] in the
  place of returns.
- `cmaes`: `N(m, s^2 C)`, whose step size s and covariance C adapt to what was successful, see `dmdenv.search.cmaes`;
  for some hundred weights.

To search parameters of an environment instead of a policy's weights, see `dmdenv.search.minimize`.

References: Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning",
arXiv:1703.03864 (2017), algorithm 1 with mirrored sampling and fitness shaping; Hansen, "The CMA Evolution Strategy: A
Tutorial", arXiv:1604.00772 (2016).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from dmdenv._core.fields import Declared, choice, real, sizes, whole
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents.base import Metrics, SpaceMismatchError
from dmdenv.agents.evaluate import Evaluation, evaluate
from dmdenv.agents.networks import NETWORKS, DeterministicPolicy, deterministic_policy
from dmdenv.envs.base import Env, Params
from dmdenv.search.cmaes import MOST_NUMBERS, Distribution, draw, learn


@dataclasses.dataclass(frozen=True)
class Config(Declared):
    """Evolution strategies.

    Raises:
        ValueError: for a bad value; the message names the field, the value and what is valid.
    """

    updates: int = whole(300, at_least=1, at_most=10**9)
    """Updates of the distribution in a training run."""
    method: str = choice("openai", of=("openai", "cmaes"))
    """openai; or cmaes, for some hundred weights."""
    population: int = whole(64, at_least=4, at_most=10**4)
    """Members of the population; even for openai."""
    episodes: int = whole(2, at_least=1, at_most=10**6)
    """Episodes of each member per update, the same for all members."""
    steps: int | None = whole(None, at_least=1, at_most=10**9, optional=True)
    """Steps of an episode that count, from its start; None for all."""
    network: str = choice("rows", of=NETWORKS)
    """rows; neighbors: rows hear their neighbours; whole: one network of all that is observed."""
    hidden: tuple[int, ...] = sizes((16,))
    """Sizes of the policy's hidden layers."""
    spread: float = real(0.1, above=0)
    """Standard deviation of each weight in the population; for cmaes the initial one."""
    learning_rate: float = real(0.03, above=0)
    """Initial learning rate of Adam, for openai; decays to zero along half a cosine."""

    def __post_init__(self):
        super().__post_init__()
        if self.method == "openai" and self.population % 2:
            raise ValueError(f"Config.population = {self.population}; must be even for method = 'openai'")

    @property
    def steps_per_update(self) -> int:
        """The environment steps of an update, in all episodes of all members together.

        Raises:
            ValueError: when `steps` is None.
        """
        if self.steps is None:
            raise ValueError("Config.steps = None; must be an integer >= 1 for the number of steps per update")
        return self.population * self.episodes * self.steps


@pytree
class TrainState(Replaceable):
    """Everything that evolves during training."""

    policy: DeterministicPolicy  # with the mean weights
    search: optax.OptState | Distribution  # of openai, of cmaes
    key: jax.Array  # []
    updates: jax.Array  # int32 []


def init(env: Env, config: Config, key: jax.Array, *, params: Params | None = None) -> TrainState:
    """The state before the first update.

    Raises:
        SpaceMismatchError: when the network does not fit the environment's spaces, or has too many weights for cmaes.
    """
    key, policy_key = jax.random.split(key)
    policy = deterministic_policy(env, config.hidden, policy_key, network=config.network)
    mean, _ = ravel_pytree(policy)
    if config.method == "openai":
        search = _adam(config).init(mean)
    elif mean.size <= MOST_NUMBERS:
        search = Distribution.around(mean, config.spread)
    else:
        raise SpaceMismatchError(
            f"a policy with hidden = {config.hidden} has {mean.size} weights; must be at most {MOST_NUMBERS} for method"
            " = 'cmaes'"
        )
    return TrainState(policy=policy, search=search, key=key, updates=jnp.int32(0))


def update(env: Env, config: Config, state: TrainState, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """One generation: draw, run, move.

    A member in whose episodes something was not finite ranks last.

    Returns:
        `(state, metrics)`; the metrics are scalars, over all members: `loss` (minus the mean return), and the mean over
        all steps of all episodes of the `reward` and of every scalar in `info`.
    """
    key, draw_key, episode_key = jax.random.split(state.key, 3)
    mean, unravel = ravel_pytree(state.policy)

    def run(weights):
        policy = unravel(weights)
        return evaluate(env, policy, episode_key, episodes=config.episodes, steps=config.steps, params=params)

    move = {"openai": _move_openai, "cmaes": _move_cmaes}[config.method]
    mean, search, evaluation = move(config, draw_key, mean, state.search, jax.vmap(run))
    state = TrainState(policy=unravel(mean), search=search, key=key, updates=state.updates + 1)
    return state, {"loss": -jnp.mean(evaluation.returns), **evaluation.step_means}


def train(env: Env, config: Config, key: jax.Array, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """A whole training run: `init`, then `config.updates` times `update`.

    Returns:
        `(state, metrics)`, the metrics of all updates `[updates]`.
    """
    state = init(env, config, key, params=params)
    return jax.lax.scan(lambda state, _: update(env, config, state, params=params), state, length=config.updates)


def with_capacity(env: Env, state: TrainState, *, params: Params | None = None) -> TrainState:
    """The state itself: it holds none of the environment's."""
    return state


def policy(env: Env, config: Config, state: TrainState) -> DeterministicPolicy:
    """The policy with the mean weights."""
    return state.policy


# --- the strategies ---------------------------------------------------------------------------------------------------

Run = Callable[[jax.Array], Evaluation]  # of weights [P, n], arrays [P, episodes, steps]


def _move_openai(
    config: Config, key: jax.Array, mean: jax.Array, search: Any, run: Run
) -> tuple[jax.Array, Any, Evaluation]:
    """The next mean and state of Adam, and how the population did."""
    z = jax.random.normal(key, (config.population // 2, mean.size), mean.dtype)
    z = jnp.concatenate([z, -z])
    evaluation = run(mean[None] + config.spread * z)
    gradient = centred_ranks(_losses(evaluation)) @ z / (config.population * config.spread)
    change, search = _adam(config).update(gradient, search)
    return optax.apply_updates(mean, change), search, evaluation  # pyright: ignore[reportReturnType]


def _move_cmaes(
    config: Config, key: jax.Array, mean: jax.Array, search: Any, run: Run
) -> tuple[jax.Array, Any, Evaluation]:
    """The next mean and distribution, and how the population did."""
    generation = draw(key, search, config.population)
    evaluation = run(generation.points)
    search, _ = learn(search, generation, _losses(evaluation))
    return search.mean, search, evaluation


def _losses(evaluation: Evaluation) -> jax.Array:
    """Minus the mean return of each member, `[P]`; infinite where something was not finite."""
    returns = jnp.mean(evaluation.returns, axis=1)
    failed = jnp.any(evaluation.metrics["nonfinite"] > 0.0, axis=(1, 2)) | ~jnp.isfinite(returns)
    return jnp.where(failed, jnp.inf, -returns)


def centred_ranks(values: jax.Array) -> jax.Array:
    """The share of smaller values minus that of larger ones, halved, `[P]`: in (-1/2, 1/2), equal for equal values."""
    one, other = values[:, None], values[None]
    return (jnp.mean(one > other, axis=1) - jnp.mean(one < other, axis=1)) / 2


def _adam(config: Config) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))
