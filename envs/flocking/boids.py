"""Reynolds' boids: their parameters, their state, and the forces and torques by which they move.

A boid at r_i with heading theta_i feels a force F_i, which moves it besides its own speed, and a torque tau_i, which
turns it. With d the vector from a boid to what it reacts to, r = |d|, e = d / r, w = 1 - r / D inside the rule's range
D (the rule is 0 outside), u = (cos theta, sin theta), u' = (-sin theta, cos theta), and m_ij = 1 where boid i has boid
j in its field of view:

    alignment   tau_i = sum_j (J / alpha) (m_ij + m_ji) w^alpha (1 - cos(theta_j - theta_i)) sin(theta_j - theta_i)
    avoidance   F_i   = -sum_j (J / D) w^(alpha - 1) e_ij
    cohesion    tau_i = J (1 - c.u_i) (c.u'_i), c the unit vector to the mean position of the boids in view
    obstacles   F_i   = sum_o J [-(2 / D) w (1 + q)^2 e + (2 w^2 (1 + q) / r) (u - q e)],    q = e.u
                tau_i = -sum_o 2 J w^2 (1 + q) (e.u')
    flight      F_i   = sum_p [-(J / D) w^(alpha - 1) (1 + q) e + (J / (alpha r)) w^alpha (u - q e)]
                tau_i = -sum_p (J / alpha) w^alpha (e.u')

A predator follows the cohesion rule towards the boids it sees, keeps away from obstacles as a boid does, and sprints
when a boid comes close: its speed is s + b exp(-t / t_s), t the time since its last sprint began.

References: Reynolds, "Flocks, herds and schools: a distributed behavioral model", SIGGRAPH 1987. The rules are the
negative gradients of the energies in the flocking notebook of JAX MD (Schoenholz and Cubuk, NeurIPS 2020), in closed
form, with its convention that alignment and cohesion turn a boid but do not push it.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.stored import stored
from dmdenv.envs.base import Params, State, parameter
from dmdenv.neighbors import Pairs, neighbor_sum
from dmdenv.neighbors.particles_last import Components, over_particles
from dmdenv.space import Space, norm, unit


class BoidParams(Params):
    """How boids move: what every task has. Lengths, times and energies in units of their own; angles in radians."""

    max_steps: jax.Array = parameter(default=256, unit="steps", low=1, doc="length of an episode")
    dt: jax.Array = parameter(default=0.1, unit="time", low=0, doc="time step")
    speed: jax.Array = parameter(default=1.0, unit="length/time", low=0, doc="speed along the heading")
    view_min: jax.Array = parameter(
        default=0.0, unit="angle", low=0, high=np.pi, doc="field of view: smallest angle to heading"
    )
    view_max: jax.Array = parameter(
        default=np.pi, unit="angle", low=0, high=np.pi, doc="field of view: largest angle to heading"
    )
    alignment: jax.Array = parameter(default=0.0, unit="energy", low=0, doc="J of the alignment rule")
    alignment_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of the alignment rule")
    avoidance: jax.Array = parameter(default=1.0, unit="energy", low=0, doc="J of the avoidance rule")
    avoidance_range: jax.Array = parameter(default=1.2, unit="length", low=1e-6, doc="D of the avoidance rule")
    cohesion: jax.Array = parameter(default=0.05, unit="energy", low=0, doc="J of the cohesion rule")
    cohesion_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of the cohesion rule")
    exponent: jax.Array = parameter(default=3.0, unit="1", low=1, doc="alpha of alignment, avoidance and flight")
    flight: jax.Array = parameter(default=10.0, unit="energy", low=0, doc="J of flight from predators")
    flight_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of flight from predators")
    collision_range: jax.Array = parameter(
        default=0.5, unit="length", low=1e-6, doc="distance at which two boids collide"
    )


class SteeredParams(BoidParams):
    """Boids that an agent steers by turn rates, in a square with obstacles and predators."""

    box: jax.Array = parameter(
        default=16.0, unit="length", low=1e-6, doc="side of the square (in free space: of the start)"
    )
    turn_rate: jax.Array = parameter(default=2.0, unit="angle/time", low=0, doc="turn rate of an action of 1")
    perception: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="how far a boid sees")
    obstacle: jax.Array = parameter(default=3.0, unit="energy", low=0, doc="J of obstacles")
    obstacle_min: jax.Array = parameter(default=1.2, unit="length", low=1e-6, doc="smallest range D of an obstacle")
    obstacle_max: jax.Array = parameter(default=2.0, unit="length", low=1e-6, doc="largest range D of an obstacle")
    chase: jax.Array = parameter(default=0.1, unit="energy", low=0, doc="J of the predators' chase")
    chase_range: jax.Array = parameter(default=4.0, unit="length", low=1e-6, doc="D of the predators' chase")
    predator_speed: jax.Array = parameter(default=0.85, unit="length/time", low=0, doc="a predator's speed at rest, s")
    sprint_speed: jax.Array = parameter(
        default=2.0, unit="length/time", low=0, doc="what a sprint adds at its start, b"
    )
    sprint_time: jax.Array = parameter(default=5.0, unit="time", low=1e-6, doc="decay time of a sprint, t_s")
    sprint_range: jax.Array = parameter(
        default=2.6, unit="length", low=0, doc="distance of a boid that starts a sprint"
    )
    sprint_rest: jax.Array = parameter(default=20.0, unit="time", low=0, doc="least time between sprints")
    collision_weight: jax.Array = parameter(
        default=1.0, unit="reward", low=0, doc="cost of one full overlap a boid in a step"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost of turning at full rate in a step"
    )


class FlockingParams(SteeredParams):
    """Dynamic parameters of the task `align`."""

    order_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of polar order 1 in a step")
    gain_weight: jax.Array = parameter(default=10.0, unit="reward", doc="reward of raising polar order by 1")

    @classmethod
    def reynolds(cls, **changes: Any) -> "FlockingParams":
        """The coefficients of JAX MD's notebook for 200 boids: a flock that aligns by itself, without an agent."""
        notebook = cls().replace(
            box=800.0, perception=100.0, view_max=np.pi / 3, alignment=12.0, alignment_range=45.0, avoidance=25.0,
            avoidance_range=30.0, cohesion=0.05, cohesion_range=40.0, obstacle=1000.0, obstacle_min=30.0,
            obstacle_max=100.0, flight=256.0, flight_range=75.0, chase=0.1, chase_range=95.0, sprint_time=50.0,
            sprint_range=65.0, sprint_rest=300.0, collision_range=12.0,
        )  # fmt: skip
        return notebook.replace(**changes)


