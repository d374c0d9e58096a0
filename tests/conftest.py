"""What makes the tests strict: float32 unless a test asks for the `x64` fixture, no rank promotion, fixed examples.

And what lets so many of them run in one process: compiled programs are dropped before they fill its memory map.
"""

import itertools
import pathlib

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "dmdenv", derandomize=True, deadline=None, max_examples=25, print_blob=True, database=None
)
hypothesis.settings.load_profile("dmdenv")


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
    monkeypatch.setattr("dmdenv.neighbors.cells._FEW", {2: 0, 3: 0})


@pytest.fixture
def x64():
    """float64 by default; a whole file asks with `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield
