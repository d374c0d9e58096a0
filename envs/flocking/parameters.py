"""Dynamic parameters of the tasks: how boids move, how an agent steers or herds them, and what is rewarded.

Lengths, times and energies are in units of their own; angles in radians.
"""

from typing import Self

import jax
import numpy as np

from dmdenv.envs.base import Params, parameter


class BoidParams(Params):
    """How boids move: what every task has."""

    dt: jax.Array = parameter(default=0.1, unit="time", low=0, doc="time step")
    speed: jax.Array = parameter(default=1.0, unit="length/time", low=0, doc="speed along the heading")
    view_min: jax.Array = parameter(
        default=0.0, unit="angle", low=0, high=np.pi, doc="field of view: smallest angle to heading"
    )
    view_max: jax.Array = parameter(
        default=np.pi, unit="angle", low=0, high=np.pi, doc="field of view: largest angle to heading"
    )
    alignment: jax.Array = parameter(default=0.0, unit="energy", low=0, doc="J of the alignment rule")
    alignment_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of the alignment rule")
    avoidance: jax.Array = parameter(default=1.0, unit="energy", low=0, doc="J of the avoidance rule")
    avoidance_range: jax.Array = parameter(default=1.2, unit="length", low=1e-6, doc="D of the avoidance rule")
    cohesion: jax.Array = parameter(default=0.05, unit="energy", low=0, doc="J of the cohesion rule")
    cohesion_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of the cohesion rule")
    cohesion_edge: jax.Array = parameter(
        default=0.0, unit="length", low=0, doc="width inside D over which cohesion fades; 0: it ends by a jump"
    )
    exponent: jax.Array = parameter(default=3.0, unit="1", low=1, doc="alpha of alignment, avoidance and flight")
    flight: jax.Array = parameter(default=10.0, unit="energy", low=0, doc="J of flight from predators")
    flight_range: jax.Array = parameter(default=3.0, unit="length", low=1e-6, doc="D of flight from predators")
    collision_range: jax.Array = parameter(
        default=0.5, unit="length", low=1e-6, doc="distance at which two boids collide"
    )


class SteeredParams(BoidParams):
    """Boids that an agent steers by turn rates, in a square with obstacles and predators."""

    box: jax.Array = parameter(
        default=16.0, unit="length", low=1e-6, doc="side of the square (in free space: of the start)"
    )
    turn_rate: jax.Array = parameter(default=2.0, unit="angle/time", low=0, doc="turn rate of an action of 1")
    perception: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="how far a boid sees")
    obstacle: jax.Array = parameter(default=3.0, unit="energy", low=0, doc="J of obstacles")
    obstacle_min: jax.Array = parameter(default=1.2, unit="length", low=1e-6, doc="smallest range D of an obstacle")
    obstacle_max: jax.Array = parameter(default=2.0, unit="length", low=1e-6, doc="largest range D of an obstacle")
    chase: jax.Array = parameter(default=0.1, unit="energy", low=0, doc="J of the predators' chase")
    chase_range: jax.Array = parameter(default=4.0, unit="length", low=1e-6, doc="D of the predators' chase")
    predator_speed: jax.Array = parameter(default=0.85, unit="length/time", low=0, doc="a predator's speed at rest, s")
    sprint_speed: jax.Array = parameter(
        default=2.0, unit="length/time", low=0, doc="what a sprint adds at its start, b"
    )
    sprint_time: jax.Array = parameter(default=5.0, unit="time", low=1e-6, doc="decay time of a sprint, t_s")
    sprint_range: jax.Array = parameter(
        default=2.6, unit="length", low=0, doc="distance of a boid that starts a sprint"
    )
    sprint_rest: jax.Array = parameter(default=20.0, unit="time", low=0, doc="least time between sprints")
    collision_weight: jax.Array = parameter(
        default=1.0, unit="reward", low=0, doc="cost per step of one full overlap per boid"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost per step of turning at full rate"
    )


class FlockingParams(SteeredParams):
    """Dynamic parameters of the task `align`."""

    order_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward per step at polar order 1")
    gain_weight: jax.Array = parameter(default=10.0, unit="reward", doc="reward of raising polar order by 1")

    @classmethod
    def reynolds(cls, **changes: float) -> Self:
        """The coefficients of JAX MD's notebook for 200 boids: a flock that aligns by itself, without an agent."""
        notebook = cls().replace(
            box=800.0, perception=100.0, view_max=np.pi / 3, alignment=12.0, alignment_range=45.0, avoidance=25.0,
            avoidance_range=30.0, cohesion=0.05, cohesion_range=40.0, obstacle=1000.0, obstacle_min=30.0,
            obstacle_max=100.0, flight=256.0, flight_range=75.0, chase=0.1, chase_range=95.0, sprint_time=50.0,
            sprint_range=65.0, sprint_rest=300.0, collision_range=12.0,
        )  # fmt: skip
        return notebook.replace(**changes)


