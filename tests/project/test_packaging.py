"""The package as a user finds it: names, version, type information, and what an import costs."""

import importlib
import importlib.metadata
import importlib.resources
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import dmdenv

ROOT = pathlib.Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = {"dmdenv": ROOT / "dmdenv", "dmdenv.agents": ROOT / "agents", "dmdenv.envs": ROOT / "envs"}


def packages_of_the_tree() -> list[str]:
    """Every folder with an `__init__.py`, by the name it is imported by; os.walk does not follow links."""
    return sorted(
        ".".join((name, *pathlib.Path(folder).relative_to(source).parts))
        for name, source in SOURCES.items()
        for folder, _, files in os.walk(source)
        if "__init__.py" in files
    )


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, started in the root of the repository."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def modules_after(statement: str) -> set[str]:
    """The modules that a statement loads into a fresh interpreter."""
    done = run_python(f"import sys\n{statement}\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_version_is_the_installed_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", dmdenv.__version__)
    assert importlib.metadata.version("dmdenv") == dmdenv.__version__


def test_changelog_has_the_version():
    assert f"## [{dmdenv.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_package_says_that_it_is_typed():
    assert importlib.resources.files("dmdenv").joinpath("py.typed").is_file()


def test_every_package_of_the_tree_is_installed():
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == packages_of_the_tree()


def test_every_folder_with_modules_is_a_package():
    walk = [entry for source in SOURCES.values() for entry in os.walk(source)]
    with_modules = [folder for folder, _, files in walk if any(name.endswith(".py") for name in files)]
    assert not [folder for folder in with_modules if not (pathlib.Path(folder) / "__init__.py").exists()]


@pytest.mark.parametrize("name", packages_of_the_tree())
def test_every_public_name_resolves(name):
    package = importlib.import_module(name)
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names)
    assert not [n for n in names if not hasattr(package, n)]


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_second_import_path_is_refused(folder):
    done = run_python(f"import {folder}")
    assert done.returncode != 0
    assert f"ImportError: import dmdenv.{folder}" in done.stderr


def test_jax_pins_are_the_same_everywhere():
    requirements = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["cuda"]]
    pins = [re.fullmatch(r"jax(?:lib|\[cuda12\])?((?:>=|!=).*)", r) for r in requirements]
    pins = [pin.group(1) for pin in pins if pin]
    assert len(pins) == 3
    assert len(set(pins)) == 1


def test_import_loads_nothing_heavy():
    loaded = {m.split(".")[0] for m in modules_after("import dmdenv")}
    heavy = {"flax", "imageio", "matplotlib", "optax", "orbax", "PIL", "tyro"}
    assert not loaded & heavy


def test_import_loads_no_more_of_gymnasium_than_registration_needs():
    def of_gymnasium(modules):
        return {m for m in modules if m.split(".")[0] == "gymnasium"}

    assert of_gymnasium(modules_after("import dmdenv")) <= of_gymnasium(modules_after("import gymnasium"))
