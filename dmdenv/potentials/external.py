"""External fields: functions of the position of one particle.

A field is fixed in space: it does not deform with the box, so it has no virial.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Number
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.potentials.parameters import PerParticle
from dmdenv.space import Space

FieldParameter = jax.Array | PerParticle
FieldParameterLike = float | np.ndarray | FieldParameter


@pytree
class External(Potential):
    """The energy of each particle in a field.

    Made by `external_potential` and by each field's own function. It needs no neighbours: `pairs` is ignored, and
    `cutoff` is 0.
    """

    function: Callable[..., jax.Array] = static()  # (space, position [d], **parameters) -> energy []
    parameters: dict[str, FieldParameter]  # of any shape, shared by all, or PerParticle [n, ...]; differentiable

    @property
    def cutoff(self) -> jax.Array:
        return jnp.asarray(0.0)

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        own = {name: p.values for name, p in self.parameters.items() if isinstance(p, PerParticle)}
        shared = {name: p for name, p in self.parameters.items() if name not in own}
        for name, values in own.items():
            if len(values) != len(positions):
                raise ValueError(f"{name} has {len(values)} values; must be {len(positions)}, one per particle")
        return jax.vmap(lambda r, own: self.function(space, r, **shared, **own))(positions, own)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        """Zero, `[d, d]`: the field does not deform with the box."""
        return jnp.zeros((positions.shape[-1],) * 2, positions.dtype)


def external_potential(function: Callable[..., jax.Array], **parameters: FieldParameterLike) -> External:
    """A potential from your own energy of one particle.

        floor = external_potential(lambda r, k: k * jnp.exp(-r[1]), k=3.0)

    The positions of a simulation are wrapped, so in a periodic box the function should have the box's period. The
    energy of a constant force does not: it jumps where a particle leaves the box, and its force does not.

    Args:
        function: `function(r, **parameters)`, the energy `[]` of a particle at `r`, `[d]`. A function that is defined
            once (not a new lambda at each call) shares compiled code.
        parameters: numbers and arrays that all particles share, or `PerParticle`, of which the function gets its own.

    Raises:
        ValueError: for a parameter that is not finite; when it is evaluated, for a `PerParticle` of another length.
    """
    return _make_external(_OfPosition(function), **parameters)


def harmonic_trap(
    *, stiffness: float | FieldParameter = 1.0, center: float | np.ndarray | FieldParameter = 0.0
) -> External:
    """`u(r) = stiffness |r - center|^2 / 2`, to the nearest image of the centre.

    Args:
        stiffness: a number or `PerParticle`, unit energy / length^2.
        center: a number for all axes, `[d]`, or `[n, d]` with one for each particle (an Einstein crystal), unit length.

    Raises:
        ValueError: for a stiffness or a centre that is not finite or of another shape.
    """
    stiffness = _as_field("stiffness", stiffness)
    if not isinstance(stiffness, PerParticle) and stiffness.ndim:
        raise ValueError(f"stiffness has shape {stiffness.shape}; must be a number or PerParticle")
    return _make_external(_harmonic, stiffness=stiffness, center=_vector("center", center))


def uniform_field(*, force: float | np.ndarray | FieldParameter) -> External:
    """`u(r) = -force . r`: the same force everywhere, such as gravity, `force = [0, -mass * g]`.

    In a periodic box the energy jumps where a particle leaves the box; the force does not.

    Args:
        force: a number for all axes, `[d]`, or `[n, d]` with one for each particle, unit energy / length.

    Raises:
        ValueError: for a force that is not finite or of another shape.
    """
    return _make_external(_uniform, force=_vector("force", force))


def _make_external(function: Callable[..., jax.Array], **parameters: FieldParameterLike) -> External:
    return External(function=function, parameters={name: _as_field(name, p) for name, p in parameters.items()})


def _as_field(name: str, value: FieldParameterLike) -> FieldParameter:
    return value if isinstance(value, PerParticle) else Number(axes=None).convert(name, value)


def _vector(name: str, value: float | np.ndarray | FieldParameter) -> FieldParameter:
    """A vector `[d]` shared by all, or, from `[n, d]`, one for each particle."""
    found = _as_field(name, value)
    if isinstance(found, PerParticle) or found.ndim < 2:
        return found
    if found.ndim > 2:
        raise ValueError(f"{name} has shape {found.shape}; must be a number, [d] or [n, d]")
    return PerParticle(found)


def _harmonic(space: Space, r: jax.Array, *, stiffness: jax.Array, center: jax.Array) -> jax.Array:
    return 0.5 * stiffness * jnp.sum(space.displacement(r, jnp.broadcast_to(center, r.shape)) ** 2)


def _uniform(space: Space, r: jax.Array, *, force: jax.Array) -> jax.Array:
    return -jnp.sum(jnp.broadcast_to(force, r.shape) * r)


@dataclasses.dataclass(frozen=True)
class _OfPosition:
    """A function of the position alone; equal for equal functions, to share compiled code."""

    function: Callable[..., jax.Array]

    def __call__(self, space: Space, r: jax.Array, **parameters: jax.Array) -> jax.Array:
        return self.function(r, **parameters)
