"""The command `dmdenv search`: what it finds and writes, how it resumes, how it refuses bad arguments."""

import dataclasses
import itertools
import json
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents import apg
from dmdenv.agents.cli.main import main
from dmdenv.agents.policies import zero_policy
from dmdenv.agents.runs.episode_objective import episode_objective, objective_names
from dmdenv.agents.runs.recipe import read_checked
from dmdenv.agents.runs.run import Run
from dmdenv.simulation import Interrupted
from dmdenv.simulation.checkpoints import saved_steps
from probe_envs import BestAction, Crowded, PointMass

# at zero action the return is -target^2 in each step
SEARCH = "search best_action --vary target=-1:0.9 --objective return --maximize --method".split()
SMALL = "--starts 2 --updates 12 --episodes 1 --eval-episodes 2 --seed 3".split()


@pytest.fixture(autouse=True)
def _working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def dmdenv(*arguments):
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code or 0


def result(folder):
    return json.loads(pathlib.Path(folder, "result.json").read_text())


@dataclasses.dataclass(frozen=True)
class Infinite(BestAction):
    """The best action, but where the target is above 0.4 the reward is infinite."""

    def advance(self, key, state, action, params):
        step = super().advance(key, state, action, params)
        return step._replace(reward=step.reward + jnp.where(params.target > 0.4, jnp.inf, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient", "cmaes"])
def test_the_best_parameter_is_found(capsys, method):
    assert dmdenv(*SEARCH, method, "--updates", 60, "--run-dir", "run") == 0
    found = result("run")
    assert abs(found["best_params"]["target"]) < 0.02
    assert -0.01 < found["best_value"] <= 0
    assert found["method"] == method


def test_a_search_writes_a_run_folder(capsys):
    assert dmdenv(*SEARCH, "random", *SMALL, "--run-dir", "whole") == 0
    printed = capsys.readouterr().out
    names = ["checkpoints", "config.json", "result.json", "search.png"]
    assert sorted(path.name for path in pathlib.Path("whole").iterdir()) == names
    assert all(f"  whole/{name}" in printed for name in names)
    found = result("whole")
    assert abs(found["best_params"]["target"]) < 0.3
    assert found["best_value"] == pytest.approx(-16 * found["best_params"]["target"] ** 2, rel=1e-5)
    assert np.shape(found["history"]) == (12, 2)
    assert any(line.split()[:2] == ["target", "0.5"] for line in printed.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient", "cmaes", "random"])
def test_an_interrupted_search_is_resumed_bit_for_bit(capsys, monkeypatch, method):
    assert dmdenv(*SEARCH, method, *SMALL, "--run-dir", "whole") == 0
    checks = itertools.count(1)

    def check(interruption):
        if next(checks) == 4:  # before the first update, and after each call of the compiled function
            raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("dmdenv.simulation.Interruption.check", check)
        assert dmdenv(*SEARCH, method, *SMALL, "--run-dir", "stopped") == 130
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].startswith("interrupted by SIGINT; checkpoint after update ")
    assert printed[-1] == "  dmdenv search --resume stopped"
    assert 0 < saved_steps(pathlib.Path("stopped/checkpoints"))[-1] < 12
    assert dmdenv("search", "--resume", "stopped", "--seed", 1) == 2
    assert "--seed: cannot change when a search is resumed; must be absent" in capsys.readouterr().err
    assert dmdenv("search", "--resume", "stopped") == 0
    assert result("stopped") == result("whole")


@pytest.mark.slow
def test_a_trained_policy_plays_the_episodes_also_when_resumed(capsys):
    config = apg.Config(hidden=(2,), num_envs=2)
    run = Run(pathlib.Path("run"), PointMass(), PointMass().default_params, "apg", config, seed=0).create()
    run.save(run.initial_state())
    arguments = "--policy run --vary force=0.5:2 --objective distance --method random --params friction=0.7".split()
    assert dmdenv("search", *arguments, *SMALL, "--run-dir", "found") == 0
    found = result("found")
    options = read_checked(pathlib.Path("found/config.json"))["search"]
    assert options["policy"] == str(pathlib.Path("run/checkpoints/0").absolute())
    assert any(text.startswith("friction=0.69999") for text in options["params"])
    pathlib.Path("found/result.json").unlink()
    assert dmdenv("search", "--resume", "found") == 0
    assert result("found") == found


def test_what_overflowed_is_told_and_what_is_not_finite_has_no_value():
    def value(env, target, name, **options):
        params = env.default_params.replace(max_steps=4)
        objective = episode_objective(env, zero_policy(env), params, name, **{"maximize": False, **options})
        value, overflow = jax.jit(objective)({"target": target}, jax.random.key(0))
        return float(value), bool(overflow)

    assert value(Crowded(), -0.1, "miss") == (pytest.approx(0.1), False)
    assert value(Crowded(), -0.1, "return", maximize=True) == (pytest.approx(4 * 0.1**2), False)
    assert value(Crowded(), -0.9, "miss") == (pytest.approx(0.9), True)
    assert value(Crowded(), -0.9, "miss", leave_out_overflow=True) == (pytest.approx(np.nan, nan_ok=True), False)
    assert np.isnan(value(Infinite(), 0.5, "return")[0])  # where the environment gives the reward 0


CROWDED = "search crowded --objective miss --method random".split()


def test_a_search_enlarges_a_capacity_that_overflows_and_leaves_out_what_has_none(capsys, monkeypatch):
    """A target needs a capacity of -8 target; there is one of 2, then of 4, and none beyond."""
    arguments = [*CROWDED, "--env", "capacity=2", *SMALL]
    assert dmdenv(*arguments, "--vary", "target=-0.5:-0.3", "--params", "target=-0.4", "--run-dir", "grown") == 0
    told = capsys.readouterr().err
    assert told.count("a capacity overflowed: enlarging it, and repeating updates") == 1
    found = result("grown")
    assert found["nonfinite"] == [0, 0] and found["best_value"] == pytest.approx(0.3, abs=0.02)
    large = [*CROWDED, "--env", "capacity=4", *SMALL, "--vary", "target=-0.5:-0.3", "--params", "target=-0.4"]
    assert dmdenv(*large, "--run-dir", "large") == 0
    assert result("large") == found

    assert dmdenv(*arguments, "--vary", "target=-0.9:-0.3", "--params", "target=-0.4", "--run-dir", "over") == 0
    printed = capsys.readouterr()
    assert (
        "crowded: no larger capacity; must be a target >= -0.5; points where it overflows are left out" in printed.err
    )
    over = result("over")
    assert sum(over["nonfinite"]) > 0 and over["best_value"] == pytest.approx(0.3, abs=0.05)
    assert f"{sum(over['nonfinite'])} points were left out: " in printed.out


def test_objectives_are_the_return_and_the_metrics():
    env = BestAction()
    assert objective_names(env, zero_policy(env), env.default_params) == ("miss", "return")


VARY = "--vary target=-0.5:0.9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search", "--vary: missing; must be PARAMETER=LOW:HIGH, with a parameter of the environment"),
        ("search best_action --objective miss", "--vary: missing; must be PARAMETER=LOW:HIGH"),
        (f"search best_action {VARY}", "--objective: missing; must be return, or a metric of the environment"),
        (f"search {VARY} --objective miss", "ENV: missing; must be an environment of `dmdenv list`, or use --policy"),
        (f"search nope {VARY} --objective miss", "ENV: id = 'nope'; must be one of best_action, "),
        (f"search best_action {VARY} --objective mist", "--objective mist: must be one of miss, return"),
        (f"search best_action {VARY} --objective overflow", "--objective overflow: must be one of miss, return"),
        (
            "search best_action --vary speed=0:1 --objective miss",
            "--vary speed=0:1: ProbeParams has no field 'speed'; valid fields: max_steps, target",
        ),
        (
            "search best_action --vary target=0:2 --objective miss",
            "--vary target=0:2: ProbeParams.target = 2.0; must be a finite number >= -1 and <= 1",
        ),
        (
            "search best_action --vary target=nan:1 --objective miss",
            "--vary target=nan:1: ProbeParams.target = nan; must be a finite number",
        ),
        (
            "search best_action --vary target=0.5:0.2 --objective miss",
            "must have low < high",
        ),
        (
            "search best_action --vary target=-0.5:0.2:log --objective miss",
            "must have low >= 0 for the scale log",
        ),
        (
            "search best_action --vary target=0.5 --objective miss",
            "--vary target=0.5: must be PARAMETER=LOW:HIGH or PARAMETER=LOW:HIGH:log, with two numbers",
        ),
        (
            "search best_action --vary target=0:1:lin --objective miss",
            "--vary target=0:1:lin: must be PARAMETER=LOW:HIGH or PARAMETER=LOW:HIGH:log, with two numbers",
        ),
        (
            f"search best_action {VARY} {VARY} --objective miss",
            "target is given twice; must be given once",
        ),
        (
            "search best_action --vary max_steps=2:8 --objective miss",
            "--vary max_steps=2:8: max_steps is a whole number; must be a parameter that can change by small steps",
        ),
        (
            f"search best_action {VARY} --objective miss --method newton",
            "--method newton: method = 'newton'; must be one of 'gradient', 'cmaes', 'random'",
        ),
        (f"search best_action {VARY} --objective miss --starts 0", "--starts 0: must be an integer >= 1"),
        (
            f"search best_action {VARY} --objective miss --updates 0",
            "--updates 0: updates = 0; must be an integer >= 1",
        ),
        (
            f"search best_action {VARY} --objective miss --evaluations 9",
            "--evaluations 9: evaluations = 9; must be an integer >= 128",
        ),
        (
            f"search best_action {VARY} --objective miss --evaluations 999 --updates 3",
            "updates = 3 and evaluations = 999; must be one of them",
        ),
        (f"search best_action {VARY} --objective miss --episodes 0", "--episodes 0: must be an integer >= 1"),
        (f"search best_action {VARY} --objective miss --seed -1", "--seed -1: must be an integer from 0 to"),
        (f"search best_action {VARY} --objective miss --policy no", "--policy no: must be zero, random, RUN_DIR or "),
        ("search --resume nowhere", "--resume nowhere: has no config.json; must be a folder that `dmdenv search`"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_before_anything_is_compiled(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("dmdenv.agents.cli.search.minimize", None)
    assert dmdenv(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dmdenv: error: ") and message in printed.err
    assert printed.err.count("\n") == 1
    assert not any(pathlib.Path().iterdir())
