"""Atoms of ASE as particles and back, and potentials as its calculators."""

import ase
import ase.build
import ase.calculators.lj
import ase.constraints
import ase.io
import ase.md.verlet
import ase.optimize
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.io import (
    PotentialCalculator,
    from_atoms,
    to_atoms,
)
from dmdenv.potentials import lennard_jones
from dmdenv.space import Free, Periodic
from marks import by_default

# --- atoms ------------------------------------------------------------------------------------------------------------


def fluid(cell, *, n: int = 48, pbc: bool = True, seed: int = 0) -> ase.Atoms:
    """Atoms at random in a cell, none closer than 0.8, with velocities."""
    rng = np.random.default_rng(seed)
    atoms = ase.Atoms(cell=cell, pbc=pbc)
    while len(atoms) < n:
        trial = atoms + ase.Atoms("Ar", positions=rng.random((1, 3)) @ np.asarray(cell), cell=cell, pbc=pbc)
        if len(atoms) == 0 or trial.get_distances(-1, range(len(atoms)), mic=pbc).min() > 0.8:
            atoms = trial
    atoms.set_masses(rng.uniform(1, 3, n))
    atoms.set_velocities(rng.normal(size=(n, 3)))
    return atoms


TURNED = ase.Atoms(cell=[[4.2, 0, 0], [1.9, 4.1, 0], [-1.5, 2.6, 4.4]])
TURNED.rotate(40, (3, 1, 2), rotate_cell=True)
ATOMS = {
    "orthorhombic": fluid([4.2, 4.4, 4.6] * np.eye(3)),
    "triclinic": fluid(np.array(TURNED.cell)),
    "left-handed": fluid(np.array(TURNED.cell) * [[1], [1], [-1]]),
    "free": fluid(5.0 * np.eye(3), pbc=False),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ATOMS)
def test_a_rotation_is_undone(kind):
    """The edge that a left-handed cell has reversed stays so: the lattice is the same."""
    atoms = ATOMS[kind]
    given = from_atoms(atoms)
    back = to_atoms(
        given.space,
        given.positions,
        velocities=given.velocities,
        particles=given.particles,
        rotation=given.rotation,
    )
    np.testing.assert_allclose(given.rotation @ given.rotation.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-14)
    np.testing.assert_allclose(back.get_velocities(), atoms.get_velocities(), atol=1e-14)
    np.testing.assert_array_equal(back.get_masses(), atoms.get_masses())
    np.testing.assert_array_equal(back.pbc, atoms.pbc)
    assert back.get_chemical_symbols() == atoms.get_chemical_symbols()
    if kind != "free":
        signs = np.array([1, 1, -1 if kind == "left-handed" else 1])[:, None]
        np.testing.assert_allclose(back.cell * signs, atoms.cell, atol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["orthorhombic", "free"])
def test_atoms_that_need_no_rotation_come_back_bit_for_bit(kind):
    given = from_atoms(ATOMS[kind])
    np.testing.assert_array_equal(given.rotation, np.eye(3))
    np.testing.assert_array_equal(given.positions, ATOMS[kind].positions)
    assert isinstance(given.space, Periodic if kind == "orthorhombic" else Free)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ATOMS)
def test_distances_are_those_of_ase(kind):
    """Of all pairs within the cutoff that a cell allows."""
    atoms, given = ATOMS[kind], from_atoms(ATOMS[kind])
    d = given.space.displacement(given.positions[:, None], given.positions[None])
    distances = np.linalg.norm(d, axis=-1)
    expected = atoms.get_all_distances(mic=bool(atoms.pbc.all()))
    near = (expected < float(given.space.largest_cutoff(3))) | (distances < float(given.space.largest_cutoff(3)))
    assert near.sum() > len(atoms) + 100
    np.testing.assert_allclose(distances[near], expected[near], atol=1e-12)


