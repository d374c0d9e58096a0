"""When a neighbour list is rebuilt: alone, along trajectories, and in batches."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import dmdenv.neighbors.cells
import dmdenv.neighbors.lists
import dmdenv.neighbors.search
from brute_force import (
    assert_holds_all_within_reach,
    is_rebuilt,
    misses_a_pair,
    rebuilt,
    room_to_move,
)
from dmdenv.neighbors import AllPairs, allocate, neighbor_sum, update
from dmdenv.space import Periodic, Triclinic
from marks import OPTIMIZED

pytestmark = pytest.mark.usefixtures("through_cells")


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("length", "expected"), [(0.0, False), (0.398, False), (0.402, True)])
def test_a_list_is_rebuilt_when_two_particles_have_moved_the_skin_together(length, expected, share, wrap):
    """Into whatever image."""
    x, space, neighbors = room_to_move()
    x = x.copy()
    x[11] += (1 - share) * length * np.array([2, -1, 2], np.float32) / 3
    x[5] += share * length * np.array([1, 2, 2], np.float32) / 3
    x[3] += [7.0, 0, -7.0]
    x = np.asarray(space.wrap(x) if wrap else x)
    new = jax.jit(update)(neighbors, space, x)
    assert is_rebuilt(new, x) == expected
    if not expected:
        np.testing.assert_array_equal(new.indices, neighbors.indices)
        np.testing.assert_array_equal(new.positions, neighbors.positions)


@pytest.mark.parametrize(
    ("stretch", "expected"),
    [((1.0, 1.0, 1.0), False), ((1.3, 1.1, 1.0), False), ((0.76, 0.9, 1.0), False), ((0.74, 0.9, 1.0), True)],
)
def test_a_box_may_shrink_by_the_share_of_the_skin_before_a_rebuild(stretch, expected):
    """Positions that follow the box: 1.6 x 0.75 is the cutoff of 1.2. A growing box needs none."""
    x, space, neighbors = room_to_move()
    stretch = np.array(stretch, np.float32)
    new_space = Periodic(np.full(3, 7.0, np.float32) * stretch)
    old = neighbors.replace(space=Periodic(np.full(3, 7.0, np.float32)))
    new = jax.jit(update)(old, new_space, x * stretch)
    assert is_rebuilt(new, x * stretch) == expected or np.all(stretch == 1)
    assert not misses_a_pair(new, new_space, x * stretch)


def test_a_list_without_skin_is_rebuilt_by_any_move_and_not_without():
    x, space, neighbors = room_to_move()
    neighbors = neighbors.replace(skin=jnp.float32(0.0), columns=jnp.int32(99))
    assert jax.jit(update)(neighbors, space, x).columns == 99
    assert jax.jit(update)(neighbors, space, x + np.float32(1e-3)).columns != 99


@functools.cache
def compiled_trajectory():
    """Updates along a trajectory; all lists on the way."""

    def trajectory(neighbors, boxes, positions):
        def step(neighbors, at):
            box, x = at
            neighbors = update(neighbors, Periodic(box), x)
            return neighbors, neighbors

        return jax.lax.scan(step, neighbors, (boxes, positions))[1]

    return jax.jit(trajectory)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    speed=st.sampled_from([0.01, 0.05]),
    strain=st.sampled_from([0.0, 0.01, 0.04]),
    affine=st.booleans(),
    wrap=st.booleans(),
)
def test_a_list_is_complete_for_the_cutoff_all_along_a_trajectory(seed, speed, strain, affine, wrap):
    """Random walks in a box whose sides do the same, carried along by the box or not."""
    steps, (x, space, neighbors) = 25, room_to_move()
    neighbors = neighbors.replace(
        space=Periodic(np.full(3, 7.0, np.float32)), indices=jnp.zeros((59, 60), jnp.int32), row_capacity=60
    )
    rng = np.random.default_rng(seed)
    stretch = np.exp(np.cumsum(strain * rng.normal(size=(steps, 3)), axis=0))
    boxes = (7.0 * np.clip(stretch, 0.95, 1.3)).astype(np.float32)
    walk = np.asarray(rebuilt(neighbors, space.replace(box=np.full(3, 7.0, np.float32)), x).positions, float)
    walk = walk + np.cumsum(speed * rng.normal(size=(steps, 60, 3)), axis=0)
    if affine:
        walk = walk * boxes[:, None] / 7.0
    if wrap:
        walk = walk % boxes[:, None]
    walk = walk.astype(np.float32)
    start = rebuilt(neighbors, neighbors.space, x)
    lists = compiled_trajectory()(start, boxes, walk)
    rebuilds = 0
    for k in range(steps):
        at = jax.tree.map(lambda a, k=k: a[k], lists)
        assert not at.overflow
        assert not misses_a_pair(at, Periodic(boxes[k]), walk[k])
        rebuilds += is_rebuilt(at, walk[k])
    assert rebuilds < steps or speed == 0.05 or strain > 0
    if speed == 0.05:
        assert rebuilds > 0


def sheared(shear: float, side: float = 7.0) -> np.ndarray:
    """A tilted cell whose planes of constant y are sheared along x, float32."""
    return np.array([[side, 0, 0], [shear * side, side, 0], [0.2 * side, 0.1 * side, side]], np.float32)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("rate", "speed"), [(0.005, 0.005), (0.06, 0.005), (0.005, 0.05)])
def test_a_list_is_complete_for_the_cutoff_all_along_a_shear(rate, speed, flipped):
    """Particles carried along by a cell that shears, which turns into the equal one of opposite tilt and back."""
    steps, rng = 16, np.random.default_rng(0)
    x, start = sheared_fluid()
    shears = 0.5 - rate * np.arange(steps)
    flips = np.where(flipped & (np.arange(steps) % 8 >= 4), -1.0, 0.0)
    fractional = x.astype(float) @ np.linalg.inv(sheared(0.5).astype(float))
    walk = np.cumsum(speed * rng.normal(size=(steps, *x.shape)), axis=0)
    positions = np.stack([fractional @ sheared(shear).astype(float) for shear in shears]) + walk
    cells = np.stack([sheared(shear + flip) for shear, flip in zip(shears, flips, strict=True)])
    lists = compiled_shear()(start, cells, positions.astype(np.float32))
    rebuilds = 0
    for k in range(steps):
        at = jax.tree.map(lambda a, k=k: a[k], lists)
        assert not at.overflow
        assert not misses_a_pair(at, Triclinic(cells[k]), positions[k].astype(np.float32))
        rebuilds += is_rebuilt(at, positions[k].astype(np.float32))
    assert rebuilds < steps
    assert (rebuilds > 0) == (flipped or rate == 0.06 or speed == 0.05)


@functools.cache
def sheared_fluid():
    """Positions in the cell of a tilt of 1/2, and a list that has room for every pair."""
    space = Triclinic(sheared(0.5))
    x = (np.random.default_rng(8).random((60, 3)) @ sheared(0.5)).astype(np.float32)
    roomy = allocate(space, x, cutoff=1.2, skin=0.4, slack=60.0)
    assert roomy.cannot_overflow and max(roomy.cells) > 5
    return x, roomy


@functools.cache
def compiled_shear():
    """Updates along a trajectory in a changing cell; all lists on the way."""

    def trajectory(neighbors, cells, positions):
        def step(neighbors, at):
            cell, x = at
            neighbors = update(neighbors, Triclinic(cell), x)
            return neighbors, neighbors

        return jax.lax.scan(step, neighbors, (cells, positions))[1]

    return jax.jit(trajectory)


def test_a_skin_beyond_half_a_sheared_cell_hides_no_pair():
    """A list sees one image of a pair, beyond `largest_cutoff` not always the nearest one, which may come closer."""
    space = Triclinic([[4.0, 0.0], [2.0, 4.0]])
    x = np.array([[1.0, 0.5], [1.0, 2.7], [3.0, 2.0]], np.float32)  # the first two 2.2 apart, their image in sight 2.7
    neighbors = allocate(space, x, cutoff=2.0, skin=0.4)
    closer = x + np.array([[0, 0.15], [0, -0.15], [0, 0]], np.float32)
    assert not misses_a_pair(jax.jit(update)(neighbors, space, closer), space, closer)


# --- batches ----------------------------------------------------------------------------------------------------------


@functools.cache
def batch():
    """Four instances with boxes of their own and a list each, positions 4 x [n, d]."""
    side = np.array([6.5, 7.0, 7.5, 8.0], np.float32)
    x = (np.random.default_rng(1).random((4, 40, 3)) * side[:, None, None]).astype(np.float32)
    with jax.enable_x64(False):  # whoever asks first
        one = allocate(Periodic(6.5), x[0], cutoff=1.2, skin=0.4, slack=3.0).replace(row_capacity=40)
        return side, x, jax.jit(jax.vmap(lambda box, x: rebuilt(one, Periodic(box), x)))(side, x)


def energy(box, x, neighbors):
    """Of a soft repulsion within the cutoff, through an updated list."""

    def kernel(a, b):
        s = jnp.sum(Periodic(box).displacement(a, b) ** 2)
        return jnp.where(s < 1.44, (1.44 - s) ** 3, 0.0)

    return jnp.sum(jnp.sin(1.0 + neighbor_sum(kernel, x, update(neighbors, Periodic(box), x))))


BATCHED = {
    "vmap": jax.vmap(lambda box, x, lists: update(lists, Periodic(box), x)),
    "vmap of grad": jax.vmap(jax.grad(energy, argnums=(0, 1))),
    "grad of vmap": jax.grad(lambda *at: jnp.sum(jax.vmap(energy)(*at)), argnums=(0, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vmap of grad", "grad of vmap"])
def test_the_compiled_program_of_a_batch_rebuilds_on_a_condition(name, monkeypatch):
    """And would not without the reduction over the batch: the text that is looked for means what it should."""
    program = BATCHED[name]
    lowered = jax.jit(program).lower(*batch())
    conditions = lowered.as_text().count("stablehlo.case")
    assert lowered.compile(OPTIMIZED).as_text().count("conditional(") == conditions
    monkeypatch.setattr(dmdenv.neighbors.lists, "any_in_batch", lambda predicate: predicate)
    selects = jax.jit(lambda *at: program(*at)).lower(*batch())
    assert selects.as_text().count("stablehlo.case") == conditions - 1  # the one that is left is inside of the search
    assert selects.compile(OPTIMIZED).as_text().count("conditional(") == conditions - 1


def test_a_batch_is_rebuilt_when_one_instance_has_moved_and_not_before():
    side, x, lists = batch()
    step = jax.jit(BATCHED["vmap"])
    jiggled = x + np.float32(0.05)
    unmoved = step(side, jiggled, lists)
    np.testing.assert_array_equal(unmoved.positions, x)
    np.testing.assert_array_equal(unmoved.indices, lists.indices)
    jiggled[2, 5, 0] += 0.5
    moved = step(side, jiggled, lists)
    np.testing.assert_array_equal(moved.positions, jiggled)
    for k in range(4):
        assert_holds_all_within_reach(jax.tree.map(lambda a, k=k: a[k], moved), Periodic(side[k]), jiggled[k])


def test_overflow_is_told_of_each_instance():
    side, x, lists = batch()
    small = side * np.array([1, 0.3, 1, 1], np.float32)
    np.testing.assert_array_equal(jax.jit(BATCHED["vmap"])(small, x, lists).overflow, [False, True, False, False])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_gradients_of_a_batch_through_updated_lists_equal_a_loop_over_all_pairs(shift):
    """Whether the lists are rebuilt on the way or not."""
    side, x, lists = jax.tree.map(lambda a: a.astype("float64") if a.dtype == "float32" else a, batch())
    x = x + shift * np.sin(np.arange(x.size)).reshape(x.shape)

    def through_all_pairs(box, x):
        def kernel(a, b):
            s = jnp.sum(Periodic(box).displacement(a, b) ** 2)
            return jnp.where(s < 1.44, (1.44 - s) ** 3, 0.0)

        return jnp.sum(jnp.sin(1.0 + neighbor_sum(kernel, x, AllPairs())))

    one = jax.jit(jax.grad(through_all_pairs, argnums=(0, 1)))
    loop = jax.tree.map(lambda *a: jnp.stack(a), *[one(*at) for at in zip(side, x, strict=True)])
    for name in ("vmap of grad", "grad of vmap"):
        value = jax.jit(BATCHED[name])(side, x, lists)
        for a, b in zip(value, loop, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12 * np.max(np.abs(b)))


def test_a_list_is_not_differentiated():
    """The list built for moved positions has zero derivatives, and those of the sum are not disturbed by it."""
    x, space, neighbors = room_to_move()
    gradient = jax.grad(lambda x: jnp.sum(update(neighbors, space, x).positions))(x + np.float32(1.0))
    assert np.all(gradient == 0)
