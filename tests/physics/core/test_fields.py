"""Declared fields: what is accepted, what is refused, and in which words."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv._core.fields import Declared, Number, choice, number, real, sizes, whole
from dmdenv._core.pytree import pytree


@pytree
class Sample(Declared):
    _: dataclasses.KW_ONLY
    dt: jax.Array = number(0.1, above=0)
    friction: jax.Array = number(1.0, at_least=0, at_most=2, per_particle=True)
    steps: jax.Array = number(8, at_least=1, integral=True)
    limit: jax.Array | None = number(None, above=0, optional=True)
    count: int = whole(3, at_least=2)
    length: int | None = whole(None, at_least=1, optional=True)
    slack: float | None = real(1.5, at_least=1, optional=True)
    mode: str = choice("a", of=("a", "b"))
    dimension: int = choice(2, of=(2, 3))
    hidden: tuple = sizes((8,))


def test_numbers_become_arrays_of_the_default_precision_and_leaves():
    sample = Sample(dt=np.float64(0.5), steps=np.int64(4))
    assert sample.dt.dtype == jnp.float32 and sample.steps.dtype == jnp.float32
    assert len(jax.tree.leaves(sample)) == 3


def test_static_values_become_pythons_own_and_keep_the_instance_hashable():
    assert Sample().length is None
    sample = Sample(count=np.int32(5), slack=np.float32(2), dimension=np.int64(3))
    assert [type(x) for x in (sample.count, sample.slack, sample.dimension)] == [int, float, int]
    assert hash(jax.tree.structure(sample)) == hash(jax.tree.structure(Sample(count=5, slack=2.0, dimension=3)))


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("dt", 0.0, "a finite number > 0"),
        ("dt", math.nan, "a finite number > 0"),
        ("dt", 1e300, "a finite number > 0"),
        ("friction", [1.0, 3.0], "a finite number >= 0 and <= 2"),
        ("steps", 1.5, "a whole number >= 1"),
        ("limit", -1, "a finite number > 0 or None"),
        ("count", 1, "an integer >= 2"),
        ("count", 2.0, "an integer >= 2"),
        ("count", True, "an integer >= 2"),
        ("length", 0, "an integer >= 1 or None"),
        ("length", 2.0, "an integer >= 1 or None"),
        ("slack", 0.5, "a finite number >= 1 or None"),
        ("slack", math.inf, "a finite number >= 1 or None"),
        ("slack", 1j, "a finite number >= 1 or None"),
        ("slack", 10**400, "a finite number >= 1 or None"),
        ("slack", np.timedelta64(2, "s"), "a finite number >= 1 or None"),
        ("slack", np.ma.masked_equal(2.0, 2.0), "a finite number >= 1 or None"),
        ("count", np.timedelta64(5, "s"), "an integer >= 2"),
        ("count", jax.random.key(0), "an integer >= 2"),
        ("dimension", np.timedelta64(2, "s"), "one of 2, 3"),
        ("mode", "c", "one of 'a', 'b'"),
        ("dimension", 2.0, "one of 2, 3"),
        ("hidden", (0,), "a tuple of integers >= 1"),
        ("hidden", [8], "a tuple of integers >= 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value, valid):
    with pytest.raises(ValueError, match=re.escape(f"Sample.{field} = ") + "(?s:.*)" + re.escape(f"; must be {valid}")):
        Sample(**{field: value})


NO_NUMBERS = [
    *(1j, "1", b"1", None, True, object(), np.array("a"), [[1.0], [1.0, 2.0]], [None], {"dt": 1}, 10**400),
    *(np.timedelta64(3, "s"), np.datetime64("2026-01-01"), np.ma.masked, np.ma.masked_equal([1.0, 2.0], 2.0)),
    *(jax.random.key(0), jax.ShapeDtypeStruct((), np.float32), np.array([1.0], object)),
]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_real_number_is_refused(value):
    with pytest.raises(TypeError, match=r"(?s)Sample\.dt = .*; must be a finite number > 0"):
        Sample(dt=value)


def test_more_axes_than_declared_are_refused_traced_or_not():
    with pytest.raises(ValueError, match=r"Sample\.dt has shape \(2,\); must be \[\]$"):
        Sample(dt=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"Sample\.friction has shape \(1, 2\); must be \[\] or \[n\]"):
        jax.jit(lambda x: Sample(friction=x).friction)(jnp.ones((1, 2)))


def test_tracers_pass_and_are_cast():
    assert jax.jit(lambda x: Sample(dt=x).dt)(-1).dtype == jnp.float32
    with pytest.raises(TypeError, match=r"Sample\.dt"):
        jax.jit(lambda x: Sample(dt=x).dt)(1j)


def test_replace_checks_again():
    with pytest.raises(ValueError, match=r"Sample\.count"):
        Sample().replace(count=0)


def test_arrays_of_no_axes_are_welcome_as_static_numbers():
    sample = Sample(count=jnp.int32(5), slack=np.array(2.0))
    assert (type(sample.count), type(sample.slack)) == (int, float)


@pytest.mark.usefixtures("x64")
def test_a_number_keeps_its_precision_where_declared():
    keeps = Number(keep_precision=True)
    assert keeps.convert("box", np.float32(1)).dtype == jnp.float32
    assert keeps.convert("box", 1.0).dtype == keeps.convert("box", np.int32(1)).dtype == jnp.float64
    assert Number().convert("dt", np.float32(1)).dtype == jnp.float64
