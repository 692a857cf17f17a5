"""Environments that others wrote: what they surprise us with is right, or refused in a sentence."""

import json
import os
import random
import re
import subprocess
import sys
import zlib
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import TransformObservation

import envs
import maml_trpo
import rl2_ppo
import snail_ppo
from helpers import ROOT, run_here

SCRIPTS = [maml_trpo, rl2_ppo, snail_ppo]
MODES = ["sync", "async"]
PPO = {
    "total_timesteps": 1,
    "num_envs": 4,
    "num_minibatches": 2,
    "update_epochs": 1,
    "episodes_per_trial": 2,
    "eval_trials": 4,
    "cuda": False,
}
TINY = {
    maml_trpo: {
        "num_iterations": 1,
        "meta_batch_size": 2,
        "episodes_per_task": 2,
        "hidden_size": 4,
        "eval_trials": 4,
        "eval_episodes": 2,
        "cuda": False,
    },
    rl2_ppo: PPO | {"hidden_size": 4},
    snail_ppo: PPO | {"sizes": (4, 4, 4, 4), "tc_blocks": 1},
}
RUNS = count()

pytestmark = pytest.mark.filterwarnings("ignore:.*WARN", "ignore:.*ERROR")  # gymnasium's log
every_script = pytest.mark.parametrize("module", SCRIPTS, ids=lambda module: module.ALGORITHM)
ppo_scripts = pytest.mark.parametrize("module", SCRIPTS[1:], ids=lambda module: module.ALGORITHM)


class Base(gym.Env):
    """An ordinary environment that others complete: what is seen, what is paid, what a task is."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(3)

    def sample_task(self, rng):
        return rng.random()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = options["task"]
        return self.look(), {}

    def step(self, action):
        return self.look(), self.pay(action), False, False, {}

    def look(self):
        return np.zeros(2, np.float32)

    def pay(self, action):
        return 0.0


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Registers an environment as Own-v0, of 10 steps an episode, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def register(kind):
        gym.registry.pop("Own-v0", None)
        if isinstance(kind, type) and issubclass(kind, gym.vector.VectorEnv):
            gym.register("Own-v0", vector_entry_point=kind)
        else:
            gym.register("Own-v0", entry_point=kind, max_episode_steps=10)

    yield register
    gym.registry.pop("Own-v0", None)


def train(module, env_id="Own-v0", **settings):
    """The result of a tiny run, and its folder."""
    settings = {**TINY[module], "env_id": env_id, "exp_name": f"number{next(RUNS)}x", **settings}
    result = module.train(module.Args(**settings))
    runs = Path("runs").glob(f"*__{settings['exp_name']}__*")
    return result, max(runs, key=os.path.getmtime)


def make_agent(module, env, **settings):
    """An agent of RL^2 or SNAIL for an environment."""
    torch.manual_seed(0)
    return module.Agent(env, module.Args(**{**TINY[module], **settings}))


def evaluate(module, tasks, **env_kwargs):
    """What an agent that was never trained earns in Own-v0: [tasks, episodes]."""
    env = envs.make("Own-v0", 1, **env_kwargs)
    if module is maml_trpo:
        torch.manual_seed(0)
        policy = module.Policy(env, module.Args(**TINY[module]))
        params = policy.initial_params()
        returns = module.evaluate(policy, params, "Own-v0", env_kwargs, tasks, 2)
    else:
        agent = make_agent(module, env)
        returns = module.evaluate(agent, "Own-v0", env_kwargs, tasks, 2)
    env.close()
    return returns.reshape(len(tasks), -1)


def roll_out(module, env, tasks, **settings):
    """Some episodes of an agent that was never trained, in each of the tasks."""
    if module is maml_trpo:
        policy = module.Policy(env, module.Args(**{**TINY[module], **settings}))
        return module.rollout(policy, policy.initial_params(), env, tasks, 3)
    return module.rollout(make_agent(module, env, **settings), env, tasks, 2, 3)


def scores(result):
    """What an evaluation found, of all that a run's result holds."""
    names = [name for name in result if name.startswith("return_") and name != "return_by_task"]
    return {name: result[name] for name in names}


def refused(call, words):
    """Asserts that the call ends with one sentence, in which the words are."""
    with pytest.raises(envs.UsageError) as error:
        call()
    assert "\n" not in str(error.value)
    assert re.search(words, str(error.value)), str(error.value)


# --------------------------------------------------------------------------------- range of actions


class Aim(Base):
    """Pays for hitting a place in the range of actions, whose ends count as -1 and 1."""

    def __init__(self, low, high, dtype="float32"):
        self.action_space = Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)

    def sample_task(self, rng):
        return rng.uniform(-1, 1)

    def pay(self, action):
        assert action in self.action_space
        low = self.action_space.low.astype(np.longdouble)
        high = self.action_space.high.astype(np.longdouble)
        place = 2 * (action - low) / (high - low) - 1
        return -float(np.abs(place - self.task).sum())


RANGES_OF_TWO_AXES = [
    ([30, -100], [31, 100], "float32"),
    ([-5, 0], [0, 1e-3], "float32"),
    ([-3, 1e8], [-1, 1e8 + 1], "float64"),
    ([-3e38, -1], [3e38, 1], "float32"),  # a distance that float32 does not hold
]


@every_script
def test_any_finite_range_learns_as_minus_one_to_one_does(module, register):
    register(Aim)
    settings = {"num_iterations": 3} if module is maml_trpo else {"total_timesteps": 320}
    usual, _ = train(module, env_kwargs={"low": [-1, -1], "high": [1, 1]}, **settings)
    for low, high, dtype in RANGES_OF_TWO_AXES:
        kwargs = {"low": low, "high": high, "dtype": dtype}
        result, _ = train(module, env_kwargs=kwargs, **settings)
        for name, numbers in scores(usual).items():
            np.testing.assert_allclose(result[name], numbers, rtol=1e-3, err_msg=str(kwargs))


class Played(Aim):
    """Keeps the actions that it gets."""

    given = []

    def pay(self, action):
        self.given.append(action)
        return 0.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "dtype, bound", [("float32", 3.4e38), ("float64", 1e39), ("float64", 1e300)]
)
def test_actions_beyond_a_very_large_range_are_clipped_without_a_warning(
    dtype, bound, register, monkeypatch
):
    register(Played)
    monkeypatch.setattr(Played, "given", [])
    env = envs.make("Own-v0", 4, low=[-bound], high=[bound], dtype=dtype)
    env.reset(seed=0)
    env.step(np.array([[-7], [0], [0.5], [7]], np.float32))
    given = np.array(Played.given)
    assert given.dtype == dtype
    np.testing.assert_allclose(given[:, 0] / bound, [-1, 0, 0.5, 1], rtol=1e-6)


def test_a_box_of_more_than_64_bits_is_refused_as_actions(register):
    """torch has no such numbers."""
    register(Aim)
    kwargs = {"low": [0], "high": [1], "dtype": "longdouble"}
    refused(lambda: envs.make("Own-v0", 2, **kwargs), r"Own-v0.*Box.*float128.*64 bits")


class Precise(Base):
    """Sees numbers of a type."""

    def __init__(self, dtype):
        self.observation_space = Box(-1, 1, (2,), dtype)

    def look(self):
        return np.full(2, 0.5, self.observation_space.dtype)


@every_script
def test_floats_of_at_most_64_bits_are_seen(module, register):
    register(Precise)
    kwargs = {"dtype": "longdouble"}
    refused(lambda: envs.make("Own-v0", 2, **kwargs), "Own-v0.*Box.*float128.*64 bits")
    for dtype in ("float16", "float32", "float64"):
        tasks = envs.make("Own-v0", dtype=dtype).sample_tasks(2, 0)
        assert (evaluate(module, tasks, dtype=dtype) == 0).all()


