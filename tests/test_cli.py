"""The scripts as a user runs them: from the command line, in a process of its own."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import imageio.v3
import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPTS = ["maml_trpo", "rl2_ppo", "snail_ppo"]
TINY = {
    "maml_trpo": "--meta-batch-size 3 --episodes-per-task 4 --eval-episodes 2 --eval-trials 5 --hidden-size 8",
    "rl2_ppo": "--num-envs 16 --num-minibatches 2 --hidden-size 8 --eval-trials 50",
    "snail_ppo": "--num-envs 16 --num-minibatches 2 --sizes 8 4 4 4 --eval-trials 50",
}
TINY = {script: [*arguments.split(), "--no-cuda"] for script, arguments in TINY.items()}
SHORT = {"maml_trpo": ["--num-iterations", 2], "rl2_ppo": ["--total-timesteps", 320]}
SHORT["snail_ppo"] = SHORT["rl2_ppo"]


def run(script, *arguments, cwd, **kwargs):
    command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("rl2_ppo", "--hidden-size 32 --total-timesteps 800_000"),
        ("snail_ppo", "--sizes 16 16 16 16 --total-timesteps 500_000"),
    ],
)
def test_it_learns_to_learn(script, arguments, tmp_path):
    """A small setting: 3 arms, 6 pulls. Random earns 3.00, the Bayes-optimal policy 3.88."""
    arguments += " --env-kwargs num_arms 3 --episodes-per-trial 6 --num-envs 500 --num-minibatches 4"
    done = run(script, *arguments.split(), "--eval-trials", 10_000, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/eval.json")
    result = json.loads(path.read_text())
    assert abs(result["random_return_mean"] - 3.0) < 0.05
    assert result["return_mean_pseudo"] > 3.6  # standard error below 0.01
    first, *_, last = result["return_by_episode"]
    assert abs(first - 0.5) < 0.03 and last > 0.65  # blind in the first pull, informed in the last


@pytest.mark.parametrize(
    "script, env_id, words",
    [
        ("maml_trpo", "Navigation2D-v0", (". In 5 new tasks:", "after 0 grad", "after 3 gradient steps")),
        ("rl2_ppo", "Bandit-v0", ("random_return_mean  ", "return_mean  ", "return_by_episode  ")),
        ("snail_ppo", "Bandit-v0", ("return_stderr_pseudo ", "return_mean  ", ". In 50 new tasks:")),
    ],
)
def test_defaults_of_a_run_and_its_summary(script, env_id, words, tmp_path):
    done = run(script, *TINY[script], *SHORT[script], "--save-model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(rf"{env_id}__{script}__1__\d+", folder.name)
    for word in (*words, str(folder.relative_to(tmp_path))):
        assert word in done.stdout
    assert "return" in done.stderr and "100%" in done.stderr  # the progress bar


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_bodies_from_the_command_line_to_a_film(script, tmp_path):
    arguments = [*TINY[script], *SHORT[script], "--env-id", "HalfCheetahParams-v0", "--env-kwargs", "horizon", 5]
    arguments += ["--eval-trials", 4, "--capture-video"]
    arguments += ["--num-envs", 4, "--episodes-per-trial", 2] if script != "maml_trpo" else []
    done = run(script, *arguments, cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "DISPLAY"})
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "eval.json").exists()
    if find_library("EGL"):
        assert done.returncode == 0 and (folder / "video.gif").stat().st_size > 1000, done.stderr
    else:  # a machine without OpenGL: the sentence that says what to install, and nothing lost
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "error: Cannot draw without OpenGL" in done.stderr and "libegl1" in done.stderr


ENDLESS = {"maml_trpo": ["--num-iterations", 10**8], "rl2_ppo": ["--total-timesteps", 10**8]}
ENDLESS["snail_ppo"] = ENDLESS["rl2_ppo"]
STEP = {"maml_trpo": "iteration", "rl2_ppo": "global_step", "snail_ppo": "global_step"}


def start(script, *arguments, cwd, ready="runs/*/events*"):
    """A run in the background that has come so far as to have written the file `ready`."""
    command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not list(cwd.glob(ready)):
        assert process.poll() is None
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_and_resume_goes_on(script, number, status, tmp_path):
    process = start(script, *TINY[script], *ENDLESS[script], cwd=tmp_path)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == status
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    assert f"--resume {checkpoint.relative_to(tmp_path)}" in out
    saved, step = torch.load(checkpoint, weights_only=True), STEP[script]
    assert saved[step] > 0
    done = run(script, "--resume", checkpoint, ENDLESS[script][0], saved[step] + 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result, after = json.loads((checkpoint.parent / "eval.json").read_text()), torch.load(checkpoint, weights_only=True)
    assert after[step] >= saved[step] + 3 and result["global_step"] > saved["global_step"]
    assert len(list(tmp_path.glob("runs/*"))) == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_second_ctrl_c_ends_at_once_and_the_last_checkpoint_is_whole(script, tmp_path):
    """In the midst of an iteration that would take minutes."""
    long = ["--cg-iterations" if script == "maml_trpo" else "--update-epochs", 10**7]
    done = run(script, *TINY[script], *SHORT[script], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    before = torch.load(checkpoint, weights_only=True)
    process = start(script, "--resume", checkpoint, *ENDLESS[script], *long, cwd=tmp_path)
    try:
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT
    finally:
        process.kill()
    after = torch.load(checkpoint, weights_only=True)
    assert after[STEP[script]] == before[STEP[script]]
    for name, tensor in after["agent"].items():
        assert torch.equal(tensor, before["agent"][name])


KILLING = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)  # a child of fork has none of its parent's threads
script, settings = __import__(sys.argv[1]), json.loads(sys.argv[2])

def child(exp_name, resume=None, torn=False):
    pid = os.fork()
    if pid == 0:
        if torn:  # dies when half of the next checkpoint is written
            save = torch.save
            def half(contents, path):
                save(contents, path)
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            torch.save = half
        try:
            script.train(script.Args(**settings, exp_name=exp_name, resume=resume))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid

begin = time.time()
assert os.waitpid(child("whole"), 0)[1] == 0
seconds = time.time() - begin
assert os.waitpid(child("again"), 0)[1] == 0
kills, torn, lives, random_ = 0, 0, 0, random.Random(0)
while True:
    saved = sorted(Path("runs").glob("*__killed__*/checkpoint.pt"), key=lambda path: path.stat().st_mtime_ns)
    pid = child("killed", str(saved[-1]) if saved else None, torn=kills % 5 == 4)
    lives += 1
    if kills < 20 and kills % 5 != 4:
        time.sleep(random_.uniform(0, seconds / 15))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if status == signal.SIGKILL:
        torn += kills % 5 == 4
        kills += 1
    else:
        assert status == 0
        break
print(json.dumps({"kills": kills, "torn": torn}))
"""


