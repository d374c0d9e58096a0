"""Minimisation until the forces vanish."""

from typing import Generic, TypeVar

import jax
import jax.core
import jax.numpy as jnp

from dmdenv._core.control_flow import while_loop
from dmdenv._core.fields import Number, Whole
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.minimizers.base import Minimizer, MinimizerState
from dmdenv.neighbors import grow, neighbor_sum, overflowed
from dmdenv.potentials import Potential

S = TypeVar("S", bound=MinimizerState)


@pytree
class Minimum(Replaceable, Generic[S]):
    """The result of `minimize`."""

    state: S
    # bool []: both tolerances are met, no pair may be missing, and no two interacting particles are at one place, where
    # forces vanish by symmetry alone
    converged: jax.Array
    steps: jax.Array  # int32 []


def minimize(
    minimizer: Minimizer[S],
    potential: Potential,
    state: S,
    *,
    tolerance: jax.Array | float,
    pressure_tolerance: jax.Array | float | None = None,
    max_steps: int | jax.Array,
) -> Minimum[S]:
    """Minimise until no force on a particle and, where the box may change, no stress on it exceeds its tolerance.

    A loop without a fixed number of steps has no reverse derivative: scan `minimizer.step` to differentiate through the
    steps, or use `dmdenv.differentiation.implicit`.

    A neighbour list that overflows grows, and the minimisation begins again; inside of compiled code, where no shape
    can change, it gives up.

    Args:
        minimizer: takes the steps.
        potential: what is minimised.
        state: from `minimizer.init`.
        tolerance: of the largest force, `max_i |F_i|`, unit energy / length.
        pressure_tolerance: of the largest component of the stress that the box may follow, beside the pressure (see
            `MinimizerState.largest_stress`), unit energy / length^d; the number of `tolerance` by default.
        max_steps: after how many it gives up. It also gives up where pairs may be missing (`state.overflow`) or a force
            is not finite.

    Returns:
        The last state, whether it is a minimum within the tolerances, and the number of steps.

    Raises:
        ValueError: for a concrete tolerance or number of steps that is negative.
        ListOverflow: outside of compiled code, where the box becomes narrower than twice the cutoff, or a neighbour
            list overflows with any capacity.
    """
    tolerance = Number(at_least=0).convert("tolerance", tolerance)
    if pressure_tolerance is None:
        pressure_tolerance = tolerance
    pressure_tolerance = Number(at_least=0).convert("pressure_tolerance", pressure_tolerance)
    if not isinstance(max_steps, jax.core.Tracer):
        max_steps = Whole(at_least=0).convert("max_steps", max_steps)
    while True:
        found = _minimize(minimizer, potential, state, tolerance, pressure_tolerance, max_steps)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(found)) or not overflowed(found.state):
            return found
        state = grow(state, found.state)
        state = minimizer.evaluate(potential, state, state.space, state.positions)


@jax.jit
def _minimize(minimizer, potential, state, tolerance, pressure_tolerance, max_steps):
    def unfinished(carry):
        steps, state = carry
        # false for NaN, so that a broken state ends the loop
        above = (state.largest_force > tolerance) | (state.largest_stress > pressure_tolerance)
        return above & jnp.isfinite(state.largest_force) & ~state.overflow & (steps < max_steps)

    def advance(carry):
        steps, state = carry
        return steps + 1, minimizer.step(potential, state)

    steps, state = while_loop(unfinished, advance, (jnp.int32(0), state))
    calm = (state.largest_force <= tolerance) & (state.largest_stress <= pressure_tolerance)
    return Minimum(state=state, converged=calm & ~state.overflow & ~_any_coincide(potential, state), steps=steps)


def _any_coincide(potential: Potential, state: MinimizerState) -> jax.Array:
    """bool []: two particles of a potential with pairs are at one place."""

    def at_one_place(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(state.space.displacement(a, b) == 0), 1, 0)

    found = neighbor_sum(at_one_place, state.positions, state.pairs, parity=1)
    return jnp.any(found > 0) & (potential.cutoff > 0)
