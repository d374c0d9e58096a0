"""Flocking against independent physics, closed forms, finite differences and its own task."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv
from boid_energies import notebook_energies, wrapped
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.flocking.boids import FlockingParams, Poses, boid_rules, flight_rule, polar_order
from dmdenv.neighbors import AllPairs
from dmdenv.space import Free
from marks import by_default

# --- the rules as energies --------------------------------------------------------------------------------------------


@jax.jit
def notebook_step(state, params, box):
    """One explicit Euler step of the notebook: new boid positions, headings, predators and their headings."""
    p = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}

    def energy(positions, headings, predators, predator_headings, names):
        energies = notebook_energies(
            positions, headings, state.obstacles, state.obstacle_ranges, predators, predator_headings, p, box
        )
        return sum(energies[name] for name in names)

    at = state.positions, state.headings, state.predators, state.predator_headings
    gradient = functools.partial(jax.grad, energy)
    force = -gradient(0)(*at, ["avoid", "boid obstacle", "flee"])
    torque = -gradient(1)(*at, ["align", "cohesion", "boid obstacle", "flee"])
    predator_force = -gradient(2)(*at, ["chase", "predator obstacle"])
    predator_torque = -gradient(3)(*at, ["chase", "predator obstacle"])
    u, up = (jnp.stack([jnp.cos(t), jnp.sin(t)], -1) for t in (state.headings, state.predator_headings))
    positions = state.positions + p["dt"] * (p["speed"] * u + force)
    gap = jnp.linalg.norm(wrapped(positions[None] - state.predators[:, None], box), axis=-1).min(1)
    starts = (gap < p["sprint_range"]) & (state.since_sprint > p["sprint_rest"])
    since = jnp.where(starts, 0.0, state.since_sprint + p["dt"])
    speed = p["predator_speed"] + p["sprint_speed"] * jnp.exp(-since / p["sprint_time"])
    return (
        positions,
        state.headings + p["dt"] * torque,
        state.predators + p["dt"] * (speed[:, None] * up + predator_force),
        state.predator_headings + p["dt"] * predator_torque,
        since,
    )


@pytest.mark.parametrize(("pairs", "seed"), by_default([("all", 0), ("all", 1), ("list", 0), ("list", 1)], ("all", 0)))
def test_a_step_follows_the_energies_of_jax_mds_notebook(pairs, seed, x64):
    """The notebook's simulation (200 boids, 5 obstacles, a predator; crowded here) is one configuration of ours."""
    env = dmdenv.make_env("flocking", boids=60, obstacles=5, predators=2, pairs=pairs, reach=0.4)
    params = FlockingParams.reynolds(box=250.0, turn_rate=0.0)
    _, state = jax.jit(env.reset)(jax.random.key(seed), params)
    rested = jnp.array([0.0, 400.0])
    state = dataclasses.replace(state, since_sprint=rested)
    _, new, *_ = jax.jit(env.step_env)(jax.random.key(1), state, jnp.zeros(60), params)
    expected = notebook_step(state, params, 250.0)
    scale = {0: 250.0, 2: 250.0}
    got = (new.positions, new.headings, new.predators, new.predator_headings, new.since_sprint)
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        difference = wrapped(a - b, scale[k]) if k in scale else a - b
        np.testing.assert_allclose(difference, 0, atol=1e-9)
    assert float(jnp.max(jnp.abs(new.headings - state.headings))) > 0.1  # the rules did something
    assert not new.overflow


