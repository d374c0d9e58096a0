"""The environments by the names that Gymnasium knows them by.

Nothing here imports JAX, so that `import dmdenv` stays light.
"""

import gymnasium

ENTRY_POINT = "dmdenv.envs.adapters.gymnasium"

# Gymnasium's id, and what makes the environment: `make_env(**...)`; in the order of the registry
IDS: dict[str, dict[str, str]] = {
    "dmdenv/BondedChain-v0": {"id": "bonded_chain", "task": "reach"},
    "dmdenv/BondedChainSwim-v0": {"id": "bonded_chain", "task": "swim"},
    "dmdenv/BondedChainFold-v0": {"id": "bonded_chain", "task": "fold"},
    "dmdenv/Flocking-v0": {"id": "flocking", "task": "align"},
    "dmdenv/FlockingShepherd-v0": {"id": "flocking", "task": "shepherd"},
    "dmdenv/FlockingEvade-v0": {"id": "flocking", "task": "evade"},
    "dmdenv/LJFluid-v0": {"id": "lj_fluid", "task": "anneal"},
    "dmdenv/LJFluidDrag-v0": {"id": "lj_fluid", "task": "drag"},
    "dmdenv/SoftSpherePacking-v0": {"id": "soft_sphere_packing", "task": "compress"},
    "dmdenv/SoftSpherePackingDesign-v0": {"id": "soft_sphere_packing", "task": "design"},
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
