"""Parameters of a pair: one number for all, a matrix over species, or numbers of the particles that are mixed.

Wherever a pair potential takes a parameter it takes any of the three. All are dynamic and differentiable.
"""

from typing import Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import Replaceable, pytree, static


@pytree
class BySpecies(Replaceable):
    """A parameter by the species of the two particles, `p_ij = M[s_i, s_j]`.

    Args:
        matrix: `[k, k]`, symmetric.
        species: int `[n]`, from 0 to k - 1.

    Raises:
        ValueError: for a concrete matrix that is not square and symmetric, or species that it does not have.
    """

    matrix: jax.Array
    species: jax.Array

    def __post_init__(self):
        if not isinstance(self.matrix, jax.core.Tracer):
            matrix = np.asarray(self.matrix)
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T):
                raise ValueError(f"matrix = {matrix.tolist()}; valid: a symmetric matrix [k, k]")
            object.__setattr__(self, "matrix", jnp.asarray(self.matrix, jnp.result_type(float)))
        if not isinstance(self.species, jax.core.Tracer):
            species, k = np.asarray(self.species), len(self.matrix)
            if species.ndim != 1 or not np.issubdtype(species.dtype, np.integer):
                raise ValueError(f"species has type {species.dtype}{list(species.shape)}; valid: int [n]")
            if species.size and (species.min() < 0 or species.max() >= k):
                raise ValueError(f"species from {species.min()} to {species.max()}; valid: from 0 to {k - 1}")
            object.__setattr__(self, "species", jnp.asarray(self.species, jnp.int32))

    @property
    def features(self) -> jax.Array:
        """One-hot, `[n, k]`: a small product vectorises where a look-up in a table would not."""
        return jax.nn.one_hot(self.species, len(self.matrix), dtype=self.matrix.dtype)

    def of_pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The parameter of a pair from the features of its particles."""
        # a sum and not a matrix product, which an accelerator may round
        return jnp.sum(a[:, None] * (0.5 * (self.matrix + self.matrix.T)) * b[None, :])

    @property
    def largest(self) -> jax.Array:
        """The largest value of any pair, float []."""
        return jnp.max(self.matrix)


@pytree
class PerParticle(Replaceable):
    """A parameter of each particle, mixed for a pair.

    Args:
        values: `[n]`; an external field may also take `[n, ...]`.
        mix: "arithmetic", `(p_i + p_j) / 2` (diameters of hard bodies; Lorentz), or "geometric", `sqrt(p_i p_j)`
            (strengths; Berthelot), for values above 0.

    Raises:
        ValueError: for a single number, or another rule.
    """

    values: jax.Array
    mix: Literal["arithmetic", "geometric"] = static(default="arithmetic")

    def __post_init__(self):
        if self.mix not in ("arithmetic", "geometric"):
            raise ValueError(f"mix = {self.mix!r}; valid: 'arithmetic', 'geometric'")
        if not jnp.ndim(self.values):
            raise ValueError(f"values = {self.values!r}; valid: [n], one for each particle")
        if not isinstance(self.values, jax.core.Tracer):
            object.__setattr__(self, "values", jnp.asarray(self.values, jnp.result_type(float)))

    @property
    def features(self) -> jax.Array:
        """The values, `[n]`."""
        return self.values

    def of_pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The parameter of a pair from the features of its particles."""
        return 0.5 * (a + b) if self.mix == "arithmetic" else jnp.sqrt(a * b)

    @property
    def largest(self) -> jax.Array:
        """The largest value of any pair, float []."""
        return jnp.max(self.values)


Parameter = jax.Array | BySpecies | PerParticle
ParameterLike = float | Parameter


def as_parameter(name: str, value: ParameterLike, *, above: float | None = None) -> Parameter:
    """The parameter as arrays of the default precision.

    Raises:
        ValueError: for an array that is not a single number, or a `PerParticle` that is not `[n]`; for concrete values
            that are not finite, or not above `above`.
    """
    if not isinstance(value, BySpecies | PerParticle):
        if jnp.ndim(value):
            raise ValueError(f"{name} has shape {jnp.shape(value)}; valid: a number, BySpecies or PerParticle")
        value = value if isinstance(value, jax.core.Tracer) else jnp.asarray(value, jnp.result_type(float))
    elif isinstance(value, PerParticle) and jnp.ndim(value.values) != 1:
        raise ValueError(f"{name} has values of shape {jnp.shape(value.values)}; valid: [n] for a pair")
    numbers = {BySpecies: "matrix", PerParticle: "values"}.get(type(value))
    concrete = getattr(value, numbers) if numbers else value
    if not isinstance(concrete, jax.core.Tracer):
        found = np.asarray(concrete)
        check_numbers(name, found, above)
    return value


def check_numbers(name: str, found: np.ndarray, above: float | None) -> None:
    """Raise ValueError for numbers that are not finite, or not above `above`."""
    if not np.all(np.isfinite(found)) or (above is not None and not np.all(found > above)):
        raise ValueError(
            f"{name} = {found.tolist()}; valid: finite numbers{'' if above is None else f' above {above:g}'}"
        )


def features(parameters: dict[str, Parameter]) -> dict[str, jax.Array]:
    """What each particle has to know of its parameters, leaves `[n, ...]`."""
    return {name: p.features for name, p in parameters.items() if isinstance(p, BySpecies | PerParticle)}


def of_pair(parameters: dict[str, Parameter], a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The parameters of one pair from the features of its two particles, each `[]`."""
    return {
        name: p.of_pair(a[name], b[name]) if isinstance(p, BySpecies | PerParticle) else p
        for name, p in parameters.items()
    }


def largest(parameter: Parameter) -> jax.Array:
    """The largest value of any pair, float []."""
    return parameter.largest if isinstance(parameter, BySpecies | PerParticle) else parameter
