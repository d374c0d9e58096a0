"""Evolution strategies, on probes with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents import SpaceMismatchError, es
from dmdenv.agents.evaluate import evaluate
from dmdenv.envs.base import Transition
from dmdenv.envs.registry import make_env
from probe_envs import BestAction

KEY = jax.random.key(0)
METHODS = ("openai", "cmaes")


@dataclasses.dataclass(frozen=True)
class Cliff(BestAction):
    """The best action, but those above the target lead to a state that is not finite, where the reward is 0."""

    def advance(self, key, state, action, params):
        state, reward, terminated, metrics = super().advance(key, state, action, params)
        cue = jnp.where(action > params.target, jnp.nan, state.cue)
        return Transition(state.replace(cue=cue), reward - 1.0, terminated, metrics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "adam"}, "Config.method = 'adam'; must be one of 'openai', 'cmaes'"),
        ({"population": 2}, "Config.population = 2; must be an integer >= 4"),
        ({"population": 7}, "Config.population = 7; must be even for method = 'openai'"),
        ({"spread": 0}, "Config.spread = 0; must be a finite number > 0"),
        ({"steps": -1}, "Config.steps = -1; must be an integer >= 1 and <= 1000000000 or None"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        es.Config(**changes)


def test_steps_are_counted_over_all_members_and_episodes():
    assert es.Config(population=7, method="cmaes", episodes=3, steps=32).steps_per_update == 7 * 3 * 32
    with pytest.raises(ValueError, match=r"Config\.steps = None; must be an integer >= 1 for the number of steps"):
        _ = es.Config().steps_per_update


def test_cmaes_of_too_many_weights_is_refused():
    config = es.Config(method="cmaes", hidden=(64, 64))
    message = r"a policy with hidden = \(64, 64\) has 4353 weights; must be at most 1000 for method = 'cmaes'"
    with pytest.raises(SpaceMismatchError, match=message):
        jax.eval_shape(lambda key: es.init(BestAction(), config, key), KEY)


def test_cmaes_keeps_the_types_of_the_state():
    env, config = BestAction(), es.Config(method="cmaes")
    state = jax.eval_shape(lambda key: es.init(env, config, key), KEY)
    after, _ = jax.eval_shape(lambda state: es.update(env, config, state), state)
    types, expected = ([(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(s)] for s in (after, state))
    assert types == expected


def test_ranks_are_centred_and_equal_for_equal_values():
    ranks = es.centred_ranks(jnp.array([3.0, jnp.inf, 1.0, jnp.inf]))
    np.testing.assert_allclose(ranks, [-0.125, 0.25, -0.375, 0.25])
    np.testing.assert_array_equal(es.centred_ranks(jnp.full(4, jnp.inf)), 0.0)


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_best_action_is_found_for_every_target_at_once(method):
    env = BestAction()
    config = es.Config(method=method, updates=60, population=8, episodes=1, steps=1, hidden=())
    targets = jnp.array([-0.6, 0.1, 0.5])

    @jax.jit
    @jax.vmap
    def learn(key, target):
        state, metrics = es.train(env, config, key, params=env.default_params.replace(target=target))
        return es.policy(env, config, state)(key, jnp.zeros(1))[0], metrics["reward"]

    actions, rewards = learn(jax.random.split(KEY, 3), targets)
    np.testing.assert_allclose(actions, targets, atol=0.05)
    assert rewards.shape == (3, 60)


def test_members_that_are_not_finite_rank_last():
    env = Cliff()
    config = es.Config(updates=60, population=8, episodes=2, steps=1, hidden=())
    state, metrics = jax.jit(lambda key: es.train(env, config, key))(KEY)
    action = es.policy(env, config, state)(KEY, jnp.zeros(1))[0]
    assert 0.3 < action < 0.5
    assert jnp.max(metrics["nonfinite"]) > 0.0


@pytest.mark.slow
def test_vmapped_seeds_and_scanned_updates_equal_a_loop():
    env, keys = BestAction(), jax.random.split(KEY, 2)
    config = es.Config(method="cmaes", updates=3, population=4, episodes=1, steps=1, hidden=())
    trained, metrics = jax.jit(jax.vmap(lambda key: es.train(env, config, key)))(keys)
    update = jax.jit(es.update, static_argnums=(0, 1))
    state, losses = es.init(env, config, keys[1]), []
    for _ in range(3):
        state, row = update(env, config, state)
        losses.append(row["loss"])
    np.testing.assert_allclose(metrics["loss"][1], losses, rtol=1e-5)
    one = jax.tree.map(lambda x: x[1], trained.policy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, state.policy)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_32_000_steps_bring_the_work_of_a_trap_to_8_8(method):
    env = make_env("trap_drag")
    config = es.Config(method=method, updates=32, population=32, episodes=1, steps=32)
    assert config.updates * config.steps_per_update == 32_768

    @jax.jit
    @jax.vmap
    def work(key):
        state, _ = es.train(env, config, key)
        return -jnp.mean(evaluate(env, es.policy(env, config, state), key, episodes=256, steps=32).returns)

    assert jnp.all(work(jax.random.split(KEY, 3)) <= 8.8)
