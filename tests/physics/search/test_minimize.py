"""Searches: minima in closed form by every method, exact resume, what is not finite, bad arguments."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from dmdenv.search import minimize
from dmdenv.simulation.checkpoints import saved_steps
from marks import by_default

KEY = jax.random.key(0)
METHODS = ("gradient", "cmaes", "random")
VALLEY = {"x": -1.2, "y": 1.0}
START, BOUNDS = {"a": np.array([0.1, 0.5]), "b": 1.0}, {"a": (0, np.array([1.0, 3.0])), "b": (1e-3, 10, "log")}


def rosenbrock(p, key):
    return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2


def quadratic(p, key):
    """Its minimum within the bounds is 1, at a = (0.3, 3), b = 0.02."""
    return jnp.sum((p["a"] - jnp.array([0.3, 4.0])) ** 2) + jnp.log(p["b"] / 0.02) ** 2


def noisy(p, key):
    return p["x"] ** 2 + jax.random.normal(key)


def search(objective, params, **options):
    return minimize(objective, params, KEY, progress=False, **options)


def same(a, b):
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(("method", "error"), [("gradient", 1e-5), ("cmaes", 1e-10), ("random", 1.0)])
def test_the_minimum_of_a_curved_valley_is_found(method, error):
    found = search(rosenbrock, VALLEY, method=method, updates=500)
    assert found.best_value <= error
    np.testing.assert_allclose([found.best_params["x"], found.best_params["y"]], 1, atol=3 * error**0.5)
    np.testing.assert_allclose(found.best_value, rosenbrock(found.best_params, KEY), rtol=1e-3, atol=1e-8)
    assert found.history.shape == (500, 8)
    assert np.all(np.diff(found.best_history, axis=0) <= 0)


def test_an_optimizer_may_ask_for_the_value():
    """Polyak's step to a target at which the objective is 0, twice as long, is Newton's to the target."""
    optimizer = optax.chain(optax.scale_by_polyak(max_learning_rate=10.0), optax.scale(-2.0))
    found = search(lambda p, key: (p["x"] ** 2 - 2) ** 2, {"x": 1.0}, starts=1, updates=6, optimizer=optimizer)
    x, values = np.float64(1.0), []
    for _ in range(6):
        values.append((x**2 - 2) ** 2)
        x -= (x**2 - 2) / (2 * x)
    np.testing.assert_allclose(found.history[:, 0], values, rtol=1e-3, atol=1e-11)
    np.testing.assert_allclose(found.best_params["x"], np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "error"), by_default([("gradient", 0.02), ("cmaes", 0.02), ("random", 0.5)], ("gradient", 0.02))
)
def test_a_minimum_at_a_bound_and_one_on_a_logarithmic_scale_are_found(method, error):
    found = search(quadratic, START, bounds=BOUNDS, method=method, updates=300)
    assert 1 <= found.best_value < 1 + error
    assert np.all((found.params["a"] >= 0) & (found.params["a"] <= np.array([[1.0, 3.0]])))
    assert np.all((found.params["b"] >= np.float32(1e-3)) & (found.params["b"] <= 10))


def test_the_gradient_method_is_the_loop_by_hand():
    optimizer = optax.adam(0.05)
    found = search(rosenbrock, VALLEY, starts=1, updates=20, optimizer=optimizer)
    u = jax.tree.map(jnp.float32, VALLEY)
    memory, values, step = optimizer.init(u), [], jax.jit(jax.value_and_grad(rosenbrock))
    for _ in range(20):
        value, gradient = step(u, KEY)
        change, memory = optimizer.update(gradient, memory, u)
        u, values = optax.apply_updates(u, change), [*values, value]
    np.testing.assert_allclose(found.history[:, 0], values, rtol=1e-4)
    np.testing.assert_allclose(found.best_value, min(*values, rosenbrock(u, KEY)), rtol=1e-4)


@pytest.mark.parametrize("method", by_default(METHODS, "random"))
def test_a_search_that_was_stopped_goes_on_bit_for_bit(method, tmp_path, monkeypatch):
    options = {"method": method, "starts": 3, "updates": 12, "keys_per_update": 2, "folder": tmp_path}
    whole = search(noisy, {"x": 2.0}, **{**options, "folder": None})

    def stop(interruption):
        if saved_steps(tmp_path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dmdenv.simulation.Interruption.check", stop)
        with pytest.raises(KeyboardInterrupt):
            search(noisy, {"x": 2.0}, save_interval=0.0, **options)
    assert 0 < saved_steps(tmp_path)[-1] < 12
    rest = search(noisy, {"x": 2.0}, **options)
    assert same((rest.trace, rest.values, rest.history), (whole.trace, whole.values, whole.history))
    assert same(rest.params, whole.params)
    with pytest.raises(ValueError, match=r"starts = 4; must be 3, as in "):
        search(noisy, {"x": 2.0}, **{**options, "starts": 4})
    with pytest.raises(ValueError, match=r"params = .*; must be .*, as in "):
        search(noisy, {"x": 2.1}, **options)


def test_a_trace_has_the_point_of_each_update():
    found = search(rosenbrock, VALLEY, updates=20, starts=3, trace=True)
    values = jax.vmap(jax.vmap(rosenbrock, (0, None)), (0, None))(found.trace, KEY)
    np.testing.assert_allclose(values[:-1], found.history[1:], rtol=1e-4)
    assert search(rosenbrock, VALLEY, updates=20, starts=3).trace is None


@pytest.mark.parametrize("method", by_default(METHODS, "gradient"))
def test_what_is_not_finite_is_counted_and_hurts_no_other_start(method):
    def broken(p, key):
        return jnp.where(p["x"] > 0, jnp.nan, (p["x"] + 1) ** 2)

    found = search(broken, {"x": 5.0}, method=method, starts=2, updates=60, bounds={"x": (-10, 10)})
    assert np.isfinite(found.best_value) and found.best_value < 0.1
    assert found.nonfinite[0] > 0
    assert method == "random" or found.restarts[0] > 0
    with pytest.raises(FloatingPointError, match="no value of the objective was finite, of 2 updates of 2 starts"):
        search(lambda p, key: jnp.nan * p["x"], {"x": 5.0}, method=method, starts=2, updates=2)


@pytest.mark.slow
def test_methods_are_compared_at_equal_cost():
    found = [search(rosenbrock, VALLEY, method=m, starts=2, evaluations=480, keys_per_update=2) for m in METHODS]
    assert [result.costs[-1] for result in found] == [480, 480, 480]
    assert [len(result.history) for result in found] == [30, 20, 20]
    assert [result.gradients for result in found] == [120, 0, 0]
    assert [result.evaluations for result in found] == [128, 488, 488]


def test_the_value_at_the_end_is_no_lucky_one():
    found = search(noisy, {"x": 0.0}, method="random", starts=4, updates=100, final_keys=1000)
    assert found.best_history[-1].max() < -1
    assert found.best_value > -0.15


def test_a_result_draws_itself(tmp_path):
    search(noisy, {"x": 1.0}, updates=3, starts=2).plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "newton"}, "method = 'newton'; must be one of 'gradient', 'cmaes', 'random'"),
        ({"starts": 0}, "starts = 0; must be an integer >= 1"),
        ({"updates": 0}, "updates = 0; must be an integer >= 1"),
        ({"updates": 2, "evaluations": 99}, "updates = 2 and evaluations = 99; must be one of them"),
        ({"evaluations": 3}, "evaluations = 3; must be an integer >= 32"),
        ({"keys_per_update": 1.5}, "keys_per_update = 1.5; must be an integer >= 1"),
        ({"population": 4}, "population = 4; must be None for the method 'gradient'"),
        ({"method": "cmaes", "population": 1}, "population = 1; must be an integer >= 2"),
        ({"method": "cmaes", "optimizer": optax.sgd(0.1)}, "must be None for the method 'cmaes'"),
        ({"trace": 1}, "trace = 1; must be True or False"),
        ({"spread": 0}, "spread = 0; must be a finite number > 0"),
        ({"params": {"x": 1}}, r"params\['x'\] = 1; .*: an integer cannot change by small steps"),
        ({"params": {"x": np.nan}}, r"params\['x'\] = nan; must be finite floating-point numbers"),
        ({"params": {"x": True}}, r"params\['x'\] = True; must be finite floating-point numbers"),
        ({"params": {}}, "params = {}; must hold at least one number"),
        ({"bounds": {"x": (2, 2)}}, r"bounds\['x'\] = \(2, 2\); must have low < high"),
        ({"bounds": {"x": (np.nan, 2)}}, r"bounds\['x'\] = \(nan, 2\); must be None or \(low, high\)"),
        ({"bounds": {"x": 2}}, r"bounds\['x'\] = 2; must be None or \(low, high\)"),
        ({"bounds": {"x": (-1, 2, "log")}}, r"must have low >= 0 for the scale log"),
        ({"bounds": {"x": (np.zeros(2), 2)}}, r"must have the shape of the parameter, \[\], or be numbers"),
        ({"bounds": {"x": (2, 3)}}, r"params\['x'\] = 1.0; must be within bounds\['x'\] = \(2, 3\)"),
        ({"bounds": {"y": (0, 3)}}, "bounds has another structure than params; must be a tree"),
        (
            {"objective": lambda p, key: jnp.ones(3)},
            r"objective returns float32\[3\]; must be one floating-point number",
        ),
        ({"enlarge": lambda: noisy}, "objective returns no pair; must be \\(value, overflow\\), a bool of shape"),
        ({"objective": lambda p, key: 1}, r"objective returns int32\[\]; must be one floating-point number"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_compiled(changes, message, monkeypatch):
    monkeypatch.setattr(sys.modules["dmdenv.search.minimize"], "init", None)  # which is the first to be compiled
    with pytest.raises(ValueError, match=message):
        search(**{"objective": noisy, "params": {"x": 1.0}, **changes})


class Roomy:
    """(x - 3)^2, which needs a capacity of x; `enlarge` doubles it."""

    def __init__(self):
        self.capacity = 1

    def objective(self):
        return Partial(self._value, jnp.int32(self.capacity))

    @staticmethod
    def _value(capacity, p, key):
        return jnp.where(p["x"] > capacity, -1e9, (p["x"] - 3) ** 2), p["x"] > capacity

    def enlarge(self):
        self.capacity *= 2
        return self.objective()


@pytest.mark.parametrize("method", by_default(METHODS, "gradient"))
def test_updates_in_which_a_capacity_overflows_are_repeated_with_a_larger_one(method, tmp_path, capsys, monkeypatch):
    options = {"method": method, "starts": 2, "updates": 60, "bounds": {"x": (0, 4)}, "save_interval": 0.0}
    room = Roomy()
    found = minimize(room.objective(), {"x": 0.5}, KEY, enlarge=room.enlarge, **options)
    told = capsys.readouterr().err
    assert told.count("a capacity overflowed: enlarging it, and repeating updates") == {1: 0, 2: 1, 4: 2}[room.capacity]
    assert found.best_value < 0.5 and found.history.min() >= 0
    whole = search(lambda p, key: (p["x"] - 3) ** 2, {"x": 0.5}, **options)
    assert same((found.params, found.values, found.history), (whole.params, whole.values, whole.history))

    def stop(interruption):
        if saved_steps(tmp_path):
            raise KeyboardInterrupt

    room = Roomy()
    with monkeypatch.context() as patch:
        patch.setattr("dmdenv.simulation.Interruption.check", stop)
        with pytest.raises(KeyboardInterrupt):
            search(room.objective(), {"x": 0.5}, enlarge=room.enlarge, folder=tmp_path, **options)
    grown, room = room.capacity, Roomy()
    minimize(room.objective(), {"x": 0.5}, KEY, enlarge=room.enlarge, folder=tmp_path, **options)
    assert room.capacity >= grown > 1
    assert "overflowed" not in capsys.readouterr().err  # the capacity is that of the checkpoint


def test_what_is_no_key_and_no_function_is_refused():
    with pytest.raises(TypeError, match="key = 3; must be a key"):
        minimize(noisy, {"x": 1.0}, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="objective = 3; must be a function"):
        minimize(3, {"x": 1.0}, KEY)  # pyright: ignore[reportArgumentType]
