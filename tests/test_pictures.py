"""Pictures show what the agent did, in the right tasks, and every kind of environment gets one."""

import runpy
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from PIL import Image

import envs
import maml_trpo
import pictures
import rl2_ppo
import snail_ppo
from helpers import MOVES

SMALL = {
    rl2_ppo: {"hidden_size": 8, "episodes_per_trial": 3},
    snail_ppo: {"sizes": (8, 4, 4, 4), "episodes_per_trial": 3},
    maml_trpo: {"hidden_size": 8, "episodes_per_task": 4},
}


def checkpoint(folder, script, env_id, **env_kwargs):
    """That of an agent which has learned nothing."""
    torch.manual_seed(0)
    args = script.Args(env_id=env_id, env_kwargs=env_kwargs, **SMALL[script])
    env = envs.make(env_id, 1, **env_kwargs)
    if script is maml_trpo:
        agent = script.Policy(env, args).initial_params()
    else:
        agent = script.Agent(env, args).state_dict()
    path = folder / "checkpoint.pt"
    torch.save({"algorithm": script.ALGORITHM, "args": asdict(args), "agent": agent}, path)
    return path


def pixels_of(image):
    return np.asarray(image.convert("RGB")).astype(int)


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
    env_kwargs = {"observe_task": True} if oracle else {}
    path = checkpoint(tmp_path, script, env_id, **env_kwargs)
    assert pictures.draw(path) == tmp_path / name
    _, _, parts = pictures.trials(path, 2, 3)
    copies = 20 if script is maml_trpo else 3
    position = (2,) if env_id == "Navigation2D-v0" else ()
    for part in parts.values():
        assert part["obs"].shape[1:] == (2, copies, *position)
    pixels = pixels_of(Image.open(tmp_path / name))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved from now on."""
    saved = []
    save = pictures.save

    def watched(figure, path):
        saved.append(figure)
        return save(figure, path)

    monkeypatch.setattr(pictures, "save", watched)
    return saved


def test_paths_and_goals_are_those_of_the_tasks(figures, tmp_path):
    path = checkpoint(tmp_path, rl2_ppo, "Navigation2D-v0", horizon=7)
    pictures.draw(path)
    _, goals, parts = pictures.trials(path, 4, 3)
    (figure,) = figures
    assert len(figure.axes) == 4
    for i, axis in enumerate(figure.axes):
        *paths, goal, origin = [line.get_xydata() for line in axis.lines]
        expected = []
        for part in parts.values():
            assert part["valid"].all()
            expected.extend(part["obs"][:, i].swapaxes(0, 1))  # [copies, T, 2]
        np.testing.assert_array_equal(paths, expected)
        np.testing.assert_array_equal(goal, goals[[i]])
        np.testing.assert_array_equal(origin, [[0, 0]])


def test_a_heat_map_has_the_numbers_of_its_task(figures, tmp_path):
    path = checkpoint(tmp_path, snail_ppo, "TabularMDP-v0")
    pictures.draw(path)
    (figure,) = figures
    shown = []
    for axis in figure.axes:
        if axis.get_ylabel().startswith("task"):  # the others are scales of colours
            shown.append((axis.get_ylabel(), axis.images[0].get_array()))
    expected = []
    for i, task_maps in enumerate(pictures.maps(*pictures.trials(path, 4, 200))):
        expected.extend((f"task {i + 1}", part) for _, _, part in task_maps)
    for (name, numbers), (right_name, right) in zip(shown, expected, strict=True):
        assert name == right_name
        np.testing.assert_array_equal(numbers, right)


@pytest.mark.parametrize("script, body", [(rl2_ppo, "HalfCheetah"), (maml_trpo, "Ant")])
def test_a_film_of_mujoco_without_a_display(script, body, tmp_path):
    path = checkpoint(tmp_path, script, f"{body}Vel-v0", horizon=4)
    if not find_library("EGL"):  # a machine without OpenGL: the sentence that says what to install
        with pytest.raises(envs.UsageError, match="Cannot draw without OpenGL.*libegl1"):
            pictures.draw(path)
        return
    film = Image.open(pictures.draw(path))
    # The first episode and the last one; or before and after one gradient step, and three of them.
    rows = 3 if script is maml_trpo else 2
    assert film.size == (2 * 200, rows * 150)
    assert film.n_frames == 2  # every other one of four steps
    film.seek(film.n_frames - 1)
    pixels = pixels_of(film)
    assert pixels.std() > 20
    robots = pixels[20:130]  # between the texts, which always differ
    assert np.abs(robots[:, :200] - robots[:, 200:400]).max() > 50  # tasks differ


class Painter(gym.Env):
    """Draws its task as a red, the number of steps so far as a blue."""

    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode=None, blind=False, alpha=False):
        self.render_mode = render_mode
        self.blind = blind
        self.alpha = [255] if alpha else []  # a fourth channel

    def sample_task(self, rng):
        return rng.integers(256)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = options["task"]
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def render(self):
        if self.blind:
            return None
        color = [self.task, 0, 50 * self.steps, *self.alpha]
        return np.full((60, 80, len(color)), color, np.uint8)


@pytest.fixture
def painter():
    gym.register("Painter-v0", Painter, max_episode_steps=4, disable_env_checker=True)
    yield "Painter-v0"
    del gym.registry["Painter-v0"]


@pytest.mark.parametrize(
    "script, labels",
    [
        (rl2_ppo, ["episode 1", "episode 3"]),
        (snail_ppo, ["episode 1", "episode 3"]),
        (maml_trpo, ["0 gradient steps", "1 gradient step", "3 gradient steps"]),
    ],
)
def test_a_film_of_an_ordinary_environment(script, labels, painter, tmp_path, monkeypatch):
    film = pictures.film
    shown = {}

    def watched(path, rows, tasks, fps):
        shown.update(rows)
        return film(path, rows, tasks, fps)

    monkeypatch.setattr(pictures, "film", watched)
    path = checkpoint(tmp_path, script, painter, alpha=script is snail_ppo)
    drawn = Image.open(pictures.draw(path))
    assert drawn.size == (3 * 80, len(labels) * 60)
    assert drawn.n_frames == 4
    tasks = envs.make(painter).sample_tasks(3, [1, 0])
    assert list(shown) == labels
    for row in shown.values():
        for task, frames in zip(tasks, row, strict=True):
            colors = [[task, 0, 50 * t] for t in range(4)]
            np.testing.assert_array_equal(frames[:, 0, 0], colors)


def test_an_environment_that_does_not_draw_is_one_sentence(painter, tmp_path):
    path = checkpoint(tmp_path, rl2_ppo, painter, blind=True)
    with pytest.raises(envs.UsageError, match="does not render to rgb_array"):
        pictures.draw(path)


class NoRenderMode(Painter):
    def __init__(self):
        super().__init__()


class NoConstructorArguments(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)
    sample_task = Painter.sample_task
    reset = Painter.reset
    step = Painter.step


@pytest.mark.parametrize("kind", [NoRenderMode, NoConstructorArguments])
def test_an_environment_that_takes_no_render_mode_is_one_sentence(kind, tmp_path):
    gym.register("Painter-v0", kind, max_episode_steps=4, disable_env_checker=True)
    try:
        path = checkpoint(tmp_path, rl2_ppo, "Painter-v0")
        with pytest.raises(envs.UsageError, match="Painter-v0 cannot be made with render_mode"):
            pictures.draw(path)
    finally:
        del gym.registry["Painter-v0"]


def test_what_stands_in_a_picture_is_what_the_agent_did(tmp_path, monkeypatch):
    """The steps of each episode, against a loop over the trials.

    Where episodes end early, the beginnings of the next ones differ.
    """
    path = checkpoint(tmp_path, rl2_ppo, "Navigation2D-v0", horizon=7)
    original = envs.Navigation2D._advance

    def often_there(self, actions):  # an episode ends with a chance of 1 in 3
        reward, _, info = original(self, actions)
        return reward, self.np_random.random(self.num_envs) < 1 / 3, info

    monkeypatch.setattr(envs.Navigation2D, "_advance", often_there)
    _, goals, parts = pictures.trials(path, 4, 3, look=lambda env: env.unwrapped._state.copy())
    agent = rl2_ppo.load(path)
    again = envs.make("Navigation2D-v0", 12, horizon=7)
    torch.manual_seed(0)
    data = rl2_ppo.rollout(agent, again, np.repeat(goals, 3, axis=0), 3, 0)
    np.testing.assert_array_equal(goals, again.sample_tasks(4, np.random.default_rng([1, 0])))
    assert list(parts) == ["episode 1", "episode 2", "episode 3"]
    lengths = set()
    for i, part in enumerate(parts.values()):
        for n in range(12):
            mine = [t for t in range(len(data["obs"])) if data["episode"][t, n] == i]
            trial = {name: array[:, n // 3, n % 3] for name, array in part.items()}
            valid = trial["valid"]
            lengths.add(valid.sum())
            assert valid.sum() == len(mine)
            assert not valid[len(mine) :].any()
            obs = data["obs"][mine, n]
            np.testing.assert_array_equal(trial["obs"][valid], obs)
            np.testing.assert_array_equal(trial["action"][valid], data["action"][mine, n])
            np.testing.assert_array_equal(trial["look"][valid].astype(np.float32), obs)
    assert len(lengths) > 3


def test_what_stands_in_a_picture_of_maml_is_what_it_did(tmp_path, monkeypatch):
    """The steps before and after each gradient step, against the batches of a trial."""
    path = checkpoint(tmp_path, maml_trpo, "Navigation2D-v0", horizon=7)
    saved = torch.load(path, weights_only=True)
    saved["args"]["norm_obs"] = True  # what the network sees is not what is drawn
    saved["agent"]["moments"] = torch.tensor([[1.0, 2.0], [4.0, 9.0]]).double()
    torch.save(saved, path)
    original = envs.Navigation2D._advance

    def often_there(self, actions):
        reward, _, info = original(self, actions)
        return reward, self.np_random.random(self.num_envs) < 1 / 3, info

    monkeypatch.setattr(envs.Navigation2D, "_advance", often_there)
    _, goals, parts = pictures.trials(path, 2, 3, look=lambda env: env.unwrapped._state.copy())
    policy, params, args = maml_trpo.load(path)
    again = envs.make("Navigation2D-v0", 40, horizon=7)
    torch.manual_seed(0)
    batches = maml_trpo.trial(policy, params, again, goals, 3, 0, args)
    assert list(parts) == [
        "0 gradient steps",
        "1 gradient step",
        "2 gradient steps",
        "3 gradient steps",
    ]
    for part, batch in zip(parts.values(), batches, strict=True):
        valid = batch["valid"].movedim(2, 0).numpy()  # [T, tasks, copies]
        obs = batch["raw_obs"].movedim(2, 0).numpy()
        action = batch["action"].movedim(2, 0).numpy()
        np.testing.assert_array_equal(part["valid"], valid)
        np.testing.assert_array_equal(part["obs"][valid], obs[valid])
        np.testing.assert_array_equal(part["action"][valid], action[valid])
        np.testing.assert_array_equal(part["look"][valid].astype(np.float32), obs[valid])


class Vector(envs.Navigation2D):
    pass


def test_no_picture_is_one_sentence(tmp_path, capsys):
    gym.register("Vector-v0", vector_entry_point=Vector)
    try:
        assert pictures.draw(checkpoint(tmp_path, rl2_ppo, "Vector-v0")) is None
    finally:
        del gym.registry["Vector-v0"]
    assert "No picture of Vector-v0" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "CHECKPOINT"),
        (["--help"], "CHECKPOINT"),
        (["VisualMaze-v0"], "or VisualMaze-v0 FOLDER"),
        (["nowhere.pt"], "nowhere.pt is no readable checkpoint: FileNotFoundError"),
        ([__file__], "test_pictures.py is no readable checkpoint: "),
        (["dqn.pt"], "dqn.pt is of dqn, not of maml_trpo, rl2_ppo, snail_ppo"),
        (["old.pt"], "another version of rl2_ppo"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, monkeypatch):
    torch.save({"algorithm": "dqn"}, tmp_path / "dqn.pt")
    torch.save({"algorithm": "rl2_ppo", "args": {"argument_of_old": 1}}, tmp_path / "old.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pictures.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(pictures.__file__, run_name="__main__")
    assert end.value.code.startswith("error: ")
    assert words in end.value.code
    assert len(end.value.code.splitlines()) == 1


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it was not installed
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with pytest.raises(SystemExit, match="error: .*pip install -r tests/requirements.txt"):
        runpy.run_path(pictures.__file__, run_name="__main__")


def test_the_command_line_draws_into_a_folder(tmp_path, monkeypatch, capsys):
    path = checkpoint(tmp_path, rl2_ppo, "Bandit-v0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(path), "new/folder"])
    runpy.run_path(pictures.__file__, run_name="__main__")
    assert "new/folder/heatmap.png" in capsys.readouterr().out
    assert (tmp_path / "new/folder/heatmap.png").exists()


def test_a_mistake_from_the_command_line_is_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, pictures.__file__, "nowhere.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "nowhere.pt is no readable checkpoint" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_weights_of_another_network_are_one_sentence(tmp_path, monkeypatch):
    path = checkpoint(tmp_path, rl2_ppo, "Bandit-v0")
    saved = torch.load(path, weights_only=True)
    saved["agent"]["value.weight"] = torch.zeros(1, 3)  # of another size
    torch.save(saved, path)
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(pictures.__file__, run_name="__main__")
    assert end.value.code.startswith("error: ")
    assert "is of a network of another version" in end.value.code
    assert len(end.value.code.splitlines()) == 1


def test_heat_map_of_a_bandit_by_hand():
    tasks = np.array([[0.2, 0.9, 0.5]])
    arms = {"episode 1": [0, 1, 1, 1], "episode 2": [2, 2, 0, 1]}  # that four agents pull
    parts = {}
    for label, pulled in arms.items():
        parts[label] = {"action": np.array([[pulled]]), "obs": np.zeros((1, 1, 4))}
    (task_maps,) = pictures.maps(None, tasks, parts)
    ((_, labels, part),) = task_maps
    assert labels == ["0.90", "0.50", "0.20"]
    np.testing.assert_array_equal(part, [[0.75, 0.25], [0, 0.5], [0.25, 0.25]])


def test_heat_map_of_an_mdp_by_hand():
    """Two states, two actions.

    Action 0 leads to state 1, which pays 10; only in the last step it is the worse one.
    """
    env = envs.make("TabularMDP-v0", 1, num_states=2, num_actions=2, horizon=2)
    tasks = env.sample_tasks(1)
    tasks["transitions"] = [[[0, 1], [1, 0]], [[0, 1], [1, 0]]]
    tasks["rewards"] = [[[0, 1], [10, 9]]]
    obs = np.array([[[0, 0, 0, 0]], [[1, 1, 0, 0]]])
    action = np.array([[[0, 0, 1, 1]], [[0, 1, 0, 1]]])
    (task_maps,) = pictures.maps(env, tasks, {"episode 1": {"obs": obs, "action": action}})
    (_, states, visited), (_, ranks, taken) = task_maps
    assert states == ["10.00", "1.00"]
    assert list(ranks) == [1, 2]
    np.testing.assert_array_equal(visited, [[0, 0.5], [1, 0.5]])
    # First step: action 0 is the best one. Last step: action 0 in state 1, action 1 in state 0.
    np.testing.assert_array_equal(taken, [[0.5, 0.5], [0.5, 0.5]])
    few = {"obs": obs[:, :, :2], "action": action[:, :, :2]}
    (task_maps,) = pictures.maps(env, tasks, {"episode 1": few})
    _, (_, _, taken) = task_maps
    np.testing.assert_array_equal(taken, [[1, 0.5], [0, 0.5]])


def test_mazes_are_drawn_as_they_are(figures, tmp_path):
    pictures.mazes(tmp_path, num_tasks=3)
    env = envs.make("VisualMaze-v0", 3)
    tasks = env.sample_tasks(3, [1, 0])
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    (figure,) = figures
    for i, task in enumerate(tasks):
        plan, view = figure.axes[2 * i : 2 * i + 2]
        blocks = np.pad(np.where(task > 7, 0, task), 1, constant_values=7)
        colors = np.stack([blocks // 4, blocks // 2 % 2, blocks % 2], axis=2) * 255
        np.testing.assert_array_equal(plan.images[0].get_array(), colors)
        np.testing.assert_array_equal(view.images[0].get_array(), obs[i])
        (arrow,) = plan.texts
        ((row, column),) = np.argwhere(task > 7)
        down, right = MOVES[task[row, column] - 8]
        assert np.subtract(arrow.xy, arrow.xyann) == pytest.approx([1.2 * right, 1.2 * down])
        assert np.add(arrow.xy, arrow.xyann) / 2 == pytest.approx([column + 1, row + 1])


@pytest.mark.parametrize("script", [rl2_ppo, maml_trpo])
def test_a_walk_shows_what_is_seen_beside_the_map_with_the_agent(script, tmp_path, monkeypatch):
    # MAML's baseline has 7,200 features of an image: minutes, for advantages that are not shown.
    monkeypatch.setattr(maml_trpo, "linear_baseline", lambda batch, gamma: batch["reward"])
    path = checkpoint(tmp_path, script, "VisualMaze-v0", size=3, horizon=5)
    assert pictures.draw(path) == tmp_path / "video.gif"
    _, tasks, parts = pictures.trials(path, 3, 1)
    gif = Image.open(tmp_path / "video.gif")
    num_rows = 3 if script is maml_trpo else 2
    frames = []
    for i in range(gif.n_frames):
        gif.seek(i)
        frames.append(pixels_of(gif).reshape(num_rows, 150, 3, 350, 3).swapaxes(1, 2))
    labels = ["episode 1", "episode 3"]
    if script is maml_trpo:
        labels = ["0 gradient steps", "1 gradient step", "3 gradient steps"]
    for row, label in enumerate(labels):
        part = parts[label]
        for i, task in enumerate(tasks):
            first = frames[0][row, i]
            # below the text in the upper left corner
            seen = part["obs"][0, i, 0].astype(int)[4:].repeat(5, 0).repeat(5, 1)
            assert (abs(first[20:, :200] - seen).max(axis=2) < 60).mean() > 0.99
            # the arrow is around the middle of the block where the agent starts
            is_yellow = (abs(first[:, 200:] - [255, 255, 0]) < 40).all(axis=2)
            ((start_row, start_column),) = np.argwhere(task > 7)
            rows, columns = np.nonzero(is_yellow & inside(start_row, start_column))
            assert len(rows) > 100
            # broad at its back: its mean is behind the middle, seen in its direction
            heading = task[start_row, start_column] - 8
            down, right = MOVES[heading]
            middle = (np.array([start_row, start_column]) + 1.5) * 150 / 7
            offset = np.array([rows.mean(), columns.mean()]) + 0.5 - middle
            assert offset @ [down, right] < -0.5
            assert abs(offset @ [right, down]) < 0.5


def test_the_arrow_of_a_walk_goes_where_the_actions_lead(tmp_path, monkeypatch):
    shown = {}

    def watched(path, rows, tasks, fps):
        shown.update(rows)
        return path

    monkeypatch.setattr(pictures, "film", watched)
    path = checkpoint(tmp_path, rl2_ppo, "VisualMaze-v0", size=3, horizon=12)
    pictures.draw(path)
    _, tasks, parts = pictures.trials(path, 3, 1)
    assert list(shown) == ["episode 1", "episode 3"]
    places = set()
    for label, films in shown.items():
        for i, frames in enumerate(films):
            env = envs.make("VisualMaze-v0", 1, size=3, horizon=12)
            obs, _ = env.reset(seed=0, options={"tasks": tasks[[i]]})
            for t, frame in enumerate(frames):
                row, column = divmod(env.unwrapped._pose[0, 0] % 49, 7)
                places.add((i, row, column))
                is_yellow = (frame[:, 200:] == [255, 255, 0]).all(axis=2)
                assert is_yellow[inside(row - 1, column - 1)].sum() > 100
                np.testing.assert_array_equal(frame[::5, :200:5], obs[0])
                obs, *_ = env.step(parts[label]["action"][t, i])
    assert len(places) > 6


def inside(row, column):
    """Which pixels of a map of 7 x 7 blocks are of this room, bool [150, 150]."""
    block = np.arange(150) * 7 // 150 - 1
    return (block == row)[:, None] & (block == column)
