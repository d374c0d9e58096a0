"""The main task at full size: a flock trained by gradient, against zero-action and random policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.agents import apg
from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.policies import random_policy, zero_policy


@pytest.mark.slow
def test_a_trained_flock_finds_a_common_direction_and_keeps_it():
    """Polar order over the last 64 steps of 64 fresh episodes: at least 0.9, from below 0.3 without training."""
    env, config = dmdenv.make_env("flocking"), apg.Config()
    start = apg.init(env, config, jax.random.key(0))
    trained, _ = jax.jit(lambda key: apg.train(env, config, key))(jax.random.key(0))
    policies = {
        "trained": apg.policy(env, config, trained),
        "untrained": apg.policy(env, config, start),
        "zero": zero_policy(env),
        "random": random_policy(env),
    }
    orders = {}
    for name, policy in policies.items():
        episodes = evaluate(env, policy, jax.random.key(123), episodes=64)
        orders[name] = float(jnp.mean(episodes.metrics["polar_order"][:, -64:]))
        assert not np.any(episodes.metrics["overflow"])
    assert orders["trained"] >= 0.9, orders
    assert max(orders["untrained"], orders["zero"], orders["random"]) < 0.3, orders
