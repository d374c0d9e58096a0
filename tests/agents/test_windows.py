"""Windows of steps across the ends of episodes."""

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.agents import windows
from probe_envs import PointMass

KEY = jax.random.key(0)


def test_steps_that_end_an_episode_keep_the_observation_before_the_reset():
    env = PointMass()
    params = env.default_params.replace(max_steps=4, escape=0.5)

    @jax.jit
    def run(key):
        states, observations = windows.begin(env, key, params, num_envs=8, steps=2)

        def act(key, observation, state):
            return jnp.ones(1), observation

        return windows.run_window(env, act, states, observations, key, params, steps=10)

    _, observations, window = run(KEY)
    ended = np.asarray(window.terminated | window.truncated)
    assert window.terminated.any() and window.truncated.any()
    np.testing.assert_array_equal(window.records, window.observations)
    later = np.concatenate([window.observations[1:], observations[None]])
    np.testing.assert_array_equal((later == window.next_observations).all(axis=-1), ~ended)
    np.testing.assert_array_equal(later[ended][:, 1], 0.0)  # at rest
    x, v = np.moveaxis(np.asarray(window.observations), -1, 0)
    np.testing.assert_allclose(window.next_observations[..., 0], x + 0.2 * v, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(window.means["reward"], np.mean(window.rewards), rtol=1e-6)
