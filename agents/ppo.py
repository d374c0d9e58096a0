"""Proximal policy optimisation: ascend the advantage of sampled actions, not far from the policy that took them.

A batch of `B` environments runs for a window of `T` steps under the stochastic policy `a = tanh(u)`,
`u ~ N(mu_w(o), s^2)`. With `p = pi_w(a | o) / pi_old(a | o)`, generalised advantages A and lambda-returns R, epochs of
minibatches take steps of Adam on the loss

    L(w) = <-min(p A, clip(p, 1 - e, 1 + e) A)  +  c_V (V_w(o) - R)^2 / (2 s_R^2)  -  c_H H(pi_w(o))>.

Advantages are normalised over the window, observations by their running mean and deviation; values are learned in units
of the running deviation s_R of the returns, so that c_V suits rewards of any size. A step that was truncated, and the
last one of a window, is followed by the value of its `final_observation`; one that terminated by nothing. Where rows of
observations share a policy, each row has its own p, and all have the advantage of the whole.

References: Schulman et al., arXiv:1707.06347 (2017), eq. 9; rows that share a policy and an advantage: Yu et al.,
arXiv:2103.01955 (2022).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dmdenv._core.fields import Declared, choice, real, sizes, whole
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents import windows
from dmdenv.agents.base import Metrics
from dmdenv.agents.critic import Critic, critic
from dmdenv.agents.heads import GaussianPolicy, NormalizedPolicy, gaussian_policy
from dmdenv.agents.networks import NETWORKS
from dmdenv.agents.normalizer import Normalizer, normalizer
from dmdenv.agents.optimization import clipped_adam, descend, scan_minibatches
from dmdenv.agents.returns import generalized_advantages
from dmdenv.agents.windows import Window
from dmdenv.envs.acting import asked_by
from dmdenv.envs.base import Env, Observation, Params, State


@dataclasses.dataclass(frozen=True)
class Config(Declared):
    """Proximal policy optimisation.

    Raises:
        ValueError: for a bad value; the message names the field, the value and what is valid.
    """

    updates: int = whole(500, at_least=1, at_most=10**9)
    """Updates of the policy in a training run."""
    num_envs: int = whole(64, at_least=1, at_most=10**9)
    """Environments in the batch."""
    window: int = whole(32, at_least=1, at_most=10**9)
    """Steps of each environment per update."""
    epochs: int = whole(4, at_least=1, at_most=10**9)
    """How many times an update goes through the steps of its window."""
    minibatches: int = whole(8, at_least=1, at_most=10**9)
    """Into how many parts an epoch divides the steps of the window, each for one step of Adam."""
    network: str = choice("rows", of=NETWORKS)
    """rows; neighbors: rows hear their neighbours; whole: one network of all that is observed."""
    hidden: tuple[int, ...] = sizes((64, 64))
    """Sizes of the hidden layers, of the policy and of the critic."""
    deviation: float = real(0.5, above=0)
    """Initial standard deviation of actions, before tanh; it is learned."""
    learning_rate: float = real(1e-3, above=0)
    """Initial learning rate of Adam; decays to zero along half a cosine."""
    max_gradient_norm: float = real(0.5, above=0)
    """Longer gradients are scaled down to this norm."""
    discount: float = real(0.99, above=0, at_most=1)
    """Weight of a reward relative to that of the step before it."""
    gae_lambda: float = real(0.95, at_least=0, at_most=1)
    """How far advantages look ahead before they trust the critic: 0 for one step, 1 for the rest of the window."""
    clip: float = real(0.2, above=0)
    """How far the probability of an action may move from that of the policy that took it, as a fraction."""
    value_weight: float = real(0.5, at_least=0)
    """Weight of the critic's loss."""
    entropy_weight: float = real(0.0, at_least=0)
    """Weight of the policy's entropy."""

    def __post_init__(self):
        super().__post_init__()
        if self.steps_per_update % self.minibatches:
            raise ValueError(
                f"Config.minibatches = {self.minibatches}; must divide num_envs * window = {self.steps_per_update}"
            )

    @property
    def steps_per_update(self) -> int:
        """The environment steps of an update, in all environments together."""
        return self.num_envs * self.window


@pytree
class TrainState(Replaceable):
    """Everything that evolves during training."""

    policy: GaussianPolicy
    critic: Critic
    seen: Normalizer  # observations, one row each
    returns: Normalizer
    optimizer: optax.OptState
    env_states: State  # each leaf [num_envs, ...]
    observations: Observation  # [num_envs, ...]
    key: jax.Array  # []
    updates: jax.Array  # int32 []


@pytree
class Samples(Replaceable):
    """What the loss needs of each step; every array `[samples, ...]`."""

    observations: jax.Array  # normalised
    more: tuple[Any, ...]  # what the policy took beside them
    u: jax.Array  # the action before tanh, [samples, *rows, k]
    log_probability: jax.Array  # of the policy that took it, [samples, *rows]
    advantage: jax.Array  # normalised
    target: jax.Array  # the lambda-return
    key: jax.Array  # for the estimate of the entropy


def init(env: Env, config: Config, key: jax.Array, *, params: Params | None = None) -> TrainState:
    """The state before the first update.

    Raises:
        SpaceMismatchError: when the network does not fit the environment's spaces.
    """
    params = env.default_params if params is None else params
    key, policy_key, critic_key, reset_key = jax.random.split(key, 4)
    policy = gaussian_policy(env, config.hidden, policy_key, deviation=config.deviation, network=config.network)
    value = critic(env, config.hidden, critic_key, network=config.network)
    env_states, observations = windows.begin(env, reset_key, params, num_envs=config.num_envs, steps=config.window)
    return TrainState(
        policy=policy,
        critic=value,
        seen=normalizer(env.observation_shape[-1:]),
        returns=normalizer(),
        optimizer=_optimizer(config).init((policy, value)),  # pyright: ignore[reportArgumentType]
        env_states=env_states,
        observations=observations,
        key=key,
        updates=jnp.int32(0),
    )