class AimBatch(envs.TaskVectorEnv):
    """A vector environment with a range of actions; keeps what it is given. Observes nothing."""

    def __init__(self, num_envs, low=-1, high=1, dtype="float32"):
        space = Box(np.atleast_1d(low).astype(dtype), np.atleast_1d(high).astype(dtype))
        if np.dtype(dtype).kind in "iu":
            space = Box(low, high, (1,), dtype)
        super().__init__(num_envs, 20, Discrete(1), space)
        self.given = []

    def _draw(self, num_tasks, rng):
        return rng.choice([-1.0, 1.0], num_tasks)

    def _advance(self, actions):
        assert actions in self.action_space
        self.given.append(actions.copy())
        reward = self.tasks * actions[:, 0]
        return reward, np.zeros(self.num_envs, dtype=bool), {}


@pytest.mark.parametrize("kind", [Aim, AimBatch])
@pytest.mark.parametrize(
    "low, high, dtype",
    [(-100, 100, "int8"), (0, 4, "int64"), (0, 255, "uint8"), (-1, 1, "int32")],
)
def test_boxes_of_whole_numbers_are_refused_as_actions(kind, low, high, dtype, register):
    register(kind)
    kwargs = {"low": [low], "high": [high], "dtype": dtype}
    if kind is AimBatch:
        kwargs |= {"low": low, "high": high}
    refused(lambda: envs.make("Own-v0", 2, **kwargs), rf"Own-v0.*Box.*{dtype}")


class Image(Base):
    def __init__(self, dtype):
        super().__init__()
        self.observation_space = Box(0, 100, (4, 4, 3), dtype)

    def look(self):
        return np.full((4, 4, 3), 7, self.observation_space.dtype)


@every_script
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32", "int64"])
def test_boxes_of_whole_numbers_stay_as_observations(module, dtype, register):
    register(Image)
    result, _ = train(module, env_kwargs={"dtype": dtype}, norm_obs=True)
    assert result["return_mean"] == 0
    tasks = envs.make("Own-v0", dtype=dtype).sample_tasks(2, 0)
    assert (evaluate(module, tasks, dtype=dtype) == 0).all()


# ------------------------------------------------------------------------ actions outside the space


RANGES = [
    {},
    {"low": 30, "high": 31},
    {"low": 0, "high": np.inf},
    {"low": [0, -np.inf, 2], "high": [np.inf, 5, 4]},
]


@every_script
@pytest.mark.parametrize("kwargs", RANGES)
def test_an_environment_gets_actions_of_its_space_in_training_and_evaluation(
    module, kwargs, register
):
    register(AimBatch)  # which checks them
    result, _ = train(module, env_kwargs=kwargs, action_scale=5.0)
    if not kwargs:
        assert max(np.abs(result["return_by_episode"])) <= 20  # a step pays 1 at most


# --------------------------------------------------------------------------------- ends of episodes


class Countdown(envs.TaskVectorEnv):
    """A task is the number of steps until the end, 1 to 5, and a step pays 1.

    `form` names the type in which `_advance` or `step` (`place`) give the flags of an end.
    """

    def __init__(self, num_envs, form="bool", place="_advance"):
        super().__init__(num_envs, 5, Discrete(6), Discrete(2))
        self.form = form
        self.place = place

    def _draw(self, num_tasks, rng):
        return rng.integers(1, 6, num_tasks)

    def _advance(self, actions):
        self._state += 1
        ended = self._state == self.tasks
        if self.place == "_advance":
            ended = change(ended, self.form)
        return np.ones(self.num_envs), ended, {}

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        if self.place == "step":
            terminated = change(terminated, self.form)
            truncated = change(truncated, self.form)
        return obs, reward, terminated, truncated, info


def change(flags, form):
    """Flags of episodes' ends [N], as somebody may write them."""
    if form == "scalar":
        return False
    if form == "None":
        return None
    if form == "text":
        return flags.astype(str)
    if form == "half":
        return flags * 0.5
    if form == "not a number":
        return np.where(flags, np.nan, 0.0)
    if form == "short":
        return flags[:-1]
    if form == "column":
        return flags[:, None]
    if form == "square":
        return np.stack([flags] * len(flags))
    if form == "list":
        return flags.tolist()
    if form == "two":
        return flags * 2
    return flags.astype(form)


def log_of_a_run(env):
    """All that 12 steps give."""
    obs, _ = env.reset(seed=0, options={"tasks": np.array([1, 2, 4, 5])})
    log = [obs]
    for _ in range(12):
        obs, reward, terminated, truncated, _ = env.step(np.zeros(4, int))
        log += [obs, reward, terminated, truncated]
    return log


PLACES = pytest.mark.parametrize("place", ["_advance", "step"])


@PLACES
@pytest.mark.parametrize("form", ["int64", "int8", "uint8", "int32", "list", "two"])
def test_flags_of_whole_numbers_count_as_booleans(form, place, register):
    register(Countdown)
    right = log_of_a_run(envs.make("Own-v0", 4))
    log = log_of_a_run(envs.make("Own-v0", 4, form=form, place=place))
    for theirs, ours in zip(log, right, strict=True):
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, ours)


@every_script
@PLACES
def test_flags_of_whole_numbers_end_the_right_episodes(module, place, register):
    register(Countdown)
    returns = evaluate(module, np.array([1, 2, 4, 5, 3]), form="int64", place=place)
    assert (returns.T == [1, 2, 4, 5, 3]).all()


@PLACES
@pytest.mark.parametrize(
    "form",
    ["None", "text", "half", "not a number", "short", "column", "square", "float64", "object"],
)
def test_flags_of_a_wrong_shape_or_type_are_refused(form, place, register):
    register(Countdown)
    env = envs.make("Own-v0", 4, form=form, place=place)
    refused(lambda: log_of_a_run(env), "terminated|truncated")


def test_one_flag_for_all_counts_for_all(register):
    register(Countdown)
    env = envs.make("Own-v0", 4, form="scalar", place="_advance")  # False
    env.reset(seed=0, options={"tasks": np.array([1, 2, 3, 4])})
    *_, terminated, truncated, _ = env.step(np.zeros(4, dtype=int))
    assert terminated.tolist() == truncated.tolist() == [False] * 4


class Endless(Countdown):
    """Sub-environments from `first` on say of no episode that it has ended."""

    def __init__(self, num_envs, first=1):
        super().__init__(num_envs)
        self.first = first
        self.num_steps = 0

    def step(self, actions):
        self.num_steps += 1
        assert self.num_steps < 100, "nobody has noticed that it does not end"
        obs, reward, terminated, truncated, info = super().step(actions)
        terminated[self.first :] = False
        truncated[self.first :] = False
        return obs, reward, terminated, truncated, info


class Untimed(gym.vector.VectorEnv):
    """A vector environment from nothing; its episodes end by themselves where `ends` is true."""

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    horizon = 5

    def __init__(self, num_envs=1, ends=False):
        self.num_envs = num_envs
        self.ends = ends
        self.single_observation_space = Box(-1, 1, (1,))
        self.single_action_space = Discrete(2)
        self.observation_space = Box(-1, 1, (num_envs, 1))
        self.action_space = gym.spaces.MultiDiscrete([2] * num_envs)
        self.num_steps = 0

    def sample_tasks(self, num_tasks, rng):
        return rng.random(num_tasks)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros((self.num_envs, 1), np.float32), {}

    def step(self, actions):
        self.num_steps += 1
        assert self.num_steps < 100, "nobody has noticed that it does not end"
        self.time += 1
        ended = np.full(self.num_envs, self.ends and self.time % 5 in (0, 3))
        obs = np.zeros((self.num_envs, 1), np.float32)
        return obs, np.ones(self.num_envs), ended, np.zeros_like(ended), {}


