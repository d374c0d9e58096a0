"""Trajectory files: round trips bit for bit where a format allows, and what ASE and GSD see in them."""

import dataclasses
import subprocess
import sys

import ase
import ase.build
import ase.calculators.lj
import ase.io
import ase.md.verlet
import ase.optimize
import gsd.hoomd
import numpy as np
import pytest

from dmdenv.io import (
    Particles,
    Trajectory,
    read_trajectory,
    write_trajectory,
)
from dmdenv.space import Triclinic

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
@pytest.mark.parametrize("suffix", ["xyz", "extxyz", "traj", "XYZ", "xyz.gz"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_trajectory_comes_back_bit_for_bit(kind, suffix, dtype, tmp_path):
    """All but the velocities, which are so in float32, since ASE stores momenta."""
    written = trajectory(CELLS[kind], dtype=dtype)
    path = tmp_path / f"run.{suffix}"
    write_trajectory(path, written)
    read = read_trajectory(path)
    for name in ("steps", "positions", "cell"):
        assert_same_array(getattr(read, name), getattr(written, name))
    for field in dataclasses.fields(Particles):
        assert_same_array(getattr(read.particles, field.name), getattr(written.particles, field.name))
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
        (ase.Atoms("Ar2"), ase.Atoms("Ar3"), "frame 1: number of particles = 3; must be 2, as in frame 0"),
        (ase.Atoms("Ar2"), ase.Atoms("ArKr"), r"frame 1: types\[1\] = Kr; must be Ar, as in frame 0"),
        (ase.Atoms("Ar"), ase.Atoms("Ar", masses=[2]), r"frame 1: masses\[0\] = 2.0; must be 39.948"),
        (ase.Atoms("Ar"), ase.Atoms("Ar", momenta=[[1, 0, 0]]), "frame 1: velocities = known; must be unknown"),
        (ase.Atoms("Ar"), ase.Atoms("Ar", info={"step": 5}), "frame 1: step = 5; must be in all frames, or in none"),
        (ase.Atoms("Ar", cell=[1, 1, 1], pbc=True), ase.Atoms("Ar"), "frame 1: space = free; must be periodic"),
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
    assert read.velocities is None
    np.testing.assert_array_equal(read.particles.species, [0, 0])
    assert read.steps.tolist() == [7] and read.particles.types == ("A",) and len(read.particles.bonds) == 0
    in_2d = read_trajectory(tmp_path / "run.gsd", dimension=2)
    np.testing.assert_array_equal(in_2d.positions[0, 0], [2, 2])


def test_what_gsd_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"space = Free\(\); must be periodic: GSD holds no other"):
        write_trajectory(tmp_path / "run.gsd", trajectory(None))
    far = dataclasses.replace(trajectory(np.eye(3)), positions=np.full((3, 7, 3), 2.0**32))
    with pytest.raises(ValueError, match=r"positions reach 4.29497e\+09 boxes far; must be at most 2\^31 - 1"):
        write_trajectory(tmp_path / "run.gsd", far)
    gsd.hoomd.open(tmp_path / "empty.gsd", "w").close()
    with pytest.raises(ValueError, match="has no frames"):
        read_trajectory(tmp_path / "empty.gsd")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"particles.N": 3}, "frame 1: number of particles = 3; must be 2, as in frame 0"),
        ({"particles.types": ["A", "B"]}, {"particles.typeid": [0, 1]}, r"frame 1: types\[1\] = B; must be A"),
        ({"particles.types": ["A", "B"]}, {"particles.types": ["B", "A"]}, r"frame 1: types\[0\] = B; must be A"),
        ({}, {"particles.mass": [1, 2]}, r"frame 1: masses\[1\] = 2.0; must be 1.0"),
        ({}, {"particles.diameter": [1, 2]}, r"frame 1: diameters\[1\] = 2.0; must be 1.0"),
        ({}, {"bonds.N": 1, "bonds.types": ["b"], "bonds.group": [[0, 1]]}, r"frame 1: bonds has shape \(1, 2\)"),
        ({}, {"configuration.dimensions": 2}, "frame 1: dimension = 2; must be 3"),
        ({"particles.typeid": [0, 3]}, {}, r"frame 0: species goes from 0 to 3 with types = \('A',\)"),
        ({"particles.N": 0}, {}, "frame 0: there are no particles; must be at least one"),
        ({"configuration.box": [0] * 6}, {}, "frame 0: cell = .* must be finite edges as rows"),
    ],
)
def test_gsd_frames_of_other_particles_are_refused_by_their_number(first, second, message, tmp_path):
    with gsd.hoomd.open(tmp_path / "run.gsd", "w") as file:
        for changed in (first, second):
            frame = gsd.hoomd.Frame()
            frame.configuration.box = [4, 4, 4, 0, 0, 0]
            frame.particles.N = 2
            for name, value in changed.items():
                part, field = name.split(".")
                setattr(getattr(frame, part), field, value)
            file.append(frame)
    with pytest.raises(ValueError, match=message):
        read_trajectory(tmp_path / "run.gsd")


