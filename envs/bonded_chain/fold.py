"""Folding: an external field drives a flexible chain into a shape, against thermal motion.

n beads with the bead-spring model of Kremer and Grest (FENE bonds and WCA between all beads, diameter and energy of WCA
being the units) and with a stiffness against bending move by Langevin dynamics,

    U = sum_b FENE(r_b) + sum_(i<j) WCA(r_ij) + k_theta sum_j (1 + cos theta_j) - sum_i F_i . r_i

The chain is divided into groups of neighbours, and the field has one force for each of them. The aim is a shape,
whatever its place and direction; how far the chain is from it is the root of the mean squared distance after the best
superposition (`dmdenv.quantities.rmsd`), so that a shape and its mirror image differ.

References: Kremer and Grest, J. Chem. Phys. 92, 5057 (1990), section II, in two dimensions; Kabsch, Acta Cryst. A 32,
922 (1976).
"""

import dataclasses
import itertools
from typing import Literal, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs import pool
from dmdenv.envs.base import Baseline, Env, Params, State, Transition, parameter
from dmdenv.envs.bonded_chain import chain
from dmdenv.integrators import Langevin, maxwell_boltzmann
from dmdenv.potentials import Potential, cosine_angles, fene_bonds, uniform_field, wca
from dmdenv.quantities import rmsd, superposed
from dmdenv.space import Free

Shape = Literal["any", "ring", "hairpin", "wave", "spiral", "random"]

_POOL = 32
_BOND = 0.97  # length of a bond of the model at T = 1
_FASTEST = 4.0  # velocities are seen up to this one


class ChainFoldParams(Params):
    """Lengths in units of a bead's diameter, energies in that of WCA, masses in that of a bead."""

    max_steps: jax.Array = parameter(default=128, unit="steps", low=1, doc="length of an episode")
    period: jax.Array = parameter(default=0.2, unit="time", low=1e-6, doc="time of a step of control")
    force: jax.Array = parameter(default=4.0, unit="energy/length", low=0, doc="force on a bead for an action of 1")
    bond_stiffness: jax.Array = parameter(default=30.0, unit="energy/length^2", low=1e-6, doc="k of FENE bonds")
    max_length: jax.Array = parameter(default=1.5, unit="length", low=1.2, doc="where a FENE bond breaks")
    bending: jax.Array = parameter(default=1.0, unit="energy", low=0, doc="k_theta, the stiffness against bending")
    friction: jax.Array = parameter(default=1.0, unit="1/time", low=1e-6, doc="gamma")
    temperature: jax.Array = parameter(default=1.0, unit="energy", low=1e-9, doc="T of the bath")
    distance_weight: jax.Array = parameter(
        default=0.1, unit="reward/length", low=0, doc="cost of an RMSD of 1 in a step"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost of the largest force on all groups in a step"
    )


class ChainFoldState(State):
    """A chain in motion, and the shape that it is to take."""

    positions: jax.Array  # float [n, 2], unit length
    velocities: jax.Array  # float [n, 2], unit length / time
    target: jax.Array  # float [n, 2], the shape, unit length


