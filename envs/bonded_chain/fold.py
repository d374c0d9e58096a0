"""Folding: an external field drives a flexible chain into a shape, against thermal motion.

n beads with the bead-spring model of Kremer and Grest (FENE bonds and WCA between all beads, diameter and energy of WCA
being the units) and with a stiffness against bending move by Langevin dynamics,

    U = sum_b FENE(r_b) + sum_(i<j) WCA(r_ij) + k_theta sum_j (1 + cos theta_j) - sum_i F_i . r_i

The chain is divided into groups of neighbours, and the field has one force for each of them. The aim is a shape,
wherever it is and whichever way it points; how far the chain is from it is the root of the mean squared distance after
the best superposition (`dmdenv.quantities.rmsd`), so that a shape and its mirror image differ.

References: Kremer and Grest, J. Chem. Phys. 92, 5057 (1990), section II, in two dimensions; Kabsch, Acta Cryst. A 32,
922 (1976).
"""

import dataclasses
from typing import get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, choice, whole
from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, Env, State, Transition, derived
from dmdenv.envs.bonded_chain import chain
from dmdenv.envs.bonded_chain.baselines import fold_policies
from dmdenv.envs.bonded_chain.parameters import ChainFoldParams
from dmdenv.envs.bonded_chain.shapes import Shape, target_shapes
from dmdenv.envs.bonded_chain.starts import flexible_chains
from dmdenv.integrators import Langevin, StochasticState, maxwell_boltzmann
from dmdenv.potentials import uniform_field
from dmdenv.quantities import superpose
from dmdenv.space import Free, norm

FASTEST = 4.0  # velocities are observed up to this one


class ChainFoldState(State):
    """A chain in motion, the field, and the shape that the chain is to take."""

    # positions, velocities and forces [n, 2]; the forces are those with the field
    motion: StochasticState = derived("field", by="state.motion.place(potential, positions)")
    field: jax.Array  # float [g, 2], the force on the beads of each group, unit energy / length
    target: jax.Array  # float [n, 2], the shape, unit length
    # float [n, 2], the shape where it is closest to the chain, unit length
    superposed: jax.Array = derived("motion", "target", by="dmdenv.quantities.superpose(target, positions)")

    @property
    def positions(self) -> jax.Array:
        """`[n, 2]`, unit length."""
        return self.motion.positions

    @property
    def velocities(self) -> jax.Array:
        """`[n, 2]`, unit length / time."""
        return self.motion.velocities


