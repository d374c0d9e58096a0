"""Size and shape of chain molecules.

Chains are given as positions `[..., beads, d]` that are continuous along the chain, with any leading axes:
`positions.reshape(chains, beads, d)`. `unfold` makes wrapped chains continuous.

Reference: Rubinstein and Colby, Polymer Physics (2003), sections 2.2 and 2.4.
"""

import jax
import jax.numpy as jnp

from dmdenv.space import Space, norm


def unfold(space: Space, chains: jax.Array) -> jax.Array:
    """Chains whose successive beads are nearest images of one another, from the first bead on, `[..., beads, d]`.

    Args:
        space: where the particles are.
        chains: `[..., beads, d]`, unit length; in any images.
    """
    bonds = space.displacement(chains[..., 1:, :], chains[..., :-1, :])
    first = chains[..., :1, :]
    return jnp.concatenate([first, first + jnp.cumsum(bonds, axis=-2)], axis=-2)


def end_to_end_vector(chains: jax.Array) -> jax.Array:
    """From the first bead to the last, `[..., d]`, unit length.

    Args:
        chains: `[..., beads, d]`, unit length.
    """
    return chains[..., -1, :] - chains[..., 0, :]


def end_to_end_distance(chains: jax.Array) -> jax.Array:
    """The length of the end-to-end vector, `[...]`, unit length. The argument: see `end_to_end_vector`."""
    return norm(end_to_end_vector(chains))


def gyration_tensor(chains: jax.Array, masses: jax.Array | None = None) -> jax.Array:
    """`S = sum_i m_i (r_i - r_cm) (r_i - r_cm)^T / sum_i m_i`, `[..., d, d]`, unit length^2.

    Args:
        chains: `[..., beads, d]`, unit length.
        masses: `[beads]`; equal ones by default.
    """
    r, weights = _about_centre(chains, masses)
    return jnp.einsum("k,...ka,...kb->...ab", weights, r, r)


def radius_of_gyration(chains: jax.Array, masses: jax.Array | None = None) -> jax.Array:
    """`R_g = sqrt(sum_i m_i |r_i - r_cm|^2 / sum_i m_i)`, `[...]`, unit length. Arguments: see `gyration_tensor`."""
    r, weights = _about_centre(chains, masses)
    scaled = jnp.einsum("k,...ka->...ka", jnp.sqrt(weights), r)
    return norm(scaled.reshape(*scaled.shape[:-2], -1))


def _about_centre(chains: jax.Array, masses: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Positions relative to the centre of mass, and the share of each bead in the mass, `[beads]`."""
    weights = jnp.ones(chains.shape[-2], chains.dtype) if masses is None else jnp.asarray(masses, chains.dtype)
    weights = weights / jnp.sum(weights)
    centre = jnp.einsum("k,...ka->...a", weights, chains)
    return chains - centre[..., None, :], weights
