"""Chains of beads in the plane: what the tasks of `bonded_chain` share.

A jointed chain, whose joints can be bent by their turns at rest, has the energy

    U = sum_b k_b (r_b - 1)^2 / 2 + sum_j k_j (1 - cos(phi_j - phi0_j)) + sum_(r_ij < D) k_c (D - r_ij)^2 / 2

with bonds b of length r_b, and joints j at all beads but the two ends: phi_j is the angle by which the chain turns
there, counterclockwise, and phi0_j where it is at rest. Beads are soft discs of diameter D, less than a bond: motors
can press them together and swing them against each other as hard as they like, and a time step that is right for one
contact is right for all, which that of a wall that steepens without end (WCA) is not. All lengths are in units of a
bond at rest.

References: potentials and dynamics are those of `dmdenv.potentials` and `dmdenv.integrators`, which name theirs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Params, parameter
from dmdenv.integrators import Integrator, Langevin
from dmdenv.potentials import Potential, Sum, cosine_turns, harmonic_bonds, soft_sphere
from dmdenv.potentials.angles import arctan2
from dmdenv.space import Free

ACROSS = np.array([[0.0, 1.0], [-1.0, 0.0]])  # r @ ACROSS is r turned by a quarter, counterclockwise


class JointedParams(Params):
    """Parameters of a jointed chain in its fluid. Lengths in units of a bond at rest, masses in that of a bead."""

    max_steps: jax.Array = parameter(default=256, unit="steps", low=1, doc="length of an episode")
    period: jax.Array = parameter(default=0.1, unit="time", low=1e-6, doc="time of a step of control")
    bond_stiffness: jax.Array = parameter(default=400.0, unit="energy/length^2", low=1e-6, doc="k_b of a bond")
    joint_stiffness: jax.Array = parameter(default=200.0, unit="energy", low=0, doc="k_j of a joint")
    contact_stiffness: jax.Array = parameter(
        default=400.0, unit="energy/length^2", low=0, doc="k_c of two beads that touch"
    )
    diameter: jax.Array = parameter(default=0.8, unit="length", low=1e-3, high=1.0, doc="D of a bead")
    max_turn: jax.Array = parameter(default=1.5, unit="angle", low=0, high=np.pi, doc="largest turn at rest")
    friction: jax.Array = parameter(default=1.5, unit="1/time", low=1e-6, doc="gamma, the drag of a bead of mass 1")
    temperature: jax.Array = parameter(default=0.05, unit="energy", low=1e-9, doc="T of the fluid")


def bonds_of(beads: int) -> np.ndarray:
    """The bonds of a chain, int `[n - 1, 2]`."""
    return np.arange(beads - 1)[:, None] + np.arange(2)


def joints_of(beads: int) -> np.ndarray:
    """The joints of a chain, int `[n - 2, 3]`, in its order."""
    return np.arange(beads - 2)[:, None] + np.arange(3)


def jointed(params: JointedParams, beads: int, turns: jax.Array) -> Sum:
    """The energy of a jointed chain with turns at rest `[n - 2]`, unit radian."""
    bonds = harmonic_bonds(bonds_of(beads), stiffness=params.bond_stiffness)
    joints = cosine_turns(joints_of(beads), stiffness=params.joint_stiffness, turn=turns)
    D = params.diameter
    return bonds + joints + soft_sphere(epsilon=params.contact_stiffness * D**2, sigma=D)


def largest_stiffness(params: Any) -> float:
    """An estimate of the largest eigenvalue of the second derivative of a jointed chain's energy; of concrete numbers.

    Bonds have up to 4 k_b along a straight chain, joints up to 16 k_j across it, a contact 2 k_c.
    """
    straight = max(4.0 * float(params.bond_stiffness), 16.0 * float(params.joint_stiffness))
    return straight + 2.0 * float(params.contact_stiffness)


def posed(turns: jax.Array, heading: jax.Array | float = 0.0) -> jax.Array:
    """A chain of unit bonds from the origin on, with the given turns `[..., n - 2]`, positions `[..., n, 2]`.

    Args:
        turns: unit radian.
        heading: of the first bond, `[]`, unit radian.
    """
    start = jnp.zeros((*turns.shape[:-1], 1), turns.dtype)
    headings = heading + jnp.concatenate([start, jnp.cumsum(turns, axis=-1)], axis=-1)
    bonds = jnp.stack([jnp.cos(headings), jnp.sin(headings)], axis=-1)
    return jnp.concatenate([jnp.zeros_like(bonds[..., :1, :]), jnp.cumsum(bonds, axis=-2)], axis=-2)


def turns_of(positions: jax.Array) -> jax.Array:
    """The turns of a chain `[..., n, 2]` at its joints, `[..., n - 2]`, in (-pi, pi]."""
    bonds = jnp.diff(positions, axis=-2)
    u, v = bonds[..., :-1, :], bonds[..., 1:, :]
    return arctan2(cross(u, v), jnp.sum(u * v, axis=-1))


def cross(u: jax.Array, v: jax.Array) -> jax.Array:
    """The cross product of vectors `[..., 2]` of the plane, `[...]`."""
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def rotated(positions: jax.Array, angle: jax.Array) -> jax.Array:
    """Positions `[n, 2]` turned about the origin by an angle `[]`, counterclockwise."""
    return jnp.cos(angle) * positions + jnp.sin(angle) * (positions @ ACROSS.astype(positions.dtype))


def stepped(method: Integrator, potential: Potential, state: Any, steps: int) -> Any:
    """The state of an integrator after some steps; one scan, which compiles faster than a rollout with observations."""
    return jax.lax.scan(lambda state, _: (method.step(potential, state), None), state, None, length=steps)[0]


def thermalised(
    potential_of: Callable[[jax.Array], Potential],
    turns: jax.Array,
    starts: jax.Array,
    key: jax.Array,
    *,
    temperature: float,
    friction: float,
    dt: float,
    steps: int,
) -> jax.Array:
    """Chains after some time in a heat bath, by the core's Langevin dynamics: what pools are prepared by.

    Args:
        potential_of: the potential of a chain from its turns at rest.
        turns: `[m, n - 2]`, unit radian.
        starts: `[m, n, 2]`, unit length.
        key: consumed.
        temperature: unit energy.
        friction: unit 1 / time; it does not change what equilibrium is.
        dt: time step, unit time.
        steps: how many.

    Returns:
        Positions `[m, n, 2]`.
    """
    method = Langevin(dt=dt, temperature=temperature, friction=friction)

    def one(turns: jax.Array, positions: jax.Array, key: jax.Array) -> jax.Array:
        potential = potential_of(turns)
        state = method.init(potential, Free(), positions, key=key)
        return stepped(method, potential, state, steps).positions

    return jax.jit(jax.vmap(one))(turns, starts, jax.random.split(key, len(starts)))


def check_period(params: Any, substeps: int, longest_step: float) -> None:
    """Refuse a concrete period of control whose substeps are longer than the dynamics bears."""
    period, longest = float(params.period), substeps * longest_step
    if period > longest * (1 + 1e-6):
        raise ValueError(
            f"period = {period:g} in {substeps} substeps; valid: up to {longest:.3g}, since the time step is too long"
            " for these stiffnesses and this drag otherwise (or more substeps)"
        )


def or_one(x: jax.Array) -> jax.Array:
    """x where it is positive, else 1: to divide by."""
    return jnp.where(x > 0, x, 1.0)


def checked_whole(name: str, value: Any, low: int) -> None:
    """Refuse a static field that is no whole number from `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} = {value!r}; valid: a whole number from {low}")


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw_chain(canvas: Any, positions: np.ndarray, diameter: float, *, opacity: float = 1.0) -> None:
    """Beads as discs in colours that run along the chain, on bonds as thick bars, over the background."""
    from dmdenv.envs.rendering import blend, colors_between

    colors = colors_between(len(positions))
    for a, b, color in zip(positions[:-1], positions[1:], colors, strict=False):
        canvas.bond(a, b - a, blend(color, 0.5 * opacity), 0.45 * diameter)
    for place, color in zip(positions, colors, strict=True):
        canvas.disc(place, 0.5 * diameter, blend(color, opacity))
