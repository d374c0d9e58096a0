"""Averages over long simulations are those that others published: the whole chain from lattice to quantity at once.

A tolerance is four standard errors of the simulation (from blocks of the trajectory, or from its chains) plus what the
references themselves leave open; where a number is to be met within a fraction, the standard error is held below half
of it. `pytest -m slow -s tests/test_published_numbers.py` prints what was found.

References: NIST Standard Reference Simulation Website, Lennard-Jones fluid, NVT Monte Carlo; the equations of state are
compared by Thol et al., J. Phys. Chem. Ref. Data 45, 023101 (2016); the melts: Kremer and Grest, J. Chem. Phys. 92,
5057 (1990).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from dmdenv.integrators import Langevin, NoseHoover
from dmdenv.lattice import chain_melt, random
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import fene_bonds, lennard_jones, pair_potential, tail_energy, tail_pressure, wca
from dmdenv.quantities import end_to_end_distance, pressure, radius_of_gyration
from dmdenv.simulation import Recorder, simulate
from dmdenv.space import norm


def run(integrator, potential, state, steps: int, observe=None, every: int = 10):
    """The state after some steps, and the observations on the way."""
    recorder = Recorder()
    step = Partial(type(integrator).step, integrator, potential)
    state = simulate(step, state, steps, observe=observe, every=every, writers=[recorder], progress=False)
    return state, recorder.observations


def neighbours(space, positions, *, cutoff: float, skin: float):
    """All pairs of a small system, which compile faster; else a list."""
    if len(positions) <= 300:
        return AllPairs()
    return allocate(space, positions, cutoff=cutoff, skin=skin, slack=1.4)


def mean_and_error(series: np.ndarray, blocks: int = 10) -> tuple[float, float]:
    """The mean of a time series, and its standard error from the means of blocks."""
    series = np.asarray(series, float)
    means = series[len(series) % blocks :].reshape(blocks, -1).mean(1)
    return means.mean(), means.std(ddof=1) / math.sqrt(blocks)


def check(name: str, found: float, error: float, published: float, tolerance: float) -> None:
    line = f"{name}: {found:.5g} +- {error:.2g}, published {published:.5g}, tolerance {tolerance:.2g}"
    print(line)
    assert abs(found - published) < tolerance, line


# --- Lennard-Jones fluids ---------------------------------------------------------------------------------------------


def energy_and_pressure(potential, state):
    energy = potential.energy(state.space, state.positions, state.pairs) / len(state.positions)
    p = pressure(potential, state.space, state.positions, state.pairs, velocities=state.velocities)
    return energy, p


def fluid_averages(integrator, *, count: int, density: float, cutoff: float, equilibration: int, steps: int):
    """Energy a particle and pressure of the full potential: each the mean and its standard error."""
    space, positions = random(count, key=jax.random.key(0), density=density, dimension=3, min_distance=0.9)
    potential = lennard_jones(cutoff=cutoff)
    pairs = neighbours(space, positions, cutoff=cutoff, skin=0.4)
    state = integrator.init(potential, space, positions, pairs=pairs, key=jax.random.key(1))
    state, _ = run(integrator, potential, state, equilibration)
    observe = Partial(energy_and_pressure, potential)
    state, _ = run(integrator, potential, state, equilibration, observe)
    _, (energies, pressures) = run(integrator, potential, state, steps, observe)
    (u, u_error), (p, p_error) = mean_and_error(energies), mean_and_error(pressures)
    u, p = u + tail_energy(cutoff=cutoff, density=density), p + tail_pressure(cutoff=cutoff, density=density)
    return u, u_error, p, p_error


def check_fluid(averages, *, energy: float, pressure: float, energy_spread: float, pressure_spread: float) -> None:
    u, u_error, p, p_error = averages
    check("energy", u, u_error, energy, 4 * u_error + energy_spread)
    check("pressure", p, p_error, pressure, 4 * p_error + pressure_spread)


@pytest.mark.slow
def test_a_short_simulation_has_the_energy_and_pressure_of_nist():
    thermostat = NoseHoover(dt=0.005, temperature=0.85, relaxation_time=0.2)
    averages = fluid_averages(thermostat, count=256, density=0.776, cutoff=3.0, equilibration=1000, steps=3000)
    check_fluid(averages, energy=-5.5121, pressure=0.0067714, energy_spread=0.005, pressure_spread=0.02)
    assert averages[1] < 0.02 and averages[3] < 0.06  # standard errors, so that the tolerance means something


NIST = ((0.776, -5.5121, 0.0067714), (0.820, -5.7947, 0.55355), (0.860, -6.0305, 1.2660), (0.900, -6.2391, 2.2314))


@pytest.mark.slow
@pytest.mark.parametrize(("density", "energy", "pressure"), NIST)
def test_energy_and_pressure_of_the_liquid_are_those_of_nist(density, energy, pressure):
    """Beside the standard error: the time step's error, of order dt^2, and that of the Monte Carlo averages."""
    thermostat = NoseHoover(dt=0.004, temperature=0.85, relaxation_time=0.2)
    averages = fluid_averages(thermostat, count=500, density=density, cutoff=3.0, equilibration=5000, steps=25_000)
    check_fluid(averages, energy=energy, pressure=pressure, energy_spread=0.003, pressure_spread=0.01)
    assert averages[1] < 0.004 and averages[3] < 0.02  # standard errors, so that the tolerance means something


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "energy", "pressure"), [(1.5, -5.123, 3.28), (2.0, -4.752, 5.29)])
def test_energy_and_pressure_of_the_hot_fluid_are_those_of_the_equation_of_state(temperature, energy, pressure):
    """Published equations of state differ by up to 0.02 in the pressure, and by a like amount in the energy."""
    thermostat = Langevin(dt=0.004, temperature=temperature, friction=1.0)
    averages = fluid_averages(thermostat, count=864, density=0.8, cutoff=4.0, equilibration=3000, steps=40_000)
    check_fluid(averages, energy=energy, pressure=pressure, energy_spread=0.01, pressure_spread=0.02)
    assert averages[1] < 0.006 and averages[3] < 0.03  # standard errors, so that the tolerance means something


