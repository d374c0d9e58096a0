"""Gradient descent, `x <- x - step_size dE/dx`.

Stable for step sizes below 2 / k of the stiffest mode. A mode of stiffness k decays by `1 - step_size k` a step.

Reference: Nocedal and Wright, Numerical Optimization, 2nd ed. (2006), section 3.3.
"""

import dataclasses

import jax

from dmdenv._core.fields import Scalar, number
from dmdenv._core.pytree import pytree
from dmdenv.integrators.state import checked_positions
from dmdenv.minimizers.base import Minimizer, State, limited
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space


@pytree
class GradientDescent(Minimizer[State]):
    """Gradient descent.

    Args:
        step_size: unit length^2 / energy.
        max_displacement: the farthest that a particle may move in a step, unit length; None for no limit.
        box, pressure: see `Minimizer`.

    Raises:
        ValueError: for a concrete step size or limit that is not positive.
    """

    _: dataclasses.KW_ONLY
    step_size: Scalar = number(above=0)
    max_displacement: Scalar | None = number(None, above=0, optional=True)

    def init(self, potential: Potential, space: Space, positions: jax.Array, *, pairs: Pairs = AllPairs()) -> State:
        return self._started(State, potential, space, checked_positions(positions), pairs)

    def step(self, potential: Potential, state: State) -> State:
        displacement = tuple(self.step_size * force for force in state.direction)
        return self._moved(potential, state, limited(displacement, self.max_displacement))
