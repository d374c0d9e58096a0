"""The progress bar that all long loops share."""

import sys
from typing import Any

from tqdm import tqdm


def progress(*arguments: Any, **options: Any) -> tqdm:
    """A bar on stderr with speed and remaining time; in a log, where no terminal redraws it, a line now and then."""
    return tqdm(*arguments, mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)
