"""What makes the tests strict: float32 unless a test asks for the `x64` fixture, no rank promotion, fixed examples.

And what makes them quick: compiled programs are kept in a folder that git ignores, for all workers and later runs.
They are dropped from memory before they fill its map.
"""

import hashlib
import itertools
import os
import pathlib
import platform

# XLA calls every program that it loads one of another machine, by two preferences that no machine has, in kilobytes.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "dmdenv", derandomize=True, deadline=None, max_examples=25, print_blob=True, database=None
)
hypothesis.settings.load_profile("dmdenv")

_COMPILED = pathlib.Path(__file__).parents[1] / ".cache" / "compiled"
_MOST_COMPILED = 1_000_000_000  # bytes


def pytest_configure(config):
    """Programs are kept, unless the caller has a folder of their own; processes that tests start inherit it."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = _COMPILED / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not hasattr(config, "workerinput"):  # one process tidies up
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
_MOST_MAPPINGS = 30_000  # of 65,530, beyond which Linux gives no memory and the compiler crashes
_EVERY = 8  # tests: to count mappings takes some milliseconds
_tests = itertools.count()


@pytest.fixture(autouse=True)
def few_programs():
    """Every compiled program keeps some mappings of memory; all are dropped where they have become many."""
    yield
    if next(_tests) % _EVERY == 0 and _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def through_cells(monkeypatch):
    """Neighbours are searched for through cells, however few the particles are."""
    monkeypatch.setattr("dmdenv.neighbors.cells._BRUTE_FORCE_UP_TO", {2: 0, 3: 0})


@pytest.fixture
def x64():
    """float64 by default; a whole file asks with `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield
