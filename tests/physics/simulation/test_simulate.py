"""The host's loop: chunks, observations, lists that grow, what goes wrong, restarts that are the same bit for bit."""

import errno
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from dmdenv.differentiation import rollout
from dmdenv.neighbors import AllPairs, ListOverflow, allocate, grow, neighbor_sum, overflowed, update
from dmdenv.simulation import (
    CheckpointNotWritten,
    DamagedCheckpoint,
    Interrupted,
    Recorder,
    simulate,
)
from dmdenv.simulation.checkpoints import saved_steps
from dmdenv.space import Periodic


class Walk:
    """A random walk with a key in its state, which counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, size, state):
        self.traces += 1
        key, now = jax.random.split(state["key"])
        x = state["x"] + size * jax.random.normal(now, state["x"].shape)
        return {"x": x, "key": key, "count": state["count"] + 1}


def start():
    return {"x": jnp.zeros((3, 2)), "key": jax.random.key(7), "count": jnp.int32(0)}


def look(state):
    return {"x": state["x"], "count": state["count"]}


def assert_same_bits(a, b):
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(p.dtype, jax.dtypes.prng_key):
            p, q = map(jax.random.key_data, (p, q))
        assert np.asarray(p).tobytes() == np.asarray(q).tobytes()


WALK = Walk()
STEP = Partial(WALK, jnp.float32(0.1))
QUIET = {"progress": False}


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_any_number_of_steps_is_what_rollout_gives_from_one_compilation():
    WALK.traces = 0
    for steps in (0, 1, 20, 57, 80):
        recorder = Recorder()
        final = simulate(STEP, start(), steps, observe=look, every=5, chunk=20, writers=[recorder], **QUIET)
        assert_same_bits(recorder.steps, np.arange(5, steps + 1, 5))
        expected, seen = jax.jit(lambda s, n=steps: rollout(Partial(Walk(), 0.1), s, n, observe=look, every=5))(start())
        assert_same_bits(final, expected)
        if steps >= 5:
            assert_same_bits(recorder.observations, seen)
            assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(recorder.observations))
        else:
            assert recorder.observations is None
    assert WALK.traces == 1


def test_the_whole_simulation_compiles_its_step_once(compilations):
    simulate(Partial(Walk(), 0.1), start(), 30, observe=look, every=5, chunk=10, **QUIET)
    assert len([name for name in compilations if "_run" in name]) == 1


def test_another_parameter_compiles_nothing():
    walk = Walk()
    small, large = (simulate(Partial(walk, size), start(), 30, chunk=10, **QUIET) for size in (0.1, 0.2))
    assert walk.traces == 1
    np.testing.assert_allclose(large["x"], 2 * small["x"], rtol=1e-5)


def test_progress_goes_to_stderr_where_it_is_asked_for(capsys):
    simulate(STEP, start(), 20, chunk=20)
    out, err = capsys.readouterr()
    assert out == ""
    assert "20.0/20.0" in err
    assert "step/s" in err
    assert err.count("compiling the simulation ...") == 1
    simulate(STEP, start(), 20, chunk=20, **QUIET)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (-1, {}, "steps = -1; must be an integer >= 0"),
        (5, {"every": 0}, "every = 0; must be an integer >= 1"),
        (5, {"every": 3, "chunk": 10}, "chunk = 10; must be a multiple of every = 3"),
        (5, {"chunk": 0}, "chunk = 0; must be a multiple of every = 1"),
    ],
)
def test_bad_options_are_named(steps, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(STEP, start(), steps, **options, **QUIET)


# --- neighbour lists that grow ----------------------------------------------------------------------------------------

CUTOFF = 1.0


def neighbors_of(state):
    """How many particles are closer than the cutoff to each one."""

    def near(a, b):
        d = state["space"].displacement(a, b)
        return jnp.where(jnp.sum(d * d) < CUTOFF**2, 1, 0)

    return neighbor_sum(near, state["positions"], state["pairs"], parity=1)


def squeeze(by, box_by, state):
    """Particles draw closer to the centre and the box shrinks; the number of neighbours is a part of the state."""
    space = Periodic(state["space"].box * box_by)
    centre = state["space"].box / 2
    positions = (centre + by * (state["positions"] - centre)) * box_by
    pairs = state["pairs"] if isinstance(state["pairs"], AllPairs) else update(state["pairs"], space, positions)
    moved = {**state, "space": space, "positions": positions, "pairs": pairs}
    return {**moved, "sum": state["sum"] + neighbors_of(moved)}


def scattered(*, slack=1.0, listed=True, box=12.0, n=60, seed=0):
    positions = jnp.asarray(np.random.default_rng(seed).uniform(0, box, (n, 2)), jnp.float32)
    pairs = allocate(Periodic(box), positions, cutoff=CUTOFF, skin=0.2, slack=slack) if listed else AllPairs()
    return {"space": Periodic(box), "positions": positions, "pairs": pairs, "sum": jnp.zeros(n, jnp.int32)}


CLUMPING, SHRINKING = Partial(squeeze, 0.98, 1.0), Partial(squeeze, 1.0, 0.99)
CHUNKS = {"observe": neighbors_of, "every": 10, "chunk": 40, **QUIET}


def exact(step, steps, **changes):
    """Without a list."""
    return simulate(step, scattered(listed=False, **changes), steps, **CHUNKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "steps"), [pytest.param(CLUMPING, 60, id="clump"), pytest.param(SHRINKING, 110, id="shrinking box")]
)
@pytest.mark.usefixtures("through_cells")
def test_a_list_that_overflows_grows_and_no_pair_is_lost(step, steps, capsys):
    before, recorder = scattered(), Recorder()
    after = simulate(step, before, steps, writers=[recorder], **{**CHUNKS, "progress": True})
    assert capsys.readouterr().err.count("compiling the simulation ...") >= 2
    assert not overflowed(after)
    assert after["pairs"].indices.size > before["pairs"].indices.size
    expected = exact(step, steps)
    np.testing.assert_array_equal(after["sum"], expected["sum"])
    assert_same_bits(after["positions"], expected["positions"])
    assert_same_bits(recorder.steps, np.arange(10, steps + 1, 10))  # no chunk is written twice
    np.testing.assert_array_equal(recorder.observations[-1], neighbors_of(expected))


@pytest.mark.slow
@pytest.mark.usefixtures("through_cells")
def test_the_list_of_a_batch_grows():
    """Only the second instance clumps."""
    states = [scattered(seed=seed) for seed in (1, 1)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = jax.vmap(squeeze, in_axes=(0, None, 0))
    after = simulate(Partial(step, jnp.asarray([1.0, 0.97]), 1.0), batch, 40, chunk=40, **QUIET)
    assert not overflowed(after)
    for q, by in enumerate([1.0, 0.97]):
        np.testing.assert_array_equal(after["sum"][q], exact(Partial(squeeze, by, 1.0), 40, seed=1)["sum"])


@pytest.mark.usefixtures("through_cells")
def test_a_list_is_grown_without_a_simulation_too():
    before = scattered()
    after = simulate(CLUMPING, before, 40, **CHUNKS)
    full = {**before, "pairs": before["pairs"].replace(positions=after["positions"], overflow=jnp.asarray(True))}
    grown = grow(before, full)
    assert not overflowed(grown)
    assert int(jnp.max(neighbors_of(after))) <= grown["pairs"].indices.shape[0]
    np.testing.assert_array_equal(neighbors_of(grown), neighbors_of(before))
    assert grow(grown)["pairs"] is grown["pairs"]


def test_a_box_too_small_for_the_cutoff_is_told(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dmdenv.neighbors.cells._BRUTE_FORCE_UP_TO", {2: 0, 3: 0})
        with pytest.raises(ListOverflow, match="the cutoff of a neighbour list, 1, exceeds half the box"):
            simulate(Partial(squeeze, 1.0, 0.95), scattered(box=3.0, n=6), 30, chunk=30, **QUIET)
    complete = allocate(Periodic(3.0), scattered(box=3.0, n=6)["positions"], cutoff=1.0, skin=0.2, slack=6.0)
    with pytest.raises(ListOverflow, match="capacity for all pairs overflowed: its cutoff, 1, exceeds half the box"):
        grow(complete.replace(overflow=jnp.asarray(True)))


def test_a_state_that_overflowed_before_is_refused():
    state = scattered()
    state["pairs"] = state["pairs"].replace(overflow=jnp.asarray(True))
    with pytest.raises(ListOverflow, match="before the first step; allocate it with more slack"):
        simulate(CLUMPING, state, 5, **QUIET)


# --- numbers that are not finite --------------------------------------------------------------------------------------


def fall(state):
    """Falls into a singularity: 1 / height is infinite in step 137. One number has been infinite all along."""
    height = state["height"] - 1.0
    return {"height": height, "energy": state["energy"] + 1.0 / height, "limit": state["limit"]}


def test_the_first_step_that_is_not_finite_is_named_and_what_came_before_is_kept(tmp_path):
    state = {"height": jnp.float32(137.0), "energy": jnp.float32(0.0), "limit": jnp.float32(jnp.inf)}
    recorder = Recorder()
    with pytest.raises(FloatingPointError, match=re.escape("['energy'] became infinite or NaN in step 137 (of steps")):
        simulate(
            fall, state, 200, observe=lambda s: s, every=10, chunk=50, writers=[recorder], folder=tmp_path, **QUIET
        )
    assert saved_steps(tmp_path) == [100]
    assert recorder.steps[-1] == 100


def test_a_list_that_overflows_because_particles_are_lost_is_not_blamed():
    """NaN positions overflow any list; the message says what came first."""

    def explode(state):
        moved = squeeze(1.0, 1.0, state)
        late = jnp.sum(moved["count"]) > 33
        return {**moved, "positions": jnp.where(late, jnp.nan, moved["positions"]), "count": state["count"] + 1}

    state = {**scattered(slack=2.0), "count": jnp.int32(0)}
    with pytest.raises(FloatingPointError, match=r"\['positions'\].* became infinite or NaN in step 35"):
        simulate(explode, state, 60, chunk=20, **QUIET)


# --- interruption and restart -----------------------------------------------------------------------------------------


class Stops:
    """A writer that asks to stop, once, as Ctrl-C would where it is not deferred."""

    def __init__(self, at):
        self.at = at

    def __call__(self, steps, observations):
        if self.at in steps:
            self.at = None
            raise KeyboardInterrupt


def test_an_interrupted_simulation_goes_on_bit_for_bit(tmp_path):
    unbroken = Recorder()
    options = {"observe": look, "every": 5, "chunk": 20, **QUIET}
    expected = simulate(STEP, start(), 97, writers=[unbroken], **options)
    recorder, stops = Recorder(), Stops(at=45)
    with pytest.raises(KeyboardInterrupt):
        simulate(STEP, start(), 97, writers=[recorder, stops], folder=tmp_path, **options)
    assert saved_steps(tmp_path) == [40]  # its chunk has not been written as a whole
    rest = Recorder()
    final = simulate(STEP, start(), 97, writers=[rest], folder=tmp_path, **options)
    assert_same_bits(final, expected)
    assert rest.steps[0] == 45
    seen = jax.tree.map(lambda a, b: np.concatenate([a[:8], b]), recorder.observations, rest.observations)
    assert_same_bits(seen, unbroken.observations)


def test_a_finished_simulation_is_read_and_continued(tmp_path):
    options = {"observe": look, "every": 5, "chunk": 20, **QUIET}
    first = simulate(STEP, start(), 33, folder=tmp_path, **options)
    recorder = Recorder()
    assert_same_bits(simulate(STEP, start(), 33, folder=tmp_path, writers=[recorder], **options), first)
    assert recorder.observations is None
    final = simulate(STEP, start(), 60, folder=tmp_path, writers=[recorder], **options)
    assert_same_bits(recorder.steps, np.arange(35, 61, 5))
    assert_same_bits(final, simulate(STEP, start(), 60, **options))
    with pytest.raises(ValueError, match=r"steps = 50; must be >= 60, the steps that .* holds"):
        simulate(STEP, start(), 50, folder=tmp_path, **options)
    with pytest.raises(ValueError, match=r"the leaf \['x'\] is float32\[3, 2\] in the checkpoint, float32\[4, 2\]"):
        simulate(STEP, {**start(), "x": jnp.zeros((4, 2))}, 70, folder=tmp_path, **options)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named_and_without_it_the_simulation_goes_on(tmp_path):
    options = {"chunk": 20, "folder": tmp_path, **QUIET}
    simulate(STEP, start(), 60, save_interval=0.0, **options)
    assert saved_steps(tmp_path) == [20, 40, 60]
    array = max((path for path in (tmp_path / "60").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 4
    array.write_bytes(content)
    told = f"checkpoint 60 in {tmp_path} is damaged: .*; to go on from checkpoint 40, delete {tmp_path / '60'}"
    with pytest.raises(DamagedCheckpoint, match=told):
        simulate(STEP, start(), 80, **options)
    shutil.rmtree(tmp_path / "60")
    assert_same_bits(simulate(STEP, start(), 80, **options), simulate(STEP, start(), 80, chunk=20, **QUIET))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="there is none on macOS")
def test_a_full_disk_stops_a_simulation_that_goes_on_when_there_is_room(tmp_path, monkeypatch):
    allocate_file, options = os.posix_fallocate, {"chunk": 20, "folder": tmp_path, "save_interval": 0.0, **QUIET}

    def full(*arguments):
        if saved_steps(tmp_path) == [20, 40]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate_file(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(
            CheckpointNotWritten, match=r"checkpoint 60 .*: No space left on device; checkpoint 40 is sa"
        ):
            simulate(STEP, start(), 100, **options)
        with pytest.raises(KeyboardInterrupt) as stop:  # another error is not hidden by it
            simulate(STEP, start(), 100, observe=look, writers=[Stops(at=75)], chunk=20, folder=tmp_path, **QUIET)
        assert "No space left on device; checkpoint 40 is safe" in stop.value.__notes__[0]
    assert saved_steps(tmp_path) == [20, 40]
    assert_same_bits(simulate(STEP, start(), 100, **options), simulate(STEP, start(), 100, chunk=20, **QUIET))


def test_two_simulations_do_not_share_a_folder(tmp_path):
    def intrude(steps, observations):
        simulate(STEP, start(), 40, folder=tmp_path, **QUIET)

    with pytest.raises(BlockingIOError, match=f"{tmp_path} is in use by process {os.getpid()} on .*; must be free"):
        simulate(STEP, start(), 40, observe=look, chunk=20, writers=[intrude], folder=tmp_path, **QUIET)
    assert saved_steps(tmp_path) == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_two_signals_stop_a_compilation_at_once_and_nothing_is_lost(tmp_path, stuck_compiler):
    with stuck_compiler("_run"), pytest.raises(Interrupted, match="SIGTERM"):
        simulate(STEP, start(), 40, chunk=20, folder=tmp_path, **QUIET)
    assert saved_steps(tmp_path) == [0]
    expected = simulate(STEP, start(), 40, chunk=20, **QUIET)
    assert_same_bits(simulate(STEP, start(), 40, chunk=20, folder=tmp_path, **QUIET), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("through_cells")
def test_lists_that_have_grown_come_back_with_their_room(tmp_path):
    expected = simulate(CLUMPING, scattered(), 60, **CHUNKS)
    simulate(CLUMPING, scattered(), 40, folder=tmp_path, **CHUNKS)
    assert_same_bits(simulate(CLUMPING, scattered(), 60, folder=tmp_path, **CHUNKS), expected)


def test_checkpoints_are_written_between(tmp_path):
    seen = []
    options = {"writers": [lambda steps, _: seen.append(saved_steps(tmp_path))], "folder": tmp_path, **QUIET}
    simulate(STEP, start(), 60, observe=look, chunk=20, save_interval=0.0, **options)
    assert seen == [[], [20], [20, 40]]
