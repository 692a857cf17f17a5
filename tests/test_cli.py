"""The scripts as a user runs them: from the command line."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import imageio.v3
import pytest
import torch
import torch.distributed as dist

import pictures
from helpers import (
    LENGTH,
    ROOT,
    SCRIPTS,
    SHORT,
    TINY,
    command,
    hear_ctrl_c,
    run,
    run_here,
    without_env_kwargs,
)

# ----------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("rl2_ppo", "--hidden-size 32 --learning-rate 0.02 --total-timesteps 300_000"),
        ("snail_ppo", "--sizes 16 8 16 16 --learning-rate 0.01 --total-timesteps 200_000"),
    ],
)
def test_it_learns_to_learn(script, arguments, in_tmp, monkeypatch):
    """A small setting: 3 arms, 6 pulls. Random earns 3.00, the Bayes-optimal policy 3.68.

    Seeds 1 to 5 come to 3.65 or more.
    """
    arguments += " --env-kwargs num_arms 3 --episodes-per-trial 6 --num-envs 500"
    arguments += " --num-minibatches 4 --eval-trials 10_000"
    assert run_here(script, arguments, monkeypatch) is None
    (path,) = in_tmp.glob("runs/*/eval.json")
    result = json.loads(path.read_text())
    # The best of three arms pays 3/4 on average, in each of 6 pulls; standard error below 0.01.
    assert 6 * 3 / 4 - result["regret_mean"] > 3.6
    first = result["return_by_episode"][0]
    last = result["return_by_episode"][-1]
    assert abs(first - 0.5) < 0.03  # blind in the first pull
    assert last > 0.65  # informed in the last


@pytest.mark.parametrize("script", SCRIPTS)
def test_processes_of_torchrun_meet(script, monkeypatch):
    met = []
    monkeypatch.setattr(dist, "init_process_group", lambda: met.append(script))
    monkeypatch.delenv("RANK", raising=False)
    assert "nonsense" in run_here(script, "--env-id nonsense", monkeypatch)
    assert met == []
    monkeypatch.setenv("RANK", "0")
    assert "nonsense" in run_here(script, "--env-id nonsense", monkeypatch)
    assert met == [script]


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_says_how_to_go_on_and_resume_does(script, in_tmp, monkeypatch):
    process = subprocess.Popen(
        command(script, f"{TINY[script]} {LENGTH[script]} 100000000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=hear_ctrl_c,
    )
    try:
        assert process.stdout.readline()  # the first iteration is over
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert stderr.startswith("error: Interrupt. Stopped. Iterations done: ")
    assert f"python {script}.py --resume {checkpoint.relative_to(in_tmp)}" in stderr
    saved = torch.load(checkpoint, weights_only=True)
    length = saved["iteration"] + 2 if script == "maml_trpo" else saved["global_step"] + 320
    resume = f"--resume {checkpoint} {LENGTH[script]} {length}"
    assert run_here(script, resume, monkeypatch) is None
    result = json.loads((checkpoint.parent / "eval.json").read_text())
    assert result["global_step"] > saved["global_step"]
    assert len(list(in_tmp.glob("runs/*"))) == 1


KILLING = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
import torch._dynamo  # as the optimizer does: once, not in every child
import rl2_ppo
torch.set_num_threads(1)  # a child of fork has none of its parent's threads

def half_written(contents, path):
    # Dies when half of the checkpoint is on disk.
    save(contents, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    os.kill(os.getpid(), signal.SIGKILL)

def child(exp_name, resume=None, torn=False):
    pid = os.fork()
    if pid > 0:
        return pid
    if torn:
        torch.save = half_written
    settings = json.loads(sys.argv[1])
    try:
        rl2_ppo.train(rl2_ppo.Args(**settings, exp_name=exp_name, resume=resume))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

def checkpoints():
    saved = list(Path("runs").glob("*__killed__*/checkpoint.pt"))
    return sorted(saved, key=lambda path: path.stat().st_mtime_ns)

def newest():
    return max([path.stat().st_mtime_ns for path in checkpoints()], default=0)

save = torch.save
assert os.waitpid(child("whole"), 0)[1] == 0
chance = random.Random(0)
for kill in range(10):
    saved = checkpoints()
    before = newest()
    torn = kill % 5 == 4
    pid = child("killed", str(saved[-1]) if saved else None, torn)
    if not torn:
        while newest() == before:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # it runs
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
assert os.waitpid(child("killed", str(checkpoints()[-1])), 0)[1] == 0
"""


