"""The task `drag` of `lj_fluid`: move a trap with one particle through the fluid at the least work.

A harmonic trap holds one particle of a liquid. In a given time the trap is to arrive at `distance`; its position lambda
along x and its stiffness k are the agent's. The energy of the particle in the trap is

    V(r; lambda, k) = k |r - lambda|^2 / 2

and every change of the trap does the work `W = V(r; new) - V(r; old)` on a particle that has not moved yet: the trap
moves in small jumps, one before each time step of the dynamics. As a liquid looks the same wherever the trap is, the
free energies at start and end are equal. So the mean work is what is lost as heat, it is not negative, and

    <exp(-W / T)> = 1

for every protocol, as it begins in equilibrium and ends with the nominal stiffness: exactly, but for the error of the
time step.

If the particle felt an ordinary friction xi, the least work would be that of `trap_drag`, k L^2 / (2 + k t / xi), by a
jump at each end. A liquid is not quite like that: it answers with a delay, and gives way when it is pushed hard.

References: Jarzynski, Phys. Rev. Lett. 78, 2690 (1997); Crooks, J. Stat. Phys. 90, 1481 (1998), for the order of work
and dynamics; Schmiedl and Seifert, Phys. Rev. Lett. 98, 108301 (2007), eqs. 9 to 11.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.control_flow import scan
from dmdenv.envs.base import Baseline, Transition, derived
from dmdenv.envs.lj_fluid.baselines import drag_policies
from dmdenv.envs.lj_fluid.fluid import FluidState, LJFluid, interaction, langevin
from dmdenv.envs.lj_fluid.parameters import DragParams
from dmdenv.integrators import StochasticState
from dmdenv.potentials import External, PerParticle, Potential, harmonic_trap


class DragState(FluidState):
    """The fluid, whose first particle is the one in the trap, and the trap."""

    motion: StochasticState = derived("trap", "stiffness", by="dmdenv.envs.lj_fluid.drag.exchange")  # forces of both
    trap: jax.Array  # float [2], lambda, unit length; not wrapped
    travelled: jax.Array = derived("trap", by="the distance from where it started along x")  # float [], unit length
    stiffness: jax.Array  # float [], k, unit energy / length^2

    @property
    def offset(self) -> jax.Array:
        """Where the particle is in the trap, `[2]`, unit length."""
        return self.motion.space.displacement(self.positions[0], self.trap)


@dataclasses.dataclass(frozen=True)
class LJDrag(LJFluid[DragState, DragParams]):
    """Move a trap with a particle through a liquid at the least work. Task `drag`.

    Observation `[7]`, in [-1, 1]: elapsed fraction of the time; how far the trap is, over 2 L; its stiffness on a
    logarithmic scale, as the action that sets it; the particle's distance from the trap along x and y, over L; its
    velocity, over `4 sqrt(T)`.

    Action `[2]`: the velocity of the trap along x, in units of `speed`; the stiffness that it has in this step,
    `stiffness stiffness_range^a`. At the end of the last step it jumps to L and to its nominal stiffness.

    Reward: minus the work of the step. The sum over an episode is -W.

    An episode terminates after `max_steps`: the time is a part of the task, so nothing comes after it.

    Metrics in `info`: `work`, `lag` (how far the particle is behind the trap, along x), `stiffness`.

    Args:
        particles: number n of particles.
        substeps: time steps of the dynamics per step of the environment.
        pairs: "all" pairs, a neighbour "list", or "auto": by the number of particles.
        slack: capacity of the neighbour list over what the liquid needs; `enlarged` doubles it.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    actions: ClassVar[int] = 2
    observations: ClassVar[int] = 7

    @property
    def default_params(self) -> DragParams:
        return DragParams()

    def initial_state(self, key: jax.Array, params: DragParams) -> DragState:
        """In equilibrium, also of the particle in its trap.

        The interaction does not change when everything is translated, so in equilibrium the particle's place in the
        trap is independent of how the others stand around it, and normal: a trap around any particle will do.
        """
        key, draw = jax.random.split(key)
        motion, overflow = self.begin(key, params)
        spread = jnp.sqrt(params.temperature) / jnp.sqrt(params.stiffness)
        trap = motion.positions[0] + spread * jax.random.normal(draw, (2,))
        motion, _ = exchange(motion, self._trap(trap, 0.0), self._trap(trap, params.stiffness))
        return DragState(
            motion=motion,
            overflow=overflow,
            trap=trap,
            travelled=jnp.zeros_like(spread),
            stiffness=params.stiffness,
        )

    def advance(self, key: jax.Array, state: DragState, action: jax.Array, params: DragParams) -> Transition[DragState]:
        fluid, bath = interaction(params), langevin(params, params.temperature)
        k = params.stiffness * params.stiffness_range ** action[1]
        jump = params.speed * action[0] * params.dt * jnp.array([1.0, 0.0])
        motion = self.resume(key, state, params)
        center = state.motion.space.follow(state.trap[None, :], motion.space)[0][0]
        motion, work = exchange(motion, self._trap(center, state.stiffness), self._trap(center, k))

        def step(carry, _):
            motion, center, work = carry
            trap = self._trap(center + jump, k)
            motion, more = exchange(motion, self._trap(center, k), trap)
            return (bath.step(fluid + trap, motion), center + jump, work + more), None

        (motion, center, work), _ = scan(step, (motion, center, work), None, length=self.substeps)
        travelled = state.travelled + self.substeps * jump[0]

        last = state.time + 1 >= params.max_steps
        to_go = (params.distance - travelled) * jnp.array([1.0, 0.0])
        end, stiffness = jnp.where(last, center + to_go, center), jnp.where(last, params.stiffness, k)
        motion, more = exchange(motion, self._trap(center, k), self._trap(end, stiffness))
        work = work + more
        travelled = jnp.where(last, params.distance, travelled)
        new = self.with_motion(state, motion, params)
        new = new.replace(motion=motion, trap=end, travelled=travelled, stiffness=stiffness)
        metrics = {"work": work, "lag": -new.offset[0], "stiffness": stiffness}
        return Transition(new, -work, metrics=metrics)

    def observe(self, state: DragState, params: DragParams) -> jax.Array:
        L = params.distance
        elapsed = state.time / params.max_steps
        # a range of 1 allows one stiffness only
        stiffness = jnp.log(state.stiffness / params.stiffness) / jnp.maximum(jnp.log(params.stiffness_range), 1e-3)
        trap = jnp.stack([elapsed, state.travelled / (2.0 * L), stiffness])
        velocity = state.velocities[0] / (4.0 * jnp.sqrt(params.temperature))
        return jnp.clip(jnp.concatenate([trap, state.offset / L, velocity]), -1.0, 1.0)

    def _trap(self, center: jax.Array, stiffness: jax.Array | float) -> External:
        """The trap at a place `[2]`, which holds the first particle only."""
        first = jnp.arange(self.particles) == 0
        return harmonic_trap(stiffness=PerParticle(jnp.where(first, stiffness, 0.0)), center=center)

    def baselines(self, params: DragParams | None = None) -> dict[str, Baseline]:
        """Protocols of the trap at its nominal stiffness.

        `linear`: a uniform ramp. `jumps`: the best protocol for an ordinary friction, a jump (as fast as the trap can)
        at the beginning, a uniform motion, and a jump at the end. `feedback`: begins this protocol anew in every step,
        from where the particle is and for the time that is left; so it moves ahead when the particle does, and gains
        from fluctuations, which no protocol without sight of the particle can.
        """
        return drag_policies(self.default_params if params is None else params, self.substeps)

    def render(self, state: DragState, params: DragParams | None = None) -> np.ndarray:
        """The liquid from above, the particle in its trap and where the trap has to arrive; 640 x 640."""
        from dmdenv.envs.lj_fluid.drawing import draw_trap

        params = self.default_params if params is None else params
        trap, x = np.asarray(state.trap, float), np.array([1.0, 0.0])
        L, T, k, travelled = (
            float(number) for number in (params.distance, params.temperature, state.stiffness, state.travelled)
        )
        start = trap - travelled * x
        caption = f"trap {travelled:.2f} of {L:g}   stiffness {k:.1f}   step {int(state.time)}"
        return draw_trap(state, start, trap, start + L * x, (T / k) ** 0.5, caption)


def exchange(motion: StochasticState, old: Potential, new: Potential) -> tuple[StochasticState, jax.Array]:
    """Exchange a potential for another one while the particles rest.

        F <- F + F_new - F_old,    W = V_new - V_old

    Returns:
        `(motion, work)`: the motion with other forces, and W, `[]`, unit energy.
    """
    at = motion.space, motion.positions, motion.pairs
    work = new.energy(*at) - old.energy(*at)
    return motion.replace(forces=motion.forces + new.forces(*at) - old.forces(*at)), work
