"""The Ewald sum against constants of crystals, derivatives of its energy, other cells, and another code."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import PerParticle, Sum, ewald, lennard_jones
from dmdenv.space import Free, Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("x64")

N = 10
RNG = np.random.default_rng(0)
SITES = (np.stack(np.unravel_index(np.arange(N), (2, 2, 3)), axis=1) + RNG.uniform(0.3, 0.7, (N, 3))) / (2, 2, 3)
CHARGES = RNG.uniform(0.5, 1.5, N) * (-1) ** np.arange(N)
CHARGES -= CHARGES.mean()
SPACES = {
    "sheared": lambda: Triclinic(np.array([[5.4, 0, 0], [1.9, 5.5, 0], [-1.8, 2.4, 5.8]])),
    "box": lambda: Periodic(np.array([5.4, 6.2, 5.8])),
    "cube": lambda: Periodic(5.6),
}


def positions(space) -> jax.Array:
    """Off a lattice, some of them outside of the cell."""
    turns = np.random.default_rng(1).integers(-1, 2, (N, 3))
    return space.from_fractional(jnp.asarray(SITES + turns))


@jax.jit
def properties(potential, space, r, pairs):
    return {
        "energy": potential.energy(space, r, pairs),
        "energies": potential.energies(space, r, pairs),
        "forces": potential.forces(space, r, pairs),
        "virial": potential.virial(space, r, pairs),
    }


@jax.jit
def energy(potential, space, r):
    return potential.energy(space, r, AllPairs())


@jax.jit
def slopes(potential, space, r):
    """By parameters, space and positions."""
    return jax.grad(lambda *at: at[0].energy(*at[1:], AllPairs()), argnums=(0, 1, 2))(potential, space, r)


def same(found, expected, tolerance: float) -> None:
    for name in expected:
        scale = np.max(np.abs(expected[name]))
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


# --- constants of crystals --------------------------------------------------------------------------------------------

SALT = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
BODY_CENTRED = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
CRYSTALS = {  # side, sites, charges, energy per ion in units of q^2 over a length, that length
    "NaCl": (2.0, SALT, (-1.0) ** SALT.sum(axis=1), -1.747564594633 / 2, 1.0),
    "CsCl": (1.0, BODY_CENTRED, [1.0, -1.0], -1.762674773070 / 2, np.sqrt(3) / 2),
    # Wigner's crystal of electrons in their background, by the radius of a sphere for each
    "bcc electrons": (1.0, BODY_CENTRED, [-1.0, -1.0], -0.895929255682, (3 / (8 * np.pi)) ** (1 / 3)),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_madelung_constants(name):
    side, sites, charges, constant, length = CRYSTALS[name]
    space = Periodic(side)
    potential = ewald(charges=charges, space=space, accuracy=1e-11, background=True, coulomb_constant=3.0)
    found = energy(potential, space, jnp.asarray(sites, float)) / len(sites)
    assert abs(found * length / 3.0 - constant) < 1e-10


# --- derivatives ------------------------------------------------------------------------------------------------------


def strained(space, r, strain):
    deformation = np.eye(3) + strain
    if isinstance(space, Triclinic):
        return space.replace(cell=space.cell @ deformation.T), r @ deformation.T
    box = space.box * (np.diag(deformation) if space.box.ndim else deformation[0, 0])
    return space.replace(box=box), r @ deformation.T


def strains(space) -> list[np.ndarray]:
    """Directions in which the box may deform and stay of its kind."""
    if isinstance(space, Triclinic):
        return [np.eye(3)[:, [a]] * np.eye(3)[[b]] for a in range(3) for b in range(a, 3)]
    return [np.diag(row) for row in np.eye(3)] if space.box.ndim else [np.eye(3)]


@pytest.mark.parametrize("kind", ["sheared", *(pytest.param(name, marks=pytest.mark.slow) for name in ("box", "cube"))])
def test_forces_virial_and_gradients_are_derivatives_of_the_energy(kind):
    space, rng, h = SPACES[kind](), np.random.default_rng(2), 1e-4
    r = positions(space)
    potential = ewald(charges=CHARGES, space=space, accuracy=1e-12, cutoff=2.6, coulomb_constant=1.4, background=True)
    found = properties(potential, space, r, AllPairs())
    by_potential, by_space, by_positions = slopes(potential, space, r)
    np.testing.assert_allclose(np.sum(found["energies"]), found["energy"], rtol=1e-12)
    np.testing.assert_allclose(found["forces"], -by_positions, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(np.sum(found["forces"], axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(found["virial"], found["virial"].T, atol=1e-11)
    # of a potential that falls as 1 / r the virial's trace is the energy
    np.testing.assert_allclose(np.trace(found["virial"]), found["energy"], rtol=1e-9)

    def slope(moved):
        """d/dh by four points, whose error is of the order of h^4."""
        step = [float(energy(*moved(k * h))) for k in (-2, -1, 1, 2)]
        return (step[0] - 8 * step[1] + 8 * step[2] - step[3]) / (12 * h)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8)
    for v in rng.normal(size=(3, N, 3)):
        close(-np.sum(found["forces"] * v), slope(lambda h, v=v: (potential, space, r + h * v)))
    for e in strains(space):
        close(-np.sum(found["virial"] * e), slope(lambda h, e=e: (potential, *strained(space, r, h * e))))
    v = rng.normal(size=N)  # with a sum
    charged = slope(lambda h: (potential.replace(charges=potential.charges + h * v), space, r))
    close(np.sum(by_potential.charges * v), charged)
    assert abs(by_potential.splitting) < 1e-8  # of which the energy is independent
    (leaf,), (by_leaf,) = jax.tree.leaves(space), jax.tree.leaves(by_space)
    v = np.tril(rng.normal(size=leaf.shape)) if leaf.ndim == 2 else rng.normal(size=leaf.shape)

    def in_a_box_moved_by(h):
        return potential, jax.tree.unflatten(jax.tree.structure(space), [leaf + h * v]), r

    close(np.sum(by_leaf * v), slope(in_a_box_moved_by))


def test_no_derivative_scatters():
    space = SPACES["sheared"]()
    r = positions(space)
    potential = ewald(charges=CHARGES, space=space, accuracy=1e-3, cutoff=1.8)

    def total(potential, space, r, pairs):
        return potential.energy(space, r, pairs) + jnp.sum(potential.energies(space, r, pairs) ** 2)

    for pairs in (AllPairs(), allocate(space, r, cutoff=1.8, skin=0.2)):
        gradient = jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(potential, space, r, pairs)
        second = jax.make_jaxpr(jax.grad(lambda r, pairs=pairs: jnp.sum(potential.forces(space, r, pairs) ** 2)))(r)
        virial = jax.make_jaxpr(lambda r, pairs=pairs: potential.virial(space, r, pairs))(r)
        assert "dot_general" in str(gradient)
        assert all("scatter" not in str(jaxpr) for jaxpr in (gradient, second, virial))


# --- one lattice, many sums -------------------------------------------------------------------------------------------


def test_the_splitting_the_cell_and_a_list_change_nothing():
    space = SPACES["sheared"]()
    r = positions(space)
    expected = properties(ewald(charges=CHARGES, space=space, accuracy=1e-10), space, r, AllPairs())
    # the same lattice by other edges; less in real space; a list, and a sum with another potential
    other = Triclinic(space.cell + np.array([[0, 0, 0], [1, 0, 0], [0, -1, 0]], float) @ np.asarray(space.cell))
    short = ewald(charges=PerParticle(CHARGES), space=other, accuracy=1e-10, cutoff=2.1)
    pairs = allocate(other, r, cutoff=2.1, skin=0.2)
    repulsion = lennard_jones(sigma=0.5, cutoff=1.5)
    found = properties(short + repulsion, other, r, pairs)
    rest = properties(repulsion, other, r, pairs)
    assert isinstance(short + repulsion, Sum)
    same({name: found[name] - rest[name] for name in found}, expected, 1e-8)


def test_a_net_charge_in_its_background_has_an_energy_that_the_splitting_does_not_change():
    space = SPACES["box"]()
    r, charges = positions(space), CHARGES + 0.3
    for_each = [
        ewald(charges=charges, space=space, accuracy=1e-9, cutoff=2.7, splitting=splitting, background=True)
        for splitting in (1.7, 2.1)
    ]
    one, other = (energy(potential, space, r) for potential in for_each)
    np.testing.assert_allclose(one, other, rtol=1e-8)


def test_a_batch_is_a_loop():
    boxes = jnp.asarray([5.4, 6.1, 5.8])
    spaces = jax.vmap(Periodic)(boxes)
    potential = ewald(charges=CHARGES, space=Periodic(5.4), accuracy=1e-4)
    r = jnp.asarray(SITES)[None] * boxes[:, None, None]
    batch = jax.vmap(properties, (None, 0, 0, None))(potential, spaces, r, AllPairs())
    for q, box in enumerate(boxes):
        single = properties(potential, Periodic(box), r[q], AllPairs())
        same(jax.tree.map(lambda x, q=q: x[q], batch), single, 1e-12)


def test_single_precision_is_kept():
    space = Periodic(np.float32(5.6))
    potential = ewald(charges=CHARGES, space=space, accuracy=1e-5)
    r = positions(space)
    expected = properties(potential, space, r, AllPairs())
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (potential, space, r, AllPairs()))
    found = properties(*single)
    assert all(value.dtype == np.float32 for value in found.values())
    same(found, expected, 1e-5)


@pytest.mark.parametrize("accuracy", [1e-2, pytest.param(1e-4, marks=pytest.mark.slow)])
def test_errors_of_forces_are_as_large_as_promised(accuracy):
    rng = np.random.default_rng(3)
    space, n = Periodic(6.0), 60
    r, charges = jnp.asarray(rng.uniform(0, 6, (n, 3))), rng.normal(size=n)
    charges -= charges.mean()

    def forces(accuracy, cutoff):
        potential = ewald(charges=charges, space=space, accuracy=accuracy, cutoff=cutoff)
        return potential, properties(potential, space, r, AllPairs())["forces"]

    _, expected = forces(1e-9, 3.0)
    potential, found = forces(accuracy, 2.5)
    scale = np.mean(charges**2) / (216 / n) ** (2 / 3)
    error = np.sqrt(np.mean(np.sum((found - expected) ** 2, axis=1))) / scale
    promised = np.linalg.norm(potential.force_error(space))
    assert promised <= np.sqrt(2) * accuracy * (1 + 1e-9)
    assert 0.25 * promised < error < 2 * promised


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charges": [1.0, -0.5]}, "charges add up to 0.5; must be 0, or background = True"),
        ({"charges": 0.0}, r"charges has shape \(\); must be \[n\]"),
        ({"charges": np.ones((2, 1))}, r"charges has shape \(2, 1\); must be"),
        ({"space": Free()}, r"space = Free\(\); must be periodic"),
        ({"space": Periodic(np.ones(2))}, "must have three dimensions for an Ewald sum"),
        ({"space": Triclinic(np.eye(2))}, "must have three dimensions for an Ewald sum"),
        ({"accuracy": 0.0}, "accuracy = 0.0; must be a finite number > 0"),
        ({"accuracy": 1.0}, "accuracy = 1.0; must be > 0 and < 1"),
        ({"cutoff": 3.1}, "cutoff = 3.1; must be at most 3, for a pair to have one image"),
        ({"splitting": -1.0}, "splitting = -1.0; must be a finite number > 0"),
        ({"coulomb_constant": 0.0}, "coulomb_constant = 0.0; must be a finite number > 0"),
    ],
)
def test_what_has_no_ewald_sum_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ewald(**{"charges": [1.0, -1.0], "space": Periodic(6.0), **changes})


def test_what_does_not_fit_the_charges_is_refused_or_not_a_number():
    space = Periodic(6.0)
    potential = ewald(charges=[1.0, -1.0], space=space, accuracy=0.1)
    with pytest.raises(ValueError, match=r"positions has shape \(3, 3\); must be \[2, 3\], one per charge"):
        potential.energy(space, jnp.ones((3, 3)), AllPairs())
    with pytest.raises(ValueError, match="three dimensions"):
        potential.energy(space, jnp.ones((2, 2)), AllPairs())
    with pytest.raises(ValueError, match="must be periodic"):
        potential.energy(Free(), jnp.ones((2, 3)), AllPairs())
    with pytest.raises(ValueError, match="charges add up to 2"):
        potential.replace(charges=[1.0, 1.0])
    with pytest.raises(ValueError, match="space is traced; must be concrete"):
        jax.jit(lambda box: ewald(charges=[1.0, -1.0], space=Periodic(box)).cutoff)(6.0)

    @jax.jit
    def with_charges(charges, r):
        now = potential.replace(charges=charges)
        return now.energy(space, r, AllPairs()), now.forces(space, r, AllPairs())

    r = jnp.asarray([[0.0, 0.0, 0.0], [1.0, 2.0, 0.5]])
    assert all(np.isfinite(x).all() for x in with_charges(jnp.asarray([0.5, -0.5]), r))
    assert all(np.isnan(x).all() for x in with_charges(jnp.asarray([0.5, -0.4]), r))
    assert all(np.isnan(x).any() for x in with_charges(jnp.asarray([0.5, -0.5]), r.at[0, 0].set(np.nan)))


# --- another code -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["box", "sheared"])
def test_energy_and_forces_are_those_of_openmms_particle_mesh(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openmm = pytest.importorskip("openmm")
    space = {"box": Periodic(np.array([3.0, 3.4, 3.2])), "sheared": Triclinic(SPACES["sheared"]().cell)}[kind]
    rng, n = np.random.default_rng(6), 40
    edges = np.asarray(space.cell_vectors(3))
    r, charges = rng.uniform(0, 1, (n, 3)) @ edges, (-1.0) ** np.arange(n)
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*[openmm.Vec3(*map(float, edge)) for edge in edges])
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(1.4)
    force.setEwaldErrorTolerance(1e-7)
    for charge in charges:
        system.addParticle(1.0)
        force.addParticle(float(charge), 1.0, 0.0)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions([openmm.Vec3(*map(float, x)) for x in r])
    state = context.getState(getEnergy=True, getForces=True)
    expected = np.asarray(state.getForces(asNumpy=True)._value)
    constant = 138.93545764438198  # kJ nm / (mol e^2), as OpenMM has it
    potential = ewald(charges=charges, space=space, accuracy=1e-9, coulomb_constant=constant)
    found = properties(potential, space, jnp.asarray(r), AllPairs())
    np.testing.assert_allclose(found["energy"], state.getPotentialEnergy()._value, rtol=1e-5)
    np.testing.assert_allclose(found["forces"], expected, atol=1e-5 * np.abs(expected).max())
