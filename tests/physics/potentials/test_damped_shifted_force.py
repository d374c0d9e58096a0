"""The damped shifted force against its closed form and Madelung constants; its derivatives are in `test_contract`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs
from dmdenv.potentials import BySpecies, PerParticle, damped_shifted_force
from dmdenv.space import Free, Periodic

pytestmark = pytest.mark.usefixtures("x64")

CUTOFF = 3.0


@jax.jit
def evaluate(potential, space, r):
    return potential.energies(space, r, AllPairs()), potential.forces(space, r, AllPairs())


def closed_form(r: float, alpha: float) -> tuple[float, float]:
    """Energy and force of two unit charges, as Fennell and Gezelter write them."""

    def force(r):
        gauss = 2 * alpha / math.sqrt(math.pi) * math.exp(-((alpha * r) ** 2)) / r
        return math.erfc(alpha * r) / r**2 + gauss

    shift = math.erfc(alpha * CUTOFF) / CUTOFF
    return math.erfc(alpha * r) / r - shift + force(CUTOFF) * (r - CUTOFF), force(r) - force(CUTOFF)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_a_pair_has_the_energy_and_force_of_the_closed_form(alpha):
    potential = damped_shifted_force(
        charges=np.array([1.5, -0.5]), damping=alpha, cutoff=CUTOFF, coulomb_constant=2.0, self_energy=False
    )
    for distance in (0.3, 1.7, 2.9999999):
        r = jnp.array([[0.0, 0.0, 0.0], [0.0, distance, 0.0]])
        energies, forces = evaluate(potential, Free(), r)
        energy, force = closed_form(distance, alpha)
        np.testing.assert_allclose(energies, 2.0 * -0.75 * energy / 2, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(forces[1], [0, 2.0 * -0.75 * force, 0], rtol=1e-11, atol=1e-13)
    energies, forces = evaluate(potential, Free(), r.at[1, 1].set(CUTOFF))
    np.testing.assert_array_equal(energies, 0)
    np.testing.assert_array_equal(forces, 0)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_self_energy_is_half_of_what_a_pair_at_no_distance_has_beyond_coulombs(alpha):
    charges = np.array([1.5, -0.5])
    potential = damped_shifted_force(charges=charges, damping=alpha, cutoff=CUTOFF, coulomb_constant=2.0)
    energies, _ = evaluate(potential, Free(), jnp.array([[0.0, 0.0], [0.0, 9.0]]))
    near = 1e-5
    np.testing.assert_allclose(energies, charges**2 * (closed_form(near, alpha)[0] - 1 / near), rtol=3e-5)


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.0, 3e-2), (0.7, 1e-3)])
def test_a_crystal_has_nearly_its_madelung_energy(alpha, tolerance):
    sites = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    potential = damped_shifted_force(charges=(-1.0) ** np.sum(sites, axis=1), damping=alpha, cutoff=3.9)
    energies, forces = evaluate(potential, Periodic(8.0), jnp.asarray(sites, float))
    np.testing.assert_allclose(-2 * energies, 1.747564594633, rtol=tolerance)
    np.testing.assert_allclose(forces, 0, atol=1e-12)


def test_charges_may_be_given_for_all_for_each_and_by_species():
    r = jnp.asarray(np.random.default_rng(0).uniform(0, 3, (6, 3)))
    kinds, of_kind = np.arange(6) % 3, np.array([0.8, -1.2, 0.4])
    each = of_kind[kinds]
    expected = evaluate(damped_shifted_force(charges=each, damping=0.4, cutoff=CUTOFF), Free(), r)
    for same in (PerParticle(each, mix="product"), BySpecies(np.outer(of_kind, of_kind), kinds)):
        found = evaluate(damped_shifted_force(charges=same, damping=0.4, cutoff=CUTOFF), Free(), r)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    alike = evaluate(damped_shifted_force(charges=np.full(6, -0.8), cutoff=CUTOFF), Free(), r)
    for one, other in zip(evaluate(damped_shifted_force(charges=-0.8, cutoff=CUTOFF), Free(), r), alike, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charges": np.ones((2, 2))}, r"charges has shape \(2, 2\); must be \[\] or \[n\]"),
        ({"charges": [1.0, np.nan]}, r"charges = .*nan.*; must be a finite number"),
        ({"charges": PerParticle(np.ones(2))}, "charges has mix = 'arithmetic'; must be 'product'"),
        ({"damping": -0.1}, "damping = -0.1; must be a finite number >= 0"),
        ({"cutoff": 0.0}, "cutoff = 0.0; must be a finite number > 0"),
        ({"coulomb_constant": 0.0}, "coulomb_constant = 0.0; must be a finite number > 0"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        damped_shifted_force(**{"charges": 1.0, "cutoff": 2.0, **changes})
