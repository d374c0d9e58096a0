"""Dihedrals: functions of the angle phi between the planes of the first and of the last three of four particles.

phi is in (-pi, pi], 0 where the chain of four is folded back (cis) and pi where it is stretched (trans).

References: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 1.3.3 and appendix C.2; the
sign and the form by the arc tangent: Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from dmdenv.potentials.angles import arctan2
from dmdenv.potentials.bonded import Bonded, TermParameter, make_bonded
from dmdenv.space import Space, norm


def dihedral_potential(function: Callable[..., jax.Array], dihedrals: ArrayLike, **parameters: TermParameter) -> Bonded:
    """A potential from your own energy of a dihedral, in three dimensions.

        trans = dihedral_potential(lambda phi, k: k * (1 + jnp.cos(phi)), [[0, 1, 2, 3]], k=3.0)

    Where three of the particles lie on a line, phi has no value: it is taken as 0, and the force as 0.

    Args:
        function: `function(phi, **parameters)`, the energy of a dihedral phi in (-pi, pi], all `[]`; of period 2 pi.
        dihedrals: int `[m, 4]`, the particles of each dihedral, along the chain.
        parameters: each a number for all dihedrals, `[m]` with one for each, or a tuple of these.

    Raises:
        ValueError: dihedrals of another shape, a particle twice in one, the same dihedral twice; a parameter of
            another shape or not finite; when it is evaluated, positions that are not `[n, 3]`.
    """
    return make_bonded(function, dihedral, "dihedrals", dihedrals, 4, parameters)


def cosine_dihedrals(
    dihedrals: ArrayLike, *, coefficients: Sequence[TermParameter], phases: Sequence[TermParameter] | None = None
) -> Bonded:
    """`u(phi) = sum_n coefficients[n - 1] (1 + cos(n phi - phases[n - 1]))`, n = 1, 2, ...

    Args:
        dihedrals: int `[m, 4]`, the particles of each dihedral, along the chain.
        coefficients: of n = 1, 2, ..., each a number or `[m]`, unit energy.
        phases: as many, each a number or `[m]`, unit radian; 0 by default.

    Raises:
        ValueError: for another number of phases than of coefficients; see `dihedral_potential`.
    """
    phases = tuple(phases) if phases is not None else (0.0,) * len(coefficients)
    if len(phases) != len(coefficients):
        raise ValueError(f"phases has length {len(phases)}; must be {len(coefficients)}, as coefficients")
    parameters = {"coefficients": tuple(coefficients), "phases": phases}
    return make_bonded(_cosine_series, cosine_and_sine, "dihedrals", dihedrals, 4, parameters)


def opls_dihedrals(dihedrals: ArrayLike, *, coefficients: Sequence[TermParameter]) -> Bonded:
    """`u(phi) = (F1 (1 + cos phi) + F2 (1 - cos 2 phi) + F3 (1 + cos 3 phi) + F4 (1 - cos 4 phi)) / 2`.

    Args:
        dihedrals: int `[m, 4]`, the particles of each dihedral, along the chain.
        coefficients: F1 to F4, each a number or `[m]`, unit energy.

    Raises:
        ValueError: other than four coefficients; see `dihedral_potential`.

    Reference: Jorgensen, Maxwell and Tirado-Rives, J. Am. Chem. Soc. 118, 11225 (1996), eq. 4.
    """
    _check_length(coefficients, 4, "F1 to F4")
    return make_bonded(_opls, cosine_and_sine, "dihedrals", dihedrals, 4, {"coefficients": tuple(coefficients)})


def ryckaert_bellemans_dihedrals(dihedrals: ArrayLike, *, coefficients: Sequence[TermParameter]) -> Bonded:
    """`u(phi) = sum_n C_n cos(phi - pi)^n`, n = 0 to 5: a power series about the stretched chain.

    Args:
        dihedrals: int `[m, 4]`, the particles of each dihedral, along the chain.
        coefficients: C_0 to C_5, each a number or `[m]`, unit energy.

    Raises:
        ValueError: other than six coefficients; see `dihedral_potential`.

    Reference: Ryckaert and Bellemans, Chem. Phys. Lett. 30, 123 (1975), eq. 1.
    """
    _check_length(coefficients, 6, "C_0 to C_5")
    parameters = {"coefficients": tuple(coefficients)}
    return make_bonded(_ryckaert_bellemans, cosine_and_sine, "dihedrals", dihedrals, 4, parameters)


def dihedral(space: Space, a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """The dihedral of four positions `[3]` along a chain, in (-pi, pi], `[]`; right-handed rotations are positive."""
    x, y = _normals(space, a, b, c, d)
    return arctan2(y, x)


def cosine_and_sine(
    space: Space, a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the dihedral, each `[]`: all that a series needs, without the angle itself."""
    x, y = _normals(space, a, b, c, d)
    length = norm(jnp.stack([x, y]))
    straight = length == 0
    length = jnp.where(straight, 1.0, length)
    return jnp.where(straight, 1.0, x / length), y / length


def _normals(space: Space, a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the dihedral, both times the lengths of the normals of its planes and of its middle bond."""
    if a.shape != (3,):
        raise ValueError(f"positions has {a.shape[0]} coordinates per particle; must be 3 for dihedrals")
    u, v, w = space.displacement(b, a), space.displacement(c, b), space.displacement(d, c)
    n = jnp.cross(v, w)
    return jnp.sum(jnp.cross(u, v) * n), norm(v) * jnp.sum(u * n)


def _cosine_series(phi: tuple[jax.Array, jax.Array], *, coefficients: tuple, phases: tuple) -> jax.Array:
    c, s = phi
    c_n, s_n, energy = jnp.ones_like(c), jnp.zeros_like(s), jnp.zeros_like(c)
    for k, delta in zip(coefficients, phases, strict=True):
        c_n, s_n = c * c_n - s * s_n, s * c_n + c * s_n  # of n phi
        energy = energy + k * (1.0 + c_n * jnp.cos(delta) + s_n * jnp.sin(delta))
    return energy


def _opls(phi: tuple[jax.Array, jax.Array], *, coefficients: tuple) -> jax.Array:
    c, (f1, f2, f3, f4) = phi[0], coefficients
    twice = 2.0 * c * c - 1.0  # cos(2 phi)
    odd = f1 * (1.0 + c) + f3 * (1.0 + c * (2.0 * twice - 1.0))
    even = f2 * (1.0 - twice) + f4 * 2.0 * (1.0 - twice * twice)
    return 0.5 * (odd + even)


def _ryckaert_bellemans(phi: tuple[jax.Array, jax.Array], *, coefficients: tuple) -> jax.Array:
    x, energy = -phi[0], jnp.zeros_like(phi[0])
    for c in reversed(coefficients):
        energy = energy * x + c
    return energy


def _check_length(coefficients: Sequence[TermParameter], length: int, names: str) -> None:
    if len(coefficients) != length:
        raise ValueError(f"coefficients has length {len(coefficients)}; must be {length}, {names}")
