"""Trajectories that are walked back: bit for bit, with the derivatives of the stored ones, or with NaN.

Programs are compiled as users do: where XLA optimises little, it compiles some loops with and others without
optimisation, so that the same sum may round differently at two places of a program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv import lattice
from dmdenv.differentiation import bytes_of, integer_motion, reversible_rollout, rollout
from dmdenv.differentiation.integer_motion import motion_of, options_of
from dmdenv.integrators import NVE, Brownian, Langevin, NoseHoover
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones
from dmdenv.space import Free, Periodic
from marks import OPTIMIZED, by_default

pytestmark = pytest.mark.usefixtures("x64")

BOX = 5.3
METHODS = {
    "nve": lambda dt=0.005, temperature=1.3, rate=1.2: NVE(dt=dt),
    "langevin": lambda dt=0.005, temperature=1.3, rate=1.2: Langevin(dt=dt, temperature=temperature, friction=rate),
    "nose_hoover": lambda dt=0.005, temperature=1.3, rate=1.2: NoseHoover(
        dt=dt, temperature=temperature, relaxation_time=rate
    ),
}
compiled = functools.partial(jax.jit, compiler_options=OPTIMIZED)
NUMBERS = {"dt": 0.005, "temperature": 1.3, "rate": 1.2}


def crystal() -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * (BOX / 3)
    return grid + 0.05 * np.random.default_rng(0).normal(size=grid.shape)


def velocities() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(27, 3))


def potential(**parameters):
    return lennard_jones(cutoff=2.2, truncation="force_shifted", **parameters)


def started(integrator, *, pairs=AllPairs(), space=None, **options):
    options = {"velocities": velocities(), "key": jax.random.key(3)} | options
    space = Periodic(BOX) if space is None else space
    return integrator.init(potential(), space, jnp.asarray(crystal()), pairs=pairs, **options)


def bounded(name: str) -> dict:
    return {"max_damping": 0.02} if name == "langevin" else {}


@pytest.fixture
def new_list(through_cells):
    pairs = allocate(Periodic(BOX), jnp.asarray(crystal()), cutoff=2.2, skin=0.1, slack=4.0)
    assert pairs.cells
    return pairs


# --- there and back ---------------------------------------------------------------------------------------------------


@functools.partial(compiled, static_argnames=("steps", "damping"))
def there_and_back(integrator, state, *, steps: int, damping: float | None = None):
    """The walker at the start, at the end, and at the start again; and where lists on the way were built."""
    options = options_of(integrator, steps, damping)
    motion = motion_of(integrator, potential(), state, options)
    start = motion.begin()

    def forth(walker, _):
        walker, kept = motion.advance(walker)
        return walker, (kept, _built(walker))

    def back(walker, kept):
        walker = motion.retreat(walker, kept)
        return walker, _built(walker)

    end, (kept, there) = jax.lax.scan(forth, start, length=steps)
    again, here = jax.lax.scan(back, end, kept, length=steps, reverse=True)
    return start, end, again, there, here


def _built(walker):
    return walker.pairs.positions[0, 0] if walker.pairs.arrays else None


@pytest.mark.parametrize("name", by_default(METHODS, "langevin", "nose_hoover"))
def test_a_walk_returns_bit_for_bit(name):
    integrator = METHODS[name]()
    damping = 0.006 if name == "langevin" else None  # exactly its own: 924 steps from one shift of bits to the next
    start, end, again, *_ = there_and_back(integrator, started(integrator), steps=2500, damping=damping)
    assert end.valid
    assert np.all(np.asarray(end.positions != start.positions))
    jax.tree.map(np.testing.assert_array_equal, again.replace(own={}), start.replace(own={}))
    for field in set(start.own) - {"bits", "key"}:
        np.testing.assert_array_equal(again.own[field], start.own[field])


def test_a_walk_returns_bit_for_bit_over_a_list_that_is_rebuilt_at_other_places_on_the_way_back(new_list):
    integrator = METHODS["nve"]()
    start, end, again, there, here = there_and_back(integrator, started(integrator, pairs=new_list), steps=500)
    assert end.valid and not end.pairs.overflow and not again.pairs.overflow
    builds = [set(np.unique(np.asarray(places))) for places in (there, here)]
    assert min(map(len, builds)) > 10 and len(builds[1] - builds[0]) > 10
    for field in ("positions", "velocities", "forces"):
        np.testing.assert_array_equal(getattr(again, field), getattr(start, field))


def test_friction_of_each_particle_loses_its_own_bits():
    integrator = Langevin(dt=0.005, temperature=1.3, friction=jnp.linspace(0.01, 40.0, 27))
    start, end, again, *_ = there_and_back(integrator, started(integrator), steps=300, damping=0.2)
    assert end.valid and end.own["bits"].shape == (300 // 27 + 1, 27, 3)
    np.testing.assert_array_equal(again.velocities, start.velocities)
    np.testing.assert_array_equal(again.positions, start.positions)
    assert float(jnp.max(jnp.abs(end.velocities))) < 2.0**60  # the integers do not grow with the number of steps


def test_shifts_of_bits_do_not_change_the_trajectory():
    langevin = Langevin(dt=0.005, temperature=1.3, friction=jnp.linspace(1.0, 20.0, 27))
    state = started(langevin)
    shifted = compiled(lambda s: reversible_rollout(langevin, potential(), s, 60, max_damping=0.5)[0])(
        state
    )  # every 11
    expected = compiled(lambda s: rollout(functools.partial(langevin.step, potential()), s, 60)[0])(state)
    for field in ("positions", "velocities", "bath_energy", "time"):
        assert_close(getattr(shifted, field), getattr(expected, field), tolerance=1e-9)


@pytest.mark.slow
def test_500_particles_return_bit_for_bit_after_100_000_steps():
    nve, state = liquid_of_500()

    @compiled
    def run(state):
        motion = motion_of(nve, long_potential(), state, {})
        start = motion.begin()
        end = jax.lax.fori_loop(0, 100_000, lambda _, walker: motion.advance(walker)[0], start)
        return start, end, jax.lax.fori_loop(0, 100_000, lambda _, walker: motion.retreat(walker, None), end)

    start, end, again = run(state)
    assert end.valid and not np.any(np.asarray(end.positions == start.positions))
    for field in ("positions", "velocities", "forces", "step"):
        np.testing.assert_array_equal(getattr(again, field), getattr(start, field))


# --- the same trajectory and the same derivatives as of `rollout` -----------------------------------------------------


def parameters():
    """Everything that a derivative reaches."""
    given = {"epsilon": 1.0, "box": BOX, "masses": 1 + np.arange(27) / 27, "weight": 0.01}
    given |= {"positions": crystal(), "velocities": velocities(), **NUMBERS}
    return jax.tree.map(jnp.asarray, given)


def outcome(p, *, name: str, steps: int, pairs=AllPairs(), reversible: bool = True):
    """A number that depends on all of a trajectory, and the last state and the observations."""
    lj, integrator = potential(epsilon=p["epsilon"]), METHODS[name](**{key: p[key] for key in NUMBERS})
    start = integrator.init(
        lj,
        Periodic(p["box"]),
        p["positions"],
        velocities=p["velocities"],
        masses=p["masses"],
        pairs=pairs,
        key=jax.random.key(3),
    )

    def observe(state):
        return {"value": state.kinetic_energy + p["weight"] * jnp.sum(state.forces**2), "images": state.images}

    if reversible:
        end, seen = reversible_rollout(integrator, lj, start, steps, observe=observe, every=7, **bounded(name))
    else:
        end, seen = rollout(functools.partial(integrator.step, lj), start, steps, observe=observe, every=7)
    total = jnp.sum(seen["value"]) + jnp.sum(end.positions**2) + end.time + integrator.conserved(lj, end)
    return total + jnp.sum(end.velocities[:3]), (end.replace(pairs=AllPairs()), seen)


@functools.cache
def gradient(name: str, steps: int, *, listed: bool = False, reversible: bool = True):
    pairs = allocate(Periodic(BOX), jnp.asarray(crystal()), cutoff=2.2, skin=0.2, slack=2.0) if listed else AllPairs()
    function = functools.partial(outcome, name=name, steps=steps, pairs=pairs, reversible=reversible)
    return compiled(jax.value_and_grad(function, has_aux=True))(parameters())


def assert_close(found, expected, *, tolerance: float):
    """Relative to the largest number of each array."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(np.max(np.abs(b))), 1e-3))


