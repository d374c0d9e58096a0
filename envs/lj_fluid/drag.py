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
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv.envs.base import Baseline, Transition, parameter
from dmdenv.envs.lj_fluid.fluid import FluidParams, FluidState, LJFluid, interaction, langevin
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import External, PerParticle, harmonic_trap
from dmdenv.space import norm


class DragParams(FluidParams):
    """Dynamic parameters of `drag`. Reduced units: sigma, epsilon, the mass and Boltzmann's constant are 1."""

    max_steps: jax.Array = parameter(default=32, unit="steps", doc="length of an episode", low=1)
    density: jax.Array = parameter(
        default=0.75, unit="1 / length^2", doc="particles an area; the box follows", low=1e-3, high=1.2
    )
    temperature: jax.Array = parameter(default=0.7, unit="energy", doc="T of the bath", low=1e-3)
    distance: jax.Array = parameter(default=2.0, unit="length", doc="L, how far the trap has to go", low=1e-3)
    stiffness: jax.Array = parameter(
        default=10.0, unit="energy / length^2", doc="k of the trap at the start, at the end and at rest", low=1e-3
    )
    stiffness_range: jax.Array = parameter(
        default=2.0, unit="1", doc="factor by which an action of 1 raises the stiffness", low=1.0
    )
    speed: jax.Array = parameter(default=2.0, unit="length / time", doc="of the trap, by an action of 1", low=1e-6)


class DragState(FluidState):
    """The fluid, whose first particle is the one in the trap, and the trap."""

    trap: jax.Array  # float [2], lambda, unit length; not wrapped
    travelled: jax.Array  # float [], how far the trap is from where it started, along x, unit length
    stiffness: jax.Array  # float [], k, unit energy / length^2


