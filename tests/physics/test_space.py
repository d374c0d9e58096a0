"""How two positions differ and how a position moves."""

import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from dmdenv._core.fields import number
from dmdenv._core.pytree import pytree
from dmdenv.minimizers import FIRE
from dmdenv.neighbors import AllPairs, allocate, update
from dmdenv.potentials import lennard_jones, soft_sphere
from dmdenv.quantities import center, pressure
from dmdenv.space import Deformed, Free, OpenSpace, Periodic, Triclinic, lower_triangular
from marks import OPTIMIZED

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


@functools.partial(jax.jit, compiler_options=OPTIMIZED)
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
    with pytest.raises(ValueError, match=r"(?s)Periodic\.box (= .*; must be a finite number > 0|has shape)"):
        Periodic(box)


def test_a_space_is_replaced_by_name():
    np.testing.assert_array_equal(Periodic(3.0).replace(box=4.0).box, 4.0)
    with pytest.raises(ValueError, match="Periodic has no field 'side'; valid fields: box"):
        Periodic(3.0).replace(side=4.0)


# --- triclinic cells --------------------------------------------------------------------------------------------------


def random_cell(rng, dimension: int, tilt: float) -> np.ndarray:
    """Lower triangular, with tilts up to `tilt` times the box length along the axis that they lean to."""
    diagonal = rng.uniform(0.5, 20, dimension)
    return np.tril(rng.uniform(-tilt, tilt, (dimension, dimension)) * diagonal, -1) + np.diag(diagonal)


def nearest_images(cell: np.ndarray, difference: np.ndarray, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """The shortest of all images `[n, d]` by brute force, and how long the second shortest is, `[n]`."""
    reduced = difference - np.floor(difference @ np.linalg.inv(cell)) @ cell
    turns = [2]
    for _ in cell[1:]:
        turns.insert(0, 2 + int(np.ceil(tilt * sum(turns))))
    images = np.array(list(itertools.product(*[range(-k, k + 1) for k in turns]))) @ cell
    all_images = reduced[:, None] + images[None]
    lengths = np.linalg.norm(all_images, axis=-1)
    order = np.argsort(lengths, axis=1)
    at = np.arange(len(difference))
    return all_images[at, order[:, 0]], lengths[at, order[:, 1]]


cells = given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.sampled_from([0.4, 0.5, 1.0, 2.5]))


@jax.jit
def in_cell(cell, a, b):
    space = Triclinic(cell)
    fractional, wrapped = space.fractional(a), space.wrap(a)
    return space.displacement(a, b), space.displacement(b, a), fractional, wrapped, space.fractional(wrapped)


@cells
def test_up_to_the_largest_cutoff_displacements_in_a_sheared_cell_are_the_shortest_of_all_images(seed, dimension, tilt):
    """And beyond it they are images that are not shorter than the cutoff, so that no distance is wrong."""
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, dimension, tilt)
    cutoff = np.min(np.diag(cell)) / 2
    a = rng.normal(size=(40, dimension)) * 10 @ cell
    near = rng.normal(size=(20, dimension))
    near *= cutoff * rng.uniform(0, 1.3, (20, 1)) / np.linalg.norm(near, axis=1, keepdims=True)
    b = rng.normal(size=(40, dimension)) * 10 @ cell
    b[:20] = a[:20] + near + rng.integers(-9, 10, near.shape) @ cell
    with jax.enable_x64(True):
        assert float(Triclinic(cell).largest_cutoff(dimension)) == cutoff
        there, back, *_ = (np.asarray(value) for value in in_cell(cell, a, b))
    np.testing.assert_array_equal(back, -there)
    turns = (there - (a - b)) @ np.linalg.inv(cell)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-9)
    shortest, second = nearest_images(cell, a - b, tilt)
    inside = np.linalg.norm(shortest, axis=1) < cutoff * (1 - 1e-9)
    np.testing.assert_allclose(there[inside], shortest[inside], atol=1e-9 * np.max(cell))
    assert np.all(np.linalg.norm(there[~inside], axis=1) >= cutoff * (1 - 1e-9))
    assert np.all(second[inside] >= cutoff * (1 - 1e-9)), "a pair has two images within the largest cutoff"
    assert inside.sum() >= 5
    assert np.all(np.abs(there) <= np.diag(cell) / 2 * (1 + 1e-9))


