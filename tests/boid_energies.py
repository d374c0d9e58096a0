"""The rules of boids as energies, written densely and apart from the code, as in JAX MD's notebook."""

import jax
import jax.numpy as jnp
import numpy as np


def wrapped(d, box):
    return d - box * jnp.round(d / box)


def notebook_energies(positions, headings, obstacles, ranges, predators, predator_headings, p, box):
    """Energies whose negative gradients are the rules: (forces of, torques of) boids and predators.

    `p` is a dict of floats. Displacements point from the one that feels a rule to what it reacts to.
    """
    n = len(positions)
    u = jnp.stack([jnp.cos(headings), jnp.sin(headings)], -1)
    up = jnp.stack([jnp.cos(predator_headings), jnp.sin(predator_headings)], -1)

    def between(targets, agents):
        d = wrapped(targets[None] - agents[:, None], box)
        return d, jnp.sqrt(jnp.sum(d**2, -1) + 1e-30)

    def in_view(cosine):
        return (cosine > jnp.cos(p["view_max"])) & (cosine < jnp.cos(p["view_min"]))

    def inside(r, reach, energy):
        return jnp.where(r < reach, energy(jnp.where(r < reach, 1 - r / reach, 1.0)), 0.0)

    d, r = between(positions, positions)
    d, r = d[~np.eye(n, dtype=bool)].reshape(n, n - 1, 2), r[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    uj = jnp.broadcast_to(u[None], (n, n, 2))[~np.eye(n, dtype=bool)].reshape(n, n - 1, 2)
    ui = jnp.broadcast_to(u[:, None], uj.shape)
    seen = in_view(jnp.sum(d * ui, -1) / r)
    a = p["exponent"]
    align = inside(r, p["alignment_range"], lambda w: p["alignment"] / a * w**a * (1 - jnp.sum(ui * uj, -1)) ** 2)
    avoid = inside(r, p["avoidance_range"], lambda w: p["avoidance"] / a * w**a)

    def cohesion(d, r, seen, u, strength, reach):
        kin = (seen & (r < reach))[..., None]
        mean = jnp.sum(jnp.where(kin, d, 0.0), 1) / jnp.maximum(jnp.sum(kin, 1), 1)
        length = jnp.sqrt(jnp.sum(mean**2, -1, keepdims=True) + 1e-30)
        c = jnp.where(length > 1e-9, mean / length, 0.0)
        return jnp.sum(0.5 * strength * (1 - jnp.sum(c * u, -1)) ** 2)

    def obstacle(agents, heading):
        d, r = between(obstacles, agents)
        q = jnp.sum(d * heading[:, None], -1) / r
        return jnp.sum(inside(r, ranges[None], lambda w: p["obstacle"] * w**2 * (1 + q) ** 2))

    dp, rp = between(predators, positions)
    qp = jnp.sum(dp * u[:, None], -1) / rp
    flee = jnp.sum(inside(rp, p["flight_range"], lambda w: p["flight"] / a * w**a * (1 + qp)))
    dc, rc = between(positions, predators)
    chase = cohesion(dc, rc, in_view(jnp.sum(dc * up[:, None], -1) / rc), up, p["chase"], p["chase_range"])
    return {
        "align": 0.5 * jnp.sum(jnp.where(seen, align, 0.0)),
        "avoid": 0.5 * jnp.sum(avoid),
        "cohesion": cohesion(d, r, seen, u, p["cohesion"], p["cohesion_range"]),
        "boid obstacle": obstacle(positions, u),
        "predator obstacle": obstacle(predators, up),
        "flee": flee,
        "chase": chase,
    }


@jax.jit
def notebook_forces(positions, headings, obstacles, ranges, predators, predator_headings, p, box):
    """Forces and torques of the energies: `(on boids, of boids, on predators, of predators)`.

    As in the notebook, alignment and cohesion turn a boid but do not push it.
    """
    fixed = jax.lax.stop_gradient

    def energy(positions, headings, predators, predator_headings):
        def total(names, *at):
            energies = notebook_energies(at[0], at[1], obstacles, ranges, at[2], at[3], p, box)
            return sum(energies[name] for name in names)

        hunters, boids = (fixed(predators), fixed(predator_headings)), (fixed(positions), fixed(headings))
        push = total(["avoid", "boid obstacle", "flee"], positions, headings, *hunters)
        turn = total(["align", "cohesion"], boids[0], headings, *hunters)
        hunt = total(["chase", "predator obstacle"], *boids, predators, predator_headings)
        return push + turn + hunt

    gradient = jax.grad(energy, argnums=(0, 1, 2, 3))(positions, headings, predators, predator_headings)
    return jax.tree.map(jnp.negative, gradient)
