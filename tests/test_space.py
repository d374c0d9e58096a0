"""How two positions differ and how a position moves."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from dmdenv.space import Free, Periodic

EPS = float(np.finfo(np.float32).eps)


def positions_and_box(seed: int, dimension: int, images: int):
    """Positions in the box, on its faces and beside them in float32, in any of some images; and the box."""
    rng = np.random.default_rng(seed)
    box = rng.uniform(0.5, 20, dimension).astype(np.float32)
    r = (rng.random((40, dimension)) * box).astype(np.float32)
    r[:10] = np.where(rng.random((10, dimension)) < 0.5, 0, box)
    r += (rng.integers(-images, images + 1, r.shape) * box).astype(np.float32)
    r[5:20] = np.nextafter(r[5:20], np.float32(1e9) * rng.choice([-1, 1], (15, dimension)).astype(np.float32))
    r[20:23] = [[np.float32(-1e-30)] * dimension, [np.float32(-1e-12)] * dimension, [np.float32(0)] * dimension]
    return r, box


examples = given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.sampled_from([0, 1, 50]))


@jax.jit
def in_box(box, r):
    return Periodic(box).wrap(r), Periodic(box).displacement(r, r[::-1]), Periodic(box).displacement(r[::-1], r)


@examples
def test_wrapped_positions_are_images_inside_the_box(seed, dimension, images):
    r, box = positions_and_box(seed, dimension, images)
    for wrapped in map(np.asarray, (in_box(box, r)[0], Periodic(box).wrap(r))):
        assert np.all(wrapped >= 0)
        assert np.all(wrapped < box)
        turns = (wrapped.astype(float) - r) / box
        assert np.max(np.abs(turns - np.round(turns))) < 4 * EPS * (images + 1)


@examples
def test_displacements_are_the_shortest_of_all_images(seed, dimension, images):
    r, box = positions_and_box(seed, dimension, images)
    _, there, back = in_box(box, r)
    difference = r.astype(float) - r[::-1]
    turns = np.arange(-2 * images - 3, 2 * images + 4)
    shortest = np.min(np.abs(difference[..., None] + turns * box.astype(float)[:, None]), axis=-1)
    rounding = 4 * EPS * (images + 1) * box
    assert np.all(np.abs(np.abs(there) - shortest) <= rounding)
    assert np.all(np.abs(there) <= box / 2 + rounding)
    np.testing.assert_array_equal(back, -there)


def test_half_a_box_apart_each_sees_the_other_on_the_opposite_side():
    there, back = (Periodic(2.0).displacement(jnp.array(a), jnp.array(b)) for a, b in ([[1.0], [0.0]], [[0.0], [1.0]]))
    np.testing.assert_array_equal(there, -back)
    assert np.abs(there) == 1.0


def test_the_length_of_a_displacement_is_the_distance_to_the_nearest_image():
    box = np.array([2.0, 3.0, 4.0], np.float32)
    a, b = np.random.default_rng(0).random((2, 50, 3), np.float32) * box
    images = np.array(list(itertools.product([-1, 0, 1], repeat=3))) * box
    nearest = np.linalg.norm((a - b)[:, None] + images[None], axis=-1).min(1)
    np.testing.assert_allclose(np.linalg.norm(Periodic(box).displacement(a, b), axis=-1), nearest, rtol=1e-5)


@pytest.mark.parametrize("space", [Free(), Periodic(3.0), Periodic(np.array([3.0, 4.0], np.float32))])
@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_any_leading_shape_may_stand_before_the_vectors(space, leading):
    a, b = np.random.default_rng(1).normal(size=(2, *leading, 2)).astype(np.float32) * 5
    one_by_one = [space.displacement(p, q) for p, q in zip(a.reshape(-1, 2), b.reshape(-1, 2), strict=True)]
    np.testing.assert_allclose(space.displacement(a, b), np.reshape(one_by_one, a.shape), atol=1e-6)
    assert space.wrap(a).shape == a.shape
    assert space.shift(a, b).shape == a.shape


def test_a_shift_moves_and_wraps():
    np.testing.assert_allclose(Periodic(3.0).shift(jnp.array([2.5, 0.5]), jnp.array([1.0, -1.0])), [0.5, 2.5])
    np.testing.assert_allclose(Free().shift(jnp.array([2.5, 0.5]), jnp.array([1.0, -1.0])), [3.5, -0.5])


def test_free_space_has_no_images():
    a, b = np.random.default_rng(1).normal(size=(2, 5, 3)) * 1e3
    np.testing.assert_allclose(Free().displacement(a, b), (a - b).astype(np.float32), rtol=1e-5)
    np.testing.assert_array_equal(Free().wrap(a), a)


def test_derivatives_with_respect_to_the_box_count_the_images_between():
    """d|a - b - L t|/dL: particles at fixed positions, so a larger box brings an image farther off."""
    a, b = jnp.array([0.1, 0.2]), jnp.array([2.9, 3.9 + 8.0])
    box = jnp.array([3.0, 4.0])
    jacobian = jax.jit(jax.jacobian(lambda box: Periodic(box).displacement(a, b)))(box)
    np.testing.assert_array_equal(jacobian, np.diag([1.0, 3.0]))
    np.testing.assert_array_equal(jax.jacobian(lambda box: Periodic(box).wrap(b))(box), np.diag([0.0, -2.0]))
    np.testing.assert_array_equal(jax.jacobian(lambda a: Periodic(box).displacement(a, b))(a), np.eye(2))
    np.testing.assert_array_equal(jax.jacobian(Periodic(box).wrap)(b), np.eye(2))


def test_boxes_are_mapped_and_jit_equals_eager():
    a, b = np.random.default_rng(3).normal(size=(2, 6, 4, 3)).astype(np.float32) * 4
    boxes = np.random.default_rng(4).uniform(1, 3, (6, 3)).astype(np.float32)

    def displacement(box, a, b):
        return Periodic(box).displacement(a, b)

    loop = np.stack([displacement(*one) for one in zip(boxes, a, b, strict=True)])
    np.testing.assert_allclose(jax.vmap(displacement)(boxes, a, b), loop, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(displacement))(boxes, a, b), loop, atol=1e-6)


@pytest.mark.parametrize("box", [5, 5.0, np.float64(5), np.array([5, 6]), [5.0, 6.0], (5, 6), jnp.array([5.0, 6.0])])
def test_a_box_may_be_given_as_any_numbers(box):
    assert Periodic(box).box.dtype == jnp.float32
    np.testing.assert_array_equal(Periodic(box).box, np.asarray(box, np.float32))


def test_precision_is_that_of_the_positions(x64):
    for dtype in ("float32", "float64"):
        r, space = jnp.ones(3, dtype), Periodic(jnp.full(3, 0.7, dtype))
        assert space.displacement(r, -r).dtype == space.wrap(r).dtype == space.shift(r, r).dtype == dtype
    assert Periodic(0.7).box.dtype == "float64"


@pytest.mark.parametrize("box", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0], np.ones((2, 2))])
def test_a_bad_box_is_named(box):
    with pytest.raises(ValueError, match=r"(?s)box = .*; valid: a positive finite length, or one for each axis"):
        Periodic(box)


def test_a_space_is_replaced_by_name():
    np.testing.assert_array_equal(Periodic(3.0).replace(box=4.0).box, 4.0)
    with pytest.raises(ValueError, match="Periodic has no field 'side'; valid fields: box"):
        Periodic(3.0).replace(side=4.0)
