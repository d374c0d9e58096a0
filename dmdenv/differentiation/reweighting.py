"""Derivatives of equilibrium averages from samples, without a derivative of the dynamics that drew them.

    <A> = sum_k w_k A_k,    w_k ~ exp(-(u_k - v_k)),    sum_k w_k = 1

for configurations k which were drawn with the reduced energies v_k, at reduced energies u_k. Where u = v all weights
are equal, and the derivative by a parameter is the fluctuation formula

    d<A> = <dA> - (<A du> - <A> <du>)

References: Zwanzig, J. Chem. Phys. 22, 1420 (1954); Thaler and Zavadlav, Nat. Commun. 12, 6884 (2021), who learn
potentials by it; Kish, Survey Sampling (1965), section 8.2, for the effective number of samples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Reweighted(NamedTuple):
    """An average over samples with weights."""

    mean: Any  # of the values, without their first axis
    effective_samples: jax.Array  # float [], 1 / sum_k w_k^2: samples if the weights are equal, 1 if one has them all


def reweight(values: Any, energies: jax.Array, sampled: jax.Array | None = None) -> Reweighted:
    """The average of values over sampled configurations in the ensemble of reduced energies, see the module.

    Its derivative by what the energies depend on is that of the equilibrium average. Unlike that of a trajectory it
    does not grow with the length of the simulation, and it costs the derivative of the energies only. The
    configurations themselves must be constants: sample with `jax.lax.stop_gradient` of the parameters.

        def mean_distance(epsilon):
            x = sample(jax.lax.stop_gradient(epsilon))
            return reweight(distances(x), energies(epsilon, x) / temperature).mean

    Args:
        values: a pytree of arrays `[samples, ...]`, of each configuration.
        energies: `[samples]`, reduced: U / T, or (U + p V) / T at constant pressure; without unit.
        sampled: `[samples]`, those with which they were drawn; None: `energies`. The average at other parameters than
            those of the samples is good as long as `effective_samples` is a large part of them.

    Returns:
        `(mean, effective_samples)`. An energy that is not finite makes both NaN.

    Raises:
        ValueError: for energies that are not `[samples]`, or values of another number of samples.
    """
    if energies.ndim != 1 or energies.size == 0:
        raise ValueError(f"energies has shape {energies.shape}; must be [samples], at least one")
    if sampled is not None and sampled.shape != energies.shape:
        raise ValueError(f"sampled has shape {sampled.shape}; must be that of energies, {energies.shape}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        if jnp.shape(leaf)[:1] != energies.shape:
            name = f"values{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} has shape {jnp.shape(leaf)}; must be [samples, ...] with {energies.size} samples")
    drawn = jax.lax.stop_gradient(energies if sampled is None else sampled)
    weights = jax.nn.softmax(drawn - energies)
    mean = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), values)
    return Reweighted(mean, 1 / jnp.sum(weights**2))