@pytest.mark.parametrize("name", by_default(METHODS, "nve"))
def test_trajectory_and_all_derivatives_are_those_of_rollout(name):
    (_, found), by_found = gradient(name, 30)
    (_, expected), by_expected = gradient(name, 30, reversible=False)
    found, expected = (
        (end.replace(lost={}, pairs=AllPairs(), forces=end.forces), seen) for end, seen in (found, expected)
    )
    assert_close(found, expected, tolerance=1e-11)
    unused = {"nve": {"temperature", "rate"}}.get(name, set())
    for parameter, value in by_expected.items():
        assert np.any(np.asarray(value) != 0) or parameter in unused, parameter
        assert_close(by_found[parameter], value, tolerance=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_derivatives_over_a_list_and_many_steps_are_those_of_rollout(name):
    (found, _), by_found = gradient(name, 500, listed=True)
    (expected, _), by_expected = gradient(name, 500, listed=True, reversible=False)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert_close(by_found, by_expected, tolerance=1e-8)


def test_the_derivative_is_that_of_a_difference():
    function = compiled(functools.partial(outcome, name="nve", steps=30))
    p, h = parameters(), 1e-5
    by_epsilon = (function({**p, "epsilon": p["epsilon"] + h})[0] - function({**p, "epsilon": p["epsilon"] - h})[0]) / (
        2 * h
    )
    np.testing.assert_allclose(gradient("nve", 30)[1]["epsilon"], by_epsilon, rtol=1e-6)


@pytest.mark.slow
def test_instances_are_independent():
    nve = METHODS["nve"]()

    def kinetic(scale):
        state = started(nve)
        return reversible_rollout(nve, potential(), state.replace(velocities=scale * state.velocities), 30)[
            0
        ].kinetic_energy

    scales = jnp.array([0.7, 1.0, 1.3])
    together = compiled(jax.vmap(jax.grad(kinetic)))(scales)
    one = compiled(jax.grad(kinetic))
    apart = [one(scale) for scale in scales]
    np.testing.assert_allclose(together, apart, rtol=1e-9)


def test_configurations_known_to_the_compiler_are_walked_back_too():
    nve = METHODS["nve"]()

    @compiled
    def by_velocity():  # nothing here is an argument: XLA knows all of it
        return jax.grad(
            lambda v: reversible_rollout(nve, potential(), started(nve, velocities=v), 5)[0].kinetic_energy
        )(jnp.asarray(velocities()))

    assert np.all(np.isfinite(by_velocity()))


def test_no_steps_round_to_the_lattice_only():
    nve = METHODS["nve"]()
    state = started(nve)
    end, seen = jax.jit(lambda s: reversible_rollout(nve, potential(), s, 0, observe=lambda s: s.time))(state)
    assert seen.shape == (0,)
    assert_close((end.positions, end.velocities), (state.positions, state.velocities), tolerance=1e-15)


# --- memory -----------------------------------------------------------------------------------------------------------


def bytes_of_gradient(name: str, steps: int) -> int:
    integrator = METHODS[name]()

    def function(state, v):
        state = state.replace(velocities=v)
        return reversible_rollout(integrator, potential(), state, steps, **bounded(name))[0].kinetic_energy

    state = started(integrator)
    program = jax.jit(jax.grad(function, argnums=1)).lower(state, state.velocities).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("name", "per_step"),
    by_default(
        [("nve", 0.0), ("langevin", 8 + 0.02 / np.log(2) / 8 * 81), ("nose_hoover", (2 * 3 + 2) * 8.0)], ("nve", 0.0)
    ),
)
def test_memory_per_step_is_what_the_docstring_says(name, per_step):
    few, many = (bytes_of_gradient(name, steps) for steps in (1000, 101_000))
    assert (many - few) / 100_000 == pytest.approx(per_step, rel=0.05, abs=0.01)


