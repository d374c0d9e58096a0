"""The table of environments, and how a user's own one gets into it."""

import dataclasses
import importlib.metadata
import inspect
import pathlib
import re
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest

import dmdenv
import probe_envs
from dmdenv.agents.cli.main import main
from dmdenv.envs import Params, parameter, registry
from probe_envs import BestAction, Misfit

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_table(monkeypatch):
    """What a test registers is known to it alone."""
    monkeypatch.setattr(registry, "_table", {key: entry for key, entry in registry._table.items() if entry.package})
    monkeypatch.setattr(registry, "_ignored", {})
    known = set(gymnasium.registry)
    yield
    for id in set(gymnasium.registry) - known:
        del gymnasium.registry[id]


@pytest.fixture
def one_file(tmp_path, monkeypatch):
    """The environment of docs/environments.md, in a folder of its own which is the present one."""
    page = (ROOT / "docs" / "environments.md").read_text()
    (tmp_path / "double_well.py").write_text(page.split("```python title=double_well.py\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("double_well", None)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_read_without_jax():
    code = (
        "import sys, dmdenv, dmdenv.envs; dmdenv.registered_envs(); dmdenv.registered_tasks('flocking');"
        "dmdenv.register('mine', 'my_module:Mine'); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_ids_are_sorted_and_the_first_task_is_the_default():
    ids = dmdenv.registered_envs()
    assert tuple(sorted(ids)) == ids == tuple(sorted({entry.id for entry in registry.BUILT_IN}))
    for id in ids:
        tasks = dmdenv.registered_tasks(id)
        assert registry.env_class(id) is registry.env_class(id, tasks[0])
        assert len({registry.env_class(id, task) for task in tasks}) == len(tasks)
        assert [(registry.configured(id, task=task).id, registry.configured(id, task=task).task) for task in tasks] == [
            (id, task) for task in tasks
        ]


def test_gymnasium_knows_every_task_by_its_own_id():
    ids = [entry.gymnasium_id for entry in registry.BUILT_IN]
    assert len(set(ids)) == len(ids) and all(id.startswith("dmdenv/") and id.endswith("-v0") for id in ids)
    for entry in registry.BUILT_IN:
        assert gymnasium.spec(entry.gymnasium_id).kwargs == {"env": entry.id, "task": entry.task}


def test_the_page_on_gymnasium_lists_them_all():
    page = (ROOT / "docs" / "gymnasium.md").read_text()
    for entry in registry.BUILT_IN:
        first = dmdenv.registered_tasks(entry.id)[0] == entry.task
        made = f'make_env("{entry.id}")' if first else f'make_env("{entry.id}", task="{entry.task}")'
        assert f"| `{entry.gymnasium_id}` | `{made}` |" in page


# --- a class of one's own ---------------------------------------------------------------------------------------------


def test_a_registered_class_is_known_everywhere():
    dmdenv.register("best_action", BestAction)
    assert "best_action" in dmdenv.registered_envs() and dmdenv.registered_tasks("best_action") == ("default",)
    env = dmdenv.make_env("best_action", scale=2.0)
    assert env == BestAction(scale=2.0) and env is dmdenv.make_env("best_action", scale=2.0)
    assert (env.id, env.task) == ("best_action", "default")
    assert gymnasium.make("dmdenv/BestAction-v0", scale=2.0).unwrapped.instances.env is env
    assert gymnasium.make_vec("dmdenv/BestAction-v0", num_envs=3).reset(seed=0)[0].shape == (3, 1)


def test_a_class_may_be_registered_again_and_other_tasks_added():
    dmdenv.register("probe", BestAction, task="best")
    dmdenv.register("probe", BestAction, task="best")
    dmdenv.register("probe", "probe_envs:Misfit", task="rows", gymnasium_id="probes/Rows-v3")
    assert dmdenv.registered_tasks("probe") == ("best", "rows")
    assert isinstance(dmdenv.make_env("probe"), BestAction) and dmdenv.make_env("probe", task="rows") == Misfit()
    assert gymnasium.make("probes/Rows-v3").observation_space.shape == (4, 2)


def test_a_class_is_found_by_its_module_without_registration():
    env = dmdenv.make_env("probe_envs:BestAction")
    assert env == BestAction() and (env.id, env.task) == ("probe_envs:BestAction", "default")
    assert dmdenv.registered_tasks("probe_envs:BestAction") == ("default",)
    dmdenv.register("best_action", BestAction, task="best")
    assert registry.entry_of(BestAction).arguments == {"id": "probe_envs:BestAction"}  # for other processes
    assert dmdenv.make_env("probe_envs:best_action", task="best") is env and env.id == "best_action"


class Unfinished(dmdenv.Env):
    def observe(self, state, params):
        return state


class Undecorated(BestAction):
    pass


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("flocking", BestAction),
            ValueError,
            "id = 'flocking' has the tasks align, .*; must come with a task of anot",
        ),
        (
            ("trap_drag", BestAction, "drag"),
            ValueError,
            "id = 'trap_drag', task = 'drag'; must be new, and is that of ",
        ),
        (("two words", BestAction), ValueError, "id = 'two words'; must be a word of letters, digits and underscores"),
        (("probe", BestAction, "a-b"), ValueError, "task = 'a-b'; must be a word"),
        ((7, BestAction), ValueError, "id = 7; must be a word"),
        (("probe", "BestAction"), ValueError, "cls = 'BestAction'; must be a class, or 'module:Class'"),
        (("probe", int), TypeError, "cls = <class 'int'>; must be a subclass of dmdenv.Env"),
        (("probe", BestAction()), TypeError, "cls = BestAction.*; must be a subclass of dmdenv.Env"),
        (
            ("probe", Unfinished),
            TypeError,
            "Unfinished has no action_space, advance, default_params, initial_state, obs",
        ),
        (
            ("probe", Undecorated),
            TypeError,
            r"Undecorated must be a frozen dataclass: @dataclasses.dataclass\(frozen=T",
        ),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments, error, message):
    id, cls, *task = arguments
    with pytest.raises(error, match=message):
        dmdenv.register(id, cls, task=task[0] if task else None)
    assert dmdenv.registered_envs() == tuple(sorted({entry.id for entry in registry.BUILT_IN}))


HOST_ARGUMENTS = [  # of make_env, gymnasium.make and make_vec, and the adapters
    *("id", "task", "max_episode_steps", "disable_env_checker", "num_envs", "vectorization_mode", "vector_kwargs"),
    *("wrappers", "env", "params", "render_mode", "autoreset_mode", "per_agent", "step_values", "flat"),
]


@pytest.mark.parametrize("name", HOST_ARGUMENTS)
def test_a_field_that_no_host_would_pass_on_is_refused(name, monkeypatch):
    fields = {name: 1, "__annotations__": {name: int}}
    cls = dataclasses.dataclass(frozen=True)(type("Own", (BestAction,), {"__module__": "probe_envs", **fields}))
    monkeypatch.setattr(probe_envs, "Own", cls, raising=False)
    message = rf"Own\.{name} has a name that .* keeps for itself; must be none of .*{name}"
    for use in (lambda: dmdenv.register("probe", cls), lambda: dmdenv.make_env("probe_envs:Own")):
        with pytest.raises(ValueError, match=message):
            use()
    assert "probe" not in dmdenv.registered_envs()


def test_the_arguments_of_all_hosts_are_among_these_names():
    from dmdenv.envs.adapters import brax, gymnax, pettingzoo
    from dmdenv.envs.adapters import gymnasium as adapter

    hosts = [adapter.GymnasiumEnv, adapter.GymnasiumVectorEnv, pettingzoo.PettingZooEnv, brax.BraxEnv, gymnax.make]
    hosts += [dmdenv.make_env, gymnasium.make, gymnasium.make_vec]
    for host in hosts:
        kinds = inspect.signature(host).parameters.values()
        assert {kind.name for kind in kinds if kind.kind is not kind.VAR_KEYWORD} <= set(HOST_ARGUMENTS)


@pytest.mark.parametrize("name", ["max_steps_in_episode", "params", "render", "render_mode", "state"])
def test_a_parameter_that_hosts_hide_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"OwnParams\.{name} has a name that .* keeps for itself; must be none of max_"
    ):
        type(
            "OwnParams", (Params,), {name: parameter(default=1.0, unit="1", doc="-"), "__annotations__": {name: float}}
        )


