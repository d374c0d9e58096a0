"""What tests of runs and of the command line share: registered probes, and a signal in the middle of a training run."""

import os
import signal

import pytest

from dmdenv.agents.runs import training
from dmdenv.envs import registry
from probe_envs import register_probes


@pytest.fixture(scope="module", autouse=True)
def _probes():
    """The probes are registered beside all environments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_table", dict(registry._table))
        register_probes()
        yield


@pytest.fixture
def interrupt_after(monkeypatch):
    """A function: SIGINT is sent once, after the metrics of some update have been logged."""
    log = training.append_metrics

    def arrange(update):
        def log_and_interrupt(path, row):
            log(path, row)
            if row["update"] == update:
                monkeypatch.setattr(training, "append_metrics", log)
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(training, "append_metrics", log_and_interrupt)

    return arrange
