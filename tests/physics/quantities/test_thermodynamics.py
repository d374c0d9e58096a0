"""Temperature, pressure and stress against closed forms and derivatives of the energy."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import lattice, quantities
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import lennard_jones
from dmdenv.space import Periodic, Triclinic
from fluids import BOX, CELL, assert_gradient_is_right, neighbor_list, random_fluid, soft
from systems import central_difference

pytestmark = pytest.mark.usefixtures("x64")


def test_temperature_is_twice_the_kinetic_energy_a_degree_of_freedom():
    v = np.array([[1.0, 2.0], [0.0, -3.0], [2.0, 0.0]])
    m = np.array([1.0, 2.0, 0.5])
    np.testing.assert_allclose(quantities.kinetic_energy(v, m), 0.5 * (5 + 18 + 2))
    np.testing.assert_allclose(quantities.kinetic_energy(v), 0.5 * (5 + 9 + 4))
    np.testing.assert_allclose(quantities.temperature(v, m), 25 / 6)
    np.testing.assert_allclose(quantities.temperature(v, m, constraints=2), 25 / 4)


def test_an_ideal_gas_has_its_pressure():
    v = np.random.default_rng(0).normal(size=(50, 3))
    m = np.random.default_rng(1).uniform(1, 2, 50)
    r = random_fluid(np.diag(BOX), 50)
    nothing = lennard_jones(epsilon=0.0)
    p = pressure(nothing, Periodic(BOX), r, AllPairs(), velocities=v, masses=m)
    np.testing.assert_allclose(p, 50 * quantities.temperature(v, m) / np.prod(BOX), rtol=1e-12)
    stress = stress_tensor(nothing, Periodic(BOX), r, AllPairs(), velocities=v, masses=m)
    np.testing.assert_allclose(stress, -np.einsum("i,ia,ib->ab", m, v, v) / np.prod(BOX), rtol=1e-12)


stress_tensor = jax.jit(quantities.stress_tensor)
pressure = jax.jit(quantities.pressure)


@pytest.mark.parametrize(("cell", "listed"), [(np.diag(BOX), False), (CELL, True)], ids=["box", "cell, list"])
def test_pressure_and_stress_are_derivatives_of_the_energy(cell, listed):
    space = Triclinic(cell)
    r = random_fluid(cell)
    pairs = neighbor_list() if listed else AllPairs()
    volume = np.linalg.det(cell)

    @jax.jit
    def energy_at(potential, strain):
        deformation = jnp.eye(3) + strain
        return potential.energy(Triclinic(cell @ deformation.T), r @ deformation.T, pairs)

    energy = functools.partial(energy_at, soft())
    stress = np.asarray(stress_tensor(soft(), space, r, pairs))
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]:  # upper triangular strains keep the cell's form
        direction = np.zeros((3, 3))
        direction[a, b] = 1.0
        expected = central_difference(energy, np.zeros((3, 3)), direction, 1e-5) / volume
        np.testing.assert_allclose(stress[a, b], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(stress[b, a], stress[a, b], rtol=1e-10)
    expected = -central_difference(energy, np.zeros((3, 3)), np.eye(3), 1e-5) / (3 * volume)
    np.testing.assert_allclose(-np.trace(stress) / 3, expected, rtol=1e-6)


def test_pressure_of_the_lammps_benchmark():
    """Step 0 of bench/in.lj: 32,000 atoms, T = 1.44, p = -5.0197073; its kinetic part is known exactly."""
    space, r = lattice.fcc(5, density=0.8442)
    kinetic = 1.44 * 0.8442 * (1 - 1 / 32_000)
    p = pressure(lennard_jones(cutoff=2.5), space, r, AllPairs())
    np.testing.assert_allclose(p + kinetic, -5.0197073, atol=1e-6)


def test_pressure_is_differentiable_in_positions_velocities_box_and_potential():
    r, v = random_fluid(np.diag(BOX)), np.random.default_rng(3).normal(size=(60, 3))

    def at(x):
        return quantities.pressure(soft(x["k"]), Periodic(x["box"]), x["r"], AllPairs(), velocities=x["v"])

    flat, restore = jax.flatten_util.ravel_pytree({"k": jnp.asarray(3.0), "box": BOX, "r": r, "v": v})
    assert_gradient_is_right(lambda x: at(restore(x)), flat)
