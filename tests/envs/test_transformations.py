"""What users nest around environments, lists, trajectories and minimisations changes no result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from devices import DIVIDED, SHARED, on_devices
from dmdenv.differentiation import rollout
from dmdenv.envs import make_env
from dmdenv.integrators import NVE
from dmdenv.minimizers import FIRE, minimize
from dmdenv.neighbors import allocate, neighbor_sum, update
from dmdenv.potentials import soft_sphere
from dmdenv.space import Periodic
from marks import by_default
from small_envs import SMALL, TASKS, small_env

KEYS = jax.random.split(jax.random.key(0), 4)
SPACE = Periodic(4.0)


def assert_close(found, expected):
    def compare(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)

    jax.tree.map(compare, found, expected)


def in_pairs(transform, keys):
    """A function of two by two keys, for four."""
    return jax.tree.map(lambda y: y.reshape(4, *y.shape[2:]), transform(keys.reshape(2, 2)))


TRANSFORMATIONS = {
    "vmap of vmap": lambda one, keys: in_pairs(jax.jit(jax.vmap(jax.vmap(one))), keys),
    "shard_map of vmap": lambda one, keys: on_devices(jax.vmap(one))(keys),
    "shard_map of scan": lambda one, keys: on_devices(functools.partial(jax.lax.map, one))(keys),
    "pmap": lambda one, keys: in_pairs(jax.pmap(jax.vmap(one), devices=jax.devices("cpu")[:2]), keys),
    "checkify": lambda one, keys: jax.jit(  # in a map: JAX does not check a batch of while loops
        checkify.checkify(functools.partial(jax.lax.map, one), errors=checkify.all_checks)
    )(keys)[1],
    "remat": lambda one, keys: jax.jit(jax.vmap(jax.checkpoint(one)))(keys),
    "scan": lambda one, keys: jax.jit(functools.partial(jax.lax.map, one))(keys),
}


def env_steps(key, env=None):
    """A reset, a step, and another that ends the episode and resets."""
    env = make_env("trap_drag", particles=4) if env is None else env
    params = env.default_params.replace(max_steps=2)
    action = jnp.full(env.action_shape, 0.3)
    _, state = env.reset(key, params)
    first, state, *_ = env.step_env(key, state, action, params)
    second, state, reward, terminated, truncated, info = env.step(key, state, action, params)
    return first, second, state.time, reward, terminated, truncated, info


def spread(key):
    return jax.random.uniform(key, (8, 2), maxval=4.0)


@functools.cache
def neighbors():
    return allocate(SPACE, spread(KEYS[0]), cutoff=1.0, skin=0.2, slack=8.0)


def list_sum(key):
    """A list is rebuilt, and summed over."""
    positions = spread(key)
    pairs = update(neighbors(), SPACE, positions)
    return neighbor_sum(lambda a, b: SPACE.displacement(a, b) ** 2, positions, pairs), pairs.columns, pairs.overflow


def trajectory(key):
    """Some steps at constant energy, with a list."""
    method, potential = NVE(dt=0.01), soft_sphere()
    state = method.init(potential, SPACE, spread(key), pairs=neighbors(), velocities=jnp.zeros((8, 2)))
    state, observed = rollout(lambda s: method.step(potential, s), state, 5, observe=lambda s: s.positions, every=2)
    return state.positions, observed


def minimum(key):
    method, potential = FIRE(dt=0.1), soft_sphere()
    state = method.init(potential, SPACE, spread(key), pairs=neighbors())
    found = minimize(method, potential, state, tolerance=1e-3, max_steps=40)
    return found.state.positions, found.steps, found.converged


def gradient(key, remat=lambda function: function):
    """The derivative of a short return by a parameter and an action."""
    env = make_env("trap_drag", particles=4)

    @remat
    def short_return(params, action):
        _, state = env.reset(key, params)
        _, state, first, *_ = env.step_env(key, state, action, params)
        return first + env.step_env(key, state, action, params)[2]

    own = jax.random.uniform(
        key, minval=1.0, maxval=1.1
    )  # of this instance: what devices share has a common derivative
    params = jax.tree.map(lambda p: own * p, env.default_params)
    return jax.grad(short_return, argnums=(0, 1))(params, jnp.full(env.action_shape, 0.3 * own))


CASES = [env_steps, list_sum, trajectory, minimum, gradient]
DEFAULT = [("shard_map of vmap", env_steps), ("shard_map of vmap", list_sum)]


@pytest.fixture(scope="module")
def plain():
    """The results without a transformation, one key after the other."""

    @functools.cache
    def results(case):
        neighbors()
        compiled = jax.jit(case)
        return jax.tree.map(lambda *y: jnp.stack(y), *map(compiled, KEYS))

    return results


@pytest.mark.parametrize(
    ("name", "case"),
    by_default([(name, case) for name in TRANSFORMATIONS for case in CASES], *DEFAULT),
)
def test_results_do_not_depend_on_the_transformation(name, case, plain):
    expected = plain(case)  # first: it allocates the list
    assert_close(TRANSFORMATIONS[name](case, KEYS), expected)


@pytest.mark.slow
def test_gradients_through_recomputed_steps(plain):
    assert_close(jax.jit(jax.vmap(functools.partial(gradient, remat=jax.checkpoint)))(KEYS), plain(gradient))


@pytest.mark.slow
@pytest.mark.parametrize(("id", "task"), TASKS)
def test_every_environment_runs_on_several_devices(id, task):
    env = small_env(id, task)
    run = jax.vmap(functools.partial(env_steps, env=env))
    assert_close(on_devices(run)(KEYS), jax.jit(run)(KEYS))


def test_gradients_of_a_parameter_that_devices_share_add_up_over_them():
    env = make_env("trap_drag", particles=4)
    action = jnp.full(env.action_shape, 0.3)

    def reward(params, key):
        _, state = env.reset(key, params)
        return env.step(key, state, action, params)[2]

    def total(params, keys):
        return jnp.sum(jax.vmap(reward, (None, 0))(params, keys))

    def of_all(params, keys):
        return jax.lax.psum(total(params, keys), "device")

    slope = on_devices(jax.grad(of_all), in_specs=(SHARED, DIVIDED), out_specs=SHARED)
    assert_close(slope(env.default_params, KEYS), jax.jit(jax.grad(total))(env.default_params, KEYS))


@pytest.mark.slow
def test_gradients_of_a_coefficient_in_a_kernel_add_up_over_devices():
    def energy(epsilon, keys):
        positions = jax.vmap(spread)(keys)
        energies = jax.vmap(lambda r: soft_sphere(epsilon=epsilon).energy(SPACE, r, update(neighbors(), SPACE, r)))
        return jnp.sum(energies(positions))

    def of_all(epsilon, keys):
        return jax.lax.psum(energy(epsilon, keys), "device")

    neighbors()
    slope = on_devices(jax.grad(of_all), in_specs=(SHARED, DIVIDED), out_specs=SHARED)
    assert_close(slope(1.5, KEYS), jax.jit(jax.grad(energy))(1.5, KEYS))


def test_a_state_that_devices_share_takes_steps_that_differ():
    env = make_env("trap_drag", particles=4)
    action = jnp.full(env.action_shape, 0.3)
    _, state = env.reset(KEYS[0])

    def steps(keys, state):
        return jax.vmap(lambda key: env.step(key, state, action))(keys)[:3]

    sharded = on_devices(steps, in_specs=(DIVIDED, SHARED))
    assert_close(sharded(KEYS, state), jax.jit(steps)(KEYS, state))


@pytest.mark.parametrize(("id", "task"), by_default(SMALL, ("trap_drag", "drag")))
def test_a_state_may_be_donated(id, task):
    """No two leaves of a state are one buffer."""
    env = small_env(id, task)
    action = jnp.full(env.action_shape, 0.3)
    donating = jax.jit(env.step, donate_argnums=1)
    _, kept = env.reset(KEYS[0])
    _, given = env.reset(KEYS[0])
    for key in KEYS[:2]:
        _, kept, *expected = env.step(key, kept, action)
        _, given, *found = donating(key, given, action)
    assert_close((given, found), (kept, expected))
