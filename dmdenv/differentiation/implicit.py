"""Derivatives through minima: how a minimum moves when the energy changes.

At a minimum x* of U(x; theta) the gradient vanishes for every theta, so

    H dx* = -d(grad U)/d(theta) d(theta),    H = d^2 U / dx^2  at x*,

however the minimum was found: no step of the minimisation is differentiated or stored. Only products of H with vectors
are computed, and the system is solved by conjugate gradients.

H is singular: a periodic system may be translated, a free one rotated too, a rattler moves freely in its cage. Along
such directions the minimum is not defined, and it is left where it is: dx* is the solution without a component in the
null space of H, `dx* = -H^+ b` with the pseudo-inverse `H^+`. Conjugate gradients from zero give `H^+ b` for any b in
the range of H, and need not know the null space. The right-hand side of a reverse derivative need not lie in the range;
it is projected by the same means first, `b -> H^+ (H b)`.

References: Griewank and Walther, Evaluating Derivatives, 2nd ed. (2008), section 15.1; Hestenes and Stiefel, J. Res.
Natl. Bur. Stand. 49, 409 (1952); for the singular case Kaasschieter, J. Comput. Appl. Math. 24, 265 (1988).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from dmdenv._core.conjugate_gradients import conjugate_gradients
from dmdenv._core.fields import Choice
from dmdenv._core.varying import axes_of_call, vary, varying_axes
from dmdenv.minimizers import box as boxes
from dmdenv.minimizers.box import BoxMode
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space

X = TypeVar("X")


class Response(NamedTuple):
    """The response of a minimum to a small force."""

    displacement: Any  # the tree of the force; without a component along which the energy is flat
    residual: jax.Array  # float [], |H u - f| / |f| in the range of H
    converged: jax.Array  # bool [], whether the residual is within 10 times the tolerance
    products: jax.Array  # int32 [], of H with a vector, which it took: each costs about as much as two forces


def minimum(
    energy: Callable[[X], jax.Array],
    x: X,
    *,
    damping: float = 0.0,
    tolerance: float | None = None,
    iterations: int | None = None,
    unsolved: Literal["nan", "frozen"] = "nan",
) -> X:
    """A minimum of the energy, as a differentiable function of all that the energy depends on.

        def relaxed(diameter):
            potential = soft_sphere(sigma=diameter)
            state = ...  # any minimisation, on the host or in a while_loop; it is not differentiated
            return implicit.minimum(lambda x: potential.energy(space, x, state.pairs), state.positions)

    The value is `x` itself. Its derivatives, forward and reverse and of higher order, are those of the exact minimum
    with respect to every value that `energy` closes over, so far as `x` is one: a gradient of norm g left in `x` leaves
    an error of order g. Directions in which the energy is flat (translations, rattlers) are left where they are.

    A derivative whose linear system has not been solved to the tolerance is NaN or, with `unsolved="frozen"`, that of x
    held in place: finite, without the response. This happens in single precision where modes are very soft, and where x
    is no minimum. `response` returns the residual.

    Args:
        energy: `energy(x) -> []`, twice differentiable in a neighbourhood of x.
        x: where its gradient vanishes; any pytree of floating-point arrays: positions, or positions and box.
        damping: added to the eigenvalues of H, unit energy / length^2: limits the response of soft modes, whose
            derivatives it makes too small.
        tolerance: of the linear solve, relative; by default `eps^(2/3)`, 4e-11 in double precision.
        iterations: of conjugate gradients, at most; by default 10 times the number of coordinates.
        unsolved: the derivative of x where its linear system has not been solved: "nan", or "frozen", which is 0.

    Returns:
        x, with derivatives.

    Raises:
        ValueError: for another `unsolved`.
    """
    unsolved = Choice(("nan", "frozen")).convert("unsolved", unsolved)
    missing = jnp.nan if unsolved == "nan" else 0.0

    def solve(hessian: Callable[[X], X], b: X) -> X:
        flat, unravel = ravel_pytree(b)  # one vector: a tree of which a part is known not to move has no transpose
        return unravel(lax.custom_linear_solve(_of_vectors(hessian, unravel), flat, solve_flat, symmetric=True))

    def solve_flat(hessian: Callable[[jax.Array], jax.Array], b: jax.Array) -> jax.Array:
        found = _solve(hessian, b, damping, tolerance, iterations)
        return jax.lax.select(found.converged, found.displacement, jnp.full_like(b, missing))

    x = lax.stop_gradient(x)
    x = vary(x, axes_of_call(jax.grad(energy), x))
    return lax.custom_root(jax.grad(energy), x, lambda gradient, x: x, solve)


def response(
    energy: Callable[[X], jax.Array],
    x: X,
    force: X,
    *,
    damping: float = 0.0,
    tolerance: float | None = None,
    iterations: int | None = None,
) -> Response:
    """The displacement `u = H^+ f` of a minimum under a small force, and how well it is known.

    Args:
        energy: `energy(x) -> []`.
        x: its minimum, any pytree of arrays.
        force: f, the tree of x; components along which the energy is flat are ignored.
        damping: see `minimum`, as are the other options.
        tolerance: see `minimum`.
        iterations: see `minimum`.
    """
    x, force = vary((x, force), axes_of_call(lambda x, force: (jax.grad(energy)(x), force), x, force))
    flat, unravel = ravel_pytree(force)
    hessian = _of_vectors(jax.linearize(jax.grad(energy), x)[1], unravel)
    found = _solve(hessian, flat, damping, tolerance, iterations)
    return found._replace(displacement=unravel(found.displacement))


def minimum_at_pressure(
    potential: Potential,
    space: Space,
    positions: jax.Array,
    *,
    pressure: jax.Array | float,
    box_mode: BoxMode,
    pairs: Pairs = AllPairs(),
    damping: float = 0.0,
    tolerance: float | None = None,
    iterations: int | None = None,
) -> tuple[Space, jax.Array]:
    """A minimum of the enthalpy `U + p V` in positions and box, as a differentiable function of what it depends on.

        state = minimize(FIRE(dt=0.1, box_mode="isotropic", pressure=p), potential, start, ...).state
        space, positions = implicit.minimum_at_pressure(
            potential, state.space, state.positions, pressure=p, box_mode="isotropic", pairs=state.pairs
        )

    Args:
        potential: gives U.
        space: the box at the minimum.
        positions: `[n, d]`, unit length, at the minimum.
        pressure: p, unit energy / length^d.
        box_mode: what the box may do, as in the minimisation: "isotropic", "axes" or "cell".
        pairs: the neighbours at the minimum.
        damping: see `minimum`, as are the other options.
        tolerance: see `minimum`.
        iterations: see `minimum`.

    Returns:
        `(space, positions)`, with derivatives.

    Raises:
        ValueError: for a box that is fixed or unknown, or a space without these degrees of freedom.
    """
    box_mode = Choice(("isotropic", "axes", "cell")).convert("box_mode", box_mode)
    positions, d = lax.stop_gradient(positions), positions.shape[1]
    undeformed = boxes.prepare_space(box_mode, lax.stop_gradient(space), d)
    length = boxes.length(undeformed, positions)

    def deform(x: tuple[jax.Array, jax.Array]) -> tuple[Space, jax.Array]:
        positions, stretch = x  # unit length both, so that the solve is well conditioned
        return boxes.deform(undeformed, positions, boxes.project(box_mode, stretch) / length)

    def enthalpy(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        space, positions = deform(x)
        return potential.energy(space, positions, pairs) + pressure * space.volume(d)

    start = positions, jnp.zeros((d, d), positions.dtype)
    return deform(minimum(enthalpy, start, damping=damping, tolerance=tolerance, iterations=iterations))


def _of_vectors(linear: Callable[[X], X], unravel: Callable[[jax.Array], X]) -> Callable[[jax.Array], jax.Array]:
    """A linear function of trees as one of vectors."""
    return lambda u: ravel_pytree(linear(unravel(u)))[0]


def _solve(
    hessian: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    damping: float,
    tolerance: float | None,
    iterations: int | None,
) -> Response:
    """`(H + damping)^{-1} b` in the range of H, by conjugate gradients, twice: to project b, and to solve."""
    limit = float(jnp.finfo(b.dtype).eps) ** (2 / 3) if tolerance is None else tolerance

    def damped_hessian(u: jax.Array) -> jax.Array:
        return hessian(u) + damping * u

    tiny = jnp.finfo(b.dtype).tiny
    size = jnp.linalg.norm(b)
    b = b / jnp.maximum(size, tiny)
    probe = jnp.cos(jnp.arange(1, b.size + 1, dtype=b.dtype) ** 2)  # has about the same share of every mode
    probe = vary(probe, varying_axes(b))
    stiffness = jnp.linalg.norm(hessian(probe)) / jnp.linalg.norm(probe)
    image = hessian(b)
    projected, first = conjugate_gradients(hessian, image, tolerance=limit * stiffness, max_iterations=iterations)
    displacement, second = conjugate_gradients(damped_hessian, projected, tolerance=limit, max_iterations=iterations)

    unprojected = jnp.linalg.norm(hessian(projected) - image) / jnp.maximum(stiffness, tiny)
    unsolved = jnp.linalg.norm(damped_hessian(displacement) - projected)
    residual = jnp.maximum(unprojected, unsolved)
    products = first + second + 4  # beside those of the iterations: for the scale, the image and the two residuals
    return Response(displacement * size, residual, residual <= 10.0 * limit, products)