@dataclasses.dataclass(frozen=True)
class ChainFold(Env[ChainFoldState, ChainFoldParams]):
    """A bead-spring chain that an external field drives into a shape. Task `fold`.

    Observation `[6 n]`, in [-1, 1], with h = n / 2: positions of the beads about their mean, over h; their velocities,
    over 4; the vector from each bead to its place in the shape, superposed as well as can be, over h.

    Action `[2 g]`: x and y of the force on the beads of each group, in units of `force`.

    Reward: `-distance_weight RMSD - effort_weight mean(a^2)`, after the step.

    An episode terminates where a bond breaks, which no force within the default range does.

    Metrics in `info`: `rmsd`, `effort`.

    The forces at the beginning of a step are those at the end of the one before, but for the field. Parameters that
    change between two steps act from the first new positions on.

    Args:
        beads: number n of beads.
        groups: number g of groups, each of about n / g neighbours along the chain.
        shape: "ring", "hairpin", "wave", "spiral", or "any" of these, drawn at a reset; "random": an equilibrium
            conformation of the chain. All of either handedness.
        substeps: time steps of the dynamics per step of control.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    beads: int = whole(16, at_least=6, at_most=MOST_PARTICLES)
    groups: int = whole(4, at_least=1, at_most=MOST_PARTICLES)
    shape: Shape = choice("any", of=get_args(Shape))
    substeps: int = whole(25, at_least=1, at_most=10**9)

    def __post_init__(self):
        super().__post_init__()
        if self.groups > self.beads:
            raise ValueError(f"ChainFold.groups = {self.groups}; must be <= beads = {self.beads}")

    @property
    def default_params(self) -> ChainFoldParams:
        return ChainFoldParams()

    def validate(self, params: ChainFoldParams) -> None:
        # second derivatives of WCA and, per k, of FENE at a bond's usual length; an estimate of the stiffest motion
        stiffness = 4.0 * (750.0 + 4.2 * float(params.bond_stiffness)) + 16.0 * float(params.bending)
        chain.check_period(params, self.substeps, 0.75 / stiffness**0.5)

    def observation_space(self, params: ChainFoldParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (6 * self.beads,), np.float32)

    def action_space(self, params: ChainFoldParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2 * self.groups,), np.float32)

    # --- an episode -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        pool.prepare(flexible_chains, self.beads)

    def initial_state(self, key: jax.Array, params: ChainFoldParams) -> ChainFoldState:
        """A chain in equilibrium, at a random angle, with fresh velocities and without a field, and a shape."""
        draw, direction, thermal, other, side = jax.random.split(key, 5)
        positions = pool.draw(draw, flexible_chains, self.beads)
        positions = chain.rotate(positions, 2 * np.pi * jax.random.uniform(direction))
        velocities = maxwell_boltzmann(thermal, jnp.ones(self.beads), params.temperature, 2, zero_momentum=False)
        if self.shape == "random":
            target = pool.draw(other, flexible_chains, self.beads)
        else:
            shapes = jnp.asarray(target_shapes(self.beads, self.shape))
            target = shapes[jax.random.randint(other, (), 0, len(shapes))]
        sign = jnp.where(jax.random.bernoulli(side), 1.0, -1.0)
        target = target * jnp.stack([jnp.ones_like(sign), sign])[None]
        potential, dynamics = chain.flexible_chain(params, self.beads), self._dynamics(params)
        return ChainFoldState(
            # every step reseeds the noise
            motion=dynamics.init(potential, Free(), positions, velocities=velocities, key=key),
            field=jnp.zeros((self.groups, 2)),
            target=target,
            superposed=superpose(target, positions),
        )

    def advance(
        self, key: jax.Array, state: ChainFoldState, action: jax.Array, params: ChainFoldParams
    ) -> Transition[ChainFoldState]:
        field, group = params.force * action.reshape(self.groups, 2), chain.group_indices(self.beads, self.groups)
        motion = state.motion.replace(forces=state.motion.forces + (field - state.field)[group])
        potential = chain.flexible_chain(params, self.beads) + uniform_field(force=field[group])
        motion = chain.simulate(self._dynamics(params), potential, motion.reseed(key), self.substeps)
        closest = superpose(state.target, motion.positions)
        rmsd, effort = norm((closest - motion.positions).reshape(-1)) / self.beads**0.5, jnp.mean(action**2)
        bonds = jnp.diff(motion.positions, axis=0)
        broken = jnp.any(jnp.sum(bonds**2, axis=-1) >= params.max_length**2)
        state = state.replace(motion=motion, field=field, superposed=closest)
        reward = -params.distance_weight * rmsd - params.effort_weight * effort
        return Transition(state, reward, broken, {"rmsd": rmsd, "effort": effort})

    def observe(self, state: ChainFoldState, params: ChainFoldParams) -> jax.Array:
        half = self.beads / 2
        centred = state.positions - jnp.mean(state.positions, axis=0, keepdims=True)
        away = state.superposed - state.positions
        parts = [centred.reshape(-1) / half, state.velocities.reshape(-1) / FASTEST, away.reshape(-1) / half]
        return jnp.clip(jnp.concatenate(parts), -1.0, 1.0)

    def _dynamics(self, params: ChainFoldParams) -> Langevin:
        return Langevin(dt=params.period / self.substeps, temperature=params.temperature, friction=params.friction)

    # --- baselines and pictures -----------------------------------------------------------------------------------

    def baselines(self, params: ChainFoldParams | None = None) -> dict[str, Baseline]:
        """`steered`: each group is pulled towards its place in the shape, in proportion to the distance.

        `constant`: the two halves are pulled apart, with a tenth of the largest force.
        """
        return fold_policies(self.default_params if params is None else params, self.beads, self.groups)

    def render(self, state: ChainFoldState, params: ChainFoldParams | None = None) -> np.ndarray:
        """The chain over the shape that it is to take, with the view on its centre; 640 x 640."""
        from dmdenv.envs.bonded_chain.drawing import draw_fold

        positions, shape = np.asarray(state.positions, float), np.asarray(state.superposed, float)
        return draw_fold(positions, shape, step=int(state.time))