def test_a_gymnasium_id_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="gymnasium_id = 'CartPole-v1'; must be new"):
        dmdenv.register("probe", BestAction, gymnasium_id="CartPole-v1")
    assert "probe" not in dmdenv.registered_envs()


@pytest.mark.parametrize(
    ("id", "error", "message"),
    [
        (3, TypeError, "id = 3; must be one of bonded_chain, flocking, .*, or MODULE:CLASS"),
        (["flocking"], TypeError, r"id = \['flocking'\]; must be one of bonded_chain"),
        ("floking", ValueError, "id = 'floking'; must be one of bonded_chain, flocking, .*, or MODULE:CLASS"),
        ("no_such_module:X", ValueError, "id = 'no_such_module:X'; must be MODULE:CLASS, and there is no module 'no_s"),
        ("probe_envs:X", ValueError, "id = 'probe_envs:X'; must be MODULE:CLASS, and probe_envs has no 'X'"),
        ("probe_envs:Probe", TypeError, "Probe has no advance, default_params, initial_state, observe"),
        ("probe_envs:new_cue", TypeError, "probe_envs:new_cue = <function .*>; must be a subclass of dmdenv.Env"),
    ],
)
def test_unknown_ids_are_refused(id, error, message):
    with pytest.raises(error, match=message):
        dmdenv.make_env(id)


