"""Signed angles: functions of the angle phi by which a chain in the plane bends at a particle, 0 where it is straight.

With u = r_b - r_a and v = r_c - r_b, phi is the angle from u to v, counterclockwise, in (-pi, pi]. An angle theta of
`dmdenv.potentials.angles` is pi - |phi|: it does not tell left from right, so a joint with a preferred side needs phi.

In thermal equilibrium and without other interactions phi has the von Mises distribution at a joint of
`cosine_signed_angles`, so that `<cos(phi - angle)> = I_1(k / T) / I_0(k / T)`, with the stiffness k and modified Bessel
functions I.
"""

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from dmdenv.potentials.bonded import Bonded, TermParameter, make_bonded
from dmdenv.space import Space, norm


def cosine_signed_angles(angles: ArrayLike, *, stiffness: TermParameter = 1.0, angle: TermParameter = 0.0) -> Bonded:
    """`u(phi) = stiffness (1 - cos(phi - angle))`: a joint in the plane that rests at a signed angle; smooth
    everywhere.

    Near rest it is a spring, `stiffness (phi - angle)^2 / 2`; its torque is at most `stiffness`. With `angle=0` it is
    `cosine_angles`.

    Args:
        angles: int `[m, 3]`, the particles of each joint along the chain: in the opposite order, phi has the other
            sign.
        stiffness: a number or `[m]`, unit energy.
        angle: phi of least energy, a number or `[m]`, unit radian, counterclockwise.

    Raises:
        ValueError: see `angle_potential`; when it is evaluated, in a space that is not a plane.
    """
    return make_bonded(_cosine, cosine_and_sine, "angles", angles, 3, {"stiffness": stiffness, "angle": angle})


def cosine_and_sine(space: Space, a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(cos phi, sin phi)` at b, from positions `[2]` along a chain; zeros where one of the others coincides with b."""
    if a.shape[-1] != 2:
        raise ValueError(f"positions has {a.shape[-1]} coordinates per particle; must be 2, for a left and a right")
    u, v = space.displacement(b, a), space.displacement(c, b)
    scale = norm(u) * norm(v)
    scale = jnp.where(scale == 0, 1.0, scale)
    return jnp.sum(u * v) / scale, (u[0] * v[1] - u[1] * v[0]) / scale


def _cosine(phi: tuple[jax.Array, jax.Array], *, stiffness: jax.Array, angle: jax.Array) -> jax.Array:
    cos, sin = phi
    return stiffness * (1.0 - cos * jnp.cos(angle) - sin * jnp.sin(angle))
