"""Sets as bits: the members among many candidates, 32 to an unsigned integer, for all particles at once."""

import jax
import jax.numpy as jnp
from jax import lax

WORD = 32


def pack(members: jax.Array) -> jax.Array:
    """For each column of bool `[rows, n]` the set of rows that are true, uint32 `[ceil(rows / 32), n]`."""
    rows, n = members.shape
    padded = jnp.pad(members, ((0, -rows % WORD), (0, 0))).reshape(-1, WORD, n)
    return jnp.sum(padded.astype(jnp.uint32) << lax.iota(jnp.uint32, WORD)[None, :, None], axis=1, dtype=jnp.uint32)


def take_lowest(sets: jax.Array, asked: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Remove the lowest member of each set where asked: the sets left, the member, and whether there was one to take.

    A set is one column of the uint32 `[words, n]`.
    """
    row = jnp.argmax(sets != 0, axis=0).astype(jnp.int32)  # the first word that is not 0
    chosen = lax.iota(jnp.int32, len(sets))[:, None] == row[None, :]
    word = jnp.sum(jnp.where(chosen, sets, 0), axis=0, dtype=sets.dtype)
    found = asked & (word != 0)
    return jnp.where(chosen & found[None, :], sets & (sets - 1), sets), WORD * row + lowest(word), found


def lowest(word: jax.Array) -> jax.Array:
    """The number of the lowest bit that is set, int32; 32 where none is."""
    return lax.population_count(~word & (word - 1)).astype(jnp.int32)
