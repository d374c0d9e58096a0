"""FIRE 2.0, the fast inertial relaxation engine: dynamics with unit masses, steered downhill.

Let P = F . v be the power, and count the steps since it last was not positive.

- P > 0: once the count exceeds `delay`, the time step grows, `dt <- min(increase dt, longest dt_0)`, and the mixing
  fades, `alpha <- mixing_decrease alpha`.
- P <= 0: the time step shrinks, `dt <- decrease dt` unless that falls below `shortest dt_0`, and the mixing starts
  again, `alpha <- mixing` (both not within the first `delay` steps); `r <- r - dt v / 2` with the dt of the last step,
  then v <- 0.

Then a step of the semi-implicit Euler method with the mixing inside:

    v <- v + dt F,    v <- (1 - alpha) v + alpha |v| F / |F|,    r <- r + dt v

The forces are those before `r - dt v / 2`, so that a step costs one evaluation.

References: Guenole, Noehring, Vaid, Houlle, Xie, Prakash and Bitzek, Comput. Mater. Sci. 175, 109584 (2020), section 2
and its recommended parameters; the first FIRE: Bitzek, Koskinen, Gaehler, Moseler and Gumbsch, Phys. Rev. Lett. 97,
170201 (2006).
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Scalar, number, whole
from dmdenv._core.pytree import pytree
from dmdenv.integrators.state import check_positions
from dmdenv.minimizers.base import Direction, Minimizer, MinimizerState, limit, no_motion
from dmdenv.neighbors import AllPairs, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space


@pytree
class FIREState(MinimizerState):
    """A state of FIRE, with the velocities and the adapted parameters."""

    velocities: Direction  # [n, d] of the particles and, where the box may change, [d, d] of the box
    dt: jax.Array  # float [], the present time step
    alpha: jax.Array  # float [], the present mixing, no unit
    downhill: jax.Array  # int32 [], steps since the power last was not positive
    steps: jax.Array  # int32 [], steps since the start


@pytree
class FIRE(Minimizer[FIREState]):
    """FIRE 2.0 with the published defaults. Only `dt` depends on the problem.

    Args:
        dt: the first time step, dt_0, in units of sqrt(length^2 / energy): about a thirtieth of the shortest period.
        max_displacement: the farthest that a particle may move per step, unit length; None for no limit. Particles
            that overlap at first need one, such as a tenth of their diameter.
        increase, decrease: factors of the time step.
        longest, shortest: bounds of the time step, in units of dt_0.
        mixing, mixing_decrease: alpha at the start, and its factor.
        delay: steps downhill before the time step grows.
        box_mode, pressure: see `Minimizer`.

    Raises:
        ValueError: for concrete values that are not positive; `mixing` and `delay` may be 0.
    """

    _: dataclasses.KW_ONLY
    dt: Scalar = number(above=0)
    max_displacement: Scalar | None = number(None, above=0, optional=True)
    increase: Scalar = number(1.1, above=0)
    decrease: Scalar = number(0.5, above=0)
    longest: Scalar = number(10.0, above=0)
    shortest: Scalar = number(0.02, above=0)
    mixing: Scalar = number(0.25, at_least=0)
    mixing_decrease: Scalar = number(0.99, above=0)
    delay: int = whole(20, at_least=0, at_most=10**9)

    def init(self, potential: Potential, space: Space, positions: jax.Array, *, pairs: Pairs = AllPairs()) -> FIREState:
        positions = check_positions(positions)
        return self._start(
            FIREState,
            potential,
            space,
            positions,
            pairs,
            velocities=no_motion(positions, self.box_mode),
            dt=jnp.asarray(self.dt, positions.dtype),
            alpha=jnp.asarray(self.mixing, positions.dtype),
            downhill=jnp.int32(0),
            steps=jnp.int32(0),
        )

    def step(self, potential: Potential, state: FIREState) -> FIREState:
        F, v = state.direction, state.velocities
        dt: Scalar = state.dt
        alpha: Scalar = state.alpha
        good = _dot(F, v) > 0
        downhill = jnp.where(good, state.downhill + 1, 0)
        grow = good & (downhill > self.delay)
        again = ~good & (state.steps >= self.delay)
        back = jnp.where(good, 0.0, -0.5 * dt)
        shorter: Scalar = jnp.where(self.decrease * dt < self.shortest * self.dt, dt, self.decrease * dt)
        unless_growing: Scalar = jnp.where(again, shorter, dt)
        dt = jnp.where(grow, jnp.minimum(self.increase * dt, self.longest * self.dt), unless_growing)
        unless_fading: Scalar = jnp.where(again, self.mixing, alpha)
        alpha = jnp.where(grow, self.mixing_decrease * alpha, unless_fading)

        taken_back = [back * w for w in v]
        v = [jnp.where(good, w, 0.0) + dt * f for w, f in zip(v, F, strict=True)]
        steer = alpha * _length(v) / _positive(_length(F))
        v = [(1.0 - alpha) * w + steer * f for w, f in zip(v, F, strict=True)]
        if self.max_displacement is not None:
            v = limit(tuple(v), self.max_displacement / dt)
        displacement = tuple(b + dt * w for b, w in zip(taken_back, v, strict=True))
        state = self._move(potential, state, displacement)
        return state.replace(velocities=tuple(v), dt=dt, alpha=alpha, downhill=downhill, steps=state.steps + 1)


def _dot(a, b) -> jax.Array:
    return functools.reduce(operator.add, [jnp.sum(x * y) for x, y in zip(a, b, strict=True)])


def _length(a) -> jax.Array:
    squared = _dot(a, a)
    return jnp.where(squared <= 0, 0.0, jnp.sqrt(_positive(squared)))


def _positive(x: jax.Array) -> jax.Array:
    """x, or 1 where it is 0 or negative, to divide by."""
    return jnp.where(x <= 0, 1.0, x)