def long_potential():
    return lennard_jones(cutoff=2.5, truncation="force_shifted")


def liquid_of_500():
    """500 particles at the density of a liquid, started from a crystal at high temperature, with a list."""
    space, positions = lattice.fcc(5, density=0.8442)
    pairs = allocate(space, positions, cutoff=2.5, skin=0.3, slack=1.5)
    nve, v = NVE(dt=0.001), 1.4 * jax.random.normal(jax.random.key(0), positions.shape)
    return nve, nve.init(long_potential(), space, positions, velocities=v - jnp.mean(v, 0, keepdims=True), pairs=pairs)


@pytest.mark.slow
def test_the_gradient_of_100_000_steps_needs_the_memory_of_less_than_100_stored_ones():
    nve, state = liquid_of_500()

    def function(v, state):
        return reversible_rollout(nve, long_potential(), state.replace(velocities=v), 100_000)[0].kinetic_energy

    program = jax.jit(jax.grad(function)).lower(state.velocities, state).compile()
    _, per_step = bytes_of(functools.partial(nve.step, long_potential()), state)
    assert program.memory_analysis().temp_size_in_bytes < 100 * per_step


@pytest.mark.slow
def test_1000_steps_of_500_particles_have_the_derivatives_of_the_stored_lattice_trajectory():
    nve, state = liquid_of_500()

    def stored(p):
        """The walk on the lattice, every step of it kept, rounding differentiated as the identity."""
        motion = motion_of(nve, long_potential(), state, {})

        def step(carry, _):
            walker, floats = carry
            walker, _ = motion.advance(walker)
            moved = nve.step(lj, floats)
            on_lattice = motion.state_at(walker)
            return (walker, _straight_through(on_lattice, moved)), None

        lj = long_potential().replace(parameters={**long_potential().parameters, "epsilon": p["epsilon"]})
        begun = state.replace(velocities=p["velocities"])
        (_, end), _ = jax.lax.scan(step, (motion.begin(), begun), length=1000)
        return jnp.sum(end.unwrapped**2) + end.kinetic_energy

    def walked(p):
        lj = long_potential().replace(parameters={**long_potential().parameters, "epsilon": p["epsilon"]})
        end, _ = reversible_rollout(nve, lj, state.replace(velocities=p["velocities"]), 1000)
        return jnp.sum(end.unwrapped**2) + end.kinetic_energy

    p = {"epsilon": jnp.asarray(1.0), "velocities": state.velocities}
    found, expected = (compiled(jax.value_and_grad(function))(p) for function in (walked, stored))
    assert found[0] == pytest.approx(float(expected[0]), rel=1e-14)
    assert_close(found[1], expected[1], tolerance=1e-8)


