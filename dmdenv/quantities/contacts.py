"""Contacts of particles with a diameter, and rattlers, which have too few.

Reference: O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), section II.
"""

import jax
import jax.numpy as jnp
from jax import lax

from dmdenv._core.control_flow import while_loop
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.potentials.parameters import ParameterLike, as_parameter, features, largest, of_pair
from dmdenv.quantities.neighborhood import within_range
from dmdenv.space import Space


def contact_numbers(
    space: Space,
    positions: jax.Array,
    pairs: Pairs,
    *,
    diameter: ParameterLike,
    present: jax.Array | None = None,
) -> jax.Array:
    """How many others each particle touches or overlaps, `r_ij < diameter_ij`, int32 `[n]`; -1 for a NaN position.

    Args:
        space: where the particles are.
        positions: `[n, d]`, unit length.
        pairs: all pairs, or a list whose cutoff is at least the largest diameter.
        diameter: of the contact of two particles, unit length: a number, `BySpecies(...)`, `PerPair(...)` or
            `PerParticle(...)`.
        present: bool `[n]`; the others are ignored. All by default.

    Raises:
        ValueError: for diameters that are not positive and finite, or beyond the largest cutoff of `pairs`.
    """
    parameter = {"diameter": as_parameter("diameter", diameter, above=0)}
    with jax.ensure_compile_time_eval():  # what is known outside of jit is known inside
        longest = largest(parameter["diameter"])
    positions = within_range("diameter", longest, space, positions, pairs)
    present = jnp.ones(positions.shape[0], bool) if present is None else present

    def kernel(a, b):
        d = space.displacement(a["position"], b["position"])
        touch = jnp.sum(d * d) < of_pair(parameter, a["own"], b["own"])["diameter"] ** 2
        return jnp.where(touch & a["present"] & b["present"], 1, 0).astype(jnp.int32)

    own = {"position": positions, "own": features(parameter), "present": present}
    somewhere = jnp.all(jnp.isfinite(positions), axis=1) | ~present
    counts: jax.Array = neighbor_sum(kernel, own, pairs, parity=1)
    return lax.select(somewhere, counts, jnp.full_like(counts, -1))


def rattlers(space: Space, positions: jax.Array, pairs: Pairs, *, diameter: ParameterLike) -> jax.Array:
    """The particles that are not held in place by their neighbours, bool `[n]`.

    A particle with fewer than d + 1 contacts is a rattler; it is removed and the others counted again, until none is
    found. Arguments and errors: see `contact_numbers`.
    """
    return ~backbone_contacts(space, positions, pairs, diameter=diameter)[1]


def backbone_contacts(
    space: Space, positions: jax.Array, pairs: Pairs, *, diameter: ParameterLike
) -> tuple[jax.Array, jax.Array]:
    """The contact numbers of what is left without rattlers, int32 `[n]`, and which particles these are, bool `[n]`.

    Rattlers have 0. The mean contact number of the others is 2 d in an isostatic packing. Arguments and errors: see
    `contact_numbers`.
    """
    needed = positions.shape[1] + 1

    def count(present):
        return contact_numbers(space, positions, pairs, diameter=diameter, present=present)

    def has_rattlers(state):
        counts, present = state
        return jnp.any(present & (counts < needed))

    def remove_rattlers(state):
        counts, present = state
        present = present & (counts >= needed)
        return count(present), present

    counts = count(None)
    return while_loop(has_rattlers, remove_rattlers, (counts, counts >= 0))
