"""The command `dmdenv`: what it prints, what it writes, how it refuses bad arguments, stops and resumes."""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import imageio_ffmpeg
import pytest

from dmdenv.agents.cli.main import main
from dmdenv.agents.runs import training
from dmdenv.agents.runs.run import Run
from dmdenv.simulation.lock import lock_folder
from probe_envs import PROBES
from run_checks import MASS, TINY, WITH_PROBES, assert_equal_runs, environment


@pytest.fixture(autouse=True)
def _working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def dmdenv(*arguments):
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code or 0


def frames(film):
    return imageio_ffmpeg.count_frames_and_secs(str(film))[0]


# --- help and list ----------------------------------------------------------------------------------------------------


def test_help_names_the_commands_and_is_quick():
    code = "import sys; from dmdenv.agents.cli.main import main; assert 'jax' not in sys.modules; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("list", "train", "rollout"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("list", ["ENV", "dmdenv list flocking"]),
        ("train", ["--resume DIR", "--params KEY=VALUE", "--learning-rate FLOAT", "(default: 3e-3)|(default: 0.003)"]),
        ("rollout", ["--policy", "RUN_DIR/checkpoints/N", "dmdenv rollout flocking --policy random --film random.mp4"]),
    ],
)
def test_each_command_explains_itself(capsys, command, words):
    assert dmdenv(command, "--help") == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(any(choice in printed for choice in word.split("|")) for word in words)