@pytest.mark.parametrize("kind, index", [(Endless, 1), (Untimed, 0)])
def test_an_episode_without_an_end_is_a_sentence(kind, index, register):
    register(kind)
    env = envs.make("Own-v0", 3)
    env.reset(seed=0)

    def play():
        for _ in range(15):
            env.step(np.zeros(3, int))

    refused(play, rf"sub-environment {index}\D.*\b5\b")


@every_script
@pytest.mark.parametrize("kind, index", [(Endless, 1), (Untimed, 0)])
def test_training_stops_where_an_episode_has_no_end(module, kind, index, register):
    register(kind)
    refused(lambda: train(module), rf"sub-environment {index}\D.*\b5\b")


def test_episodes_that_end_at_the_horizon_or_before_are_no_fault(register):
    register(Untimed)
    env = envs.make("Own-v0", 3, ends=True)
    for steps in (4, 9, 31):  # a reset begins a new count
        env.reset(seed=0)
        for _ in range(steps):
            env.step(np.zeros(3, int))
    register(Endless)
    env = envs.make("Own-v0", 3, first=3)  # all end
    for steps in (4, 4, 31):
        env.reset(seed=0, options={"tasks": np.array([5, 5, 2])})
        for _ in range(steps):
            env.step(np.zeros(3, int))


# --------------------------------------------------------------------------- arrays that are shared


class Careless(envs.TaskVectorEnv):
    """A walk from 0. It writes into its actions, and pays with a part of `_state`."""

    def __init__(self, num_envs=1):
        super().__init__(num_envs, 3, Box(-np.inf, np.inf, (1,)), Discrete(3))

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)

    def _advance(self, actions):
        actions += 1
        self._state[:, 0] += actions
        actions[:] = 0
        return self._state[:, 0], False, {}


class Mirrored(Untimed):
    """Observations and rewards are numpy's views of arrays, in reverse order."""

    def __init__(self, num_envs=1):
        super().__init__(num_envs, ends=True)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.numbers(), {}

    def step(self, actions):
        _, _, ended, truncated, info = super().step(actions)
        return self.numbers(), self.numbers()[:, 0], ended, truncated, info

    def numbers(self):
        return np.linspace(0, 1, self.num_envs, dtype=np.float32)[::-1, None]


def by_trial(module, numbers):
    """MAML's [M, 1, T] or the others' [T, N] as [N, T]."""
    return numbers.flatten(0, 1) if module is maml_trpo else numbers.T


@every_script
def test_an_environment_may_change_its_actions_and_what_it_has_returned(module, register):
    register(Careless)
    env = envs.make("Own-v0", 50)
    data = roll_out(module, env, np.zeros(50))
    action = by_trial(module, data["action"]).reshape(-1, 3)  # [episodes, 3]
    assert set(action.unique().tolist()) == {0, 1, 2}  # as they were drawn
    reward = by_trial(module, data["reward"]).reshape(-1, 3)
    # the position after each step, after the last one of an episode too
    assert torch.equal(reward, (action + 1).cumsum(1).float())


@every_script
def test_arrays_in_reverse_order_are_read_as_they_are(module, register):
    register(Mirrored)
    data = roll_out(module, envs.make("Own-v0", 4), np.zeros(4))
    reward = by_trial(module, data["reward"])  # [N, T]
    torch.testing.assert_close(reward, torch.linspace(1, 0, 4)[:, None].expand_as(reward))


# -------------------------------------------------------------------------------------------- tasks


@dataclass
class Goal:
    name: str
    places: list


def possible_tasks(number):
    """Tasks, as somebody's sample_task may give them."""
    return {
        "tuple": ("red", number),
        "boolean and number": (number > 2, 0.3),
        "pair of numbers": (number, 0.5),
        "large": 2**60 + number,
        "larger": 2**80 + number,
        "list": [0.5] * number,
        "list of one length": [number, 2, 3],
        "nested": ((number, 2.5), ("a", [number, True])),
        "dict": {"speed": number, "walls": [number], "inner": {"x": (1, None)}},
        "nothing or number": None if number < 3 else number,
        "nothing": None,
        "text": "red" * number,
        "bytes": b"red\0" * number,
        "boolean": number > 2,
        "whole": number,
        "float": number / 3,
        "array": np.arange(3, dtype=np.int8) + np.int8(number),
        "array of its own length": np.arange(number, dtype=np.float32),
        "array in a tuple": (np.arange(number), "red"),
        "scalar": np.float32(number / 3),
        "scalar boolean": np.bool_(number > 2),
        "scalar of bytes": np.uint8(number),
        "object": Goal("red", [number]),
        "empty": (),
    }


def draw(kind, rng):
    """A task of that kind."""
    return possible_tasks(int(rng.integers(1, 5)))[kind]


KINDS = list(possible_tasks(1))
NUMBERS = ["whole", "float", "array", "scalar", "scalar boolean", "scalar of bytes"]
OBJECTS = [kind for kind in KINDS if kind not in NUMBERS]  # which numpy would change


def describe(task):
    """Type and value of a task, of its parts too, as text."""
    if isinstance(task, np.ndarray):
        return f"array {task.dtype} {task.shape} {task.tolist()}"
    if isinstance(task, dict):
        return f"dict {[(name, describe(part)) for name, part in task.items()]}"
    if isinstance(task, (list, tuple)):
        return f"{type(task).__name__} {[describe(part) for part in task]}"
    if isinstance(task, float):  # numpy's is one, too
        return f"float {float(task)}"
    return f"{type(task).__name__} {task!r}"


def code(task):
    """A number that float32 holds, for a task's description."""
    return zlib.crc32(describe(task).encode()) % 2**20


def spoil(task):
    """Changes the task and its parts, where they can be changed."""
    if isinstance(task, np.ndarray):
        task += 1
    if isinstance(task, Goal):
        task.places.append(7)
    if isinstance(task, (tuple, list)):
        for part in task:
            spoil(part)
    if isinstance(task, list):
        task.append(7)
    if isinstance(task, dict):
        for part in task.values():
            spoil(part)
        task["changed"] = True


class Told(Base):
    """Observes which task it was given, pays its number, and then changes it."""

    def __init__(self, kind):
        self.kind = kind

    def sample_task(self, rng):
        kind = self.kind
        if kind == "mixed":
            kind = OBJECTS[rng.integers(len(OBJECTS))]
        return draw(kind, rng)

    def look(self):
        return np.array([self.code, 0], np.float32)

    def reset(self, *, seed=None, options=None):
        self.code = code(options["task"])
        obs, info = super().reset(seed=seed, options=options)
        spoil(self.task)
        return obs, info

    def pay(self, action):
        return self.code / 10


def assert_told(env, tasks, codes):
    """Each sub-environment gets the task of its code, at the first reset and at later ones."""
    before = [describe(task) for task in tasks]
    for _ in range(2):
        obs, _ = env.reset(seed=0, options={"tasks": tasks})
        assert obs[:, 0].tolist() == codes
        for _ in range(11):  # beyond the end of an episode
            obs, *_ = env.step(np.zeros(len(tasks), int))
            assert obs[:, 0].tolist() == codes
    obs, _ = env.reset(seed=1)  # names no tasks: they are kept
    assert obs[:, 0].tolist() == codes
    assert [describe(task) for task in tasks] == before


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_reset_gets_what_sample_task_gave(kind, register):
    register(Told)
    env = envs.make("Own-v0", 4, kind=kind)
    rng = np.random.default_rng(7)
    given = [Told(kind).sample_task(rng) for _ in range(2)]
    tasks = env.sample_tasks(2, 7)
    assert len(tasks) == 2
    first = code(given[0])
    second = code(given[1])
    assert_told(env, np.repeat(tasks, 2, axis=0), [first, first, second, second])