class EvadeParams(SteeredParams):
    """Dynamic parameters of the task `evade`."""

    cohesion: jax.Array = parameter(default=0.0, unit="energy", low=0, doc="J of the cohesion rule")
    flight: jax.Array = parameter(default=0.0, unit="energy", low=0, doc="J of flight from predators")
    box: jax.Array = parameter(
        default=24.0, unit="length", low=1e-6, doc="side of the square (in free space: of the start)"
    )
    perception: jax.Array = parameter(default=7.0, unit="length", low=1e-6, doc="how far a boid sees")
    chase: jax.Array = parameter(default=3.0, unit="energy", low=0, doc="J of the predators' chase")
    chase_range: jax.Array = parameter(default=10.0, unit="length", low=1e-6, doc="D of the predators' chase")
    predator_speed: jax.Array = parameter(default=1.2, unit="length/time", low=0, doc="a predator's speed at rest, s")
    sprint_time: jax.Array = parameter(default=2.0, unit="time", low=1e-6, doc="decay time of a sprint, t_s")
    sprint_rest: jax.Array = parameter(default=4.0, unit="time", low=0, doc="least time between sprints")
    start_radius: jax.Array = parameter(default=4.0, unit="length", low=1e-6, doc="of the flock at the start")
    start_distance: jax.Array = parameter(
        default=9.0, unit="length", low=0, doc="of the predators from the flock at the start"
    )
    catch_range: jax.Array = parameter(default=0.8, unit="length", low=0, doc="a boid closer to a predator is lost")
    danger_range: jax.Array = parameter(default=4.0, unit="length", low=1e-6, doc="where danger begins")
    together_range: jax.Array = parameter(
        default=5.0, unit="length", low=1e-6, doc="R, distance from the flock's centre that counts half"
    )
    survival_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward per step with no boid lost")
    together_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward per step at K = 1")
    danger_weight: jax.Array = parameter(default=1.0, unit="reward", low=0, doc="cost per step of all in full danger")


class ShepherdParams(BoidParams):
    """Dynamic parameters of the task `shepherd`."""

    max_steps: jax.Array = parameter(default=512, unit="steps", low=1, doc="length of an episode")
    speed: jax.Array = parameter(default=0.1, unit="length/time", low=0, doc="speed of a boid that grazes")
    run_speed: jax.Array = parameter(default=1.5, unit="length/time", low=0, doc="what full alarm adds to it")
    cohesion: jax.Array = parameter(default=1.0, unit="energy", low=0, doc="J of the cohesion rule")
    cohesion_range: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="D of the cohesion rule")
    exponent: jax.Array = parameter(default=2.0, unit="1", low=1, doc="alpha of alignment, avoidance and flight")
    flight: jax.Array = parameter(default=8.0, unit="energy", low=0, doc="J of flight from herders")
    flight_range: jax.Array = parameter(default=8.0, unit="length", low=1e-6, doc="D of flight and of alarm")
    herder_speed: jax.Array = parameter(default=2.0, unit="length/time", low=0, doc="speed of an action of length 1")
    start_distance: jax.Array = parameter(
        default=18.0, unit="length", low=0, doc="from the goal to the flock at the start"
    )
    start_radius: jax.Array = parameter(default=7.0, unit="length", low=1e-6, doc="of the flock at the start")
    goal_radius: jax.Array = parameter(default=5.0, unit="length", low=1e-6, doc="of the goal region")
    goal_edge: jax.Array = parameter(
        default=0.5, unit="length", low=1e-6, doc="width over which the reward fades at the edge of the goal"
    )
    sight: jax.Array = parameter(
        default=10.0, unit="length", low=1e-6, doc="distance that an observation shows as 0.71"
    )
    goal_weight: jax.Array = parameter(default=1.0, unit="reward", doc="reward per step with all boids in the goal")
    gain_weight: jax.Array = parameter(
        default=2.0, unit="reward/length", doc="reward of lowering the mean distance to the goal by 1"
    )
    effort_weight: jax.Array = parameter(
        default=0.02, unit="reward", low=0, doc="cost per step of all herders at full speed"
    )


def check_order(params: BoidParams, low: str, high: str) -> None:
    """Refuse parameters of which `low` exceeds `high`."""
    least, most = float(getattr(params, low)), float(getattr(params, high))
    if least > most:
        raise ValueError(f"{low} = {least:g}; must be at most {high} = {most:g}")
