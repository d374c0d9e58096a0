"""Shapes that a chain is to take in the task `fold`."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.bonded_chain.chain import place_beads

Shape = Literal["any", "ring", "hairpin", "wave", "spiral", "random"]

BOND = 0.97  # mean length of a bond at T = 1, in units of a bead's diameter


def target_shapes(beads: int, shape: Shape) -> np.ndarray:
    """The shapes of a name other than "random", centred, `[s, n, 2]`, unit length; all of them for "any"."""
    joints = np.arange(beads - 2)
    k = min(4, beads - 4)  # joints in the bend of a hairpin
    first = (len(joints) - k) // 2
    angles = {
        "ring": np.full(len(joints), 2 * np.pi / beads),
        "hairpin": np.where((joints >= first) & (joints < first + k), np.pi / k, 0.0),
        "wave": 8.4 / len(joints) * np.sin(2 * np.pi * (joints + 0.5) / len(joints)),
    }
    with jax.ensure_compile_time_eval():
        shapes = {name: BOND * np.asarray(place_beads(jnp.asarray(value)), float) for name, value in angles.items()}
    shapes["spiral"] = _spiral(beads)
    chosen = np.stack(list(shapes.values()) if shape == "any" else [shapes[shape]])
    return chosen - chosen.mean(axis=1, keepdims=True)


def _spiral(beads: int) -> np.ndarray:
    """Beads on a spiral of Archimedes whose arms are 1.4 diameters apart, a bond from one to the next."""
    r, angle, places = 0.9, 0.0, []
    for _ in range(beads):
        places.append((r * np.cos(angle), r * np.sin(angle)))
        angle, r = angle + BOND / r, r + 1.4 / (2 * np.pi) * BOND / r
    return np.array(places)
