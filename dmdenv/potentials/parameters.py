"""Parameters of a pair: one number for all, a matrix over species or pairs, or numbers of the particles that are mixed.

Wherever a pair potential takes a parameter it takes any of these. All are dynamic and differentiable.
"""

import abc
import math
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Declared, Number, as_array, choice, number, shown
from dmdenv._core.pytree import pytree

_FEW_SPECIES = 2  # up to which a product with a one-hot vector vectorises better than a look-up
_MIXES = ("arithmetic", "geometric", "product")


class PairParameter(Declared, abc.ABC):
    """A parameter that differs from pair to pair, computed from what its two particles carry."""

    @property
    @abc.abstractmethod
    def features(self) -> Any:
        """What each particle carries, a tree of arrays `[n, ...]`."""

    @abc.abstractmethod
    def of_pair(self, a: Any, b: Any) -> jax.Array:
        """The parameter of a pair from the features of its particles, `[]`."""

    @property
    @abc.abstractmethod
    def numbers(self) -> jax.Array:
        """The numbers it is made of."""

    @property
    @abc.abstractmethod
    def of_particle(self) -> jax.Array:
        """The parameter of a particle itself, as of a pair of two like it, `[n]`."""

    @property
    def largest(self) -> jax.Array:
        """The largest value of any pair, float []."""
        return jnp.max(self.numbers)


@pytree
class BySpecies(PairParameter):
    """A parameter by the species of the two particles, `p_ij = M[s_i, s_j]`.

    Args:
        matrix: `[k, k]`, symmetric.
        species: int `[n]`, from 0 to k - 1.

    Raises:
        ValueError: for a concrete matrix that is not finite, square and symmetric, or species without a row in it.
    """

    matrix: jax.Array
    species: jax.Array

    def __post_init__(self):
        object.__setattr__(self, "matrix", _checked_matrix("BySpecies.matrix", self.matrix))
        object.__setattr__(self, "species", _checked_species(self.species, len(self.matrix)))

    @property
    def features(self) -> Any:
        """Few species one-hot, `[n, k]`: a small product vectorises where a look-up in a table would not.

        A traced species without a row in the matrix has parameters of NaN.
        """
        k = len(self.matrix)
        known = (self.species >= 0) & (self.species < k)
        if k > _FEW_SPECIES:
            return _entries(self.matrix, jnp.where(known, self.species, k))
        one_hot = jax.nn.one_hot(self.species, k, dtype=self.matrix.dtype)
        return jnp.where(known[:, None], one_hot, jnp.nan)

    def of_pair(self, a: Any, b: Any) -> jax.Array:
        if len(self.matrix) > _FEW_SPECIES:
            return _entry(self.matrix, a, b)
        # a sum and not a matrix product, which an accelerator may round
        return jnp.sum(a[:, None] * _symmetric(self.matrix) * b[None, :])

    @property
    def of_particle(self) -> jax.Array:
        """The diagonal, by species: a sum, as the derivative of a look-up would be a scatter."""
        k = len(self.matrix)
        known = (self.species >= 0) & (self.species < k)
        diagonal = jnp.sum(jnp.eye(k, dtype=self.matrix.dtype) * self.matrix, axis=1)
        one_hot = jax.nn.one_hot(self.species, k, dtype=self.matrix.dtype)
        return jnp.where(known, jnp.sum(one_hot * diagonal[None, :], axis=1), jnp.nan)

    @property
    def numbers(self) -> jax.Array:
        return self.matrix


@pytree
class PerPair(PairParameter):
    """A parameter of each pair of particles, `p_ij = M[i, j]`: for few particles, as it stores all pairs.

    Args:
        matrix: `[n, n]`, symmetric; its diagonal is not used.

    Raises:
        ValueError: for a concrete matrix that is not finite, square and symmetric.
    """

    matrix: jax.Array

    def __post_init__(self):
        object.__setattr__(self, "matrix", _checked_matrix("PerPair.matrix", self.matrix))

    @property
    def features(self) -> Any:
        """The index of a particle, and what the derivative needs."""
        return _entries(self.matrix, jnp.arange(len(self.matrix)))

    def of_pair(self, a: Any, b: Any) -> jax.Array:
        return _entry(self.matrix, a, b)

    @property
    def of_particle(self) -> jax.Array:
        """Refused, as the diagonal is not used.

        Raises:
            ValueError: always.
        """
        raise ValueError("PerPair has no parameter of a single particle; must be a number, BySpecies or PerParticle")

    @property
    def numbers(self) -> jax.Array:
        """Those of pairs: on the diagonal stand their neighbours."""
        return jnp.where(jnp.eye(len(self.matrix), dtype=bool), jnp.roll(self.matrix, 1, axis=1), self.matrix)


@pytree
class PerParticle(PairParameter):
    """A parameter of each particle, mixed for a pair.

    Args:
        values: `[n]`; an external field may also take `[n, ...]`.
        mix: "arithmetic", `(p_i + p_j) / 2` (diameters of hard bodies; Lorentz), "geometric", `sqrt(p_i p_j)`
            (strengths; Berthelot), for values that are not negative, or "product", `p_i p_j` (charges, of any sign).

    Raises:
        ValueError: for a single number, concrete values that are not finite, negative ones with "geometric", or another
            rule.
    """

    values: jax.Array = number(batched=True)
    mix: Literal["arithmetic", "geometric", "product"] = choice("arithmetic", of=_MIXES)

    def __post_init__(self):
        super().__post_init__()
        if not self.values.ndim:
            raise ValueError("PerParticle.values has shape (); must be [n], one per particle")
        if self.mix == "geometric":
            Number(at_least=0, axes=None).convert("PerParticle.values for mix = 'geometric'", self.values)

    @property
    def features(self) -> jax.Array:
        """The values, `[n]`."""
        return self.values

    def of_pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        if self.mix == "product":
            return a * b
        return 0.5 * (a + b) if self.mix == "arithmetic" else jnp.sqrt(a * b)

    @property
    def of_particle(self) -> jax.Array:
        """The values; of products their squares."""
        return self.values**2 if self.mix == "product" else self.values

    @property
    def numbers(self) -> jax.Array:
        """The values; of products the least and the greatest of any two."""
        if self.mix != "product":
            return self.values
        ends = jnp.stack([jnp.min(self.values), jnp.max(self.values)])
        return ends[:, None] * ends[None, :]


