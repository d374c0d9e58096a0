"""What makes the tests strict: float32 unless a test asks for the `x64` fixture, no rank promotion, fixed examples.

And what makes them quick, since compilation takes most of the time: XLA optimises little, unless `--optimized` is given
(`make slow`), and programs are kept in a folder that git ignores, for all workers and later runs.
"""

import argparse
import contextlib
import gc
import hashlib
import itertools
import os
import pathlib
import platform
import re
import signal
import threading
import time
import zlib

# XLA calls every program that it loads one of another machine, by two preferences that no machine has, in kilobytes.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import jax
import pytest

from marks import QUICK

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_num_cpu_devices", 2)  # for `shard_map`; all else runs on the first one
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "dmdenv", derandomize=True, deadline=None, max_examples=25, print_blob=True, database=None
)
hypothesis.settings.load_profile("dmdenv")

_COMPILED = pathlib.Path(__file__).parents[1] / ".cache" / "compiled"
_MOST_COMPILED = 1_000_000_000  # bytes


def pytest_addoption(parser):
    group = parser.getgroup("dmdenv")
    group.addoption("--optimized", action="store_true", help="compile as users do, by XLA's own settings")
    group.addoption("--shard", type=_shard, metavar="K/N", help="the K-th of N parts of the tests, by their ids")


def pytest_configure(config):
    """Set environment variables, which processes that tests start inherit."""
    gc.set_threshold(200_000, 20, 20)  # tracing makes many objects that live long
    if not config.getoption("optimized"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the caller has a folder of their own
        _keep_programs(drop=not hasattr(config, "workerinput"))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}; must be K/N with 1 <= K <= N")
    return int(match[1]), int(match[2])


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of other shards."""
    if config.getoption("shard") is None:
        return
    k, n = config.getoption("shard")
    others = [item for item in items if zlib.crc32(item.nodeid.encode()) % n != k - 1]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in set(others)]


def _keep_programs(*, drop: bool) -> None:
    folder = _COMPILED / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if drop:
            _drop_oldest(folder)
    except OSError:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # to load even the smallest one takes a quarter
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """What programs are compiled for, as the name of a folder: a clone may be used from several machines."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return hashlib.sha256(repr((platform.machine(), platform.processor(), sorted(model))).encode()).hexdigest()[:12]


def _drop_oldest(folder: pathlib.Path) -> None:
    entries = sorted((entry.stat().st_mtime, entry.stat().st_size, entry) for entry in folder.iterdir())
    total = sum(size for _, size, _ in entries)
    for _, size, entry in entries:
        if total <= _MOST_COMPILED:
            break
        entry.unlink()
        total -= size


_MAPPINGS = pathlib.Path("/proc/self/maps")  # on Linux
_MOST_MAPPINGS = 45_000  # of 65,530, beyond which Linux gives no memory and the compiler crashes
_EVERY = 8  # tests: to count mappings takes some milliseconds
_tests = itertools.count()


@pytest.fixture(autouse=True)
def few_programs():
    """Every compiled program keeps some mappings of memory; all are dropped where they have become many."""
    yield
    if next(_tests) % _EVERY == 0 and _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def compilations():
    """A list that grows by one with each program that is compiled, or loaded from the folder of compiled ones."""
    found = []

    def note(event: str, duration: float, **details) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def stuck_compiler(monkeypatch):
    """A function: in its context the compilation of a program does not end, and SIGTERM is sent twice."""
    from dmdenv.simulation import Interruption

    @contextlib.contextmanager
    def arrange(name):
        signals, over = [], threading.Event()
        compiled, record = jax.stages.Lowered.compile, Interruption._record

        def note(*arguments):
            signals.append(arguments[1])
            record(*arguments)

        def compile_or_wait(lowered):
            if f"module @jit_{name}" not in lowered.as_text()[:200]:
                return compiled(lowered)
            os.kill(os.getpid(), signal.SIGTERM)
            while not signals:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGTERM)
            return over.wait()

        with monkeypatch.context() as patch:
            patch.setattr(Interruption, "_record", note)
            patch.setattr(jax.stages.Lowered, "compile", compile_or_wait)
            yield
        assert len(signals) == 2
        over.set()

    return arrange


@pytest.fixture
def through_cells(monkeypatch):
    """Neighbours are searched for through cells, however few the particles are."""
    monkeypatch.setattr("dmdenv.neighbors.cells._BRUTE_FORCE_UP_TO", {2: 0, 3: 0})


@pytest.fixture
def x64():
    """float64 by default; a whole file asks with `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield
