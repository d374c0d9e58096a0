"""Spaces: how two positions differ, how a position moves.

A space is a pytree, so a box can be traced, differentiated, vmapped and changed in time. Vectors stand on the last
axis; every method takes any leading shape.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 1.6.
"""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import Replaceable, pytree


@pytree
class Free(Replaceable):
    """Unbounded Euclidean space of any dimension."""

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """`a - b`, shape `[..., d]`, in units of length."""
        return a - b

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`."""
        return positions + displacement

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The positions themselves: free space has no images."""
        return positions

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """Infinite: no pair has a second image."""
        return jnp.asarray(jnp.inf)

    def volume(self, dimension: int) -> jax.Array:
        """Infinite."""
        return jnp.asarray(jnp.inf)


@pytree
class Periodic(Replaceable):
    """A periodic orthorhombic box with one corner at the origin.

    Args:
        box: side lengths, `[]` (a cube) or `[d]`, in units of length; differentiable, may be traced.

    Raises:
        ValueError: when a concrete box is not positive and finite, or not of shape `[]` or `[d]`.
    """

    box: jax.Array

    def __post_init__(self):
        if isinstance(self.box, jax.core.Tracer):
            return
        box = np.asarray(self.box)
        if box.ndim > 1 or not np.all(np.isfinite(box) & (box > 0)):
            raise ValueError(f"box = {self.box!r}; valid: a positive finite length, or one for each axis")
        object.__setattr__(self, "box", jnp.asarray(self.box, jnp.result_type(float, box)))

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The shortest of all images of `a - b`, `[..., d]`: `r - L round(r / L)`, each component in [-L/2, L/2]."""
        difference = a - b
        box = jnp.broadcast_to(self.box, difference.shape[-1:])
        inverse, box = _over(1.0 / box, difference), _over(box, difference)
        return difference - box * jnp.round(difference * inverse)

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`, and wrapped into the box."""
        return self.wrap(positions + displacement)

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The image inside the box, `r - L floor(r / L)`, each component in [0, L)."""
        box = _over(jnp.broadcast_to(self.box, positions.shape[-1:]), positions)
        wrapped = positions - box * jnp.floor(positions / box)
        wrapped = jnp.where(wrapped < 0, wrapped + box, wrapped)  # r / L has rounded up to a whole number
        return jnp.where(wrapped < box, wrapped, wrapped - box)  # a tiny negative number rounds up to L itself

    def fractional(self, positions: jax.Array) -> jax.Array:
        """Coordinates in units of the side lengths, `[..., d]`."""
        return positions / _over(jnp.broadcast_to(self.box, positions.shape[-1:]), positions)

    def heights(self, dimension: int) -> jax.Array:
        """Distance between opposite faces, `[d]`."""
        return jnp.broadcast_to(self.box, (dimension,))

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """Half the shortest side: up to it a pair has one image only, float []."""
        return jnp.min(self.box) / 2

    def volume(self, dimension: int) -> jax.Array:
        """The volume (area in 2-D) of the box, float []."""
        return jnp.prod(self.heights(dimension))


