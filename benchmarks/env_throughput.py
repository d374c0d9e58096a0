"""Environment steps per second, forward and with gradient, over batch sizes and sizes of the system.

    python -m benchmarks.env_throughput [--quick] [--json PATH] [--tasks | --crossover | --adapter]

One step is `jax.vmap(env.step)` on random actions, auto-reset included, in float32 on one core. The gradient is that
of the summed rewards of 8 steps with respect to the actions; its time is given for one of the 8 steps. What would not
fit into memory is left out and named. Before anything is timed, a batch is checked against one instance alone.

It is `flocking`, from few to many boids; with `--tasks` every environment and task as it is by default, forward only.

With `--crossover` it compares all pairs with the neighbour list instead: the number of boids from which the list wins
is what the environment switches at.

With `--adapter` it measures what the adapters cost over the raw step, in every environment and task, at a batch of
1,024: `jax.jit(jax.vmap(env.step))` with its random keys split in the same program, actions given as numpy, and
observations, rewards, ends and `info` fetched as (read-only) numpy arrays, beside a step of `gymnasium.make_vec` in its
two modes of autoreset, and of the `VecEnv` where Stable-Baselines3 is installed. No episode ends meanwhile.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import dmdenv
from benchmarks import harness
from dmdenv.envs.adapters.gymnasium import GymnasiumVectorEnv

BATCHES = (1, 16, 256, 4096, 16_384)
BOIDS = (8, 32, 128, 512)
TASK_BATCHES = (1, 64, 1024, 4096)
GRADIENT_STEPS = 8
CROSSOVER_BOIDS = (64, 128, 256)
CROSSOVER_BATCH = 64
ADAPTER_BATCH = 1024
ADAPTER_TARGET = 20.0  # per cent over the raw step, of Gymnasium's vector environment
COMPILE_TARGET = 5.0  # seconds, of a step
MEMORY_SHARE = 0.6  # of what is available: more may swap, and slow down everybody on the machine
PATIENCE = 4.0  # seconds: a program that needs more for all its rounds takes part in three
LONGEST = 20.0  # seconds: a program whose call takes more is called once


def programs(env: dmdenv.Env, batch: int) -> tuple[Any, Any, tuple, tuple]:
    """The step and the gradient of a batch, and the arguments of each."""
    params = env.default_params
    keys = jax.random.split(jax.random.key(0), batch)
    actions = jax.random.uniform(jax.random.key(1), (GRADIENT_STEPS, batch, *env.action_shape), minval=-1, maxval=1)
    step = jax.vmap(env.step, (0, 0, 0, None))

    def total(actions, keys, states, params):
        def one(states, action):
            _, states, reward, *_ = step(keys, states, action, params)
            return states, jnp.sum(reward)

        return jnp.sum(jax.lax.scan(one, states, actions)[1])

    # done before anything is timed: JAX returns at once, and computes on beside the next compilation
    _, states = jax.block_until_ready(jax.jit(jax.vmap(env.reset, (0, None)))(keys, params))
    return step, jax.grad(total), (keys, states, actions[0], params), (actions, keys, states, params)


def check(env: dmdenv.Env) -> float:
    """The largest difference between an instance in a batch and the same alone, in observation, reward and gradient."""
    step, gradient, arguments, gradient_arguments = programs(env, 3)
    together = jax.jit(step)(*arguments), jax.jit(gradient)(*gradient_arguments)
    keys, states, action, params = arguments
    pick = functools.partial(jax.tree.map, lambda x: x[1:2])
    alone = jax.jit(step)(pick(keys), pick(states), pick(action), params)
    actions = gradient_arguments[0][:, 1:2]
    alone_gradient = jax.jit(gradient)(actions, pick(keys), pick(states), params)
    differences = [
        np.max(np.abs(together[0][0][1] - alone[0][0])),
        np.max(np.abs(together[0][2][1] - alone[2][0])),
        np.max(np.abs(together[1][:, 1] - alone_gradient[:, 0])) / np.max(np.abs(alone_gradient)),
    ]
    worst = float(max(differences))
    if not worst < 1e-4:
        raise AssertionError(f"a batch differs from one instance alone by {differences}")
    return worst


def measure(id: str, config: dict[str, Any], batch: int, rounds: int, *, with_gradient: bool = True) -> dict[str, Any]:
    """One row: rates, compile times, memory; a figure is left out where the program would not fit."""
    env = dmdenv.make_env(id, **config)
    size = int(np.prod(env.action_shape))
    row: dict[str, Any] = {"env": id, **config, "batch": batch, "notes": []}
    budget = MEMORY_SHARE * harness.available_bytes()
    observed = 4 * batch * int(np.prod(env.observation_space().shape))
    if 4 * GRADIENT_STEPS * observed > budget:
        row["notes"].append(f"left out: the observations of a few steps alone need {observed / 1e9:.1f} GB each")
        return row
    step, gradient, step_arguments, gradient_arguments = programs(env, batch)
    runs = {}
    measured = [("step", step, step_arguments), ("gradient", gradient, gradient_arguments)]
    for name, function, arguments in measured if with_gradient else measured[:1]:
        compiled = harness.compile_for(function, *arguments)
        row[f"{name}_compile_seconds"] = compiled.seconds
        row[f"{name}_bytes"] = compiled.bytes
        if compiled.bytes > budget:
            row["notes"].append(f"{name} left out: it needs {compiled.bytes / 1e9:.1f} GB")
            continue
        runs[name] = functools.partial(compiled.run, *arguments)
    timings = harness.race(runs, rounds=rounds, most=PATIENCE, longest=LONGEST, clock=time.process_time)
    if "step" in timings:
        row["step_seconds"] = dataclasses.asdict(timings["step"])
        row["env_steps_per_second"] = batch / timings["step"].median
        row["agent_steps_per_second"] = size * batch / timings["step"].median
    if "gradient" in timings:
        row["gradient_seconds"] = dataclasses.asdict(timings["gradient"])
        row["gradient_env_steps_per_second"] = GRADIENT_STEPS * batch / timings["gradient"].median
        if "step" in timings:
            row["gradient_over_step"] = timings["gradient"].median / GRADIENT_STEPS / timings["step"].median
    return row


def cells(row: dict[str, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        return form.format(row[name]) if name in row else "-"

    return [
        f"{row['env']} {', '.join(f'{k}={row[k]}' for k in ('task', 'boids', 'pairs') if k in row)}",
        str(row["batch"]),
        number("env_steps_per_second", "{:,.0f}"),
        number("agent_steps_per_second", "{:,.0f}"),
        number("gradient_env_steps_per_second", "{:,.0f}"),
        number("gradient_over_step", "{:.1f}"),
        number("step_compile_seconds", "{:.1f}"),
        number("gradient_compile_seconds", "{:.1f}"),
    ]


HEADER = ("environment", "batch", "env-steps/s", "agent-steps/s", "with gradient", "gradient / step", "compile, s",
          "with gradient, s")  # fmt: skip


# --- adapters ---------------------------------------------------------------------------------------------------------


def raw_step(env: dmdenv.Env, params: Any, actions: np.ndarray) -> Callable[[], Any]:
    """A step of a batch as one would write it by hand, from numpy to numpy."""

    @jax.jit
    def step(keys, states, actions, params):
        pairs = jax.vmap(jax.random.split)(keys)
        return pairs[:, 0], jax.vmap(env.step, (0, 0, 0, None))(pairs[:, 1], states, actions, params)

    keys = jax.random.split(jax.random.key(0), len(actions))
    _, states = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)

    def run():
        nonlocal keys, states
        keys, (observations, states, *rest) = step(keys, states, actions, params)
        return jax.device_get((observations, *rest))[0]

    return run


def measure_adapters(id: str, task: str, config: dict[str, Any], batch: int, rounds: int) -> dict[str, Any]:
    """One row: seconds of a raw step and of one through each adapter, and what these take more, per cent."""
    env = dmdenv.make_env(id, task=task, **config)
    params = env.default_params.replace(max_steps=1_000_000)
    actions = np.random.default_rng(0).uniform(-1, 1, (batch, *env.action_shape)).astype(np.float32)
    runs = {"raw": raw_step(env, params, actions)}
    adapters = {
        f"gymnasium {mode}": GymnasiumVectorEnv(env, batch, params=params, autoreset_mode=mode)
        for mode in ("NextStep", "SameStep")
    }
    if importlib.util.find_spec("stable_baselines3") is not None:
        from dmdenv.envs.adapters.sb3 import SB3VecEnv

        adapters["SB3"] = SB3VecEnv(env, batch, params=params)
    for name, adapter in adapters.items():
        adapter.reset()
        runs[name] = functools.partial(observed_step, adapter, actions)
    timings = harness.race(runs, rounds=rounds, most=PATIENCE, longest=LONGEST, clock=time.process_time)
    over = {name: 100.0 * (timings[name].median / timings["raw"].median - 1.0) for name in adapters}
    seconds = {name: dataclasses.asdict(timing) for name, timing in timings.items()}
    return {"env": id, "task": task, **config, "batch": batch, "seconds": seconds, "overhead_per_cent": over}


def observed_step(adapter: Any, actions: np.ndarray) -> np.ndarray:
    """A step, of which only the observations are returned: the timing would look into each of SB3's thousand infos."""
    return adapter.step(actions)[0]


