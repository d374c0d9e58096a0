"""A disk that is really full: a file system in memory, in a mount namespace that ends with its process."""

import re
import shutil
import subprocess
import sys

import pytest

from dmdenv.agents.runs.run import Run
from dmdenv.search.arguments import METHODS
from run_checks import MASS, WITH_PROBES, assert_equal_runs, environment
from small_agents import SMALL_AGENTS, flags_of

TRAIN = ["train", "point_mass", *MASS, "--checkpoint-every", "2", "--no-film"]
FOR_ALL = ["train", "point_mass", "--checkpoint-every", "1", "--eval-episodes", "2", "--no-film"]
SEARCH = "search best_action --vary target=-1:0.9 --objective return --maximize --starts 2 --updates 4 --method".split()
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
    run_with_room(path, TRAIN)
    return Run.open(path)


def run_with_room(path, arguments):
    command = [sys.executable, "-c", WITH_PROBES, *arguments, "--run-dir", path]
    subprocess.run(command, env=environment(), capture_output=True, check=True)


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
    assert message in run_on_a_full_disk(tmp_path, TRAIN, room, exit_code)
    assert_equal_runs(Run.open(tmp_path / "run"), uninterrupted)


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("name", SMALL_AGENTS)
def test_every_agent_is_resumed_bit_for_bit_after_a_full_disk(tmp_path, name):
    agent, config = SMALL_AGENTS[name]
    arguments = [*FOR_ALL, "--agent", agent, *flags_of(config)]
    told = run_on_a_full_disk(tmp_path, arguments, 200)
    safe = "checkpoint [12] is safe, and the next start goes on from it"  # which one depends on its size
    assert re.search(f"into disk/run/checkpoints: No space left on device; {safe}", told)
    run_with_room(tmp_path / "whole", arguments)
    assert_equal_runs(*(Run.open(tmp_path / folder) for folder in ("run", "whole")))


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("method", METHODS)
def test_a_search_is_resumed_bit_for_bit_after_a_full_disk(tmp_path, method):
    told = run_on_a_full_disk(tmp_path, [*SEARCH, method], 60)
    safe = "there is none before it. To resume: dmdenv search --resume disk/run"
    assert f"checkpoint 4 could not be written into disk/run/checkpoints: No space left on device; {safe}" in told
    run_with_room(tmp_path / "whole", [*SEARCH, method])
    results = [(tmp_path / folder / "result.json").read_text() for folder in ("run", "whole")]
    assert results[0] == results[1]


def run_on_a_full_disk(path, arguments, room, exit_code=1):
    """Run a command with some room (KiB), and again with enough; the folder is then `path / "run"`.

    Returns:
        What the first one said at last.
    """
    (path / "disk").mkdir()
    variables = environment(PYTHON=sys.executable, PROGRAM=WITH_PROBES, ROOM=str(room))
    command = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", *arguments]
    subprocess.run(command, cwd=path, env=variables, capture_output=True, check=True)
    told = (path / "full.err").read_text()
    assert (path / "full.exit").read_text() == f"{exit_code}\n", told
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith("dmdenv: error: ")
    assert (path / "again.exit").read_text() == "0\n", (path / "again.err").read_text()
    return last