def test_list_shows_spaces_configuration_and_parameters(capsys):
    assert dmdenv("list") == 0
    printed = capsys.readouterr().out
    assert all(id in printed for id in PROBES)
    assert dmdenv("list", "best_action") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("best_action, task probe: Reward -scale (action - target)^2, whatever the state")
    assert any(line.split() == ["actions", "Box(-1.0,", "1.0,", "(1,),", "float32)"] for line in lines)
    assert any(line.split() == ["label", "'probe'", "a", "word."] for line in lines)
    assert any(line.split() == "target 0.5 1 -1 to 1 the action that is best".split() for line in lines)
    assert any(line.split() == "max_steps 16 steps >= 1 length of an episode".split() for line in lines)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("list nope", "ENV: id = 'nope'; must be one of best_action, "),
        ("train nope", "ENV: id = 'nope'; must be one of best_action, "),
        ("train", "ENV: missing; must be an environment of `dmdenv list`, or use --resume RUN_DIR"),
        ("train misfit", "ENV misfit: Misfit has observations [4, 2] and actions [3]; must be"),
        ("train best_action --agent nope", "--agent nope: unknown agent 'nope'; valid agents: apg"),
        ("train best_action --env scale", "--env scale: must be KEY=VALUE, without spaces"),
        ("train best_action --env size=3", "--env size=3: 'best_action' has no configuration field 'size'; valid fiel"),
        ("train best_action --env scale=x", "--env scale=x: BestAction.scale = 'x'; must be a finite number > 0"),
        ("train best_action --env width=x", "--env width=x: width = 'x'; must be a number, such as 1.0"),
        ("train best_action --env scale=-1", "--env scale=-1: BestAction.scale = -1; must be a finite number > 0"),
        ("train best_action --env label=3", "--env label=3: label = 3; must be a word, such as 'probe'"),
        ("train best_action --params target=2", "--params target=2: ProbeParams.target = 2; must be a finite number "),
        (
            "train best_action --params target=[.1,.2]",
            "--params target=[.1,.2]: target has shape (2,); must be one number",
        ),
        ("train best_action --params speed=2", "--params speed=2: ProbeParams has no field 'speed'; valid fields: "),
        ("train best_action --window 0", "--window 0: window = 0; must be an integer >= 1"),
        ("train best_action --hidden 4 0", "--hidden 4 0: hidden = (4, 0); must be a tuple of integers >= 1"),
        ("train best_action --updates -1", "--updates -1: updates = -1; must be an integer >= 1"),
        (
            "train best_action --num-envs 99999999999999999999",
            "--num-envs 99999999999999999999: num_envs = 9999999999999",
        ),
        (
            "train best_action --learning-rate nan",
            "--learning-rate nan: learning_rate = nan; must be a finite number > 0",
        ),
        ("train best_action --seed -1", "--seed -1: must be an integer from 0 to 4294967295"),
        ("train best_action --seed 99999999999999999999", "--seed 99999999999999999999: must be an integer from 0 to"),
        ("rollout best_action --seed 4294967296", "--seed 4294967296: must be an integer from 0 to 4294967295"),
        ("train best_action --checkpoint-every 0", "--checkpoint-every 0: must be an integer >= 1"),
        ("train best_action --eval-episodes 1", "--eval-episodes 1: must be an integer >= 2"),
        ("train best_action --film-steps 0", "--film-steps 0: must be an integer >= 1"),
        (
            "train --resume nowhere",
            "--resume nowhere: nowhere is not a folder; must be a folder that `dmdenv train` h",
        ),
        ("rollout", "ENV: missing; must be an environment of `dmdenv list`, or use --policy RUN_DIR"),
        (
            "rollout best_action --policy nowhere",
            "--policy nowhere: must be zero, random, RUN_DIR or RUN_DIR/checkpoints/N",
        ),
        ("rollout best_action --steps 0", "--steps 0: ProbeParams.max_steps = 0; must be a whole number >= 1"),
        ("rollout best_action --film a.gif", "--film a.gif: must end in .mp4"),
        ("rollout best_action --fps 0", "--fps 0: must be an integer >= 1"),
    ],
)
def test_bad_argument_is_refused_in_one_line(capsys, arguments, message):
    assert dmdenv(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dmdenv: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not any(pathlib.Path().iterdir())


@pytest.mark.parametrize("arguments", ["", "fly", "train best_action --windw 3", "train best_action --window x"])
def test_what_cannot_be_parsed_exits_with_2(capsys, arguments):
    assert dmdenv(*arguments.split()) == 2
    assert "Traceback" not in capsys.readouterr().err


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of the point mass, and what the command printed."""
    path = tmp_path_factory.mktemp("runs") / "mass"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert dmdenv("train", "point_mass", *MASS, "--checkpoint-every", 2, "--run-dir", path) == 0
    return path, out.getvalue(), err.getvalue()


def test_train_writes_a_run_folder(trained):
    path, out, err = trained
    names = ["checkpoints", "config.json", "evaluation.json", "film.mp4", "learning_curve.png", "metrics.jsonl"]
    assert sorted(p.name for p in path.iterdir()) == names
    assert all(str(path / name) in out for name in names)
    things = [
        "the initial state of apg",
        "the update of apg",
        "the evaluation of trained",
        "the evaluation of untrained",
    ]
    things += ["the evaluation of zero", "the evaluation of random", "an episode"]
    assert all(f"compiling {thing} ..." in err for thing in things)
    assert "6/6" in err
    run = Run.open(path)
    assert (run.env.time_step, run.params.max_steps, run.seed) == (0.1, 20, 4)  # pyright: ignore[reportAttributeAccessIssue]
    assert run.saved_updates() == [2, 4, 6]
    assert frames(run.film_path) == 20


def test_train_compares_policies_on_the_same_episodes(trained):
    path, out, _ = trained
    policies = json.loads((path / "evaluation.json").read_text())["policies"]
    assert list(policies) == ["trained", "untrained", "zero", "random"]
    assert all({"distance", "overflow", "nonfinite"} == set(p["metrics"]) for p in policies.values())
    # the initial policy's actions are almost zero, so on the same episodes its return is almost that of zero actions
    untrained, zero = policies["untrained"]["return"], policies["zero"]["return"]
    assert untrained["mean"] != zero["mean"]
    assert abs(untrained["mean"] - zero["mean"]) < 0.1 * zero["standard_error"]
    table = out[out.index("policy ") :].splitlines()
    assert table[0].split() == ["policy", "return", "distance"]
    assert [line.split()[0] for line in table[1:5]] == list(policies)
    assert f"{zero['mean']:.4g} ± " in table[3]


def test_resume_refuses_other_settings_than_those_of_the_run(trained, capsys):
    path = trained[0]
    for arguments, message in [
        ("best_action", f"ENV best_action: cannot change when a run is resumed; must be point_mass, as in {path}"),
        ("--window 3", "--window 3: cannot change when a run is resumed; must be 2"),
        ("--seed 1", "--seed 1: cannot change when a run is resumed; must be 4"),
        ("--params friction=1", "--params friction=1: cannot change when a run is resumed"),
    ]:
        assert dmdenv("train", "--resume", path, *arguments.split()) == 2
        assert message in capsys.readouterr().err


def test_a_folder_in_the_place_of_a_film_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "old.mp4").mkdir()
    assert dmdenv("rollout", "best_action", "--film", tmp_path / "old.mp4") == 2
    assert "old.mp4: is a folder; must be a file" in capsys.readouterr().err


def test_rollout_of_a_run_makes_a_film(trained, capsys):
    path = trained[0]
    film = pathlib.Path("films/mass.mp4")
    changes = ["--steps", 7, "--params", "friction=1"]
    assert dmdenv("rollout", "point_mass", "--policy", path, "--film", film, *changes) == 0
    assert frames(film) == 7
    printed = capsys.readouterr().out
    assert "point_mass, 7 steps" in printed
    assert str(film) in printed
    assert dmdenv("rollout", "--policy", path / "checkpoints" / "3") == 2
    assert "there is no checkpoint 3" in capsys.readouterr().err
    assert dmdenv("rollout", "best_action", "--policy", path) == 2
    trained_in = "the policy was trained in point_mass, task probe; must be"
    assert f"ENV best_action: {trained_in} point_mass or absent" in capsys.readouterr().err
    assert dmdenv("rollout", "--policy", path, "--env", "task=shepherd") == 2
    assert f"--env task=shepherd: {trained_in} probe or absent" in capsys.readouterr().err


def test_rollout_needs_a_checkpoint(trained, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes((trained[0] / "config.json").read_bytes())
    assert dmdenv("rollout", "--policy", tmp_path) == 2
    assert "no checkpoint yet" in capsys.readouterr().err


def test_rollout_needs_no_training(capsys):
    assert dmdenv("rollout", "read_the_cue", "--policy", "random", "--env", "rows=2", "--seed", 1) == 0
    assert "random" in capsys.readouterr().out


# --- stop and resume --------------------------------------------------------------------------------------------------


def test_interrupted_training_is_resumed_bit_for_bit(trained, capsys, interrupt_after):
    interrupt_after(update=3)
    assert dmdenv("train", "point_mass", *MASS, "--no-film", "--run-dir", "mass") == 130
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == "interrupted by SIGINT; checkpoint after update 3 of 6. To resume:"
    command = printed[-1].split()
    assert command == "dmdenv train --resume mass --eval-episodes 2 --no-film".split()
    assert dmdenv(*command[1:]) == 0
    assert_equal_runs(Run.open(pathlib.Path("mass")), Run.open(trained[0]))


def test_a_resumed_run_keeps_its_options(trained, capsys, interrupt_after):
    interrupt_after(update=3)
    assert dmdenv("train", "point_mass", *MASS, "--checkpoint-every", 2, "--no-film", "--run-dir", "mass") == 130
    capsys.readouterr()
    assert dmdenv("train", "--resume", "mass") == 0
    run = Run.open(pathlib.Path("mass"))
    assert not run.film_path.exists()
    assert run.saved_updates() == [3, 4, 6]
    assert_equal_runs(run, Run.open(trained[0]))  # of two episodes as well
    assert dmdenv("train", "--resume", "mass", "--film", "--film-steps", 7) == 0
    assert frames(run.film_path) == 7


def test_two_signals_stop_the_compilation_of_an_evaluation_at_once(trained, capsys, stuck_compiler):
    shutil.copytree(trained[0], "mass")
    with stuck_compiler("evaluate"):
        assert dmdenv("train", "--resume", "mass") == 143
    assert "interrupted by SIGTERM; checkpoint after update 6 of 6. To resume:" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["_init", "_update"])
def test_two_signals_stop_the_compilation_of_a_training_at_once(program, capsys, stuck_compiler):
    with stuck_compiler(program):
        assert dmdenv("train", "point_mass", *MASS, "--no-film", "--run-dir", "mass") == 143
    assert "interrupted by SIGTERM; no checkpoint yet. To resume:" in capsys.readouterr().out
    assert sorted(path.name for path in pathlib.Path("mass").iterdir()) in (
        ["config.json"],
        ["config.json", "metrics.jsonl"],
    )


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(trained, capsys):
    path = pathlib.Path("mass")
    shutil.copytree(trained[0], path)
    for file in (path / "checkpoints" / "6").rglob("manifest.ocdbt"):
        flip(file)
    told = "checkpoint 6 in mass/checkpoints is damaged: "
    offered = "to go on from checkpoint 4, delete mass/checkpoints/6\n"
    for arguments in (["train", "--resume", path], ["rollout", "--policy", path]):
        assert dmdenv(*arguments) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("dmdenv: error: --")
        assert told in printed
        assert printed.endswith(offered)
        assert printed.count("\n") == 1
    assert dmdenv("rollout", "--policy", path / "checkpoints" / "4", "--steps", 2) == 0
    shutil.rmtree(path / "checkpoints" / "6")
    assert dmdenv("train", "--resume", path, "--no-film") == 0
    assert_equal_runs(Run.open(path), Run.open(trained[0]))


def test_a_damaged_recipe_is_refused(trained, capsys):
    path = pathlib.Path("mass")
    shutil.copytree(trained[0], path)
    recipe = path / "config.json"
    recipe.write_text(recipe.read_text().replace('"seed": 4', '"seed": 5'))
    assert dmdenv("train", "--resume", path) == 2
    told = "--resume mass: mass/config.json is damaged or has been edited: it does not agree with its sha256"
    assert told in capsys.readouterr().err
    recipe.write_bytes(b"\xff" + recipe.read_bytes())
    assert dmdenv("rollout", "--policy", path) == 2
    assert "--policy mass: mass/config.json is not the recipe of a run" in capsys.readouterr().err


def test_a_second_process_is_refused(trained, capsys):
    with lock_folder(trained[0]):
        assert dmdenv("train", "--resume", trained[0]) == 2
    told = f"dmdenv: error: --resume {trained[0]}: {trained[0]} is in use by process {os.getpid()} on "
    printed = capsys.readouterr().err
    assert printed.startswith(told)
    assert printed.count("\n") == 1


def test_a_full_disk_is_told_in_one_line_with_what_is_safe(trained, capsys, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "mass/metrics.jsonl")
    log = training.append_metrics

    def append(path, row):
        if row["update"] == 4:
            raise full
        log(path, row)

    with monkeypatch.context() as patch:
        patch.setattr(training, "append_metrics", append)
        assert dmdenv("train", "point_mass", *MASS, "--checkpoint-every", 2, "--no-film", "--run-dir", "mass") == 1
    command = "dmdenv train --resume mass --checkpoint-every 2 --eval-episodes 2 --no-film"
    last = capsys.readouterr().err.splitlines()[-1]
    safe = "checkpoint after update 3 of 6"  # written when training stopped
    assert last == f"dmdenv: error: mass/metrics.jsonl: No space left on device; {safe}. To resume: {command}"

    with monkeypatch.context() as patch:
        patch.setattr("dmdenv.simulation.checkpoints._check_space", lambda *arguments: raise_(full))
        assert dmdenv("train", "--resume", "mass") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint 4 could not be written into mass/checkpoints: " in last
    assert "No space left on device; checkpoint 3 is safe" in last
    assert last.endswith(command)
    assert dmdenv("train", "--resume", "mass") == 0
    assert_equal_runs(Run.open(pathlib.Path("mass")), Run.open(trained[0]))


def raise_(error):
    raise error


@pytest.mark.slow
def test_ctrl_c_stops_a_process_in_good_order(tmp_path):
    arguments = ["train", "point_mass", *TINY, "--updates", "800", "--no-film"]
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_PROBES, *arguments, "--run-dir", "run"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_lines(process, tmp_path / "run" / "metrics.jsonl", 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err

    *_, last = Run.open(tmp_path / "run").saved_updates()
    assert 3 <= last < 800
    assert f"interrupted by SIGINT; checkpoint after update {last} of 800. To resume:" in out
    assert dmdenv(*out.splitlines()[-1].split()[1:]) == 0
    assert dmdenv(*arguments, "--run-dir", "uninterrupted") == 0
    assert_equal_runs(*(Run.open(tmp_path / name) for name in ("run", "uninterrupted")))


def wait_for_lines(process, path, count, seconds=240):
    """Wait until a file has some lines, while the process runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text().count("\n") >= count:
            return
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the process ended early: {process.communicate()}")
    pytest.fail(f"{path} has not got {count} lines in {seconds} s")
