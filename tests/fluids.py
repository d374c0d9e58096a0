"""Fluids in boxes and cells whose quantities are measured, and how their gradients are checked."""

import functools

import jax
import jax.flatten_util
import numpy as np

from dmdenv.neighbors import allocate
from dmdenv.potentials import pair_potential
from dmdenv.space import Triclinic
from systems import central_difference

CELL = np.array([[6.0, 0, 0], [1.5, 5.5, 0], [-1.0, 2.0, 7.0]])
BOX = np.array([6.0, 5.5, 7.0])
EDGES = np.linspace(0.0, 2.6, 27)  # of the shells of a pair distribution


def random_fluid(cell: np.ndarray, count: int = 60, seed: int = 0) -> np.ndarray:
    """Independent positions, some of them outside of the cell."""
    fractional = np.random.default_rng(seed).random((count, len(cell))) * 1.5
    return fractional @ cell


def displacements(cell: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The shortest image of r_i - r_j by trying all, `[n, n, d]`."""
    shifts = np.stack(np.meshgrid(*[[-3, -2, -1, 0, 1, 2, 3]] * len(cell), indexing="ij"), -1).reshape(-1, len(cell))
    d = (r[:, None] - r[None])[None] + (shifts @ cell)[:, None, None]
    nearest = np.argmin(np.sum(d**2, axis=-1), axis=0)
    return np.take_along_axis(d, nearest[None, :, :, None], axis=0)[0]


@functools.cache
def neighbor_list():
    """Of `random_fluid(CELL)`; building one is the slowest part of these tests."""
    return allocate(Triclinic(CELL), random_fluid(CELL), cutoff=2.6, skin=0.2)


def assert_gradient_is_right(function, x, rtol=1e-6):
    """A directional derivative in float64."""
    x = np.asarray(x, float)
    direction = np.random.default_rng(7).normal(size=x.shape)
    function = jax.jit(jax.value_and_grad(function))
    expected = central_difference(lambda x: function(x)[0], x, direction, 1e-5)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(np.sum(function(x)[1] * direction), expected, rtol=rtol)


def repulsion(r, k):
    return k * (1 - r / 2.2) ** 3


def soft(k: float = 3.0):
    return pair_potential(repulsion, cutoff=2.2, k=k)
