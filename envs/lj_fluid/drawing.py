"""Pictures of the fluid: of its order for `anneal`, of the trap in it for `drag`."""

import numpy as np

from dmdenv.envs.lj_fluid.fluid import FluidState
from dmdenv.envs.rendering import TEXT, Canvas, blend, heading_colors
from dmdenv.space import norm

_RADIUS = 0.5  # of a particle, unit length
_VIEW = 8.0  # side of the picture of a trap, unit length
_FLUID, _DRAGGED, _TRAP, _GOAL = "#6fd3ff", "#ffb454", "#fff1d6", "#7cf2b0"


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
    canvas.heading_key("phase of ψ₆")
    canvas.key("|ψ₆| from 0 to 1", *(blend(TEXT, 0.15 + 0.85 * share**3) for share in np.linspace(0, 1, 24)))
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
        canvas.disc(position, _RADIUS, blend(_FLUID, float(opacity)))
    canvas.disc(positions[0], _RADIUS, _DRAGGED)
    for center, color in ((goal, _GOAL), (trap, _TRAP)):
        for energy in (1, 2, 4):  # contours of V, in units of T
            canvas.ring(center, float(np.sqrt(2 * energy)) * spread, color, 3)
    canvas.caption(caption)
    for label, color in (("dragged", _DRAGGED), ("fluid", _FLUID), ("trap", _TRAP), ("goal", _GOAL)):
        canvas.key(label, color)
    return canvas.image()
