"""Pair potentials: a function of a distance becomes energies, forces and virials of all particles.

    U = sum_{i<j} u(r_ij),    F_i = -sum_j u'(r_ij) (r_i - r_j) / r_ij,    W = -1/2 sum_i sum_j u'(r_ij) r_ij r_ij^T / r_ij

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
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv.neighbor_sum import neighbor_sum
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials.base import Potential
from dmdenv.potentials.parameters import Parameter, ParameterLike, as_parameter, features, largest, of_pair
from dmdenv.pytree import pytree, static
from dmdenv.space import Periodic, Space

Truncation = Literal["truncated", "shifted", "force_shifted", "switched"]


@pytree
class PairPotential(Potential):
    """A pair energy, its parameters and its cutoff. Made by `pair_potential` and by each potential's own function."""

    function: Callable[..., jax.Array] = static()  # (s, **parameters) -> energy, all []; s the squared distance
    parameters: dict[str, Parameter]  # differentiable
    cutoff: Parameter  # unit length; infinite for none
    onset: Parameter | None  # of the switch, unit length
    truncation: Truncation = static()

    @property
    def reach(self) -> jax.Array:
        return largest(self.cutoff)

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            s, _, inside, energy = self._pair(space, a, b)
            return jnp.where(inside, 0.5 * energy(s), 0.0)

        return neighbor_sum(kernel, self._features(space, positions, pairs), pairs, parity=1)

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            s, d, inside, energy = self._pair(space, a, b)
            return jnp.where(inside & (s > 0), -2.0 * _derivative(energy, s), 0.0) * d

        return neighbor_sum(kernel, self._features(space, positions, pairs), pairs, parity=-1)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        def kernel(a, b):
            s, d, inside, energy = self._pair(space, a, b)
            return jnp.where(inside & (s > 0), -_derivative(energy, s), 0.0) * d[:, None] * d[None, :]

        return jnp.sum(neighbor_sum(kernel, self._features(space, positions, pairs), pairs, parity=1), axis=0)

    def _features(self, space: Space, positions: jax.Array, pairs: Pairs) -> dict[str, Any]:
        self._check_images(space, positions, pairs)
        own = {**self.parameters, "cutoff": self.cutoff, "onset": self.onset}
        return {"position": positions, "own": features(own)}

    def _pair(self, space: Space, a: dict, b: dict):
        """Squared distance, displacement, whether it is inside the cutoff, and the truncated energy of s."""
        values = of_pair({**self.parameters, "cutoff": self.cutoff, "onset": self.onset}, a["own"], b["own"])
        cutoff, onset = values.pop("cutoff"), values.pop("onset")
        d = space.displacement(a["position"], b["position"])
        s = jnp.sum(d * d)
        inside = s < cutoff**2

        def energy(s):
            s = jnp.where(inside & (s > 0), s, jnp.where(inside, jnp.finfo(s.dtype).tiny, 1.0))
            return truncated(self.function, self.truncation, s, cutoff, onset, values)

        return s, d, inside, energy

    def _check_images(self, space: Space, positions: jax.Array, pairs: Pairs) -> None:
        """A list checks that the cutoff fits into the box; with all pairs it is checked here, where it is concrete."""
        if not isinstance(pairs, AllPairs) or not isinstance(space, Periodic):
            return
        if isinstance(space.box, jax.core.Tracer) or isinstance(self.reach, jax.core.Tracer):
            return
        half, reach = float(np.min(space.box)) / 2, float(self.reach)
        if half < reach < np.inf:
            raise ValueError(f"cutoff = {reach:g} in a box of {2 * half:g}; valid: up to half the shortest side, {half:g}")


def pair_potential(
    function: Callable[..., jax.Array],
    *,
    cutoff: ParameterLike,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
    **parameters: ParameterLike,
) -> PairPotential:
    """A potential from your own energy of one pair.

        spring = pair_potential(lambda r, k: 0.5 * k * (1 - r) ** 2, cutoff=1.0, k=3.0)

    Args:
        function: `function(r, **parameters)`, the energy of a pair at distance r, all `[]`. A function that is defined
            once (not a new lambda at each call) shares compiled code.
        cutoff: where it ends, unit length; `math.inf` for a potential without end, which takes all pairs.
        truncation: how it ends there, see the module's table.
        onset: where the switch begins, for `truncation="switched"`.
        parameters: numbers, `BySpecies` or `PerParticle`.

    Raises:
        ValueError: for a parameter that is not finite, a cutoff that is not positive, another truncation, an onset
            without switch or beyond the cutoff.
    """
    return make(_OfDistance(function), cutoff=cutoff, truncation=truncation, onset=onset, **parameters)


def make(
    function: Callable[..., jax.Array],
    *,
    cutoff: ParameterLike,
    truncation: Truncation = "truncated",
    onset: ParameterLike | None = None,
    **parameters: ParameterLike,
) -> PairPotential:
    """`pair_potential` for a function of the squared distance: `function(s, **parameters)`."""
    if truncation not in get_args(Truncation):
        raise ValueError(f"truncation = {truncation!r}; valid: {', '.join(map(repr, get_args(Truncation)))}")
    if (onset is not None) != (truncation == "switched"):
        raise ValueError(f"onset = {onset!r} with truncation = {truncation!r}; valid: an onset if and only if switched")
    endless = isinstance(cutoff, float) and cutoff == np.inf
    if endless and truncation != "truncated":
        raise ValueError(f"truncation = {truncation!r} without a cutoff; valid: 'truncated'")
    ends = jnp.asarray(cutoff) if endless else as_parameter("cutoff", cutoff, positive=True)
    begins = None if onset is None else as_parameter("onset", onset)
    if begins is not None and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((begins, ends))):
        if not 0 <= float(largest(begins)) < float(largest(ends)):
            raise ValueError(f"onset = {onset!r}; valid: from 0 to below the cutoff {cutoff!r}")
    own = {name: as_parameter(name, value) for name, value in parameters.items()}
    return PairPotential(function=function, parameters=own, cutoff=ends, onset=begins, truncation=truncation)


def truncated(
    function: Callable[..., jax.Array],
    truncation: Truncation,
    s: jax.Array,
    cutoff: jax.Array,
    onset: jax.Array | None,
    values: dict[str, jax.Array],
) -> jax.Array:
    """The energy at squared distance s inside the cutoff, brought to its end as the module's table says."""

    def u(s):
        return function(s, **values)

    end = cutoff**2
    if truncation == "shifted":
        return u(s) - u(end)
    if truncation == "force_shifted":
        return u(s) - u(end) - (jnp.sqrt(s) - cutoff) * 2.0 * cutoff * _derivative(u, end)
    if truncation == "switched":
        assert onset is not None
        begin = onset**2
        switch = (end - s) ** 2 * (end + 2.0 * s - 3.0 * begin) / (end - begin) ** 3
        return u(s) * jnp.where(s > begin, switch, 1.0)
    return u(s)


def _derivative(function: Callable[[jax.Array], jax.Array], s: jax.Array) -> jax.Array:
    return jax.jvp(function, (s,), (jnp.ones_like(s),))[1]


@dataclasses.dataclass(frozen=True)
class _OfDistance:
    """A function of the distance as one of its square; equal for equal functions, so that compiled code is shared."""

    function: Callable[..., jax.Array]

    def __call__(self, s: jax.Array, **values: jax.Array) -> jax.Array:
        return self.function(jnp.sqrt(s), **values)
