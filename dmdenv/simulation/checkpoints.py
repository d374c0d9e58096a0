"""Checkpoints: a state on disk, bit for bit, by orbax.

A checkpoint is a flat table from the path of a leaf (`.positions`, `.pairs.indices`) to its array, so it can be read
without this library's classes and moves between devices. Named items of JSON are stored beside it: static parts of the
state, such as capacities that have grown. All of it is written into a temporary folder, with the checksum of each file
in `SHA256SUMS` (which `sha256sum -c` reads), flushed to the disk, and renamed: a checkpoint is complete or absent, and
a bit that changes later is found when it is read.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dmdenv.simulation.disk import flush, one_line

T = TypeVar("T")

KEPT = 3  # checkpoints of a folder, the last ones
SUMS = "SHA256SUMS"
_PARTIAL = ".partial-"  # begins the name of what is not a checkpoint yet, or no longer
_FILES = 64  # files and folders of a checkpoint, at most
_OVERHEAD = 128 * 1024  # bytes of a checkpoint beside its arrays, rounded up to blocks


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written; the message names it, and the last one before it that is whole."""


class CheckpointNotWritten(OSError):
    """A checkpoint could not be written, as on a full disk; the message says which one is safe."""


def save_checkpoint(folder: Path, step: int, state: object, **items: Any) -> Path:
    """Write the state after `step` steps, and delete all but the last few checkpoints; a second call does nothing.

    Args:
        folder: where the checkpoints are.
        step: the number of steps before the state.
        state: any pytree of arrays.
        items: what else to store, by name, for JSON.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointNotWritten: when the disk is full or cannot be written to; the checkpoints before stay as they are.
    """
    saved = saved_steps(folder)
    if step in saved:
        return folder / str(step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _delete_partial(folder)
        _write(folder, step, to_arrays(state), items)
    except (OSError, ValueError) as error:  # tensorstore has a ValueError for a full disk
        _delete_partial(folder)
        safe = (
            f"checkpoint {saved[-1]} is safe, and the next start goes on from it"
            if saved
            else "there is none before it"
        )
        raise CheckpointNotWritten(
            f"checkpoint {step} could not be written into {folder}: {one_line(error)}; {safe}"
        ) from None
    for old in [*saved, step][:-KEPT]:
        gone = (folder / str(old)).rename(folder / f"{_PARTIAL}{old}")  # at once, so that none is there in part
        shutil.rmtree(gone, ignore_errors=True)
    return folder / str(step)


def saved_steps(folder: Path) -> list[int]:
    """The steps with a complete checkpoint, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())


def restore_checkpoint(folder: Path, step: int, template: T) -> T:
    """The state after `step` steps.

    Args:
        folder: where the checkpoints are.
        step: one of `saved_steps(folder)`.
        template: a state of the same structure; its leaves may be `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: when there is no such checkpoint, or it has other leaves or shapes than the template.
        DamagedCheckpoint: when its files are not those that were written.
    """
    return from_arrays(_read(folder, step, "state", ocp.args.StandardRestore()), template)


def restore_item(folder: Path, step: int, name: str) -> Any:
    """The item stored under a name beside the state after `step` steps.

    Raises:
        ValueError: when there is no such checkpoint.
        DamagedCheckpoint: when its files are not those that were written.
    """
    return _read(folder, step, name, ocp.args.JsonRestore())


# --- files ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _checkpointer(items: Iterable[str]) -> Iterator[ocp.Checkpointer]:
    """Orbax for the state and some items; its log is off, since it repeats each error with a page of tracebacks."""
    log = logging.getLogger("absl")
    handlers: dict[str, Any] = {"state": ocp.StandardCheckpointHandler()} | {
        name: ocp.JsonCheckpointHandler() for name in items
    }
    was, log.disabled = log.disabled, True
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer:
            yield checkpointer
    finally:
        log.disabled = was


def _write(folder: Path, step: int, arrays: Mapping[str, np.ndarray], items: Mapping[str, Any]) -> None:
    """Write a checkpoint under a temporary name, flush it to the disk, and rename it."""
    _check_space(folder, sum(array.nbytes for array in arrays.values()) + _OVERHEAD)
    partial = folder.absolute() / f"{_PARTIAL}{step}"
    saved = {name: ocp.args.JsonSave(item) for name, item in items.items()}
    with _checkpointer(items) as checkpointer:
        checkpointer.save(partial, args=ocp.args.Composite(state=ocp.args.StandardSave(dict(arrays)), **saved))
    (partial / SUMS).write_text(_checksums(partial))
    for entry in [*partial.rglob("*"), partial]:
        flush(entry)
    partial.rename(folder / str(step))
    flush(folder)


def _check_space(folder: Path, size: int) -> None:
    """Raise the operating system's error where a file of `size` bytes does not fit, or not enough files.

    Orbax fails less orderly: its threads wait for each other for minutes.
    """
    disk = os.statvfs(folder)
    if disk.f_files and disk.f_favail < _FILES:  # a file system without a limit says 0
        raise OSError(errno.ENOSPC, f"no room for {_FILES} more files", str(folder))
    reserved = folder / f"{_PARTIAL}space"
    with reserved.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
    reserved.unlink()


def _delete_partial(folder: Path) -> None:
    """Delete what a killed or failed attempt has left."""
    for entry in folder.glob(f"{_PARTIAL}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _read(folder: Path, step: int, name: str, restore: Any) -> Any:
    saved = saved_steps(folder)
    if step not in saved:
        raise ValueError(
            f"there is no checkpoint {step} in {folder}; must be one of {', '.join(map(str, saved)) or 'none'}"
        )
    if damage := _damage(folder / str(step)):
        before = [earlier for earlier in saved if earlier < step]
        whole = next((earlier for earlier in reversed(before) if not _damage(folder / str(earlier))), None)
        delete = " and ".join(
            str(folder / str(later)) for later in saved if whole is not None and whole < later <= step
        )
        offer = "none before it is whole" if whole is None else f"to go on from checkpoint {whole}, delete {delete}"
        raise DamagedCheckpoint(f"checkpoint {step} in {folder} is damaged: {damage}; {offer}")
    with _checkpointer({name} - {"state"}) as checkpointer:
        return checkpointer.restore(folder.absolute() / str(step), args=ocp.args.Composite(**{name: restore}))[name]


def _checksums(checkpoint: Path) -> str:
    """The SHA-256 of each file of a checkpoint, a line for each."""
    lines = []
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / SUMS):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(checkpoint).as_posix()}\n")
    return "".join(lines)


def _damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
    try:
        written = (checkpoint / SUMS).read_bytes().split(b"\n")
        found = _checksums(checkpoint).encode().split(b"\n")
    except OSError as error:
        return one_line(error)
    differing = {line[66:].decode(errors="replace") for line in set(written) ^ set(found)}  # after digest and spaces
    return f"{', '.join(sorted(differing))} differs from {SUMS}" if differing else ""


# --- arrays -----------------------------------------------------------------------------------------------------------


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
