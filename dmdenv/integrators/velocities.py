"""Initial velocities at a temperature."""

import jax
import jax.numpy as jnp


def maxwell_boltzmann(
    key: jax.Array,
    masses: jax.Array,
    temperature: jax.Array | float,
    dimension: int,
    *,
    zero_momentum: bool = True,
    exact_temperature: bool = False,
) -> jax.Array:
    """Velocities of the Maxwell-Boltzmann distribution, each component normal with variance `temperature / m_i`.

    Differentiable in the temperature and the masses.

    Args:
        key: consumed.
        masses: `[n]`, unit mass.
        temperature: unit energy (Boltzmann's constant is 1).
        dimension: d.
        zero_momentum: subtract the velocity of the centre of mass, which leaves `f = d (n - 1)` degrees of freedom;
            otherwise `f = d n`. A single particle is left at rest.
        exact_temperature: scale so that `2 K / f` is the temperature itself, not only on average.

    Returns:
        `[n, d]`, unit length / time.

    Raises:
        ValueError: for masses that are not `[n]`; for an exact temperature without any degree of freedom.
    """
    masses = jnp.asarray(masses, jnp.result_type(float, masses))
    if masses.ndim != 1:
        raise ValueError(f"masses has shape {masses.shape}; must be [n]")
    n, m = len(masses), masses[:, None]
    f = dimension * (n - 1 if zero_momentum else n)
    if exact_temperature and f == 0:
        raise ValueError("exact_temperature = True for a single particle of zero momentum; must be False")
    v = jnp.sqrt(temperature / m) * jax.random.normal(key, (n, dimension), masses.dtype)
    if zero_momentum:
        v = v - jnp.sum(m * v, axis=0, keepdims=True) / jnp.sum(m)
    if exact_temperature:
        v = v * jnp.sqrt(f * temperature / jnp.sum(m * v**2))
    return v