@pytest.mark.parametrize("kind", ["mixed", "boolean and number", "dict", "large"])
def test_reset_gets_what_sample_task_gave_in_processes_too(kind, register):
    register(Told)
    env = envs.make("Own-v0", 3, kind=kind, vectorization_mode="async")
    tasks = env.sample_tasks(3, 7)
    assert_told(env, tasks, [code(task) for task in tasks])
    env.close()


@pytest.mark.parametrize("kind", [*OBJECTS, "mixed"])
def test_tasks_that_are_no_numbers_are_an_array_of_objects(kind, register):
    register(Told)
    env = envs.make("Own-v0", 2, kind=kind)
    tasks = env.sample_tasks(5, 3)
    assert tasks.shape == (5,)
    assert tasks.dtype == object
    again = env.sample_tasks(5, 3)
    assert [describe(task) for task in tasks] == [describe(task) for task in again]
    assert [describe(task) for task in tasks[1:3]] == [describe(task) for task in again][1:3]


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_may_be_named_in_a_list(kind, register):
    register(Told)
    env = envs.make("Own-v0", 3, kind=kind)
    rng = np.random.default_rng(1)
    tasks = [draw(kind, rng) for _ in range(3)]
    assert_told(env, tasks, [code(task) for task in tasks])
    refused(lambda: env.reset(options={"tasks": tasks[:2]}), "tasks must")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_named_tasks_are_a_copy(mode, register):
    register(Told)
    env = envs.make("Own-v0", 2, kind="dict", vectorization_mode=mode)
    tasks = env.sample_tasks(2, 7)
    codes = [code(task) for task in tasks]
    env.reset(seed=0, options={"tasks": tasks})
    tasks[0]["speed"] = 99
    tasks[1] = None
    for _ in range(11):  # beyond the end of an episode
        obs, *_ = env.step(np.zeros(2, int))
        assert obs[:, 0].tolist() == codes
    assert [code(task) for task in env.tasks] == codes
    env.close()


def test_a_seed_that_is_no_whole_number_is_no_level(register):
    register(Level)
    env = envs.make("Own-v0", 2, levels=True)
    env.reset(options={"tasks": [0, 1]})
    with pytest.raises(gym.error.Error, match="Seed must be a python integer"):
        env.reset(options={"tasks": [0.5, 1.7]})


def test_tasks_of_a_vector_environment_may_be_named_in_a_list():
    env = envs.make("Bandit-v0", 2, num_arms=2)
    env.reset(seed=0, options={"tasks": [[0.0, 1.0], [1.0, 0.0]]})
    _, reward, *_ = env.step(np.array([1, 1]))
    assert reward.tolist() == [1, 0]


class Worn(Base):
    """Changes its task in every step, and pays what it has become: 1, 2, ... 10."""

    def __init__(self, kind="dict"):
        self.kind = kind

    def sample_task(self, rng):
        tasks = {"dict": {"steps": [0]}, "array": np.zeros(1), "tuple": ([0], "red")}
        return tasks[self.kind]

    def pay(self, action):
        parts = {"dict": "steps", "array": slice(None), "tuple": 0}
        steps = self.task[parts[self.kind]]
        steps[0] += 1
        return float(steps[0])


@every_script
@pytest.mark.parametrize("kind", ["dict", "array", "tuple"])
def test_a_task_that_the_environment_changes_is_fresh_in_each_episode(module, kind, register):
    register(Worn)
    result, _ = train(module, env_kwargs={"kind": kind})
    assert set(result["return_by_episode"]) == {55}
    if module is maml_trpo:
        assert result["return_by_gradient_step"] == [55] * 4


def test_a_task_that_the_environment_changes_is_fresh_in_processes_too(register):
    register(Worn)
    tasks = envs.make("Own-v0").sample_tasks(2, 0)
    assert (evaluate(rl2_ppo, np.repeat(tasks, 2), vectorization_mode="async") == 55).all()


@every_script
@pytest.mark.parametrize("kind", ["tuple", "mixed", "list"])
def test_an_evaluation_pays_what_the_tasks_are_worth(module, kind, register):
    register(Told)
    tasks = envs.make("Own-v0", kind=kind).sample_tasks(5, 0)
    returns = evaluate(module, tasks, kind=kind)
    worth = [code(task) for task in tasks]
    np.testing.assert_allclose(returns.T, np.broadcast_to(worth, returns.T.shape), rtol=1e-5)


# ------------------------------------------------------------------------------- tasks of a wrapper


class Poles(gym.Wrapper):
    """CartPole with a pole of another length in each task."""

    given = []

    def sample_task(self, rng):
        return rng.uniform(0.1, 2.0)

    def reset(self, *, seed=None, options=None):
        self.given.append(options["task"])
        self.unwrapped.length = options["task"]
        return self.env.reset(seed=seed)


class Narrow(gym.Wrapper):
    """Takes another's environment with tasks of its own choice."""

    def sample_task(self, rng):
        return rng.uniform(5, 6)


class Shifted(gym.Wrapper):
    """Adds 10 to another's tasks."""

    def sample_task(self, rng):
        return 10 + self.env.get_wrapper_attr("sample_task")(rng)


class Payer(Base):
    def pay(self, action):
        return self.task


def unchanged(env):
    return TransformObservation(env, lambda obs: obs, env.observation_space)


WRAPPED = {
    "narrowed": (lambda: Narrow(Payer()), 5, 6),
    "in a wrapper": (lambda: unchanged(Narrow(Payer())), 5, 6),
    "around a wrapper": (lambda: Narrow(unchanged(Payer())), 5, 6),
    "shifted": (lambda: Shifted(Payer()), 10, 11),
    "narrowed, shifted": (lambda: Shifted(Narrow(Payer())), 15, 16),
    "shifted, narrowed": (lambda: Narrow(Shifted(Payer())), 5, 6),
}


@every_script
def test_a_wrapper_gives_cartpole_tasks(module, register, monkeypatch):
    register(lambda: Poles(CartPoleEnv()))
    monkeypatch.setattr(Poles, "given", [])
    train(module)
    assert len(set(Poles.given)) >= 6
    assert 0.1 <= min(Poles.given) < 1 < max(Poles.given) <= 2


@pytest.mark.parametrize("name", WRAPPED)
def test_the_outermost_sample_task_counts(name, register):
    entry_point, low, high = WRAPPED[name]
    register(entry_point)
    env = envs.make("Own-v0", 3)
    tasks = env.sample_tasks(20, 0)
    assert low <= tasks.min()
    assert tasks.max() <= high
    assert len(set(tasks)) == 20
    env.reset(seed=0)
    _, reward, *_ = env.step(np.zeros(3, int))
    assert low <= reward.min()
    assert reward.max() <= high


@every_script
def test_training_draws_the_tasks_of_the_wrapper(module, register):
    register(lambda: Narrow(Payer()))
    result, _ = train(module)
    assert 50 <= min(result["return_by_episode"])
    assert max(result["return_by_episode"]) <= 60


# ----------------------------------------------------------------- randomness that is not np_random


SOURCES = {
    "python": lambda: random.gauss(0, 1),
    "numpy": lambda: np.random.randn(),  # noqa: NPY002
    "torch": lambda: torch.randn(()).item(),
}


