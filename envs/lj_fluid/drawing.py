"""Pictures of the fluid: of its order for `anneal`, of the trap in it for `drag`."""

import numpy as np

from dmdenv.envs.lj_fluid.fluid import FluidState
from dmdenv.envs.rendering import Canvas, blend, heading_colors
from dmdenv.space import norm

_RADIUS = 0.5  # of a particle, unit length
_VIEW = 8.0  # side of the picture of a trap, unit length


def draw_order(state: FluidState, psi: np.ndarray, caption: str) -> np.ndarray:
    """The whole box, particles coloured by their bonds: hue by the phase of psi, brightness by |psi|.

    Args:
        state: of one instance.
        psi: complex `[n]`.
        caption: a line of text.

    Returns:
        uint8 `[640, 640, 3]`.
    """
    sides = np.asarray(state.box)
    canvas = Canvas(np.zeros(2), float(np.max(sides)), period=sides)
    hues, brightness = heading_colors(np.angle(psi)), 0.15 + 0.85 * np.abs(psi) ** 3
    for position, hue, bright in zip(np.asarray(state.positions), hues, brightness, strict=True):
        canvas.disc(position, _RADIUS, blend(hue, float(bright)))
    canvas.caption(caption)
    return canvas.image()


def draw_trap(
    state: FluidState, start: np.ndarray, trap: np.ndarray, goal: np.ndarray, spread: float, caption: str
) -> np.ndarray:
    """The surroundings of the trap's way, the trap and its goal, and in front the particle in it, the first one.

    Args:
        state: of one instance.
        start: where the trap began, `[2]`, unit length.
        trap: where it is, `[2]`, unit length.
        goal: where it has to arrive, `[2]`, unit length.
        spread: sqrt(T / k), the width of the trap, unit length: its circles are those of the energies T, 2 T and 4 T.
        caption: a line of text.

    Returns:
        uint8 `[640, 640, 3]`.
    """
    sides, positions = np.asarray(state.box), np.asarray(state.positions)
    side = min(float(np.min(sides)), _VIEW)
    canvas = Canvas(0.5 * (start + goal) - 0.5 * side, side, period=sides)
    distances = np.asarray(norm(state.motion.space.displacement(state.positions, state.positions[0][None])))
    opacities = 0.25 + 0.65 * np.exp(-((distances / 2.5) ** 2))
    for position, opacity in zip(positions[1:], opacities[1:], strict=True):
        canvas.disc(position, _RADIUS, blend("#6fd3ff", float(opacity)))
    canvas.disc(positions[0], _RADIUS, "#ffb454")
    for center, color in ((goal, "#39415a"), (trap, "#fff1d6")):
        for energy in (1, 2, 4):  # contours of V, in units of T
            canvas.ring(center, float(np.sqrt(2 * energy)) * spread, color, 3)
    canvas.caption(caption)
    return canvas.image()
