"""Derivatives through long trajectories that are walked back instead of being stored.

On a lattice of integers a step can be undone exactly: see `dmdenv.differentiation.integer_motion`. So the reverse
derivative needs the last state only, however many steps there were. It walks back, and at each state multiplies by the
derivative of the integrator's own step there,

    g_k = (dS / ds)^T(s_k) g_{k+1},

in which rounding to the lattice counts as the identity. Walking back evaluates the forces once per step, and their
derivative costs about two evaluations, beside the one of the forward pass.

References: Levesque and Verlet, J. Stat. Phys. 72, 519 (1993); Rein and Tamayo, MNRAS 473, 3351 (2018).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from dmdenv._core.control_flow import scan
from dmdenv._core.fields import Whole
from dmdenv._core.pytree import pytree, static
from dmdenv.differentiation.cotangents import Floats, add, is_float, materialized, once, perturbed, primals
from dmdenv.differentiation.integer_motion import motion_of, options_of
from dmdenv.integrators import Integrator, IntegratorState
from dmdenv.neighbors import AllPairs, NeighborList, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space

S = TypeVar("S", bound=IntegratorState)
PyTree = Any


def reversible_rollout(
    integrator: Integrator[S],
    potential: Potential,
    state: S,
    steps: int,
    *,
    observe: Callable[[S], Any] | None = None,
    every: int = 1,
    max_damping: float | None = None,
) -> tuple[S, Any]:
    """The state after some steps and the observations on the way, with a reverse derivative that stores no trajectory.

        state, energies = reversible_rollout(nve, potential, state, 100_000, observe=energy, every=1000)

    What `rollout` computes of `integrator.step`, on a lattice of integers: positions are rounded to about 2^-52 of the
    longest side of the box (of the largest coordinate, at least 8, in open space), velocities more finely than what
    moves a particle by that in one step. Reverse mode only, once: for forward mode and second derivatives use
    `rollout`. Call it under `jax.jit`.

    The derivative reaches all numbers of integrator, potential and state, and all that `observe` closes over. The
    forces of the state are computed anew at its positions, so they have no derivative of their own.

    Bit exact are all pairs, and neighbour lists on a CPU, whenever and wherever they are rebuilt, for a potential whose
    pairs contribute exact zeros beyond its cutoff, as all of `dmdenv.potentials` do. Should the walk not end on the
    very integers at which it began, all derivatives are NaN.

    The reverse derivative keeps, of T steps: nothing for `NVE`; a key per step, and `gamma dt / ln 2` bits per step and
    number for `Langevin`; `2 M + 2` numbers per step for a `NoseHoover` chain of M thermostats.

    Args:
        integrator: `NVE`, `Langevin` or `NoseHoover`.
        potential: gives the forces.
        state: of this integrator, in float64.
        steps: how many, 0 or more.
        observe: what to record of a state, a pytree of arrays; None for nothing.
        every: steps from one observation to the next, as of `rollout`.
        max_damping: for `Langevin` under `jit`: the largest `dt * friction`, at most 5.5. It says how many bits to
            keep; outside of `jit` it is known.

    Returns:
        `(state, observations)`: the last state, and the observations, leaves `[steps // every, ...]`, or None. They are
        NaN if a number was not finite or left the range of the integers (a particle farther away than 500 times the
        longest side), or if `dt * friction` exceeded `max_damping`.

    Raises:
        TypeError: for another integrator, or a state of another one.
        ValueError: without float64; for a neighbour list on another platform than a CPU; for `steps` below 0, `every`
            below 1, or a `max_damping` that is not in range, or is missing.
    """
    steps, every = Whole(at_least=0).convert("steps", steps), Whole(at_least=1).convert("every", every)
    options = options_of(integrator, steps, max_damping)
    _check(integrator, potential, state)
    if observe is None:
        every = max(1, steps)
    closed, consts = (None, ()) if observe is None else jax.closure_convert(observe, state)
    run = _Trajectory(steps, every, closed, options).as_function()
    return run(integrator, potential, state, tuple(consts))


def _check(integrator: Any, potential: Any, state: Any) -> None:
    if not isinstance(potential, Potential):
        raise TypeError(f"potential is a {type(potential).__name__}; must be a Potential")
    if type(state) is not integrator.state_type:
        kind = integrator.state_type.__name__
        raise TypeError(f"state is a {type(state).__name__}; must be a {kind}, as integrator.init returns")
    numbers = {"state.positions": state.positions, "state.velocities": state.velocities, "integrator.dt": integrator.dt}
    for name, value in numbers.items():
        if value.dtype != jnp.float64 or jnp.result_type(int) != jnp.int64:
            raise ValueError(
                f"{name} is {value.dtype}; must be float64, with jax_enable_x64, to be rounded to integers"
            )
    if isinstance(state.pairs, NeighborList) and jax.default_backend() != "cpu":
        raise ValueError(
            f"state.pairs is a NeighborList on {jax.default_backend()}; must be AllPairs() unless on a CPU, as sums"
            " over a list depend there on when it was built"
        )


@dataclasses.dataclass(frozen=True)
class _Trajectory:
    """What is fixed when the trajectory is traced."""

    steps: int
    every: int
    observe: Callable | None  # (state, *consts) -> observation
    options: dict[str, Any]  # of the motion

    def as_function(self) -> Callable:
        """`(integrator, potential, state, consts) -> (state, observations)`, with its own derivative."""
        run = jax.custom_vjp(lambda *inputs: self.forward(*inputs, keep=False)[0])
        run.defvjp(self.forward_and_keep, self.backward, symbolic_zeros=True)
        return run

    def forward(self, integrator: Any, potential: Potential, state: Any, consts: tuple, *, keep: bool):
        """The last state and the observations; and what the backward pass needs."""
        motion = motion_of(integrator, potential, state, self.options)
        start = motion.begin()

        def step(walker, _):
            walker, kept = motion.advance(walker)
            return walker, kept if keep else None

        def block(walker, _):
            walker, kept = scan(step, walker, length=self.every)
            observed = None if self.observe is None else self.observe(motion.state_at(walker), *consts)
            return walker, (observed, kept)

        blocks, rest = divmod(self.steps, self.every)
        end, (observations, kept) = scan(block, start, length=blocks)
        end, kept_in_rest = scan(step, end, length=rest)
        begun = start.positions, start.velocities
        inputs = integrator, potential, state, consts
        return (motion.state_at(end), observations), (inputs, motion.frame, begun, end, kept, kept_in_rest)

    def forward_and_keep(self, *inputs: Any):
        """`forward` as a rule of derivatives."""
        integrator, potential, state, consts = primals(inputs)
        *of_fixed, of_state, of_consts = perturbed(inputs)
        changing = jax.tree.map(lambda _: True, of_state)  # but for what no step changes, and no one wants to know
        known = {name: getattr(of_state, name) for name in ("space", "masses", "lost")}
        changing = dataclasses.replace(changing, **known)
        wanted = _Wanted(
            fixed=tuple(Floats((integrator, potential, consts)).pick((*of_fixed, of_consts))),
            moving=tuple(Floats(state).pick(changing)),
        )
        result, residuals = self.forward(integrator, potential, state, consts, keep=True)
        return result, (wanted, *residuals)

    def backward(self, residuals: tuple, cotangents: tuple) -> tuple:
        """The cotangents of integrator, potential, state and constants."""
        wanted, inputs, frame, begun, end, kept, kept_in_rest = once(residuals)
        g_state, g_observations = once(materialized(cotangents))
        integrator, potential, state, consts = inputs
        motion = motion_of(integrator, potential, state, self.options, frame)
        fixed = Floats((integrator, potential, consts), wanted.fixed)

        def step(carry, kept):
            walker, g, g_fixed = carry
            earlier = motion.retreat(walker, kept)
            moving = Floats(motion.state_at(earlier, AllPairs()), wanted.moving)

            def float_step(moving_values, fixed_values):
                integrator, potential, _ = fixed.merge(fixed_values)
                known = _Known(potential=potential, pairs=walker.pairs, known=walker.forces)
                return Floats(integrator.step(known, moving.merge(moving_values)), wanted.moving).values

            g, more = jax.vjp(float_step, moving.values, fixed.values)[1](g)
            return (earlier, g, add(g_fixed, more)), None

        def block(carry, at):
            (walker, g, g_fixed), (kept, g_observed) = carry, at
            if self.observe is not None:
                here = Floats(motion.state_at(walker), wanted.moving)
                more, more_fixed = self._observed(here, fixed, g_observed)
                g, g_fixed = add(g, more), add(g_fixed, more_fixed)
            return scan(step, (walker, g, g_fixed), kept, length=self.every, reverse=True)

        moving = Floats(motion.state_at(end), wanted.moving)
        carry = end, moving.pick(g_state), jax.tree.map(jnp.zeros_like, fixed.values)
        blocks, rest = divmod(self.steps, self.every)
        g_observed = [g for g in jax.tree.leaves(g_observations) if is_float(g)]
        carry, _ = scan(step, carry, kept_in_rest, length=rest, reverse=True)
        (start, g, g_fixed), _ = scan(block, carry, (kept, g_observed), length=blocks, reverse=True)
        moving = Floats(motion.state_at(start), wanted.moving)
        g, more_fixed = self._at_start(moving, fixed, g)
        returned = jnp.all(start.positions == begun[0]) & jnp.all(start.velocities == begun[1])
        poison = jnp.where(returned & end.valid, 0.0, jnp.nan)
        g, g_fixed = jax.tree.map(lambda a: a + poison, (g, add(g_fixed, more_fixed)))
        g_integrator, g_potential, g_consts = fixed.cotangents(g_fixed)
        return g_integrator, g_potential, moving.cotangents(g), g_consts

    def _observed(self, moving: Floats, fixed: Floats, g: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """What an observation adds to the cotangents of the state and of what is fixed."""

        def observe(moving_values, fixed_values):
            _, _, consts = fixed.merge(fixed_values)
            observed = jax.tree.leaves(self.observe(moving.merge(moving_values), *consts))  # pyright: ignore[reportOptionalCall]
            return [a for a in observed if is_float(a)]

        return jax.vjp(observe, moving.values, fixed.values)[1](g)

    def _at_start(self, moving: Floats, fixed: Floats, g: list[jax.Array]):
        """The cotangents once the forces are a function of the positions, as they are when the walk begins."""
        g_state = moving.merge(g)

        def forces(moving_values, fixed_values):
            state, (_, potential, _) = moving.merge(moving_values), fixed.merge(fixed_values)
            return potential.forces(state.space, state.positions, state.pairs)

        more, more_fixed = jax.vjp(forces, moving.values, fixed.values)[1](g_state.forces)
        return add(moving.pick(dataclasses.replace(g_state, forces=jnp.zeros_like(g_state.forces))), more), more_fixed


@pytree
class _Wanted:
    """Which floats have a derivative that somebody wants."""

    fixed: tuple[bool, ...] = static()  # of integrator, potential and constants
    moving: tuple[bool, ...] = static()  # of the state


@pytree
class _Known(Potential):
    """A potential whose forces at one configuration are known: they are not computed again to be differentiated."""

    potential: Potential
    pairs: Pairs
    known: jax.Array  # [n, d]

    @property
    def cutoff(self) -> jax.Array:
        return jnp.zeros(())

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return self.potential.energies(space, positions, self.pairs)

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        return _known_forces(self.potential, space, positions, self.pairs, self.known)


@jax.custom_vjp
def _known_forces(potential: Potential, space: Space, positions: jax.Array, pairs: Pairs, known: jax.Array):
    return known


def _forces_forward(*inputs: Any) -> tuple[jax.Array, tuple]:
    potential, space, positions, pairs, known = primals(inputs)
    flags = perturbed(inputs)
    wanted = _Wanted(fixed=tuple(Floats((potential, space, positions)).pick(tuple(flags[:3]))), moving=())
    return known, (wanted, potential, space, positions, pairs)


def _forces_backward(kept: tuple, g: Any) -> tuple:
    wanted, potential, space, positions, pairs = kept
    inputs = Floats((potential, space, positions), wanted.fixed)

    def forces(values):
        potential, space, positions = inputs.merge(values)
        return potential.forces(space, positions, pairs)

    return *inputs.cotangents(jax.vjp(forces, inputs.values)[1](materialized(g))[0]), None, None


_known_forces.defvjp(_forces_forward, _forces_backward, symbolic_zeros=True)
