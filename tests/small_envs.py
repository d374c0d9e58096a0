"""Every environment and task, with a static configuration that is small and compiles fast."""

from dmdenv.envs.registry import BUILT_IN, configured, make_env

SMALL = {
    ("bonded_chain", "reach"): {"beads": 5, "substeps": 12},
    ("bonded_chain", "swim"): {"beads": 5},
    ("bonded_chain", "fold"): {"beads": 6, "groups": 2, "substeps": 20},
    ("flocking", "align"): {"boids": 5},
    ("flocking", "shepherd"): {"boids": 5, "nearest": 2},
    ("flocking", "evade"): {"boids": 5},
    ("lj_fluid", "anneal"): {"particles": 30, "substeps": 2},
    ("lj_fluid", "drag"): {"particles": 30, "substeps": 2},
    ("soft_sphere_packing", "compress"): {"particles": 10, "relaxation_steps": 4},
    ("soft_sphere_packing", "design"): {"particles": 10, "relaxation_steps": 500},
    ("trap_drag", "drag"): {"particles": 16},
}
TYPICAL = (("flocking", "align"), ("soft_sphere_packing", "compress"), ("trap_drag", "drag"))
TASKS = [(entry.id, entry.task) for entry in BUILT_IN]
GYMNASIUM = {entry.gymnasium_id: (entry.id, entry.task) for entry in BUILT_IN}
NAMES = [f"{id}-{task}" for id, task in TASKS]


def unprepared(id, task):
    """One that is not to be run; its pool of initial states would take a while."""
    return configured(id, task=task, **SMALL[id, task])


def small_env(id, task):
    return make_env(id, task=task, **SMALL[id, task])
