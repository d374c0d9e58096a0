"""Our `ppo` beside that of rejax and of Stable-Baselines3, on the same tasks at equal environment steps.

    .venv-interop/bin/python -m benchmarks.ppo_peers [--quick] [--json PATH] [--tasks NAME ...]

The others train through our adapters, `dmdenv.envs.adapters.gymnax` and `.sb3`, twice:

- with their own settings: the defaults of their libraries. Stable-Baselines3's windows of 2048 steps of one environment
  are here 256 steps of each of 8.
- with our settings: those that `agents/settings.py` has for our `ppo`, as far as there are such options. Batch, window,
  epochs, minibatches, learning rate and its decay, discount, GAE, clipping, network, initial deviation, normalised
  observations and rewards are then the same. What still differs: ours squashes actions by tanh, the others clip them;
  rejax clips gradients by element and takes a time limit for an end, the other two bootstrap there.

Each policy acts without noise, on the same 256 fresh episodes for all, through `dmdenv.agents.evaluate`. A cell is a
task, an agent, its settings and a seed; the results file is written after each of them, and cells that it has are not
trained again as long as our settings stay the same. Both libraries are in the extra `interop`; without one of them its
cells are left out.
"""

import dataclasses
import functools
import importlib.util
import json
import math
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.tree_util import Partial

import dmdenv
from benchmarks import harness
from dmdenv.agents import ppo
from dmdenv.agents.base import Policy
from dmdenv.agents.evaluate import Evaluation, evaluate
from dmdenv.agents.policies import zero_policy
from dmdenv.agents.settings import tuned_settings
from dmdenv.envs.base import Env

TASKS = (  # (environment, task): updates of our ppo, which fix the number of environment steps; None: the tuned ones
    ("trap_drag", "drag", None),
    ("bonded_chain", "reach", 150),
    ("lj_fluid", "drag", None),
)
SEEDS, EPISODES = 3, 256
REACHED = -0.02  # of the way from zero actions to the best: how far ours may stay behind the better of the others
PEERS = {"rejax": "rejax", "SB3": "stable_baselines3"}  # name: module
AGENTS = (
    ("ours", "ours"),
    ("rejax", "ours"),
    ("SB3", "ours"),
    ("rejax", "its own"),
    ("SB3", "its own"),
)  # (agent, settings)


# --- training: each returns a policy, a pytree that is a function of key and observation ------------------------------


@functools.cache
def our_program(env: Env, config: ppo.Config) -> Callable[[jax.Array], Policy]:
    """Training, from a key to a policy."""
    return jax.jit(lambda key: ppo.policy(env, config, ppo.train(env, config, key)[0]))


def train_ours(env: Env, config: ppo.Config, seed: int, own: bool) -> Policy:
    """Ours."""
    return our_program(env, config)(jax.random.key(seed))


@functools.cache
def rejax_program(env: Env, config: ppo.Config, own: bool) -> Callable[[jax.Array], tuple[Policy, jax.Array]]:
    """Training by rejax, from a key to a policy and the number of environment steps; `own`: with its defaults."""
    import optax
    import rejax  # pyright: ignore[reportMissingImports] - an extra

    from dmdenv.envs.adapters.gymnax import make

    adapted, params = make(env, step_values=5)
    settings: dict[str, Any] = {}
    if not own:
        steps = config.updates * config.epochs * config.minibatches
        settings = {
            "num_envs": config.num_envs,
            "num_steps": config.window,
            "num_epochs": config.epochs,
            "num_minibatches": config.minibatches,
            "learning_rate": optax.cosine_decay_schedule(config.learning_rate, steps),
            "max_grad_norm": config.max_gradient_norm,
            "gamma": config.discount,
            "gae_lambda": config.gae_lambda,
            "clip_eps": config.clip,
            "vf_coef": config.value_weight,
            "ent_coef": config.entropy_weight,
            "normalize_observations": True,
            "normalize_rewards": True,
            "reward_normalization_discount": config.discount,
            "agent_kwargs": {"activation": "tanh", "hidden_layer_sizes": config.hidden},
        }
    total = config.updates * config.steps_per_update
    agent = rejax.PPO.create(
        env=adapted,
        env_params=params,
        total_timesteps=total,
        eval_freq=total,
        skip_initial_evaluation=True,
        **settings,
    ).replace(eval_callback=lambda agent, state, key: ())

    def act(weights, seen, key, observation):
        if agent.normalize_observations:
            observation = agent.normalize_obs(seen, observation)
        actions = agent.actor.apply(weights, observation[None], method="_action_dist").mean()
        return jnp.clip(actions[0], -1.0, 1.0)

    @jax.jit
    def train(key):
        state = agent.init_state(key)
        if not own:
            weights = state.actor_ts.params["params"]
            deviations = jnp.full_like(weights["action_log_std"], math.log(config.deviation))
            changed = {"params": {**weights, "action_log_std": deviations}}
            state = state.replace(actor_ts=state.actor_ts.replace(params=changed))
        state = agent.train(train_state=state)[0]
        return Partial(act, state.actor_ts.params, state.obs_rms_state), state.global_step

    return train


