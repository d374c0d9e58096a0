"""Reaching: a jointed chain, held at one end, brings its tip to targets that move and jump.

n beads with bonds and joints (the energy of `chain.py`) move by Langevin dynamics. Two springs hold the first two beads
in their places, which clamps the chain at its root, so that the anchor is a part of the energy:

    U = U_chain + sum_(i=0,1) k_a |r_i - c_i|^2 / 2,    c_0 = (-1, 0), c_1 = (0, 0)

Each joint has a motor that changes its rest angle, `phi0' = turn_rate a`, within `max_rest_angle`. The chain follows,
with inertia, friction and noise. The target is at the distance `R (m + h sin(p_1 + w_1 t))` from the root in the
direction `sector sin(p_2 + w_2 t)`, R being the length of the chain behind its root, and m - h to m + h the range from
`inner` to `outer`; phases p and rates w are drawn afresh every `interval` steps, at which the target jumps.

References: control by the Jacobian and its damped inverse: Wampler, IEEE Trans. Syst. Man Cybern. 16, 93 (1986).
"""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, whole
from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, Env, State, Transition, derived
from dmdenv.envs.bonded_chain import chain
from dmdenv.envs.bonded_chain.baselines import reach_policies
from dmdenv.envs.bonded_chain.parameters import ChainReachParams
from dmdenv.envs.bonded_chain.starts import anchored_chains
from dmdenv.integrators import Langevin, StochasticState, maxwell_boltzmann
from dmdenv.space import Free, norm


class ChainReachState(State):
    """A chain in motion, its motors, and where its target goes."""

    # positions, velocities and forces [n, 2]; the forces are those of the rest angles
    motion: StochasticState = derived("rest_angles", by="dmdenv.envs.bonded_chain.chain.bend")
    rest_angles: jax.Array  # float [n - 2], unit radian
    path: jax.Array  # float [4], phases p_1, p_2 over 2 pi in [0, 1), rates w_1, w_2 over target_rate in [-1, 1)

    @property
    def positions(self) -> jax.Array:
        """`[n, 2]`, unit length."""
        return self.motion.positions

    @property
    def velocities(self) -> jax.Array:
        """`[n, 2]`, unit length / time."""
        return self.motion.velocities


