"""What long loops say on stderr: a progress bar, and what is being compiled."""

import sys
import time
from typing import Any

import jax
from tqdm import tqdm

from dmdenv.simulation.interruption import Interruption


def progress(*arguments: Any, **options: Any) -> tqdm:
    """A bar on stderr with speed and remaining time; a line every 10 seconds where stderr is not a terminal."""
    return tqdm(*arguments, mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)


def say(text: str) -> None:
    """A line on stderr, above the bar if there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def compile_first(
    what: str,
    function: jax.stages.Wrapped,
    *arguments: Any,
    interruption: Interruption,
    aloud: bool = True,
    **options: Any,
) -> jax.stages.Compiled:
    """Compile a jitted function, so that a call with such arguments does not, and say so.

    Args:
        what: is compiled, in words.
        function: made by `jax.jit`.
        arguments: as it will be called.
        interruption: handles signals while the compiler runs.
        aloud: whether to say so.
        options: keyword arguments, as it will be called.

    Raises:
        Interrupted: at the second signal.
    """
    if aloud:
        say(f"compiling {what} ...")
    began = time.perf_counter()
    compiled = interruption.wait_for(function.lower(*arguments, **options).compile)
    if aloud:
        say(f"compiled in {time.perf_counter() - began:.1f} s")
    return compiled
