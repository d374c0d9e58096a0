"""Overdamped motion at constant temperature: Brownian dynamics by the method of Leimkuhler and Matthews.

    m gamma dr = F dt + sqrt(2 m gamma T) dW

    r_(k+1) = r_k + dt F(r_k) / (m gamma) + sqrt(2 T dt / (m gamma)) (R_k + R_(k+1)) / 2

This is the limit of BAOAB at high friction. It costs as much as the Euler-Maruyama method, and memory for one noise
R_k. The error of equilibrium averages is of order dt^2 (Euler-Maruyama: dt) and vanishes in a harmonic well; on the way
to equilibrium both methods are of weak order 1. Since consecutive steps share a noise, the first step of a free
particle is shorter: after k steps `<|r|^2> = 2 d D dt (k - 1/2)`.

Reference: Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34; its order: Leimkuhler, Matthews and Tretyakov,
Proc. R. Soc. A 470, 20140120 (2014).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Scalar, number
from dmdenv._core.pytree import pytree
from dmdenv.integrators.base import Integrator, begin_noise, per_particle
from dmdenv.integrators.state import StochasticState
from dmdenv.potentials import Potential
from dmdenv.space import Space


@pytree
class BrownianState(StochasticState):
    """Particles without inertia: `velocities` are and stay zero."""

    noise: jax.Array  # [n, d], standard normal; half of the next step's noise


@pytree
class Brownian(Integrator[BrownianState]):
    """Brownian dynamics. Conserves `U - bath_energy` up to the error of the time step.

    Args:
        dt: time step, unit time.
        temperature: unit energy.
        friction: gamma, `[]` or `[n]`, unit 1 / time, as in `Langevin`: the drag is `m gamma`, the diffusion
            coefficient `D = T / (m gamma)`.

    Raises:
        ValueError: for a concrete time step or friction that is not positive, or a negative temperature.
    """

    state_type: ClassVar = BrownianState

    _: dataclasses.KW_ONLY
    dt: Scalar = number(above=0)
    temperature: Scalar = number(at_least=0)
    friction: Scalar = number(above=0, per_particle=True)

    def init(self, potential: Potential, space: Space, positions: jax.Array, **options: Any) -> BrownianState:
        if options.get("velocities") is not None:
            raise ValueError("velocities given; must be None: Brownian particles have no inertia")
        return super().init(potential, space, positions, **options)

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        own, draw = begin_noise(positions, key)
        return {**own, "noise": jax.random.normal(draw, positions.shape, positions.dtype)}, None

    def step(self, potential: Potential, state: BrownianState) -> BrownianState:
        mobility = 1.0 / (state.masses[:, None] * per_particle(self.friction))
        key, draw = jax.random.split(state.key)
        noise = jax.random.normal(draw, state.positions.shape, state.positions.dtype)
        drift = self.dt * mobility * state.forces
        spread = jnp.sqrt(self.temperature) * jnp.sqrt(0.5 * self.dt * mobility) * (state.noise + noise)
        displacement, forces = drift + spread, state.forces
        state = state.move(potential, displacement)
        heat = -0.5 * jnp.sum((forces + state.forces) * displacement)
        return state.replace(key=key, noise=noise).add(time=self.dt, bath_energy=heat)

    def conserved(self, potential: Potential, state: BrownianState) -> jax.Array:
        """`U - bath_energy`, `[]`: heat is the work against the forces, by the midpoint (Stratonovich) rule.

        Reference: Sekimoto, Prog. Theor. Phys. Suppl. 130, 17 (1998), section 2.
        """
        return potential.energy(state.space, state.positions, state.pairs) - state.bath_energy
