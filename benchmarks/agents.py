"""Every task by every agent: what a gradient through the physics buys over reinforcement learning and evolution.

    python -m benchmarks.agents [--quick] [--tasks ID.TASK ...] [--agents NAME ...]

A cell is an agent on a task, with the settings of `dmdenv.agents.settings`: all seeds are trained in one program, and
their policies, without noise, play the same episodes as those of all other cells. Each cell is a file in
`results/agents/`; one that is there already, of the same settings, seeds and versions, is not measured again, so that
an interrupted run goes on where it stopped. `python -m benchmarks.agents_report` makes the table and the learning
curves of docs/agents.md from them.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.tree_util import Partial

import dmdenv
from benchmarks import harness
from dmdenv.agents.base import Agent, get_agent, registered_agents
from dmdenv.agents.evaluate import Evaluation, evaluate
from dmdenv.agents.policies import random_policy, zero_policy
from dmdenv.agents.runs.capacity import compute_within_capacity
from dmdenv.agents.settings import TUNED, tuned_settings
from dmdenv.envs.base import Env, Params

CELLS = harness.RESULTS / "agents"
TASKS = tuple(f"{id}.{task}" for id in dmdenv.registered_envs() for task in dmdenv.registered_tasks(id))
QUICK_TASKS = ("trap_drag.drag", "flocking.align", "bonded_chain.reach")
POINTS = 24  # of a learning curve
CURVE_EPISODES = 32  # for each of them
EPISODES = 256  # at the end
LAST = 64  # steps over which metrics are averaged
# where the same policies are played as well: order spreads from neighbour to neighbour, so that it takes longer
LARGER = {"flocking.align": ({"boids": 512}, {"max_steps": 4096})}
LARGER_EPISODES = 2
FLAGS: tuple[str, ...] = ("overflow", "nonfinite", "skipped")
EVALUATION_SEED = 2**31  # no seed of a training
REFERENCES, GRADIENTS = "references", "gradients"  # the cells of a task that are no agent's


@dataclasses.dataclass(frozen=True)
class Options:
    """Returns of every agent on every task, and what they took."""

    quick: Annotated[bool, tyro.conf.arg(help="three tasks; about ten minutes on two cores")] = False
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help="ID.TASK ...; by default all", metavar="ID.TASK ...")] = ()
    agents: Annotated[tuple[str, ...], tyro.conf.arg(help="NAME ...; by default all that fit", metavar="NAME ...")] = ()
    seeds: Annotated[int, tyro.conf.arg(help="trainings of each cell, in one program")] = 5
    processes: Annotated[int, tyro.conf.arg(help="cells measured side by side, each on a core of its own")] = 1
    folder: Annotated[pathlib.Path, tyro.conf.arg(help="where the cells are")] = CELLS


def main(options: Options) -> None:
    tasks = options.tasks or (QUICK_TASKS if options.quick else TASKS)
    for kind, given, known in (("--tasks", tasks, TASKS), ("--agents", options.agents, registered_agents())):
        for name in given:
            if name not in known:
                raise SystemExit(f"{kind} {name}: must be one of {', '.join(known)}")
    cells = [(task, cell, options) for task in tasks for cell in cells_of(task, options.agents)]
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in range(options.processes):
        cores.put(core)
    with context.Pool(options.processes, initializer=begin, initargs=(cores,)) as pool:
        pool.starmap(measure, cells, chunksize=1)


def cells_of(task: str, agents: Sequence[str]) -> list[str]:
    """The cells of a task: references, agents (of those given, if any) that fit, gradients."""
    id, _, name = task.partition(".")
    fit = [agent for agent in TUNED[id, name].settings if not agents or agent in agents]
    return [REFERENCES, *fit, GRADIENTS]


def begin(cores: Any) -> None:
    """Keep this process on a core of its own, where the system can; before its first computation."""
    jax.config.update("jax_platforms", "cpu")
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})


def measure(task: str, cell: str, options: Options) -> None:
    """Write a cell, unless it is there."""
    id, _, name = task.partition(".")
    env = dmdenv.make_env(id, task=name)
    config = agent_config(env, cell) if cell in registered_agents() else None
    recipe = {
        "task": task,
        "cell": cell,
        "settings": None if config is None else dataclasses.asdict(config),
        "seeds": options.seeds if config is not None else None,
        "episodes": EPISODES,
        "versions": {"dmdenv": dmdenv.__version__, "jax": jax.__version__},
    }
    recipe = json.loads(json.dumps(recipe))
    path = options.folder / f"{task}.{cell}.json"
    if path.exists() and json.loads(path.read_text())["recipe"] == recipe:
        return
    began = time.perf_counter()
    if config is not None:
        found = train_cell(env, get_agent(cell), config, options.seeds)
    else:
        found = {REFERENCES: reference_cell, GRADIENTS: gradient_cell}[cell](env)
    print(f"{task} {cell}: {time.perf_counter() - began:.0f} s, {summary(found)}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"recipe": recipe, "machine": harness.machine(None), **found}, indent=1) + "\n")
    os.replace(partial, path)
    jax.clear_caches()


def agent_config(env: Env, agent: str) -> Any:
    """The agent's tuned settings."""
    config = get_agent(agent).Config(**tuned_settings(env.id, env.task, agent))
    if getattr(config, "steps", 0) is None:
        config = dataclasses.replace(config, steps=int(env.default_params.max_steps))
    return config


