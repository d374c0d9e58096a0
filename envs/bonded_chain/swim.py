"""Swimming: a jointed chain in a viscous fluid gets on by bending its joints in turns.

n beads with bonds and joints (the energy of `chain.py`) move without inertia, by the dynamics of
`dmdenv.integrators.Filament`: drag is larger across the chain than along it. The fluid takes up no momentum, so that
the drag has no sum and no moment. The agent bends the joints: an action sets their turns at rest, which jump; the work

    W = U(r; new) - U(r; old)

is paid for. Whatever has one degree of freedom goes back the way it came (the scallop theorem), and without anisotropy
no stroke moves the centre; a wave that travels along the chain pushes it the other way.

References: Purcell, Am. J. Phys. 45, 3 (1977), on the theorem; Gray and Hancock, J. Exp. Biol. 32, 802 (1955), on
waves; Lauga and Powers, Rep. Prog. Phys. 72, 096601 (2009), for both.
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
from dmdenv.integrators import Filament
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import Sum
from dmdenv.space import Free, unit

_POOL = 32


class ChainSwimParams(chain.JointedParams):
    """Lengths in units of a bond at rest, masses in that of a bead."""

    period: jax.Array = parameter(default=0.25, unit="time", low=1e-6, doc="time of a step of control")
    bond_stiffness: jax.Array = parameter(default=50.0, unit="energy/length^2", low=1e-6, doc="k_b of a bond")
    joint_stiffness: jax.Array = parameter(default=10.0, unit="energy", low=0, doc="k_j of a joint")
    contact_stiffness: jax.Array = parameter(
        default=50.0, unit="energy/length^2", low=0, doc="k_c of two beads that touch"
    )
    max_turn: jax.Array = parameter(default=1.2, unit="angle", low=0, high=np.pi, doc="largest turn at rest")
    friction: jax.Array = parameter(
        default=1.0, unit="1/time", low=1e-6, doc="gamma along the chain, the drag of a bead of mass 1"
    )
    temperature: jax.Array = parameter(default=0.002, unit="energy", low=0, doc="T of the fluid")
    anisotropy: jax.Array = parameter(default=2.0, unit="1", low=1e-3, doc="a, the drag across over the drag along")
    course: jax.Array = parameter(
        default=np.pi, unit="angle", low=0, high=np.pi, doc="largest angle between the chain and +x at the start"
    )
    progress_weight: jax.Array = parameter(default=1.0, unit="reward/length", doc="reward of a way of 1 along +x")
    work_weight: jax.Array = parameter(default=0.005, unit="reward/energy", low=0, doc="cost of a work of 1")


class ChainSwimState(State):
    """A chain without inertia, and how its joints are set."""

    positions: jax.Array  # float [n, 2], unit length
    turns: jax.Array  # float [n - 2], turns at rest, unit radian
    track: jax.Array  # float [tracked, 2], where the centre was, latest last; for pictures


@dataclasses.dataclass(frozen=True)
class ChainSwim(Env[ChainSwimState, ChainSwimParams]):
    """A chain that swims along +x by bending its joints, at low Reynolds number. Task `swim`.

    Observation `[2 n - 1]`, in [-1, 1]: the cosine and the sine of the angle from the chain's axis (from its first bead
    to its last) to +x; the turns at the joints over pi; the turns at rest over `max_turn`; the share of the time that
    is over.

    Action `[n - 2]`: the turn at rest of each joint, in units of `max_turn`. It jumps at the beginning of the step.

    Reward: `progress_weight (x' - x) - work_weight W`, with x of the centre of mass before and x' after the step.

    Metrics in `info`: `progress` (of the step, x' - x), `drift` (of the step, the same along y), `work`.

    Args:
        beads: number n of beads.
        substeps: time steps of the dynamics in a step of control.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    beads: int = 10
    substeps: int = 50

    def __post_init__(self):
        chain.checked_whole("beads", self.beads, 3)
        chain.checked_whole("substeps", self.substeps, 1)

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
        super().prepare()
        pool.prepare(_straight_chains, self.beads)

    def initial_state(self, key: jax.Array, params: ChainSwimParams) -> ChainSwimState:
        """A straight chain in equilibrium about the origin, at a random angle of up to `course` to +x."""
        draw, turn = jax.random.split(key)
        positions = pool.draw(draw, _straight_chains, self.beads)
        angle = params.course * jax.random.uniform(turn, minval=-1.0)
        return ChainSwimState(
            positions=chain.rotated(positions, angle),
            turns=jnp.zeros(self.beads - 2),
            track=jnp.zeros((_TRACKED, 2)),
        )

    def advance(
        self, key: jax.Array, state: ChainSwimState, action: jax.Array, params: ChainSwimParams
    ) -> Transition[ChainSwimState]:
        old, potential = self._potential(state.turns, params), self._potential(params.max_turn * action, params)
        # what a jump of the joints costs: the other terms do not change
        work = _joint_energy(potential, state.positions) - _joint_energy(old, state.positions)
        method = Filament(
            dt=params.period / self.substeps,
            temperature=params.temperature,
            friction=params.friction,
            anisotropy=params.anisotropy,
        )
        moving = method.init(potential, Free(), state.positions, key=key)
        moving = chain.stepped(method, potential, moving, self.substeps)
        centre = jnp.mean(moving.positions, axis=0)
        way = centre - jnp.mean(state.positions, axis=0)
        track = jnp.concatenate([state.track[1:], jax.lax.stop_gradient(centre)[None]])
        moved = dataclasses.replace(state, positions=moving.positions, turns=params.max_turn * action, track=track)
        reward = params.progress_weight * way[0] - params.work_weight * work
        return Transition(moved, reward, jnp.asarray(False), {"progress": way[0], "drift": way[1], "work": work})

    def observe(self, state: ChainSwimState, params: ChainSwimParams) -> jax.Array:
        axis = unit(state.positions[-1] - state.positions[0])
        course = jnp.stack([axis[0], -axis[1]])
        at_rest = state.turns / chain.or_one(params.max_turn)
        over = (state.time / params.max_steps)[None]
        seen = jnp.concatenate([course, chain.turns_of(state.positions) / np.pi, at_rest, over])
        return jnp.clip(seen, -1.0, 1.0)

    # --- baselines ------------------------------------------------------------------------------------------------

    def baselines(self, params: ChainSwimParams | None = None) -> dict[str, Baseline]:
        """Strokes by the clock, sinusoids `a sin(q s - w t)` with s the number of a joint.

        `wave`: travels along the chain, towards -x, the best one that a search over a, q and w has found. `steered`:
        the same on a mean bend, that turns the chain to +x. `reciprocal`: q = 0, all joints in phase, with the same a
        and w. `constant`: bent all the time.
        """
        params = self.default_params if params is None else params
        joints = jnp.arange(self.beads - 2.0)
        amplitude, number, frequency = _BEST

        def phase(observation: jax.Array) -> jax.Array:
            return frequency * observation[-1] * params.max_steps * params.period

        def wave(key: jax.Array, observation: jax.Array, steer: float = 0.0) -> jax.Array:
            ahead = jnp.where(observation[0] >= 0, 1.0, -1.0)  # which end is to go first
            turn = jnp.arctan2(observation[1], jnp.abs(observation[0])) * ahead  # of the axis that goes first, to +x
            stroke = amplitude * jnp.sin(ahead * number * joints + phase(observation))
            return jnp.clip(stroke + steer * turn, -1.0, 1.0)

        return {
            "wave": wave,
            "steered": functools.partial(wave, steer=_BEND),
            "reciprocal": lambda key, observation: jnp.full(self.beads - 2, amplitude * jnp.sin(phase(observation))),
            "constant": lambda key, observation: jnp.full(self.beads - 2, amplitude),
        }

    def render(self, state: ChainSwimState, params: ChainSwimParams | None = None) -> np.ndarray:
        """The chain and its track on a grid at rest in the fluid, followed by the view; 640 x 640."""
        from dmdenv.envs.rendering import Canvas

        params = self.default_params if params is None else params
        positions, track = np.asarray(state.positions, float), np.asarray(state.track, float)
        side = 1.25 * self.beads
        canvas = Canvas(positions.mean(axis=0) - side / 2, side, grid=2.0)
        canvas.trail(track, "#ffb454")
        chain.draw_chain(canvas, positions, float(params.diameter))
        canvas.caption(f"x {positions[:, 0].mean():.2f}   step {int(state.time)}")
        return canvas.image()

    def _potential(self, turns: jax.Array, params: ChainSwimParams) -> Sum:
        return chain.jointed(params, self.beads, turns)


def _joint_energy(potential: Sum, positions: jax.Array) -> jax.Array:
    """Of the terms that a jump of the turns at rest changes."""
    return potential.terms[1].energy(Free(), positions, AllPairs())


_TRACKED = 64  # steps
# found by a search with the default parameters (docs/bonded_chain.md)
_BEST = 1.0, 1.0, 1.9  # amplitude in units of max_turn, wave number in radian a joint, frequency in radian / time
_BEND = 0.3  # in units of max_turn, for a radian off the course


def _straight_chains(beads: int) -> jax.Array:
    """Straight chains in equilibrium with the default parameters, centred, along x, `[m, n, 2]`."""
    params = ChainSwimParams()
    turns = jnp.zeros((_POOL, beads - 2))
    positions = chain.thermalised(
        functools.partial(chain.jointed, params, beads), turns, chain.posed(turns), jax.random.key(1),
        temperature=float(params.temperature), friction=1.0, dt=0.04, steps=2000,
    )  # fmt: skip
    positions = positions - jnp.mean(positions, axis=1, keepdims=True)
    ends = positions[:, -1] - positions[:, 0]
    return jax.vmap(chain.rotated)(positions, -jnp.arctan2(ends[:, 1], ends[:, 0]))
