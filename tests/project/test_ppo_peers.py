"""The comparison of our ppo with that of rejax and of Stable-Baselines3; the others only where they are installed."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import dmdenv
from benchmarks import ppo_peers

# the least training whose steps are a multiple of every batch; of the others' own settings, too
SMALL = dataclasses.replace(
    ppo_peers.config_of("trap_drag", "drag", 2), num_envs=64, window=32, epochs=1, minibatches=2, hidden=(8,)
)


def cells(**returns):
    """Cells of trap_drag with these returns, one seed each."""
    found = []
    for (agent, settings), score in zip(ppo_peers.AGENTS, returns.values(), strict=True):
        cell = ppo_peers.describe("trap_drag", "drag", agent, settings, 0, SMALL)
        found += [{**cell, "return": score, "standard_error": 0.1}] if score is not None else []
    return found


def test_ours_is_compared_with_the_better_of_the_others():
    found = cells(ours=-8.5, rejax=-9.0, sb3=-8.4, rejax_own=-10.0, sb3_own=None)
    target = ppo_peers.target(found, -12.4, "trap_drag", "drag")
    assert math.isclose(target.value, -0.1 / 4.0) and target.verdict == "falls short"
    assert ppo_peers.target(found[:2], -12.4, "trap_drag", "drag").verdict == "pass"
    assert ppo_peers.target(found[:1], -12.4, "trap_drag", "drag").verdict == "not measured"
    row = ppo_peers.row(found, -12.4, "trap_drag", "drag")
    assert len(row) == len(ppo_peers.HEADER) and row[-1] == "-"
    assert row[:3] == ["trap_drag drag", "4,096", "-12.4"]


def test_a_cell_is_known_by_our_settings_unless_it_has_its_own():
    other = dataclasses.replace(SMALL, learning_rate=1.0)
    for settings, same in (("ours", False), ("its own", True)):
        described = [ppo_peers.describe("trap_drag", "drag", "SB3", settings, 0, config) for config in (SMALL, other)]
        assert (described[0] == described[1]) is same
    assert ppo_peers.config_of("bonded_chain", "reach", 3).updates == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # rejax and what it imports warn
@pytest.mark.parametrize(("agent", "settings"), ppo_peers.AGENTS)
def test_every_agent_is_trained_and_evaluated(agent, settings):
    if agent in ppo_peers.PEERS:
        pytest.importorskip(ppo_peers.PEERS[agent])
    with jax.numpy_rank_promotion("allow"):
        cell = ppo_peers.measure("trap_drag", "drag", agent, settings, 0, SMALL, episodes=4)
    assert cell["environment_steps"] == 4096
    assert -30 < cell["return"] < -7 and cell["standard_error"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalized", [True, False])
def test_a_policy_of_torch_acts_in_jax_as_it_does_there(normalized):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import VecNormalize

    from dmdenv.envs.adapters.sb3 import SB3VecEnv

    envs = VecNormalize(SB3VecEnv(dmdenv.make_env("trap_drag", particles=4), 8))
    model = stable_baselines3.PPO("MlpPolicy", envs, n_steps=32, batch_size=128, n_epochs=1, seed=0, device="cpu")
    model.learn(256)
    policy = ppo_peers.policy_of_sb3(model, envs if normalized else None)
    for observation in np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32):
        seen = envs.normalize_obs(observation) if normalized else observation
        expected, _ = model.predict(seen, deterministic=True)
        np.testing.assert_allclose(policy(jax.random.key(0), observation), expected, atol=1e-6)
