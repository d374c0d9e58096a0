"""Equations of motion on a lattice of integers, each step of which can be undone bit by bit.

Positions and velocities are whole multiples of a small length and a small velocity. A step is a sequence of moves

    a <- a + round(f(b)),

where the increment of one variable depends on the others only: the same increment, subtracted, undoes it exactly, which
no floating-point addition allows. What would multiply velocities by a factor c, as friction does, is no such move.
Instead the unit of the velocities is multiplied, the gauge g, and their integers stay: `v = g u`, with g -> c g.

    NVE          g = 1
    Nose-Hoover  g = exp(-(xi_1 - xi_1(0))): u is Nose's virtual momentum. The chain itself, 2 M numbers, is kept.
    Langevin     g = c^k falls without bound. From time to time the integers are shifted right and g grows by as much;
                 the bits that fall out, gamma dt / ln 2 per number and step, are the information that friction
                 destroys, and are kept.

References: Levesque and Verlet, J. Stat. Phys. 72, 519 (1993); Rein and Tamayo, MNRAS 473, 3351 (2018), section 2. The
bits that friction destroys: Maclaurin, Duvenaud and Adams, ICML 2015, section 3.
"""

import abc
import math
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmdenv._core.control_flow import cond
from dmdenv._core.fields import Real
from dmdenv._core.in_batch import any_in_batch
from dmdenv._core.isolate import isolated, unknown
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.integrators import NVE, Integrator, Langevin, NoseHoover
from dmdenv.integrators.base import per_particle
from dmdenv.neighbors import NeighborList, Pairs
from dmdenv.potentials import Potential
from dmdenv.space import Space

I = TypeVar("I", bound=Integrator)

_DIGITS = 52  # bits of a position as long as the system
_LARGEST = 2.0**61  # of an integer: the sum of two does not overflow
_SHIFT = 8  # bits that friction may take from a velocity before they are shifted out


@pytree
class Frame:
    """What integers mean, and the factors of increments; computed once, so that both directions read the same bits."""

    length: jax.Array  # [], unit length, a power of two
    velocity: jax.Array  # [], unit length / time, a power of two
    kick: jax.Array  # [n, 1], dt / (2 m velocity), unit time / (mass velocity)
    drift: jax.Array  # [], dt velocity / length, no unit
    own: dict[str, jax.Array]  # of the method


@pytree
class Walker(Replaceable):
    """A configuration on the lattice."""

    positions: jax.Array  # int64 [n, d], in units of `Frame.length`, not wrapped
    velocities: jax.Array  # int64 [n, d], in units of `Frame.velocity` times the gauge
    forces: jax.Array  # [n, d], unit energy / length
    pairs: Pairs
    own: dict[str, Any]  # of the method
    step: jax.Array  # int64 [], how many have been made
    valid: jax.Array  # bool [], sticky: everything has been finite and within the range of the integers


