"""The benchmark of agents: what is computed from its cells, and a cell of each kind at a small size."""

import json
import math

import numpy as np
import pytest

import dmdenv
from benchmarks import agents, agents_report
from dmdenv.agents import apg, settings


def point(updates, returns):
    return {"updates": updates, "seconds": 10.0 * updates, "returns": returns, "metrics": {"score": returns}}


def result(returns=(4.0, 5.0), episodes=(4.5, 4.5, 4.5, 4.6), task="x.y"):
    """A task on which two seeds come from 0 to 4 in 10 updates, and one of them to 5."""
    cell = {
        "curve": [point(0, [0.0, 0.0]), point(10, [4.0, 4.0]), point(20, [4.0, 5.0])],
        "returns": list(returns),
        "episodes": list(episodes),
        "steps_per_update": 100,
        "gradient_steps_per_update": 2,
    }
    references = {"zero": [0.0] * 4, "random": [-1.0] * 4, "good": [3.0] * 4, "better": [4.0, 4.0, 4.0, 4.1]}
    cells = {f"{task}.references": {"policies": references}, f"{task}.apg": cell}
    return agents_report.Result(task, cells)


def test_the_best_baseline_and_the_best_return():
    found = result()
    assert found.baseline == "better"
    assert found.best == pytest.approx(4.5)  # the interquartile mean of two seeds is their mean


def test_an_agent_beats_a_baseline_by_more_than_two_standard_errors_of_the_difference():
    more, error = result().gain("apg")
    assert (more, error) == pytest.approx((0.5, 0.0), abs=1e-12)
    differences = np.array([1.0, -1.0, 1.0, 0.0])
    more, error = result(episodes=np.array([4.0, 4.0, 4.0, 4.1]) + differences).gain("apg")
    assert more == pytest.approx(0.25)
    assert error == pytest.approx(np.std(differences, ddof=1) / 2)


def test_what_it_takes_to_come_90_percent_of_the_way():
    """9/10 of 4.5 is 4.05: one seed never comes there, the other after 10 + 10 * 0.05 updates."""
    assert result().cost("apg") is None
    found = result(returns=(4.0, 4.0))  # 3.6 now, after 9 updates
    assert found.best == pytest.approx(4.025)
    updates = 10 * 0.9 * 4.025 / 4
    assert found.cost("apg") == pytest.approx((100 * updates, 2 * updates, 10 * updates / 2))
    assert found.steps_until("apg", 4.0, "score") == pytest.approx(1000)


@pytest.mark.parametrize(
    ("values", "mean"), [([1.0, 2.0, 3.0], 2.0), ([0.0, 1.0, 2.0, 90.0], 1.5), ([-50.0, 1.0, 2.0, 3.0, 90.0], 2.0)]
)
def test_interquartile_mean(values, mean):
    assert agents_report.interquartile_mean(values) == pytest.approx(mean)
    low, high = agents_report.interval(values)
    assert min(values) <= low <= mean <= high <= max(values)


def test_a_value_is_reached_where_the_curve_stays_above_it():
    x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 5.0, 2.0, 6.0])
    assert agents_report.reached_for_good(x, y, 4.0) == pytest.approx(3.0)  # not 0.8, where it falls back
    assert agents_report.reached_for_good(x, y, -1.0) == 0.0
    assert agents_report.reached_for_good(x, y, 7.0) == math.inf
    assert agents_report.reached_for_good(x, np.array([0.0, 5.0, 5.0, math.nan]), 4.0) == math.inf


def measured():
    cells = {path.stem: json.loads(path.read_text()) for path in agents.CELLS.glob("*.json")}
    return {task: agents_report.Result(task, cells) for task in agents.TASKS if f"{task}.references" in cells}


def test_the_best_agent_of_a_task_is_the_best_of_its_cells():
    results = measured()
    assert results
    for task, result in results.items():
        known = settings.TUNED[tuple(task.split("."))]
        if set(known.settings) == set(result.agents):
            returns = {name: agents_report.interquartile_mean(cell["returns"]) for name, cell in result.agents.items()}
            assert known.best == max(returns, key=lambda name: returns[name])


def test_tables_are_written_between_marks():
    page = "a\n<!-- costs -->\nold\n<!-- /costs -->\nb"
    assert agents_report.replace_between(page, "costs", "new") == "a\n<!-- costs -->\nnew\n<!-- /costs -->\nb"
    with pytest.raises(SystemExit, match="has no marks"):
        agents_report.replace_between(page, "returns", "new")


def test_the_page_has_the_tables_of_the_cells():
    results = measured()
    page = agents_report.PAGE.read_text()
    for table in (agents_report.returns_table, agents_report.costs_table, agents_report.targets_table):
        assert agents_report.markdown(*table(results)) in page


@pytest.mark.slow
def test_a_cell_trains_all_seeds_and_plays_the_same_episodes(monkeypatch):
    monkeypatch.setattr(agents, "EPISODES", 4)
    monkeypatch.setattr(agents, "CURVE_EPISODES", 2)
    env = dmdenv.make_env("trap_drag")
    cell = agents.train_cell(env, agents.get_agent("apg"), apg.Config(updates=3, num_envs=2, window=4), seeds=2)
    assert [point["updates"] for point in cell["curve"]] == [0, 1, 2, 3]
    assert len(cell["returns"]) == 2
    assert len(cell["episodes"]) == 4
    assert np.mean(cell["returns"]) == pytest.approx(np.mean(cell["episodes"]), rel=1e-5)
    references = agents.reference_cell(env)["policies"]
    assert set(references) == {"zero", "random", *env.baselines()}
    assert all(len(returns) == 4 for returns in references.values())
