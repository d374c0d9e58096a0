"""The benchmarks run, and what they write has the structure that readers of the results rely on."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from benchmarks import baselines, env_throughput, vmas_flocking

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def batched_forces(tmp_path_factory):
    """The standard output and the JSON of a quick run without JAX MD."""
    path = tmp_path_factory.mktemp("results") / "batched_forces.json"
    command = [sys.executable, "-m", "benchmarks.batched_forces", "--quick", "--no-jax-md", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_the_machine_is_described(batched_forces):
    _, record = batched_forces
    assert {
        "date",
        "cpu",
        "cores",
        "pinned_to_core",
        "load_average_at_start",
        "packages",
        "XLA_FLAGS",
        "c_compiler",
    } <= set(record["machine"])
    assert record["machine"]["packages"]["jax"]
    assert record["quick"] is True


def test_every_quantity_has_a_median_and_a_spread(batched_forces):
    _, record = batched_forces
    assert len(record["cases"]) == 2
    for case in record["cases"]:
        assert {"systems", "particles", "dimension", "box", "steps", "notes"} <= set(case)
        assert set(case["seconds"]) == set(case["compile_seconds"]) == {"forces", "trajectory", "gradient"}
        for by_name in case["seconds"].values():
            assert "dmdenv" in by_name
            for timing in by_name.values():
                assert 0 < timing["low"] <= timing["median"] <= timing["high"]
                assert timing["rounds"] >= 3
        assert all(0 < by_name["dmdenv"] < 60 for by_name in case["compile_seconds"].values())


def test_the_hand_written_loops_compute_the_same_forces(batched_forces):
    _, record = batched_forces
    if record["machine"]["c_compiler"] is None:
        pytest.skip("no C compiler")
    for case in record["cases"]:
        assert case["largest_differences"]["float32"]["forces"]["c"] < 1e-5
        assert "c" in case["seconds"]["forces"]


def test_each_target_has_a_verdict(batched_forces):
    output, record = batched_forces
    assert len(record["targets"]) == 4
    for target in record["targets"]:
        assert target["verdict"] in ("pass", "falls short", "not measured")
        assert (target["value"] is None) == (target["verdict"] == "not measured")
        assert (target["at_least"] is None) != (target["at_most"] is None)
        assert target["value"] is None or math.isfinite(target["value"])
        assert target["name"] in output


def test_the_tables_are_markdown(batched_forces):
    output, _ = batched_forces
    lines = output.splitlines()
    (rule,) = (line for line in lines if line.startswith("|--") and "wanted" in lines[lines.index(line) - 1])
    assert len(rule) == len(lines[lines.index(rule) - 1])


def test_baselines_are_scored_beside_doing_nothing_and_chance():
    rows = {row["policy"]: row for row in baselines.scores("trap_drag", {"particles": 64}, 8)}
    assert {"zero", "random", "linear", "optimal", "jump"} == set(rows)
    best = max(rows, key=lambda policy: rows[policy]["return"])
    assert best in ("optimal", "linear")
    assert all(row["nonfinite"] == 0 and row["standard_error"] > 0 for row in rows.values())
    assert rows["optimal"]["metrics"].keys() == {"work", "lag"}


def test_the_cost_of_adapters_is_that_over_the_raw_step():
    row = env_throughput.measure_adapters("trap_drag", "drag", {"particles": 4}, 8, 3)
    assert {"raw", "gymnasium NextStep", "gymnasium SameStep"} <= set(row["seconds"])
    for name, over in row["overhead_per_cent"].items():
        ratio = row["seconds"][name]["median"] / row["seconds"]["raw"]["median"]
        assert math.isclose(over, 100 * (ratio - 1))
    assert len(env_throughput.adapter_cells(row)) == len(env_throughput.ADAPTER_HEADER)


@pytest.mark.slow
def test_flocking_is_measured_beside_vmas_where_there_is_one():
    row = vmas_flocking.measure(4, 3, 3)
    rates = row["agent_steps_per_second"]
    assert rates["dmdenv"] > 0 and rates["dmdenv through Gymnasium"] > 0
    if "VMAS" in rates:
        assert math.isclose(row["times_faster"], rates["dmdenv"] / rates["VMAS"])
    else:
        assert row["times_faster"] is None
    assert len(vmas_flocking.cells(row)) == len(vmas_flocking.HEADER)
