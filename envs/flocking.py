"""Flocking: boids that steer themselves into common motion.

n boids move in the plane at a common speed, each along its own heading. They follow Reynolds' three rules (alignment,
avoidance, cohesion, within a field of view) and keep away from obstacles and predators, each rule with its own
dynamic coefficients. In the task `align` the alignment rule is off by default and the agent takes its place: from
random headings it has to bring the flock to a common direction by turn rates, and keep it there.

Equations of motion, by explicit Euler steps of `dt` from the state at time t, with u = (cos theta, sin theta):

    r_i     <- r_i + dt (speed u_i + F_i)
    theta_i <- theta_i + dt (turn_rate a_i + tau_i)

With d the vector from a boid to what it reacts to, r = |d|, e = d / r, w = 1 - r / D inside the rule's range D (the
rule is 0 outside), u' = (-sin theta, cos theta), and m_ij = 1 where boid i has boid j in its field of view:

    alignment   tau_i = sum_j (J / alpha) (m_ij + m_ji) w^alpha (1 - cos(theta_j - theta_i)) sin(theta_j - theta_i)
    avoidance   F_i   = -sum_j (J / D) w^(alpha - 1) e_ij
    cohesion    tau_i = J (1 - c.u_i) (c.u'_i), c the unit vector to the mean position of the boids in view
    obstacles   F_i   = sum_o J [-(2 / D) w (1 + q)^2 e + (2 w^2 (1 + q) / r) (u - q e)],    q = e.u
                tau_i = -sum_o 2 J w^2 (1 + q) (e.u')
    flight      F_i   = sum_p [-(J / D) w^(alpha - 1) (1 + q) e + (J / (alpha r)) w^alpha (u - q e)]
                tau_i = -sum_p (J / alpha) w^alpha (e.u')

A predator follows the cohesion rule towards the boids it sees, keeps away from obstacles as a boid does, and sprints
when a boid comes close: its speed is s + b exp(-t / t_s), t the time since its last sprint began.

References: Reynolds, "Flocks, herds and schools: a distributed behavioral model", SIGGRAPH 1987. The rules as energies
follow the flocking notebook of JAX MD (Schoenholz and Cubuk, NeurIPS 2020); `FlockingParams.reynolds` gives its
coefficients. That boids react to a fixed number of nearest neighbours: Ballerini et al., PNAS 105, 1232 (2008).
"""

import dataclasses
import functools
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Env, Params, State, Transition, initial_flags, parameter
from dmdenv.nearest import nearest
from dmdenv.neighbor_sum import neighbor_sum
from dmdenv.neighbors import AllPairs, NeighborList, Pairs, allocate, empty_like, update
from dmdenv.pytree import pytree
from dmdenv.space import Free, Periodic, Space, norm, unit

_ALL_PAIRS_UP_TO = 512  # boids; measured by benchmarks/env_throughput.py
_NEIGHBOR_FEATURES = 5  # presence, position (2), heading (2)
_OBSTACLE_FEATURES = 3  # presence, position (2)


class FlockingParams(Params):
    """Dynamic parameters of flocking. Lengths, times and energies in units of their own; angles in radians."""

    max_steps: jax.Array = parameter(default=256, unit="steps", low=1, doc="length of an episode")
    dt: jax.Array = parameter(default=0.1, unit="time", low=0, doc="time step")
    box: jax.Array = parameter(
        default=16.0, unit="length", low=1e-6, doc="side of the square (in free space: of the start)"
    )
    speed: jax.Array = parameter(default=1.0, unit="length/time", low=0, doc="speed along the heading")
    turn_rate: jax.Array = parameter(default=2.0, unit="angle/time", low=0, doc="turn rate of an action of 1")
    perception: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="how far a boid sees")
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
    obstacle: jax.Array = parameter(default=3.0, unit="energy", low=0, doc="J of obstacles")
    obstacle_min: jax.Array = parameter(default=1.2, unit="length", low=1e-6, doc="smallest range D of an obstacle")
    obstacle_max: jax.Array = parameter(default=2.0, unit="length", low=1e-6, doc="largest range D of an obstacle")
    flight: jax.Array = parameter(default=10.0, unit="energy", low=0, doc="J of flight from predators")
    flight_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of flight from predators")
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
    collision_range: jax.Array = parameter(
        default=0.5, unit="length", low=1e-6, doc="distance at which two boids collide"
    )
    order_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of polar order 1 in a step")
    gain_weight: jax.Array = parameter(default=10.0, unit="reward", doc="reward of raising polar order by 1")
    collision_weight: jax.Array = parameter(
        default=1.0, unit="reward", low=0, doc="cost of one full overlap a boid in a step"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost of turning at full rate in a step"
    )

    @classmethod
    def reynolds(cls, **changes: Any) -> "FlockingParams":
        """The coefficients of JAX MD's notebook for 200 boids: a flock that aligns by itself, without an agent."""
        return cls(
            box=800.0, perception=100.0, view_max=np.pi / 3, alignment=12.0, alignment_range=45.0, avoidance=25.0,
            avoidance_range=30.0, cohesion=0.05, cohesion_range=40.0, obstacle=1000.0, obstacle_min=30.0,
            obstacle_max=100.0, flight=256.0, flight_range=75.0, chase=0.1, chase_range=95.0, sprint_time=50.0,
            sprint_range=65.0, sprint_rest=300.0, collision_range=12.0,
        ).replace(**changes)  # fmt: skip


