"""Trap drag: move particles with a harmonic trap at the least work, a problem whose best answer is known.

n overdamped particles that do not interact are in equilibrium in a trap at rest at lambda = 0. In a time t the trap has
to arrive at lambda = L; it may jump. The mean work W done on the way is at least the difference in free energy, which
is zero.

    gamma dr = -k (r - lambda) dt + sqrt(2 gamma T) dB,    W = int k (lambda - r) dlambda

A step is the exact solution of the Langevin equation, work included, for a trap that jumps to one place and moves from
there to another one at a constant velocity: the only time step is that of the control.

Protocols that do not look at the particles do on average at least the work

    W* = k L^2 / (2 + k t / gamma),

attained by a jump of `L / (2 + k t / gamma)`, a uniform motion, and an equal jump at the end. A linear ramp does

    W = gamma L^2 / t (1 - (1 - exp(-k t / gamma)) / (k t / gamma)).

References: Schmiedl and Seifert, Phys. Rev. Lett. 98, 108301 (2007), eqs. 9 to 11; the exact solution: Gillespie, Phys.
Rev. E 54, 2084 (1996).
"""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import MOST_PARTICLES, whole
from dmdenv.envs.base import Baseline, Env, Params, State, Transition, parameter


class TrapDragParams(Params):
    """Dynamic parameters. Reduced units: Boltzmann's constant is 1."""

    max_steps: jax.Array = parameter(
        default=32, unit="steps", doc="length of an episode; a step takes duration / max_steps", low=1
    )
    distance: jax.Array = parameter(default=5.0, unit="length", doc="L, where the trap has to arrive", low=1e-6)
    duration: jax.Array = parameter(default=1.0, unit="time", doc="t, of an episode", low=1e-6)
    stiffness: jax.Array = parameter(default=1.0, unit="energy / length^2", doc="k of the trap", low=1e-6)
    friction: jax.Array = parameter(default=1.0, unit="energy time / length^2", doc="gamma of a particle", low=1e-6)
    temperature: jax.Array = parameter(default=1.0, unit="energy", doc="T of the bath", low=0.0)


class TrapDragState(State):
    """Particles on a line, and the trap."""

    positions: jax.Array  # float [n], r, unit length
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

    particles: int = whole(256, at_least=1, at_most=MOST_PARTICLES)

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
        start, stop = L * action[0], L * action[1]
        last = state.time + 1 >= params.max_steps
        end = jnp.where(last, L, stop)

        velocity = (stop - start) / h
        y, integral = move_with_trap(key, state.positions - start, velocity, h, params)
        positions = stop + y
        work = jump_work(k, state.positions, state.trap, start) - k * velocity * integral
        work = jnp.mean(work + jump_work(k, positions, stop, end))

        new = state.replace(positions=positions, trap=end)
        metrics = {"work": work, "lag": end - jnp.mean(positions)}
        return Transition(new, -work, metrics=metrics)

    def observe(self, state: TrapDragState, params: TrapDragParams) -> jax.Array:
        L = params.distance
        elapsed = state.time / params.max_steps
        offset = jnp.mean(state.positions) - state.trap
        return jnp.clip(jnp.stack([elapsed, state.trap / L, offset / (2 * L)]), -1.0, 1.0)

    def baselines(self, params: TrapDragParams | None = None) -> dict[str, Baseline]:
        """`linear`: a uniform ramp. `optimal`: the protocol of least work. `jump`: all at once, at the beginning."""
        params = self.default_params if params is None else params
        z = params.stiffness * params.duration / params.friction

        def ramp(observation: jax.Array) -> jax.Array:
            """When the step begins and when it ends, `[2]`, as fractions of the time."""
            return observation[0] + jnp.array([0.0, 1.0]) / params.max_steps

        return {
            "linear": lambda key, observation: ramp(observation),
            "optimal": lambda key, observation: (1.0 + z * ramp(observation)) / (2.0 + z),
            "jump": lambda key, observation: jnp.ones(2),
        }

    def render(self, state: TrapDragState, params: TrapDragParams | None = None) -> np.ndarray:
        """The trap as a parabola with the particles in it, and where it has to arrive; 640 x 640."""
        from dmdenv.envs.rendering import Canvas

        params = self.default_params if params is None else params
        L, k, T = (float(p) for p in (params.distance, params.stiffness, params.temperature))
        side, trap = 2.4 * L, float(state.trap)
        highest = max(0.5 * k * L**2, 4 * T)  # energy at the upper end of the picture

        def height(r: np.ndarray, center: float) -> np.ndarray:
            return 0.5 * k * (r - center) ** 2 * 1.6 * L / highest

        colors = {"particles": "#6fd3ff", "trap": "#ffb454", "goal": "#7cf2b0"}
        canvas = Canvas(np.array([-0.7 * L, -0.2 * L]), side)
        for center, color, width in ((L, colors["goal"], 2), (trap, colors["trap"], 3)):
            r = np.linspace(center - 1.5 * L, center + 1.5 * L, 241)
            canvas.line(np.stack([r, height(r, center)], axis=1), color, width)
        r = np.asarray(state.positions, float)
        for position in np.stack([r, height(r, trap)], axis=1):
            canvas.disc(position, 0.012 * side, colors["particles"])
        canvas.caption(f"trap {trap:.2f} of {L:g}   step {int(state.time)}")
        for label, color in colors.items():
            canvas.key(label, color)
        return canvas.image()


