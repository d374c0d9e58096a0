"""What all quantities have in common: batches, precision, bad input."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import quantities
from dmdenv.neighbors import AllPairs
from dmdenv.space import Free, Periodic, Triclinic
from fluids import BOX, CELL, EDGES, neighbor_list, random_fluid, soft

pytestmark = pytest.mark.usefixtures("x64")

INTEGERS = np.array([[1, 0, 0], [2, -1, 3]])


@jax.jit
def measured(potential, box, r, v):
    space, pairs = Periodic(box), AllPairs()
    edges = jnp.asarray(EDGES, r.dtype)
    return {
        "temperature": quantities.temperature(v),
        "stress": quantities.stress_tensor(potential, space, r, pairs, velocities=v),
        "g": quantities.radial_distribution(space, r, pairs, edges),
        "smooth g": quantities.radial_distribution(space, r, pairs, edges, broadening=0.1),
        "s": quantities.structure_factor(space, r, INTEGERS),
        "msd": quantities.mean_squared_displacement_series(jnp.stack([r, r + v])),
        "psi": quantities.bond_order(Periodic(box[:2]), r[:, :2], pairs, cutoff=1.5),
        "q": quantities.averaged_steinhardt(space, r, pairs, l=4, cutoff=1.5, onset=1.2),
        "polar": quantities.polar_order(v),
        "contacts": quantities.contact_numbers(space, r, pairs, diameter=1.0),
        "size": quantities.radius_of_gyration(quantities.unfold(space, r)),
    }


@pytest.mark.slow
def test_a_batch_equals_a_loop():
    batch = (
        BOX + np.random.default_rng(0).uniform(0, 1, (3, 3)),
        np.stack([random_fluid(np.diag(BOX), 30, seed) for seed in range(3)]),
        np.random.default_rng(1).normal(size=(3, 30, 3)),
    )
    together = jax.jit(jax.vmap(measured, (None, 0, 0, 0)))(soft(), *batch)
    for k in range(3):
        alone = measured(soft(), *(x[k] for x in batch))
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, atol=1e-10), together, alone)


def test_single_precision_stays_single_precision():
    example = (soft(), BOX, random_fluid(np.diag(BOX), 30), np.zeros((30, 3)))
    found = jax.eval_shape(measured, *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), example))
    dtypes = {name: str(leaf.dtype) for name, leaf in found.items()}
    assert dtypes == {**dict.fromkeys(found, "float32"), "psi": "complex64", "contacts": "int32"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_passed_on(value):
    """Contact numbers, which are whole, are -1."""
    box, r, v = BOX, random_fluid(np.diag(BOX), 30), np.random.default_rng(0).normal(size=(30, 3))
    whole = measured(soft(), box, r, v)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(whole)) and np.all(whole["contacts"] >= 0)
    r[7, 1], v[3] = value, value
    broken = measured(soft(), box, r, v)
    assert broken.pop("contacts")[7] == -1
    assert [name for name, leaf in broken.items() if np.all(np.isfinite(leaf))] == []
    center = quantities.center(Periodic(box), r)
    assert not np.all(np.isfinite(center))


def ranged(box, edge, distance):
    """What is summed up to a distance, where nothing is known before the program runs."""
    space, pairs, potential = Periodic(box), AllPairs(), soft()
    r = random_fluid(np.diag(BOX), 30)
    return {
        "energy": potential.energy(space, r, pairs),
        "forces": potential.forces(space, r, pairs),
        "gradient": jax.grad(potential.energy, argnums=1)(space, r, pairs),
        "virial": potential.virial(space, r, pairs),
        "g": quantities.radial_distribution(space, r, pairs, edge * EDGES),
        "q": quantities.averaged_steinhardt(space, r, pairs, l=4, cutoff=distance),
        "psi": quantities.bond_order(Periodic(box[:2]), r[:, :2], pairs, cutoff=distance),
        "contacts": quantities.contact_numbers(space, r, pairs, diameter=distance),
    }


def test_what_reaches_beyond_half_a_traced_box_is_not_a_number():
    """Interactions with second images would be missing; contact numbers, which are whole, are -1."""
    compiled = jax.jit(ranged)
    whole = compiled(BOX, 1.0, 1.5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(whole)) and np.all(whole["contacts"] >= 0)
    small = compiled(0.3 * BOX, 1.0, 1.5)
    assert np.all(small.pop("contacts") == -1)
    assert [name for name, leaf in small.items() if np.any(np.isfinite(leaf))] == []
    long = compiled(BOX, 10.0, 15.0)
    assert np.all(long["contacts"] == -1)
    assert all(not np.any(np.isfinite(long[name])) for name in ("g", "q", "psi"))


# --- what is refused --------------------------------------------------------------------------------------------------

R = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantities.temperature(R, constraints=12), "constraints = 12; must be"),
        (lambda: quantities.pressure(soft(), Free(), R, AllPairs()), "space = Free.*; must be periodic"),
        (lambda: quantities.stress_tensor(soft(), Free(), R, AllPairs()), "space = Free.*; must be periodic"),
        (lambda: quantities.radial_distribution(Free(), R, AllPairs(), EDGES), "space = Free"),
        (
            lambda: quantities.radial_distribution(Periodic(5.0), R, AllPairs(), EDGES),
            r"edges\[-1\] = 2.6; must be at most 2.5 in Periodic space",
        ),
        (
            lambda: quantities.radial_distribution(Periodic(9.0), R, AllPairs(), EDGES[::-1]),
            "edges = .*; must increase",
        ),
        (
            lambda: quantities.radial_distribution(Periodic(9.0), R, AllPairs(), EDGES[:1]),
            r"edges has shape \(1,\); must be",
        ),
        (
            lambda: quantities.radial_distribution(Triclinic(CELL), random_fluid(CELL), neighbor_list(), 1.2 * EDGES),
            r"edges\[-1\] = 3.12; must be at most 2.6, the cutoff of the neighbour list",
        ),
        (lambda: quantities.wave_integers(Free(), 3, largest=3.0), "space = Free"),
        (lambda: quantities.wave_integers(Periodic(5.0), 3, largest=1.0), "largest = 1.0; must be .* about 1.25664"),
        (lambda: quantities.structure_factor(Periodic(5.0), R, np.ones((2, 2), int)), "integers has shape .*; must be"),
        (
            lambda: quantities.structure_factor(Periodic(5.0), R, np.ones((2, 3), int), chunk=0),
            "chunk = 0; must be an integer >= 1",
        ),
        (lambda: quantities.mean_squared_displacement_series(R), "trajectory has shape .*; must be"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_exported_name_resolves():
    assert all(hasattr(quantities, name) for name in quantities.__all__)
    assert list(quantities.__all__) == sorted(quantities.__all__)
