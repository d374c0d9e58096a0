"""check_env finds what is broken, one environment per fault, and passes what is not."""

import dataclasses
import functools
import itertools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from jax.custom_batching import custom_vmap

import dmdenv
from dmdenv._core.fields import field_values
from dmdenv.envs import ContractError, Env, Params, State, Transition, parameter
from probe_envs import PROBES


class SpringParams(Params):
    stiffness: jax.Array = parameter(default=2.0, unit="1/time^2", doc="of the spring", low=0.0)
    gain: jax.Array = parameter(default=1.0, unit="1/time^2", doc="acceleration by an action of 1")
    fault: jax.Array = parameter(default=0, unit="1", doc="which fault there is, see `Faulty`")


class SpringState(State):
    position: jax.Array  # []
    velocity: jax.Array  # []


@dataclasses.dataclass(frozen=True)
class Spring(Env[SpringState, SpringParams]):
    """A mass on a spring; nothing is broken."""

    @property
    def default_params(self):
        return SpringParams(max_steps=20)

    def observation_space(self, params=None):
        return gymnasium.spaces.Box(-10.0, 10.0, (2,))

    def action_space(self, params=None):
        return gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def initial_state(self, key, params):
        position, velocity = jax.random.normal(key, (2,))
        return SpringState(position=position, velocity=velocity)

    def advance(self, key, state, action, params):
        velocity = state.velocity + 0.1 * (params.gain * action[0] - params.stiffness * state.position)
        state = state.replace(position=state.position + 0.1 * velocity, velocity=velocity)
        return Transition(state, -(state.position**2), metrics={"speed": jnp.abs(velocity)})

    def observe(self, state, params):
        return jnp.clip(jnp.stack([state.position, state.velocity]), -10.0, 10.0)