# --- physics ----------------------------------------------------------------------------------------------------------


def jump_work(stiffness: jax.Array, positions: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """The work of a jump of the trap, `V(r; new) - V(r; old)` with `V(r; lambda) = k (r - lambda)^2 / 2`.

    Args:
        stiffness: k, `[]`, unit energy / length^2.
        positions: r, `[n]`, unit length.
        old: lambda before, `[]`, unit length.
        new: lambda after, `[]`, unit length.

    Returns:
        `[n]`, unit energy.
    """
    return 0.5 * stiffness * (new - old) * (new + old - 2.0 * positions)


def move_with_trap(
    key: jax.Array, y: jax.Array, velocity: jax.Array, time: jax.Array, params: TrapDragParams
) -> tuple[jax.Array, jax.Array]:
    """Particles in a trap that moves uniformly, after a time h: `y(h)` and `int y dt`, exactly.

        dy = -(kappa y + u) dt + sqrt(2 D) dB,    kappa = k / gamma,    D = T / gamma

    y is the distance from the trap. Both are normally distributed, with these means and, z = kappa h, covariances:

        <y(h)>     = (y + u / kappa) exp(-z) - u / kappa
        <int y dt> = (y + u / kappa) (1 - exp(-z)) / kappa - u h / kappa
        var y(h)             = D / kappa    (1 - exp(-2 z))
        cov(y(h), int y dt)  = D / kappa^2  (1 - exp(-z))^2
        var int y dt         = D / kappa^3  (2 z - 4 (1 - exp(-z)) + 1 - exp(-2 z))

    Args:
        key: consumed.
        y: distances from the trap at the beginning, `[n]`, unit length.
        velocity: u of the trap, `[]`, unit length / time.
        time: h, `[]`, unit time.
        params: k, gamma and T.

    Returns:
        `(y, integral)`, each `[n]`, in units of length and of length times time.

    Reference: Gillespie, Phys. Rev. E 54, 2084 (1996).
    """
    kappa, D = params.stiffness / params.friction, params.temperature / params.friction
    z = kappa * time
    forgotten = -jnp.expm1(-z)  # 1 - exp(-z)
    decaying = y + velocity / kappa
    mean_y = decaying * (1.0 - forgotten) - velocity / kappa
    mean_integral = decaying * forgotten / kappa - velocity * time / kappa
    variance = -jnp.expm1(-2.0 * z)
    covariance = forgotten**2
    # the variance of the integral that is left when y(h) is known: all orders below z^3 cancel, so a series for small z
    small = z < 0.3
    safe = jnp.where(small, 0.3, z)
    e = jnp.exp(-safe)
    exact = 2.0 * safe - 4.0 * (1.0 - e) + (1.0 - e**2) - (1.0 - e) ** 4 / (1.0 - e**2)
    rest = jnp.where(small, z**3 * (1 / 6 - z**2 * (1 / 60 - z**2 * 17 / 10080)), exact)
    R, Q = jax.random.normal(key, (2, *y.shape))
    scale = jnp.sqrt(D / kappa)
    noise_y = scale * jnp.sqrt(variance) * R
    noise_integral = scale / kappa * (covariance / jnp.sqrt(variance) * R + jnp.sqrt(rest) * Q)
    return mean_y + noise_y, mean_integral + noise_integral
