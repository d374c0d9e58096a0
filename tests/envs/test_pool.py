"""Pools of initial states: prepared once on the host, drawn from by pure functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from dmdenv.envs import pool, registry
from probe_envs import PointMass

CALLS = []


def squares(size):
    CALLS.append(size)
    return {"square": jnp.arange(size, dtype=float) ** 2, "root": jnp.arange(size)}


def test_a_pool_is_prepared_once_per_configuration_and_precision():
    CALLS.clear()
    first = pool.prepare(squares, 5)
    assert pool.prepare(squares, 5) is first and CALLS == [5]
    assert isinstance(first["square"], np.ndarray) and first["square"].dtype == np.float32
    pool.prepare(squares, 6)
    with jax.enable_x64(True):
        assert pool.prepare(squares, 5)["square"].dtype == np.float64
    assert CALLS == [5, 6, 5]


def test_a_draw_is_a_member_and_each_is_drawn():
    pool.prepare(squares, 4)
    drawn = jax.jit(jax.vmap(lambda key: pool.draw(key, squares, 4)))(jax.random.split(jax.random.key(0), 64))
    np.testing.assert_array_equal(drawn["square"], drawn["root"].astype(float) ** 2)
    assert set(drawn["root"].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("trace", [jax.jit, jax.make_jaxpr, lambda f: lambda: jax.eval_shape(f)])
def test_nothing_is_prepared_while_tracing(trace):
    CALLS.clear()
    with pytest.raises(RuntimeError, match=r"pool squares\(7,\) is not prepared.* call prepare\(\) of the environment"):
        trace(lambda: pool.draw(jax.random.key(0), squares, 7))()
    assert not CALLS


@dataclasses.dataclass(frozen=True)
class Pooled(PointMass):
    """A mass whose starts come from a pool."""

    size: int = 3

    def prepare(self):
        super().prepare()
        pool.prepare(squares, self.size)

    def initial_state(self, key, params):
        position = pool.draw(key, squares, self.size)["square"]
        return super().initial_state(key, params).replace(position=position)


def test_an_environment_by_its_id_is_prepared_and_any_other_at_its_first_reset(monkeypatch):
    monkeypatch.setattr(registry, "_table", dict(registry._table))  # registered here alone
    dmdenv.register("pooled", Pooled)
    jax.eval_shape(dmdenv.make_env("pooled").reset, jax.random.key(0))
    other = Pooled(size=8)
    with pytest.raises(RuntimeError, match="is not prepared"):
        jax.eval_shape(other.reset, jax.random.key(0))
    other.reset(jax.random.key(0))
    jax.eval_shape(other.reset, jax.random.key(0))
