"""The table of tuned settings, and how `dmdenv train` takes its defaults from it."""

import json
import types

import pytest

from dmdenv.agents import settings
from dmdenv.agents.base import get_agent, registered_agents
from dmdenv.agents.cli.main import main
from dmdenv.agents.settings import TUNED, Tuned, best_agent, tuned_settings
from run_checks import TINY
from small_envs import TASKS


def test_every_task_has_settings_of_every_agent_that_fits():
    assert set(TUNED) == set(TASKS)
    for tuned in TUNED.values():
        assert tuned.best in tuned.settings
        assert sorted({*tuned.settings, "open_loop"}) == list(registered_agents())  # where it needs no feedback
        for agent, fields in tuned.settings.items():
            get_agent(agent).Config(**fields)


def test_where_nothing_is_known_there_is_a_default():
    assert best_agent("my_env", "default") == best_agent(None, None) == settings.ANY_TASK
    assert tuned_settings("my_env", "default", "apg") == tuned_settings("trap_drag", "drag", "my_agent") == {}


@pytest.fixture
def _tuned(monkeypatch):
    table = {
        ("point_mass", "probe"): Tuned("apg", {"apg": {"updates": 2, "learning_rate": 0.5}}),
        ("best_action", "probe"): Tuned("ppo", {"ppo": {"updates": 3}}),
    }
    monkeypatch.setattr(settings, "TUNED", types.MappingProxyType(table))


def train(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, arguments)])
    return stop.value.code or 0


@pytest.mark.usefixtures("_tuned")
def test_train_takes_the_best_agent_and_its_settings_says_so_and_options_override(tmp_path, capsys):
    arguments = ["--params", "max_steps=2", "--no-film", "--learning-rate", 0.25, "--run-dir", tmp_path / "run"]
    assert train("point_mass", *TINY, *arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        "agent: apg, the best one known for point_mass, task probe",
        "defaults for point_mass, task probe: --updates 2 --learning-rate 0.5",
    ]
    agent = json.loads((tmp_path / "run" / "config.json").read_text())["agent"]
    assert agent["name"] == "apg"
    assert (agent["config"]["updates"], agent["config"]["learning_rate"]) == (2, 0.25)


@pytest.mark.usefixtures("_tuned")
def test_defaults_of_another_task_are_refused(tmp_path, capsys):
    """The value of an option looks like an environment, and stands before the real one."""
    assert train("--run-dir", "best_action", "point_mass", "--agent", "ppo") == 2
    expected = "dmdenv: error: ENV point_mass: must come first, as in `dmdenv train point_mass --agent ppo`\n"
    assert capsys.readouterr().err == expected


@pytest.mark.usefixtures("_tuned")
def test_help_shows_the_settings_for_the_task(capsys):
    assert train("best_action", "--help") == 0
    assert "(default: 3)" in capsys.readouterr().out
