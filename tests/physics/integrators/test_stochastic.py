"""Langevin, Brownian and Bussi's dynamics against closed forms; velocities drawn at a temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dmdenv.integrators import Brownian, Bussi, Langevin, maxwell_boltzmann
from dmdenv.space import Free
from marks import by_default
from systems import INTEGRATORS, Well, conserved, run, run_long, smooth_lennard_jones, started

pytestmark = pytest.mark.usefixtures("x64")


# --- Langevin and Brownian --------------------------------------------------------------------------------------------


def squares(method, potential, state):
    return jnp.mean(state.positions**2), jnp.mean(state.masses[:, None] * state.velocities**2)


def test_langevin_is_exact_in_the_positions_of_a_harmonic_well():
    """<x^2> = T / k at any stable step; <m v^2> = T (1 - (w dt)^2 / 4) (Leimkuhler and Matthews 2013)."""
    k, m, T, n = 2.0, 0.5, 0.7, 20_000
    for w_dt in (1.2, 0.4):
        method = Langevin(dt=w_dt / np.sqrt(k / m), temperature=T, friction=1.0)
        state = method.init(Well(k), Free(), jnp.zeros((n, 1)), masses=m, key=jax.random.key(0))
        _, (xx, mvv) = run_long(method, Well(k), state, 400, squares)
        # 400 steps hold at least 25 independent draws: a standard error below 0.2 %
        np.testing.assert_allclose(np.mean(xx[100:]), T / k, rtol=0.008)
        np.testing.assert_allclose(np.mean(mvv[100:]), T * (1 - w_dt**2 / 4), rtol=0.008)


def test_langevin_diffuses_as_the_ornstein_uhlenbeck_process_does():
    """<|r|^2> = 2 d D (t - (1 - exp(-g t)) / g), D = T / (m g), for each mass and friction."""
    T, n, dt, steps = 0.7, 20_000, 0.02, 300
    g, m = np.array([1.0, 4.0]), np.array([2.0, 0.5])
    method = Langevin(dt=dt, temperature=T, friction=jnp.asarray(np.repeat(g, n // 2)))
    state = method.init(Well(0.0), Free(), jnp.zeros((n, 2)), masses=np.repeat(m, n // 2), key=jax.random.key(0))
    end, _ = run_long(method, Well(0.0), state, steps)
    t = dt * steps
    found = np.sum(np.asarray(end.positions).reshape(2, -1, 2) ** 2, axis=-1).mean(axis=1)
    expected = 4 * T / (m * g) * (t - (1 - np.exp(-g * t)) / g)
    np.testing.assert_allclose(found, expected, rtol=4 / np.sqrt(n // 2))
    np.testing.assert_allclose(end.time, t)


def test_brownian_particles_diffuse():
    """<|r|^2> = 2 d D dt (steps - 1/2), D = T / (m g)."""
    T, n, dt, steps = 0.7, 20_000, 0.02, 40
    g, m = np.array([1.0, 4.0]), np.array([2.0, 0.5])
    method = Brownian(dt=dt, temperature=T, friction=jnp.asarray(np.repeat(g, n // 2)))
    state = method.init(Well(0.0), Free(), jnp.zeros((n, 2)), masses=np.repeat(m, n // 2), key=jax.random.key(0))
    end, _ = run_long(method, Well(0.0), state, steps)
    found = np.sum(np.asarray(end.positions).reshape(2, -1, 2) ** 2, axis=-1).mean(axis=1)
    np.testing.assert_allclose(found, 4 * T / (m * g) * dt * (steps - 0.5), rtol=4 / np.sqrt(n // 2))
    assert not np.any(end.velocities)


def test_brownian_is_exact_in_a_harmonic_well():
    """<x^2> = T / k also at k dt / (m g) = 1.2, where Euler-Maruyama has T / k / (1 - 0.6)."""
    k, m, g, T, n = 2.0, 0.5, 3.0, 0.7, 20_000
    method = Brownian(dt=1.2 * m * g / k, temperature=T, friction=g)
    state = method.init(Well(k), Free(), jnp.zeros((n, 1)), masses=m, key=jax.random.key(0))
    _, (xx, _) = run_long(method, Well(k), state, 100, squares)
    np.testing.assert_allclose(np.mean(xx[20:]), T / k, rtol=0.01)


@pytest.mark.parametrize("name", by_default(["langevin", "bussi"], "langevin"))
def test_the_energy_less_the_heat_is_conserved_to_the_order_of_the_time_step(name):
    """Over the same time with a step of a quarter: the error of second order falls 16 times, if noise helps not."""

    def deviation(dt, steps):
        method = INTEGRATORS[name](dt)
        state = started(method)
        end, H = run_long(method, smooth_lennard_jones(), state, steps, conserved)
        assert abs(end.bath_energy) > 1.0
        return np.std(H)

    coarse, fine = deviation(0.004, 200), deviation(0.001, 800)
    assert coarse < 0.1
    assert fine < coarse / 6


def test_the_heat_of_brownian_particles_is_exact_where_forces_are_linear():
    """The work against a linear force is that of its mean over the step."""
    method = Brownian(dt=0.3, temperature=0.7, friction=1.0)
    state = method.init(Well(1.5), Free(), jnp.ones((10, 2)), key=jax.random.key(0))
    end, H = run(method, Well(1.5), state, 50, conserved)
    assert abs(end.bath_energy) > 1.0
    np.testing.assert_allclose(H, method.conserved(Well(1.5), state), rtol=1e-12)


# --- stochastic velocity rescaling ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bussi_draws_the_kinetic_energy_from_the_gamma_distribution():
    """K of N degrees of freedom is gamma distributed with shape N / 2 and scale T, for odd N and even."""
    T, systems = 0.7, 4000
    for n, d in ((3, 2), (2, 3)):
        method = Bussi(dt=0.1, temperature=T, relaxation_time=0.1)

        def one(key, n=n, d=d, method=method):
            state = method.init(Well(0.0), Free(), jnp.zeros((n, d)), velocities=jnp.eye(n, d) - 1 / n, key=key)
            return run(method, Well(0.0), state, 20)[0].kinetic_energy

        K = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), systems))
        assert scipy.stats.kstest(K, scipy.stats.gamma(d * (n - 1) / 2, scale=T).cdf).pvalue > 0.01


def test_bussi_relaxes_the_kinetic_energy_as_its_stochastic_equation_says():
    """From K0 the mean is Kt + (K0 - Kt) c and the variance 4 (Kt / N) (1 - c) (c K0 + (1 - c) Kt / 2)."""
    T, N, K0, draws = 0.7, 5, 4.0, 100_000
    method = Bussi(dt=0.3, temperature=T, relaxation_time=1.0)
    keys = jax.random.split(jax.random.key(0), draws)
    factor = jax.jit(jax.vmap(lambda key: method.scale(key, jnp.asarray(K0), jnp.asarray(float(N)))))(keys)
    K, Kt, c = K0 * np.asarray(factor) ** 2, N * T / 2, np.exp(-0.3)
    variance = 4 * Kt / N * (1 - c) * (c * K0 + (1 - c) * Kt / 2)
    np.testing.assert_allclose(K.mean(), Kt + (K0 - Kt) * c, atol=4 * np.sqrt(variance / draws))
    np.testing.assert_allclose(K.var(), variance, rtol=0.03)


def test_bussi_leaves_particles_at_rest_and_keeps_their_derivatives_finite():
    method = Bussi(dt=0.1, temperature=0.5, relaxation_time=1.0)
    state = method.init(Well(0.0), Free(), jnp.zeros((2, 2)), velocities=jnp.zeros((2, 2)), key=jax.random.key(0))

    def end(state):
        return jnp.sum(run(method, Well(0.0), state, 3)[0].velocities)

    slope = jax.grad(lambda v: end(state.replace(velocities=v)))(state.velocities)
    assert end(state) == 0
    assert np.all(np.isfinite(slope))


# --- initial velocities -----------------------------------------------------------------------------------------------


def test_velocities_have_the_temperature_and_no_momentum():
    m = jnp.linspace(0.5, 3.0, 20_000)
    v = np.asarray(maxwell_boltzmann(jax.random.key(0), m, 0.7, 3))
    np.testing.assert_allclose(m @ v, 0.0, atol=1e-10)
    for part in np.split(np.asarray(m)[:, None] * v**2, 4):
        np.testing.assert_allclose(part.mean(), 0.7, rtol=4 * np.sqrt(2 / part.size))
    exact = maxwell_boltzmann(jax.random.key(0), m[:5], 0.7, 3, exact_temperature=True)
    np.testing.assert_allclose(jnp.sum(m[:5, None] * exact**2), 3 * 4 * 0.7)
    one = maxwell_boltzmann(jax.random.key(0), m[:1], 0.7, 2, zero_momentum=False, exact_temperature=True)
    np.testing.assert_allclose(jnp.sum(m[:1, None] * one**2), 2 * 0.7)
    slope = jax.grad(lambda T: jnp.sum(maxwell_boltzmann(jax.random.key(0), m[:9], T, 3) ** 2))(0.7)
    np.testing.assert_allclose(slope, np.sum(maxwell_boltzmann(jax.random.key(0), m[:9], 1.0, 3) ** 2))
