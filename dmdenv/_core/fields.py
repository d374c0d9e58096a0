"""Declared fields: the kind and the range of a value stand where the field is declared, and are checked in one place.

    @pytree
    class Langevin(Declared):
        dt: Scalar = number(above=0)
        friction: Scalar = number(above=0, per_particle=True)
        substeps: int = whole(1, at_least=1)

A dynamic number is kept as an array of the default precision and is a leaf of the tree; all other kinds are static.
Concrete values are checked at construction. A tracer has no value to check: it passes, if its type and shape fit.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import Replaceable


class Declared(Replaceable):
    """A frozen dataclass whose declared fields are checked and converted at construction.

    A class with conditions between fields extends `__post_init__` and calls this one first.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            if rule := field.metadata.get("rule"):
                value = rule.converted(f"{type(self).__name__}.{field.name}", getattr(self, field.name))
                object.__setattr__(self, field.name, value)


# --- kinds of fields --------------------------------------------------------------------------------------------------


def number(
    default: Any = dataclasses.MISSING,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    integral: bool = False,
    per_particle: bool = False,
    batched: bool = False,
    optional: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """A dynamic number: a leaf of the tree, kept as an array of the default precision.

    Args:
        default: none by default.
        above: what it must exceed, unit of the field.
        at_least: its least value.
        below: what it must stay below.
        at_most: its greatest value.
        integral: whether it must be a whole number.
        per_particle: whether there may be one for each particle, `[n]`, instead of one for all, `[]`.
        batched: whether it may have any shape, for `jax.vmap` over its leading axes.
        optional: whether it may be None.
        metadata: more of what the field is to be known for, such as its unit.
    """
    rule = Number(above, at_least, below, at_most, integral, None if batched else int(per_particle), optional)
    return _field(default, rule, {} if metadata is None else metadata)


def whole(default: Any = dataclasses.MISSING, *, at_least: int, at_most: float = math.inf) -> Any:
    """A static integer; NumPy's integers are welcome."""
    return _static(default, Whole(at_least, at_most))


def real(
    default: Any = dataclasses.MISSING,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    optional: bool = False,
) -> Any:
    """A static finite number, kept as a Python float."""
    return _static(default, Real(above, at_least, at_most, optional))


def choice(default: Any = dataclasses.MISSING, *, of: tuple) -> Any:
    """A static value, one of a few."""
    return _static(default, Choice(of))


def sizes(default: Any = dataclasses.MISSING) -> Any:
    """A static tuple of integers from 1, which may be empty."""
    return _static(default, Sizes())


def _field(default: Any, rule: Any, metadata: Mapping[str, Any]) -> Any:
    return dataclasses.field(default=default, metadata={"rule": rule, **metadata})


def _static(default: Any, rule: Any) -> Any:
    return _field(default, rule, {"static": True})


# --- their rules ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Number:
    """What a dynamic number has to be; see `number`. `axes` is the largest number of axes, None for any."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    integral: bool = False
    axes: int | None = 0
    optional: bool = False

    def converted(self, name: str, value: Any) -> jax.Array | None:
        """The number as an array of the default precision, checked where it is concrete.

        Raises:
            TypeError: for what is not a real number or an array of real numbers.
            ValueError: for more axes than allowed, or for a concrete value that is not finite or out of range.
        """
        if value is None and self.optional:
            return None
        dtype = np.dtype(jnp.result_type(float))
        kind = jnp.result_type(value) if isinstance(value, jax.core.Tracer) else _kind(value)
        if kind is None or not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
            raise TypeError(f"{name} = {shown(value)}; must be {self}")
        shape = np.shape(value)
        if self.axes is not None and len(shape) > self.axes:
            raise ValueError(f"{name} has shape {shape}; must be []" + " or [n]" * self.axes)
        if isinstance(value, jax.core.Tracer):
            return value.astype(dtype)
        with np.errstate(over="ignore"):  # what is too large for the precision is infinite, and refused
            found = np.asarray(value, dtype)
        above, at_least, below, at_most = (
            dtype.type(bound) for bound in (self.above, self.at_least, self.below, self.at_most)
        )
        fits = np.isfinite(found) & (found > above) & (found >= at_least) & (found < below) & (found <= at_most)
        if self.integral:
            fits &= found == np.round(found)
        if not np.all(fits):
            raise ValueError(f"{name} = {shown(value)}; must be {self}")
        return jnp.asarray(value, dtype)

    def __str__(self) -> str:
        bounds = _bounds((">", self.above), (">=", self.at_least), ("<", self.below), ("<=", self.at_most))
        return f"{'a whole' if self.integral else 'a finite'} number{bounds}" + " or None" * self.optional


@dataclasses.dataclass(frozen=True)
class Whole:
    """What a static integer has to be."""

    at_least: int
    at_most: float = math.inf

    def converted(self, name: str, value: Any) -> int:
        """The value as Python's int, or ValueError."""
        if not is_integer(value) or not self.at_least <= value <= self.at_most:
            raise ValueError(f"{name} = {shown(value)}; must be {self}")
        return int(value)

    def __str__(self) -> str:
        return "an integer" + _bounds((">=", self.at_least), ("<=", self.at_most))


@dataclasses.dataclass(frozen=True)
class Real:
    """What a static number has to be."""

    above: float
    at_least: float
    at_most: float
    optional: bool

    def converted(self, name: str, value: Any) -> float | None:
        """The value as Python's float, or ValueError."""
        if value is None and self.optional:
            return None
        real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
        if not real or not (math.isfinite(value) and self.above < value and self.at_least <= value <= self.at_most):
            raise ValueError(f"{name} = {shown(value)}; must be {self}")
        return float(value)

    def __str__(self) -> str:
        bounds = _bounds((">", self.above), (">=", self.at_least), ("<=", self.at_most))
        return f"a finite number{bounds}" + " or None" * self.optional


@dataclasses.dataclass(frozen=True)
class Choice:
    """The values of which one is to be chosen."""

    of: tuple

    def converted(self, name: str, value: Any) -> Any:
        """The value, or ValueError."""
        known = [valid for valid in self.of if isinstance(value, type(valid) | np.integer) and value == valid]
        if not known or isinstance(value, bool):
            raise ValueError(f"{name} = {shown(value)}; must be one of {self}")
        return known[0]

    def __str__(self) -> str:
        return ", ".join(map(repr, self.of))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A tuple of integers from 1."""

    def converted(self, name: str, value: Any) -> tuple[int, ...]:
        """The value, or ValueError."""
        if not isinstance(value, tuple) or not all(is_integer(size) and size >= 1 for size in value):
            raise ValueError(f"{name} = {shown(value)}; must be a tuple of integers >= 1")
        return tuple(map(int, value))


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, jax.core.Tracer):
        return str(np.asarray(value).tolist())
    return repr(value)


def _kind(value: Any) -> np.dtype | None:
    """The type of the numbers in a concrete value; None where it holds none."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return None
    try:
        return np.asarray(value).dtype
    except ValueError:
        return None


def _bounds(*bounds: tuple[str, float]) -> str:
    """Ranges in words, such as ` > 0 and <= 1`; none where there is no bound."""
    finite = [f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound)]
    return f" {' and '.join(finite)}" if finite else ""
