"""Files and ASE: round trips bit for bit where a format allows, and what other programs see in the files."""

import dataclasses
import subprocess
import sys
import types

import ase
import ase.build
import ase.calculators.lj
import ase.io
import ase.md.verlet
import ase.optimize
import gsd.hoomd
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.io import (
    ExtxyzWriter,
    GSDWriter,
    Particles,
    PotentialCalculator,
    Trajectory,
    from_atoms,
    read_trajectory,
    to_atoms,
    write_trajectory,
)
from dmdenv.io import calculator as calculator_module
from dmdenv.potentials import lennard_jones
from dmdenv.space import Free, Periodic, Triclinic
from marks import by_default

CELLS = {
    "periodic": np.diag([3.0, 4.0, 5.0]),
    "triclinic": np.array([[3.0, 0, 0], [1.2, 4.0, 0], [-2.5, 3.3, 5.0]]),
    "free": None,
    "periodic, 2-D": np.diag([3.0, 4.0]),
    "triclinic, 2-D": np.array([[3.0, 0], [4.0, 4.0]]),
}


def trajectory(cell: np.ndarray | None, *, frames: int = 3, n: int = 7, dtype=np.float32) -> Trajectory:
    """Particles that leave the box by many images, in a cell that grows; arrays of a precision."""
    rng, d = np.random.default_rng(0), 3 if cell is None else len(cell)
    return Trajectory(
        steps=np.arange(frames) * 100,
        positions=(rng.normal(size=(frames, n, d)) * 20).astype(dtype),
        velocities=rng.normal(size=(frames, n, d)).astype(dtype),
        cell=None if cell is None else (cell * np.linspace(1, 1.1, frames)[:, None, None]).astype(dtype),
        particles=Particles(
            species=np.array([0, 1, 1, 0, 2, 0, 1]),
            types=("Ar", "Kr", "X"),
            masses=np.array([40, 83.8, 83.8, 40, 1, 40, 83.8], dtype),
            diameters=np.linspace(1, 2, 7, dtype=dtype),
            bonds=np.array([[0, 1], [1, 2], [5, 6]]),
            bond_species=np.array([0, 1, 0]),
            bond_types=("FENE", "harmonic"),
        ),
    )


def assert_same_array(a, b):
    if a is None or b is None:
        assert a is b
    else:
        np.testing.assert_array_equal(a, b)


# --- extended XYZ and what ASE reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", ["xyz", "extxyz", "traj"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_trajectory_comes_back_bit_for_bit(kind, suffix, dtype, tmp_path):
    """Positions, cells, steps, species and masses; velocities in float32, since ASE stores momenta."""
    written = trajectory(CELLS[kind], dtype=dtype)
    path = tmp_path / f"run.{suffix}"
    write_trajectory(path, written)
    read = read_trajectory(path, dimension=written.positions.shape[2])
    for name in ("steps", "positions", "cell"):
        assert_same_array(getattr(read, name), getattr(written, name))
    for name in ("species", "masses"):
        assert_same_array(getattr(read.particles, name), getattr(written.particles, name))
    assert read.particles.types == written.particles.types
    np.testing.assert_allclose(read.velocities, written.velocities, rtol=0 if dtype == np.float32 else 4e-16)
    assert len(read) == 3


@pytest.mark.parametrize("kind", CELLS)
def test_ase_sees_in_an_extended_xyz_file_what_was_written(kind, tmp_path):
    written = trajectory(CELLS[kind])
    d = written.positions.shape[2]
    write_trajectory(tmp_path / "run.xyz", written)
    images = ase.io.read(tmp_path / "run.xyz", index=":")
    assert [atoms.info["step"] for atoms in images] == [0, 100, 200]
    for k, atoms in enumerate(images):
        assert atoms.get_chemical_symbols() == ["Ar", "Kr", "Kr", "Ar", "X", "Ar", "Kr"]
        assert atoms.pbc.tolist() == [CELLS[kind] is not None] * d + [False] * (3 - d)
        np.testing.assert_array_equal(atoms.positions[:, :d], written.positions[k])
        np.testing.assert_allclose(atoms.get_velocities()[:, :d], written.velocities[k], rtol=1e-12)
        assert not atoms.positions[:, d:].any()
        if CELLS[kind] is not None:
            np.testing.assert_array_equal(atoms.cell[:d, :d], written.cell[k])