def test_killed_at_ten_moments_and_resumed_equals_never_stopped(tmp_path):
    """SIGKILL at random moments and in the midst of writing."""
    settings = {"total_timesteps": 16 * 10 * 60, "num_envs": 16, "num_minibatches": 2}
    settings |= {"hidden_size": 8, "checkpoint_seconds": 1e-9, "cuda": False, "eval_trials": 20}
    done = subprocess.run(
        [sys.executable, "-c", KILLING, json.dumps(settings)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    results = []
    agents = []
    for name in ("whole", "killed"):
        (path,) = tmp_path.glob(f"runs/*__{name}__*/eval.json")
        result = json.loads(path.read_text())
        for key in ("wall_seconds", "exp_name", "resume"):
            del result[key]
        results.append(result)
        agents.append(torch.load(path.parent / "checkpoint.pt", weights_only=True)["agent"])
    assert results[0] == results[1]
    for name, tensor in agents[0].items():
        assert torch.equal(tensor, agents[1][name])


# ---------------------------------------------------------------------------------------- bad input

OWN = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

import envs


class Good(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def sample_task(self, rng):
        return rng.random()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = options["task"]
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), self.task, False, False, {}


class Raises(Good):
    def step(self, action):
        raise KeyError("wheels")


class ImportsInStep(Good):
    def step(self, action):
        import package_that_nobody_has


class ImportsInReset(Good):
    def reset(self, *, seed=None, options=None):
        import package_that_nobody_has


class ImportsInConstructor(Good):
    def __init__(self):
        import package_that_nobody_has


class ImportsInVectorConstructor(envs.Bandit):
    def __init__(self, num_envs):
        import package_that_nobody_has


class NaNReward(Good):
    def step(self, action):
        return np.zeros(2, np.float32), np.nan, False, False, {}


class NoTasks(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)


class DictObservation(NoTasks):
    observation_space = gym.spaces.Dict({"x": Discrete(2)})


class WrongVector(envs.Navigation2D):
    def _observe(self):
        return np.zeros((self.num_envs, 3))


IMPORTS = (ImportsInStep, ImportsInReset, ImportsInConstructor)
for kind in (Good, Raises, NaNReward, NoTasks, DictObservation, *IMPORTS):
    gym.register(
        f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=5, disable_env_checker=True
    )
gym.register("NoLimit-v0", entry_point=Good)
gym.register("ImportsInVectorConstructor-v0", vector_entry_point=ImportsInVectorConstructor)
gym.register("WrongVector-v0", vector_entry_point=WrongVector)
"""
ALL = [
    ("--env-id Bandid-v0", "Cannot make 'Bandid-v0' with {}: Environment `Bandid` doesn't exist"),
    ("--env-id HalfCheetah-v2", "environments have been moved to the gymnasium-robotics project"),
    ("--env-id nowhere.module:Task-v0", "No module named 'nowhere'"),
    ("--env-id own.module:Good-v0", "No module named 'own.module'"),
    ("--env-id ./nowhere:Task-v0", "No module named 'nowhere'"),
    ("--env-id ./own:NoTasks-v0", "sample_task(rng) or --env-kwargs levels True (it is False)"),
    ("--env-id own:NoTasks-v0", "sample_task(rng) or --env-kwargs levels True (it is False)"),
    ("--env-id own:NoLimit-v0", "needs a max_episode_steps (it is None)"),
    ("--env-id own:DictObservation-v0 --env-kwargs levels True", "use Discrete, numbered from 0"),
    ("--env-id own:WrongVector-v0", "observations must have shape"),
    ("--env-id own:NaNReward-v0", "reward of sub-environment 0, whose task is 0."),
    ("--env-kwargs num_arm 3", "unexpected keyword argument 'num_arm'"),
    ("--env-kwargs num_envs 3", "env_kwargs must not hold num_envs"),
    ("--env-kwargs observe_task false", "observe_task must be True or False, got 'false'"),
    ("--env-id TabularMDP-v0 --env-kwargs horizon 0", "horizon must be a positive whole number"),
    ("--gamma 1.1", "must not exceed 1"),
    ("--gamma -0.5", "gamma must not exceed 1 or be below 0"),
    ("--gae-lambda nan", "gae_lambda must not exceed 1 or be below 0"),
    ("--action-scale nan", "action_scale must be above 0, got nan"),
    ("--seed -1", "at least 0"),
    ("--eval-trials 1", "eval_trials must be at least 2"),
    ("--track", "--track needs a package: pip install wandb."),
    ("--resume nowhere.pt", "nowhere.pt is no readable checkpoint: FileNotFoundError"),
    ("--resume truncated.pt", "truncated.pt is no readable checkpoint"),
    ("--resume text.pt", "text.pt is no readable checkpoint"),
    ("--resume evil.pt", "evil.pt is no readable checkpoint"),
    ("--resume dqn.pt", "is of dqn"),
    ("--resume old.pt", "another version"),
    ("--resume agent.pt", "is an agent alone"),
    ("--resume good.pt --env-id TabularMDP-v0", "env_id must stay"),
    ("--resume good.pt --env-kwargs observe_task True", "env_kwargs must stay"),
    ("--resume good.pt --action-scale 0.5", "action_scale must stay 1.0"),
    ("--resume older.pt --norm-obs", "norm_obs must stay False"),
]
MAML = [
    ("--resume good.pt --hidden-size 9", "hidden_size must stay 8"),
    ("--meta-batch-size 0", "meta_batch_size must be at least 1"),
    ("--num-inner-steps -1", "num_inner_steps and cg_damping at least 0"),
    ("--cg-damping nan", "cg_damping at least 0"),
    ("--num-iterations nan", "num_iterations must be above 0, got nan"),
    ("--gamma nan", "gamma must not exceed 1 or be below 0"),
    ("--gae-lambda -0.1", "gae_lambda must not exceed 1 or be below 0"),
    ("--fisher-fraction 1.5", "fisher_fraction must not exceed 1"),
    ("--eval-seed -1", "cg_damping at least 0"),
    ("--inner-lr 0", "inner_lr must be above 0, got 0.0"),
    ("--fisher-fraction nan", "fisher_fraction must be above 0, got nan"),
    ("--inner-lr 1e38 --env-id TabularMDP-v0 --eval-trials 2", "The policy is not finite"),
]
PPO = [
    ("--num-envs 0", "num_envs must be above 0, got 0"),
    ("--episodes-per-trial 0", "episodes_per_trial must be above 0"),
    ("--learning-rate nan", "learning_rate must be above 0, got nan"),
    ("--max-grad-norm 0", "max_grad_norm must be above 0, got 0.0"),
    ("--vf-coef nan --num-envs 16", "Not finite"),
    ("--num-minibatches 99999", "must be at least num_minibatches times processes"),
    ("--env-id Navigation2D-v0 --env-kwargs horizon 2 --learn-from-regret", "reports no regret"),
    ("--resume good.pt --norm-obs", "norm_obs must stay False"),
    ("--resume good.pt --norm-reward", "norm_reward must stay False"),
]
RL2 = [
    ("--resume good.pt --cell lstm", "cell must stay gru"),
    ("--resume good.pt --hidden-size 9", "hidden_size must stay 8"),
    ("--hidden-size 0", "hidden_size must be above 0"),
]
SNAIL = [
    ("--resume good.pt --tc-blocks 3", "tc_blocks must stay 2"),
    ("--resume good.pt --sizes 8 4 4 5", "sizes must stay (8, 4, 4, 4)"),
    ("--tc-blocks 0", "tc_blocks must be above 0"),
    ("--sizes 32 0 32 32", "sizes must be above 0, got (32, 0, 32, 32)"),
    ("--resume good.pt --episodes-per-trial 11", "episodes_per_trial must stay 10"),
]
CASES = [(script, *case) for script in ("maml_trpo", "rl2_ppo") for case in ALL]
CASES += [("maml_trpo", *case) for case in MAML]
CASES += [("rl2_ppo", *case) for case in PPO + RL2]
# What is behind `rollout` is the same text in RL^2 and SNAIL (a test of test_ppo.py), but for what
# must stay. What is before it checks the arguments.
OF_ARGUMENTS = ("num_envs", "exceed", "action_scale", "at least", "eval_trials", "above 0", "stay")
for case in ALL + PPO:
    if any(word in case[1] for word in OF_ARGUMENTS):
        CASES.append(("snail_ppo", *case))
CASES += [("snail_ppo", *case) for case in SNAIL]


class Evil:
    """Would run a command where a file is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """For each script a good checkpoint, and bad ones: damaged, another's, one that runs code."""
    root = tmp_path_factory.mktemp("checkpoints")
    for script in SCRIPTS:
        folder = root / script
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            tiny = without_env_kwargs(script)
            assert run_here(script, f"{tiny} {SHORT[script]}", patch) is None
        (good,) = folder.glob("runs/*/checkpoint.pt")
        contents = good.read_bytes()
        saved = torch.load(good, weights_only=True)
        (folder / "good.pt").write_bytes(contents)
        (folder / "truncated.pt").write_bytes(contents[:2000])
        (folder / "text.pt").write_text("not a checkpoint")
        torch.save(saved | {"algorithm": "dqn"}, folder / "dqn.pt")
        torch.save(saved | {"args": saved["args"] | {"argument_of_old": 1}}, folder / "old.pt")
        alone = {name: saved[name] for name in ("algorithm", "args", "agent")}
        torch.save(alone, folder / "agent.pt")
        torch.save({"algorithm": script, "agent": Evil()}, folder / "evil.pt")
        del saved["args"]["norm_obs"]  # as before there was such an argument
        torch.save(saved, folder / "older.pt")
    return root


@pytest.mark.parametrize("script, arguments, words", CASES)
def test_bad_input_is_one_clear_sentence(
    script, arguments, words, checkpoints, in_tmp, monkeypatch
):
    (in_tmp / "own.py").write_text(OWN)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    arguments = re.sub(r"--resume (\w+\.pt)", rf"--resume {checkpoints / script}/\1", arguments)
    if "own:NaN" in arguments:
        arguments += " " + without_env_kwargs(script)
    try:
        message = run_here(script, arguments, monkeypatch)
    finally:
        sys.modules.pop("own", None)
    assert message.startswith("error: ")
    assert words in message
    assert not (in_tmp / "executed").exists()
    assert [path.name for path in in_tmp.iterdir() if path.name != "__pycache__"] == ["own.py"]


def test_a_mistake_from_the_command_line_is_one_line_and_no_traceback(
    tmp_path, monkeypatch, capsys
):
    done = run("rl2_ppo", "--gamma 1.1", tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: gamma")
    assert "must not exceed 1" in done.stderr
    assert not list(tmp_path.iterdir())
    for script in SCRIPTS:
        assert run_here(script, "--gama 1", monkeypatch) == 2
        assert "--gama" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_fault_in_a_users_environment_keeps_its_traceback(mode, in_tmp, monkeypatch):
    (in_tmp / "own.py").write_text(OWN)
    arguments = f"{TINY['rl2_ppo']} --env-id own:Raises-v0 --env-kwargs vectorization_mode {mode}"
    if mode == "async":  # gymnasium prints the traceback of the other process
        done = run("rl2_ppo", arguments, in_tmp)  # own.py is found, as it is in this folder
        assert done.returncode == 1
        stderr = done.stderr
    else:
        try:
            with pytest.raises(KeyError) as error:
                run_here("rl2_ppo", arguments, monkeypatch)
        finally:
            sys.modules.pop("own", None)
        stderr = "".join(traceback.format_exception(error.value))
    for words in (
        "Traceback",
        'own.py", line',
        "in step",
        "wheels",
        "Stopped. Iterations done: 0.",
    ):
        assert words in stderr
    assert re.search(r"In sub-environment \d+, whose task is 0\.", stderr)
    assert not (in_tmp / "runs").exists()


@pytest.mark.parametrize(
    "place",
    ["ImportsInStep", "ImportsInReset", "ImportsInConstructor", "ImportsInVectorConstructor", ""],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_package_that_a_users_code_misses_keeps_its_traceback(script, place, in_tmp, monkeypatch):
    """Without a place it is missing at the top of the user's module, whose name begins alike."""
    (in_tmp / "own.py").write_text(OWN)
    (in_tmp / "package_that_nobody_has_2.py").write_text("import package_that_nobody_has")
    env_id = f"own:{place}-v0" if place else "package_that_nobody_has_2:Good-v0"
    tiny = without_env_kwargs(script)
    try:
        with pytest.raises(ModuleNotFoundError, match="package_that_nobody_has") as error:
            run_here(script, f"{tiny} --env-id {env_id}", monkeypatch)
    finally:
        sys.modules.pop("own", None)
    assert Path(error.traceback[-1].path).parent == in_tmp
    assert error.value.__notes__
    assert not (in_tmp / "runs").exists()


def test_no_space_left_is_one_sentence_and_the_former_checkpoint_is_whole(
    checkpoints, in_tmp, monkeypatch
):
    checkpoint = in_tmp / "runs" / "full" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    good = (checkpoints / "rl2_ppo" / "good.pt").read_bytes()
    checkpoint.write_bytes(good)
    room = len(good) // 2  # no file may grow larger
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        arguments = f"--resume {checkpoint} --total-timesteps 640"
        message = run_here("rl2_ppo", arguments, monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message.startswith(f"error: Cannot write {checkpoint}")
    assert checkpoint.read_bytes() == good


def test_a_folder_that_cannot_be_written_is_one_sentence(monkeypatch):
    monkeypatch.chdir("/proc")
    message = run_here("rl2_ppo", f"{TINY['rl2_ppo']} {SHORT['rl2_ppo']}", monkeypatch)
    assert message.startswith("error: Cannot write runs/")


def test_resume_takes_the_runs_env_kwargs_with_and_without_the_flag(in_tmp, monkeypatch):
    arguments = f"{TINY['rl2_ppo']} {SHORT['rl2_ppo']} --env-kwargs num_arms 3"
    assert run_here("rl2_ppo", arguments, monkeypatch) is None
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    resume = f"--resume {checkpoint} --total-timesteps"
    assert run_here("rl2_ppo", f"{resume} 480", monkeypatch) is None
    assert run_here("rl2_ppo", f"{resume} 640 --env-kwargs num_arms 3", monkeypatch) is None
    message = run_here("rl2_ppo", f"{resume} 800 --env-kwargs num_arms 4", monkeypatch)
    assert "env_kwargs must stay {'num_arms': 3}" in message


# ------------------------------------------------------------------------------- what the docs show


def test_a_script_and_envs_py_are_all_that_training_takes(tmp_path):
    for name in ("rl2_ppo.py", "envs.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    arguments = f"rl2_ppo.py {TINY['rl2_ppo']} {SHORT['rl2_ppo']}".split()
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/*/eval.json"))


PAGES = [(ROOT / name).read_text() for name in ("README.md", "docs/maml_trpo.md")]
SNIPPETS = [text for page in PAGES for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_examples_of_readme_and_maml_run_as_they_stand(snippet, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(snippet, {"__name__": "__main__"})
    assert capsys.readouterr().out


EXAMPLES = (ROOT / "docs/environments.md").read_text().split("## A task of your own")[1]
EXAMPLES = dict(re.findall(r"`(\w+)\.py`: [^`]*```python\n(.*?)```", EXAMPLES, re.DOTALL))
IDS = {
    "grid_goal": "GridGoal-v0",
    "long_pole": "LongPole-v0",
    "redball": "RedBall-v0",
    "traffic": "Traffic-v0",
}


def test_the_docs_hold_the_four_examples():
    assert list(EXAMPLES) == list(IDS)


@pytest.mark.parametrize(
    "script, module",
    [
        ("maml_trpo", "grid_goal"),
        ("rl2_ppo", "grid_goal"),
        ("snail_ppo", "grid_goal"),
        ("maml_trpo", "long_pole"),
        ("rl2_ppo", "redball"),
        ("snail_ppo", "redball"),
        ("rl2_ppo", "traffic"),
    ],
)
def test_examples_of_own_tasks_train_from_the_command_line(script, module, in_tmp, monkeypatch):
    text = EXAMPLES[module]
    assert len(text.splitlines()) <= 25
    (in_tmp / f"{module}.py").write_text(text)
    arguments = f"{without_env_kwargs(script)} {SHORT[script]}"
    if script != "maml_trpo":
        arguments += " --episodes-per-trial 2"
    is_slow = module in ("redball", "traffic")
    if is_slow:
        arguments += f" --eval-trials 2 {LENGTH[script]} 1 --num-envs 2"
        arguments += " --env-kwargs levels True max_episode_steps 8"
    env_id = f"{module}:{IDS[module]}"
    message = run_here(script, f"{arguments} --env-id {env_id}", monkeypatch)
    assert message is None
    (folder,) = (in_tmp / "runs").iterdir()
    assert folder.name.startswith(f"{module}_{IDS[module]}__{script}__1__")
    assert json.loads((folder / "eval.json").read_text())["env_id"] == env_id
    if is_slow and script == "rl2_ppo":
        film = pictures.draw(folder / "checkpoint.pt")
        frames = imageio.v3.imread(film)  # [time, height, width, 3]
        assert len(frames) > 1
        assert (frames > 50).any(axis=-1).mean() > 0.3  # it is not black
