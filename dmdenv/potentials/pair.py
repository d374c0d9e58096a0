"""Pair potentials: a function of a distance becomes energies, forces and virials of all particles.

    U = sum_{i<j} u(r_ij),  F_i = -sum_j u'(r_ij) (r_i - r_j) / r_ij,  W = -1/2 sum_i sum_j u'(r_ij) r_ij r_ij^T / r_ij

Inside, a pair energy is a function of the squared distance s: `F_i = -2 sum_j (du/ds) (r_i - r_j)` needs no square root
and no division, and is smooth where two particles meet.

How a potential ends at its cutoff rc:

| truncation | u(r) for r < rc |
|---|---|
| `truncated` | u(r); energy and force jump |
| `shifted` | u(r) - u(rc); the force jumps |
| `force_shifted` | u(r) - u(rc) - (r - rc) u'(rc); energy and force are continuous |
| `switched` | u(r) S(r), S = 1 up to the onset ro, then (rc^2 - r^2)^2 (rc^2 + 2 r^2 - 3 ro^2) / (rc^2 - ro^2)^3 |

References: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 1.6.2 and 5.2.3; the switch:
Brooks et al., J. Comput. Chem. 4, 187 (1983), eq. 20.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Choice
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.potentials.base import Potential
from dmdenv.potentials.parameters import Parameter, ParameterLike, as_parameter, features, largest, of_pair
from dmdenv.space import Space

Truncation = Literal["truncated", "shifted", "force_shifted", "switched"]


@pytree
class PairPotential(Potential):
    """A pair energy, its parameters and its cutoff. Made by `pair_potential` and by each potential's own function."""

    function: Callable[..., jax.Array] = static()  # (s, **parameters) -> energy, all []; s the squared distance
    parameters: dict[str, Parameter]  # differentiable
    pair_cutoff: Parameter  # in units of `cutoff_unit`; infinite for none
    onset: Parameter | None  # of the switch, in units of `cutoff_unit`
    cutoff_unit: str | None = static()  # a parameter, such as the diameter; None for the unit of length
    truncation: Truncation = static()

    @property
    def cutoff(self) -> jax.Array:
        """The longest cutoff of any pair, or more where cutoff and `cutoff_unit` both differ between pairs."""
        cutoff = largest(self.pair_cutoff)
        return cutoff * largest(self.parameters[self.cutoff_unit]) if self.cutoff_unit else cutoff

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            s, _, outside, _, energy = self.between(space, a, b)
            return jnp.where(outside, 0.0, 0.5 * energy(s))

        return neighbor_sum(kernel, self._features(space, positions, pairs), pairs, parity=1)

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            s, d, outside, together, energy = self.between(space, a, b)
            return jnp.where(outside | together, 0.0, -2.0 * derivative(energy, s)) * d

        return neighbor_sum(kernel, self._features(space, positions, pairs), pairs, parity=-1)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            s, d, outside, together, energy = self.between(space, a, b)
            return jnp.where(outside | together, 0.0, -derivative(energy, s)) * d[:, None] * d[None, :]

        return jnp.sum(neighbor_sum(kernel, self._features(space, positions, pairs), pairs, parity=1), axis=0)

    def _features(self, space: Space, positions: jax.Array, pairs: Pairs) -> dict[str, Any]:
        with jax.ensure_compile_time_eval():  # what is known outside of jit is known inside
            cutoff = self.cutoff
        return {"position": pairs.within("cutoff", cutoff, space, positions, endless=True), "own": features(self.own)}

    @property
    def own(self) -> dict[str, Parameter]:
        """All that may differ from pair to pair: parameters, cutoff and onset."""
        onset = {} if self.onset is None else {"onset": self.onset}
        return {**self.parameters, "cutoff": self.pair_cutoff, **onset}

    def between(
        self, space: Space, a: dict, b: dict
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, Callable[[jax.Array], jax.Array]]:
        """One pair, for a kernel of features `{"position": [d], "own": features(self.own)}`.

        Squared distance s and displacement, whether s is beyond the cutoff, whether it is 0, and the energy of s.

        The s that is returned is safe for the energy: neither 0 nor beyond the cutoff. NaN stays NaN: it is neither.
        """
        values = of_pair(self.own, a["own"], b["own"])
        unit = values[self.cutoff_unit] if self.cutoff_unit else 1.0
        cutoff = values.pop("cutoff") * unit
        onset = values.pop("onset") * unit if "onset" in values else None
        d = space.displacement(a["position"], b["position"])
        s = jnp.sum(d * d)
        outside, together = s >= cutoff**2, s == 0
        eps = float(jnp.finfo(s.dtype).eps)
        nearest = (eps / 2) ** 2  # stands for 0: no different in effect, and 1 / s^2 is finite
        # a compiler may repeat the comparison and round s differently: just inside the cutoff stands for a farther s
        farthest = jax.lax.stop_gradient(jnp.where(cutoff > 0, (1 - 4 * eps) * cutoff**2, 1.0))
        safe = jnp.where(outside, farthest, jnp.where(together, nearest, s))

        def energy(s: jax.Array) -> jax.Array:
            return truncate(self.function, self.truncation, s, cutoff, onset, values)

        return safe, d, outside, together, energy


