"""Other people's runs: scale, folders, the command line, memory, W&B, and how a run is stopped."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TransformReward
from gymnasium.wrappers import vector as vector_wrappers

import envs
import maml_trpo
import rl2_ppo
import snail_ppo
from envs import UsageError
from test_cli import LENGTH, SCRIPTS, SHORT, TINY, command, run_here

ROOT = Path(__file__).parent.parent
MODULES = {"maml_trpo": maml_trpo, "rl2_ppo": rl2_ppo, "snail_ppo": snail_ppo}
MAML = {"meta_batch_size": 3, "episodes_per_task": 4, "eval_trials": 4, "eval_episodes": 2}
PPO = {"num_envs": 8, "num_minibatches": 2, "episodes_per_trial": 2, "eval_trials": 4}
SETTINGS = {
    "maml_trpo": MAML | {"hidden_size": 8},
    "rl2_ppo": PPO | {"hidden_size": 8},
    "snail_ppo": PPO | {"sizes": (8, 4, 4, 4)},
}


def args_of(script, **settings):
    """Arguments of a tiny run, on the processor."""
    return MODULES[script].Args(**SETTINGS[script] | {"cuda": False} | settings)


def length(script, iterations):
    """How long a tiny run of 10-step episodes has to be to take that many iterations."""
    if script == "maml_trpo":
        return {"num_iterations": iterations}
    return {"total_timesteps": iterations * 8 * 2 * 10}


def contents(folder):
    """Each file below a folder, with its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------ 10. the scale


