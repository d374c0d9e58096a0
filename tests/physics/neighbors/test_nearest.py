"""The k nearest neighbours, against a sort of all distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs, allocate, nearest
from dmdenv.space import Free, Periodic

BOX = 10.0


def by_sorting(positions, k, box=BOX):
    d = positions[:, None] - positions[None]
    distance = np.linalg.norm(d - box * np.round(d / box), axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1)[:, :k]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("kind", ["all pairs", "list"])
def test_they_are_the_first_ones_of_a_sort(kind, dtype, x64):
    positions = np.random.default_rng(0).uniform(0, BOX, (90, 2)).astype(dtype)
    space = Periodic(jnp.asarray(BOX, dtype))
    pairs = AllPairs() if kind == "all pairs" else allocate(space, positions, cutoff=4.0, skin=0.3)
    found = jax.jit(lambda x: nearest(space, x, pairs, 5))(positions)
    np.testing.assert_array_equal(found, by_sorting(positions, 5))


def test_a_batch_finds_what_each_instance_finds():
    x = np.random.default_rng(1).uniform(0, BOX, (4, 20, 2)).astype(np.float32)
    box = np.array([8.0, 9.0, 10.0, 11.0], np.float32)
    found = jax.jit(jax.vmap(lambda x, box: nearest(Periodic(box), x, AllPairs(), 3)))(x, box)
    for one, expected_in, length in zip(found, x, box, strict=True):
        np.testing.assert_array_equal(one, by_sorting(expected_in, 3, length))


def test_eager_equals_jitted():
    x = np.random.default_rng(2).uniform(0, BOX, (12, 2)).astype(np.float32)
    with jax.disable_jit():
        found = nearest(Periodic(BOX), x, AllPairs(), 3)
    np.testing.assert_array_equal(found, by_sorting(x, 3))


def test_their_own_number_stands_where_there_are_too_few():
    positions = jnp.array([[0.0, 0], [1.0, 0], [1.5, 0]])
    np.testing.assert_array_equal(nearest(Free(), positions, AllPairs(), 4), [[1, 2, 0, 0], [2, 0, 1, 1], [1, 0, 2, 2]])


@pytest.mark.parametrize("lost", [np.nan, -np.nan, np.inf])
def test_who_is_absent_or_nowhere_is_not_found(lost):
    positions = jnp.array([[0.0, 0], [1.0, 0], [lost, 0], [3.0, 0]])
    present = jnp.array([True, False, True, True])
    found = nearest(Free(), positions, AllPairs(), 2)
    np.testing.assert_array_equal(found[jnp.array([0, 1, 3])], [[1, 3], [0, 3], [1, 0]])
    found = nearest(Free(), positions, AllPairs(), 2, present=present)
    np.testing.assert_array_equal(found[jnp.array([0, 1, 3])], [[3, 0], [0, 3], [0, 3]])


def test_of_two_that_are_as_near_the_first_one_comes_first():
    positions = jnp.array([[0.0, 0], [0, 1.0], [1.0, 0], [0, -1.0]])
    np.testing.assert_array_equal(nearest(Free(), positions, AllPairs(), 3)[0], [1, 2, 3])


def test_a_number_below_1_is_refused():
    with pytest.raises(ValueError, match="k = 0; must be an integer >= 1"):
        nearest(Free(), jnp.zeros((3, 2)), AllPairs(), 0)
