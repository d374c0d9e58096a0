"""Environment steps per second, forward and with gradient, over batch sizes and sizes of the system.

    python -m benchmarks.env_throughput [--quick] [--json PATH] [--crossover]

One step is `jax.vmap(env.step)` on random actions, auto-reset included, in float32 on one core. The gradient is that
of the summed rewards of 8 steps with respect to the actions; its time is given for one of the 8 steps. What would not
fit into memory is left out and named. Before anything is timed, a batch is checked against one instance alone.

With `--crossover` it compares all pairs with the neighbour list instead: the number of boids from which the list wins
is what the environment switches at.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import dmdenv
from benchmarks import harness

BATCHES = (1, 16, 256, 4096, 16_384)
BOIDS = (8, 32, 128, 512)
GRADIENT_STEPS = 8
CROSSOVER_BOIDS = (64, 128, 256)
CROSSOVER_BATCH = 64
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


def measure(id: str, config: dict[str, Any], batch: int, rounds: int) -> dict[str, Any]:
    """One row: rates, compile times, memory; a figure is None where the program would not fit."""
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
    for name, function, arguments in (("step", step, step_arguments), ("gradient", gradient, gradient_arguments)):
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
        f"{row['env']} {', '.join(f'{k}={row[k]}' for k in ('boids', 'pairs') if k in row)}",
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


@dataclasses.dataclass(frozen=True)
class Options:
    """Environment steps per second over batch sizes and sizes of the system, with compile times."""

    quick: Annotated[bool, tyro.conf.arg(help="two small sizes, 3 rounds: shows that it runs")] = False
    crossover: Annotated[bool, tyro.conf.arg(help="compare all pairs with the neighbour list instead")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write the results; by default into results/, and nowhere with --quick"),
    ] = None
    rounds: Annotated[int, tyro.conf.arg(help="how often each program is timed")] = 7


def cases(options: Options) -> list[tuple[dict[str, Any], int]]:
    """Configurations and batch sizes."""
    if options.crossover:
        sizes = (32, 64) if options.quick else CROSSOVER_BOIDS
        return [({"boids": n, "pairs": pairs}, CROSSOVER_BATCH) for n in sizes for pairs in ("all", "list")]
    if options.quick:
        return [({"boids": 8}, 1), ({"boids": 8}, 16)]
    return [({"boids": n}, batch) for n in BOIDS for batch in BATCHES]


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    rounds = 3 if options.quick else options.rounds
    difference = check(dmdenv.make_env("flocking", boids=8 if options.quick else 32))
    print(f"a batch differs from one instance alone by at most {difference:.0e}\n")
    rows = []
    for config, batch in cases(options):
        rows.append(measure("flocking", config, batch, rounds))
        print(" | ".join(cells(rows[-1]) + rows[-1]["notes"]), flush=True)
    print()
    harness.print_table(HEADER, [cells(row) for row in rows])
    slowest = max(row["step_compile_seconds"] for row in rows if "step_compile_seconds" in row)
    target = harness.Target("slowest compilation of a step, s", slowest, at_most=COMPILE_TARGET)
    harness.print_table(harness.TARGET_HEADER, [target.row()])
    name = "crossover" if options.crossover else "env_throughput"
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