@pytest.mark.slow
def test_energy_and_pressure_of_the_dense_gas_are_those_of_lammps():
    """At temperature 2 and density 0.5 equations of state differ by more than a simulation errs.

    Energies a particle: -3.1501 (Kolafa and Nezbeda 1994), -3.1449 (Johnson, Zollweg and Gubbins 1993), -3.1525 (Thol
    et al. 2016), by teqp 0.23.2. LAMMPS, `lj/cut` with tail and `fix langevin`, standard error 0.001: -3.1463 with 500
    particles and cutoff 2.5, -3.1460 with 500 and 3, -3.1483 with 4,000 and 3, -3.1495 with 4,000 and 5.
    """
    thermostat = Langevin(dt=0.005, temperature=2.0, friction=0.5)
    u, u_error, p, p_error = fluid_averages(
        thermostat, count=500, density=0.5, cutoff=3.0, equilibration=5000, steps=80_000
    )
    check("energy", u, u_error, -3.1460, 4 * math.hypot(u_error, 0.001))
    check("pressure", p, p_error, 1.0708, 4 * math.hypot(p_error, 0.0033))
    assert u_error < 0.003 and p_error < 0.01  # standard errors, so that the tolerance means something


# --- bead-spring melts ------------------------------------------------------------------------------------------------


def soft_repulsion(r, amplitude, end):
    """What pushes overlapping beads apart, finite where they meet."""
    return amplitude * (1.0 + jnp.cos(math.pi * r / end))


def melt_averages(chains: int, beads: int, *, push: int, equilibration: int, steps: int, every: int = 50):
    """Each quantity's mean and standard error, at temperature 1: from blocks, or over chains where each has its own."""
    start = chain_melt(chains, beads, key=jax.random.key(0))
    bonds, end = fene_bonds(start.bonds), 2.0 ** (1.0 / 6.0)
    langevin = Langevin(dt=0.01, temperature=1.0, friction=0.5)

    def begin(potential, positions, key):
        pairs = neighbours(start.space, positions, cutoff=1.001 * end, skin=0.6)
        return langevin.init(potential, start.space, positions, pairs=pairs, key=jax.random.key(key))

    def soft(amplitude):
        return pair_potential(soft_repulsion, cutoff=1.0, cutoff_unit="end", amplitude=amplitude, end=end) + bonds

    state = begin(soft(4.0), start.positions, 1)
    for amplitude in np.linspace(4.0, 100.0, 20):
        state, _ = run(langevin, soft(amplitude), state, push // 20)
    potential = wca() + bonds

    def observe(state):
        r = state.unwrapped.reshape(chains, beads, 3)
        return {
            "bond length": jnp.mean(norm(r[:, 1:] - r[:, :-1])),
            "pressure": pressure(potential, state.space, state.positions, state.pairs, velocities=state.velocities),
            "squared end-to-end distance": end_to_end_distance(r) ** 2,
            "squared radius of gyration": radius_of_gyration(r) ** 2,
        }

    state = begin(potential, state.unwrapped, 2)
    for dt, count in ((0.001, 500), (0.01, equilibration)):
        state, _ = run(langevin.replace(dt=dt), potential, state, count, observe, every)
    _, observed = run(langevin, potential, state, steps, observe, every)
    return {
        name: mean_and_error(series) if series.ndim == 1 else mean_and_error(series.mean(0), blocks=chains)
        for name, series in observed.items()
    }


MELTS = {  # beads: pressure, mean squared end-to-end distance, mean squared radius of gyration
    5: (5.55, 5.2, 0.92),
    25: (4.97, 37.8, 6.3),
    50: (4.93, 82.7, 13.3),
}


def check_melt(averages, beads: int, *, fraction: float, errors: float) -> None:
    """Within a fraction of the published number plus some standard errors, which are below a fortieth of it."""
    check("bond length", *averages["bond length"], 0.97, 0.01)
    names = "pressure", "squared end-to-end distance", "squared radius of gyration"
    for name, published in zip(names, MELTS[beads], strict=True):
        found, error = averages[name]
        assert error < 0.025 * published, f"{name}: {found} +- {error}"
        check(f"{name}, {beads} beads", found, error, published, fraction * published + errors * error)


@pytest.mark.slow
def test_a_small_melt_of_short_chains_has_the_published_size_and_pressure():
    averages = melt_averages(60, 5, push=2000, equilibration=2000, steps=12_000)
    check_melt(averages, 5, fraction=0.02, errors=4.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beads", "chains", "equilibration", "steps"),
    [(5, 200, 5000, 50_000), (25, 160, 30_000, 500_000), (50, 140, 50_000, 900_000)],
)
def test_melts_have_the_published_size_and_pressure(beads, chains, equilibration, steps):
    """Chains forget how long they were after some 10 units of time with 5 beads, some 250 with 25, 1000 with 50."""
    averages = melt_averages(chains, beads, push=10_000, equilibration=equilibration, steps=steps)
    check_melt(averages, beads, fraction=0.05, errors=0.0)
