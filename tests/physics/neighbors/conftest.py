import pytest


@pytest.fixture(scope="module")
def through_cells():
    """For all of a file, since tests share lists; hypothesis wants no fixture of each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmdenv.neighbors.cells._BRUTE_FORCE_UP_TO", {2: 0, 3: 0})
        yield
