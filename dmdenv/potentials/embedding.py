"""Embedding potentials: an energy of each particle's density, and a pair energy.

    U = sum_i F(rho_i) + sum_{i<j} phi(r_ij),  rho_i = sum_j f(r_ij),  f symmetric: f_ij = f_ji
    F_i = -sum_j (F'(rho_i) f'(r_ij) + F'(rho_j) f'(r_ij) + phi'(r_ij)) (r_i - r_j) / r_ij
    W = -1/2 sum_i sum_j (F'(rho_i) f'(r_ij) + F'(rho_j) f'(r_ij) + phi'(r_ij)) r_ij r_ij^T / r_ij

Energies are one neighbour sum. Forces are two: of the densities, then of the pairs, with the slopes F'(rho) as what
particles carry. Inside, f and phi are functions of the squared distance, as in `dmdenv.potentials.pair`.

Reference: Daw and Baskes, Phys. Rev. B 29, 6443 (1984); Finnis and Sinclair, Philos. Mag. A 50, 45
(1984).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.potentials.base import Potential
from dmdenv.potentials.pair import PairPotential, derivative
from dmdenv.potentials.parameters import Parameter, ParameterLike, PerPair, as_parameter, features, of_particle
from dmdenv.space import Space


@pytree
class EmbeddingPotential(Potential):
    """An embedding energy, a density and a pair energy. Made by `embedding_potential` and by `gupta` and the like."""

    function: Callable[..., jax.Array] = static()  # F: (rho, **parameters) -> energy, all []
    parameters: dict[str, Parameter]  # of F; differentiable
    density: PairPotential  # f, in place of an energy; its own truncation
    pair: PairPotential  # phi

    @property
    def cutoff(self) -> jax.Array:
        """The longer one of the density and of the pair energy."""
        return jnp.maximum(self.density.cutoff, self.pair.cutoff)

    def densities(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """`rho_i = sum_j f(r_ij)`, `[n]`."""
        return self._sums(space, self._features(space, positions, pairs), pairs)[0]

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """`F(rho_i) + 1/2 sum_j phi(r_ij)`, `[n]`."""
        density, halves = self._sums(space, self._features(space, positions, pairs), pairs)
        return self._embedding(density) + halves

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            by_distance, d = self._slope(space, a, b)
            return -2.0 * by_distance * d

        return neighbor_sum(kernel, self._with_slopes(space, positions, pairs), pairs, parity=-1)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            by_distance, d = self._slope(space, a, b)
            return -by_distance * d[:, None] * d[None, :]

        return jnp.sum(neighbor_sum(kernel, self._with_slopes(space, positions, pairs), pairs, parity=1), axis=0)

    def _features(self, space: Space, positions: jax.Array, pairs: Pairs) -> dict[str, Any]:
        with jax.ensure_compile_time_eval():  # what is known outside of jit is known inside
            cutoff = self.cutoff
        return {
            "position": pairs.within("cutoff", cutoff, space, positions, endless=True),
            "density": features(self.density.own),
            "pair": features(self.pair.own),
        }

    def _with_slopes(self, space: Space, positions: jax.Array, pairs: Pairs) -> dict[str, Any]:
        carried = self._features(space, positions, pairs)
        density, _ = self._sums(space, carried, pairs)
        return {**carried, "slope": derivative(self._embedding, density)}

    def _sums(self, space: Space, carried: dict[str, Any], pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """Density and half of the pair energies of each particle, `[n]`."""

        def kernel(a, b):
            def term(name: str, potential: PairPotential) -> jax.Array:
                s, _, outside, _, function = potential.between(space, *_of_term(name, a, b))
                return jnp.where(outside, 0.0, function(s))

            return term("density", self.density), 0.5 * term("pair", self.pair)

        return neighbor_sum(kernel, carried, pairs, parity=1)

    def _embedding(self, density: jax.Array) -> jax.Array:
        """F of each particle, `[n]`."""
        own = of_particle(self.parameters, len(density))
        return jax.vmap(lambda rho, own: self.function(rho, **own))(density, own)

    def _slope(self, space: Space, a: dict, b: dict) -> tuple[jax.Array, jax.Array]:
        """`(F'_a + F'_b) df/ds + dphi/ds` of a pair, `[]`, and its displacement, `[d]`."""

        def term(name: str, potential: PairPotential, factor: jax.Array | float) -> tuple[jax.Array, jax.Array]:
            s, d, outside, together, function = potential.between(space, *_of_term(name, a, b))
            return jnp.where(outside | together, 0.0, factor * derivative(function, s)), d

        embedding, d = term("density", self.density, a["slope"] + b["slope"])
        return embedding + term("pair", self.pair, 1.0)[0], d


def embedding_potential(
    function: Callable[..., jax.Array], *, density: PairPotential, pair: PairPotential, **parameters: ParameterLike
) -> EmbeddingPotential:
    """A potential from your own embedding energy of a density.

        density = pair_potential(lambda r: jnp.exp(-2 * r), cutoff=3.0, truncation="force_shifted")
        metal = embedding_potential(lambda rho, k: -k * jnp.log1p(rho), density=density, pair=wca(), k=3.0)

    Args:
        function: `function(rho, **parameters)`, the energy of a particle at density rho, all `[]`. Its derivatives at
            density 0 (a particle alone) must be finite: for a square root take `square_root`. A function that is
            defined once (not a new lambda at each call) shares compiled code.
        density: f(r), as a pair potential whose energy is the density.
        pair: phi(r).
        parameters: of the function: numbers, `PerParticle` or `BySpecies`, of which a particle gets those of a pair of
            two like it (the diagonal).

    Raises:
        ValueError: for a parameter that is not finite, or a `PerPair`; when it is evaluated, for parameters of another
            number of particles.
        TypeError: for a density or a pair energy that is no pair potential.
    """
    for name, term in (("density", density), ("pair", pair)):
        if not isinstance(term, PairPotential):
            raise TypeError(f"{name} = {term!r}; must be a PairPotential, as pair_potential makes")
    for name, value in parameters.items():
        if isinstance(value, PerPair):
            raise ValueError(f"{name} is PerPair; must be a number, BySpecies or PerParticle, as it is of one particle")
    own = {name: as_parameter(name, value) for name, value in parameters.items()}
    return EmbeddingPotential(function=function, parameters=own, density=density, pair=pair)


def square_root(density: jax.Array) -> jax.Array:
    """`sqrt(rho)`, whose derivatives at density 0 are 0: a particle alone has no force. NaN below 0."""
    alone = density == 0
    return jnp.where(alone, 0.0, jnp.sqrt(jnp.where(alone, 1.0, density)))


def _of_term(name: str, a: dict, b: dict) -> tuple[dict, dict]:
    one, other = ({"position": x["position"], "own": x[name]} for x in (a, b))
    return one, other
