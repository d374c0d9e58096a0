"""Bonds, angles, dihedrals and external fields; the topology under all derivatives."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs
from dmdenv.potentials import (
    PerParticle,
    angle_potential,
    bond_potential,
    cosine_angles,
    cosine_dihedrals,
    cosine_signed_angles,
    dihedral_potential,
    external_potential,
    fene_bonds,
    harmonic_angles,
    harmonic_bonds,
    harmonic_trap,
    opls_dihedrals,
    ryckaert_bellemans_dihedrals,
    uniform_field,
)
from dmdenv.potentials.topology import topology
from dmdenv.space import Free, Periodic, Triclinic
from marks import by_default

pytestmark = pytest.mark.usefixtures("x64")

N = 30
CHAIN = np.arange(N)
BONDS = np.stack([CHAIN[:-1], CHAIN[1:]], axis=1)
ANGLES = np.stack([CHAIN[:-2], CHAIN[1:-1], CHAIN[2:]], axis=1)
DIHEDRALS = np.stack([CHAIN[:-3], CHAIN[1:-2], CHAIN[2:-1], CHAIN[3:]], axis=1)
EDGES = np.array([[6.0, 0, 0], [-1.9, 5.7, 0], [2.1, 1.7, 5.3]])


def walk(n: int = N) -> np.ndarray:
    """A random chain of bonds near 1, much longer than the box."""
    steps = np.random.default_rng(1).normal(size=(n, 3))
    return np.cumsum(steps / np.linalg.norm(steps, axis=1)[:, None] * np.linspace(0.8, 1.2, n)[:, None], axis=0)


def same_energy(x):
    return x


# --- other codes ------------------------------------------------------------------------------------------------------

OWN = np.random.default_rng(2).uniform(0.5, 2.0, N)
F, C = (1.5, -0.3, 0.8, 0.2), (9.28, 12.16, -13.12, -3.06, 26.24, -31.5)
RB = " + ".join(f"{c} * cos(theta - {np.pi})^{n}" for n, c in enumerate(C))
# ours, OpenMM's kind of force, its expression with p a number of each term
TWINS = {
    "harmonic_bonds": (
        lambda: harmonic_bonds(BONDS, stiffness=OWN[: N - 1], length=0.9),
        ("Bond", BONDS, "p * (r - 0.9)^2 / 2"),
    ),
    "fene_bonds": (
        lambda: fene_bonds(BONDS, stiffness=OWN[: N - 1]),
        ("Bond", BONDS, "-0.5 * p * 1.5^2 * log(1 - (r / 1.5)^2)"),
    ),
    "harmonic_angles": (
        lambda: harmonic_angles(ANGLES, stiffness=3.0, angle=OWN[: N - 2]),
        ("Angle", ANGLES, "1.5 * (theta - p)^2"),
    ),
    "cosine_angles": (
        lambda: cosine_angles(ANGLES, stiffness=OWN[: N - 2]),
        ("Angle", ANGLES, "p * (1 + cos(theta))"),
    ),
    "cosine_dihedrals": (
        lambda: cosine_dihedrals(DIHEDRALS, coefficients=(0.5, OWN[: N - 3]), phases=(0.3, -0.7)),
        ("Torsion", DIHEDRALS, "0.5 * (1 + cos(theta - 0.3)) + p * (1 + cos(2 * theta + 0.7))"),
    ),
    "opls_dihedrals": (
        lambda: opls_dihedrals(DIHEDRALS, coefficients=(*F[:3], OWN[: N - 3])),
        (
            "Torsion",
            DIHEDRALS,
            f"({F[0]} * (1 + cos(theta)) + {F[1]} * (1 - cos(2 * theta)) + {F[2]} * (1 + cos(3 * theta))"
            " + p * (1 - cos(4 * theta))) / 2",
        ),
    ),
    "ryckaert_bellemans_dihedrals": (
        lambda: ryckaert_bellemans_dihedrals(DIHEDRALS, coefficients=C),
        ("Torsion", DIHEDRALS, f"{RB} + 0 * p"),
    ),
}


@pytest.mark.parametrize("name", by_default(TWINS, "fene_bonds", "harmonic_angles", "opls_dihedrals"))
def test_energy_and_forces_are_those_of_openmm(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openmm = pytest.importorskip("openmm")
    ours, (kind, particles, expression) = TWINS[name]
    force = getattr(openmm, f"Custom{kind}Force")(expression)
    getattr(force, f"addPer{kind}Parameter")("p")
    force.setUsesPeriodicBoundaryConditions(True)
    for own, term in zip(OWN, particles.tolist(), strict=False):
        getattr(force, f"add{kind}")(*term, [float(own)])
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*[openmm.Vec3(*map(float, edge)) for edge in EDGES])
    for _ in range(N):
        system.addParticle(1.0)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    space = Triclinic(EDGES)
    r = np.asarray(space.wrap(jnp.asarray(walk())))  # bonds cross the faces of the cell
    context.setPositions(r)
    state = context.getState(getEnergy=True, getForces=True)
    expected = state.getForces(asNumpy=True)._value
    potential = ours()
    energy, forces = jax.jit(
        lambda r: (potential.energy(space, r, AllPairs()), potential.forces(space, r, AllPairs()))
    )(r)
    np.testing.assert_allclose(energy, state.getPotentialEnergy()._value, rtol=1e-10)
    np.testing.assert_allclose(forces, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(potential.energy(Free(), jnp.asarray(walk()), AllPairs()), energy, rtol=1e-10)


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [-3.0, -np.pi / 2, -0.3, 0.0, 0.3, np.pi / 2, 3.0])
def test_a_turn_tells_left_from_right(phi):
    """In the order of the chain counterclockwise turns are positive, backwards they are negative."""
    r = jnp.array([[-2.0, 0.0], [0.0, 0.0], [3 * np.cos(phi), 3 * np.sin(phi)]])
    for order, sign in (([0, 1, 2], 1), ([2, 1, 0], -1)):
        potential = cosine_signed_angles([order], stiffness=2.0, angle=0.5)
        np.testing.assert_allclose(potential.energy(Free(), r, AllPairs()), 2 * (1 - np.cos(sign * phi - 0.5)))
    straight, angles = cosine_signed_angles([[0, 1, 2]], stiffness=2.0), cosine_angles([[0, 1, 2]], stiffness=2.0)
    np.testing.assert_allclose(straight.energy(Free(), r, AllPairs()), angles.energy(Free(), r, AllPairs()), atol=1e-15)


def test_turns_are_smooth_on_a_line_finite_at_coincidence_and_of_the_plane():
    potential = cosine_signed_angles([[0, 1, 2]], stiffness=2.0, angle=0.5)
    on_a_line = jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    torque = 2.0 * np.sin(0.5)  # -dU/dphi at phi = 0: up at the ends, down in the middle
    np.testing.assert_allclose(
        potential.forces(Free(), on_a_line, AllPairs()), [[0, torque], [0, -2 * torque], [0, torque]], atol=1e-14
    )
    assert np.all(np.isfinite(potential.forces(Free(), jnp.zeros((3, 2)), AllPairs())))
    with pytest.raises(ValueError, match="positions has 3 coordinates per particle; must be 2"):
        potential.energy(Free(), jnp.zeros((3, 3)), AllPairs())


@pytest.mark.parametrize("theta", [0.0, 1e-7, 0.3, np.pi / 2, 3.0, np.pi - 1e-7, np.pi])
def test_an_angle_is_measured_at_its_middle_particle_also_on_a_line(theta):
    r = jnp.array([[2.0, 0.0], [0.0, 0.0], [3 * np.cos(theta), 3 * np.sin(theta)]])
    found = angle_potential(same_energy, [[0, 1, 2]]).coordinates(Free(), r)
    np.testing.assert_allclose(found, theta, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize("phi", [0.0, 1e-7, 0.3, np.pi / 2, -np.pi / 2, 3.0, -3.0, np.pi])
def test_a_dihedral_is_positive_for_a_right_handed_turn_and_pi_for_a_stretched_chain(phi):
    """Looking along the middle bond, the last particle is clockwise of the first by phi (IUPAC)."""
    r = jnp.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 2.0], [1.5 * np.cos(phi), 1.5 * np.sin(phi), 2.3]])
    forwards, backwards = (
        dihedral_potential(same_energy, [term]).coordinates(Free(), r) for term in ([0, 1, 2, 3], [3, 2, 1, 0])
    )
    np.testing.assert_allclose(forwards, phi, rtol=1e-8, atol=1e-15)
    np.testing.assert_array_equal(forwards, backwards)


def test_a_bond_spans_the_face_of_a_periodic_box():
    potential = bond_potential(same_energy, [[0, 1]])
    r = jnp.array([[0.1, 0.2], [2.9, 4.9]])
    np.testing.assert_allclose(potential.coordinates(Periodic(np.array([3.0, 5.0])), r), np.hypot(0.2, 0.3), rtol=1e-14)


def test_a_broken_fene_bond_has_infinite_energy_and_no_force():
    """And the bonds around it stay as they are: nothing becomes NaN, in any derivative."""
    potential = fene_bonds([[0, 1], [1, 2], [2, 3]])
    r = jnp.array([[0.0, 0], [1.0, 0], [2.5, 0], [2.5, 1.2]])  # the middle one is at its end
    space, pairs = Free(), AllPairs()

    def evaluate(potential):
        def squares(potential):
            return jnp.sum(potential.forces(space, r, pairs) ** 2)

        results = (potential.energies(space, r, pairs), potential.forces(space, r, pairs))
        return *results, potential.virial(space, r, pairs), jax.grad(squares, allow_int=True)(potential).parameters

    energies, forces, virial, gradient = jax.jit(evaluate)(potential)
    np.testing.assert_array_equal(np.isinf(energies), [False, True, True, False])
    pull = 30 / (1 - (1 / 1.5) ** 2), 30 * 1.2 / (1 - (1.2 / 1.5) ** 2)
    np.testing.assert_allclose(forces, [[pull[0], 0], [-pull[0], 0], [0, pull[1]], [0, -pull[1]]], rtol=1e-13)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((gradient, virial)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_terms_have_finite_forces(dtype):
    """Coincident particles, straight angles, and dihedrals without a plane."""
    line = np.arange(6.0)[:, None] * np.array([[1.0, 0, 0]])
    several = jnp.asarray([line, np.zeros((6, 3)), line * [[0], [1], [1], [1], [0], [0]]], dtype)
    potential = (
        harmonic_bonds(BONDS[:5])
        + fene_bonds(BONDS[:5])
        + harmonic_angles(ANGLES[:4], angle=2.0)
        + cosine_angles(ANGLES[:4])
        + opls_dihedrals(DIHEDRALS[:3], coefficients=F)
    )
    potential = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == np.float64 else leaf, potential)

    def forces_and_tangent(r):
        return jax.jvp(lambda r: potential.forces(Free(), r, AllPairs()), (r,), (jnp.ones_like(r),))

    for found in jax.jit(jax.vmap(forces_and_tangent))(several):
        assert found.dtype == dtype and np.all(np.isfinite(found))


def test_a_straight_chain_resists_bending_as_its_stiffness_says():
    """u = k (1 + cos theta): moving the middle of three particles by h bends it by 2 h, d2u/dh2 = 4 k."""
    potential = cosine_angles([[0, 1, 2]], stiffness=3.0)

    def energy(h):
        return potential.energy(Free(), jnp.array([[-1.0, 0], [0, 0], [1, 0]]).at[1, 1].set(h), AllPairs())

    found = jax.jit(lambda h: (energy(h), jax.grad(energy)(h), jax.grad(jax.grad(energy))(h)))(0.0)
    np.testing.assert_allclose(found, [0, 0, 12.0], rtol=1e-12, atol=1e-15)


def test_particles_share_the_energy_of_their_terms_equally():
    shares = angle_potential(same_energy, [[0, 1, 2], [1, 2, 4]]).energies(
        Free(), jnp.array([[1.0, 0], [0, 0], [0, 1], [7, 7], [1, 1]]), AllPairs()
    )
    right, half = np.pi / 2 / 3, np.pi / 2 / 3
    np.testing.assert_allclose(shares, [right, right + half, right + half, 0, half], rtol=1e-14)


# --- the topology -----------------------------------------------------------------------------------------------------


def test_no_derivative_scatters():
    potential = opls_dihedrals(DIHEDRALS, coefficients=F) + fene_bonds(BONDS) + cosine_angles(ANGLES)

    def work(r):
        return jnp.sum(potential.forces(Free(), r, AllPairs()) ** 2)

    r = jnp.asarray(walk())
    for function in (lambda r: potential.forces(Free(), r, AllPairs()), jax.grad(work)):
        assert "scatter" not in str(jax.make_jaxpr(function)(r))
        assert "scatter" not in jax.jit(function).lower(r).as_text()


WAYS = {
    "grad": lambda f, r, v, several: jax.grad(f)(r),
    "jvp": lambda f, r, v, several: jax.jvp(f, (r,), (v,))[1],
    "forward over reverse": lambda f, r, v, several: jax.jvp(jax.grad(f), (r,), (v,))[1],
    "reverse over reverse": lambda f, r, v, several: jax.grad(lambda r: jnp.sum(jax.grad(f)(r) * v))(r),
    "reverse over forward": lambda f, r, v, several: jax.grad(lambda r: jax.jvp(f, (r,), (v,))[1])(r),
    "hessian": lambda f, r, v, several: jax.hessian(f)(r),
    "third": lambda f, r, v, several: jax.jvp(lambda r: jax.jvp(jax.grad(f), (r,), (v,))[1], (r,), (v,))[1],
    "vmap of grad": lambda f, r, v, several: jax.vmap(jax.grad(f))(several),
    "grad of vmap": lambda f, r, v, several: jax.grad(lambda several: jnp.sum(jax.vmap(f)(several)))(several),
    "vmap over the last axis": lambda f, r, v, several: jax.vmap(jax.grad(f), in_axes=-1, out_axes=1)(
        jnp.moveaxis(several, 0, -1)
    ),
    "through a loop": lambda f, r, v, several: jax.grad(
        lambda r: f(jax.lax.scan(lambda r, _: (r - 0.01 * jax.grad(f)(r), None), r, None, length=3)[0])
    )(r),
}


def test_derivatives_of_any_order_and_in_any_order_of_transformations_agree():
    """Against dense matrices: bonds as rows of an incidence matrix B, u = |B r|^4 / 4."""
    bonds = np.array([[0, 1], [1, 2], [2, 0], [3, 1], [1, 4]])
    potential = bond_potential(lambda x: x**4 / 4, bonds)
    incidence = np.zeros((5, 6))
    incidence[np.arange(5), bonds[:, 0]], incidence[np.arange(5), bonds[:, 1]] = 1, -1

    def energy(r):
        return potential.energy(Free(), r, AllPairs())

    def dense(r):
        return jnp.sum(jnp.sum((incidence @ r) ** 2, axis=1) ** 2) / 4

    r, v = np.random.default_rng(0).normal(size=(2, 6, 2))
    several = jnp.stack([r, v, r + v])

    def ways(f, r, v, several):
        return {name: way(f, r, v, several) for name, way in WAYS.items()}

    expected = jax.jit(functools.partial(ways, dense))(r, v, several)
    for name, found in jax.jit(functools.partial(ways, energy))(r, v, several).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-11, atol=1e-11, err_msg=name)


def test_a_batch_of_topologies_is_each_of_them():
    """Bonds that differ between the instances of a vmap, under grad inside and outside of it, without scatter."""
    potentials = [
        harmonic_bonds([[0, 1], [1, 2], [2, 3]], stiffness=2.0),
        harmonic_bonds([[3, 0], [2, 0], [1, 3]], stiffness=np.array([1.0, 2.0, 3.0]).mean()),
    ]
    potentials = [p.replace(topology=widened(p.topology, 3)) for p in potentials]
    several = jax.tree.map(lambda *one: jnp.stack(one), *potentials)
    r = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)))

    def energy(potential, r):
        return potential.energy(Free(), r, AllPairs())

    def total(r):
        return jnp.sum(jax.vmap(energy)(several, r))

    slope = jax.grad(energy, argnums=1)
    loop = np.stack([jax.jit(slope)(*one) for one in zip(potentials, r, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(several, r), loop, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(r), loop, rtol=1e-12)
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(total))(r))
    same_positions = jax.jit(jax.vmap(slope, in_axes=(0, None)))(several, r[0])
    np.testing.assert_allclose(same_positions[0], loop[0], rtol=1e-12)


def widened(one, rows: int):
    """The same topology with more padding, so that several of them stack."""
    missing = rows - one.places.shape[0]
    return type(one)(one.particles, jnp.pad(one.places, ((0, missing), (0, 0)), constant_values=-1))


def test_particles_may_be_unbound_but_not_missing():
    potential = harmonic_bonds([[0, 4]], length=0.0)
    r = jnp.asarray(np.random.default_rng(0).normal(size=(7, 2)))
    forces = potential.forces(Free(), r, AllPairs())
    np.testing.assert_allclose(forces[4], r[0] - r[4], rtol=1e-13)
    np.testing.assert_array_equal(forces[np.array([1, 2, 3, 5, 6])], 0)
    with pytest.raises(ValueError, match="positions has 4 particles; must be >= 5, as many as the topology joins"):
        potential.energy(Free(), r[:4], AllPairs())


def test_no_bonds_at_all_are_nothing():
    arguments = Free(), jnp.ones((3, 2)), AllPairs()
    for none in ([], np.zeros((0, 2), int)):
        energies, forces = jax.jit(lambda p: (p.energies(*arguments), p.forces(*arguments)))(harmonic_bonds(none))
        np.testing.assert_array_equal(energies, np.zeros(3))
        np.testing.assert_array_equal(forces, np.zeros((3, 2)))


def test_parameters_are_traced_where_the_topology_is_not():
    def energy(stiffness):
        return harmonic_bonds([[0, 1], [1, 2]], stiffness=stiffness).energy(Free(), jnp.eye(3) * 2, AllPairs())

    strain = (np.sqrt(8) - 1) ** 2 / 2
    np.testing.assert_allclose(jax.jit(jax.grad(energy))(jnp.array([1.0, 2.0])), [strain, strain], rtol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.grad(energy))(1.0), 2 * strain, rtol=1e-14)
    with pytest.raises(TypeError, match="bonds is traced; must be known outside of jit"):
        jax.jit(lambda bonds: harmonic_bonds(bonds).energy(Free(), jnp.eye(3), AllPairs()))(jnp.array([[0, 1]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: harmonic_bonds([[0, 1, 2]]), r"bonds has type int64\[1, 3\]; must be int \[m, 2\]"),
        (lambda: harmonic_bonds([[0.0, 1.0]]), r"bonds has type float64\[1, 2\]; must be int \[m, 2\]"),
        (lambda: harmonic_bonds([[0, -1]]), "bonds holds particle -1; must be >= 0"),
        (lambda: harmonic_bonds([[0, 1], [2, 2]]), r"bonds holds \[2, 2\]; must be particles that differ"),
        (lambda: harmonic_bonds([[0, 1], [2, 3], [1, 0]]), r"bonds holds \[0, 1\] 2 times; must be there once"),
        (lambda: cosine_angles([[0, 1, 2], [2, 1, 0]]), r"angles holds \[0, 1, 2\] 2 times; must be there once"),
        (lambda: cosine_angles([[0, 1, 0]]), r"angles holds \[0, 1, 0\]; must be particles that differ"),
        (
            lambda: harmonic_bonds([[0, 1]], stiffness=np.ones(2)),
            r"stiffness has shape \(2,\); must be a number or \[1\]",
        ),
        (
            lambda: harmonic_bonds([[0, 1]], stiffness=[1.0, 2.0]),
            r"stiffness has shape \(2,\); must be a number or \[1\]",
        ),
        (lambda: harmonic_bonds([[0, 1]], length=[]), r"length has shape \(0,\); must not be empty"),
        (lambda: harmonic_bonds([[0, 1], [2]]), r"bonds = \[\[0, 1\], \[2\]\]; must be int \[m, 2\]"),
        (lambda: harmonic_trap(stiffness=[1.0, 2.0]), r"stiffness has shape \(2,\); must be a number or PerParticle"),
        (lambda: harmonic_bonds([[0, 1]], length=np.inf), "length = inf; must be a finite number"),
        (lambda: fene_bonds([[0, 1]], max_length=0.0), "max_length = 0.0; must be a finite number > 0"),
        (lambda: opls_dihedrals(DIHEDRALS, coefficients=(1.0, 2.0)), "coefficients has length 2; must be 4, F1 to F4"),
        (lambda: ryckaert_bellemans_dihedrals(DIHEDRALS, coefficients=F), "length 4; must be 6, C_0 to C_5"),
        (
            lambda: cosine_dihedrals(DIHEDRALS, coefficients=(1.0,), phases=(0.0, 1.0)),
            "phases has length 2; must be 1, as coefficients",
        ),
        (
            lambda: opls_dihedrals(DIHEDRALS[:1], coefficients=F).energy(Free(), jnp.ones((4, 2)), AllPairs()),
            "positions has 2 coordinates per particle; must be 3 for dihedrals",
        ),
        (lambda: harmonic_trap(stiffness=np.ones(2)), r"stiffness has shape \(2,\); must be a number or PerParticle"),
        (
            lambda: uniform_field(force=np.ones((1, 2, 2))),
            r"force has shape \(1, 2, 2\); must be a number, \[d\] or \[n",
        ),
        (lambda: uniform_field(force=np.nan), "force = nan; must be a finite number"),
        (
            lambda: harmonic_trap(center=np.ones((3, 2))).energy(Free(), jnp.ones((4, 2)), AllPairs()),
            "center has 3 values; must be 4, one per particle",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_places_invert_the_particles():
    """Each place is given once, and holds the particle that it is listed under."""
    rng = np.random.default_rng(0)
    terms = np.unique(np.sort([rng.choice(20, 3, replace=False) for _ in range(40)], axis=1), axis=0)
    one = topology("angles", terms, 3)
    places, flat = np.asarray(one.places), np.asarray(one.particles).reshape(-1)
    row, particle = np.nonzero(places >= 0)
    np.testing.assert_array_equal(np.sort(places[row, particle]), np.arange(terms.size))
    np.testing.assert_array_equal(flat[places[row, particle]], particle)


# --- external fields --------------------------------------------------------------------------------------------------


def test_a_field_of_ones_own_gets_the_position_and_the_parameters_of_the_particle():
    mass = np.array([1.0, 2.0, 3.0])
    falling = external_potential(lambda r, mass, gravity: mass * gravity * r[1], mass=PerParticle(mass), gravity=9.81)
    r = jnp.array([[0.0, 1.0], [5.0, -2.0], [1.0, 0.5]])
    energies = falling.energies(Periodic(2.0), r, AllPairs())
    np.testing.assert_allclose(energies, mass * 9.81 * r[:, 1], rtol=1e-14)
    expected = np.stack([np.zeros(3), -9.81 * mass], axis=1)
    np.testing.assert_allclose(falling.forces(Periodic(2.0), r, AllPairs()), expected, rtol=1e-14)
    field = uniform_field(force=expected)
    np.testing.assert_allclose(field.energies(Periodic(2.0), r, AllPairs()), energies, rtol=1e-14)


def test_a_trap_pulls_to_the_nearest_image_of_its_centre():
    trap = harmonic_trap(stiffness=3.0, center=np.array([0.5, 0.0]))
    r = jnp.array([[3.5, 0.2]])
    np.testing.assert_allclose(trap.forces(Periodic(4.0), r, AllPairs()), [[3.0, -0.6]], rtol=1e-14)
    np.testing.assert_allclose(trap.forces(Free(), r, AllPairs()), [[-9.0, -0.6]], rtol=1e-14)
    np.testing.assert_allclose(trap.energy(Free(), r, AllPairs()), 1.5 * (9 + 0.04), rtol=1e-14)


def test_a_field_has_no_virial_and_adds_none_to_a_sum():
    bonds, r = harmonic_bonds([[0, 1]]), jnp.array([[0.0, 0.0], [2.0, 0.0]])
    both = bonds + harmonic_trap(stiffness=4.0)
    assert both.cutoff == 0
    np.testing.assert_allclose(both.virial(Free(), r, AllPairs()), [[-2.0, 0], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(both.energy(Free(), r, AllPairs()), 0.5 + 8.0, rtol=1e-14)
