"""Energy functions of one's own as potentials."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.differentiation import rollout
from dmdenv.integrators import NVE
from dmdenv.minimizers import FIRE, minimize
from dmdenv.neighbors import AllPairs, allocate, neighbor_sum
from dmdenv.potentials import from_energy, harmonic_bonds
from dmdenv.space import Free, Periodic

BONDS = np.stack([np.arange(5), np.arange(1, 6)], axis=1)
START = np.array([[q, 0.3 * (-1) ** q] for q in range(6)], float)


def chain(positions, space, stiffness):
    lengths = jnp.linalg.norm(space.displacement(positions[1:], positions[:-1]), axis=-1)
    return 0.5 * stiffness * jnp.sum((lengths - 1) ** 2)


@pytest.mark.usefixtures("x64")
def test_integrators_and_minimisers_take_an_energy_function():
    own, known = from_energy(chain, stiffness=20.0), harmonic_bonds(BONDS, stiffness=20.0, length=1.0)
    method, space = NVE(dt=0.01), Free()
    ends = [
        rollout(functools.partial(method.step, potential), method.init(potential, space, START), 50)[0]
        for potential in (own, known)
    ]
    np.testing.assert_allclose(ends[0].positions, ends[1].positions, rtol=1e-11, atol=1e-12)
    fire = FIRE(dt=0.1)
    rest = minimize(fire, own, fire.init(own, space, START), tolerance=1e-8, max_steps=2000)
    assert own.energy(space, rest.state.positions, AllPairs()) < 1e-15


@pytest.mark.usefixtures("x64")
def test_a_function_over_neighbours_sees_the_list():
    def crowding(positions, space, pairs):
        def count(a, b):
            return jnp.maximum(1 - jnp.sum(space.displacement(a, b) ** 2), 0.0) ** 2

        return neighbor_sum(count, positions, pairs, parity=1)

    potential, space = from_energy(crowding, cutoff=1.0), Periodic(6.0)
    r = 6 * jax.random.uniform(jax.random.key(0), (60, 2))
    assert potential.cutoff == 1.0
    pairs = allocate(space, r, cutoff=1.0, skin=0.2)
    for quantity in ("energies", "forces", "virial"):
        found, expected = (np.asarray(getattr(potential, quantity)(space, r, p)) for p in (pairs, AllPairs()))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_one_energy_is_shared_equally_and_added_to_others():
    potential = from_energy(chain, stiffness=2.0)
    energies = potential.energies(Free(), START, AllPairs())
    np.testing.assert_allclose(energies, potential.energy(Free(), START, AllPairs()) / 6, rtol=1e-6)
    both = potential + harmonic_bonds(BONDS, stiffness=2.0, length=1.0)
    np.testing.assert_allclose(both.energies(Free(), START, AllPairs()).sum(), 2 * energies.sum(), rtol=1e-6)
    assert potential.cutoff == 0


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((3.0,), {}, TypeError, "function = 3.0; must be a function"),
        ((chain,), {"stiffness": np.nan}, ValueError, "stiffness"),
        ((chain,), {"stiffness": {"each": np.array([1.0, np.inf])}}, ValueError, r"stiffness\['each'\]"),
        ((chain,), {"stiffness": "stiff"}, TypeError, "stiffness = 'stiff'"),
        ((chain,), {"cutoff": 0.0, "stiffness": 1.0}, ValueError, "cutoff = 0"),
    ],
)
def test_what_is_no_energy_function_is_refused(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        from_energy(*arguments, **keywords)


@pytest.mark.parametrize("returned", [np.zeros((6, 2)), np.zeros(5), np.arange(6)])
def test_what_is_no_energy_is_refused(returned):
    potential = from_energy(lambda positions, space: jnp.asarray(returned))
    with pytest.raises(ValueError, match=r"must be an energy \[\], or one per particle \[6\]"):
        potential.energies(Free(), START, AllPairs())
