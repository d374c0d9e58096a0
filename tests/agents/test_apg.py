"""The analytic policy gradient, on probes with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents import apg
from dmdenv.agents.evaluate import evaluate
from probe_envs import BestAction, Brittle, PointMass, ReadTheCue

KEY = jax.random.key(0)
SMALL = apg.Config(updates=3, num_envs=4, window=6, hidden=(8,), discount=0.9)

init = jax.jit(apg.init, static_argnums=(0, 1))
update = jax.jit(apg.update, static_argnums=(0, 1))
train = jax.jit(apg.train, static_argnums=(0, 1))


def assert_equal(left, right):
    """Bit for bit, keys included."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), left, right)


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "Config.updates = 0; must be an integer >= 1"),
        ({"num_envs": 2.0}, "Config.num_envs = 2.0; must be"),
        ({"window": True}, "Config.window = True; must be"),
        ({"hidden": (8, 0)}, r"Config.hidden = \(8, 0\); must be a tuple of integers >= 1"),
        ({"hidden": [8]}, r"Config.hidden = \[8\]; must be"),
        ({"learning_rate": 0.0}, "Config.learning_rate = 0.0; must be a finite number > 0"),
        ({"learning_rate": float("nan")}, "Config.learning_rate = nan; must be"),
        ({"max_gradient_norm": "1"}, "Config.max_gradient_norm = '1'; must be"),
        ({"discount": 1.5}, "Config.discount = 1.5; must be a finite number > 0 and <= 1"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        apg.Config(**changes)


# --- known answers ----------------------------------------------------------------------------------------------------


def test_best_action_is_found_for_every_target_at_once():
    env, config = BestAction(), apg.Config(updates=200, num_envs=4, window=4, hidden=(8,), learning_rate=0.03)
    targets = jnp.array([-0.6, 0.1, 0.5])

    @jax.jit
    @jax.vmap
    def learn(key, target):
        state, _ = apg.train(env, config, key, params=env.default_params.replace(target=target))
        return apg.policy(env, config, state)(key, jnp.zeros(1))[0]

    np.testing.assert_allclose(learn(jax.random.split(KEY, 3), targets), targets, atol=1e-3)


def test_every_row_reads_its_own_cue_however_many_there_are():
    env, config = ReadTheCue(), apg.Config(updates=150, num_envs=32, window=8, hidden=(16,), learning_rate=0.03)
    state, metrics = train(env, config, KEY)
    cue = jnp.linspace(-0.9, 0.9, 7)
    observation = jnp.stack([cue, jnp.ones_like(cue)], axis=-1)
    np.testing.assert_allclose(apg.policy(env, config, state)(KEY, observation), 0.5 * cue, atol=0.03)
    assert metrics["reward"].shape == (150,)


def test_mass_is_steered_to_the_origin():
    env, config = PointMass(), apg.Config(updates=150, num_envs=16, window=16, hidden=(16,), learning_rate=0.03)
    state, metrics = train(env, config, KEY)
    run = jax.jit(lambda policy: evaluate(env, policy, jax.random.key(1), episodes=32, steps=32))
    distance = run(apg.policy(env, config, state)).metrics["distance"]
    assert jnp.mean(distance[:, 0]) > 0.3  # at the start, and for ever without an action
    assert jnp.mean(distance[:, -8:]) < 0.01
    assert metrics["distance"][-1] < metrics["distance"][0]


@pytest.mark.parametrize(("window", "blind"), [(1, True), (6, False)])
def test_gradient_sees_as_far_as_the_window(window, blind):
    env, config = PointMass(), dataclasses.replace(SMALL, window=window)
    _, metrics = update(env, config, init(env, SMALL, KEY), params=env.default_params)
    assert (metrics["gradient_norm"] == 0.0) == blind


# --- the gradient -----------------------------------------------------------------------------------------------------


def test_gradient_equals_finite_differences():
    env, state = PointMass(), init(PointMass(), SMALL, jax.random.key(3))
    with jax.enable_x64(True):
        policy, *start = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
            (state.policy, state.env_states, state.observations),
        )

        @jax.jit
        @jax.value_and_grad
        def loss(policy, params):
            return apg.window_loss(env, SMALL, policy, *start, jax.random.key(4), params=params)[0]

        # the last layer is initialised small: enlarged, so that the first one's gradient is of the same size
        policy = jax.tree.map(lambda x: x + 0.3 * np.cos(np.arange(x.size)).reshape(x.shape), policy)
        direction = jax.tree.map(lambda x: np.sin(1.0 + np.arange(x.size)).reshape(x.shape), policy)
        step = 1e-5
        ahead, behind = (jax.tree.map(lambda x, d, by=by: x + by * d, policy, direction) for by in (step, -step))
        for max_steps in (32, 4):  # one episode; resets within the window
            params = env.default_params.replace(max_steps=max_steps)
            gradient = loss(policy, params)[1]
            along = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
            difference = (loss(ahead, params)[0] - loss(behind, params)[0]) / (2 * step)
            assert difference.dtype == jnp.float64
            assert abs(along) > 1e-3
            np.testing.assert_allclose(along, difference, rtol=1e-7)


