"""The script as a user runs it: from the command line, in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
TINY = "--num-envs 16 --num-minibatches 2 --hidden-size 8 --eval-trials 50 --no-cuda".split()


def run(*arguments, cwd, **kwargs):
    command = [sys.executable, str(ROOT / "rl2_ppo.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs)


def test_it_learns_to_learn(tmp_path):
    """20 seconds on a small setting: 3 arms, 6 pulls. Random earns 3.00, the Bayes-optimal policy 3.88."""
    arguments = "--env-kwargs num_arms 3 --episodes-per-trial 6 --hidden-size 32 --num-envs 500 --num-minibatches 4"
    done = run(*arguments.split(), "--total-timesteps", 1_500_000, "--eval-trials", 20_000, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/eval.json")
    result = json.loads(path.read_text())
    assert abs(result["random_return_mean"] - 3.0) < 0.05
    assert result["return_mean_pseudo"] > 3.6  # standard error below 0.01
    first, *_, last = result["return_by_episode"]
    assert abs(first - 0.5) < 0.03 and last > 0.65  # blind in the first pull, informed in the last


def test_defaults_of_a_run_and_its_summary(tmp_path):
    done = run(*TINY, "--total-timesteps", 320, "--save-model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"Bandit-v0__rl2_ppo__1__\d+", folder.name)
    for words in ("random_return_mean", "return_mean", "by episode", str(folder.relative_to(tmp_path))):
        assert words in done.stdout
    assert "return" in done.stderr and "320" in done.stderr  # the progress bar


def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    command = [sys.executable, str(ROOT / "rl2_ppo.py"), *TINY, "--total-timesteps", "100000000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not list(tmp_path.glob("runs/*/events*")):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    assert f"--resume {checkpoint.relative_to(tmp_path)}" in out
    steps = torch.load(checkpoint, weights_only=True)["global_step"]
    assert steps > 0
    done = run("--resume", checkpoint, "--total-timesteps", steps + 100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((checkpoint.parent / "eval.json").read_text())["global_step"] >= steps + 100
    assert len(list(tmp_path.glob("runs/*"))) == 1


def test_resume_takes_the_runs_env_kwargs_with_and_without_the_flag(tmp_path):
    done = run(*TINY, "--total-timesteps", 320, "--env-kwargs", "num_arms", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    for more in ([], ["--env-kwargs", "num_arms", 3]):
        done = run("--resume", checkpoint, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run("--resume", checkpoint, "--env-kwargs", "num_arms", 4, cwd=tmp_path)
    assert done.returncode == 1 and "not {'num_arms': 4}" in done.stderr


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A good checkpoint, and bad ones: truncated, no checkpoint at all, of another script, one that would run code."""
    folder = tmp_path_factory.mktemp("checkpoints")
    done = run(*TINY, "--total-timesteps", 320, "--save-model", cwd=folder)
    assert done.returncode == 0, done.stderr
    (good,) = folder.glob("runs/*/checkpoint.pt")
    (folder / "good.pt").write_bytes(good.read_bytes())
    (folder / "agent.pt").write_bytes((good.parent / "agent.pt").read_bytes())
    (folder / "truncated.pt").write_bytes(good.read_bytes()[:2000])
    (folder / "text.pt").write_text("not a checkpoint")
    torch.save(torch.load(good, weights_only=True) | {"algorithm": "snail_ppo"}, folder / "snail.pt")
    saved = torch.load(good, weights_only=True)
    torch.save(saved | {"args": saved["args"] | {"an_argument_of_old": 1}}, folder / "old.pt")

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'executed'}",)

    torch.save({"algorithm": "rl2_ppo", "agent": Evil()}, folder / "evil.pt")
    return folder


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--env-id Bandid-v0", "Unknown environment 'Bandid-v0'"),
        ("--env-id nowhere.module:Task-v0", "Cannot import"),
        ("--env-id CartPole-v1", "sample_task"),
        ("--env-kwargs num_arm 3", "does not take these arguments"),
        ("--env-kwargs num_arms 0", "num_arms must be"),
        ("--env-kwargs num_arms many", "num_arms must be"),
        ("--learning-rat 1", "--learning-rat"),
        ("--cell transformer", "transformer"),
        ("--num-envs -4", "num_envs must be above 0, got -4"),
        ("--num-envs 1.5", "1.5"),
        ("--total-timesteps 0", "total_timesteps must be above 0"),
        ("--episodes-per-trial 0", "episodes_per_trial must be above 0"),
        ("--learning-rate nan", "learning_rate must be above 0, got nan"),
        ("--learning-rate inf", "learning_rate must be above 0, got inf"),
        ("--gamma 1.1", "gamma must not exceed 1, got 1.1"),
        ("--gamma-start -0.1", "gamma_start must be at least 0"),
        ("--ent-coef -1", "ent_coef must be at least 0"),
        ("--num-minibatches 99999", "must not exceed num_envs"),
        ("--gamma 1 --gamma-start 0.5", "gamma must be below 1"),
        ("--eval-trials 1", "eval_trials must be at least 2"),
        ("--track", "pip install wandb"),
        ("--env-id Navigation2D-v0 --learn-from-regret", "does not report regret"),
        ("--resume nowhere.pt", "nowhere.pt cannot be read (FileNotFoundError)"),
        ("--resume {}", "cannot be read (IsADirectoryError)"),
        ("--resume {}/truncated.pt", "truncated.pt cannot be read"),
        ("--resume {}/text.pt", "text.pt cannot be read"),
        ("--resume {}/snail.pt", "is of snail_ppo"),
        ("--resume {}/evil.pt", "evil.pt cannot be read"),
        ("--resume {}/agent.pt", "what is needed is the checkpoint.pt of a run"),
        ("--resume {}/good.pt --env-id TabularMDP-v0", "was trained with env_id 'Bandit-v0', not 'TabularMDP-v0'"),
        ("--resume {}/good.pt --env-kwargs num_arms 3", "was trained with env_kwargs {}, not {'num_arms': 3}"),
        ("--resume {}/good.pt --norm-obs", "was trained with norm_obs False, not True"),
        ("--resume {}/old.pt", "another version"),
        ("--resume {}/good.pt --hidden-size 9", "was trained with hidden_size 8, not 9"),
        ("--resume {}/good.pt --cell lstm", "was trained with cell 'gru', not 'lstm'"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, words, checkpoints, tmp_path):
    done = run(*arguments.replace("{}", str(checkpoints), 1).split(), cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr and words in " ".join(done.stderr.split())
    if done.returncode == 1:  # ours; status 2 is the argument parser's
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert not (checkpoints / "executed").exists()


def test_readme_snippet(tmp_path):
    """The README's ten lines run as they stand, and the agent that they load earns more from pull to pull."""
    readme = (ROOT / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    means = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(means) == 10
    assert max(means) <= 0.9 and means[-1] > means[0] + 0.3  # random play earns 0.4 in every pull