class Motion(abc.ABC, Generic[I]):
    """How one method walks on the lattice, for given parameters and a first state."""

    velocity_digits: ClassVar[int]  # how much finer than `length / dt` the unit of velocities is, in bits

    def __init__(self, integrator: I, potential: Potential, state: Any, frame: Frame | None = None):
        number = lax.bitcast_convert_type(state.positions[0, 0], jnp.int64)
        self.integrator, self.potential, self.state = unknown((integrator, potential, state), number)
        self.frame = self._make_frame() if frame is None else frame

    # --- there and back -----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def advance(self, walker: Walker) -> tuple[Walker, Any]:
        """The walker one step later, and the little that `retreat` needs besides it."""

    @abc.abstractmethod
    def retreat(self, walker: Walker, kept: Any) -> Walker:
        """The walker one step earlier: the inverse of `advance`, bit by bit."""

    @abc.abstractmethod
    def _fields(self, walker: Walker) -> dict[str, Any]:
        """Velocities `[n, d]`, and the fields that only this method's state has."""

    # --- between numbers and integers ---------------------------------------------------------------------------------

    def begin(self) -> Walker:
        """The first state, rounded to the lattice."""
        state, frame = self.state, self.frame
        x, fits = _move(jnp.zeros_like(state.positions, jnp.int64), state.positions / frame.length, True)
        x, fits = _move(x, state.lost["positions"] / frame.length, fits)
        v, fits = _move(jnp.zeros_like(x), state.velocities / frame.velocity, fits)
        pairs = state.pairs.flag_cutoff(self.potential.cutoff, state.space, state.positions.shape[1])
        return self.at(Walker(x, v, state.forces, _in_order(pairs), self._begin(), jnp.asarray(0), fits))

    def _begin(self) -> dict[str, Any]:
        return {}

    def state_at(self, walker: Walker, pairs: Pairs | None = None) -> Any:
        """The walker as a state, perhaps with other pairs; NaN where the lattice was left."""
        state, poison = self.state, jnp.where(walker.valid, 0.0, jnp.nan)
        images, positions, rounding = state.space.split(walker.positions * self.frame.length)
        fields = self._fields(walker)
        velocities = fields.pop("velocities") + poison
        return state.replace(
            **fields,
            positions=positions + poison,
            images=state.images + images,
            velocities=velocities,
            forces=walker.forces + poison,
            pairs=walker.pairs if pairs is None else pairs,
            time=(state.time + state.lost["time"]) + walker.step * self.integrator.dt,
            lost={name: jnp.zeros_like(value) for name, value in state.lost.items()} | {"positions": rounding},
        )

    def _make_frame(self) -> Frame:
        state, dt, d = self.state, self.integrator.dt, self.state.positions.shape[1]
        heights = state.space.heights(d)
        sides: Any = jnp.where(jnp.isfinite(heights), heights, 8.0)
        extent = jnp.max(sides)
        extent = jnp.maximum(extent, jnp.max(jnp.abs(state.positions)))
        length = _power_of_two(extent) * 2.0**-_DIGITS
        velocity = _power_of_two(length / jnp.where(dt == 0, 1.0, jnp.abs(dt))) * 2.0**-self.velocity_digits
        kick = 0.5 * dt / (state.masses[:, None] * velocity)
        return Frame(length, velocity, kick, dt * velocity / length, self._own_frame(length, velocity))

    def _own_frame(self, length: jax.Array, velocity: jax.Array) -> dict[str, jax.Array]:
        return {}

    # --- moves --------------------------------------------------------------------------------------------------------

    def at(self, walker: Walker) -> Walker:
        """The walker with the neighbours and the forces at its positions, in the same bits whenever it is there."""
        space, x, length = self.state.space, walker.positions, self.frame.length
        pairs = _update(walker.pairs, space, space.split(x * length)[1])
        forces = isolated(_forces, x[0, 0], self.potential, space, x, length, pairs)
        return walker.replace(pairs=pairs, forces=forces)


def _move(integers: jax.Array, increment: jax.Array, valid: Any) -> tuple[jax.Array, jax.Array]:
    """The integers after an increment, rounded, and whether everything is still within their range."""
    moved = integers + _rounded(increment)
    fits = jnp.all(jnp.abs(increment) < _LARGEST) & jnp.all(jnp.abs(moved) < _LARGEST)  # not for a NaN
    return moved, valid & fits


def _rounded(increment: jax.Array) -> jax.Array:
    return jnp.round(increment).astype(jnp.int64)


def _times(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.multiply, a, b)


def _power_of_two(value: jax.Array) -> jax.Array:
    """The least power of two that is larger than a positive number, `[]`."""
    return jnp.ldexp(jnp.ones_like(value), jnp.frexp(value)[1])


def _forces(potential: Potential, space: Space, x: jax.Array, length: jax.Array, pairs: Pairs) -> jax.Array:
    return potential.forces(space, space.split(x * length)[1], pairs)


# --- neighbour lists --------------------------------------------------------------------------------------------------
# A sum over a list adds one column after the other, and pairs beyond the cutoff add exact zeros. So it depends on the
# order of a particle's neighbours, but not on which farther pairs are in the list: in the order of their indices the
# sums are the same, whenever and wherever the list was built.


def _update(pairs: Pairs, space: Space, positions: jax.Array) -> Pairs:
    """The pairs at new positions, in order."""
    updated = pairs.update(space, positions)
    if not isinstance(updated, NeighborList) or not isinstance(pairs, NeighborList):
        return updated
    rebuilt = any_in_batch(jnp.any(updated.positions != pairs.positions))
    return cond(rebuilt, _in_order, lambda pairs: pairs, updated) if updated.cells else updated


