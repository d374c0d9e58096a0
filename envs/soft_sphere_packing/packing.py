"""Packings of soft discs and spheres: what the tasks of `soft_sphere_packing` share.

n frictionless particles in a periodic cube (square) of side L repel where they overlap, by
`dmdenv.potentials.soft_sphere` with epsilon = 1. Their volumes over that of the box, overlaps counted twice, are the
packing fraction

    phi = v_d sum_i D_i^d / L^d,    v_2 = pi / 4,  v_3 = pi / 6.

All pairs interact by the nearest image, so the longest diameter must not exceed L / 2.

References: O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), section II, for the model, for contacts and
rattlers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import CapacityExceeded, Env, Params, State
from dmdenv.minimizers import FIRE, minimize
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PairPotential, PerParticle, soft_sphere
from dmdenv.potentials.parameters import largest
from dmdenv.quantities import contact_numbers, pressure, rattlers
from dmdenv.space import Periodic, norm

S = TypeVar("S", bound=State)
P = TypeVar("P", bound=Params)

POOL = 64  # packings in a pool of starts


def discs(diameters: jax.Array, alpha: jax.Array | float = 2.0) -> PairPotential:
    """The potential of particles with these diameters `[n]`, unit length."""
    return soft_sphere(sigma=PerParticle(diameters), alpha=alpha)


def halves(count: int, ratio: jax.Array | float) -> jax.Array:
    """Diameters `[n]`: 1 for the first half of the particles, `ratio` for the others."""
    return jnp.where(jnp.arange(count) < count // 2, 1.0, jnp.asarray(ratio, jnp.result_type(float)))


def solid_volume(diameters: jax.Array, dimension: int) -> jax.Array:
    """`v_d sum_i D_i^d`, `[]`, unit length^d."""
    return math.pi / (2 * dimension) * jnp.sum(diameters**dimension)


class Measured(NamedTuple):
    """What there is to know of a packing."""

    energy: jax.Array  # float [], a particle, unit energy
    pressure: jax.Array  # float [], unit energy / length^d
    residual: jax.Array  # float [], the largest force on a particle, unit energy / length
    contacts: jax.Array  # float [], mean contact number of all but rattlers; 0 where all are


def measured(potential: PairPotential, space: Periodic, positions: jax.Array, forces: jax.Array) -> Measured:
    """Energy, pressure and residual force are differentiable; the contact number is a count and has derivative 0.

    Args:
        potential: from `discs`.
        space: the box.
        positions: `[n, d]`, unit length.
        forces: at these positions, `[n, d]`, unit energy / length.
    """
    pairs = AllPairs()
    counts, held = held_contacts(potential, space, positions)
    return Measured(
        energy=potential.energy(space, positions, pairs) / len(positions),
        pressure=pressure(potential, space, positions, pairs),
        residual=jnp.max(norm(forces)),
        contacts=jnp.sum(counts) / jnp.maximum(jnp.sum(held), 1),
    )


def held_contacts(potential: PairPotential, space: Periodic, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Contacts of each particle that is not a rattler with others of that kind, int `[n]`, and which these are."""
    space, positions, diameter = jax.lax.stop_gradient((space, positions, potential.parameters["sigma"]))
    held = ~rattlers(space, positions, AllPairs(), diameter=diameter)
    return contact_numbers(space, positions, AllPairs(), diameter=diameter, present=held), held


def too_long(potential: PairPotential, space: Periodic, dimension: int) -> jax.Array:
    """bool []: the longest diameter exceeds half of the box, so that pairs have several images and some are missed."""
    return potential.reach > space.largest_cutoff(dimension)


# --- static fields and parameters -------------------------------------------------------------------------------------


def check_order(params: Any, low: str, high: str) -> None:
    """Refuse parameters of which the lower end of a range is above the higher one."""
    if getattr(params, low) > getattr(params, high):
        raise ValueError(f"{low} = {getattr(params, low):g}; valid: up to {high} = {getattr(params, high):g}")


