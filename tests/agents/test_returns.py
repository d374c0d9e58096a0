"""Returns of a window, against sums over all pairs of steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents.returns import generalized_advantages, td_lambda, window_return

pytestmark = pytest.mark.usefixtures("x64")
T, B = 12, 5


@pytest.fixture
def window():
    """Rewards, values of the next states, and ends; the last instance has none, the first one has both at once."""
    random = np.random.default_rng(0)
    rewards, next_values = random.normal(size=(2, T, B))
    terminated, truncated = random.random((2, T, B)) < 0.15
    terminated[:, -1] = truncated[:, -1] = False
    terminated[3, 0] = truncated[3, 0] = True
    assert terminated[:, 1:-1].any() and (truncated & ~terminated).any()
    return rewards, next_values, terminated, truncated


def lambda_return(t, rewards, next_values, terminated, truncated, discount, trace_decay):
    """Of one instance: `(1 - l) sum_n l^(n-1) R^(n) + l^(N-1) R^(N)` over the returns of n steps, by their sums."""
    ends = [e for e in range(t, T) if terminated[e] or truncated[e]]
    steps = (ends[0] if ends else T - 1) - t + 1

    def after(n):
        rest = 0.0 if terminated[t + n - 1] else next_values[t + n - 1]
        return sum(discount**k * rewards[t + k] for k in range(n)) + discount**n * rest

    shorter = sum(trace_decay ** (n - 1) * after(n) for n in range(1, steps))
    return (1 - trace_decay) * shorter + trace_decay ** (steps - 1) * after(steps)


@pytest.mark.parametrize("trace_decay", [0.0, 0.9, 1.0])
def test_lambda_returns_are_weighted_means_of_returns_of_n_steps(window, trace_decay):
    found = jax.jit(functools.partial(td_lambda, discount=0.8))(*window, trace_decay=trace_decay)
    expected = [[lambda_return(t, *(x[:, b] for x in window), 0.8, trace_decay) for b in range(B)] for t in range(T)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_advantages_are_sums_of_temporal_differences(window):
    rewards, next_values, terminated, truncated = window
    ended = terminated | truncated
    first = np.random.default_rng(1).normal(size=(T, B))
    values = np.where(
        np.roll(ended, 1, axis=0), first, np.roll(next_values, 1, axis=0)
    )  # the same ones within episodes
    differences = rewards + 0.8 * np.where(terminated, 0.0, next_values) - values
    expected = np.zeros((T, B))
    for t in range(T):
        for later in range(t, T):
            running = ~np.any(ended[t:later], axis=0)
            expected[t] += np.where(running, (0.8 * 0.9) ** (later - t) * differences[later], 0.0)
    found = jax.jit(generalized_advantages)(
        rewards, values, next_values, terminated, truncated, discount=0.8, trace_decay=0.9
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"), [(1, 0, 1.0), (0, 1, 1.0 + 0.5 * 7.0), (1, 1, 1.0), (0, 0, 1.75 + 7 / 8)]
)
def test_what_follows_an_end_is_a_value_after_truncation_and_nothing_after_termination(terminated, truncated, expected):
    ends = (np.array([[bool(flag)], [False], [False]]) for flag in (terminated, truncated))
    returns = jax.jit(td_lambda)(np.ones((3, 1)), np.full((3, 1), 7.0), *ends, discount=0.5, trace_decay=1.0)
    assert returns[0, 0] == expected


def test_derivatives_of_the_return_of_a_window_are_powers_of_the_discount(window):
    rewards, next_values, terminated, truncated = window

    def total(rewards, next_values):
        return jnp.sum(window_return(rewards, next_values, terminated, truncated, discount=0.8))

    found, (by_reward, by_value) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(rewards, next_values)
    since = np.zeros(B, int)  # steps since the window or the episode began
    for t in range(T):
        ended = terminated[t] | truncated[t] | (t == T - 1)
        np.testing.assert_allclose(by_reward[t], 0.8**since, rtol=1e-12)
        np.testing.assert_allclose(by_value[t], np.where(ended & ~terminated[t], 0.8 ** (since + 1), 0.0), rtol=1e-12)
        since = np.where(ended, 0, since + 1)
    np.testing.assert_allclose(found, np.sum(by_reward * rewards + by_value * next_values))
