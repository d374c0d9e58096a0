"""The box as degrees of freedom of a minimisation.

A step deforms the box and everything in it, r -> F r, by a small strain e in the frame of the present box:

    F = exp(diag e) + (e above the diagonal)

so that volumes stay positive and a lower triangular cell stays lower triangular (the whole box never rotates). What the
box may do is a linear subspace of strains, with its orthogonal projection P:

| box_mode | strains | degrees of freedom in d dimensions |
|---|---|---|
| `"isotropic"` | `e 1` | 1 |
| `"axes"` | diagonal | d |
| `"cell"` | upper triangular | d (d + 1) / 2 |

For particles that follow the strain, the enthalpy H = U + p V has the derivative `-dH/de = P(W - p V 1)`, with the
virial W. Strains and positions are made commensurate by a length: the coordinate of the box is `X = l e` with
`l = sqrt(n) (V / n)^(1/d)`, its force `P(W - p V 1) / l`. The second derivative of H by X is then a modulus times a
distance between particles, as the stiffness between particles is, for any n.

Reference: Tadmor, Smith, Bernstein and Kaxiras, Phys. Rev. B 59, 235 (1999), section II, for the box as a deformation
gradient beside the positions; Pfrommer, Cote, Louie and Cohen, J. Comput. Phys. 131, 233 (1997), for the scaling.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Choice
from dmdenv.space import Space

BoxMode = Literal["fixed", "isotropic", "axes", "cell"]


def prepare_space(box_mode: BoxMode, space: Space, dimension: int) -> Space:
    """The space with a number of its own for each of these degrees of freedom.

    Raises:
        ValueError: for a space that does not have them.
    """
    if box_mode not in space.box_modes:
        valid = f"must be {Choice(space.box_modes)} in {type(space).__name__} space"
        raise ValueError(f"box_mode = {box_mode!r}; {valid}")
    return space if box_mode == "fixed" else space.deformable(dimension)


def project(box_mode: BoxMode, tensor: jax.Array) -> jax.Array:
    """P, `[d, d]` to `[d, d]`: the part of a tensor that the box may follow."""
    if box_mode == "cell":
        return jnp.triu(tensor)
    diagonal = jnp.diag(tensor)
    if box_mode == "isotropic":
        diagonal = jnp.full_like(diagonal, jnp.mean(diagonal))
    return jnp.diag(diagonal)


def deform(space: Space, positions: jax.Array, strain: jax.Array) -> tuple[Space, jax.Array]:
    """The space and the positions `[n, d]` in it after a strain `[d, d]`."""
    F = jnp.diag(jnp.exp(jnp.diag(strain))) + jnp.triu(strain, 1)
    return space.deform(F, positions)


def length(space: Space, positions: jax.Array) -> jax.Array:
    """`l = sqrt(n) (V / n)^(1/d)`, `[]`: what turns a strain into a coordinate like a position."""
    n, d = positions.shape
    return n**0.5 * (space.volume(d) / n) ** (1.0 / d)