def _in_order(pairs: Pairs) -> Any:
    """A list with each particle's neighbours in the order of their indices, as it is where there are no cells."""
    if not isinstance(pairs, NeighborList) or not pairs.cells:
        return pairs
    n = pairs.count
    own = jnp.arange(n, dtype=pairs.indices.dtype)[None, :]
    indices = jnp.sort(jnp.where(pairs.indices == own, n, pairs.indices), axis=0)
    return pairs.replace(indices=jnp.where(indices == n, own, indices))


# --- methods ----------------------------------------------------------------------------------------------------------


class _NVE(Motion[NVE]):
    velocity_digits = 10

    def advance(self, walker: Walker) -> tuple[Walker, None]:
        return _verlet(self, walker, self.frame.kick, self.frame.drift), None

    def retreat(self, walker: Walker, kept: None) -> Walker:
        return _verlet_back(self, walker, self.frame.kick, self.frame.drift)

    def _fields(self, walker: Walker) -> dict[str, Any]:
        return {"velocities": walker.velocities * self.frame.velocity}


def _verlet(motion: Motion, walker: Walker, kick: jax.Array, drift: jax.Array) -> Walker:
    """Velocity Verlet, by the factors of its increments, `[n, 1]` and `[]`: see `Frame`."""
    v, valid = _move(walker.velocities, walker.forces * kick, walker.valid)
    x, valid = _move(walker.positions, v * drift, valid)
    walker = motion.at(walker.replace(positions=x))
    v, valid = _move(v, walker.forces * kick, valid)
    return walker.replace(velocities=v, step=walker.step + 1, valid=valid)


def _verlet_back(motion: Motion, walker: Walker, kick: jax.Array, drift: jax.Array) -> Walker:
    """The inverse of `_verlet`."""
    v = walker.velocities - _rounded(walker.forces * kick)
    walker = motion.at(walker.replace(positions=walker.positions - _rounded(v * drift)))
    return walker.replace(velocities=v - _rounded(walker.forces * kick), step=walker.step - 1)