@cells
def test_wrapped_positions_are_images_inside_the_sheared_cell(seed, dimension, tilt):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, dimension, tilt)
    fractional = rng.uniform(-5, 5, (40, dimension))
    r = fractional @ cell
    for dtype, rounding in (("float64", 1e-12), ("float32", 1e-4)):
        with jax.enable_x64(True):
            *_, coordinates, wrapped, inside = (
                np.asarray(value, float) for value in in_cell(cell.astype(dtype), r.astype(dtype), r.astype(dtype))
            )
        np.testing.assert_allclose(coordinates, fractional, atol=rounding)
        assert np.all((inside > -rounding) & (inside < 1 + rounding))
        turns = (wrapped - r) @ np.linalg.inv(cell)
        np.testing.assert_allclose(turns, np.round(turns), atol=rounding)


@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_a_triclinic_cell_without_tilt_is_an_orthorhombic_box(seed, dimension):
    r, box = positions_and_box(seed, dimension, images=1)
    straight, tilted = Periodic(box), Triclinic(np.diag(box))
    wrapped, there, _ = in_box(box, r)
    tilted_there, _, fractional, tilted_wrapped, _ = in_cell(np.diag(box), r, r[::-1])
    for a, b in ((wrapped, tilted_wrapped), (there, tilted_there)):
        apart = np.abs(a - b)
        assert np.all(np.minimum(apart, np.abs(apart - box)) <= 8 * EPS * box)  # on a face, each may choose its side
    np.testing.assert_allclose(fractional, straight.fractional(r), atol=8 * EPS)
    np.testing.assert_allclose(tilted.heights(dimension), straight.heights(dimension), rtol=1e-6)
    assert tilted.largest_cutoff(dimension) == straight.largest_cutoff(dimension)
    np.testing.assert_allclose(tilted.volume(dimension), straight.volume(dimension), rtol=1e-6)


def test_heights_and_volume_of_a_cell_are_those_of_a_parallelepiped():
    cell = np.array([[3.0, 0, 0], [1.0, 4.0, 0], [-2.0, 0.5, 5.0]])
    a, b, c = cell
    faces = [np.cross(b, c), np.cross(c, a), np.cross(a, b)]
    volume = a @ faces[0]
    np.testing.assert_allclose(Triclinic(cell).volume(3), volume, rtol=1e-6)
    np.testing.assert_allclose(Triclinic(cell).heights(3), volume / np.linalg.norm(faces, axis=1), rtol=1e-6)
    np.testing.assert_allclose(Triclinic([[4.0, 0], [3.0, 3.0]]).heights(2), [4 / np.sqrt(2), 3.0], rtol=1e-6)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_any_leading_shape_may_stand_before_the_vectors_in_a_sheared_cell(leading):
    space = Triclinic([[3.0, 0], [2.0, 4.0]])
    a, b = np.random.default_rng(1).normal(size=(2, *leading, 2)).astype(np.float32) * 5
    one_by_one = [space.displacement(p, q) for p, q in zip(a.reshape(-1, 2), b.reshape(-1, 2), strict=True)]
    np.testing.assert_allclose(space.displacement(a, b), np.reshape(one_by_one, a.shape), atol=1e-5)
    for vectors in (space.wrap(a), space.fractional(a), space.shift(a, b)):
        assert vectors.shape == a.shape
    np.testing.assert_allclose(space.shift(a, b), space.wrap(a + b), atol=1e-5)


def energy(space, positions):
    return lennard_jones(cutoff=1.9, truncation="force_shifted").energy(space, positions, AllPairs())


def crystal(seed: int = 0):
    """A sheared lattice of 27 particles, displaced at random, in any images: fractional coordinates, and the cell."""
    rng = np.random.default_rng(seed)
    cell = np.array([[4.0, 0, 0], [1.5, 3.9, 0], [-2.1, 5.2, 4.1]])
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) / 3
    return grid + rng.uniform(-0.05, 0.05, grid.shape) + rng.integers(-2, 3, grid.shape), cell


