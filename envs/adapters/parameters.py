"""The parameters of a batch of instances: common to all, one value for each, or drawn at the start of each episode.

    params = {"speed": 2.0}
    params = {"speed": np.linspace(1.0, 3.0, num_envs)}
    params = lambda key: {"speed": jax.random.uniform(key, minval=1.0, maxval=3.0)}

Parameters of a batch are those of the environment with leaves `[]` or `[num]`; `axes` tells `jax.vmap` which is which.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from dmdenv._core.fields import field_values
from dmdenv.envs.base import Env, Params

Some = Params | Mapping[str, Any]  # all parameters, or some by name
Draw = Callable[[jax.Array], Some]
P = TypeVar("P", bound=Params)


def axes(params: P) -> P:
    """`in_axes` of parameters for `jax.vmap`: 0 for a leaf with an axis of instances, None for any other."""
    return jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, params)


def of_instance(params: P, index: int) -> P:
    """The parameters of one instance, as NumPy arrays `[]`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index] if np.ndim(leaf) else np.asarray(leaf), params)


def replaced(params: P, given: Some) -> P:
    """Parameters with some of them changed, by name; or others in their place.

    Raises:
        ValueError: for an unknown name, a bad value or the parameters of another environment.
    """
    if isinstance(given, Mapping):
        return params.replace(**_by_name(params, given))
    if not isinstance(given, type(params)):
        raise ValueError(f"params is a {type(given).__name__}; must be a {type(params).__name__}, or a dict")
    return given


def check(env: Env, params: Params, num: int | None, instances: Iterable[int] | None = None) -> None:
    """Check the shapes of parameters, and validate those of all instances, or of some.

    Args:
        env: the environment.
        params: leaves `[]` or `[num]`.
        num: number of instances; None for a single one, whose leaves are `[]`.
        instances: their indices.

    Raises:
        ValueError: for another shape, or what the environment refuses.
    """
    varied = False
    for name, value in field_values(params).items():
        if np.ndim(value) and np.shape(value) != (num,):
            valid = "a number" if num is None else f"a number, or an array [{num}] with one for each instance"
            raise ValueError(f"{type(params).__name__}.{name} has shape {np.shape(value)}; must be {valid}")
        varied = varied or np.ndim(value) > 0
    params = jax.tree.map(np.asarray, params)
    for i in (range(num or 1) if instances is None else instances) if varied else (0,):
        env.validate(of_instance(params, i))


def drawn(draw: Draw, key: jax.Array, params: Params) -> dict[str, jax.Array]:
    """The parameters, by name, with which one episode differs from the others.

    Raises:
        TypeError: where `draw` returns neither parameters nor a dict, or a value that is no number.
        ValueError: for an unknown name or a bad value.
    """
    given = draw(key)
    if isinstance(given, type(params)):
        return field_values(given)
    if not isinstance(given, Mapping):
        raise TypeError(f"params(key) = {given!r}; must be a {type(params).__name__}, or a dict")
    new = params.replace(**_by_name(params, given))
    return {name: getattr(new, name) for name in given}


def _by_name(params: Params, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping, refused by ValueError where a name is no string."""
    others = [name for name in given if not isinstance(name, str)]
    if others:
        valid = ", ".join(field_values(params))
        raise ValueError(f"{type(params).__name__} has no field {others[0]!r}; valid fields: {valid}")
    return given


def drawn_names(draw: Draw, params: Params) -> frozenset[str]:
    """The names of the parameters that are drawn; errors as of `drawn`, and for values that are arrays."""
    values = jax.eval_shape(lambda key: drawn(draw, key, params), jax.random.key(0))
    for name, value in values.items():
        if value.shape:
            raise ValueError(f"params(key)[{name!r}] has shape {value.shape}; must be a number, for one instance")
    return frozenset(values)
