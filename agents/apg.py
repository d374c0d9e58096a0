"""Analytic policy gradient: ascend the reward by its exact gradient through the dynamics.

A batch of `B` environments runs for a window of `T` steps under the policy `a = pi_w(o)`. The loss is

    L(w) = -1/B sum_b  sum_t g^t r_{b,t} / sum_t g^t,      t = 0 .. T-1,

and its derivative by the weights goes through policy, observation and dynamics of all steps of the window. The next
window starts where this one ended, treated as a constant: the gradient sees `T` steps ahead, and reverse mode stores
one window.

Reference: Freeman et al., "Brax - A Differentiable Physics Engine for Large Scale Rigid Body Simulation",
arXiv:2106.13281 (2021), section 5, where it is called direct policy optimization.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from dmdenv._core.fields import Declared, choice, real, sizes, whole
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents import windows
from dmdenv.agents.base import Metrics
from dmdenv.agents.networks import NETWORKS, DeterministicPolicy, deterministic_policy
from dmdenv.agents.optimization import clipped_adam, descend
from dmdenv.envs.acting import act
from dmdenv.envs.base import Env, Observation, Params, State


@dataclasses.dataclass(frozen=True)
class Config(Declared):
    """Analytic policy gradient.

    Raises:
        ValueError: for a bad value; the message names the field, the value and what is valid.
    """

    updates: int = whole(100, at_least=1, at_most=10**9)
    """Updates of the policy in a training run."""
    num_envs: int = whole(64, at_least=1, at_most=10**9)
    """Environments in the batch."""
    window: int = whole(32, at_least=1, at_most=10**9)
    """Steps per update, and how far ahead the gradient sees; chaotic tasks need fewer, see their pages in docs/."""
    network: str = choice("rows", of=NETWORKS)
    """rows; neighbors: rows hear their neighbours; whole: one network of all that is observed."""
    hidden: tuple[int, ...] = sizes((64, 64))
    """Sizes of the policy's hidden layers."""
    learning_rate: float = real(3e-3, above=0)
    """Initial learning rate of Adam; decays to zero along half a cosine."""
    max_gradient_norm: float = real(1.0, above=0)
    """Longer gradients are scaled down to this norm."""
    discount: float = real(1.0, above=0, at_most=1)
    """Weight of a reward relative to that of the step before it, within a window; 1 weighs all steps equally."""

    @property
    def steps_per_update(self) -> int:
        """The environment steps of an update, in all environments together."""
        return self.num_envs * self.window


@pytree
class TrainState(Replaceable):
    """Everything that evolves during training."""

    policy: DeterministicPolicy
    optimizer: optax.OptState
    env_states: State  # each leaf [num_envs, ...]
    observations: Observation  # [num_envs, ...]
    key: jax.Array  # []
    updates: jax.Array  # int32 []


def init(env: Env, config: Config, key: jax.Array, *, params: Params | None = None) -> TrainState:
    """The state before the first update.

    Raises:
        SpaceMismatchError: when the network does not fit the environment's spaces.
    """
    params = env.default_params if params is None else params
    key, policy_key, reset_key = jax.random.split(key, 3)
    policy = deterministic_policy(env, config.hidden, policy_key, network=config.network)
    env_states, observations = windows.begin(env, reset_key, params, num_envs=config.num_envs, steps=config.window)
    return TrainState(
        policy=policy,
        optimizer=_optimizer(config).init(policy),  # pyright: ignore[reportArgumentType]
        env_states=env_states,
        observations=observations,
        key=key,
        updates=jnp.int32(0),
    )


def update(env: Env, config: Config, state: TrainState, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """One window, one step of Adam.

    A gradient that is not finite is dropped: policy and optimiser stay as they are, and the metric `skipped` is 1.

    Returns:
        `(state, metrics)`; the metrics are scalars: `loss`, `reward` (mean over batch and window), `gradient_norm`
        (before clipping), `skipped`, and the mean over batch and window of every scalar in `info`, among them
        `overflow` and `nonfinite`.
    """
    params = env.default_params if params is None else params
    key, window_key = jax.random.split(state.key)

    def loss_of(policy):
        return window_loss(env, config, policy, state.env_states, state.observations, window_key, params=params)

    (loss, (env_states, observations, metrics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.policy)
    policy, optimizer, steps = descend(_optimizer(config), gradient, state.policy, state.optimizer)
    state = TrainState(
        policy=policy,
        optimizer=optimizer,
        env_states=env_states,
        observations=observations,
        key=key,
        updates=state.updates + 1,
    )
    return state, {"loss": loss, **steps, **metrics}


def train(env: Env, config: Config, key: jax.Array, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """A whole training run: `init`, then `config.updates` times `update`.

    Returns:
        `(state, metrics)`, the metrics of all updates `[updates]`.
    """
    state = init(env, config, key, params=params)
    return jax.lax.scan(lambda state, _: update(env, config, state, params=params), state, length=config.updates)


def with_capacity(env: Env, state: TrainState, *, params: Params | None = None) -> TrainState:
    """A training state from the same environment with other static capacities, as one of this environment."""
    params = env.default_params if params is None else params
    env_states, observations = windows.with_capacity(env, state.env_states, params)
    return state.replace(env_states=env_states, observations=observations)


def policy(env: Env, config: Config, state: TrainState) -> DeterministicPolicy:
    """The policy of a state."""
    return state.policy


def window_loss(
    env: Env,
    config: Config,
    policy: DeterministicPolicy,
    env_states: State,
    observations: Observation,
    key: jax.Array,
    *,
    params: Params,
) -> tuple[jax.Array, tuple[State, Observation, Metrics]]:
    """The loss of one window, see the module's formula; to be differentiated by `policy`.

    Args:
        env: the environment.
        config: the agent's settings.
        policy: the policy that acts.
        env_states: the states at the start of the window, each leaf `[num_envs, ...]`.
        observations: of these states `[num_envs, ...]`.
        key: for policy and dynamics, consumed.
        params: the environment's parameters.

    Returns:
        `(loss, (env_states, observations, metrics))`: states and observations at the end of the window, and the mean
        over batch and window of the reward and of every scalar in `info`.
    """

    def take(key, observation, state):
        return act(policy, key, observation, env, state, params), None

    env_states, observations, window = windows.run_window(
        env, take, env_states, observations, key, params, steps=config.window
    )
    weights = config.discount ** jnp.arange(config.window, dtype=window.rewards.dtype)
    loss = -jnp.dot(weights / jnp.sum(weights), jnp.mean(window.rewards, axis=1))
    return loss, (env_states, observations, window.means)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return clipped_adam(config.learning_rate, steps=config.updates, max_gradient_norm=config.max_gradient_norm)
