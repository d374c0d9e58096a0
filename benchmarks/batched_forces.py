"""Many small Lennard-Jones systems: forces, and the gradient of a trajectory, beside JAX MD and hand-written C.

    python -m benchmarks.batched_forces [--quick] [--json PATH] [--no-jax-md]

Everything runs on one core in float32, with the same potential, cutoff, box, step and number of steps:

    E = sum_{i<j} S(r) 4 (r^-12 - r^-6),  S = y^2 (3 - 2 y),  y = (c^2 - r^2) / (c^2 - o^2) clamped to [0, 1],

with the onset o = 2 of the switch S and the cutoff c = 2.5: `jax_md.energy.lennard_jones_pair` with its default switch.
The trajectory is velocity Verlet, its result the kinetic energy at the end, its gradient taken with respect to initial
positions and velocities. Results are checked against each other before anything is timed.
"""

import ctypes
import dataclasses
import functools
import importlib.util
import math
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax

from benchmarks import harness
from dmdenv.neighbors import AllPairs, neighbor_sum
from dmdenv.space import Periodic

ONSET, CUTOFF = 2.0, 2.5  # sigma
STEP = 1 / 512  # exact in both precisions: JAX MD rounds its time step to float32
QUANTITIES = ("forces", "trajectory", "gradient")
TOLERANCES = {  # the largest difference over the largest value
    "float32": {"forces": 2e-5, "gradient": 2e-4},
    "float64": {"forces": 1e-12, "gradient": 1e-10},
}
TARGETS = {  # of 3-D systems
    "forces, times faster than JAX MD": {"at_least": 30.0},
    "gradient, times faster than JAX MD": {"at_least": 40.0},
    "gradient over its own forward pass": {"at_most": 4.0},
    "forces, time over hand-written C": {"at_most": 2.0},
}
HOW_TO_INSTALL = "JAX MD is not installed, so it is left out. To compare with it: pip install dmdenv[benchmarks]"


@dataclasses.dataclass(frozen=True)
class Case:
    """Independent systems of particles in cubic periodic boxes."""

    systems: int
    particles: int
    dimension: int
    box: float
    """Side length, sigma: exact in float32, and at least twice the cutoff."""

    @property
    def name(self) -> str:
        return f"{self.systems} x {self.particles}, {self.dimension}-D"

    def initial(self, dtype: Any, systems: int) -> tuple[jax.Array, jax.Array]:
        """Positions of a warm lattice and velocities of temperature 1, `[systems, particles, dimension]`."""
        random = np.random.default_rng(0)
        sites = math.ceil(self.particles ** (1 / self.dimension) - 1e-9)
        lattice = np.stack(np.meshgrid(*[np.arange(sites)] * self.dimension, indexing="ij"), -1) + 0.5
        lattice = lattice.reshape(-1, self.dimension)[: self.particles] * (self.box / sites)
        shape = (systems, self.particles, self.dimension)
        positions = (lattice + 0.05 * random.standard_normal(shape)) % self.box
        return jnp.asarray(positions, dtype), jnp.asarray(random.standard_normal(shape), dtype)


CASES = (Case(256, 64, 3, box=5.0), Case(1024, 32, 2, box=7.0), Case(64, 256, 2, box=18.5))
QUICK_CASES = (Case(8, 64, 3, box=5.0), Case(8, 32, 2, box=7.0))

