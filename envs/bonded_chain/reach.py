"""Reaching: a jointed chain, held at one end, brings its tip to targets that move and jump.

n beads with bonds and joints (the energy of `chain.py`) move by Langevin dynamics. Two springs hold the first
two beads in their places, which clamps the chain at its root, so that the anchor is a part of the energy:

    U = U_chain + sum_(i=0,1) k_a |r_i - c_i|^2 / 2,    c_0 = (-1, 0), c_1 = (0, 0)

Each joint has a motor that changes its turn at rest, `phi0' = turn_rate a`, within `max_turn`. The chain follows, with
inertia, friction and noise. The target is at the distance `R (m + h sin(p_1 + w_1 t))` from the root in the direction
`sector sin(p_2 + w_2 t)`, R being the length of the chain behind its root, and m - h to m + h the range from `inner` to
`outer`; phases p and rates w are drawn afresh every `interval` steps, at which the target jumps.

References: control by the Jacobian and its damped inverse: Wampler, IEEE Trans. Syst. Man Cybern. 16, 93 (1986).
"""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, Env, State, Transition, parameter
from dmdenv.envs.bonded_chain import chain
from dmdenv.integrators import Langevin, maxwell_boltzmann
from dmdenv.potentials import PerParticle, Sum, harmonic_trap
from dmdenv.space import Free, norm

_POOL = 32


class ChainReachParams(chain.JointedParams):
    """Lengths in units of a bond at rest, masses in that of a bead."""

    anchor_stiffness: jax.Array = parameter(
        default=400.0, unit="energy/length^2", low=1e-6, doc="k_a of the springs at the first two beads"
    )
    turn_rate: jax.Array = parameter(default=1.0, unit="angle/time", low=1e-6, doc="of a motor for an action of 1")
    inner: jax.Array = parameter(default=0.5, unit="1", low=0, high=1, doc="nearest target, over the chain's length")
    outer: jax.Array = parameter(default=0.9, unit="1", low=0, high=1, doc="farthest target, over the chain's length")
    sector: jax.Array = parameter(default=1.5, unit="angle", low=0, high=np.pi, doc="largest direction of a target")
    target_rate: jax.Array = parameter(default=0.15, unit="angle/time", low=0, doc="largest w of a target's motion")
    interval: jax.Array = parameter(
        default=64.0, unit="steps", low=1, doc="steps from one jump of the target to the next"
    )
    distance_weight: jax.Array = parameter(
        default=0.1, unit="reward/length", low=0, doc="cost of a distance of 1 from the target in a step"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost of running all motors at full rate in a step"
    )


class ChainReachState(State):
    """A chain in motion, its motors, and where its target goes."""

    positions: jax.Array  # float [n, 2], unit length
    velocities: jax.Array  # float [n, 2], unit length / time
    turns: jax.Array  # float [n - 2], turns at rest, unit radian
    path: jax.Array  # float [4], phases p_1, p_2 over 2 pi in [0, 1), rates w_1, w_2 over target_rate in [-1, 1)


