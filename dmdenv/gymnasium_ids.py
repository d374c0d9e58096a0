"""The environments by the names that Gymnasium knows them by.

Nothing here imports JAX, so that `import dmdenv` stays light.
"""

import gymnasium

ENTRY_POINT = "dmdenv.envs.gymnasium_adapter"

# Gymnasium's id, and what makes the environment: `make_env(**...)`; in the order of the registry
IDS: dict[str, dict[str, str]] = {
    "dmdenv/Flocking-v0": {"id": "flocking", "task": "align"},
    "dmdenv/LJFluid-v0": {"id": "lj_fluid", "task": "anneal"},
    "dmdenv/LJFluidDrag-v0": {"id": "lj_fluid", "task": "drag"},
    "dmdenv/TrapDrag-v0": {"id": "trap_drag", "task": "drag"},
}


def register() -> None:
    """Register every id; a second call changes nothing."""
    for name, made_by in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point=f"{ENTRY_POINT}:GymnasiumEnv",
                vector_entry_point=f"{ENTRY_POINT}:GymnasiumVectorEnv",
                kwargs=dict(made_by),
            )
