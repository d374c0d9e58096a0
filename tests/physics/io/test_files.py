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
