"""Pictures of packings, 640 x 640 pixels."""

import jax
import numpy as np

from dmdenv.envs.rendering import BACKGROUND, Canvas, scale_color
from dmdenv.envs.soft_sphere_packing.packing import count_contacts
from dmdenv.potentials import PairPotential, PerParticle
from dmdenv.potentials.parameters import largest
from dmdenv.space import Periodic

_RATTLER = "#2b3350"


def draw_packing(
    potential: PairPotential, space: Periodic, positions: jax.Array, *, view: float, caption: str
) -> np.ndarray:
    """Discs coloured by their contact number, the network of contact forces, and the frame of the box.

    Spheres are seen from above, those farther off darker.

    Args:
        potential: from `discs`.
        space: the box.
        positions: `[n, d]`, unit length.
        view: side of the square that is seen, unit length, around the middle of the box.
        caption: a line of text.
    """
    sigma = potential.parameters["sigma"]
    assert isinstance(sigma, PerParticle)
    counts, held = (np.asarray(x) for x in count_contacts(potential, space, positions))
    x, diameters = np.asarray(space.wrap(positions), float), np.asarray(sigma.values, float)
    side, depth = float(space.heights(x.shape[1])[0]), np.ones(len(x))
    if x.shape[1] == 3:
        depth = 0.25 + 0.75 * x[:, 2] / side
    canvas = Canvas(np.full(2, 0.5 * (side - view)), view, period=side)
    for i in np.argsort(depth):
        color = _contact_color(int(counts[i])) if held[i] else _RATTLER
        radius = 0.5 * float(diameters[i])
        canvas.disc(x[i, :2], radius, BACKGROUND)  # a rim, so that overlapping discs can be told apart
        canvas.disc(x[i, :2], radius - 0.025, color, opacity=float(depth[i]))
    contacts = _contact_forces(x, diameters, side, float(largest(potential.parameters["alpha"])))
    for i, along, strength in zip(*contacts, strict=True):
        canvas.bond(x[i, :2], along[:2], BACKGROUND, 0.045 * min(np.sqrt(strength), 2.5))
    canvas.frame(np.zeros(2), side)
    canvas.caption(caption)
    canvas.key("2 to 7 contacts", *map(_contact_color, range(2, 8)))
    canvas.key("rattler", _RATTLER)
    canvas.key("contact force", BACKGROUND)
    return canvas.image()


def _contact_color(count: int) -> tuple[int, int, int]:
    return scale_color((count - 2) / 5)


def _contact_forces(
    x: np.ndarray, diameters: np.ndarray, side: float, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each contact its first particle, the displacement to the second, and its force over the mean one."""
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] - x[first]
    apart -= side * np.round(apart / side)
    sigma = 0.5 * (diameters[first] + diameters[second])
    force = np.maximum(1 - np.linalg.norm(apart, axis=1) / sigma, 0.0) ** (alpha - 1) / sigma
    touching = force > 0
    mean = force[touching].mean() if touching.any() else 1.0
    return first[touching], apart[touching], force[touching] / mean