def test_species_are_numbered_in_the_order_of_their_symbols():
    given = from_atoms(ase.Atoms("KrArKrNe", positions=np.eye(4, 3)))
    np.testing.assert_array_equal(given.particles.species, [0, 1, 0, 2])
    assert given.particles.types == ("Kr", "Ar", "Ne")
    assert given.velocities is None
    assert given.positions.dtype == jnp.float32
    np.testing.assert_allclose(given.particles.masses, [83.798, 39.948, 83.798, 20.1797], rtol=1e-6)


def test_two_dimensions_leave_out_z():
    flat = ase.Atoms("Ar2", positions=[[0, 1, 2], [3, 4, 2]], cell=[[0, 4, 0], [-5, 1, 0], [0, 0, 7]], pbc=(1, 1, 0))
    given = from_atoms(flat, dimension=2)
    np.testing.assert_allclose(given.space.cell, [[4, 0], [1, 5]], atol=1e-6)
    np.testing.assert_allclose(given.positions, [[1, 0], [4, -3]], atol=1e-6)
    back = to_atoms(given.space, given.positions, rotation=given.rotation)
    np.testing.assert_allclose(back.positions[:, :2], flat.positions[:, :2], atol=1e-6)
    np.testing.assert_allclose(back.cell, [[0, 4, 0], [-5, 1, 0], [0, 0, 1]], atol=1e-6)
    assert not back.positions[:, 2].any() and back.pbc.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("atoms", "dimension", "message"),
    [
        (
            ase.Atoms("Ar", cell=np.eye(3), pbc=(1, 1, 0)),
            3,
            r"atoms.pbc = \[True, True, False\]; must be periodic along all axes or along none",
        ),
        (ase.Atoms("Ar", cell=np.eye(3), pbc=(1, 0, 0)), 2, r"atoms.pbc = \[True, False, False\]"),
        (ase.Atoms("Ar", pbc=True), 3, "periodic without a lattice: cell = .*; must be linearly independent edges"),
        (ase.Atoms(), 3, "there are no particles; must be at least one"),
        (
            ase.Atoms("Ar", constraint=ase.constraints.FixAtoms([0])),
            3,
            r"atoms.constraints = \[FixAtoms\(indices=\[0\]\)\]; must be none",
        ),
        (
            ase.Atoms("Ar", cell=[[1, 0, 1], [0, 1, 0], [0, 0, 1]], pbc=True),
            2,
            "atoms.cell = .*; must be two edges in the xy plane and one along z in 2-D",
        ),
        (ase.Atoms("Ar2", positions=np.eye(3)[1:]), 2, "the atoms differ in z; must be at one z"),
        (ase.Atoms("Ar"), 4, "dimension = 4; must be one of 2, 3"),
    ],
)
def test_atoms_that_fit_no_space_are_refused(atoms, dimension, message):
    with pytest.raises(ValueError, match=message):
        from_atoms(atoms, dimension=dimension)


# --- the calculator ---------------------------------------------------------------------------------------------------

LJ = {"sigma": 0.9, "epsilon": 1.3}


def reference(smooth: bool = False):
    return ase.calculators.lj.LennardJones(**LJ, rc=2.0, ro=1.5, smooth=smooth)


def ours(smooth: bool = False, skin: float = 2.0):
    """With a wide skin the capacities are those of all pairs, so that tests share compiled code."""
    how = {"truncation": "switched", "onset": 1.5} if smooth else {"truncation": "shifted"}
    return PotentialCalculator(lennard_jones(**LJ, cutoff=2.0, **how), skin=skin)


def assert_same_results(atoms, *calculators, stress: bool, rtol: float = 1e-11):
    results = []
    for calculator in calculators:
        atoms.calc = calculator
        own = [atoms.get_potential_energy(), atoms.get_potential_energies(), atoms.get_forces()]
        results.append([*own, atoms.get_stress()] if stress else own)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "smooth"),
    by_default([*((kind, False) for kind in ATOMS), ("free", True)], ("triclinic", False), ("free", True)),
)
def test_energy_forces_and_stress_are_those_of_ase(kind, smooth):
    assert_same_results(ATOMS[kind].copy(), ours(smooth), reference(smooth), stress=kind != "free")


