"""Neighbour lists against brute force: what they hold, when they rebuild, how they overflow."""

import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import dmdenv.neighbors.cells
import dmdenv.neighbors.lists
import dmdenv.neighbors.search
from dmdenv.neighbors import AllPairs, NeighborList, allocate, neighbor_sum, update
from dmdenv.neighbors.search import find_neighbors
from dmdenv.space import Free, Periodic, Triclinic
from marks import by_default

ROUNDING = 1e-5  # of distances in float32, relative to the reach


# --- reference --------------------------------------------------------------------------------------------------------


def distances(space, positions) -> np.ndarray:
    """In float64, of float32 positions."""
    difference = np.asarray(positions, float)[:, None] - np.asarray(positions, float)[None]
    if isinstance(space, Periodic):
        box = np.asarray(space.box, float)
        difference -= box * np.round(difference / box)
    if isinstance(space, Triclinic):
        return distances_to_nearest_images(np.asarray(space.cell, float), difference)
    return np.linalg.norm(difference, axis=-1)


def distances_to_nearest_images(cell: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Brute force over all images that may be the nearest one: `[n, n, d]` to `[n, n]`."""
    inside = difference - np.floor(difference @ np.linalg.inv(cell)) @ cell
    turns = np.ones(len(cell))
    for k in reversed(range(len(cell) - 1)):
        turns[k] += np.ceil(np.abs(cell[k + 1 :, k]) @ turns[k + 1 :] / cell[k, k])
    squares = np.full(inside.shape[:-1], np.inf)
    for turn in itertools.product(*[range(-int(k), int(k) + 1) for k in turns]):
        squares = np.minimum(squares, np.sum((inside + np.array(turn) @ cell) ** 2, axis=-1))
    return np.sqrt(squares)


def held_pairs(neighbors: NeighborList) -> np.ndarray:
    """The list as a matrix, once it has been seen to be well formed."""
    indices, (capacity, n) = np.asarray(neighbors.indices), neighbors.indices.shape
    assert indices.dtype == np.int32
    assert np.all((indices >= 0) & (indices < n))
    counts = np.zeros((n, n), int)
    np.add.at(counts, (np.broadcast_to(np.arange(n), (capacity, n)), indices), 1)
    np.fill_diagonal(counts, 0)  # padding
    assert counts.max(initial=0) <= 1, "a pair is held twice"
    held = counts == 1
    assert int(neighbors.columns) >= held.sum(1).max(initial=0)
    in_use = neighbors.arrays[1]
    assert np.all(indices[int(in_use) :] == np.arange(n)), "neighbours beyond the columns in use"
    np.testing.assert_array_equal(held, held.T)
    return held


def assert_holds_all_within_reach(neighbors: NeighborList, space, positions):
    """Exactly the pairs within cutoff + skin, but for those at its very rim."""
    reach = float(neighbors.cutoff) + float(neighbors.skin)
    held, d = held_pairs(neighbors), distances(space, positions)
    other = ~np.eye(len(d), dtype=bool)
    missing = other & (d <= reach * (1 - ROUNDING)) & ~held
    assert not missing.any(), f"missing at {d[missing] / reach} of the reach"
    assert not (held & (d >= reach * (1 + ROUNDING))).any()
    assert int(neighbors.columns) == held.sum(1).max()


def misses_a_pair(neighbors: NeighborList, space, positions) -> bool:
    """Of those within the cutoff."""
    d = distances(space, positions)
    near = ~np.eye(len(d), dtype=bool) & (d <= float(neighbors.cutoff) * (1 - ROUNDING))
    return bool((near & ~held_pairs(neighbors)).any())


@pytest.fixture(scope="module", autouse=True)
def through_cells():
    """However few the particles are, but where a test says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dmdenv.neighbors.cells, "_FEW", {2: 0, 3: 0})
        yield


# --- what a list holds ------------------------------------------------------------------------------------------------

