"""Trajectories as functions: what is observed, that memory is what was asked for, and that derivatives are right."""

import functools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.differentiation import bytes_of, rollout, segments
from dmdenv.integrators import NVE, Langevin
from dmdenv.neighbors import allocate
from dmdenv.potentials import lennard_jones
from dmdenv.space import Periodic

pytestmark = pytest.mark.usefixtures("x64")

BOX = 5.3


def crystal(n_side: int = 3) -> jax.Array:
    grid = np.stack(np.meshgrid(*[np.arange(n_side)] * 3, indexing="ij"), -1).reshape(-1, 3) * (BOX / n_side)
    return jnp.asarray(grid + 0.05 * np.random.default_rng(0).normal(size=grid.shape))


def new_list():
    return allocate(Periodic(BOX), crystal(), cutoff=2.2, skin=0.2, slack=2.0)


@pytest.fixture(scope="module")
def pairs():
    with jax.enable_x64(True):
        return new_list()


def liquid(epsilon, box, pairs):
    """A step and the first state of 27 Lennard-Jones particles with a list that is rebuilt on the way."""
    potential, positions = lennard_jones(epsilon=epsilon, cutoff=2.2, truncation="force_shifted"), crystal()
    velocities = jnp.asarray(np.random.default_rng(1).normal(size=positions.shape))
    nve = NVE(dt=0.005)
    state = nve.init(potential, Periodic(box), positions * (box / BOX), velocities=velocities, pairs=pairs)
    return functools.partial(nve.step, potential), state


def logistic(state):
    """A step whose every value is known: x -> r x (1 - x), and how many steps there have been."""
    x, r, count = state
    return r * x * (1 - x), r, count + 1


START = (jnp.float32(0.3), jnp.float32(2.9), jnp.int32(0))


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, 150.0])
@pytest.mark.parametrize(("steps", "every"), [(0, 1), (1, 1), (7, 1), (30, 1), (30, 7), (30, 10), (5, 9), (31, 30)])
def test_observations_are_of_every_kth_state(steps, every, memory):
    @jax.jit
    def run(state):
        return rollout(logistic, state, steps, observe=lambda s: {"x": s[0], "count": s[2]}, every=every, memory=memory)

    state, expected = START, []
    for _ in range(steps):
        state = logistic(state)
        expected.append(state[0])
    final, seen = run(START)
    np.testing.assert_array_equal(seen["count"], np.arange(every, steps + 1, every))
    np.testing.assert_allclose(seen["x"], np.array(expected)[every - 1 :: every], rtol=1e-5)
    assert int(final[2]) == steps
    np.testing.assert_allclose(final[0], state[0], rtol=1e-5)


def test_nothing_is_observed_without_being_asked_for():
    assert rollout(logistic, START, 12)[1] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps = -1; must be an integer >= 0"),
        ({"steps": 3, "every": 0}, "every = 0; must be an integer >= 1"),
        ({"steps": 1000, "memory": 30.0}, r"memory = 30 bytes; must be >= \d+ for 1000 steps of 12 bytes"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(logistic, START, options.pop("steps"), **options)


# --- derivatives ------------------------------------------------------------------------------------------------------


STEPS, EVERY = 200, 50


@functools.cache
def compiled(memory: float | None = None):
    """`(pairs, epsilon, box) -> (value, overflow), gradient` of a trajectory."""

    def loss(pairs, epsilon, box):
        step, state = liquid(epsilon, box, pairs)
        final, kinetic = rollout(step, state, STEPS, observe=lambda s: s.kinetic_energy, every=EVERY, memory=memory)
        return jnp.sum(final.velocities[:, 0] ** 3) + jnp.mean(kinetic), final.overflow

    run = jax.jit(jax.value_and_grad(loss, argnums=(1, 2), has_aux=True))
    return run.lower(new_list(), 1.0, BOX).compile()


def test_the_gradient_of_a_trajectory_equals_finite_differences(pairs):
    def value(epsilon, box):
        return compiled()(pairs, epsilon, box)[0][0]

    (_, overflow), (by_epsilon, by_box) = compiled()(pairs, 1.0, BOX)
    assert not overflow
    h = 1e-6
    np.testing.assert_allclose(by_epsilon, (value(1 + h, BOX) - value(1 - h, BOX)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(by_box, (value(1.0, BOX + h) - value(1.0, BOX - h)) / (2 * h), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "levels"), [(180e3, 1), (100e3, 2)])
def test_checkpoints_change_the_memory_and_no_gradient(memory, levels, pairs):
    size, residuals = bytes_of(*liquid(1.0, BOX, pairs))
    assert len(segments(STEPS, size, residuals, memory, every=EVERY)) == levels
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9),
        compiled(memory)(pairs, 1.0, BOX),
        compiled()(pairs, 1.0, BOX),
    )

    def temporary(memory):
        return compiled(memory).memory_analysis().temp_size_in_bytes

    in_any_case = 40e3  # of the forces and their derivative
    assert 0.7 * STEPS * residuals < temporary(None) < STEPS * residuals + in_any_case
    assert temporary(memory) < memory + in_any_case