class Base(gym.Env):
    """Two numbers are seen; `look` and `pay` say what they are and what an action brings."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Discrete(3)

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    def sample_task(self, rng):
        return rng.random()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = options["task"]
        self.time = 0
        return self.look(), {}

    def step(self, action):
        self.time += 1
        return self.look(), self.pay(action), False, False, {}

    def look(self):
        return np.array([0.0, 1.0])

    def pay(self, action):
        return float(action == 0)


class Lights(envs.TaskVectorEnv):
    """One of two lights is on, far from zero; the action of its number pays 1."""

    def __init__(self, num_envs=1, offset=1800.0):
        self.offset = offset
        super().__init__(num_envs, 10, Box(-np.inf, np.inf, (2,), np.float64), Discrete(2))

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)

    def _start(self, mask):
        self._light = self.np_random.integers(2, size=self.num_envs)

    def _observe(self):
        return self.offset + np.eye(2)[self._light]

    def _advance(self, actions):
        reward = (actions == self._light) * 1.0
        self._light = self.np_random.integers(2, size=self.num_envs)
        return reward, np.zeros(self.num_envs, dtype=bool), {}


class Clock(Base):
    """What is seen is the time of day in seconds since 1970, and the same in milliseconds."""

    def look(self):
        now = 1.7e9 + self.time
        return np.array([now, 1000 * now])


class Large(Base):
    """In half of the tasks a number is too large for the network."""

    number = 1e39

    def look(self):
        large = self.time == 3 and self.task > 0.5
        return np.array([1.0, self.number if large else 2.0])


class LargeAndNegative(Large):
    number = -1e300


gym.register("OtherLights-v0", vector_entry_point=Lights)
for kind in (Base, Clock, Large, LargeAndNegative):
    gym.register(
        f"Other{kind.__name__}-v0",
        entry_point=kind,
        max_episode_steps=10,
        disable_env_checker=True,
    )


@pytest.mark.parametrize("offset", [1800.0, -50_000.0, 0.0])
def test_maml_learns_from_observations_far_from_zero(offset, in_folder):
    """Chance is 5 of 10; before any adaptation, because all tasks are alike."""
    args = args_of(
        "maml_trpo",
        env_id="OtherLights-v0",
        env_kwargs={"offset": offset},
        norm_obs=True,
        meta_batch_size=4,
        episodes_per_task=10,
        num_iterations=25,
        max_kl=0.05,
        eval_trials=10,
        eval_episodes=10,
    )
    result = maml_trpo.train(args)
    assert result["return_by_gradient_step"][0] > 7.5
    assert result["return_by_gradient_step"][1] > 7.5


def seen_by_the_network(script, checkpoint, obs):
    """What a loaded agent makes of observations: [N, size]."""
    if script == "maml_trpo":
        policy, _, _ = maml_trpo.load(checkpoint)
        return policy.encode(obs)
    agent = MODULES[script].load(checkpoint)
    first = agent.encode(torch.tensor(obs), None, None, None, True)
    return first[:, : obs.shape[1]]


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("script", SCRIPTS)
def test_small_differences_of_large_numbers_are_seen(script, iterations, in_folder):
    """The moments are exact from the first batch on, and a checkpoint holds them."""
    args = args_of(script, env_id="OtherClock-v0", norm_obs=True, **length(script, iterations))
    MODULES[script].train(args)
    (checkpoint,) = in_folder.glob("runs/*/checkpoint.pt")
    now = 1.7e9 + np.arange(10.0)
    obs = np.stack([now, 1000 * now], axis=1)  # all that an episode shows
    x = seen_by_the_network(script, checkpoint, obs)
    expected = (np.arange(10) - 4.5) / np.arange(10).std()
    for column in x.T.tolist():
        assert column == pytest.approx(expected.tolist(), abs=0.02)


@pytest.mark.parametrize("script", SCRIPTS)
def test_moments_go_on_where_a_run_goes_on(script, in_folder):
    """Stopped, resumed: the same numbers as never stopped."""
    module = MODULES[script]
    settings = {"env_id": "OtherLights-v0", "norm_obs": True}
    if script != "maml_trpo":
        settings["anneal_lr"] = False
    module.train(args_of(script, **settings, **length(script, 4), exp_name="whole"))
    module.train(args_of(script, **settings, **length(script, 2), exp_name="half"))
    (half,) = in_folder.glob("runs/*half*/checkpoint.pt")
    rest = args_of(script, **settings, **length(script, 4), exp_name="rest", resume=str(half))
    module.train(rest)
    (whole,) = in_folder.glob("runs/*whole*/checkpoint.pt")
    paths = [path for path in in_folder.glob("runs/*/checkpoint.pt") if path not in (half, whole)]
    assert len(paths) == 1  # of the rest, a folder of its own
    obs = 1800 + np.random.default_rng(0).random((50, 2))
    seen = [seen_by_the_network(script, path, obs) for path in (whole, *paths)]
    assert torch.equal(*seen)
    saved = [torch.load(path, weights_only=True)["agent"] for path in (whole, *paths)]
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())
    with pytest.raises(UsageError, match="norm_obs must stay True"):
        module.train(args_of(script, env_id="OtherLights-v0", resume=str(half), **length(script, 4)))


@pytest.mark.parametrize("env_id, number", [("OtherLarge-v0", "1e+39"), ("OtherLargeAndNegative-v0", "-1e+300")])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_number_too_large_for_the_network_names_the_observation(script, env_id, number, in_folder):
    with pytest.raises(UsageError) as caught:
        MODULES[script].train(args_of(script, env_id=env_id))
    message = str(caught.value)
    assert re.search(r"observation of sub-environment \d+, whose task is 0\.[5-9]", message)
    assert number in message or "inf" in message
    assert "learning" not in message
    assert not list(in_folder.iterdir())


class Outer(gym.Wrapper):
    """A user's wrapper that changes nothing."""


class OwnNormalization(NormalizeObservation):
    """A user's variant of gymnasium's."""


class Forwarding:
    """A vector wrapper that has what `envs.make` asks for."""

    @property
    def horizon(self):
        return self.unwrapped.horizon

    def sample_tasks(self, num_tasks, rng=None):
        return self.unwrapped.sample_tasks(num_tasks, rng)


class VectorReward(Forwarding, vector_wrappers.NormalizeReward):
    pass


class VectorObservation(Forwarding, vector_wrappers.NormalizeObservation):
    pass


class VectorScaled(Forwarding, vector_wrappers.TransformReward):
    pass