N = 48
SHAPES = [  # one compiled build each: the kind of space, cells along each axis, and whether they serve the search
    ("periodic", (7, 9), True),
    ("periodic", (3, 6), True),
    ("periodic", (6, 7, 8), True),
    ("periodic", (9, 2, 5), True),
    ("free", (5, 7), True),
    ("free", (6, 5, 8), True),
    ("periodic", (7, 9), False),
    ("periodic", (6, 7, 8), False),
    ("free", (6, 5, 8), False),
]
SHEARED_SHAPES = [
    ("triclinic", (7, 9), True),
    ("triclinic", (3, 6), True),
    ("triclinic", (6, 7, 8), True),
    ("triclinic", (6, 7, 8), False),
]
SPACES = {
    "periodic": lambda d: Periodic(np.ones(d)),
    "triclinic": lambda d: Triclinic(np.eye(d)),
    "free": lambda d: Free(),
}


@functools.cache
def empty_list(kind: str, cells: tuple[int, ...], serve: bool) -> NeighborList:
    """With room for every pair, so that only cells that do not fit the box overflow; its positions force a build."""
    d = len(cells)
    return NeighborList(
        indices=jnp.zeros((N - 1, N), jnp.int32),
        columns=jnp.int32(0),
        positions=jnp.full((N, d), jnp.inf),
        space=SPACES[kind](d),
        cutoff=jnp.float32(1.0),
        skin=jnp.float32(0.0),
        overflow=jnp.asarray(False),
        cells=cells if serve else (),
        run_capacity=N,
    )


def placed(rng, side: np.ndarray, cells: tuple[int, ...], places: set[str]) -> np.ndarray:
    """Particles at random and, a few each, where something might go wrong."""
    d = len(side)
    x = rng.random((N, d)) * side

    def some():
        return rng.choice(N, 12, replace=False)

    if "clustered" in places:
        k = some()
        x[k] = x[k[:1]] + rng.normal(size=(12, d)) * 0.3
    if "on cell faces" in places:
        k, width = some(), side / cells
        x[k] = np.round(x[k] / width) * width
    x = x.astype(np.float32)
    if "at the edges" in places:
        k, side32 = some(), side.astype(np.float32)
        edges = np.stack([0 * side32, side32, np.nextafter(side32, np.float32(0)), np.full(d, np.float32(-1e-9))])
        x[k] = np.where(rng.random((12, d)) < 0.5, edges[rng.integers(0, 4, (12, d)), np.arange(d)], x[k])
    if "in other images" in places:
        k = some()
        x[k] += (rng.integers(-2, 3, (12, d)) * side).astype(np.float32)
    if "coincident" in places:
        k = some()
        x[k[:6]] = x[k[6:]]
    return x


PLACES = ["clustered", "on cell faces", "at the edges", "in other images", "coincident"]


@settings(max_examples=120)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**20),
    places=st.sets(st.sampled_from(PLACES)),
    skin=st.sampled_from([0.0, 0.1, 0.5]),
    looseness=st.sampled_from([1.0003, 1.03, 1.6]),
    unit=st.sampled_from([0.01, 1.0, 300.0]),
)
def test_a_list_equals_brute_force(shape, seed, places, skin, looseness, unit):
    """In boxes of any shape, tight around the cells or not, at any density and in any unit of length."""
    kind, cells, serve = shape
    rng = np.random.default_rng(seed)
    cutoff = 1.0 - skin / 2
    reach = cutoff + skin
    narrowest = np.where(np.array(cells) > 5, np.array(cells) * reach / 2, 2 * cutoff)
    side = np.where(rng.random(len(cells)) < 0.5, looseness, rng.uniform(looseness, 1.7)) * narrowest * unit
    if kind == "periodic":
        space, x = Periodic(side), placed(rng, side, cells, places)
    else:
        offset = rng.choice([0, -30, 1000], len(cells)) * unit
        space, x = Free(), placed(rng, side, cells, places) + offset.astype(np.float32)
    empty = empty_list(kind, cells, serve).replace(cutoff=jnp.float32(cutoff * unit), skin=jnp.float32(skin * unit))
    built = jax.jit(update)(empty, space, x)
    assert not built.overflow
    assert_holds_all_within_reach(built, space, x)
    np.testing.assert_array_equal(built.positions, x)