def test_a_file_of_ase_with_a_cell_in_any_direction_is_turned_frame_by_frame(tmp_path):
    images = []
    for angle in (10, 50):
        atoms = ase.build.bulk("Ar", "hcp", a=3.7) * (2, 2, 2)
        atoms.rattle(0.1, seed=angle)
        atoms.set_velocities(np.random.default_rng(angle).normal(size=(len(atoms), 3)))
        atoms.rotate(angle, (1, 2, 3), rotate_cell=True)
        images.append(atoms)
    ase.io.write(tmp_path / "run.traj", images)
    read = read_trajectory(tmp_path / "run.traj")
    np.testing.assert_array_equal(read.steps, [0, 1])
    for k, atoms in enumerate(images):
        np.testing.assert_allclose(read.cell[k] @ read.cell[k].T, atoms.cell @ atoms.cell.T, atol=1e-12)
        np.testing.assert_allclose(read.positions[k] @ read.cell[k].T, atoms.positions @ atoms.cell.T, atol=1e-11)
        speeds = np.linalg.norm(read.velocities[k], axis=1)
        np.testing.assert_allclose(speeds, np.linalg.norm(atoms.get_velocities(), axis=1), rtol=1e-12)
        assert isinstance(read.space(k), Triclinic)


def test_frames_that_do_not_belong_together_are_refused(tmp_path):
    for first, second, message in [
        (ase.Atoms("Ar2"), ase.Atoms("Ar3"), "has frames of different atoms; must be the same ones in the same order"),
        (ase.Atoms("Ar", cell=[1, 1, 1], pbc=True), ase.Atoms("Ar"), "has periodic frames and others; must be all or"),
    ]:
        ase.io.write(tmp_path / "run.traj", [first, second])
        with pytest.raises(ValueError, match=message):
            read_trajectory(tmp_path / "run.traj")


# --- GSD --------------------------------------------------------------------------------------------------------------


def box_vectors(box):
    """HOOMD's own convention for its six numbers, as columns of edges."""
    lx, ly, lz, xy, xz, yz = np.asarray(box, float)
    return np.array([[lx, xy * ly, xz * lz], [0, ly, yz * lz], [0, 0, lz]])


@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind != "free"])
def test_gsd_reads_a_file_as_its_schema_says(kind, tmp_path):
    written = trajectory(CELLS[kind])
    d = written.positions.shape[2]
    write_trajectory(tmp_path / "run.gsd", written)
    with gsd.hoomd.open(tmp_path / "run.gsd", "r") as file:
        assert len(file) == 3
        for k, frame in enumerate(file):
            edges = box_vectors(frame.configuration.box)
            np.testing.assert_allclose(edges.T[:d, :d], written.cell[k], rtol=1e-6)
            assert frame.configuration.step == written.steps[k]
            assert frame.configuration.dimensions == d
            fractional = np.linalg.solve(edges[:d, :d], frame.particles.position[:, :d].T)
            assert np.all(np.abs(fractional) <= 0.5 * (1 + 1e-6)), "particles stand outside of the box"
            unwrapped = frame.particles.position + frame.particles.image @ edges.T
            shift = unwrapped[:, :d] - written.positions[k]
            np.testing.assert_allclose(shift, np.broadcast_to(-edges.sum(1)[:d] / 2, shift.shape), atol=1e-4)
            assert np.abs(frame.particles.image).max() >= 3
            assert not frame.particles.position[:, d:].any() and not frame.particles.image[:, d:].any()
            np.testing.assert_array_equal(frame.particles.velocity[:, :d], written.velocities[k])
            assert frame.particles.types == ["Ar", "Kr", "X"]
            np.testing.assert_array_equal(frame.particles.typeid, written.particles.species)
            np.testing.assert_array_equal(frame.particles.mass, written.particles.masses)
            np.testing.assert_array_equal(frame.particles.diameter, written.particles.diameters)
            assert frame.bonds.types == ["FENE", "harmonic"]
            np.testing.assert_array_equal(frame.bonds.typeid, [0, 1, 0])
            np.testing.assert_array_equal(frame.bonds.group, written.particles.bonds)


@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind != "free"])
def test_positions_come_back_from_gsd_unwrapped(kind, tmp_path):
    """To the single precision of one box length, however many images away; all else bit for bit."""
    written = trajectory(CELLS[kind])
    write_trajectory(tmp_path / "run.gsd", written)
    read = read_trajectory(tmp_path / "run.gsd")
    np.testing.assert_allclose(read.positions, written.positions, atol=2e-4)  # tilts in single precision times images
    np.testing.assert_allclose(read.cell, written.cell, atol=1e-6)
    for name in ("steps", "velocities"):
        assert_same_array(getattr(read, name), getattr(written, name))
    for field in dataclasses.fields(Particles):
        assert_same_array(getattr(read.particles, field.name), getattr(written.particles, field.name))


