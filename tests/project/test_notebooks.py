"""Notebooks are committed as they are to be: unexecuted, with quick sizes, named on their page. And their runner."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


@every_notebook
def test_a_notebook_is_committed_without_output(path):
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None, source(cell)


@every_notebook
def test_a_notebook_is_for_any_python_kernel(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@every_notebook
def test_a_notebook_has_quick_sizes_and_asserts_what_it_claims(path):
    first, *others = map(source, code_cells(path))
    assert "import os" in first
    assert 'quick = bool(os.environ.get("DMDENV_NOTEBOOK_QUICK"))' in first
    code = "\n".join((first, *others))
    assert len(re.findall(r"\bquick\b", code)) >= 3, "no size depends on `quick`"
    assert re.search(r"^\s*assert ", code, re.M)


def test_the_page_names_every_notebook_and_no_other():
    named = re.findall(r"\((\w+\.ipynb)\)", (FOLDER / "README.md").read_text())
    assert sorted(named) == [path.name for path in NOTEBOOKS]


# --- the runner -------------------------------------------------------------------------------------------------------


def write_notebook(path, *cells, execution_count=None):
    """A notebook of code cells, as they are committed."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{i}",
            "metadata": {},
            "source": cell,
            "outputs": [],
            "execution_count": execution_count,
        }
        for i, cell in enumerate(cells)
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}))
    return path


def run(*arguments):
    command = [sys.executable, "-W", "ignore", ".ci/run_notebooks.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_runner_tells_what_passed_and_where_a_cell_failed(tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    sound = write_notebook(
        tmp_path / "sound.ipynb",
        "import os, pathlib, sys\nn = 3",
        f"""assert os.environ["DMDENV_NOTEBOOK_QUICK"] == "1" and n == 3
assert os.path.samefile(sys.prefix, {sys.prefix!r})
pathlib.Path("written.txt").write_text("into a temporary folder")
assert os.listdir() == ["written.txt"] and not os.path.samefile(os.curdir, {os.fspath(tmp_path)!r})""",
    )
    wrong = write_notebook(tmp_path / "wrong.ipynb", "work = 9.2", "assert work < 8.5, f'{work} is no optimum'")
    stored = write_notebook(tmp_path / "stored.ipynb", "1 / 0", execution_count=1)
    before = sound.read_text()
    done = run("--quick", sound, wrong, stored)
    assert done.returncode != 0
    assert re.search(r"^sound.ipynb: passed, \d+ s$", done.stdout, re.M), done.stderr
    assert re.search(r"^wrong.ipynb: failed, \d+ s$", done.stdout, re.M)
    assert "AssertionError: 9.2 is no optimum" in done.stderr
    assert f"holds output; strip it: nbstripout {stored}" in done.stderr and "ZeroDivisionError" not in done.stderr
    assert done.stderr.rstrip().endswith("failed: wrong.ipynb, stored.ipynb")
    assert sound.read_text() == before and sorted(os.listdir(tmp_path)) == [
        "sound.ipynb",
        "stored.ipynb",
        "wrong.ipynb",
    ]


def test_the_runner_refuses_a_notebook_that_is_not_there():
    pytest.importorskip("nbclient")
    done = run("no_such.ipynb")
    assert done.returncode != 0 and "no such notebook: no_such.ipynb" in done.stderr