@dataclasses.dataclass(frozen=True)
class LJDrag(LJFluid[DragState, DragParams]):
    """Move a trap with a particle through a liquid at the least work. Task `drag`.

    Observation `[7]`, in [-1, 1]: the share of the time that is over; how far the trap is, over 2 L; its stiffness on a
    logarithmic scale, as the action that sets it; the particle's distance from the trap along x and y, over L; its
    velocity, over `4 sqrt(T)`.

    Action `[2]`: the velocity of the trap along x, in units of `speed`; the stiffness that it has in this step,
    `stiffness stiffness_range^a`. At the end of the last step it jumps to L and to its nominal stiffness.

    Reward: minus the work of the step. The sum over an episode is -W.

    An episode terminates after `max_steps`: the time is a part of the task, so nothing comes after it.

    Metrics in `info`: `work`, `lag` (how far the particle is behind the trap, along x), `stiffness`.

    Args:
        particles: number n of particles.
        substeps: time steps of the dynamics in a step of the environment.
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

        The interaction does not change when all is moved, so in equilibrium the particle's place in the trap is
        independent of how the others stand around it, and normal: a trap around any particle will do.
        """
        key, draw = jax.random.split(key)
        fluid = self.fluid(key, params)
        spread = jnp.sqrt(params.temperature) / jnp.sqrt(params.stiffness)
        trap = fluid["positions"][0] + spread * jax.random.normal(draw, (2,))
        return DragState(**fluid, trap=trap, travelled=jnp.zeros_like(spread), stiffness=params.stiffness)

    def advance(self, key: jax.Array, state: DragState, action: jax.Array, params: DragParams) -> Transition[DragState]:
        fluid, bath = interaction(params), langevin(params, params.temperature)
        k = params.stiffness * params.stiffness_range ** action[1]
        jump = params.speed * action[0] * params.dt * jnp.array([1.0, 0.0])
        work = self._work(state, (state.trap, state.stiffness), (state.trap, k), params)

        def step(carry, _):
            particles, place, work = carry
            old, new = self._trap(place, k), self._trap(place + jump, k)
            at = particles.space, particles.positions, AllPairs()
            work = work + new.energy(*at) - old.energy(*at)
            forces = particles.forces + new.forces(*at) - old.forces(*at)
            return (bath.step(fluid + new, particles.replace(forces=forces)), place + jump, work), None

        particles = self.in_bath(key, state, fluid + self._trap(state.trap, k), params)
        (particles, place, work), _ = lax.scan(step, (particles, state.trap, work), None, length=self.substeps)
        moved = self.out_of_bath(state, particles, params)
        travelled = state.travelled + self.substeps * jump[0]

        last = state.time + 1 >= params.max_steps
        end = place + (params.distance - travelled) * jnp.array([1.0, 0.0]), params.stiffness
        work = work + jnp.where(last, self._work(moved, (place, k), end, params), 0.0)
        moved = dataclasses.replace(
            moved,
            trap=jnp.where(last, end[0], place),
            travelled=jnp.where(last, params.distance, travelled),
            stiffness=jnp.where(last, params.stiffness, k),
        )
        metrics = {"work": work, "lag": -self._from_trap(moved, params)[0], "stiffness": moved.stiffness}
        return Transition(moved, -work, jnp.asarray(False), metrics)

    def observe(self, state: DragState, params: DragParams) -> jax.Array:
        L = params.distance
        over = state.time / params.max_steps
        # a range of 1 allows one stiffness only
        firm = jnp.log(state.stiffness / params.stiffness) / jnp.maximum(jnp.log(params.stiffness_range), 1e-3)
        trap = jnp.stack([over, state.travelled / (2.0 * L), firm])
        velocity = state.velocities[0] / (4.0 * jnp.sqrt(params.temperature))
        return jnp.clip(jnp.concatenate([trap, self._from_trap(state, params) / L, velocity]), -1.0, 1.0)

    def _trap(self, place: jax.Array, stiffness: jax.Array) -> External:
        """The trap at a place `[2]`, which holds the first particle only."""
        first = jnp.arange(self.particles) == 0
        return harmonic_trap(stiffness=PerParticle(jnp.where(first, stiffness, 0.0)), center=place)

    def _work(
        self,
        state: DragState,
        old: tuple[jax.Array, jax.Array],
        new: tuple[jax.Array, jax.Array],
        params: DragParams,
    ) -> jax.Array:
        """`V(r; new) - V(r; old)`, `[]`, unit energy, of a trap at a place with a stiffness."""
        at = self.space(params), state.positions, AllPairs()
        return self._trap(*new).energy(*at) - self._trap(*old).energy(*at)

    def _from_trap(self, state: DragState, params: DragParams) -> jax.Array:
        """Where the particle is in the trap, `[2]`, unit length."""
        return self.space(params).displacement(state.positions[0], state.trap)

    def baselines(self, params: DragParams | None = None) -> dict[str, Baseline]:
        """Protocols with the nominal stiffness.

        `linear`: a uniform ramp. `jumps`: the best protocol for an ordinary friction of `FRICTION`, a jump (as fast as
        the trap can) at the beginning, a uniform motion, and a jump at the end. `feedback`: begins this protocol anew
        in every step, from where the particle is and for the time that is left; so it moves ahead when the particle
        does, and gains from fluctuations, which no protocol without sight of the particle can.
        """
        params = self.default_params if params is None else params
        z = params.stiffness * params.max_steps * self.substeps * params.dt / FRICTION

        def anew(observation: jax.Array) -> jax.Array:
            particle = 2.0 * observation[1] + observation[3]
            return particle + (1.0 - particle) / (2.0 + z * (1.0 - observation[0]))

        def share(observation: jax.Array) -> jax.Array:
            return observation[0] + 1.0 / params.max_steps  # of the time, at the end of the step

        return {
            "linear": self.towards(share, params),
            "jumps": self.towards(lambda observation: (1.0 + z * share(observation)) / (2.0 + z), params),
            "feedback": self.towards(anew, params),
        }

    def towards(self, place: Callable[[jax.Array], jax.Array], params: DragParams) -> Baseline:
        """The policy that moves the trap, as fast as it can, to a place over L that depends on the observation."""
        longest = params.speed * params.dt * self.substeps

        def policy(key: jax.Array, observation: jax.Array) -> jax.Array:
            to_go = place(observation) - 2.0 * observation[1]
            return jnp.stack([jnp.clip(params.distance * to_go / longest, -1.0, 1.0), jnp.zeros_like(to_go)])

        return policy

    def render(self, state: DragState, params: DragParams | None = None) -> np.ndarray:
        """The liquid from above, the particle in its trap and where the trap has to go; 640 x 640."""
        from dmdenv.envs.rendering import Canvas, blend

        params = self.default_params if params is None else params
        space = self.space(params)
        sides, trap = np.asarray(space.box), np.asarray(state.trap, float)
        L, k, T = (float(x) for x in (params.distance, state.stiffness, params.temperature))
        side = min(float(np.min(sides)), 8.0)
        start = trap - np.array([float(state.travelled), 0.0])
        canvas = Canvas(start + np.array([0.5 * L - side / 2, -side / 2]), side, period=sides)
        away = np.asarray(norm(space.displacement(state.positions, state.positions[0][None])))
        for place, distance in list(zip(np.asarray(state.positions), away, strict=True))[::-1]:
            color = "#ffb454" if distance == 0 else blend("#6fd3ff", 0.25 + 0.65 * np.exp(-((distance / 2.5) ** 2)))
            canvas.disc(place, 0.5, color)
        for place, color in ((start + np.array([L, 0.0]), "#39415a"), (trap, "#fff1d6")):
            for energy in (1, 2, 4):  # contours of V, in units of T
                canvas.ring(place, float(np.sqrt(2 * energy * T / k)), color, 3)
        canvas.caption(f"trap {float(state.travelled):.2f} of {L:g}   stiffness {k:.1f}   step {int(state.time)}")
        return canvas.image()


FRICTION = 13.0  # of a particle in the liquid of the default parameters, unit energy time / length^2