@settings(max_examples=60)
@given(
    shape=st.sampled_from(SHEARED_SHAPES),
    seed=st.integers(0, 2**20),
    places=st.sets(st.sampled_from(PLACES)),
    skin=st.sampled_from([0.0, 0.5]),
    looseness=st.sampled_from([1.0003, 1.03, 1.6]),
    tilt=st.sampled_from([0.0, 0.5, 1.5]),
)
def test_a_list_in_a_sheared_cell_equals_brute_force(shape, seed, places, skin, looseness, tilt):
    """Of any tilt, also beyond 1/2, tight around the cells of the list or not."""
    kind, cells, serve = shape
    rng, d = np.random.default_rng(seed), len(cells)
    cutoff = 1.0 - skin / 2
    reach = cutoff + skin
    edges = np.eye(d) + np.tril(rng.uniform(-tilt, tilt, (d, d)), -1)
    heights = 1 / np.linalg.norm(np.linalg.inv(edges), axis=0)
    narrowest = np.maximum(np.array(cells) * reach / 2, 2 * reach)
    edges *= (looseness * narrowest / heights)[:, None]  # an edge stretches its own height and no other
    space = Triclinic(edges.astype(np.float32))
    x = (placed(rng, np.ones(d), cells, places) @ edges).astype(np.float32)
    empty = empty_list(kind, cells, serve).replace(cutoff=jnp.float32(cutoff), skin=jnp.float32(skin))
    built = jax.jit(update)(empty, space, x)
    assert not built.overflow
    assert_holds_all_within_reach(built, space, x)


@pytest.mark.parametrize(
    ("box", "n", "cutoff", "skin"), [((30.0, 3.1), 300, 1.5, 0.3), ((6.0, 12.0, 7.0), 500, 1.2, 0.3)]
)
def test_allocated_capacities_suffice(box, n, cutoff, skin):
    space = Periodic(box)
    x = (np.random.default_rng(5).random((n, len(box))) * box).astype(np.float32)
    neighbors = allocate(space, x, cutoff=cutoff, skin=skin, slack=1.0)
    assert not neighbors.overflow
    assert neighbors.indices.shape == (neighbors.columns, n)  # no more than is needed without slack
    assert neighbors.count == n
    assert_holds_all_within_reach(neighbors, space, x)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("space", [Periodic(4.0), Free()])
def test_few_particles_are_no_special_case(space, n):
    x = np.array([[0.5, 0.5, 0.5], [3.9, 0.5, 0.5]], np.float32)[:n]
    neighbors = allocate(space, x, cutoff=1.0, skin=0.1)
    assert not neighbors.overflow
    assert held_pairs(neighbors).sum() == (2 if n == 2 and isinstance(space, Periodic) else 0)


@pytest.mark.parametrize(("n", "d"), [(1, 3), (32, 3), (33, 2), (100, 3)])
def test_a_small_system_is_searched_without_cells(n, d, monkeypatch):
    """Its list is the one that cells give, but for the order."""
    x = (np.random.default_rng(n).random((n, d)) * 5 - 1).astype(np.float32)
    through_cells = allocate(Periodic(5.0), x, cutoff=1.2, skin=0.4)
    monkeypatch.setattr(dmdenv.neighbors.cells, "_FEW", {2: n, 3: n})
    plain = allocate(Periodic(5.0), x, cutoff=1.2, skin=0.4)
    assert plain.cells == ()
    assert through_cells.cells != ()
    assert_holds_all_within_reach(plain, Periodic(5.0), x)
    np.testing.assert_array_equal(held_pairs(plain), held_pairs(through_cells))
    assert plain.indices.shape == through_cells.indices.shape
    monkeypatch.setattr(dmdenv.neighbors.cells, "_FEW", {2: n - 1, 3: n - 1})
    assert allocate(Periodic(5.0), x, cutoff=1.2, skin=0.4).cells == through_cells.cells


def test_many_particles_are_searched_for_block_by_block(monkeypatch):
    """With a last block that goes over some particles of the one before again."""
    x = (np.random.default_rng(2).random((151, 3)) * 7).astype(np.float32)
    whole = allocate(Periodic(7.0), x, cutoff=1.2, skin=0.4)
    monkeypatch.setattr(dmdenv.neighbors.search, "_BLOCK", 64)
    unbuilt = whole.replace(positions=jnp.full_like(x, jnp.inf), indices=jnp.zeros_like(whole.indices))
    in_blocks = jax.jit(lambda unbuilt, x: update(unbuilt, Periodic(7.0), x))(unbuilt, x)
    np.testing.assert_array_equal(in_blocks.indices, whole.indices)
    assert in_blocks.columns == whole.columns
    assert not in_blocks.overflow


