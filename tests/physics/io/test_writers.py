"""Files that are written while a simulation runs, restarts or is killed."""

import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.integrators import NVE
from dmdenv.io import (
    ExtxyzWriter,
    GSDWriter,
    Particles,
    Trajectory,
    read_trajectory,
)
from dmdenv.potentials import lennard_jones
from dmdenv.space import Free, Periodic, Triclinic

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


def written(path, last: int = 4) -> bytes:
    with WRITERS[path.suffix[1:]](path, space=Periodic(8.0)) as writer:
        writer(*chunk(0, last))
    return path.read_bytes()


def append(path, steps_and_observed, **options) -> None:
    with WRITERS[path.suffix[1:]](path, **{"space": Periodic(8.0), **options}, mode="a") as writer:
        writer(*steps_and_observed)


@pytest.mark.parametrize("end", [b"", b"\n\n"])
def test_a_file_with_another_last_byte_is_continued_without_loss(end, tmp_path):
    path = tmp_path / "run.xyz"
    path.write_bytes(written(path)[:-1] + end)
    append(path, chunk(4, 6))
    assert path.read_bytes() == written(tmp_path / "whole.xyz", last=6)


@pytest.mark.parametrize("lost", [30, 100])
def test_a_last_frame_that_is_cut_off_is_replaced_by_itself_only(lost, tmp_path):
    path = tmp_path / "run.xyz"
    cut = written(path)[:-lost]
    path.write_bytes(cut)
    append(path, chunk(0, 3))  # all in the file
    with pytest.raises(ValueError, match="ends within step 3; must be among steps, which begin at 4"):
        append(path, chunk(4, 6))
    assert path.read_bytes() == cut


def damage_count(whole: bytes) -> bytes:
    return whole.replace(b"4\n", b"4000\n", 1)


def damage_step(whole: bytes) -> bytes:
    return whole.replace(b"step=1", b"step=x", 1)


def damage_end(whole: bytes) -> bytes:
    return whole[:-20]


def replace_all(whole: bytes) -> bytes:
    return b"junk" * 1000


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [("xyz", damage_count), ("xyz", damage_step), ("xyz", replace_all), ("gsd", damage_end), ("gsd", replace_all)],
)
def test_a_damaged_file_is_not_continued_but_left_as_it_is(suffix, damage, tmp_path):
    path = tmp_path / f"run.{suffix}"
    damaged = damage(written(path))
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"run.* cannot be continued"):
        append(path, chunk(4, 6))
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (chunk(4, 6, n=5), {}, "number of particles = 5; must be 4"),
        ((np.array([4]), {"positions": np.ones((1, 4, 2))}), {}, "dimension = 2; must be 3"),
        (chunk(4, 6), {"particles": Particles(types=("Kr",))}, r"types\[0\] = Kr; must be"),
        (chunk(4, 6), {"particles": Particles(masses=[1.0, 1, 2, 1])}, r"masses\[2\] = 2.0; must be 1.0"),
        (chunk(4, 6), {"particles": Particles(diameters=2.0)}, r"diameters\[0\] = 2.0; must be 1.0"),
        (chunk(4, 6), {"particles": Particles(bonds=[[0, 1]])}, r"bonds has shape \(1, 2\); must be \(0, 2\)"),
        (
            (np.array([4]), {"positions": np.ones((1, 4, 3)), "velocities": np.ones((1, 4, 3))}),
            {},
            "velocities = known",
        ),
        ((np.array([3, 3]), chunk(4, 6)[1]), {}, r"steps = \[3, 3\]; must be >= 0 and increase"),
        ((np.array([-1, 5]), chunk(4, 6)[1]), {}, r"steps = \[-1, 5\]; must be >= 0 and increase"),
    ],
)
@both
def test_other_frames_are_refused_before_a_byte_is_written(suffix, frames, options, message, tmp_path):
    path = tmp_path / f"run.{suffix}"
    before = written(path)
    with pytest.raises(ValueError, match=message):
        append(path, frames, **options)
    assert path.read_bytes() == before


@both
def test_steps_that_the_file_has_passed_over_are_refused(suffix, tmp_path):
    path = tmp_path / f"run.{suffix}"
    with WRITERS[suffix](path, space=Periodic(8.0)) as writer:
        writer(10 * np.arange(3), chunk(0, 3)[1])
        with pytest.raises(ValueError, match=r"steps has 15, which .* lacks although it goes to 20; must be in it"):
            writer(np.array([10, 15, 25]), chunk(0, 3)[1])
    np.testing.assert_array_equal(read_trajectory(path).steps, [0, 10, 20])


@both
def test_the_same_frames_are_written_once_by_whichever_writer(suffix, tmp_path):
    """By the same one after an exception, and by another one that is open at the same time."""
    path, writer = tmp_path / f"run.{suffix}", WRITERS[suffix]
    first = writer(path, space=Periodic(8.0))
    first(*chunk(0, 3))
    first(*chunk(0, 4))
    second = writer(path, space=Periodic(8.0), mode="a")
    second(*chunk(2, 6))
    first(*chunk(4, 8))
    second(*chunk(6, 9))
    np.testing.assert_array_equal(read_trajectory(path).steps, np.arange(9))
    first.close()
    with pytest.raises(ValueError, match="is closed; must be written before"):
        first(*chunk(9, 10))


