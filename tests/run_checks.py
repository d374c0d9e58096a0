"""A tiny run of the point mass, the command `dmdenv` with probes in a process of its own, and when runs are equal."""

import os
import pathlib

import numpy as np

from dmdenv.simulation.checkpoints import to_arrays

ROOT = pathlib.Path(__file__).parents[1]
TINY = ["--num-envs", "2", "--window", "2", "--hidden", "4", "--eval-episodes", "2"]
MASS = [*TINY, "--updates", "6", "--env", "time_step=0.1", "--params", "max_steps=20", "--seed", "4"]
WITH_PROBES = """
import sys
from dmdenv.agents.cli.main import main
from probe_envs import register_probes
register_probes()
main(sys.argv[1:])
"""


def environment(**variables):
    """The environment variables of a process that imports this package and the probes."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **variables}


def assert_equal_runs(run, expected):
    """The same result, bit for bit."""
    states = [to_arrays(r.restore(r.config.updates)) for r in (run, expected)]
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)
    assert run.evaluation_path.read_text() == expected.evaluation_path.read_text()
    assert len(run.metrics_path.read_text().splitlines()) == run.config.updates
