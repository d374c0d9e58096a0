"""Gradients against the horizon: growth, exponents and agreement that are known, what is not finite, bad arguments."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.envs import Params, State, Transition, parameter
from probe_envs import Crowded, PointMass, Probe

HORIZONS = (1, 2, 4, 8, 16)


class MapParams(Params):
    """A linear map of two numbers; on a torus where `wrapped` is 1."""

    max_steps: jax.Array = parameter(default=16, unit="steps", doc="length of an episode", low=1)
    a: jax.Array = parameter(default=1.2, unit="1", doc="factor of the first number")
    b: jax.Array = parameter(default=0.5, unit="1", doc="factor of the second number")
    c: jax.Array = parameter(default=0.0, unit="1", doc="factor of one in the other")
    wrapped: jax.Array = parameter(default=0.0, unit="1", doc="whether on a torus")
    brittle: jax.Array = parameter(default=0.0, unit="1", doc="x at the start below which the gradient is NaN")


class MapState(State):
    x: jax.Array  # float [2], from 0 to 1 at the start


@dataclasses.dataclass(frozen=True)
class Map(Probe[MapState, MapParams]):
    """x' = M x + (action, 0) with the reward -x_0^2 / 2, or sin(2 pi x_0) on the torus."""

    shapes = (2,), (1,)

    @property
    def default_params(self):
        return MapParams()

    def initial_state(self, key, params):
        return MapState(x=jax.random.uniform(key, (2,)))

    def advance(self, key, state, action, params):
        poisoned = (state.time == 0) & (state.x[0] < params.brittle)
        zero = jnp.sqrt(jnp.where(poisoned, 0.0 * action[0], 1.0)) - jnp.where(poisoned, 0.0, 1.0)
        matrix = jnp.stack([jnp.stack([params.a, params.c]), jnp.stack([params.c, params.b])])
        x = matrix @ state.x + jnp.stack([action[0], jnp.zeros_like(action[0])])
        x = x - params.wrapped * jnp.floor(x)
        reward = jnp.where(params.wrapped > 0, jnp.sin(2 * jnp.pi * x[0]), -0.5 * x[0] ** 2)
        return Transition(state.replace(x=x), reward + zero)

    def observe(self, state, params):
        return state.x


def report(env=None, actions=None, horizons=HORIZONS, **options):
    env = Map() if env is None else env
    actions = jnp.zeros((16, 1)) if actions is None else actions
    return dmdenv.grad_report(env, actions, horizons, progress=False, **options)


def test_of_a_linear_system_norm_variance_and_exponent_are_known():
    found = report()
    # x_t = a^t x_0 at zero action, so that dJ / da_s = -x_0 sum_(t > s) a^(2 t - 1 - s)
    a = 1.2
    q = [np.linalg.norm([sum(a ** (2 * t - 1 - s) for t in range(s + 1, H + 1)) for s in range(H)]) for H in HORIZONS]
    np.testing.assert_allclose(found.norm / q, found.norm[0] / q[0], rtol=1e-5)
    np.testing.assert_allclose(found.variance / np.square(q), found.variance[0] / q[0] ** 2, rtol=1e-5)
    assert found.norm[0] / q[0] == pytest.approx(0.5, abs=4 / 12**0.5 / 16**0.5)  # the mean of x_0
    assert found.variance[0] / q[0] ** 2 == pytest.approx(1 / 12, rel=0.8)
    np.testing.assert_allclose(found.exponent[4], math.log(1.2), rtol=1e-3)  # when the other direction is forgotten
    np.testing.assert_allclose((found.cosine, found.ratio), 1.0, atol=1e-3)
    assert found.trusted == 16
    assert np.all(found.nonfinite == 0)


def test_of_a_chaotic_map_the_gradient_grows_and_soon_points_nowhere():
    found = report(params=MapParams(a=2.0, b=1.0, c=1.0, wrapped=1.0))  # Arnold's cat map
    exponent = 2 * math.log((1 + 5**0.5) / 2)
    np.testing.assert_allclose(found.exponent[3:], exponent, rtol=0.02)
    assert found.norm[-1] / found.norm[2] == pytest.approx(math.exp(12 * exponent), rel=0.9)
    assert found.cosine[0] > 0.99
    assert found.ratio[-1] < 1e-3  # the return is bounded
    assert 1 <= found.trusted <= 4  # 0.01 exp(0.96 t) is a turn of the torus after 5 steps


