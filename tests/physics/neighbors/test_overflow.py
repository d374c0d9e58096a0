"""Capacities of a neighbour list: chosen on the host, and a flag that sticks where they do not suffice."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from brute_force import (
    ROUNDING,
    assert_holds_all_within_reach,
    distances,
    gas_with_little_room,
    held_pairs,
    is_rebuilt,
    rebuilt,
    room_to_move,
)
from dmdenv.neighbors import ListOverflow, allocate, grow, update
from dmdenv.neighbors.search import find_neighbors
from dmdenv.space import Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("through_cells")


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


def test_too_many_neighbours_set_the_flag_and_it_sticks():
    x, space, neighbors = gas_with_little_room()
    roomy = neighbors.replace(row_capacity=len(x))
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
    found = find_neighbors(space, jnp.asarray(x), reach, column, cells=neighbors.cells, row_capacity=32)
    longest = int(found.row_candidates)
    everybody = jnp.zeros((len(x) - 1, len(x)), jnp.int32)
    assert not rebuilt(neighbors.replace(row_capacity=longest, indices=everybody), space, x).overflow
    tight = neighbors.replace(row_capacity=longest - 1, indices=everybody)
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
    roomy = neighbors.replace(row_capacity=len(x), indices=everybody, cells=(9, 9, 33))
    assert not rebuilt(roomy, space, x).overflow
    small = Periodic(0.98 * 9 * 1.4 / 2)
    shrunk = rebuilt(roomy, small, x * small.box / 8)
    assert shrunk.overflow
    assert rebuilt(shrunk, space, x).overflow


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


def test_a_position_that_is_not_a_number_rebuilds_has_no_neighbours_and_sets_the_flag():
    x, space, neighbors = gas_with_little_room()
    broken = jax.jit(update)(neighbors, space, x.copy() + np.where(np.arange(60) == 4, np.nan, 0)[:, None].astype("f"))
    held = held_pairs(broken)
    assert not held[4].any()
    others = np.delete(np.arange(60), 4)
    np.testing.assert_array_equal(held[np.ix_(others, others)], held_pairs(neighbors)[np.ix_(others, others)])
    assert broken.overflow and jax.jit(update)(broken, space, x).overflow
    with pytest.raises(ListOverflow, match="built at positions that are not finite"):
        grow(neighbors, broken)


@pytest.mark.parametrize("skin", [0.0, 0.4])
def test_a_traced_box_of_less_than_twice_the_cutoff_sets_the_flag_and_it_sticks(skin):
    """Also when it shrinks so little that no pair within the cutoff could be missing, and no list is rebuilt."""
    x, space, neighbors = room_to_move()
    step = jax.jit(update)
    neighbors = neighbors.replace(cutoff=jnp.float32(1.6 - skin), skin=jnp.float32(skin))
    half = Periodic(2 * neighbors.cutoff)
    roomy = neighbors.replace(
        space=half, cells=(3, 3, 3), row_capacity=60, indices=jnp.zeros((59, 60), jnp.int32), columns=jnp.int32(59)
    )
    fits = step(roomy.replace(positions=jnp.full_like(x, jnp.inf)), half, x)
    assert not fits.overflow
    smaller = Periodic(0.99 * half.box)
    shrunk = step(fits, smaller, 0.99 * x)
    assert is_rebuilt(shrunk, 0.99 * x) == (skin == 0)
    assert shrunk.overflow
    assert step(shrunk, half, x).overflow


# --- bad input of allocate --------------------------------------------------------------------------------------------

X = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cutoff": 0.0}, "cutoff = 0.0; must be a finite number > 0"),
        ({"cutoff": np.inf}, "cutoff = inf; must be a finite number > 0"),
        ({"cutoff": np.nan}, "cutoff = nan; must be a finite number > 0"),
        ({"cutoff": 2.6}, r"cutoff = 2.6; must be at most 2.5 in Periodic space"),
        ({"skin": -0.1}, "skin = -0.1; must be a finite number >= 0"),
        ({"skin": np.nan}, "skin = nan; must be a finite number >= 0"),
        ({"slack": 0.9}, "slack = 0.9; must be a finite number >= 1"),
        ({"positions": X[0]}, r"positions has shape \(3,\); must be \[n, 2\] or \[n, 3\]"),
        ({"positions": X[:, :1]}, r"positions has shape \(4, 1\); must be"),
        ({"positions": X[:0]}, r"positions has shape \(0, 3\); must be"),
        ({"positions": X + np.inf}, "perhaps infinite or NaN; must be finite floats"),
        ({"positions": X.astype(int)}, "positions holds int32, perhaps infinite or NaN"),
    ],
)
def test_bad_input_of_allocate_is_named(changed, message):
    arguments = {"space": Periodic(5.0), "positions": X, "cutoff": 1.0, "skin": 0.1, **changed}
    with pytest.raises(ValueError, match=message):
        allocate(**arguments)


def test_a_cutoff_beyond_half_of_a_sheared_cell_is_refused():
    """Half of the least of its diagonal, not of its edges or heights; a traced cell that is too small sets the flag."""
    cell = np.array([[8.0, 0, 0], [5.0, 5.0, 0], [0, 5.0, 7.0]], np.float32)
    with pytest.raises(ValueError, match=r"cutoff = 2.6; must be at most 2.5"):
        allocate(Triclinic(cell), X, cutoff=2.6, skin=0.1)
    neighbors = allocate(Triclinic(cell), X, cutoff=2.5, skin=0.0)
    assert not neighbors.overflow
    assert jax.jit(update)(neighbors, Triclinic(cell * np.float32(0.99)), X).overflow


def test_half_of_the_box_is_a_valid_cutoff():
    assert not allocate(Periodic(0.6), X, cutoff=0.3, skin=0.0).overflow


@pytest.mark.parametrize("x64", [False, True])
def test_a_cutoff_may_exceed_half_of_the_box_by_rounding_and_no_more(x64):
    with jax.enable_x64(x64):
        space = Periodic(0.6)
        half, eps = float(space.box) / 2, float(jnp.finfo(space.box.dtype).eps)
        neighbors = allocate(space, X.astype(float), cutoff=half * (1 + 2 * eps), skin=0.0)
        assert not neighbors.overflow
        with pytest.raises(ValueError, match=r"cutoff = 0\.3; must be at most 0\.3"):
            allocate(space, X.astype(float), cutoff=half * (1 + 8 * eps), skin=0.0)
        longer = neighbors.replace(cutoff=neighbors.cutoff * (1 + 8 * eps))
        assert update(longer, space, X.astype(float)).overflow


@pytest.mark.parametrize("traced", ["positions", "box", "cutoff"])
def test_allocate_refuses_to_be_traced(traced):
    def allocated(value):
        arguments = {"positions": X, "box": 5.0, "cutoff": 1.0, traced: value}
        return allocate(Periodic(arguments.pop("box")), skin=0.1, **arguments).columns

    value = X if traced == "positions" else np.float32(1.0)
    with pytest.raises(TypeError, match="allocate chooses array sizes, so it runs outside of jit and vmap"):
        jax.jit(allocated)(value)