def test_the_gradient_through_noise_is_that_of_the_noise_drawn():
    """Langevin with a fixed key is a function of its parameters; its key is part of the state."""
    potential = lennard_jones(cutoff=2.2, truncation="force_shifted")

    @jax.jit
    @jax.value_and_grad
    def loss(temperature):
        langevin = Langevin(dt=0.005, temperature=temperature, friction=1.0)
        state = langevin.init(potential, Periodic(BOX), crystal(), key=jax.random.key(3))
        state, _ = rollout(functools.partial(langevin.step, potential), state, 30, memory=60e3)
        return jnp.mean(state.velocities**2)

    h = 1e-5
    np.testing.assert_allclose(loss(1.0)[1], (loss(1 + h)[0] - loss(1 - h)[0]) / (2 * h), rtol=1e-6)


def test_forward_mode_and_batches_compose_with_checkpoints():
    def final(r, x):
        return rollout(logistic, (x, r, jnp.int32(0)), 40, memory=300.0)[0][0]

    r, x = jnp.linspace(2.0, 2.9, 5), jnp.linspace(0.1, 0.6, 5)
    reverse = jax.vmap(jax.grad(final))(r, x)
    forward = jax.vmap(jax.jacfwd(final))(r, x)
    one_by_one = [jax.grad(final)(*one) for one in zip(r, x, strict=True)]
    np.testing.assert_allclose(reverse, forward, rtol=1e-12)
    np.testing.assert_allclose(reverse, one_by_one, rtol=1e-12)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_state_and_a_step_are_counted_right(pairs):
    """Of a list a step keeps the indices and the number of columns, of the rest mainly positions and images."""
    step, state = liquid(1.0, BOX, pairs)
    size, residuals = bytes_of(step, state)
    assert size == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    indices = state.pairs.indices.size * 4
    assert indices < residuals < indices + 5 * state.positions.size * 8


@pytest.mark.parametrize("every", [1, 10, 37])
@pytest.mark.parametrize("steps", [1, 97, 10_000, 10_007])
def test_segments_fit_into_the_memory_with_the_fewest_levels(steps, every):
    size, residuals = 200, 250
    levels = []
    for memory in (1e9, 1e5, 2.5e4, 1.2e4):
        lengths = segments(steps, size, residuals, memory, every=every)
        levels.append(len(lengths))
        outer, states = steps, 0
        for length in lengths:
            states += math.ceil(outer / length)
            assert length % every == 0 or length < every
            outer = length
        assert states * size + outer * residuals <= memory
        best = (len(lengths) + 1) * (steps * size ** len(lengths) * residuals) ** (1 / (len(lengths) + 1))
        assert states * size + outer * residuals <= 1.25 * best + size + residuals
    assert levels == sorted(levels)
    assert levels[0] == 0


def test_segments_divide_the_trajectory_where_they_can():
    """A remainder compiles one more copy of the step."""
    for steps in (1000, 1024, 10_000, 86_400):
        lengths = segments(steps, 100, 100, 400 * steps**0.5)
        assert steps % lengths[0] == 0


LONG = r"""
import functools, pathlib, re, jax, jax.numpy as jnp, numpy as np
from dmdenv.integrators import NVE
from dmdenv.neighbors import allocate
from dmdenv.potentials import lennard_jones
from dmdenv.differentiation import rollout
from dmdenv.space import Periodic

side, n = 5, 500
cell = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
corners = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
box = (n / 1.0) ** (1 / 3)
positions = jnp.asarray((corners + cell).reshape(-1, 3) * box / side)
velocities = 0.1 * jax.random.normal(jax.random.key(0), (n, 3))
pairs = allocate(Periodic(box), positions, cutoff=2.5, skin=0.3)

def final(epsilon):
    potential, nve = lennard_jones(epsilon=epsilon, truncation="force_shifted"), NVE(dt=0.005)
    state = nve.init(potential, Periodic(box), positions, velocities=velocities, pairs=pairs)
    state, _ = rollout(functools.partial(nve.step, potential), state, 10_000, memory=MEMORY)
    return jnp.sum(state.velocities[:, 0] ** 2), state.overflow

reverse = jax.jit(jax.grad(final, has_aux=True)).lower(1.0).compile()
print(reverse.memory_analysis().temp_size_in_bytes)
gradient, overflow = reverse(1.0)
# the peak of this program alone: that of `resource` begins with what the process was forked from
peak = re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]
print(float(gradient), bool(overflow), 1024 * int(peak))
one = jnp.float32(1.0)
print(float(jax.jit(lambda e: jax.jvp(lambda e: final(e)[0], (e,), (one,))[1])(one)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1e9, 2e7])
def test_ten_thousand_steps_of_500_particles_differentiate_within_2_gigabytes(memory):
    """A crystal, whose gradient stays finite where that of a liquid grows by a factor of 10 every 100 steps."""
    code = LONG.replace("MEMORY", repr(memory))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    temporary, gradient, overflow, peak, forward = done.stdout.split()
    assert float(temporary) < memory
    assert float(peak) < 2e9
    assert overflow == "False"
    np.testing.assert_allclose(float(gradient), float(forward), rtol=2e-3)
