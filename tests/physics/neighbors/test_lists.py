"""What a neighbour list holds, against brute force."""

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
    distances,
    held_pairs,
)
from dmdenv.neighbors import NeighborList, allocate, update
from dmdenv.space import Free, Periodic, Triclinic
from marks import OPTIMIZED

pytestmark = pytest.mark.usefixtures("through_cells")


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
        row_capacity=N,
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


@functools.partial(jax.jit, compiler_options=OPTIMIZED)
def build(empty, space, x):
    """Optimised: rounding decides into which cell a particle on a face falls."""
    return update(empty, space, x)


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
    built = build(empty, space, x)
    assert not built.overflow
    assert_holds_all_within_reach(built, space, x)
    np.testing.assert_array_equal(built.positions, x)


@pytest.mark.slow
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
    built = build(empty, space, x)
    assert not built.overflow
    assert_holds_all_within_reach(built, space, x)


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
    monkeypatch.setattr(dmdenv.neighbors.cells, "_BRUTE_FORCE_UP_TO", {2: n, 3: n})
    plain = allocate(Periodic(5.0), x, cutoff=1.2, skin=0.4)
    assert plain.cells == ()
    assert through_cells.cells != ()
    assert_holds_all_within_reach(plain, Periodic(5.0), x)
    np.testing.assert_array_equal(held_pairs(plain), held_pairs(through_cells))
    assert plain.indices.shape == through_cells.indices.shape
    monkeypatch.setattr(dmdenv.neighbors.cells, "_BRUTE_FORCE_UP_TO", {2: n - 1, 3: n - 1})
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
    order, cells = jax.jit(jax.vmap(lambda cell: dmdenv.neighbors.cells._sort_by_number(cell, count)))(cell)
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


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_lists_are_built_outside_of_jit_too():
    x = np.random.default_rng(2).random((80, 3)) * 5
    template = allocate(Periodic(5.0), x, cutoff=1.2, skin=0.2)
    built = dmdenv.neighbors.build(template, Periodic(5.0), jnp.asarray(x))
    np.testing.assert_array_equal(built.indices, template.indices)
