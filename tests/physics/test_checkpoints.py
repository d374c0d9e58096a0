"""Checkpoints keep every bit or say that they have not, and are there as a whole or not at all; folders that one
process holds; signals, at a safe moment and while Python waits.
"""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.simulation import CheckpointNotWritten, DamagedCheckpoint, Interrupted, Interruption
from dmdenv.simulation.checkpoints import (
    KEPT,
    SUMS,
    from_arrays,
    restore_checkpoint,
    restore_item,
    save_checkpoint,
    saved_steps,
    to_arrays,
)
from dmdenv.simulation.lock import LOCK, lock_folder
from file_operations import snapshots, write_snapshot

STATE = {"weights": jnp.arange(3.0), "none": jnp.zeros((0, 2)), "key": jax.random.key(5), "count": jnp.int32(7)}


def test_checkpoint_gives_back_every_bit(tmp_path):
    save_checkpoint(tmp_path, 4, STATE)
    restored = restore_checkpoint(tmp_path, 4, jax.eval_shape(lambda: STATE))
    assert jax.tree.structure(restored) == jax.tree.structure(STATE)
    jax.tree.map(np.testing.assert_array_equal, to_arrays(restored), to_arrays(STATE))
    assert restored["key"].dtype == STATE["key"].dtype
    assert restored["none"].shape == (0, 2)


def test_the_last_few_checkpoints_stay(tmp_path):
    for update in range(1, KEPT + 3):
        save_checkpoint(tmp_path, update, STATE)
    assert saved_steps(tmp_path) == list(range(3, KEPT + 3))
    with pytest.raises(ValueError, match=r"there is no checkpoint 1 in .*; must be one of 3, 4, 5"):
        restore_checkpoint(tmp_path, 1, STATE)


