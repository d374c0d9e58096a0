"""The periodic parallelepiped."""

from collections.abc import Callable
from typing import Any, ClassVar, Self, final

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import number
from dmdenv._core.pytree import pytree
from dmdenv.space.periodic import PeriodicSpace
from dmdenv.space.vectors import norm, over


@final
@pytree
class Triclinic(PeriodicSpace):
    """A periodic parallelepiped with one corner at the origin, in real coordinates.

    The first edge lies along x, the second in the xy plane, so that a box under shear is
    `[[L, 0], [gamma L, L]]` with any gamma, also beyond 1/2.

    Args:
        cell: `[d, d]`, the edges as rows, lower triangular with a positive diagonal, unit length; differentiable, may
            be traced. `lower_triangular` turns any cell into this form.

    Raises:
        ValueError: when a concrete cell is not finite or not of this form.
    """

    orthogonal: ClassVar[bool] = False
    box_modes: ClassVar[tuple[str, ...]] = ("fixed", "isotropic", "axes", "cell")

    cell: jax.Array = number(batched=True, keep_precision=True)

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.cell, jax.core.Tracer):
            return
        cell = np.asarray(self.cell)
        square = cell.ndim == 2 and cell.shape[0] == cell.shape[1]
        if not (square and np.all(np.triu(cell, 1) == 0) and np.all(np.diag(cell) > 0)):
            raise ValueError(
                f"Triclinic.cell = {cell.tolist()}; must be [d, d], edges as rows, zero above a positive diagonal"
                " (see dmdenv.space.lower_triangular)"
            )

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The image of `a - b` in the brick of the cell's diagonal, `[..., d]`: the shortest up to `largest_cutoff`.

        The brick `|r_k| <= cell_kk / 2` tiles space as the cell does, so each pair has one image in it.
        """
        difference = a - b
        return difference - self._lattice_vector(difference, jnp.round, brick=True)

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The image inside the cell, `[..., d]`: fractional coordinates in [0, 1), up to rounding."""
        return positions - self._lattice_vector(positions, jnp.floor, brick=False)

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """Half the smallest of the cell's diagonal: up to it `displacement` finds every pair, float []."""
        return jnp.min(jnp.diag(self.cell)) / 2

    def minimum_image_range(self, dimension: int) -> jax.Array:
        """That of `largest_cutoff`: a farther pair may have a nearer image than the one in the brick."""
        return self.largest_cutoff(dimension)

    def fractional(self, positions: jax.Array) -> jax.Array:
        """Coordinates in units of the edges, `[..., d]`."""
        self._check_dimension(positions)
        rest, coordinates = positions, []
        for k in reversed(range(positions.shape[-1])):
            coordinates.append(rest[..., k] / self.cell[k, k])
            rest = rest - coordinates[-1][..., None] * over(self.cell[k], rest)
        return jnp.stack(coordinates[::-1], axis=-1)

    def from_fractional(self, fractional: jax.Array) -> jax.Array:
        return _product(fractional, self.cell)

    def volume(self, dimension: int) -> jax.Array:
        """The volume (area in 2-D) of the cell, float []."""
        return jnp.prod(jnp.diag(self.cell))

    def heights(self, dimension: int) -> jax.Array:
        """Distance between opposite faces, `[d]`."""
        return 1.0 / norm(jnp.linalg.inv(self.cell).T)

    def cell_vectors(self, dimension: int) -> jax.Array:
        return self.cell

    def deformable(self, dimension: int) -> Self:
        return self

    def deform(self, deformation: jax.Array, positions: jax.Array) -> tuple[Self, jax.Array]:
        return self.replace(cell=_product(self.cell, deformation.T)), _product(positions, deformation.T)

    def follow(self, positions: jax.Array, new: Any) -> tuple[jax.Array, jax.Array]:
        deformation = jnp.linalg.solve(self.cell, new.cell)
        squares = jnp.linalg.eigvalsh(_product(deformation, deformation.T))
        return _product(positions, deformation), jnp.sqrt(jnp.maximum(squares[0], 0.0))

    def _check_dimension(self, r: jax.Array) -> None:
        if r.shape[-1] != len(self.cell):
            raise ValueError(
                f"Triclinic.cell has shape {self.cell.shape}; must be [d, d], d = {r.shape[-1]}, as positions [n, d]"
            )

    def _lattice_vector(self, r: jax.Array, whole: Callable, *, brick: bool) -> jax.Array:
        """The sum of whole edges, last to first, that takes r into the brick or into the cell."""
        self._check_dimension(r)
        rest, total = r, jnp.zeros_like(r)
        for k in reversed(range(r.shape[-1])):
            count = rest[..., k] / self.cell[k, k]
            n, edge = jax.lax.stop_gradient(whole(count))[..., None], over(self.cell[k], r)
            total = total + n * edge
            rest = rest - (n if brick else count[..., None]) * edge
        return total


def lower_triangular(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate a cell so that its first edge lies along x and its second one in the xy plane.

    Args:
        cell: `[d, d]`, edges as rows, right-handed, unit length.

    Returns:
        `(rotated, rotation)`: `rotated = cell @ rotation` is lower triangular with a positive diagonal; positions
        `[n, d]` go with it as `positions @ rotation`.

    Raises:
        ValueError: for a cell that is not `[d, d]`, without volume, not finite, or left-handed.
    """
    cell = np.asarray(cell, float)
    square = cell.ndim == 2 and cell.shape[0] == cell.shape[1]
    if not (square and np.all(np.isfinite(cell)) and np.linalg.det(cell) > 0):
        raise ValueError(f"cell = {cell.tolist()}; must be linearly independent edges, right-handed")
    q, r = np.linalg.qr(cell.T)
    signs = np.sign(np.diag(r))
    rotation = q * signs
    return np.tril(cell @ rotation), rotation


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # accelerators round factors to fewer bits otherwise
