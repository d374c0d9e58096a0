"""Checkpoints: a state on disk, bit for bit, by orbax.

A checkpoint is a flat table from the path of a leaf (`.positions`, `.pairs.indices`) to its array, so it can be read
without this library's classes and moves between devices. Named items of JSON are stored beside it: static parts of the
state, such as capacities that have grown. Orbax writes into a temporary folder and renames it, so a checkpoint is
complete or absent.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

T = TypeVar("T")

KEPT = 3  # checkpoints of a folder, the last ones


@contextlib.contextmanager
def _manager(folder: Path, items: Iterable[str] = ()) -> Iterator[ocp.CheckpointManager]:
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
    handlers = {"state": ocp.StandardCheckpointHandler()} | {name: ocp.JsonCheckpointHandler() for name in items}
    with ocp.CheckpointManager(folder.absolute(), item_handlers=handlers, options=options) as manager:
        yield manager


def save_checkpoint(folder: Path, step: int, state: object, **items: Any) -> Path:
    """Write the state after `step` steps, and delete all but the last few checkpoints; a second call does nothing.

    Args:
        folder: where the checkpoints are.
        step: the number of steps before the state.
        state: any pytree of arrays.
        items: what else to store, by name, for JSON.

    Returns:
        The checkpoint's folder.
    """
    with _manager(folder, items) as manager:
        if step not in manager.all_steps():
            arrays = ocp.args.StandardSave(to_arrays(state))
            saved = {name: ocp.args.JsonSave(item) for name, item in items.items()}
            manager.save(step, args=ocp.args.Composite(state=arrays, **saved))
    return folder / str(step)


def saved_steps(folder: Path) -> list[int]:
    """The steps with a complete checkpoint, in order."""
    if not folder.is_dir():
        return []
    with _manager(folder) as manager:
        return sorted(manager.all_steps())


def restore_checkpoint(folder: Path, step: int, template: T) -> T:
    """The state after `step` steps.

    Args:
        folder: where the checkpoints are.
        step: one of `saved_steps(folder)`.
        template: a state of the same structure; its leaves may be `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: when there is no such checkpoint, or it has other leaves or shapes than the template.
    """
    return from_arrays(_read(folder, step, "state", ocp.args.StandardRestore()), template)


def restore_item(folder: Path, step: int, name: str) -> Any:
    """The item stored under a name beside the state after `step` steps.

    Raises:
        ValueError: when there is no such checkpoint.
    """
    return _read(folder, step, name, ocp.args.JsonRestore())


def _read(folder: Path, step: int, name: str, restore: Any) -> Any:
    with _manager(folder, {name} - {"state"}) as manager:
        saved = sorted(manager.all_steps())
        if step not in saved:
            raise ValueError(
                f"there is no checkpoint {step} in {folder}; must be one of {', '.join(map(str, saved)) or 'none'}"
            )
        return manager.restore(step, args=ocp.args.Composite(**{name: restore}))[name]


def to_arrays(state: object) -> dict[str, np.ndarray]:
    """The leaves of a state by their path, on the host; random keys as their data.

    Leaves without elements (the predators of a flock that has none) are left out: orbax does not write them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(_raw(leaf)) for path, leaf in leaves if leaf.size}


def from_arrays(arrays: Mapping[str, Any], template: T) -> T:
    """The inverse of `to_arrays`: a state of the template's structure, on the default device.

    Raises:
        ValueError: when the arrays have other names, shapes or types than the template's leaves.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
    differing = set(arrays) ^ {name for name, leaf in leaves.items() if leaf.size}
    if differing:
        name = min(differing)
        raise ValueError(f"the leaf {name} is in the {'checkpoint' if name in arrays else 'state'} only")
    empty = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in leaves.items() if not leaf.size}
    found = {**arrays, **empty}
    return jax.tree.unflatten(structure, [_like(name, found[name], leaf) for name, leaf in leaves.items()])


def _raw(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _like(name: str, array: np.ndarray, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """The array as the leaf that it was."""
    raw = jax.eval_shape(_raw, leaf)
    if (array.shape, array.dtype) != (raw.shape, raw.dtype):
        raise ValueError(
            f"the leaf {name} is {array.dtype}{list(array.shape)} in the checkpoint,"
            f" {raw.dtype}{list(raw.shape)} in the state"
        )
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(jnp.empty((), leaf.dtype)))
    return jnp.asarray(array)
