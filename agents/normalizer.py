"""Running mean and variance of observations, and of returns."""

from typing import Self

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree

SMALLEST_VARIANCE = 1e-8
LARGEST = 10.0  # standard deviations; what is farther away is moved to there


@pytree
class Normalizer(Replaceable):
    """Mean and variance of all samples that were merged so far; nothing else changes them."""

    count: jax.Array  # float [], number of samples
    mean: jax.Array  # float [*m]
    variance: jax.Array  # float [*m], the mean of the squared deviations

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(x - mean) / deviation`, at most 10 in magnitude; `[..., *m]`, row by row."""
        mean, deviation = (jnp.broadcast_to(y, x.shape) for y in (self.mean, self.deviation))
        return jnp.clip((x - mean) / deviation, -LARGEST, LARGEST)

    def restore(self, y: jax.Array) -> jax.Array:
        """`mean + deviation y`, of the shape of a sample."""
        return self.mean + self.deviation * y

    @property
    def deviation(self) -> jax.Array:
        """The standard deviation, `[*m]`, above zero."""
        return jnp.sqrt(self.variance + SMALLEST_VARIANCE)

    def merge(self, batch: jax.Array) -> Self:
        """With the samples of a batch `[..., *m]`, exactly: as if all had come at once.

            mean = mean_a + d n_b / n,    variance = (n_a var_a + n_b var_b) / n + d^2 n_a n_b / n^2,

        with `d = mean_b - mean_a` and `n = n_a + n_b`. A batch whose moments are not finite is left out.

        Reference: Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983), eq. 2.1.
        """
        samples = batch.reshape(-1, *self.mean.shape)
        count = self.count + len(samples)
        share = len(samples) / count
        apart = jnp.mean(samples, axis=0) - self.mean
        mean = self.mean + share * apart
        variance = (1 - share) * self.variance + share * jnp.var(samples, axis=0) + share * (1 - share) * apart**2
        merged = self.replace(count=count, mean=mean, variance=variance)
        finite = jnp.all(jnp.isfinite(mean) & jnp.isfinite(variance))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), merged, self)


def normalizer(shape: tuple[int, ...] = ()) -> Normalizer:
    """No samples yet: mean 0, variance 1.

    Args:
        shape: of one sample.
    """
    return Normalizer(count=jnp.zeros(()), mean=jnp.zeros(shape), variance=jnp.ones(shape))
