"""Fields of a state that follow from others: they are not left behind when a user replaces those."""

import dataclasses
import importlib
import re

import jax
import pytest

from dmdenv.envs import State, derived
from small_envs import NAMES, TASKS, unprepared

KEPT = [
    ("flocking", "align", "positions", "pairs"),
    ("flocking", "align", "headings", "polar_order"),
    ("flocking", "evade", "positions", "pairs"),
    ("flocking", "shepherd", "positions", "pairs"),
    ("lj_fluid", "anneal", "motion", "temperature"),
    ("lj_fluid", "drag", "trap", "motion"),
    ("lj_fluid", "drag", "stiffness", "motion"),
    ("bonded_chain", "reach", "rest_angles", "motion"),
    ("bonded_chain", "swim", "rest_angles", "motion"),
    ("bonded_chain", "fold", "field", "motion"),
    ("bonded_chain", "fold", "target", "superposed"),
    ("soft_sphere_packing", "compress", "positions", "energy"),
    ("soft_sphere_packing", "compress", "box", "positions"),
    ("soft_sphere_packing", "design", "positions", "property"),
]


def state_of(id, task):
    """A state of the task, with numbers in place of everything."""
    cls = unprepared(id, task)._state_type
    return cls(**{field.name: 0.0 for field in dataclasses.fields(cls)})


class SpringState(State):
    """A particle at a spring, with the spring's force."""

    x: jax.Array
    force: jax.Array = derived("x", by="-k x")


@pytest.mark.parametrize(("id", "task", "source", "kept"), KEPT)
def test_a_field_is_not_replaced_without_those_that_follow_from_it(id, task, source, kept):
    state = state_of(id, task)
    name = type(state).__name__
    message = (
        rf"{name}\.replace\({source}=...\) would keep {kept}, which follows from .*{source}.*; must come with {kept}"
    )
    with pytest.raises(ValueError, match=message):
        state.replace(**{source: 1.0})


@pytest.mark.parametrize(("id", "task"), TASKS, ids=NAMES)
def test_all_of_them_together_are_replaced_and_the_message_names_what_there_is(id, task):
    state = state_of(id, task)
    names = {field.name for field in dataclasses.fields(state)}
    assert state.replace(**dict.fromkeys(names, 1.0)) == type(state)(**dict.fromkeys(names, 1.0))
    for field in dataclasses.fields(state):
        assert set(field.metadata.get("sources", ())) <= names - {field.name}
        for reference in re.findall(r"dmdenv[\w.]+", field.metadata.get("by", "")):
            module, _, function = reference.rpartition(".")
            assert callable(getattr(importlib.import_module(module), function))


def test_a_state_of_ones_own_declares_them_too():
    state = SpringState(x=1.0, force=-2.0)
    message = r"SpringState.replace\(x=...\) would keep force, which follows from x; must come with force from -k x"
    with pytest.raises(ValueError, match=message):
        state.replace(x=2.0)
    assert state.replace(x=2.0, force=-4.0) == SpringState(x=2.0, force=-4.0)
    assert state.replace(force=0.0, time=3).x == 1.0
    with pytest.raises(ValueError, match="SpringState has no field 'y'"):
        state.replace(y=1.0)
