"""Short-horizon actor-critic: ascend the return by its exact gradient over a window, and by a critic beyond it.

A batch of `B` environments runs for a window of `T` steps under the stochastic policy `a = tanh(u)`,
`u = mu_w(o) + s_w e` with standard normal e. The policy takes one step of Adam on the loss

    L(w) = -1/(B T) sum_b  sum over pieces of episodes  [ sum_t g^t (r_t + c H_t)  +  g^l V'(o_l) ],

where a piece is what the window contains of one episode, l its length, and V' the target critic, which is left out
where the piece terminated. The derivative goes through policy, observation, dynamics and V'. So it sees `T` steps ahead
exactly and the rest by V', however long episodes are, and reverse mode stores one window.

Then the critic is fitted to the lambda-returns R of the window, in epochs of minibatches on `(V(o) - R)^2 / (2 s_R^2)`,
with the running deviation s_R of the returns, and V' moves towards it. Observations are normalised by their running
mean and deviation, which are constant within a window.

The derivative of L is a sum over the steps at which the policy acted, `dL/dw = sum_t G_t`, where G_t holds all that
follows from step t, later actions included. Under chaos the early ones grow with what is left of the window until they
are noise. With `step_weights = "inverse_variance"` the policy follows `sum_t w_t G_t`, where w_t is the inverse of the
variance of dL/du_t over instances (`dmdenv.agents.optimization.inverse_variance_weights`): in effect a shorter window,
whose length the gradients choose. Where a policy is optimal at every state that it meets, all G_t are zero on average,
so the weights move no such optimum.

With an entropy weight c > 0, the entropy H of the policy is part of the reward, and V is the mean of several critics'
values: the two differences of SAPO.

References: Xu et al., "Accelerated Policy Learning with Parallel Differentiable Simulation", arXiv:2204.07137 (2022),
eqs. 5 to 8; SAPO: Xing et al., arXiv:2412.12089 (2025). Weights by inverse variance: Parmas et al., "PIPPS: Flexible
Model-Based Policy Search Robust to the Curse of Chaos", arXiv:1902.01240 (2018), whose total propagation so combines
two estimators of one derivative at each step; here those of different steps are.
"""

import dataclasses

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
from dmdenv.agents.optimization import clipped_adam, descend, inverse_variance_weights, scan_minibatches
from dmdenv.agents.returns import td_lambda, window_return
from dmdenv.agents.windows import Window
from dmdenv.envs.acting import asked_by
from dmdenv.envs.base import Env, Observation, Params, State

WindowEnd = tuple[State, Observation, Window, jax.Array]  # what `window_loss` returns beside the loss


