"""The dynamics of a filament: against the drag of slender rods, equilibrium, diffusion and the scallop theorem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from dmdenv.integrators import Brownian, Filament
from dmdenv.integrators.filament import along_and_across, tangents
from dmdenv.potentials import cosine_signed_angles, harmonic_bonds, uniform_field
from dmdenv.space import Free
from systems import Well, run, run_long

pytestmark = pytest.mark.usefixtures("x64")


def rod(n: int, angle: float = 0.0) -> jax.Array:
    s = np.arange(n) - (n - 1) / 2
    return jnp.asarray(s[:, None] * np.array([[np.cos(angle), np.sin(angle)]]))


def flexible(n: int, turns=0.0, bond: float = 50.0, joint: float = 10.0):
    places = np.arange(n)
    bonds = harmonic_bonds(np.stack([places[:-1], places[1:]], axis=1), stiffness=bond)
    joints = np.stack([places[:-2], places[1:-1], places[2:]], axis=1)
    return bonds + cosine_signed_angles(joints, stiffness=joint, angle=turns)


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2])
def test_a_straight_rod_sinks_at_the_velocities_along_and_across(angle):
    """v = F / (m gamma) along itself and F / (a m gamma) across, and it does not turn (Lauga and Powers 2009)."""
    m, g, a, f, t = 1.5, 2.0, 1.8, np.array([0.0, -3.0]), 0.4
    method = Filament(dt=0.05, temperature=0.0, friction=g, anisotropy=a)
    field = uniform_field(force=f)
    end, _ = run(method, field, method.init(field, Free(), rod(6, angle), masses=m, key=jax.random.key(0)), 8)
    u = np.array([np.cos(angle), np.sin(angle)])
    v = ((f @ u) * u + (f - (f @ u) * u) / a) / (m * g)
    np.testing.assert_allclose(end.positions, rod(6, angle) + t * v[None], atol=1e-12)
    np.testing.assert_allclose(end.bath_energy, -np.sum(t * 6 * (f @ v)))  # all of the work goes into the fluid


def test_the_drag_on_a_free_filament_has_no_sum_and_no_moment():
    """Inner forces have none, and drag balances them bead by bead."""
    potential = flexible(7, turns=jnp.linspace(-0.8, 1.0, 5))
    method = Filament(dt=1e-6, temperature=0.0, friction=1.3, anisotropy=2.0)
    r = rod(7) + 0.1 * jax.random.normal(jax.random.key(0), (7, 2))
    end, _ = run(method, potential, method.init(potential, Free(), r, key=jax.random.key(0)), 1)
    v = (end.positions - r) / 1e-6
    drag = 1.3 * along_and_across(tangents(Free(), r), v, 1.0, 2.0)
    scale = np.max(np.abs(drag))
    assert scale > 1
    np.testing.assert_allclose(jnp.sum(drag, axis=0) / scale, 0.0, atol=1e-4)
    np.testing.assert_allclose(jnp.sum(r[:, 0] * drag[:, 1] - r[:, 1] * drag[:, 0]) / scale, 0.0, atol=1e-4)


@pytest.mark.slow
def test_without_noise_the_error_falls_as_the_square_of_the_time_step():
    potential = flexible(5, turns=jnp.array([0.5, -0.7, 0.9]))

    def end(dt):
        method = Filament(dt=dt, temperature=0.0, friction=1.0, anisotropy=3.0)
        state = method.init(potential, Free(), rod(5), key=jax.random.key(0))
        return run(method, potential, state, round(0.4 / dt))[0].positions

    exact = end(0.4 / 2048)
    errors = [float(jnp.max(jnp.abs(end(0.4 / k) - exact))) for k in (128, 256)]
    assert errors[0] < 1e-3
    np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.1)


@pytest.mark.slow
def test_without_anisotropy_it_is_the_brownian_dynamics_of_the_core():
    """The same path without noise but for the order of the method; the same spread in a well."""
    dt, g, m = 1e-3, 2.0, 0.5
    potential, start = flexible(5, turns=0.6), rod(5)
    ends = []
    for method in (
        Filament(dt=dt, temperature=0.0, friction=g, anisotropy=1.0),
        Brownian(dt=dt, temperature=0.0, friction=g),
    ):
        state = method.init(potential, Free(), start, masses=m, key=jax.random.key(0))
        ends.append(np.asarray(run(method, potential, state, 300)[0].positions))
    assert np.max(np.abs(ends[0] - start)) > 0.3
    np.testing.assert_allclose(ends[0], ends[1], atol=3e-3)

    n, k, T = 20_000, 2.0, 0.7
    spreads = []
    for method in (
        Filament(dt=0.1, temperature=T, friction=g, anisotropy=1.0),
        Brownian(dt=0.1, temperature=T, friction=g),
    ):
        state = method.init(Well(k), Free(), jnp.zeros((n, 1)), masses=m, key=jax.random.key(0))
        _, squares = run_long(method, Well(k), state, 40, lambda method, potential, state: jnp.mean(state.positions**2))
        spreads.append(np.asarray(squares))
    # relaxation in steps of 0.2: the midpoint rule errs by (dt k / m g)^2 / 4 of the variance
    np.testing.assert_allclose(spreads[0][20:].mean(), T / k, rtol=0.02)
    # the two of the core's first noises are shared, which leaves it half a step behind at first
    np.testing.assert_allclose(spreads[0][3:], spreads[1][3:], rtol=0.04)


@pytest.mark.slow
def test_a_rod_diffuses_more_easily_along_itself_than_across_and_turns():
    """D = T / (n m gamma), T / (a n m gamma), and T / (a m gamma sum s^2) of the angle, from short paths."""
    n, a, T, dt, copies = 5, 2.0, 0.01, 0.002, 8_000
    potential = flexible(n, bond=100.0, joint=100.0)
    method = Filament(dt=dt, temperature=T, friction=1.0, anisotropy=a)

    def path(key):
        state = method.init(potential, Free(), rod(n), key=key)
        return jax.lax.scan(lambda s, _: (method.step(potential, s), None), state, None, length=100)[0].positions

    ends = np.asarray(jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(0), copies)))
    t, s = 100 * dt, np.arange(n) - (n - 1) / 2
    x, y = ends.mean(axis=1).T
    angle = ends[:, :, 1] @ s / np.sum(s**2)
    for found, D in ((x, T / n), (y, T / (a * n)), (angle, T / (a * np.sum(s**2)))):
        np.testing.assert_allclose(found.var(), 2 * D * t, rtol=4 * np.sqrt(2 / copies) + 0.01)


@pytest.mark.slow
def test_equilibrium_has_the_drift_of_a_mobility_that_depends_on_the_configuration():
    """A dumbbell of a soft bond: p(r) ~ r exp(-k (r - 1)^2 / 2 T); without the drift T div M it were r^(1 / a) ...

    Along the bond the mobility is 1, so that the force of the missing drift is `T (1 - 1 / a) / r`.
    """
    k, T, a, copies = 4.0, 0.5, 4.0, 40_000
    bond = harmonic_bonds([[0, 1]], stiffness=k)
    method = Filament(dt=0.01, temperature=T, friction=1.0, anisotropy=a)
    start = jnp.array([[0.0, 0.0], [1.1, 0.0]])

    def path(key):
        state = method.init(bond, Free(), start, key=key)
        state = jax.lax.scan(lambda s, _: (method.step(bond, s), None), state, None, length=100)[0]
        return jnp.linalg.norm(state.positions[1] - state.positions[0])

    r = np.asarray(jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(0), copies)))

    def mean(power):
        def weight(x):
            return x**power * np.exp(-k * (x - 1) ** 2 / (2 * T))

        return quad(lambda x: x * weight(x), 0, 5)[0] / quad(weight, 0, 5)[0]

    error = r.std() / np.sqrt(copies)
    assert abs(r.mean() - mean(1.0)) < 4 * error + 0.002
    assert abs(r.mean() - mean(1.0 / a)) > 20 * error


# --- swimming ---------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("n", "steps"))
def stroke(turns, *, n: int, steps: int, anisotropy, bond):
    """The centre of a filament after each of four strokes, `[4, 2]`, whose turns at rest are `[phases, n - 2]`."""
    method = Filament(dt=0.4 / bond, temperature=0.0, friction=1.0, anisotropy=anisotropy)
    state = method.init(flexible(n), Free(), rod(n), key=jax.random.key(0))

    def phase(positions, turns):
        potential = flexible(n, turns, bond=bond)
        start = method.init(potential, Free(), positions, key=jax.random.key(0))
        end = jax.lax.scan(lambda s, _: (method.step(potential, s), None), start, None, length=steps)[0]
        return end.positions, None

    def period(positions, _):
        positions, _ = jax.lax.scan(phase, positions, turns)
        return positions, jnp.mean(positions, axis=0)

    return jax.lax.scan(period, state.positions, None, length=4)[1]


def travel(centres) -> float:
    """Over the last stroke, when the motion repeats itself."""
    return float(jnp.linalg.norm(centres[-1] - centres[-2]))


OPEN = np.concatenate([np.linspace(0.2, 1.6, 10), np.repeat(1.6, 10), np.linspace(1.6, 0.2, 50), np.repeat(0.2, 10)])
PHASES = 2 * np.pi * np.arange(20) / 20


@pytest.mark.slow
def test_a_scallop_does_not_swim_however_it_opens_and_closes():
    """One joint that opens fast and closes slowly; what is left goes as bonds stretch less (Purcell 1977)."""
    loose, stiff = (
        travel(stroke(OPEN[:, None], n=3, steps=steps, anisotropy=2.0, bond=bond))
        for bond, steps in ((50.0, 40), (200.0, 160))
    )
    opening = stroke(OPEN[:20, None], n=3, steps=40, anisotropy=2.0, bond=50.0)[0]
    assert float(jnp.linalg.norm(opening)) > 0.02  # and goes back as it closes
    assert loose < 1e-3
    assert stiff < 0.5 * loose


def test_a_travelling_wave_swims_the_other_way_and_a_standing_one_stays():
    """In a fluid without anisotropy no stroke at all moves the centre."""
    joints = np.arange(6) - 2.5
    wave, standing = np.sin(joints[None] - PHASES[:, None]), np.sin(-PHASES[:, None]) * np.ones((1, 6))
    swims = stroke(wave, n=8, steps=40, anisotropy=2.0, bond=50.0)
    back = stroke(wave[::-1], n=8, steps=40, anisotropy=2.0, bond=50.0)
    assert (swims[-1] - swims[-2])[0] < -0.3  # the wave runs along +x
    assert (back[-1] - back[-2])[0] > 0.3
    assert travel(stroke(standing, n=8, steps=40, anisotropy=2.0, bond=50.0)) < 1e-4
    assert travel(stroke(wave, n=8, steps=40, anisotropy=1.0, bond=50.0)) < 1e-12
