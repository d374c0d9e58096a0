"""Pictures of chains, 640 x 640 pixels: what `render` shows in the tasks of `bonded_chain`."""

import itertools

import numpy as np

from dmdenv.envs.rendering import Canvas, blend, colors_between

_ANCHOR, _TARGET, _TRACK, _SHAPE = "#39415a", "#ffd479", "#ffb454", "#26304d"


def draw_reach(positions: np.ndarray, path: np.ndarray, *, diameter: float, step: int) -> np.ndarray:
    """The chain on its anchor, the target as a ring with the way before it.

    Args:
        positions: `[n, 2]`, unit length.
        path: where the target is and will be, `[m, 2]`, unit length.
        diameter: of the beads, unit length.
        step: since the reset, for the caption.
    """
    R, root = len(positions) - 2, 0.5 * diameter
    canvas = Canvas(np.array([-0.8 * R, -1.1 * R]), 2.2 * R)
    canvas.bond(np.array([-1.0 - root, 0.0]), np.array([1.0 + 2.0 * root, 0.0]), _ANCHOR, 3 * root)
    canvas.trail(path[::-1], _TARGET, 2)
    _draw_chain(canvas, positions, diameter)
    canvas.ring(path[0], 0.5, _TARGET, 3)
    canvas.disc(path[0], 0.1, _TARGET)
    canvas.caption(f"distance {np.linalg.norm(positions[-1] - path[0]):.2f}   step {step}")
    canvas.key("anchor to tip", *colors_between(24))
    canvas.key("target", _TARGET)
    canvas.key("anchor", _ANCHOR)
    return canvas.image()


def draw_swim(positions: np.ndarray, track: np.ndarray, *, diameter: float, step: int) -> np.ndarray:
    """The chain and its track on a grid at rest in the fluid, followed by the view.

    Args:
        positions: `[n, 2]`, unit length.
        track: where its centre was, `[m, 2]`, unit length.
        diameter: of the beads, unit length.
        step: since the reset, for the caption.
    """
    side = 1.25 * len(positions)
    canvas = Canvas(positions.mean(axis=0) - side / 2, side, grid=2.0)
    canvas.trail(track, _TRACK)
    _draw_chain(canvas, positions, diameter)
    canvas.caption(f"x {positions[:, 0].mean():.2f}   step {step}")
    canvas.key("first to last bead", *colors_between(24))
    canvas.key("track of the centre", _TRACK)
    return canvas.image()


def draw_fold(positions: np.ndarray, shape: np.ndarray, *, step: int) -> np.ndarray:
    """The chain over the shape that it is to take, with the view on its centre.

    Args:
        positions: `[n, 2]`, in units of a bead's diameter.
        shape: superposed on the chain, `[n, 2]`.
        step: since the reset, for the caption.
    """
    side = 0.9 * len(positions)
    canvas = Canvas(positions.mean(axis=0) - side / 2, side, grid=2.0)
    for a, b in itertools.pairwise(shape):
        canvas.bond(a, b - a, _SHAPE, 1.0)
    for place in shape:
        canvas.disc(place, 0.5, _SHAPE)
    _draw_chain(canvas, positions, 0.8)
    for place, color in zip(shape, colors_between(len(shape)), strict=True):
        canvas.ring(place, 0.46, blend(color, 0.7), 2)
    canvas.caption(f"RMSD {np.sqrt(np.mean(np.sum((positions - shape) ** 2, axis=1))):.2f}   step {step}")
    canvas.key("first to last bead", *colors_between(24))
    canvas.key("shape to take", _SHAPE)
    return canvas.image()


def _draw_chain(canvas: Canvas, positions: np.ndarray, diameter: float) -> None:
    """Beads as discs in colours that run along the chain, on bonds as thick bars."""
    colors = colors_between(len(positions))
    for a, b, color in zip(positions[:-1], positions[1:], colors, strict=False):
        canvas.bond(a, b - a, blend(color, 0.5), 0.45 * diameter)
    for place, color in zip(positions, colors, strict=True):
        canvas.disc(place, 0.5 * diameter, blend(color, 1.0))