Forces = Callable[[jax.Array], jax.Array]
Energy = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Functions of one system: forces of positions, and the final kinetic energy of positions and velocities."""

    forces: Forces
    trajectory: Energy


# --- dmdenv -----------------------------------------------------------------------------------------------------------


def dmdenv(case: Case, steps: int) -> Contestant:
    space = Periodic(jnp.asarray(case.box))
    o, c = ONSET**2, CUTOFF**2

    def pair_force(a: jax.Array, b: jax.Array) -> jax.Array:
        dr = space.displacement(a, b)
        w = jnp.sum(dr * dr)
        s = 1 / w
        s3 = s * s * s
        y = lax.clamp(0.0, (c - w) / (c - o), 1.0)
        # -2 d/dw of y^2 (3 - 2 y) 4 (s^6 - s^3): no square root is needed
        radial = 24 * s * s3 * (2 * s3 - 1) * (y * y * (3 - 2 * y)) + 48 / (c - o) * s3 * (s3 - 1) * (y * (1 - y))
        return radial * dr

    def forces(positions):
        return neighbor_sum(pair_force, positions, AllPairs(), parity=-1)

    def trajectory(positions, velocities):
        def step(state, _):
            x, v, f = state
            v = v + STEP / 2 * f
            x = space.shift(x, STEP * v)
            f = forces(x)
            return (x, v + STEP / 2 * f, f), None

        (_, v, _), _ = lax.scan(step, (positions, velocities, forces(positions)), None, length=steps)
        return 0.5 * jnp.sum(v**2)

    return Contestant(forces, trajectory)


# --- JAX MD -----------------------------------------------------------------------------------------------------------


def jax_md(case: Case, steps: int, *, checkpoint: bool = False) -> Contestant:
    """As its documentation writes it; `checkpoint` recomputes each step in the backward pass, which stores less."""
    from jax_md import energy, quantity, simulate, space  # pyright: ignore[reportMissingImports]

    displacement, shift = space.periodic(case.box)
    potential = energy.lennard_jones_pair(displacement)
    initialize, step = simulate.nve(potential, shift, dt=STEP)

    def trajectory(positions, velocities):
        state = initialize(jax.random.key(0), positions, 1.0, momenta=velocities)

        def body(state, _):
            return step(state), None

        state, _ = lax.scan(jax.checkpoint(body) if checkpoint else body, state, None, length=steps)
        return 0.5 * jnp.sum(state.momentum**2)

    return Contestant(quantity.force(potential), trajectory)


# --- C ----------------------------------------------------------------------------------------------------------------


def hand_written(case: Case, positions: jax.Array) -> Callable[[], np.ndarray] | None:
    """Forces by limit.c, `[systems, particles, dimension]`; None where there is no C compiler."""
    library = harness.c_library()
    if library is None:
        return None
    function = getattr(library, f"forces_all_pairs_{case.dimension}d")
    array = np.ctypeslib.ndpointer(np.float32, flags="C")
    function.argtypes = [ctypes.c_int, ctypes.c_int, array, ctypes.c_float, array]
    function.restype = None
    x = np.ascontiguousarray(np.moveaxis(np.asarray(positions), -1, -2))
    forces = np.empty_like(x)  # both [systems, dimension, particles]

    def run() -> np.ndarray:
        function(case.systems, case.particles, x, case.box, forces)
        return np.moveaxis(forces, -1, -2)

    return run


# --- one case ---------------------------------------------------------------------------------------------------------


def batch_programs(one: Contestant) -> dict[str, Callable]:
    return {
        "forces": jax.vmap(one.forces),
        "trajectory": jax.vmap(one.trajectory),
        "gradient": jax.vmap(jax.grad(one.trajectory, (0, 1))),
    }


def difference(a: Any, b: Any) -> float:
    """The largest difference over the largest value."""
    leaves = zip(map(np.asarray, jax.tree.leaves(a)), map(np.asarray, jax.tree.leaves(b)), strict=True)
    return max(float(np.max(np.abs(x - y)) / np.max(np.abs(y))) for x, y in leaves)


def check(what: str, precision: str, a: Any, b: Any) -> float:
    error, tolerance = difference(a, b), TOLERANCES[precision][what]
    if not error <= tolerance:
        raise SystemExit(f"{what} differ by {error:.1e} in {precision}; valid: up to {tolerance:.0e}")
    return error


def float64_errors(case: Case, steps: int) -> dict[str, dict[str, float]]:
    """dmdenv against JAX MD on a few of the systems."""
    with jax.enable_x64(True):
        x, v = case.initial(jnp.float64, systems=2)
        ours, theirs = (batch_programs(make(case, steps)) for make in (dmdenv, jax_md))
        errors = {}
        for what, arguments in {"forces": (x,), "gradient": (x, v)}.items():
            a, b = (jax.jit(programs[what])(*arguments) for programs in (ours, theirs))
            errors[what] = {"jax_md": check(what, "float64", a, b)}
        return errors


def measure(case: Case, steps: int, *, rounds: int, with_jax_md: bool) -> dict[str, Any]:
    """Everything of one case, as it stands in the JSON file."""
    x, v = case.initial(jnp.float32, case.systems)
    contestants = {"dmdenv": batch_programs(dmdenv(case, steps))}
    if with_jax_md:
        contestants["jax_md"] = batch_programs(jax_md(case, steps))
        contestants["jax_md_checkpoint"] = {
            "gradient": batch_programs(jax_md(case, steps, checkpoint=True))["gradient"]
        }

    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    compile_seconds: dict[str, dict[str, float]] = {what: {} for what in QUANTITIES}
    notes = []
    for name, programs in contestants.items():
        for what, program in programs.items():
            arguments = (x,) if what == "forces" else (x, v)
            compiled = harness.compile_for(program, *arguments)
            compile_seconds[what][name] = compiled.seconds
            if compiled.bytes > 0.8 * harness.available_bytes():
                notes.append(f"{name}, {what}: not run, needs {compiled.bytes / 1e9:.0f} GB of memory")
            else:
                runs[what, name] = functools.partial(compiled.run, *arguments)
    if (run := hand_written(case, x)) is not None:
        runs["forces", "c"] = run

    errors: dict[str, dict[str, float]] = {what: {} for what in TOLERANCES["float32"]}
    for what, by_name in errors.items():
        reference = runs[what, "dmdenv"]()
        for other, run in runs.items():
            if other[0] == what and other[1] != "dmdenv":
                by_name[other[1]] = check(what, "float32", reference, run())
    timings = harness.race(runs, rounds=rounds, clock=time.process_time)
    return {
        **dataclasses.asdict(case),
        "name": case.name,
        "steps": steps,
        "seconds": {
            what: {name: dataclasses.asdict(timing) for (of, name), timing in timings.items() if of == what}
            for what in QUANTITIES
        },
        "compile_seconds": compile_seconds,
        "largest_differences": {"float32": errors, "float64": float64_errors(case, steps) if with_jax_md else {}},
        "notes": notes,
    }


# --- report -----------------------------------------------------------------------------------------------------------


def median(case: dict[str, Any], what: str, name: str) -> float | None:
    timing = case["seconds"][what].get(name)
    return None if timing is None else timing["median"]


def over_forward(case: dict[str, Any], name: str) -> float | None:
    """The gradient's time over the trajectory's: what a derivative costs."""
    return ratio(median(case, "gradient", name), median(case, "trajectory", name.removesuffix("_checkpoint")))


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def print_case(case: dict[str, Any]) -> None:
    names = {"dmdenv": "dmdenv", "jax_md": "JAX MD", "jax_md_checkpoint": "JAX MD, jax.checkpoint a step", "c": "C"}
    seconds, compile_seconds = case["seconds"], case["compile_seconds"]

    def number(value, form="{:.3g}"):
        return "-" if value is None else form.format(value)

    def row(name):
        cells = [str(harness.Timing(**seconds[what][name])) if name in seconds[what] else "-" for what in seconds]
        compiled = [number(compile_seconds[what].get(name), "{:.1f}") for what in seconds]
        return names[name], *cells, number(over_forward(case, name)), *compiled

    def compared(name, other):
        cells = [number(ratio(median(case, what, name), median(case, what, other))) for what in seconds]
        return f"{names[name]} / {names[other]}", *cells, *[""] * (1 + len(seconds))

    others = [name for name in names if any(name in by_name for by_name in seconds.values())]
    rows = [row(name) for name in others]
    rows += [compared(name, "dmdenv") for name in others if name.startswith("jax_md")]
    rows += [compared("dmdenv", name) for name in others if name == "c"]
    header = ("", *(f"{what}, ms" for what in seconds), "gradient / trajectory", *(f"compile {w}, s" for w in seconds))
    print(f"### {case['name']}, {case['steps']} steps: median (quartiles)\n")
    harness.print_table(header, rows)
    if "c" not in seconds["forces"]:
        print("no C compiler")
    for precision, errors in case["largest_differences"].items():
        for what, by_name in errors.items():
            if by_name:
                listed = ", ".join(f"{names[name]} {error:.0e}" for name, error in by_name.items())
                print(f"largest difference of dmdenv's {what} in {precision} from those of: {listed}")
    for note in case["notes"]:
        print(note)
    print(flush=True)


def targets(cases: list[dict[str, Any]]) -> list[harness.Target]:
    out = []
    for case in cases:
        if case["dimension"] != 3:
            continue
        forces, gradient = (median(case, what, "dmdenv") for what in ("forces", "gradient"))
        values = (
            ratio(median(case, "forces", "jax_md"), forces),
            ratio(median(case, "gradient", "jax_md"), gradient),
            over_forward(case, "dmdenv"),
            ratio(forces, median(case, "forces", "c")),
        )
        for (name, bound), value in zip(TARGETS.items(), values, strict=True):
            out.append(harness.Target(f"{case['name']}: {name}", value, **bound))
    return out


@dataclasses.dataclass(frozen=True)
class Options:
    """Lennard-Jones forces and trajectory gradients of many small systems, beside JAX MD and hand-written C."""

    quick: Annotated[bool, tyro.conf.arg(help="few small systems, 5 steps, 3 rounds: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write the results; by default into results/, and nowhere with --quick"),
    ] = None
    jax_md: Annotated[bool, tyro.conf.arg(help="compare with JAX MD, if it is installed")] = True
    rounds: Annotated[int, tyro.conf.arg(help="how often each program is timed")] = 15


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    with_jax_md = options.jax_md and importlib.util.find_spec("jax_md") is not None
    if options.jax_md and not with_jax_md:
        print(HOW_TO_INSTALL + "\n")
    warnings.filterwarnings("ignore", message="Explicitly requested dtype float64")  # by JAX MD's sums, in float32
    cases, steps, rounds = (QUICK_CASES, 5, 3) if options.quick else (CASES, 50, options.rounds)
    results = []
    for case in cases:
        results.append(measure(case, steps, rounds=rounds, with_jax_md=with_jax_md))
        print_case(results[-1])
    reached = targets(results)
    if options.quick:
        print("The targets are for the full sizes; these are too small to judge by.\n")
    harness.print_table(harness.TARGET_HEADER, [target.row() for target in reached])
    path = options.json or (None if options.quick else harness.RESULTS / "batched_forces.json")
    if path is not None:
        record = {
            "benchmark": "batched_forces",
            "quick": options.quick,
            "machine": machine,
            "cases": results,
            "targets": [target.record() for target in reached],
        }
        harness.write_json(path, record)


if __name__ == "__main__":
    main(tyro.cli(Options))
