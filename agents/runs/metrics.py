"""`metrics.jsonl`: one line of JSON per update, in order."""

import json
import math
from pathlib import Path
from typing import Any

from dmdenv.agents.runs.atomic_write import atomic_write


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add a line; numbers that are not finite become null, since JSON has none."""
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    with path.open("a") as file:
        file.write(json.dumps(finite, allow_nan=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of the log; none if there is no log yet.

    A last line that was cut off by a crash is left out.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def truncate_metrics(path: Path, update: int) -> None:
    """Drop what was logged after `update` updates: a resumed run starts from there and logs it again."""
    kept = [row for row in read_metrics(path) if (row["update"] or 0) <= update]
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
