"""Frozen dataclasses as pytrees."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv._core.pytree import Replaceable, pytree, static


@pytree
class Particle(Replaceable):
    position: jax.Array
    mass: jax.Array
    name: str = static(default="argon")

    def __post_init__(self):
        if np.ndim(self.mass) != 0:
            raise ValueError("mass is one number")


@pytree
class Charged(Particle):
    charge: float = 1.0


def argon() -> Particle:
    return Particle(jnp.arange(3.0), jnp.float32(2.0))


def test_leaves_come_in_the_order_of_the_fields_and_are_named():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path({"p": argon()})]
    assert paths == ["['p'].position", "['p'].mass"]
    by_path, plain = jax.tree_util.tree_leaves_with_path(argon()), jax.tree.leaves(argon())
    assert all(a is b for (_, a), b in zip(by_path, plain, strict=True)) or len(plain) == len(by_path) == 2


def test_instances_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        argon().mass = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_construction_checks_what_a_user_passes():
    with pytest.raises(ValueError, match="mass is one number"):
        Particle(jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match="mass is one number"):
        argon().replace(mass=jnp.zeros(2))


@pytest.mark.parametrize("filler", [None, object(), np.zeros(5)])
def test_jax_fills_a_tree_without_any_check(filler):
    assert jax.tree.map(lambda _: filler, argon()).mass is filler


def test_static_fields_are_structure():
    krypton = argon().replace(name="krypton")
    assert jax.tree.structure(krypton) != jax.tree.structure(argon())
    assert jax.tree.map(lambda a: 2 * a, krypton).name == "krypton"


def test_a_change_of_a_leaf_does_not_trace_again_and_one_of_a_static_field_does():
    traces = []

    @jax.jit
    def weight(p):
        traces.append(p.name)
        return p.mass * 9.81

    weight(argon())
    weight(argon().replace(mass=jnp.float32(3.0)))
    weight(argon().replace(name="krypton"))
    assert traces == ["argon", "krypton"]


def test_transformations_see_through_an_instance():
    batch = jax.vmap(lambda m: Particle(jnp.full(3, m), m))(jnp.arange(4.0))
    assert isinstance(batch, Particle)
    assert batch.position.shape == (4, 3)
    gradient = jax.grad(lambda p: p.mass * jnp.sum(p.position**2))(argon())
    np.testing.assert_allclose(gradient.position, 4.0 * np.arange(3))


def test_a_subclass_has_the_fields_of_its_parent_and_its_own():
    ion = Charged(jnp.zeros(3), jnp.float32(1.0), charge=jnp.float32(-1.0), name="sodium")
    assert len(jax.tree.leaves(ion)) == 3
    assert jax.tree.map(lambda a: a, ion).name == "sodium"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_instances_are_copied_and_pickled(duplicate):
    twin = duplicate(argon())
    np.testing.assert_array_equal(twin.position, argon().position)
    assert twin.name == "argon"


def test_replacing_an_unknown_field_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"Particle has no field 'mas'; valid fields: position, mass, name"):
        argon().replace(mas=1.0)
