"""The Python examples of README and docs run as they are printed."""

import pathlib
import re

import jax
import pytest

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
def test_the_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    names = {}
    with jax.numpy_rank_promotion("allow"):  # a reader's own settings are JAX's defaults
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)
