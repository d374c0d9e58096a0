"""Where forces vanish, and there is no minimum."""

import jax
import jax.numpy as jnp
import pytest

from dmdenv.minimizers import FIRE, minimize
from dmdenv.neighbors import AllPairs, ListOverflow, allocate
from dmdenv.potentials import lennard_jones, soft_sphere
from dmdenv.space import Free, Periodic
from systems import crystal, smooth_lennard_jones

pytestmark = pytest.mark.usefixtures("x64")


def test_a_box_that_becomes_too_small_for_all_pairs_is_no_minimum():
    """Squeezed below twice the cutoff, where second images are missing; a list says so too."""
    r, side = crystal(3, 0.8442)
    potential, method = smooth_lennard_jones(), FIRE(dt=0.005, box_mode="isotropic", pressure=300.0)
    space = Periodic(side)
    for pairs in (AllPairs(), allocate(space, r, cutoff=2.5, skin=0.0)):
        state = method.init(potential, space, r, pairs=pairs)

        def run(state):
            return minimize(method, potential, state, tolerance=1e-3, max_steps=2000)

        found = jax.jit(run)(state)
        assert found.state.space.box[0] < 5.0 + 1e-6
        assert found.state.overflow and not found.converged
        with pytest.raises(ListOverflow, match=r"(twice the cutoff)|(half the box)"):
            run(state)


@pytest.mark.parametrize("potential", [lennard_jones(), soft_sphere()])
def test_particles_at_one_place_are_no_minimum(potential):
    """By symmetry there is no force, and the energy is the largest of all."""
    r = jnp.array([[1.0, 1.0], [1.0, 1.0], [4.0, 4.0]])
    found = minimize(FIRE(dt=0.01), potential, FIRE(dt=0.01).init(potential, Free(), r), tolerance=1e-6, max_steps=9)
    assert found.state.largest_force == 0 and not found.converged
    apart = FIRE(dt=0.01).init(potential, Free(), r.at[1].add(6.0))
    assert minimize(FIRE(dt=0.01), potential, apart, tolerance=1e-6, max_steps=9).converged
