"""Elastic moduli against lattice sums and against finite strain with the particles minimised again."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import lattice
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import PerParticle, lennard_jones, pair_potential
from dmdenv.quantities import Elasticity, elasticity
from dmdenv.space import Free, Periodic, Triclinic

pytestmark = pytest.mark.usefixtures("x64")

moduli = jax.jit(elasticity, static_argnames=("tolerance", "max_iterations"))


# --- a crystal: lattice sums ------------------------------------------------------------------------------------------


def lattice_sums(density: float, cutoff: float) -> tuple[float, np.ndarray]:
    """The pressure and the response of the stress to strain of fcc Lennard-Jones, by summation.

    For central forces between particles that all are centres of symmetry, with density 1 / v,
    d(sigma_ab)/d(e_cd) = 1/(2v) sum_r [(u'' - u'/r) r_a r_b r_c r_d / r^2 + u'/r d(r_a r_b)/d(e_cd)]
    - sigma_ab delta_cd.
    """
    a = (4 / density) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    r = 0.5 * a * grid[grid.sum(axis=1) % 2 == 0]
    length = np.linalg.norm(r, axis=1)
    r, length = r[(length > 0) & (length < cutoff)], length[(length > 0) & (length < cutoff)]
    u1 = 4 * (-12 * length**-13 + 6 * length**-7)
    u2 = 4 * (156 * length**-14 - 42 * length**-8)
    stress = 0.5 * density * np.einsum("n,na,nb->ab", u1 / length, r, r)
    delta = np.eye(3)
    fourth = np.einsum("n,na,nb,nc,nd->abcd", (u2 - u1 / length) / length**2, r, r, r, r)
    second = np.einsum("n,na,nb->ab", u1 / length, r, r)
    rotated = np.einsum("ac,bd->abcd", delta, second) + np.einsum("bc,ad->abcd", delta, second)
    rotated = 0.5 * (rotated + np.swapaxes(rotated, 2, 3))  # e is symmetric
    response = 0.5 * density * (fourth + rotated) - np.einsum("ab,cd->abcd", stress, delta)
    return -np.trace(stress) / 3, response


@pytest.mark.parametrize("density", [1.0, 1.3])
def test_moduli_of_an_fcc_crystal_are_lattice_sums(density):
    """Under tension and under pressure; no particle relaxes, each is a centre of symmetry."""
    cutoff = 2.1
    space, r = lattice.fcc(3, density=density)
    found = moduli(lennard_jones(cutoff=cutoff), space, r, AllPairs())
    _, response = lattice_sums(density, cutoff)
    np.testing.assert_allclose(found.stiffness, response, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.nonaffine, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.displacements, 0.0, atol=1e-9)
    assert found.residual < 1e-12
    h = 1e-5
    compressed = [lattice_sums(density * (1 + s * h), cutoff)[0] for s in (1, -1)]
    np.testing.assert_allclose(found.bulk_modulus, (compressed[0] - compressed[1]) / (2 * h), rtol=1e-6)
    c11, c12, c44 = response[0, 0, 0, 0], response[0, 0, 1, 1], response[0, 1, 0, 1]
    np.testing.assert_allclose(found.shear_modulus, (c11 - c12 + 3 * c44) / 5, rtol=1e-9)


@pytest.mark.parametrize("dimension", [2, 3])
def test_poissons_ratio_is_how_much_an_isotropic_solid_shrinks_sideways(dimension):
    """Pulled along x: the strain along y over minus that along x where no stress is left across."""
    lame, shear, delta = 1.3, 0.7, np.eye(dimension)
    stiffness = lame * np.einsum("ab,cd->abcd", delta, delta)
    stiffness += shear * (np.einsum("ac,bd->abcd", delta, delta) + np.einsum("ad,bc->abcd", delta, delta))
    none = np.zeros(())
    solid = Elasticity(born=stiffness, nonaffine=0 * stiffness, displacements=np.zeros(0), residual=none, products=none)
    strain = np.linalg.solve(np.einsum("aacc->ac", stiffness), delta[0])
    np.testing.assert_allclose(solid.poisson_ratio, -strain[1] / strain[0], rtol=1e-12)


def test_single_precision_gives_the_moduli_of_a_crystal():
    with jax.enable_x64(False):
        space, r = lattice.fcc(3, density=1.0)
        found = moduli(lennard_jones(cutoff=2.2), space, r, AllPairs())
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    np.testing.assert_allclose(found.stiffness, lattice_sums(1.0, 2.2)[1], rtol=1e-4, atol=2e-3)


# --- a packing: finite strain -----------------------------------------------------------------------------------------


def spring(r, sigma, k):
    return 0.5 * k * (1 - r / sigma) ** 2


@functools.cache
def packing():
    """A jammed bidisperse packing of discs with its minimum to machine precision: (potential, side, positions)."""
    n = 24
    sigma = np.where(np.arange(n) % 2, 1.4, 1.0)
    side = math.sqrt(np.sum(math.pi / 4 * sigma**2) / 0.95)
    potential = discs(sigma, 1.0)
    r = np.random.default_rng(3).random((n, 2)) * side
    return potential, side, minimised(potential, np.eye(2) * side, r)


def discs(sigma, k):
    diameter = PerParticle(jnp.asarray(sigma))
    return pair_potential(spring, cutoff=diameter, sigma=diameter, k=k)


@jax.jit
def energy_and_force(potential, cell, r):
    return jax.value_and_grad(potential.energy, argnums=1)(Triclinic(cell), r, AllPairs())


@jax.jit
def hessian(potential, cell, r):
    return jax.hessian(potential.energy, argnums=1)(Triclinic(cell), r, AllPairs())


@jax.jit
def stress(potential, cell, r):
    """The derivative of the energy as the cell and the positions are strained, over the volume."""

    def energy(strain):
        deformation = jnp.eye(2) + strain
        return potential.energy(Triclinic(cell @ deformation.T), r @ deformation.T, AllPairs())

    return jax.grad(energy)(jnp.zeros((2, 2))) / jnp.linalg.det(cell)


def minimised(potential, cell, r):
    """Damped steps downhill, then Newton's."""
    step = 0.2
    value, g = energy_and_force(potential, cell, r)
    for _ in range(20_000):
        trial = r - step * np.asarray(g)
        trial_value, trial_g = energy_and_force(potential, cell, trial)
        if trial_value <= value:
            r, value, g, step = trial, trial_value, trial_g, step * 1.1
        else:
            step *= 0.5
        if np.max(np.abs(g)) < 1e-6:
            break
    for _ in range(6):
        h = np.asarray(hessian(potential, cell, r)).reshape(r.size, r.size)
        g = np.asarray(energy_and_force(potential, cell, r)[1]).ravel()
        r = r - (np.linalg.pinv(h, rcond=1e-9) @ g).reshape(r.shape)
    assert np.max(np.abs(energy_and_force(potential, cell, r)[1])) < 1e-12
    return r


def test_moduli_of_a_packing_are_those_of_finite_strain():
    potential, side, r = packing()
    found = moduli(potential, Periodic(side), r, AllPairs(), tolerance=1e-10)
    assert found.residual < 1e-9
    assert found.nonaffine[0, 1, 0, 1] > 0.2 * found.born[0, 1, 0, 1]
    h, cell = 1e-6, side * np.eye(2)
    at_rest = np.asarray(stress(potential, cell, r))
    for a, b in [(0, 0), (1, 1), (0, 1)]:
        strain = np.zeros((2, 2))
        strain[a, b] = 1.0  # upper triangular, which keeps the cell's form: half of a shear is a rotation
        turn = 0.5 * (strain - strain.T)
        turned = turn @ at_rest - at_rest @ turn
        response, affine, moved = 0, 0, 0
        for step in (h, -h):
            deformation = np.eye(2) + step * strain
            start = r @ deformation.T
            end = minimised(potential, cell @ deformation.T, start)
            response += stress(potential, cell @ deformation.T, end) / (2 * step)
            affine += stress(potential, cell @ deformation.T, start) / (2 * step)
            moved += (end - start) / (2 * step)
        np.testing.assert_allclose(found.stiffness[:, :, a, b], response - turned, atol=2e-6)
        np.testing.assert_allclose(found.born[:, :, a, b], affine - turned, atol=2e-6)
        np.testing.assert_allclose(found.displacements[a, b], moved, atol=1e-4)


@pytest.mark.slow
def test_lists_all_pairs_and_a_triclinic_cell_give_the_same_moduli():
    potential, side, r = packing()
    first = moduli(potential, Periodic(side), r, AllPairs(), tolerance=1e-10)
    second = moduli(
        potential,
        Triclinic(np.eye(2) * side),
        r,
        allocate(Triclinic(np.eye(2) * side), r, cutoff=1.4, skin=0.1),
        tolerance=1e-10,
    )
    np.testing.assert_allclose(first.stiffness, second.stiffness, atol=1e-8)


@pytest.mark.slow
def test_moduli_are_differentiable_at_fixed_positions():
    potential, side, r = packing()
    sigma = potential.parameters["sigma"].values

    def shear_modulus(k):
        return elasticity(discs(sigma, k), Periodic(side), r, AllPairs(), tolerance=1e-11).shear_modulus

    value, gradient = jax.jit(jax.value_and_grad(shear_modulus))(1.0)
    np.testing.assert_allclose(gradient, value, rtol=1e-6)  # moduli are proportional to the stiffness of a contact


def test_derivatives_of_moduli_by_diameters_are_right_with_a_loose_linear_solve():
    """The moduli are stationary in the relaxation, so that its error enters their derivatives but once."""
    potential, side, r = packing()
    sigma = np.asarray(potential.parameters["sigma"].values)
    direction = np.random.default_rng(1).normal(size=len(sigma))

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def shear_modulus(h, tolerance):
        found = elasticity(discs(sigma + h * direction, 1.0), Periodic(side), r, AllPairs(), tolerance=tolerance)
        return found.shear_modulus, found.products

    (_, few), loose = shear_modulus(0.0, 1e-5)
    (_, many), tight = shear_modulus(0.0, 1e-12)
    difference = (shear_modulus(1e-6, 1e-12)[0][0] - shear_modulus(-1e-6, 1e-12)[0][0]) / 2e-6
    np.testing.assert_allclose(tight, difference, rtol=1e-6)
    np.testing.assert_allclose(loose, difference, rtol=1e-3)
    assert 3 < few < many <= 3 + 3 * 10 * r.size


def test_moduli_have_the_symmetries_of_a_stiffness():
    potential, side, r = packing()
    c = np.asarray(moduli(potential, Periodic(side), r, AllPairs(), tolerance=1e-10).stiffness)
    np.testing.assert_allclose(c, c.transpose(1, 0, 2, 3), atol=1e-10)
    np.testing.assert_allclose(c, c.transpose(0, 1, 3, 2), atol=1e-10)


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (Free(), {}, "space = Free.*; must be periodic"),
        (Periodic(9.0), {"tolerance": 0.0}, "tolerance = 0.0; must be"),
    ],
)
def test_bad_input_is_named(space, options, message):
    with pytest.raises(ValueError, match=message):
        elasticity(lennard_jones(), space, np.zeros((4, 3)), AllPairs(), **options)
