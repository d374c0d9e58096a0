"""The gradient of a long trajectory that is walked back instead of being stored: memory, cost, exactness.

    python -m benchmarks.reversible [--quick] [--json PATH]

500 Lennard-Jones particles (force-shifted at 2.5, density 0.8442, kT about 1), float64, velocity Verlet, dt = 0.001:

- 100,000 steps there and back: do all positions, velocities and forces return bit for bit?
- the gradient of a function of the last state with respect to all initial velocities, through 100,000 steps: its
  memory, compared with what the ordinary derivative stores of 100 steps;
- 1,000 steps: time per step of both forward passes and of both gradients, with a neighbour list and over all pairs, by
  velocities alone and by a parameter of the potential besides; and how much both gradients differ;
- the same times for Langevin dynamics and Nose-Hoover chains.
"""

import dataclasses
import functools
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import harness
from dmdenv import lattice
from dmdenv.differentiation import bytes_of, reversible_rollout, rollout
from dmdenv.differentiation.integer_motion import motion_of
from dmdenv.integrators import NVE, Langevin, NoseHoover
from dmdenv.neighbors import AllPairs, allocate
from dmdenv.potentials import lennard_jones

DENSITY, CUTOFF, SKIN = 0.8442, 2.5, 0.3
DT = 0.001
STORED = 100  # steps, whose memory the whole gradient is compared with
METHODS: dict[str, Callable[[], Any]] = {
    "NVE": lambda: NVE(dt=DT),
    "Langevin": lambda: Langevin(dt=DT, temperature=1.0, friction=1.0),
    "Nose-Hoover": lambda: NoseHoover(dt=DT, temperature=1.0, relaxation_time=0.2),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The gradient of a long trajectory that is walked back instead of being stored."""

    quick: Annotated[bool, tyro.conf.arg(help="108 particles, 2,000 and 50 steps: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write results; by default into results/, nowhere with --quick"),
    ] = None


def potential(epsilon: Any = 1.0):
    return lennard_jones(epsilon=epsilon, cutoff=CUTOFF, truncation="force_shifted")


def liquid(method: Any, cells: int, *, listed: bool = True) -> Any:
    """A state of `4 cells^3` particles in a liquid, with a neighbour list or all pairs."""
    space, positions = lattice.fcc(cells, density=DENSITY)
    pairs = allocate(space, positions, cutoff=CUTOFF, skin=SKIN, slack=1.5) if listed else AllPairs()
    warm = Langevin(dt=0.005, temperature=1.0, friction=1.0)
    state = warm.init(potential(), space, positions, pairs=pairs, key=jax.random.key(0))
    state, _ = jax.jit(lambda state: rollout(functools.partial(warm.step, potential()), state, 1000))(state)
    v = state.velocities - jnp.mean(state.velocities, axis=0, keepdims=True)
    options = {"velocities": v, "pairs": state.pairs, "key": jax.random.key(1)}
    return method.init(potential(), space, state.positions, **options)


def observed(state: Any) -> jax.Array:
    return jnp.mean(state.unwrapped**2) + state.kinetic_energy


def end_of(method: Any, steps: int, reversible: bool, epsilon: Any, v: jax.Array, state: Any) -> jax.Array:
    """A function of the last state."""
    state, lj = state.replace(velocities=v), potential(epsilon)
    if reversible:
        damping = DT if isinstance(method, Langevin) else None
        return observed(reversible_rollout(method, lj, state, steps, max_damping=damping)[0])
    return observed(rollout(functools.partial(method.step, lj), state, steps)[0])


# --- there and back ---------------------------------------------------------------------------------------------------


def mismatches(state: Any, steps: int) -> int:
    """Numbers that differ after steps there and back."""

    @jax.jit
    def run(state):
        motion = motion_of(METHODS["NVE"](), potential(), state, {})
        start = motion.begin()
        end = jax.lax.fori_loop(0, steps, lambda _, walker: motion.advance(walker)[0], start)
        again = jax.lax.fori_loop(0, steps, lambda _, walker: motion.retreat(walker, None), end)
        moved = jnp.all(jnp.any(end.positions != start.positions, axis=1))
        names = ("positions", "velocities", "forces")
        return moved, sum(jnp.sum(getattr(again, name) != getattr(start, name)) for name in names)

    moved, different = run(state)
    assert moved, "a particle has not moved at all"
    return int(different)


def long_gradient(state: Any, steps: int) -> dict[str, Any]:
    """Memory and time of a gradient through many steps."""
    gradient = jax.value_and_grad(functools.partial(end_of, METHODS["NVE"](), steps, True, 1.0))
    compiled = harness.compile_for(gradient, state.velocities, state)
    _, per_step = bytes_of(functools.partial(METHODS["NVE"]().step, potential()), state)
    before, start = _peak(), time.process_time()
    value, by_velocity = jax.block_until_ready(compiled.run(state.velocities, state))
    return {
        "steps": steps,
        "seconds": time.process_time() - start,
        "bytes": compiled.bytes,
        "growth_of_peak_resident_bytes": _peak() - before,
        "bytes_of_stored_steps": STORED * per_step,
        "value": float(value),
        "log10_norm": float(np.log10(np.linalg.norm(by_velocity))),
    }


def _peak() -> int:
    """The largest resident size of the process so far, bytes (Linux)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- cost -------------------------------------------------------------------------------------------------------------


def costs(name: str, state: Any, steps: int, *, rounds: int) -> dict[str, Any]:
    """Seconds per step and bytes of forward passes and gradients; the difference of two gradients."""
    programs, compiled = {}, {}
    for kind in ("stored", "reversible"):
        run = functools.partial(end_of, METHODS[name](), steps, kind == "reversible")
        arguments = jnp.asarray(1.0), state.velocities, state
        programs[f"{kind}, forward"] = run
        programs[f"{kind}, gradient by velocities"] = jax.grad(run, argnums=1)
        programs[f"{kind}, gradient by velocities and epsilon"] = jax.grad(run, argnums=(0, 1))
    compiled = {key: harness.compile_for(program, *arguments) for key, program in programs.items()}
    found, expected = (compiled[f"{kind}, gradient by velocities"].run(*arguments) for kind in ("reversible", "stored"))
    timings = harness.race(
        {key: functools.partial(program.run, *arguments) for key, program in compiled.items()},
        rounds=rounds,
        clock=time.process_time,
    )
    return {
        "method": name,
        "pairs": type(state.pairs).__name__,
        "steps": steps,
        "difference": float(jnp.max(jnp.abs(found - expected)) / jnp.max(jnp.abs(expected))),
        "seconds_per_step": {key: dataclasses.asdict(timing) for key, timing in timings.items()},
        "forward_passes": {key: timing.median / timings["stored, forward"].median for key, timing in timings.items()},
        "bytes": {key: program.bytes for key, program in compiled.items()},
    }


def print_costs(rows: list[dict[str, Any]]) -> None:
    header = ("", "ms per step", "forward passes", "MB")
    for row in rows:
        print(f"{row['method']}, {row['pairs']}, {row['steps']} steps; gradients differ by {row['difference']:.1e}")
        table = [
            (
                key,
                f"{1e3 * row['seconds_per_step'][key]['median'] / row['steps']:.3f}",
                f"{passes:.2f}",
                f"{row['bytes'][key] / 1e6:.2f}",
            )
            for key, passes in row["forward_passes"].items()
        ]
        harness.print_table(header, table)


def main(options: Options) -> None:
    machine = harness.machine(harness.pin_to_one_core())
    harness.print_machine(machine)
    jax.config.update("jax_enable_x64", True)
    cells, many, few, rounds = (3, 2_000, 50, 3) if options.quick else (5, 100_000, 1_000, 9)
    state = liquid(METHODS["NVE"](), cells)
    long = long_gradient(state, many)
    print(f"gradient of {many} steps of {len(state.positions)} particles: {long}")
    different = mismatches(state, many)
    rows = [
        costs(name, liquid(METHODS[name](), cells, listed=listed), few, rounds=rounds)
        for name, listed in [("NVE", True), ("NVE", False), ("Langevin", True), ("Nose-Hoover", True)]
    ]
    print_costs(rows)
    passes = rows[0]["forward_passes"]
    memory, difference = long["bytes"] / long["bytes_of_stored_steps"], max(row["difference"] for row in rows)
    by_velocities, by_both = (
        passes[f"reversible, gradient by {names}"] for names in ("velocities", "velocities and epsilon")
    )
    targets = [
        harness.Target(f"memory over that of {STORED} stored steps", memory, at_most=1),
        harness.Target("numbers that differ after there and back", different, at_most=0),
        harness.Target("difference to the stored gradient, in 1e-8", difference / 1e-8, at_most=1),
        harness.Target("forward passes, gradient by velocities", by_velocities, at_most=4),
        harness.Target("forward passes, by velocities and epsilon", by_both, at_most=4),
    ]
    harness.print_table(harness.TARGET_HEADER, [target.row() for target in targets])
    path = options.json or (None if options.quick else harness.RESULTS / "reversible.json")
    if path is not None:
        record = {"benchmark": "reversible", "quick": options.quick, "machine": machine, "long": long}
        record |= {"particles": len(state.positions), "mismatches": different, "costs": rows}
        harness.write_json(path, record | {"targets": [target.record() for target in targets]})


if __name__ == "__main__":
    main(tyro.cli(Options))
