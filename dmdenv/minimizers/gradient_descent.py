"""Gradient descent, `x <- x - step_size dE/dx`.

Stable for step sizes below 2 / k of the stiffest mode. A mode of stiffness k decays by `1 - step_size k` per step.

Reference: Nocedal and Wright, Numerical Optimization, 2nd ed. (2006), section 3.3.
"""

import dataclasses

import jax

from dmdenv._core.fields import Scalar, number
from dmdenv._core.pytree import pytree
from dmdenv.integrators.state import check_positions
from dmdenv.minimizers.base import Minimizer, MinimizerState, limit
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space


@pytree
class GradientDescent(Minimizer[MinimizerState]):
    """Gradient descent.

    Args:
        step_size: unit length^2 / energy.
        max_displacement: the farthest that a particle may move per step, unit length; None for no limit.
        box_mode, pressure: see `Minimizer`.

    Raises:
        ValueError: for a concrete step size or limit that is not positive.
    """

    _: dataclasses.KW_ONLY
    step_size: Scalar = number(above=0)
    max_displacement: Scalar | None = number(None, above=0, optional=True)

    def init(
        self, potential: Potential, space: Space, positions: jax.Array, *, pairs: Pairs = AllPairs()
    ) -> MinimizerState:
        return self._start(MinimizerState, potential, space, check_positions(positions), pairs)

    def step(self, potential: Potential, state: MinimizerState) -> MinimizerState:
        displacement = tuple(self.step_size * force for force in state.direction)
        return self._move(potential, state, limit(displacement, self.max_displacement))