@pytest.mark.slow
def test_results_have_the_precision_of_jax():
    assert_same_results(ATOMS["orthorhombic"].copy(), ours(), reference(), stress=True, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_one_calculator_follows_the_atoms_wherever_they_go():
    """With a list that is kept, rebuilt, and that overflows; in a cell that grows."""
    atoms, calculator = ATOMS["orthorhombic"].copy(), ours(skin=0.2)
    crowd = atoms.positions.copy()
    crowd[:30] = np.array(np.meshgrid(*[np.arange(4)] * 3)).reshape(3, -1).T[:30] * 0.7
    lists = []
    for positions in (atoms.positions, atoms.positions + 0.01, atoms.positions[::-1] + 9.0, crowd):
        atoms.positions = positions
        assert_same_results(atoms, calculator, reference(), stress=False)
        lists.append(calculator._pairs)
    np.testing.assert_array_equal(lists[1].positions, lists[0].positions)
    assert not np.array_equal(lists[2].positions, lists[1].positions)
    assert lists[3].indices.shape[0] > lists[2].indices.shape[0] == lists[0].indices.shape[0]
    atoms.set_cell(np.array(atoms.cell) * 1.05, scale_atoms=True)
    assert_same_results(atoms, calculator, reference(), stress=False)


@pytest.mark.usefixtures("x64")
def test_one_calculator_takes_cells_of_any_kind():
    calculator = ours()
    for kind in ("orthorhombic", "triclinic", "free", "orthorhombic"):
        assert_same_results(ATOMS[kind].copy(), calculator, reference(), stress=False)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_calculator_takes_any_number_of_atoms():
    calculator = ours()
    for n in (48, 47, 1):
        assert_same_results(ATOMS["orthorhombic"][:n], calculator, reference(), stress=True)


@pytest.mark.usefixtures("x64")
def test_dynamics_of_ase_conserves_energy_and_compiles_once(compilations):
    atoms = ATOMS["orthorhombic"].copy()
    atoms.calc = ours()
    ase.optimize.FIRE(atoms, logfile=None).run(fmax=1.0, steps=100)
    atoms.set_velocities(0.5 * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    compilations.clear()
    energies = []
    with ase.md.verlet.VelocityVerlet(atoms, timestep=0.004) as dynamics:
        for _ in dynamics.irun(100):
            energies.append(atoms.get_total_energy())
    assert compilations == []
    assert np.ptp(energies) < 2e-3 * atoms.get_kinetic_energy()


@pytest.mark.usefixtures("x64")
def test_an_optimiser_of_ase_finds_the_smallest_cluster_of_seven():
    """The pentagonal bipyramid, -16.505384 (Wales and Doye, J. Phys. Chem. A 101, 5111 (1997)), over all pairs."""
    angles = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    atoms = ase.Atoms("Ar7", positions=[*ring, [0, 0, 0.6], [0, 0, -0.6]])
    atoms.rattle(0.05, seed=1)
    atoms.calc = PotentialCalculator(lennard_jones(cutoff=np.inf))
    with ase.optimize.BFGS(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=1e-5, steps=200)
    assert atoms.get_potential_energy() == pytest.approx(-16.505384, abs=1e-6)


def test_a_cell_that_is_too_small_for_the_potential_is_refused():
    atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.calc = PotentialCalculator(lennard_jones(sigma=3.4, cutoff=8.5))
    with pytest.raises(ValueError, match=r"cutoff = 8.5; must be at most 2.65"):
        atoms.get_potential_energy()


def test_atoms_without_a_cell_have_no_stress():
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [1, 1, 0]])
    atoms.calc = PotentialCalculator(lennard_jones(cutoff=np.inf))
    with pytest.raises(ase.calculators.calculator.PropertyNotImplementedError):
        atoms.get_stress()
