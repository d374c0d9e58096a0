"""States: positions in the cell and their images, sums without loss, other boxes, flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from dmdenv.integrators import NVE, Langevin
from dmdenv.minimizers import FIRE
from dmdenv.neighbors import AllPairs, ListOverflow, allocate
from dmdenv.potentials import lennard_jones
from dmdenv.simulation import simulate
from dmdenv.space import Free, Periodic, Triclinic
from systems import Well, crystal, run, run_long, smooth_lennard_jones

SPACES = [Free(), Periodic(8.0), Triclinic(np.array([[8.0, 0.0], [3.0, 7.0]]))]


# --- far from the origin ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_particles_move_far_from_the_origin_as_near_it(space):
    """In float32 positions of 40,000 are 0.004 apart, and a step of 0.001 changes none of them."""
    method, r, v = NVE(dt=1e-3), jnp.array([[4e4, 1.0], [3.0, -4e4]]), jnp.array([[1.0, 0.3], [-0.5, 1.9]])
    start = method.init(Well(0.0), space, r, velocities=v)
    np.testing.assert_allclose(start.unwrapped, r)
    end, _ = run_long(method, Well(0.0), start, 10_000)
    np.testing.assert_allclose(end.unwrapped, r + 10.0 * v, rtol=1.3e-7)
    np.testing.assert_allclose(end.time, 10.0, rtol=1.2e-7)
    if isinstance(space, Free):
        return
    inside = space.fractional(end.positions)
    assert np.all((inside > -1e-6) & (inside < 1 + 1e-6))
    moved = space.displacement(end.positions, start.positions)
    np.testing.assert_allclose(moved, space.displacement(10.0 * v, jnp.zeros_like(v)), atol=2e-5)


def test_the_motion_of_a_liquid_does_not_depend_on_the_copy_of_the_box():
    """Bit for bit: coordinates are multiples of 2^-10 here, so that the offset is exact."""
    r, _ = crystal(3, 108 / 6.0**3)
    r = jnp.asarray(np.round((r + 0.05 * np.random.default_rng(0).normal(size=r.shape)) * 1024) / 1024, jnp.float32)
    potential, method, space = smooth_lennard_jones(), Langevin(dt=0.005, temperature=1.0, friction=1.0), Periodic(6.0)
    ends = []
    for offset in (0.0, 6.0 * 2048):
        state = method.init(potential, space, r + offset, key=jax.random.key(0))
        ends.append(run(method, potential, state, 200)[0])
    np.testing.assert_array_equal(ends[0].positions, ends[1].positions)
    np.testing.assert_array_equal(ends[0].images + 2048, ends[1].images)
    assert np.any(ends[0].images != 0)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_energy_of_a_liquid_drifts_no_more_far_away(offset):
    r, side = crystal(3, 0.8442)
    potential, method = smooth_lennard_jones(), NVE(dt=0.005)
    v = jax.random.normal(jax.random.key(0), r.shape)
    state = method.init(potential, Periodic(side), r + offset, velocities=v - jnp.mean(v, axis=0, keepdims=True))
    _, H = run_long(method, potential, state, 3000, lambda method, potential, state: method.conserved(potential, state))
    assert np.std(H) / len(r) < 2e-3
    assert abs(np.mean(H[-500:]) - np.mean(H[:500])) / len(r) < 5e-4


def test_gradients_pass_through_the_edge_of_the_box():
    method, space = NVE(dt=0.1), Periodic(5.0)

    def travelled(v, box):
        state = method.init(Well(0.0), space.replace(box=box), jnp.array([[4.9, 0.1]]), velocities=v)
        end, _ = run(method, Well(0.0), state, 4)
        return end.unwrapped, end.positions

    v = jnp.array([[1.0, -2.0]])
    (unwrapped, wrapped), slopes = travelled(v, jnp.float32(5.0)), jax.jacrev(travelled, (0, 1))(v, jnp.float32(5.0))
    np.testing.assert_allclose(unwrapped, [[5.3, -0.7]], rtol=1e-6)
    np.testing.assert_allclose(wrapped, [[0.3, 4.3]], rtol=1e-5)
    np.testing.assert_allclose(np.reshape(slopes[0][0], (2, 2)), 0.4 * np.eye(2), rtol=1e-6)
    np.testing.assert_allclose(slopes[0][1], [[0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(slopes[1][1], [[-1.0, 1.0]], rtol=1e-6)


# --- another box ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pairs", ["all", "list"])
def test_a_deformed_state_is_one_made_in_the_other_box(pairs):
    r, side = crystal(3, 0.8442, noise=0.03)
    potential, method, space = smooth_lennard_jones(), NVE(dt=0.001), Periodic(1.1 * side)
    r = r + side * 1.1 * np.random.default_rng(0).integers(-15, 16, r.shape)
    found = AllPairs() if pairs == "all" else allocate(space, r, cutoff=2.5, skin=0.2)
    state = method.init(potential, space, r, velocities=jnp.ones_like(r), pairs=found)
    other = space.replace(box=1.001 * space.box)
    deformed = jax.jit(lambda state: state.deform(potential, other))(state)
    expected = method.init(potential, other, 1.001 * r)
    np.testing.assert_allclose(deformed.unwrapped, expected.unwrapped, rtol=1e-12)
    np.testing.assert_allclose(deformed.forces, expected.forces, atol=1e-9)
    energies = [potential.energy(at.space, at.positions, at.pairs) for at in (state, deformed, expected)]
    np.testing.assert_allclose(energies[1], energies[2], rtol=1e-12)
    assert 0 < abs(energies[1] - energies[0]) < 2.0  # and not as if particles had moved by 15 parts in 1,000
    np.testing.assert_array_equal(deformed.velocities, state.velocities)
    placed = deformed.place(potential, 1.001 * r)
    np.testing.assert_allclose(placed.forces, deformed.forces, atol=1e-9)


def test_a_configuration_is_not_replaced_without_its_forces():
    r, side = crystal(2, 0.8442)
    state = NVE(dt=0.001).init(smooth_lennard_jones(), Periodic(2 * side), r)
    at_rest = FIRE(dt=0.001).init(smooth_lennard_jones(), Periodic(2 * side), r)
    for name, value in (("space", Periodic(3 * side)), ("positions", 2 * r)):
        with pytest.raises(ValueError, match=rf"IntegratorState.replace\({name}=...\) .* use place\(.* or deform"):
            state.replace(**{name: value})
        with pytest.raises(ValueError, match=rf"FIREState.replace\({name}=...\) .* begin there with init"):
            at_rest.replace(**{name: value})
    assert state.replace(positions=2 * r, forces=state.forces).positions is not state.positions
    with pytest.raises(TypeError, match="space is a Free; must be a Periodic, as before"):
        state.deform(smooth_lennard_jones(), Free())


# --- pairs that are missing -------------------------------------------------------------------------------------------


def test_all_pairs_of_a_box_below_twice_the_cutoff_set_the_flag_and_it_sticks():
    r, side = crystal(3, 0.8442)
    potential, method, space = smooth_lennard_jones(), NVE(dt=0.001), Periodic(side)
    state = method.init(potential, space, r)
    assert not state.overflow

    @jax.jit
    def squeezed(state, factor):
        return state.deform(potential, Periodic(space.box * factor))

    there = squeezed(state, 0.98)
    assert there.overflow and squeezed(there, 1.0).overflow and not squeezed(state, 0.999).overflow
    assert run(method, potential, there, 1)[0].overflow
    assert not method.init(lennard_jones(cutoff=np.inf), space, r).overflow  # all pairs without images

    def step(potential, state):
        return method.step(potential, state.deform(potential, Periodic(state.space.box * 0.99)))

    with pytest.raises(ListOverflow, match="the box has become narrower than twice the cutoff"):
        simulate(Partial(step, potential), state, 20, progress=False)


def test_a_potential_beyond_the_cutoff_of_its_list_sets_the_flag():
    r, side = crystal(3, 0.8442)
    method, space = NVE(dt=0.001), Periodic(side)
    state = method.init(lennard_jones(cutoff=2.0), space, r, pairs=allocate(space, r, cutoff=2.0, skin=0.2))
    step = jax.jit(lambda state, cutoff: method.step(lennard_jones(cutoff=cutoff), state))
    assert step(state, 2.1).overflow and not step(state, 2.0).overflow