@pytree
class FlockingState(State):
    """Boids, obstacles and predators."""

    positions: jax.Array  # float [n, 2], unit length
    headings: jax.Array  # float [n], angle
    pairs: Pairs  # whom a boid may interact with
    obstacles: jax.Array  # float [o, 2], positions, unit length
    obstacle_ranges: jax.Array  # float [o], unit length
    predators: jax.Array  # float [p, 2], positions, unit length
    predator_headings: jax.Array  # float [p], angle
    since_sprint: jax.Array  # float [p], time since a predator's last sprint began


@dataclasses.dataclass(frozen=True)
class Flocking(Env[FlockingState, FlockingParams]):
    """Boids in the plane, steered by turn rates. Task `align`.

    Observation `[n, m]`, one row a boid, all in its own frame (x along the heading, y to its left) and in [-1, 1]:
    for each of the `nearest` boids: presence p, p x / R, p y / R, p cos and p sin of its heading relative to the
    boid's own, with the perception range R and p = (1 - r^2 / R^2)^2, so that nothing jumps when a neighbour comes
    into view; for each of the (at most) two nearest obstacles: p, p x / R, p y / R; for the nearest predator, where
    there are any, the same five as for a boid.

    Action `[n]`: turn rate of each boid, in units of `turn_rate`.

    Reward: `order_weight phi' + gain_weight (phi' - phi) - collision_weight C - effort_weight mean(a^2)`, where phi is
    the polar order |mean u| before and phi' after the step, and C the overlap a boid at the beginning of the step,
    the mean over i of sum_j max(0, 1 - r_ij / collision_range)^2.

    Metrics in `info`: `polar_order`, `collisions` (pairs closer than `collision_range`, a boid), `effort`.

    Args:
        boids: number n of boids.
        obstacles: number of round obstacles, at random places, of random range.
        predators: number of predators.
        space: "periodic", or "free": a plane without boundary.
        nearest: how many of its nearest neighbours a boid observes.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of boids.
        reach: longest range over the side of the box for which the neighbour list is sized; None: that of
            `default_params`. Give it for parameters with a longer one, up to 0.5.
        slack: capacity of the neighbour list over what a random start needs; raise it where `overflow` is set.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    boids: int = 32
    obstacles: int = 2
    predators: int = 0
    space: Literal["periodic", "free"] = "periodic"
    nearest: int = 6
    pairs: Literal["auto", "all", "list"] = "auto"
    reach: float | None = None
    slack: float = 2.0

    id = "flocking"
    state_type = FlockingState

    def __post_init__(self):
        for name, low in (("boids", 2), ("obstacles", 0), ("predators", 0), ("nearest", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} = {value!r}; valid: a whole number from {low}")
        for name, valid in (("space", ("periodic", "free")), ("pairs", ("auto", "all", "list"))):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} = {getattr(self, name)!r}; valid: {', '.join(map(repr, valid))}")
        if self.reach is not None and not 0 < self.reach <= 0.5:
            raise ValueError(f"reach = {self.reach!r}; valid: a fraction of the box up to 0.5, or None")
        if not 1 <= self.slack < np.inf:
            raise ValueError(f"slack = {self.slack!r}; valid: a number from 1")

    # --- spaces and parameters ------------------------------------------------------------------------------------

    @property
    def default_params(self) -> FlockingParams:
        """The task's parameters, with a box in which the density of boids is that of 32 boids in a box of 16."""
        return FlockingParams(box=max(16.0 * (self.boids / 32) ** 0.5, 10.0))

    def validate(self, params: FlockingParams) -> None:
        ranges = {name: float(getattr(params, name)) for name in _RANGES}
        half = float(params.box) / 2
        longest = max(ranges, key=ranges.__getitem__)
        if self.space == "periodic" and ranges[longest] > half:
            raise ValueError(
                f"{longest} = {ranges[longest]:g} in a periodic box of {2 * half:g}; valid: up to half the box, {half:g}"
            )
        if params.view_min > params.view_max:
            raise ValueError(f"view_min = {params.view_min:g}; valid: up to view_max = {params.view_max:g}")
        if params.obstacle_min > params.obstacle_max:
            raise ValueError(
                f"obstacle_min = {params.obstacle_min:g}; valid: up to obstacle_max = {params.obstacle_max:g}"
            )

    def observation_space(self, params: FlockingParams | None = None) -> gymnasium.spaces.Box:
        width = self.nearest * _NEIGHBOR_FEATURES + min(self.obstacles, 2) * _OBSTACLE_FEATURES
        width += _NEIGHBOR_FEATURES if self.predators else 0
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids, width), np.float32)

    def action_space(self, params: FlockingParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.boids,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def initial_state(self, key: jax.Array, params: FlockingParams) -> FlockingState:
        """Boids, obstacles and predators at uniformly random places, with uniformly random headings."""
        n, o, p = self.boids, self.obstacles, self.predators
        # one draw: every random call costs compile time
        draws = jax.random.uniform(key, (n + o + p, 3))
        places, angles = params.box * draws[:, :2], 2 * np.pi * draws[:, 2]
        positions = places[:n]
        space = self._space(params)
        if self._listed:
            reach = _longest_range(params)
            empty = empty_like(self._template, space, positions, cutoff=reach, skin=0.25 * reach)
            pairs = update(empty, space, positions)
            overflow = pairs.overflow
        else:
            pairs, overflow = AllPairs(), self._misfit(params)
        return FlockingState(
            **{**initial_flags(), "overflow": overflow},
            positions=positions,
            headings=angles[:n],
            pairs=pairs,
            obstacles=places[n : n + o],
            obstacle_ranges=params.obstacle_min + (params.obstacle_max - params.obstacle_min) * draws[n : n + o, 2],
            predators=places[n + o :],
            predator_headings=angles[n + o :],
            since_sprint=jnp.zeros(p),
        )

    def advance(
        self, key: jax.Array, state: FlockingState, action: jax.Array, params: FlockingParams
    ) -> Transition[FlockingState]:
        space = self._space(params)
        u = _direction(state.headings)
        rules = _boid_rules(space, state, u, params)
        force, torque = rules["force"], rules["torque"]
        if self.obstacles:
            f, t = _obstacle_rule(space, state.positions, u, state, params)
            force, torque = force + f, torque + t
        if self.predators:
            f, t = _flight_rule(space, state, u, params)
            force, torque = force + f, torque + t
        positions = space.shift(state.positions, params.dt * (params.speed * u + force))
        headings = state.headings + params.dt * (params.turn_rate * action + torque)
        moved = dataclasses.replace(state, positions=positions, headings=headings)
        if self.predators:
            moved = _move_predators(space, state, moved, params)
        if isinstance(state.pairs, NeighborList):
            pairs = update(state.pairs, space, positions)
            moved = dataclasses.replace(moved, pairs=pairs, overflow=state.overflow | pairs.overflow)
        before, after = polar_order(state.headings), polar_order(headings)
        effort = jnp.mean(action**2)
        reward = (
            params.order_weight * after
            + params.gain_weight * (after - before)
            - params.collision_weight * jnp.mean(rules["overlap"])
            - params.effort_weight * effort
        )
        metrics = {"polar_order": after, "collisions": jnp.mean(rules["collisions"]), "effort": effort}
        return Transition(moved, reward, jnp.asarray(False), metrics)

    def observe(self, state: FlockingState, params: FlockingParams) -> jax.Array:
        space, u = self._space(params), _direction(state.headings)
        seen = [_observe_boids(space, state, u, params, self.nearest)]
        if self.obstacles:
            seen.append(_observe_obstacles(space, state, u, params, min(self.obstacles, 2)))
        if self.predators:
            seen.append(_observe_predator(space, state, u, params))
        return jnp.concatenate(seen, axis=1)

    def render(self, state: FlockingState, params: FlockingParams | None = None) -> np.ndarray:
        """The flock on a dark ground: boids coloured by heading, obstacles in grey, predators in red; 640 x 640."""
        from dmdenv.envs.rendering import Canvas, heading_colors

        params = self.default_params if params is None else params
        side, positions, headings = float(params.box), np.asarray(state.positions), np.asarray(state.headings)
        corner = np.zeros(2) if self.space == "periodic" else positions.mean(axis=0) - side / 2
        canvas = Canvas(corner, side, period=side if self.space == "periodic" else None)
        length = 0.35 * float(params.avoidance_range)
        for place, reach in zip(np.asarray(state.obstacles), np.asarray(state.obstacle_ranges), strict=True):
            canvas.disc(place, 0.8 * float(reach), "#39415a", halo=float(reach))
        canvas.darts(positions, headings, length, heading_colors(headings))
        canvas.darts(
            np.asarray(state.predators), np.asarray(state.predator_headings), 2 * length, ["#ff4d5e"] * self.predators
        )
        canvas.caption(f"order {float(polar_order(state.headings)):.2f}   step {int(state.time)}")
        return canvas.image()

    # --- space and neighbours -------------------------------------------------------------------------------------

    def _space(self, params: FlockingParams) -> Space:
        return Periodic(params.box) if self.space == "periodic" else Free()

    @property
    def _listed(self) -> bool:
        return self.pairs == "list" or (self.pairs == "auto" and self.boids > _ALL_PAIRS_UP_TO)

    def _misfit(self, params: FlockingParams) -> jax.Array:
        """bool []: a range exceeds half of the periodic box, so that all pairs are not enough."""
        if self.space == "free":
            return jnp.asarray(False)
        return _longest_range(params) > params.box / 2

    @functools.cached_property
    def _template(self) -> NeighborList:
        """A list with the capacities for a random start, chosen once on the host."""
        with jax.ensure_compile_time_eval():
            params = self.default_params
            positions = params.box * jax.random.uniform(jax.random.key(0), (self.boids, 2))
            reach = float(_longest_range(params) if self.reach is None else self.reach * params.box)
            return allocate(self._space(params), positions, cutoff=reach, skin=0.25 * reach, slack=self.slack)


_RANGES = ("perception", "alignment_range", "avoidance_range", "cohesion_range", "collision_range")


def _longest_range(params: FlockingParams) -> jax.Array:
    """How far a boid must look: the longest range among boids, float []."""
    return functools.reduce(jnp.maximum, [getattr(params, name) for name in _RANGES])


def polar_order(headings: jax.Array) -> jax.Array:
    """Polar order `|1/n sum_i u_i|` of headings `[n]`: 1 for a common direction, about sqrt(pi / (4 n)) for random ones.

    Reference: Vicsek et al., Phys. Rev. Lett. 75, 1226 (1995), eq. 4.
    """
    return norm(jnp.mean(_direction(headings), axis=0))


def _direction(headings: jax.Array) -> jax.Array:
    """Unit vectors `[n, 2]` of headings `[n]`."""
    return jnp.stack([jnp.cos(headings), jnp.sin(headings)], axis=-1)


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
    """a_x b_y - a_y b_x of vectors `[..., 2]`: b's component to the left of a (times |a|)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


# --- the rules --------------------------------------------------------------------------------------------------------


def _view_cosines(params: FlockingParams) -> tuple[jax.Array, jax.Array]:
    """The cosines of the field of view's ends, with a margin for rounding, so that both ends are included."""
    rounding = 1e-6
    return jnp.cos(params.view_max) - rounding, jnp.cos(params.view_min) + rounding


def _boid_rules(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams) -> dict[str, jax.Array]:
    """Alignment, avoidance, cohesion and collisions among boids, in one sweep over the pairs.

    Returns:
        `force` `[n, 2]`, `torque` `[n]`, `overlap` `[n]` and `collisions` `[n]` a boid.
    """
    J, D, alpha = params.alignment, params.alignment_range, params.exponent
    least, most = _view_cosines(params)

    def in_view(cosine):
        return (least <= cosine) & (cosine <= most)

    def pair(i, j):
        d = space.displacement(j["r"], i["r"])
        r = norm(d)
        e = d / jnp.where(r > 0, r, 1.0)
        seen = in_view(jnp.sum(e * i["u"]))
        sees = in_view(-jnp.sum(e * j["u"]))
        sine, cosine = _cross(i["u"], j["u"]), jnp.sum(i["u"] * j["u"])
        aligning = (r < D) & (J > 0)
        w = jnp.where(aligning, 1 - r / D, 1.0)
        mutual = jnp.where(seen, 1.0, 0.0) + jnp.where(sees, 1.0, 0.0)
        torque = jnp.where(aligning, J / alpha * mutual * w**alpha * (1 - cosine) * sine, 0.0)
        near = r < params.avoidance_range
        w = jnp.where(near, 1 - r / params.avoidance_range, 1.0)
        push = jnp.where(near, params.avoidance / params.avoidance_range * w ** (alpha - 1), 0.0)
        kin = seen & (r < params.cohesion_range)
        touching = r < params.collision_range
        return {
            "torque": torque,
            "force": -push * e,
            "center": jnp.where(kin, d, 0.0),
            "kin": jnp.where(kin, 1.0, 0.0),
            "overlap": jnp.where(touching, 1 - r / params.collision_range, 0.0) ** 2,
            "collisions": jnp.where(touching, 0.5, 0.0),
        }

    parity = {"torque": -1, "force": -1, "center": 0, "kin": 0, "overlap": 1, "collisions": 1}
    sums = neighbor_sum(pair, {"r": state.positions, "u": u}, state.pairs, parity=parity)
    return {
        "force": sums["force"],
        "torque": sums["torque"] + _cohesion_torque(params.cohesion, sums["center"], u),
        "overlap": sums["overlap"],
        "collisions": sums["collisions"],
    }


def _cohesion_torque(strength: jax.Array, center: jax.Array, u: jax.Array) -> jax.Array:
    """J (1 - c.u) (c.u') with c the direction of `center` `[n, 2]`; zero where nobody is in view."""
    c = unit(center)
    return strength * (1 - jnp.sum(c * u, axis=-1)) * _cross(u, c)


def _towards(space: Space, targets: jax.Array, positions: jax.Array, u: jax.Array):
    """From each of n agents to each of m targets: d, e `[n, m, 2]`, r, e.u and e.u' `[n, m]`."""
    d = space.displacement(targets[None, :, :], positions[:, None, :])
    r = norm(d)
    e = d / jnp.where(r > 0, r, 1.0)[..., None]
    u = jnp.broadcast_to(u[:, None, :], e.shape)
    return d, e, r, jnp.sum(e * u, axis=-1), _cross(u, e), u


def _obstacle_rule(space, positions, u, state: FlockingState, params: FlockingParams) -> tuple[jax.Array, jax.Array]:
    """Force `[n, 2]` and torque `[n]` of the obstacles on agents."""
    _, e, r, q, turn, u = _towards(space, state.obstacles, positions, u)
    D, J = state.obstacle_ranges[None, :], params.obstacle
    near = (r < D) & (r > 0)
    w, r = jnp.where(near, 1 - r / D, 0.0), jnp.where(near, r, 1.0)
    along, across = -(2 / D) * w * (1 + q) ** 2, 2 * w**2 * (1 + q) / r
    force = J * (along[..., None] * e + across[..., None] * (u - q[..., None] * e))
    return jnp.sum(force, axis=1), jnp.sum(-2 * J * w**2 * (1 + q) * turn, axis=1)


def _flight_rule(space, state: FlockingState, u, params: FlockingParams) -> tuple[jax.Array, jax.Array]:
    """Force `[n, 2]` and torque `[n]` of the predators on boids."""
    _, e, r, q, turn, u = _towards(space, state.predators, state.positions, u)
    D, J, alpha = params.flight_range, params.flight, params.exponent
    near = (r < D) & (r > 0)
    w, r = jnp.where(near, 1 - r / D, 1.0), jnp.where(near, r, 1.0)
    along, across = -J / D * w ** (alpha - 1) * (1 + q), J / alpha * w**alpha / r
    force = along[..., None] * e + across[..., None] * (u - q[..., None] * e)
    torque = -J / alpha * w**alpha * turn
    return jnp.sum(jnp.where(near[..., None], force, 0.0), axis=1), jnp.sum(jnp.where(near, torque, 0.0), axis=1)


def _move_predators(space: Space, old: FlockingState, new: FlockingState, params: FlockingParams) -> FlockingState:
    """`new` with the predators moved too, by the rules at the `old` positions."""
    u = _direction(old.predator_headings)
    d, _, r, q, _, _ = _towards(space, old.positions, old.predators, u)
    least, most = _view_cosines(params)
    hunted = (r < params.chase_range) & (least <= q) & (q <= most)
    center = jnp.sum(jnp.where(hunted[..., None], d, 0.0), axis=1)
    count = jnp.maximum(jnp.sum(hunted, axis=1), 1)
    center = center / count[:, None]
    torque = _cohesion_torque(params.chase, center, u)
    # the chase energy depends on where the predator stands, which pulls it aside a little
    c, distance = unit(center), norm(center)
    k = jnp.sum(c * u, axis=-1, keepdims=True)
    near = distance[:, None] > 0
    pull = -params.chase * (1 - k) * (u - k * c) / jnp.where(near, distance[:, None], 1.0)
    force = jnp.where(near, pull, 0.0)
    if old.obstacles.shape[0]:
        f, t = _obstacle_rule(space, old.predators, u, old, params)
        force, torque = force + f, torque + t
    gap = norm(space.displacement(new.positions[None, :, :], old.predators[:, None, :]))
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


# --- what a boid senses -----------------------------------------------------------------------------------------------


def _presence(distance: jax.Array, perception: jax.Array) -> jax.Array:
    """`(1 - r^2 / R^2)^2` inside the perception range R, 0 outside: once differentiable everywhere."""
    return jnp.maximum(1 - (distance / perception) ** 2, 0.0) ** 2


def _in_frame(u: jax.Array, vector: jax.Array) -> jax.Array:
    """Components of vectors `[..., 2]` along headings u `[..., 2]` and to their left."""
    return jnp.stack([jnp.sum(u * vector, axis=-1), _cross(u, vector)], axis=-1)


def _observe_boids(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams, k: int) -> jax.Array:
    """The k nearest boids, `[n, 5 k]`."""
    slots = nearest(space, state.positions, state.pairs, k)
    own = jnp.arange(len(slots))[:, None]
    d = space.displacement(state.positions[slots], state.positions[:, None, :])
    p = jnp.where(slots == own, 0.0, _presence(norm(d), params.perception))
    view = _view(p, jnp.broadcast_to(u[:, None, :], d.shape), d / params.perception, u[slots])
    return view.reshape(len(slots), -1)


def _observe_obstacles(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams, k: int) -> jax.Array:
    """The k obstacles whose edge is nearest, `[n, 3 k]`."""
    d, e, r, _, _, u = _towards(space, state.obstacles, state.positions, u)
    gap = jnp.maximum(r - state.obstacle_ranges[None, :], 0.0)
    view = _view(_presence(gap, params.perception), u, gap[..., None] * e / params.perception)
    return _closest(gap, view, k)


def _observe_predator(space: Space, state: FlockingState, u: jax.Array, params: FlockingParams) -> jax.Array:
    """The nearest predator, `[n, 5]`."""
    d, _, r, _, _, u = _towards(space, state.predators, state.positions, u)
    headings = jnp.broadcast_to(_direction(state.predator_headings)[None], u.shape)
    view = _view(_presence(r, params.perception), u, d / params.perception, headings)
    return _closest(r, view, 1)


def _closest(distance: jax.Array, view: jax.Array, k: int) -> jax.Array:
    """The rows of `view` `[n, m, f]` at the k smallest of `distance` `[n, m]`, in order, `[n, k f]`."""
    distance = jax.lax.stop_gradient(distance)
    rows = []
    for _ in range(k):  # k and m are a handful: cheaper than a sort, and without gather
        chosen = jnp.arange(distance.shape[1])[None, :] == jnp.argmin(distance, axis=1)[:, None]
        rows.append(jnp.sum(jnp.where(chosen[..., None], view, 0.0), axis=1))
        distance = jnp.where(chosen, jnp.inf, distance)
    return jnp.concatenate(rows, axis=1)


def _view(presence: jax.Array, u: jax.Array, *vectors: jax.Array) -> jax.Array:
    """Presence `[...]` and vectors `[..., 2]` in the frame of heading u, weighted by it: `[..., 1 + 2 len(vectors)]`."""
    seen = [_in_frame(u, vector) for vector in vectors]
    return presence[..., None] * jnp.concatenate([jnp.ones_like(presence)[..., None], *seen], axis=-1)
