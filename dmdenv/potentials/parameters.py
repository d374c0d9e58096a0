"""Parameters of a pair: one number for all, a matrix over species, or numbers of the particles that are mixed.

Wherever a pair potential takes a parameter it takes any of the three. All are dynamic and differentiable.
"""

import abc
import math
from typing import Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Declared, Number, choice, number, shown
from dmdenv._core.pytree import pytree


class PairParameter(Declared, abc.ABC):
    """A parameter that differs from pair to pair, computed from what its two particles carry."""

    @property
    @abc.abstractmethod
    def features(self) -> jax.Array:
        """What each particle carries, `[n, ...]`."""

    @abc.abstractmethod
    def of_pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The parameter of a pair from the features of its particles, `[]`."""

    @property
    @abc.abstractmethod
    def numbers(self) -> jax.Array:
        """The numbers it is made of."""

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
        object.__setattr__(self, "matrix", _checked_matrix(self.matrix))
        object.__setattr__(self, "species", _checked_species(self.species, len(self.matrix)))

    @property
    def features(self) -> jax.Array:
        """One-hot, `[n, k]`: a small product vectorises where a look-up in a table would not."""
        return jax.nn.one_hot(self.species, len(self.matrix), dtype=self.matrix.dtype)

    def of_pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        # a sum and not a matrix product, which an accelerator may round
        return jnp.sum(a[:, None] * (0.5 * (self.matrix + self.matrix.T)) * b[None, :])

    @property
    def numbers(self) -> jax.Array:
        return self.matrix


@pytree
class PerParticle(PairParameter):
    """A parameter of each particle, mixed for a pair.

    Args:
        values: `[n]`; an external field may also take `[n, ...]`.
        mix: "arithmetic", `(p_i + p_j) / 2` (diameters of hard bodies; Lorentz), or "geometric", `sqrt(p_i p_j)`
            (strengths; Berthelot), for values above 0.

    Raises:
        ValueError: for a single number, concrete values that are not finite, or another rule.
    """

    values: jax.Array = number(batched=True)
    mix: Literal["arithmetic", "geometric"] = choice("arithmetic", of=("arithmetic", "geometric"))

    def __post_init__(self):
        super().__post_init__()
        if not self.values.ndim:
            raise ValueError("PerParticle.values has shape (); must be [n], one per particle")

    @property
    def features(self) -> jax.Array:
        """The values, `[n]`."""
        return self.values

    def of_pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return 0.5 * (a + b) if self.mix == "arithmetic" else jnp.sqrt(a * b)

    @property
    def numbers(self) -> jax.Array:
        return self.values


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
    if jnp.ndim(value):
        raise ValueError(f"{name} has shape {jnp.shape(value)}; must be a number, BySpecies or PerParticle")
    return Number(above=above).convert(name, value)


def features(parameters: dict[str, Parameter]) -> dict[str, jax.Array]:
    """What each particle carries of these parameters, leaves `[n, ...]`."""
    return {name: p.features for name, p in parameters.items() if isinstance(p, PairParameter)}


def of_pair(parameters: dict[str, Parameter], a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The parameters of one pair from the features of its two particles, each `[]`."""
    return {name: p.of_pair(a[name], b[name]) if isinstance(p, PairParameter) else p for name, p in parameters.items()}


def largest(parameter: Parameter) -> jax.Array:
    """The largest value of any pair, float []."""
    return parameter.largest if isinstance(parameter, PairParameter) else parameter


def _checked_matrix(matrix: jax.Array) -> jax.Array:
    """The matrix in the default precision, refused unless it is symmetric."""
    found = Number(axes=None).convert("BySpecies.matrix", matrix)
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    if not square or not (isinstance(found, jax.core.Tracer) or np.allclose(found, found.T)):
        raise ValueError(f"BySpecies.matrix = {shown(matrix)}; must be a symmetric matrix [k, k]")
    return found


def _checked_species(species: jax.Array, kinds: int) -> jax.Array:
    """The species as int32, refused where the matrix has no row for them."""
    if isinstance(species, jax.core.Tracer):
        return species
    found = np.asarray(species)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"BySpecies.species has type {found.dtype}{list(found.shape)}; must be int [n]")
    if found.size and (found.min() < 0 or found.max() >= kinds):
        raise ValueError(f"BySpecies.species = {found.tolist()}; must be >= 0 and < {kinds}")
    return jnp.asarray(found, jnp.int32)