@pytest.mark.parametrize("count", [1, 700, 1 << 23, 1 << 24, (1 << 31) - 1])
def test_particles_are_sorted_by_cell_in_their_own_order(count):
    """A cell and a particle of 9 bits share 32 bits up to 2^23 cells; with more of them, 64."""
    cell = np.random.default_rng(1).integers(0, count, (3, 300), np.int32)
    cell[:, 200:] = cell[:, :100]
    cell[:, 0] = count - 1
    order, cells = jax.jit(jax.vmap(lambda cell: dmdenv.neighbors.cells._sort_by(cell, count)))(cell)
    assert order.dtype == cells.dtype == jnp.int32
    np.testing.assert_array_equal(order, np.argsort(cell, axis=1, kind="stable"))
    np.testing.assert_array_equal(cells, np.sort(cell, axis=1))


def test_one_particle_far_off_does_not_blur_the_others():
    """In free space the origin is nowhere: distances are those of the positions as they are."""
    x = (np.random.default_rng(0).random((60, 3)) * 4).astype(np.float32)
    x[7] = -1e6
    neighbors = allocate(Free(), x, cutoff=1.0, skin=0.1)
    assert not neighbors.overflow
    assert_holds_all_within_reach(neighbors, Free(), x)


@pytest.mark.usefixtures("x64")
def test_lists_of_float64_positions_are_as_exact():
    x = np.random.default_rng(2).random((80, 3)) * 5
    neighbors = allocate(Periodic(5.0), x, cutoff=1.2, skin=0.2)
    d = distances(Periodic(5.0), x) + 9 * np.eye(80)
    np.testing.assert_array_equal(held_pairs(neighbors), d < 1.4)
    moved = jax.jit(update)(neighbors, Periodic(5.0), x[::-1] + 1e-3)
    assert moved.indices.dtype == jnp.int32
    assert moved.positions.dtype == jnp.float64
    np.testing.assert_array_equal(held_pairs(moved), d[::-1, ::-1] < 1.4)


# --- overflow ---------------------------------------------------------------------------------------------------------


@functools.cache
def gas_with_little_room():
    """Positions in a box, and a list that has room for them and no more."""
    x = (np.random.default_rng(3).random((60, 3)) * 8).astype(np.float32)
    return x, Periodic(8.0), allocate(Periodic(8.0), x, cutoff=1.2, skin=0.2, slack=1.0)


@jax.jit
def rebuilt(neighbors, space, x):
    return update(neighbors.replace(positions=jnp.full_like(x, jnp.inf)), space, x)


def test_too_many_neighbours_set_the_flag_and_it_sticks():
    x, space, neighbors = gas_with_little_room()
    roomy = neighbors.replace(run_capacity=len(x))
    assert not rebuilt(roomy, space, x).overflow
    crowded = rebuilt(roomy, space, 0.4 * x)
    assert crowded.overflow
    assert crowded.columns > crowded.indices.shape[0]
    assert crowded.arrays[1] == crowded.indices.shape[0]
    relaxed = rebuilt(crowded, space, x)
    assert relaxed.overflow
    assert_holds_all_within_reach(relaxed, space, x)


