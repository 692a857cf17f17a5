"""What several test files share: the scripts as commands, and what watches them."""

import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from torch.utils.tensorboard import SummaryWriter

import envs
import maml_trpo
import rl2_ppo
import snail_ppo

ROOT = Path(__file__).parent.parent


MODULES = {"maml_trpo": maml_trpo, "rl2_ppo": rl2_ppo, "snail_ppo": snail_ppo}
SCRIPTS = list(MODULES)
NETWORKS = pytest.mark.parametrize(
    "module, network",
    [(rl2_ppo, {"cell": "gru"}), (rl2_ppo, {"cell": "lstm"}), (snail_ppo, {})],
    ids=["gru", "lstm", "snail"],
)
MAML_TINY = "--no-cuda --meta-batch-size 3 --episodes-per-task 4 --eval-episodes 2 --eval-trials 5"
PPO_TINY = "--no-cuda --num-envs 16 --num-minibatches 2 --eval-trials 50"
TINY = {
    "maml_trpo": f"{MAML_TINY} --hidden-size 8 --env-kwargs horizon 9",
    "rl2_ppo": f"{PPO_TINY} --hidden-size 8",
    "snail_ppo": f"{PPO_TINY} --sizes 8 4 4 4",
}
LENGTH = {
    "maml_trpo": "--num-iterations",
    "rl2_ppo": "--total-timesteps",
    "snail_ppo": "--total-timesteps",
}
SHORT = {
    "maml_trpo": "--num-iterations 2",
    "rl2_ppo": "--total-timesteps 320",
    "snail_ppo": "--total-timesteps 320",
}


def without_env_kwargs(script):
    """A tiny run's arguments, without those of its environment."""
    return TINY[script].replace(" --env-kwargs horizon 9", "")


MOVES = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # row and column, by a maze's heading
# A maze of three by three rooms. The start, 8, looks along the row to a wall, 4, two rooms away.
HAND_MADE = np.array(
    [
        [8, 0, 0, 0, 0],
        [5, 2, 0, 2, 0],
        [0, 0, 0, 3, 1],
        [4, 2, 6, 2, 5],
        [0, 0, 0, 0, 0],
    ],
    dtype=np.uint8,
)


def command(script, arguments):
    return [sys.executable, str(ROOT / f"{script}.py"), *arguments.split()]


def run(script, arguments, cwd, **kwargs):
    """The script in a process of its own."""
    return subprocess.run(
        command(script, arguments), cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs
    )


def run_here(script, arguments, monkeypatch):
    """The script's last lines in this process: what it gives to sys.exit, None at its end."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments.split()])
    try:
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code


def hear_ctrl_c():
    """Ctrl-C stops the process, even if the tests run in the background, where nothing hears it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def spy_on(monkeypatch, owner, name):
    """The list of calls of a function from now on: pairs of arguments and result."""
    original = getattr(owner, name)
    calls = []

    def spy(*arguments):
        result = original(*arguments)
        calls.append((arguments, result))
        return result

    monkeypatch.setattr(owner, name, spy)
    return calls


def record_scalars(monkeypatch):
    """What is logged from now on: {name: its numbers}."""
    logged = {}

    def add_scalar(writer, name, number, step):
        logged.setdefault(name, []).append(number)

    monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
    return logged


class OneArray:
    """Three sub-environments, which write the time into the same array in each step."""

    num_envs = 3
    horizon = 4
    single_observation_space = Box(0, 9, (2,))
    single_action_space = Discrete(2)

    def __init__(self):
        self.obs = np.zeros((3, 2), np.float32)

    def reset(self, seed, options):
        return self.obs, {}

    def step(self, action):
        self.obs += 1
        is_over = self.obs[:, 0] == self.horizon
        return self.obs, np.zeros(3), is_over, is_over, {}


class Lights(envs.TaskVectorEnv):
    """One of two lights is on, and its action pays 1; they are seen as 1800 + one-hot."""

    def __init__(self, num_envs=1):
        space = Box(-np.inf, np.inf, (2,), np.float64)
        super().__init__(num_envs, 5, space, Discrete(2))

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)

    def _start(self, mask):
        self.light = self.np_random.integers(2, size=self.num_envs)

    def _observe(self):
        return 1800 + np.eye(2)[self.light]

    def _advance(self, actions):
        reward = (actions == self.light).astype(np.float64)
        self.light = self.np_random.integers(2, size=self.num_envs)
        return reward, np.zeros(self.num_envs, dtype=bool), {}
