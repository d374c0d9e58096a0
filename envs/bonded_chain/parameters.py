"""Dynamic parameters of the tasks of `bonded_chain`: what may change without recompiling anything."""

import jax
import numpy as np

from dmdenv.envs.base import Params, parameter


class JointedChainParams(Params):
    """Parameters of a jointed chain in its fluid. Lengths in units of a bond at rest, masses in that of a bead."""

    max_steps: jax.Array = parameter(default=256, unit="steps", low=1, doc="length of an episode")
    period: jax.Array = parameter(default=0.1, unit="time", low=1e-6, doc="time per step of control")
    bond_stiffness: jax.Array = parameter(default=400.0, unit="energy/length^2", low=1e-6, doc="k_b of a bond")
    joint_stiffness: jax.Array = parameter(default=200.0, unit="energy", low=0, doc="k_j of a joint")
    contact_stiffness: jax.Array = parameter(
        default=400.0, unit="energy/length^2", low=0, doc="k_c of two beads that touch"
    )
    diameter: jax.Array = parameter(default=0.8, unit="length", low=1e-3, high=1.0, doc="D of a bead")
    max_rest_angle: jax.Array = parameter(
        default=1.5, unit="angle", low=0, high=np.pi, doc="largest rest angle of a joint, to either side"
    )
    friction: jax.Array = parameter(default=1.5, unit="1/time", low=1e-6, doc="gamma, the drag of a bead of mass 1")
    temperature: jax.Array = parameter(default=0.05, unit="energy", low=1e-9, doc="T of the fluid")


class ChainReachParams(JointedChainParams):
    """Lengths in units of a bond at rest, masses in that of a bead."""

    anchor_stiffness: jax.Array = parameter(
        default=400.0, unit="energy/length^2", low=1e-6, doc="k_a of the springs at the first two beads"
    )
    turn_rate: jax.Array = parameter(
        default=1.0, unit="angle/time", low=1e-6, doc="rate of change of a rest angle for an action of 1"
    )
    inner: jax.Array = parameter(default=0.5, unit="1", low=0, high=1, doc="nearest target, over the chain's length")
    outer: jax.Array = parameter(default=0.9, unit="1", low=0, high=1, doc="farthest target, over the chain's length")
    sector: jax.Array = parameter(default=1.5, unit="angle", low=0, high=np.pi, doc="largest direction of a target")
    target_rate: jax.Array = parameter(default=0.15, unit="angle/time", low=0, doc="largest w of a target's motion")
    interval: jax.Array = parameter(
        default=64.0, unit="steps", low=1, doc="steps from one jump of the target to the next"
    )
    distance_weight: jax.Array = parameter(
        default=0.1, unit="reward/length", low=0, doc="cost per step of a distance of 1 from the target"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost per step of running all motors at full rate"
    )


class ChainSwimParams(JointedChainParams):
    """Lengths in units of a bond at rest, masses in that of a bead."""

    period: jax.Array = parameter(default=0.25, unit="time", low=1e-6, doc="time per step of control")
    bond_stiffness: jax.Array = parameter(default=50.0, unit="energy/length^2", low=1e-6, doc="k_b of a bond")
    joint_stiffness: jax.Array = parameter(default=10.0, unit="energy", low=0, doc="k_j of a joint")
    contact_stiffness: jax.Array = parameter(
        default=50.0, unit="energy/length^2", low=0, doc="k_c of two beads that touch"
    )
    max_rest_angle: jax.Array = parameter(
        default=1.2, unit="angle", low=0, high=np.pi, doc="largest rest angle of a joint, to either side"
    )
    friction: jax.Array = parameter(
        default=1.0, unit="1/time", low=1e-6, doc="gamma along the chain, the drag of a bead of mass 1"
    )
    temperature: jax.Array = parameter(default=0.002, unit="energy", low=0, doc="T of the fluid")
    anisotropy: jax.Array = parameter(default=2.0, unit="1", low=1e-3, doc="a, the drag across over the drag along")
    course: jax.Array = parameter(
        default=np.pi, unit="angle", low=0, high=np.pi, doc="largest angle between the chain and +x at the start"
    )
    progress_weight: jax.Array = parameter(
        default=1.0, unit="reward/length", doc="reward of a displacement of 1 along +x"
    )
    work_weight: jax.Array = parameter(default=0.005, unit="reward/energy", low=0, doc="cost of a work of 1")


class ChainFoldParams(Params):
    """Lengths in units of a bead's diameter, energies in that of WCA, masses in that of a bead."""

    max_steps: jax.Array = parameter(default=128, unit="steps", low=1, doc="length of an episode")
    period: jax.Array = parameter(default=0.2, unit="time", low=1e-6, doc="time per step of control")
    force: jax.Array = parameter(default=4.0, unit="energy/length", low=0, doc="force on a bead for an action of 1")
    bond_stiffness: jax.Array = parameter(default=30.0, unit="energy/length^2", low=1e-6, doc="k of FENE bonds")
    max_length: jax.Array = parameter(default=1.5, unit="length", low=1.2, doc="where a FENE bond breaks")
    bending: jax.Array = parameter(default=1.0, unit="energy", low=0, doc="k_theta, the stiffness against bending")
    friction: jax.Array = parameter(default=1.0, unit="1/time", low=1e-6, doc="gamma")
    temperature: jax.Array = parameter(default=1.0, unit="energy", low=1e-9, doc="T of the bath")
    distance_weight: jax.Array = parameter(
        default=0.1, unit="reward/length", low=0, doc="cost per step of an RMSD of 1"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost per step of the largest force on all groups"
    )
