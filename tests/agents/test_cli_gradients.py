"""The command `dmdenv gradients`: what it prints, what it draws, how it refuses bad arguments."""

import pathlib

import pytest

from dmdenv.agents import apg
from dmdenv.agents.cli.main import main
from dmdenv.agents.runs.run import Run
from probe_envs import PointMass


@pytest.fixture(autouse=True)
def _working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def dmdenv(*arguments):
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code or 0


def rows(printed):
    """The lines of the table, by horizon."""
    lines = [line.split() for line in printed.splitlines()]
    return {int(line[0]): line for line in lines if len(line) == 8 and line[0].isdigit()}


@pytest.mark.slow
def test_the_gradient_by_a_policy_of_a_run_is_reported_and_drawn(capsys):
    config = apg.Config(hidden=(2,), num_envs=2)
    run = Run(pathlib.Path("run"), PointMass(), PointMass().default_params, "apg", config, seed=0).create()
    run.save(run.initial_state())
    arguments = ["--policy", "run", "--horizons", 8, 2, "--instances", 2, "--directions", 2]
    assert dmdenv("gradients", "point_mass", *arguments, "--picture", "pictures/gradients.png") == 0
    printed = capsys.readouterr()
    assert "point_mass probe: gradient of the return by 9 numbers of the policy, 2 instances" in printed.out
    assert sorted(rows(printed.out)) == [2, 8]
    assert "trusted up to horizon 8" in printed.out
    assert pathlib.Path("pictures/gradients.png").read_bytes().startswith(b"\x89PNG")
    assert "compiling the gradient ..." in printed.err


def test_the_options_reach_the_report(capsys, monkeypatch):
    def report(env, actions, horizons, *, params, instances, directions, step, **others):
        assert (env.time_step, actions.shape, horizons) == (0.1, (8, 1), (8, 2))
        assert (float(params.max_steps), instances, directions, step) == (9.0, 3, 4, 0.1)
        return "the table"

    monkeypatch.setattr("dmdenv.agents.cli.gradients.grad_report", report)
    arguments = "--horizons 8 2 --instances 3 --directions 4 --step 0.1 --env time_step=0.1 --params max_steps=9"
    assert dmdenv("gradients", "point_mass", *arguments.split()) == 0
    assert capsys.readouterr().out == "the table\n"


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["zero", "random"])
def test_the_gradient_by_actions_is_reported(capsys, policy):
    assert dmdenv("gradients", "point_mass", "--policy", policy, "--params", "max_steps=5") == 0
    printed = capsys.readouterr().out
    assert "by 5 numbers of the actions, 16 instances" in printed
    assert sorted(rows(printed)) == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("gradients", "ENV: missing; must be an environment of `dmdenv list`, or use --policy RUN_DIR"),
        ("gradients nope", "ENV: id = 'nope'; must be one of best_action, "),
        ("gradients best_action --policy nope", "--policy nope: must be zero, random, RUN_DIR or RUN_DIR/checkpoints"),
        ("gradients best_action --horizons 4 0", "--horizons 0: horizon = 0; must be an integer >= 1 and <= 16"),
        ("gradients best_action --horizons -4", "--horizons -4: horizon = -4; must be an integer >= 1 and <= 16"),
        ("gradients best_action --horizons 17", "--horizons 17: horizon = 17; must be an integer >= 1 and <= 16"),
        ("gradients best_action --params max_steps=3 --horizons 4", "--horizons 4: horizon = 4; must be an integer >="),
        ("gradients best_action --instances 1", "--instances 1: must be an integer >= 2"),
        ("gradients best_action --directions 0", "--directions 0: must be an integer >= 1"),
        ("gradients best_action --step nan", "--step nan: step = nan; must be a finite number > 0"),
        ("gradients best_action --seed -1", "--seed -1: must be an integer from 0 to"),
        ("gradients best_action --picture a.mp4", "--picture a.mp4: must end in .png"),
        ("gradients best_action --env size=3", "--env size=3: 'best_action' has no configuration field 'size'"),
        ("gradients soft_sphere_packing --horizons 0", "--horizons 0: horizon = 0; must be an integer >= 1"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_before_anything_is_compiled(capsys, compilations, arguments, message):
    assert dmdenv(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dmdenv: error: ") and message in printed.err
    assert printed.err.count("\n") == 1
    assert not any(pathlib.Path().iterdir())
    assert not any("perturb" in name for name in compilations)