def update(env: Env, config: Config, state: TrainState, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """One window, and epochs of minibatches on it.

    Returns:
        `(state, metrics)`; the metrics are scalars. Means over the steps of Adam: `loss` (of the policy), `value_loss`,
        `policy_entropy`, `kl` (from the policy before the update, estimated by `p - 1 - log p`), `clip_fraction` (the
        share of clipped p), `gradient_norm` (before clipping). Means over batch and window: `reward` and every scalar
        in `info`, among them `overflow` and `nonfinite`. And `skipped`: 1 if a gradient was not finite, and dropped.
    """
    params = env.default_params if params is None else params
    key, window_key, entropy_key, order_key = jax.random.split(state.key, 4)
    env_states, observations, window = run(env, config, state, window_key, params)
    samples = estimate(config, state, window, entropy_key)
    returns = state.returns.merge(samples.target)
    (policy, value), optimizer, metrics = learn(config, state, returns, samples, order_key)
    state = TrainState(
        policy=policy,
        critic=value,
        seen=state.seen.merge(window.observations),
        returns=returns,
        optimizer=optimizer,
        env_states=env_states,
        observations=observations,
        key=key,
        updates=state.updates + 1,
    )
    return state, {**metrics, **window.means}


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


def policy(env: Env, config: Config, state: TrainState) -> NormalizedPolicy:
    """The policy of a state, without noise."""
    return NormalizedPolicy(state.seen, state.policy.center)


# --- the steps of an update -------------------------------------------------------------------------------------------


def run(
    env: Env, config: Config, state: TrainState, key: jax.Array, params: Params
) -> tuple[State, Observation, Window]:
    """A window under the policy; its records are u, the logarithm of the action's probability, and what the
    policy took beside the observation.
    """

    def act(key, observation, env_state):
        more = asked_by(state.policy.center, env, env_state, params)
        gaussian = state.policy.distribution(state.seen(observation), *more)
        u = gaussian.sample(key)
        return state.policy.center.squash(u), (u, gaussian.log_probability(u), more)

    return windows.run_window(env, act, state.env_states, state.observations, key, params, steps=config.window)


def estimate(config: Config, state: TrainState, window: Window, key: jax.Array) -> Samples:
    """The steps of a window, with the advantages of their actions and the targets of their values."""
    value_of = jax.vmap(jax.vmap(lambda observation: state.returns.restore(state.critic(state.seen(observation)))))
    values = value_of(window.observations)
    advantages = generalized_advantages(
        window.rewards,
        values,
        value_of(window.next_observations),
        window.terminated,
        window.truncated,
        discount=config.discount,
        trace_decay=config.gae_lambda,
    )
    u, log_probability, more = window.records
    samples = Samples(
        observations=state.seen(window.observations),
        more=more,
        u=u,
        log_probability=log_probability,
        advantage=(advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8),
        target=values + advantages,
        key=jax.random.split(key, values.shape),
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples)


def sample_loss(
    config: Config, returns: Normalizer, policy: GaussianPolicy, critic: Critic, sample: Samples
) -> tuple[jax.Array, Metrics]:
    """The loss of one step, see the module's formula, and its parts."""
    gaussian = policy.distribution(sample.observations, *sample.more)
    log_ratio = gaussian.log_probability(sample.u) - sample.log_probability
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
    loss = -jnp.mean(jnp.minimum(ratio * sample.advantage, clipped * sample.advantage))

    miss = (returns.restore(critic(sample.observations)) - sample.target) / returns.deviation
    parts = {
        "loss": loss,
        "value_loss": 0.5 * miss**2,
        "policy_entropy": jnp.mean(gaussian.entropy(sample.key)),
        "kl": jnp.mean(ratio - 1.0 - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > config.clip),
    }
    return loss + config.value_weight * parts["value_loss"] - config.entropy_weight * parts["policy_entropy"], parts


def learn(
    config: Config, state: TrainState, returns: Normalizer, samples: Samples, key: jax.Array
) -> tuple[tuple[GaussianPolicy, Critic], optax.OptState, Metrics]:
    """Epochs of minibatches, one step of Adam for each, on the mean of `sample_loss`."""
    optimizer = _optimizer(config)

    def mean_loss(networks, minibatch):
        policy, critic = networks
        losses_and_parts = jax.vmap(lambda sample: sample_loss(config, returns, policy, critic, sample))(minibatch)
        return jax.tree.map(jnp.mean, losses_and_parts)

    def step(carry, minibatch):
        networks, memory = carry
        gradient, parts = jax.grad(mean_loss, has_aux=True)(networks, minibatch)
        networks, memory, steps = descend(optimizer, gradient, networks, memory)
        return (networks, memory), {**parts, **steps}

    carry = (state.policy, state.critic), state.optimizer
    carry, metrics = scan_minibatches(step, carry, samples, key, epochs=config.epochs, minibatches=config.minibatches)
    return *carry, {**jax.tree.map(jnp.mean, metrics), "skipped": jnp.max(metrics["skipped"])}


def _optimizer(config: Config) -> optax.GradientTransformation:
    steps = config.updates * config.epochs * config.minibatches
    return clipped_adam(config.learning_rate, steps=steps, max_gradient_norm=config.max_gradient_norm)