class Noise(Base):
    """Sees and pays noise of a generator that is not its own."""

    def __init__(self, source="numpy", noisy_task=False):
        self.source = SOURCES[source]
        self.noisy_task = noisy_task

    def sample_task(self, rng):
        return self.source() if self.noisy_task else rng.random()

    def look(self):
        return np.array([self.source(), self.source()], np.float32)

    def pay(self, action):
        return self.source()


def noise(env, seed):
    """What is seen at a seeded reset, over two episodes, and at a reset without a seed."""
    obs, _ = env.reset(seed=seed, options={"tasks": np.full(3, 0.5)})
    log = [obs]
    for _ in range(12):
        obs, reward, *_ = env.step(np.zeros(3, int))
        log.append(np.column_stack([obs, reward]))
    obs, _ = env.reset()
    log.append(obs)
    return [array.copy() for array in log]


@pytest.mark.parametrize(
    "source, mode",
    [
        ("python", "sync"),
        ("numpy", "sync"),
        ("python", "async"),
        ("numpy", "async"),
        ("torch", "async"),
    ],
)
def test_noise_follows_from_the_seed_and_is_another_in_each_sub_environment(source, mode, register):
    register(Noise)
    logs = []
    for _ in range(2):
        env = envs.make("Own-v0", 3, source=source, vectorization_mode=mode)
        logs.append(noise(env, 5))
        logs.append(noise(env, 6))
        logs.append(noise(env, 5))
        env.close()
        SOURCES[source]()  # something else that draws
    for i in (2, 3, 5):
        for theirs, ours in zip(logs[i], logs[0], strict=True):
            np.testing.assert_array_equal(theirs, ours)
    first = np.concatenate([array.ravel() for array in logs[0]])
    other = np.concatenate([array.ravel() for array in logs[1]])
    assert len(set(first)) == len(first)  # no two workers, episodes or steps are alike
    assert not set(first) & set(other)


LONGER = {
    maml_trpo: {"num_iterations": 4},
    rl2_ppo: {"total_timesteps": 320, "anneal_lr": False},
    snail_ppo: {"total_timesteps": 320, "anneal_lr": False},
}
SHORTER = {
    maml_trpo: {"num_iterations": 2},
    rl2_ppo: {"total_timesteps": 160, "anneal_lr": False},
    snail_ppo: {"total_timesteps": 160, "anneal_lr": False},
}


@every_script
@pytest.mark.parametrize("source", SOURCES)
def test_two_runs_of_one_seed_are_equal_with_noise_of_any_generator(module, source, register):
    register(Noise)
    kwargs = {"source": source}
    first, _ = train(module, env_kwargs=kwargs)
    SOURCES[source]()
    second, _ = train(module, env_kwargs=kwargs)
    assert scores(first) == scores(second)
    other, _ = train(module, env_kwargs=kwargs, seed=2, eval_seed=3)
    assert scores(first) != scores(other)


def test_two_runs_of_one_seed_are_equal_with_noise_in_processes(register):
    register(Noise)
    kwargs = {"vectorization_mode": "async"}
    first, _ = train(rl2_ppo, env_kwargs=kwargs, num_envs=2, eval_trials=2)
    second, _ = train(rl2_ppo, env_kwargs=kwargs, num_envs=2, eval_trials=2)
    assert scores(first) == scores(second)
    assert first["return_stderr"] > 0  # the two workers' noise differs


@every_script
@pytest.mark.parametrize("source, noisy_task", [("numpy", False), ("python", True)])
def test_resumed_equals_never_stopped_with_noise(module, source, noisy_task, register):
    register(Noise)
    settings = {"env_kwargs": {"source": source, "noisy_task": noisy_task}, "exp_name": "same"}
    whole, run = train(module, **settings, **LONGER[module])
    run.rename("whole")
    _, run = train(module, **settings, **SHORTER[module])
    for draw_something_else in SOURCES.values():
        draw_something_else()
    checkpoint = str(run / "checkpoint.pt")
    resumed, run = train(module, **settings, **LONGER[module], resume=checkpoint)
    assert scores(resumed) == scores(whole)
    assert resumed["global_step"] == whole["global_step"]
    ours = torch.load(run / "checkpoint.pt", weights_only=True)["agent"]
    theirs = torch.load("whole/checkpoint.pt", weights_only=True)["agent"]
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[name])


@pytest.mark.parametrize("source", ["python", "numpy"])
def test_tasks_that_are_drawn_by_other_generators_follow_from_the_seed(source, register):
    register(Noise)
    env = envs.make("Own-v0", 2, source=source, noisy_task=True)
    first = env.sample_tasks(5, 7)
    assert (env.sample_tasks(5, 7) == first).all()
    assert (env.sample_tasks(5, 8) != first).all()


# ------------------------------------------------------------------------- seeds that are no levels


class Level(gym.Env):
    """A map drawn from the seed; other environments draw it otherwise."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(2)
    may_step = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.draw_map()
        return self.look(), {}

    def draw_map(self):
        self.map = self.np_random.random(2)

    def look(self):
        return np.float32(self.map)

    def step(self, action):
        assert self.may_step, "it was trained on"
        return self.look(), 1.0, False, False, {}


class DrawnInConstructor(Level):
    may_step = False

    def __init__(self):
        self.map = np.random.default_rng().random(2)

    def draw_map(self):
        pass


class StartsFromTheSeed(DrawnInConstructor):
    """The map is its own in each copy of the environment, the place in it follows from the seed."""

    def look(self):
        return np.float32([self.map[0], np.random.default_rng(self.np_random_seed).random()])


class IgnoresTheSeed(Level):
    may_step = False

    def draw_map(self):
        self.map = np.ones(2)


class FreshEveryTime(Level):
    may_step = False

    def draw_map(self):
        self.map = np.random.default_rng().random(2)


class OwnGenerator(DrawnInConstructor):
    """Goes on with a generator that was seeded once."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def draw_map(self):
        self.map = self.generator.random(2)


class Heads(Level):
    """Two levels, of which one looks like the other in half of all seeds."""

    observation_space = Discrete(2)

    def look(self):
        return int(self.map[0] > 0.5)


class Pixels(Level):
    observation_space = Box(0, 255, (3, 3, 3), np.uint8)

    def look(self):
        return np.full((3, 3, 3), int(self.map[0] * 255), np.uint8)


NO_LEVELS = [
    DrawnInConstructor,
    StartsFromTheSeed,
    IgnoresTheSeed,
    FreshEveryTime,
    OwnGenerator,
]


