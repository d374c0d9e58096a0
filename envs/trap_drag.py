"""Trap drag: move particles with a harmonic trap at the least work, a problem whose best answer is known.

n overdamped particles that do not interact are in equilibrium in a trap at rest at 0. In a given time the trap is to
arrive at `distance`; it may jump. The work done on the way is more than the free energy difference, which is zero.

    gamma dr = -k (r - lambda) dt + sqrt(2 gamma T) dW,    W = int k (lambda - r) dlambda

A step is the exact solution of the Langevin equation for a trap that jumps to one place and moves from there to another
one at a constant velocity, work included, so that no time step but that of the control enters.

Protocols that do not look at the particles do, on average, at least the work

    W* = k L^2 / (2 + k t / gamma)

which a jump by `L / (2 + k t / gamma)`, a uniform motion and an equal jump at the end attain. A linear ramp does

    W = gamma L^2 / t (1 - (1 - exp(-k t / gamma)) / (k t / gamma)).

References: Schmiedl and Seifert, Phys. Rev. Lett. 98, 108301 (2007), eqs. 9 to 11; the exact solution: Gillespie, Phys.
Rev. E 54, 2084 (1996).
"""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import whole
from dmdenv.envs.base import Baseline, Env, Params, State, Transition, parameter


class TrapDragParams(Params):
    """Reduced units; temperatures are energies."""

    max_steps: jax.Array = parameter(
        default=32, unit="steps", doc="steps of control in an episode, each of duration / max_steps", low=1
    )
    distance: jax.Array = parameter(default=5.0, unit="length", doc="L, where the trap has to be at the end", low=1e-6)
    duration: jax.Array = parameter(default=1.0, unit="time", doc="t, the time it has", low=1e-6)
    stiffness: jax.Array = parameter(default=1.0, unit="energy / length^2", doc="k of the trap", low=1e-6)
    friction: jax.Array = parameter(default=1.0, unit="energy time / length^2", doc="gamma, the drag", low=1e-6)
    temperature: jax.Array = parameter(default=1.0, unit="energy", doc="T of the bath", low=0.0)


class TrapDragState(State):
    """Particles on a line, and the trap."""

    positions: jax.Array  # [n], unit length
    trap: jax.Array  # float [], lambda, unit length


