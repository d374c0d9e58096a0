"""The Python examples of README and docs run as they are printed, and what docs say of code and tests is so."""

import pathlib
import re

import jax
import pytest

from dmdenv.agents import apg

ROOT = pathlib.Path(__file__).parents[2]
# the pages whose examples run by default; the others take long, and are among the slow tests
DEFAULT = ("README.md", "gymnasium.md")
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in page.read_text()
]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name not in DEFAULT)) for page in PAGES],
)
def test_the_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where they write pictures
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    names = {}
    with jax.numpy_rank_promotion("allow"):  # a reader's own settings are JAX's defaults
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", ["flocking.md", "lj_fluid.md", "bonded_chain.md"])
def test_pages_name_the_default_window_of_apg(page):
    words = " ".join((ROOT / "docs" / page).read_text().split())
    assert f"`apg`'s default window of {apg.Config().window}" in words


def test_the_tests_that_hold_the_promises_exist():
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "damage.md").read_text())
    assert len(named) > 20
    assert set(named) <= defined
