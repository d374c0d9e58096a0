"""Films: an episode, rendered frame by frame, as MP4."""

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import jax
import numpy as np

from dmdenv.agents.base import InformedPolicy, Policy
from dmdenv.agents.evaluate import Evaluation, run_episode
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.agents.runs.capacity import compute_within_capacity
from dmdenv.envs.base import Env, Params, State
from dmdenv.simulation import Interruption
from dmdenv.simulation.progress import compile_first, progress

# imageio-ffmpeg would run Python code between fork and exec of the encoder, to protect it from Ctrl-C. Beside JAX's
# threads that may hang. Without that code Ctrl-C ends the encoder too, which `film_states` expects.
os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")

SHORTEST = 60  # frames
SECONDS = 6  # that a film lasts, if its pace allows it
SLOWEST, FASTEST = 2, 30  # frames per second

_run_episode = jax.jit(run_episode, static_argnums=0, static_argnames="steps")


def choose_length(rewards: np.ndarray) -> int:
    """Steps of an episode to film: until its reward has settled, and half as many again; at least 60 where it has them.

    It has settled when it stays within 5 % of its whole range around the mean of its last quarter. An episode in which
    it never does, or never changes, is filmed as a whole.

    Args:
        rewards: of the steps of one episode, `[steps]`.
    """
    steps, last = len(rewards), rewards[-math.ceil(len(rewards) / 4) :]
    moving = np.flatnonzero(np.abs(rewards - last.mean()) > 0.05 * np.ptp(rewards))
    if len(moving) == 0:
        return steps
    return min(steps, max(SHORTEST, math.ceil(1.5 * (moving[-1] + 1))))


def choose_pace(frames: int) -> int:
    """Frames per second at which a film lasts about 6 s, from 2 to 30."""
    return min(FASTEST, max(SLOWEST, round(frames / SECONDS)))


def write_film(path: Path, frames: Iterable[np.ndarray], *, fps: int = 30) -> None:
    """Write frames as a film (H.264); `path` is replaced once the film is complete.

    Args:
        path: the film; its suffix is the format, `.mp4`.
        frames: pictures of one shape, uint8 `[H, W, 3]`; an odd H or W is padded by one, since the codec needs them
            even.
        fps: frames per second.

    Raises:
        OSError: when the film is not complete, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic_write(path) as partial:
        options: Any = {
            "fps": fps,
            "codec": "libx264",
            "quality": 8,
            "macro_block_size": 2,
            "ffmpeg_log_level": "quiet",
        }
        opened: Any = imageio.get_writer(partial, **options)
        with contextlib.suppress(OSError), opened as writer:
            for frame in frames:
                count += 1
                height, width, _ = frame.shape
                writer.append_data(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
        if (found := _count_frames(partial)) != count:
            raise OSError(f"{found} of {count} frames were written: the encoder failed, as it does on a full disk")


def _count_frames(path: Path) -> int:
    """The frames that a film has; 0 where it is none."""
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path))[0] or 0
    except (RuntimeError, OSError):
        return 0


def film_states(
    path: Path, env: Env, states: Sequence[State], params: Params, *, interruption: Interruption, fps: int = 30
) -> None:
    """Render a sequence of states into a film, with a progress bar.

    Args:
        path: the film.
        env: whose `render` makes the pictures.
        states: one per frame, see `record_episode`.
        params: the environment's parameters.
        interruption: checked before each frame.
        fps: frames per second.

    Raises:
        Interrupted: after a signal; the film is not written.
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


def record_episode(
    env: Env,
    policy: Policy | InformedPolicy,
    key: jax.Array,
    params: Params,
    *,
    interruption: Interruption | None = None,
) -> tuple[Evaluation, list[State]]:
    """Run one episode and keep the state before each of its steps, on the host.

    Where a capacity of the environment overflows, the episode is repeated with a larger one.

    Args:
        env: the environment.
        policy: the policy that acts.
        key: consumed.
        params: the environment's parameters; `max_steps` must be concrete.
        interruption: handles signals while the episode is compiled and run; none by default.

    Returns:
        `(evaluation, states)`: the evaluation, whose axis `episodes` has length 1, and as many states as the episode
        has steps.
    """
    waiting = interruption or Interruption()
    options = {"steps": int(params.max_steps), "params": params}

    def compute(env: Env) -> tuple[Evaluation, State]:
        compile_first("an episode", _run_episode, env, policy, key, interruption=waiting, **options)
        waiting.check()
        result = _run_episode(env, policy, key, **options)
        return waiting.wait_for(lambda: jax.block_until_ready(result))

    _, result = compute_within_capacity(env, compute, lambda result: result[0].overflow)
    evaluation, states = jax.device_get(result)
    states = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(int(evaluation.lengths))]
    return jax.tree.map(lambda x: x[None], evaluation), states