Parameter = jax.Array | PairParameter
ParameterLike = float | Parameter


def as_parameter(name: str, value: ParameterLike, *, above: float = -math.inf) -> Parameter:
    """The parameter as arrays of the default precision.

    Raises:
        ValueError: for an array that is not a single number, or a `PerParticle` that is not `[n]`; for concrete values
            that are not finite, or not above `above`.
    """
    if isinstance(value, PairParameter):
        if isinstance(value, PerParticle) and value.values.ndim != 1:
            raise ValueError(f"{name} has values of shape {value.values.shape}; must be [n] for a pair")
        Number(above=above, axes=None).convert(name, value.numbers)
        return value
    found = Number(above=above, axes=None).convert(name, value)
    if found.ndim:
        raise ValueError(f"{name} has shape {found.shape}; must be a number, BySpecies, PerPair or PerParticle")
    return found


def features(parameters: dict[str, Parameter]) -> dict[str, Any]:
    """What each particle carries of these parameters, leaves `[n, ...]`."""
    return {name: p.features for name, p in parameters.items() if isinstance(p, PairParameter)}


def of_pair(parameters: dict[str, Parameter], a: dict[str, Any], b: dict[str, Any]) -> dict[str, jax.Array]:
    """The parameters of one pair from the features of its two particles, each `[]`."""
    return {name: p.of_pair(a[name], b[name]) if isinstance(p, PairParameter) else p for name, p in parameters.items()}


def products(values: jax.Array) -> PerParticle:
    """The products of values, `[n]`, which keep their precision: also in the middle of a computation."""
    return jax.tree.map(lambda _: values, PerParticle(np.ones(1), mix="product"))  # pyright: ignore[reportArgumentType]


def of_particle(parameters: dict[str, Parameter], n: int) -> dict[str, jax.Array]:
    """The parameters of n particles themselves, each `[n]`.

    Raises:
        ValueError: for a parameter of another number of particles, or a `PerPair`, which has none of one particle.
    """
    own = {
        name: p.of_particle if isinstance(p, PairParameter) else jnp.broadcast_to(p, n)
        for name, p in parameters.items()
    }
    for name, values in own.items():
        if len(values) != n:
            raise ValueError(f"{name} has {len(values)} values; must be {n}, one per particle")
    return own


def largest(parameter: Parameter) -> jax.Array:
    """The largest value of any pair, float []."""
    return parameter.largest if isinstance(parameter, PairParameter) else parameter


def _symmetric(matrix: jax.Array) -> jax.Array:
    return 0.5 * (matrix + matrix.T)


# An entry is looked up in the matrix, which all particles share. Its derivative is one by the rows, which particles
# carry: by the matrix itself it would be a matrix for each particle.


def _entries(matrix: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
    """The features for `_entry`: the index of a row, int `[n]`, and the row, `[n, k]`."""
    return {"index": index, "row": _symmetric(matrix)[index]}


def _entry(matrix: jax.Array, a: dict[str, jax.Array], b: dict[str, jax.Array]) -> jax.Array:
    """The entry of two particles in a symmetric matrix, `[]`."""
    return _look_up(jax.lax.stop_gradient(matrix), a["index"], b["index"], a["row"], b["row"])


@jax.custom_jvp
def _look_up(matrix: jax.Array, i: jax.Array, j: jax.Array, row_i: jax.Array, row_j: jax.Array) -> jax.Array:
    one, other = (matrix.at[pair].get(mode="fill", fill_value=jnp.nan) for pair in ((i, j), (j, i)))
    return 0.5 * (one + other)


@_look_up.defjvp
def _(primals, tangents):
    _, i, j, *_ = primals
    *_, by_row_i, by_row_j = tangents
    return _look_up(*primals), 0.5 * (by_row_i[j] + by_row_j[i])


def _checked_matrix(name: str, matrix: jax.Array) -> jax.Array:
    """The matrix in the default precision, refused unless it is symmetric."""
    found = Number(axes=None).convert(name, matrix)
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    symmetric = square and (isinstance(found, jax.core.Tracer) or np.allclose(np.asarray(found), np.asarray(found).T))
    if not symmetric:
        raise ValueError(f"{name} = {shown(matrix)}; must be a symmetric matrix [k, k]")
    return found


def _checked_species(species: jax.Array, kinds: int) -> jax.Array:
    """The species as int32, refused where the matrix has no row for them."""
    if isinstance(species, jax.core.Tracer):
        return species
    found = as_array("BySpecies.species", species, "int [n]")
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"BySpecies.species has type {found.dtype}{list(found.shape)}; must be int [n]")
    if found.size and (found.min() < 0 or found.max() >= kinds):
        raise ValueError(f"BySpecies.species = {found.tolist()}; must be >= 0 and < {kinds}")
    return jnp.asarray(found, jnp.int32)
