"""The contract of a potential: every potential in every space and dimension against the derivatives of its energy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.neighbors import AllPairs, allocate, neighbor_sum
from dmdenv.potentials import (
    BySpecies,
    External,
    PerPair,
    PerParticle,
    Potential,
    angle_potential,
    bond_potential,
    buckingham,
    cosine_angles,
    cosine_dihedrals,
    cosine_signed_angles,
    damped_shifted_force,
    dihedral_potential,
    embedding_potential,
    external_potential,
    fene_bonds,
    from_energy,
    gupta,
    harmonic_angles,
    harmonic_bonds,
    harmonic_trap,
    lennard_jones,
    mie,
    morse,
    opls_dihedrals,
    pair_potential,
    ryckaert_bellemans_dihedrals,
    soft_sphere,
    sutton_chen,
    uniform_field,
    wca,
    yukawa,
)
from dmdenv.space import Free, Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("x64")

N = 12
CHAIN = np.arange(N)
BONDS = np.stack([CHAIN[:-1], CHAIN[1:]], axis=1)
ANGLES = np.stack([CHAIN[:-2], CHAIN[1:-1], CHAIN[2:]], axis=1)
DIHEDRALS = np.stack([CHAIN[:-3], CHAIN[1:-2], CHAIN[2:-1], CHAIN[3:]], axis=1)
RNG = np.random.default_rng(0)
OF_BOND, OF_ANGLE, OF_DIHEDRAL, OF_PARTICLE = (RNG.uniform(0.8, 1.2, m) for m in (N - 1, N - 2, N - 3, N))
DIAMETERS = 0.5 * (np.add.outer(OF_PARTICLE[:4], OF_PARTICLE[:4]) + np.eye(4) / 8)
SITES = RNG.uniform(0, 3, (N, 3))


def species(a: float, b: float, c: float) -> BySpecies:
    return BySpecies(np.array([[a, b], [b, c]]), np.arange(N) % 2)


def power(r, a, m):
    return a / r**m


def exponential(r, a):
    return jnp.exp(-a * r)


def saturating(rho, k):
    return -k * rho / (1 + rho)


def quartic(r, k):
    return k * (r - 1) ** 4


def right_angled(theta, k):
    return k * jnp.cos(theta) ** 2


def twisted(phi, k):
    return k * jnp.sin(phi)


def lattice_field(r, k):
    return k * jnp.sum(jnp.cos(r))


def elastic(positions, space, k):
    """Of all displacements from the first particle on, with a stiffness of each."""
    return 0.5 * jnp.sum(k["each"] * jnp.sum(space.displacement(positions[1:], positions[:-1]) ** 2, axis=-1)) ** k["m"]


def images(positions, space, width):
    """The overlap of each particle with all others and their images, found from the cell as other codes do it."""
    d = positions.shape[-1]
    cell = space.cell_vectors(d)
    copies = jnp.zeros((1, d)) if cell is None else np.array(list(itertools.product((-1, 0, 1), repeat=d))) @ cell
    r = space.wrap(positions)
    s = jnp.sum((r[:, None, None] - r[None, :, None] + copies.astype(r.dtype)[None, None]) ** 2, axis=-1)
    return jnp.sum(jnp.exp(-s / width**2), axis=(1, 2))


def crowded(positions, space, pairs, width):
    """Of how many others are near, smoothly counted."""

    def count(a, b):
        return jnp.maximum(1 - jnp.sum(space.displacement(a, b) ** 2) / width**2, 0.0) ** 3

    return neighbor_sum(count, positions, pairs, parity=1) ** 2


PAIRS = {
    "lennard_jones": lambda d: lennard_jones(epsilon=1.3, sigma=0.9),
    "lennard_jones without end": lambda d: lennard_jones(cutoff=np.inf),
    "lennard_jones shifted, by species": lambda d: lennard_jones(
        epsilon=species(1.0, 1.5, 0.5),
        sigma=species(1.0, 0.8, 0.88),
        cutoff=2.5,
        cutoff_unit="sigma",
        truncation="shifted",
    ),
    "lennard_jones force_shifted, mixed": lambda d: lennard_jones(
        epsilon=PerParticle(OF_PARTICLE, mix="geometric"), sigma=PerParticle(OF_PARTICLE), truncation="force_shifted"
    ),
    "lennard_jones switched": lambda d: lennard_jones(truncation="switched", onset=1.4),
    "wca": lambda d: wca(sigma=species(1.3, 1.1, 1.2)),
    "wca, mixed": lambda d: wca(epsilon=0.7, sigma=PerParticle(1.2 * OF_PARTICLE)),
    "wca, for each pair": lambda d: wca(sigma=PerPair(1.2 * np.sqrt(OF_PARTICLE[:, None] * OF_PARTICLE[None, :]))),
    "soft_sphere": lambda d: soft_sphere(sigma=2.0),
    "soft_sphere, of four species": lambda d: soft_sphere(sigma=BySpecies(2.0 * DIAMETERS, np.arange(N) % 4)),
    "soft_sphere, mixed": lambda d: soft_sphere(sigma=PerParticle(2.0 * OF_PARTICLE), alpha=2.5),
    "morse": lambda d: morse(epsilon=2.0, sigma=1.2, alpha=3.0, truncation="shifted"),
    "yukawa": lambda d: yukawa(strength=species(1.0, -1.0, 1.0), screening=0.7, cutoff=2.5, truncation="force_shifted"),
    "yukawa, of charges": lambda d: yukawa(
        strength=PerParticle(OF_PARTICLE * (-1) ** CHAIN, mix="product"),
        screening=0.7,
        cutoff=2.5,
        truncation="shifted",
    ),
    "a pair function of one's own": lambda d: pair_potential(power, cutoff=2.0, a=0.5, m=3.0, truncation="shifted"),
}
OTHERS = {
    "harmonic_bonds": lambda d: harmonic_bonds(BONDS, stiffness=OF_BOND, length=0.9),
    "fene_bonds": lambda d: fene_bonds(BONDS, max_length=2.8 * OF_BOND),
    "a bond function of one's own": lambda d: bond_potential(quartic, BONDS, k=2.0),
    "harmonic_angles": lambda d: harmonic_angles(ANGLES, stiffness=3.0, angle=2.0 * OF_ANGLE),
    "cosine_angles": lambda d: cosine_angles(ANGLES, stiffness=OF_ANGLE),
    "cosine_signed_angles": lambda d: cosine_signed_angles(ANGLES, stiffness=OF_ANGLE, angle=0.4 * OF_ANGLE),
    "an angle function of one's own": lambda d: angle_potential(right_angled, ANGLES, k=2.0),
    "cosine_dihedrals": lambda d: cosine_dihedrals(
        DIHEDRALS, coefficients=(1.0, OF_DIHEDRAL, 0.5), phases=(0.0, np.pi, OF_DIHEDRAL)
    ),
    "opls_dihedrals": lambda d: opls_dihedrals(DIHEDRALS, coefficients=(1.5, -0.3, OF_DIHEDRAL, 0.2)),
    "ryckaert_bellemans_dihedrals": lambda d: ryckaert_bellemans_dihedrals(
        DIHEDRALS, coefficients=(9.28, 12.16, -13.12, -3.06, 26.24, -31.5)
    ),
    "a dihedral function of one's own": lambda d: dihedral_potential(twisted, DIHEDRALS, k=OF_DIHEDRAL),
    "harmonic_trap": lambda d: harmonic_trap(stiffness=PerParticle(OF_PARTICLE), center=0.3 * np.arange(d)),
    "harmonic_trap for each": lambda d: harmonic_trap(stiffness=2.0, center=SITES[:, :d]),
    "uniform_field": lambda d: uniform_field(force=PerParticle(SITES[:, :d])),
    "a field of one's own": lambda d: external_potential(lattice_field, k=0.7),
    "an energy function": lambda d: from_energy(elastic, k={"each": OF_BOND, "m": 0.8}),
    "an energy function of the cell": lambda d: from_energy(images, width=0.9),
    "an energy function over neighbours": lambda d: from_energy(crowded, cutoff=2.0, width=1.9),
    "a sum": lambda d: lennard_jones() + fene_bonds(BONDS, max_length=2.8) + cosine_angles(ANGLES),
}
LATER = {
    "mie": lambda d: mie(epsilon=1.3, sigma=species(0.9, 1.0, 1.1), n=PerParticle(11 * OF_PARTICLE), m=5.0),
    # some pairs are below the inner maxima, at 1.1
    "buckingham, by species": lambda d: buckingham(
        repulsion=species(700.0, 500.0, 300.0),
        length=0.25,
        dispersion=species(12.0, 9.0, 5.0),
        cutoff=2.5,
        truncation="force_shifted",
    ),
    "gupta": lambda d: gupta(
        repulsion=0.4, hopping=1.7, p=9.0, q=3.0, length=1.1, cutoff=2.4, truncation="switched", onset=1.6
    ),
    "gupta, by species": lambda d: gupta(
        repulsion=species(0.3, 0.4, 0.5),
        hopping=species(1.7, 1.2, 1.0),
        p=9.0,
        q=PerParticle(3.0 * OF_PARTICLE),
        length=species(1.0, 1.1, 1.2),
        cutoff=2.0,
        cutoff_unit="length",
        truncation="force_shifted",
    ),
    "sutton_chen, mixed": lambda d: sutton_chen(
        epsilon=PerParticle(0.02 * OF_PARTICLE, mix="geometric"),
        length=PerParticle(1.5 * OF_PARTICLE),
        strength=species(20.0, 0.0, 30.0),
        n=BySpecies(np.full((3, 3), 9.0) + np.eye(3), CHAIN % 3),
        m=7.0,
        cutoff=2.4,
        truncation="shifted",
    ),
    "an embedding of one's own": lambda d: embedding_potential(
        saturating,
        density=pair_potential(exponential, cutoff=2.5, a=1.3, truncation="force_shifted"),
        pair=lennard_jones(cutoff=2.0, truncation="shifted"),
        k=BySpecies(np.diag([1.0, 2.0, 3.0]), CHAIN % 3),
    ),
    "damped_shifted_force": lambda d: damped_shifted_force(
        charges=OF_PARTICLE * (-1) ** CHAIN, damping=0.6, cutoff=2.5, coulomb_constant=1.4
    ),
    "damped_shifted_force by species": lambda d: damped_shifted_force(charges=species(1.0, -1.2, 1.44), cutoff=2.5),
}
POTENTIALS = PAIRS | OTHERS | LATER
SPACES = {
    "free": lambda d: Free(),
    "cube": lambda d: Periodic(5.7),
    "box": lambda d: Periodic(np.array([5.4, 6.2, 5.8])[:d]),
    "sheared": lambda d: Triclinic(np.array([[5.4, 0, 0], [3.9, 5.5, 0], [-1.8, 2.4, 5.8]])[:d, :d]),
}
IN_TWO_DIMENSIONS = [name for name in POTENTIALS if "dihedral" not in name]
IN_THREE_DIMENSIONS = [name for name in POTENTIALS if "signed_angles" not in name]
PLACES = list(itertools.product((3, 2), SPACES))
VARIANTS = {
    "damped_shifted_force by species",
    "lennard_jones without end",
    "wca, mixed",
    "gupta, by species",
    "soft_sphere",
    "yukawa, of charges",
    "a pair function of one's own",
    "a bond function of one's own",
    "an angle function of one's own",
    "a dihedral function of one's own",
    "harmonic_trap for each",
}


def _place(turn: int, name: str) -> int:
    """Which of the places a potential is tried in by default."""
    return turn % (4 if "dihedral" in name else 8) if name in IN_THREE_DIMENSIONS else 4 + turn % 4


CASES = [
    # each potential in one space by default, all spaces by turns; the whole product among the slow tests
    pytest.param(
        *(name, kind, d),
        marks=[] if q == _place(turn, name) and name not in VARIANTS else pytest.mark.slow,
    )
    for turn, name in enumerate(POTENTIALS)
    for q, (d, kind) in enumerate(PLACES)
    if name in (IN_THREE_DIMENSIONS if d == 3 else IN_TWO_DIMENSIONS)
]


def positions(d: int) -> np.ndarray:
    """A crumpled chain about the origin, so that a box cuts it."""
    width = {2: (3, 4), 3: (2, 2, 3)}[d]
    snake = sorted(itertools.product(*map(range, width)))
    snake = [(*p[:-1], p[-1] if sum(p[:-1]) % 2 == 0 else width[-1] - 1 - p[-1]) for p in snake]
    r = 1.2 * np.array(snake, float) + np.random.default_rng(d).uniform(-0.2, 0.2, (N, d))
    return r - r.mean(axis=0)


def properties(potential: Potential, space, r, pairs):
    arguments = space, r, pairs
    return {
        "energy": potential.energy(*arguments),
        "energies": potential.energies(*arguments),
        "forces": potential.forces(*arguments),
        "virial": potential.virial(*arguments),
    }


def properties_and_gradient(potential: Potential, space, r, pairs):
    """The same, and the derivative of the energy by each parameter."""
    gradient = jax.grad(lambda potential: potential.energy(space, r, pairs), allow_int=True)(potential)
    return {**properties(potential, space, r, pairs), "gradient": gradient}


def is_float(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def nudged(tree, index: int, step: np.ndarray):
    """The tree with one of its leaves moved."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [leaf + step if q == index else leaf for q, leaf in enumerate(leaves)])


