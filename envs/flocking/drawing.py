"""Pictures of flocks on a dark ground, uint8 `[640, 640, 3]`."""

from collections.abc import Sequence

import numpy as np

from dmdenv.envs.flocking.parameters import EvadeParams, FlockingParams, ShepherdParams, SteeredParams
from dmdenv.envs.flocking.state import EvadeState, FlockingState, ShepherdState
from dmdenv.envs.rendering import Canvas, Color, blend, heading_colors

_OBSTACLE, _PREDATOR, _LOST, _HERDER, _GOAL = "#39415a", "#ff4d5e", "#aeb8d4", "#ffb454", "#7cf2b0"


def draw_align(space: str, state: FlockingState, params: FlockingParams) -> np.ndarray:
    """Boids coloured by heading, obstacles in grey, predators in red."""
    canvas = _draw_flock(space, state, params, np.full(len(state.positions), True))
    canvas.caption(f"order {float(state.polar_order):.2f}   step {int(state.time)}")
    _draw_key(canvas, state)
    return canvas.image()


def draw_evade(space: str, state: EvadeState, params: EvadeParams) -> np.ndarray:
    """Boids coloured by heading, lost ones as faint marks, obstacles in grey, predators in red."""
    alive = np.asarray(state.alive)
    canvas = _draw_flock(space, state, params, alive)
    for position in np.asarray(state.positions)[~alive]:
        canvas.cross(position, 0.5 * float(params.avoidance_range), _LOST, 0.35)
    for position in np.asarray(state.predators.positions):
        canvas.disc(position, 0.0, _PREDATOR, halo=float(params.catch_range))
    canvas.caption(f"alive {alive.sum()} of {len(alive)}   step {int(state.time)}")
    _draw_key(canvas, state)
    canvas.key("lost", blend(_LOST, 0.35))
    return canvas.image()


def draw_shepherd(state: ShepherdState, params: ShepherdParams) -> np.ndarray:
    """The goal as a glowing ring, boids in the colour of their heading, herders in amber."""
    goal, positions, headings = float(params.goal_radius), np.asarray(state.positions), np.asarray(state.headings)
    herders = np.asarray(state.herders)
    everything = np.concatenate([positions, herders, [[goal, goal], [-goal, -goal]]])
    low, high = everything.min(axis=0), everything.max(axis=0)
    side = max(1.15 * float((high - low).max()), 6 * goal)
    canvas = Canvas((low + high - side) / 2, side)
    canvas.glow(np.zeros(2), goal, _GOAL)
    canvas.darts(positions, headings, 0.011 * side, heading_colors(headings))
    for position in herders:
        canvas.disc(position, 0.004 * side, _HERDER, halo=0.03 * side)
    canvas.darts(herders, np.asarray(state.herder_headings), 0.02 * side, [_HERDER] * len(herders))
    inside = np.mean(np.linalg.norm(positions, axis=1) < goal)
    canvas.caption(f"in the goal {100 * inside:.0f} %   step {int(state.time)}")
    canvas.heading_key()
    canvas.key("herder", _HERDER)
    canvas.key("goal", _GOAL)
    return canvas.image()


def _draw_flock(space: str, state: FlockingState | EvadeState, params: SteeredParams, present: np.ndarray) -> Canvas:
    """Obstacles, the boids that are `present` `[n]`, and predators."""
    side, positions, headings = float(params.box), np.asarray(state.positions), np.asarray(state.headings)
    center = positions[present].mean(axis=0) if present.any() else positions.mean(axis=0)
    corner = np.zeros(2) if space == "periodic" else center - side / 2
    canvas = Canvas(corner, side, period=side if space == "periodic" else None)
    length = 0.35 * float(params.avoidance_range)
    for position, max_range in zip(
        np.asarray(state.obstacles.positions), np.asarray(state.obstacles.ranges), strict=True
    ):
        canvas.disc(position, 0.8 * float(max_range), _OBSTACLE, halo=float(max_range))
    colors: Sequence[Color] = [color for color, shown in zip(heading_colors(headings), present, strict=True) if shown]
    canvas.darts(positions[present], headings[present], length, colors)
    predators = np.asarray(state.predators.positions)
    canvas.darts(predators, np.asarray(state.predators.headings), 2 * length, [_PREDATOR] * len(predators))
    return canvas


def _draw_key(canvas: Canvas, state: FlockingState | EvadeState) -> None:
    """What the colours of a flock and of what is around it mean."""
    canvas.heading_key()
    if len(state.predators.positions):
        canvas.key("predator", _PREDATOR)
    if len(state.obstacles.positions):
        canvas.key("obstacle", _OBSTACLE)