def _straight_through(value, derivative):
    """The floats of one state, with the derivatives of another one."""

    def merge(a, b):
        return b + jax.lax.stop_gradient(a - b) if jnp.issubdtype(b.dtype, jnp.floating) else a

    return jax.tree.map(merge, value, derivative.replace(pairs=value.pairs))


# --- what cannot be undone --------------------------------------------------------------------------------------------


def test_a_walk_that_does_not_return_gives_nan(monkeypatch):
    retreat = integer_motion._NVE.retreat

    def stumble(self, walker, kept):
        walker = retreat(self, walker, kept)
        return walker.replace(positions=walker.positions + (walker.step == 4))

    monkeypatch.setattr(integer_motion._NVE, "retreat", stumble)
    nve = METHODS["nve"]()
    by_velocity = jax.grad(
        lambda v: reversible_rollout(nve, potential(), started(nve, velocities=v), 8)[0].kinetic_energy
    )
    assert np.all(np.isnan(jax.jit(by_velocity)(jnp.asarray(velocities()))))


def far_away(state):
    return state.replace(velocities=state.velocities.at[0, 0].set(1e9))


def not_finite(state):
    return state.replace(masses=state.masses.at[0].set(jnp.nan))


@pytest.mark.parametrize("spoil", [far_away, not_finite])
def test_leaving_the_lattice_gives_nan(spoil):
    nve = METHODS["nve"]()

    def kinetic(v):
        state = spoil(started(nve, space=Free())).replace(masses=jnp.ones(27))
        state = spoil(state.replace(velocities=v))
        return reversible_rollout(nve, potential(), state, 200)[0].kinetic_energy

    value, by_velocity = jax.jit(jax.value_and_grad(kinetic))(jnp.asarray(velocities()))
    assert np.isnan(value) and np.all(np.isnan(by_velocity[1:]))  # the first one may have been replaced


