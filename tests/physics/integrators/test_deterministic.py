"""Velocity Verlet and Nose-Hoover chains against closed forms and conservation laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.integrators import NVE, NoseHoover
from dmdenv.space import Free, Periodic
from systems import (
    INTEGRATORS,
    Well,
    conserved,
    liquid,
    momentum,
    positions,
    run,
    run_long,
    smooth_lennard_jones,
    started,
)

pytestmark = pytest.mark.usefixtures("x64")


# --- velocity Verlet --------------------------------------------------------------------------------------------------


def test_nve_solves_the_harmonic_oscillator_as_the_discrete_closed_form_says():
    """Velocity Verlet turns phase space with cos(w' dt) = 1 - (w dt)^2 / 2 and v scaled by sqrt(1 - (w dt)^2 / 4)."""
    k, m, dt, steps = 3.0, np.array([0.5, 2.0]), 0.1, 200
    r, v = np.array([[1.0, 0.3], [-0.4, 0.2]]), np.array([[0.1, -0.7], [0.5, 0.9]])
    state = NVE(dt=dt).init(Well(k), Free(), r, velocities=v, masses=m)
    _, found = run(NVE(dt=dt), Well(k), state, steps, positions)
    w = np.sqrt(k / m)[None, :, None]
    turn = np.arccos(1 - (w * dt) ** 2 / 2) * np.arange(1, steps + 1)[:, None, None]
    exact = r * np.cos(turn) + v / (w * np.sqrt(1 - (w * dt) ** 2 / 4)) * np.sin(turn)
    np.testing.assert_allclose(found, exact, atol=1e-12)


def errors(potential, state, dts, reference) -> np.ndarray:
    """Largest deviation in the positions at time 0.5."""
    ends = [run(NVE(dt=dt), potential, state, round(0.5 / dt))[0].positions for dt in dts]
    return np.array([np.max(np.abs(end - reference)) for end in ends])


def test_the_error_of_nve_falls_as_the_square_of_the_time_step():
    r, v = np.array([[1.0, 0.3]]), np.array([[0.1, -0.7]])
    well = Well(9.0)
    exact = r * np.cos(1.5) + v / 3 * np.sin(1.5)
    e = errors(well, NVE(dt=1.0).init(well, Free(), r, velocities=v), [0.05, 0.025, 0.0125], exact)
    np.testing.assert_allclose(e[:-1] / e[1:], 4.0, rtol=0.01)

    state = started(NVE(dt=1.0))
    fine = run_long(NVE(dt=1e-4), smooth_lennard_jones(), state, 5000)[0].positions
    e = errors(smooth_lennard_jones(), state, [0.004, 0.002, 0.001], fine)
    np.testing.assert_allclose(e[:-1] / e[1:], 4.0, rtol=0.1)


@pytest.mark.parametrize("name", ["nve", "nose_hoover"])
def test_time_reversal_returns_to_the_start(name):
    start = started(INTEGRATORS[name]())
    there, _ = run(INTEGRATORS[name](), smooth_lennard_jones(), start, 300)
    assert np.max(np.abs(there.positions - start.positions)) > 0.1
    back, _ = run(INTEGRATORS[name](dt=-0.002), smooth_lennard_jones(), there, 300)
    np.testing.assert_allclose(back.positions, start.positions, atol=1e-10)
    np.testing.assert_allclose(back.velocities, start.velocities, atol=1e-10)
    np.testing.assert_allclose(back.time, 0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["nve", "nose_hoover", "bussi"])
def test_momentum_is_conserved(name):
    r, v, side = liquid()
    m = jnp.linspace(0.5, 2.0, len(r))
    v = v - jnp.sum(m[:, None] * v, axis=0, keepdims=True) / jnp.sum(m)
    method = INTEGRATORS[name]()
    state = method.init(smooth_lennard_jones(), Periodic(side), r, velocities=v, masses=m, key=jax.random.key(0))
    _, p = run(method, smooth_lennard_jones(), state, 500, momentum)
    assert np.max(np.abs(p)) < 1e-11


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_energy_of_a_liquid_does_not_drift(dtype):
    """A thousand steps of 0.005: fluctuations of 1e-3 a particle, and a slope of their size at most, 3e-4."""
    with jax.enable_x64(dtype == "float64"):
        r, v, side = liquid(dtype)
        potential, method = smooth_lennard_jones(), NVE(dt=0.005)
        state = method.init(potential, Periodic(side), jnp.asarray(r), velocities=jnp.asarray(v))
        end, energy = run_long(method, potential, state, 1000, conserved)
        assert end.positions.dtype == end.velocities.dtype == end.time.dtype == dtype
    energy = np.asarray(energy, float) / len(r)
    slope = np.polyfit(np.linspace(0, 1, len(energy)), energy, 1)[0]
    assert np.std(energy) < 1e-3
    assert abs(slope) < 3e-4
    assert np.ptp(energy) > 1e-6  # it has moved


# --- Nose-Hoover chains -----------------------------------------------------------------------------------------------


def test_nose_hoover_conserves_its_invariant():
    method = NoseHoover(dt=2e-4, temperature=0.9, relaxation_time=0.2)
    state = started(method)
    _, H = run_long(method, smooth_lennard_jones(), state, 10_000, conserved)
    H0 = method.conserved(smooth_lennard_jones(), state)
    assert np.max(np.abs(H - H0)) < 1e-6 * abs(H0)


@pytest.mark.parametrize(("chain_length", "weights"), [(1, 1), (2, 3), (5, 5), (3, 7)])
def test_the_invariant_of_every_chain_errs_by_the_square_of_the_time_step(chain_length, weights):
    r, v = jnp.array([[1.0, 0.2], [-0.3, 0.8]]), jnp.array([[0.1, 0.6], [1.4, -0.5]])

    def error(dt):
        method = NoseHoover(
            dt=dt,
            temperature=0.7,
            relaxation_time=0.5,
            degrees_of_freedom=4,
            chain_length=chain_length,
            weights=weights,
            substeps=2,
        )
        state = method.init(Well(1.0), Free(), r, velocities=v, masses=jnp.array([1.0, 2.0]))
        _, H = run(method, Well(1.0), state, 200, conserved)
        return np.max(np.abs(H - method.conserved(Well(1.0), state)))

    coarse, fine = error(0.05), error(0.025)
    assert coarse < 5e-3
    assert coarse > 2.5 * fine


def test_more_suzuki_yoshida_weights_integrate_the_chain_more_accurately():
    """Free particles: all the error is the chain's."""
    v = jnp.array([[1.5, -0.4], [0.2, 0.9]])

    def error(weights):
        method = NoseHoover(
            dt=0.05, temperature=0.5, relaxation_time=1.0, degrees_of_freedom=4, chain_length=3, weights=weights
        )
        state = method.init(Well(0.0), Free(), jnp.zeros((2, 2)), velocities=v)
        _, H = run(method, Well(0.0), state, 100, conserved)
        return np.max(np.abs(H - method.conserved(Well(0.0), state)))

    one, three, seven = error(1), error(3), error(7)
    assert one > 100 * three > 100 * 100 * seven


def test_a_chain_makes_one_oscillator_canonical_where_a_single_thermostat_does_not():
    """Martyna, Klein and Tuckerman (1992): the moments of position and velocity are those of Gaussians."""
    T, walkers = 0.8, 64
    angle = 2 * np.pi * np.arange(walkers) / walkers

    def moments(chain_length):
        method = NoseHoover(
            dt=0.05, temperature=T, relaxation_time=1.0, degrees_of_freedom=1, chain_length=chain_length
        )

        def one(angle):
            r, v = jnp.cos(angle) * jnp.ones((1, 1)), jnp.sin(angle) * jnp.ones((1, 1))
            state = method.init(Well(1.0), Free(), r, velocities=v)
            _, xv = run(method, Well(1.0), state, 8000, lambda m, p, s: jnp.stack([s.positions, s.velocities]))
            return jnp.stack([jnp.mean(xv**2, axis=0), jnp.mean(xv**4, axis=0)])

        return np.mean(jax.jit(jax.vmap(one))(angle), axis=0)[..., 0, 0]

    gaussian = np.array([[T, T], [3 * T**2, 3 * T**2]])
    np.testing.assert_allclose(moments(4), gaussian, rtol=0.08)
    assert np.max(np.abs(moments(1) / gaussian - 1)) > 0.2
