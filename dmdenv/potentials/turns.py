"""Turns: functions of the signed angle by which a chain in the plane turns at a particle, 0 where it goes straight on.

With u = r_b - r_a and v = r_c - r_b the turn phi is the angle from u to v, counterclockwise, in (-pi, pi]. An angle
theta of `dmdenv.potentials.angles` is pi - |phi|: it does not tell left from right, so that joints which are to bend to
one side need this one.

In thermal equilibrium and without other interactions the turn at a joint of `cosine_turns` has the von Mises
distribution, so that `<cos(phi - turn)> = I_1(k / T) / I_0(k / T)`, with the stiffness k and modified Bessel functions.
"""

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from dmdenv.potentials.bonded import Bonded, TermParameter, make
from dmdenv.space import Space, norm


def cosine_turns(angles: ArrayLike, *, stiffness: TermParameter = 1.0, turn: TermParameter = 0.0) -> Bonded:
    """`u(phi) = stiffness (1 - cos(phi - turn))`: a joint in the plane with a turn at rest; smooth everywhere.

    Near rest it is a spring, `stiffness (phi - turn)^2 / 2`; its torque is at most `stiffness`. Without a turn it is
    `cosine_angles`.

    Args:
        angles: int `[m, 3]`, the particles of each joint in the order in which the chain runs: backwards, a turn has
            the other sign.
        stiffness: a number or `[m]`, unit energy.
        turn: the turn of least energy, a number or `[m]`, unit radian, counterclockwise.

    Raises:
        ValueError: see `angle_potential`; when it is evaluated, in a space that is not a plane.
    """
    return make(_cosine, turn_vector, "angles", angles, 3, {"stiffness": stiffness, "turn": turn})


def turn_vector(space: Space, a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(cos phi, sin phi)` of the turn at b from a to c, positions `[2]`; zeros where one of them coincides with b."""
    if a.shape[-1] != 2:
        raise ValueError(f"positions has {a.shape[-1]} coordinates per particle; must be 2, for a left and a right")
    u, v = space.displacement(b, a), space.displacement(c, b)
    scale = norm(u) * norm(v)
    apart = scale > 0
    scale = jnp.where(apart, scale, 1.0)
    return jnp.sum(u * v) / scale, (u[0] * v[1] - u[1] * v[0]) / scale


def _cosine(turned: tuple[jax.Array, jax.Array], *, stiffness: jax.Array, turn: jax.Array) -> jax.Array:
    cos, sin = turned
    return stiffness * (1.0 - cos * jnp.cos(turn) - sin * jnp.sin(turn))
