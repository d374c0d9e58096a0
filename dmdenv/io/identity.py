"""What must stay the same from frame to frame, in a file that is read and in one that is continued."""

import numpy as np

from dmdenv.io.trajectory import Trajectory


def require_same(trajectory: Trajectory, first: Trajectory, name: str, reference: str) -> None:
    """Refuse frames of other particles.

    Args:
        trajectory: the frames.
        first: a frame that they must agree with in particles, dimension, kind of space, and whether velocities are
            known.
        name: of the frames, for the message.
        reference: that of `first`.

    Raises:
        ValueError: for the first difference.
    """
    expected = _identity(first)
    for field, value in _identity(trajectory).items():
        if difference := _difference(field, np.asarray(value), np.asarray(expected[field])):
            raise ValueError(f"{name}: {difference}, as in {reference}")


def _identity(trajectory: Trajectory) -> dict[str, object]:
    n, dimension = trajectory.positions.shape[1:]
    particles = trajectory.particles.of(n)
    return {
        "number of particles": n,
        "dimension": dimension,
        "space": "free" if trajectory.cell is None else "periodic",
        "velocities": "unknown" if trajectory.velocities is None else "known",
        "types": np.array(particles.types)[particles.species],
        "masses": particles.masses,
        "diameters": particles.diameters,
        "bonds": particles.bonds,
        "bond_types": np.array(particles.bond_types, str)[particles.bond_species],
    }


def _difference(name: str, value: np.ndarray, expected: np.ndarray) -> str | None:
    """Where two arrays differ, in words; None where they are equal."""
    if value.shape != expected.shape:
        return f"{name} has shape {value.shape}; must be {expected.shape}"
    differs = value != expected
    if value.dtype.kind == "f":
        differs &= ~(np.isnan(value) & np.isnan(expected))
    if not np.any(differs):
        return None
    if value.ndim == 0:
        return f"{name} = {value}; must be {expected}"
    at = tuple(np.argwhere(differs)[0].tolist())
    return f"{name}{list(at)} = {value[at]}; must be {expected[at]}"
