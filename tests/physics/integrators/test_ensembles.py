"""Long runs: the drift of the energy, and the ensembles of the thermostats by the `physical_validation` package."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.integrators import NVE, Bussi, Langevin, NoseHoover
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones
from dmdenv.space import Periodic
from systems import crystal

pytestmark = pytest.mark.slow


@functools.partial(jax.jit, static_argnames=("samples", "every"))
def sample(method, potential, state, *, samples: int, every: int):
    """The last state, and kinetic, potential and conserved energy after each `every` steps."""

    def observed(state, _):
        state, _ = jax.lax.scan(lambda s, _: (method.step(potential, s), None), state, None, length=every)
        U = potential.energy(state.space, state.positions, state.pairs)
        return state, (state.kinetic_energy, U, method.conserved(potential, state))

    state, energies = jax.lax.scan(observed, state, None, length=samples)
    return state, jnp.stack(energies)


# --- drift ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-4), ("float64", 5e-5)])
def test_the_energy_of_a_liquid_of_a_thousand_atoms_does_not_drift(dtype, bound, capsys):
    """Density 0.8442, temperature about 0.7, dt = 0.005, 100,000 steps: the drift over the whole run, a particle."""
    with jax.enable_x64(dtype == "float64"):
        r, side = crystal(10, 0.8442, basis=((0.0, 0.0, 0.0),), noise=0.02)
        r, space = jnp.asarray(r, dtype), Periodic(side)
        potential = lennard_jones(truncation="force_shifted")
        pairs = allocate(space, r, cutoff=2.5, skin=0.3, slack=1.4)
        warm = Langevin(dt=0.002, temperature=0.75, friction=2.0)
        state = warm.init(potential, space, r, pairs=pairs, key=jax.random.key(0))
        state, _ = sample(warm, potential, state, samples=1, every=5000)
        v = state.velocities - jnp.mean(state.velocities, axis=0, keepdims=True)
        state = NVE(dt=0.005).init(potential, space, state.positions, velocities=v, pairs=state.pairs)
        end, energies = sample(NVE(dt=0.005), potential, state, samples=2000, every=50)
        assert not end.overflow
    K, _, H = np.asarray(energies, float) / len(r)
    time = np.linspace(0.0, 1.0, len(H))
    (slope, _), covariance = np.polyfit(time, H, 1, cov=True)
    with capsys.disabled():
        print(
            f"\n{dtype}: drift over 1e5 steps {slope:+.2e} +- {covariance[0, 0] ** 0.5:.0e} a particle,"
            f" fluctuation {np.std(H - slope * time):.1e}, temperature {2 / 3 * K.mean():.3f}"
        )
    assert 0.6 < 2 / 3 * K.mean() < 0.9
    assert abs(slope) < bound


# --- ensembles --------------------------------------------------------------------------------------------------------

THERMOSTATS = {
    "nose_hoover": (lambda T: NoseHoover(dt=0.004, temperature=T, relaxation_time=0.3), 3),
    "langevin": (lambda T: Langevin(dt=0.004, temperature=T, friction=2.0), 0),
    "bussi": (lambda T: Bussi(dt=0.004, temperature=T, relaxation_time=0.3), 3),
}
ATOMS, DENSITY, TEMPERATURES = 108, 0.6, (1.2, 1.35)


@pytest.fixture
def physical_validation():
    """The package; one of those that it imports turns on float64 for the whole process, which is turned back."""
    before = jax.config.jax_enable_x64
    yield pytest.importorskip("physical_validation")
    jax.config.update("jax_enable_x64", before)


@pytest.mark.filterwarnings("ignore")  # those of packages that are only compared with
@pytest.mark.parametrize("name", THERMOSTATS)
def test_kinetic_energy_and_ensemble_are_canonical(name, physical_validation, capsys):
    """At two temperatures each: kinetic energies gamma distributed, and P_1(E) / P_2(E) ~ exp((b_2 - b_1) E)."""
    make, fixed = THERMOSTATS[name]
    potential = lennard_jones(truncation="force_shifted")
    r, side = crystal(3, DENSITY)
    runs = []
    for T in TEMPERATURES:
        state = make(T).init(
            potential, Periodic(side), jnp.asarray(r, "float32"), pairs=AllPairs(), key=jax.random.key(0)
        )
        state, _ = sample(make(T), potential, state, samples=500, every=20)
        _, energies = sample(make(T), potential, state, samples=10_000, every=20)
        runs.append(np.asarray(energies, float))
    data = [
        as_simulation(physical_validation, T, side**3, fixed, K, U)
        for T, (K, U, _) in zip(TEMPERATURES, runs, strict=True)
    ]
    deviations = {
        f"kinetic energy at {T} (mean, width)": physical_validation.kinetic_energy.distribution(
            one, strict=False, verbosity=0, bootstrap_seed=1
        )
        for T, one in zip(TEMPERATURES, data, strict=True)
    }
    for what, total in (("potential", False), ("total", True)):
        deviations[f"ratio of {what} energies"] = physical_validation.ensemble.check(
            *data, total_energy=total, verbosity=0, bootstrap_seed=1
        )
    with capsys.disabled():
        for what, sigmas in deviations.items():
            print(f"\n{name}: {what}: {', '.join(f'{sigma:.2f}' for sigma in np.ravel(sigmas))} sigma", end="")
    assert all(np.all(np.abs(sigmas) < 3.0) for sigmas in deviations.values())


def as_simulation(package, temperature, volume, fixed, kinetic, potential):
    """What was measured, in the package's terms; `fixed` degrees of freedom belong to the conserved momentum."""
    data = package.data
    ones = "energy length volume temperature pressure time".split()
    units = data.UnitData(kb=1.0, **{f"{name}_conversion": 1.0 for name in ones})
    return data.SimulationData(
        units=units,
        ensemble=data.EnsembleData("NVT", natoms=ATOMS, volume=volume, temperature=temperature),
        system=data.SystemData(
            natoms=ATOMS, nconstraints=0, ndof_reduction_tra=fixed, ndof_reduction_rot=0, mass=np.ones(ATOMS)
        ),
        observables=data.ObservableData(
            kinetic_energy=kinetic, potential_energy=potential, total_energy=kinetic + potential
        ),
    )