def test_reynolds_boids_flock_by_themselves():
    """With the notebook's coefficients and no agent, polar order rises from its random start."""
    env = dmdenv.make_env("flocking", boids=64, obstacles=0)
    params = FlockingParams.reynolds(box=220.0, view_max=np.pi, turn_rate=0.0, max_steps=10_000)

    def run(key):
        _, state = env.reset(key, params)
        keys = jax.random.split(key, 3000)
        state, _ = jax.lax.scan(lambda s, k: (env.step_env(k, s, jnp.zeros(64), params)[1], None), state, keys)
        return polar_order(state.headings)

    assert float(jnp.mean(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 4)))) > 0.7


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_polar_order_has_its_known_values(x64):
    """1 for a common heading, 0 for opposite ones, and sqrt(pi / (4 n)) on average for independent ones."""
    assert float(polar_order(jnp.full(9, 2.0))) == pytest.approx(1.0)
    assert float(polar_order(jnp.array([0.5, 0.5 + np.pi]))) == pytest.approx(0.0, abs=1e-12)
    n = 50
    headings = 2 * np.pi * jax.random.uniform(jax.random.key(0), (20_000, n))
    orders = jax.vmap(polar_order)(headings)
    error = float(jnp.std(orders)) / np.sqrt(len(orders))
    assert float(jnp.mean(orders)) == pytest.approx(np.sqrt(np.pi / (4 * n)), abs=4 * error + 0.01 / n)


def test_the_derivative_of_order_is_finite_where_order_vanishes():
    assert np.all(np.isfinite(jax.grad(polar_order)(jnp.array([0.0, np.pi]))))
    assert np.all(np.isfinite(jax.grad(polar_order)(jnp.zeros(4))))


def test_a_rule_that_is_off_has_its_derivative(x64):
    """The torque is linear in the strength of alignment, which is 0 by default."""
    env = dmdenv.make_env("flocking", boids=6)
    _, state = env.reset(jax.random.key(0), env.default_params)
    boids, space = Poses.of(state.positions, state.headings), env.space_of(env.default_params)

    def torque(alignment):
        return boid_rules(space, boids, state.pairs, env.default_params.replace(alignment=alignment))["torque"]

    derivative = jax.jit(jax.jacrev(torque))(0.0)
    assert np.max(np.abs(derivative)) > 0.1
    np.testing.assert_allclose(derivative, torque(1.0) - torque(0.0), atol=1e-12)


