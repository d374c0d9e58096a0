"""Where boids are, where they head, and where they see each other: the geometry in which rules are written."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmdenv._core.materialize import materialize
from dmdenv.neighbors.particles_last import Components, over_particles
from dmdenv.space import Space


def direction(headings: jax.Array) -> jax.Array:
    """Unit vectors `[n, 2]` along headings `[n]`."""
    return jnp.stack([jnp.cos(headings), jnp.sin(headings)], axis=-1)


def angle(vectors: jax.Array) -> jax.Array:
    """The angles of vectors `[..., 2]` from the x axis, without derivative."""
    vectors = jax.lax.stop_gradient(vectors)
    return jnp.arctan2(vectors[..., 1], vectors[..., 0])


def cross(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a_x b_y - a_y b_x` of vectors `[..., 2]`: b's component to the left of a (times |a|)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


class Poses(NamedTuple):
    """Where n agents are and where they head, `[n]` each: components apart, for plain loops over agents."""

    x: jax.Array  # unit length
    y: jax.Array
    ux: jax.Array  # of the unit vector u along the heading
    uy: jax.Array

    @classmethod
    def of(cls, positions: jax.Array, headings: jax.Array) -> "Poses":
        """Of positions `[n, 2]` and headings `[n]`."""
        return cls(*materialize((positions[:, 0], positions[:, 1], jnp.cos(headings), jnp.sin(headings))))

    @property
    def u(self) -> jax.Array:
        """The unit vectors along the headings, `[n, 2]`."""
        return jnp.stack([self.ux, self.uy], axis=-1)

    def in_frame(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Components of vectors (x, y), `[m, n]` each, along the headings and to their left."""
        ux, uy = self.ux[None, :], self.uy[None, :]
        return ux * x + uy * y, ux * y - uy * x


class Sighting(NamedTuple):
    """Where m targets are, as seen by each of n agents, `[m, n]` each."""

    x: jax.Array  # from the agent to the target, unit length
    y: jax.Array
    distance: jax.Array  # r, unit length
    ex: jax.Array  # the direction e, 0 where the target is in the same place
    ey: jax.Array
    ahead: jax.Array  # q = e.u, its component along the heading
    left: jax.Array  # e.u', its component to the left of the heading


def locate(space: Space, targets: tuple[jax.Array, jax.Array], agents: Poses) -> Sighting:
    """Where n agents see targets, whose x and y are `[m, n]`, or `[m, 1]` for targets of all agents."""
    shape = jnp.broadcast_shapes(targets[0].shape, (1, len(agents.x)))
    own = agents.x[None, :], agents.y[None, :]
    there, here = (Components.vector(*(jnp.broadcast_to(a, shape) for a in place)) for place in (targets, own))
    x, y = over_particles(lambda space, a, b: tuple(space.displacement(a, b)), shape, space, there, here)
    squared = x * x + y * y
    apart = squared > 0
    length = jnp.sqrt(jnp.where(apart, squared, 1.0))
    inverse = 1 / length
    ex, ey = x * inverse, y * inverse
    return Sighting(x, y, jnp.where(apart, length, 0.0), ex, ey, *agents.in_frame(ex, ey))


def columns(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x and y, `[m, 1]`, of vectors `[m, 2]`: of targets that all agents share."""
    return vectors[:, :1], vectors[:, 1:]