def summary(found: dict[str, Any]) -> str:
    """One line of a cell."""
    if "policies" in found:
        return ", ".join(f"{name} {np.mean(returns):.4g}" for name, returns in found["policies"].items())
    return found["report"] if "report" in found else f"returns {', '.join(f'{r:.4g}' for r in found['returns'])}"


# --- cells ------------------------------------------------------------------------------------------------------------


def train_cell(env: Env, agent: Agent, config: Any, seeds: int) -> dict[str, Any]:
    """Train all seeds in one program; their returns at some updates, evenly spaced on a logarithmic scale.

    Wall times are those of the updates of all seeds together, without compilation and evaluation.
    """
    return compute_within_capacity(env, lambda env: _train(env, agent, config, seeds), lambda found: found["overflow"])[
        1
    ]


def _train(env: Env, agent: Agent, config: Any, seeds: int) -> dict[str, Any]:
    params = env.default_params
    updates = np.unique(np.geomspace(1, config.updates, POINTS).round().astype(int))

    @jax.jit
    def train(states: Any, count: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """Some updates of all seeds; how often flags were raised."""

        def update(_, carry):
            states, flags = carry
            states, metrics = jax.vmap(lambda state: agent.update(env, config, state, params=params))(states)
            return states, {name: flag + jnp.sum(metrics.get(name, 0.0)) for name, flag in flags.items()}

        return jax.lax.fori_loop(0, count, update, (states, {name: jnp.zeros(()) for name in FLAGS}))

    @jax.jit
    def play(states: Any) -> Evaluation:
        return jax.vmap(lambda state: play_episodes(env, agent.policy(env, config, state), params, CURVE_EPISODES))(
            states
        )

    @jax.jit
    def play_all(state: Any) -> Evaluation:
        return play_episodes(env, agent.policy(env, config, state), params, EPISODES)

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    states = jax.jit(jax.vmap(lambda key: agent.init(env, config, key, params=params)))(keys)
    began = time.perf_counter()
    compiled = train.lower(states, jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - began
    curve, flags, seconds = [_point(0, 0.0, play(states))], dict.fromkeys(FLAGS, 0.0), 0.0
    for before, now in zip((0, *updates), updates, strict=False):
        began = time.perf_counter()
        states, raised = jax.block_until_ready(compiled(states, jnp.int32(now - before)))
        seconds += time.perf_counter() - began
        flags = {name: flags[name] + float(raised[name]) for name in flags}
        if flags["overflow"]:
            return flags
        curve.append(_point(int(now), seconds, play(states)))
    each = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(seeds)]
    finals = [play_all(state) for state in each]
    larger: dict[str, Any] = {}
    if f"{env.id}.{env.task}" in LARGER:
        larger = {"larger": play_larger(env, lambda *_: [agent.policy(env, config, state) for state in each])}
    return {
        **flags,
        "overflow": max(final.overflow for final in finals),
        "steps_per_update": config.steps_per_update,
        "gradient_steps_per_update": getattr(config, "epochs", 1) * getattr(config, "minibatches", 1),
        "compile_seconds": compile_seconds,
        "curve": curve,
        "returns": [float(jnp.mean(final.returns)) for final in finals],
        "episodes": _rounded(np.mean([final.returns for final in finals], axis=0)),
        **larger,
    }


def play_larger(env: Env, policies_of: Callable[[Env, Params], Sequence[Any]]) -> dict[str, list[float]]:
    """What policies, which are pytrees, do in a larger environment: means over its last steps, of each policy."""
    sizes, changes = LARGER[f"{env.id}.{env.task}"]
    larger = dmdenv.make_env(str(env.id), task=env.task, **sizes)
    params = larger.default_params.replace(**changes)

    def play(env: Env) -> list[Evaluation]:
        played = jax.jit(lambda policy: play_episodes(env, policy, params, LARGER_EPISODES))
        return [played(policy) for policy in policies_of(env, params)]

    played = compute_within_capacity(larger, play, lambda found: max(float(each.overflow) for each in found))[1]
    finals = [each.final_means(LAST) for each in played]
    return {name: _rounded([jnp.mean(x[name]) for x in finals]) for name in finals[0] if name not in FLAGS}


def _point(updates: int, seconds: float, played: Evaluation) -> dict[str, Any]:
    finals = jax.vmap(lambda evaluation: evaluation.final_means(LAST))(played)
    return {
        "updates": updates,
        "seconds": round(seconds, 3),
        "returns": _rounded(jnp.mean(played.returns, axis=1)),
        "metrics": {name: _rounded(jnp.mean(values, axis=1)) for name, values in finals.items() if name not in FLAGS},
    }


def reference_cell(env: Env) -> dict[str, Any]:
    """Returns of the policies that need no training."""
    params = env.default_params
    policies = {"zero": zero_policy(env), "random": random_policy(env), **env.baselines(params)}

    def play(policy: Any) -> Callable[[Env], Evaluation]:
        return lambda env: jax.jit(lambda: play_episodes(env, policy, params, EPISODES))()

    played = {
        name: compute_within_capacity(env, play(policy), lambda found: found.overflow)[1]
        for name, policy in policies.items()
    }
    larger: dict[str, Any] = {}
    if f"{env.id}.{env.task}" in LARGER:

        def baselines(env: Env, params: Params) -> list[Partial]:
            return [Partial(policy) for policy in env.baselines(params).values()]

        larger = {"larger": play_larger(env, baselines)}
    return {"policies": {name: _rounded(found.returns) for name, found in played.items()}, **larger}


def gradient_cell(env: Env) -> dict[str, Any]:
    """Up to which horizon the gradient by the actions can be trusted, from actions of zero."""
    steps = int(env.default_params.max_steps)
    horizons = [2**k for k in range(steps.bit_length()) if 2**k < steps] + [steps]
    report = dmdenv.grad_report(env, jnp.zeros((steps, *env.action_shape)), horizons, instances=8, directions=4)
    numbers = {field.name: np.asarray(getattr(report, field.name)) for field in dataclasses.fields(report)}
    columns = {name: x.tolist() for name, x in numbers.items() if x.ndim == 1}
    finite = {name: [value if np.isfinite(value) else None for value in column] for name, column in columns.items()}
    return {"trusted": report.trusted, **finite, "report": f"trusted up to {report.trusted} of {steps} steps"}


def play_episodes(env: Env, policy: Any, params: Params, episodes: int) -> Evaluation:
    """The same new episodes for every policy."""
    key = jax.random.key(EVALUATION_SEED)
    return evaluate(env, policy, key, episodes=episodes, steps=int(params.max_steps), params=params)


def _rounded(values: Any) -> list[float]:
    return [float(f"{x:.6g}") for x in np.asarray(values, float)]


if __name__ == "__main__":
    main(tyro.cli(Options))