class _NoseHoover(Motion[NoseHoover]):
    velocity_digits = 6

    def _begin(self) -> dict[str, Any]:
        return {name: getattr(self.state, name) for name in ("thermostat_positions", "thermostat_velocities")}

    def advance(self, walker: Walker) -> tuple[Walker, Any]:
        before = walker.own
        own = self._half_step_of_chain(walker, before)
        gauge, inverse = self._gauge(own)
        walker = _verlet(self, walker, *self._factors(walker, gauge, inverse))
        return walker.replace(own=self._half_step_of_chain(walker, own)), (before, gauge, inverse)

    def retreat(self, walker: Walker, kept: Any) -> Walker:
        before, gauge, inverse = kept
        return _verlet_back(self, walker, *self._factors(walker, gauge, inverse)).replace(own=before)

    def _factors(self, walker: Walker, gauge: jax.Array, inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Those of kicks `[n, 1]` and drifts `[]`."""
        return isolated(_times, walker.positions[0, 0], (self.frame.kick, self.frame.drift), (inverse, gauge))

    def _fields(self, walker: Walker) -> dict[str, Any]:
        gauge, _ = self._gauge(walker.own)
        return {"velocities": walker.velocities * (self.frame.velocity * gauge), **walker.own}

    def _gauge(self, own: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """g and 1 / g, `[]`."""
        since = own["thermostat_positions"][0] - self.state.thermostat_positions[0]
        return jnp.exp(-since), jnp.exp(since)

    def _half_step_of_chain(self, walker: Walker, own: dict[str, jax.Array]) -> dict[str, jax.Array]:
        gauge, _ = self._gauge(own)
        v = walker.velocities * (self.frame.velocity * gauge)
        moved = self.integrator.half_step_of_chain(self.state.replace(velocities=v, **own))
        return {name: getattr(moved, name) for name in own}


class _Langevin(Motion[Langevin]):
    velocity_digits = 4
    max_damping: float
    steps: int

    def __init__(self, integrator, potential, state, frame=None, *, steps: int, max_damping: float):
        self.steps, self.max_damping = steps, max_damping
        super().__init__(integrator, potential, state, frame)

    @property
    def _period(self) -> int:
        """Steps from one shift to the next one."""
        return max(1, min(int(_SHIFT * math.log(2) / self.max_damping), 2**30))

    def _own_frame(self, length: jax.Array, velocity: jax.Array) -> dict[str, jax.Array]:
        i, state = self.integrator, self.state
        damping = i.dt * per_particle(i.friction)
        spread = jnp.sqrt(-jnp.expm1(-2.0 * damping)) * jnp.sqrt(i.temperature) / jnp.sqrt(state.masses[:, None])
        thermal = 0.5 * state.positions.size * i.temperature + state.kinetic_energy
        scale: Any = jnp.where(thermal > 0, thermal, 1.0)
        energy = _power_of_two(scale) * 2.0**-_DIGITS
        per_shift = damping * (self._period / math.log(2))  # bits, <= _SHIFT
        return {"damping": damping, "per_shift": per_shift, "noise": spread / velocity, "energy": energy}

    def _begin(self) -> dict[str, Any]:
        slots = self.steps // self._period + 1  # the last one is written in vain
        return {
            "key": self.state.key,
            "bath_energy": jnp.zeros((), jnp.int64),
            "bits": jnp.zeros((slots, *self.state.positions.shape), jnp.uint8),
        }

    def begin(self) -> Walker:
        walker = super().begin()
        fits = jnp.all(self.frame.own["damping"] <= self.max_damping * (1 + 1e-9))
        return walker.replace(valid=walker.valid & fits)

    def advance(self, walker: Walker) -> tuple[Walker, Any]:
        k, own, before, after = walker.step, walker.own, *self._gauges(walker, walker.step)
        key, draw = jax.random.split(own["key"])
        u, valid = _move(walker.velocities, walker.forces * before.kick, walker.valid)
        x, valid = _move(walker.positions, u * before.drift, valid)
        v, valid = _move(u, self._noise(walker, draw, after), valid)
        bath, valid = _move(own["bath_energy"], self._heat(u, before, v, after), valid)
        x, valid = _move(x, v * after.drift, valid)
        walker = self.at(walker.replace(positions=x))
        v, valid = _move(v, walker.forces * after.kick, valid)
        v, bits = self._shift_out(v, own["bits"], k)
        made = {"key": key, "bath_energy": bath, "bits": bits}
        return walker.replace(velocities=v, own=made, step=k + 1, valid=valid), own["key"]

    def retreat(self, walker: Walker, kept: Any) -> Walker:
        k, own, before, after = walker.step - 1, walker.own, *self._gauges(walker, walker.step - 1)
        _, draw = jax.random.split(kept)
        v = self._shift_in(walker.velocities, own["bits"], k)
        v = v - _rounded(walker.forces * after.kick)
        x = walker.positions - _rounded(v * after.drift)
        u = v - _rounded(self._noise(walker, draw, after))
        bath = own["bath_energy"] - _rounded(self._heat(u, before, v, after))
        walker = self.at(walker.replace(positions=x - _rounded(u * before.drift)))
        u = u - _rounded(walker.forces * before.kick)
        return walker.replace(velocities=u, own={**own, "key": kept, "bath_energy": bath}, step=k)

    def _fields(self, walker: Walker) -> dict[str, Any]:
        gauge, _ = self._gauges(walker, walker.step)
        exchanged = walker.own["bath_energy"] * self.frame.own["energy"]
        return {
            "velocities": walker.velocities * gauge.velocity,
            "bath_energy": (self.state.bath_energy + self.state.lost["bath_energy"]) + exchanged,
            "key": walker.own["key"],
        }

    # --- the gauge and the bits ---------------------------------------------------------------------------------------

    def _gauges(self, walker: Walker, k: jax.Array) -> tuple["_Gauge", "_Gauge"]:
        """Those before and after friction in step k."""
        lost = k // self._period * self.frame.own["per_shift"]  # bits, before the last shift
        operands = self.frame, lost, k % self._period * self.frame.own["damping"]
        return isolated(_gauges, walker.positions[0, 0], *operands)

    def _shift(self, k: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Bits to shift velocities by after step k, int64 `[]` or `[n, 1]`; half of what they count; and the slot."""
        slot = k // self._period
        per_shift = self.frame.own["per_shift"]
        bits = (jnp.floor((slot + 1) * per_shift) - jnp.floor(slot * per_shift)).astype(jnp.int64)
        bits = jnp.where((k + 1) % self._period == 0, jnp.clip(bits, 0, _SHIFT), 0)
        return bits, (1 << bits) >> 1, slot

    def _shift_out(self, v: jax.Array, kept: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        bits, half, slot = self._shift(k)
        out = ((v + half) & ((1 << bits) - 1)).astype(kept.dtype)
        return (v + half) >> bits, lax.dynamic_update_index_in_dim(kept, out, slot, 0)

    def _shift_in(self, v: jax.Array, kept: jax.Array, k: jax.Array) -> jax.Array:
        bits, half, slot = self._shift(k)
        out = lax.dynamic_index_in_dim(kept, slot, 0, keepdims=False)
        return ((v << bits) | jnp.where(bits > 0, out, 0).astype(v.dtype)) - half

    # --- increments ---------------------------------------------------------------------------------------------------

    def _noise(self, walker: Walker, draw: jax.Array, gauge: "_Gauge") -> jax.Array:
        def noise(draw: jax.Array, size: jax.Array) -> jax.Array:
            return jax.random.normal(draw, walker.velocities.shape, size.dtype) * size

        return isolated(noise, walker.positions[0, 0], draw, gauge.noise)

    def _heat(self, u: jax.Array, before: "_Gauge", v: jax.Array, after: "_Gauge") -> jax.Array:
        """What a step takes from the bath, `[]`, in lattice units."""

        def heat(m: jax.Array, energy: jax.Array, u: jax.Array, before: jax.Array, v: jax.Array, after: jax.Array):
            return 0.5 * jnp.sum(m * ((v * after) ** 2 - (u * before) ** 2)) / energy

        operands = self.state.masses[:, None], self.frame.own["energy"], u, before.velocity, v, after.velocity
        return isolated(heat, u[0, 0], *operands)


class _Gauge(NamedTuple):
    """The unit of velocities and the factors of increments, `[]` or `[n, 1]`: see `Frame`."""

    velocity: jax.Array
    kick: jax.Array
    drift: jax.Array  # over half a step
    noise: jax.Array


def _gauges(frame: Frame, lost: jax.Array, since: jax.Array) -> tuple[_Gauge, _Gauge]:
    """The gauges `exp(-exponent)` before and after friction; `lost` in bits, `since` in natural units."""
    exponent = (lost - jnp.floor(lost)) * math.log(2) + since

    def gauge(exponent: jax.Array) -> _Gauge:
        g, inverse = jnp.exp(-exponent), jnp.exp(exponent)
        return _Gauge(frame.velocity * g, frame.kick * inverse, 0.5 * frame.drift * g, frame.own["noise"] * inverse)

    return gauge(exponent), gauge(exponent + frame.own["damping"])


# --- by integrator ----------------------------------------------------------------------------------------------------

_MOTIONS: dict[type, Any] = {NVE: _NVE, NoseHoover: _NoseHoover, Langevin: _Langevin}


def options_of(integrator: Any, steps: int, max_damping: float | None) -> dict[str, Any]:
    """What the motion of an integrator needs besides it, checked.

    Raises:
        TypeError: for an integrator that has no motion on the lattice.
        ValueError: for a `max_damping` that is not positive, missing where it is not known, or of no use.
    """
    if type(integrator) not in _MOTIONS:
        names = ", ".join(kind.__name__ for kind in _MOTIONS)
        raise TypeError(f"integrator is a {type(integrator).__name__}; must be one that can be undone: {names}")
    if not isinstance(integrator, Langevin):
        if max_damping is not None:
            raise ValueError(f"max_damping = {max_damping!r}; must be None for {type(integrator).__name__}")
        return {}
    largest = Real(above=0, at_most=_SHIFT * math.log(2), optional=True).convert("max_damping", max_damping)
    factors = integrator.dt, integrator.friction
    if largest is None:
        if any(isinstance(factor, jax.core.Tracer) for factor in factors):
            raise ValueError("max_damping = None; must be the largest dt * friction where these are traced")
        found = float(np.max(np.asarray(factors[0]) * np.asarray(factors[1])))
        largest = Real(above=0, at_most=_SHIFT * math.log(2)).convert("dt * friction", found)
    return {"steps": steps, "max_damping": largest}


def motion_of(integrator: Any, potential: Potential, state: Any, options: dict[str, Any], frame: Frame | None = None):
    """The motion of an integrator on the lattice."""
    return _MOTIONS[type(integrator)](integrator, potential, state, frame, **options)
