"""Pictures: that they show what the agent did, in the right tasks, and that every kind of environment gets its own."""

import os
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import envs
import maml_trpo
import rl2_ppo
import snail_ppo

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmark"))

import pictures  # noqa: E402

SMALL = {rl2_ppo: {"hidden_size": 8, "episodes_per_trial": 3}, maml_trpo: {"hidden_size": 8, "episodes_per_task": 4}}
SMALL[snail_ppo] = {"sizes": (8, 4, 4, 4), "episodes_per_trial": 3}


def checkpoint(folder, script, env_id, **env_kwargs):
    """That of an agent which has learned nothing."""
    torch.manual_seed(0)
    args = script.Args(env_id=env_id, env_kwargs=env_kwargs, **SMALL[script])
    env = envs.make(env_id, 1, **env_kwargs)
    maml = script is maml_trpo
    agent = script.Policy(env, args).initial_params() if maml else script.Agent(env, args).state_dict()
    torch.save({"algorithm": script.ALGORITHM, "args": asdict(args), "agent": agent}, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


@pytest.mark.parametrize(
    "script, env_id, name",
    [
        (rl2_ppo, "Bandit-v0", "heatmap.png"),
        (maml_trpo, "Bandit-v0", "heatmap.png"),
        (snail_ppo, "TabularMDP-v0", "heatmap.png"),
        (maml_trpo, "TabularMDP-v0", "heatmap.png"),
        (rl2_ppo, "Navigation2D-v0", "paths.png"),
        (maml_trpo, "Navigation2D-v0", "paths.png"),
        (rl2_ppo, "TabularMDP-v0 oracle", "heatmap.png"),
        (maml_trpo, "Navigation2D-v0 oracle", "paths.png"),
    ],
)
def test_a_picture_is_drawn_beside_the_checkpoint(script, env_id, name, tmp_path):
    env_id, *oracle = env_id.split()
    path = checkpoint(tmp_path, script, env_id, **({"observe_task": True} if oracle else {}))
    assert pictures.draw(path) == tmp_path / name
    _, tasks, parts = pictures.trials(path, 2, 3)
    for part in parts.values():
        assert part["obs"].shape[1:] == (2, max(3, part["obs"].shape[2])) + (2,) * (env_id == "Navigation2D-v0")
    pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("script", [rl2_ppo, maml_trpo])
@pytest.mark.parametrize("body", ["HalfCheetah", "Ant"])
def test_a_film_of_mujoco_without_a_display(script, body, tmp_path):
    path = checkpoint(tmp_path, script, f"{body}Vel-v0", horizon=6)
    if not find_library("EGL"):  # a machine without OpenGL: the sentence that says what to install
        with pytest.raises(envs.UsageError, match="Cannot draw without OpenGL.*libegl1"):
            pictures.draw(path)
        return
    film = Image.open(pictures.draw(path))
    rows = 3 if script is maml_trpo else 2  # before and after: a gradient step and three of them, or the last episode
    assert film.size == (2 * 200, rows * 150) and film.n_frames == 3  # every other one of six steps
    film.seek(film.n_frames - 1)
    pixels = np.asarray(film.convert("RGB")).astype(int)
    assert pixels.std() > 20 and np.abs(pixels[:, :200] - pixels[:, 200:400]).max() > 50  # tasks differ


def test_what_stands_in_a_picture_is_what_the_agent_did(tmp_path):
    """The steps of each episode, whose beginnings differ where episodes end early, against a loop over the trials."""
    path = checkpoint(tmp_path, rl2_ppo, "Navigation2D-v0", horizon=7)
    agent = rl2_ppo.load(path)
    agent.unit.fill_(0.05)
    torch.save(torch.load(path) | {"agent": agent.state_dict()}, path)
    original = envs.Navigation2D._advance

    def often_there(self, actions):  # an episode ends with a chance of 1 in 3
        reward, _, info = original(self, actions)
        return reward, self.np_random.random(self.num_envs) < 1 / 3, info

    envs.Navigation2D._advance = often_there
    try:
        env, goals, parts = pictures.trials(path, 4, 3, look=lambda env: env._state.copy())
        torch.manual_seed(0)
        again = envs.make("Navigation2D-v0", 12, horizon=7)
        data = rl2_ppo.rollout(agent, again, np.repeat(goals, 3, axis=0), 3, 0)
    finally:
        envs.Navigation2D._advance = original
    assert (goals == again.sample_tasks(4, np.random.default_rng([1, 0]))).all() and list(parts)[0] == "episode 1"
    lengths = set()
    for i, part in enumerate(parts.values()):
        for n in range(12):
            mine = [t for t in range(len(data["obs"])) if data["episode"][t, n] == i]
            valid = part["valid"][:, n // 3, n % 3]
            lengths.add(valid.sum())
            assert valid.sum() == len(mine) and not valid[len(mine) :].any()
            np.testing.assert_array_equal(part["obs"][valid, n // 3, n % 3], data["obs"][mine, n])
            np.testing.assert_array_equal(part["action"][valid, n // 3, n % 3], data["action"][mine, n])
            np.testing.assert_array_equal(part["look"][valid, n // 3, n % 3].astype(np.float32), data["obs"][mine, n])
    assert len(lengths) > 3


class Vector(envs.Navigation2D):
    pass


def test_no_picture_is_one_sentence(tmp_path, capsys):
    envs.gym.register("Vector-v0", vector_entry_point=Vector)
    try:
        assert pictures.draw(checkpoint(tmp_path, rl2_ppo, "Vector-v0")) is None
    finally:
        del envs.gym.registry["Vector-v0"]
    assert "No picture of Vector-v0" in capsys.readouterr().out and os.listdir(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "CHECKPOINT"),
        (["nowhere.pt"], "nowhere.pt is no checkpoint"),
        ([__file__], "test_pictures.py is no checkpoint"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path):
    command = [sys.executable, pictures.__file__, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_heat_map_of_a_bandit_by_hand():
    tasks = np.array([[0.2, 0.9, 0.5]])
    parts = {"episode 1": [[0, 1, 1, 1]], "episode 2": [[2, 2, 0, 1]]}  # arms that four agents pull
    parts = {name: {"action": np.array([arms]), "obs": np.zeros((1, 1, 4))} for name, arms in parts.items()}
    ((_, labels, part),) = pictures.maps(None, tasks, parts)[0]
    assert labels == ["0.90", "0.50", "0.20"]
    np.testing.assert_array_equal(part, [[0.75, 0.25], [0, 0.5], [0.25, 0.25]])


def test_heat_map_of_an_mdp_by_hand():
    """Two states, two actions. Action 0 leads to state 1, which pays 10; only in the last step it is the worse one."""
    env = envs.make("TabularMDP-v0", 1, num_states=2, num_actions=2, horizon=2)
    tasks = env.sample_tasks(1)
    tasks["transitions"] = [[[0, 1], [1, 0]], [[0, 1], [1, 0]]]
    tasks["rewards"] = [[[0, 1], [10, 9]]]
    obs, action = np.array([[[0, 0, 0, 0]], [[1, 1, 0, 0]]]), np.array([[[0, 0, 1, 1]], [[0, 1, 0, 1]]])
    (_, states, visited), (_, ranks, taken) = pictures.maps(env, tasks, {"episode 1": {"obs": obs, "action": action}})[
        0
    ]
    assert states == ["10.00", "1.00"] and list(ranks) == [1, 2]
    np.testing.assert_array_equal(visited, [[0, 0.5], [1, 0.5]])
    # First step: action 0 is the best one. Last step: action 0 in state 1, action 1 in state 0.
    np.testing.assert_array_equal(taken, [[0.5, 0.5], [0.5, 0.5]])
    obs, action = obs[:, :, :2], action[:, :, :2]
    (*_, taken) = pictures.maps(env, tasks, {"episode 1": {"obs": obs, "action": action}})[0][1]
    np.testing.assert_array_equal(taken, [[1, 0.5], [0, 0.5]])