SINGLE = {
    "Reward": lambda: NormalizeReward(Base()),
    "Observation": lambda: NormalizeObservation(Base()),
    "Own": lambda: OwnNormalization(Base()),
    "Below": lambda: Outer(Outer(NormalizeReward(Outer(Base())))),
    "Both": lambda: NormalizeReward(NormalizeObservation(Base())),
}
VECTOR = {
    "VectorReward": lambda num_envs: VectorReward(Lights(num_envs)),
    "VectorObservation": lambda num_envs: VectorObservation(Lights(num_envs)),
    "VectorPlain": lambda num_envs: vector_wrappers.NormalizeReward(Lights(num_envs)),
    "VectorBelow": lambda num_envs: VectorScaled(
        vector_wrappers.NormalizeReward(Lights(num_envs)), lambda reward: 2 * reward
    ),
}
for name, entry_point in SINGLE.items():
    gym.register(
        f"Norm{name}-v0",
        entry_point=entry_point,
        max_episode_steps=10,
        disable_env_checker=True,
    )
for name, entry_point in VECTOR.items():
    gym.register(f"Norm{name}-v0", vector_entry_point=entry_point)
gym.register(
    "NormSpec-v0",
    entry_point=Base,
    max_episode_steps=10,
    disable_env_checker=True,
    additional_wrappers=(NormalizeReward.wrapper_spec(),),
)
gym.register(
    "OnlyScaled-v0",
    entry_point=lambda: TransformReward(Outer(Base()), lambda reward: 2 * reward),
    max_episode_steps=10,
    disable_env_checker=True,
)
gym.register(
    "OnlyVectorScaled-v0",
    vector_entry_point=lambda num_envs: VectorScaled(Lights(num_envs), lambda reward: 2 * reward),
)


@pytest.mark.parametrize("name", [*SINGLE, *VECTOR, "Spec"])
def test_running_statistics_that_are_not_the_runs_are_refused(name):
    with pytest.raises(UsageError) as caught:
        envs.make(f"Norm{name}-v0", 2)
    message = str(caught.value)
    assert "--norm-obs" in message
    assert "Normal" in message  # the wrapper's name
    assert len(message.splitlines()) == 1


def test_running_statistics_are_refused_with_levels_and_in_processes():
    with pytest.raises(UsageError, match="--norm-obs"):
        envs.make("NormReward-v0", 2, levels=True)
    with pytest.raises(UsageError, match="--norm-obs"):
        envs.make("NormBelow-v0", 2, vectorization_mode="async")


@pytest.mark.parametrize("name", ["OnlyScaled-v0", "OnlyVectorScaled-v0"])
def test_a_wrapper_without_statistics_is_not_refused(name):
    env = envs.make(name, 2)
    env.reset(seed=0)
    _, reward, _, _, _ = env.step(np.zeros(2, dtype=int))
    assert set(reward) <= {0.0, 2.0}
    env.close()


# --------------------------------------------------------------------------------------- 11. folders

SAME_SECOND = """
import json, os, sys, time, traceback
import torch
import maml_trpo, rl2_ppo, snail_ppo
torch.set_num_threads(1)  # a child of fork has none of its parent's threads
begin = time.perf_counter()
time.time = lambda: 1.7e9 + (time.perf_counter() - begin) / 1e4  # a second that does not end
children = []
start, go = os.pipe()
for name, settings in json.loads(sys.argv[1]).items():
    script = {"maml_trpo": maml_trpo, "rl2_ppo": rl2_ppo, "snail_ppo": snail_ppo}[name]
    for eval_seed in range(4):
        children.append(os.fork())
        if children[-1] > 0:
            continue
        os.close(go)
        os.read(start, 1)  # until all are there
        try:
            script.train(script.Args(**settings, eval_seed=eval_seed))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
os.close(go)
codes = [os.waitpid(child, 0)[1] for child in children]
sys.exit(any(codes))
"""


