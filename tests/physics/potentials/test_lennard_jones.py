"""Lennard-Jones against published numbers: NIST's configuration, LAMMPS' crystal, virial coefficient, tails."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones, tail_energy, tail_pressure
from dmdenv.space import Free, Periodic

pytestmark = pytest.mark.usefixtures("x64")

NIST = pathlib.Path(__file__).parents[2] / "data" / "nist_lj_config4.xyz"


@jax.jit
def evaluate(potential, space, r, pairs):
    return potential.energy(space, r, pairs), potential.forces(space, r, pairs), potential.virial(space, r, pairs)


@pytest.mark.parametrize(
    ("truncation", "cutoff", "energy"),
    [("truncated", 3.0, -16.790), ("truncated", 4.0, -17.060), ("force_shifted", 3.0, -15.001)],
)
def test_the_lennard_jones_energy_is_that_of_nist(truncation, cutoff, energy):
    r = jnp.asarray(np.loadtxt(NIST, skiprows=2, usecols=(1, 2, 3)))
    potential = lennard_jones(cutoff=cutoff, truncation=truncation)
    found, _, virial = evaluate(potential, Periodic(8.0), r, AllPairs())
    assert abs(found - energy) < 5e-4 * (1 + 1e-9)
    if (truncation, cutoff) == ("truncated", 3.0):
        assert abs(jnp.trace(virial) - -46.249) < 5e-4
        tail = len(r) * tail_energy(cutoff=cutoff, density=len(r) / 8.0**3)
        assert abs(tail - -0.54517) < 5e-6


def fcc(cells: int, density: float) -> tuple[np.ndarray, float]:
    basis = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    edge = (4 / density) ** (1 / 3)
    return (corners + basis).reshape(-1, 3) * edge, cells * edge


@pytest.mark.slow
def test_the_lennard_jones_crystal_has_the_energy_and_pressure_of_lammps():
    """LAMMPS' bench/in.lj at its first step: 32,000 atoms, velocities of temperature 1.44."""
    density, temperature = 0.8442, 1.44
    r, side = fcc(20, density)
    space, r = Periodic(side), jnp.asarray(r)
    pairs = allocate(space, r, cutoff=2.5, skin=0.3)
    energy, forces, virial = evaluate(lennard_jones(), space, r, pairs)
    n = len(r)
    assert abs(energy / n - -6.7733681) < 5e-8
    pressure = density * temperature * (n - 1) / n + jnp.trace(virial) / (3 * side**3)
    assert abs(pressure - -5.0197073) < 5e-8
    np.testing.assert_allclose(forces, 0, atol=1e-10)


def test_the_second_virial_coefficient_of_lennard_jones_is_that_of_its_series():
    """B2 = -2 pi int (exp(-u / T) - 1) r^2 dr, by quadrature of the energy of two particles, at T = 0.8.

    The series in 1 / T: Hirschfelder, Curtiss and Bird, Molecular Theory of Gases and Liquids (1954), eq. 3.6-6; their
    table I-B has -3.73422 for it, in units of 2 pi / 3.
    """
    temperature = 0.8
    potential, edges = (
        lennard_jones(cutoff=np.inf),
        np.concatenate([np.linspace(0.3, 3, 28), np.geomspace(3.5, 200, 40)]),
    )
    x, w = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    r, w = (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()

    @jax.jit
    @jax.vmap
    def energy(r):
        return potential.energy(Free(), jnp.zeros((2, 3)).at[1, 0].set(r), AllPairs())

    core = 0.3**3 / 3
    tail = 4 / (3 * 200.0**3) / temperature  # of exp(-u / T) - 1 = 4 / (T r^6)
    integral = np.sum(w * np.expm1(-np.asarray(energy(r)) / temperature) * r**2) - core + tail
    series = sum(
        -(2 ** (j + 0.5)) / (4 * math.factorial(j)) * math.gamma((2 * j - 1) / 4) * temperature ** (-(2 * j + 1) / 4)
        for j in range(60)
    )
    assert abs(series - -3.73422) < 1e-5
    np.testing.assert_allclose(-3 * integral, series, rtol=1e-10)


def test_the_tail_is_the_integral_beyond_the_cutoff():
    """U / N = 2 pi density int u r^2 dr and p = -(2 pi / 3) density^2 int u' r^3 dr, by quadrature."""
    epsilon, sigma, cutoff, density = 1.3, 0.9, 2.0, 0.7
    x, w = np.polynomial.legendre.leggauss(60)
    y = (1 + x) / 2 / cutoff  # y = 1 / r
    w = w / 2 / cutoff
    u = 4 * epsilon * ((sigma * y) ** 12 - (sigma * y) ** 6)
    slope = -4 * epsilon * (12 * sigma**12 * y**13 - 6 * sigma**6 * y**7)
    energy = 2 * math.pi * density * np.sum(w * u / y**4)
    pressure = -2 / 3 * math.pi * density**2 * np.sum(w * slope / y**5)
    options = {"epsilon": epsilon, "sigma": sigma, "cutoff": cutoff, "density": density}
    np.testing.assert_allclose(tail_energy(**options), energy, rtol=1e-12)
    np.testing.assert_allclose(tail_pressure(**options), pressure, rtol=1e-12)


def test_tails_are_differentiable():
    slope = jax.grad(lambda density: tail_energy(cutoff=2.5, density=density))(0.5)
    np.testing.assert_allclose(slope, tail_energy(cutoff=2.5, density=1.0), rtol=1e-6)


@pytest.mark.parametrize("tail", [tail_energy, tail_pressure])
def test_what_has_no_tail_is_refused(tail):
    for name, value in (("cutoff", 0.0), ("cutoff", True), ("cutoff", [2.5]), ("density", -1.0), ("sigma", 1j)):
        with pytest.raises(ValueError, match=re.escape(f"{name} = {value!r}; must be a finite number")):
            tail(**{"cutoff": 2.5, "density": 0.5, name: value})
