"""Stochastic policies: the density of squashed Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents import SpaceMismatchError
from dmdenv.agents.heads import NormalizedPolicy, SquashedGaussian, gaussian_policy, log_slope
from dmdenv.agents.normalizer import normalizer
from probe_envs import PointMass, ReadTheCue

KEY = jax.random.key(0)
U = np.linspace(-25.0, 25.0, 200_001)[:, None]


@pytest.mark.usefixtures("x64")
def test_density_integrates_to_one_and_gives_the_entropy():
    @jax.jit
    def run(mean, log_deviation):
        gaussian = SquashedGaussian(jnp.full(U.shape, mean), log_deviation[None])
        return gaussian.log_probability(jnp.asarray(U)), gaussian.entropy(KEY), gaussian.sample(KEY)

    for mean, log_deviation in ((0.0, -4.0), (0.3, -0.14), (-1.5, 0.7)):
        log_density, estimates, samples = map(np.asarray, run(mean, jnp.asarray(log_deviation)))
        mass = np.exp(log_density) / np.cosh(U[:, 0]) ** 2 * (U[1, 0] - U[0, 0])  # p(a) da
        np.testing.assert_allclose(np.sum(mass), 1.0, rtol=1e-9)
        entropy = -np.sum(mass * log_density)
        assert entropy < np.log(2.0)  # of the uniform distribution
        np.testing.assert_allclose(np.mean(estimates), entropy, atol=5 * np.std(estimates) / len(U) ** 0.5)
        np.testing.assert_allclose([np.mean(samples), np.std(samples)], [mean, np.exp(log_deviation)], atol=0.03)


def test_components_of_a_row_add_up_and_rows_do_not():
    mean, log_deviation = jnp.array([[0.1, -0.4], [2.0, 0.0]]), jnp.array([-1.0, 0.5])
    u = jnp.array([[0.3, 0.3], [-1.0, 4.0]])
    one = jax.jit(lambda *x: SquashedGaussian(*x[:2]).log_probability(x[2]))
    parts = [one(mean[:, k, None], log_deviation[k, None], u[:, k, None]) for k in (0, 1)]
    np.testing.assert_allclose(one(mean, log_deviation, u), np.sum(parts, axis=0), rtol=1e-6)


def test_correction_of_tanh_is_exact_where_tanh_is_one():
    slope, derivative = jax.jit(jax.vmap(jax.value_and_grad(log_slope)))(jnp.array([-50.0, 0.0, 50.0]))
    np.testing.assert_allclose(slope, [2 * np.log(2) - 100.0, 0.0, 2 * np.log(2) - 100.0], rtol=1e-6)
    np.testing.assert_allclose(derivative, [2.0, 0.0, -2.0])


@pytest.mark.parametrize("env", [PointMass(), ReadTheCue(rows=5)], ids=["one vector", "rows"])
def test_policy_fits_the_spaces_and_is_random_around_its_center(env):
    @jax.jit
    def actions(key):
        policy, observation = gaussian_policy(env, (4,), KEY, deviation=0.5), jnp.ones(env.observation_shape)
        certain = policy.replace(log_deviation=jnp.full(1, -30.0))
        samples = [p.center.squash(p.distribution(observation).sample(key)) for p in (policy, certain)]
        return *samples, NormalizedPolicy(normalizer(env.observation_shape[-1:]), policy.center)(key, observation)

    action, certain, center = actions(KEY)
    assert action.shape == env.action_shape
    assert jnp.all(jnp.abs(action) < 1.0) and jnp.all(action != center)
    np.testing.assert_allclose(certain, center, atol=1e-6)


def test_observations_with_other_features_are_refused():
    def act(key):
        policy = gaussian_policy(PointMass(), (4,), key, deviation=0.5)
        return NormalizedPolicy(normalizer((2,)), policy.center)(key, jnp.zeros(3))

    with pytest.raises(SpaceMismatchError, match="observations have 3 features per row; the policy takes 2"):
        jax.eval_shape(act, KEY)
