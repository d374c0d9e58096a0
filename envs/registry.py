"""The table of environments: ids, tasks, classes and Gymnasium ids.

Nothing here imports JAX, so that `import dmdenv` stays light: a class is named by a reference, `module:Class`, and
imported when it is asked for. A package adds environments of its own by entry points,

    [project.entry-points."dmdenv.envs"]
    double_well = "my_package.double_well:DoubleWell"    # or double_well.TASK, where it has several tasks

a program by `register`; and an environment that is not in the table has the id `module:Class`.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium

if TYPE_CHECKING:
    from dmdenv.envs.base import Env

ENTRY_POINTS = "dmdenv.envs"  # their group
ONLY_TASK = "default"  # the name of a task without one

# Names that hosts keep for themselves, of arguments and of attributes: a static field or a parameter with such a name
# could not be given through them.
KEPT_FROM_FIELDS = {
    "dmdenv.make_env": ("id", "task"),
    "Gymnasium": (
        "autoreset_mode", "disable_env_checker", "max_episode_steps", "num_envs", "render_mode", "vector_kwargs",
        "vectorization_mode", "wrappers",
    ),
    "an adapter": ("env", "flat", "params", "per_agent", "step_values"),
}  # fmt: skip
KEPT_FROM_PARAMETERS = {
    "gymnax": ("max_steps_in_episode",),
    "Stable-Baselines3": ("params", "render", "render_mode", "state"),
}

_ADAPTER = "dmdenv.envs.adapters.gymnasium"
_log = logging.getLogger("dmdenv")


class Entry(NamedTuple):
    """One task of an environment."""

    id: str
    task: str
    reference: str  # of the class, module:Class
    gymnasium_id: str
    package: str = "dmdenv"  # which brings it; "" where `register` was called
    cls: "type[Env] | None" = None  # where `register` was given a class and no reference

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of `make_env`, by which other processes find the class too."""
        if self.package or "<locals>" in self.reference:
            return {"id": self.id, "task": self.task}
        return {"id": self.reference}


# the first task of an id is its default
BUILT_IN = (
    Entry("bonded_chain", "reach", "dmdenv.envs.bonded_chain.reach:ChainReach", "dmdenv/BondedChain-v0"),
    Entry("bonded_chain", "swim", "dmdenv.envs.bonded_chain.swim:ChainSwim", "dmdenv/BondedChainSwim-v0"),
    Entry("bonded_chain", "fold", "dmdenv.envs.bonded_chain.fold:ChainFold", "dmdenv/BondedChainFold-v0"),
    Entry("flocking", "align", "dmdenv.envs.flocking.align:Flocking", "dmdenv/Flocking-v0"),
    Entry("flocking", "shepherd", "dmdenv.envs.flocking.shepherd:Shepherd", "dmdenv/FlockingShepherd-v0"),
    Entry("flocking", "evade", "dmdenv.envs.flocking.evade:Evade", "dmdenv/FlockingEvade-v0"),
    Entry("lj_fluid", "anneal", "dmdenv.envs.lj_fluid.anneal:LJAnneal", "dmdenv/LJFluid-v0"),
    Entry("lj_fluid", "drag", "dmdenv.envs.lj_fluid.drag:LJDrag", "dmdenv/LJFluidDrag-v0"),
    Entry(
        "soft_sphere_packing", "compress", "dmdenv.envs.soft_sphere_packing.compress:PackingCompress",
        "dmdenv/SoftSpherePacking-v0",
    ),
    Entry(
        "soft_sphere_packing", "design", "dmdenv.envs.soft_sphere_packing.design:PackingDesign",
        "dmdenv/SoftSpherePackingDesign-v0",
    ),
    Entry("trap_drag", "drag", "dmdenv.envs.trap_drag:TrapDrag", "dmdenv/TrapDrag-v0"),
)  # fmt: skip


_table: dict[tuple[str, str], Entry] = {(entry.id, entry.task): entry for entry in BUILT_IN}
_ignored: dict[str, str] = {}  # ids of entry points that could not be registered, and why


# --- what there is ----------------------------------------------------------------------------------------------------


def registered_envs() -> tuple[str, ...]:
    """The ids that `make_env` takes, sorted."""
    return tuple(sorted({id for id, _ in _table}))


def registered_tasks(id: str) -> tuple[str, ...]:
    """The tasks of an environment, which `make_env` takes as `task`; the first one is the default.

    Raises:
        ValueError: for an unknown id; the message lists the valid ones.
    """
    return tuple(_classes(id))


def env_class(id: str, task: str | None = None) -> "type[Env]":
    """The class behind an id and a task (by default the first one).

    Raises:
        ValueError: for an unknown id or task; the message lists the valid ones.
        ImportError: where the class of a registered environment cannot be imported.
        TypeError: where it is no environment.
    """
    classes = _classes(id)
    task = next(iter(classes)) if task is None else task
    if not isinstance(task, str) or task not in classes:
        raise ValueError(f"task = {task!r}; must be one of {', '.join(classes)} for {id!r}")
    cls = classes[task]
    return _registered(cls) if isinstance(cls, Entry) else cls