class FlockState(State):
    """Boids alone."""

    positions: jax.Array  # float [n, 2], unit length
    headings: jax.Array  # float [n], angle
    pairs: Pairs  # whom a boid may interact with


class FlockingState(FlockState):
    """Boids, obstacles and predators."""

    obstacles: jax.Array  # float [o, 2], positions, unit length
    obstacle_ranges: jax.Array  # float [o], unit length
    predators: jax.Array  # float [p, 2], positions, unit length
    predator_headings: jax.Array  # float [p], angle
    since_sprint: jax.Array  # float [p], time since a predator's last sprint began


def polar_order(headings: jax.Array) -> jax.Array:
    """Polar order `|1/n sum_i u_i|` of headings `[n]`: 1 for a common one, about sqrt(pi / (4 n)) for random ones.

    Reference: Vicsek et al., Phys. Rev. Lett. 75, 1226 (1995), eq. 4.
    """
    return norm(jnp.stack([jnp.mean(jnp.cos(headings)), jnp.mean(jnp.sin(headings))]))


def direction(headings: jax.Array) -> jax.Array:
    """Unit vectors `[n, 2]` of headings `[n]`."""
    return jnp.stack([jnp.cos(headings), jnp.sin(headings)], axis=-1)


def cross(a: jax.Array, b: jax.Array) -> jax.Array:
    """a_x b_y - a_y b_x of vectors `[..., 2]`: b's component to the left of a (times |a|)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """`base^exponent` of a base above 0; a vectorised logarithm and exponential, which a CPU's power is not."""
    return jnp.exp(exponent * jnp.log(base))


@jax.custom_jvp
def _strong(strength: jax.Array, value: jax.Array) -> jax.Array:
    """`strength * value`: of a rule that is off, a compiler leaves out the value, but a derivative does not."""
    return jnp.where(strength != 0, strength * value, 0.0)


@_strong.defjvp
def _strong_jvp(primals, tangents):
    (strength, value), (d_strength, d_value) = primals, tangents
    return _strong(strength, value), d_strength * value + strength * d_value


def _view_cosines(params: BoidParams) -> tuple[jax.Array, jax.Array]:
    """The cosines of the field of view's ends, with a margin for rounding, so that both ends are included."""
    rounding = 1e-6
    return jnp.cos(params.view_max) - rounding, jnp.cos(params.view_min) + rounding


