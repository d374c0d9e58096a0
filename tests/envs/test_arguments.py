"""Arguments of environments that mean nothing are refused, by name, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.envs import make_env

KEY = jax.random.key(0)
ENV = make_env("trap_drag", particles=4)
PARAMS = ENV.default_params
ACTION = jnp.zeros(ENV.action_shape)


@pytest.fixture(scope="module")
def state():
    return ENV.reset(KEY)[1]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (0, r"key = 0; must be a key, such as jax.random.key\(0\)"),
        (None, "key = None; must be a key"),
        (np.zeros(2), r"key = \[0.0, 0.0\]; must be a key"),
        (jax.random.split(KEY, 3), r"key has shape \(3,\); must be one key \(for a batch of instances use jax.vmap\)"),
        (jax.random.split(jax.random.PRNGKey(0), 3), r"key has shape \(3, 2\); must be one key"),
    ],
)
def test_what_is_no_key_is_refused(key, message, state):
    calls = (
        lambda: ENV.reset(key),
        lambda: ENV.step(key, state, ACTION),
        lambda: ENV.step_env(key, state, ACTION),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"distance": 3.0}, r"params is a dict; must be TrapDragParams, such as env.default_params.replace\(...\)"),
        (make_env("flocking").default_params, "params is a FlockingParams; must be TrapDragParams"),
        (PARAMS.replace(distance=[1.0, 5.0]), r"TrapDragParams.distance has shape \(2,\); must be one number"),
        (PARAMS.replace(distance=np.ones((1, 1))), r"TrapDragParams.distance has shape \(1, 1\); must be one number"),
    ],
)
def test_other_parameters_are_refused(params, message, state):
    calls = (
        lambda: ENV.reset(KEY, params),
        lambda: jax.jit(ENV.step)(KEY, state, ACTION, params),
        lambda: ENV.step_env(KEY, state, ACTION, params),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize(
    ("value", "message"),
    [([], r"has shape \(0,\); must not be empty"), (1j, "= 1j; must be a finite number"), (None, "= None; must be")],
)
def test_parameters_without_a_meaning_are_refused_at_construction(value, message):
    with pytest.raises((TypeError, ValueError), match=f"TrapDragParams.distance {message}"):
        PARAMS.replace(distance=value)


def test_a_batch_of_parameters_is_for_vmap():
    distances = jnp.array([1.0, 2.0])
    one_each = jax.vmap(lambda distance: PARAMS.replace(distance=distance))(distances)
    reset = jax.vmap(lambda distance: ENV.reset(KEY, PARAMS.replace(distance=distance))[0])
    by_parameters = jax.vmap(lambda params: ENV.reset(KEY, params)[0])(one_each)
    np.testing.assert_allclose(by_parameters, reset(distances), rtol=4 * np.finfo(np.float32).eps)


def test_a_state_of_another_environment_is_refused():
    other = make_env("flocking", boids=4).reset(KEY)[1]
    with pytest.raises(TypeError, match="state is a FlockingState; must be TrapDragState, from reset of TrapDrag"):
        ENV.step(KEY, other, ACTION)
    with pytest.raises(TypeError, match="state is a tuple; must be TrapDragState"):
        ENV.step_env(KEY, ENV.reset(KEY), ACTION)


def test_a_complex_action_is_refused(state):
    with pytest.raises(TypeError, match="action has type complex64; must be real numbers"):
        ENV.step(KEY, state, 1j * ACTION)


@pytest.mark.parametrize(
    ("id", "task", "field"),
    [
        ("lj_fluid", "drag", "particles"),
        ("flocking", "shepherd", "boids"),
        ("flocking", "evade", "predators"),
        ("soft_sphere_packing", "compress", "particles"),
        ("bonded_chain", "swim", "beads"),
        ("trap_drag", None, "particles"),
    ],
)
def test_what_no_machine_could_hold_is_refused(id, task, field):
    with pytest.raises(ValueError, match=rf"{field} = 1000000000000; must be an integer >= \d and <= 10000000$"):
        make_env(id, **{field: 10**12}, **({} if task is None else {"task": task}))


def test_integers_of_numpy_are_welcome():
    assert make_env("trap_drag", particles=np.int64(4)) == ENV