@dataclasses.dataclass(frozen=True)
class Config(Declared):
    """Short-horizon actor-critic.

    Raises:
        ValueError: for a bad value; the message names the field, the value and what is valid.
    """

    updates: int = whole(200, at_least=1, at_most=10**9)
    """Updates of the policy in a training run."""
    num_envs: int = whole(64, at_least=1, at_most=10**9)
    """Environments in the batch."""
    window: int = whole(32, at_least=1, at_most=10**9)
    """Steps per update, and how far ahead the gradient sees; chaotic tasks need fewer, see their pages in docs/."""
    network: str = choice("rows", of=NETWORKS)
    """rows; neighbors: rows hear their neighbours; whole: one network of all that is observed."""
    hidden: tuple[int, ...] = sizes((64, 64))
    """Sizes of the hidden layers, of the policy and of the critics."""
    deviation: float = real(0.3, above=0)
    """Initial standard deviation of actions, before tanh; it is learned."""
    learning_rate: float = real(2e-3, above=0)
    """Initial learning rate of Adam for the policy; decays to zero along half a cosine."""
    critic_learning_rate: float = real(2e-3, above=0)
    """Initial learning rate of Adam for the critic; decays in the same way."""
    max_gradient_norm: float = real(1.0, above=0)
    """Longer gradients are scaled down to this norm."""
    discount: float = real(0.99, above=0, at_most=1)
    """Weight of a reward relative to that of the step before it."""
    td_lambda: float = real(0.95, at_least=0, at_most=1)
    """How far the critic's targets look ahead: 0 for one step, 1 for the rest of the window."""
    critic_epochs: int = whole(16, at_least=1, at_most=10**9)
    """How many times the critic goes through the steps of a window."""
    critic_minibatches: int = whole(4, at_least=1, at_most=10**9)
    """Into how many parts an epoch divides the steps of the window, each for one step of Adam."""
    target_decay: float = real(0.2, at_least=0, at_most=1)
    """The share of the old target critic that is left after an update; the rest is the new critic."""
    step_weights: str = choice("equal", of=("equal", "inverse_variance"))
    """equal; inverse_variance: steps of a window whose gradients differ more between instances count less."""
    critics: int = whole(1, at_least=1, at_most=100)
    """Critics of independent initial weights, whose mean is the value; 2 for SAPO."""
    entropy_weight: float = real(0.0, at_least=0)
    """Weight of the policy's entropy in the reward of a step; above 0 for SAPO."""

    def __post_init__(self):
        super().__post_init__()
        if self.step_weights == "inverse_variance" and self.num_envs == 1:
            raise ValueError("Config.num_envs = 1; must be an integer >= 2 for step_weights = 'inverse_variance'")
        if self.steps_per_update % self.critic_minibatches:
            raise ValueError(
                f"Config.critic_minibatches = {self.critic_minibatches}; must divide num_envs * window ="
                f" {self.steps_per_update}"
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
    target: Critic
    seen: Normalizer  # observations, one row each
    returns: Normalizer
    optimizer: optax.OptState  # of the policy
    critic_optimizer: optax.OptState
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
    key, policy_key, critic_key, reset_key = jax.random.split(key, 4)
    policy = gaussian_policy(env, config.hidden, policy_key, deviation=config.deviation, network=config.network)
    value = critic(env, config.hidden, critic_key, networks=config.critics, network=config.network)
    env_states, observations = windows.begin(env, reset_key, params, num_envs=config.num_envs, steps=config.window)
    return TrainState(
        policy=policy,
        critic=value,
        target=value,
        seen=normalizer(env.observation_shape[-1:]),
        returns=normalizer(),
        optimizer=_optimizer(config).init(policy),  # pyright: ignore[reportArgumentType]
        critic_optimizer=_critic_optimizer(config).init(value),  # pyright: ignore[reportArgumentType]
        env_states=env_states,
        observations=observations,
        key=key,
        updates=jnp.int32(0),
    )


def update(env: Env, config: Config, state: TrainState, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """One window, one step of the policy's Adam, epochs of the critic.

    A gradient that is not finite is dropped: policy and optimiser stay as they are, and the metric `skipped` is 1; so
    do critic and optimiser.

    Returns:
        `(state, metrics)`; the metrics are scalars: `loss`, `gradient_norm` (before clipping) and `skipped` of the
        policy; `value_loss`, a mean over all steps of the critic; and means over batch and window: `policy_entropy`,
        `reward` and every scalar in `info`, among them `overflow` and `nonfinite`.
    """
    params = env.default_params if params is None else params
    key, window_key, order_key = jax.random.split(state.key, 3)

    gradient_of = {"equal": equal_gradient, "inverse_variance": weighted_gradient}[config.step_weights]
    (loss, (env_states, observations, window, targets)), gradient = gradient_of(
        env, config, state, window_key, params=params
    )
    policy, optimizer, steps = descend(_optimizer(config), gradient, state.policy, state.optimizer)
    returns = state.returns.merge(targets)
    value, critic_optimizer, value_loss = fit_critic(
        config, state, returns, state.seen(window.observations), targets, order_key
    )
    old = config.target_decay
    state = TrainState(
        policy=policy,
        critic=value,
        target=jax.tree.map(lambda target, new: old * target + (1.0 - old) * new, state.target, value),
        seen=state.seen.merge(window.observations),
        returns=returns,
        optimizer=optimizer,
        critic_optimizer=critic_optimizer,
        env_states=env_states,
        observations=observations,
        key=key,
        updates=state.updates + 1,
    )
    own = {"loss": loss, "value_loss": value_loss, "policy_entropy": jnp.mean(window.records), **steps}
    return state, {**own, **window.means}


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


def equal_gradient(
    env: Env, config: Config, state: TrainState, key: jax.Array, *, params: Params
) -> tuple[tuple[jax.Array, WindowEnd], GaussianPolicy]:
    """What `window_loss` returns for the policy of a state, and the derivative of the loss by it."""

    def loss_of(policy):
        return window_loss(env, config, policy, state, key, params=params)

    return jax.value_and_grad(loss_of, has_aux=True)(state.policy)


def weighted_gradient(
    env: Env, config: Config, state: TrainState, key: jax.Array, *, params: Params
) -> tuple[tuple[jax.Array, WindowEnd], GaussianPolicy]:
    """As `equal_gradient`, but with the module's weights `w_t` of steps.

    One reverse pass: each step acts by a copy of the policy of its own, and each u has an addend that is zero.
    """
    steps, instances = config.window, config.num_envs
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), state.policy)

    def loss_of(copies, addends):
        return window_loss(env, config, copies, state, key, params=params, addends=addends)

    addends = jnp.zeros((steps, instances, *env.action_shape))
    found, (by_step, by_u) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(copies, addends)
    weights = inverse_variance_weights(by_u)
    return found, jax.tree.map(lambda gradients: jnp.tensordot(weights, gradients, axes=1), by_step)


