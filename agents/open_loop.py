"""Open-loop control: ascend the return of one action sequence, a protocol, by its exact gradient.

The protocol `a_t = tanh(u_t)`, `t = 0 .. T-1`, does not look at the observation. Each update runs B episodes and
differentiates

    L(u) = -1/(B T) sum_b sum_t r_{b,t}(a_0 .. a_t)

through all of their steps. With fresh episodes in each update, Adam descends the mean over initial states and noise:
one protocol for all of them. With the same ones in all updates and B = 1 it fits a single instance, that of the key:
its initial state and its noise. `jax.vmap` of `train` over keys then finds a protocol for each instance, and over
parameters one for each of their values.

The learning rate decays along half a cosine, once or in several cycles (warm restarts), at whose starts the moments of
Adam are kept or reset.

References: Schmiedl and Seifert, Phys. Rev. Lett. 98, 108301 (2007), on optimal protocols; Engel, Smith and Brenner,
Phys. Rev. X 13, 041032 (2023), who find them by automatic differentiation; Loshchilov and Hutter, "SGDR: stochastic
gradient descent with warm restarts", arXiv:1608.03983 (2017), eq. 5, for the cycles.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import optax

from dmdenv._core.fields import Declared, choice, real, whole
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents.base import Metrics
from dmdenv.agents.evaluate import episode_steps, evaluate
from dmdenv.envs.base import Env, Params

INITIAL_SCALE = 0.01  # of u: the first actions are close to zero, but on no axis of symmetry


@dataclasses.dataclass(frozen=True)
class Config(Declared):
    """Open-loop control by gradient ascent.

    Raises:
        ValueError: for a bad value; the message names the field, the value and what is valid.
    """

    updates: int = whole(300, at_least=1, at_most=10**9)
    """Updates of the protocol in a training run."""
    num_envs: int = whole(16, at_least=1, at_most=10**9)
    """Episodes per update."""
    instances: str = choice("fresh", of=("fresh", "same"))
    """fresh: others in each update; same: initial states and noise of all updates are those of the key."""
    steps: int | None = whole(None, at_least=1, at_most=10**9, optional=True)
    """Length of the protocol; None for that of an episode. After its end the last action is held."""
    learning_rate: float = real(0.05, above=0)
    """Initial learning rate of Adam; decays to zero along half a cosine."""
    cycles: int = whole(1, at_least=1, at_most=10**9)
    """How often the learning rate decays, starting again at its initial value."""
    momentum: str = choice("keep", of=("keep", "reset"))
    """What happens to the moments of Adam at the start of a cycle: keep or reset."""
    max_gradient_norm: float = real(1.0, above=0)
    """Longer gradients are scaled down to this norm."""

    @property
    def steps_per_update(self) -> int:
        """The environment steps of an update, in all episodes together.

        Raises:
            ValueError: when `steps` is None.
        """
        if self.steps is None:
            raise ValueError("Config.steps = None; must be an integer >= 1 for the number of steps per update")
        return self.num_envs * self.steps


@pytree
class OpenLoopPolicy(Replaceable):
    """`action = tanh(u_t)`: an `InformedPolicy`."""

    inputs: jax.Array  # float [T, *action], u

    @property
    def takes(self) -> tuple[str, ...]:
        """The time, see `dmdenv.envs.acting.asked_by`."""
        return ("time",)

    def __call__(self, key: jax.Array, observation: jax.Array, time: jax.Array) -> jax.Array:
        """The action within [-1, 1] at a time, int32 []; key and observation are not used."""
        return jnp.tanh(self.inputs[jnp.minimum(time, len(self.inputs) - 1)])


@pytree
class TrainState(Replaceable):
    """Everything that evolves during training."""

    policy: OpenLoopPolicy
    optimizer: optax.OptState
    key: jax.Array  # []; that of the episodes, where these are the same in all updates
    updates: jax.Array  # int32 []


def init(env: Env, config: Config, key: jax.Array, *, params: Params | None = None) -> TrainState:
    """The state before the first update; it fits any action space.

    Raises:
        ValueError: when `config.steps` is None and `params.max_steps` is traced.
    """
    key, input_key = jax.random.split(key)
    shape = (episode_steps(env, config.steps, params), *env.action_shape)
    policy = OpenLoopPolicy(inputs=INITIAL_SCALE * jax.random.normal(input_key, shape))
    return TrainState(policy=policy, optimizer=_optimizer(config).init(policy), key=key, updates=jnp.int32(0))  # pyright: ignore[reportArgumentType]


def update(env: Env, config: Config, state: TrainState, *, params: Params | None = None) -> tuple[TrainState, Metrics]:
    """Some episodes, one step of Adam.

    A gradient that is not finite is dropped: protocol and optimiser stay as they are, and the metric `skipped` is 1.

    Returns:
        `(state, metrics)`; the metrics are scalars: `loss`, `gradient_norm` (before clipping), `skipped`, and the mean
        over all steps of all episodes of the `reward` and of every scalar in `info`.
    """
    key, episode_key = jax.random.split(state.key) if config.instances == "fresh" else (state.key, state.key)

    def loss_of(policy):
        return episode_loss(env, config, policy, episode_key, params=params)

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.policy)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm)
    cycle = math.ceil(config.updates / config.cycles)
    phase, before = state.updates % cycle, state.optimizer
    if config.momentum == "reset":
        fresh = _optimizer(config).init(state.policy)  # pyright: ignore[reportArgumentType]
        before = jax.tree.map(functools.partial(jnp.where, phase == 0), fresh, before)
    directions, optimizer = _optimizer(config).update(gradient, before)  # pyright: ignore[reportArgumentType]
    rate = optax.cosine_decay_schedule(config.learning_rate, cycle)(phase)
    policy = jax.tree.map(lambda u, d: u - rate * d, state.policy, directions)
    policy, optimizer = jax.tree.map(functools.partial(jnp.where, finite), (policy, optimizer), (state.policy, before))
    state = TrainState(policy=policy, optimizer=optimizer, key=key, updates=state.updates + 1)
    return state, {"loss": loss, "gradient_norm": norm, "skipped": 1.0 - finite.astype(loss.dtype), **metrics}


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


def policy(env: Env, config: Config, state: TrainState) -> OpenLoopPolicy:
    """The protocol of a state."""
    return state.policy


def episode_loss(
    env: Env, config: Config, policy: OpenLoopPolicy, key: jax.Array, *, params: Params | None = None
) -> tuple[jax.Array, Metrics]:
    """The loss of a protocol, see the module's formula, and the mean per step of the reward and of all metrics.

    Args:
        env: the environment.
        config: the agent's settings.
        policy: the protocol; to be differentiated by.
        key: for initial states and noise, consumed.
        params: the environment's parameters.
    """
    steps = len(policy.inputs)
    evaluation = evaluate(env, policy, key, episodes=config.num_envs, steps=steps, params=params)
    return -jnp.mean(evaluation.returns) / steps, evaluation.step_means


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.scale_by_adam())
