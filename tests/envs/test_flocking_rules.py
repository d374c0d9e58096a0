"""The rules of boids at their edges; `test_flocking_align` compares all of them with energies."""

import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.flocking.geometry import Poses
from dmdenv.envs.flocking.parameters import FlockingParams
from dmdenv.envs.flocking.rules import sum_boid_rules, sum_flight_rule
from dmdenv.neighbors import AllPairs
from dmdenv.space import Free


def test_a_rule_that_is_off_has_its_derivative(x64):
    """The torque is linear in the strength of alignment, which is 0 by default."""
    draws, params = np.random.default_rng(0).uniform(size=(6, 3)), FlockingParams()
    boids = Poses(*4 * draws[:, :2].T, np.cos(2 * np.pi * draws[:, 2]), np.sin(2 * np.pi * draws[:, 2]))

    def torque(alignment):
        return sum_boid_rules(Free(), boids, AllPairs(), params.replace(alignment=alignment)).torque

    torque_and_slope = jax.jit(lambda alignment: jax.jvp(torque, (alignment,), (1.0,)))
    (off, slope), (on, _) = torque_and_slope(0.0), torque_and_slope(1.0)
    assert np.max(np.abs(slope)) > 0.1
    np.testing.assert_allclose(slope, on - off, atol=1e-12)


def test_no_boid_within_rounding_of_a_range_feels_its_rule():
    """A compiled program may compare a distance with a range several times, with different roundings."""
    ranges = dict.fromkeys(("alignment_range", "avoidance_range", "flight_range"), 1.5)
    strengths = dict.fromkeys(("alignment", "avoidance", "flight"), 5.0)
    params = FlockingParams(**ranges, **strengths, cohesion=0.0)
    generator = np.random.default_rng(0)
    bond = generator.normal(size=(20_000, 2))
    bond *= 1.5 * (1 + generator.uniform(-3e-7, 3e-7, (len(bond), 1))) / np.linalg.norm(bond, axis=1, keepdims=True)
    headings = generator.uniform(0, 2 * np.pi, (len(bond), 2)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def felt(bond, headings):
        boids = sum_boid_rules(Free(), Poses.of(jnp.stack([jnp.zeros(2), bond]), headings), AllPairs(), params)
        fleeing = sum_flight_rule(Free(), Poses.of(jnp.zeros((1, 2)), headings[:1]), bond[None, :], params)
        return {"avoidance": boids.force, "alignment": boids.torque, "flight": fleeing}

    for rule, values in felt(bond.astype(np.float32), headings).items():
        for value in jax.tree.leaves(values):
            assert np.abs(value).max() < 1e-2, rule


def test_cohesion_with_an_edge_fades_and_has_a_derivative_by_its_range(x64):
    """Three boids: one in the range, one in the middle of the edge, where it counts half."""
    positions, headings = jnp.array([[0.0, 0.0], [0.0, 1.0], [-1.9, 0.0]]), jnp.array([0.3, 1.0, 2.0])
    flock = Poses.of(positions, headings)

    @jax.jit
    def torque(reach, edge):
        params = FlockingParams(cohesion=2.0).replace(cohesion_range=reach, cohesion_edge=edge)
        return sum_boid_rules(Free(), flock, AllPairs(), params).torque[0]

    def by_hand(weight):
        c = jnp.array([-1.9 * weight, 1.0])
        c = c / jnp.linalg.norm(c)
        ahead, left = c @ jnp.array([jnp.cos(0.3), jnp.sin(0.3)]), c @ jnp.array([-jnp.sin(0.3), jnp.cos(0.3)])
        return 2.0 * (1 - ahead) * left

    for reach, edge, weight in ((2.0, 0.2, 0.5), (2.0, 0.0, 1.0), (1.8, 0.0, 0.0), (2.5, 0.2, 1.0), (1.9, 0.2, 0.0)):
        np.testing.assert_allclose(torque(reach, edge), by_hand(weight), rtol=1e-12)
    slope, h = jax.grad(torque), 1e-6
    difference = (torque(2.0 + h, 0.2) - torque(2.0 - h, 0.2)) / (2 * h)
    assert abs(difference) > 1
    np.testing.assert_allclose(slope(2.0, 0.2), difference, rtol=1e-7)
    assert slope(2.0, 0.0) == 0
