"""Overdamped motion of a slender chain, with more drag across itself than along: resistive force theory.

A bead with the tangent t of the chain has the drag and the mobility

    Z = m gamma (t t + a (1 - t t)),    M = Z^(-1) = (t t + (1 - t t) / a) / (m gamma)

with the anisotropy a, about 2 for a thin filament in a viscous fluid. Tangents are those of the chord between the two
neighbours along the chain, at the ends that of the last bond. M depends on the configuration, so that the noise needs
an interpretation. It is the kinetic one, the limit of dynamics with inertia, in which equilibrium is exp(-U / T):

    dr = M F dt + T div M dt + sqrt(2 T) M^(1/2) dW    (Ito)

Fixman's midpoint method includes the drift without a derivative of M. A random force is drawn with the drag at the
beginning of the step, and acts with the mobility in the middle of it:

    f = sqrt(2 T / dt) Z(r)^(1/2) R
    r' = r + (dt / 2) M(r) (F(r) + f)
    r <- r + dt M(r') (F(r') + f)

since `<(M(r') - M(r)) f> = T div M` to first order in dt. It evaluates the forces twice per step. Without noise it is
the explicit midpoint rule, of second order; with noise the error of averages is of order dt. It is stable up to
`dt k = 2 m gamma` for the largest stiffness k.

References: Fixman, J. Chem. Phys. 69, 1527 (1978); Grassia, Hinch and Nitsche, J. Fluid Mech. 282, 373 (1995), and
Delong, Balboa Usabiaga, Delgado-Buscalioni, Griffith and Donev, J. Chem. Phys. 140, 134110 (2014), on the drift and the
method. The drag of filaments: Gray and Hancock, J. Exp. Biol. 32, 802 (1955); Lauga and Powers, Rep. Prog. Phys. 72,
096601 (2009), section 6.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dmdenv._core.fields import Scalar, number
from dmdenv._core.materialize import materialize
from dmdenv._core.pytree import pytree
from dmdenv.integrators.base import Integrator, begin_noise
from dmdenv.integrators.state import StochasticState
from dmdenv.potentials import Potential
from dmdenv.space import Space, unit


@pytree
class Filament(Integrator[StochasticState]):
    """Brownian dynamics of a chain with the drag of a filament.

    Conserves `U - bath_energy` up to the error of the time step. The particles are the beads, in the order of the
    chain; `velocities` are and stay zero.

    Args:
        dt: time step, unit time.
        temperature: unit energy.
        friction: gamma along the chain, unit 1 / time; the drag is `m gamma`.
        anisotropy: a, the drag across the chain over that along it.

    Raises:
        ValueError: for a concrete time step, friction or anisotropy that is not positive, or a negative temperature;
            in `init`, for a single particle or given velocities.
    """

    state_type: ClassVar = StochasticState

    _: dataclasses.KW_ONLY
    dt: Scalar = number(above=0)
    temperature: Scalar = number(at_least=0)
    friction: Scalar = number(above=0)
    anisotropy: Scalar = number(2.0, above=0)

    def init(self, potential: Potential, space: Space, positions: jax.Array, **options: Any) -> StochasticState:
        if options.get("velocities") is not None:
            raise ValueError("velocities given; must be None: a filament in a viscous fluid has no inertia")
        if len(positions) < 2:
            raise ValueError(f"positions has shape {positions.shape}; must be [n, d] with n >= 2, for a tangent")
        return super().init(potential, space, positions, **options)

    def _begin(self, positions: jax.Array, key: jax.Array | None) -> tuple[dict[str, Any], jax.Array | None]:
        return begin_noise(positions, key)

    def step(self, potential: Potential, state: StochasticState) -> StochasticState:
        key, draw = jax.random.split(state.key)
        R = jax.random.normal(draw, state.positions.shape, state.positions.dtype)
        t, drag = tangents(state.space, state.positions), state.masses[:, None] * self.friction
        spread = root(2.0 * self.temperature / self.dt)
        # stored, as the displacement is: each of the loops that XLA makes of their uses would compute them again
        f = materialize(spread * jnp.sqrt(drag) * along_and_across(t, R, 1.0, jnp.sqrt(self.anisotropy)))

        def velocities(t: jax.Array, forces: jax.Array) -> jax.Array:
            return along_and_across(t, forces + f, 1.0, 1.0 / self.anisotropy) / drag

        middle = state.move(potential, 0.5 * self.dt * velocities(t, state.forces))
        displacement = materialize(self.dt * velocities(tangents(state.space, middle.positions), middle.forces))
        heat = -jnp.sum(middle.forces * displacement)
        state = state.replace(pairs=middle.pairs).move(potential, displacement)
        return state.replace(key=key).add(time=self.dt, bath_energy=heat)

    def conserved(self, potential: Potential, state: StochasticState) -> jax.Array:
        """`U - bath_energy`, `[]`: heat is the work against the forces, by the midpoint (Stratonovich) rule."""
        return potential.energy(state.space, state.positions, state.pairs) - state.bath_energy


def tangents(space: Space, positions: jax.Array) -> jax.Array:
    """Unit tangents of a chain at its beads, `[n, d]`: along the chord of a bead's neighbours, at the ends of the bond.

    Args:
        space: where the beads are; bonds are to the nearest image.
        positions: `[n, d]`, unit length, n of at least 2.
    """
    bonds = space.displacement(positions[1:], positions[:-1])
    return unit(jnp.concatenate([bonds[:1], bonds[1:] + bonds[:-1], bonds[-1:]]))


def along_and_across(
    t: jax.Array, vectors: jax.Array, along: jax.Array | float, across: jax.Array | float
) -> jax.Array:
    """Vectors `[n, d]`, their components along unit vectors t `[n, d]` and across scaled by two factors `[]`."""
    return across * vectors + (along - across) * jnp.sum(t * vectors, axis=-1, keepdims=True) * t


def root(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 (instead of infinity) at 0: no noise, where there is no temperature."""
    return jnp.where(x <= 0, 0.0, jnp.sqrt(jnp.where(x <= 0, 1.0, x)))
