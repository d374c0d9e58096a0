"""Declared fields: the kind and the range of a value are part of the declaration, and checked in one place.

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
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dmdenv._core.pytree import Replaceable

Scalar = Any  # a dynamic number: given as a number or an array, kept as an array
MOST_PARTICLES = 10_000_000  # of a configuration: what fits into a machine's memory, with room to spare


class Declared(Replaceable):
    """A frozen dataclass whose declared fields are checked and converted at construction.

    A class with conditions between fields extends `__post_init__` and calls this one first.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            if rule := field.metadata.get("rule"):
                value = rule.convert(f"{type(self).__name__}.{field.name}", getattr(self, field.name))
                object.__setattr__(self, field.name, value)


def field_values(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass instance by name, not copied."""
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


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
    per_axis: bool = False,
    batched: bool = False,
    keep_precision: bool = False,
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
        per_axis: whether there may be one for each axis of space, `[d]`, instead of one for all, `[]`.
        batched: whether it may have any shape, for `jax.vmap` over its leading axes.
        keep_precision: whether floating-point arrays keep their precision.
        optional: whether it may be None.
        metadata: more metadata of the field, such as its unit.
    """
    rule = Number(
        above=above,
        at_least=at_least,
        below=below,
        at_most=at_most,
        integral=integral,
        axes=None if batched else int(per_particle or per_axis),
        axis="d" if per_axis else "n",
        keep_precision=keep_precision,
        optional=optional,
    )
    return _field(default, rule, {} if metadata is None else metadata)


def whole(
    default: Any = dataclasses.MISSING, *, at_least: int, at_most: float = math.inf, optional: bool = False
) -> Any:
    """A static integer; NumPy's integers are welcome."""
    return _static(default, (WholeOrNone if optional else Whole)(at_least, at_most))


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
    """A static value out of a few."""
    return _static(default, Choice(of))


def sizes(default: Any = dataclasses.MISSING) -> Any:
    """A static tuple of integers >= 1, which may be empty."""
    return _static(default, Sizes())


def _field(default: Any, rule: Any, metadata: Mapping[str, Any]) -> Any:
    return dataclasses.field(default=default, metadata={"rule": rule, **metadata})


def _static(default: Any, rule: Any) -> Any:
    return _field(default, rule, {"static": True})


# --- their rules ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Number:
    """The rule of a dynamic number; see `number`. `axes` is the largest number of axes, None for any.

    Also for an argument of a function: `dt = Number(above=0).convert("dt", dt)`.
    """

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    integral: bool = False
    axes: int | None = 0
    axis: str = "n"
    keep_precision: bool = False
    optional: bool = False

    def convert(self, name: str, value: Any) -> Any:
        """The number as an array of the default precision, checked where it is concrete; None where that is allowed.

        Raises:
            TypeError: for what is not a real number or an array of real numbers.
            ValueError: for no number or more axes than allowed, or for a concrete value that is not finite or out of
                range.
        """
        if self.optional and value is None:
            return None
        kind = _kind(value)
        if kind is None or not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
            schedule = " (to follow a schedule, replace it before each step)" if callable(value) else ""
            raise TypeError(f"{name} = {shown(value)}; must be {self}{schedule}")
        shape = np.shape(value)
        if 0 in shape:
            raise ValueError(f"{name} has shape {shape}; must not be empty")
        if self.axes is not None and len(shape) > self.axes:
            raise ValueError(f"{name} has shape {shape}; must be []" + f" or [{self.axis}]" * self.axes)
        keeps = self.keep_precision and jnp.issubdtype(kind, jnp.floating)
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(kind) if keeps else jnp.result_type(float))
        if isinstance(value, jax.core.Tracer):
            return value.astype(dtype)
        with np.errstate(over="ignore"):  # what is too large for the precision is infinite, and refused
            found = np.asarray(value, dtype)
        above, at_least, below, at_most = map(dtype.type, (self.above, self.at_least, self.below, self.at_most))
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
    """The rule of a static integer."""

    at_least: int
    at_most: float = math.inf

    def convert(self, name: str, value: Any) -> int:
        """The value as Python's int, or ValueError."""
        value = _scalar(value)
        if not is_integer(value) or not self.at_least <= value <= self.at_most:
            raise ValueError(f"{name} = {shown(value)}; must be {self}")
        return int(value)

    def __str__(self) -> str:
        return "an integer" + _bounds((">=", self.at_least), ("<=", self.at_most))