@pytree
class Triclinic(Replaceable):
    """A periodic parallelepiped with one corner at the origin, in real coordinates.

    The first edge lies along x, the second in the xy plane, so that a box under shear is
    `[[L, 0], [gamma L, L]]` with any gamma, also beyond 1/2.

    Args:
        cell: `[d, d]`, the edges as rows, lower triangular with a positive diagonal, in units of length;
            differentiable, may be traced. `lower_triangular` turns any cell into this form.

    Raises:
        ValueError: when a concrete cell is not finite or not of this form.
    """

    cell: jax.Array

    def __post_init__(self):
        if isinstance(self.cell, jax.core.Tracer):
            return
        cell = np.asarray(self.cell)
        square = cell.ndim == 2 and cell.shape[0] == cell.shape[1]
        if not (square and np.all(np.isfinite(cell)) and np.all(np.triu(cell, 1) == 0) and np.all(np.diag(cell) > 0)):
            raise ValueError(
                f"cell = {cell.tolist()}; valid: finite [d, d], edges as rows, zero above a positive diagonal"
                " (see dmdenv.space.lower_triangular)"
            )
        object.__setattr__(self, "cell", jnp.asarray(self.cell, jnp.result_type(float, cell)))

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The image of `a - b` in the brick of the cell's diagonal, `[..., d]`: the shortest up to `largest_cutoff`.

        The brick `|r_k| <= cell_kk / 2` tiles space as the cell does, so each pair has one image in it.
        """
        difference = a - b
        return difference - self._lattice_vector(difference, jnp.round, brick=True)

    def shift(self, positions: jax.Array, displacement: jax.Array) -> jax.Array:
        """Positions moved by a displacement, both `[..., d]`, and wrapped into the cell."""
        return self.wrap(positions + displacement)

    def wrap(self, positions: jax.Array) -> jax.Array:
        """The image inside the cell, `[..., d]`: fractional coordinates in [0, 1), up to rounding."""
        return positions - self._lattice_vector(positions, jnp.floor, brick=False)

    def fractional(self, positions: jax.Array) -> jax.Array:
        """Coordinates in units of the edges, `[..., d]`."""
        rest, coordinates = positions, []
        for k in reversed(range(positions.shape[-1])):
            coordinates.append(rest[..., k] / self.cell[k, k])
            rest = rest - coordinates[-1][..., None] * _over(self.cell[k], rest)
        return jnp.stack(coordinates[::-1], axis=-1)

    def heights(self, dimension: int) -> jax.Array:
        """Distance between opposite faces, `[d]`."""
        return 1.0 / norm(jnp.linalg.inv(self.cell).T)

    def largest_cutoff(self, dimension: int) -> jax.Array:
        """Half the smallest of the cell's diagonal: up to it `displacement` finds every pair, float []."""
        return jnp.min(jnp.diag(self.cell)) / 2

    def volume(self, dimension: int) -> jax.Array:
        """The volume (area in 2-D) of the cell, float []."""
        return jnp.prod(jnp.diag(self.cell))

    def _lattice_vector(self, r: jax.Array, whole, *, brick: bool) -> jax.Array:
        """The sum of whole edges, last to first, that takes r into the brick or into the cell."""
        rest, total = r, jnp.zeros_like(r)
        for k in reversed(range(r.shape[-1])):
            count = rest[..., k] / self.cell[k, k]
            n, edge = jax.lax.stop_gradient(whole(count))[..., None], _over(self.cell[k], r)
            total = total + n * edge
            rest = rest - (n if brick else count[..., None]) * edge
        return total


@pytree
class Deformed(Replaceable):
    """A space whose displacements are all deformed, `r -> F r`; positions are those of the undeformed space.

    The derivative of an energy by F is its virial, in any space.

    Args:
        space: the undeformed space.
        deformation: F, `[d, d]`.
    """

    space: "Free | Periodic | Triclinic"
    deformation: jax.Array

    def displacement(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The deformed displacement, `[..., d]`."""
        return jnp.matmul(self.space.displacement(a, b), self.deformation.T, precision="highest")


Space = Free | Periodic | Triclinic


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
        raise ValueError(f"cell = {cell.tolist()}; valid: linearly independent edges, right-handed")
    q, r = np.linalg.qr(cell.T)
    signs = np.sign(np.diag(r))
    rotation = q * signs
    return np.tril(cell @ rotation), rotation


def _over(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A `[d]` vector with leading axes of length one, so that it broadcasts without rank promotion."""
    return jnp.expand_dims(vector, tuple(range(like.ndim - 1)))


def squared_distance(space: Space, a: jax.Array, b: jax.Array) -> jax.Array:
    """`|a - b|^2`, shape `[...]`, unit length^2."""
    return jnp.sum(space.displacement(a, b) ** 2, axis=-1)


def norm(vectors: jax.Array) -> jax.Array:
    """Length of vectors `[..., d]`, shape `[...]`, with derivative 0 (instead of NaN) at the zero vector."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors `[..., d]` divided by their length; the zero vector stays zero, with derivative 0."""
    length = norm(vectors)[..., None]
    return vectors / jnp.where(length > 0, length, 1.0)
