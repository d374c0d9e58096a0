"""Files and other programs: ASE (extxyz and all that it reads), GSD (HOOMD-blue, OVITO), an ASE calculator.

Needs the extra `io`; nothing else in dmdenv imports this package. Everything here runs on the host. Positions in dmdenv
are continuous in time; each format says how it preserves that.
"""

try:
    import ase  # noqa: F401
    import gsd  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("ase", "gsd"):
        raise
    raise ModuleNotFoundError(
        f"dmdenv.io needs {error.name}, which the extra io installs: pip install 'dmdenv[io]'", name=error.name
    ) from error

from dmdenv.io.ase import Configuration, from_atoms, to_atoms
from dmdenv.io.calculator import PotentialCalculator
from dmdenv.io.extxyz import ExtxyzWriter
from dmdenv.io.files import read_trajectory, write_trajectory
from dmdenv.io.gsd import GSDWriter
from dmdenv.io.trajectory import Particles, Trajectory
from dmdenv.io.writer import Writer

__all__ = [
    "Configuration",
    "ExtxyzWriter",
    "GSDWriter",
    "Particles",
    "PotentialCalculator",
    "Trajectory",
    "Writer",
    "from_atoms",
    "read_trajectory",
    "to_atoms",
    "write_trajectory",
]
