"""The scripts as a user runs them: from the command line, in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
        ("rl2_ppo", "--hidden-size 32 --total-timesteps 1_500_000"),
        ("snail_ppo", "--sizes 16 16 16 16 --total-timesteps 1_000_000"),
    ],
)
def test_it_learns_to_learn(script, arguments, tmp_path):
    """20 seconds on a small setting: 3 arms, 6 pulls. Random earns 3.00, the Bayes-optimal policy 3.88."""
    arguments += " --env-kwargs num_arms 3 --episodes-per-trial 6 --num-envs 500 --num-minibatches 4"
    done = run(script, *arguments.split(), "--eval-trials", 20_000, cwd=tmp_path)
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
        ("maml_trpo", "Navigation2D-v0", ("episode returns in 5 new tasks", "after 0 grad", "after 3 gradient steps")),
        ("rl2_ppo", "Bandit-v0", ("random_return_mean", "return_mean", "by episode")),
        ("snail_ppo", "Bandit-v0", ("random_return_mean", "return_mean", "by episode")),
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
def test_ctrl_c_saves_and_resume_goes_on(script, tmp_path):
    maml = script == "maml_trpo"
    flag, step = ("--num-iterations", "iteration") if maml else ("--total-timesteps", "global_step")
    command = [sys.executable, str(ROOT / f"{script}.py"), *TINY[script], flag, "100000000"]
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
    saved = torch.load(checkpoint, weights_only=True)
    assert saved[step] > 0
    done = run(script, "--resume", checkpoint, flag, saved[step] + 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result, after = json.loads((checkpoint.parent / "eval.json").read_text()), torch.load(checkpoint, weights_only=True)
    assert after[step] >= saved[step] + 3 and result["global_step"] > saved["global_step"]
    assert len(list(tmp_path.glob("runs/*"))) == 1


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
    ("--num-envs -4", "num_envs must be above 0, got -4"),
    ("--num-envs 1.5", "1.5"),
    ("--total-timesteps 0", "total_timesteps must be above 0"),
    ("--episodes-per-trial 0", "episodes_per_trial must be above 0"),
    ("--learning-rate nan", "learning_rate must be above 0, got nan"),
    ("--learning-rate inf", "learning_rate must be above 0, got inf"),
    ("--gamma-start -0.1", "gamma_start must be at least 0"),
    ("--ent-coef -1", "ent_coef must be at least 0"),
    ("--num-minibatches 99999", "must not exceed num_envs"),
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
    ("--num-minibatches 99999", "must not exceed num_envs"),
    ("--env-id Navigation2D-v0 --learn-from-regret --episodes-per-trial 1 --num-envs 16", "does not report regret"),
    ("--resume {}/../rl2_ppo/good.pt", "is of rl2_ppo"),
    ("--resume {}/good.pt --sizes 9 4 4 4", "was trained with sizes (8, 4, 4, 4), not (9, 4, 4, 4)"),
    ("--resume {}/good.pt --norm-obs", "was trained with norm_obs False, not True"),
    ("--resume {}/good.pt --tc-blocks 3", "was trained with tc_blocks 2, not 3"),
    ("--resume {}/good.pt --episodes-per-trial 11", "was trained with episodes_per_trial 10, not 11"),
]
CASES = [(script, *case) for script in SCRIPTS for case in ALL]
CASES += [("maml_trpo", *case) for case in MAML] + [("rl2_ppo", *case) for case in RL2]
CASES += [("snail_ppo", *case) for case in SNAIL]


@pytest.fixture(scope="module")
def outcomes(checkpoints, tmp_path_factory):
    """Every case's finished process, as many at a time as there are processors."""

    def outcome(case):
        script, arguments, _ = case
        arguments = arguments.replace("{}", str(checkpoints / script), 1).split()
        return run(script, *arguments, cwd=tmp_path_factory.mktemp("case"), env=os.environ | {"OMP_NUM_THREADS": "1"})

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(CASES, pool.map(outcome, CASES), strict=True))


@pytest.mark.parametrize("script, arguments, words", CASES)
def test_bad_input_is_one_clear_sentence(script, arguments, words, outcomes, checkpoints):
    done = outcomes[script, arguments, words]
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr and words in " ".join(done.stderr.split())
    if done.returncode == 1:  # ours; status 2 is the argument parser's
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert not (checkpoints / script / "executed").exists()


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