def train_rejax(env: Env, config: ppo.Config, seed: int, own: bool) -> Policy:
    """That of rejax; `own`: with its defaults."""
    policy, steps = rejax_program(env, config, own)(jax.random.key(seed))
    check_steps("rejax", int(steps), config)
    return policy


def train_sb3(env: Env, config: ppo.Config, seed: int, own: bool) -> Policy:
    """That of Stable-Baselines3; `own`: with its defaults."""
    import torch  # pyright: ignore[reportMissingImports] - an extra, as the next two
    from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env import VecNormalize  # pyright: ignore[reportMissingImports]

    from dmdenv.envs.adapters.sb3 import SB3VecEnv

    torch.set_num_threads(1)  # its threads and XLA's hinder each other
    if own:
        envs, settings = SB3VecEnv(env, 8), {"n_steps": 256}
    else:
        envs = VecNormalize(SB3VecEnv(env, config.num_envs), gamma=config.discount)
        settings = {
            "n_steps": config.window,
            "batch_size": config.steps_per_update // config.minibatches,
            "n_epochs": config.epochs,
            "learning_rate": lambda left: 0.5 * config.learning_rate * (1.0 - math.cos(math.pi * left)),
            "max_grad_norm": config.max_gradient_norm,
            "gamma": config.discount,
            "gae_lambda": config.gae_lambda,
            "clip_range": config.clip,
            "vf_coef": config.value_weight,
            "ent_coef": config.entropy_weight,
            "policy_kwargs": {"net_arch": list(config.hidden), "log_std_init": math.log(config.deviation)},
        }
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **settings)
    model.learn(config.updates * config.steps_per_update)
    check_steps("Stable-Baselines3", model.num_timesteps, config)
    return policy_of_sb3(model, None if own else envs)


def policy_of_sb3(model: Any, normalizer: Any) -> Policy:
    """The mean action of a perceptron of torch as a function of JAX; the same numbers as `model.predict`."""
    layers = [layer for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
    weights = [
        tuple(jnp.asarray(x.detach().numpy()) for x in (layer.weight, layer.bias))
        for layer in (*layers, model.policy.action_net)
    ]
    mean, deviation, most = 0.0, 1.0, math.inf
    if normalizer is not None:
        mean, most = normalizer.obs_rms.mean, normalizer.clip_obs
        deviation = np.sqrt(normalizer.obs_rms.var + normalizer.epsilon)
    return Partial(_perceptron, weights, *(jnp.asarray(x, jnp.float32) for x in (mean, deviation, most)))


def _perceptron(weights, mean, deviation, most, key, observation):
    x = jnp.clip((observation - mean) / deviation, -most, most)
    *hidden, (last, bias) = weights
    for weight, shift in hidden:
        x = jnp.tanh(x @ weight.T + shift)
    return jnp.clip(x @ last.T + bias, -1.0, 1.0)


def check_steps(name: str, steps: int, config: ppo.Config) -> None:
    """Refuse a training of another length than ours."""
    total = config.updates * config.steps_per_update
    if steps != total:
        raise RuntimeError(f"{name} took {steps} environment steps instead of {total}; must be a multiple of its batch")


TRAIN: dict[str, Callable[[Env, ppo.Config, int, bool], Policy]] = {
    "ours": train_ours,
    "rejax": train_rejax,
    "SB3": train_sb3,
}


# --- cells ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 3))
def _evaluate(env: Env, policy: Policy, key: jax.Array, episodes: int) -> Evaluation:
    return evaluate(env, policy, key, episodes=episodes)


def mean_return(env: Env, policy: Policy, episodes: int) -> tuple[float, float]:
    """Mean and standard error of the return in fresh episodes, which are the same for every policy."""
    found = _evaluate(env, policy, jax.random.key(10_000), episodes)
    if found.overflow or np.any(np.asarray(found.metrics["nonfinite"])):
        raise RuntimeError("a capacity overflowed or a number was not finite in the evaluation")
    returns = np.asarray(found.returns, float)
    return float(returns.mean()), float(returns.std(ddof=1) / math.sqrt(episodes))


def config_of(id: str, task: str, updates: int | None) -> ppo.Config:
    """Our settings of a task, with another number of updates where one is given."""
    config = ppo.Config(**tuned_settings(id, task, "ppo"))
    return config if updates is None else dataclasses.replace(config, updates=updates)


def describe(id: str, task: str, agent: str, settings: str, seed: int, config: ppo.Config) -> dict[str, Any]:
    """What a cell measures; `config` are our settings, from which those of the others follow."""
    steps = config.updates * config.steps_per_update
    cell = {"env": id, "task": task, "agent": agent, "settings": settings, "seed": seed, "environment_steps": steps}
    return cell if settings == "its own" else {**cell, "config": json.loads(json.dumps(dataclasses.asdict(config)))}


def measure(
    id: str, task: str, agent: str, settings: str, seed: int, config: ppo.Config, episodes: int
) -> dict[str, Any]:
    """One cell: train, and evaluate.

    Args:
        id: of the environment.
        task: of the environment.
        agent: "ours", "rejax" or "SB3".
        settings: "ours" or "its own".
        seed: of the training.
        config: our settings; also fix the number of environment steps of all.
        episodes: of the evaluation.
    """
    env = dmdenv.make_env(id, task=task)
    policy = TRAIN[agent](env, config, seed, settings == "its own")
    score, error = mean_return(env, policy, episodes)
    return {**describe(id, task, agent, settings, seed, config), "return": score, "standard_error": error}


# --- report -----------------------------------------------------------------------------------------------------------

HEADER = ("task", "environment steps", "zero", *(f"{agent}, {settings} settings" for agent, settings in AGENTS))


def returns_of(cells: list[dict[str, Any]], id: str, task: str, agent: str, settings: str) -> list[float]:
    wanted = {"env": id, "task": task, "agent": agent, "settings": settings}
    return [cell["return"] for cell in cells if wanted.items() <= cell.items()]


def row(cells: list[dict[str, Any]], zero: float, id: str, task: str) -> list[str]:
    """The median over seeds, and the range."""
    steps = next(cell["environment_steps"] for cell in cells if (cell["env"], cell["task"]) == (id, task))
    found = [sorted(returns_of(cells, id, task, *agent)) for agent in AGENTS]
    spans = [f"{np.median(x):.4g} ({x[0]:.4g} to {x[-1]:.4g})" if x else "-" for x in found]
    return [f"{id} {task}", f"{steps:,}", f"{zero:.4g}", *spans]


def target(cells: list[dict[str, Any]], zero: float, id: str, task: str) -> harness.Target:
    """How far ours is ahead of the best of the others, over the way from zero actions to the best of all."""
    medians = {agent: np.median(x) for agent in AGENTS if (x := returns_of(cells, id, task, *agent))}
    others = [median for (agent, _), median in medians.items() if agent != "ours"]
    value = None
    if others and ("ours", "ours") in medians:
        ours, best = medians["ours", "ours"], max(others)
        value = float((ours - best) / (max(ours, best) - zero))
    return harness.Target(f"{id} {task}: ours ahead of the best of the others, relative", value, at_least=REACHED)


@dataclasses.dataclass(frozen=True)
class Options:
    """Our ppo beside that of rejax and of Stable-Baselines3."""

    quick: Annotated[bool, tyro.conf.arg(help="eight updates, one seed, one task: shows that it runs")] = False
    json: Annotated[
        pathlib.Path | None,
        tyro.conf.arg(help="results, which are taken up again; by default in results/, and nowhere with --quick"),
    ] = None
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help="ENV/TASK ...; all of them by default")] = tuple(
        f"{id}/{task}" for id, task, _ in TASKS
    )


