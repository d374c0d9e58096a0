"""Returns of a window of steps: TD(lambda) targets, advantages, and the return that short-horizon methods climb.

Arrays are `[T, ...]`, time first, for any batch behind it. Step t leads from state t to state t + 1. An episode may end
in any step: where it was *terminated* nothing comes after it; where it was *truncated* (a time limit), and at the end
of the window, the value of the state after the step stands for what would come. `next_values` are therefore those of
`info["final_observation"]`, the observation before any reset. All functions are linear in rewards and values, and
differentiable by them.
"""

import jax
import jax.numpy as jnp


def td_lambda(
    rewards: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    discount: float,
    trace_decay: float,
) -> jax.Array:
    """The lambda-return of each step, a target for its value.

        R_t = r_t + g (1 - terminated_t) ((1 - l_t) V_{t+1} + l_t R_{t+1}),    l_t = l (1 - truncated_t),

    with `R_T = V_T` at the end of the window. For l = 0 it looks one step ahead, for l = 1 up to the end of the episode
    or of the window.

    Args:
        rewards: r, float `[T, ...]`.
        next_values: `V_{t+1}`, of the state after each step and before any reset, float `[T, ...]`.
        terminated: whether the step ended the episode for good, bool `[T, ...]`.
        truncated: whether it cut the episode off, bool `[T, ...]`.
        discount: g, of a reward relative to that of the step before it.
        trace_decay: l.

    Returns:
        float `[T, ...]`.

    Reference: Sutton and Barto, Reinforcement Learning, 2nd edition (2018), eq. 12.18.
    """
    goes_on = discount * (1.0 - terminated.astype(rewards.dtype))
    trace = trace_decay * (1.0 - truncated.astype(rewards.dtype))

    def back(later, step):
        reward, value, goes_on, trace = step
        now = reward + goes_on * ((1.0 - trace) * value + trace * later)
        return now, now

    return jax.lax.scan(back, next_values[-1], (rewards, next_values, goes_on, trace), reverse=True)[1]


def generalized_advantages(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    discount: float,
    trace_decay: float,
) -> jax.Array:
    """Generalised advantage estimates, `A_t = R_t - V_t` with R of `td_lambda`; where the episode goes on that is

        A_t = d_t + g l A_{t+1},    d_t = r_t + g V_{t+1} - V_t.

    Args:
        rewards: as in `td_lambda`.
        values: `V_t`, of the state before each step, float `[T, ...]`.
        next_values: as in `td_lambda`.
        terminated: as in `td_lambda`.
        truncated: as in `td_lambda`.
        discount: g.
        trace_decay: l.

    Returns:
        float `[T, ...]`.

    Reference: Schulman et al., arXiv:1506.02438 (2016), eq. 16.
    """
    targets = td_lambda(rewards, next_values, terminated, truncated, discount=discount, trace_decay=trace_decay)
    return targets - values


def window_return(
    rewards: jax.Array, next_values: jax.Array, terminated: jax.Array, truncated: jax.Array, *, discount: float
) -> jax.Array:
    """The return of a window: over all pieces of episodes in it, the sum of

        sum_t g^(t - s) r_t  +  g^(e + 1 - s) V_{e+1},    t = s .. e,

    where s is the first step of the piece and e its last one; the value is left out where the piece was terminated.

    Args:
        rewards: as in `td_lambda`.
        next_values: as in `td_lambda`.
        terminated: as in `td_lambda`.
        truncated: as in `td_lambda`.
        discount: g.

    Returns:
        float `[...]`.

    Reference: Xu et al., arXiv:2204.07137 (2022), eq. 5.
    """
    returns = td_lambda(rewards, next_values, terminated, truncated, discount=discount, trace_decay=1.0)
    ended = (terminated | truncated)[:-1]
    first = jnp.concatenate([jnp.ones_like(terminated[:1]), ended])
    return jnp.sum(jnp.where(first, returns, 0.0), axis=0)