@pytest.mark.parametrize(
    "script, settings",
    [
        ("maml_trpo", {"num_iterations": 60, "meta_batch_size": 3, "episodes_per_task": 4, "hidden_size": 8}),
        ("rl2_ppo", {"total_timesteps": 16 * 10 * 100, "num_envs": 16, "num_minibatches": 2, "hidden_size": 8}),
        ("snail_ppo", {"total_timesteps": 16 * 10 * 40, "num_envs": 16, "num_minibatches": 2, "sizes": [8, 4, 4, 4]}),
    ],
)
def test_killed_at_twenty_moments_and_resumed_equals_never_stopped(script, settings, tmp_path):
    """SIGKILL at random moments, and in the midst of writing a checkpoint; the same seed twice gives the same, too."""
    settings |= {"checkpoint_seconds": 1e-9, "cuda": False, "eval_trials": 20}
    settings |= {"env_kwargs": {"horizon": 5}, "eval_episodes": 2} if script == "maml_trpo" else {}
    settings["save_model"] = True
    command = [sys.executable, "-c", KILLING, script, json.dumps(settings)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kills"] >= 20 and counts["torn"] >= 3
    results, checkpoints = [], []
    for name in ("whole", "again", "killed"):
        (result,) = tmp_path.glob(f"runs/*__{name}__*/eval.json")
        results.append(json.loads(result.read_text()) | {"wall_seconds": None})
        checkpoints.append(torch.load(result.parent / "checkpoint.pt", weights_only=True))
    assert results[0] == results[1] == results[2]
    for other in checkpoints[1:]:
        assert other["iteration"] == checkpoints[0]["iteration"]
        for name, tensor in checkpoints[0]["agent"].items():
            assert torch.equal(tensor, other["agent"][name])


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_space_left_is_one_sentence_and_the_former_checkpoint_loads(script, checkpoints, tmp_path):
    checkpoint = tmp_path / "runs" / "full" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes((checkpoints / script / "good.pt").read_bytes())
    room = checkpoint.stat().st_size // 2  # no file may grow larger
    more = torch.load(checkpoint, weights_only=True)[STEP[script]] + 1
    arguments = ["--resume", checkpoint, ENDLESS[script][0], more]
    done = run(
        script, *arguments, cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: Cannot save {checkpoint}, the former one is whole: " in done.stderr
    assert checkpoint.read_bytes() == (checkpoints / script / "good.pt").read_bytes()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_cannot_be_written_is_one_sentence(script):
    done = run(script, *TINY[script], *SHORT[script], cwd="/proc")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ") and "runs" in line]) == 1


@pytest.mark.parametrize("script, name, value", [("maml_trpo", "horizon", 9), ("rl2_ppo", "num_arms", 3)])
def test_resume_takes_the_runs_env_kwargs_with_and_without_the_flag(script, name, value, tmp_path):
    done = run(script, *TINY[script], *SHORT[script], "--env-kwargs", name, value, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    for more in ([], ["--env-kwargs", name, value]):
        done = run(script, "--resume", checkpoint, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run(script, "--resume", checkpoint, "--env-kwargs", name, 4, cwd=tmp_path)
    assert done.returncode == 1 and f"not {{'{name}': 4}}" in done.stderr


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """For each script a good checkpoint, and bad ones: truncated, text, another script's, one that would run code."""
    root = tmp_path_factory.mktemp("checkpoints")
    (root / "own.py").write_text(OWN)
    for script in SCRIPTS:
        folder = root / script
        folder.mkdir()
        done = run(script, *TINY[script], *SHORT[script], "--save-model", cwd=folder)
        assert done.returncode == 0, done.stderr
        (good,) = folder.glob("runs/*/checkpoint.pt")
        (folder / "good.pt").write_bytes(good.read_bytes())
        (folder / "agent.pt").write_bytes((good.parent / "agent.pt").read_bytes())
        (folder / "truncated.pt").write_bytes(good.read_bytes()[:2000])
        (folder / "text.pt").write_text("not a checkpoint")
        saved = torch.load(good, weights_only=True)
        torch.save(saved | {"algorithm": "dqn"}, folder / "dqn.pt")
        torch.save(saved | {"args": saved["args"] | {"an_argument_of_old": 1}}, folder / "old.pt")

        class Evil:
            def __reduce__(self, folder=folder):
                return os.system, (f"touch {folder / 'executed'}",)

        torch.save({"algorithm": script, "agent": Evil()}, folder / "evil.pt")
    return root


OWN = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

import envs


class Good(gym.Env):
    observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

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


class RaisesInReset(Good):
    def reset(self, *, seed=None, options=None):
        return 1 / 0


class NaNReward(Good):
    def step(self, action):
        return np.zeros(2, np.float32), np.nan, False, False, {}


class NaNObservation(Good):
    def step(self, action):
        return np.full(2, np.nan, np.float32), 0.0, False, False, {}


class WrongShape(Good):
    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


class Tasks(gym.Env):
    observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)


class Pair(Tasks):
    observation_space = gym.spaces.Dict({"x": Discrete(2)})


class Point(Tasks):
    observation_space = Box(0, 1, ())


class WrongVector(envs.Navigation2D):
    def _observe(self):
        return np.zeros((self.num_envs, 3))


for name in "Good Raises RaisesInReset NaNReward NaNObservation WrongShape Tasks Pair Point".split():
    gym.register(f"{name}-v0", entry_point=globals()[name], max_episode_steps=5, disable_env_checker=True)
gym.register("NoLimit-v0", entry_point=Good)
gym.register("WrongVector-v0", vector_entry_point=WrongVector)
"""
OF_OWN = [
    ("--env-id own:Tasks-v0", "Tasks-v0 needs a max_episode_steps, and sample_task(rng) or --env-kwargs levels True"),
    ("--env-id own:NoLimit-v0", "NoLimit-v0 needs a max_episode_steps"),
    ("--env-id own:Raises-v0", "Iteration 1: The environment's step raised KeyError('wheels') ("),
    ("--env-id own:RaisesInReset-v0", "Iteration 1: The environment's reset raised ZeroDivisionError('division by"),
    (
        "--env-id own:NaNReward-v0",
        "Iteration 1: reward of sub-environment 0, whose task is 0.",
    ),
    ("--env-id own:NaNObservation-v0", "Iteration 1: observation of sub-environment 0, whose task is 0."),
    ("--env-id own:WrongShape-v0", "Iteration 1: The environment's step "),
    ("--env-id own:WrongVector-v0", "The environment's reset gave observations of shape ("),
    ("--env-id own:Nothing-v0", "Unknown environment 'own:Nothing-v0'"),
    (
        "--env-kwargs levels false --env-id own:Good-v0",
        "needs a max_episode_steps, and sample_task(rng) or --env-kwargs le",
    ),
    ("--env-kwargs levels True --env-id own:Pair-v0", "has observations Dict('x': Discrete(2)): use Discrete"),
    ("--env-kwargs levels True --env-id own:Point-v0", "(), float32): use Discrete, numbered from 0, or Box"),
]
ALL = [
    ("--env-id Bandid-v0", "Unknown environment 'Bandid-v0'"),
    ("--env-id nowhere.module:Task-v0", "Cannot import"),
    ("--env-id CartPole-v1", "sample_task"),
    ("--env-kwargs num_arm 3", "does not take these arguments"),
    ("--env-kwargs num_envs 3", "env_kwargs cannot hold env_id or num_envs"),
    ("--env-kwargs observe_task false", "observe_task must be True or False, got 'false'"),
    ("--env-id TabularMDP-v0 --env-kwargs horizon 0", "horizon must be"),
    ("--env-id Bandit-v0 --env-kwargs num_arms many", "num_arms must be"),
    ("--gama 1", "--gama"),
    ("--gamma 1.1", "gamma must not exceed 1, got 1.1"),
    ("--gae-lambda -1", "gae_lambda must be at least 0, got -1.0"),
    ("--eval-trials 1", "eval_trials must be at least 2"),
    ("--track", "pip install wandb"),
    ("--resume nowhere.pt", "nowhere.pt cannot be read (FileNotFoundError)"),
    ("--resume {}", "cannot be read (IsADirectoryError)"),
    ("--resume {}/truncated.pt", "truncated.pt cannot be read"),
    ("--resume {}/text.pt", "text.pt cannot be read"),
    ("--resume {}/dqn.pt", "is of dqn"),
    ("--resume {}/evil.pt", "evil.pt cannot be read"),
    ("--resume {}/agent.pt", "what is needed is the checkpoint.pt of a run"),
    ("--resume {}/old.pt", "another version"),
    ("--resume {}/good.pt --env-id TabularMDP-v0", "', not 'TabularMDP-v0'"),
    (
        "--resume {}/good.pt --env-kwargs observe_task True",
        "was trained with env_kwargs {}, not {'observe_task': True}",
    ),
]
MAML = [
    ("--resume {}/good.pt --hidden-size 9", "was trained with hidden_size 8, not 9"),
    ("--num-iterations 0", "num_iterations must be above 0"),
    ("--meta-batch-size 0", "meta_batch_size must be above 0, got 0"),
    ("--meta-batch-size -4", "meta_batch_size must be above 0, got -4"),
    ("--episodes-per-task 1.5", "1.5"),
    ("--num-inner-steps -1", "num_inner_steps must be at least 0, got -1"),
    ("--inner-lr nan", "inner_lr must be above 0, got nan"),
    ("--max-kl inf", "max_kl must be above 0, got inf"),
    ("--inner-lr 1e38 --env-id TabularMDP-v0 --eval-trials 2", "The policy is not finite: lower --inner-lr"),
    ("--fisher-fraction 1.5", "fisher_fraction must not exceed 1, got 1.5"),
    ("--action-scale 0", "action_scale must be above 0, got 0.0"),
    ("--resume {}/../rl2_ppo/good.pt", "is of rl2_ppo"),
    ("--resume {}/good.pt --action-scale 0.5", "was trained with action_scale 1.0, not 0.5"),
]
RL2 = [
    ("--resume {}/good.pt --hidden-size 9", "was trained with hidden_size 8, not 9"),
    ("--cell transformer", "transformer"),
    ("--num-envs 0", "num_envs must be above 0, got 0"),
    ("--num-envs -4", "num_envs must be above 0, got -4"),
    ("--num-envs 1.5", "1.5"),
    ("--total-timesteps 0", "total_timesteps must be above 0"),
    ("--episodes-per-trial 0", "episodes_per_trial must be above 0"),
    ("--learning-rate nan", "learning_rate must be above 0, got nan"),
    ("--learning-rate inf", "learning_rate must be above 0, got inf"),
    ("--gamma-start -0.1", "gamma_start must be at least 0"),
    ("--ent-coef -1", "ent_coef must be at least 0"),
    ("--num-minibatches 99999", "must not exceed the number of tasks"),
    ("--gamma 1 --gamma-start 0.5", "gamma must be below 1"),
    ("--env-id Navigation2D-v0 --learn-from-regret", "does not report regret"),
    ("--resume {}/../maml_trpo/good.pt", "is of maml_trpo"),
    ("--resume {}/good.pt --norm-obs", "was trained with norm_obs False, not True"),
    ("--resume {}/good.pt --cell lstm", "was trained with cell 'gru', not 'lstm'"),
]
SNAIL = [
    ("--sizes 32 0 32 32", "sizes must be above 0, got (32, 0, 32, 32)"),
    ("--sizes 32 32", "--sizes"),
    ("--tc-blocks 0", "tc_blocks must be above 0, got 0"),
    ("--num-minibatches 99999", "must not exceed the number of tasks"),
    ("--env-id Navigation2D-v0 --learn-from-regret --episodes-per-trial 1 --num-envs 16", "does not report regret"),
    ("--resume {}/../rl2_ppo/good.pt", "is of rl2_ppo"),
    ("--resume {}/good.pt --sizes 9 4 4 4", "was trained with sizes (8, 4, 4, 4), not (9, 4, 4, 4)"),
    ("--resume {}/good.pt --norm-obs", "was trained with norm_obs False, not True"),
    ("--resume {}/good.pt --tc-blocks 3", "was trained with tc_blocks 2, not 3"),
    ("--resume {}/good.pt --episodes-per-trial 11", "was trained with episodes_per_trial 10, not 11"),
]
CASES = [(script, *case) for script in SCRIPTS for case in ALL]
CASES += [("rl2_ppo", *case) for case in OF_OWN]
CASES += [(script, *case) for script in ("maml_trpo", "snail_ppo") for case in OF_OWN[2:6:2]]  # raises, NaN
CASES += [("maml_trpo", *case) for case in MAML] + [("rl2_ppo", *case) for case in RL2]
CASES += [("snail_ppo", *case) for case in SNAIL]


FORKING = """
import json, os, sys, traceback
import torch
import envs, maml_trpo, rl2_ppo, snail_ppo
torch.set_num_threads(1)  # a child of fork has none of its parent's threads

def child(script, arguments, folder):
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.dup2(os.open("../" + os.path.basename(folder) + ".err", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv, code, sentence = [f"{script}.py", *arguments], 0, ""
        script = globals()[script]
        try:
            envs.run(script.Args, script.train, script.read_checkpoint)  # as the script's last line
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):
                code, sentence = 1, code
        except BaseException:
            traceback.print_exc()
            code = 1
        print(sentence, file=sys.stderr, flush=True)  # as Python does at its end, when the progress bar is gone
        os._exit(code)
    return pid

cases, running, codes = json.load(sys.stdin), {}, {}
while cases or running:
    while cases and len(running) < os.cpu_count():
        case = cases.pop()
        running[child(*case)] = case[2]
    pid, status = os.wait()
    codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
json.dump(codes, sys.stdout)
"""


@pytest.fixture(scope="module")
def outcomes(checkpoints, tmp_path_factory):
    """Every case's exit status, standard error and the files it made. Each one is a process of its own, forked from one
    that has imported torch, which would take most of the time."""
    root, cases = tmp_path_factory.mktemp("cases"), []
    for i, (script, arguments, _) in enumerate(CASES):
        arguments = arguments.replace("{}", str(checkpoints / script), 1).split()
        arguments += TINY[script] if "own:" in arguments[-1] else []
        (root / f"{i:03}").mkdir()
        cases.append((script, arguments, str(root / f"{i:03}")))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{checkpoints}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", FORKING]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr
    codes, results = json.loads(done.stdout.splitlines()[-1]), {}
    for case, (*_, folder) in zip(CASES, cases, strict=True):
        results[case] = codes[folder], Path(f"{folder}.err").read_text(), list(Path(folder).iterdir())
    return results


@pytest.mark.parametrize("script, arguments, words", CASES)
def test_bad_input_is_one_clear_sentence(script, arguments, words, outcomes, checkpoints):
    code, stderr, made = outcomes[script, arguments, words]
    assert code in (1, 2)
    assert "Traceback" not in stderr and words in " ".join(stderr.split())
    if code == 1:  # ours; status 2 is the argument parser's
        assert len([line for line in stderr.splitlines() if line.startswith("error: ")]) == 1
    assert not (checkpoints / script / "executed").exists()
    assert made == []  # no half-made run folder


def test_an_async_environment_that_fails_ends_with_its_run(checkpoints, tmp_path):
    arguments = ["--env-id", "own:Raises-v0", "--env-kwargs", "vectorization_mode", "async", *TINY["rl2_ppo"]]
    done = run("rl2_ppo", *arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(checkpoints)})
    assert done.returncode == 1  # gymnasium itself warns with the traceback of each of its processes
    assert done.stderr.splitlines()[-1].startswith("error: Iteration 1: The environment's step raised KeyError(")


WANDB = """
def init(**kwargs):
    open("wandb.txt", "w").write(repr(sorted(kwargs.items())))
"""


def test_track_starts_weights_and_biases(tmp_path):
    (tmp_path / "wandb.py").write_text(WANDB)
    arguments = [*TINY["rl2_ppo"], *SHORT["rl2_ppo"], "--track", "--wandb-entity", "us"]
    done = run("rl2_ppo", *arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    names = [("entity", "us"), ("name", "Bandit-v0__rl2_ppo__1"), ("project", "meta-rl"), ("sync_tensorboard", True)]
    assert (tmp_path / "wandb.txt").read_text() == repr(names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_input_from_the_command_line(script, tmp_path):
    """One case of each script as a user runs it, nothing preloaded."""
    done = run(script, "--gamma", 1.1, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == "error: gamma must not exceed 1, got 1.1.\n"
    assert not list(tmp_path.iterdir())


def test_a_copied_script_says_that_pictures_need_more(tmp_path):
    """A script and envs.py are all that training takes; pictures are drawn by benchmark/pictures.py."""
    for name in ("rl2_ppo.py", "envs.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    command, more = [sys.executable, "rl2_ppo.py", *TINY["rl2_ppo"], *SHORT["rl2_ppo"]], ["--capture-video"]
    done = subprocess.run(list(map(str, command + more)), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: capture_video needs the folder benchmark beside the script.\n"
    assert not (tmp_path / "runs").exists()
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and list(tmp_path.glob("runs/*/eval.json")), done.stderr


def test_readme_snippets():
    """The README's examples run as they stand: RL^2 earns more from pull to pull, MAML after a gradient step."""
    readme = (ROOT / "README.md").read_text()
    numbers = []
    for snippet in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        done = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        numbers.append([float(line.split()[-1]) for line in done.stdout.splitlines()])
    pulls, returns = numbers
    assert len(pulls) == 10 and max(pulls) <= 0.9 and pulls[-1] > pulls[0] + 0.3  # random play earns 0.4 in every pull
    assert len(returns) == 4 and min(returns[1:]) > returns[0] + 25  # of -37, random numbers are not seeded


EXAMPLES = (ROOT / "docs/environments.md").read_text().split("## A task of your own")[1]
EXAMPLES = re.findall(r"`(\w+)\.py`: [^`]*```python\n(.*?)```", EXAMPLES, re.DOTALL)
IDS = {"grid_goal": "GridGoal-v0", "long_pole": "LongPole-v0", "redball": "RedBall-v0", "traffic": "Traffic-v0"}
assert [name for name, _ in EXAMPLES] == list(IDS)


@pytest.mark.parametrize(
    "script, module, text",
    [
        (script, *example)
        for example in EXAMPLES
        for script in SCRIPTS
        if example[0] != "traffic" or script == "rl2_ppo"
    ],
)
def test_examples_of_own_tasks_train_from_the_command_line(script, module, text, tmp_path):
    assert len(text.splitlines()) <= 25
    (tmp_path / f"{module}.py").write_text(text)
    env_id, env = f"{module}:{IDS[module]}", os.environ | {"PYTHONPATH": str(tmp_path)}
    arguments = [*TINY[script], *SHORT[script], *(["--episodes-per-trial", 2] if script != "maml_trpo" else [])]
    if module in ("redball", "traffic"):  # slow
        arguments += ["--env-kwargs", "levels", "True", "--eval-trials", 2, ENDLESS[script][0], 1]
        arguments += ["--num-envs", 2] if script != "maml_trpo" else ["--meta-batch-size", 2]
    if script == "rl2_ppo" and module in ("redball", "traffic"):
        arguments.append("--capture-video")
    done = run(script, *arguments, "--env-id", env_id, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith(f"{module}_{IDS[module]}__{script}__1__")
    assert json.loads((folder / "eval.json").read_text())["env_id"] == env_id
    assert ("--capture-video" in arguments) == (folder / "video.gif").exists()
    if "--capture-video" in arguments:
        frames = imageio.v3.imread(folder / "video.gif")  # [time, height, width, 3]
        assert len(frames) > 1 and (frames > 50).any(axis=-1).mean() > 0.3  # it moves, and is not black