def entry_of(cls: type) -> Entry:
    """The entry of a class, made from its name where it is not in the table."""
    reference = _reference(cls)
    found = next((entry for entry in _table.values() if entry.reference == reference), None)
    return found or Entry(reference, ONLY_TASK, reference, "", package="")


# --- making one -------------------------------------------------------------------------------------------------------


def make_env(id: str, *, task: str | None = None, **config: Any) -> "Env":
    """An environment by its id, prepared: a compiled `reset` only draws from what has been computed here.

    Equal ids and configurations give the same object, so that they share compiled code.

    Args:
        id: one of `registered_envs()`, or `module:Class` for any other environment.
        task: one of `registered_tasks(id)`, by default the first one.
        config: static configuration, the fields of the environment's class (sizes, capacities).

    Raises:
        ValueError: for an unknown id, task or field (the message lists the valid ones), or a value that the
            environment refuses.
        ImportError: where the class of a registered environment cannot be imported.
        TypeError: where it is no environment, or for a value that cannot be hashed.
    """
    env = _intern(configured(id, task=task, **config))
    env.prepare()
    return env


def configured(id: str, *, task: str | None = None, **config: Any) -> "Env":
    """An environment as from `make_env`, but not prepared: to be described, not to be run."""
    cls = env_class(id, task)
    fields = [f.name for f in dataclasses.fields(cls) if f.init]  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(config) - set(fields))
    if unknown:
        valid = ", ".join(["task", *fields])
        raise ValueError(f"{id!r} has no configuration field {unknown[0]!r}; valid fields: {valid}")
    for name, value in config.items():
        try:
            hash(value)
        except TypeError:
            raise TypeError(f"{cls.__name__}.{name} = {value!r}; must be hashable, for example a tuple") from None
    return cls(**config)


def as_env(env: "str | Env", **config: Any) -> "Env":
    """An environment as it is, or the one of an id and a configuration; prepared. It is what adapters take.

    Raises:
        TypeError: for what is no environment.
        ValueError: for a configuration beside an environment that has its own; else as `make_env`.
    """
    if isinstance(env, str):
        return make_env(env, **config)
    if not isinstance(env, _load("dmdenv.envs.base:Env")):
        raise TypeError(f"env = {env!r}; must be an environment, or an id")
    if config:
        raise ValueError(
            f"{sorted(config)[0]!r} beside an environment; must be given with an id, or to dataclasses.replace(env)"
        )
    env.prepare()
    return env


@functools.cache
def _intern(env: "Env") -> "Env":
    return env


# --- adding one -------------------------------------------------------------------------------------------------------


def register(id: str, cls: "type[Env] | str", *, task: str | None = None, gymnasium_id: str | None = None) -> None:
    """Add an environment: from now on `make_env`, Gymnasium, all adapters and the command line know it.

    A class of the same name may be registered again, as when a cell of a notebook is run again.

    Args:
        id: a word, such as "double_well".
        cls: the class; or "module:Class", which is imported when it is needed.
        task: a word; needed where an id has several classes, one per task.
        gymnasium_id: by default made from id and task, such as "dmdenv/DoubleWell-v0".

    Raises:
        ValueError: for an id, a task, a reference or a Gymnasium id that is malformed or taken, or a field with a name
            that hosts keep for themselves (`num_envs`, `render_mode`; the message lists them).
        TypeError: for a class that is no environment; the message says what is missing.
    """
    if isinstance(cls, str):
        _add(id, task, cls, gymnasium_id)
    else:
        _add(id, task, _reference(_reachable(check_class(cls, "cls"))), gymnasium_id, cls=cls)


def publish() -> None:
    """Tell Gymnasium of all environments, and read the entry points of other packages; `import dmdenv` does this."""
    for entry in BUILT_IN:
        _tell_gymnasium(entry)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        id, _, task = point.name.partition(".")
        try:
            _add(id, task or None, point.value, None, package=package)
        except (ValueError, gymnasium.error.Error) as error:
            _ignored[id] = f"the entry point {point.name!r} of {package} is ignored: {error}"
            _log.warning(_ignored[id])