@pytest.mark.parametrize("name", [".partial-2", ".partial-2.orbax-checkpoint-tmp", ".partial-1"])
def test_what_a_killed_process_has_left_is_not_seen_and_goes_away(tmp_path, name):
    save_checkpoint(tmp_path, 1, STATE)
    (tmp_path / name).mkdir()
    (tmp_path / name / "manifest.ocdbt").write_bytes(b"half")
    (tmp_path / ".partial-space").write_bytes(b"")
    assert saved_steps(tmp_path) == [1]
    save_checkpoint(tmp_path, 2, STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_process_killed_between_any_two_operations_on_files_leaves_whole_checkpoints(tmp_path):
    folder = tmp_path / "folder"
    for step in range(1, KEPT + 1):
        save_checkpoint(folder, step, {**STATE, "count": jnp.int32(step)}, capacities={"pairs": [step]})
    with snapshots(folder) as left:
        save_checkpoint(folder, KEPT + 1, {**STATE, "count": jnp.int32(KEPT + 1)}, capacities={"pairs": [KEPT + 1]})
    assert len(left) > 30
    kept = []
    for number, snapshot in enumerate(left):
        killed = tmp_path / str(number)
        write_snapshot(snapshot, killed)
        *_, last = steps = saved_steps(killed)
        kept += [steps] if steps not in kept else []
        assert restore_checkpoint(killed, last, STATE)["count"] == last
        assert restore_item(killed, last, "capacities") == {"pairs": [last]}
        if number % 8 == 0:
            save_checkpoint(killed, KEPT + 2, STATE)
            assert sorted(path.name for path in killed.iterdir()) == list(map(str, [*steps, KEPT + 2][-KEPT:]))
    assert kept == [[1, 2, 3], [1, 2, 3, 4], [2, 3, 4]]


def test_checkpoint_of_another_structure_is_refused():
    arrays = to_arrays(STATE)
    with pytest.raises(ValueError, match=r"the leaf \['more'\] is in the state only"):
        from_arrays(arrays, {**STATE, "more": jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"the leaf \['weights'\] is float32\[3\] in the checkpoint, float32\[4\] in"):
        from_arrays(arrays, {**STATE, "weights": jnp.zeros(4)})


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """A folder with the checkpoints 1, 2 and 3."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, STATE, capacities={"pairs": [4, 5]})
    return tmp_path


def flip(path, byte, bit):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def test_a_flipped_bit_anywhere_is_found_and_the_checkpoint_before_is_offered(three):
    random = np.random.default_rng(0)
    files = files_of(three / "3")
    assert len(files) > 8
    for path in files:
        size = path.stat().st_size
        for byte in {0, size - 1, *random.integers(0, size, 3).tolist()}:
            bit = int(random.integers(8))
            flip(path, byte, bit)
            offer = re.escape(f"; to go on from checkpoint 2, delete {three / '3'}")
            with pytest.raises(
                DamagedCheckpoint, match=rf"^checkpoint 3 in .* is damaged: .* differs from {SUMS}{offer}$"
            ):
                restore_checkpoint(three, 3, STATE)
            with pytest.raises(DamagedCheckpoint, match="checkpoint 3"):
                restore_item(three, 3, "capacities")
            flip(path, byte, bit)
    jax.tree.map(np.testing.assert_array_equal, to_arrays(restore_checkpoint(three, 3, STATE)), to_arrays(STATE))
    assert restore_item(three, 3, "capacities") == {"pairs": [4, 5]}


@pytest.mark.parametrize("name", [SUMS, "state/_METADATA", "state/manifest.ocdbt", "capacities/metadata"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 0)])
def test_files_that_are_gone_or_empty_are_found(three, name, damage):
    damage(three / "3" / name)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint 3 .* is damaged: .*; to go on from checkpoint 2, delete"):
        restore_checkpoint(three, 3, STATE)
    jax.tree.map(np.testing.assert_array_equal, to_arrays(restore_checkpoint(three, 2, STATE)), to_arrays(STATE))


def test_the_offer_is_a_checkpoint_that_is_whole(three):
    for step in (3, 2):
        flip(files_of(three / str(step))[0], 0, 0)
    offer = re.escape(f"to go on from checkpoint 1, delete {three / '2'} and {three / '3'}")
    with pytest.raises(DamagedCheckpoint, match=f"checkpoint 3 .* is damaged: .*; {offer}"):
        restore_checkpoint(three, 3, STATE)
    flip(files_of(three / "1")[0], 0, 0)
    with pytest.raises(DamagedCheckpoint, match="; none before it is whole"):
        restore_checkpoint(three, 3, STATE)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="there is none on macOS")
def test_a_full_disk_is_told_in_one_line_and_leaves_what_was_there(three, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(CheckpointNotWritten) as told:
            save_checkpoint(three, 4, STATE)
    assert str(told.value) == (
        f"checkpoint 4 could not be written into {three}: No space left on device;"
        " checkpoint 3 is safe, and the next start goes on from it"
    )
    assert sorted(path.name for path in three.iterdir()) == ["1", "2", "3"]
    save_checkpoint(three, 4, STATE)
    assert saved_steps(three) == [2, 3, 4]


def test_a_disk_with_too_many_files_is_full_too(three, monkeypatch):
    few = types.SimpleNamespace(f_files=1000, f_favail=20)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: few)
        with pytest.raises(CheckpointNotWritten, match=r"into .*: no room for 64 more files; checkpoint 3 is safe"):
            save_checkpoint(three, 4, STATE)
        few.f_files = few.f_favail = 0  # as where there is no limit
        save_checkpoint(three, 4, STATE)
    assert saved_steps(three) == [2, 3, 4]


def test_a_failure_of_orbax_is_told_in_one_line_too(three, monkeypatch, caplog):
    def fail(self, path, args):
        (path / "d").mkdir(parents=True)
        logging.getLogger("absl").error("a page of tracebacks")
        raise ValueError("RESOURCE_EXHAUSTED: no space\n[more]")

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.save", fail)
    with pytest.raises(CheckpointNotWritten, match=r"into .*: RESOURCE_EXHAUSTED: no space; checkpoint 3 is safe"):
        save_checkpoint(three, 4, STATE)
    assert sorted(path.name for path in three.iterdir()) == ["1", "2", "3"]
    assert caplog.text == ""


# --- one process ------------------------------------------------------------------------------------------------------

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 77 on elsewhere")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_and_free_when_that_is_dead(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=r"is in use by process 77 on elsewhere; must be free: wait for it"):
            lock_folder(tmp_path).__enter__()
        holder.kill()
    assert (tmp_path / LOCK).exists()
    with lock_folder(tmp_path), pytest.raises(BlockingIOError, match=f"is in use by process {os.getpid()} on "):
        lock_folder(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"), lock_folder(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()


# --- signals ----------------------------------------------------------------------------------------------------------


def test_signals_are_noted_and_the_second_one_stops_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM") as stop:
            interruption.check()
        assert stop.value.exit_code == 143
        with pytest.raises(Interrupted, match="SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_is_handled_while_something_is_waited_for():
    over = threading.Event()

    def compute():
        os.kill(os.getpid(), signal.SIGINT)
        while interruption.signum is None:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait()

    with Interruption() as interruption:
        assert interruption.wait_for(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            interruption.wait_for(lambda: 1 / 0)
        with pytest.raises(Interrupted, match="SIGTERM"):
            interruption.wait_for(compute)
        over.set()
        with pytest.raises(Interrupted, match="SIGTERM"):
            interruption.wait_for(lambda: 3)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there is none on Windows")
def test_a_signal_that_another_thread_receives_does_not_wait_for_the_computation():
    """Here because the main thread blocks it; else the system chooses a thread that has none pending."""
    over = threading.Event()

    def compute():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
        while interruption.signum is None and not over.wait(0.001):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait()

    timer = threading.Timer(20, over.set)
    timer.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with Interruption() as interruption, pytest.raises(Interrupted, match="SIGTERM"):
            interruption.wait_for(compute)
        assert not over.is_set()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        timer.cancel()
        over.set()


def test_what_is_deferred_is_finished_in_spite_of_signals():
    with Interruption() as interruption:
        with interruption.deferred():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            interruption.check()
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
