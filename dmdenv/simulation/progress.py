"""The progress bar of all long loops."""

import sys
from typing import Any

from tqdm import tqdm


def progress(*arguments: Any, **options: Any) -> tqdm:
    """A bar on stderr with speed and remaining time; a line every 10 seconds where stderr is not a terminal."""
    return tqdm(*arguments, mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)