def _add(
    id: str, task: str | None, reference: str, gymnasium_id: str | None, *, package: str = "", cls: Any = None
) -> None:
    for name, word in (("id", id), ("task", ONLY_TASK if task is None else task)):
        if not isinstance(word, str) or not re.fullmatch(r"[A-Za-z]\w*", word, re.ASCII):
            raise ValueError(f"{name} = {word!r}; must be a word of letters, digits and underscores")
    if cls is None and not re.fullmatch(r"[\w.]+:[\w.]+", reference):
        raise ValueError(f"cls = {reference!r}; must be a class, or 'module:Class'")
    tasks = {known: entry for (other, known), entry in _table.items() if other == id}
    if task is None and tasks and ONLY_TASK not in tasks:
        raise ValueError(f"id = {id!r} has the tasks {', '.join(tasks)}; must come with a task of another name")
    task = ONLY_TASK if task is None else task
    old = tasks.get(task)
    if old is not None and old.reference != reference:
        raise ValueError(f"id = {id!r}, task = {task!r}; must be new, and is that of {old.reference}")
    if old is not None:
        new = old._replace(gymnasium_id=gymnasium_id or old.gymnasium_id, cls=cls)
    else:
        words = [*id.split("_"), *(task.split("_") if tasks else ())]
        name = "".join(word[:1].upper() + word[1:] for word in words)
        new = Entry(id, task, reference, gymnasium_id or f"dmdenv/{name}-v0", package, cls)
    _tell_gymnasium(new)
    _table[id, task] = new


def _tell_gymnasium(entry: Entry) -> None:
    """Register with Gymnasium; a second time changes nothing."""
    arguments = entry.arguments
    kwargs = {"env": arguments.pop("id"), **arguments}  # `gymnasium.make` has an argument `id` of its own
    known = gymnasium.registry.get(entry.gymnasium_id)
    if known is None:
        gymnasium.register(
            id=entry.gymnasium_id,
            entry_point=f"{_ADAPTER}:GymnasiumEnv",
            vector_entry_point=f"{_ADAPTER}:GymnasiumVectorEnv",
            kwargs=kwargs,
        )
    elif known.kwargs != kwargs:
        raise ValueError(f"gymnasium_id = {entry.gymnasium_id!r}; must be new")


# --- classes ----------------------------------------------------------------------------------------------------------


def _reference(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def _registered(entry: Entry) -> "type[Env]":
    """The class of an entry."""
    if entry.cls is not None:
        return entry.cls
    try:
        cls = _load(entry.reference)
    except Exception as error:
        by = f" of {entry.package}" if entry.package else ""
        raise ImportError(
            f"the environment {entry.id!r}{by} cannot be imported: {entry.reference}: {type(error).__name__}: {error}"
        ) from error
    return _reachable(check_class(cls, entry.reference))


def _classes(id: str) -> "Mapping[str, Entry | type[Env]]":
    """What an id stands for, by task: `id`, `module:Class`, or `module:id` of a module that registers it."""
    if not isinstance(id, str):
        raise TypeError(f"id = {id!r}; must be one of {', '.join(registered_envs())}, or MODULE:CLASS")
    module, colon, name = id.partition(":")
    if colon:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and lacks something itself
            raise ValueError(f"id = {id!r}; must be MODULE:CLASS, and there is no module {module!r}") from None
        cls = getattr(found, name, None)
        if cls is not None:
            cls = _reachable(check_class(cls, id))
            return {entry_of(cls).task: cls}
    name = name if colon else id
    entries = {task: entry for (known, task), entry in _table.items() if known == name}
    if not entries and colon:
        raise ValueError(f"id = {id!r}; must be MODULE:CLASS, and {module} has no {name!r}")
    if not entries:
        why = f" ({_ignored[id]})" if id in _ignored else ""
        raise ValueError(f"id = {id!r}{why}; must be one of {', '.join(registered_envs())}, or MODULE:CLASS")
    return entries


def check_class(cls: Any, name: str) -> "type[Env]":
    """A class that is an environment; raises TypeError for any other."""
    Env = _load("dmdenv.envs.base:Env")  # no import: the base class reads this table
    if not isinstance(cls, type) or not issubclass(cls, Env):
        raise TypeError(f"{name} = {cls!r}; must be a subclass of dmdenv.Env")
    if cls.__abstractmethods__:
        raise TypeError(
            f"{cls.__name__} has no {', '.join(sorted(cls.__abstractmethods__))}; every environment needs it"
        )
    options = vars(cls).get("__dataclass_params__")
    if options is None or not options.frozen or not options.eq:
        raise TypeError(f"{cls.__name__} must be a frozen dataclass: @dataclasses.dataclass(frozen=True) above it")
    return cls


def _reachable(cls: Any) -> "type[Env]":
    """A class that is found by its name, whose fields hosts can pass on; raises ValueError for any other."""
    check_names(cls.__name__, (field.name for field in dataclasses.fields(cls) if field.init), KEPT_FROM_FIELDS)
    return cls


def check_names(of: str, names: Iterable[str], kept: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse fields with names that hosts keep for themselves; raises ValueError."""
    hosts = {name: host for host, theirs in kept.items() for name in theirs}
    for name in names:
        if name in hosts:
            valid = f"must be none of {', '.join(sorted(hosts))}"
            raise ValueError(f"{of}.{name} has a name that {hosts[name]} keeps for itself; {valid}")
