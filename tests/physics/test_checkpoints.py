"""Checkpoints keep every bit, and are there as a whole or not at all; signals are taken at a safe moment."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.simulation import Interrupted, Interruption
from dmdenv.simulation.checkpoints import KEPT, from_arrays, restore_checkpoint, save_checkpoint, saved_steps, to_arrays

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


def test_half_written_checkpoint_is_not_seen(tmp_path):
    save_checkpoint(tmp_path, 1, STATE)
    half = tmp_path / "2.orbax-checkpoint-tmp-1234567890"
    half.mkdir()
    (half / "manifest.ocdbt").write_bytes(b"half")
    assert saved_steps(tmp_path) == [1]
    save_checkpoint(tmp_path, 2, STATE)
    assert saved_steps(tmp_path) == [1, 2]


def test_checkpoint_of_another_structure_is_refused():
    arrays = to_arrays(STATE)
    with pytest.raises(ValueError, match=r"the leaf \['more'\] is in the state only"):
        from_arrays(arrays, {**STATE, "more": jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"the leaf \['weights'\] is float32\[3\] in the checkpoint, float32\[4\] in"):
        from_arrays(arrays, {**STATE, "weights": jnp.zeros(4)})


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
