"""Integrators against closed forms and conservation laws; their derivatives against finite differences."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import dmdenv.integrators
from dmdenv.integrators import NVE, Brownian, Bussi, Filament, Integrator, Langevin, NoseHoover, maxwell_boltzmann
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones
from dmdenv.space import Free, Periodic
from marks import by_default
from systems import Well, central_difference, crystal, run

pytestmark = pytest.mark.usefixtures("x64")

EVERY = {
    "nve": lambda dt=0.002: NVE(dt=dt),
    "nose_hoover": lambda dt=0.002: NoseHoover(dt=dt, temperature=0.9, relaxation_time=0.2),
    "langevin": lambda dt=0.002: Langevin(dt=dt, temperature=0.9, friction=1.5),
    "bussi": lambda dt=0.002: Bussi(dt=dt, temperature=0.9, relaxation_time=0.2),
    "brownian": lambda dt=0.0005: Brownian(dt=dt, temperature=0.9, friction=2.0),
    "filament": lambda dt=0.0002: Filament(dt=dt, temperature=0.9, friction=2.0),
}
every = pytest.mark.parametrize("name", EVERY)


def conserved(method, potential, state):
    return method.conserved(potential, state)


def positions(method, potential, state):
    return state.positions


def momentum(method, potential, state):
    return jnp.sum(state.masses[:, None] * state.velocities, axis=0)


def smooth_lennard_jones(**parameters):
    return lennard_jones(cutoff=2.5, onset=2.0, truncation="switched", **parameters)


@functools.cache
def liquid(dtype="float64"):
    """108 particles of a Lennard-Jones liquid at density 0.8442, somewhat equilibrated: positions, velocities, side."""
    r, side = crystal(3, 0.8442)
    method = Langevin(dt=0.005, temperature=0.9, friction=1.0)
    state = method.init(smooth_lennard_jones(), Periodic(side), r, key=jax.random.key(0))
    state, _ = run(method, smooth_lennard_jones(), state, steps=1000)
    v = state.velocities - jnp.mean(state.velocities, axis=0, keepdims=True)
    return np.asarray(state.positions, dtype), np.asarray(v, dtype), side


def small_liquid():
    """16 discs in a square box: positions, masses, box."""
    r, side = crystal(4, 0.6, basis=((0.0, 0.0),), noise=0.05)
    return r, 1.0 + jnp.arange(16.0) / 8, side


def started(method, **options):
    r, v, side = liquid()
    if not isinstance(method, Brownian | Filament):
        options["velocities"] = v
    return method.init(smooth_lennard_jones(), Periodic(side), r, key=jax.random.key(1), **options)


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
    fine = run(NVE(dt=1e-4), smooth_lennard_jones(), state, 5000)[0].positions
    e = errors(smooth_lennard_jones(), state, [0.004, 0.002, 0.001], fine)
    np.testing.assert_allclose(e[:-1] / e[1:], 4.0, rtol=0.1)


@pytest.mark.parametrize("name", ["nve", "nose_hoover"])
def test_time_reversal_returns_to_the_start(name):
    start = started(EVERY[name]())
    there, _ = run(EVERY[name](), smooth_lennard_jones(), start, 300)
    assert np.max(np.abs(there.positions - start.positions)) > 0.1
    back, _ = run(EVERY[name](dt=-0.002), smooth_lennard_jones(), there, 300)
    np.testing.assert_allclose(back.positions, start.positions, atol=1e-10)
    np.testing.assert_allclose(back.velocities, start.velocities, atol=1e-10)
    np.testing.assert_allclose(back.time, 0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["nve", "nose_hoover", "bussi"])
def test_momentum_is_conserved(name):
    r, v, side = liquid()
    m = jnp.linspace(0.5, 2.0, len(r))
    v = v - jnp.sum(m[:, None] * v, axis=0, keepdims=True) / jnp.sum(m)
    method = EVERY[name]()
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
        end, energy = run(method, potential, state, 1000, conserved)
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
    _, H = run(method, smooth_lennard_jones(), state, 10_000, conserved)
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


# --- Langevin and Brownian --------------------------------------------------------------------------------------------


def squares(method, potential, state):
    return jnp.mean(state.positions**2), jnp.mean(state.masses[:, None] * state.velocities**2)


def test_langevin_is_exact_in_the_positions_of_a_harmonic_well():
    """<x^2> = T / k at any stable step; <m v^2> = T (1 - (w dt)^2 / 4) (Leimkuhler and Matthews 2013)."""
    k, m, T, n = 2.0, 0.5, 0.7, 20_000
    for w_dt in (1.2, 0.4):
        method = Langevin(dt=w_dt / np.sqrt(k / m), temperature=T, friction=1.0)
        state = method.init(Well(k), Free(), jnp.zeros((n, 1)), masses=m, key=jax.random.key(0))
        _, (xx, mvv) = run(method, Well(k), state, 400, squares)
        # 400 steps hold at least 25 independent draws: a standard error below 0.2 %
        np.testing.assert_allclose(np.mean(xx[100:]), T / k, rtol=0.008)
        np.testing.assert_allclose(np.mean(mvv[100:]), T * (1 - w_dt**2 / 4), rtol=0.008)


def test_langevin_diffuses_as_the_ornstein_uhlenbeck_process_does():
    """<|r|^2> = 2 d D (t - (1 - exp(-g t)) / g), D = T / (m g), for each mass and friction."""
    T, n, dt, steps = 0.7, 20_000, 0.02, 300
    g, m = np.array([1.0, 4.0]), np.array([2.0, 0.5])
    method = Langevin(dt=dt, temperature=T, friction=jnp.asarray(np.repeat(g, n // 2)))
    state = method.init(Well(0.0), Free(), jnp.zeros((n, 2)), masses=np.repeat(m, n // 2), key=jax.random.key(0))
    end, _ = run(method, Well(0.0), state, steps)
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
    end, _ = run(method, Well(0.0), state, steps)
    found = np.sum(np.asarray(end.positions).reshape(2, -1, 2) ** 2, axis=-1).mean(axis=1)
    np.testing.assert_allclose(found, 4 * T / (m * g) * dt * (steps - 0.5), rtol=4 / np.sqrt(n // 2))
    assert not np.any(end.velocities)


def test_brownian_is_exact_in_a_harmonic_well():
    """<x^2> = T / k also at k dt / (m g) = 1.2, where Euler-Maruyama has T / k / (1 - 0.6)."""
    k, m, g, T, n = 2.0, 0.5, 3.0, 0.7, 20_000
    method = Brownian(dt=1.2 * m * g / k, temperature=T, friction=g)
    state = method.init(Well(k), Free(), jnp.zeros((n, 1)), masses=m, key=jax.random.key(0))
    _, (xx, _) = run(method, Well(k), state, 100, squares)
    np.testing.assert_allclose(np.mean(xx[20:]), T / k, rtol=0.01)


@pytest.mark.parametrize("name", ["langevin", "bussi"])
def test_the_energy_less_the_heat_is_conserved_to_the_order_of_the_time_step(name):
    """Over the same time with a step of a quarter: the error of second order falls 16 times, if noise helps not."""

    def deviation(dt, steps):
        method = EVERY[name](dt)
        state = started(method)
        end, H = run(method, smooth_lennard_jones(), state, steps, conserved)
        assert abs(end.heat) > 1.0
        return np.std(H)

    coarse, fine = deviation(0.004, 200), deviation(0.001, 800)
    assert coarse < 0.1
    assert fine < coarse / 6


def test_the_heat_of_brownian_particles_is_exact_where_forces_are_linear():
    """The work against a linear force is that of its mean over the step."""
    method = Brownian(dt=0.3, temperature=0.7, friction=1.0)
    state = method.init(Well(1.5), Free(), jnp.ones((10, 2)), key=jax.random.key(0))
    end, H = run(method, Well(1.5), state, 50, conserved)
    assert abs(end.heat) > 1.0
    np.testing.assert_allclose(H, method.conserved(Well(1.5), state), rtol=1e-12)


# --- stochastic velocity rescaling ------------------------------------------------------------------------------------


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


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", by_default(EVERY, "nve", "langevin", "nose_hoover"))
def test_gradients_through_the_dynamics_equal_finite_differences(name):
    """By positions, parameters of the potential and of the method, masses and box, through 200 steps."""
    r, m, side = small_liquid()
    x = {
        "positions": r,
        "masses": m,
        "potential": lennard_jones(epsilon=1.1, sigma=0.98, cutoff=2.5, onset=2.0, truncation="switched"),
        "method": EVERY[name](),
        "box": jnp.asarray([side, side]),
    }

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        options = {} if name in ("brownian", "filament") else {"velocities": jnp.sin(jnp.arange(32.0)).reshape(16, 2)}
        state = x["method"].init(
            x["potential"], Periodic(x["box"]), x["positions"], masses=x["masses"], key=jax.random.key(3), **options
        )
        end, _ = run(x["method"], x["potential"], state, 200)
        return jnp.sum(jnp.sin(end.positions)) + jnp.sum(end.velocities**2)

    _, slope = loss(x)
    for part in x:
        leaves, tree = jax.tree.flatten(x[part])
        rng = np.random.default_rng(5)
        by_part = [jnp.asarray(rng.normal(size=jnp.shape(leaf)) * 0.1 * np.mean(np.abs(leaf))) for leaf in leaves]
        direction = {**jax.tree.map(jnp.zeros_like, x), part: jax.tree.unflatten(tree, by_part)}
        expected = central_difference(lambda x: loss(x)[0], x, direction, 1e-5)
        found = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope[part]), by_part, strict=True))
        assert abs(expected) > 1e-6
        np.testing.assert_allclose(found, expected, rtol=2e-6, err_msg=part)


# --- what all have in common ------------------------------------------------------------------------------------------


def assert_equal_states(found, expected, rtol=1e-12):
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", by_default(EVERY, "nve", "brownian"))
def test_jit_equals_eager_and_vmap_equals_a_loop(name):
    r, m, side = small_liquid()
    potential, method = smooth_lennard_jones(), EVERY[name]()

    @jax.jit
    def end(key, dt):
        moving = method.replace(dt=dt)
        return run(moving, potential, moving.init(potential, Periodic(side), r, masses=m, key=key), 3)[0]

    keys, dts = jax.random.split(jax.random.key(0), 3), jnp.array([0.001, 0.002, 0.003])
    together = jax.jit(jax.vmap(end))(keys, dts)
    for i in range(3):
        assert_equal_states(jax.tree.map(operator.itemgetter(i), together), end(keys[i], dts[i]))

    state = method.replace(dt=dts[0]).init(potential, Periodic(side), r, masses=m, key=keys[0])
    expected, _ = run(method.replace(dt=dts[0]), potential, state, 1)
    assert_equal_states(method.replace(dt=dts[0]).step(potential, state), expected)


@pytest.mark.parametrize("name", by_default(EVERY, "nve", "bussi"))
def test_changing_a_parameter_compiles_nothing(name):
    potential, method = smooth_lennard_jones(), EVERY[name]()
    state = started(method)
    step = jax.jit(type(method).step)
    step(method, potential, state)
    halved = jax.tree.map(lambda leaf: 0.5 * leaf, method)
    assert halved != method
    step(halved, smooth_lennard_jones(epsilon=1.5), step(method, potential, state))
    options = {field.name: 0.7 for field in dataclasses.fields(method) if field.name in ("dt", "temperature")}
    step(method.replace(**options), potential, state)
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["nve", "langevin"])
def test_a_neighbour_list_gives_the_motion_of_all_pairs(name):
    r, side = crystal(4, 0.8442, noise=0.02)
    potential, space, method = smooth_lennard_jones(), Periodic(side), EVERY[name]()
    neighbors = allocate(space, r, cutoff=2.5, skin=0.1)
    ends = []
    for pairs in (AllPairs(), neighbors):
        v = 3.0 * jnp.sin(jnp.arange(r.size)).reshape(r.shape)
        state = method.init(potential, space, r, velocities=v, pairs=pairs, key=jax.random.key(2))
        ends.append(run(method, potential, state, 40)[0])
    np.testing.assert_allclose(ends[1].positions, ends[0].positions, atol=1e-10)
    assert np.any(ends[1].pairs.positions != neighbors.positions)  # it has been rebuilt
    assert not ends[0].overflow
    assert not ends[1].overflow


def test_an_overflow_of_the_list_is_reported():
    r, side = crystal(4, 0.8442)
    neighbors = allocate(Periodic(side), r, cutoff=2.5, skin=0.1, slack=1.0)
    method = NVE(dt=0.005)
    state = method.init(smooth_lennard_jones(), Periodic(side), r, pairs=neighbors)
    assert not state.overflow
    crowded = state.replace(positions=0.8 * r)
    assert run(method, smooth_lennard_jones(), crowded, 1)[0].overflow


@pytest.mark.slow
def test_the_box_may_change_between_steps():
    """An affine compression of a crystal at rest does the work -p dV, with the pressure from the virial."""
    r, side = crystal(4, 1.2)
    potential, method = smooth_lennard_jones(), NVE(dt=1e-4)
    state = method.init(potential, Periodic(side), r, pairs=allocate(Periodic(side), r, cutoff=2.5, skin=0.2))
    before = method.conserved(potential, state)
    shrink, steps = 1 - 1e-5, 20

    @jax.jit
    def squeeze(state):
        space = Periodic(state.space.box * shrink)
        return method.step(potential, state.replace(space=space, positions=state.positions * shrink))

    work = 0.0
    for _ in range(steps):
        work -= float(jnp.trace(potential.virial(state.space, state.positions, state.pairs))) * (shrink - 1)
        state = squeeze(state)
    np.testing.assert_allclose(method.conserved(potential, state) - before, work, rtol=1e-3)


@every
def test_precision_is_that_of_the_positions(name):
    with jax.enable_x64(False):
        r, _, side = small_liquid()
        potential, method = smooth_lennard_jones(), EVERY[name]()
        state = method.init(potential, Periodic(side), jnp.asarray(r, "float32"), key=jax.random.key(0))
        end, _ = run(method, potential, state, 2)
        assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(end) if jnp.issubdtype(leaf.dtype, jnp.floating))
        assert jax.tree.structure(end) == jax.tree.structure(state)


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


BAD = {
    "NVE.dt = nan; must be a finite number": lambda: NVE(dt=np.nan),
    r"NVE.dt has shape \(2,\); must be \[\]": lambda: NVE(dt=jnp.ones(2)),
    "Langevin.dt = 0.0; must be a finite number > 0": lambda: Langevin(dt=0.0, temperature=1.0, friction=1.0),
    "Bussi.temperature = -1.0; must be a finite number >= 0": lambda: Bussi(
        dt=0.1, temperature=-1.0, relaxation_time=1.0
    ),
    r"Brownian.friction = \[1.0, -1.0\]; must be a finite number > 0": lambda: Brownian(
        dt=0.1, temperature=1.0, friction=np.array([1.0, -1.0])
    ),
    "NoseHoover.chain_length = 0; must be an integer >= 1": lambda: NoseHoover(
        dt=0.1, temperature=1.0, relaxation_time=1.0, chain_length=0
    ),
    "NoseHoover.weights = 2; must be one of 1, 3, 5, 7": lambda: NoseHoover(
        dt=0.1, temperature=1.0, relaxation_time=1.0, weights=2
    ),
    "NVE has no field 'temperature'": lambda: NVE(dt=0.1).replace(temperature=1.0),
    r"positions is int64\[2, 2\]; must be floating-point": lambda: start(r=np.ones((2, 2), int)),
    r"velocities has shape \(3, 2\); must be \(2, 2\)": lambda: start(velocities=np.ones((3, 2))),
    r"masses has shape \(3,\); must be \[\] or \[2\]": lambda: start(masses=np.ones(3)),
    r"masses = \[1.0, 0.0\]; must be a finite number > 0": lambda: start(masses=np.array([1.0, 0.0])),
    "key = None; must be a key": lambda: start(Langevin(dt=0.1, temperature=1.0, friction=1.0)),
    "key = None; must be a key .* for velocities": lambda: start(
        NoseHoover(dt=0.1, temperature=1.0, relaxation_time=1.0)
    ),
    "velocities given; must be None: Brownian": lambda: start(
        Brownian(dt=0.1, temperature=1.0, friction=1.0), velocities=np.ones((2, 2)), key=jax.random.key(0)
    ),
    "velocities given; must be None: a filament": lambda: start(
        Filament(dt=0.1, temperature=1.0, friction=1.0), velocities=np.ones((2, 2)), key=jax.random.key(0)
    ),
    r"positions has shape \(1, 2\); must be \[n, d\] with n >= 2": lambda: start(
        Filament(dt=0.1, temperature=1.0, friction=1.0), r=np.ones((1, 2)), key=jax.random.key(0)
    ),
    "degrees_of_freedom = None for one particle": lambda: start(
        Bussi(dt=0.1, temperature=1.0, relaxation_time=1.0), r=np.ones((1, 2)), key=jax.random.key(0)
    ),
    r"pairs has cutoff = 1.5; valid: at least the reach of the potential, 2.5": lambda: smooth_start(1.5),
    r"masses has shape \(\); must be \[n\]": lambda: maxwell_boltzmann(jax.random.key(0), 1.0, 1.0, 3),
    "exact_temperature = True for a single particle": lambda: maxwell_boltzmann(
        jax.random.key(0), jnp.ones(1), 1.0, 3, exact_temperature=True
    ),
}


def start(method=None, r=((0.0, 1.0), (1.0, 0.0)), **options):
    return (method or NVE(dt=0.1)).init(Well(1.0), Free(), np.asarray(r), **options)


def smooth_start(cutoff):
    r, side = crystal(3, 0.8)
    pairs = allocate(Periodic(side), r, cutoff=cutoff, skin=0.1)
    return NVE(dt=0.1).init(smooth_lennard_jones(), Periodic(side), r, pairs=pairs)


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_every_exported_name_exists_and_every_integrator_is_tested():
    exported = [getattr(dmdenv.integrators, name) for name in dmdenv.integrators.__all__]
    integrators = {c for c in exported if isinstance(c, type) and issubclass(c, Integrator)} - {Integrator}
    assert integrators == {type(make()) for make in EVERY.values()}