def test_too_many_particles_in_a_run_of_cells_set_the_flag_and_it_sticks():
    x, space, neighbors = gas_with_little_room()
    reach = neighbors.cutoff + neighbors.skin
    column = jnp.zeros((1, len(x)), jnp.int32)
    found = find_neighbors(space, jnp.asarray(x), reach, column, cells=neighbors.cells, run_capacity=32)
    longest = int(found.longest_run)
    everybody = jnp.zeros((len(x) - 1, len(x)), jnp.int32)
    assert not rebuilt(neighbors.replace(run_capacity=longest, indices=everybody), space, x).overflow
    tight = neighbors.replace(run_capacity=longest - 1, indices=everybody)
    flagged = rebuilt(tight, space, x)
    assert flagged.overflow
    k, across = np.arange(len(x)), neighbors.cells[1]
    one_or_two_a_row = np.stack(
        [(k % across + 0.5) * 8 / across, (k // across % across + 0.5) * 8 / across, 3.1 * k % 8]
    )
    assert not rebuilt(tight, space, one_or_two_a_row.T).overflow
    assert rebuilt(flagged, space, one_or_two_a_row.T).overflow


def test_a_box_that_is_too_small_for_its_cells_sets_the_flag_and_it_sticks():
    x, space, neighbors = gas_with_little_room()
    everybody = jnp.zeros((len(x) - 1, len(x)), jnp.int32)
    roomy = neighbors.replace(run_capacity=len(x), indices=everybody, cells=(9, 9, 33))
    assert not rebuilt(roomy, space, x).overflow
    small = Periodic(0.98 * 9 * 1.4 / 2)
    shrunk = rebuilt(roomy, small, x * small.box / 8)
    assert shrunk.overflow
    assert rebuilt(shrunk, space, x).overflow


@pytest.mark.parametrize("skin", [0.0, 0.4])
def test_a_traced_box_of_less_than_twice_the_cutoff_sets_the_flag_and_it_sticks(skin):
    """Also when it shrinks so little that no pair within the cutoff could be missing, and no list is rebuilt."""
    x, space, neighbors = room_to_move()
    step = jax.jit(update)
    neighbors = neighbors.replace(cutoff=jnp.float32(1.6 - skin), skin=jnp.float32(skin))
    half = Periodic(2 * neighbors.cutoff)
    roomy = neighbors.replace(
        space=half, cells=(3, 3, 3), run_capacity=60, indices=jnp.zeros((59, 60), jnp.int32), columns=jnp.int32(59)
    )
    fits = step(roomy.replace(positions=jnp.full_like(x, jnp.inf)), half, x)
    assert not fits.overflow
    smaller = Periodic(0.99 * half.box)
    shrunk = step(fits, smaller, 0.99 * x)
    assert is_rebuilt(shrunk, 0.99 * x) == (skin == 0)
    assert shrunk.overflow
    assert step(shrunk, half, x).overflow


@given(
    seed=st.integers(0, 2**20),
    density=st.sampled_from([0.3, 0.7, 0.9, 1.0, 1.1]),
    box=st.sampled_from([6.0, 7.0, 7.9, 8.0, 8.1, 12.0]),
    clustered=st.booleans(),
)
def test_no_pair_is_dropped_without_the_flag(seed, density, box, clustered):
    _, _, neighbors = gas_with_little_room()
    x = np.random.default_rng(seed).random((60, 3)) * box * density
    x[:20] *= 0.3 if clustered else 1.0
    x, space = x.astype(np.float32), Periodic(box)
    new = rebuilt(neighbors, space, x)
    if not new.overflow:
        assert_holds_all_within_reach(new, space, x)
    capacity = neighbors.indices.shape[0]
    most = ((distances(space, x) < 1.4 * (1 - ROUNDING)).sum(1) - 1).max()
    assert new.overflow or most <= capacity


def test_a_position_that_is_not_a_number_rebuilds_and_has_no_neighbours():
    x, space, neighbors = gas_with_little_room()
    broken = jax.jit(update)(neighbors, space, x.copy() + np.where(np.arange(60) == 4, np.nan, 0)[:, None].astype("f"))
    held = held_pairs(broken)
    assert not held[4].any()
    others = np.delete(np.arange(60), 4)
    np.testing.assert_array_equal(held[np.ix_(others, others)], held_pairs(neighbors)[np.ix_(others, others)])


# --- when a list is rebuilt -------------------------------------------------------------------------------------------


@functools.cache
def room_to_move():
    """Positions in a box, and a list with a wide skin that has room for three times as many neighbours."""
    x = (np.random.default_rng(8).random((60, 3)) * 7).astype(np.float32)
    return x, Periodic(7.0), allocate(Periodic(7.0), x, cutoff=1.2, skin=0.4, slack=3.0)


def is_rebuilt(neighbors: NeighborList, x) -> bool:
    """The positions of the last build are these ones."""
    return bool(jnp.all(neighbors.positions == x))


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
        space=Periodic(np.full(3, 7.0, np.float32)), indices=jnp.zeros((59, 60), jnp.int32), run_capacity=60
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
    assert roomy.is_complete and max(roomy.cells) > 5
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
        one = allocate(Periodic(6.5), x[0], cutoff=1.2, skin=0.4, slack=3.0).replace(run_capacity=40)
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


@pytest.mark.parametrize("name", by_default(["vmap of grad", "grad of vmap"], "grad of vmap"))
def test_the_compiled_program_of_a_batch_rebuilds_on_a_condition(name, monkeypatch):
    """And would not without the reduction over the batch: the text that is looked for means what it should."""
    program = BATCHED[name]
    lowered = jax.jit(program).lower(*batch())
    conditions = lowered.as_text().count("stablehlo.case")
    assert lowered.compile().as_text().count("conditional(") == conditions
    monkeypatch.setattr(dmdenv.neighbors.lists, "any_in_batch", lambda predicate: predicate)
    selects = jax.jit(lambda *at: program(*at)).lower(*batch())
    assert selects.as_text().count("stablehlo.case") == conditions - 1  # the one that is left is inside of the search
    assert selects.compile().as_text().count("conditional(") == conditions - 1


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


# --- bad input --------------------------------------------------------------------------------------------------------

X = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cutoff": 0.0}, "cutoff = 0.0; valid: a positive length"),
        ({"cutoff": np.inf}, "cutoff = inf; valid: a positive length"),
        ({"cutoff": np.nan}, "cutoff = nan; valid: a positive length"),
        ({"cutoff": 2.6}, r"cutoff = 2.6 in a box of \[5.0, 5.0, 5.0\]; valid: up to half the shortest side .*, 2.5"),
        ({"skin": -0.1}, "skin = -0.1; valid: a length of 0 or more"),
        ({"skin": np.nan}, "skin = nan; valid: a length of 0 or more"),
        ({"slack": 0.9}, "slack = 0.9; valid: 1 or more"),
        ({"positions": X[0]}, r"positions has shape \(3,\); valid: \[n, 2\] or \[n, 3\]"),
        ({"positions": X[:, :1]}, r"positions has shape \(4, 1\); valid"),
        ({"positions": X[:0]}, r"positions has shape \(0, 3\); valid"),
        ({"positions": X + np.inf}, "not all finite or not floating-point; valid: finite floats"),
        ({"positions": X.astype(int)}, "positions holds int32, not all finite or not floating-point"),
    ],
)
def test_bad_input_of_allocate_is_named(changed, message):
    arguments = {"space": Periodic(5.0), "positions": X, "cutoff": 1.0, "skin": 0.1, **changed}
    with pytest.raises(ValueError, match=message):
        allocate(**arguments)


