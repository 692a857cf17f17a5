"""Other people's runs: scale, folders, the command line, memory, W&B, and how a run is stopped."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TransformReward
from gymnasium.wrappers import vector as vector_wrappers

import envs
import rl2_ppo
from envs import UsageError
from helpers import (
    LENGTH,
    MODULES,
    ROOT,
    SCRIPTS,
    SHORT,
    TINY,
    Lights,
    command,
    hear_ctrl_c,
    run_here,
    without_env_kwargs,
)

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


# ---------------------------------------------------------------------------------------- the scale


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


for kind in (Base, Clock, Large, LargeAndNegative):
    gym.register(
        f"Other{kind.__name__}-v0",
        entry_point=kind,
        max_episode_steps=10,
        disable_env_checker=True,
    )


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("script", ["rl2_ppo", "snail_ppo"])
def test_small_differences_of_large_numbers_are_seen(script, iterations, in_tmp):
    """The moments are exact from the first batch on, and a checkpoint holds them."""
    args = args_of(script, env_id="OtherClock-v0", norm_obs=True, **length(script, iterations))
    MODULES[script].train(args)
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    now = 1.7e9 + np.arange(10.0)
    obs = np.stack([now, 1000 * now], axis=1)  # all that an episode shows
    agent = MODULES[script].load(checkpoint)
    x = agent.encode(torch.tensor(obs), None, None, None, True)[:, :2]
    expected = (np.arange(10) - 4.5) / np.arange(10).std()
    for column in x.T.tolist():
        assert column == pytest.approx(expected.tolist(), abs=0.02)


@pytest.mark.parametrize(
    "env_id, number", [("OtherLarge-v0", "1e+39"), ("OtherLargeAndNegative-v0", "-1e+300")]
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_number_too_large_for_the_network_names_the_observation(script, env_id, number, in_tmp):
    with pytest.raises(UsageError) as caught:
        MODULES[script].train(args_of(script, env_id=env_id))
    message = str(caught.value)
    assert re.search(r"observation of sub-environment \d+, whose task is 0\.[5-9]", message)
    assert number in message or "inf" in message
    assert "learning" not in message
    assert not list(in_tmp.iterdir())


class Outer(gym.Wrapper):
    """A user's wrapper that changes nothing."""


class Forwarding:
    """A vector wrapper that has what `envs.make` asks for."""

    @property
    def horizon(self):
        return self.unwrapped.horizon

    def sample_tasks(self, num_tasks, rng=None):
        return self.unwrapped.sample_tasks(num_tasks, rng)


class VectorScaled(Forwarding, vector_wrappers.TransformReward):
    pass


class RewardsOfMine(NormalizeReward):
    """A user's class made of gymnasium's."""


class ObservationsOfMine(NormalizeObservation):
    pass


class VectorRewardsOfMine(vector_wrappers.NormalizeReward):
    pass


