"""Simulations in processes of their own, which are sent signals."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from dmdenv.simulation.checkpoints import saved_steps

SCRIPT = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from dmdenv.simulation import Interrupted
from dmdenv.simulation import simulate

def step(state):
    key, now = jax.random.split(state["key"])
    return {"x": jnp.sin(state["x"]) + jax.random.normal(now, (4,)), "key": key}

def slow(steps, observations):
    print(steps[-1], flush=True)
    time.sleep(float(sys.argv[2]))

state = {"x": jnp.zeros(4), "key": jax.random.key(1)}
try:
    folder = None if sys.argv[1] == "none" else sys.argv[1]
    options = {"observe": lambda s: s["x"], "chunk": 10, "writers": [slow], "progress": False}
    state = simulate(step, state, 400, folder=folder, **options)
    print(np.asarray(state["x"]).tobytes().hex())
except Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""


def test_ctrl_c_leaves_a_checkpoint_from_which_the_rest_is_the_same(tmp_path):
    def run(folder, pause):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", SCRIPT, str(folder), str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    interrupted = run(tmp_path, 0.2)
    assert interrupted.stdout is not None
    assert interrupted.stdout.readline() == "10\n"
    interrupted.send_signal(signal.SIGINT)
    lines, messages = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130
    assert "stopping at the next safe moment" in messages
    (done,) = saved_steps(pathlib.Path(tmp_path))
    assert done == int((["10", *lines.split()])[-1]) < 400

    rest, unbroken = (run(folder, 0).communicate(timeout=120)[0].split() for folder in (tmp_path, "none"))
    assert int(rest[0]) == done + 10
    assert rest[-1] == unbroken[-1]


COMPILES = """
import sys
import jax, jax.numpy as jnp
from dmdenv.simulation import Interrupted, simulate

def step(x):
    for _ in range(3000):
        x = jnp.sin(x @ x)[::-1] + x
    return x

try:
    simulate(step, jnp.ones((4, 4)), 10, folder=sys.argv[1])
except Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_compiles_stops_at_the_second_signal(tmp_path, number):
    environment = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    command = [sys.executable, "-c", COMPILES, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**environment, "JAX_PLATFORMS": "cpu"})
    with process:
        assert process.stderr is not None
        for words in ("compiling the simulation", "stopping at the next safe moment"):
            while words not in (line := process.stderr.readline()):
                assert line, "the process ended early"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(3)  # it has been traced, and XLA compiles it
            process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 128 + number
    assert "compiled in" not in rest
    assert "Traceback" not in rest
    assert saved_steps(tmp_path) == [0]
