"""Rows that talk to their neighbours: who hears whom, equivariance, sizes, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dmdenv
from dmdenv.agents import SpaceMismatchError
from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.messages import MessagePerceptron
from dmdenv.agents.networks import deterministic_policy
from dmdenv.envs.acting import act
from dmdenv.envs.row_neighbors import RowNeighbors
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.space import Periodic

KEY = jax.random.key(0)
# rows 0 to 3 are near each other, also across the boundary of the box; 4 is out of range, 5 absent
POSITIONS = np.array([[0.2, 0.3], [0.6, 0.1], [7.8, 0.2], [0.3, 7.9], [4.0, 4.0], [0.4, 0.4]])
ANGLES = np.linspace(0.0, 5.0, 6)
PRESENT = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
X = np.random.default_rng(0).normal(size=(6, 3))


def around(positions=POSITIONS, angles=ANGLES, present=PRESENT, pairs=AllPairs()):
    angles = jnp.asarray(angles, float)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    frames = jnp.stack([jnp.stack([cos, sin], axis=-1), jnp.stack([-sin, cos], axis=-1)], axis=1)
    positions, present = jnp.asarray(positions, float), jnp.asarray(present, float)
    return RowNeighbors(Periodic(jnp.asarray(8.0)), positions, frames, present, jnp.asarray(1.0), pairs)


def network(relation_size=4):
    return MessagePerceptron((3, 5, 2), relation_size=relation_size, rngs=nnx.Rngs(1))


@jax.jit
def outputs(x, neighbors):
    return network(0 if neighbors is None else 4)(x, neighbors)


@pytest.mark.usefixtures("x64")
def test_a_row_hears_its_neighbours_and_nobody_else():
    hears = np.zeros((6, 6), bool)
    before = outputs(X, around())
    for j in range(6):
        hears[:, j] = np.any(outputs(X + 0.5 * (np.arange(6) == j)[:, None], around()) != before, axis=1)
    near = (np.arange(6) < 4)[:, None] & (np.arange(6) < 4)[None]
    np.testing.assert_array_equal(hears, near | np.eye(6, dtype=bool))


@pytest.mark.usefixtures("x64")
def test_messages_are_those_of_the_formula():
    model = network()
    kernel, bias = np.asarray(model.message.kernel[...]), np.asarray(model.message.bias[...])
    frames = np.asarray(around().frames)
    messages, weights = np.zeros((6, 16)), np.zeros(6)
    for i in range(6):
        for j in set(range(6)) - {i}:
            away = (POSITIONS[j] - POSITIONS[i] + 4.0) % 8.0 - 4.0
            weight = PRESENT[i] * PRESENT[j] * max(1.0 - away @ away, 0.0) ** 2
            seen = np.concatenate([X[i], X[j], frames[i] @ away, frames[i] @ frames[j, 0]])
            messages[i] += weight * np.tanh(seen @ kernel + bias)
            weights[i] += weight
    expected = model.rows(np.concatenate([X, messages / (1.0 + weights)[:, None]], axis=1))
    np.testing.assert_allclose(outputs(X, around()), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("placed", [True, False], ids=["neighbours", "all rows"])
def test_a_permutation_of_rows_permutes_the_outputs_and_a_list_changes_nothing(placed):
    order = np.array([3, 5, 0, 4, 1, 2])
    given, permuted = (around(), around(POSITIONS[order], ANGLES[order], PRESENT[order])) if placed else (None, None)
    expected = np.asarray(outputs(X, given))
    np.testing.assert_allclose(outputs(X[order], permuted), expected[order], rtol=1e-12, atol=1e-15)
    if given is not None:
        pairs = allocate(given.space, given.positions, cutoff=1.5, skin=0.2)
        np.testing.assert_allclose(outputs(X, given.replace(pairs=pairs)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_nothing_changes_where_the_flock_is_turned_and_shifted_or_another_one_is_far_away():
    turn, (cos, sin) = 0.7, (np.cos(0.7), np.sin(0.7))
    flock = POSITIONS - 8.0 * (POSITIONS > 7.0)
    flock[4] = [3.0, 0.0]  # in a box, a turned image of it would be elsewhere
    turned = flock @ np.array([[cos, sin], [-sin, cos]]) + 0.3
    expected = outputs(X, around(flock))
    np.testing.assert_allclose(outputs(X, around(turned, ANGLES + turn)), expected, rtol=1e-10, atol=1e-14)
    two = around(np.concatenate([flock, flock + 4.0]), np.tile(ANGLES, 2), np.tile(PRESENT, 2))
    np.testing.assert_allclose(outputs(np.tile(X, (2, 1)), two), np.tile(expected, (2, 1)), rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_gradients_equal_finite_differences():
    """By weights, observations and positions together, along one direction."""
    graph, weights = nnx.split(network())
    start = weights, jnp.asarray(X), jnp.asarray(POSITIONS)

    @jax.jit
    @jax.value_and_grad
    def value(at):
        weights, x, positions = at
        y = nnx.merge(graph, weights)(x, around(positions))
        return jnp.sum(jnp.sin(100.0 * y))  # the last layer is small

    leaves, tree = jax.tree.flatten(start)
    random = np.random.default_rng(3)
    direction = [random.normal(size=leaf.shape) for leaf in leaves]
    _, gradient = value(start)
    along = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True))
    ahead, behind = (
        value(jax.tree.unflatten(tree, [x + h * d for x, d in zip(leaves, direction, strict=True)]))[0]
        for h in (1e-6, -1e-6)
    )
    assert abs(along) > 0.1
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(along, (ahead - behind) / 2e-6, rtol=1e-6)


def test_messages_do_not_grow_with_the_number_of_neighbours():
    x = jnp.ones((4, 3))
    many = jnp.ones((64, 3))
    few, more = outputs(x, None)[0], outputs(many, None)[0]
    np.testing.assert_allclose(few, more, atol=0.01)
    assert np.any(few != more)


# --- in environments --------------------------------------------------------------------------------------------------


def test_rows_without_positions_are_refused_by_a_policy_that_was_made_with_them():
    env = dmdenv.make_env("flocking", boids=4)
    policy = jax.eval_shape(lambda key: deterministic_policy(env, (4,), key, network="neighbors"), KEY)
    with pytest.raises(SpaceMismatchError, match="rows have no positions; the policy takes positions of 2 dimensions"):
        jax.eval_shape(lambda policy: policy(KEY, jnp.zeros(env.observation_shape), None), policy)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["align", "evade"])
def test_a_policy_for_few_boids_acts_on_many_by_a_list_as_by_all_pairs(task):
    few, *many = (
        dmdenv.make_env("flocking", task=task, boids=n, pairs=p) for n, p in ((8, "all"), (96, "all"), (96, "list"))
    )
    policy = jax.jit(lambda key: deterministic_policy(few, (8,), key, network="neighbors"))(KEY)
    policy = jax.tree.map(lambda w: 3.0 * w, policy)

    def actions(env):
        observation, state = env.reset(KEY)
        return jax.jit(lambda: act(policy, KEY, observation, env, state, env.default_params))()

    found = [actions(env) for env in many]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)
    assert np.std(found[0]) > 1e-3
    returns = [evaluate(env, policy, KEY, episodes=2, steps=4).returns for env in many]
    np.testing.assert_allclose(*returns, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pairs", ["all", "list"])
def test_the_gradient_of_a_return_equals_finite_differences(pairs):
    env = dmdenv.make_env("flocking", boids=8, pairs=pairs)
    policy = deterministic_policy(env, (4,), KEY, network="neighbors")
    leaves, tree = jax.tree.flatten(policy)
    direction = [np.random.default_rng(i).normal(size=leaf.shape) for i, leaf in enumerate(leaves)]

    @jax.jit
    @jax.value_and_grad
    def value(h):
        policy = jax.tree.unflatten(tree, [x + h * d for x, d in zip(leaves, direction, strict=True)])
        return evaluate(env, policy, KEY, episodes=3, steps=4).returns.mean()

    along = value(0.0)[1]
    assert abs(along) > 1e-4
    np.testing.assert_allclose(along, (value(1e-5)[0] - value(-1e-5)[0]) / 2e-5, rtol=1e-5)