@dataclasses.dataclass(frozen=True)
class ChainReach(Env[ChainReachState, ChainReachParams]):
    """A chain anchored at one end whose tip follows targets, by motors at its joints. Task `reach`.

    Observation `[5 n - 5]`, in [-1, 1], with R = n - 2: positions of the beads from the third one on, over R; their
    velocities, over R `turn_rate`; rest angles of the joints, over `max_rest_angle`; position of the target, over R;
    its velocity, over 2 R `target_rate`; the share of the interval to the next jump that is left.

    Action `[n - 2]`: the rate of each joint's motor, in units of `turn_rate`.

    Reward: `-distance_weight |tip - target| - effort_weight mean(a^2)`, after the step and before a jump.

    Metrics in `info`: `distance` (of the tip from the target), `effort`.

    The forces at the beginning of a step are those at the end of the one before, but for the joints. Parameters that
    change between two steps act from the first new positions on.

    Args:
        beads: number n of beads.
        substeps: time steps of the dynamics per step of control.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    beads: int = whole(8, at_least=3, at_most=MOST_PARTICLES)
    substeps: int = whole(16, at_least=1, at_most=10**9)

    @property
    def default_params(self) -> ChainReachParams:
        return ChainReachParams()

    def validate(self, params: ChainReachParams) -> None:
        if params.inner > params.outer:
            raise ValueError(f"inner = {params.inner:g}; must be <= outer = {params.outer:g}")
        stiffness = chain.largest_stiffness(params) + float(params.anchor_stiffness)
        chain.check_period(params, self.substeps, 1.2 / stiffness**0.5)

    def observation_space(self, params: ChainReachParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (5 * self.beads - 5,), np.float32)

    def action_space(self, params: ChainReachParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.beads - 2,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        pool.prepare(anchored_chains, self.beads)

    def initial_state(self, key: jax.Array, params: ChainReachParams) -> ChainReachState:
        """A random conformation in equilibrium, or its mirror image, with fresh velocities and a random target."""
        draw, side, thermal, target = jax.random.split(key, 4)
        positions, rest_angles = pool.draw(draw, anchored_chains, self.beads)
        sign = jnp.where(jax.random.bernoulli(side), 1.0, -1.0)
        positions = positions * jnp.stack([jnp.ones_like(sign), sign])[None]
        velocities = maxwell_boltzmann(thermal, jnp.ones(self.beads), params.temperature, 2, zero_momentum=False)
        rest_angles = jnp.clip(sign * rest_angles, -params.max_rest_angle, params.max_rest_angle)
        potential, dynamics = chain.anchored_chain(params, rest_angles), self._dynamics(params)
        return ChainReachState(
            # every step reseeds the noise
            motion=dynamics.init(potential, Free(), positions, velocities=velocities, key=key),
            rest_angles=rest_angles,
            path=draw_path(target),
        )

    def advance(
        self, key: jax.Array, state: ChainReachState, action: jax.Array, params: ChainReachParams
    ) -> Transition[ChainReachState]:
        noise, draw = jax.random.split(key)
        rest_angles = state.rest_angles + params.turn_rate * params.period * action
        rest_angles = jnp.clip(rest_angles, -params.max_rest_angle, params.max_rest_angle)
        motion, _ = chain.bend(params, state.motion, state.rest_angles, rest_angles)
        potential = chain.anchored_chain(params, rest_angles)
        motion = chain.simulate(self._dynamics(params), potential, motion.reseed(noise), self.substeps)
        target, _ = self.target(state.path, state.time + 1, params)
        distance, effort = norm(motion.positions[-1] - target), jnp.mean(action**2)
        jumps = jnp.floor((state.time + 1) / params.interval) > jnp.floor(state.time / params.interval)
        path = jnp.where(jumps, draw_path(draw), state.path)
        state = state.replace(motion=motion, rest_angles=rest_angles, path=path)
        reward = -params.distance_weight * distance - params.effort_weight * effort
        return Transition(state, reward, metrics={"distance": distance, "effort": effort})

    def observe(self, state: ChainReachState, params: ChainReachParams) -> jax.Array:
        R = self.beads - 2
        target, velocity = self.target(state.path, state.time, params)
        over = state.time / params.interval
        parts = [
            state.positions[2:].reshape(-1) / R,
            state.velocities[2:].reshape(-1) / (R * params.turn_rate),
            state.rest_angles / chain.divisor(params.max_rest_angle),
            target / R,
            velocity / (2 * R * chain.divisor(params.target_rate)),
            1.0 - (over - jnp.floor(over))[None],
        ]
        return jnp.clip(jnp.concatenate(parts), -1.0, 1.0)

    def target(self, path: jax.Array, time: jax.Array, params: ChainReachParams) -> tuple[jax.Array, jax.Array]:
        """Position and velocity of the target on a path `[4]` after some steps, each `[2]`."""
        R, rates = self.beads - 2, params.target_rate * path[2:]
        phases = 2 * np.pi * path[:2] + rates * params.period * time
        sin, sin_rate = jnp.sin(phases), rates * jnp.cos(phases)
        half = 0.5 * (params.outer - params.inner)
        r, r_rate = R * (params.inner + half * (1.0 + sin[0])), R * half * sin_rate[0]
        angle, angle_rate = params.sector * sin[1], params.sector * sin_rate[1]
        e = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return r * e, r_rate * e + r * angle_rate * (e @ chain.QUARTER_TURN.astype(e.dtype))

    def _dynamics(self, params: ChainReachParams) -> Langevin:
        return Langevin(dt=params.period / self.substeps, temperature=params.temperature, friction=params.friction)

    # --- baselines and pictures -----------------------------------------------------------------------------------

    def baselines(self, params: ChainReachParams | None = None) -> dict[str, Baseline]:
        """`inverse`: the motors run to a conformation that has the tip at the target, by the damped inverse Jacobian.

        `transpose`: the motors run by the transposed Jacobian times the vector from the tip to the target. `constant`:
        all motors at full rate one way, so that the chain curls up.
        """
        return reach_policies(self.default_params if params is None else params, self.beads)

    def render(self, state: ChainReachState, params: ChainReachParams | None = None) -> np.ndarray:
        """The chain on its anchor, the target as a ring with the way before it; 640 x 640."""
        from dmdenv.envs.bonded_chain.drawing import draw_reach

        params = self.default_params if params is None else params
        ahead = [self.target(state.path, state.time + k, params)[0] for k in range(0, 33, 2)]
        positions, path = np.asarray(state.positions, float), np.asarray(ahead, float)
        return draw_reach(positions, path, diameter=float(params.diameter), step=int(state.time))


def draw_path(key: jax.Array) -> jax.Array:
    """Random phases and rates of a target, `[4]`, as in the state."""
    draws = jax.random.uniform(key, (4,))
    return draws * jnp.array([1.0, 1.0, 2.0, 2.0]) - jnp.array([0.0, 0.0, 1.0, 1.0])