def main(options: Options) -> None:
    jax.config.update("jax_platforms", "cpu")
    known = [f"{id}/{task}" for id, task, _ in TASKS]
    if unknown := sorted(set(options.tasks) - set(known)):
        raise SystemExit(f"--tasks {unknown[0]}: must be of {', '.join(known)}")
    tasks = [task for task in TASKS if f"{task[0]}/{task[1]}" in options.tasks]
    seeds, episodes = SEEDS, EPISODES
    if options.quick:
        tasks, seeds, episodes = [(*task[:2], 8) for task in tasks[:1]], 1, 4
    path = options.json or (None if options.quick else harness.RESULTS / "ppo_peers.json")
    cells = json.loads(path.read_text())["cells"] if path is not None and path.exists() else []
    wanted = [  # agent by agent, those with our settings first: the others take longer
        describe(id, task, *agent, seed, config_of(id, task, updates))
        for agent in AGENTS
        for id, task, updates in (tasks if options.quick else TASKS)
        for seed in range(seeds)
    ]
    cells = [cell for cell in cells if any(new.items() <= cell.items() for new in wanted)]
    machine = harness.machine(None)
    harness.print_machine(machine)
    installed = ["ours", *(name for name, module in PEERS.items() if importlib.util.find_spec(module) is not None)]
    for new in wanted:
        id, task, agent = new["env"], new["task"], new["agent"]
        chosen = (id, task) in [task[:2] for task in tasks] and agent in installed
        if not chosen or any(new.items() <= cell.items() for cell in cells):
            continue
        config = config_of(id, task, next(updates for *name, updates in tasks if name == [id, task]))
        cells.append(measure(id, task, agent, new["settings"], new["seed"], config, episodes))
        print(*list(new.values())[:5], f"{cells[-1]['return']:.4g} ± {cells[-1]['standard_error']:.2g}", flush=True)
        if path is not None:
            harness.write_json(
                path, {"benchmark": "ppo_peers", "quick": options.quick, "machine": machine, "cells": cells}
            )
    zeros = {}
    for id, task, _ in tasks:
        env = dmdenv.make_env(id, task=task)
        zeros[id, task] = mean_return(env, Partial(zero_policy(env)), episodes)[0]
    harness.print_table(HEADER, [row(cells, zeros[id, task], id, task) for id, task, _ in tasks])
    harness.print_table(
        harness.TARGET_HEADER, [target(cells, zeros[id, task], id, task).row() for id, task, _ in tasks]
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
