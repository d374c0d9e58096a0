"""Films: an episode, rendered picture by picture, as MP4."""

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import jax
import numpy as np

from dmdenv.agents.base import Policy
from dmdenv.agents.evaluate import Evaluation, run_episode
from dmdenv.agents.runs.capacity import with_room
from dmdenv.agents.runs.files import replacing
from dmdenv.envs.base import Env, Params, State
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import progress

# imageio-ffmpeg would run Python code between fork and exec of the encoder, to shield it from Ctrl-C. With JAX's
# threads around that may hang; without the shield Ctrl-C ends the encoder too, which `film_states` expects.
os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")


def write_film(path: Path, frames: Iterable[np.ndarray], *, fps: int = 30) -> None:
    """Write pictures as a film (H.264), replacing `path` when it is complete.

    Args:
        path: the film; its suffix is the format, `.mp4`.
        frames: pictures of one shape, uint8 `[H, W, 3]`; an odd H or W is padded by one, as the codec wants it even.
        fps: frames per second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        writer: Any = imageio.get_writer(partial, fps=fps, codec="libx264", quality=8, macro_block_size=2)
        with writer:
            for frame in frames:
                height, width, _ = frame.shape
                writer.append_data(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def film_states(
    path: Path, env: Env, states: Sequence[State], params: Params, *, interruption: Interruption, fps: int = 30
) -> None:
    """Render states one after the other into a film, with a progress bar.

    Args:
        path: the film.
        env: whose `render` makes the pictures.
        states: one a frame, see `record`.
        params: the environment's parameters.
        interruption: asked before every frame.
        fps: frames per second.

    Raises:
        Interrupted: when asked to stop; the film is not written.
    """

    def frames():
        for state in progress(states, desc=f"film {path.name}", unit="frame"):
            interruption.check()
            yield env.render(state, params)

    try:
        write_film(path, frames(), fps=fps)
    except OSError:
        interruption.check()  # Ctrl-C reaches the encoder as well, and ends it
        raise


def record(env: Env, policy: Policy, key: jax.Array, params: Params) -> tuple[Evaluation, list[State]]:
    """One whole episode, and the state before each of its steps, on the host; repeated with more room if it needs it.

    Args:
        env: the environment.
        policy: who acts.
        key: consumed.
        params: the environment's parameters; `max_steps` must be concrete.

    Returns:
        `(evaluation, states)`: the evaluation, whose axis `episodes` has length 1, and as many states as the episode
        has steps.
    """
    steps = int(params.max_steps)

    @functools.partial(jax.jit, static_argnums=0)
    def run(env, policy, key, params):
        evaluation, states = run_episode(env, policy, key, steps=steps, params=params)
        return jax.tree.map(lambda x: x[None], evaluation), states

    _, seen = with_room(env, lambda env: run(env, policy, key, params), lambda seen: seen[0].overflow)
    evaluation, states = jax.device_get(seen)
    return evaluation, [jax.tree.map(lambda x, i=i: x[i], states) for i in range(int(evaluation.lengths[0]))]