@pytest.mark.parametrize("velocities", [None, np.zeros((2, 7, 3)), np.ones((2, 7, 3))])
def test_velocities_of_gsd_files_are_those_given_or_none(velocities, tmp_path):
    """Zero is not the same as unknown, although the schema leaves out what is zero."""
    still = dataclasses.replace(trajectory(np.eye(3), frames=2), velocities=velocities)
    write_trajectory(tmp_path / "run.GSD", still)
    assert_same_array(read_trajectory(tmp_path / "run.GSD").velocities, velocities)


# --- no trajectories --------------------------------------------------------------------------------------------------


JUNK = {
    "empty": b"",
    "random": np.random.default_rng(0).bytes(3000),
    "not UTF-8": b"2\n\xff\xfe\xfa\nAr 0 0 0\nAr 1 0 0\n",
    "prose": b"hello world\nthis is no trajectory\n",
    "a directory": None,
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(
    "suffix", ["xyz", "gsd", "traj", "lammpstrj", "pdb", "db", "json", "cif", "vasp", "xyz.gz", ""]
)
def test_a_file_that_is_no_trajectory_raises_a_value_error(suffix, junk, tmp_path):
    path, content = tmp_path / f"run.{suffix}", JUNK[junk]
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="run") as error:
        read_trajectory(path)
    assert type(error.value) is ValueError


@pytest.mark.parametrize("lost", [20, 100, 500, 1000])
@pytest.mark.parametrize("suffix", ["xyz", "gsd", "traj"])
def test_a_truncated_file_raises_a_value_error(suffix, lost, tmp_path):
    path = tmp_path / f"run.{suffix}"
    write_trajectory(path, trajectory(np.eye(3)))
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match="run"):
        read_trajectory(path)


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_trajectory(tmp_path / "run.xyz")


def test_a_trajectory_that_a_format_cannot_hold_leaves_the_file_as_it_was(tmp_path):
    for suffix in ("xyz", "gsd", "traj"):
        path = tmp_path / f"run.{suffix}"
        write_trajectory(path, trajectory(np.eye(3)))
        whole = path.read_bytes()
        backwards = dataclasses.replace(trajectory(np.eye(3)), steps=np.array([2, 1, 0]))
        with pytest.raises(ValueError, match=r"steps = \[2, 1, 0\]; must be >= 0 and increase"):
            write_trajectory(path, backwards)
        assert path.read_bytes() == whole
    with pytest.raises(ValueError, match=r"must end with .gsd, .traj, .xyz or .extxyz"):
        write_trajectory(tmp_path / "run.pdb", trajectory(np.eye(3)))
    with pytest.raises(ValueError, match="trajectory has no frames"):
        write_trajectory(tmp_path / "run.xyz", trajectory(np.eye(3)).select(slice(0)))


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
