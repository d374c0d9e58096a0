"""Herders: how they alarm boids, what is measured of the herd, and what a herder sees of it."""

import dataclasses
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.flocking.geometry import columns
from dmdenv.envs.flocking.parameters import ShepherdParams
from dmdenv.envs.flocking.perception import presence, select_nearest
from dmdenv.envs.flocking.state import Herd, ShepherdState
from dmdenv.space import norm

_SUMMARY = 8  # features at the front: goal (2), centre (2), farthest boid (2), spread, share in the goal


def alarm(positions: jax.Array, herders: jax.Array, params: ShepherdParams) -> jax.Array:
    """`1 - prod_h (1 - p_ih)` of boids at `positions` `[n, 2]`, `[n]`: from 0, no herder near, to 1."""
    distance = norm(positions[:, None, :] - herders[None, :, :])
    return 1 - jnp.prod(1 - presence(distance, params.flight_range), axis=1)


def measure_herd(positions: jax.Array, params: ShepherdParams) -> Herd:
    """What is measured of boids at `positions` `[n, 2]`, unit length, with the goal around the origin."""
    distances = norm(positions)
    from_center = norm(positions - jnp.mean(positions, axis=0, keepdims=True))
    return Herd(
        distances=distances,
        share=jnp.mean(jax.nn.sigmoid((params.goal_radius - distances) / params.goal_edge)),
        center=jnp.mean(positions, axis=0),
        spread=jnp.sqrt(jnp.mean(from_center**2)),
        farthest=jnp.concatenate(select_nearest(-from_center[:, None], list(columns(positions)), 1))[:, 0],
    )


class HerderSight(NamedTuple):
    """An observation of h herders by what it shows, in units of length, relative to the herder."""

    goal: jax.Array  # [h, 2]
    center: jax.Array  # [h, 2], of the flock
    farthest: jax.Array  # [h, 2], boid
    spread: jax.Array  # [h]
    boids: jax.Array  # [h, k, 2], the nearest
    herders: jax.Array  # [h, h - 1, 2], the others


@dataclasses.dataclass(frozen=True)
class HerderView:
    """The layout of an observation `[h, m]`: displacements d from a herder, shown as d / sqrt(d^2 + R^2).

    Args:
        herders: h.
        nearest: how many of its nearest boids a herder sees, k.
    """

    herders: int
    nearest: int

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The space of observations."""
        width = _SUMMARY + 2 * self.nearest + 2 * (self.herders - 1)
        return gymnasium.spaces.Box(-1.0, 1.0, (self.herders, width), np.float32)

    def observe(self, state: ShepherdState, params: ShepherdParams) -> jax.Array:
        """What each herder sees, `[h, m]`."""
        h, boids, herders, herd = self.herders, state.positions, state.herders, state.herd
        to_boids = boids[None, :, :] - herders[:, None, :]
        marks = jnp.stack([jnp.zeros(2), herd.center, herd.farthest])
        others = np.array([[j for j in range(h) if j != i] for i in range(h)], int).reshape(h, h - 1)
        displacements = jnp.concatenate(
            [
                marks[None, :, :] - herders[:, None, :],
                jnp.stack(select_nearest(norm(to_boids).T, list(to_boids.T), self.nearest), axis=-1).swapaxes(0, 1),
                herders[others] - herders[:, None, :],
            ],
            axis=1,
        )
        shown = displacements / jnp.sqrt(jnp.sum(displacements**2, axis=-1, keepdims=True) + params.sight**2)
        shown = jnp.clip(shown, -1.0, 1.0).reshape(h, -1)  # of what is very far, rounding may be beyond
        scalars = jnp.stack([herd.spread / jnp.hypot(herd.spread, params.sight), herd.share])
        return jnp.concatenate([shown[:, :6], jnp.broadcast_to(scalars[None], (h, 2)), shown[:, 6:]], axis=1)

    def split(self, observation: jax.Array, params: ShepherdParams) -> HerderSight:
        """An observation `[h, m]` by what it shows; the inverse of `observe`."""
        shown = jnp.concatenate([observation[:, :6], observation[:, _SUMMARY:]], axis=1)
        displacements = _unsquashed(shown.reshape(len(observation), -1, 2), params.sight)
        return HerderSight(
            goal=displacements[:, 0],
            center=displacements[:, 1],
            farthest=displacements[:, 2],
            spread=_unsquashed(observation[:, 6:7], params.sight)[:, 0],
            boids=displacements[:, 3 : 3 + self.nearest],
            herders=displacements[:, 3 + self.nearest :],
        )


def _unsquashed(shown: jax.Array, scale: jax.Array) -> jax.Array:
    """d from what an observation shows of it, `d / sqrt(|d|^2 + R^2)`, `[..., k]`."""
    rest = jnp.maximum(1 - jnp.sum(shown**2, axis=-1, keepdims=True), 1e-6)  # of what is very far nothing is left
    return scale * shown / jnp.sqrt(rest)