@pytest.mark.parametrize("kind", ["triclinic", "periodic, 2-D"])
def test_a_gsd_file_read_and_written_again_is_the_same_bit_for_bit(kind, tmp_path):
    write_trajectory(tmp_path / "first.gsd", trajectory(CELLS[kind]))
    write_trajectory(tmp_path / "second.gsd", read_trajectory(tmp_path / "first.gsd"))
    with gsd.hoomd.open(tmp_path / "first.gsd") as first, gsd.hoomd.open(tmp_path / "second.gsd") as second:
        for a, b in zip(first, second, strict=True):
            for name in ("position", "image", "velocity", "mass", "diameter", "typeid"):
                np.testing.assert_array_equal(getattr(a.particles, name), getattr(b.particles, name))
            np.testing.assert_array_equal(a.configuration.box, b.configuration.box)


def test_a_frame_written_by_hand_is_read_with_its_centre_and_its_images(tmp_path):
    frame = gsd.hoomd.Frame()
    frame.configuration.box = [2, 4, 8, 0.5, 0.25, -0.125]
    frame.configuration.step = 7
    frame.particles.N = 2
    frame.particles.position = [[0, 0, 0], [0.5, 1, -2]]
    frame.particles.image = [[0, 0, 0], [0, 1, -2]]
    with gsd.hoomd.open(tmp_path / "run.gsd", "w") as file:
        file.append(frame)
    read = read_trajectory(tmp_path / "run.gsd")
    cell = np.array([[2, 0, 0], [2, 4, 0], [2, -1, 8]])
    np.testing.assert_array_equal(read.cell[0], cell)
    np.testing.assert_array_equal(read.positions[0], [[3, 1.5, 4], np.array([3.5, 2.5, 2]) + cell[1] - 2 * cell[2]])
    np.testing.assert_array_equal(read.velocities, np.zeros((1, 2, 3)))
    np.testing.assert_array_equal(read.particles.species, [0, 0])
    assert read.steps.tolist() == [7] and read.particles.types == ("A",) and len(read.particles.bonds) == 0
    in_2d = read_trajectory(tmp_path / "run.gsd", dimension=2)
    np.testing.assert_array_equal(in_2d.positions[0, 0], [2, 2])


def test_what_gsd_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"space = Free\(\); must be periodic: GSD holds no other"):
        write_trajectory(tmp_path / "run.gsd", trajectory(None))
    with gsd.hoomd.open(tmp_path / "varying.gsd", "w") as file:
        for n in (1, 2):
            frame = gsd.hoomd.Frame()
            frame.particles.N = n
            file.append(frame)
    with pytest.raises(ValueError, match=r"has frames of \[1, 2\] particles; must be as many in all"):
        read_trajectory(tmp_path / "varying.gsd")
    gsd.hoomd.open(tmp_path / "empty.gsd", "w").close()
    with pytest.raises(ValueError, match="has no frames"):
        read_trajectory(tmp_path / "empty.gsd")


# --- writing while a simulation runs ----------------------------------------------------------------------------------

WRITERS = {"gsd": GSDWriter, "xyz": ExtxyzWriter}
both = pytest.mark.parametrize("suffix", WRITERS)


def chunk(first: int, last: int, n: int = 4):
    """Steps and what is observed at them, a function of the step alone."""
    steps = np.arange(first, last)
    return steps, {"positions": np.float32(0.25) * (steps[:, None, None] + np.arange(3.0 * n).reshape(1, n, 3) / 16)}


@both
def test_frames_are_in_the_file_after_each_call(suffix, tmp_path):
    with WRITERS[suffix](tmp_path / f"run.{suffix}", space=Periodic(8.0)) as writer:
        for first in (0, 3):
            writer(*chunk(first, first + 3))
            read = read_trajectory(tmp_path / f"run.{suffix}")  # beside the open writer
            steps, observed = chunk(0, first + 3)
            np.testing.assert_array_equal(read.steps, steps)
            np.testing.assert_allclose(read.positions, observed["positions"], atol=1e-6)


@both
def test_a_run_that_restarts_continues_its_file_without_writing_frames_twice(suffix, tmp_path):
    path, writer = tmp_path / f"run.{suffix}", WRITERS[suffix]
    with writer(path, space=Periodic(8.0), mode="a") as first:
        first(*chunk(0, 5))
    with writer(path, space=Periodic(8.0), mode="a") as second:
        second(*chunk(3, 5))
        second(*chunk(5, 8))
    read = read_trajectory(path)
    np.testing.assert_array_equal(read.steps, np.arange(8))
    np.testing.assert_allclose(read.positions, chunk(0, 8)[1]["positions"], atol=1e-6)


