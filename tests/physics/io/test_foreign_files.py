"""Files that other codes write: names of columns, steps, labels, ids and images, kept or refused."""

import numpy as np
import pytest

from dmdenv.io import read_trajectory


def xyz(*frames: tuple[str, str, list[str]]) -> str:
    """A file of frames: columns after the position, further words of the header, rows."""
    return "".join(
        "\n".join((str(len(rows)), f"Properties=species:S:1:pos:R:3{columns} {words}", *rows, ""))
        for columns, words, rows in frames
    )


ROWS = ["Ar 0 0 0", "Kr 1 2 3"]


@pytest.mark.parametrize("name", ["velocities", "velocity", "velo", "vel"])
def test_velocity_columns_are_read_under_their_usual_names(name, tmp_path):
    (tmp_path / "run.xyz").write_text(xyz((f":{name}:R:3", "", ["Ar 0 0 0 1 2 3", "Ar 1 0 0 4 5 6"])))
    np.testing.assert_array_equal(read_trajectory(tmp_path / "run.xyz").velocities, [[[1, 2, 3], [4, 5, 6]]])


@pytest.mark.parametrize("name", ["mass", "masses"])
def test_mass_columns_are_read_under_their_usual_names(name, tmp_path):
    (tmp_path / "run.xyz").write_text(xyz((f":{name}:R:1", "", ["Ar 0 0 0 2", "Ar 1 0 0 3"])))
    np.testing.assert_array_equal(read_trajectory(tmp_path / "run.xyz").particles.masses, [2, 3])


@pytest.mark.parametrize("names", [("1", "2"), ("A", "bead"), ("CA", "CO")])
def test_names_of_species_are_kept_as_they_stand(names, tmp_path):
    (tmp_path / "run.xyz").write_text(xyz(("", "", [f"{names[0]} 0 0 0", f"{names[1]} 1 0 0"])))
    particles = read_trajectory(tmp_path / "run.xyz").particles
    assert particles.types == names
    np.testing.assert_array_equal(particles.masses, [1, 1])


@pytest.mark.parametrize(
    ("word", "step"), [("step=5", 5), ('step="5"', 5), ("step=5.0", 5), ("Timestep=100", 100), ("step=-1", -1)]
)
def test_steps_are_read_as_integers(word, step, tmp_path):
    (tmp_path / "run.xyz").write_text(xyz(("", word, ROWS)))
    assert read_trajectory(tmp_path / "run.xyz").steps.tolist() == [step]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xyz(("", "step=1.7", ROWS)), "frame 0: step = 1.7; must be an integer"),
        (xyz(("", "step", ROWS)), "frame 0: step = True; must be an integer"),
        (xyz(("", "step=99999999999999999999", ROWS)), "step = 1e\\+20; must be an integer"),
        (xyz(("", 'pbc="T T T"', ROWS)), "frame 0: periodic without a lattice"),
        (xyz((":move_mask:L:1", "", ["Ar 0 0 0 T", "Ar 1 0 0 F"])), "must be none, as nothing in dmdenv keeps them"),
        (
            xyz((":id:I:1", "", ["Ar 0 0 0 1"]), (":id:I:1", "", ["Ar 0 0 0 2"])),
            "frame 1: the particles have other ids",
        ),
        (xyz((":velo:R:2", "", ["Ar 0 0 0 1 1"])), "velocities has shape"),
        (xyz(("", "", ["Ar 0 0 0 1"])), "frame 0: particle 0 has 5 columns; must be 4"),
        ("0\n\n", "frame 0: there are no particles; must be at least one"),
        ("999999999999\n\nAr 0 0 0\n", "frame 0: the file ends after 1 of 999999999999 particles"),
        (xyz(("", "", ROWS))[:-9], "frame 0: the file ends after 1 of 2 particles"),
    ],
)
def test_xyz_files_that_would_be_misread_are_refused(text, message, tmp_path):
    (tmp_path / "run.xyz").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trajectory(tmp_path / "run.xyz")