def test_a_cutoff_beyond_half_of_a_sheared_cell_is_refused():
    """Half of the least of its diagonal, not of its edges or heights; a traced cell that is too small sets the flag."""
    cell = np.array([[8.0, 0, 0], [5.0, 5.0, 0], [0, 5.0, 7.0]], np.float32)
    with pytest.raises(ValueError, match=r"cutoff = 2.6 in a box of .*; valid: up to half the shortest side .*, 2.5"):
        allocate(Triclinic(cell), X, cutoff=2.6, skin=0.1)
    neighbors = allocate(Triclinic(cell), X, cutoff=2.5, skin=0.0)
    assert not neighbors.overflow
    assert jax.jit(update)(neighbors, Triclinic(cell * np.float32(0.99)), X).overflow


def test_half_of_the_box_is_a_valid_cutoff():
    assert not allocate(Periodic(0.6), X, cutoff=0.3, skin=0.0).overflow


@pytest.mark.parametrize("traced", ["positions", "box", "cutoff"])
def test_allocate_refuses_to_be_traced(traced):
    def allocated(value):
        arguments = {"positions": X, "box": 5.0, "cutoff": 1.0, traced: value}
        return allocate(Periodic(arguments.pop("box")), skin=0.1, **arguments).columns

    value = X if traced == "positions" else np.float32(1.0)
    with pytest.raises(TypeError, match="allocate chooses array sizes, so it runs outside of jit and vmap"):
        jax.jit(allocated)(value)
