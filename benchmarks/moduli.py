"""Packings of prescribed shear modulus or Poisson's ratio: the implicit gradient beside CMA-ES and random search.

    python -m benchmarks.moduli [--quick] [--json PATH]

Soft discs (exponent 5/2) in a periodic square of area n, packing fraction 0.95. The design are the diameters of all
discs, between 0.7 and 1.3 times a common one, n numbers. Each of 64 starts has diameters of its own, drawn at random,
and a packing of its own, minimised for these from random places. A design is judged by minimising that packing anew for
its diameters, and by the modulus A of the minimum: the relative distance |A - A*| / |A*| to the target. All starts run
in one program, and all methods get the same starts and the same function of the diameters:

- gradient: Newton's step towards A(u) = A* along the gradient, at most 1 long (in units of u, see
  `dmdenv.search.domain`). The gradient is the implicit one: by the reverse derivative of the modulus, by one solve with
  the Hessian for the motion of the minimum.
- CMA-ES of `dmdenv.search`, its mean at first the diameters of the start; for each target that of two first step sizes
  is shown whose median is better.
- random: independent diameters, uniform between the bounds.

Methods are compared at equal numbers of force evaluations, counted for each start: one for a step of FIRE, two for a
product of the Hessian with a vector in conjugate gradients. What is left of the elasticity's derivatives by strain and
positions, a fixed number, counts as two for each, and as four times that with the reverse derivative.

Reference: Zu and Goodrich, Commun. Mater. 5 (2024), doi:10.1038/s43246-024-00583-4, who design disordered solids of
prescribed Poisson's ratio by derivatives, of the interactions between species in place of each disc's diameter.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks import harness
from dmdenv.differentiation import implicit
from dmdenv.minimizers import FIRE, minimize
from dmdenv.neighbors import AllPairs
from dmdenv.potentials import PairPotential, PerParticle, pair_potential
from dmdenv.quantities import Elasticity, elasticity
from dmdenv.search import cmaes
from dmdenv.search.domain import Domain, make_domain
from dmdenv.space import Periodic

PACKING_FRACTION = 0.95
BOUNDS = (0.7, 1.3)  # of the diameters, in units of a common one
LINEAR_TOLERANCE = 1e-9
LONGEST_STEP = 1.0  # of the gradient's, in units of u
SPREADS = (0.3, 1.0)  # first step sizes of CMA-ES, in units of u
STRAINS = 3  # in 2-D
DERIVATIVES = 2 * 3 * STRAINS  # force evaluations of an elasticity besides conjugate gradients: Born, Xi, residual
NEAR = 0.01  # a design has reached its target
TARGETS = {"shear_modulus": (0.03, 0.06), "poisson_ratio": (0.75, 0.5)}
METHODS = ("gradient", "cmaes", "random")


@dataclasses.dataclass(frozen=True)
class Options:
    """Diameters of discs for a wanted shear modulus or Poisson's ratio, at equal force evaluations."""

    quick: Annotated[bool, tyro.conf.arg(help="4 starts of 8 discs: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="where to write results, with a figure beside; by default results/, nowhere with --quick"),
    ] = None
    discs: Annotated[int, tyro.conf.arg(help="in a packing")] = 16
    starts: Annotated[int, tyro.conf.arg(help="side by side")] = 64
    budget: Annotated[int, tyro.conf.arg(help="force evaluations per start")] = 30_000


def hertzian(r: jax.Array, *, sigma: jax.Array) -> jax.Array:
    """`soft_sphere` with the exponent 5/2 for r < sigma, by a square root, which takes half the time of a power."""
    overlap = 1.0 - r / sigma
    apart = overlap <= 0
    positive = jnp.where(apart, 1.0, overlap)
    return jnp.where(apart, 0.0, 0.4 * positive**2 * jnp.sqrt(positive))


class Found(NamedTuple):
    """A packing and one of its moduli."""

    value: jax.Array  # float [], unit energy / length^2, or none; NaN where no minimum was found
    cost: jax.Array  # int32 [], force evaluations
    positions: jax.Array  # [n, 2], unit length


@dataclasses.dataclass(frozen=True)
class Design:
    """Packings of n discs as functions of u, `[n]`: their diameters without bounds."""

    discs: int = 16
    max_steps: int = 2000  # of FIRE
    force_tolerance: float = 1e-8

    @functools.cached_property
    def domain(self) -> Domain:
        return make_domain(np.ones(self.discs), BOUNDS, spread=1.0)

    @property
    def space(self) -> Periodic:
        return Periodic(jnp.asarray(float(np.sqrt(self.discs))))

    def potential(self, u: jax.Array) -> PairPotential:
        """The discs, of area 0.95 n together."""
        diameters = self.domain.params(u)
        area = jnp.pi / 4 * jnp.sum(diameters**2)
        sigma = PerParticle(diameters * jnp.sqrt(PACKING_FRACTION * self.discs / area))
        return pair_potential(hertzian, cutoff=1.0, cutoff_unit="sigma", sigma=sigma)

    def relax(self, u: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The minimum that FIRE finds from places `[n, 2]`, its steps, and whether it is one; not differentiated."""
        potential, fire = jax.lax.stop_gradient(self.potential(u)), FIRE(dt=0.1)
        state = fire.init(potential, self.space, places)
        found = minimize(fire, potential, state, tolerance=self.force_tolerance, max_steps=self.max_steps)
        return found.state.positions, found.steps, found.converged

    def energy(self, u: jax.Array, x: jax.Array) -> jax.Array:
        return self.potential(u).energy(self.space, x, AllPairs())

    def elasticity(self, u: jax.Array, x: jax.Array) -> Elasticity:
        return elasticity(self.potential(u), self.space, x, AllPairs(), tolerance=LINEAR_TOLERANCE)

    def modulus(self, shear: jax.Array, u: jax.Array, x: jax.Array) -> tuple[jax.Array, Elasticity]:
        """The shear modulus, or Poisson's ratio, at given positions."""
        found = self.elasticity(u, x)
        return jnp.where(shear, found.shear_modulus, found.poisson_ratio), found

    def evaluate(self, u: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array, Found]:
        """Both moduli of the packing that a start relaxes to; the first two are (shear modulus, Poisson's ratio)."""
        x, steps, is_minimum = self.relax(u, start)
        found = self.elasticity(u, x)
        solved = is_minimum & (found.residual <= 10 * LINEAR_TOLERANCE)
        cost = steps + 2 * found.products + DERIVATIVES
        G, nu = (jnp.where(solved, value, jnp.nan) for value in (found.shear_modulus, found.poisson_ratio))
        return G, nu, Found(G, cost, x)

    def value_and_gradient(self, shear: jax.Array, u: jax.Array, start: jax.Array) -> tuple[Found, jax.Array]:
        """A modulus and its gradient by u, in which the response of the minimum is solved for once.

        The same as `jax.grad` of `modulus` at `implicit.minimum(...)`, written out to count what it costs.
        """
        x, steps, is_minimum = self.relax(u, start)
        (value, found), (by_u, by_x) = jax.value_and_grad(self.modulus, argnums=(1, 2), has_aux=True)(shear, u, x)
        response = implicit.response(functools.partial(self.energy, u), x, by_x, tolerance=LINEAR_TOLERANCE)

        def work(u: jax.Array) -> jax.Array:
            return jnp.vdot(jax.grad(self.energy, argnums=1)(u, x), jax.lax.stop_gradient(response.displacement))

        gradient: jax.Array = by_u - jax.grad(work)(u)
        solved = is_minimum & (found.residual <= 10 * LINEAR_TOLERANCE)
        cost = steps + 2 * (found.products + response.products) + 4 * DERIVATIVES + 4
        shown: jax.Array = jnp.where(solved, jnp.asarray(value), jnp.nan)
        return Found(shown, cost, x), jnp.where(response.converged, gradient, jnp.nan)


# --- methods: each returns errors and costs of all points, [evaluations, starts] --------------------------------------


class Record(NamedTuple):
    """Points in the order in which a method evaluated them."""

    errors: np.ndarray  # [evaluations, starts], |A - A*| / |A*|; infinite where there is none
    costs: np.ndarray  # [evaluations, starts], force evaluations up to this one

    def best_at(self, budget: float) -> np.ndarray:
        """The least error of each start within a budget, `[starts]`; infinite before the first."""
        return np.min(np.where(self.costs <= budget, self.errors, np.inf), axis=0)

    def cost_to(self, error: float) -> np.ndarray:
        """Force evaluations of each start until an error is reached, `[starts]`; infinite where it never is."""
        return np.min(np.where(self.errors <= error, self.costs, np.inf), axis=0)


def relative_error(value: jax.Array | np.ndarray, target: float) -> np.ndarray:
    error = np.abs(np.asarray(value) - target) / abs(target)
    return np.where(np.isfinite(error), error, np.inf)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Starts, and the compiled functions of all of them."""

    design: Design
    u: jax.Array  # [starts, n]
    packings: jax.Array  # [starts, n, 2]
    budget: int

    @classmethod
    def prepare(cls, design: Design, starts: int, budget: int, key: jax.Array) -> "Comparison":
        draw_key, place_key = jax.random.split(key)
        u = design.domain.draw(draw_key, starts)
        places = design.space.box * jax.random.uniform(place_key, (starts, design.discs, 2))
        packings, *_ = jax.jit(jax.vmap(design.relax))(u, places)
        return cls(design, u, packings, budget)

    @functools.cached_property
    def evaluate(self) -> Any:
        """Both moduli and the cost of points `[starts, points, n]`, each `[starts, points]`."""

        def values(u: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            G, nu, found = self.design.evaluate(u, start)
            return G, nu, found.cost

        return jax.jit(jax.vmap(jax.vmap(values, (0, None))))

    @functools.cached_property
    def differentiate(self) -> Any:
        return jax.jit(jax.vmap(self.design.value_and_gradient, (None, 0, 0)))

    @property
    def population(self) -> int:
        return cmaes.default_population(self.design.discs)

    def by_gradient(self, name: str, target: float, key: jax.Array) -> tuple[Record, jax.Array]:
        """Newton's steps; where there is no gradient, a start goes on from a random point. Also the best u."""
        optimizer = optax.chain(  # twice Polyak's step down the square of a distance is Newton's to its zero
            optax.scale_by_polyak(max_learning_rate=1e6), optax.scale(-2.0), optax.clip_by_global_norm(LONGEST_STEP)
        )

        @jax.jit
        @jax.vmap
        def move(u, value, gradient, fresh):
            miss = value / target - 1.0
            changes, _ = optimizer.update(2 * miss * gradient / target, optimizer.init(u), u, value=miss**2)
            moved = u + changes
            return jnp.where(jnp.all(jnp.isfinite(moved)), moved, fresh)

        u, errors, costs, spent = self.u, [], [], np.zeros(len(self.u))
        best, best_error = self.u, np.full(len(self.u), np.inf)
        shear = jnp.asarray(name == "shear_modulus")
        while np.min(spent) < self.budget:
            found, gradient = self.differentiate(shear, u, self.packings)
            spent = spent + np.asarray(found.cost)
            errors.append(relative_error(found.value, target))
            costs.append(spent)
            best = jnp.where((errors[-1] < best_error)[:, None], u, best)
            best_error = np.minimum(errors[-1], best_error)
            key, fresh_key = jax.random.split(key)
            u = move(u, found.value, gradient, self.design.domain.draw(fresh_key, len(u)))
        return Record(np.stack(errors), np.stack(costs)), best

    def by_cmaes(self, name: str, target: float, key: jax.Array, spread: float) -> Record:
        """Generations of CMA-ES, the mean of the first one at each start."""
        draw = jax.jit(jax.vmap(functools.partial(cmaes.draw, population=self.population)))
        learn = jax.jit(jax.vmap(cmaes.learn))
        state = jax.vmap(lambda u: cmaes.Distribution.around(u, spread))(self.u)
        errors, costs, spent = [], [], np.zeros(len(self.u))
        while np.min(spent) < self.budget:
            key, draw_key = jax.random.split(key)
            generation = draw(jax.random.split(draw_key, len(self.u)), state)
            G, nu, cost = self.evaluate(generation.points, self.packings)
            error = relative_error(G if name == "shear_modulus" else nu, target)
            state, _ = learn(state, generation, error)
            errors.append(error.T)
            costs.append(spent + np.cumsum(cost, axis=1).T)
            spent = costs[-1][-1]
        return Record(np.concatenate(errors), np.concatenate(costs))

    def at_random(self, key: jax.Array) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Moduli of random diameters by name, and the force evaluations so far, each `[evaluations, starts]`."""
        values: dict[str, list] = {name: [] for name in TARGETS}
        costs, spent = [], np.zeros(len(self.u))
        while np.min(spent) < self.budget:
            key, draw_key = jax.random.split(key)
            u = self.design.domain.draw(draw_key, len(self.u) * self.population)
            u = u.reshape(len(self.u), self.population, -1)
            if not costs:
                u = u.at[:, 0].set(self.u)
            G, nu, cost = self.evaluate(u, self.packings)
            values["shear_modulus"].append(np.asarray(G).T)
            values["poisson_ratio"].append(np.asarray(nu).T)
            costs.append(spent + np.cumsum(cost, axis=1).T)
            spent = costs[-1][-1]
        return {name: np.concatenate(column) for name, column in values.items()}, np.concatenate(costs)


# --- results ----------------------------------------------------------------------------------------------------------


def summarise(record: Record, budgets: np.ndarray) -> dict[str, Any]:
    """What JSON keeps of a method: medians and quartiles of the best so far; None for what is infinite."""

    def finite(x: float) -> float | None:
        return float(x) if np.isfinite(x) else None

    with np.errstate(invalid="ignore"):
        quartiles = np.array(
            [np.quantile(record.best_at(budget), [0.25, 0.5, 0.75], method="higher") for budget in budgets]
        )
    last, cost = record.best_at(budgets[-1]), record.cost_to(NEAR)
    return {
        "median": [finite(x) for x in quartiles[:, 1]],
        "low": [finite(x) for x in quartiles[:, 0]],
        "high": [finite(x) for x in quartiles[:, 2]],
        "best": finite(np.min(last)),
        "reached": float(np.mean(last <= NEAR)),
        "cost_to_reach": finite(np.quantile(cost, 0.5, method="higher")),
        "evaluations": float(np.mean(np.sum(record.costs <= budgets[-1], axis=0))),
    }


def run(comparison: Comparison, key: jax.Array) -> list[dict[str, Any]]:
    """All methods on all targets, a row for each target."""
    random_key, gradient_key, cmaes_key = jax.random.split(key, 3)
    budgets = np.geomspace(comparison.budget / 100, comparison.budget, 60)
    values, costs = comparison.at_random(random_key)
    rows = []
    for name, targets in TARGETS.items():
        reference = values[name][np.isfinite(values[name])]
        for target in targets:
            record, _ = comparison.by_gradient(name, target, gradient_key)
            methods = {"gradient": summarise(record, budgets)}
            tried: list[dict[str, Any]] = [
                {**summarise(comparison.by_cmaes(name, target, cmaes_key, spread), budgets), "spread": spread}
                for spread in SPREADS
            ]
            methods["cmaes"] = min(tried, key=lambda one: np.inf if one["median"][-1] is None else one["median"][-1])
            methods["random"] = summarise(Record(relative_error(values[name], target), costs), budgets)
            rank = float(np.mean(reference < target))
            rows.append({"modulus": name, "target": target, "quantile": rank, "methods": methods})
            for method in METHODS:
                print("  ".join(cells(rows[-1], method)), flush=True)
    return [{**row, "budgets": budgets.tolist()} for row in rows]


HEADER = (
    "modulus",
    "target",
    "of random designs below",
    "method",
    "median error",
    "best of all starts",
    "within 1 %",
    "force evaluations to 1 %, median",
)


def cells(row: dict[str, Any], method: str) -> tuple[str, ...]:
    """A row of the table."""
    found = row["methods"][method]

    def number(x: float | None) -> str:
        return "-" if x is None else f"{x:.1e}"

    to_reach = found["cost_to_reach"]
    return (
        row["modulus"].replace("_", " "),
        f"{row['target']:g}",
        f"{100 * row['quantile']:.1f} %",
        method,
        number(found["median"][-1]),
        number(found["best"]),
        f"{100 * found['reached']:.0f} %",
        "not reached" if to_reach is None else f"{to_reach:,.0f}",
    )


def targets(rows: list[dict[str, Any]]) -> list[harness.Target]:
    """What is to be reached: a smaller median error than both others, and more starts that come near."""
    reached = []
    for row in rows:
        by_method = row["methods"]
        label = f"{row['modulus'].replace('_', ' ')} {row['target']:g}"
        mine = by_method["gradient"]["median"][-1]
        for other in METHODS[1:]:
            theirs = by_method[other]["median"][-1]
            ratio = None if not mine or theirs is None else theirs / mine
            reached.append(harness.Target(f"{label}: median error of {other} over gradient's", ratio, at_least=1.0))
        reached.append(
            harness.Target(f"{label}: starts within 1 % by gradient", by_method["gradient"]["reached"], at_least=0.5)
        )
    return reached


def draw(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """The median of the least error so far against force evaluations, and its quartiles."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(rows), figsize=(3.1 * len(rows), 3.2), sharey=True, layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        for method, color in zip(METHODS, ("#dd7722", "#2266aa", "#888888"), strict=True):
            found = row["methods"][method]
            median, low, high = (
                np.maximum([np.nan if x is None else x for x in found[key]], 1e-12) for key in ("median", "low", "high")
            )
            axis.plot(row["budgets"], median, color=color, label=method)
            axis.fill_between(row["budgets"], low, high, color=color, alpha=0.2, lw=0)
        axis.axhline(NEAR, color="black", lw=0.5, ls=":")
        axis.set(xscale="log", yscale="log", xlabel="force evaluations per start", ylim=(1e-9, 3))
        axis.set_title(f"{row['modulus'].replace('_', ' ')} {row['target']:g}", fontsize=10)
    axes[0].set_ylabel("relative distance to the target")
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    core = harness.pin_to_one_core()
    machine = harness.machine(core)
    harness.print_machine(machine)
    discs, starts, budget = (8, 4, 3_000) if options.quick else (options.discs, options.starts, options.budget)
    prepare_key, run_key = jax.random.split(jax.random.key(0))
    comparison = Comparison.prepare(Design(discs), starts, budget, prepare_key)
    rows = run(comparison, run_key)
    print()
    harness.print_table(HEADER, [cells(row, method) for row in rows for method in METHODS])
    reached = targets(rows)
    harness.print_table(harness.TARGET_HEADER, [target.row() for target in reached])
    path = options.json or (None if options.quick else harness.RESULTS / "moduli.json")
    if path is not None:
        record = {"benchmark": "moduli", "quick": options.quick, "machine": machine, "discs": discs, "starts": starts}
        harness.write_json(
            path, record | {"budget": budget, "rows": rows, "targets": [target.record() for target in reached]}
        )
        draw(path.with_suffix(".png"), rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