@pytest.mark.usefixtures("x64")
def test_derivatives_by_the_cell_are_finite_differences():
    """Of an energy at fixed positions, and at fixed fractional coordinates: the cell's own and all that follows it."""
    fractional, cell = crystal()

    def following(cell):
        return energy(Triclinic(cell), fractional @ cell)

    def staying(cell):
        return energy(Triclinic(cell), fractional @ crystal()[1])

    for function in (following, staying):
        value, gradient = jax.jit(function), jax.jit(jax.grad(function))(cell)
        for k, j in zip(*np.tril_indices(3), strict=True):
            h = 1e-6 * np.eye(3)[k][:, None] * np.eye(3)[j][None]
            slope = float(value(cell + h) - value(cell - h)) / 2e-6
            assert gradient[k, j] == pytest.approx(slope, rel=1e-7, abs=1e-6)
            assert abs(slope) > 1e-2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["triclinic", "periodic", "free"])
def test_the_derivative_by_a_deformation_is_that_by_box_and_positions_together(kind):
    """So a virial may be taken from either; `Deformed` is differentiated at the identity only."""
    fractional, cell = crystal()
    spaces = {"triclinic": Triclinic, "periodic": lambda cell: Periodic(jnp.diag(cell)), "free": lambda cell: Free()}
    cell = cell if kind == "triclinic" else np.diag(np.diag(cell))
    if kind == "free":
        fractional = fractional % 1

    def deformed(strain):
        return energy(Deformed(spaces[kind](cell), jnp.eye(3) + strain), fractional @ cell)

    @jax.jit
    def carried(strain):
        new = cell @ (jnp.eye(3) + strain).T
        return energy(spaces[kind](new), fractional @ new)

    slopes = jax.jit(jax.grad(deformed))(jnp.zeros((3, 3)))
    for j, k in zip(*np.triu_indices(3), strict=True):  # r -> (1 + e) r keeps the edges' rows lower triangular
        if kind == "periodic" and k != j:
            continue
        h = 1e-6 * np.eye(3)[j][:, None] * np.eye(3)[k][None]
        slope = float(carried(h) - carried(-h)) / 2e-6
        assert slopes[j, k] == pytest.approx(slope, rel=1e-7, abs=1e-6)
        assert abs(slope) > 1e-2


def test_displacements_in_a_deformed_space_are_deformed():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32) * 3
    F = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    for space in (Free(), Periodic(3.0), Triclinic([[3.0, 0, 0], [2, 3, 0], [1, 1, 3]])):
        expected = np.asarray(space.displacement(a, b)) @ F.T
        np.testing.assert_allclose(Deformed(space, F).displacement(a, b), expected, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_shear_by_a_whole_box_gives_the_same_lattice():
    """Energy and forces at fixed positions: what makes it possible to shear for ever in a cell that stays compact."""
    positions = crystal()[0] * 4.0

    def sheared(shear):
        space = Triclinic(jnp.array([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]]).at[1, 0].set(4.0 * shear))
        return energy(space, positions), jax.grad(energy, argnums=1)(space, positions)

    sheared = jax.jit(sheared)
    for shear in (0.0, 0.3, -0.5):
        energies, forces = zip(*[sheared(shear + turns) for turns in (-2, -1, 0, 1, 2)], strict=True)
        np.testing.assert_allclose(energies, energies[2], rtol=1e-12)
        for force in forces:
            np.testing.assert_allclose(force, forces[2], atol=1e-9)
    assert abs(sheared(0.3)[0] - sheared(0.0)[0]) > 1e-2


