"""Unit systems against ASE's constants, LAMMPS's conversion factors and tabulated values of argon."""

import itertools
import math

import ase.units
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.lammps import convert as lammps_convert

from dmdenv.units import DIMENSIONS, METAL, REAL, SI, UnitSystem, coherent, convert, lennard_jones

CODATA = ase.units.create_units("2018")
ARGON = lennard_jones(sigma=3.405, epsilon=119.8 * METAL.boltzmann, mass=39.948, units=METAL)
SYSTEMS = {"SI": SI, "METAL": METAL, "REAL": REAL, "ARGON": ARGON, "METAL.coherent": METAL.coherent}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (METAL.energy, 1 / CODATA["J"]),
        (METAL.mass, 1 / CODATA["kg"]),
        (METAL.pressure, CODATA["bar"] / CODATA["Pascal"]),
        (METAL.boltzmann, CODATA["kB"]),
        (METAL.coherent.time, 1 / CODATA["second"]),
        (METAL.coherent.in_si("velocity"), CODATA["second"] / CODATA["m"]),
        (METAL.coherent.pressure, 1 / CODATA["Pascal"]),
        (REAL.energy, CODATA["kcal"] / CODATA["mol"] / CODATA["J"]),
        (REAL.boltzmann, CODATA["kB"] * CODATA["mol"] / CODATA["kcal"]),
        (REAL.coherent.time / REAL.time, math.sqrt(CODATA["mol"] / CODATA["kcal"]) / CODATA["fs"]),
    ],
)
def test_units_agree_with_those_of_ase_from_the_same_constants(value, expected):
    """Those with a mass to 1e-9: an atomic mass and a gram per mole differ by 3e-10 in CODATA 2018."""
    assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("value", "printed", "digits"),
    [  # Update::set_units, of older constants: what it calls boltz, mvv2e, nktv2p and vxmu2f
        (METAL.boltzmann, 8.617343e-5, 6),
        (convert(1.0, "velocity", METAL, METAL.coherent) ** 2, 1.0364269e-4, 7),
        (convert(1.0, "pressure", METAL.coherent, METAL), 1.6021765e6, 7),
        (METAL.length**2 / METAL.time * METAL.viscosity / METAL.in_si("force"), 0.6241509647, 6),
        (REAL.boltzmann, 0.0019872067, 6),
        (convert(1.0, "velocity", REAL, REAL.coherent), 48.88821291, 7),
        (convert(1.0, "time", REAL.coherent, REAL), 48.88821291, 7),
        (convert(1.0, "pressure", REAL.coherent, REAL), 68568.415, 6),
        (REAL.length**2 / REAL.time * REAL.viscosity / REAL.in_si("force"), 1.4393264316e4, 6),
    ],
)
def test_units_agree_with_the_factors_of_lammps(value, printed, digits):
    assert value == pytest.approx(printed, rel=10.0 ** (1 - digits))


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(("SI", "METAL", "REAL"), 2)))
@pytest.mark.parametrize(
    "dimension", ["length", "energy", "mass", "time", "temperature", "pressure", "viscosity", "force", "velocity"]
)
def test_conversions_agree_with_those_between_styles_of_lammps(dimension, source, target):
    names = {"length": "distance", "viscosity": "dynamic_viscosity"}
    expected = lammps_convert(2.5, names.get(dimension, dimension), source.lower(), target.lower())
    assert convert(2.5, dimension, SYSTEMS[source], SYSTEMS[target]) == pytest.approx(expected, rel=2e-6)


def test_reduced_units_of_argon_are_the_tabulated_ones():
    """Frenkel and Smit, Understanding Molecular Simulation, 2nd ed. (2002), table 3.1, whose time step is 1 % off."""
    mass_density = convert(1.0, "number density", ARGON, SI) * ARGON.mass
    assert convert(1.0, "temperature", ARGON, METAL) == pytest.approx(119.8)
    assert mass_density == pytest.approx(1680, abs=5)
    assert convert(0.005, "time", ARGON, SI) == pytest.approx(1.09e-14, rel=0.02)
    assert convert(1.0, "pressure", ARGON, SI) / 1e6 == pytest.approx(41.9, abs=0.1)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_in_coherent_units_no_law_has_a_factor(system):
    """Energy is mass times squared velocity and force times length, pressure is energy a volume, kB is 1."""
    units = system.coherent
    assert units.energy == pytest.approx(units.mass * units.in_si("velocity") ** 2)
    assert units.in_si("force") * units.length == pytest.approx(units.energy)
    assert units.pressure * units.length**3 == pytest.approx(units.energy)
    assert units.viscosity == pytest.approx(units.pressure * units.time)
    assert units.boltzmann == pytest.approx(1, rel=1e-15)
    assert units.coherent == units
    assert (units.length, units.energy, units.mass) == (system.length, system.energy, system.mass)


def test_only_reduced_units_are_coherent_of_those_in_which_results_are_quoted():
    assert ARGON.coherent == ARGON
    for system in (SI, METAL, REAL):
        assert system.coherent != system


def test_a_temperature_is_passed_as_an_energy():
    """kB T at 300 K: 25.85 meV and 0.596 kcal/mol."""
    assert convert(300.0, "temperature", METAL, METAL.coherent) == pytest.approx(0.025852, rel=1e-4)
    assert convert(300.0, "temperature", REAL, REAL.coherent) == pytest.approx(0.59616, rel=1e-4)
    assert convert(119.8, "temperature", REAL, ARGON) == pytest.approx(1.0)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_conversions_compose_and_invert(dimension):
    for a, b, c in itertools.permutations(SYSTEMS.values(), 3):
        assert convert(convert(3.0, dimension, a, b), dimension, b, a) == pytest.approx(3.0, rel=1e-14)
        assert convert(convert(3.0, dimension, a, b), dimension, b, c) == pytest.approx(convert(3.0, dimension, a, c))


def test_arrays_keep_their_type():
    for array in (np.ones(3, np.float32), jnp.ones(3)):
        converted = convert(array, "time", REAL, REAL.coherent)
        assert type(converted) is type(array)
        assert converted.dtype == "float32"
        np.testing.assert_allclose(converted, 1 / 48.88821291, rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"dimension = 'charge'; must be one of 'length', .*'force'"):
        convert(1.0, "charge", METAL, SI)
    with pytest.raises(ValueError, match=r"sigma = -1\.0; must be a finite number > 0"):
        lennard_jones(sigma=-1.0, epsilon=1.0, mass=1.0, units=METAL)
    with pytest.raises(ValueError, match="mass = nan; must be"):
        lennard_jones(sigma=1.0, epsilon=1.0, mass=math.nan, units=METAL)


def test_systems_are_compared_by_value():
    assert METAL.coherent == coherent(length=1e-10, energy=METAL.energy, mass=METAL.mass)
    assert isinstance(hash(METAL), int)
    assert len({METAL, REAL, SI, UnitSystem(**vars(SI))}) == 3