class PackingEnv(Env[S, P]):
    """What the tasks have in common."""

    particles: int
    dimension: int
    relaxation_steps: int

    finite_horizon = True

    def _check(self, **words: Sequence[str]) -> None:
        """Refuse static fields out of range; `words` are the valid values of a field.

        Raises:
            ValueError: then.
        """
        for name, least in (("particles", 4), ("relaxation_steps", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} = {value!r}; valid: a whole number from {least}")
        for name, valid in {"dimension": (2, 3), **words}.items():
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} = {getattr(self, name)!r}; valid: {', '.join(map(repr, valid))}")

    def enlarged(self) -> Self:
        raise CapacityExceeded(
            "soft_sphere_packing: a diameter exceeds half of the box; valid: more particles, diameters nearer to each"
            " other, or lower packing fractions"
        )


# --- starts -----------------------------------------------------------------------------------------------------------


def relaxed_starts(count: int, dimension: int, ratio: float, fraction: float) -> jax.Array:
    """A pool: random places, minimised by FIRE; in units of the box, `[POOL, n, d]`.

    Args:
        count: n.
        dimension: d.
        ratio: of the diameters of the two halves.
        fraction: packing fraction.
    """
    diameters = halves(count, ratio)
    side = (solid_volume(diameters, dimension) / fraction) ** (1 / dimension)
    space, potential, minimizer = Periodic(side), discs(diameters), FIRE(dt=0.1, max_displacement=0.1)

    def one(places):
        state = minimizer.init(potential, space, side * places)
        return minimize(minimizer, potential, state, tolerance=1e-5, max_steps=1000).state.positions / side

    places = jax.random.uniform(jax.random.key(0), (POOL, count, dimension))
    return jax.jit(jax.vmap(one))(places)


def equivalent(key: jax.Array, places: jax.Array) -> jax.Array:
    """The same packing, moved, reflected and with its axes exchanged, at random; in units of the box, `[n, d]`."""
    d = places.shape[1]
    draws = jax.random.uniform(key, (2 * d + 1,))
    orders = jnp.asarray(list(itertools.permutations(range(d))))
    order = orders[jnp.minimum((draws[-1] * len(orders)).astype(int), len(orders) - 1)]
    signs = jnp.where(draws[d : 2 * d] < 0.5, -1.0, 1.0)
    moved = signs[None, :] * places[:, order] + draws[None, :d]
    return moved - jnp.floor(moved)


# --- picture ----------------------------------------------------------------------------------------------------------


def picture(
    potential: PairPotential, space: Periodic, positions: jax.Array, *, view: float, caption: str
) -> np.ndarray:
    """Discs coloured by their contact number, the network of contact forces, and the frame of the box; 640 x 640.

    Spheres are seen from above, those farther off darker.

    Args:
        potential: from `discs`.
        space: the box.
        positions: `[n, d]`, unit length.
        view: side of the square that is seen, unit length, around the middle of the box.
        caption: a line of text.
    """
    from dmdenv.envs.rendering import Canvas, scale_color

    sigma = potential.parameters["sigma"]
    assert isinstance(sigma, PerParticle)
    counts, held = (np.asarray(x) for x in held_contacts(potential, space, positions))
    x, diameters = np.asarray(space.wrap(positions), float), np.asarray(sigma.values, float)
    side, depth = float(space.heights(x.shape[1])[0]), np.ones(len(x))
    if x.shape[1] == 3:
        depth = 0.25 + 0.75 * x[:, 2] / side
    canvas = Canvas(np.full(2, 0.5 * (side - view)), view, period=side)
    for i in np.argsort(depth):
        shown = scale_color((int(counts[i]) - 2) / 5) if held[i] else "#2b3350"
        radius = 0.5 * float(diameters[i])
        canvas.disc(x[i, :2], radius, "#0d1220")  # a rim, so that overlapping discs can be told apart
        canvas.disc(x[i, :2], radius - 0.025, shown, opacity=float(depth[i]))
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] - x[first]
    apart -= side * np.round(apart / side)
    reach = 0.5 * (diameters[first] + diameters[second])
    distance = np.linalg.norm(apart, axis=1)
    force = np.maximum(1 - distance / reach, 0.0) ** (float(largest(potential.parameters["alpha"])) - 1) / reach
    touching = force > 0
    scale = force[touching].mean() if touching.any() else 1.0
    for i, bond, f in zip(first[touching], apart[touching], force[touching] / scale, strict=True):
        canvas.bond(x[i, :2], bond[:2], "#0d1220", 0.045 * min(np.sqrt(f), 2.5))
    canvas.frame(np.zeros(2), side)
    canvas.caption(caption)
    return canvas.image()