def test_loss_is_the_discounted_reward_of_a_loop_over_steps():
    env, (count, length) = PointMass(), (SMALL.num_envs, SMALL.window)
    params = env.default_params.replace(max_steps=3)
    state = init(env, SMALL, KEY, params=params)
    after, metrics = update(env, SMALL, state, params=params)
    act, step = jax.jit(type(state.policy).__call__), jax.jit(env.step)
    rewards = np.zeros((length, count))
    keys = jax.random.split(jax.random.split(state.key)[1], (length, count))
    for i in range(count):
        one, observation = jax.tree.map(lambda x, i=i: x[i], (state.env_states, state.observations))
        for t in range(length):
            policy_key, step_key = jax.random.split(keys[t, i])
            action = act(state.policy, policy_key, observation)
            observation, one, rewards[t, i], *_ = step(step_key, one, action, params)
        np.testing.assert_allclose(after.observations[i], observation, rtol=1e-5)
        assert after.env_states.time[i] == one.time
    weights = SMALL.discount ** np.arange(length)
    np.testing.assert_allclose(metrics["loss"], -np.mean(weights @ rewards) / np.sum(weights), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"], np.mean(rewards), rtol=1e-5)


def all_nan(params):
    """Parameters with which the state is not finite after a step; they can be made by no constructor."""
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)


@pytest.mark.parametrize(
    ("env", "poison"),
    [
        (PointMass(), all_nan),
        pytest.param(Brittle(), lambda params: params.replace(target=-0.5), marks=pytest.mark.slow),
    ],
    ids=["nor is the state", "though the reward is"],
)
def test_gradient_that_is_not_finite_is_dropped_and_counted(env, poison):
    poisoned, healthy = poison(env.default_params), env.default_params
    state = init(env, SMALL, KEY)
    dropped, metrics = update(env, SMALL, state, params=poisoned)
    assert metrics["skipped"] == 1.0
    assert jnp.isnan(metrics["gradient_norm"])
    assert jnp.isfinite(metrics["loss"])
    assert_equal((dropped.policy, dropped.optimizer), (state.policy, state.optimizer))
    assert dropped.updates == 1
    improved, metrics = update(env, SMALL, dropped, params=healthy)
    assert metrics["skipped"] == 0.0
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.any(a != b), improved.policy, state.policy)))


# --- a pure function --------------------------------------------------------------------------------------------------


def test_vmapped_seeds_and_scanned_updates_equal_a_loop():
    env, keys = PointMass(), jax.random.split(KEY, 3)
    trained, metrics = jax.jit(jax.vmap(lambda key: apg.train(env, SMALL, key)))(keys)
    assert metrics["loss"].shape == (3, SMALL.updates)
    state = init(env, SMALL, keys[1])
    losses = []
    for _ in range(SMALL.updates):
        state, row = update(env, SMALL, state, params=env.default_params)
        losses.append(row["loss"])
    np.testing.assert_allclose(metrics["loss"][1], losses, rtol=1e-5)
    one = jax.tree.map(lambda x: x[1], trained)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.policy, state.policy)
    assert_equal(one.key, state.key)


def test_other_parameters_do_not_recompile():
    env, traced = PointMass(), []

    @jax.jit
    def policy_update(state, params):
        traced.append(params)
        return apg.update(env, SMALL, state, params=params)[0]

    state = init(env, SMALL, KEY)
    for friction in (0.1, 0.2):
        jax.eval_shape(policy_update, state, env.default_params.replace(friction=friction))
    assert len(traced) == 1


def test_episodes_end_in_turn_and_between_windows():
    env = PointMass()
    params = env.default_params.replace(max_steps=2 * SMALL.window)
    state = init(env, SMALL, KEY, params=params)
    for _ in range(3):
        np.testing.assert_array_equal(np.sort(state.env_states.time), [0, 0, 6, 6])
        state, _ = update(env, SMALL, state, params=params)