def test_what_is_not_finite_is_counted_and_left_out():
    some, all_ = (report(params=MapParams(brittle=threshold)) for threshold in (0.5, 2.0))
    share = some.nonfinite[0]
    assert 0.1 < share < 0.9 and share * 16 == round(share * 16)
    assert np.all(some.nonfinite == share)
    assert np.all(np.isfinite(some.norm)) and np.all(np.isfinite(some.variance))
    np.testing.assert_allclose(some.cosine, 1.0, atol=1e-4)
    assert some.trusted == 0
    assert np.all(all_.nonfinite == 1.0) and np.all(np.isnan(all_.norm)) and all_.trusted == 0
    assert "100%" in str(all_) and "nan" in str(all_)


def test_the_table_has_a_line_for_each_horizon_and_a_picture_is_drawn(tmp_path):
    found = report()
    lines = [line.split() for line in str(found).splitlines()]
    assert lines[0][-2:] == ["16", "instances"]
    assert lines[2] == ["horizon", "return", "norm", "variance", "non-finite", "cosine", "ratio", "exponent"]
    assert [line[0] for line in lines[3:8]] == ["1", "2", "4", "8", "16"]
    assert "trusted up to horizon 16 " in str(found)
    found.plot(tmp_path / "gradients.png")
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_trap_forgets_at_the_rate_of_the_particles():
    found = report(dmdenv.make_env("trap_drag", particles=8), jnp.full((32, 2), 0.5), (2, 32), instances=4)
    np.testing.assert_allclose(found.exponent, -1 / 32, rtol=1e-4)  # k / gamma = 1, and 32 steps take the time 1
    assert found.trusted == 32


@pytest.mark.slow
def test_the_numbers_of_a_policy_are_varied_in_a_closed_loop():
    policy = jax.tree_util.Partial(lambda w, key, observation: w["gain"] @ observation, {"gain": gain()})
    found = report(PointMass(), policy, (1, 2, 8, 32))
    assert found.varied == "2 numbers of the policy"
    np.testing.assert_allclose(found.cosine, 1.0, atol=1e-2)
    assert found.norm[0] == 0  # an action moves the mass one step later
    assert found.exponent[-1] < 0  # the loop is damped


def gain():
    return jnp.array([[-0.5, -0.5]])


@pytest.mark.slow
def test_a_capacity_that_overflows_is_enlarged():
    env = Crowded()
    with pytest.raises(dmdenv.envs.CapacityExceeded, match="no larger capacity"):
        report(env, jnp.zeros((4, 1)), [4], params=env.default_params.replace(target=-0.9))
    found = report(env, jnp.zeros((4, 1)), [4], params=env.default_params.replace(target=-0.3))
    assert found.norm[0] > 0 and found.trusted == 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"env": "trap_drag"}, TypeError, "env = 'trap_drag'; must be an environment, such as dmdenv.make_env"),
        ({"horizons": [4, 0]}, ValueError, r"horizons\[1\] = 0; must be an integer >= 1 and <= 16"),
        ({"horizons": [-2]}, ValueError, r"horizons\[0\] = -2; must be an integer >= 1 and <= 16"),
        ({"horizons": [17]}, ValueError, r"horizons\[0\] = 17; must be an integer >= 1 and <= 16"),
        ({"horizons": [1.5]}, ValueError, r"horizons\[0\] = 1.5; must be an integer"),
        ({"horizons": []}, ValueError, r"horizons = \[\]; must be a sequence of integers from 1 to 16"),
        ({"horizons": 4}, ValueError, "horizons = 4; must be a sequence of integers from 1 to 16"),
        ({"actions": np.zeros((8, 1)), "horizons": [9]}, ValueError, "= 9; must be an integer >= 1 and <= 8"),
        ({"actions": np.zeros((16, 2))}, ValueError, r"policy_or_actions has shape \(16, 2\); must be a policy, or"),
        ({"actions": np.zeros(())}, ValueError, r"policy_or_actions has shape \(\); must be a policy, or finite act"),
        ({"actions": np.full((16, 1), np.nan)}, ValueError, "must be a policy, or finite actions"),
        ({"actions": lambda key, observation: observation[:1]}, ValueError, "has nothing to differentiate by; must"),
        ({"instances": 1}, ValueError, "instances = 1; must be an integer >= 2"),
        ({"directions": 0}, ValueError, "directions = 0; must be an integer >= 1"),
        ({"step": 0.0}, ValueError, "step = 0.0; must be a finite number > 0"),
        ({"key": 3}, TypeError, "key = 3; must be a key"),
        ({"params": 3}, TypeError, "params is a int; must be MapParams"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_compiled(changes, error, message, monkeypatch):
    monkeypatch.setattr("dmdenv.envs.gradients.measure.compile_first", None)
    with pytest.raises(error, match=message):
        report(**changes)