@pytest.mark.parametrize("kind", NO_LEVELS)
def test_seeds_that_are_no_levels_are_a_sentence_before_training(kind, register):
    register(kind)
    refused(
        lambda: train(rl2_ppo, env_kwargs={"levels": True}),
        "Own-v0.*Seed 0 gave [12] in two resets, seeds 0 to 9 gave \\d+ in all.$",
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize("module", [maml_trpo, snail_ppo])
def test_the_other_scripts_refuse_them_too(module, register):
    register(IgnoresTheSeed)
    refused(
        lambda: train(module, env_kwargs={"levels": True}),
        "Own-v0.*Seed 0 gave 1 in two resets, seeds 0 to 9 gave 1 in all.$",
    )


def test_a_map_that_is_always_the_same_is_no_level(register):
    kwargs = {"levels": True, "map_name": "4x4"}
    refused(lambda: train(rl2_ppo, "FrozenLake-v1", env_kwargs=kwargs), "FrozenLake.*(seed|level)")


def test_environments_of_the_check_are_closed(register, monkeypatch):
    """What stays open is the one that draws tasks, and those that are trained on."""
    log = []

    class Counted(Level):
        def __init__(self):
            log.append("built")

        def close(self):
            log.append("closed")

    register(Counted)
    env = envs.make("Own-v0", 3, levels=True)
    assert log.count("built") - log.count("closed") == 1 + 3
    assert log.count("built") >= 1 + 3 + 11
    env.close()
    assert log.count("built") - log.count("closed") <= 1


@every_script
@pytest.mark.parametrize("kind", [Level, Heads, Pixels])
def test_levels_that_follow_from_the_seed_train(module, kind, register):
    register(kind)
    result, _ = train(module, env_kwargs={"levels": True})
    assert set(result["return_by_episode"]) == {10}


# ---------------------------------------------------------------------------------------- few tasks


class Worth(Base):
    """Pays what the task is worth, in each of 10 steps."""

    def __init__(self, tasks="levels"):
        self.tasks = LISTS[tasks]

    def sample_task(self, rng):
        if self.tasks is None:
            return rng.random()
        return self.tasks[rng.integers(len(self.tasks))]

    def pay(self, action):
        return worth(self.task)


def worth(task):
    """What a step pays in a task."""
    numbers = {"easy": 1.0, "hard": -2.0, "odd": 0.5}
    if isinstance(task, str):
        return numbers[task]
    if isinstance(task, dict):
        return float(task["size"])
    return float(np.sum(task))


LISTS = {
    "continuous": None,
    "levels": [0, 1, 2, 3],
    "directions": [-1.0, 1.0],
    "names": ["easy", "hard", "odd"],
    "dicts": [{"size": 1}, {"size": 2}, {"size": 5}],
    "pairs": [(0.5, 1), (1.5, 2)],
    "places": [np.array([0.0, 1.0]), np.array([1.0, 3.0])],
}


class WorthBatch(envs.TaskVectorEnv):
    """The same as a vector environment of two directions."""

    def __init__(self, num_envs):
        super().__init__(num_envs, 10, Discrete(1), Discrete(2))

    def _draw(self, num_tasks, rng):
        return rng.choice([-1.0, 1.0], num_tasks)

    def _advance(self, actions):
        return self.tasks * 1.0, np.zeros(self.num_envs, dtype=bool), {}


def assert_by_task(result, run, tasks):
    """eval.json has the return for each of the tasks that were drawn, and the summary is theirs."""
    steps = 10 * len(result["return_by_episode"])  # each episode of a trial counts
    right = {str(task): pytest.approx(steps * worth(task)) for task in tasks}
    assert json.loads((run / "eval.json").read_text())["return_by_task"] == right


@every_script
@pytest.mark.parametrize("name", ["levels", "directions", "names", "dicts", "pairs", "places"])
def test_few_tasks_are_not_called_new_and_have_a_return_each(module, name, register, capsys):
    register(Worth)
    result, run = train(module, env_kwargs={"tasks": name}, eval_trials=12)
    assert "new tasks" not in capsys.readouterr().out
    tasks = envs.make("Own-v0", tasks=name).sample_tasks(12, [1, 0])
    assert len({str(task) for task in tasks}) == len(LISTS[name])
    assert_by_task(result, run, tasks)


class InTurn(envs.TaskVectorEnv):
    """Its tasks are the numbers below `number`, drawn in turn."""

    def __init__(self, num_envs, number):
        self.number = number
        super().__init__(num_envs, 5, Discrete(1), Discrete(2))

    def _draw(self, num_tasks, rng):
        return np.arange(num_tasks) % self.number


@pytest.mark.parametrize("number", [25, 26])
def test_up_to_25_tasks_are_few(number, register):
    register(InTurn)
    env = envs.make("Own-v0", 1, number=number)
    rows = env.group_tasks(np.arange(60) % number)
    if number > 25:
        assert rows == {}
        return
    assert len(rows) == 25
    assert rows["3"] == [3, 28, 53]


class WorthOfBoth(WorthBatch):
    def __init__(self, num_envs, max_episode_steps):  # gymnasium hands it on
        super().__init__(num_envs)


def test_of_two_entry_points_the_vector_environment_is_taken_unless_levels_is_named(register):
    gym.register("Own-v0", entry_point=Payer, vector_entry_point=WorthOfBoth, max_episode_steps=10)
    assert type(envs.make("Own-v0", 2).unwrapped) is WorthOfBoth
    env = envs.make("Own-v0", 2, levels=False)  # by its sample_task
    assert type(env.unwrapped) is envs.BatchedTasks
    assert env.sample_tasks(2, 0).dtype == object


@every_script
def test_two_directions_of_a_vector_environment_are_few(module, register, capsys):
    register(WorthBatch)
    result, run = train(module, eval_trials=12)
    assert "new tasks" not in capsys.readouterr().out
    assert_by_task(result, run, np.array([-1.0, 1.0]))


def test_the_returns_of_the_tasks_are_means_over_their_trials(register):
    """Noise is paid, too: a task's return is the mean of its own trials, weighted as drawn."""

    class Noisy(Worth):
        def pay(self, action):
            return worth(self.task) + self.np_random.normal()

    register(Noisy)
    result, _ = train(rl2_ppo, env_kwargs={"tasks": "names"}, eval_trials=30)
    tasks = envs.make("Own-v0", tasks="names").sample_tasks(30, [1, 0])
    assert set(result["return_by_task"]) == set(tasks)
    total = sum(result["return_by_task"][task] for task in tasks)
    assert total / 30 == pytest.approx(result["return_mean"])
    for task, mean in result["return_by_task"].items():
        # 20 steps, at least 3 trials
        assert abs(mean - 20 * worth(task)) < 4 * (20 / 3) ** 0.5


@pytest.mark.parametrize("eval_seed", range(4))
def test_few_tasks_are_not_new_where_the_evaluation_draws_each_once(eval_seed, register, capsys):
    register(Worth)
    kwargs = {"tasks": "levels"}
    train(rl2_ppo, env_kwargs=kwargs, eval_trials=2, eval_seed=eval_seed, num_envs=40)
    assert "new tasks" not in capsys.readouterr().out


@every_script
def test_continuous_tasks_are_new_and_have_no_return_each(module, register, capsys):
    register(Worth)
    result, run = train(module, env_kwargs={"tasks": "continuous"})
    assert "new tasks" in capsys.readouterr().out
    assert result["return_by_task"] == {}
    assert json.loads((run / "eval.json").read_text())["return_by_task"] == {}


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        ("Own-v0", {"levels": True}),
        ("Bandit-v0", {}),
        ("TabularMDP-v0", {"num_states": 2, "num_actions": 2, "horizon": 2}),
    ],
)
def test_levels_and_tables_are_new(env_id, kwargs, register, capsys):
    register(Level)
    result, _ = train(rl2_ppo, env_id, env_kwargs=kwargs)
    assert "new tasks" in capsys.readouterr().out
    assert result["return_by_task"] == {}


# --------------------------------------------------------------------------------------------- info


class Informed(Base):
    """Says things in info: `say` names a function of the environment and its step."""

    def __init__(self, say):
        self.say = SAY[say]

    def reset(self, *, seed=None, options=None):
        self.time = 0
        obs, _ = super().reset(seed=seed, options=options)
        return obs, self.say(self)

    def step(self, action):
        self.time += 1
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, self.say(self)


def regret_where(condition):
    """Reports a regret of 0.5 where the condition holds."""
    return lambda env: {"regret": 0.5} if condition(env) else {}


