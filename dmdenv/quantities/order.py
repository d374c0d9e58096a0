"""Bond-orientational and polar order.

The weight w of a neighbour is 1 within the cutoff and 0 beyond; with an `onset` it falls smoothly from there, and the
order is differentiable with respect to positions, box and cutoff. A particle without neighbours has order 0.

References: Nelson and Halperin, Phys. Rev. B 19, 2457 (1979) (psi); Steinhardt, Nelson and Ronchetti, Phys. Rev. B 28,
784 (1983) (q_l); Lechner and Dellago, J. Chem. Phys. 129, 114707 (2008) (averaged q_l); Vicsek et al., Phys. Rev. Lett.
75, 1226 (1995) (polar order).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv._core.fields import Whole
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.quantities.neighborhood import check_onset, mean, neighbor_weight, within_range
from dmdenv.space import Space, norm, unit


def bond_order(
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    cutoff: jax.Array | float,
    k: int = 6,
    onset: jax.Array | float | None = None,
) -> jax.Array:
    """`psi_k(i) = sum_j w_ij exp(i k theta_ij) / sum_j w_ij` in two dimensions, complex `[n]`.

    theta is the angle of the bond with the x axis. The modulus is 1 where the neighbours form a regular k-gon; the mean
    of psi over the particles measures global order.

    Args:
        space: where the particles are.
        positions: `[n, 2]`, unit length.
        pairs: all pairs, or a neighbour list with at least this cutoff.
        cutoff: the largest distance of a neighbour, unit length.
        k: the symmetry, 6 for hexatic order.
        onset: where the weight begins to fall, unit length.

    Raises:
        ValueError: for positions that are not `[n, 2]`, a k below 1, an onset not below the cutoff, a cutoff beyond
            that of `pairs`.

    Reference: Nelson and Halperin, section II.
    """
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"positions has shape {positions.shape}; must be [n, 2]")
    k = Whole(at_least=1).convert("k", k)
    check_onset(cutoff, onset)
    positions = within_range("cutoff", cutoff, space, positions, pairs)

    def kernel(a, b):
        d = space.displacement(b, a)
        weight = neighbor_weight(jnp.sum(d * d), cutoff, onset)
        x, y = unit(d)
        cosine, sine = _multiple_angles(x, y, k)[k]
        return weight, weight * cosine, weight * sine

    parity = (-1) ** k
    total, real, imaginary = neighbor_sum(kernel, positions, pairs, parity=(1, parity, parity))
    return lax.complex(mean(real, total), mean(imaginary, total))


def steinhardt(
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    l: int,
    cutoff: jax.Array | float,
    onset: jax.Array | float | None = None,
) -> jax.Array:
    """`q_l(i) = sqrt(4 pi / (2 l + 1) sum_m |q_lm(i)|^2)` with `q_lm(i) = sum_j w_ij Y_lm(r_ij) / sum_j w_ij`, `[n]`.

    Args:
        space: where the particles are.
        positions: `[n, 3]`, unit length.
        pairs: all pairs, or a neighbour list with at least this cutoff.
        l: the degree of the spherical harmonics, 0 or more.
        cutoff: the largest distance of a neighbour, unit length.
        onset: where the weight begins to fall, unit length.

    Raises:
        ValueError: for positions that are not `[n, 3]`, an l below 0, an onset not below the cutoff, a cutoff beyond
            that of `pairs`.

    Reference: Steinhardt et al., section I.
    """
    return norm(_steinhardt_vectors(space, positions, pairs, l=l, cutoff=cutoff, onset=onset))


def averaged_steinhardt(
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    l: int,
    cutoff: jax.Array | float,
    onset: jax.Array | float | None = None,
) -> jax.Array:
    """`qbar_l`: `q_l` with q_lm averaged over the particle and its neighbours, which distinguishes crystals, `[n]`.

    `qbar_lm(i) = (q_lm(i) + sum_j w_ij q_lm(j)) / (1 + sum_j w_ij)`. Arguments and errors: see `steinhardt`.

    Reference: Lechner and Dellago, section II.
    """
    q = _steinhardt_vectors(space, positions, pairs, l=l, cutoff=cutoff, onset=onset)

    def kernel(a, b):
        d = space.displacement(b["position"], a["position"])
        weight = neighbor_weight(jnp.sum(d * d), cutoff, onset)
        return weight, weight * b["q"]

    weights, around = neighbor_sum(kernel, {"position": positions, "q": q}, pairs, parity=(1, 0))
    return norm((q + around) / (1.0 + weights)[:, None])


def polar_order(directions: jax.Array) -> jax.Array:
    """`|1/n sum_i v_i / |v_i||`, `[]`: 1 for one common direction, about `n^(-1/2)` for random ones.

    Args:
        directions: velocities or orientations of any length, `[n, d]`; a zero vector counts as no direction.
    """
    return norm(jnp.mean(unit(directions), axis=0))


def _steinhardt_vectors(space: Space, positions: jax.Array, pairs: Pairs, *, l: int, cutoff, onset) -> jax.Array:
    """q_lm times sqrt(4 pi / (2 l + 1)), `[n, 2 l + 1]`, for real harmonics."""
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions has shape {positions.shape}; must be [n, 3]")
    l = Whole(at_least=0).convert("l", l)
    check_onset(cutoff, onset)
    positions = within_range("cutoff", cutoff, space, positions, pairs)

    def kernel(a, b):
        d = space.displacement(b, a)
        weight = neighbor_weight(jnp.sum(d * d), cutoff, onset)
        return weight, weight * jnp.stack(spherical_harmonics(unit(d), l))

    total, q = neighbor_sum(kernel, positions, pairs, parity=(1, (-1) ** l))
    return mean(q, total[:, None])


def spherical_harmonics(n: jax.Array, l: int) -> list[jax.Array]:
    """The 2 l + 1 real spherical harmonics of degree l times `sqrt(4 pi / (2 l + 1))`, at one unit vector `[3]`.

    The sum of their products at two vectors is the Legendre polynomial of the angle between them. They are polynomials
    of the components, by recurrence: smooth everywhere, and finite for a zero vector.

        C_m + i S_m = (x + i y)^m,    P_mm = (2 m - 1)!!,    P_{m+1,m} = (2 m + 1) z P_mm,
        (k - m) P_km = (2 k - 1) z P_{k-1,m} - (k + m - 1) P_{k-2,m},
        Y_l,+-m = sqrt(2 (l - m)! / (l + m)!) P_lm {C_m, S_m},    Y_l0 = P_l0

    Reference: Press et al., Numerical Recipes, 3rd ed. (2007), section 6.7, without the power of sin(theta).
    """
    x, y, z = n
    angles = _multiple_angles(x, y, l)
    harmonics = []
    for m in range(l + 1):
        scale = math.sqrt((2 if m else 1) * math.factorial(l - m) / math.factorial(l + m))
        before = jnp.zeros_like(z)
        now = jnp.full_like(z, scale * math.prod(range(1, 2 * m, 2)))
        for k in range(m + 1, l + 1):
            before, now = now, ((2 * k - 1) * z * now - (k + m - 1) * before) / (k - m)
        cosine, sine = angles[m]
        harmonics += [now * cosine, now * sine] if m else [now]
    return harmonics


def _multiple_angles(x: jax.Array, y: jax.Array, k: int) -> list[tuple[jax.Array, jax.Array]]:
    """Real and imaginary part of `(x + i y)^m`, m = 0 ... k."""
    powers = [(jnp.ones_like(x), jnp.zeros_like(x))]
    for _ in range(k):
        real, imaginary = powers[-1]
        powers.append((x * real - y * imaginary, x * imaginary + y * real))
    return powers