@pytest.mark.parametrize("rule", ["avoidance", "alignment", "flight"])
def test_no_boid_within_rounding_of_a_range_feels_its_rule(rule):
    """A compiled program may compare a distance with a range several times, with different roundings."""
    params = dmdenv.make_env("flocking").default_params
    off = dict.fromkeys(("avoidance", "alignment", "cohesion"), 0.0)
    params = params.replace(**(off | {rule: 5.0, "view_max": np.pi, f"{rule}_range": 1.5}))
    generator = np.random.default_rng(0)
    bond = generator.normal(size=(20_000, 2))
    bond *= 1.5 * (1 + generator.uniform(-3e-7, 3e-7, (len(bond), 1))) / np.linalg.norm(bond, axis=1, keepdims=True)
    headings = generator.uniform(0, 2 * np.pi, (len(bond), 2)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def felt(bond, headings):
        if rule == "flight":
            boid = Poses.of(jnp.zeros((1, 2)), headings[:1])
            return flight_rule(Free(), boid, bond[None, :], params)
        boids = Poses.of(jnp.stack([jnp.zeros(2), bond]), headings)
        rules = boid_rules(Free(), boids, AllPairs(), params)
        return rules["force"], rules["torque"]

    force, torque = felt(bond.astype(np.float32), headings)
    assert max(np.abs(force).max(), np.abs(torque).max()) < 1e-2


def test_without_rules_and_action_boids_fly_straight(x64):
    env = dmdenv.make_env("flocking", obstacles=0, space="free")
    params = env.default_params.replace(avoidance=0.0, cohesion=0.0)
    _, state = env.reset(jax.random.key(0), params)
    start = state
    step = jax.jit(env.step_env)
    for t in range(5):
        _, state, *_ = step(jax.random.key(t), state, jnp.zeros(32), params)
    u = np.stack([np.cos(start.headings), np.sin(start.headings)], -1)
    np.testing.assert_allclose(state.positions, start.positions + 5 * 0.1 * u, atol=1e-12)
    np.testing.assert_allclose(state.headings, start.headings, atol=1e-12)


def test_a_full_action_turns_at_the_turn_rate(x64):
    env = dmdenv.make_env("flocking", obstacles=0)
    params = env.default_params.replace(avoidance=0.0, cohesion=0.0)
    _, state = env.reset(jax.random.key(0), params)
    action = jnp.linspace(-1, 1, 32)
    _, new, *_ = env.step_env(jax.random.key(1), state, action, params)
    np.testing.assert_allclose(new.headings - state.headings, 0.1 * 2.0 * action, atol=1e-12)


def test_an_aligned_flock_without_noise_stays_aligned():
    """Vicsek: without noise an aligned flock stays at order 1 (no obstacle breaks the symmetry)."""
    env = dmdenv.make_env("flocking", obstacles=0)
    params = env.default_params.replace(cohesion=0.0, alignment=1.0)
    _, state = env.reset(jax.random.key(0), params)
    state = dataclasses.replace(state, headings=jnp.full(32, 1.0))
    step = jax.jit(env.step_env)
    for t in range(20):
        _, state, _, _, _, info = step(jax.random.key(t), state, jnp.zeros(32), params)
    assert float(info["polar_order"]) == pytest.approx(1.0, abs=1e-6)


def test_the_reward_is_what_the_documentation_says(x64):
    env = dmdenv.make_env("flocking", boids=12)
    params = env.default_params.replace(box=10.0)
    _, state = env.reset(jax.random.key(2), params)
    action = jax.random.uniform(jax.random.key(3), (12,), minval=-1, maxval=1)
    _, new, reward, _, _, info = env.step_env(jax.random.key(1), state, action, params)
    order = [abs(np.mean(np.exp(1j * np.asarray(s.headings)))) for s in (state, new)]
    r = np.array(jnp.linalg.norm(wrapped(state.positions[None] - state.positions[:, None], 10.0), axis=-1))
    np.fill_diagonal(r, np.inf)
    overlap = np.mean(np.sum(np.maximum(0, 1 - r / 0.5) ** 2, axis=1))
    expected = order[1] + 10 * (order[1] - order[0]) - overlap - 0.02 * np.mean(action**2)
    assert float(reward) == pytest.approx(float(expected), rel=1e-12)
    assert float(info["polar_order"]) == pytest.approx(float(order[1]), rel=1e-12)
    assert float(info["collisions"]) == pytest.approx(float(np.mean(np.sum(r < 0.5, axis=1))) / 2, rel=1e-12)


# --- observations -----------------------------------------------------------------------------------------------------


def observed_by_hand(state, params, boid, k, box):
    """The k nearest neighbours' rows as the class documents them, for one boid."""
    R, x, t = float(params.perception), np.asarray(state.positions), np.asarray(state.headings)
    d = np.asarray(wrapped(x - x[boid], box))
    r = np.linalg.norm(d, axis=1)
    r[boid] = np.inf
    c, s = np.cos(t[boid]), np.sin(t[boid])
    rows = []
    for j in np.argsort(r)[:k]:
        p = max(0.0, 1 - (r[j] / R) ** 2) ** 2
        ahead, left = c * d[j, 0] + s * d[j, 1], -s * d[j, 0] + c * d[j, 1]
        rows.append(p * np.array([1, ahead / R, left / R, np.cos(t[j] - t[boid]), np.sin(t[j] - t[boid])]))
    return np.concatenate(rows)


@pytest.mark.parametrize("pairs", ["all", "list"])
def test_a_boid_observes_its_nearest_neighbours_in_its_own_frame(pairs, x64):
    env = dmdenv.make_env("flocking", boids=40, nearest=5, pairs=pairs)
    params = env.default_params
    obs, state = jax.jit(env.reset)(jax.random.key(4), params)
    for boid in (0, 7, 39):
        expected = observed_by_hand(state, params, boid, 5, float(params.box))
        np.testing.assert_allclose(obs[boid, :25], expected, atol=1e-12)


def test_observations_do_not_depend_on_where_the_flock_is_or_how_it_is_turned(x64):
    """Rotation and translation of everything leave the observations as they are (in free space)."""
    env = dmdenv.make_env("flocking", space="free", predators=1, obstacles=3)
    params = env.default_params
    obs, state = env.reset(jax.random.key(0), params)
    c, s = np.cos(1.1), np.sin(1.1)

    def turn(x):
        return x @ jnp.array([[c, s], [-s, c]]) + jnp.array([[5.0, -3.0]])

    moved = dataclasses.replace(
        state,
        positions=turn(state.positions),
        obstacles=turn(state.obstacles),
        predators=turn(state.predators),
        headings=state.headings + 1.1,
        predator_headings=state.predator_headings + 1.1,
    )
    np.testing.assert_allclose(env.observe(moved, params), obs, atol=1e-12)


def test_lists_and_all_pairs_give_the_same_episode(x64):
    rollouts = []
    for pairs in ("all", "list"):
        env = dmdenv.make_env("flocking", boids=48, pairs=pairs, predators=1)
        params = env.default_params

        def run(env=env, params=params):
            def one(state, t):
                action = jnp.sin(t + jnp.arange(48.0))
                obs, state, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
                return state, (obs, reward, state.overflow)

            return jax.lax.scan(one, env.reset(jax.random.key(0), params)[1], jnp.arange(60.0))[1]

        rollouts.append(jax.jit(run)())
    np.testing.assert_allclose(rollouts[0][0], rollouts[1][0], atol=1e-9)
    np.testing.assert_allclose(rollouts[0][1], rollouts[1][1], atol=1e-9)
    assert not np.any(rollouts[1][2])


# --- gradients --------------------------------------------------------------------------------------------------------


@functools.cache
def return_of_32_steps(pairs):
    env = dmdenv.make_env("flocking", boids=16, pairs=pairs, predators=1)
    params = env.default_params.replace(alignment=0.3)
    _, start = env.reset(jax.random.key(5), params)

    def total(actions, params, headings):
        state = dataclasses.replace(start, headings=headings)

        def one(state, action):
            obs, state, reward, *_ = env.step(jax.random.key(0), state, action, params)
            return state, reward + 0.1 * jnp.mean(jnp.sin(3 * obs))

        return jnp.sum(jax.lax.scan(one, state, actions)[1])

    actions = 0.9 * jnp.sin(jnp.arange(32.0)[:, None] + 2.0 * jnp.arange(16.0)[None, :])
    headings = 2 * np.pi * jax.random.uniform(jax.random.key(6), (16,))
    return jax.jit(total), jax.jit(jax.grad(total, argnums=(0, 1, 2))), (actions, params, headings)


@pytest.mark.parametrize("pairs", ["all", pytest.param("list", marks=pytest.mark.slow)])
def test_the_gradient_of_a_32_step_return_agrees_with_central_differences(pairs, x64):
    """To 1e-6 relative, for actions, initial headings and every parameter; reset and observations included."""
    total, gradient, at = return_of_32_steps(pairs)
    g = gradient(*at)
    for argument in (0, 2):
        direction = jax.random.normal(jax.random.key(argument), at[argument].shape)
        h = 1e-6

        def moved(sign, argument=argument, direction=direction, h=h):
            return total(*(a + sign * h * direction if k == argument else a for k, a in enumerate(at)))

        numerical = (moved(1) - moved(-1)) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(g[argument], direction), numerical, rtol=1e-6)
    for field in dataclasses.fields(at[1]):
        if field.name == "max_steps":
            continue
        value, h = float(getattr(at[1], field.name)), 1e-6
        if field.metadata["high"] < value + h:  # at the end of its range: one-sided steps would be needed
            continue
        low = value - h if value - h >= field.metadata["low"] else value
        f = [total(at[0], at[1].replace(**{field.name: x}), at[2]) for x in (value + h, low)]
        numerical = (f[0] - f[1]) / (value + h - low)
        tolerance = 1e-6 if low < value else 1e-4
        scale = max(abs(float(numerical)), 1e-2)
        assert abs(float(getattr(g[1], field.name)) - float(numerical)) < tolerance * scale, field.name


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"boids": 1}, "boids = 1; valid: a whole number from 2"),
        ({"boids": 3.5}, "boids = 3.5; valid: a whole number from 2"),
        ({"obstacles": -1}, "obstacles = -1; valid: a whole number from 0"),
        ({"nearest": 0}, "nearest = 0; valid: a whole number from 1"),
        ({"space": "sphere"}, "space = 'sphere'; valid: 'periodic', 'free'"),
        ({"pairs": "some"}, "pairs = 'some'; valid: 'auto', 'all', 'list'"),
        ({"reach": 0.6}, "reach = 0.6; valid: a fraction of the box up to 0.5, or None"),
        ({"slack": 0.5}, "slack = 0.5; valid: a number from 1"),
        ({"slack": float("nan")}, "slack = nan; valid: a number from 1"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        dmdenv.make_env("flocking", **config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perception": 9.0}, "perception = 9 in a periodic box of 16; valid: up to half the box, 8"),
        ({"box": 4.0}, "perception = 5 in a periodic box of 4; valid: up to half the box, 2"),
        ({"view_min": 2.0, "view_max": 1.0}, "view_min = 2; valid: up to view_max = 1"),
        ({"obstacle_min": 3.0}, "obstacle_min = 3; valid: up to obstacle_max = 2"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_refused(changes, message):
    env = dmdenv.make_env("flocking")
    params = env.default_params.replace(**changes)
    with pytest.raises(ValueError, match=message):
        env.reset(jax.random.key(0), params)


@pytest.mark.parametrize("pairs", ["all", "list"])
def test_a_traced_range_beyond_half_the_box_sets_the_overflow_flag(pairs):
    env = dmdenv.make_env("flocking", pairs=pairs)

    @jax.jit
    def overflow_after_a_step(params):
        _, state = env.reset(jax.random.key(0), params)
        return env.step_env(jax.random.key(1), state, jnp.zeros(32), params)[5]["overflow"]

    for perception, flagged in ((5.0, False), (9.0, True)):
        assert bool(overflow_after_a_step(env.default_params.replace(perception=perception))) is flagged


def test_a_crowd_beyond_the_lists_capacity_is_flagged_and_sticks():
    env = dmdenv.make_env("flocking", boids=200, pairs="list", slack=1.0)
    params = env.default_params
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    step = jax.jit(env.step_env)
    crowded = dataclasses.replace(state, positions=state.positions * 0.05)
    _, crowded, _, _, _, info = step(jax.random.key(1), crowded, jnp.zeros(200), params)
    assert info["overflow"]
    apart = dataclasses.replace(crowded, positions=state.positions)
    assert step(jax.random.key(1), apart, jnp.zeros(200), params)[5]["overflow"]


def test_an_enlarged_flock_takes_over_a_state_and_goes_on_as_with_all_pairs():
    env = dmdenv.make_env("flocking", boids=200, pairs="list", slack=1.0)
    params = env.default_params
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    crowded = dataclasses.replace(state, positions=state.positions * 0.7, overflow=jnp.asarray(True))
    enlarged, adopted = env, crowded
    while adopted.overflow:
        enlarged = enlarged.enlarged()
        adopted = jax.jit(enlarged.with_capacity)(crowded)
    assert enlarged.slack > 1.0
    everyone = dmdenv.make_env("flocking", boids=200, pairs="all")
    start = dataclasses.replace(crowded, pairs=AllPairs(), overflow=jnp.asarray(False))
    _, expected, *_ = jax.jit(everyone.step_env)(jax.random.key(1), start, jnp.zeros(200), params)
    _, actual, *_ = jax.jit(enlarged.step_env)(jax.random.key(1), adopted, jnp.zeros(200), params)
    assert not actual.overflow
    np.testing.assert_allclose(actual.positions, expected.positions, atol=1e-4)
    np.testing.assert_allclose(actual.headings, expected.headings, atol=1e-4)


def test_growth_ends_where_it_would_change_nothing():
    with pytest.raises(
        CapacityExceeded, match="flocking: a range of the parameters is too long; must be at most half the periodic box"
    ):
        dmdenv.make_env("flocking", pairs="all").enlarged()
    env = dmdenv.make_env("flocking", boids=20, pairs="list", slack=32.0)
    with pytest.raises(
        CapacityExceeded, match="flocking: a range of the parameters is too long; must be at most half the periodic box"
    ):
        env.enlarged()
