"""Check that a wheel holds exactly the modules of the source tree. Usage: check_wheel.py WHEEL."""

import os
import pathlib
import sys
import zipfile

INSTALLED_AS = {"dmdenv": "dmdenv", "envs": "dmdenv/envs", "agents": "dmdenv/agents"}


def modules_of_the_tree() -> set[str]:
    """Where each module of the repository belongs in the wheel; os.walk does not follow links."""
    return {
        (pathlib.PurePosixPath(installed) / pathlib.Path(folder).relative_to(source) / name).as_posix()
        for source, installed in INSTALLED_AS.items()
        for folder, _, names in os.walk(source)
        for name in names
        if name.endswith(".py")
    }


def main(wheel: str) -> None:
    """Compare, and exit with a list of what differs."""
    expected = modules_of_the_tree() | {"dmdenv/py.typed"}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if expected != found:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        sys.exit(
            f"{wheel}\n  lacks: {missing}\n  holds besides: {unexpected}\n"
            "Is every package listed in pyproject.toml under [tool.setuptools]?"
        )
    print(f"the wheel holds all {len(expected) - 1} modules and py.typed")


if __name__ == "__main__":
    main(sys.argv[1])