def deformed(space, r, deformation):
    r = r @ deformation.T
    if isinstance(space, Periodic):
        return space.replace(box=space.box * (np.diag(deformation) if space.box.ndim else deformation[0, 0])), r
    if isinstance(space, Triclinic):
        return space.replace(cell=space.cell @ deformation.T), r
    return space, r


def strained(potential, space, r, direction, h):
    return potential, *deformed(space, r, np.eye(len(direction)) + h * direction)


def strains(space, d: int) -> list[np.ndarray]:
    """Directions in which the box may deform and stay of its kind."""
    unit = [np.eye(d)[:, [a]] * np.eye(d)[[b]] for a, b in itertools.product(range(d), repeat=2)]
    if isinstance(space, Free):
        return unit
    if isinstance(space, Triclinic):
        return [e for e in unit if np.all(np.tril(e, -1) == 0)]
    return [np.eye(d)] if space.box.ndim == 0 else [np.diag(row) for row in np.eye(d)]


@pytest.mark.parametrize(("name", "kind", "d"), CASES)
def test_forces_virials_and_gradients_are_derivatives_of_the_energy_in_either_precision(name, kind, d):
    potential, space, r = POTENTIALS[name](d), SPACES[kind](d), jnp.asarray(positions(d))
    rng, h = np.random.default_rng(1), 1e-5
    # one program for all of these: a change of a parameter or a box does not recompile
    program = jax.jit(properties_and_gradient).lower(potential, space, r, AllPairs()).compile()
    found = jax.tree.map(np.asarray, program(potential, space, r, AllPairs()))

    def slope(moved):
        """d/dh of the energy of moved(h), a potential, space and positions."""
        there, back = (float(program(*moved(sign * h), AllPairs())["energy"]) for sign in (1, -1))
        return (there - back) / (2 * h)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    assert abs(found["energy"]) > 1e-2
    np.testing.assert_allclose(np.sum(found["energies"]), found["energy"], rtol=1e-13)
    for v in rng.normal(size=(3, N, d)):
        close(-np.sum(found["forces"] * v), slope(lambda h, v=v: (potential, space, r + h * v)))
    if isinstance(potential, External):
        np.testing.assert_array_equal(found["virial"], 0)
    else:
        for e in strains(space, d):
            moved = functools.partial(strained, potential, space, r, e)
            close(-np.sum(found["virial"] * e), slope(moved))
        np.testing.assert_allclose(found["virial"], found["virial"].T, rtol=1e-11, atol=1e-11)
    for q, (leaf, g) in enumerate(zip(jax.tree.leaves(potential), jax.tree.leaves(found["gradient"]), strict=True)):
        if is_float(leaf):
            v = rng.normal(size=leaf.shape)
            close(np.sum(g * v), slope(lambda h, q=q, v=v: (nudged(potential, q, h * v), space, r)))

    for value in (np.nan, np.inf):  # nothing drops what is not finite
        broken = program(potential, space, r.at[4].set(value), AllPairs())
        assert not np.isfinite(broken["energy"]) and not np.isfinite(broken["energies"]).all()
    broken = program(potential, space, r.at[4].set(np.nan), AllPairs())
    assert name == "uniform_field" or not np.isfinite(broken["forces"]).all()
    assert isinstance(potential, External) or not np.isfinite(broken["virial"]).all()

    in_single = jax.tree.map(lambda x: x.astype(jnp.float32) if is_float(x) else x, (potential, space, r, AllPairs()))
    same(jax.jit(properties)(*in_single), found, 1e-5, np.float32)


@functools.cache
def neighbors(kind: str, d: int):
    return allocate(SPACES[kind](d), jnp.asarray(positions(d)), cutoff=2.5, skin=0.15)


@pytest.mark.parametrize(
    ("d", "kind"), [pytest.param(*p, marks=[] if p == (3, "sheared") else pytest.mark.slow) for p in PLACES]
)
@pytest.mark.parametrize("name", ["lennard_jones shifted, by species", "soft_sphere, mixed", "gupta", "a sum"])
def test_a_neighbour_list_gives_the_same_as_all_pairs(name, kind, d):
    arguments = POTENTIALS[name](d), SPACES[kind](d), jnp.asarray(positions(d))
    everything = jax.jit(properties)(*arguments, AllPairs())
    same(jax.jit(properties)(*arguments, neighbors(kind, d)), everything, 1e-12, np.float64)


def same(found, expected, rtol: float, dtype) -> None:
    for quantity in found:
        assert found[quantity].dtype == dtype
        scale = np.max(np.abs(expected[quantity]))
        np.testing.assert_allclose(found[quantity], expected[quantity], rtol=rtol, atol=rtol * scale)
