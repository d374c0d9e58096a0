"""Swimming: a jointed chain in a viscous fluid propels itself by bending its joints in sequence.

n beads with bonds and joints (the energy of `chain.py`) move without inertia, by the dynamics of
`dmdenv.integrators.Filament`: drag is larger across the chain than along it. The fluid takes up no momentum, so that
the total drag force and torque vanish. The agent bends the joints: an action sets their rest angles, which jump; the
work

    W = U(r; new) - U(r; old)

is paid for. A stroke with one degree of freedom retraces its path (the scallop theorem), and without anisotropy no
stroke moves the centre; a wave that travels along the chain pushes it the other way.

References: Purcell, Am. J. Phys. 45, 3 (1977), on the theorem; Gray and Hancock, J. Exp. Biol. 32, 802 (1955), on
waves; Lauga and Powers, Rep. Prog. Phys. 72, 096601 (2009), for both.
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
from dmdenv.envs.bonded_chain.baselines import swim_policies
from dmdenv.envs.bonded_chain.parameters import ChainSwimParams
from dmdenv.envs.bonded_chain.starts import straight_chains
from dmdenv.integrators import Filament, StochasticState
from dmdenv.space import Free, unit

TRACK = 64  # steps for which the state remembers where the centre was


class ChainSwimState(State):
    """A chain without inertia, and the rest angles of its joints."""

    # positions and forces [n, 2]; the forces are those of the rest angles
    motion: StochasticState = derived("rest_angles", by="dmdenv.envs.bonded_chain.chain.bend")
    rest_angles: jax.Array  # float [n - 2], unit radian
    track: jax.Array  # float [TRACK, 2], where the centre was, latest last, unit length; for pictures

    @property
    def positions(self) -> jax.Array:
        """`[n, 2]`, unit length."""
        return self.motion.positions


@dataclasses.dataclass(frozen=True)
class ChainSwim(Env[ChainSwimState, ChainSwimParams]):
    """A chain that swims along +x by bending its joints, at low Reynolds number. Task `swim`.

    Observation `[2 n - 1]`, in [-1, 1]: the cosine and the sine of the angle from the chain's axis (from its first bead
    to its last) to +x; the signed angles at the joints, over pi; their rest angles, over `max_rest_angle`; the share of
    the time that is over.

    Action `[n - 2]`: the rest angle of each joint, in units of `max_rest_angle`. It jumps at the beginning of the step.

    Reward: `progress_weight (x' - x) - work_weight W`, with x of the centre of mass before and x' after the step.

    Metrics in `info`: `progress` (of the step, x' - x), `drift` (of the step, the same along y), `work`.

    The forces at the beginning of a step are those at the end of the one before, but for the joints. Parameters that
    change between two steps act from the first new positions on.

    Args:
        beads: number n of beads.
        substeps: time steps of the dynamics per step of control.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    beads: int = whole(10, at_least=3, at_most=MOST_PARTICLES)
    substeps: int = whole(50, at_least=1, at_most=10**9)

    @property
    def default_params(self) -> ChainSwimParams:
        return ChainSwimParams()

    def validate(self, params: ChainSwimParams) -> None:
        drag = float(params.friction) * min(1.0, float(params.anisotropy))
        chain.check_period(params, self.substeps, 1.6 * drag / chain.largest_stiffness(params))

    def observation_space(self, params: ChainSwimParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2 * self.beads - 1,), np.float32)

    def action_space(self, params: ChainSwimParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.beads - 2,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        pool.prepare(straight_chains, self.beads)

    def initial_state(self, key: jax.Array, params: ChainSwimParams) -> ChainSwimState:
        """A straight chain in equilibrium about the origin, at a random angle of up to `course` to +x."""
        draw, direction = jax.random.split(key)
        positions = pool.draw(draw, straight_chains, self.beads)
        positions = chain.rotate(positions, params.course * jax.random.uniform(direction, minval=-1.0))
        rest_angles = jnp.zeros(self.beads - 2)
        potential, dynamics = chain.jointed_chain(params, rest_angles), self._dynamics(params)
        return ChainSwimState(
            # every step reseeds the noise
            motion=dynamics.init(potential, Free(), positions, key=key),
            rest_angles=rest_angles,
            track=jnp.zeros((TRACK, 2)),
        )

    def advance(
        self, key: jax.Array, state: ChainSwimState, action: jax.Array, params: ChainSwimParams
    ) -> Transition[ChainSwimState]:
        rest_angles = params.max_rest_angle * action
        motion, work = chain.bend(params, state.motion, state.rest_angles, rest_angles)
        potential = chain.jointed_chain(params, rest_angles)
        motion = chain.simulate(self._dynamics(params), potential, motion.reseed(key), self.substeps)
        centre = jnp.mean(motion.positions, axis=0)
        displacement = centre - jnp.mean(state.positions, axis=0)
        track = jnp.concatenate([state.track[1:], jax.lax.stop_gradient(centre)[None]])
        state = state.replace(motion=motion, rest_angles=rest_angles, track=track)
        reward = params.progress_weight * displacement[0] - params.work_weight * work
        metrics = {"progress": displacement[0], "drift": displacement[1], "work": work}
        return Transition(state, reward, metrics=metrics)

    def observe(self, state: ChainSwimState, params: ChainSwimParams) -> jax.Array:
        axis = unit(state.positions[-1] - state.positions[0])
        parts = [
            jnp.stack([axis[0], -axis[1]]),
            chain.signed_angles(state.positions) / np.pi,
            state.rest_angles / chain.divisor(params.max_rest_angle),
            (state.time / params.max_steps)[None],
        ]
        return jnp.clip(jnp.concatenate(parts), -1.0, 1.0)

    def _dynamics(self, params: ChainSwimParams) -> Filament:
        return Filament(
            dt=params.period / self.substeps,
            temperature=params.temperature,
            friction=params.friction,
            anisotropy=params.anisotropy,
        )

    # --- baselines and pictures -----------------------------------------------------------------------------------

    def baselines(self, params: ChainSwimParams | None = None) -> dict[str, Baseline]:
        """Strokes by the clock, sinusoids `a sin(q s - w t)` with s the number of a joint.

        `wave`: travels along the chain, towards -x, the best one that a search over a, q and w has found. `steered`:
        the same on a mean bend that turns the chain towards +x. `reciprocal`: q = 0, all joints in phase, with the same
        a and w. `constant`: bent all the time.
        """
        return swim_policies(self.default_params if params is None else params, self.beads)

    def render(self, state: ChainSwimState, params: ChainSwimParams | None = None) -> np.ndarray:
        """The chain and its track on a grid at rest in the fluid, followed by the view; 640 x 640."""
        from dmdenv.envs.bonded_chain.drawing import draw_swim

        params = self.default_params if params is None else params
        positions, track = np.asarray(state.positions, float), np.asarray(state.track, float)
        return draw_swim(positions, track, diameter=float(params.diameter), step=int(state.time))