def test_an_environment_that_keeps_the_contract_passes():
    dmdenv.check_env(Spring(), seeds=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_probes_keep_the_contract(name):
    dmdenv.check_env(PROBES[name]())


def test_too_few_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds = 3; must be an integer >= 4"):
        dmdenv.check_env(Spring(), seeds=3)


# --- faults that show without running anything ------------------------------------------------------------------------


class Undecorated(Spring):
    pass


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedByIdentity(Spring):
    pass


@dataclasses.dataclass(frozen=True)
class WithAList(Spring):
    sizes: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class UnlikeItsCopy(Spring):
    made: list = dataclasses.field(default_factory=list, init=False, hash=False)

    def __post_init__(self):
        self.made.append(object())


_UNLIKE = itertools.count()  # numbers that a pure function would not know


@dataclasses.dataclass(frozen=True)
class RandomDefaults(Spring):
    @property
    def default_params(self):
        return SpringParams(gain=0.1 + 0.7 * next(_UNLIKE) % 1.0)


class UndeclaredParams(Params):
    stiffness: jax.Array = dataclasses.field(default_factory=lambda: jnp.float32(1.0))


@dataclasses.dataclass(frozen=True)
class UndeclaredParameter(Spring):
    @property
    def default_params(self):
        return UndeclaredParams()


@dataclasses.dataclass(frozen=True)
class PositiveActions(Spring):
    def action_space(self, params=None):
        return gymnasium.spaces.Box(0.0, 1.0, (1,))


@dataclasses.dataclass(frozen=True)
class DiscreteActions(Spring):
    def action_space(self, params=None):
        return gymnasium.spaces.Discrete(2)


@dataclasses.dataclass(frozen=True)
class ObservesTooMuch(Spring):
    def observe(self, state, params):
        return jnp.stack([state.position, state.velocity, state.position])


@dataclasses.dataclass(frozen=True)
class ObservesIntegers(Spring):
    def observe(self, state, params):
        return super().observe(state, params).astype(int)


@dataclasses.dataclass(frozen=True)
class StateIsADict(Spring):
    def initial_state(self, key, params):
        return field_values(super().initial_state(key, params))


@dataclasses.dataclass(frozen=True)
class VectorReward(Spring):
    def advance(self, key, state, action, params):
        return super().advance(key, state, action, params)._replace(reward=action)


@dataclasses.dataclass(frozen=True)
class FloatTermination(Spring):
    def advance(self, key, state, action, params):
        return super().advance(key, state, action, params)._replace(terminated=0.0)


@dataclasses.dataclass(frozen=True)
class ReservedMetric(Spring):
    def advance(self, key, state, action, params):
        return super().advance(key, state, action, params)._replace(metrics={"reward": state.position})


@dataclasses.dataclass(frozen=True)
class VectorMetric(Spring):
    def advance(self, key, state, action, params):
        return super().advance(key, state, action, params)._replace(metrics={"action": action})


@dataclasses.dataclass(frozen=True)
class StateChangesType(Spring):
    def advance(self, key, state, action, params):
        transition = super().advance(key, state, action, params)
        return transition._replace(state=transition.state.replace(position=jnp.int32(0)))


@dataclasses.dataclass(frozen=True)
class Branches(Spring):
    def advance(self, key, state, action, params):
        if state.position > 0:
            action = -action
        return super().advance(key, state, action, params)


@dataclasses.dataclass(frozen=True)
class BadBaseline(Spring):
    def baselines(self, params=None):
        return {"rest": lambda key, observation: jnp.zeros(3)}


@dataclasses.dataclass(frozen=True)
class TakesAnyAction(Spring):
    def _action(self, action):
        return jnp.ravel(action)[:1]


@dataclasses.dataclass(frozen=True)
class StepForgetsInfo(Spring):
    def step(self, key, state, action, params=None):
        *out, info = super().step(key, state, action, params)
        return *out, {"overflow": info["overflow"]}


@dataclasses.dataclass(frozen=True)
class DrawsByNumPy(Spring):
    def advance(self, key, state, action, params):
        return super().advance(key, state, action + 0.7 * next(_UNLIKE) % 1.0, params)


@dataclasses.dataclass(frozen=True)
class KeepsATrace(Spring):
    @functools.cached_property
    def half(self):
        return 0.5 * jnp.ones(2)

    def observe(self, state, params):
        return super().observe(state, params) * self.half


STATIC = [
    (Undecorated, "must be a frozen dataclass"),
    (ComparedByIdentity, "must be a frozen dataclass"),
    (WithAList, r"it is not hashable .*; every field must be, for example a tuple instead of a list"),
    (UnlikeItsCopy, "a copy of the same fields is not equal to it"),
    (RandomDefaults, "default_params differs from one call to the next"),
    (UndeclaredParameter, r"the parameter 'stiffness' is not declared by parameter\(...\)"),
    (PositiveActions, r"action_space is Box\(0.0, 1.0, .*, and not from -1 to 1"),
    (DiscreteActions, r"action_space is Discrete\(2\), and no Box"),
    (ObservesTooMuch, r"observe returns shape \[3\], observation_space has \[2\]"),
    (ObservesIntegers, "observe returns int32, and no floats"),
    (StateIsADict, "initial_state returns a dict, and no State"),
    (VectorReward, r"advance returns a reward float32\[1\], and no float \[\]"),
    (FloatTermination, r"advance returns terminated as float32\[\], and no bool \[\]"),
    (ReservedMetric, "the metric 'reward' has a name that is reserved"),
    (VectorMetric, r"the metric 'action' is float32\[1\], and no scalar"),
    (StateChangesType, r"a state of another type: .position is int32\[\], and was float32\[\]"),
    (Branches, "advance cannot be compiled: Attempted boolean conversion"),
    (BadBaseline, r"the baseline 'rest' gives actions \[3\]"),
    (TakesAnyAction, "step takes an action of the wrong shape"),
    (StepForgetsInfo, "step returns something else than step_env: .*final_observation.* is missing"),
    (DrawsByNumPy, "advance is not pure: traced twice, it is not the same program"),
    (KeepsATrace, "its attribute 'half' keeps a value of a trace"),
]


@pytest.mark.parametrize(("cls", "message"), STATIC, ids=[cls.__name__ for cls, _ in STATIC])
def test_what_is_broken_is_named(cls, message):
    with pytest.raises(ContractError, match=f"{cls.__name__}: .*{message}"):
        dmdenv.check_env(cls(), seeds=4)


# --- faults that show when it runs ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Faulty(Spring):
    """A spring with the fault of this number in its parameters, so that all of them share their programs."""

    FAULTS = (
        "none", "nan", "outside", "late", "unclipped", "endless", "leaks", "stale", "stopped", "infinite slope",
        "noise", "gradient through reset", "jump",
    )  # fmt: skip

    def params_of(self, fault):
        return self.default_params.replace(fault=self.FAULTS.index(fault))

    def initial_state(self, key, params):
        is_ = self._is(params)
        return super().initial_state(key, params).replace(time=jnp.where(is_("late"), jnp.int32(1), jnp.int32(0)))

    def advance(self, key, state, action, params):
        is_ = self._is(params)
        state, reward, terminated, metrics = super().advance(key, state, action, params)
        x, still = state.position, jax.lax.stop_gradient(state.position)
        state = state.replace(position=jnp.where(is_("nan") & (x > 1.5), jnp.nan, x))
        reward = jnp.where(is_("stopped"), -(still**2), reward)
        reward += jnp.where(is_("infinite slope"), jnp.sqrt(jnp.where(is_("infinite slope"), 0.0 * x, 1.0)), 0.0)
        reward += jnp.where(is_("noise"), jnp.sin(1e12 * x) + jnp.sin(1e12 * action[0]), 0.0)
        reward += jnp.where(is_("jump"), jnp.where(x > 0.5, 1.0, 0.0) + jnp.abs(x), 0.0)
        return Transition(state, reward, terminated, {**metrics, "action": action[0]})

    def observe(self, state, params):
        obs = super().observe(state, params)
        return jnp.where(self._is(params)("outside") & (state.time > 0), 20.0 + obs, obs)

    def step(self, key, state, action, params=None):
        is_, before = self._is(params), state
        obs, state, reward, terminated, truncated, info = super().step(key, state, action, params)
        done = terminated | truncated
        info["action"] = jnp.where(is_("unclipped"), jnp.asarray(action)[0], info["action"])
        truncated &= ~is_("endless")
        obs += jnp.where(is_("leaks"), 0.0 * before.position, 0.0)
        state = jax.tree.map(lambda new, old: jnp.where(is_("stale") & done, old, new), state, before)
        finite = jnp.nan_to_num(before.position)
        passing = finite - jax.lax.stop_gradient(finite)
        obs += jnp.where(is_("gradient through reset") & done, passing, 0.0)
        return obs, state, reward, terminated, truncated, info

    def _is(self, params):
        return lambda fault: params.fault == self.FAULTS.index(fault)


def slow(*cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"at a random action, numbers are not finite \(seed [0-9]+\)"),
        ("outside", "after step, an observation is outside of observation_space"),
        ("late", "initial_state returns a time that is not 0"),
        ("unclipped", r"actions beyond \[-1, 1\] are not clipped: .*'action'.* differs by 6"),
        ("endless", "an episode goes on beyond max_steps"),
        ("leaks", r"a NaN of a state leaks into \[0\]"),
        ("stale", "the time of a state is not the number of steps in its episode"),
    ],
)
def test_what_goes_wrong_in_a_run_is_named(fault, message):
    env = Faulty()
    with pytest.raises(ContractError, match=f"Faulty: {message}"):
        dmdenv.check_env(env, params=env.params_of(fault), gradients=False, seeds=32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("stopped", "the derivative of the reward with respect to state is 0 by reverse mode, and .* by central diff"),
        ("infinite slope", "the derivative of the observation with respect to state is not finite"),
        ("noise", r"the derivative of the reward with respect to state cannot be checked: .*gradients=False"),
        ("gradient through reset", "a gradient flows through a reset"),
    ],
)
def test_what_is_wrong_with_a_gradient_is_named(fault, message):
    env = Faulty()
    with pytest.raises(ContractError, match=f"Faulty: {message}"):
        dmdenv.check_env(env, params=env.params_of(fault), seeds=32)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "gradients"), [("jump", True), ("none", True), ("noise", False), ("stopped", False)])
