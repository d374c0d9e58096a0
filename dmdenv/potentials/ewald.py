"""The Ewald sum: charges in a periodic box and all of their images.

With the splitting eta, the reciprocal vectors k of the box, `S(k) = sum_j q_j exp(i k . r_j)` and Coulomb's constant C,

    U / C = 1/2 sum_i sum_{j != i} q_i q_j erfc(eta r_ij) / r_ij                   (real space, up to the cutoff)
          + 1 / (2 V) sum_{k != 0} (4 pi / k^2) exp(-k^2 / (4 eta^2)) |S(k)|^2     (reciprocal space)
          - (eta / sqrt(pi)) sum_i q_i^2                                           (each Gaussian with itself)
          - pi / (2 eta^2 V) (sum_i q_i)^2                                         (a uniform background)

with a conductor around the infinite crystal ("tinfoil"). The reciprocal vectors are `k = 2 pi (m_1 b_1 + m_2 b_2 + m_3
b_3)`, all |m_a| up to a largest one. A phase is the product of one for each axis, so S is one matrix product, of the
phases along x and y, `[k_x k_y, n]`, and the charges times those along z, `[n, k_z]`.

References: Ewald, Ann. Phys. 369, 253 (1921); Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017),
section 6.2.1; the errors: Kolafa and Perram, Mol. Simul. 9, 351 (1992), for random positions; the background: Hub, de
Groot, Grubmueller and Groenhof, J. Chem. Theory Comput. 10, 381 (2014), eq. 2.
"""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.fields import Declared, Number, Real, number, sizes
from dmdenv._core.pytree import pytree, static
from dmdenv.neighbors import Pairs
from dmdenv.potentials.base import Potential
from dmdenv.potentials.pair import PairPotential, distance
from dmdenv.potentials.parameters import PerParticle, products
from dmdenv.space import Deformed, Periodic, Space, require_periodic

_BALANCE = 0.43  # of the default cutoff, in units of a sqrt(log(1 / accuracy)) n^(1/6): a pair costs as much as five k


