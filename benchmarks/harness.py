"""What the benchmarks share: one core, interleaved timing, a description of the machine, tables, results as JSON."""

import ctypes
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
PACKAGES = ("jax", "jaxlib", "numpy", "gymnasium", "jax-md", "stable-baselines3", "torch", "vmas")
C_FLAGS = ("-O3", "-march=native", "-ffast-math")

# --- one core ---------------------------------------------------------------------------------------------------------


def pin_to_one_core() -> int | None:
    """Keep this process on one core, the last one it may use; None where the system has no such call (macOS).

    Call it before the first computation: XLA starts as many threads as the process then has cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


Name = TypeVar("Name", bound=Hashable)

# --- timing -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one execution: the median over rounds, and the quartiles as its spread."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high), len(seconds))

    def __str__(self) -> str:
        low, median, high = (
            f"{1e3 * t:.3g}" if t < 1 else f"{1e3 * t:.0f}" for t in (self.low, self.median, self.high)
        )
        return f"{median} ({low} to {high})"


def race(
    contestants: Mapping[Name, Callable[[], Any]],
    *,
    rounds: int = 15,
    turn: float = 0.05,
    most: float = 20.0,
    longest: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Timing]:
    """Time functions in turns (A, B, C, A, B, C, ...), so that the noise of a shared machine hits all alike.

    Args:
        contestants: functions of no arguments. Arrays that they return are waited for.
        rounds: turns of each contestant.
        turn: a turn repeats a short function until about so many seconds are over.
        most: a contestant that would need more seconds in all takes part in fewer rounds, evenly spread, 3 at least.
        longest: a contestant whose first call takes more seconds than this is timed by that call alone; it should be
            compiled already.
        clock: seconds. For a computation on one core, `time.process_time` (processor time) is what `time.perf_counter`
            shows on an otherwise idle machine.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    repeats, own_rounds = {}, {}
    for name, run in contestants.items():
        first = _time(run, 1, clock)  # warm up, compile
        if first > longest:
            seconds[name], own_rounds[name] = [first], 0
            continue
        once = _time(run, 1, clock)
        repeats[name] = max(1, round(turn / once))
        own_rounds[name] = min(rounds, max(3, int(most / (once * repeats[name]))))
    for round_ in range(rounds):
        for name, run in contestants.items():
            if (round_ + 1) * own_rounds[name] // rounds > round_ * own_rounds[name] // rounds:
                seconds[name].append(_time(run, repeats[name], clock))
    return {name: Timing.of(values) for name, values in seconds.items()}


def _time(run: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        jax.block_until_ready(run())
    return (clock() - start) / repeats


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program, what its compilation took (tracing included) and the memory that it needs besides its arguments."""

    run: Callable
    seconds: float
    bytes: int


def compile_for(function: Callable, *arguments: Any) -> Compiled:
    """Compile a JAX function for these arguments, without running it."""
    start = time.process_time()
    run = jax.jit(function).lower(*arguments).compile()
    seconds = time.process_time() - start
    memory = run.memory_analysis()
    needed = 0 if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Compiled(run, seconds, needed)


def available_bytes() -> int:
    """Memory that this process can still have, as the system estimates it."""
    try:
        with open("/proc/meminfo") as lines:
            (available,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return available
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# --- hand-written C ---------------------------------------------------------------------------------------------------


@functools.cache
def c_library() -> ctypes.CDLL | None:
    """The loops of limit.c; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "limit.so")
        command = [compiler, *C_FLAGS, "-shared", "-fPIC", str(FOLDER / "limit.c"), "-o", library, "-lm"]
        subprocess.run(command, check=True)
        return ctypes.CDLL(library)


# --- what ran where ---------------------------------------------------------------------------------------------------


def machine(core: int | None) -> dict[str, Any]:
    """What a reader must know of the machine to judge the figures."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinned_to_core": core,
        "load_average_at_start": list(os.getloadavg()),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "jax_platform": jax.default_backend(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "c_compiler": _c_compiler(),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _c_compiler() -> str | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    lines = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()
    return " ".join([lines[0], *C_FLAGS])


# --- reports ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Target:
    """A figure that a benchmark is expected to reach. `value` is None where it could not be measured."""

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        low = self.at_least is None or self.value >= self.at_least
        return "pass" if low and (self.at_most is None or self.value <= self.at_most) else "falls short"

    def row(self) -> tuple[str, str, str, str]:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return self.name, "-" if self.value is None else f"{self.value:.2f}", bound, self.verdict

    def record(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "verdict": self.verdict}


TARGET_HEADER = ("target", "measured", "wanted", "")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table with aligned columns, the first one to the left."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    print(line(header))
    print("|" + "|".join("-" * (w + 1) + ("-" if k == 0 else ":") for k, w in enumerate(widths)) + "|")
    for row in rows:
        print(line(row))
    print(flush=True)


def print_machine(description: Mapping[str, Any]) -> None:
    """The description, a line each."""
    for name, value in description.items():
        print(f"{name}: {value}")
    print(flush=True)


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write results, and say where."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    print(f"wrote {path}", file=sys.stderr)