def test_rewards_may_jump_and_gradients_may_be_left_out(fault, gradients):
    env = Faulty()
    dmdenv.check_env(env, params=env.params_of(fault), seeds=32, gradients=gradients)


# --- faults of a program ----------------------------------------------------------------------------------------------


@custom_vmap
def twice_in_a_batch(x):
    return x


@twice_in_a_batch.def_vmap
def _(axis_size, in_batched, x):
    return 2 * x, in_batched[0]


@dataclasses.dataclass(frozen=True)
class OtherInABatch(Spring):
    def advance(self, key, state, action, params):
        transition = super().advance(key, state, action, params)
        return transition._replace(reward=twice_in_a_batch(transition.reward))


@custom_vmap
def without_the_mean(x):
    return x


@without_the_mean.def_vmap
def _(axis_size, in_batched, x):
    return x + 0.0 * jnp.mean(x), in_batched[0]


@dataclasses.dataclass(frozen=True)
class MixesInstances(Spring):
    def advance(self, key, state, action, params):
        transition = super().advance(key, state, action, params)
        return transition._replace(reward=without_the_mean(transition.reward))


class AsGiven(SpringParams):
    def replace(self, **changes):
        copy = super().replace(**changes)
        for name, value in changes.items():
            object.__setattr__(copy, name, value)
        return copy


