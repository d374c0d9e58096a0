"""What all integrators have in common: derivatives against finite differences, batches, lists, precision, bad input."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmdenv.integrators
from dmdenv.integrators import NVE, Brownian, Bussi, Filament, Integrator, Langevin, NoseHoover, maxwell_boltzmann
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones
from dmdenv.space import Free, Periodic
from marks import by_default
from systems import INTEGRATORS, Well, central_difference, crystal, run, small_liquid, smooth_lennard_jones, started

pytestmark = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("name", INTEGRATORS)


@pytest.mark.parametrize("name", by_default(INTEGRATORS, "nve", "langevin"))
def test_gradients_through_the_dynamics_equal_finite_differences(name):
    """By positions, parameters of the potential and of the method, masses and box, through 200 steps."""
    r, m, side = small_liquid()
    x = {
        "positions": r,
        "masses": m,
        "potential": lennard_jones(epsilon=1.1, sigma=0.98, cutoff=2.5, onset=2.0, truncation="switched"),
        "method": INTEGRATORS[name](),
        "box": jnp.asarray([side, side]),
    }

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        options = {} if name in ("brownian", "filament") else {"velocities": jnp.sin(jnp.arange(32.0)).reshape(16, 2)}
        state = x["method"].init(
            x["potential"], Periodic(x["box"]), x["positions"], masses=x["masses"], key=jax.random.key(3), **options
        )
        end, _ = run(x["method"], x["potential"], state, 200)
        return jnp.sum(jnp.sin(end.positions)) + jnp.sum(end.velocities**2)

    _, slope = loss(x)
    for part in x:
        leaves, tree = jax.tree.flatten(x[part])
        rng = np.random.default_rng(5)
        by_part = [jnp.asarray(rng.normal(size=jnp.shape(leaf)) * 0.1 * np.mean(np.abs(leaf))) for leaf in leaves]
        direction = {**jax.tree.map(jnp.zeros_like, x), part: jax.tree.unflatten(tree, by_part)}
        expected = central_difference(lambda x: loss(x)[0], x, direction, 1e-5)
        found = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope[part]), by_part, strict=True))
        assert abs(expected) > 1e-6
        np.testing.assert_allclose(found, expected, rtol=2e-6, err_msg=part)


def assert_equal_states(found, expected, rtol=1e-12):
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", by_default(INTEGRATORS, "nve", "brownian"))
def test_jit_equals_eager_and_vmap_equals_a_loop(name):
    r, m, side = small_liquid()
    potential, method = smooth_lennard_jones(), INTEGRATORS[name]()

    @jax.jit
    def end(key, dt):
        moving = method.replace(dt=dt)
        return run(moving, potential, moving.init(potential, Periodic(side), r, masses=m, key=key), 3)[0]

    keys, dts = jax.random.split(jax.random.key(0), 3), jnp.array([0.001, 0.002, 0.003])
    together = jax.jit(jax.vmap(end))(keys, dts)
    for i in range(3):
        assert_equal_states(jax.tree.map(operator.itemgetter(i), together), end(keys[i], dts[i]))

    state = method.replace(dt=dts[0]).init(potential, Periodic(side), r, masses=m, key=keys[0])
    expected, _ = run(method.replace(dt=dts[0]), potential, state, 1)
    assert_equal_states(method.replace(dt=dts[0]).step(potential, state), expected)


@pytest.mark.parametrize("name", by_default(INTEGRATORS, "nve", "bussi"))
def test_changing_a_parameter_compiles_nothing(name, compilations):
    potential, method = smooth_lennard_jones(), INTEGRATORS[name]()
    options = {field.name: 0.7 for field in dataclasses.fields(method) if field.name in ("dt", "temperature")}
    others = [jax.tree.map(lambda leaf: 0.5 * leaf, method), method.replace(**options)]
    deeper = smooth_lennard_jones(epsilon=1.5)
    step = jax.jit(type(method).step)
    state = step(method, potential, started(method))
    assert all(other != method for other in others)  # before the count: a comparison is a program as well
    compilations.clear()
    for other in others:
        state = step(other, deeper, state)
    assert compilations == []


@pytest.mark.parametrize("name", ["nve", "langevin"])
def test_a_neighbour_list_gives_the_motion_of_all_pairs(name):
    r, side = crystal(4, 0.8442, noise=0.02)
    potential, space, method = smooth_lennard_jones(), Periodic(side), INTEGRATORS[name]()
    neighbors = allocate(space, r, cutoff=2.5, skin=0.1)
    ends = []
    for pairs in (AllPairs(), neighbors):
        v = 3.0 * jnp.sin(jnp.arange(r.size)).reshape(r.shape)
        state = method.init(potential, space, r, velocities=v, pairs=pairs, key=jax.random.key(2))
        ends.append(run(method, potential, state, 40)[0])
    np.testing.assert_allclose(ends[1].positions, ends[0].positions, atol=1e-10)
    assert np.any(ends[1].pairs.positions != neighbors.positions)  # it has been rebuilt
    assert not ends[0].overflow
    assert not ends[1].overflow


def test_an_overflow_of_the_list_is_reported():
    r, side = crystal(4, 0.8442)
    neighbors = allocate(Periodic(side), r, cutoff=2.5, skin=0.1, slack=1.0)
    method = NVE(dt=0.005)
    state = method.init(smooth_lennard_jones(), Periodic(side), r, pairs=neighbors)
    assert not state.overflow
    crowded = state.place(smooth_lennard_jones(), 0.8 * r)
    assert run(method, smooth_lennard_jones(), crowded, 1)[0].overflow


@pytest.mark.slow
def test_the_box_may_change_between_steps():
    """An affine compression of a crystal at rest does the work -p dV, with the pressure from the virial."""
    r, side = crystal(4, 1.2)
    potential, method = smooth_lennard_jones(), NVE(dt=1e-4)
    state = method.init(potential, Periodic(side), r, pairs=allocate(Periodic(side), r, cutoff=2.5, skin=0.2))
    before = method.conserved(potential, state)
    shrink, steps = 1 - 1e-5, 20

    @jax.jit
    def squeeze(state):
        space = Periodic(state.space.box * shrink)
        return method.step(potential, state.deform(potential, space))

    work = 0.0
    for _ in range(steps):
        work -= float(jnp.trace(potential.virial(state.space, state.positions, state.pairs))) * (shrink - 1)
        state = squeeze(state)
    np.testing.assert_allclose(method.conserved(potential, state) - before, work, rtol=1e-3)


@every
def test_precision_is_that_of_the_positions(name):
    with jax.enable_x64(False):
        r, _, side = small_liquid()
        potential, method = smooth_lennard_jones(), INTEGRATORS[name]()
        state = method.init(potential, Periodic(side), jnp.asarray(r, "float32"), key=jax.random.key(0))
        end, _ = run(method, potential, state, 2)
        assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(end) if jnp.issubdtype(leaf.dtype, jnp.floating))
        assert jax.tree.structure(end) == jax.tree.structure(state)


BAD = {
    "NVE.dt = nan; must be a finite number": lambda: NVE(dt=np.nan),
    r"NVE.dt has shape \(2,\); must be \[\]": lambda: NVE(dt=jnp.ones(2)),
    "Langevin.dt = 0.0; must be a finite number > 0": lambda: Langevin(dt=0.0, temperature=1.0, friction=1.0),
    "Bussi.temperature = -1.0; must be a finite number >= 0": lambda: Bussi(
        dt=0.1, temperature=-1.0, relaxation_time=1.0
    ),
    r"Brownian.friction = \[1.0, -1.0\]; must be a finite number > 0": lambda: Brownian(
        dt=0.1, temperature=1.0, friction=np.array([1.0, -1.0])
    ),
    "NoseHoover.chain_length = 0; must be an integer >= 1": lambda: NoseHoover(
        dt=0.1, temperature=1.0, relaxation_time=1.0, chain_length=0
    ),
    "NoseHoover.chain_length = 1000000000; must be an integer >= 1 and <= 100": lambda: NoseHoover(
        dt=0.1, temperature=1.0, relaxation_time=1.0, chain_length=10**9
    ),
    "NoseHoover.weights = 2; must be one of 1, 3, 5, 7": lambda: NoseHoover(
        dt=0.1, temperature=1.0, relaxation_time=1.0, weights=2
    ),
    "NVE has no field 'temperature'": lambda: NVE(dt=0.1).replace(temperature=1.0),
    r"positions is int64\[2, 2\]; must be floating-point": lambda: start(r=np.ones((2, 2), int)),
    r"velocities has shape \(3, 2\); must be \(2, 2\)": lambda: start(velocities=np.ones((3, 2))),
    r"masses has shape \(3,\); must be \[\] or \[2\]": lambda: start(masses=np.ones(3)),
    r"masses = \[1.0, 0.0\]; must be a finite number > 0": lambda: start(masses=np.array([1.0, 0.0])),
    "key = None; must be a key": lambda: start(Langevin(dt=0.1, temperature=1.0, friction=1.0)),
    "key = None; must be a key .* for velocities": lambda: start(
        NoseHoover(dt=0.1, temperature=1.0, relaxation_time=1.0)
    ),
    "velocities given; must be None: Brownian": lambda: start(
        Brownian(dt=0.1, temperature=1.0, friction=1.0), velocities=np.ones((2, 2)), key=jax.random.key(0)
    ),
    "velocities given; must be None: a filament": lambda: start(
        Filament(dt=0.1, temperature=1.0, friction=1.0), velocities=np.ones((2, 2)), key=jax.random.key(0)
    ),
    r"positions has shape \(1, 2\); must be \[n, d\] with n >= 2": lambda: start(
        Filament(dt=0.1, temperature=1.0, friction=1.0), r=np.ones((1, 2)), key=jax.random.key(0)
    ),
    "degrees_of_freedom = None for one particle": lambda: start(
        Bussi(dt=0.1, temperature=1.0, relaxation_time=1.0), r=np.ones((1, 2)), key=jax.random.key(0)
    ),
    r"potential.cutoff = 2.5; must be at most 1.5, the cutoff of the neighbour list": lambda: smooth_start(1.5),
    r"masses has shape \(\); must be \[n\]": lambda: maxwell_boltzmann(jax.random.key(0), 1.0, 1.0, 3),
    "exact_temperature = True for a single particle": lambda: maxwell_boltzmann(
        jax.random.key(0), jnp.ones(1), 1.0, 3, exact_temperature=True
    ),
}


def start(method=None, r=((0.0, 1.0), (1.0, 0.0)), **options):
    return (method or NVE(dt=0.1)).init(Well(1.0), Free(), np.asarray(r), **options)


def smooth_start(cutoff):
    r, side = crystal(3, 0.8)
    pairs = allocate(Periodic(side), r, cutoff=cutoff, skin=0.1)
    return NVE(dt=0.1).init(smooth_lennard_jones(), Periodic(side), r, pairs=pairs)


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_every_exported_name_exists_and_every_integrator_is_tested():
    exported = [getattr(dmdenv.integrators, name) for name in dmdenv.integrators.__all__]
    integrators = {c for c in exported if isinstance(c, type) and issubclass(c, Integrator)} - {Integrator}
    assert integrators == {type(make()) for make in INTEGRATORS.values()}