@both
def test_a_call_that_fails_half_way_can_be_repeated(suffix, tmp_path):
    """As on a full disk: some of the frames are in the file, of text also a part of one."""
    path = tmp_path / f"run.{suffix}"
    with WRITERS[suffix](path, space=Periodic(8.0)) as writer:
        writer(*chunk(0, 2))
        if suffix == "gsd":
            append(path, chunk(2, 3))
        else:
            path.write_bytes(written(tmp_path / "whole.xyz")[:-30])
        writer(*chunk(2, 5))
    np.testing.assert_array_equal(read_trajectory(path).steps, np.arange(5))
    np.testing.assert_allclose(read_trajectory(path).positions, chunk(0, 5)[1]["positions"], atol=1e-6)


@both
def test_nan_and_infinity_are_kept_and_nothing_beside_them_changes(suffix, tmp_path):
    path, (steps, observed) = tmp_path / f"run.{suffix}", chunk(0, 2)
    observed["positions"][1, 0, 0], observed["positions"][1, 1, 1] = np.nan, np.inf
    with WRITERS[suffix](path, space=Periodic(8.0)) as writer:
        writer(steps, observed)
    np.testing.assert_allclose(read_trajectory(path).positions, observed["positions"], atol=1e-6)


@both
def test_particles_of_a_trajectory_are_written_with_it(suffix, tmp_path):
    observed = Trajectory(np.arange(2), np.ones((2, 4, 3)), None, np.array([np.eye(3)] * 2), Particles(types=("Kr",)))
    with WRITERS[suffix](tmp_path / f"run.{suffix}") as writer:
        writer(np.arange(2), observed)
    assert read_trajectory(tmp_path / f"run.{suffix}").particles.types == ("Kr",)


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
        ([0, 1], {"positions": np.zeros((2, 0, 3))}, "there are no particles; must be at least one"),
        ([0, 1], {"positions": 1j * np.ones((2, 4, 3))}, r"positions has type complex128.*; must be real numbers"),
        (
            [0, 1],
            {"box": None, "cell": np.array([np.triu(np.ones((3, 3)))] * 2)},
            "cell = .*; must be finite edges as rows, zero above a positive diagonal",
        ),
        ([0, 1], {"box": np.array([1, np.nan])}, "cell = .*; must be finite edges"),
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
        ({"types": "Ar"}, "types = 'Ar'; must be different names, one for each"),
        ({"types": ("Ar", "Ar")}, r"types = \('Ar', 'Ar'\); must be different names"),
        ({"masses": "heavy"}, "masses has type .*; must be real numbers"),
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


@pytest.mark.parametrize("name", ['a "b"', "ß"])
def test_names_of_bonds_that_a_header_cannot_hold_are_refused(name, tmp_path):
    writer = ExtxyzWriter(tmp_path / "run.xyz", particles=Particles(bonds=[[0, 1]], bond_types=(name,)))
    with writer, pytest.raises(ValueError, match="must be ASCII without quotes and backslashes"):
        writer([0, 1], GOOD)
    assert (tmp_path / "run.xyz").read_bytes() == b""


@both
def test_the_number_of_particles_stays(suffix, tmp_path):
    with WRITERS[suffix](tmp_path / "run", space=Periodic(8.0)) as writer:
        writer(*chunk(0, 1))
        with pytest.raises(ValueError, match=r"number of particles = 5; must be 4, as in .*run"):
            writer(*chunk(1, 2, n=5))


def test_the_states_of_a_simulation_are_written_continuous_in_time(tmp_path):
    """Their positions are wrapped, and have images."""
    space, v = Periodic(5.0), np.array([[3.0, -2.0], [0.5, 1.0]])
    method, potential = NVE(dt=1.0), lennard_jones(epsilon=0.0)
    states = [method.init(potential, space, jnp.array([[1.0, 2.0], [4.0, 4.5]]), velocities=v)]
    for _ in range(4):
        states.append(method.step(potential, states[-1]))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    with ExtxyzWriter(tmp_path / "states.xyz") as write:
        write(np.arange(5), stacked)
    found = read_trajectory(tmp_path / "states.xyz", dimension=2).positions
    np.testing.assert_allclose(found, found[0] + np.arange(5)[:, None, None] * v, atol=1e-5)
    assert np.any(stacked.images)
    wrong = stacked.replace(images=stacked.positions)
    with (
        ExtxyzWriter(tmp_path / "no.xyz") as write,
        pytest.raises(ValueError, match=r"images has type float32\[5, 2, 2\]; must be int \[5, 2, 2\]"),
    ):
        write(np.arange(5), wrong)
