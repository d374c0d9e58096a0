"""The Python examples of README and docs run as they are printed."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

ROOT = pathlib.Path(__file__).parents[2]
# the pages whose examples run by default; the others take long, and are among the slow tests
DEFAULT = ("README.md", "gymnasium.md", "trap_drag.md")
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in page.read_text()
]


def return_of_a_step(env, params):
    """What the README's first example calls `rollout_return`."""
    _, state = env.reset(jax.random.key(0), params)
    return env.step_env(jax.random.key(1), state, jnp.ones(env.action_shape), params)[2]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name not in DEFAULT)) for page in PAGES],
)
def test_the_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    names = {"key": jax.random.key(0), "action": jnp.zeros(32), "rollout_return": return_of_a_step}
    with jax.numpy_rank_promotion("allow"):  # a reader's own settings are JAX's defaults
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)
