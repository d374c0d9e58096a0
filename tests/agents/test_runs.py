"""The run folder: what is written, what survives an interruption, and how capacities grow."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess

import imageio.v3 as iio
import imageio_ffmpeg
import jax
import numpy as np
import pytest
from PIL import ImageColor

from dmdenv.agents import open_loop, registered_agents
from dmdenv.agents.runs import (
    Run,
    compare_policies,
    comparison,
    draw_learning_curve,
    read_metrics,
    record_episode,
    train_run,
    write_film,
)
from dmdenv.agents.runs.atomic_write import atomic_write
from dmdenv.agents.runs.capacity import compute_within_capacity
from dmdenv.agents.runs.comparison import format_table, step_means
from dmdenv.agents.runs.film import choose_length, choose_pace
from dmdenv.agents.runs.learning_curve import learning_curve
from dmdenv.agents.runs.metrics import append_metrics, truncate_metrics
from dmdenv.envs.base import CapacityExceeded
from dmdenv.envs.rendering import BACKGROUND
from dmdenv.simulation import Interruption
from dmdenv.simulation.checkpoints import to_arrays
from marks import by_default
from probe_envs import BestAction, Crowded, PointMass
from small_agents import small_config


def new_run(path, env=None, *, agent="apg", config=None, **changes):
    env = env or PointMass(time_step=0.1)
    params = env.default_params.replace(**changes)
    config = small_config(agent, updates=6) if config is None else config
    return Run(path=path, env=env, params=params, agent_name=agent, config=config, seed=3).create()


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_open_rebuilds_what_was_created(tmp_path):
    created = new_run(tmp_path / "run", friction=0.3)
    opened = Run.open(tmp_path / "run")
    assert opened.env == created.env == PointMass(time_step=0.1)
    assert opened.config == created.config
    assert hash(opened.config) == hash(created.config)
    assert (opened.agent_name, opened.seed) == ("apg", 3)
    jax.tree.map(np.testing.assert_array_equal, opened.params, created.params)
    jax.tree.map(np.testing.assert_array_equal, to_arrays(opened.initial_state()), to_arrays(created.initial_state()))


def test_the_length_of_a_protocol_is_that_of_the_episodes_of_the_run(tmp_path):
    config = open_loop.Config(num_envs=2)
    created = new_run(tmp_path / "run", agent="open_loop", config=config, max_steps=5)
    opened = Run.open(tmp_path / "run")
    assert opened.config == created.config == dataclasses.replace(config, steps=5)
    assert opened.config.steps_per_update == 2 * 5
    assert jax.eval_shape(opened.initial_state).policy.inputs.shape == (5, 1)


def test_recipe_names_versions_and_values(tmp_path):
    new_run(tmp_path / "run", friction=0.3)
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recipe["env"]["id"] == "probe_envs:PointMass"
    assert recipe["env"]["config"] == {"time_step": 0.1}
    assert recipe["env"]["params"]["friction"] == float(np.float32(0.3))
    assert recipe["versions"]["jax"] == jax.__version__


def test_folder_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not an empty folder; must be a new path"):
        new_run(tmp_path)


def test_a_folder_in_which_the_recipe_was_not_finished_is_used(tmp_path):
    (tmp_path / ".partial-config.json").write_text("{")
    (tmp_path / ".lock").touch()
    new_run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder; must be a folder that `dmdenv train` has written"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": 1}')
    with pytest.raises(ValueError, match="is not the recipe of a run"):
        Run.open(tmp_path)


def test_other_precision_is_refused(tmp_path):
    new_run(tmp_path / "run")
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="was written with JAX_ENABLE_X64=0; set it to res"),
    ):
        Run.open(tmp_path / "run")


# --- training ---------------------------------------------------------------------------------------------------------


# --- capacities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", by_default(registered_agents(), "apg"))
def test_overflow_repeats_the_update_with_a_larger_capacity(tmp_path, capsys, agent):
    run = new_run(tmp_path / "run", Crowded(capacity=2), agent=agent, target=-0.5)
    enlarged, state = train_run(run, checkpoint_every=4, interruption=Interruption())
    assert enlarged.env == Crowded(capacity=4)
    message = "a capacity of crowded overflowed in 100.0% of the steps; repeating them with a larger one"
    assert capsys.readouterr().err.count(message) == 1
    assert [row["overflow"] for row in read_metrics(run.metrics_path)] == [0.0] * 6

    large = new_run(tmp_path / "large", Crowded(capacity=4), agent=agent, target=-0.5)
    _, expected = train_run(large, checkpoint_every=4, interruption=Interruption())
    jax.tree.map(np.testing.assert_array_equal, to_arrays(state), to_arrays(expected))

    assert Run.open(run.path).env == Crowded(capacity=4)
    _, again = train_run(Run.open(run.path, 4), checkpoint_every=4, interruption=Interruption())
    jax.tree.map(np.testing.assert_array_equal, to_arrays(again), to_arrays(expected))


def test_evaluation_and_film_are_repeated_with_larger_capacities_too(tmp_path):
    run = new_run(tmp_path / "run", Crowded(capacity=2), target=-0.5, max_steps=3)
    state = run.initial_state()
    summary = compare_policies(run, state, episodes=2, interruption=Interruption())
    assert summary["policies"]["trained"]["metrics"]["overflow"]["mean"] == 0.0
    evaluation, states = record_episode(run.env, run.policy(state), run.keys.film, run.params)
    assert evaluation.overflow == 0.0
    assert len(states) == 3


def test_baselines_are_compared_too_and_what_training_does_not_change_is_evaluated_once(tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", BestAction(scale=2.0), target=0.5, max_steps=3)
    state = run.initial_state()
    summary = compare_policies(run, state, episodes=2, interruption=Interruption())
    assert list(summary["policies"]) == ["trained", "untrained", "zero", "random", "baseline best"]
    means = step_means(summary)
    assert {name: mean["reward"] for name, mean in means.items() if name != "random"} == {
        "zero": -0.5,
        "baseline best": 0.0,
    }
    assert means["zero"] == {"reward": -0.5, "miss": 0.5, "overflow": 0.0, "nonfinite": 0.0}

    run.evaluation_path.write_text(json.dumps(summary))
    evaluated = []
    monkeypatch.setattr(comparison, "summarise", lambda evaluation: evaluated.append(1) or summary["policies"]["zero"])
    again = compare_policies(run, state, episodes=2, interruption=Interruption())
    assert len(evaluated) == 1
    assert again["policies"] == {**summary["policies"], "trained": summary["policies"]["zero"]}
    old = {name: {"return": 0.0, "metrics": {}} for name in summary["policies"]}
    for other in (json.dumps({**summary, "episodes": 3}), json.dumps({**summary, "policies": old}), "[]", "{"):
        run.evaluation_path.write_text(other)
        evaluated.clear()
        compare_policies(run, state, episodes=2, interruption=Interruption())
        assert len(evaluated) == 5


def test_capacity_grows_until_nothing_overflows():
    env, result = compute_within_capacity(Crowded(), lambda env: env.capacity, lambda capacity: 0.5 * (capacity < 4))
    assert env == Crowded(capacity=4)
    assert result == 4


def test_overflow_stops_the_training_where_no_capacity_is_enough(tmp_path):
    run = new_run(tmp_path / "run", Crowded(capacity=2), target=-0.75)
    with pytest.raises(CapacityExceeded, match=r"no larger capacity; must be a target >= -0\.5"):
        train_run(run, checkpoint_every=1, interruption=Interruption())
    assert run.saved_updates() == []
    assert read_metrics(run.metrics_path) == []


# --- files ------------------------------------------------------------------------------------------------------------


def test_log_writes_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    append_metrics(path, {"update": 1, "loss": float("nan")})
    append_metrics(path, {"update": 2, "loss": 0.5})
    assert path.read_text() == '{"update": 1, "loss": null}\n{"update": 2, "loss": 0.5}\n'
    truncate_metrics(path, 1)
    assert read_metrics(path) == [{"update": 1, "loss": None}]


def test_a_damaged_line_of_the_log_is_named_and_left_out(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    for update in range(1, 6):
        append_metrics(path, {"update": update, "loss": 0.5})
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"{", b"\xfb")
    lines[2] = lines[2].replace(b"update", b"updatd")
    lines[3] = b"3\n"
    path.write_bytes(b"".join(lines) + b'{"upd')
    assert [row["update"] for row in read_metrics(path)] == [1, 5]
    assert capsys.readouterr().err == "".join(f"{path}: line {n} is damaged and left out\n" for n in (2, 3, 4))


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_metrics(pathlib.Path("/dev/full"), {"update": 1})

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dmdenv.agents.runs.atomic_write.flush", full)
    path = tmp_path / "evaluation.json"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), atomic_write(path) as partial:
        partial.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_write(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]
    assert path.read_text() == "old"
    with atomic_write(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def rows_of_a_log(count):
    return [
        {"update": i + 1.0, "seconds": 0.1, "reward": i / count, "gradient_norm": None if i == 5 else 10.0 ** (-i / 10),
         "skipped": float(i == 5), "overflow": 0.0, "some_order": 1.0}
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 60])
def test_learning_curve_is_drawn_with_gaps_and_marks(tmp_path, count):
    references = {"zero": {"reward": 0.1, "some_order": 0.5}}
    options = {"title": "probe", "steps_per_update": 8, "references": references, "episodes": 4}
    draw_learning_curve(tmp_path / "curve.png", rows_of_a_log(count), **options)
    picture = iio.imread(tmp_path / "curve.png")
    assert picture.shape[1] > 1000
    assert picture.std() > 1.0
    assert picture[0, 0, :3].tolist() == list(ImageColor.getrgb(BACKGROUND))


def test_learning_curve_says_what_its_lines_and_axes_are():
    references = {
        "zero": {"reward": 0.25},
        "random": {"reward": -40.0},
        "baseline best": {"reward": 1.5, "unknown": 1.0},
    }
    figure = learning_curve(rows_of_a_log(60), title="probe", steps_per_update=8, references=references, episodes=4)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["each update", "mean of the last 2 updates", "zero policy", "random policy", "baseline best"]
    curves, lines = legend.get_title().get_text().split("; ")
    assert curves == "curves: means per step over the batch and window of an update"
    assert lines == "dashed lines: means per step over 4 whole episodes"
    reward, order, *_ = figure.axes
    assert (reward.get_title(loc="left"), order.get_title(loc="left")) == ("reward per step", "some order")
    levels = {line.get_color(): line.get_ydata()[0] for line in reward.get_lines() if line.get_linestyle() == "--"}
    drawn = {handle.get_color(): handle.get_label() for handle in legend.get_lines()}
    assert {drawn[color]: level for color, level in levels.items()} == {"zero policy": 0.25, "baseline best": 1.5}
    assert reward.get_xlabel() == "environment steps\nout of view: random -40"
    assert (order.get_xlabel(), len(order.get_lines())) == ("environment steps", 3)  # two curves, one skipped update
    np.testing.assert_allclose(reward.get_lines()[0].get_xdata(), 8 * np.arange(1, 61))
    (time,) = reward.child_axes
    assert time.get_xlabel() == "wall time of the updates (s)"
    figure.draw_without_rendering()
    np.testing.assert_allclose([reward.get_xlim(), time.get_xlim()], [[0, 480], [0, 6]])


# --- films ------------------------------------------------------------------------------------------------------------


def test_a_film_ends_when_the_reward_has_settled():
    time = np.arange(256)
    rising = 1 - 0.85 * np.exp(-time / 20)
    assert choose_length(rising) == pytest.approx(1.5 * 20 * np.log(20), abs=2)
    assert choose_length(rising + 0.01 * np.sin(time)) == pytest.approx(1.5 * 20 * np.log(20), abs=20)
    assert choose_length(1 - np.exp(-time / 2)) == 60
    assert choose_length(1 - np.exp(-time[:20] / 2)) == 20
    for never in (time * 1.0, np.sin(time), np.zeros(256), np.zeros(1)):
        assert choose_length(never) == len(never)


def test_a_film_lasts_about_six_seconds():
    assert [choose_pace(frames) for frames in (1, 8, 32, 60, 120, 1000)] == [2, 2, 5, 10, 20, 30]


def test_film_has_every_frame(tmp_path):
    frames = [np.full((15, 21, 3), 20 * i, np.uint8) for i in range(10)]
    write_film(tmp_path / "new folder" / "film.mp4", frames, fps=10)
    film = tmp_path / "new folder" / "film.mp4"
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", film, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    pixels = np.frombuffer(subprocess.run(decode, capture_output=True, check=True).stdout, np.uint8)
    np.testing.assert_allclose(pixels.reshape(10, 16 * 22).mean(axis=1), 20 * np.arange(10), atol=6)


@pytest.mark.parametrize("broken", ["cut", "gone"])
def test_a_film_that_the_encoder_does_not_finish_is_an_error(tmp_path, monkeypatch, broken):
    count = imageio_ffmpeg.count_frames_and_secs

    def count_damaged(path):
        os.truncate(path, 700) if broken == "cut" else os.unlink(path)
        return count(path)

    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", count_damaged)
    frames = [np.full((16, 16, 3), 20 * i, np.uint8) for i in range(10)]
    with pytest.raises(OSError, match=r"0 of 10 frames were written: the encoder failed.*film\.mp4"):
        write_film(tmp_path / "film.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_table_shows_flags_only_where_they_are_set():
    def summary(overflow):
        mean = {"mean": 1.23456, "standard_error": 0.0123}
        return {"return": mean, "metrics": {"order": mean, "overflow": {"mean": overflow, "standard_error": None}}}

    assert format_table({"a": summary(0.0)}) == "policy  return         order\na       1.235 ± 0.012  1.235 ± 0.012"
    assert "overflow" in format_table({"a": summary(0.0), "b": summary(0.5)})