@dataclasses.dataclass(frozen=True)
class ChainReach(Env[ChainReachState, ChainReachParams]):
    """A chain anchored at one end whose tip follows targets, by motors at its joints. Task `reach`.

    Observation `[5 n - 5]`, in [-1, 1], with R = n - 2: the places of the beads from the third one on, over R; their
    velocities, over R `turn_rate`; the turns at rest, over `max_turn`; the target's place, over R; its velocity, over
    2 R `target_rate`; the share of the interval to the next jump that is left.

    Action `[n - 2]`: the rate of each joint's motor, in units of `turn_rate`.

    Reward: `-distance_weight |tip - target| - effort_weight mean(a^2)`, after the step and before a jump.

    Metrics in `info`: `distance` (of the tip from the target), `effort`.

    Args:
        beads: number n of beads.
        substeps: time steps of the dynamics in a step of control.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    beads: int = 8
    substeps: int = 16

    def __post_init__(self):
        chain.checked_whole("beads", self.beads, 3)
        chain.checked_whole("substeps", self.substeps, 1)

    @property
    def default_params(self) -> ChainReachParams:
        return ChainReachParams()

    def validate(self, params: ChainReachParams) -> None:
        if params.inner > params.outer:
            raise ValueError(f"inner = {params.inner:g}; valid: up to outer = {params.outer:g}")
        stiffness = chain.largest_stiffness(params) + float(params.anchor_stiffness)
        chain.check_period(params, self.substeps, 1.2 / stiffness**0.5)

    def observation_space(self, params: ChainReachParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (5 * self.beads - 5,), np.float32)

    def action_space(self, params: ChainReachParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.beads - 2,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        super().prepare()
        pool.prepare(_poses, self.beads)

    def initial_state(self, key: jax.Array, params: ChainReachParams) -> ChainReachState:
        """A random pose in equilibrium, or its mirror image, with fresh velocities and a random target."""
        draw, side, thermal, target = jax.random.split(key, 4)
        positions, turns = pool.draw(draw, _poses, self.beads)
        sign = jnp.where(jax.random.bernoulli(side), 1.0, -1.0)
        return ChainReachState(
            positions=positions * jnp.stack([jnp.ones_like(sign), sign])[None],
            velocities=maxwell_boltzmann(thermal, jnp.ones(self.beads), params.temperature, 2, zero_momentum=False),
            turns=jnp.clip(sign * turns, -params.max_turn, params.max_turn),
            path=_random_path(target),
        )

    def advance(
        self, key: jax.Array, state: ChainReachState, action: jax.Array, params: ChainReachParams
    ) -> Transition[ChainReachState]:
        noise, draw = jax.random.split(key)
        turns = state.turns + params.turn_rate * params.period * action
        turns = jnp.clip(turns, -params.max_turn, params.max_turn)
        potential = self.potential(turns, params)
        method = Langevin(dt=params.period / self.substeps, temperature=params.temperature, friction=params.friction)
        moving = method.init(potential, Free(), state.positions, velocities=state.velocities, key=noise)
        moving = chain.stepped(method, potential, moving, self.substeps)
        place, _ = self.target(state.path, state.time + 1, params)
        distance, effort = norm(moving.positions[-1] - place), jnp.mean(action**2)
        jumps = jnp.floor((state.time + 1) / params.interval) > jnp.floor(state.time / params.interval)
        moved = dataclasses.replace(
            state,
            positions=moving.positions,
            velocities=moving.velocities,
            turns=turns,
            path=jnp.where(jumps, _random_path(draw), state.path),
        )
        reward = -params.distance_weight * distance - params.effort_weight * effort
        return Transition(moved, reward, jnp.asarray(False), {"distance": distance, "effort": effort})

    def observe(self, state: ChainReachState, params: ChainReachParams) -> jax.Array:
        R = self.beads - 2
        place, velocity = self.target(state.path, state.time, params)
        over = state.time / params.interval
        seen = [
            state.positions[2:].reshape(-1) / R,
            state.velocities[2:].reshape(-1) / (R * params.turn_rate),
            state.turns / chain.or_one(params.max_turn),
            place / R,
            velocity / (2 * R * chain.or_one(params.target_rate)),
            1.0 - (over - jnp.floor(over))[None],
        ]
        return jnp.clip(jnp.concatenate(seen), -1.0, 1.0)

    def potential(self, turns: jax.Array, params: ChainReachParams) -> Sum:
        """The energy of the chain and of its anchor, with turns at rest `[n - 2]`."""
        return _anchored(params, self.beads, turns)

    def target(self, path: jax.Array, time: jax.Array, params: ChainReachParams) -> tuple[jax.Array, jax.Array]:
        """Place and velocity of the target on a path `[4]` after some steps, each `[2]`."""
        R, rates = self.beads - 2, params.target_rate * path[2:]
        phases = 2 * np.pi * path[:2] + rates * params.period * time
        sin, sin_rate = jnp.sin(phases), rates * jnp.cos(phases)
        half = 0.5 * (params.outer - params.inner)
        r, r_rate = R * (params.inner + half * (1.0 + sin[0])), R * half * sin_rate[0]
        angle, angle_rate = params.sector * sin[1], params.sector * sin_rate[1]
        e = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return r * e, r_rate * e + r * angle_rate * (e @ chain.ACROSS.astype(e.dtype))

    # --- baselines and pictures -----------------------------------------------------------------------------------

    def baselines(self, params: ChainReachParams | None = None) -> dict[str, Baseline]:
        """`inverse`: the motors run to a pose that has the tip at the target, by the damped inverse of the Jacobian.

        `transpose`: the motors run by the transpose of the Jacobian times what the tip is away from the target.
        `constant`: all motors at full rate one way, so that the chain curls up.
        """
        params = self.default_params if params is None else params
        n, R = self.beads, self.beads - 2

        def parts(observation: jax.Array) -> tuple[jax.Array, ...]:
            beads = jnp.concatenate([jnp.zeros((1, 2)), R * observation[: 2 * R].reshape(R, 2)])
            rest = observation[4 * R :]
            velocity = 2 * R * params.target_rate * rest[R + 2 : R + 4]
            return beads, params.max_turn * rest[:R], R * rest[R : R + 2], velocity

        def damped(J: jax.Array, error: jax.Array) -> jax.Array:
            return J @ jnp.linalg.solve(J.T @ J + 0.02 * R**2 * jnp.eye(2), error)

        def inverse(key: jax.Array, observation: jax.Array) -> jax.Array:
            _, turns, target, velocity = parts(observation)
            pose = chain.posed(turns)[1:] - jnp.array([[1.0, 0.0]])  # of the motors, which the chain follows
            error = target + _LEAD * velocity - pose[-1]
            J = (pose[-1:] - pose[:-1]) @ chain.ACROSS.astype(error.dtype)
            change = damped(J, error)
            inside = jnp.abs(turns + params.turn_rate * params.period * jnp.sign(change)) < params.max_turn
            change = damped(jnp.where(inside[:, None], J, 0.0), error)  # without joints that would leave their range
            rates = change / (params.turn_rate * params.period)
            return rates / jnp.maximum(1.0, jnp.max(jnp.abs(rates)))

        def transpose(key: jax.Array, observation: jax.Array) -> jax.Array:
            beads, _, target, _ = parts(observation)
            error = target - beads[-1]
            J = (beads[-1:] - beads[:-1]) @ chain.ACROSS.astype(error.dtype)
            return jnp.clip(_GAIN * (J @ error) / R**2 / params.turn_rate, -1.0, 1.0)

        return {
            "inverse": inverse,
            "transpose": transpose,
            "constant": lambda key, observation: jnp.ones(n - 2),
        }

    def render(self, state: ChainReachState, params: ChainReachParams | None = None) -> np.ndarray:
        """The chain on its anchor, the target as a ring with the way before it; 640 x 640."""
        from dmdenv.envs.rendering import Canvas

        params = self.default_params if params is None else params
        R, positions = self.beads - 2, np.asarray(state.positions, float)
        canvas = Canvas(np.array([-0.8 * R, -1.1 * R]), 2.2 * R)
        root = 0.5 * float(params.diameter)
        canvas.bond(np.array([-1.0 - root, 0.0]), np.array([1.0 + 2.0 * root, 0.0]), "#39415a", 3 * root)
        ahead = [self.target(state.path, state.time + k, params)[0] for k in range(0, 33, 2)]
        canvas.trail(np.stack(ahead[::-1]), "#ffd479", 2)
        chain.draw_chain(canvas, positions, float(params.diameter))
        place = np.asarray(ahead[0])
        canvas.ring(place, 0.5, "#ffd479", 3)
        canvas.disc(place, 0.1, "#ffd479")
        distance = float(np.linalg.norm(positions[-1] - place))
        canvas.caption(f"distance {distance:.2f}   step {int(state.time)}")
        return canvas.image()


_LEAD, _GAIN = 1.0, 2.0  # unit time; unit 1 / time


def _random_path(key: jax.Array) -> jax.Array:
    draws = jax.random.uniform(key, (4,))
    return draws * jnp.array([1.0, 1.0, 2.0, 2.0]) - jnp.array([0.0, 0.0, 1.0, 1.0])


def _anchored(params: ChainReachParams, beads: int, turns: jax.Array) -> Sum:
    places = np.zeros((beads, 2))
    places[0, 0] = -1.0
    held = PerParticle(params.anchor_stiffness * jnp.asarray(np.arange(beads) < 2, jnp.result_type(float)))
    return chain.jointed(params, beads, turns) + harmonic_trap(stiffness=held, center=places)


def _poses(beads: int) -> tuple[jax.Array, jax.Array]:
    """Random poses in equilibrium with the default parameters: positions `[m, n, 2]`, turns at rest `[m, n - 2]`."""
    params = ChainReachParams()
    pose, bath = jax.random.split(jax.random.key(2))
    turns = 0.4 * jax.random.normal(pose, (_POOL, beads - 2))
    turns = jnp.clip(turns, -params.max_turn, params.max_turn)
    starts = chain.posed(turns) - jnp.array([[[1.0, 0.0]]])
    positions = chain.thermalised(
        functools.partial(_anchored, params, beads), turns, starts, bath,
        temperature=float(params.temperature), friction=2.0, dt=0.0125, steps=1500,
    )  # fmt: skip
    return positions, turns
