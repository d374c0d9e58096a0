"""`metrics.jsonl`: one line of JSON per update, in order."""

import json
import math
from pathlib import Path
from typing import Any

from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.simulation.progress import say


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add a line; numbers that are not finite become null, since JSON has none.

    Raises:
        OSError: when it cannot be written, as on a full disk; it names the file.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    try:
        with path.open("a") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of the log; none if there is no log yet.

    A last line that was cut off by a crash is left out, and so is a damaged one, which is named on stderr.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            continue
        if (row := _parse(line)) is None:
            say(f"{path}: line {number} is damaged and left out")
        else:
            rows.append(row)
    return rows


def truncate_metrics(path: Path, update: int) -> None:
    """Drop what was logged after `update` updates: a resumed run starts from there and logs it again."""
    kept = [row for row in read_metrics(path) if (row["update"] or 0) <= update]
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))


def _parse(line: bytes) -> dict[str, float | None] | None:
    """The numbers of a line; None where it holds something else."""
    try:
        row = json.loads(line)
    except ValueError:  # also of bytes that are no text
        return None
    numbers = isinstance(row, dict) and all(value is None or isinstance(value, float | int) for value in row.values())
    return row if numbers and row.get("update") is not None else None