@dataclasses.dataclass(frozen=True)
class TrapDrag(Env[TrapDragState, TrapDragParams]):
    """Non-interacting Brownian particles in a moving trap.

    Observation `[3]`, in [-1, 1]: elapsed fraction of the time; position of the trap over L; mean displacement of the
    particles from the trap, over 2 L.

    Action `[2]`: where the trap jumps to at the beginning of the step and where it is at its end, both over L; in
    between it moves uniformly. At the end of the last step it jumps to L, wherever it is.

    Reward: minus the work per particle of the step. The sum over an episode is -W.

    An episode terminates after `max_steps`: the time is a part of the task, so nothing comes after it.

    Metrics in `info`: `work` (per particle), `lag` (mean distance of the particles behind the trap).

    Args:
        particles: number n of particles. Work is averaged over them, so more of them mean less noise. An agent that
            sees few of them can beat the bound: it acts on what it sees.

    Raises:
        ValueError: for a value out of range; the message names the field and what is valid.
    """

    particles: int = whole(256, at_least=1)

    finite_horizon = True

    @property
    def default_params(self) -> TrapDragParams:
        return TrapDragParams()

    def observation_space(self, params: TrapDragParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def action_space(self, params: TrapDragParams | None = None) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def initial_state(self, key: jax.Array, params: TrapDragParams) -> TrapDragState:
        """In equilibrium in the trap at 0."""
        spread = jnp.sqrt(params.temperature / params.stiffness)
        positions = spread * jax.random.normal(key, (self.particles,))
        return TrapDragState(positions=positions, trap=jnp.zeros_like(spread))

    def advance(
        self, key: jax.Array, state: TrapDragState, action: jax.Array, params: TrapDragParams
    ) -> Transition[TrapDragState]:
        k, L, h = params.stiffness, params.distance, params.duration / params.max_steps
        first, second = L * action[0], L * action[1]
        work = jump_work(k, state.positions, state.trap, first)
        velocity = (second - first) / h
        y, integral = move_with_trap(key, state.positions - first, velocity, h, params)
        work = work - k * velocity * integral
        positions = second + y
        last = state.time + 1 >= params.max_steps
        trap = jnp.where(last, L, second)
        work = work + jump_work(k, positions, second, trap)
        mean = jnp.mean(work)
        state = state.replace(positions=positions, trap=trap)
        metrics = {"work": mean, "lag": trap - jnp.mean(positions)}
        return Transition(state, -mean, metrics=metrics)

    def observe(self, state: TrapDragState, params: TrapDragParams) -> jax.Array:
        behind = jnp.mean(state.positions) - state.trap
        over = state.time / params.max_steps
        return jnp.clip(jnp.stack([over, state.trap / params.distance, behind / (2 * params.distance)]), -1.0, 1.0)

    def baselines(self, params: TrapDragParams | None = None) -> dict[str, Baseline]:
        """`linear`: a uniform ramp. `optimal`: the protocol of least work. `jump`: all at once, at the beginning."""
        params = self.default_params if params is None else params
        z = params.stiffness * params.duration / params.friction

        def ends(observation: jax.Array) -> jax.Array:
            return observation[0] + jnp.array([0.0, 1.0]) / params.max_steps  # of the step, as shares of the time

        return {
            "linear": lambda key, observation: ends(observation),
            "optimal": lambda key, observation: (1.0 + z * ends(observation)) / (2.0 + z),
            "jump": lambda key, observation: jnp.ones(2),
        }

    def render(self, state: TrapDragState, params: TrapDragParams | None = None) -> np.ndarray:
        """The trap as a parabola with the particles in it, and where it has to go; 640 x 640."""
        from dmdenv.envs.rendering import Canvas

        params = self.default_params if params is None else params
        L, k, T = (float(p) for p in (params.distance, params.stiffness, params.temperature))
        side, trap, x = 2.4 * L, float(state.trap), np.asarray(state.positions, float)
        canvas = Canvas(np.array([-0.7 * L, -0.2 * L]), side)
        top = max(0.5 * k * L**2, 4 * T)
        unit = 1.6 * L / top  # height in the picture of a unit of energy
        for place, color, width in ((L, "#39415a", 2), (trap, "#ffb454", 3)):
            at = np.linspace(place - 1.5 * L, place + 1.5 * L, 241)
            canvas.line(np.stack([at, 0.5 * k * (at - place) ** 2 * unit], axis=1), color, width)
        for place in x:
            canvas.disc(np.array([place, 0.5 * k * (place - trap) ** 2 * unit]), 0.012 * side, "#6fd3ff")
        canvas.caption(f"trap {trap:.2f} of {L:g}   step {int(state.time)}")
        return canvas.image()


# --- physics ----------------------------------------------------------------------------------------------------------


def jump_work(stiffness: jax.Array, positions: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """`V(r; new) - V(r; old)`, `[n]`: the work of a jump of the trap, unit energy."""
    return 0.5 * stiffness * (new - old) * (new + old - 2.0 * positions)


def move_with_trap(
    key: jax.Array, y: jax.Array, velocity: jax.Array, time: jax.Array, params: TrapDragParams
) -> tuple[jax.Array, jax.Array]:
    """Particles in a trap that moves uniformly: distances from it after a time, and the integral of the distances.

    `dy = -(kappa y + u) dt + sqrt(2 D) dW` with `kappa = k / gamma`, `D = T / gamma`; (y, int y dt) is normal.

    Args:
        key: consumed.
        y: distances from the trap at the beginning, `[n]`, unit length.
        velocity: u of the trap, `[]`, unit length / time.
        time: h, `[]`, unit time.
        params: k, gamma and T.

    Returns:
        `(y, integral)`, each `[n]`, in units of length and of length times time.
    """
    kappa, D = params.stiffness / params.friction, params.temperature / params.friction
    z = kappa * time
    forgotten = -jnp.expm1(-z)  # 1 - exp(-z)
    rest = y + velocity / kappa  # what decays
    mean_y = rest * (1.0 - forgotten) - velocity / kappa
    mean_integral = rest * forgotten / kappa - velocity * time / kappa
    # variances over D / kappa, D / kappa^3; the covariance over D / kappa^2
    variance = -jnp.expm1(-2.0 * z)
    covariance = forgotten**2
    # what y does not tell of the integral: all below the third order cancels, so a series serves for small z
    small = z < 0.3
    safe = jnp.where(small, 0.3, z)
    e = jnp.exp(-safe)
    exact = 2.0 * safe - 4.0 * (1.0 - e) + (1.0 - e**2) - (1.0 - e) ** 4 / (1.0 - e**2)
    left = jnp.where(small, z**3 * (1 / 6 - z**2 * (1 / 60 - z**2 * 17 / 10080)), exact)
    noise = jax.random.normal(key, (2, *y.shape))
    R, Q = noise[0], noise[1]
    scale = jnp.sqrt(D / kappa)
    noise_y = scale * jnp.sqrt(variance) * R
    noise_integral = scale / kappa * (covariance / jnp.sqrt(variance) * R + jnp.sqrt(left) * Q)
    return mean_y + noise_y, mean_integral + noise_integral
