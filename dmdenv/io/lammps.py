"""Text dumps of LAMMPS, with what ASE's reader leaves out: steps, images, masses, and types as they stand.

Reference: https://docs.lammps.org/dump.html.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.lammps.unitconvert import UNITSETS, convert
from ase.io.formats import open_with_compression

from dmdenv._core.fields import Choice

_LINES = {"UNITS": 1, "TIME": 1, "TIMESTEP": 1, "NUMBER OF ATOMS": 1, "BOX BOUNDS": 3}


def read_dump(
    path: str | os.PathLike, *, units: str | None = None, specorder: Sequence[str] | None = None
) -> Iterator[Atoms]:
    """The frames of a dump, sorted by id, in ASE's units.

    Args:
        path: of the file.
        units: LAMMPS's name of them, "lj" for none; by default those that the file states, and else "metal".
        specorder: names for the types 1, 2, ...
    """
    with open_with_compression(os.fspath(path), "r") as file:
        items: dict[str, tuple[list[str], list[str]]] = {}  # the labels of each item, and its lines
        while line := file.readline():
            if not line.strip():
                continue
            item = re.fullmatch(r"ITEM: (UNITS|TIME|TIMESTEP|NUMBER OF ATOMS|BOX BOUNDS|ATOMS)\b(.*)\s*", line)
            if item is None:
                raise ValueError(f"{line[:40]!r} stands where an ITEM of a dump of atoms must be")
            count = int(items["NUMBER OF ATOMS"][1][0]) if item[1] == "ATOMS" else _LINES[item[1]]
            if count < 1:
                raise ValueError("there are no particles; must be at least one")
            lines = list(itertools.islice(file, count))
            if len(lines) < count:
                raise ValueError(f"the file ends after {len(lines)} of {count} lines of {item[1]}")
            items[item[1]] = item[2].split(), lines
            if item[1] == "ATOMS":
                stated = items["UNITS"][1][0].strip() if "UNITS" in items else "metal"
                yield _atoms(items, Choice(("lj", *UNITSETS)).convert("units", units or stated), specorder)
                items = {name: items[name] for name in ("UNITS",) if name in items}


def _atoms(items: dict[str, tuple[list[str], list[str]]], units: str, specorder: Sequence[str] | None) -> Atoms:
    labels, lines = items["ATOMS"]
    table = [line.split() for line in lines]
    for k, row in enumerate(table):
        if len(row) != len(labels):
            raise ValueError(f"line {k} of ATOMS has {len(row)} columns; must be {len(labels)}")
    columns = dict(zip(labels, np.array(table).T, strict=True))

    def vectors(*names: str) -> np.ndarray | None:
        missing = [name for name in names if name not in columns]
        if missing and len(missing) < len(names):
            raise ValueError(f"ATOMS has no column {missing[0]}; must have all of {names}, or none")
        return None if missing else np.stack([columns[name].astype(float) for name in names], axis=1)

    def in_ase_units(values: np.ndarray, quantity: str) -> np.ndarray:
        same = units == "lj" or (
            units in ("metal", "real") and quantity != "velocity"
        )  # ASE's grams per mole are not 1
        return values if same else convert(values, quantity, units, "ASE")

    cell, origin, pbc = _box(*items["BOX BOUNDS"])
    images = vectors("ix", "iy", "iz")
    wrapped, scaled = vectors("x", "y", "z"), vectors("xs", "ys", "zs")
    unwrapped, unwrapped_scaled = vectors("xu", "yu", "zu"), vectors("xsu", "ysu", "zsu")
    if unwrapped is not None:
        positions = unwrapped
    elif unwrapped_scaled is not None:
        positions = origin + unwrapped_scaled @ cell
    elif wrapped is not None:
        positions = wrapped if images is None else wrapped + images @ cell
    elif scaled is not None:
        positions = origin + (scaled if images is None else scaled + images) @ cell
    else:
        raise ValueError(f"ATOMS has columns {labels}; must have x y z, or xs, xu or xsu")
    atoms = Atoms(
        positions=in_ase_units(positions, "distance"),
        cell=in_ase_units(cell, "distance"),
        pbc=pbc,
        info={"step": items["TIMESTEP"][1][0].strip()},
    )
    if (velocities := vectors("vx", "vy", "vz")) is not None:
        atoms.set_array("velocities", in_ase_units(velocities, "velocity"))
    if "mass" in columns:
        atoms.set_array("masses", in_ase_units(columns["mass"].astype(float), "mass"))
    if "element" in columns:
        atoms.set_array("species", columns["element"])
    elif "type" in columns:
        types = columns["type"]
        names = types if specorder is None else np.array(specorder)[types.astype(int) - 1]
        atoms.set_array("species", names)
    if "id" in columns:
        atoms.set_array("id", columns["id"].astype(np.int64))
    return atoms


def _box(labels: list[str], lines: list[str]) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    """The edges as rows `[3, 3]`, the origin `[3]`, and along which axes it is periodic."""
    bounds = np.array([line.split() for line in lines], float)
    boundaries = labels[-3:] if re.fullmatch("([pfsm]{2} ?){3}", " ".join(labels[-3:])) else ["ff"] * 3
    pbc = [boundary == "pp" for boundary in boundaries]
    if labels[:1] == ["abc"]:
        return bounds[:, :3], bounds[:, 3], pbc
    xy, xz, yz = bounds[:, 2] if bounds.shape[1] == 3 else np.zeros(3)
    low = bounds[:, 0] - [min(0, xy, xz, xy + xz), min(0, yz), 0]
    high = bounds[:, 1] - [max(0, xy, xz, xy + xz), max(0, yz), 0]
    lx, ly, lz = high - low
    return np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]]), low, pbc
