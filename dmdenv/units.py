"""Systems of units, and explicit conversion between them.

dmdenv computes in coherent units: energy, length and mass are chosen, everything else follows. The unit of time is
`length sqrt(mass / energy)`, the unit of pressure `energy / length^3`, and temperature is given as the energy kB T, so
Boltzmann's constant is 1. Such quantities are usually quoted in other units: with eV, Angstrom and atomic masses the
coherent unit of time is 10.18 fs, with kcal/mol it is 48.89 fs. So each system of units has a coherent one beside it,
and values are converted from one to the other by dimension:

    dt = convert(2.0, "time", REAL, REAL.coherent)                   # 2 fs
    temperature = convert(300.0, "temperature", METAL, METAL.coherent)   # 300 K, as an energy in eV
    pressure = convert(p, "pressure", METAL.coherent, METAL)         # in bar

ASE's own units are `METAL.coherent`, up to the vintage of its constants.

Reference: Tiesinga, Mohr, Newell and Taylor, Rev. Mod. Phys. 93, 025010 (2021): CODATA 2018; Allen and Tildesley,
Computer Simulation of Liquids, 2nd ed. (2017), appendix B.
"""

import dataclasses
import math
from typing import TypeVar

from dmdenv._core.fields import Choice, Real

Value = TypeVar("Value")

# CODATA 2018; all but the atomic mass are exact by definition.
BOLTZMANN = 1.380649e-23  # J / K
AVOGADRO = 6.02214076e23  # 1 / mol
ELEMENTARY_CHARGE = 1.602176634e-19  # C; an electronvolt in J
ATOMIC_MASS = 1.66053906660e-27  # kg, a twelfth of carbon-12, with relative uncertainty 3e-10

CALORIE = 4.184  # J, the thermochemical one
ATMOSPHERE = 101325.0  # Pa
BAR = 1e5  # Pa
POISE = 0.1  # Pa s


@dataclasses.dataclass(frozen=True)
class UnitSystem:
    """One unit of each dimension in SI units. Compared by value."""

    length: float  # m
    energy: float  # J
    mass: float  # kg
    time: float  # s
    temperature: float  # K
    pressure: float  # Pa, in three dimensions
    viscosity: float  # Pa s, the dynamic one

    @property
    def coherent(self) -> "UnitSystem":
        """The system of the same length, energy and mass in which dmdenv computes; itself if it is coherent."""
        return coherent(length=self.length, energy=self.energy, mass=self.mass)

    @property
    def boltzmann(self) -> float:
        """Boltzmann's constant in this system's energy over its temperature; 1 in a coherent system."""
        return BOLTZMANN * self.temperature / self.energy

    def in_si(self, dimension: str) -> float:
        """One unit of a dimension in SI units.

        Raises:
            ValueError: for a dimension that is not in `DIMENSIONS`.
        """
        dimension = Choice(tuple(DIMENSIONS)).convert("dimension", dimension)
        return math.prod(getattr(self, base) ** power for base, power in DIMENSIONS[dimension].items())


# Each dimension as a product of base dimensions.
DIMENSIONS: dict[str, dict[str, int]] = {
    **{base.name: {base.name: 1} for base in dataclasses.fields(UnitSystem)},
    "force": {"energy": 1, "length": -1},
    "velocity": {"length": 1, "time": -1},
    "friction": {"time": -1},  # a rate, such as Langevin's
    "diffusivity": {"length": 2, "time": -1},
    "stiffness": {"energy": 1, "length": -2},  # of a spring
    "number density": {"length": -3},
}


def coherent(*, length: float, energy: float, mass: float) -> UnitSystem:
    """The coherent system of a length (m), an energy (J) and a mass (kg)."""
    time = length * math.sqrt(mass / energy)
    pressure = energy / length**3
    return UnitSystem(
        length=length,
        energy=energy,
        mass=mass,
        time=time,
        temperature=energy / BOLTZMANN,
        pressure=pressure,
        viscosity=pressure * time,
    )


SI = UnitSystem(length=1.0, energy=1.0, mass=1.0, time=1.0, temperature=1.0, pressure=1.0, viscosity=1.0)

METAL = UnitSystem(  # LAMMPS's metal: Angstrom, eV, atomic mass, ps, K, bar, poise
    length=1e-10,
    energy=ELEMENTARY_CHARGE,
    mass=ATOMIC_MASS,
    time=1e-12,
    temperature=1.0,
    pressure=BAR,
    viscosity=POISE,
)

REAL = UnitSystem(  # LAMMPS's real: Angstrom, kcal/mol, g/mol, fs, K, atm, poise
    length=1e-10,
    energy=1e3 * CALORIE / AVOGADRO,
    mass=1e-3 / AVOGADRO,
    time=1e-15,
    temperature=1.0,
    pressure=ATMOSPHERE,
    viscosity=POISE,
)


def lennard_jones(*, sigma: float, epsilon: float, mass: float, units: UnitSystem) -> UnitSystem:
    """The reduced units of a substance: sigma, epsilon and the mass of a particle; coherent.

    Argon: `lennard_jones(sigma=3.405, epsilon=119.8 * METAL.boltzmann, mass=39.948, units=METAL)`.

    Args:
        sigma: length at which a pair's energy is zero, in `units`.
        epsilon: depth of the pair's energy, in `units`.
        mass: of a particle, in `units`.
        units: the system in which the three are given.

    Raises:
        ValueError: for a number that is not positive and finite.
    """
    positive = Real(above=0)
    sigma, epsilon = positive.convert("sigma", sigma), positive.convert("epsilon", epsilon)
    mass = positive.convert("mass", mass)
    return coherent(length=sigma * units.length, energy=epsilon * units.energy, mass=mass * units.mass)


def convert(value: Value, dimension: str, source: UnitSystem, target: UnitSystem) -> Value:
    """A value given in `source`, in units of `target`.

    Args:
        value: a number or an array.
        dimension: one of `DIMENSIONS`: "length", "energy", "mass", "time", "temperature", "pressure",
            "viscosity", "force", "velocity", "friction", "diffusivity", "stiffness" or "number density".
        source: its units.
        target: the units to convert to.

    Returns:
        The value times one number, of the same type.

    Raises:
        ValueError: for another dimension.
    """
    return value * (source.in_si(dimension) / target.in_si(dimension))  # pyright: ignore[reportOperatorIssue]