class Poses(NamedTuple):
    """Where n agents are and where they head, `[n]` each: components apart, for plain loops over agents."""

    x: jax.Array  # unit length
    y: jax.Array
    ux: jax.Array  # of the unit vector along the heading
    uy: jax.Array

    @classmethod
    def of(cls, positions: jax.Array, headings: jax.Array) -> "Poses":
        """Of positions `[n, 2]` and headings `[n]`."""
        return cls(*stored((positions[:, 0], positions[:, 1], jnp.cos(headings), jnp.sin(headings))))

    @property
    def u(self) -> jax.Array:
        """The unit vectors along the headings, `[n, 2]`."""
        return jnp.stack([self.ux, self.uy], axis=-1)

    def in_frame(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Components of vectors (x, y), `[m, n]` each, along the headings and to their left."""
        ux, uy = self.ux[None, :], self.uy[None, :]
        return ux * x + uy * y, ux * y - uy * x


def boid_rules(
    space: Space, boids: Poses, pairs: Pairs, params: BoidParams, present: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Alignment, avoidance, cohesion and collisions among boids, in one sweep over the pairs.

    Args:
        space: where the boids are.
        boids: the boids.
        pairs: whom they may interact with.
        params: strengths and ranges of the rules.
        present: bool `[n]`, who takes part; None: everybody.

    Returns:
        `force` `[n, 2]`, `torque` `[n]`, `overlap` `[n]` and `collisions` `[n]` a boid.
    """
    J, D, alpha = params.alignment, params.alignment_range, params.exponent
    least, most = _view_cosines(params)

    def in_view(cosine):
        return (least <= cosine) & (cosine <= most)

    border = jnp.finfo(boids.x.dtype).eps  # stands for a weight that is not above 0, and has a logarithm
    features = boids, None if present is None else jnp.where(present, 1.0, 0.0)

    def pair(i, j):
        (i, i_present), (j, j_present) = i, j
        both = True if present is None else i_present * j_present > 0
        u_i, u_j = jnp.stack([i.ux, i.uy]), jnp.stack([j.ux, j.uy])
        d = space.displacement(jnp.stack([j.x, j.y]), jnp.stack([i.x, i.y]))
        r = norm(d)
        e = d * (1 / jnp.where(r > 0, r, 1.0))
        seen = in_view(jnp.sum(e * u_i))
        sees = in_view(-jnp.sum(e * u_j))
        sine, cosine = cross(u_i, u_j), jnp.sum(u_i * u_j)
        w = 1 - r / D
        aligning = both & (w > 0)
        w = jnp.where(aligning, w, border)
        mutual = jnp.where(seen, 1.0, 0.0) + jnp.where(sees, 1.0, 0.0)
        turning = jnp.where(aligning, mutual * _power(w, alpha) * (1 - cosine) * sine, 0.0)
        w = 1 - r / params.avoidance_range
        near = both & (w > 0)
        w = jnp.where(near, w, border)
        push = jnp.where(near, params.avoidance / params.avoidance_range * _power(w, alpha - 1), 0.0)
        kin = both & seen & (r < params.cohesion_range)
        touching = both & (r < params.collision_range)
        return {
            "torque": _strong(J / alpha, turning),
            "force": -push * e,
            "center": jnp.where(kin, d, 0.0),
            "overlap": jnp.where(touching, 1 - r / params.collision_range, 0.0) ** 2,
            "collisions": jnp.where(touching, 0.5, 0.0),
        }

    parity = {"torque": -1, "force": -1, "center": 0, "overlap": 1, "collisions": 1}
    sums = neighbor_sum(pair, features, pairs, parity=parity)
    return {
        "force": sums["force"],
        "torque": sums["torque"] + _cohesion_torque(params.cohesion, sums["center"], boids),
        "overlap": sums["overlap"],
        "collisions": sums["collisions"],
    }


def _cohesion_torque(strength: jax.Array, center: jax.Array, agents: Poses) -> jax.Array:
    """J (1 - c.u) (c.u') with c the direction of `center` `[n, 2]`; zero where nobody is in view."""
    c = unit(center)
    ahead, left = agents.in_frame(c[None, :, 0], c[None, :, 1])
    return (strength * (1 - ahead) * left)[0]


class Seen(NamedTuple):
    """Where the m targets of each of n agents are, as seen by it, `[m, n]` each."""

    x: jax.Array  # from the agent to the target, unit length
    y: jax.Array
    distance: jax.Array  # unit length
    ex: jax.Array  # the direction e, 0 where the target is in the same place
    ey: jax.Array
    ahead: jax.Array  # its component q along the heading
    left: jax.Array  # and to the left of it


def look(space: Space, targets: tuple[jax.Array, jax.Array], agents: Poses) -> Seen:
    """What n agents see of targets, whose x and y are `[m, n]`, or `[m, 1]` for targets of all agents."""
    shape = jnp.broadcast_shapes(targets[0].shape, (1, len(agents.x)))
    own = agents.x[None, :], agents.y[None, :]
    there, here = (Components.vector(*(jnp.broadcast_to(a, shape) for a in place)) for place in (targets, own))
    x, y = over_particles(lambda space, a, b: tuple(space.displacement(a, b)), shape, space, there, here)
    squared = x * x + y * y
    apart = squared > 0
    length = jnp.sqrt(jnp.where(apart, squared, 1.0))
    inverse = 1 / length
    ex, ey = x * inverse, y * inverse
    return Seen(x, y, jnp.where(apart, length, 0.0), ex, ey, *agents.in_frame(ex, ey))


def columns(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x and y, `[m, 1]`, of places `[m, 2]`: targets of all agents."""
    return positions[:, :1], positions[:, 1:]


def _force(seen: Seen, agents: Poses, along: jax.Array, across: jax.Array) -> jax.Array:
    """`sum over targets of along e + across (u - q e)`, `[n, 2]`."""
    rest = along - across * seen.ahead
    x, y = rest * seen.ex + across * agents.ux[None, :], rest * seen.ey + across * agents.uy[None, :]
    return jnp.stack([jnp.sum(x, axis=0), jnp.sum(y, axis=0)], axis=-1)


def obstacle_rule(
    space: Space, agents: Poses, state: FlockingState, params: SteeredParams
) -> tuple[jax.Array, jax.Array]:
    """Force `[n, 2]` and torque `[n]` of the obstacles on agents."""
    seen = look(space, columns(state.obstacles), agents)
    D, J, r, q = state.obstacle_ranges[:, None], params.obstacle, seen.distance, seen.ahead
    near = (r < D) & (r > 0)
    w, r = jnp.where(near, 1 - r / D, 0.0), jnp.where(near, r, 1.0)
    along, across = -J * (2 / D) * w * (1 + q) ** 2, J * 2 * w**2 * (1 + q) / r
    return _force(seen, agents, along, across), jnp.sum(-2 * J * w**2 * (1 + q) * seen.left, axis=0)


def flight_rule(space: Space, boids: Poses, hunters: jax.Array, params: BoidParams) -> tuple[jax.Array, jax.Array]:
    """Force `[n, 2]` and torque `[n]` on boids of those they flee from, at `hunters` `[m, 2]`."""
    seen = look(space, columns(hunters), boids)
    D, J, alpha, r, q = params.flight_range, params.flight, params.exponent, seen.distance, seen.ahead
    near = (r < D) & (r > 0)
    w, r = jnp.where(near, 1 - r / D, jnp.finfo(r.dtype).eps), jnp.where(near, r, 1.0)
    along = jnp.where(near, -J / D * _power(w, alpha - 1) * (1 + q), 0.0)
    across = jnp.where(near, J / alpha * _power(w, alpha) / r, 0.0)
    torque = jnp.where(near, -J / alpha * _power(w, alpha) * seen.left, 0.0)
    return _force(seen, boids, along, across), jnp.sum(torque, axis=0)


F = TypeVar("F", bound=FlockingState)


def move_predators(space: Space, old: F, new: F, params: SteeredParams, present: jax.Array | None = None) -> F:
    """`new` with the predators moved too, by the rules at the `old` positions, after boids that are `present` `[n]`."""
    predators = Poses.of(old.predators, old.predator_headings)
    u = predators.u
    seen = look(space, columns(old.positions), predators)
    least, most = _view_cosines(params)
    hunted = (seen.distance < params.chase_range) & (least <= seen.ahead) & (seen.ahead <= most)
    hunted = hunted if present is None else hunted & present[:, None]
    center = jnp.stack([jnp.sum(jnp.where(hunted, d, 0.0), axis=0) for d in (seen.x, seen.y)], axis=-1)
    count = jnp.maximum(jnp.sum(hunted, axis=0), 1)
    center = center / count[:, None]
    torque = _cohesion_torque(params.chase, center, predators)
    # the chase energy depends on where the predator stands, which pulls it aside a little
    c, distance = unit(center), norm(center)
    k = jnp.sum(c * u, axis=-1, keepdims=True)
    near = distance[:, None] > 0
    pull = -params.chase * (1 - k) * (u - k * c) / jnp.where(near, distance[:, None], 1.0)
    force = jnp.where(near, pull, 0.0)
    if old.obstacles.shape[0]:
        f, t = obstacle_rule(space, predators, old, params)
        force, torque = force + f, torque + t
    gap = norm(space.displacement(new.positions[None, :, :], old.predators[:, None, :]))
    gap = gap if present is None else jnp.where(present[None, :], gap, jnp.inf)
    rested = old.since_sprint > params.sprint_rest
    starts = (jnp.min(gap, axis=1) < params.sprint_range) & rested
    since = jnp.where(starts, 0.0, old.since_sprint + params.dt)
    speed = params.predator_speed + params.sprint_speed * jnp.exp(-since / params.sprint_time)
    return dataclasses.replace(
        new,
        predators=space.shift(old.predators, params.dt * (speed[:, None] * u + force)),
        predator_headings=old.predator_headings + params.dt * torque,
        since_sprint=since,
    )