@cells
def test_any_right_handed_cell_is_rotated_to_a_lower_triangular_one(seed, dimension, tilt):
    rng = np.random.default_rng(seed)
    edges = rng.normal(size=(dimension, dimension)) * tilt
    if np.linalg.det(edges) < 0:
        edges[0] *= -1
    rotated, rotation = lower_triangular(edges)
    assert np.all(np.triu(rotated, 1) == 0) and np.all(np.diag(rotated) > 0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dimension), atol=1e-14)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(edges @ rotation, rotated, atol=1e-13)
    again, identity = lower_triangular(rotated)
    np.testing.assert_array_equal(identity, np.eye(dimension))
    np.testing.assert_array_equal(again, rotated)
    Triclinic(rotated)


@pytest.mark.parametrize(
    "edges", [[[0, 1], [1, 0]], np.zeros((3, 3)), np.ones((2, 3)), [1.0], [[1, 0], [0, np.nan]], [[1, 0], [0, -1.0]]]
)
def test_edges_that_span_no_right_handed_cell_are_named(edges):
    with pytest.raises(ValueError, match=r"(?s)cell = .*; must be linearly independent edges, right-handed"):
        lower_triangular(edges)


@pytest.mark.parametrize(
    "cell", [[[1, 1], [0, 1]], [[1, 0], [0, 0]], [[1, 0], [1, -1]], [[1, 0], [np.inf, 1]], [1.0, 1.0], np.ones((2, 3))]
)
def test_a_bad_cell_is_named(cell):
    with pytest.raises(ValueError, match=r"(?s)Triclinic.cell = .*; must be (\[d, d\], edges as rows|a finite number)"):
        Triclinic(cell)


def test_a_cell_may_be_given_as_any_numbers_and_is_mapped():
    assert Triclinic([[2, 0], [1, 3]]).cell.dtype == jnp.float32
    sheared = jnp.array([[[3.0, 0], [shear, 4.0]] for shear in (0.0, 1.0, 5.0)])
    a, b = np.random.default_rng(3).normal(size=(2, 4, 2)).astype(np.float32) * 4
    mapped = jax.jit(jax.vmap(lambda cell: Triclinic(cell).displacement(a, b)))(sheared)
    loop = np.stack([Triclinic(cell).displacement(a, b) for cell in sheared])
    np.testing.assert_allclose(mapped, loop, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_precision_in_a_sheared_cell_is_that_of_the_positions():
    for dtype in ("float32", "float64"):
        r, space = jnp.ones(2, dtype), Triclinic(jnp.array([[0.7, 0], [0.3, 0.7]], dtype))
        for vector in (space.displacement(r, -r), space.wrap(r), space.shift(r, r), space.fractional(r)):
            assert vector.dtype == dtype
    assert Triclinic([[0.7, 0], [0.3, 0.7]]).cell.dtype == "float64"


@pytree
class Slit(OpenSpace):
    """A new kind of space is one class: here a slit between two mirrors at x = 0 and x = width."""

    width: jax.Array = number(above=0)

    def displacement(self, a, b):
        return a - b

    def shift(self, positions, displacement):
        moved = positions + displacement
        x = jnp.abs(moved[..., 0] % (2 * self.width))
        return moved.at[..., 0].set(jnp.minimum(x, 2 * self.width - x))

    def volume(self, dimension):
        return jnp.asarray(jnp.inf)


def test_a_space_of_ones_own_works_with_lists_potentials_and_minimisers(through_cells):
    space, r = Slit(4.0), jnp.asarray(np.random.default_rng(0).uniform(0, 4, (60, 2)), jnp.float32)
    spheres, pairs = soft_sphere(sigma=0.8), allocate(space, r, cutoff=0.8, skin=0.1)
    assert pairs.cells
    for where in (r, space.shift(r, jnp.full_like(r, 0.2))):
        pairs = update(pairs, space, where)
        np.testing.assert_allclose(
            spheres.energies(space, where, pairs), spheres.energies(space, where, AllPairs()), atol=1e-6
        )
    np.testing.assert_allclose(center(space, r), jnp.mean(r, axis=0), rtol=1e-5)
    with pytest.raises(ValueError, match="box_mode = 'axes'; must be 'fixed' in Slit space"):
        FIRE(dt=0.1, box_mode="axes").init(spheres, space, r)
    with pytest.raises(ValueError, match=r"space = Slit.*; must be periodic"):
        pressure(spheres, space, r, AllPairs())