SINGLE = {
    "RewardSubclass": lambda: RewardsOfMine(Base()),
    "ObservationSubclass": lambda: Outer(ObservationsOfMine(Outer(Base()))),
    "Reward": lambda: NormalizeReward(Base()),
    "Observation": lambda: NormalizeObservation(Base()),
    "Below": lambda: Outer(Outer(NormalizeReward(Outer(Base())))),
    "Both": lambda: NormalizeReward(NormalizeObservation(Base())),
}
VECTOR = {
    "VectorSubclass": lambda num_envs: VectorRewardsOfMine(Lights(num_envs)),
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
    assert f"Norm{name}-v0" in message  # of what
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


# ------------------------------------------------------------------------------------------ folders

SAME_SECOND = """
import json, os, sys, time, traceback
import torch
import maml_trpo, rl2_ppo, snail_ppo
torch.set_num_threads(1)  # a child of fork has none of its parent's threads
torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports what each child would import
begin = time.perf_counter()
time.time = lambda: 1.7e9 + (time.perf_counter() - begin) / 1e4  # a second that does not end
children = []
start, go = os.pipe()
for name, settings in json.loads(sys.argv[1]).items():
    script = {"maml_trpo": maml_trpo, "rl2_ppo": rl2_ppo, "snail_ppo": snail_ppo}[name]
    for eval_seed in range(settings.pop("jobs")):
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
    """Four jobs, of the other scripts two, alike but for the seed of the evaluation."""
    settings = {}
    for script in SCRIPTS:
        tiny = SETTINGS[script] | {"cuda": False, "env_id": "Navigation2D-v0"}
        tiny |= {"env_kwargs": {"horizon": 10}} | length(script, 1)
        settings[script] = tiny | {"jobs": 4 if script == "rl2_ppo" else 2}
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
    assert len(folders) == 8
    for folder in folders:
        result = json.loads((folder / "eval.json").read_text())
        args = json.loads((folder / "args.json").read_text())
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert result["eval_seed"] == args["eval_seed"] == saved["args"]["eval_seed"]
        assert len(list(folder.glob("events*"))) == 1
        assert f"__{result['algorithm']}__1__" in folder.name
        jobs.add((result["algorithm"], result["eval_seed"]))
    assert len(jobs) == 8


def stand_still(monkeypatch):
    """The clock of the scripts: all of the test is in one second."""
    begin = time.perf_counter()
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + (time.perf_counter() - begin) / 1e4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_finished_run_stays_as_it_was(script, in_tmp, monkeypatch):
    stand_still(monkeypatch)
    settings = f"{TINY[script]} {SHORT[script]}"
    assert run_here(script, settings, monkeypatch) is None
    (finished,) = in_tmp.glob("runs/*")
    before = contents(finished)
    resume = f"--resume {finished}/checkpoint.pt"
    more = "4" if script == "maml_trpo" else "640"
    changes = {
        "maml_trpo": "--eval-trials 7",
        "rl2_ppo": "--episodes-per-trial 20",
        "snail_ppo": "--gamma 0.5",
    }
    change = changes[script]
    for count in (2, 3):  # the second time, the first one is there
        arguments = f"{resume} {LENGTH[script]} {more} {change}"
        assert run_here(script, arguments, monkeypatch) is None
        assert contents(finished) == before
        assert len(list(in_tmp.glob("runs/*"))) == count
    for folder in in_tmp.glob("runs/*"):
        if folder == finished:
            continue
        names = set(contents(folder))
        assert {"args.json", "checkpoint.pt", "eval.json"} < names
        assert any(name.startswith("events") for name in names)
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        result = json.loads((folder / "eval.json").read_text())
        assert result["global_step"] == saved["global_step"]
        assert result["global_step"] > json.loads(before["eval.json"])["global_step"]
        if script == "maml_trpo":
            assert result["eval_trials"] == 7


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
def test_an_unfinished_run_goes_on_in_its_folder(script, in_tmp, monkeypatch):
    args = args_of(script, env_id="OtherBase-v0", **length(script, 4))
    folder = stopped_in(3, script, args, monkeypatch)
    resume = f"--resume {folder}/checkpoint.pt"
    assert run_here(script, resume, monkeypatch) is None
    assert list(in_tmp.glob("runs/*")) == [in_tmp / folder]
    assert (folder / "eval.json").exists()
    # Ctrl-C in the evaluation leaves a run that is not evaluated: that is all it goes on with.
    result = (folder / "eval.json").read_text()
    (folder / "eval.json").unlink()
    assert run_here(script, resume, monkeypatch) is None
    assert list(in_tmp.glob("runs/*")) == [in_tmp / folder]
    again = json.loads((folder / "eval.json").read_text())
    assert again["return_by_episode"] == json.loads(result)["return_by_episode"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_finished_run_with_nothing_left_to_do_is_evaluated_in_a_whole_folder(script, in_tmp):
    args = args_of(script, env_id="OtherBase-v0", **length(script, 1))
    MODULES[script].train(args)
    (finished,) = in_tmp.glob("runs/*")
    before = contents(finished)
    args.resume = str(finished / "checkpoint.pt")
    MODULES[script].train(args)
    assert contents(finished) == before
    (other,) = set(in_tmp.glob("runs/*")) - {finished}
    assert set(contents(other)) == {"args.json", "checkpoint.pt", "eval.json"}
    assert json.loads((other / "args.json").read_text())["resume"] == args.resume


class Sized(Base):
    """A test changes how many numbers are seen, and the actions."""

    def look(self):
        return np.ones(self.observation_space.shape)

    def pay(self, action):
        return 0.0


def register_sized(numbers, steps, action_space):
    Sized.observation_space = Box(-np.inf, np.inf, (numbers,), np.float64)
    Sized.action_space = action_space
    gym.registry.pop("Sized-v0", None)
    gym.register("Sized-v0", entry_point=Sized, max_episode_steps=steps, disable_env_checker=True)


THREE_ACTIONS = Discrete(3)
THREE_NUMBERS = Box(-1.0, 1.0, (3,))


@pytest.mark.parametrize(
    "script, numbers, steps, action_space",
    [
        ("snail_ppo", 2, 40, THREE_ACTIONS),
        ("snail_ppo", 3, 10, THREE_ACTIONS),
        ("rl2_ppo", 3, 10, THREE_ACTIONS),
        ("maml_trpo", 3, 10, THREE_ACTIONS),
        ("snail_ppo", 2, 10, THREE_NUMBERS),
        ("rl2_ppo", 2, 10, THREE_NUMBERS),
        ("maml_trpo", 2, 10, THREE_NUMBERS),
    ],
)
@pytest.mark.parametrize("is_reverse", [False, True])
def test_an_environment_that_became_another_one_is_a_sentence(
    script, numbers, steps, action_space, is_reverse, in_tmp
):
    """Trials have another length (of SNAIL, that is another network), observations or actions."""
    versions = [(2, 10, THREE_ACTIONS), (numbers, steps, action_space)]
    if is_reverse:
        versions.reverse()
    register_sized(*versions[0])
    args = args_of(script, env_id="Sized-v0", **length(script, 1))
    MODULES[script].train(args)
    (finished,) = in_tmp.glob("runs/*")
    before = contents(finished)
    register_sized(*versions[1])
    args.resume = str(finished / "checkpoint.pt")
    with pytest.raises(UsageError, match="checkpoint.pt is .*of another environment") as caught:
        MODULES[script].train(args)
    assert "\n" not in str(caught.value)
    assert list(in_tmp.glob("runs/*")) == [finished]
    assert contents(finished) == before


def stopped_run(script):
    """The folder of a short run, as if it had been stopped there."""
    MODULES[script].train(args_of(script, **length(script, 1)))
    (folder,) = Path("runs").iterdir()
    (folder / "eval.json").unlink()
    return folder


@pytest.mark.parametrize("script", MODULES)
def test_what_cannot_be_read_does_not_replace_a_checkpoint(script, in_tmp):
    folder = stopped_run(script)
    checkpoint = folder / "checkpoint.pt"
    before = checkpoint.read_bytes()
    settings = length(script, 2) | {"resume": str(checkpoint)}
    for odd in ({"resume": checkpoint}, {"gae_lambda": np.float64(0.5)}, {"seed": np.int64(1)}):
        with pytest.raises(UsageError, match="Are arguments plain numbers and texts?"):
            MODULES[script].train(args_of(script, **settings | odd))
        assert checkpoint.read_bytes() == before
    assert MODULES[script].train(args_of(script, **settings)) is not None


@pytest.mark.parametrize("script", MODULES)
def test_a_copy_with_another_name_goes_on_in_a_folder_of_its_own(script, in_tmp):
    folder = stopped_run(script)
    copy = folder / "earlier.pt"
    copy.write_bytes((folder / "checkpoint.pt").read_bytes())
    before = contents(folder)
    result = MODULES[script].train(args_of(script, **length(script, 3), resume=str(copy)))
    assert result["resume"] == str(copy)
    assert contents(folder) == before
    (other,) = set(Path("runs").iterdir()) - {folder}
    iterations = [torch.load(path)["iteration"] for path in (copy, other / "checkpoint.pt")]
    assert iterations[1] == 3 * iterations[0]


# --------------------------------------------------------------------------------- the command line


class Talkative(Base):
    """Notes the arguments of every one that is built."""

    built = []

    def __init__(self, colour="red", **kwargs):
        super().__init__(**kwargs)
        self.built.append({"colour": colour} | kwargs)


gym.register("Talkative-v0", entry_point=Talkative, max_episode_steps=10, disable_env_checker=True)
TWICE = [
    "--env-kwargs num_states 3 --env-kwargs horizon 5",
    "--env_kwargs num_states 3 --env-kwargs horizon 5",
    "--env-kwargs num_states 3 --env_kwargs horizon 5",
    "--env-kwargs num_states 3 --seed 2 --env-kwargs horizon 5",
    "--env-kwargs=num_states 3 --env-kwargs horizon 5",
    "--env-kwargs num_states 3 --env-kwargs=horizon 5",
]


def arguments_of_the_run(folder):
    """What args.json of the only run holds."""
    (path,) = folder.glob("runs/*/args.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("maml_trpo", TWICE[0]),
        ("snail_ppo", TWICE[1]),
        *[("rl2_ppo", arguments) for arguments in TWICE],
    ],
)
def test_env_kwargs_twice_are_refused(script, arguments, in_tmp, monkeypatch, capsys):
    """tyro alone would take the last of them and say nothing."""
    tiny = f"{without_env_kwargs(script)} {SHORT[script]} --env-id TabularMDP-v0"
    message = run_here(script, f"{tiny} {arguments}", monkeypatch)
    assert message.startswith("error: Name all arguments of the environment after one --env-kwargs")
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        "--env-kwargs horizon 5 --exp-name kwargs",
        "--exp-name my-env_kwargs --env_kwargs horizon 5",
        "--resume runs/kwargs-test/checkpoint.pt --env-kwargs=horizon 5",
        "--wandb-entity env-kwargs --exp-name kwargs",
    ],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_flag_alone_is_counted(script, arguments, in_tmp, monkeypatch):
    """What else has its letters is a name or a path. The next mistake is the one reported."""
    message = run_here(script, f"--gamma 1.1 {arguments}", monkeypatch)
    expected = "runs/kwargs-test/checkpoint.pt is no" if "--resume" in arguments else "gamma"
    assert message.startswith(f"error: {expected}")


@pytest.mark.parametrize(
    "script, arguments, expected",
    [
        ("maml_trpo", "--num-iterations 1e0 --eval-trials 5", (1, 5)),
        ("rl2_ppo", "--total-timesteps 1.6e2 --num-envs 16", (160, 16)),
        ("rl2_ppo", "--total-timesteps=1.6e2 --hidden-size=8", (160, 8)),
        ("rl2_ppo", "--total-timesteps 1_60 --seed 1_000", (160, 1000)),
        ("snail_ppo", "--total-timesteps 0.16e3 --num-envs 16", (160, 16)),
    ],
)
def test_whole_numbers_as_people_write_them(script, arguments, expected, in_tmp, monkeypatch):
    tiny = f"{without_env_kwargs(script)} {SHORT[script]} --exp-name 1e3"
    assert run_here(script, f"{tiny} {arguments}", monkeypatch) is None
    args = arguments_of_the_run(in_tmp)
    names = re.findall(r"--([a-z-]+_?[a-z]*)", arguments)
    for name, number in zip(names, expected, strict=True):
        value = args[name.replace("-", "_")]
        assert value == number
    assert args["exp_name"] == "1e3"  # a name, not a number


@pytest.mark.parametrize("script", SCRIPTS)
def test_other_numbers_stay_what_they_are(script, in_tmp, monkeypatch):
    rate = "--inner-lr" if script == "maml_trpo" else "--learning-rate"
    arguments = f"{TINY[script]} {SHORT[script]} --seed {2**53 + 1} {rate} 1e-3"
    assert run_here(script, f"{arguments} --checkpoint-seconds 1e2", monkeypatch) is None
    args = arguments_of_the_run(in_tmp)
    assert args["seed"] == 2**53 + 1
    assert args[rate.strip("-").replace("-", "_")] == 1e-3
    assert args["checkpoint_seconds"] == 100.0


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_cuda_stays_on_the_processor(script, in_tmp, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    MODULES[script].train(args_of(script, cuda=False, **length(script, 1)))
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    agent = torch.load(path, weights_only=True)["agent"]
    assert {tensor.device.type for tensor in agent.values()} == {"cpu"}


@pytest.mark.parametrize("number", ["1e", "ten"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_no_number_is_refused(script, number, in_tmp, monkeypatch, capsys):
    message = run_here(script, f"{TINY[script]} {LENGTH[script]} {number}", monkeypatch)
    words = f"{message} {capsys.readouterr().err}"
    assert number in words
    assert LENGTH[script] in words.replace("_", "-")
    assert "Traceback" not in words
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_none_and_other_values_arrive_as_what_they_are(script, in_tmp, monkeypatch):
    Talkative.built.clear()
    kwargs = "colour None level 3 ratio 0.5 dark True word None2 empty None many 1e6"
    arguments = f"--env-id Talkative-v0 --env-kwargs {kwargs}"
    tiny = f"{without_env_kwargs(script)} {SHORT[script]} --eval-trials 2"
    assert run_here(script, f"{tiny} {arguments}", monkeypatch) is None
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    MODULES[script].load(checkpoint)
    length_before = len(Talkative.built)
    resume = f"--resume {checkpoint} {LENGTH[script]} 1700"  # one batch more
    if script == "maml_trpo":
        resume = f"--resume {checkpoint} {LENGTH[script]} 3"
    assert run_here(script, resume, monkeypatch) is None
    assert len(Talkative.built) > length_before > 0
    expected = {"colour": None, "level": 3, "ratio": 0.5}
    expected |= {"dark": True, "word": "None2", "empty": None, "many": 1e6}
    for built in Talkative.built:
        assert {name: built[name] for name in expected} == expected
        assert built["dark"] is True
        assert type(built["many"]) is float  # as it is written: the environment may tell them apart


# --------------------------------------------------------------------------------------- the memory


class Enough(Exception):
    """Ends a run where its sizes are known."""


def batch_of_training(script, monkeypatch, **settings):
    """Trials and steps of a trial in the first batch of a run; nothing is computed."""
    module = MODULES[script]
    make = envs.make
    found = {}

    def small(env_id, num_envs=1, **kwargs):
        env = make(env_id, 1, **kwargs)
        env.unwrapped.num_envs = num_envs
        return env

    def stop(agent, env, tasks, episodes, seed):
        found.update(trials=len(tasks), steps=episodes * env.horizon)
        raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(envs, "make", small)
        patch.setattr(module, "rollout", stop)
        with pytest.raises(Enough):
            module.train(module.Args(cuda=False, **settings))
    return found["trials"], found["steps"]


@pytest.mark.parametrize("env_id", list(envs.ENVIRONMENTS))
@pytest.mark.parametrize("script", ["rl2_ppo", "snail_ppo"])
def test_an_environments_id_alone_is_enough(script, env_id, in_tmp, monkeypatch):
    """As many trials as the papers' small tasks have, fewer of long ones."""
    trials, steps = batch_of_training(script, monkeypatch, env_id=env_id)
    assert trials == min(4000, 400_000 // steps)


@pytest.mark.parametrize("script", ["rl2_ppo", "snail_ppo"])
def test_a_number_of_trials_that_is_said_counts(script, in_tmp, monkeypatch):
    long = {"env_id": "HalfCheetahVel-v0", "env_kwargs": {"horizon": 30}}
    for num_envs in (8, 48, 1000, 5000):
        trials, _ = batch_of_training(script, monkeypatch, num_envs=num_envs, **long)
        assert trials == num_envs


@pytest.mark.parametrize("script", ["rl2_ppo", "snail_ppo"])
def test_a_run_whose_number_of_trials_was_chosen_goes_on(script, in_tmp, monkeypatch):
    tiny = re.sub("--num-envs 16 --num-minibatches 2", "--update-epochs 1", TINY[script])
    tiny += " --episodes-per-trial 1 --env-kwargs num_arms 2"
    assert run_here(script, f"{tiny} --total-timesteps 2", monkeypatch) is None
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 4000
    tasks = np.random.default_rng(0).random((5, 2))
    agent = MODULES[script].load(checkpoint)
    returns = MODULES[script].evaluate(agent, "Bandit-v0", {"num_arms": 2}, tasks, 1)
    assert returns.shape == (5, 1)
    resume = f"--resume {checkpoint} --total-timesteps 4001"
    assert run_here(script, resume, monkeypatch) is None
    steps = [
        json.loads(path.read_text())["global_step"] for path in Path("runs").glob("*/eval.json")
    ]
    assert max(steps) == 8000


@pytest.mark.parametrize(
    "script, arguments, flag",
    [
        ("rl2_ppo", "--num-envs 100_000_000 --episodes-per-trial 1000", "--num-envs"),
        ("snail_ppo", "--num-envs 100_000_000 --episodes-per-trial 1000", "--num-envs"),
        ("maml_trpo", "--env-kwargs horizon 1_000_000_000", "--meta-batch-size"),
    ],
)
def test_a_batch_too_large_for_the_machine_is_a_sentence(
    script, arguments, flag, in_tmp, monkeypatch
):
    message = run_here(script, arguments, monkeypatch)
    assert re.search(r"[0-9.] [TP]iB", message)  # its size
    assert f"lower {flag}" in message
    assert "or --eval-trials." in message
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_gpu_whose_memory_is_full_is_a_sentence(script, in_tmp, monkeypatch):
    def make(*arguments, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(envs, "make", make)
    message = run_here(script, TINY[script], monkeypatch)
    assert message.startswith("error: CUDA out of memory. Tried to allocate 20 GiB.: lower --")
    assert "or --eval-trials." in message


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_evaluation_too_large_for_the_machine_says_how_to_go_on(script, in_tmp, monkeypatch):
    """Training is over then, and saved. A copy of the script says its own name."""
    (in_tmp / "my_copy.py").write_text((ROOT / f"{script}.py").read_text())
    arguments = f"{TINY[script]} {LENGTH[script]} 1 --eval-trials {10**15}"
    monkeypatch.setattr(sys, "argv", ["my_copy.py", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        runpy.run_path("my_copy.py", run_name="__main__")
    message = end.value.code
    (checkpoint,) = Path("runs").glob("*/checkpoint.pt")
    assert "or --eval-trials." in message
    assert message.endswith(f"To go on: python my_copy.py --resume {checkpoint}")
    assert run_here(script, f"--resume {checkpoint} --eval-trials 2", monkeypatch) is None
    assert (checkpoint.parent / "eval.json").exists()


# ------------------------------------------------------------------------------------ W&B, followed


@pytest.fixture
def wandb(monkeypatch):
    """A module that notes how its runs are started."""
    fake = SimpleNamespace(started=[], run=None)

    def init(**kwargs):
        fake.started.append(kwargs)
        name = kwargs.get("id") or f"generated{len(fake.started)}"
        fake.run = SimpleNamespace(id=name, finish=finish)
        return fake.run

    def finish(*args, **kwargs):
        fake.run = None

    fake.init = init
    fake.finish = finish
    fake.util = SimpleNamespace(generate_id=lambda: f"drawn{time.perf_counter_ns()}")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.mark.parametrize("script", SCRIPTS)
def test_tracking_knows_all_arguments_and_goes_on(script, wandb, in_tmp, monkeypatch):
    given = {"seed": 7, "track": True, "wandb_entity": "us", "wandb_project_name": "ours"}
    args = args_of(script, env_id="OtherBase-v0", **given, **length(script, 4))
    folder = stopped_in(3, script, args, monkeypatch)
    (first,) = wandb.started
    config = dict(first["config"])
    for name, value in vars(args_of(script)).items():
        assert name in config
        if name not in ("num_envs", "env_id", *given, *length(script, 4)):
            assert config[name] == value
    assert config["env_id"] == "OtherBase-v0"
    assert config["seed"] == 7
    assert first["entity"] == "us"
    assert first["project"] == "ours"
    assert first["sync_tensorboard"] is True
    assert first["name"] == folder.name
    run_id = wandb.run.id

    arguments = f"--resume {folder}/checkpoint.pt --track"
    assert run_here(script, arguments, monkeypatch) is None
    second = wandb.started[1]
    assert len(wandb.started) == 2
    assert second["id"] == run_id
    assert second["resume"] in ("allow", "must")
    assert second["name"] == first["name"]
    assert second["config"]["seed"] == 7


def test_two_tracked_runs_are_two(wandb, in_tmp, monkeypatch):
    ids = set()
    stand_still(monkeypatch)
    for _ in range(2):
        rl2_ppo.train(args_of("rl2_ppo", track=True, **length("rl2_ppo", 1)))
        ids.add(wandb.run.id)
    assert len(ids) == 2


def test_tracking_may_begin_with_a_resumed_run(wandb, in_tmp, monkeypatch):
    args = args_of("rl2_ppo", env_id="OtherBase-v0", **length("rl2_ppo", 4))
    folder = stopped_in(3, "rl2_ppo", args, monkeypatch)
    assert not wandb.started
    arguments = f"--resume {folder}/checkpoint.pt --track"
    assert run_here("rl2_ppo", arguments, monkeypatch) is None
    (started,) = wandb.started
    assert started.get("resume") != "must"  # there is none
    assert started["config"]["track"] is True


# --------------------------------------------------------------- asynchronous environments, stopped

SLOW_LIGHTS = """
import multiprocessing, os, time
import gymnasium as gym
import numpy as np

if os.environ["START_METHOD"] != "default":
    multiprocessing.set_start_method(os.environ["START_METHOD"], force=True)


class SlowLights(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def sample_task(self, rng):
        return rng.random()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        time.sleep(float(os.environ["RESET_SECONDS"]))
        return np.ones(1, np.float32), {}

    def step(self, action):
        time.sleep(float(os.environ["STEP_SECONDS"]))
        return np.ones(1, np.float32), float(action), False, False, {}


gym.register("SlowLights-v0", SlowLights, max_episode_steps=5, disable_env_checker=True)
"""
SMALLEST = {
    "maml_trpo": "--meta-batch-size 1 --episodes-per-task 2 --hidden-size 4",
    "rl2_ppo": "--num-envs 2 --num-minibatches 1 --episodes-per-trial 2 --hidden-size 4",
    "snail_ppo": "--num-envs 2 --num-minibatches 1 --episodes-per-trial 2 --sizes 4 4 4 4",
}


def has_ended(group):
    """Whether no process of a group is left, within five seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "script, start_method, number, whom, slow, seconds",
    [
        # One worker in these two, for it imports torch.
        ("maml_trpo", "spawn", signal.SIGINT, "group", "step", 0.5),
        ("maml_trpo", "forkserver", signal.SIGTERM, "group", "step", 0.5),
        ("maml_trpo", "fork", signal.SIGTERM, "group", "step", 0.5),
        ("rl2_ppo", "fork", signal.SIGINT, "group", "step", 0.5),
        ("snail_ppo", "default", signal.SIGTERM, "main process", "step", 0.0),
        ("maml_trpo", "fork", signal.SIGINT, "group", "reset", 0.5),
        ("rl2_ppo", "fork", signal.SIGTERM, "group", "reset", 0.5),
    ],
)
def test_a_stop_is_one_sentence_and_leaves_no_process(
    script, start_method, number, whom, slow, seconds, tmp_path
):
    """The main process waits for what is slow most of the time."""
    (tmp_path / "slow_lights.py").write_text(SLOW_LIGHTS)
    arguments = f"--no-cuda --env-id slow_lights:SlowLights-v0 {SMALLEST[script]}"
    arguments += f" {LENGTH[script]} 100000000 --env-kwargs vectorization_mode async"
    if start_method in ("spawn", "forkserver"):
        arguments += " --episodes-per-task 1"
    variables = {"START_METHOD": start_method, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    variables |= {"STEP_SECONDS": "0", "RESET_SECONDS": "0"}
    variables[f"{slow.upper()}_SECONDS"] = "0.05" if slow == "step" else "0.5"
    process = subprocess.Popen(
        command(script, arguments),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own
        preexec_fn=hear_ctrl_c,
        env=os.environ | variables,
    )
    deadline = time.monotonic() + 120
    try:
        while not list(tmp_path.glob("runs/*/checkpoint.pt")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)  # 0: there is a checkpoint, but not much else yet
        if whom == "group":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
        assert has_ended(process.pid)
    finally:
        if not has_ended(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    assert process.returncode not in (0, -signal.SIGINT, -signal.SIGTERM)
    assert "Traceback" not in stderr
    sentences = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(sentences) == 1
    assert "pending call" not in stderr  # gymnasium does not wait for it
    resume = f"python {script}.py --resume {checkpoint.relative_to(tmp_path)}"
    assert stderr.strip().endswith(resume)
    assert torch.load(checkpoint, weights_only=True)["algorithm"] == script  # it is whole


# -------------------------------------------------------------------------------------- other stops


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stop_in_the_evaluation_says_how_to_go_on_and_only_that_is_left(
    script, in_tmp, monkeypatch
):
    module = MODULES[script]
    args = args_of(script, env_id="OtherBase-v0", **length(script, 2))

    def stop(*inputs, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            module.train(args)
    (checkpoint,) = Path("runs").glob("*/checkpoint.pt")
    assert caught.value.__notes__ == [
        "Stopped. Iterations done: 2.",
        f"To go on: python {script}.py --resume {checkpoint}",
    ]
    before = torch.load(checkpoint, weights_only=True)
    assert run_here(script, f"--resume {checkpoint}", monkeypatch) is None
    after = torch.load(checkpoint, weights_only=True)
    assert before["iteration"] == after["iteration"] == 2
    for name, tensor in before["agent"].items():
        assert torch.equal(tensor, after["agent"][name])
    assert (checkpoint.parent / "eval.json").exists()
    assert len(list(in_tmp.glob("runs/*"))) == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stop_while_tensorboard_is_waited_for_is_a_stop(script, in_tmp, monkeypatch):
    """It may come where a lock is not held, and ends in an error of the lock."""
    release = threading.Condition._release_save

    def stopped(condition):
        release(condition)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "_release_save", stopped)
        queue = Queue()
        queue.put(1)
        with pytest.raises(RuntimeError, match="release unlocked lock"):
            queue.join()  # what happens to tensorboard's
        with pytest.raises(KeyboardInterrupt) as caught:
            MODULES[script].train(args_of(script, env_id="OtherBase-v0", **length(script, 500)))
    (checkpoint,) = Path("runs").glob("*/checkpoint.pt")
    assert caught.value.__notes__[-1] == f"To go on: python {script}.py --resume {checkpoint}"


# ------------------------------------------------------------------ programs of the documentation


def program(title):
    """What stands as Python below a title of docs/environments.md."""
    page = (ROOT / "docs" / "environments.md").read_text()
    return page.split(f"### {title}\n")[1].split("```python\n")[1].split("```")[0]


def test_a_run_starts_from_the_weights_of_another_one(in_tmp, monkeypatch):
    rl2_ppo.train(args_of("rl2_ppo", env_id="TabularMDP-v0", **length("rl2_ppo", 1)))
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    weights = torch.load(checkpoint, weights_only=True)["agent"]
    exec(program("Start from the weights of another run"), {})
    # an update that changes nothing
    monkeypatch.setattr(rl2_ppo, "update", lambda *arguments: {"losses/nothing": 0.0})
    resume = "runs/longer/checkpoint.pt"
    args = torch.load(resume, weights_only=True)["args"]
    result = rl2_ppo.train(rl2_ppo.Args(**args | {"resume": resume}))
    assert result["env_kwargs"] == {"horizon": 20}
    assert result["global_step"] == 8 * 2 * 20  # one batch of the longer episodes
    torch.testing.assert_close(torch.load(resume, weights_only=True)["agent"], weights)


def test_greedy_actions_earn_about_as_much(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(program("Greedy actions"), {})
    drawn, greedy = map(float, capsys.readouterr().out.split())
    assert drawn != greedy
    for mean in (drawn, greedy):
        assert mean == pytest.approx(6.65, abs=0.15)


def test_an_agent_acts_in_a_loop_of_its_user(in_tmp, monkeypatch, capsys):
    (in_tmp / "long_pole.py").write_text(program("An ordinary environment"))
    monkeypatch.delitem(sys.modules, "long_pole", raising=False)
    rl2_ppo.train(args_of("rl2_ppo", env_id="long_pole:LongPole-v0", **length("rl2_ppo", 1)))
    dones = []
    act = rl2_ppo.Agent.act

    def noted(agent, obs, action, reward, done, state):
        dones.append(done.item())
        assert reward.item() == (state is not None)  # a standing pole pays 1
        return act(agent, obs, action, reward, done, state)

    monkeypatch.setattr(rl2_ppo.Agent, "act", noted)
    capsys.readouterr()
    code = program("Act in your own loop")
    exec(code, {})
    first, second = re.findall(r"episode \d: (\d+) steps", capsys.readouterr().out)
    # one step has seen the end of an episode: the second one's first
    assert dones == [0] * int(first) + [1] + [0] * (int(second) - 1)
    # continuous actions of -1 and 1 are the ends of a range
    page = (ROOT / "docs" / "environments.md").read_text()
    names = {}
    exec("def onto_range" + page.split("def onto_range")[1].split("```")[0], names)
    space = gym.spaces.Box(np.float32([0, 10]), np.float32([2, 20]))
    ends = [names["onto_range"](torch.tensor([end, end]), space) for end in (-1.0, 1.0)]
    np.testing.assert_array_equal(ends, [space.low, space.high])
