"""What training keeps when it is interrupted, of every agent: the rest is the same, bit for bit."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from dmdenv.agents.runs import Run, read_metrics, train_run
from dmdenv.simulation import CheckpointNotWritten, Interrupted, Interruption
from dmdenv.simulation.checkpoints import to_arrays
from file_operations import full_disk, snapshots, write_snapshot
from marks import by_default
from probe_envs import PointMass
from run_checks import environment
from small_agents import SMALL_AGENTS

UPDATES = 3  # of each training


def new_run(path, name):
    env, (agent, config) = PointMass(), SMALL_AGENTS[name]
    return Run(path=path, env=env, params=env.default_params, agent_name=agent, config=config, seed=3).create()


def train(path, *, every=1):
    return train_run(Run.open(path), checkpoint_every=every, interruption=Interruption())[1]


def outcome(path):
    """The last training state, and the metrics of all updates without the time that they took."""
    run = Run.open(path)
    assert run.saved_updates()[-1] == UPDATES
    return to_arrays(run.restore()), [{**row, "seconds": 0} for row in read_metrics(run.metrics_path)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A function: the outcome of an agent's training, by the name of the agent."""
    outcomes = {}

    def expected(name):
        if name not in outcomes:
            path = tmp_path_factory.mktemp("whole") / "run"
            new_run(path, name)
            train(path)
            outcomes[name] = outcome(path)
        return outcomes[name]

    return expected


def assert_same(found, expected):
    assert found[0].keys() == expected[0].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, expected[0][name], err_msg=name)
    assert found[1] == expected[1]


@pytest.mark.parametrize("name", SMALL_AGENTS)
def test_a_training_that_was_stopped_goes_on_bit_for_bit(tmp_path, uninterrupted, interrupt_after, name):
    run = new_run(tmp_path / "run", name)
    interrupt_after(update=2)
    with Interruption() as interruption, pytest.raises(Interrupted, match="SIGINT"):
        train_run(run, checkpoint_every=100, interruption=interruption)
    assert Run.open(run.path).saved_updates() == [2]
    with run.metrics_path.open("a") as log:  # as after a crash: lines after the checkpoint, the last one cut off
        log.write('{"update": 3, "seconds": 0.1}\n{"update": 4, "sec')
    train(run.path)
    assert_same(outcome(run.path), uninterrupted(name))
    train(run.path)  # of which nothing is left to do
    assert_same(outcome(run.path), uninterrupted(name))


FEW = [(name, 1) for name in SMALL_AGENTS]
EVERY = [(name, None) for name in SMALL_AGENTS]


@pytest.mark.parametrize(("name", "few"), by_default([*FEW, *EVERY], *FEW))
def test_a_training_killed_between_two_operations_on_files_goes_on_bit_for_bit(tmp_path, uninterrupted, name, few):
    path = new_run(tmp_path / "run", name).path
    with snapshots(path) as left:
        train(path)
    assert len(left) > 50
    for number in chosen(len(left), few):
        killed = tmp_path / str(number)
        write_snapshot(left[number], killed)
        train(killed)
        assert_same(outcome(killed), uninterrupted(name))
        assert not list(killed.rglob(".partial*"))


@pytest.mark.parametrize(("name", "few"), by_default([*FEW, *EVERY], *FEW))
def test_a_training_on_a_full_disk_says_what_is_safe_and_goes_on_bit_for_bit(tmp_path, uninterrupted, name, few):
    path = new_run(tmp_path / "run", name).path
    with full_disk(path, after=None) as needed:
        train(path)
    assert len(needed) >= 3 * UPDATES
    for number in chosen(len(needed), few):
        path = new_run(tmp_path / str(number), name).path
        with full_disk(path, after=number) as refused, pytest.raises(OSError, match="No space left on device") as told:
            train(path)
        saved = Run.open(path).saved_updates()
        if isinstance(told.value, CheckpointNotWritten):
            assert f"into {path / 'checkpoints'}: " in str(told.value)
            safe = f"checkpoint {saved[-1]} is safe, and the next start goes on from it" if saved else "there is none"
            assert safe in str(told.value)
        else:
            assert str(path / "metrics.jsonl") in str(told.value)
        assert len(saved) == sum(operation.name == "SHA256SUMS" for operation in refused[:number])
        for update in saved:
            Run.open(path).restore(update)
        train(path)
        assert_same(outcome(path), uninterrupted(name))
        assert not list(path.rglob(".partial*"))


def chosen(count, few):
    """Some numbers below `count`, or all of them."""
    return range(count) if few is None else np.linspace(0, count - 1, few + 2, dtype=int)[1:-1]


KILLED = """
import os, pathlib, signal, sys
from dmdenv.agents.runs import Run, train_run
from dmdenv.simulation import Interruption
from file_operations import watched
from probe_envs import register_probes

register_probes()
path, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def kill(path, adds):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

with watched(path, kill):
    train_run(Run.open(path), checkpoint_every=1, interruption=Interruption())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_AGENTS)
def test_a_process_that_is_killed_leaves_a_training_that_goes_on_bit_for_bit(tmp_path, uninterrupted, name):
    for left in (30, 100, 150):  # operations on files, of about 200
        path = new_run(tmp_path / str(left), name).path
        command = [sys.executable, "-c", KILLED, str(path), str(left)]
        killed = subprocess.run(command, env=environment(), capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert UPDATES not in Run.open(path).saved_updates()
        train(path)
        assert_same(outcome(path), uninterrupted(name))
