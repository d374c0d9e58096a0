"""Execute notebooks, each in a fresh kernel and a temporary folder: run_notebooks.py [--quick] [NOTEBOOK ...]."""

import argparse
import os
import pathlib
import re
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
QUICK = "DMDENV_NOTEBOOK_QUICK"


def has_output(notebook: nbformat.NotebookNode) -> bool:
    """Whether any cell holds output, or the number of its execution."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return any(cell.outputs or cell.execution_count is not None for cell in cells)


def execute(path: pathlib.Path, timeout: int) -> str | None:
    """Run all cells of a notebook; the file stays as it is.

    Args:
        path: the notebook.
        timeout: the most seconds that one cell may take.

    Returns:
        What is wrong, None for nothing: the traceback of the cell that failed, or why it was not run.
    """
    notebook = nbformat.read(path, as_version=4)
    if has_output(notebook):
        return f"holds output; strip it: nbstripout {path}"
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],  # of the kernel, which warns of its own transport
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return re.sub(r"\x1b\[[\d;]*m", "", str(error))  # without colours
    return None


def main() -> None:
    """Execute all notebooks, or those named, and exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path, metavar="NOTEBOOK", help="all of them by default")
    parser.add_argument("--quick", action="store_true", help=f"small sizes: sets {QUICK}=1")
    parser.add_argument("--timeout", type=int, default=1200, help="the most seconds that one cell may take (1200)")
    arguments = parser.parse_args()
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # "python3" is this interpreter, whatever else is installed
    os.environ.pop(QUICK, None)  # the committed sizes, unless asked for otherwise here
    if arguments.quick:
        os.environ[QUICK] = "1"

    paths = arguments.notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    if missing := [str(path) for path in paths if not path.is_file()]:
        sys.exit(f"no such notebook: {', '.join(missing)}")
    failed = []
    for path in paths:
        began = time.perf_counter()
        problem = execute(path, arguments.timeout)
        print(f"{path.name}: {'failed' if problem else 'passed'}, {time.perf_counter() - began:.0f} s", flush=True)
        if problem:
            print(problem, file=sys.stderr, flush=True)
            failed.append(path.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