SAY = {
    "always": lambda env: {"regret": 0.5},
    "always, as numpy's": lambda env: {"regret": np.float32(0.5)},
    "always, among others": lambda env: {"regret": 0.5, "visited": [1] * env.time},
    "at the end": regret_where(lambda env: env.time == 10),
    "from the second step on": regret_where(lambda env: env.time > 1),
    "from half": regret_where(lambda env: env.task > 0.5),
    "in a single step not": regret_where(lambda env: env.time != 7 or env.task < 0.5),
    "none": lambda env: {"regret": None},
    "none at times": lambda env: {"regret": None if env.time == 5 else 0.5},
    "nan at times": lambda env: {"regret": np.nan if env.time == 5 else 0.5},
    "infinite": lambda env: {"regret": np.inf},
    "text": lambda env: {"regret": "little"},
    "two numbers": lambda env: {"regret": np.ones(2)},
    "of varying length": lambda env: {"regret": np.ones(env.time)},
    "a dict": lambda env: {"regret": {"now": 0.5}},
    "visited": lambda env: {"visited": np.arange(env.time + int(env.task * 9))},
    "more axes": lambda env: {"x": np.ones((2,) * (1 + (env.task > 0.5)))},
    "none among numbers": lambda env: {"x": None if env.task > 0.5 else 1},
    "none among floats": lambda env: {"x": None if env.time % 2 else 1.5},
    "text among numbers": lambda env: {"x": "wall" if env.task > 0.5 else 1.5},
    "arrays among numbers": lambda env: {"x": np.ones(3) if env.task > 0.5 else 1.5},
    "text in arrays": lambda env: {"x": np.array(["red"] * env.time)},
    "nested": lambda env: {"x": {"y": {"z": [None, env.time]}, "w": np.ones(env.time)}},
    "dict among numbers": lambda env: {"x": {"y": 1} if env.task > 0.5 else 1},
    "objects": lambda env: {"x": Goal("red", [env]).name, "y": {1, 2}, "z": slice(3)},
    "names that are no text": lambda env: {3: 4, ("a", 1): 2, None: 0},
    "large": lambda env: {"x": 2**80 if env.task > 0.5 else 1},
    "gymnasium's names": lambda env: {"final_obs": 1, "_final_obs": "x", "final_info": 3},
}
REPORTED = ["always", "always, as numpy's", "always, among others"]
NOT_REPORTED = [name for name in SAY if name not in REPORTED]
TASKS = np.array([0.1, 0.9, 0.2, 0.8])


@pytest.mark.parametrize("say", SAY)
def test_no_info_stops_a_run_and_a_regret_counts_if_all_report_it(say, register):
    register(Informed)
    env = envs.make("Own-v0", 4, say=say)
    data = roll_out(rl2_ppo, env, TASKS)
    assert ("regret" in data) == (say in REPORTED)
    if say in REPORTED:
        assert (data["regret"] == 0.5).all()
        assert data["regret"].shape == data["reward"].shape


@pytest.mark.parametrize(
    "say", ["always, among others", "from half", "visited", "none among numbers", "nested"]
)
def test_no_info_of_a_process_stops_a_run(say, register):
    register(Informed)
    env = envs.make("Own-v0", 4, say=say, vectorization_mode="async")
    data = roll_out(rl2_ppo, env, TASKS)
    env.close()
    assert ("regret" in data) == (say in REPORTED)


@every_script
@pytest.mark.parametrize(
    "say", ["always", "at the end", "from half", "none among numbers", "visited", "nested"]
)
def test_every_script_trains_whatever_the_info(module, say, register):
    register(Informed)
    result, run = train(module, env_kwargs={"say": say})
    if module is not maml_trpo:
        assert ("regret_mean" in result) == (say == "always")
        assert ("regret_mean" in json.loads((run / "eval.json").read_text())) == (say == "always")
        if say == "always":
            assert result["regret_mean"] == 10  # 2 episodes of 10 steps


@ppo_scripts
@pytest.mark.parametrize("say", ["at the end", "from half", "nan at times", "text"])
def test_a_regret_that_is_not_always_reported_cannot_be_learned_from(module, say, register):
    register(Informed)
    settings = {"env_kwargs": {"say": say}, "learn_from_regret": True}
    refused(lambda: train(module, **settings), "reports no regret")


class InformedBatch(envs.TaskVectorEnv):
    """A vector environment that says things in info."""

    def __init__(self, num_envs, say):
        super().__init__(num_envs, 10, Discrete(1), Discrete(2))
        self.say = BATCH_SAYS[say]

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)

    def _advance(self, actions):
        info = self.say(self.num_envs, self._steps)
        return np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool), info


BATCH_SAYS = {
    "always": lambda n, steps: {"regret": np.full(n, 0.5)},
    "always, in whole numbers": lambda n, steps: {"regret": np.full(n, 1)},
    "always, with a mask": lambda n, steps: {"regret": np.ones(n), "_regret": np.full(n, True)},
    "at the end": lambda n, steps: {"regret": np.ones(n)} if steps[0] == 9 else {},
    "from half": lambda n, steps: {"regret": np.ones(n), "_regret": np.arange(n) % 2 == 0},
    "not finite": lambda n, steps: {"regret": np.where(np.arange(n) == 1, np.nan, 1)},
    "none at times": lambda n, steps: {"regret": np.array([None] + [1.0] * (n - 1))},
    "none": lambda n, steps: {"regret": None},
    "one for all": lambda n, steps: {"regret": 0.5},
    "too short": lambda n, steps: {"regret": np.ones(n - 1)},
    "two axes": lambda n, steps: {"regret": np.ones((n, 2))},
    "other things": lambda n, steps: {"x": [None, {"y": 1}], 3: object(), "z": np.ones(7)},
}


@pytest.mark.parametrize("say", BATCH_SAYS)
def test_info_of_a_vector_environment(say, register):
    register(InformedBatch)
    data = roll_out(rl2_ppo, envs.make("Own-v0", 4, say=say), TASKS)
    assert ("regret" in data) == say.startswith("always")
    if "regret" in data:
        assert data["regret"].shape == data["reward"].shape
        assert 0 < data["regret"].min() == data["regret"].max() <= 1


# ---------------------------------------------------------------------------- one reward, two modes


class Typed(Base):
    """Rewards and ends in the types that somebody may give them in; an episode has 3 steps."""

    def __init__(self, kind):
        self.kind = kind

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.time += 1
        reward = self.task
        ended = self.time == 3
        obs = self.look()
        if self.task == 0.25:  # this one is as it should be
            return obs, reward, ended, False, {}
        if self.kind == "array of one":
            return obs, np.array([reward]), np.array([ended]), np.array([False]), {}
        if self.kind == "array without axes":
            return obs, np.array(reward), np.array(ended), np.array(False), {}
        if self.kind == "array of arrays":
            return obs, np.array([[reward]]), np.array([[ended]]), False, {}
        if self.kind == "list of one":
            return obs, [reward], [ended], [False], {}
        if self.kind == "numpy's numbers":
            return obs, np.float32(reward), np.bool_(ended), np.bool_(False), {}
        if self.kind == "whole numbers":
            return obs, reward, int(ended), 0, {}
        wrong = {
            "two numbers": np.array([reward, 1.0]),
            "list of two": [reward, 1.0],
            "text": "much",
            "none": None,
            "no numbers": np.zeros(0),
        }
        if self.kind == "two ends":
            return obs, reward, np.array([True, False]), False, {}
        if self.kind == "no end":  # numpy would read None as nan, and nan as true
            return obs, reward, None, False, {}
        return obs, wrong[self.kind], ended, False, {}