@both
def test_a_file_is_replaced_only_when_asked(suffix, tmp_path):
    path, writer = tmp_path / f"run.{suffix}", WRITERS[suffix]
    with writer(path, space=Periodic(8.0)) as first:
        first(*chunk(0, 5))
    with pytest.raises(FileExistsError):
        writer(path, space=Periodic(8.0))
    assert len(read_trajectory(path)) == 5
    with writer(path, space=Periodic(8.0), mode="w") as second:
        second(*chunk(0, 2))
    assert len(read_trajectory(path)) == 2
    with pytest.raises(ValueError, match="mode = 'r'; must be one of 'x', 'w', 'a'"):
        writer(path, mode="r")


@pytest.mark.parametrize("lost", [1, 30, 200, 400])
def test_a_last_frame_that_a_crash_has_cut_off_is_written_anew(lost, tmp_path):
    path = tmp_path / "run.xyz"
    with ExtxyzWriter(path, space=Periodic(8.0)) as writer:
        writer(*chunk(0, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with ExtxyzWriter(path, space=Periodic(8.0), mode="a") as writer:
        writer(*chunk(0, 4))
    assert path.read_bytes() == whole


def test_a_killed_process_leaves_a_gsd_file_with_all_its_calls(tmp_path):
    program = f"""
import os, signal, numpy as np
from dmdenv.io import GSDWriter
from dmdenv.space import Periodic
writer = GSDWriter({str(tmp_path / "run.gsd")!r}, space=Periodic(8.0))
for step in range(5):
    writer(np.array([step]), {{"positions": np.full((1, 4, 3), 0.5 * step)}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    read = read_trajectory(tmp_path / "run.gsd")
    np.testing.assert_array_equal(read.steps, np.arange(5))
    np.testing.assert_array_equal(read.positions[:, 0, 0], 0.5 * np.arange(5))


SHEARED = np.array([[[4.0, 0], [0.5 * k, 5.0]] for k in range(3)])
OBSERVED_SPACES = {
    "cube": ({"box": np.array([3.0, 4, 5])}, [np.eye(2) * side for side in (3, 4, 5)]),
    "box": ({"box": np.array([[3.0, 4], [4, 5], [5, 6]])}, [np.diag(box) for box in ([3, 4], [4, 5], [5, 6])]),
    "cell": ({"cell": SHEARED}, SHEARED),
    "periodic": ({"space": jax.vmap(Periodic)(jnp.array([3.0, 4, 5]))}, [np.eye(2) * side for side in (3, 4, 5)]),
    "triclinic": ({"space": jax.vmap(Triclinic)(jnp.asarray(SHEARED))}, SHEARED),
}


@pytest.mark.parametrize("kind", OBSERVED_SPACES)
@both
def test_a_box_that_changes_is_written_frame_by_frame(suffix, kind, tmp_path):
    """From a dictionary, and from an object with attributes such as the states of a rollout."""
    own, expected = OBSERVED_SPACES[kind]
    observed = {"positions": jnp.ones((3, 4, 2)), **own}
    for k, observations in enumerate((observed, types.SimpleNamespace(**observed, velocities=None))):
        path = tmp_path / f"{k}.{suffix}"
        with WRITERS[suffix](path) as writer:
            writer(jnp.arange(3), observations)
        np.testing.assert_allclose(read_trajectory(path, dimension=2).cell, expected, rtol=1e-6)


def test_free_space_that_is_observed_has_no_cell(tmp_path):
    with ExtxyzWriter(tmp_path / "run.xyz") as writer:
        writer(np.arange(2), {"positions": np.ones((2, 4, 3)), "space": Free()})
    assert read_trajectory(tmp_path / "run.xyz").cell is None


GOOD = {"positions": np.zeros((2, 4, 3)), "box": np.ones(2)}


@pytest.mark.parametrize(
    ("steps", "changed", "message"),
    [
        ([0.5, 1.5], {}, r"steps has type float64\[2\]; must be int \[m\]"),
        ([0, 1, 2], {}, r"positions has shape \(2, 4, 3\); must be \[3, n, 2\] or \[3, n, 3\]"),
        ([0, 1], {"positions": None}, r"positions is missing; must be \[2, n, 2\]"),
        ([0, 1], {"positions": np.zeros((2, 4, 1))}, r"positions has shape \(2, 4, 1\)"),
        (
            [0, 1],
            {"velocities": np.zeros((2, 4, 2))},
            r"velocities has shape \(2, 4, 2\); must be \(2, 4, 3\), as positions",
        ),
        ([0, 1], {"box": np.ones(3)}, r"box has shape \(3,\); must be \[2\] or \[2, 3\], one per frame"),
        ([0, 1], {"box": None, "cell": np.eye(3)}, r"cell has shape \(3, 3\); must be \[2, 3, 3\], one per frame"),
        ([0, 1], {"box": None}, "neither the observations nor the writer have a space; give `space`"),
    ],
)
def test_bad_observations_are_named(steps, changed, message, tmp_path):
    with ExtxyzWriter(tmp_path / "run.xyz") as writer, pytest.raises(ValueError, match=message):
        writer(np.array(steps), {**GOOD, **changed})


@pytest.mark.parametrize(
    ("particles", "message"),
    [
        ({"species": [0, 1, 0]}, r"species has type int64\[3\]; must be int \[4\]"),
        ({"species": [0.0] * 4}, r"species has type float64\[4\]; must be int \[4\]"),
        ({"species": [0, 2, 0, 0], "types": ("Ar", "Kr")}, r"species goes from 0 to 2 with types = \('Ar', 'Kr'\)"),
        ({"species": [0, -1, 0, 0], "types": ("Ar",)}, "species goes from -1 to 0"),
        ({"masses": [1.0, 2.0]}, r"masses has shape \(2,\); must be \[\] or \[4\]"),
        ({"bonds": [[0, 4]]}, r"bonds has shape \(1, 2\); must be \[b, 2\], of particles from 0 to 3"),
        ({"bonds": [[0, 1, 2]]}, r"bonds has shape \(1, 3\); must be"),
        ({"bonds": [[0, 1]], "bond_species": [1], "bond_types": ("FENE",)}, "bond_species goes from 1 to 1"),
    ],
)
@both
def test_bad_particles_are_named(suffix, particles, message, tmp_path):
    writer = WRITERS[suffix](tmp_path / "run", particles=Particles(**particles))
    with writer, pytest.raises(ValueError, match=message):
        writer([0, 1], GOOD)


def test_names_that_are_no_chemical_symbols_are_refused_where_ase_reads_them(tmp_path):
    writer = ExtxyzWriter(tmp_path / "run.xyz", particles=Particles(types=("bead",)))
    with writer, pytest.raises(ValueError, match="types has 'bead'; must be chemical symbols, 'X' for none"):
        writer([0, 1], GOOD)


@both
def test_the_number_of_particles_stays(suffix, tmp_path):
    with WRITERS[suffix](tmp_path / "run", space=Periodic(8.0)) as writer:
        writer(*chunk(0, 1))
        with pytest.raises(ValueError, match="positions has 5 particles; must be 4, as before"):
            writer(*chunk(1, 2, n=5))


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
        (ase.Atoms("Ar", pbc=True), 3, "cell = .*; valid: linearly independent edges"),
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
def test_dynamics_of_ase_conserves_energy_and_compiles_once():
    atoms = ATOMS["orthorhombic"].copy()
    atoms.calc = ours()
    ase.optimize.FIRE(atoms, logfile=None).run(fmax=1.0, steps=100)
    atoms.set_velocities(0.5 * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    compiled = calculator_module._evaluate._cache_size(), calculator_module._update._cache_size()
    energies = []
    with ase.md.verlet.VelocityVerlet(atoms, timestep=0.004) as dynamics:
        for _ in dynamics.irun(100):
            energies.append(atoms.get_total_energy())
    assert (calculator_module._evaluate._cache_size(), calculator_module._update._cache_size()) == compiled
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
    with pytest.raises(ValueError, match=r"cutoff = 8.5 in a box of .*; valid: up to half the shortest side .*, 2.65"):
        atoms.get_potential_energy()


def test_atoms_without_a_cell_have_no_stress():
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [1, 1, 0]])
    atoms.calc = PotentialCalculator(lennard_jones(cutoff=np.inf))
    with pytest.raises(ase.calculators.calculator.PropertyNotImplementedError):
        atoms.get_stress()


# --- the extra --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["ase", "gsd"])
def test_an_extra_that_is_not_installed_is_named(package, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dmdenv.io")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"dmdenv.io needs {package}, .* pip install 'dmdenv\[io\]'"):
        import dmdenv.io  # noqa: F401


def test_nothing_else_imports_the_extra():
    program = "import sys, dmdenv.envs, dmdenv.potentials; sys.exit('ase' in sys.modules or 'gsd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
