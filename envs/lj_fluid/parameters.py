"""Dynamic parameters of the tasks of `lj_fluid`: what may change without recompiling anything.

Reduced units: sigma, epsilon, the mass and Boltzmann's constant are 1.
"""

import jax

from dmdenv.envs.base import Params, parameter


class FluidParams(Params):
    """Parameters of the fluid and its bath."""

    max_steps: jax.Array = parameter(default=128, unit="steps", doc="length of an episode", low=1)
    dt: jax.Array = parameter(default=0.01, unit="time", doc="time step of the dynamics", low=1e-6, high=0.02)
    density: jax.Array = parameter(
        default=0.82, unit="1 / length^2", doc="particles per area; the box follows", low=1e-3, high=1.2
    )
    temperature: jax.Array = parameter(default=0.8, unit="energy", doc="T of the bath at the start", low=1e-3)
    friction: jax.Array = parameter(default=1.0, unit="1 / time", doc="gamma of the bath", low=1e-6)
    cutoff: jax.Array = parameter(default=2.5, unit="length", doc="range of the interaction", low=1.0)


class AnnealParams(FluidParams):
    """Parameters of `anneal`."""

    temperature_min: jax.Array = parameter(default=0.01, unit="energy", doc="T_min, the coldest bath", low=1e-4)
    temperature_max: jax.Array = parameter(default=1.2, unit="energy", doc="T_max, the hottest bath", low=1e-3)
    rate: jax.Array = parameter(default=0.4, unit="energy / time", doc="dT/dt for an action of 1", low=0.0)
    order_onset: jax.Array = parameter(
        default=1.3, unit="length", doc="distance up to which a neighbour counts in full", low=0.0
    )
    order_cutoff: jax.Array = parameter(
        default=1.6, unit="length", doc="distance from which on a neighbour does not count", low=1e-3
    )
    gain_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of raising the mean of |psi| by 1")
    final_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward of |mean psi| = 1 at the end")


class DragParams(FluidParams):
    """Parameters of `drag`."""

    max_steps: jax.Array = parameter(default=32, unit="steps", doc="length of an episode", low=1)
    density: jax.Array = parameter(
        default=0.75, unit="1 / length^2", doc="particles per area; the box follows", low=1e-3, high=1.2
    )
    temperature: jax.Array = parameter(default=0.7, unit="energy", doc="T of the bath", low=1e-3)
    distance: jax.Array = parameter(default=2.0, unit="length", doc="L, how far the trap has to travel", low=1e-3)
    stiffness: jax.Array = parameter(
        default=10.0, unit="energy / length^2", doc="nominal k of the trap, that of the start and the end", low=1e-3
    )
    stiffness_range: jax.Array = parameter(
        default=2.0, unit="1", doc="factor by which an action of 1 raises the stiffness", low=1.0
    )
    speed: jax.Array = parameter(default=2.0, unit="length / time", doc="of the trap, for an action of 1", low=1e-6)