def outcome(kind, mode):
    """Rewards and ends of 7 steps, or the error that ends them."""
    env = envs.make("Own-v0", 3, kind=kind, vectorization_mode=mode)
    env.reset(seed=0, options={"tasks": np.array([0.25, 0.5, 0.25])})
    log = []
    try:
        for _ in range(7):
            _, reward, terminated, truncated, _ = env.step(np.zeros(3, int))
            log += [reward.tolist(), terminated.tolist(), truncated.tolist()]
    except Exception as error:
        return type(error), str(error)
    finally:
        env.close()
    return log


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kind",
    [
        "array of one",
        "array without axes",
        "numpy's numbers",
        "whole numbers",
        "array of arrays",
        "list of one",
    ],
)
def test_a_reward_and_an_end_in_an_array_of_one_are_numbers(kind, mode, register):
    register(Typed)
    log = outcome(kind, mode)
    assert log[0::3] == [[0.25, 0.5, 0.25]] * 7
    assert log[1::3] == [[t % 3 == 2] * 3 for t in range(7)]
    assert log[2::3] == [[False] * 3] * 7


@pytest.mark.parametrize(
    "kind",
    [
        "two numbers",
        "list of two",
        "text",
        "none",
        "no numbers",
        "two ends",
        "no end",
    ],
)
def test_other_rewards_end_alike_in_both_modes(kind, register):
    register(Typed)
    sync = outcome(kind, "sync")
    assert outcome(kind, "async") == sync
    error, words = sync
    assert issubclass(error, Exception)
    assert "\n" not in words


@every_script
def test_a_reward_in_an_array_of_one_trains(module, register):
    register(Typed)
    tasks = np.array([0.25, 0.5, 2.0])
    returns = evaluate(module, tasks, kind="array of one")
    assert (returns.T == 3 * tasks).all()


# --------------------------------------------------------------------------- before the first reset


@pytest.mark.parametrize("kwargs", [{}, {"levels": True}])
def test_a_missing_package_is_gymnasiums_own_sentence(kwargs, monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    words = "Box2D is not installed.*pip install"
    refused(lambda: envs.make("LunarLander-v3", 2, **kwargs), words)


@pytest.mark.parametrize(
    "env_id, words",
    [
        ("LunarLander-v1", "Please use `LunarLander-v3` instead"),
        ("Taxi-v3", "Please use `Taxi-v4` instead"),
        ("CartPole-v9", "provides versioned environments"),
    ],
)
def test_an_id_of_another_version_is_gymnasiums_own_sentence(env_id, words):
    refused(lambda: envs.make(env_id, 2, levels=True), words)


@pytest.mark.parametrize("mode", ["asink", "Async", "vector_entry_point", 3])
def test_an_unknown_vectorization_mode_lists_those_there_are(mode, register):
    register(Base)
    refused(lambda: envs.make("Own-v0", 2, vectorization_mode=mode), "sync.*async|async.*sync")


class Faulty(Base):
    """Its constructor raises an error, in the first copy or in a later one."""

    copies = 0

    def __init__(self, fault="value", size=3):
        Faulty.copies += 1
        if fault == "value":
            raise ValueError("no map of this size")
        if fault == "key":
            raise KeyError("9x9")
        if fault == "type":
            int([])  # a TypeError that speaks of an argument
        if fault == "second copy" and Faulty.copies == 2:
            raise OSError("the port is taken")


class FaultyBatch(envs.Bandit):
    def __init__(self, num_envs, fault="value", size=3):
        Faulty(fault)
        super().__init__(num_envs)


FAULTS = [
    ("value", ValueError, "no map of this size"),
    ("key", KeyError, "9x9"),
    ("type", TypeError, "argument must be"),
]


@pytest.mark.parametrize("kind", [Faulty, FaultyBatch])
@pytest.mark.parametrize("fault, error_type, words", FAULTS)
def test_an_error_in_a_constructor_keeps_its_traceback(kind, fault, error_type, words, register):
    register(kind)
    assert_noted(fault, error_type, words)


def test_an_error_in_the_constructor_of_a_later_copy_keeps_its_traceback(register, monkeypatch):
    register(Faulty)
    monkeypatch.setattr(Faulty, "copies", 0)
    assert_noted("second copy", OSError, "the port is taken")


def assert_noted(fault, error_type, words):
    """The error is the user's own, with a note of the environment and its arguments."""
    with pytest.raises(error_type, match=words) as error:
        envs.make("Own-v0", 3, fault=fault, size=4321)
    assert type(error.value) is error_type
    assert __file__ in [str(entry.path) for entry in error.traceback]
    note = " ".join(error.value.__notes__)
    for part in ("Own-v0", fault, "4321"):
        assert part in note


def test_a_map_that_frozen_lake_does_not_have_is_its_own_error_with_a_note():
    with pytest.raises(KeyError, match="9x9") as error:
        envs.make("FrozenLake-v1", 2, levels=True, map_name="9x9")
    note = " ".join(error.value.__notes__)
    assert "FrozenLake-v1" in note
    assert "map_name" in note


@pytest.mark.parametrize(
    "module, env_id",
    [
        (maml_trpo, "CartPole-v1"),
        (rl2_ppo, "CartPole-v1"),
        (snail_ppo, "CartPole-v1"),
        (rl2_ppo, "Taxi-v4"),
    ],
)
def test_gymnasiums_own_environments_train_with_levels(module, env_id, register):
    result, _ = train(module, env_id, env_kwargs={"levels": True}, eval_trials=2)
    if env_id == "CartPole-v1":
        assert 8 < min(result["return_by_episode"])
        assert result["return_by_episode"] != [500] * len(result["return_by_episode"])
    else:
        assert max(result["return_by_episode"]) < -100


@pytest.mark.parametrize("env_id", ["MiniGrid-Empty-5x5-v0", "BabyAI-GoToRedBallNoDists-v0"])
def test_minigrid_as_it_is_names_the_wrapper_that_works(env_id):
    name = f"minigrid:{env_id}"
    refused(lambda: envs.make(name, 2, levels=True), f"{env_id}.*ImgObsWrapper")


OWN = """
import gymnasium as gym
import numpy as np


class Good(gym.Env):
    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(2)

    def sample_task(self, rng):
        return rng.random()

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 1.0, False, False, {}


gym.register("Good-v0", entry_point=Good, max_episode_steps=5)
"""
ARGUMENTS = {
    "maml_trpo": "--num-iterations 1 --meta-batch-size 2 --episodes-per-task 2 --eval-episodes 1",
    "rl2_ppo": "--total-timesteps 1 --num-envs 2 --num-minibatches 1 --episodes-per-trial 1",
    "snail_ppo": "--total-timesteps 1 --num-envs 2 --num-minibatches 1 --episodes-per-trial 1",
}


@pytest.mark.parametrize("script", ARGUMENTS)
@pytest.mark.parametrize("name", ["envs", "json"])
def test_a_module_whose_name_is_taken_names_the_file_that_was_imported(
    script, name, tmp_path, monkeypatch
):
    (tmp_path / f"{name}.py").write_text(OWN.replace("Good", "Unheard"))
    monkeypatch.chdir(tmp_path)
    arguments = f"--env-id {name}:Unheard-v0 {ARGUMENTS[script]}"
    message = run_here(script, arguments, monkeypatch)
    assert message.startswith("error: ")
    assert "\n" not in message
    assert sys.modules[name].__file__ in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["mine.py", "mine/tasks.py"])
def test_a_module_in_the_current_folder_is_found(place, tmp_path):
    """The script lies in another folder."""
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(OWN)
    module = place.removesuffix(".py").replace("/", ".")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import envs; "
    program += f"envs.make('{module}:Good-v0', 2).reset(seed=0)"
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(program)
    assert_runs([str(script)], tmp_path)


def assert_runs(arguments, folder):
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
