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
