"""Dynamic parameters of the tasks of `soft_sphere_packing`, and their defaults for each configuration."""

import jax

from dmdenv.envs.base import Params, parameter

JAMMING = {2: 0.84, 3: 0.64}  # packing fraction at which a packing jams, by dimension, about


class PackingCompressParams(Params):
    """Units: the small diameter, and the energy of the potential."""

    max_steps: jax.Array = parameter(default=64, unit="steps", doc="steps in an episode", low=1)
    target_pressure: jax.Array = parameter(default=1e-3, unit="energy / length^d", doc="p*", low=1e-8)
    pressure_floor: jax.Array = parameter(
        default=1e-5, unit="energy / length^d", doc="p0, below which pressures count as none", low=1e-12
    )
    target_fraction: jax.Array = parameter(
        default=0.84, unit="1", doc="phi*; the middle of the observed scale in any case", low=0.01, high=2.0
    )
    fraction_scale: jax.Array = parameter(
        default=0.2, unit="1", doc="of packing fractions, in observation and reward", low=1e-6
    )
    strain: jax.Array = parameter(
        default=0.02, unit="1 / step", doc="fastest relative change of the packing fraction", low=0.0, high=1.0
    )
    kick: jax.Array = parameter(default=0.1, unit="length", doc="strongest agitation", low=0.0)
    start_min: jax.Array = parameter(default=0.65, unit="1", doc="loosest start, packing fraction", low=0.01, high=2.0)
    start_max: jax.Array = parameter(default=0.75, unit="1", doc="densest start, packing fraction", low=0.01, high=2.0)
    loosest: jax.Array = parameter(default=0.5, unit="1", doc="least packing fraction", low=0.01, high=2.0)
    densest: jax.Array = parameter(default=1.1, unit="1", doc="greatest packing fraction", low=0.01, high=2.0)
    ratio: jax.Array = parameter(default=1.4, unit="1", doc="of the diameters of the two halves", low=0.1, high=10.0)
    alpha: jax.Array = parameter(
        default=2.0, unit="1", doc="exponent of the potential: 2 harmonic, 5/2 Hertzian", low=1.5, high=10.0
    )
    fire_dt: jax.Array = parameter(
        default=0.1, unit="length / energy^(1/2)", doc="first time step of FIRE", low=1e-6, high=1.0
    )
    target_weight: jax.Array = parameter(default=1.0, unit="1", doc="of the distance to the target", low=0.0)
    residual_weight: jax.Array = parameter(default=0.5, unit="1", doc="of forces that are not relaxed", low=0.0)
    contact_weight: jax.Array = parameter(default=0.5, unit="1", doc="of the distance to 2 d contacts", low=0.0)
    energy_weight: jax.Array = parameter(default=0.0, unit="1", doc="of the energy", low=0.0)
    energy_scale: jax.Array = parameter(default=2e-4, unit="energy", doc="e*, per particle", low=1e-12)


class PackingDesignParams(Params):
    """Units: epsilon of the potential, and the volume of the box per particle."""

    max_steps: jax.Array = parameter(default=8, unit="steps", doc="attempts in an episode", low=1)
    target_min: jax.Array = parameter(default=0.0, unit="of the property", doc="least target")
    target_max: jax.Array = parameter(default=1.0, unit="of the property", doc="greatest target")
    target_scale: jax.Array = parameter(
        default=1.0, unit="of the property", doc="of distances, in observation and reward", low=1e-12
    )
    fraction_min: jax.Array = parameter(default=0.94, unit="1", doc="least packing fraction", low=0.01, high=2.0)
    fraction_max: jax.Array = parameter(default=0.96, unit="1", doc="greatest packing fraction", low=0.01, high=2.0)
    fraction_scale: jax.Array = parameter(default=0.02, unit="1", doc="of packing fractions, observed", low=1e-6)
    diameter_min: jax.Array = parameter(
        default=0.4, unit="1", doc="least diameter, in units of the fixed one", low=0.01, high=100.0
    )
    diameter_max: jax.Array = parameter(
        default=1.0, unit="1", doc="greatest diameter, in units of the fixed one", low=0.01, high=100.0
    )
    alpha: jax.Array = parameter(
        default=2.0, unit="1", doc="exponent of the potential: 2 harmonic, 5/2 Hertzian", low=1.5, high=10.0
    )
    force_tolerance: jax.Array = parameter(
        default=1e-5, unit="energy / length", doc="largest force in a minimum", low=0.0
    )
    fire_dt: jax.Array = parameter(
        default=0.1, unit="length / energy^(1/2)", doc="first time step of FIRE", low=1e-6, high=1.0
    )


# --- defaults ---------------------------------------------------------------------------------------------------------

# of `compress`: packing fractions over that of jamming
_SHARES = {"target_fraction": 1.0, "start_min": 0.78, "start_max": 0.88, "loosest": 0.6, "densest": 1.3}

# of `design`: the middle packing fraction, by dimension
DESIGN_FRACTION = {2: 0.95, 3: 0.72}

# (dimension, diameters, target): the least and the greatest target
_TARGETS: dict[tuple[int, str, str], tuple[float, float]] = {
    (2, "populations", "energy"): (0.0024, 0.0034),
    (2, "populations", "pressure"): (0.042, 0.057),
    (2, "populations", "shear_modulus"): (0.05, 0.15),
    (2, "populations", "poisson_ratio"): (0.55, 0.8),
    (2, "each", "energy"): (0.0028, 0.0036),
    (2, "each", "pressure"): (0.049, 0.058),
    (2, "each", "shear_modulus"): (0.08, 0.17),
    (2, "each", "poisson_ratio"): (0.55, 0.75),
    (3, "populations", "energy"): (0.001, 0.0024),
    (3, "populations", "pressure"): (0.019, 0.038),
    (3, "populations", "shear_modulus"): (0.03, 0.1),
    (3, "populations", "poisson_ratio"): (0.37, 0.45),
    (3, "each", "energy"): (0.0015, 0.0025),
    (3, "each", "pressure"): (0.029, 0.037),
    (3, "each", "shear_modulus"): (0.05, 0.12),
    (3, "each", "poisson_ratio"): (0.34, 0.42),
}


def compress_params(dimension: int, target: str) -> PackingCompressParams:
    """Packing fractions in proportion to that of jamming, weights as the target wants."""
    values = {name: share * JAMMING[dimension] for name, share in _SHARES.items()}
    if target == "packing_fraction":
        values |= {"target_fraction": 1.03 * JAMMING[dimension], "contact_weight": 0.0, "energy_weight": 1.0}
    return PackingCompressParams().replace(**values)


def design_params(dimension: int, diameters: str, target: str) -> PackingDesignParams:
    """Targets among what random diameters give."""
    least, greatest = _TARGETS[dimension, diameters, target]
    return PackingDesignParams().replace(
        target_min=least,
        target_max=greatest,
        target_scale=greatest - least,
        fraction_min=DESIGN_FRACTION[dimension] - 0.01,
        fraction_max=DESIGN_FRACTION[dimension] + 0.01,
        diameter_min=0.4 if diameters == "populations" else 0.7,
    )


def check_order(params: Params, low: str, high: str) -> None:
    """Refuse concrete parameters of which the lower end of a range is above the higher one."""
    if getattr(params, low) > getattr(params, high):
        raise ValueError(f"{low} = {getattr(params, low):g}; must be <= {high} = {getattr(params, high):g}")