@pytest.mark.parametrize("task", ["aline", 1, ["align"]])
def test_unknown_tasks_are_refused(task):
    with pytest.raises(ValueError, match=re.escape(f"task = {task!r}; must be one of align, shepherd, evade for 'flo")):
        dmdenv.make_env("flocking", task=task)


def test_configurations_that_cannot_be_hashed_are_refused():
    with pytest.raises(TypeError, match=r"BestAction.scale = \[1\]; must be hashable, for example a tuple"):
        dmdenv.make_env("probe_envs:BestAction", scale=[1])


# --- entry points -----------------------------------------------------------------------------------------------------


class Package:
    name, version = "probes", "1.2"


@pytest.fixture
def entry_points(monkeypatch):
    def install(**points):
        found = [importlib.metadata.EntryPoint(n.replace("__", "."), v, "dmdenv.envs") for n, v in points.items()]
        found = [point._for(Package()) for point in found]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        registry.publish()

    return install


def test_entry_points_are_environments(entry_points):
    entry_points(probe__best="probe_envs:BestAction", probe__rows="probe_envs:Misfit")
    assert dmdenv.registered_tasks("probe") == ("best", "rows")
    assert dmdenv.make_env("probe", task="rows").task == "rows"
    assert gymnasium.make("dmdenv/ProbeRows-v0").observation_space.shape == (4, 2)
    assert registry.entry_of(Misfit).arguments == {"id": "probe", "task": "rows"}


def test_a_broken_entry_point_is_named_when_it_is_used(entry_points, capsys):
    entry_points(broken="no_such_module:X", flocking="probe_envs:BestAction", odd="nothing")
    assert dmdenv.make_env("trap_drag").id == "trap_drag"
    with pytest.raises(
        ImportError, match=r"'broken' of probes 1.2 cannot be imported: no_such_module:X: ModuleNotFound"
    ):
        dmdenv.make_env("broken")
    with pytest.raises(
        ValueError, match=r"id = 'odd' \(the entry point 'odd' of probes 1.2 is ignored: cls = 'nothing'"
    ):
        dmdenv.make_env("odd")
    with pytest.raises(SystemExit):
        main(["list", "broken"])
    assert "ENV: the environment 'broken' of probes 1.2 cannot be imported" in capsys.readouterr().err


# --- one file outside the repository ----------------------------------------------------------------------------------


def test_an_environment_in_one_file_needs_no_registration(one_file, capsys):
    env = dmdenv.make_env("double_well:DoubleWell", particles=3)
    obs, state = env.reset(jax.random.key(0))
    picture = env.render(state)
    assert picture.shape == (640, 640, 3) and picture.dtype == np.uint8 and np.ptp(picture) > 0
    assert np.mean(picture != env.render(env.reset(jax.random.key(1))[1])) > 1e-3
    with pytest.raises(SystemExit) as stop:
        main(["list", "double_well:DoubleWell"])
    printed = capsys.readouterr().out
    assert not stop.value.code and "double_well:DoubleWell, task default: Brownian particles" in printed


@pytest.mark.slow
def test_an_environment_in_one_file_is_trained_and_resumed_in_fresh_processes(one_file):
    def command(*arguments):
        code = "from dmdenv.agents.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tiny = ["--num-envs", "2", "--window", "2", "--hidden", "4", "--eval-episodes", "2", "--run-dir", "run"]
    assert "film.mp4" in command("train", "double_well:DoubleWell", "--updates", "2", *tiny)
    assert "run folder: run" in command("train", "--resume", "run", "--no-film")
    assert "double_well:DoubleWell, 5 steps" in command("rollout", "--policy", "run", "--steps", "5")
