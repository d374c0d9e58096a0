"""Reynolds' rules: five functions of a pair, and the sums of them by which boids move.

A boid at r_i with heading theta_i feels a force F_i, which moves it in addition to its own speed, and a torque tau_i,
which turns it. A rule says what a boid feels of another boid, of an obstacle or of a predator at the displacement d:
with r = |d|, e = d / r, w = 1 - r / D inside the rule's range D (outside of it the rule is 0), the strength J,
u = (cos theta, sin theta), u' = (-sin theta, cos theta), q = e.u, and m_ij = 1 where boid i has boid j in its field of
view.

References: Reynolds, "Flocks, herds and schools: a distributed behavioral model", SIGGRAPH 1987. The rules are the
negative gradients of the energies in the flocking notebook of JAX MD (Schoenholz and Cubuk, NeurIPS 2020), in closed
form, with its convention that alignment and cohesion turn a boid but do not push it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmdenv.envs.flocking.geometry import Poses, Sighting, columns, cross, locate
from dmdenv.envs.flocking.parameters import BoidParams, SteeredParams
from dmdenv.envs.flocking.state import Obstacles
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.space import Space, norm, unit


class Pair(NamedTuple):
    """Boid i and its neighbour j, as i sees j."""

    r: jax.Array  # [], unit length
    d: jax.Array  # [2], unit length
    e: jax.Array  # [2], 0 where they are in the same place
    cosine: jax.Array  # [], of theta_j - theta_i
    sine: jax.Array  # []
    i_sees_j: jax.Array  # bool []
    j_sees_i: jax.Array  # bool []
    present: jax.Array | bool  # whether both take part


class Reaction(NamedTuple):
    """What n agents feel of m targets, `[m, n]` each."""

    x: jax.Array  # of the force
    y: jax.Array
    torque: jax.Array

    def total(self) -> tuple[jax.Array, jax.Array]:
        """The force `[n, 2]` and the torque `[n]` of all targets."""
        force = jnp.stack([jnp.sum(self.x, axis=0), jnp.sum(self.y, axis=0)], axis=-1)
        return force, jnp.sum(self.torque, axis=0)


# --- the rules, each of one pair --------------------------------------------------------------------------------------


def alignment(pair: Pair, params: BoidParams) -> jax.Array:
    """Turn to a neighbour's heading: `tau = (J / alpha) (m_ij + m_ji) w^alpha (1 - cos a) sin a`.

    a = theta_j - theta_i.
    """
    w = 1 - pair.r / params.alignment_range
    near = pair.present & (w > 0)
    views = jnp.where(pair.i_sees_j, 1.0, 0.0) + jnp.where(pair.j_sees_i, 1.0, 0.0)
    turn = views * _power(jnp.where(near, w, _least_weight(w)), params.exponent) * (1 - pair.cosine) * pair.sine
    return _scaled(params.alignment / params.exponent, jnp.where(near, turn, 0.0))


def avoidance(pair: Pair, params: BoidParams) -> jax.Array:
    """Keep apart: `F = -(J / D) w^(alpha - 1) e`, `[2]`."""
    D = params.avoidance_range
    w = 1 - pair.r / D
    near = pair.present & (w > 0)
    push = params.avoidance / D * _power(jnp.where(near, w, _least_weight(w)), params.exponent - 1)
    return -jnp.where(near, push, 0.0) * pair.e


def cohesion(pair: Pair, params: BoidParams) -> jax.Array:
    """What a neighbour adds to where the flock is: `m_ij f d` within D, `[2]`; `cohesion_torque` turns to the sum.

    f = 1, or with an edge of width b above 0: f = x^2 (3 - 2 x), x = min(1, (D - r) / b). Only then has it a derivative
    by D.
    """
    D, b = params.cohesion_range, params.cohesion_edge
    counts = pair.present & pair.i_sees_j & (pair.r < D)
    x = jnp.minimum((D - pair.r) / jnp.where(b > 0, b, 1.0), 1.0)
    weight = jnp.where(b > 0, x**2 * (3 - 2 * x), 1.0)
    return jnp.where(counts, weight * pair.d, 0.0)


def obstacle(seen: Sighting, ranges: jax.Array, agents: Poses, params: SteeredParams) -> Reaction:
    """Keep away from obstacles, the more when heading for them; `ranges` D `[m, 1]`.

    F   = J [-(2 / D) w (1 + q)^2 e + (2 w^2 (1 + q) / r) (u - q e)]
    tau = -2 J w^2 (1 + q) (e.u')
    """
    J, D, r, q = params.obstacle, ranges, seen.distance, seen.ahead
    near = (r < D) & (r > 0)
    w, r = jnp.where(near, 1 - r / D, 0.0), jnp.where(near, r, 1.0)
    along, across = -J * (2 / D) * w * (1 + q) ** 2, J * 2 * w**2 * (1 + q) / r
    return Reaction(*_force(seen, agents, along, across), -2 * J * w**2 * (1 + q) * seen.left)


def flight(seen: Sighting, agents: Poses, params: BoidParams) -> Reaction:
    """Flee from predators (or herders).

    F   = -(J / D) w^(alpha - 1) (1 + q) e + (J / (alpha r)) w^alpha (u - q e)
    tau = -(J / alpha) w^alpha (e.u')
    """
    J, D, alpha, r, q = params.flight, params.flight_range, params.exponent, seen.distance, seen.ahead
    near = (r < D) & (r > 0)
    w, r = jnp.where(near, 1 - r / D, _least_weight(r)), jnp.where(near, r, 1.0)
    along = jnp.where(near, -J / D * _power(w, alpha - 1) * (1 + q), 0.0)
    across = jnp.where(near, J / alpha * _power(w, alpha) / r, 0.0)
    torque = jnp.where(near, -J / alpha * _power(w, alpha) * seen.left, 0.0)
    return Reaction(*_force(seen, agents, along, across), torque)


def cohesion_torque(strength: jax.Array, center: jax.Array, agents: Poses) -> jax.Array:
    """Turn to the others: `tau = J (1 - c.u) (c.u')`, `[n]`, with c the direction of `center` `[n, 2]`.

    `center` is the sum (or the mean) of `cohesion`; where no boid is in view, c and the torque are zero.
    """
    c = unit(center)
    ahead, left = agents.in_frame(c[None, :, 0], c[None, :, 1])
    return (strength * (1 - ahead) * left)[0]


# --- their sums -------------------------------------------------------------------------------------------------------


class BoidSums(NamedTuple):
    """What each of n boids feels of the others."""

    force: jax.Array  # [n, 2]
    torque: jax.Array  # [n]
    overlap: jax.Array  # [n], sum_j max(0, 1 - r_ij / collision_range)^2
    collisions: jax.Array  # [n], half the number of boids closer than collision_range


def sum_boid_rules(
    space: Space, boids: Poses, pairs: Pairs, params: BoidParams, present: jax.Array | None = None
) -> BoidSums:
    """Alignment, avoidance, cohesion and collisions among boids, in one sweep over the pairs.

    Args:
        space: where the boids are.
        boids: n boids.
        pairs: which boids may interact.
        params: strengths and ranges of the rules.
        present: bool `[n]`, which boids take part; None: all.
    """
    view = field_of_view(params)
    features = boids, None if present is None else jnp.where(present, 1.0, 0.0)

    def kernel(i, j):
        (i, i_present), (j, j_present) = i, j
        both = True if present is None else i_present * j_present > 0
        pair = _pair(space, i, j, view, both)
        touching = pair.present & (pair.r < params.collision_range)
        return {
            "torque": alignment(pair, params),
            "force": avoidance(pair, params),
            "center": cohesion(pair, params),
            "overlap": jnp.where(touching, 1 - pair.r / params.collision_range, 0.0) ** 2,
            "collisions": jnp.where(touching, 0.5, 0.0),
        }

    parity = {"torque": -1, "force": -1, "center": 0, "overlap": 1, "collisions": 1}
    sums = neighbor_sum(kernel, features, pairs, parity=parity)
    torque = sums["torque"] + cohesion_torque(params.cohesion, sums["center"], boids)
    return BoidSums(sums["force"], torque, sums["overlap"], sums["collisions"])


def sum_obstacle_rule(
    space: Space, agents: Poses, obstacles: Obstacles, params: SteeredParams
) -> tuple[jax.Array, jax.Array]:
    """Force `[n, 2]` and torque `[n]` of the obstacles on n agents."""
    seen = locate(space, columns(obstacles.positions), agents)
    return obstacle(seen, obstacles.ranges[:, None], agents, params).total()


def sum_flight_rule(
    space: Space, boids: Poses, predators: jax.Array, params: BoidParams
) -> tuple[jax.Array, jax.Array]:
    """Force `[n, 2]` and torque `[n]` on n boids of those they flee from, at `predators` `[p, 2]`."""
    return flight(locate(space, columns(predators), boids), boids, params).total()


def field_of_view(params: BoidParams) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest cosine in view, with a margin for rounding, so that both ends are included."""
    rounding = 1e-6
    return jnp.cos(params.view_max) - rounding, jnp.cos(params.view_min) + rounding


def _pair(space: Space, i: Poses, j: Poses, view: tuple[jax.Array, jax.Array], present: jax.Array | bool) -> Pair:
    least, most = view

    def in_view(cosine):
        return (least <= cosine) & (cosine <= most)

    u_i, u_j = jnp.stack([i.ux, i.uy]), jnp.stack([j.ux, j.uy])
    d = space.displacement(jnp.stack([j.x, j.y]), jnp.stack([i.x, i.y]))
    r = norm(d)
    e = d * (1 / jnp.where(r > 0, r, 1.0))
    i_sees_j, j_sees_i = in_view(jnp.sum(e * u_i)), in_view(-jnp.sum(e * u_j))
    return Pair(r, d, e, jnp.sum(u_i * u_j), cross(u_i, u_j), i_sees_j, j_sees_i, present)


def _force(seen: Sighting, agents: Poses, along: jax.Array, across: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x and y of `along e + across (u - q e)`, `[m, n]`."""
    rest = along - across * seen.ahead
    return rest * seen.ex + across * agents.ux[None, :], rest * seen.ey + across * agents.uy[None, :]


def _least_weight(like: jax.Array) -> float:
    """Stands for a weight that is not above 0 where its logarithm is taken: that of a pair just inside the range."""
    return float(jnp.finfo(like.dtype).eps)


def _power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """`base^exponent` of a base above 0; a vectorised logarithm and exponential, which a CPU's power is not."""
    return jnp.exp(exponent * jnp.log(base))


@jax.custom_jvp
def _scaled(strength: jax.Array, value: jax.Array) -> jax.Array:
    """`strength * value`: of a rule that is off, a compiler leaves out the value, but a derivative does not."""
    return jnp.where(strength != 0, strength * value, 0.0)


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    (strength, value), (d_strength, d_value) = primals, tangents
    return _scaled(strength, value), d_strength * value + strength * d_value