def pair_potential(
    function: Callable[..., jax.Array],
    *,
    cutoff: ParameterLike,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
    **parameters: ParameterLike,
) -> PairPotential:
    """A potential from your own energy of one pair.

        spring = pair_potential(lambda r, k: 0.5 * k * (1 - r) ** 2, cutoff=1.0, k=3.0)

    Args:
        function: `function(r, **parameters)`, the energy of a pair at distance r, all `[]`. A function that is defined
            once (not a new lambda at each call) shares compiled code.
        cutoff: where it ends, unit length; `math.inf` for a potential without cutoff, which takes all pairs.
        cutoff_unit: the name of a parameter, above 0, in units of which cutoff and onset are given: `cutoff=1.0,
            cutoff_unit="sigma"` ends each pair at its own sigma, and follows a change of it.
        truncation: how it ends there: see the module's table.
        onset: where the switch begins, for `truncation="switched"`.
        parameters: numbers, `BySpecies`, `PerPair` or `PerParticle`.

    Raises:
        ValueError: for a parameter that is not finite, a cutoff that is not positive, a cutoff unit that is no
            parameter, another truncation, an onset without switch or beyond the cutoff.
    """
    return make_pair_potential(
        _OfDistance(function),
        cutoff=cutoff,
        cutoff_unit=cutoff_unit,
        truncation=truncation,
        onset=onset,
        **parameters,
    )


def make_pair_potential(
    function: Callable[..., jax.Array],
    *,
    cutoff: ParameterLike,
    cutoff_unit: str | None = None,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
    **parameters: ParameterLike,
) -> PairPotential:
    """`pair_potential` for a function of the squared distance: `function(s, **parameters)`."""
    truncation = Choice(get_args(Truncation)).convert("truncation", truncation)
    if (onset is not None) != (truncation == "switched"):
        valid = "a number" if truncation == "switched" else "None"
        raise ValueError(f"onset = {onset!r}; must be {valid} for truncation = {truncation!r}")
    if cutoff_unit is not None:
        Choice(tuple(parameters)).convert("cutoff_unit", cutoff_unit)
    endless = isinstance(cutoff, float) and cutoff == np.inf
    if endless and truncation != "truncated":
        raise ValueError(f"truncation = {truncation!r}; must be 'truncated' without a cutoff")
    ends = jnp.asarray(cutoff) if endless else as_parameter("cutoff", cutoff, above=0.0)
    begins = None if onset is None else as_parameter("onset", onset)
    known = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((begins, ends)))
    if begins is not None and known:
        with jax.ensure_compile_time_eval():  # what is known outside of jit is known inside
            onset_fits = 0 <= float(largest(begins)) < float(largest(ends))
        if not onset_fits:
            raise ValueError(f"onset = {onset!r}; must be >= 0 and below the cutoff, {cutoff!r}")
    own = {
        name: as_parameter(name, value, above=0.0 if name == cutoff_unit else -math.inf)
        for name, value in parameters.items()
    }
    return PairPotential(
        function=function,
        parameters=own,
        pair_cutoff=ends,
        onset=begins,
        cutoff_unit=cutoff_unit,
        truncation=truncation,
    )


def truncate(
    function: Callable[..., jax.Array],
    truncation: Truncation,
    s: jax.Array,
    cutoff: jax.Array,
    onset: jax.Array | None,
    values: dict[str, jax.Array],
) -> jax.Array:
    """The energy at squared distance s inside the cutoff, truncated as in the module's table."""

    def u(s):
        return function(s, **values)

    end = cutoff**2
    if truncation == "shifted":
        return u(s) - u(end)
    if truncation == "force_shifted":
        return u(s) - u(end) - (distance(s) - cutoff) * 2.0 * cutoff * derivative(u, end)
    if truncation == "switched":
        assert onset is not None
        return u(s) * switch(s, onset**2, end)
    return u(s)


@jax.custom_jvp
def inverse(s: jax.Array) -> jax.Array:
    """`1 / s`, of which a force costs one division: JAX's own derivative divides once more."""
    return 1.0 / s


inverse.defjvps(lambda ds, result, s: -ds * result * result)


@jax.custom_jvp
def distance(s: jax.Array) -> jax.Array:
    """`sqrt(s)`, whose derivative shares its division with `inverse(s)`; JAX's own divides by the root."""
    return jnp.sqrt(s)


distance.defjvps(lambda ds, result, s: 0.5 * ds * result * inverse(s))


def switch(s: jax.Array, begin: jax.Array, end: jax.Array) -> jax.Array:
    """S of the module's table, `[]`, from the squared distance s below `end`: 1 up to `begin`."""
    return jnp.where(s <= begin, 1.0, (end - s) ** 2 * (end + 2.0 * s - 3.0 * begin) / (end - begin) ** 3)


def derivative(function: Callable[[jax.Array], jax.Array], s: jax.Array) -> jax.Array:
    """`df/ds` at s, of the shape of s, for a function that acts on each element alone."""
    return jax.jvp(function, (s,), (jnp.ones_like(s),))[1]


@dataclasses.dataclass(frozen=True)
class _OfDistance:
    """A function of the distance as one of its square; equal for equal functions, to share compiled code."""

    function: Callable[..., jax.Array]

    def __call__(self, s: jax.Array, **values: jax.Array) -> jax.Array:
        return self.function(distance(s), **values)
