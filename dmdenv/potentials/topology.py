"""The particles that bonds, angles or dihedrals join.

Positions are gathered to the terms; forces and energies are collected from them. The two are transposes of each other,
and both are gathers over a table made once on the host, so that nothing is ever scattered.
"""

import functools

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from numpy.typing import ArrayLike

from dmdenv._core.fields import as_array
from dmdenv._core.pytree import pytree
from dmdenv._core.varying import lower_fun, shaped, vary_together
from dmdenv.neighbors.particles_last import take


@pytree
class Topology:
    """m terms that join k particles each. Made by `topology`."""

    particles: jax.Array  # int32 [k, m]: the particle in each role of each term
    places: (
        jax.Array
    )  # int32 [K, p]: where each of the first p particles occurs in `particles`, flattened; padded with -1

    @property
    def count(self) -> int:
        """The number of terms."""
        return self.particles.shape[1]

    def gather(self, values: jax.Array) -> jax.Array:
        """Values of the particles, `[n, ...]`, at each role of each term, `[..., k, m]`.

        Raises:
            ValueError: when the terms join more particles than `values` has.
        """
        n, known = values.shape[0], self.places.shape[1]
        if n < known:
            raise ValueError(f"positions has {n} particles; must be >= {known}, as many as the topology joins")
        y = _bind(jnp.moveaxis(values, 0, -1), *self._maps(n), collect=False)
        return y.reshape(*y.shape[:-1], *self.particles.shape)

    def collect(self, values: jax.Array, n: int) -> jax.Array:
        """The sum of values over the roles of each of n particles, from `[..., k, m]` to `[n, ...]`."""
        flat = values.reshape(*values.shape[:-2], -1)
        return jnp.moveaxis(_bind(flat, *self._maps(n), collect=True), -1, 0)

    def _maps(self, n: int) -> tuple[jax.Array, jax.Array]:
        unbound = n - self.places.shape[1]
        return self.particles.reshape(-1), jnp.pad(self.places, ((0, 0), (0, unbound)), constant_values=-1)


def topology(name: str, particles: ArrayLike, roles: int) -> Topology:
    """The topology of terms that are the same in reverse order, as bonds, angles and dihedrals are.

    Args:
        name: what messages call the terms.
        particles: int `[m, roles]`; outside of jit, or constant inside of it.
        roles: the particles of a term.

    Raises:
        ValueError: another shape or type, a negative particle, a particle twice in a term, the same term twice.
        TypeError: traced particles.
    """
    if isinstance(particles, jax.core.Tracer):
        raise TypeError(f"{name} is traced; must be known outside of jit")
    found = as_array(name, particles, f"int [m, {roles}]")
    if found.size == 0:
        found = np.zeros((0, roles), int)
    if found.ndim != 2 or found.shape[1] != roles or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{name} has type {found.dtype}{list(found.shape)}; must be int [m, {roles}]")
    if found.min(initial=0) < 0:
        raise ValueError(f"{name} holds particle {found.min()}; must be >= 0")
    in_order = np.sort(found, axis=1)
    repeated = np.any(in_order[:, 1:] == in_order[:, :-1], axis=1)
    if repeated.any():
        raise ValueError(f"{name} holds {found[repeated][0].tolist()}; must be particles that differ from each other")
    forwards = found[:, :1] < found[:, -1:]
    terms, counts = np.unique(np.where(forwards, found, found[:, ::-1]), axis=0, return_counts=True)
    if np.any(counts > 1):
        raise ValueError(
            f"{name} holds {terms[counts > 1][0].tolist()} {counts.max()} times; must be there once, in one order"
        )
    return Topology(jnp.asarray(found.T, jnp.int32), jnp.asarray(_places(found.T.reshape(-1)), jnp.int32))


def _places(particles: np.ndarray) -> np.ndarray:
    """Where each particle occurs in a flat array of particles, `[K, p]`, padded with -1."""
    order = np.argsort(particles, kind="stable")
    count = np.bincount(particles)
    first = np.cumsum(count) - count
    places = np.full((count.max(initial=0), len(count)), -1)
    owner = particles[order]
    places[np.arange(len(order)) - first[owner], owner] = order
    return places


# --- the primitive ----------------------------------------------------------------------------------------------------
# Operands: an array with its particles (or, to collect, its roles) on the last axis; the particle of each role [km];
# the places of each particle [K, n].

gather_p = Primitive("topology_gather")


def _bind(*operands: jax.Array, collect: bool) -> jax.Array:
    return gather_p.bind(*vary_together(*operands), collect=collect)


def _gather(x: jax.Array, particles: jax.Array, places: jax.Array, *, collect: bool) -> jax.Array:
    if not collect:
        return take(x, particles)
    total = jnp.zeros((*x.shape[:-1], places.shape[1]), x.dtype)
    for column in places:
        there = jnp.broadcast_to(column >= 0, total.shape)
        total = total + jnp.where(there, take(x, jnp.maximum(column, 0)), jnp.zeros_like(total))
    return total


def _abstract(x, particles, places, *, collect: bool):
    count = places.shape[1] if collect else particles.shape[0]
    return shaped((*x.shape[:-1], count), x.dtype, x, particles, places)


def _jvp(primals, tangents, *, collect: bool):
    x, *maps = primals
    y = _bind(x, *maps, collect=collect)
    if type(tangents[0]) is ad.Zero:
        return y, ad.Zero(jax.typeof(y).to_tangent_aval())
    return y, _bind(tangents[0], *maps, collect=collect)


def _transpose(cotangent, x, *maps, collect: bool):
    if type(cotangent) is ad.Zero:
        return ad.Zero(x.aval), None, None
    return _bind(cotangent, *maps, collect=not collect), None, None


def _batch(operands, axes, *, collect: bool):
    """A batch of arrays is a longer array; a batch of topologies is one larger system of disconnected parts."""
    if axes[1] is None and axes[2] is None:
        return _bind(jnp.moveaxis(operands[0], axes[0], 0), *operands[1:], collect=collect), 0
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)

    def batch_first(a, axis):
        return jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)

    def join(a):
        a = jnp.moveaxis(a, 0, -2)
        return a.reshape(*a.shape[:-2], -1)

    x, particles, places = map(batch_first, operands, axes)
    system = jnp.arange(size, dtype=particles.dtype)
    particles = particles + places.shape[-1] * system[:, None]
    places = jnp.where(places >= 0, places + particles.shape[-1] * system[:, None, None], -1)
    y = _bind(join(x), join(particles), join(places), collect=collect)
    return y.reshape(*y.shape[:-1], size, -1), y.ndim - 1


def _evaluate_eagerly(*operands, **static):
    with jax.disable_jit(False):  # under jax.disable_jit, bind would come back here
        return jax.jit(functools.partial(gather_p.bind, **static))(*operands)


gather_p.def_impl(_evaluate_eagerly)
gather_p.def_abstract_eval(_abstract)
ad.primitive_jvps[gather_p] = _jvp
ad.primitive_transposes[gather_p] = _transpose
batching.primitive_batchers[gather_p] = _batch
mlir.register_lowering(gather_p, lower_fun(_gather, multiple_results=False))
