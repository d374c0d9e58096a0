"""An ASE calculator over any potential, so that ASE's optimisers, dynamics and tools run on it."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from dmdenv.io.ase import cell_and_rotation
from dmdenv.io.trajectory import space_of
from dmdenv.neighbors import AllPairs, NeighborList, Pairs, allocate, update
from dmdenv.potentials import Potential
from dmdenv.space import Space


class PotentialCalculator(Calculator):
    """Energy, energies, forces and stress of a potential, for the cell and the boundaries of the atoms.

    Units are those of the potential's parameters; ASE's own tools expect eV and Angstrom. The stress is ASE's:
    `(1 / V) dU/d(strain)`, tension positive, as xx, yy, zz, yz, xz, xy. Precision is JAX's: enable `jax_enable_x64`
    before optimising to tight tolerances. Code is compiled once for each number of atoms; the
    neighbour list is updated for new positions and cells, and allocated anew where it overflows.

        atoms.calc = PotentialCalculator(lennard_jones(epsilon=0.0104, sigma=3.4, cutoff=8.5))

    Args:
        potential: any; for another one, make another calculator.
        skin: how much the cutoff of the neighbour list exceeds that of the potential, unit length; a tenth of it by
            default. A potential without cutoff takes all pairs.
        options: for ASE's `Calculator`.

    Raises:
        ValueError: from a calculation, for atoms that are periodic along some axes only, and for a potential with a
            cutoff beyond half the cell; repeat the atoms then.
    """

    implemented_properties: ClassVar[list[str]] = [  # pyright: ignore[reportIncompatibleVariableOverride]
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(self, potential: Potential, *, skin: float | None = None, **options: Any):
        super().__init__(**options)
        self._potential = potential
        self._cutoff = float(potential.cutoff)
        self._skin = 0.1 * self._cutoff if skin is None else skin
        self._pairs: NeighborList | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        assert atoms is not None
        cell, rotation = cell_and_rotation(atoms, 3)
        space = space_of(cell)
        positions = jnp.asarray(atoms.positions @ rotation, jnp.result_type(float))
        energies, forces, virial = self._evaluate(space, positions, stress="stress" in (properties or ()))
        energy = float(np.sum(energies, dtype=float))
        self.results |= {
            "energy": energy,
            "free_energy": energy,
            "energies": np.asarray(energies, float),
            "forces": np.asarray(forces, float) @ rotation.T,
        }
        if virial is not None and atoms.cell.rank == 3:
            stress = -rotation @ np.asarray(virial, float) @ rotation.T / atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def _evaluate(self, space: Space, positions: jax.Array, *, stress: bool) -> tuple[Any, Any, Any]:
        """Energies `[n]`, forces `[n, 3]` and, for the stress, the virial `[3, 3]`."""
        if 0 < self._cutoff < np.inf:
            self._pairs = self._neighbors(space, positions)
        return _evaluate(self._potential, space, positions, self._pairs or AllPairs(), stress=stress)

    def _neighbors(self, space: Space, positions: jax.Array) -> NeighborList:
        old = self._pairs
        if old is not None and old.count == len(positions) and type(old.space) is type(space):
            new = _update(old, space, positions)
            if not new.overflow:
                return new
        return allocate(space, positions, cutoff=self._cutoff, skin=self._skin)


_update = jax.jit(update)


@functools.partial(jax.jit, static_argnames="stress")
def _evaluate(potential: Potential, space: Space, positions: jax.Array, pairs: Pairs, *, stress: bool):
    return (
        potential.energies(space, positions, pairs),
        potential.forces(space, positions, pairs),
        potential.virial(space, positions, pairs) if stress else None,
    )