def adapter_cells(row: dict[str, Any]) -> list[str]:
    def over(name: str) -> str:
        return f"{row['overhead_per_cent'][name]:+.1f} %" if name in row["overhead_per_cent"] else "-"

    named = [f"{row['env']}, {row['task']}", str(row["batch"]), f"{1e3 * row['seconds']['raw']['median']:.2f}"]
    return named + [over(name) for name in ADAPTER_HEADER[3:]]


ADAPTER_HEADER = ("environment", "batch", "raw step, ms", "gymnasium NextStep", "gymnasium SameStep", "SB3")


def adapters(options: "Options", rounds: int) -> tuple[list[dict[str, Any]], harness.Target]:
    """The rows of all environments and tasks, printed, and the target."""
    rows = []
    for id in ("trap_drag",) if options.quick else dmdenv.registered_envs():
        for task in dmdenv.registered_tasks(id):
            rows.append(measure_adapters(id, task, {}, 64 if options.quick else ADAPTER_BATCH, rounds))
            print(" | ".join(adapter_cells(rows[-1])), flush=True)
    print()
    harness.print_table(ADAPTER_HEADER, [adapter_cells(row) for row in rows])
    worst = max(over for row in rows for name, over in row["overhead_per_cent"].items() if name != "SB3")
    return rows, harness.Target("largest overhead of the vector adapter, %", worst, at_most=ADAPTER_TARGET)


