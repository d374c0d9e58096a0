"""Motion in time: mean squared displacement and velocity autocorrelation.

    MSD(t) = <|r_i(s + t) - r_i(s)|^2>,    C(t) = <v_i(s + t) . v_i(s)>

`mean_squared_displacement` and `velocity_autocorrelation` compare two moments, for use in a running
simulation. Their `_series` average over all time origins s of a trajectory, by fast Fourier transforms: t log t
operations instead of t^2.

Reference: Allen and Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), sections 2.7 and 8.3; the transforms:
Calandrini et al., Collection SFN 12, 201 (2011).
"""

import jax
import jax.numpy as jnp


def mean_squared_displacement(positions: jax.Array, start: jax.Array) -> jax.Array:
    """`1/n sum_i |r_i - r_i(0)|^2`, `[]`, unit length^2.

    Args:
        positions: `[n, d]`, continuous in time: not wrapped into a box.
        start: `[n, d]`, the positions at time 0.
    """
    return jnp.mean(jnp.sum((positions - start) ** 2, axis=-1))


def velocity_autocorrelation(velocities: jax.Array, start: jax.Array) -> jax.Array:
    """`1/n sum_i v_i . v_i(0)`, `[]`, unit length^2 / time^2.

    Args:
        velocities: `[n, d]`.
        start: `[n, d]`, the velocities at time 0.
    """
    return jnp.mean(jnp.sum(velocities * start, axis=-1))


def mean_squared_displacement_series(trajectory: jax.Array) -> jax.Array:
    """The mean squared displacement after each lag, averaged over particles and time origins, `[t]`, unit length^2.

    It is a difference of larger numbers: its error is about the floating-point precision times the square of the total
    distance that particles travel.

    Args:
        trajectory: positions `[t, n, d]` at equal intervals, continuous in time: not wrapped into a box.

    Raises:
        ValueError: for another shape.
    """
    _check_trajectory(trajectory)
    steps = trajectory.shape[0]
    r = trajectory - jnp.mean(trajectory, axis=0, keepdims=True)
    squares = jnp.mean(jnp.sum(r * r, axis=-1), axis=1)
    first = jnp.cumsum(squares)[::-1]  # sum over origins of |r(s)|^2, lag by lag
    last = jnp.cumsum(squares[::-1])[::-1]  # the same of |r(s + t)|^2
    return (first + last) / _origins(steps, r.dtype) - 2.0 * _autocorrelation(r)


def velocity_autocorrelation_series(trajectory: jax.Array) -> jax.Array:
    """The velocity autocorrelation at each lag, averaged over particles and origins, `[t]`, unit length^2 / time^2.

    Args:
        trajectory: velocities `[t, n, d]` at equal intervals.

    Raises:
        ValueError: for another shape.
    """
    _check_trajectory(trajectory)
    return _autocorrelation(trajectory)


def _autocorrelation(x: jax.Array) -> jax.Array:
    """The mean over particles and origins of `x(s) . x(s + t)`; padded with zeros, since the transform is periodic."""
    steps = x.shape[0]
    spectrum = jnp.fft.rfft(x, n=2 * steps, axis=0)
    power = jnp.mean(jnp.sum(spectrum.real**2 + spectrum.imag**2, axis=-1), axis=1)
    return jnp.fft.irfft(power, n=2 * steps)[:steps] / _origins(steps, x.dtype)


def _origins(steps: int, dtype) -> jax.Array:
    """The number of time origins for each lag."""
    return steps - jnp.arange(steps, dtype=dtype)


def _check_trajectory(trajectory: jax.Array) -> None:
    if trajectory.ndim != 3 or not trajectory.shape[0]:
        raise ValueError(f"trajectory has shape {trajectory.shape}; must be [t, n, d] with t >= 1")
