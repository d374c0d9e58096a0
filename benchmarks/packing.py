"""The packing experiment of the JAX MD paper: which discs store most energy when they are packed too densely?

    python -m benchmarks.packing [--quick] [--json PATH]

128 soft discs in a periodic square, half of diameter 1 and half of diameter D, at packing fraction 0.98, are minimised
from random places by 300 steps of FIRE. The energy E of the packing is a function of D, and so is the box. Its mean
over 40 packings is measured for D from 0.4 to 1, with two derivatives:

- through the whole minimisation, in reverse mode, compared with central differences of the same packings in float64. It
  is the exact derivative of what the program computes. But which minimum a packing falls into depends sensitively on D
  while it is far from any, and 300 steps do not remove all of that: it scatters widely, so its median over packings is
  shown beside its mean;
- at the end, with the particles held at their places (relative to the box): as forces vanish there, this is the
  derivative of the minimum's energy.

Then the diameter of greatest energy is found by gradient ascent from many starts at once, by either of them; the
derivative of each packing is clipped.

Reference: Schoenholz and Cubuk, NeurIPS 2020, section on meta-optimisation: it plots about 0.46 at D = 0.4 and 0.42 at
D = 1, takes gradients through 10 steps of gradient descent, and does not optimise.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tqdm import tqdm

from benchmarks import harness
from dmdenv.differentiation import rollout
from dmdenv.minimizers import FIRE
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PairPotential, PerParticle, soft_sphere
from dmdenv.space import Periodic

PACKING_FRACTION = 0.98
PUBLISHED = {0.4: 0.46, 1.0: 0.42}  # read off a plot
READING = 0.02
CLIP = 2.0  # of a packing's derivative in the ascent: a few times the slope of the mean energy
MEMORY = 100e6  # bytes of each packing's trajectory, for the reverse derivative


@dataclasses.dataclass(frozen=True)
class Options:
    """Energy of packings against the diameter of half of their discs, its derivative, and its maximum."""

    quick: Annotated[bool, tyro.conf.arg(help="16 discs, 30 steps: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(
            help="where to write results, with a figure beside; by default into results/, nowhere with --quick"
        ),
    ] = None
    packings: Annotated[int, tyro.conf.arg(help="averaged over")] = 40
    starts: Annotated[int, tyro.conf.arg(help="of the ascent")] = 8


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The packings of one size."""

    discs: int = 128
    steps: int = 300

    def system(self, diameter: jax.Array) -> tuple[Periodic, PairPotential]:
        """The box and the discs."""
        half = self.discs // 2
        diameters = jnp.concatenate([jnp.ones(half), jnp.broadcast_to(diameter, self.discs - half)])
        area = jnp.sum(jnp.pi / 4 * diameters**2) / PACKING_FRACTION
        return Periodic(jnp.sqrt(area)), soft_sphere(epsilon=1.0, sigma=PerParticle(diameters), alpha=2.0)

    def pack(self, diameter: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The energy of one packing after its minimisation, `[]`, and the places of its discs in units of the box."""
        space, potential = self.system(diameter)
        positions = space.box * jax.random.uniform(key, (self.discs, 2))
        minimizer = FIRE(dt=0.1)
        state = minimizer.init(potential, space, positions)
        state, _ = rollout(functools.partial(minimizer.step, potential), state, self.steps, memory=MEMORY)
        return potential.energy(space, state.positions, state.pairs), state.positions / space.box

    def energy_at(self, diameter: jax.Array, places: jax.Array) -> jax.Array:
        """The energy of discs at given places in units of the box, `[]`."""
        space, potential = self.system(diameter)
        return potential.energy(space, places * space.box, AllPairs())

    def through(self, diameter: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Energies of packings and their derivatives through the minimisation, each `[packings]`."""
        (energies, _), slopes = jax.vmap(jax.value_and_grad(self.pack, has_aux=True), (None, 0))(diameter, keys)
        return energies, slopes

    def at_rest(self, diameter: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Energies of packings and their derivatives at fixed places, each `[packings]`."""
        energies, places = jax.vmap(self.pack, (None, 0))(diameter, keys)
        return energies, jax.vmap(jax.grad(self.energy_at), (None, 0))(diameter, places)


def curve(experiment: Experiment, diameters: np.ndarray, keys: jax.Array) -> list[dict[str, float]]:
    """Energy, standard error and derivatives at each diameter."""
    through, at_rest = jax.jit(experiment.through), jax.jit(experiment.at_rest)
    rows = []
    for diameter in diameters:
        d = jnp.float32(diameter)
        start = time.process_time()
        energies, slopes = map(np.asarray, through(d, keys))
        seconds = time.process_time() - start
        rest = np.asarray(at_rest(d, keys)[1])
        root = np.sqrt(len(keys))
        row = {
            "diameter": float(diameter),
            "energy": float(energies.mean()),
            "error": float(energies.std(ddof=1) / root),
            "through_mean": float(slopes.mean()),
            "through_median": float(np.median(slopes)),
            "at_rest": float(rest.mean()),
            "at_rest_error": float(rest.std(ddof=1) / root),
            "seconds": seconds,
        }
        rows.append(row)
        print(
            "D = {diameter:.2f}: energy {energy:.4f} ± {error:.4f}; derivative at rest {at_rest:+.3f} ±"
            " {at_rest_error:.3f}, through FIRE {through_median:+.3f} (median), {through_mean:+.3g} (mean)".format(
                **row
            ),
            flush=True,
        )
    return rows


def check(experiment: Experiment, diameters: np.ndarray, keys: jax.Array) -> list[dict[str, float]]:
    """Derivatives through the minimisation beside central differences, packing by packing, in float64."""
    h = 1e-9
    with jax.enable_x64(True):
        through = jax.jit(experiment.through)
        energies = jax.jit(jax.vmap(experiment.pack, (None, 0)))
        rows = []
        for diameter in map(jnp.float64, diameters):
            slopes = np.asarray(through(diameter, keys)[1])
            above, below = (np.asarray(energies(diameter + side * h, keys)[0]) for side in (1, -1))
            for slope, difference in zip(slopes, (above - below) / (2 * h), strict=True):
                rows.append({"diameter": float(diameter), "derivative": float(slope), "difference": float(difference)})
    return rows


def ascend(experiment: Experiment, starts: int, updates: int, packings: int) -> dict[str, Any]:
    """Gradient ascent by Adam from diameters all over the range, all at once, with fresh packings at each update."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, updates))
    found = {}
    for name in ("through", "at_rest"):
        slopes_of = getattr(experiment, name)

        @jax.jit
        def update(diameters, memory, key, slopes_of=slopes_of):
            keys = jax.random.split(key, (starts, packings))
            energies, slopes = jax.vmap(slopes_of)(diameters, keys)
            slope = jnp.mean(jnp.clip(slopes, -CLIP, CLIP), axis=1)
            changes, memory = optimizer.update(-slope, memory)
            return jnp.clip(diameters + changes, 0.3, 1.0), memory, jnp.mean(energies, axis=1)

        diameters = jnp.linspace(0.4, 1.0, starts)
        memory, path, energies = optimizer.init(diameters), [np.asarray(diameters)], []
        for key in tqdm(jax.random.split(jax.random.key(1), updates), desc=f"ascent, {name}", unit="update"):
            diameters, memory, now = update(diameters, memory, key)
            path.append(np.asarray(diameters))
            energies.append(np.asarray(now))
        found[name] = {"diameters": np.stack(path).tolist(), "energies": np.stack(energies).tolist()}
    return found


def draw(path: pathlib.Path, rows: list[dict[str, float]], ascent: dict[str, Any]) -> None:
    """The curve with its tangents, and the paths of the ascents."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    diameter, energy, error, slope = (
        np.array([row[k] for row in rows]) for k in ("diameter", "energy", "error", "at_rest")
    )
    left.fill_between(diameter, energy - error, energy + error, color="#88bbee", alpha=0.5, lw=0)
    left.plot(diameter, energy, "o", color="#2266aa", ms=4, label="mean energy of packings")
    reach = 0.4 * (diameter[1] - diameter[0])
    for d, e, s in zip(diameter, energy, slope, strict=True):
        left.plot([d - reach, d + reach], [e - reach * s, e + reach * s], color="#dd7722", lw=1.5)
    left.plot([], [], color="#dd7722", label="its derivative")
    left.set(xlabel="diameter D", ylabel="energy")
    left.legend(frameon=False)
    for name, color, label in (("through", "#2266aa", "through FIRE"), ("at_rest", "#dd7722", "at the minimum")):
        lines = right.plot(np.array(ascent[name]["diameters"]), color=color, lw=1)
        lines[0].set_label(label)
    right.set(xlabel="update", ylabel="diameter D", title="gradient ascent")
    right.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def targets(rows, checked, ascent, *, quick: bool) -> list[harness.Target]:
    """What is to be reached."""
    differing = [abs(c["derivative"] - c["difference"]) / max(1.0, abs(c["difference"])) for c in checked]
    reached = [harness.Target("derivative through FIRE against differences, relative", max(differing), at_most=1e-3)]
    if quick:
        return reached
    by_diameter = {round(row["diameter"], 6): row for row in rows}
    for diameter, published in PUBLISHED.items():
        row = by_diameter[diameter]
        away = abs(row["energy"] - published)
        allowed = READING + 2 * row["error"]
        reached.append(harness.Target(f"energy at D = {diameter}, away from {published}", away, at_most=allowed))
    best = max(rows, key=lambda row: row["energy"])["diameter"]
    for name, label in (("through", "through FIRE"), ("at_rest", "at rest")):
        away = np.median(np.abs(np.array(ascent[name]["diameters"][-1]) - best))
        reached.append(harness.Target(f"ascent {label}, away from the best of the scan", float(away), at_most=0.05))
    return reached


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    experiment = Experiment(16, 30) if options.quick else Experiment()
    packings, starts, updates = (4, 2, 3) if options.quick else (options.packings, options.starts, 40)
    keys = jax.random.split(jax.random.key(0), packings)
    diameters = np.linspace(0.4, 1.0, 3 if options.quick else 13)
    rows = curve(experiment, diameters, keys)
    checked = check(experiment, diameters[1:-1:4], keys[:3])
    ascent = ascend(experiment, starts, updates, max(2, packings // 4))
    for name, path in ascent.items():
        print(f"ascent, {name}: D = {np.round(path['diameters'][-1], 3).tolist()}")
    print(f"value and derivative through FIRE, {packings} packings: {np.median([r['seconds'] for r in rows]):.2f} s")
    reached = targets(rows, checked, ascent, quick=options.quick)
    harness.print_table(harness.TARGET_HEADER, [target.row() for target in reached])
    path = options.json or (None if options.quick else harness.RESULTS / "packing.json")
    if path is not None:
        record = {"benchmark": "packing", "quick": options.quick, "machine": machine, **dataclasses.asdict(experiment)}
        record |= {"packings": packings, "curve": rows, "checked": checked, "ascent": ascent}
        harness.write_json(path, record | {"targets": [target.record() for target in reached]})
        draw(path.with_suffix(".png"), rows, ascent)


if __name__ == "__main__":
    main(tyro.cli(Options))