@dataclasses.dataclass(frozen=True)
class ChainFold(Env[ChainFoldState, ChainFoldParams]):
    """A bead-spring chain that an external field drives into a shape. Task `fold`.

    Observation `[6 n]`, in [-1, 1], with h = n / 2: the places of the beads about their mean, over h; their velocities,
    over 4; what each is away from its place in the shape, superposed as well as can be, over h.

    Action `[2 g]`: x and y of the force on the beads of each group, in units of `force`.

    Reward: `-distance_weight RMSD - effort_weight mean(a^2)`, after the step.

    An episode terminates where a bond breaks, which no force within the default range does.

    Metrics in `info`: `rmsd`, `effort`.

    Args:
        beads: number n of beads.
        groups: number g of groups, each of about n / g neighbours along the chain.
        shape: "ring", "hairpin", "wave", "spiral", or "any" of these, drawn at a reset; "random": an equilibrium
            conformation of the chain. All of either handedness.
        substeps: time steps of the dynamics in a step of control.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    beads: int = 16
    groups: int = 4
    shape: Shape = "any"
    substeps: int = 25

    def __post_init__(self):
        chain.checked_whole("beads", self.beads, 6)
        chain.checked_whole("groups", self.groups, 1)
        chain.checked_whole("substeps", self.substeps, 1)
        if self.groups > self.beads:
            raise ValueError(f"groups = {self.groups}; valid: up to beads = {self.beads}")
        if self.shape not in get_args(Shape):
            raise ValueError(f"shape = {self.shape!r}; valid: {', '.join(map(repr, get_args(Shape)))}")

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
        super().prepare()
        pool.prepare(_free_chains, self.beads)

    def initial_state(self, key: jax.Array, params: ChainFoldParams) -> ChainFoldState:
        """A chain in equilibrium, turned at random, with fresh velocities, and a shape."""
        draw, turn, thermal, other, side = jax.random.split(key, 5)
        positions = pool.draw(draw, _free_chains, self.beads)
        if self.shape == "random":
            target = pool.draw(other, _free_chains, self.beads)
        else:
            shapes = jnp.asarray(_shapes(self.beads, self.shape))
            target = shapes[jax.random.randint(other, (), 0, len(shapes))]
        sign = jnp.where(jax.random.bernoulli(side), 1.0, -1.0)
        return ChainFoldState(
            positions=chain.rotated(positions, 2 * np.pi * jax.random.uniform(turn)),
            velocities=maxwell_boltzmann(thermal, jnp.ones(self.beads), params.temperature, 2, zero_momentum=False),
            target=target * jnp.stack([jnp.ones_like(sign), sign])[None],
        )

    def advance(
        self, key: jax.Array, state: ChainFoldState, action: jax.Array, params: ChainFoldParams
    ) -> Transition[ChainFoldState]:
        forces = params.force * action.reshape(self.groups, 2)[_group_of(self.beads, self.groups)]
        potential = model(params, self.beads) + uniform_field(force=forces)
        method = Langevin(dt=params.period / self.substeps, temperature=params.temperature, friction=params.friction)
        moving = method.init(potential, Free(), state.positions, velocities=state.velocities, key=key)
        moving = chain.stepped(method, potential, moving, self.substeps)
        distance, effort = rmsd(state.target, moving.positions), jnp.mean(action**2)
        bonds = jnp.diff(moving.positions, axis=0)
        broken = jnp.any(jnp.sum(bonds**2, axis=-1) >= params.max_length**2)
        moved = dataclasses.replace(state, positions=moving.positions, velocities=moving.velocities)
        reward = -params.distance_weight * distance - params.effort_weight * effort
        return Transition(moved, reward, broken, {"rmsd": distance, "effort": effort})

    def observe(self, state: ChainFoldState, params: ChainFoldParams) -> jax.Array:
        half = self.beads / 2
        centred = state.positions - jnp.mean(state.positions, axis=0, keepdims=True)
        away = superposed(state.target, state.positions) - state.positions
        seen = [centred.reshape(-1) / half, state.velocities.reshape(-1) / _FASTEST, away.reshape(-1) / half]
        return jnp.clip(jnp.concatenate(seen), -1.0, 1.0)

    # --- baselines and pictures -----------------------------------------------------------------------------------

    def baselines(self, params: ChainFoldParams | None = None) -> dict[str, Baseline]:
        """`steered`: each group is pulled towards its place in the shape, in proportion to what it is away.

        `constant`: the two halves are pulled apart, with a tenth of the largest force.
        """
        params = self.default_params if params is None else params
        n, members = self.beads, _group_of(self.beads, self.groups)
        share = (members[None] == np.arange(self.groups)[:, None]) / np.bincount(members)[:, None]
        pull = np.where(np.arange(self.groups) < self.groups / 2, -0.1, 0.1)

        def steered(key: jax.Array, observation: jax.Array) -> jax.Array:
            away = 0.5 * n * observation[4 * n :].reshape(n, 2)
            mean = jnp.asarray(share, away.dtype) @ away
            return jnp.clip(_STIFFNESS * mean / chain.or_one(params.force), -1.0, 1.0).reshape(-1)

        return {
            "steered": steered,
            "constant": lambda key, observation: jnp.stack([jnp.asarray(pull), jnp.zeros(len(pull))], 1).reshape(-1),
        }

    def render(self, state: ChainFoldState, params: ChainFoldParams | None = None) -> np.ndarray:
        """The chain over the shape that it is to take, with the view on its centre; 640 x 640."""
        from dmdenv.envs.rendering import Canvas

        positions = np.asarray(state.positions, float)
        target = np.asarray(superposed(jnp.asarray(state.target), jnp.asarray(state.positions)), float)
        side = 0.9 * self.beads
        canvas = Canvas(positions.mean(axis=0) - side / 2, side, grid=2.0)
        for a, b in itertools.pairwise(target):
            canvas.bond(a, b - a, "#26304d", 1.0)
        for place in target:
            canvas.disc(place, 0.5, "#26304d")
        chain.draw_chain(canvas, positions, 0.8)
        for place, color in zip(target, _rings(len(target)), strict=True):
            canvas.ring(place, 0.46, color, 2)
        distance = float(rmsd(jnp.asarray(state.target), jnp.asarray(state.positions)))
        canvas.caption(f"RMSD {distance:.2f}   step {int(state.time)}")
        return canvas.image()


_STIFFNESS = 8.0  # of the steered force, found by a search


def model(params: ChainFoldParams, beads: int) -> Potential:
    """The energy of the chain without the field."""
    bonds = fene_bonds(chain.bonds_of(beads), stiffness=params.bond_stiffness, max_length=params.max_length)
    return bonds + wca() + cosine_angles(chain.joints_of(beads), stiffness=params.bending)


def _group_of(beads: int, groups: int) -> np.ndarray:
    """The group of each bead, int `[n]`, in order and of sizes that differ by at most one."""
    return np.arange(beads) * groups // beads


def _rings(beads: int) -> list:
    from dmdenv.envs.rendering import blend, colors_between

    return [blend(color, 0.7) for color in colors_between(beads)]


def _shapes(beads: int, shape: Shape) -> np.ndarray:
    """The shapes to choose from, centred, `[s, n, 2]`, unit length."""
    joints = np.arange(beads - 2)
    k = min(4, beads - 4)  # joints in which a hairpin turns round
    first = (len(joints) - k) // 2
    turns = {
        "ring": np.full(len(joints), 2 * np.pi / beads),
        "hairpin": np.where((joints >= first) & (joints < first + k), np.pi / k, 0.0),
        "wave": 8.4 / len(joints) * np.sin(2 * np.pi * (joints + 0.5) / len(joints)),
    }
    with jax.ensure_compile_time_eval():
        found = {name: _BOND * np.asarray(chain.posed(jnp.asarray(value)), float) for name, value in turns.items()}
    found["spiral"] = _spiral(beads)
    chosen = np.stack(list(found.values()) if shape == "any" else [found[shape]])
    return chosen - chosen.mean(axis=1, keepdims=True)


def _spiral(beads: int) -> np.ndarray:
    """Beads on a spiral of Archimedes whose turns are 1.4 diameters apart, a bond from one to the next."""
    r, angle, places = 0.9, 0.0, []
    for _ in range(beads):
        places.append((r * np.cos(angle), r * np.sin(angle)))
        angle, r = angle + _BOND / r, r + 1.4 / (2 * np.pi) * _BOND / r
    return np.array(places)


def _free_chains(beads: int) -> jax.Array:
    """Chains in equilibrium with the default parameters and without a field, centred, `[m, n, 2]`."""
    params = ChainFoldParams()
    start, bath = jax.random.split(jax.random.key(3))
    turns = 0.3 * jax.random.normal(start, (_POOL, beads - 2))
    signs = jnp.where(jnp.arange(beads - 2) % 2 == 0, 1.0, -1.0)  # a zigzag, which does not cross itself
    starts = _BOND * chain.posed(signs[None] * jnp.abs(turns))
    positions = chain.thermalised(
        lambda turns: model(params, beads), turns, starts, bath,
        temperature=float(params.temperature), friction=0.5, dt=0.01, steps=max(3000, 20 * beads**2),
    )  # fmt: skip
    return positions - jnp.mean(positions, axis=1, keepdims=True)
