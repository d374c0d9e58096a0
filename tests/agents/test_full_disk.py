"""A disk that is really full: a file system in memory, in a mount namespace that ends with its process."""

import shutil
import subprocess
import sys

import pytest

from dmdenv.agents.runs.run import Run
from run_checks import MASS, WITH_PROBES, assert_equal_runs, environment

TRAIN = ["train", "point_mass", *MASS, "--checkpoint-every", "2", "--no-film"]
# trains on a disk with little room, makes room, and does what the last line said
SCRIPT = """
mount -t tmpfs -o size=4m none disk && head -c $((4096 * 1024 - ROOM * 1024)) /dev/zero > disk/filler || exit 99
dmdenv() { "$PYTHON" -c "$PROGRAM" "$@"; }
dmdenv "$@" --run-dir disk/run 2> full.err
echo $? > full.exit
rm disk/filler
resume=$(tail -n 1 full.err | sed -n "s/.*To resume: //p")
${resume:-dmdenv "$@" --run-dir disk/run} 2> again.err
echo $? > again.exit
cp -r disk/run run
"""


@pytest.fixture
def may_mount(tmp_path):
    """Skips where a process may not mount."""
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs `unshare -m` and `mount -t tmpfs`: root on Linux")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run on a disk with room."""
    path = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-c", WITH_PROBES, *TRAIN, "--run-dir", path]
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    return Run.open(path)


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize(
    ("room", "exit_code", "message"),
    [
        (0, 2, "--run-dir disk/run: [Errno 28] No space left on device: 'disk/run/config.json'"),
        (8, 1, "disk/run/metrics.jsonl: No space left on device; no checkpoint yet. To resume: "),
        (
            100,
            1,
            "checkpoint 2 could not be written into disk/run/checkpoints: No space left on device; there is none ",
        ),
        (176, 1, "No space left on device; checkpoint 2 is safe, and the next start goes on from it. To resume: "),
        (300, 1, "No space left on device; checkpoint after update 6 of 6. To resume: "),
    ],
    ids=["nothing", "recipe", "log", "checkpoint", "training"],  # what there is room for; rooms in KiB
)
def test_training_on_a_full_disk_is_resumed_bit_for_bit(tmp_path, uninterrupted, room, exit_code, message):
    (tmp_path / "disk").mkdir()
    variables = environment(PYTHON=sys.executable, PROGRAM=WITH_PROBES, ROOM=str(room))
    command = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", *TRAIN]
    subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, check=True)
    told = (tmp_path / "full.err").read_text()
    assert (tmp_path / "full.exit").read_text() == f"{exit_code}\n", told
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith("dmdenv: error: ")
    assert message in last
    assert (tmp_path / "again.exit").read_text() == "0\n", (tmp_path / "again.err").read_text()
    assert_equal_runs(Run.open(tmp_path / "run"), uninterrupted)