@dataclasses.dataclass(frozen=True)
class CompilesAnew(Spring):
    @property
    def default_params(self):
        return AsGiven(max_steps=20)


@dataclasses.dataclass(frozen=True)
class OtherWhenEager(Spring):
    def advance(self, key, state, action, params):
        return super().advance(key, state, action if isinstance(action, Tracer) else -action, params)


@dataclasses.dataclass(frozen=True)
class ChangesItsState(Spring):
    def advance(self, key, state, action, params):
        transition = super().advance(key, state, action, params)
        object.__setattr__(state, "position", transition.state.position)
        return transition


@dataclasses.dataclass(frozen=True)
class GreyPicture(Spring):
    def render(self, state, params=None):
        return np.zeros((3, 3))


@dataclasses.dataclass(frozen=True)
class SinglePrecision(Spring):
    def observe(self, state, params):
        return super().observe(state, params).astype(jnp.float32)


PROGRAMS = [
    (OtherInABatch, r"one instance and the same one in a batch differ: \[2\] differs by"),
    (MixesInstances, "a NaN in one instance changes another one"),
    (CompilesAnew, "step is compiled anew where a parameter changes"),
    (OtherWhenEager, "advance and observe, compiled and eager, differ: the observation"),
    (ChangesItsState, "advance, observe or initial_state changes its arguments"),
    (GreyPicture, r"render returns no image, uint8 \[H, W, 3\]"),
    (SinglePrecision, r"with jax_enable_x64, \['observation'\] is float32"),
]


@pytest.mark.parametrize(
    ("cls", "message"),
    [PROGRAMS[0], *slow(*PROGRAMS[1:])],
    ids=[cls.__name__ for cls, _ in PROGRAMS],
)
def test_what_is_wrong_with_a_program_is_named(cls, message):
    with pytest.raises(ContractError, match=f"{cls.__name__}: {message}"):
        dmdenv.check_env(cls(), seeds=4)
