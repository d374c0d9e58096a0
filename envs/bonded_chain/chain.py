"""Chains of beads in the plane: energies, dynamics and geometry that the tasks of `bonded_chain` share.

A jointed chain (`reach`, `swim`) has springs for bonds and for joints; the agent sets the rest angles of the joints:

    U = sum_b k_b (r_b - 1)^2 / 2 + sum_j k_j (1 - cos(phi_j - phi0_j)) + sum_(r_ij < D) k_c (D - r_ij)^2 / 2

with bonds b of length r_b, and joints j at all beads but the two ends: phi_j is the signed angle, counterclockwise,
from the bond before the bead to the bond after it, 0 where the chain is straight, and phi0_j its rest angle. Beads are
soft discs of diameter D, less than a bond: however hard motors press them together, a time step that is stable for one
contact is stable for all, which does not hold for a wall that steepens without bound (WCA). All lengths are in units of
a bond at rest.

A flexible chain (`fold`) is the bead-spring model of Kremer and Grest with a stiffness against bending; its units are
the diameter and the energy of WCA.

References: potentials and dynamics are those of `dmdenv.potentials` and `dmdenv.integrators`, which name theirs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import scan
from dmdenv._core.materialize import materialize
from dmdenv.envs.bonded_chain.parameters import ChainFoldParams, ChainReachParams, JointedChainParams
from dmdenv.integrators import Integrator, StochasticState
from dmdenv.potentials import (
    Bonded,
    PerParticle,
    Potential,
    Sum,
    cosine_angles,
    cosine_signed_angles,
    fene_bonds,
    harmonic_bonds,
    harmonic_trap,
    soft_sphere,
    wca,
)
from dmdenv.potentials.angles import arctan2
from dmdenv.space import Free

QUARTER_TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])  # r @ QUARTER_TURN is r rotated by 90 degrees, counterclockwise

# --- energies ---------------------------------------------------------------------------------------------------------


def bonded_beads(beads: int) -> np.ndarray:
    """The beads of each bond, int `[n - 1, 2]`."""
    return np.arange(beads - 1)[:, None] + np.arange(2)


def jointed_beads(beads: int) -> np.ndarray:
    """The beads of each joint, int `[n - 2, 3]`, in the order of the chain."""
    return np.arange(beads - 2)[:, None] + np.arange(3)


def group_indices(beads: int, groups: int) -> np.ndarray:
    """The group of each bead, int `[n]`, in the order of the chain and of sizes that differ by at most one."""
    return np.arange(beads) * groups // beads


def joints(params: JointedChainParams, rest_angles: jax.Array) -> Bonded:
    """The energy of the joints, with rest angles `[n - 2]`, unit radian."""
    return cosine_signed_angles(
        jointed_beads(len(rest_angles) + 2), stiffness=params.joint_stiffness, angle=rest_angles
    )


def jointed_chain(params: JointedChainParams, rest_angles: jax.Array) -> Sum:
    """The energy of a jointed chain with rest angles `[n - 2]`, unit radian."""
    D = params.diameter
    bonds = harmonic_bonds(bonded_beads(len(rest_angles) + 2), stiffness=params.bond_stiffness)
    contacts = soft_sphere(epsilon=params.contact_stiffness * D**2, sigma=D)
    return bonds + joints(params, rest_angles) + contacts


def anchored_chain(params: ChainReachParams, rest_angles: jax.Array) -> Sum:
    """The energy of a jointed chain whose first two beads are held by springs, at (-1, 0) and at the origin."""
    beads = len(rest_angles) + 2
    centers = np.zeros((beads, 2))
    centers[0, 0] = -1.0
    held = PerParticle(params.anchor_stiffness * jnp.asarray(np.arange(beads) < 2, jnp.result_type(float)))
    return jointed_chain(params, rest_angles) + harmonic_trap(stiffness=held, center=centers)


def flexible_chain(params: ChainFoldParams, beads: int) -> Potential:
    """The energy of the bead-spring chain of n beads without an external field."""
    bonds = fene_bonds(bonded_beads(beads), stiffness=params.bond_stiffness, max_length=params.max_length)
    return bonds + wca() + cosine_angles(jointed_beads(beads), stiffness=params.bending)


# --- dynamics ---------------------------------------------------------------------------------------------------------


def bend(
    params: JointedChainParams, motion: StochasticState, old: jax.Array, new: jax.Array
) -> tuple[StochasticState, jax.Array]:
    """Let the rest angles of a jointed chain jump from old to new ones, `[n - 2]`, unit radian.

    No other term of the energy changes, and the forces in `motion` belong to the old rest angles, so that one function
    of the joints gives both the work and what the forces lack:

        U_new - U_old = sum_j k_j ((cos old_j - cos new_j) cos phi_j + (sin old_j - sin new_j) sin phi_j)

    Returns:
        `(motion, work)`: with the forces of the new rest angles; `U(r; new) - U(r; old)`, `[]`, unit energy.
    """
    k = params.joint_stiffness
    # stored: otherwise each of the loops into which XLA fuses them computes them again
    a, b = materialize((k * (jnp.cos(old) - jnp.cos(new)), k * (jnp.sin(old) - jnp.sin(new))))
    jointed = joints(params, new)

    def work(positions: jax.Array) -> jax.Array:
        cos, sin = jointed.coordinates(Free(), positions)
        return jnp.sum(a * cos + b * sin)

    done, gradient = jax.value_and_grad(work)(motion.positions)
    return motion.replace(forces=motion.forces - gradient), done


def simulate(
    method: Integrator[StochasticState], potential: Potential, motion: StochasticState, steps: int
) -> StochasticState:
    """The motion some time steps later; one scan, which compiles faster than a rollout with observations."""
    return scan(lambda motion, _: (method.step(potential, motion), None), motion, None, length=steps)[0]


def largest_stiffness(params: Any) -> float:
    """An estimate of the largest eigenvalue of the second derivative of a jointed chain's energy; of concrete numbers.

    Bonds have up to 4 k_b along a straight chain, joints up to 16 k_j across it, a contact 2 k_c.
    """
    straight = max(4.0 * float(params.bond_stiffness), 16.0 * float(params.joint_stiffness))
    return straight + 2.0 * float(params.contact_stiffness)


def check_period(params: Any, substeps: int, longest_step: float) -> None:
    """Refuse a concrete period of control whose substeps are longer than is stable."""
    period, longest = float(params.period), substeps * longest_step
    if period > longest * (1 + 1e-6):
        raise ValueError(
            f"period = {period:g} in {substeps} substeps; must be <= {longest:.3g}, beyond which the time step is too"
            " long for these stiffnesses and this drag (or more substeps)"
        )


# --- geometry ---------------------------------------------------------------------------------------------------------


def place_beads(angles: jax.Array) -> jax.Array:
    """A chain of unit bonds with signed angles `[..., n - 2]`, from the origin along +x; positions `[..., n, 2]`."""
    start = jnp.zeros((*angles.shape[:-1], 1), angles.dtype)
    headings = jnp.concatenate([start, jnp.cumsum(angles, axis=-1)], axis=-1)
    bonds = jnp.stack([jnp.cos(headings), jnp.sin(headings)], axis=-1)
    return jnp.concatenate([jnp.zeros_like(bonds[..., :1, :]), jnp.cumsum(bonds, axis=-2)], axis=-2)


def signed_angles(positions: jax.Array) -> jax.Array:
    """The signed angles of a chain `[..., n, 2]` at its joints, `[..., n - 2]`, in (-pi, pi]."""
    bonds = jnp.diff(positions, axis=-2)
    u, v = bonds[..., :-1, :], bonds[..., 1:, :]
    return arctan2(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0], jnp.sum(u * v, axis=-1))


def rotate(positions: jax.Array, angle: jax.Array) -> jax.Array:
    """Positions `[n, 2]` rotated about the origin by an angle `[]`, counterclockwise."""
    return jnp.cos(angle) * positions + jnp.sin(angle) * (positions @ QUARTER_TURN.astype(positions.dtype))


def divisor(x: jax.Array) -> jax.Array:
    """x, or 1 where it is 0 or negative."""
    return jnp.where(x <= 0, 1.0, x)