def test_particles_are_sorted_by_their_ids_and_blank_lines_end_nothing(tmp_path):
    frames = [(":id:I:1", "step=1", ["Ar 0 0 0 1", "Kr 1 0 0 2"]), (":id:I:1", "step=2", ["Kr 2 0 0 2", "Ar 1 0 0 1"])]
    (tmp_path / "a@b.xyz").write_text("\n".join(xyz(frame) for frame in frames))
    read = read_trajectory(tmp_path / "a@b.xyz")
    assert read.particles.types == ("Ar", "Kr") and read.steps.tolist() == [1, 2]
    np.testing.assert_array_equal(read.positions[:, :, 0], [[0, 1], [1, 2]])
    assert read_trajectory(tmp_path / "a@b.xyz", index=-1).steps.tolist() == [2]


def dump(step: int, columns: str, rows: list[str], box: str = "pp pp pp\n1 5\n1 5\n1 5", before: str = "") -> str:
    head = f"{before}ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(rows)}\nITEM: BOX BOUNDS {box}\n"
    return head + "\n".join((f"ITEM: ATOMS {columns}", *rows, ""))


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ("id type x y z ix iy iz", ["2 1 2 3 4 0 0 0", "1 2 2 2 2 1 0 -2"]),
        ("id type xs ys zs ix iy iz", ["2 1 .25 .5 .75 0 0 0", "1 2 .25 .25 .25 1 0 -2"]),
        ("id type xu yu zu", ["2 1 2 3 4", "1 2 6 2 -6"]),
        ("id type xsu ysu zsu", ["2 1 .25 .5 .75", "1 2 1.25 .25 -1.75"]),
    ],
)
def test_dumps_of_lammps_keep_steps_types_and_images(columns, rows, tmp_path):
    (tmp_path / "run.lammpstrj").write_text(dump(100, columns, rows) + dump(200, columns, rows))
    read = read_trajectory(tmp_path / "run.lammpstrj")
    assert read.steps.tolist() == [100, 200]
    assert read.particles.types == ("2", "1") and read.velocities is None
    np.testing.assert_array_equal(read.positions[1], [[6, 2, -6], [2, 3, 4]])
    np.testing.assert_array_equal(read.cell[0], 4 * np.eye(3))


def test_dumps_of_lammps_keep_masses_elements_and_the_units_that_they_state(tmp_path):
    rows = ["1 A 2.5 1 0 0 1 2 3 0 1 0", "2 B 3 2 0 0 4 5 6 0 0 0"]
    columns, box = "id element mass x y z vx vy vz ix iy iz", "xy xz yz pp pp pp\n0 5 1\n0 4 0\n0 4 0"
    (tmp_path / "run.dump").write_text(dump(7, columns, rows, box, before="ITEM: UNITS\nlj\n"))
    read = read_trajectory(tmp_path / "run.dump")
    assert read.particles.types == ("A", "B")
    np.testing.assert_array_equal(read.particles.masses, [2.5, 3])
    np.testing.assert_array_equal(read.velocities, [[[1, 2, 3], [4, 5, 6]]])
    np.testing.assert_array_equal(read.cell, [[[4, 0, 0], [1, 4, 0], [0, 0, 4]]])
    np.testing.assert_array_equal(read.positions, [[[2, 4, 0], [2, 0, 0]]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (dump(1, "id type x y z ix", ["1 1 0 0 0 1"]), "ATOMS has no column iy"),
        (dump(1, "id type vx vy vz", ["1 1 0 0 0"]), "must have x y z, or xs, xu or xsu"),
        (dump(1, "id type x y z", ["1 1 0 0 0"]) + dump(2, "id type x y z", ["2 1 0 0 0"]), "frame 1: .* other ids"),
        (dump(1, "id type x y z", []), "there are no particles"),
        (dump(1, "id type x y z", ["1 1 0 0 0", "1 1 1 0 0"]), "two particles have the same id"),
        (dump(1, "id type x y z", ["1 1 0 0 0", "2 1 1 0 0"])[:-12], "the file ends after 1 of 2 lines of ATOMS"),
    ],
)
def test_dumps_of_lammps_that_would_be_misread_are_refused(text, message, tmp_path):
    (tmp_path / "run.dump").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trajectory(tmp_path / "run.dump")