# --- command line -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """Environment steps per second over batch sizes and sizes of the system, with compile times."""

    quick: Annotated[bool, tyro.conf.arg(help="two small sizes, 3 rounds: shows that it runs")] = False
    tasks: Annotated[bool, tyro.conf.arg(help="every environment and task instead of sizes of flocking")] = False
    crossover: Annotated[bool, tyro.conf.arg(help="compare all pairs with the neighbour list instead")] = False
    adapter: Annotated[bool, tyro.conf.arg(help="measure what the adapters cost over the raw step instead")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write the results; by default into results/, and nowhere with --quick"),
    ] = None
    rounds: Annotated[int, tyro.conf.arg(help="how often each program is timed")] = 7


def cases(options: Options) -> list[tuple[str, dict[str, Any], int]]:
    """Environments, configurations and batch sizes."""
    if options.tasks:
        ids = ("trap_drag",) if options.quick else dmdenv.registered_envs()
        tasks = [(id, {"task": task}) for id in ids for task in dmdenv.registered_tasks(id)]
        return [(*task, batch) for task in tasks for batch in (TASK_BATCHES[:2] if options.quick else TASK_BATCHES)]
    if options.crossover:
        sizes = (32, 64) if options.quick else CROSSOVER_BOIDS
        configs, batches = (
            [{"boids": n, "pairs": pairs} for n in sizes for pairs in ("all", "list")],
            (CROSSOVER_BATCH,),
        )
    elif options.quick:
        configs, batches = [{"boids": 8}], BATCHES[:2]
    else:
        configs, batches = [{"boids": n} for n in BOIDS], BATCHES
    return [("flocking", config, batch) for config in configs for batch in batches]


def throughput(options: Options, rounds: int) -> tuple[list[dict[str, Any]], harness.Target]:
    """The rows of all cases, printed, and the target."""
    rows = []
    for id, config, batch in cases(options):
        rows.append(measure(id, config, batch, rounds, with_gradient=not options.tasks))
        print(" | ".join(cells(rows[-1]) + rows[-1]["notes"]), flush=True)
    print()
    harness.print_table(HEADER, [cells(row) for row in rows])
    slowest = max(row["step_compile_seconds"] for row in rows if "step_compile_seconds" in row)
    return rows, harness.Target("slowest compilation of a step, s", slowest, at_most=COMPILE_TARGET)


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    rounds = 3 if options.quick else options.rounds
    difference = check(dmdenv.make_env("flocking", boids=8 if options.quick else 32))
    print(f"a batch differs from one instance alone by at most {difference:.0e}\n")
    rows, target = adapters(options, rounds) if options.adapter else throughput(options, rounds)
    harness.print_table(harness.TARGET_HEADER, [target.row()])
    modes = {"tasks": options.tasks, "adapters": options.adapter, "crossover": options.crossover}
    name = next((mode for mode, chosen in modes.items() if chosen), "env_throughput")
    path = options.json or (None if options.quick else harness.RESULTS / f"{name}.json")
    if path is not None:
        record = {
            "benchmark": name,
            "quick": options.quick,
            "machine": machine,
            "gradient_steps": GRADIENT_STEPS,
            "largest_difference": difference,
            "rows": rows,
            "targets": [target.record()],
        }
        harness.write_json(path, record)


if __name__ == "__main__":
    main(tyro.cli(Options))
