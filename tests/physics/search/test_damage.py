"""What a search keeps when it is killed between two operations on files, or the disk is full: the rest is the same."""

import functools

import jax
import numpy as np
import pytest

from dmdenv.search import minimize
from dmdenv.search.arguments import METHODS
from dmdenv.simulation import CheckpointNotWritten
from dmdenv.simulation.checkpoints import saved_steps
from file_operations import full_disk, snapshots, write_snapshot
from marks import by_default

UPDATES = 6
FEW = [(method, 1) for method in METHODS]
EVERY = [(method, None) for method in METHODS]
cases = pytest.mark.parametrize(("method", "few"), by_default([*FEW, *EVERY], *FEW))


def noisy(p, key):
    return p["x"] ** 2 + jax.random.normal(key)


def search(method, folder):
    options = {"starts": 2, "updates": UPDATES, "save_interval": 0.0, "progress": False, "folder": folder}
    found = minimize(noisy, {"x": 2.0}, jax.random.key(0), method=method, **options)
    return found.params["x"], found.values, found.history


@pytest.fixture(scope="module")
def uninterrupted():
    """A function: what a search finds, by method."""
    return functools.cache(lambda method: search(method, None))


def chosen(count, few):
    """Some numbers below `count`, or all of them."""
    return range(count) if few is None else np.linspace(0, count - 1, few + 2, dtype=int)[1:-1]


@cases
def test_a_search_killed_between_two_operations_on_files_goes_on_bit_for_bit(tmp_path, uninterrupted, method, few):
    folder = tmp_path / "folder"
    folder.mkdir()
    with snapshots(folder) as left:
        search(method, folder)
    assert len(left) > 50
    for number in chosen(len(left), few):
        killed = tmp_path / str(number)
        write_snapshot(left[number], killed)
        for found, expected in zip(search(method, killed), uninterrupted(method), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert saved_steps(killed)[-1] == UPDATES
        assert all(path.name.isdecimal() for path in killed.iterdir())


@cases
def test_a_search_on_a_full_disk_says_what_is_safe_and_goes_on_bit_for_bit(tmp_path, uninterrupted, method, few):
    (tmp_path / "folder").mkdir()
    with full_disk(tmp_path / "folder", after=None) as needed:
        search(method, tmp_path / "folder")
    for number in chosen(len(needed), few):
        folder = tmp_path / str(number)
        folder.mkdir()
        with full_disk(folder, after=number), pytest.raises(OSError, match="No space left on device") as told:
            search(method, folder)
        saved = saved_steps(folder)
        if number > 0:  # the first operation is that of the lock
            assert isinstance(told.value, CheckpointNotWritten)
            safe = f"; checkpoint {saved[-1]} is safe, and the next start" if saved else "; there is none before it"
            assert safe in str(told.value)
        for found, expected in zip(search(method, folder), uninterrupted(method), strict=True):
            np.testing.assert_array_equal(found, expected)