class WholeOrNone(Whole):
    """The rule of a static integer that may be None."""

    def convert(self, name: str, value: Any) -> Any:
        """None, or the value as Python's int, or ValueError."""
        return None if value is None else super().convert(name, value)

    def __str__(self) -> str:
        return f"{super().__str__()} or None"


@dataclasses.dataclass(frozen=True)
class Real:
    """The rule of a static number."""

    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf
    optional: bool = False

    def convert(self, name: str, value: Any) -> Any:
        """The value as Python's float, or ValueError; None where that is allowed."""
        if self.optional and value is None:
            return None
        value = _scalar(value)
        real = is_integer(value) or isinstance(value, float | np.floating)
        if not real or not (_is_finite(value) and self.above < value and self.at_least <= value <= self.at_most):
            raise ValueError(f"{name} = {shown(value)}; must be {self}")
        return float(value)

    def __str__(self) -> str:
        bounds = _bounds((">", self.above), (">=", self.at_least), ("<=", self.at_most))
        return f"a finite number{bounds}" + " or None" * self.optional


@dataclasses.dataclass(frozen=True)
class Choice:
    """The rule of a choice between values."""

    of: tuple

    def convert(self, name: str, value: Any) -> Any:
        """The value, or ValueError."""
        known = [v for v in self.of if (isinstance(value, type(v)) or is_integer(value)) and value == v]
        if not known or isinstance(value, bool):
            raise ValueError(f"{name} = {shown(value)}; must be one of {self}")
        return known[0]

    def __str__(self) -> str:
        return ", ".join(map(repr, self.of))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The rule of a tuple of integers >= 1."""

    def convert(self, name: str, value: Any) -> tuple[int, ...]:
        """The value, or ValueError."""
        if not isinstance(value, tuple) or not all(is_integer(size) and size >= 1 for size in value):
            raise ValueError(f"{name} = {shown(value)}; must be a tuple of integers >= 1")
        return tuple(map(int, value))


def as_array(name: str, value: Any, valid: str) -> np.ndarray:
    """A concrete value as NumPy's array, refused by ValueError where it is none; `valid` says what it must be."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):  # a ragged list, a random key
        raise ValueError(f"{name} = {shown(value)}; must be {valid}") from None


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy; True and False are not, nor is a time of NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.timedelta64)


def _is_finite(value: Any) -> bool:
    """Whether a number has a finite Python float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def shown(value: Any) -> str:
    """A value as a message shows it."""
    return str(np.asarray(value).tolist()) if _is_concrete_array(value) else repr(value)


def _scalar(value: Any) -> Any:
    """A concrete array `[]` as NumPy's scalar, any other value as it is."""
    return np.asarray(value)[()] if _is_concrete_array(value) and value.ndim == 0 else value


def _is_concrete_array(value: Any) -> bool:
    """Whether a value is an array, or one of NumPy's scalars, of values that are known; not of keys, nor masked."""
    array = isinstance(value, np.ndarray | np.generic | jax.Array)
    unknown = isinstance(value, jax.core.Tracer | np.ma.MaskedArray)
    return array and not unknown and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _kind(value: Any) -> Any:
    """The type of the numbers in a value; None where it holds none."""
    if isinstance(value, jax.core.Tracer):
        return value.dtype
    if isinstance(value, bool | np.bool_ | str | bytes | np.ma.MaskedArray):  # what a mask hides is no number
        return None
    try:
        dtype = np.asarray(value).dtype
    except (ValueError, TypeError):  # a ragged list, a random key
        return None
    return None if dtype.kind == "m" else dtype  # times are NumPy's integers, too


def _bounds(*bounds: tuple[str, float]) -> str:
    """Ranges in words, such as ` > 0 and <= 1`; none where there is no bound."""
    finite = [
        f"{sign} {bound:{'d' if isinstance(bound, int) else 'g'}}" for sign, bound in bounds if math.isfinite(bound)
    ]
    return f" {' and '.join(finite)}" if finite else ""