def window_loss(
    env: Env,
    config: Config,
    policy: GaussianPolicy,
    state: TrainState,
    key: jax.Array,
    *,
    params: Params,
    addends: jax.Array | None = None,
) -> tuple[jax.Array, WindowEnd]:
    """The policy's loss of one window, see the module's formula; to be differentiated by `policy`.

    Args:
        env: the environment.
        config: the agent's settings.
        policy: the policy that acts; with `addends` one for each step, each leaf `[window, ...]`.
        state: whose batch, target critic and normalisers are used.
        key: for policy and dynamics, consumed.
        params: the environment's parameters.
        addends: to u, float `[window, num_envs, *action]`; none by default.

    Returns:
        `(loss, (env_states, observations, window, targets))`: states and observations at the end of the window; the
        window, whose records are entropies `[window, num_envs]`, means over rows; the critic's targets, of this shape.
    """

    def act(key, observation, env_state, policy=policy, addend=None):
        sample_key, entropy_key = jax.random.split(key)
        more = asked_by(policy.center, env, env_state, params)
        gaussian = policy.distribution(state.seen(observation), *more)
        u = gaussian.sample(sample_key)
        u = u if addend is None else u + addend.reshape(u.shape)
        return policy.center.squash(u), jnp.mean(gaussian.entropy(entropy_key))

    def value_of(observation):
        return state.returns.restore(state.target(state.seen(observation)))

    env_states, observations, window = windows.run_window(
        env,
        act,
        state.env_states,
        state.observations,
        key,
        params,
        steps=config.window,
        shared=None if addends is None else policy,
        own=addends,
    )
    rewards = window.rewards + config.entropy_weight * window.records
    next_values = jax.vmap(jax.vmap(value_of))(window.next_observations)
    ends = (window.terminated, window.truncated)
    loss = -jnp.mean(window_return(rewards, next_values, *ends, discount=config.discount)) / config.window
    targets = td_lambda(rewards, next_values, *ends, discount=config.discount, trace_decay=config.td_lambda)
    return loss, (env_states, observations, window, targets)


def fit_critic(
    config: Config,
    state: TrainState,
    returns: Normalizer,
    observations: Observation,
    targets: jax.Array,
    key: jax.Array,
) -> tuple[Critic, optax.OptState, jax.Array]:
    """Epochs of minibatches, one step of Adam for each.

    Args:
        config: the agent's settings.
        state: whose critic and optimiser are used.
        returns: in whose units values are learned.
        observations: normalised, `[window, num_envs, ...]`.
        targets: of their values, `[window, num_envs]`.
        key: of the minibatches, consumed.

    Returns:
        `(critic, critic_optimizer, value_loss)`, the loss as a mean over all minibatches.
    """

    def loss(critic, observations, targets):
        misses = (returns.restore(jax.vmap(critic.each)(observations)) - targets[:, None]) / returns.deviation
        return 0.5 * jnp.mean(misses**2)

    def step(carry, minibatch):
        critic, memory = carry
        value_loss, gradient = jax.value_and_grad(loss)(critic, *minibatch)
        critic, memory, _ = descend(_critic_optimizer(config), gradient, critic, memory)
        return (critic, memory), value_loss

    samples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (observations, targets))
    carry = (state.critic, state.critic_optimizer)
    carry, losses = scan_minibatches(
        step, carry, samples, key, epochs=config.critic_epochs, minibatches=config.critic_minibatches
    )
    return *carry, jnp.mean(losses)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return _adam(config, config.learning_rate, config.updates)


def _critic_optimizer(config: Config) -> optax.GradientTransformation:
    steps = config.updates * config.critic_epochs * config.critic_minibatches
    return _adam(config, config.critic_learning_rate, steps)


def _adam(config: Config, learning_rate: float, steps: int) -> optax.GradientTransformation:
    return clipped_adam(learning_rate, steps=steps, max_gradient_norm=config.max_gradient_norm, b1=0.7, b2=0.95)
