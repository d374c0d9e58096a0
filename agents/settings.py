"""Tuned settings of the agents, and the best agent we know, for each task of the environments.

`dmdenv train` takes them as defaults; the results are in docs/agents.md. Nothing here imports JAX.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

ANY_TASK = "apg"  # the agent where nothing is known


class Tuned(NamedTuple):
    """What is known of one task."""

    best: str  # the agent with the highest return
    settings: Mapping[str, Mapping[str, Any]]  # of each agent that fits, what differs from the defaults of its Config


TUNED: Mapping[tuple[str | None, str | None], Tuned] = {
    ("bonded_chain", "reach"): Tuned(
        "shac",
        {
            "apg": {"updates": 300},
            "shac": {"updates": 300},
            "ppo": {"updates": 500},
            "es": {"updates": 150, "population": 32, "episodes": 1, "method": "cmaes", "hidden": (8,), "spread": 0.3},
        },
    ),
    ("bonded_chain", "swim"): Tuned(
        "apg",
        {
            "apg": {"updates": 100, "num_envs": 16, "window": 64, "learning_rate": 0.01},
            "shac": {"updates": 100, "num_envs": 32, "window": 16, "deviation": 1.0},
            "ppo": {"updates": 100, "deviation": 1.0},
            "es": {"updates": 60, "population": 32, "episodes": 1, "method": "cmaes", "hidden": (), "spread": 0.5},
        },
    ),
    ("bonded_chain", "fold"): Tuned(
        "apg",
        {
            "apg": {"updates": 300, "window": 16, "hidden": (128, 128)},
            "shac": {"updates": 500, "window": 16, "hidden": (128, 128)},
            "ppo": {"updates": 400, "hidden": (128, 128)},
            "es": {"updates": 150, "population": 48, "episodes": 1, "method": "cmaes", "hidden": (4,), "spread": 0.2},
        },
    ),
    ("flocking", "align"): Tuned(
        "apg",
        {
            "apg": {"updates": 120, "num_envs": 8, "learning_rate": 0.01, "network": "neighbors"},
            "shac": {"updates": 60},
            "ppo": {"updates": 200},
            "es": {"updates": 60, "episodes": 1},
        },
    ),
    ("flocking", "shepherd"): Tuned(
        "es",
        {
            "apg": {"updates": 100},
            "shac": {"updates": 100, "discount": 0.995},
            "ppo": {"updates": 300, "window": 64, "discount": 0.998, "deviation": 1.0, "entropy_weight": 0.003},
            "es": {"updates": 240, "method": "cmaes", "hidden": (8,), "spread": 1.0},
        },
    ),
    ("flocking", "evade"): Tuned(
        "shac",
        {
            "apg": {"updates": 200, "window": 4},
            "shac": {"updates": 400, "num_envs": 128, "window": 4},
            "ppo": {"updates": 300},
            "es": {"updates": 100, "population": 48, "method": "cmaes", "hidden": (8,), "spread": 0.3},
        },
    ),
    ("lj_fluid", "anneal"): Tuned(
        "ppo",
        {
            "apg": {"updates": 60, "num_envs": 16, "window": 16},
            "shac": {"updates": 80, "num_envs": 16, "window": 16, "discount": 1.0, "learning_rate": 0.005},
            "ppo": {"updates": 120, "num_envs": 32, "discount": 1.0},
            "es": {"updates": 30, "population": 32, "episodes": 1, "method": "cmaes", "hidden": (8,), "spread": 0.5},
            "open_loop": {"updates": 30},
        },
    ),
    ("lj_fluid", "drag"): Tuned(
        "shac",
        {
            "apg": {"updates": 300, "window": 4},
            "shac": {"updates": 300, "window": 4, "discount": 1.0},
            "ppo": {"updates": 100, "window": 16, "discount": 1.0},
            "es": {"updates": 80, "population": 32, "method": "cmaes", "hidden": (8,), "spread": 0.5},
            "open_loop": {"updates": 60},
        },
    ),
    ("soft_sphere_packing", "compress"): Tuned(
        "ppo",
        {
            "apg": {"updates": 60, "num_envs": 32, "window": 8},
            "shac": {"updates": 60, "num_envs": 32, "window": 8, "deviation": 0.7, "discount": 1.0},
            "ppo": {"updates": 300, "num_envs": 32, "epochs": 8, "discount": 0.98},
            "es": {"updates": 30, "population": 32, "episodes": 1, "method": "cmaes", "hidden": (8,), "spread": 0.5},
            "open_loop": {"updates": 40, "num_envs": 8},
        },
    ),
    ("soft_sphere_packing", "design"): Tuned(
        "apg",
        {
            "apg": {"updates": 1000, "num_envs": 16, "window": 1},
            "shac": {"updates": 100, "num_envs": 16, "window": 4, "discount": 1.0},
            "ppo": {"updates": 60, "num_envs": 32, "window": 8, "discount": 1.0},
            "es": {"updates": 12, "population": 32, "episodes": 2, "method": "cmaes", "hidden": (8,), "spread": 0.5},
        },
    ),
    ("trap_drag", "drag"): Tuned(
        "open_loop",
        {
            "apg": {"updates": 100, "num_envs": 4, "learning_rate": 0.02},
            "shac": {"updates": 120, "num_envs": 16, "deviation": 0.1, "learning_rate": 0.01, "discount": 1.0},
            "ppo": {"updates": 240, "num_envs": 16, "discount": 1.0},
            "es": {"updates": 32, "population": 32, "episodes": 1, "method": "cmaes"},
            "open_loop": {"updates": 300, "num_envs": 4},
        },
    ),
}


def is_known(id: str | None, task: str | None) -> bool:
    """Whether agents were tuned and compared on a task."""
    return (id, task) in TUNED


def best_agent(id: str | None, task: str | None) -> str:
    """The name of the agent with the highest return on a task; `ANY_TASK` where none was measured."""
    known = TUNED.get((id, task))
    return known.best if known else ANY_TASK


def tuned_settings(id: str | None, task: str | None, agent: str) -> dict[str, Any]:
    """The fields of an agent's `Config` that are tuned for a task; empty where none are."""
    known = TUNED.get((id, task))
    return dict(known.settings.get(agent, {})) if known else {}
