"""Trap drag: against the exact solution, fluctuation relations, the core's Brownian dynamics, and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dmdenv
from dmdenv.envs.trap_drag import TrapDragParams, jump_work, move_with_trap
from dmdenv.integrators import Brownian
from dmdenv.potentials import external_potential
from dmdenv.space import Free
from marks import OPTIMIZED
from systems import central_difference

MANY = 200_000  # particles: the mean work is known to about 0.1 %
OTHERS = TrapDragParams(
    max_steps=7, distance=2.0, duration=3.0, stiffness=2.0, friction=0.5, temperature=0.7
)  # k t / gamma = 12
SYSTEMS = {"default": TrapDragParams(), "others": OTHERS, "fast": OTHERS.replace(duration=1.0, distance=0.5)}


@functools.partial(jax.jit, compiler_options=OPTIMIZED)  # of many particles, so that this pays
def episode(params, actions, key):
    """The work of each particle, `[n]`, by the energies of the trap, and the rewards, for actions `[steps, 2]`."""
    env = dmdenv.make_env("trap_drag", particles=MANY)
    begin, go = jax.random.split(key)
    _, state = env.reset(begin, params)

    def step(state, inputs):
        t, key, action = inputs
        k, L, h = params.stiffness, params.distance, params.duration / params.max_steps
        first, second = L * action
        work = jump_work(k, state.positions, state.trap, first)
        y, integral = move_with_trap(key, state.positions - first, (second - first) / h, h, params)
        work = work - k * (second - first) / h * integral
        trap = jnp.where(t + 1 >= params.max_steps, L, second)
        work = work + jump_work(k, second + y, second, trap)
        _, state, reward, *_ = env.step_env(key, state, action, params)
        return state, (work, reward)

    steps = len(actions)
    _, (work, rewards) = jax.lax.scan(step, state, (jnp.arange(steps), jax.random.split(go, steps), actions))
    return jnp.sum(work, axis=0), rewards


@functools.cache
def works(system: str, protocol: str) -> np.ndarray:
    """The work of each particle, `[n]`, under a baseline, which looks at no more than the time, or another protocol."""
    params = SYSTEMS[system]
    steps = int(params.max_steps)
    if protocol == "random":
        actions = jax.random.uniform(jax.random.key(3), (steps, 2), minval=-1, maxval=1)
    elif protocol == "zero":
        actions = jnp.zeros((steps, 2))
    else:
        policy = dmdenv.make_env("trap_drag").baselines(params)[protocol]
        observations = np.random.default_rng(0).uniform(-1, 1, (steps, 3))
        observations[:, 0] = np.arange(steps) / steps
        actions = jnp.stack([policy(jax.random.key(0), jnp.asarray(row, float)) for row in observations])
    work, rewards = episode(params, actions, jax.random.key(0))
    assert_allclose(-jnp.sum(rewards), jnp.mean(work), rtol=1e-4)
    return np.asarray(work, float)


@pytest.mark.parametrize(
    ("protocol", "published"), [("linear", 9.197), ("optimal", 8.333), ("jump", 12.5), ("zero", 12.5)]
)
def test_protocols_do_the_work_that_theory_says(protocol, published):
    assert_allclose(works("default", protocol).mean(), published, rtol=5e-3)


def test_the_random_policy_does_much_more_work():
    assert works("default", "random").mean() > 15


def z_of(p):
    return float(p.stiffness * p.duration / p.friction)


def linear_work(p):
    z = z_of(p)
    return float(p.friction * p.distance**2 / p.duration) * (1 - (1 - np.exp(-z)) / z)


def least_work(p):
    return float(p.stiffness * p.distance**2) / (2 + z_of(p))


@pytest.mark.parametrize(("protocol", "exact"), [("linear", linear_work), ("optimal", least_work)])
def test_so_they_do_with_other_parameters_and_with_few_steps(protocol, exact):
    work = works("others", protocol)
    assert abs(work.mean() - exact(OTHERS)) < 4 * work.std() / np.sqrt(MANY)


@pytest.mark.parametrize(("system", "protocol"), [("others", "linear"), ("others", "optimal"), ("fast", "random")])
def test_the_work_obeys_the_fluctuation_relation(system, protocol):
    """It is normal, and the free energy difference is 0: `var W = 2 T <W>`, for any protocol (Jarzynski 1997)."""
    work, T = works(system, protocol), float(SYSTEMS[system].temperature)
    spread = np.sqrt(2 / MANY) * work.var()
    assert abs(work.var() - 2 * T * work.mean()) < 4 * (spread + 2 * T * work.std() / np.sqrt(MANY))


def test_particles_move_as_by_the_brownian_dynamics_of_the_core():
    """Mean and spread behind a moving trap, on the way."""
    n, k, gamma, T, u, h = 20_000, 2.0, 0.5, 0.7, 3.0, 0.4
    trap = external_potential(lambda r, k, place: 0.5 * k * jnp.sum((r - place) ** 2), k=k, place=jnp.zeros(1))
    method, dt = Brownian(dt=h / 400, temperature=T, friction=gamma), h / 400
    start = 0.3 + 0.1 * jax.random.normal(jax.random.key(0), (n, 1))

    @jax.jit
    def core(key):
        def step(state, t):
            moved = trap.replace(parameters={**trap.parameters, "place": jnp.full(1, u * (t + 0.5) * dt)})
            return method.step(moved, state), None

        state = method.init(trap, Free(), start, key=key)
        return jax.lax.scan(step, state, jnp.arange(400))[0].positions[:, 0]

    params = TrapDragParams(stiffness=k, friction=gamma, temperature=T)
    y, _ = jax.jit(move_with_trap)(jax.random.key(2), start[:, 0], jnp.float32(u), jnp.float32(h), params)
    by_core, exact = np.asarray(core(jax.random.key(1))), np.asarray(y) + u * h
    error = np.hypot(by_core.std(), exact.std()) / np.sqrt(n)
    assert abs(by_core.mean() - exact.mean()) < 4 * error + 5e-3 * abs(exact.mean())
    assert_allclose(by_core.std(), exact.std(), rtol=0.03)


@pytest.mark.usefixtures("x64")
def test_a_step_is_two_half_steps():
    """Variances and covariance of the exact solution follow from those of its halves, by series and without."""
    for z in (1e-3, 0.1, 0.29, 0.31, 0.59, 0.61, 5.0):
        whole, half = moments(z), moments(z / 2)
        e = np.exp(-z / 2)
        C, (yy, yi, ii) = np.array([[e, 0.0], [1 - e, 1.0]]), half  # (y, I) after the second half, from after the first
        joined = C @ np.array([[yy, yi], [yi, ii]]) @ C.T + np.array([[yy, yi], [yi, ii]])
        assert_allclose(joined[np.triu_indices(2)], [whole[0], whole[1], whole[2]], rtol=2e-6)


def moments(z: float) -> tuple[float, float, float]:
    """Var y, cov(y, I), var I for k = gamma = T = 1 and the time z, by which the noise enters linearly."""
    key, n = jax.random.key(0), 2
    params = TrapDragParams()

    def noise(key):
        y, integral = move_with_trap(key, jnp.zeros(n), jnp.zeros(()), jnp.asarray(z), params)
        return y, integral

    R, Q = jax.random.normal(key, (2, n))
    y, integral = noise(key)
    a = y / R  # y = a R, I = b R + c Q
    b, c = np.linalg.solve(np.stack([R, Q], axis=1), integral)
    return float(a[0] ** 2), float(a[0] * b), float(b**2 + c**2)


@pytest.mark.usefixtures("x64")
def test_the_gradient_of_an_episode_agrees_with_central_differences():
    """With respect to actions, initial places and every parameter but the number of steps."""
    env = dmdenv.make_env("trap_drag", particles=3)
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    actions = 0.9 * jax.random.uniform(jax.random.key(1), (32, 2), minval=-1, maxval=1)
    keys = jax.random.split(jax.random.key(2), 32)
    names = [name for name in vars(params) if name != "max_steps"]

    @jax.jit
    @jax.value_and_grad
    def total(point):
        actions, positions, values = point
        p = params.replace(**dict(zip(names, values, strict=True)))

        def step(state, inputs):
            key, action = inputs
            _, state, reward, *_ = env.step_env(key, state, action, p)
            return state, reward

        return jnp.sum(jax.lax.scan(step, state.replace(positions=positions), (keys, actions))[1])

    point = actions, state.positions, jnp.stack([getattr(params, name) for name in names])
    _, gradient = total(point)
    for seed in range(4):
        draws = jax.random.split(jax.random.key(seed), 3)
        direction = tuple(jax.random.normal(k, x.shape) for k, x in zip(draws, point, strict=True))
        along = sum(float(jnp.vdot(g, d)) for g, d in zip(gradient, direction, strict=True))
        assert_allclose(along, central_difference(lambda x: total(x)[0], point, direction, 1e-5), rtol=1e-6)


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match=r"TrapDrag.particles = 0; must be an integer >= 1"):
        dmdenv.make_env("trap_drag", particles=0)
    with pytest.raises(ValueError, match=r"stiffness = -1; must be a finite number >= 1e-06"):
        TrapDragParams(stiffness=-1)
