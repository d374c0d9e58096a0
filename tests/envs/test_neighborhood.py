"""How environments find neighbours: the choice, what is flagged, and growth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.envs.base import State
from dmdenv.envs.neighborhood import Neighborhood, Sample
from dmdenv.neighbors import AllPairs, NeighborList, Pairs
from dmdenv.space import Free, Periodic
from marks import by_default

N, BOX = 30, 10.0


def uniform(seed):
    return jnp.asarray(BOX * np.random.default_rng(seed).uniform(size=(N, 2)), float)


def neighborhood(pairs="list", slack=1.0, **changes):
    def sample():
        return Sample(Periodic(BOX), uniform(0), 1.5)

    fields = {"particles": N, "crossover": 64, "skin": 0.2, "skin_unit": "cutoff", "remedy": "", "sample": sample}
    return Neighborhood(pairs=pairs, slack=slack, **{**fields, **changes})


class Gas(State):
    positions: jax.Array
    inner: dict[str, Pairs]


def listed_pairs(found):
    """The pairs in a list."""
    indices = np.asarray(found.indices)[: int(found.columns)]
    return {(i, int(j)) for column in indices for i, j in enumerate(column) if i != j}


def close_pairs(positions, cutoff):
    """The pairs closer than a cutoff in the box."""
    d = np.asarray(positions)[:, None] - np.asarray(positions)[None]
    close = np.linalg.norm(d - BOX * np.round(d / BOX), axis=-1) < cutoff
    return {(int(i), int(j)) for i, j in np.argwhere(close) if i != j}


@pytest.mark.parametrize(("pairs", "particles", "listed"), [
    ("auto", 64, False), ("auto", 65, True), ("all", 65, False), ("list", 2, True)
])  # fmt: skip
def test_auto_chooses_by_the_number_of_particles(pairs, particles, listed):
    chosen = neighborhood(pairs, particles=particles)
    assert chosen.listed is listed and chosen == chosen and isinstance(hash(chosen), int)
    if not listed:
        assert isinstance(chosen.find(Free(), uniform(0), jnp.array(1.5)), AllPairs) and not chosen.can_grow


def test_all_pairs_are_incomplete_where_the_cutoff_exceeds_half_the_box():
    complete, pairs = neighborhood("all"), AllPairs()
    assert not complete.incomplete(pairs, Periodic(BOX), jnp.array(5.0))
    assert complete.incomplete(pairs, Periodic(BOX), jnp.array(5.1))
    assert not complete.incomplete(pairs, Free(), jnp.array(1e9))


@pytest.mark.parametrize(("unit", "skin"), by_default([("cutoff", 0.3), ("length", 0.2)], ("cutoff", 0.3)))
def test_a_list_is_incomplete_beyond_its_cutoff_and_its_capacity_until_it_has_grown(unit, skin):
    space, small = Periodic(BOX), neighborhood(skin_unit=unit)
    crowd = 0.4 * uniform(1)

    @jax.jit
    def find_and_move(positions, crowd):
        pairs = small.find(space, positions, jnp.array(1.5))
        return pairs, pairs.update(space, crowd)

    pairs, full = find_and_move(uniform(0), crowd)
    assert isinstance(pairs, NeighborList) and float(pairs.skin) == pytest.approx(skin)
    assert listed_pairs(pairs) == close_pairs(uniform(0), 1.5 + skin)
    assert not small.incomplete(pairs, space, pairs.cutoff) and small.incomplete(pairs, space, jnp.array(1.6))
    assert small.incomplete(full, space, full.cutoff) and small.can_grow
    state = Gas(overflow=jnp.asarray(True), positions=crowd, inner={"pairs": full})
    larger = neighborhood(slack=16.0, skin_unit=unit)
    grown = jax.jit(larger.with_capacity)(state)
    assert not grown.overflow and not larger.can_grow
    assert listed_pairs(grown.inner["pairs"]) == close_pairs(crowd, 1.5 + skin) != listed_pairs(full)


def test_a_state_without_a_list_is_taken_over_as_it_is():
    state = Gas(positions=uniform(0), inner={"pairs": AllPairs()})
    assert neighborhood("all").with_capacity(state) is state