@pytree
class Ewald(Declared, Potential):
    """The Ewald sum of charges; see the module's formula. Made by `ewald`, which chooses splitting and vectors.

    Args:
        charges: `[n]`, unit charge.
        splitting: eta, `[]`, unit 1 / length.
        pair_cutoff: of the sum in real space, `[]`, unit length.
        coulomb_constant: C, `[]`, unit energy length / charge^2.
        largest: the largest m along each axis, three of them: static.
        background: whether charges may have a sum, which a uniform background neutralises: static.

    Raises:
        ValueError: for a value that is not finite or out of range, or for a sum without background.
    """

    charges: jax.Array = number(per_particle=True)
    splitting: jax.Array = number(above=0)
    pair_cutoff: jax.Array = number(above=0)
    coulomb_constant: jax.Array = number(above=0)
    largest: tuple[int, ...] = sizes()
    background: bool = static(default=False)

    def __post_init__(self):
        super().__post_init__()
        if not self.charges.ndim:
            raise ValueError("charges has shape (); must be [n], one per particle")
        if len(self.largest) != 3:
            raise ValueError(f"largest = {self.largest}; must be three integers >= 1")
        if not self.background and not isinstance(self.charges, jax.core.Tracer):
            total, allowed = map(float, _net_charge(self.charges))
            if abs(total) > allowed:
                raise ValueError(
                    f"charges add up to {total:g}; must be 0, or background = True for a uniform background that"
                    " neutralises them"
                )

    @property
    def cutoff(self) -> jax.Array:
        """That of the sum in real space."""
        return self.pair_cutoff

    def energies(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        q = self._checked(space, positions)
        cell = _cell(space)
        phases_xy, phases_z = self._phases(space, positions)
        factors = _product(phases_xy, (q[None, :] * phases_z).T)
        weighted = self._weights(cell) * jnp.conj(factors)
        potentials = jnp.sum(_product(phases_xy.T, weighted) * phases_z.T, axis=1).real
        own = -self.splitting / math.sqrt(math.pi) * q**2 + self._background_potential(cell, q) * q
        return self._pairs(q).energies(space, positions, pairs) + q * potentials + self.coulomb_constant * own

    def energy(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        q = self._checked(space, positions)
        real = self._pairs(q).energy(space, positions, pairs)
        return real + self._energy_beside_pairs(space, positions, q)

    def forces(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        q = self._checked(space, positions)
        real = self._pairs(q).forces(space, positions, pairs)
        return real - jax.grad(self._energy_beside_pairs, argnums=1)(space, positions, q)

    def virial(self, space: Space, positions: jax.Array, pairs: Pairs) -> jax.Array:
        q = self._checked(space, positions)

        def strained_energy(deformation):
            deformed: Any = Deformed(space, deformation)
            return self._energy_beside_pairs(deformed, positions, q)

        strain = jnp.eye(3, dtype=positions.dtype)
        return self._pairs(q).virial(space, positions, pairs) - jax.grad(strained_energy)(strain)

    def force_error(self, space: Space) -> jax.Array:
        """The expected error of a force in real and in reciprocal space, `[2]`, relative as `accuracy` of `ewald` is.

        To be watched where a box changes much: it is written for random positions (Kolafa and Perram, eqs. 18, 32).
        """
        cell = _cell(space)
        spacing = (_volume(cell) / len(self.charges)) ** (1 / 3)
        edges = jnp.sqrt(jnp.sum(cell**2, axis=1))
        k = jnp.min(2 * jnp.pi * (jnp.asarray(self.largest) + 1.0) / edges)
        return jnp.stack(
            [
                2.0 * jnp.sqrt(spacing / self.pair_cutoff) * jnp.exp(-((self.splitting * self.pair_cutoff) ** 2)),
                2.0 * self.splitting * jnp.sqrt(2.0 * spacing / k) * jnp.exp(-((0.5 * k / self.splitting) ** 2)),
            ]
        )

    def _checked(self, space: Space, positions: jax.Array) -> jax.Array:
        """The charges, NaN where they have a sum without background, for positions `[n, 3]` in a periodic space."""
        if positions.shape != (len(self.charges), 3):
            raise ValueError(
                f"positions has shape {positions.shape}; must be [{len(self.charges)}, 3], one per charge, in three"
                " dimensions"
            )
        _cell(space)
        total, allowed = _net_charge(self.charges)
        sound = self.background | (jnp.abs(total) <= allowed)
        return jnp.where(sound, self.charges, jnp.nan)

    def _pairs(self, charges: jax.Array) -> PairPotential:
        return PairPotential(
            function=_screened,
            parameters={
                "product": products(charges),
                "splitting": self.splitting,
                "coulomb_constant": self.coulomb_constant,
            },
            pair_cutoff=self.pair_cutoff,
            onset=None,
            cutoff_unit=None,
            truncation="truncated",
        )

    def _energy_beside_pairs(self, space: Space, positions: jax.Array, q: jax.Array) -> jax.Array:
        """Reciprocal space, self energy and background, `[]`."""
        cell = _cell(space)
        phases_xy, phases_z = self._phases(space, positions)
        factors = _product(phases_xy, (q[None, :] * phases_z).T)
        reciprocal = jnp.sum(self._weights(cell) * (factors.real**2 + factors.imag**2))
        own = -self.splitting / math.sqrt(math.pi) * jnp.sum(q**2) + self._background_potential(cell, q) * jnp.sum(q)
        return reciprocal + self.coulomb_constant * own

    def _phases(self, space: Any, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`exp(i k . r)` by the vectors along x and y, `[k_x k_y, n]`, and along z, `[k_z, n]`."""
        f = space.fractional(positions)
        f = (f - jax.lax.stop_gradient(jnp.round(f))).T
        x, y, z = (
            _phase(jnp.asarray(m, f.dtype)[:, None] * turns)
            for m, turns in zip(self._counts, jnp.split(f, 3), strict=True)
        )
        return (x[:, None] * y[None]).reshape(-1, len(positions)), z

    def _weights(self, cell: jax.Array) -> jax.Array:
        """`C (2 pi / (V k^2)) exp(-k^2 / (4 eta^2))` of the vectors, `[k_x k_y, k_z]`, those with m_x > 0 twice."""
        m = np.stack(np.meshgrid(*self._counts, indexing="ij"), axis=-1).reshape(-1, 3)
        twice = jnp.asarray(np.where(m[:, 0] > 0, 2, 1) * np.any(m, axis=1), cell.dtype)  # k and -k; 0 is left out
        k = jnp.matmul(jnp.asarray(m, cell.dtype), 2 * jnp.pi * _areas(cell) / _volume(cell), precision="highest")
        squared = jnp.sum(k**2, axis=1) + jnp.asarray(np.all(m == 0, axis=1), cell.dtype)
        weights = twice * jnp.exp(-squared / (4.0 * self.splitting**2)) / squared
        return (2 * jnp.pi * self.coulomb_constant / _volume(cell) * weights).reshape(-1, 2 * self.largest[2] + 1)

    @property
    def _counts(self) -> list[np.ndarray]:
        """The m along each axis, of one half of the vectors: the other half are their opposites."""
        x, y, z = self.largest
        return [np.arange(0, x + 1), np.arange(-y, y + 1), np.arange(-z, z + 1)]

    def _background_potential(self, cell: jax.Array, q: jax.Array) -> jax.Array:
        return -math.pi / (2.0 * self.splitting**2 * _volume(cell)) * jnp.sum(q)


def ewald(
    *,
    charges: np.ndarray | jax.Array | PerParticle,
    space: Space,
    accuracy: float = 1e-5,
    cutoff: float | None = None,
    splitting: float | None = None,
    coulomb_constant: float | jax.Array = 1.0,
    background: bool = False,
) -> Ewald:
    """The Coulomb energy of charges in a periodic box with all images, to a wanted accuracy; three-dimensional.

    The module has the formula. The splitting and the number of reciprocal vectors are chosen here
    and kept, also in a box that changes: `Ewald.force_error` says how accurate they are there. The cost is O(n^1.5)
    with neighbour lists and the default cutoff; memory is 16 bytes per charge and pair (k_x, k_y) in double precision.

    In compiled code, charges that have a sum without background give NaN.

    Args:
        charges: `[n]`, or `PerParticle`, unit charge.
        space: `Periodic` or `Triclinic`, of three dimensions, concrete.
        accuracy: the error to expect of a force, root mean square over random positions, in units of
            `C <q^2> / a^2` with a = (V / n)^(1/3); in real and in reciprocal space each.
        cutoff: of the sum in real space, unit length; by default about where it costs as much as the one over
            reciprocal vectors, but at most where a pair has one image.
        splitting: eta, unit 1 / length, instead of the one by the accuracy in real space.
        coulomb_constant: C, unit energy length / charge^2: 1 in reduced units, 14.399645 eV A / e^2.
        background: whether charges may have a sum, which a uniform background neutralises. The pressure includes that
            of the background.

    Raises:
        ValueError: for charges that have a sum without background, a space that is not periodic, not of three
            dimensions or not concrete, a cutoff at which pairs have several images, or a value out of range.
    """
    if isinstance(charges, PerParticle):
        charges = charges.values
    accuracy = Real(above=0).convert("accuracy", accuracy)
    if accuracy >= 1:
        raise ValueError(f"accuracy = {accuracy!r}; must be > 0 and < 1")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(space)):
        raise ValueError("space is traced; must be concrete: call ewald outside of jit, and pass in the potential")
    q = Number(axes=1).convert("charges", charges)
    with jax.ensure_compile_time_eval():
        cell = np.asarray(_cell(space), float)
        limit = float(space.largest_cutoff(3))
    n = q.shape[0] if q.ndim else 1
    spacing = (abs(np.linalg.det(cell)) / n) ** (1 / 3)
    if cutoff is None:
        cutoff = min(limit, _BALANCE * spacing * math.sqrt(math.log(2 / accuracy)) * n ** (1 / 6))
    rc: float = Real(above=0).convert("cutoff", cutoff)
    if rc > limit * (1 + 1e-6):
        raise ValueError(f"cutoff = {rc:g}; must be at most {limit:g}, for a pair to have one image")
    if splitting is None:
        splitting = math.sqrt(max(math.log(2 * math.sqrt(spacing / rc) / accuracy), 1.0)) / rc
    eta: float = Real(above=0).convert("splitting", splitting)
    k = _reciprocal_cutoff(accuracy, eta, spacing)
    return Ewald(
        charges=q,
        splitting=jnp.asarray(eta),
        pair_cutoff=jnp.asarray(rc),
        coulomb_constant=jnp.asarray(coulomb_constant),
        largest=tuple(max(1, int(k * edge / (2 * math.pi))) for edge in np.linalg.norm(cell, axis=1)),
        background=bool(background),
    )


def _reciprocal_cutoff(accuracy: float, splitting: float, spacing: float) -> float:
    """The k beyond which all vectors together contribute less than the accuracy: see `Ewald.force_error`."""
    x = 1.0  # k / (2 eta)
    for _ in range(50):  # x^2 = log(2 sqrt(eta a / x) / accuracy) has one solution, to which it contracts
        x = math.sqrt(max(math.log(2 * math.sqrt(splitting * spacing / x) / accuracy), 1.0))
    return 2 * splitting * x


def _net_charge(charges: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of charges and how much of it may be rounding, `[]` each."""
    tolerance = max(1e-6, 64 * float(jnp.finfo(charges.dtype).eps))
    return jnp.sum(charges), tolerance * jnp.sum(jnp.abs(charges))


def _cell(space: Any) -> jax.Array:
    """The edges as rows, `[3, 3]`, of a space that is periodic in three dimensions, perhaps deformed."""
    undeformed = space
    while isinstance(undeformed, Deformed):
        undeformed = undeformed.space
    require_periodic(undeformed)
    flat = isinstance(undeformed, Periodic) and undeformed.box.shape not in ((), (3,))
    cell = None if flat else space.cell_vectors(3)
    if cell is None or cell.shape != (3, 3):
        raise ValueError(f"space = {undeformed}; must have three dimensions for an Ewald sum")
    return cell


def _areas(cell: jax.Array) -> jax.Array:
    """The cross products of the edges two by two, as rows, `[3, 3]`: the reciprocal vectors times V / (2 pi)."""
    b, c = jnp.roll(cell, -1, axis=0), jnp.roll(cell, -2, axis=0)
    return jnp.roll(b, -1, axis=1) * jnp.roll(c, -2, axis=1) - jnp.roll(b, -2, axis=1) * jnp.roll(c, -1, axis=1)


def _volume(cell: jax.Array) -> jax.Array:
    return jnp.sum(cell * _areas(cell)) / 3.0


def _phase(turns: jax.Array) -> jax.Array:
    return jax.lax.complex(jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def _screened(s: jax.Array, *, product: jax.Array, splitting: jax.Array, coulomb_constant: jax.Array) -> jax.Array:
    r = distance(s)
    return coulomb_constant * product * jax.lax.erfc(splitting * r) / r