def test_more_friction_than_there_are_bits_for_gives_nan():
    @jax.jit
    def run(friction):
        method = Langevin(dt=0.005, temperature=1.0, friction=friction)
        return reversible_rollout(method, potential(), started(method), 3, max_damping=0.01)[0].positions

    assert np.all(np.isfinite(run(2.0))) and np.all(np.isnan(run(2.1)))


def test_second_derivatives_and_forward_mode_are_refused():
    nve = METHODS["nve"]()

    def kinetic(scale):
        state = started(nve, velocities=scale * velocities())
        return reversible_rollout(nve, potential(), state, 3)[0].kinetic_energy

    with pytest.raises(TypeError, match="first derivatives only"):
        jax.grad(jax.grad(kinetic))(1.0)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(kinetic, (1.0,), (1.0,))


def test_bad_input_is_refused(monkeypatch, compilations):
    nve, lj = METHODS["nve"](), potential()
    langevin, brownian = METHODS["langevin"](), Brownian(dt=0.001, temperature=1.0, friction=1.0)
    state, damped = started(nve), started(langevin)
    listed = started(nve, pairs=allocate(Periodic(BOX), state.positions, cutoff=2.2, skin=0.2))
    with jax.enable_x64(False):
        single = started(NVE(dt=0.005))
    compilations.clear()
    with pytest.raises(TypeError, match="integrator is a Brownian; must be one that can be undone: NVE"):
        reversible_rollout(brownian, lj, state, 10)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="state is a IntegratorState; must be a StochasticState"):
        reversible_rollout(langevin, lj, state, 10)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="potential is a float"):
        reversible_rollout(nve, 1.0, state, 10)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"state.positions is float32; must be float64, with jax_enable_x64"):
        reversible_rollout(nve, lj, single, 10)
    with pytest.raises(ValueError, match="steps = -1"):
        reversible_rollout(nve, lj, state, -1)
    with pytest.raises(ValueError, match="every = 0"):
        reversible_rollout(nve, lj, state, 10, every=0)
    with pytest.raises(ValueError, match=r"max_damping = 0.1; must be None for NVE"):
        reversible_rollout(nve, lj, state, 10, max_damping=0.1)
    with pytest.raises(ValueError, match=r"max_damping = 6.0; must be a finite number > 0 and <= 5.5"):
        reversible_rollout(langevin, lj, damped, 10, max_damping=6.0)
    with pytest.raises(ValueError, match=r"dt \* friction = 10.0; must be a finite number > 0 and <= 5.5"):
        reversible_rollout(METHODS["langevin"](dt=5.0, rate=2.0), lj, damped, 10)
    with pytest.raises(ValueError, match="max_damping = None; must be the largest dt"):
        jax.jit(lambda method: reversible_rollout(method, lj, damped, 10)[0].positions)(langevin)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"state.pairs is a NeighborList on gpu; must be AllPairs\(\)"):
        reversible_rollout(nve, lj, listed, 10)
    assert not compilations
