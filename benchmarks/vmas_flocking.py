"""VMAS' flocking beside ours: agent-steps per second on one core.

    python -m benchmarks.vmas_flocking [--quick] [--json PATH]

Both step the same number of instances of the same number of agents, among the same number of obstacles, with random
actions that are given, and return observations and rewards of all agents. VMAS (1.5) runs on torch with one thread,
without gradients, and never resets; ours is `jax.vmap(env.step)`, auto-reset included, and beside it a step of
`gymnasium.make_vec` from numpy to numpy. They are two flocking tasks and not one: VMAS' agents are accelerated discs
that collide, with 12 rays of lidar, in 5 substeps a step; ours are boids steered by turn rates that see their 6 nearest
neighbours, in one explicit Euler step. So the ratio is given a second time with 5 of our steps for one of VMAS.

VMAS is in the extra `interop`; without it our own columns are measured still.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import dmdenv
from benchmarks import harness
from dmdenv.envs.adapters.gymnasium import GymnasiumVectorEnv

CASES = ((256, 32), (256, 4), (4096, 4))  # instances, agents
QUICK = ((8, 4),)
OBSTACLES = 5  # VMAS' default
SUBSTEPS = 5  # of VMAS' in a step
TARGET = 50.0  # times VMAS' agent-steps per second, of 256 instances of 32 agents


def vmas_step(instances: int, agents: int) -> Callable[[], Any]:
    """A step of VMAS with random actions."""
    import torch  # pyright: ignore[reportMissingImports] - an extra, as the next one
    import vmas  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    env = vmas.make_env("flocking", instances, device="cpu", seed=0, n_agents=agents, n_obstacles=OBSTACLES)
    assert env.world._substeps == SUBSTEPS, "VMAS' flocking takes another number of substeps"
    env.reset()
    generator = torch.Generator().manual_seed(0)
    actions = [2.0 * torch.rand((instances, 2), generator=generator) - 1.0 for _ in range(agents)]

    def run():
        with torch.no_grad():
            observations, rewards, *_ = env.step(actions)
        assert len(observations) == len(rewards) == agents
        return rewards[0].numpy()

    return run


def our_steps(instances: int, agents: int) -> dict[str, Callable[[], Any]]:
    """A raw step, and one through Gymnasium's vector environment."""
    env = dmdenv.make_env("flocking", boids=agents, obstacles=OBSTACLES)
    params = env.default_params
    keys = jax.random.split(jax.random.key(0), instances)
    actions = np.random.default_rng(0).uniform(-1, 1, (instances, agents)).astype(np.float32)
    step = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))
    _, states = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
    of_jax = jax.numpy.asarray(actions)  # as VMAS' are tensors of torch

    def run():
        nonlocal states
        observations, states, rewards, *_ = step(keys, states, of_jax, params)
        return observations, rewards

    envs = GymnasiumVectorEnv(env, instances, params=params)
    envs.reset(seed=0)
    return {"dmdenv": run, "dmdenv through Gymnasium": functools.partial(envs.step, actions)}


def measure(instances: int, agents: int, rounds: int) -> dict[str, Any]:
    """One row."""
    runs = our_steps(instances, agents)
    if importlib.util.find_spec("vmas") is not None:
        runs["VMAS"] = vmas_step(instances, agents)
    timings = harness.race(runs, rounds=rounds, clock=time.process_time)
    rates = {name: instances * agents / timing.median for name, timing in timings.items()}
    ratio = rates["dmdenv"] / rates["VMAS"] if "VMAS" in rates else None
    seconds = {name: dataclasses.asdict(timing) for name, timing in timings.items()}
    return {
        "instances": instances,
        "agents": agents,
        "seconds": seconds,
        "agent_steps_per_second": rates,
        "times_faster": ratio,
        "times_faster_by_substeps": None if ratio is None else ratio / SUBSTEPS,
    }


NAMES = ("VMAS", "dmdenv", "dmdenv through Gymnasium")
HEADER = ("instances x agents", *(f"{name}, agent-steps/s" for name in NAMES), "times faster", "counting its substeps")


def cells(row: dict[str, Any]) -> list[str]:
    rates = row["agent_steps_per_second"]
    ratios = [row["times_faster"], row["times_faster_by_substeps"]]
    return [
        f"{row['instances']} x {row['agents']}",
        *(f"{rates[name]:,.0f}" if name in rates else "-" for name in NAMES),
        *("-" if ratio is None else f"{ratio:.1f}" for ratio in ratios),
    ]


@dataclasses.dataclass(frozen=True)
class Options:
    """VMAS' flocking beside ours, on one core."""

    quick: Annotated[bool, tyro.conf.arg(help="one small size, 3 rounds: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write the results; by default into results/, and nowhere with --quick"),
    ] = None
    rounds: Annotated[int, tyro.conf.arg(help="how often each program is timed")] = 7


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    machine = harness.machine(harness.pin_to_one_core())
    harness.print_machine(machine)
    rounds = 3 if options.quick else options.rounds
    rows = [measure(*case, rounds) for case in (QUICK if options.quick else CASES)]
    harness.print_table(HEADER, [cells(row) for row in rows])
    value = None if options.quick else rows[0]["times_faster"]
    target = harness.Target("256 x 32, times VMAS' agent-steps per second", value, at_least=TARGET)
    harness.print_table(harness.TARGET_HEADER, [target.row()])
    path = options.json or (None if options.quick else harness.RESULTS / "vmas_flocking.json")
    if path is not None:
        record = {
            "benchmark": "vmas_flocking",
            "quick": options.quick,
            "machine": machine,
            "rows": rows,
            "targets": [target.record()],
        }
        harness.write_json(path, record)


if __name__ == "__main__":
    main(tyro.cli(Options))
