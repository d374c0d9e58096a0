"""Angles: functions of the angle theta at the middle one of three given particles, pi where the chain is straight.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 1.3.3 and appendix C.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from dmdenv.potentials.bonded import Bonded, TermParameter, make_bonded
from dmdenv.space import Space, norm, unit


def angle_potential(function: Callable[..., jax.Array], angles: ArrayLike, **parameters: TermParameter) -> Bonded:
    """A potential from your own energy of an angle, in two or three dimensions.

        right = angle_potential(lambda theta, k: k * jnp.cos(theta) ** 2, [[0, 1, 2]], k=3.0)

    Args:
        function: `function(theta, **parameters)`, the energy of an angle theta in [0, pi], all `[]`.
        angles: int `[m, 3]`, the particles of each angle, its vertex in the middle.
        parameters: each a number for all angles, `[m]` with one for each, or a tuple of these.

    Raises:
        ValueError: angles of another shape, a particle twice in one, the same angle twice; a parameter of
            another shape or not finite.
    """
    return make_bonded(function, angle, "angles", angles, 3, parameters)


def harmonic_angles(angles: ArrayLike, *, stiffness: TermParameter = 1.0, angle: TermParameter) -> Bonded:
    """`u(theta) = stiffness (theta - angle)^2 / 2`.

    Where the three are on a line theta has a kink, and the force is taken as 0. `cosine_angles` is smooth there.

    Args:
        angles: int `[m, 3]`, the particles of each angle, its vertex in the middle.
        stiffness: a number or `[m]`, unit energy / radian^2.
        angle: the angle of least energy, a number or `[m]`, unit radian.

    Raises:
        ValueError: see `angle_potential`.
    """
    return angle_potential(_harmonic, angles, stiffness=stiffness, angle=angle)


def cosine_angles(angles: ArrayLike, *, stiffness: TermParameter = 1.0) -> Bonded:
    """`u(theta) = stiffness (1 + cos theta)`: the bending of a stiff chain, least where it is straight.

    Args:
        angles: int `[m, 3]`, the particles of each angle, its vertex in the middle.
        stiffness: a number or `[m]`, unit energy; over the temperature, the persistence length in bonds.

    Raises:
        ValueError: see `angle_potential`.
    """
    return make_bonded(_cosine, cosine, "angles", angles, 3, {"stiffness": stiffness})


def cosine(space: Space, a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """The cosine of the angle at b between a and c, positions `[d]`, `[]`; 0 where one of them coincides with b."""
    return jnp.sum(unit(space.displacement(a, b)) * unit(space.displacement(c, b)))


def angle(space: Space, a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """The angle at b between a and c, positions `[d]`, in [0, pi], `[]`, accurate also where they lie on a line."""
    u, v = unit(space.displacement(a, b)), unit(space.displacement(c, b))
    return 2.0 * arctan2(norm(u - v), norm(u + v))


def arctan2(y: jax.Array, x: jax.Array) -> jax.Array:
    """The angle of the point (x, y); 0, with derivative 0 (instead of NaN), at the origin."""
    defined = (x != 0) | (y != 0)
    return jnp.arctan2(y, jnp.where(defined, x, 1.0))


def _harmonic(theta: jax.Array, *, stiffness: jax.Array, angle: jax.Array) -> jax.Array:
    return 0.5 * stiffness * (theta - angle) ** 2


def _cosine(cosine: jax.Array, *, stiffness: jax.Array) -> jax.Array:
    return stiffness * (1.0 + cosine)