def test_jobs_that_start_in_one_second_have_folders_of_their_own(tmp_path):
    """Four jobs of each script, alike but for the seed of the evaluation."""
    settings = {}
    for script in SCRIPTS:
        tiny = SETTINGS[script] | {"cuda": False, "env_id": "Navigation2D-v0"}
        settings[script] = tiny | {"env_kwargs": {"horizon": 10}} | length(script, 1)
    done = subprocess.run(
        [sys.executable, "-c", SAME_SECOND, json.dumps(settings)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    jobs = set()
    folders = list(tmp_path.glob("runs/*"))
    assert len(folders) == 12
    for folder in folders:
        result = json.loads((folder / "eval.json").read_text())
        args = json.loads((folder / "args.json").read_text())
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert result["eval_seed"] == args["eval_seed"] == saved["args"]["eval_seed"]
        assert len(list(folder.glob("events*"))) == 1
        assert f"__{result['algorithm']}__1__" in folder.name
        jobs.add((result["algorithm"], result["eval_seed"]))
    assert len(jobs) == 12


def stand_still(monkeypatch):
    """The clock of the scripts: all of the test is in one second."""
    begin = time.perf_counter()
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + (time.perf_counter() - begin) / 1e4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_finished_run_stays_as_it_was(script, in_folder, monkeypatch):
    stand_still(monkeypatch)
    settings = f"{TINY[script]} {SHORT[script]}"
    assert run_here(script, settings, monkeypatch) is None
    (finished,) = in_folder.glob("runs/*")
    before = contents(finished)
    resume = f"--resume {finished}/checkpoint.pt"
    message = run_here(script, resume, monkeypatch)
    assert f"is finished: to go on, raise {LENGTH[script]}" in message
    message = run_here(script, f"{resume} --seed 5 --eval-trials 3", monkeypatch)
    assert f"is finished: to go on, raise {LENGTH[script]}" in message
    assert list(in_folder.glob("runs/*")) == [finished]

    more = "4" if script == "maml_trpo" else "640"
    change = "--gamma 0.5" if script == "snail_ppo" else ""
    if script == "rl2_ppo":
        change = "--episodes-per-trial 20"
    for count in (2, 3):  # the second time, the first one is there
        arguments = f"{resume} {LENGTH[script]} {more} {change}"
        assert run_here(script, arguments, monkeypatch) is None
        assert contents(finished) == before
        assert len(list(in_folder.glob("runs/*"))) == count
    for folder in in_folder.glob("runs/*"):
        if folder == finished:
            continue
        names = set(contents(folder))
        assert {"args.json", "checkpoint.pt", "eval.json"} < names
        assert any(name.startswith("events") for name in names)
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        result = json.loads((folder / "eval.json").read_text())
        assert saved["args"] == json.loads((folder / "args.json").read_text()) or saved["args"]["seed"] == 1
        assert result["global_step"] == saved["global_step"]
        assert result["global_step"] > json.loads(before["eval.json"])["global_step"]


def stopped_in(iteration, script, args, monkeypatch):
    """Ctrl-C in an iteration of a run: its folder."""
    module = MODULES[script]
    known = set(Path("runs").glob("*"))
    update = module.update
    calls = []

    def watched(*inputs):
        calls.append(1)
        if len(calls) == iteration:
            raise KeyboardInterrupt
        return update(*inputs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "update", watched)
        with pytest.raises(KeyboardInterrupt):
            module.train(args)
    (folder,) = set(Path("runs").glob("*")) - known
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unfinished_run_goes_on_in_its_folder(script, in_folder, monkeypatch):
    args = args_of(script, env_id="OtherBase-v0", **length(script, 4))
    folder = stopped_in(3, script, args, monkeypatch)
    resume = f"--resume {folder}/checkpoint.pt"
    assert run_here(script, resume, monkeypatch) is None
    assert list(in_folder.glob("runs/*")) == [in_folder / folder]
    assert (folder / "eval.json").exists()
    # Ctrl-C in the evaluation leaves a run that is not evaluated: that is all it goes on with.
    result = (folder / "eval.json").read_text()
    (folder / "eval.json").unlink()
    assert run_here(script, resume, monkeypatch) is None
    assert list(in_folder.glob("runs/*")) == [in_folder / folder]
    again = json.loads((folder / "eval.json").read_text())
    assert again["return_by_episode"] == json.loads(result)["return_by_episode"]
