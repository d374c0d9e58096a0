"""CONTRIBUTING.md: what it names is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def section(title):
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_walk_to_the_force_names_functions_that_are_there():
    steps = re.findall(r"^\d+\. `(\S+)`, (.*)$", section("Where things are"), re.M)
    assert len(steps) == 10
    for path, text in steps:
        names = [name for name in re.findall(r"`(\w+)`", text) if "_" in name or name.islower()]
        source = (ROOT / path).read_text()
        assert names and all(re.search(rf"def {name}\b", source) for name in names), (path, names)


@pytest.mark.parametrize("what", ["environment", "potential", "agent"])
def test_adding_takes_at_most_five_steps_and_names_files_that_are_there(what):
    text = section(f"Add an {what}" if what[0] in "ae" else f"Add a {what}")
    assert 1 <= len(re.findall(r"^\d\. ", text, re.M)) <= 5
    for path in re.findall(r"`?([\w/.]+/[\w/.]+\.(?:py|md))`?", text):
        assert "NAME" in path or (ROOT / path).exists(), path
