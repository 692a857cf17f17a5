"""The environments against their definitions, gymnasium's rules and brute-force simulation."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

import envs
from helpers import HAND_MADE, MOVES, ROOT

IDS = [
    "Bandit-v0",
    "TabularMDP-v0",
    "Navigation2D-v0",
    "VisualMaze-v0",
    "HalfCheetahVel-v0",
    "AntGoal-v0",
]


def ks_uniform(samples, low, high):
    """Kolmogorov-Smirnov distance of samples from U[low, high]."""
    samples = np.sort(samples.ravel())
    grid = np.arange(1, len(samples) + 1) / len(samples)
    return np.abs(grid - (samples - low) / (high - low)).max()


def ks_limit(num):
    """The distance that samples of the right distribution exceed with probability below 1e-5."""
    return np.sqrt(np.log(2 / 1e-5) / (2 * num))  # the Dvoretzky-Kiefer-Wolfowitz bound


def chi_square_limit(degrees):
    """The sum of squares that `degrees` standard normals exceed with probability below 1e-5."""
    x = np.log(1 / 1e-5)
    return degrees + 2 * np.sqrt(degrees * x) + 2 * x  # Laurent, Massart 2000


def random_actions(env, rng):
    space = env.single_action_space
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, env.num_envs)
    return rng.uniform(space.low, space.high, env.action_space.shape)


@pytest.fixture
def register():
    """Registers an environment as Own-v0, until the test ends."""
    yield partial(gym.register, "Own-v0")
    del gym.registry["Own-v0"]


# ------------------------------------------------------------------------- the distributions


def test_bandit_tasks_and_rewards():
    env = envs.make("Bandit-v0", num_envs=5, num_arms=4)
    tasks = env.sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000, 4)
    assert ks_uniform(tasks, 0, 1) < ks_limit(tasks.size)

    means = [0.0, 0.25, 0.5, 1.0]
    env.reset(seed=1, options={"tasks": np.array([means] * 5)})
    for arm, mean in enumerate(means):
        rewards = np.array([env.step(np.full(5, arm))[1] for _ in range(4000)])
        assert set(np.unique(rewards)) <= {0.0, 1.0}
        stderr = np.sqrt(mean * (1 - mean) / rewards.size)
        assert abs(rewards.mean() - mean) < 4.5 * stderr + 1e-12


def test_bandit_regret_is_best_mean_minus_mean():
    env = envs.make("Bandit-v0", num_envs=100, num_arms=7)
    tasks = env.sample_tasks(100)
    env.reset(seed=0, options={"tasks": tasks})
    actions = np.arange(100) % 7
    regret = env.step(actions)[4]["regret"]
    for n in range(100):
        assert regret[n] == max(tasks[n]) - tasks[n][actions[n]] >= 0


def test_a_bandits_means_may_be_booleans():
    env = envs.make("Bandit-v0", num_envs=3, num_arms=2)
    env.reset(seed=0, options={"tasks": np.array([[True, False]] * 3)})
    _, reward, _, _, info = env.step(np.array([0, 1, 0]))
    assert reward.tolist() == [1, 0, 1]
    assert info["regret"].tolist() == [0, 1, 0]


def test_mdp_tasks():
    env = envs.make("TabularMDP-v0", num_states=6, num_actions=3)
    tasks = env.sample_tasks(5000, np.random.default_rng(0))
    transitions = tasks["transitions"]
    assert transitions.shape == (5000, 6, 3, 6)
    np.testing.assert_allclose(transitions.sum(-1), 1)
    # Dirichlet(1, ..., 1) over S states: each entry is Beta(1, S - 1), whose distribution
    # function is 1 - (1 - x)^(S - 1).
    entry = transitions[..., 2]
    assert ks_uniform(1 - (1 - entry) ** 5, 0, 1) < ks_limit(entry.size)
    covariance = np.cov(transitions[:, 0, 0].T)
    np.testing.assert_allclose(covariance[0, 1], -1 / (6 * 6 * 7), atol=5e-4)

    rewards = tasks["rewards"]
    assert rewards.shape == (5000, 6, 3)
    assert abs(rewards.mean() - 1) < 4.5 / np.sqrt(rewards.size)
    assert abs(rewards.std() - 1) < 4.5 / np.sqrt(2 * rewards.size)


def test_mdp_transitions_and_rewards_follow_the_tables():
    num = 30_000
    env = envs.make("TabularMDP-v0", num_envs=num, num_states=5, num_actions=2, horizon=3)
    task = env.sample_tasks(1, np.random.default_rng(3))
    obs, _ = env.reset(seed=4, options={"tasks": np.repeat(task, num, axis=0)})
    assert (obs == 0).all()  # every episode starts in state 0
    for _ in range(2):
        actions = np.random.default_rng(5).integers(0, 2, num)
        next_obs, reward, *_ = env.step(actions)
        for s in np.unique(obs):
            for a in range(2):
                rows = (obs == s) & (actions == a)
                expected = rows.sum() * task["transitions"][0, s, a]
                counts = np.bincount(next_obs[rows], minlength=5)
                assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(4)
                noise = reward[rows] - task["rewards"][0, s, a]
                assert abs(noise.mean()) < 4.5 / np.sqrt(rows.sum())
                assert abs(noise.std() - 1) < 4.5 / np.sqrt(2 * rows.sum())
        obs = next_obs


def q_by_recursion(task, steps_left, s, a):
    """Q*(s, a) of an MDP with three actions, from its definition."""
    future = 0.0
    if steps_left > 1:
        for s2, p in enumerate(task["transitions"][s, a]):
            values = [q_by_recursion(task, steps_left - 1, s2, b) for b in range(3)]
            future += p * max(values)
    return task["rewards"][s, a] + future


def test_mdp_regret_against_recursion_by_hand():
    env = envs.make("TabularMDP-v0", num_envs=3, num_states=4, num_actions=3, horizon=5)
    tasks = env.sample_tasks(3, np.random.default_rng(0))
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    rng = np.random.default_rng(1)
    for t in [*range(5), 0]:  # a whole episode and the first step of the next
        actions = rng.integers(0, 3, 3)
        next_obs, *_, info = env.step(actions)
        for n in range(3):
            values = [q_by_recursion(tasks[n], 5 - t, obs[n], b) for b in range(3)]
            expected = max(values) - values[actions[n]]
            np.testing.assert_allclose(info["regret"][n], expected, atol=1e-5)
        assert (info["regret"] >= 0).all()
        obs = next_obs


@pytest.mark.parametrize("policy", ["greedy", "random"])
def test_return_plus_regret_is_the_optimum(policy):
    """A policy without regret earns V*, and regret explains what any other policy loses."""
    env = envs.make("TabularMDP-v0", num_envs=20_000)
    task = env.sample_tasks(1, np.random.default_rng(2))
    value, table = envs.plan(task["transitions"], task["rewards"], 10)
    obs, _ = env.reset(seed=0, options={"tasks": np.repeat(task, env.num_envs, axis=0)})
    returns = np.zeros(env.num_envs)
    regrets = np.zeros(env.num_envs)
    rng = np.random.default_rng(0)
    for t in range(10):
        actions = rng.integers(0, 5, env.num_envs)
        if policy == "greedy":
            actions = table[t, 0].argmin(axis=1)[obs]
        obs, reward, _, _, info = env.step(actions)
        returns += reward
        regrets += info["regret"]
    if policy == "greedy":
        assert regrets.max() == 0
    error = returns + regrets - value[0]
    assert abs(error.mean()) < 4.5 * error.std() / np.sqrt(env.num_envs)


def test_navigation_tasks_dynamics_and_reward():
    env = envs.make("Navigation2D-v0", num_envs=50)
    tasks = env.sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000, 2)
    assert ks_uniform(tasks, -0.5, 0.5) < ks_limit(tasks.size)

    goals = tasks[:50]
    obs, _ = env.reset(seed=0, options={"tasks": goals})
    assert obs.shape == (50, 2)
    assert (obs == 0).all()
    position = np.zeros((50, 2))
    rng = np.random.default_rng(1)
    for _ in range(20):
        actions = rng.normal(0, 1, (50, 2))  # beyond the limits now and then
        obs, reward, terminated, truncated, _ = env.step(actions)
        for n in range(50):
            position[n] += [0.1 * min(max(a, -1), 1) for a in actions[n]]
            gap = position[n] - goals[n]
            assert abs(reward[n] + (gap[0] ** 2 + gap[1] ** 2) ** 0.5) < 1e-6
            assert terminated[n] == (abs(gap[0]) < 0.01 and abs(gap[1]) < 0.01)
            if terminated[n]:
                position[n] = 0
        np.testing.assert_allclose(obs, position, atol=1e-6)
        assert not truncated.any()


def test_navigation_ends_within_a_hundredth_of_the_goal_in_both_coordinates():
    """Just inside and just outside the square around the goal; its corners are inside."""
    offset = [[0.0099, -0.0099], [-0.0099, 0.0099], [0.0101, 0], [0, -0.0101], [-0.0101, 0.0101]]
    env = envs.make("Navigation2D-v0", 5)
    env.reset(seed=0, options={"tasks": 0.05 - np.array(offset)})
    _, _, terminated, _, _ = env.step(np.full((5, 2), 0.5))  # to (0.05, 0.05)
    assert terminated.tolist() == [True, True, False, False, False]


# ---------------------------------------------------------------------------------- mazes

LEFT, FORWARD, RIGHT = range(3)


def with_border(task):
    return np.pad(task, 1, constant_values=7)


class Walker:
    """One agent in one maze, step by step: block (row, column, of the maze in its border)."""

    def __init__(self, task):
        self.blocks = with_border(task)
        (self.start,) = np.argwhere(self.blocks > 7)
        self.reset()

    def reset(self):
        self.row, self.column = self.start
        self.heading = self.blocks[self.row, self.column] - 8

    def step(self, action):
        """The reward, and whether the goal is reached."""
        reward = -0.04
        if action == LEFT:
            self.heading = (self.heading + 3) % 4
        if action == RIGHT:
            self.heading = (self.heading + 1) % 4
        if action == FORWARD:
            down, right = MOVES[self.heading]
            if 2 <= self.blocks[self.row + down, self.column + right] < 8:
                return reward - 0.001, False
            self.row += 2 * down
            self.column += 2 * right
        found = self.blocks[self.row, self.column] == 1
        return reward + found, found

    def distances(self):
        """Of each column of the image: how far ahead its ray meets a block, and its number.

        A march in tiny steps.
        """
        steps = np.arange(0.0005, len(self.blocks), 0.001)  # ahead
        offsets = (np.arange(40) + 0.5) / 20 - 1  # aside, in one step ahead: 45 degrees at the edge
        down, right = MOVES[self.heading]
        aside_down, aside_right = MOVES[(self.heading + 1) % 4]
        aside = steps[:, None] * offsets
        rows = self.row + 0.5 + down * steps[:, None] + aside_down * aside
        columns = self.column + 0.5 + right * steps[:, None] + aside_right * aside
        size = len(self.blocks)
        rows = rows.astype(int).clip(0, size - 1)
        columns = columns.astype(int).clip(0, size - 1)
        met = self.blocks[rows, columns]  # [steps, 40]
        elsewhere = (rows != self.row) | (columns != self.column)  # one may stand on the goal
        is_block = (met > 0) & (met < 8)  # the start is free
        first = (is_block & elsewhere).argmax(axis=0)
        return steps[first], met[first, np.arange(40)]

    def check_image(self, image):
        """Is it what the rays meet? (A pixel at the very edge of a block may be either.)"""
        distance, number = self.distances()
        for y in range(30):
            off_centre = abs(y - 14.5)
            height = 10 / distance  # of a block above the centre: 1/2, and 20 pixels are 1 at 1
            inside = off_centre < height - 0.1
            outside = off_centre > height + 0.1
            color = np.stack([number // 4, number // 2 % 2, number % 2], axis=1) * 255
            assert (image[y, inside] == color[inside]).all()
            assert (image[y, outside] == 0).all()


@pytest.mark.parametrize("size", [5, 9])
def test_maze_steps_and_images_against_a_walker_that_marches_in_tiny_steps(size):
    """Random actions: walls are never crossed, episodes begin as the task says."""
    env = envs.make("VisualMaze-v0", 24, size=size, horizon=60)
    tasks = env.sample_tasks(24, 3)
    walkers = [Walker(task) for task in tasks]
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    first_obs = obs
    rng = np.random.default_rng(1)
    ends = 0
    for t in range(120):
        actions = rng.choice(3, size=24, p=[0.2, 0.6, 0.2])
        obs, reward, terminated, truncated, info = env.step(actions)
        for i, walker in enumerate(walkers):
            expected, found = walker.step(actions[i])
            assert reward[i] == pytest.approx(expected, abs=1e-12)
            assert terminated[i] == found
            assert walker.blocks[walker.row, walker.column] in (0, 1, *range(8, 12))
            if t % 24 == i or found:
                last_obs = info["final_obs"][i] if terminated[i] or truncated[i] else obs[i]
                walker.check_image(last_obs)
            if terminated[i] or truncated[i]:
                ends += terminated[i]
                walker.reset()
                assert (obs[i] == first_obs[i]).all()
    assert ends > 0


def test_a_maze_by_hand():
    env = envs.make("VisualMaze-v0", 1, size=3, horizon=8)
    obs, _ = env.reset(seed=0, options={"tasks": HAND_MADE[None]})
    first_obs = obs
    route = [FORWARD, FORWARD, FORWARD, RIGHT, FORWARD]  # the third one is into the border
    rewards = []
    for action in route:
        obs, reward, terminated, truncated, info = env.step(np.array([action]))
        rewards.append(reward[0])
        assert not truncated[0]
    assert rewards == pytest.approx([-0.04, -0.04, -0.041, -0.04, 0.96])
    assert terminated[0]
    assert (obs == first_obs).all()
    assert (info["final_obs"] != first_obs).any()
    for _ in range(8):
        assert not truncated[0]
        obs, reward, terminated, truncated, _ = env.step(np.array([LEFT]))
        assert reward[0] == pytest.approx(-0.04)
    assert truncated[0] and not terminated[0]


def test_a_wall_is_as_high_as_one_over_its_distance():
    """Along a row of rooms: 20 pixels at distance 1, whole pixels counted from the centre."""
    size = 9
    maze = np.zeros((2 * size - 1, 2 * size - 1), dtype=np.uint8)
    maze[0, 0] = 8
    maze[2, 0] = 1
    env = envs.make("VisualMaze-v0", 1, size=size)
    obs, _ = env.reset(seed=0, options={"tasks": maze[None]})
    for rooms in range(size - 1, -1, -1):
        distance = 2 * rooms + 0.5  # from a block's centre to the border
        is_white = (obs[0, :, 20] == 255).all(axis=1)
        assert abs(is_white.sum() - min(30, 20 / distance)) <= 1
        assert (is_white == is_white[::-1]).all()
        obs, *_ = env.step(np.array([FORWARD]))


def reachable_rooms(task):
    """Breadth-first search from the start, over rooms [row, column] of the map."""
    (start,) = np.argwhere(task > 7)
    seen = {tuple(start)}
    queue = [tuple(start)]
    for row, column in queue:  # it grows
        for down, right in MOVES:
            room = (row + 2 * down, column + 2 * right)
            inside = 0 <= min(room) and max(room) < len(task)
            if inside and task[row + down, column + right] < 2 and room not in seen:
                seen.add(room)
                queue.append(room)
    return seen


@pytest.mark.parametrize("size", [2, 5, 9])
def test_every_room_of_a_maze_can_be_reached(size):
    tasks = envs.make("VisualMaze-v0", size=size).sample_tasks(300, 0)
    assert tasks.shape == (300, 2 * size - 1, 2 * size - 1)
    for task in tasks:
        (goal,) = np.argwhere(task == 1)
        rooms = reachable_rooms(task)
        assert len(rooms) == size**2
        assert tuple(goal) in rooms


@pytest.mark.parametrize("size", [5, 9])
def test_how_mazes_are_drawn(size):
    """Pillars, one wall at each, fewer where two coincide; start and goal are any two rooms."""
    num = 20_000
    tasks = envs.make("VisualMaze-v0", size=size).sample_tasks(num, 0)
    walls = (tasks >= 2) & (tasks < 8)
    assert walls[:, 1::2, 1::2].all()
    assert not walls[:, ::2, ::2].any()
    between_rooms = walls.sum(axis=(1, 2)) - (size - 1) ** 2
    # Two pillars side by side fall towards each other with probability 1/9.
    expected = (size - 1) ** 2 - (size - 1) * (size - 2) / 9
    assert abs(between_rooms.mean() - expected) < 4.5 * between_rooms.std() / num**0.5
    colors = np.bincount(tasks[walls], minlength=8)[2:]
    assert (colors[:5] > 0).all() and colors[5] == 0  # 7, white, is the border's

    goals = np.argwhere(tasks == 1)
    starts = np.argwhere(tasks > 7)
    assert (goals[:, 0] == np.arange(num)).all()  # one in each
    assert (starts[:, 0] == np.arange(num)).all()
    for rooms in (goals, starts):
        numbers = rooms[:, 1] // 2 * size + rooms[:, 2] // 2
        counts = np.bincount(numbers, minlength=size**2)
        assert ((counts - num / size**2) ** 2).sum() / (num / size**2) < chi_square_limit(size**2)
    counts = np.bincount(tasks[tasks > 7])[8:]
    assert ((counts - num / 4) ** 2).sum() / (num / 4) < chi_square_limit(3)


def test_horizons_of_mazes():
    assert envs.make("VisualMaze-v0").horizon == 250
    assert envs.make("VisualMaze-v0", size=4).horizon == 250
    assert envs.make("VisualMaze-v0", size=6).horizon == 1000
    assert envs.make("VisualMaze-v0", size=9).horizon == 1000
    assert gym.make_vec("VisualMaze-v0", num_envs=2, size=9, horizon=30).horizon == 30


def test_a_trial_in_a_maze_keeps_start_and_heading():
    env = envs.make("VisualMaze-v0", num_envs=200, horizon=7)
    first_obs, _ = env.reset(seed=5)
    assert len(np.unique(first_obs, axis=0)) > 100
    rng = np.random.default_rng(0)
    for _ in range(28):
        obs, _, terminated, truncated, _ = env.step(rng.integers(0, 3, 200))
        done = terminated | truncated
        assert (obs[done] == first_obs[done]).all()


# ------------------------------------------------------------------------------- locomotion


def contact_forces(reference, action):
    """Forces on the bodies when a step's last physics step begins, from MuJoCo itself."""
    model = reference.model
    data = mujoco.MjData(model)
    mujoco.mj_copyData(data, model, reference.data)
    data.ctrl[:] = action
    mujoco.mj_step(model, data, nstep=4)
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    return data.cfrc_ext


def locomotion_reward(env_id, task, velocity, position, action, forces):
    """The reward by its formula, of one environment."""
    is_ant = env_id.startswith("Ant")
    if env_id.endswith("Dir-v0"):
        reward = task * velocity
    elif env_id.endswith("Vel-v0"):
        reward = is_ant - abs(velocity - task)
    else:
        reward = 4 - abs(position - task).sum()
    effort = float(action.astype(float) @ action)
    if not is_ant:
        return reward - 0.05 * effort
    return reward - 0.005 * effort + 0.05 - 0.0005 * (forces.clip(-1, 1) ** 2).sum()


def copy_start(env, i, obs, reference):
    """Gymnasium's reset, to the state that sub-environment i of ours drew."""
    qpos = env.unwrapped._qpos[i].copy()
    qvel = env.unwrapped._qvel[i].copy()
    reference.reset()
    reference.set_state(qpos, qvel)
    assert (reference._get_obs() == obs[i]).all()
    assert np.abs(qpos - reference.init_qpos).max() <= 0.1
    assert np.abs(qvel).max() < 0.6


@pytest.mark.parametrize(
    "env_id",
    ["HalfCheetahDir-v0", "HalfCheetahVel-v0", "AntDir-v0", "AntVel-v0", "AntGoal-v0"],
)
def test_locomotion_equals_gymnasiums_simulation(env_id):
    """To the last bit, across automatic resets; rewards by their formulas."""
    is_ant = env_id.startswith("Ant")
    make_reference = partial(gym.make, "HalfCheetah-v5")
    if is_ant:
        make_reference = partial(gym.make, "Ant-v5", include_cfrc_ext_in_observation=False)
    references = [make_reference().unwrapped for _ in range(4)]
    env = envs.make(env_id, 4, horizon=40)
    obs, _ = env.reset(seed=1)
    tasks = env.tasks.copy()
    for i, reference in enumerate(references):
        copy_start(env, i, obs, reference)

    rng = np.random.default_rng(0)
    terminations = 0
    truncations = 0
    for _ in range(150):
        actions = rng.uniform(-1.2, 1.2, env.action_space.shape)  # beyond the limits
        actions = actions.astype(np.float32)
        clipped = actions.clip(-1, 1)
        forces = [contact_forces(references[i], clipped[i]) for i in range(4)]
        obs, rewards, terminated, truncated, info = env.step(actions)
        terminations += terminated.sum()
        truncations += truncated.sum()
        for i, reference in enumerate(references):
            expected, _, unhealthy, _, their_info = reference.step(clipped[i])
            velocity = their_info["x_velocity"]
            ended = terminated[i] or truncated[i]
            last_obs = info["final_obs"][i] if ended else obs[i]
            assert (expected == last_obs).all()
            assert velocity == info["x_velocity"][i]
            assert unhealthy == terminated[i]
            position = reference.data.body("torso").xpos[:2]
            reward = locomotion_reward(env_id, tasks[i], velocity, position, clipped[i], forces[i])
            assert abs(rewards[i] - reward) < 1e-6
            if ended:
                copy_start(env, i, obs, reference)
    assert truncations > 0
    assert (terminations > 0) == is_ant
    assert (env.tasks == tasks).all()


@pytest.mark.parametrize(
    "env_id, shape, low, high",
    [
        ("HalfCheetahVel-v0", (20_000,), 0, 2),
        ("AntVel-v0", (20_000,), 0, 3),
        ("AntGoal-v0", (20_000, 2), -3, 3),
    ],
)
def test_velocities_and_positions_are_uniform(env_id, shape, low, high):
    tasks = envs.make(env_id).sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == shape
    assert ks_uniform(tasks, low, high) < ks_limit(tasks.size)


@pytest.mark.parametrize("env_id", ["HalfCheetahDir-v0", "AntDir-v0"])
def test_both_directions_are_as_likely(env_id):
    tasks = envs.make(env_id).sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000,)
    assert set(tasks) == {-1, 1}
    assert abs(tasks.mean()) < 4.5 / np.sqrt(20_000)


def half_cheetah_with_another_body(task, qpos, qvel):
    """Gymnasium's own simulation of a model that is changed by hand."""
    friction, mass, damping, gear = task
    reference = gym.make("HalfCheetah-v5").unwrapped
    reference.reset(seed=0)
    model = reference.model
    model.geom_friction *= friction
    model.body_mass *= mass
    model.body_inertia *= mass
    model.dof_damping *= damping
    model.actuator_gear *= gear
    mujoco.mj_setConst(model, reference.data)
    mujoco.mj_resetData(model, reference.data)
    reference.set_state(qpos, qvel)
    return reference


def test_physics_tasks_equal_gymnasiums_half_cheetah_with_another_body():
    """Bit for bit; a second batch of tasks scales the original model anew."""
    env = envs.make("HalfCheetahParams-v0", 4, horizon=40)
    rng = np.random.default_rng(0)
    for seed in range(2):
        tasks = env.sample_tasks(4, rng)
        tasks[0] = 1  # the ordinary body
        env.reset(seed=seed, options={"tasks": tasks})
        qpos = env.unwrapped._qpos.copy()
        qvel = env.unwrapped._qvel.copy()
        actions = rng.uniform(-1, 1, (40, 4, 6)).astype(np.float32)
        trajectory = [env.step(action) for action in actions]
        for i in range(4):
            reference = half_cheetah_with_another_body(tasks[i], qpos[i], qvel[i])
            for t, (obs, reward, _, truncated, info) in enumerate(trajectory):
                expected, _, _, _, their_info = reference.step(actions[t, i])
                last_obs = info["final_obs"][i] if truncated[i] else obs[i]
                np.testing.assert_array_equal(last_obs, expected)
                cost = 0.05 * (actions[t, i].astype(np.float32) ** 2).sum()
                assert abs(reward[i] - (their_info["x_velocity"] - cost)) < 1e-6
        assert truncated.all()


def test_physics_tasks_are_log_uniform():
    env = envs.make("HalfCheetahParams-v0")
    tasks = env.sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000, 4)
    for factor in tasks.T:
        assert ks_uniform(np.log(factor) / np.log(1.5), -3, 3) < ks_limit(20_000)
    assert np.abs(np.corrcoef(tasks.T) - np.eye(4)).max() < 0.05


# MuJoCo itself puts the fastest to x = 0, from 3 m no leap that speed alone would show.
@pytest.mark.parametrize("speed, place", [(500, 0), (500, 30), (1e12, 30), (1e12, 3), (1e12, -3)])
def test_a_body_that_flies_apart_starts_anew_and_no_other_one_does(speed, place, in_tmp):
    """Its step pays the cost of its action alone; its episode goes on."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (20, 3, 6)).astype(np.float32)
    runs = []
    for is_hit in (True, False):
        env = envs.make("HalfCheetahParams-v0", 3, horizon=20)
        env.reset(seed=0, options={"tasks": np.ones((3, 4))})
        steps = []
        for t in range(20):
            if is_hit and t == 7:
                env.unwrapped._qvel[1, 0] = speed
                env.unwrapped._qpos[1, 0] = place  # m, from where it would leap back
            steps.append(env.step(actions[t]))
        runs.append(steps)
    (obs, reward, terminated, truncated, info) = runs[0][7]
    assert np.abs(obs[1, :8]).max() <= 0.1  # the position's noise at a start
    assert np.abs(obs[1, 8:]).max() < 0.6  # 0.1 N(0, 1)
    assert info["x_velocity"][1] == 0
    assert reward[1] == np.float32(-0.05 * (actions[7, 1] ** 2).sum())
    assert not terminated.any() and not truncated.any()
    for t in range(19):
        for mine, theirs in zip(runs[0][t][:4], runs[1][t][:4], strict=True):
            np.testing.assert_array_equal(mine[[0, 2]], theirs[[0, 2]])
    assert runs[0][19][3].all()  # all episodes end together


def test_a_body_flies_apart_above_200_meters_a_second(in_tmp):
    env = envs.make("HalfCheetahDir-v0", 4)
    env.reset(seed=0)
    env.unwrapped._qpos[:, 1] += 5  # in the air, where nothing slows it down
    env.unwrapped._qvel[:, 0] = [199, -199, 201, -201]
    *_, info = env.step(np.zeros((4, 6), np.float32))
    assert info["x_velocity"] == pytest.approx([199, -199, 0, 0], abs=0.2)


def test_light_bodies_with_strong_motors_stay_within_bounds(in_tmp):
    """Without a new start, the fastest of these has 3e7 rad/s, and a reward of 1e7."""
    body = [0.36, 0.51, 0.31, 2.45]
    env = envs.make("HalfCheetahParams-v0", 200)
    env.reset(seed=0, options={"tasks": np.array([body] * 200)})
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = np.sign(rng.standard_normal((200, 6))).astype(np.float32)
        obs, reward, *_ = env.step(actions)
        assert np.abs(obs[:, 8:]).max() <= 200
        assert np.abs(reward).max() < 1000


def test_mujoco_is_quiet_and_needs_neither_torch_nor_tyro():
    """A model that is loaded and stepped prints nothing, even with every warning on."""
    code = (
        "import sys, envs; assert not {'torch', 'tyro'} & set(sys.modules); "
        "env = envs.make('AntDir-v0', 2); env.reset(seed=0); "
        "env.step(env.action_space.sample())"
    )
    command = [sys.executable, "-W", "default", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("env_id", list(envs.ENVIRONMENTS))
def test_observe_task_appends_the_task(env_id):
    env = envs.make(env_id, 3, observe_task=True)
    plain = envs.make(env_id, 3)
    tasks = env.sample_tasks(3)
    parts = [tasks]
    if tasks.dtype.names:
        parts = [tasks[name] for name in tasks.dtype.names]
    shown = np.concatenate([part.reshape(3, -1) for part in parts], axis=1)

    def check(with_task, without):
        if isinstance(plain.single_observation_space, Discrete):
            without = np.eye(plain.single_observation_space.n)[without]  # one-hot
        expected = np.concatenate([without.reshape(3, -1), shown], axis=1)
        np.testing.assert_array_equal(with_task, expected)

    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    obs_plain, _ = plain.reset(seed=0, options={"tasks": tasks})
    assert obs in env.observation_space
    assert obs.shape[1:] == env.single_observation_space.shape
    rng = np.random.default_rng(0)
    for _ in range(plain.horizon + 1):
        check(obs, obs_plain)
        actions = random_actions(env, rng)
        obs, *_, info = env.step(actions)
        obs_plain, *_, info_plain = plain.step(actions)
        if "final_obs" in info:
            check(info["final_obs"], info_plain["final_obs"])


# ----------------------------------------------------------------------------------- resets


@pytest.mark.parametrize(
    "env_id, horizon",
    [
        ("Bandit-v0", 1),
        ("TabularMDP-v0", 10),
        ("Navigation2D-v0", 100),
        ("VisualMaze-v0", 250),
        ("HalfCheetahDir-v0", 200),
    ],
)
def test_episodes_end_at_the_horizon_and_tasks_stay(env_id, horizon):
    env = envs.make(env_id, num_envs=6)
    assert env.horizon == horizon
    tasks = env.sample_tasks(6, 0)
    env.reset(seed=0, options={"tasks": tasks})
    actions = np.zeros(env.action_space.shape, env.action_space.dtype)
    for t in range(1, 3 * horizon + 1):
        _, _, terminated, truncated, info = env.step(actions)
        done = terminated | truncated
        assert done.all() == (t % horizon == 0) == done.any()
        assert ("final_obs" in info) == done.any()
        assert not (terminated & truncated).any()
    assert (env.tasks == tasks).all()


def test_same_step_reset_when_navigation_ends_early():
    env = envs.make("Navigation2D-v0", num_envs=2)
    goals = np.array([[0.1, 0.0], [0.5, 0.5]])
    env.reset(seed=0, options={"tasks": goals})
    # The first robot reaches its goal in every step, starting from the origin each time.
    for _ in range(3):
        obs, _, terminated, truncated, info = env.step(np.array([[1, 0], [0.1, 0]]))
        assert terminated.tolist() == [True, False]
        assert not truncated.any()
        assert info["_final_obs"].tolist() == [True, False]
        np.testing.assert_allclose(info["final_obs"][0], [0.1, 0.0], atol=1e-7)
        np.testing.assert_allclose(obs[0], [0, 0])
    np.testing.assert_allclose(obs[1], [0.03, 0], atol=1e-7)

    stay = np.zeros((2, 2))
    for _ in range(97):
        *_, truncated, info = env.step(stay)
    # The clock of the first robot began anew with its third episode, at step 4.
    assert truncated.tolist() == [False, True]
    for _ in range(3):
        *_, truncated, info = env.step(stay)
    assert truncated.tolist() == [True, False]


def test_final_obs_of_the_mdp_is_the_state_reached():
    env = envs.make("TabularMDP-v0", num_envs=1000, horizon=2)
    env.reset(seed=0)
    env.step(np.zeros(1000, dtype=int))
    obs, _, _, truncated, info = env.step(np.zeros(1000, dtype=int))
    assert truncated.all()
    assert (obs == 0).all()
    assert len(np.unique(info["final_obs"])) == 10
    assert info["_final_obs"].all()


@pytest.mark.parametrize("env_id", IDS)
def test_observations_are_not_overwritten_by_later_steps(env_id):
    env = envs.make(env_id, num_envs=50)
    obs, _ = env.reset(seed=0)
    given = [obs]
    copies = [obs.copy()]
    rng = np.random.default_rng(0)
    for _ in range(12):
        obs, reward, *_ = env.step(random_actions(env, rng))
        given += [obs, reward]
        copies += [obs.copy(), reward.copy()]
    for array, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# ----------------------------------------------------------------------------------- seeding


def log_of_a_run(env, seed, options=None):
    """The tasks, and what 15 steps with the same actions give."""
    obs, _ = env.reset(seed=seed, options=options)
    rng = np.random.default_rng(0)
    log = [env.tasks.copy(), obs]
    for _ in range(15):
        obs, reward, terminated, truncated, _ = env.step(random_actions(env, rng))
        log += [obs, reward, terminated, truncated]
    return log


@pytest.mark.parametrize("env_id", IDS)
def test_a_seed_fixes_everything(env_id):
    env = envs.make(env_id, num_envs=20)
    first = log_of_a_run(env, 3)
    log_of_a_run(env, 4)
    env.sample_tasks(7)
    again = log_of_a_run(env, 3)
    in_another = log_of_a_run(envs.make(env_id, num_envs=20), 3)
    with_another_seed = log_of_a_run(env, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, in_another, strict=True))
    assert (first[0] != with_another_seed[0]).any()


@pytest.mark.parametrize("env_id", IDS)
def test_tasks_that_were_named_stay_until_others_are(env_id):
    env = envs.make(env_id, num_envs=20)
    named = env.sample_tasks(20, np.random.default_rng(1))
    assert (log_of_a_run(env, 6, {"tasks": named})[0] == named).all()
    assert (log_of_a_run(env, 7)[0] == named).all()


@pytest.mark.parametrize("env_id", IDS)
def test_held_out_tasks_depend_on_their_generator_alone(env_id):
    env = envs.make(env_id, num_envs=3)
    before = env.sample_tasks(8, np.random.default_rng(5))
    env.reset(seed=0)
    env.sample_tasks(100)
    assert (env.sample_tasks(8, np.random.default_rng(5)) == before).all()


# ------------------------------------------------------------------------------ gymnasium's API


@pytest.mark.parametrize("make", [gym.make_vec, envs.make])
@pytest.mark.parametrize("env_id", list(envs.ENVIRONMENTS))
def test_gymnasium_accepts_the_environments(env_id, make):
    env = make(env_id, num_envs=3)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.spec.id == env_id
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.observation_space == batch_space(env.single_observation_space, 3)
    assert env.action_space == batch_space(env.single_action_space, 3)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    empty = create_empty_array(env.single_observation_space, 3)
    assert empty.shape == obs.shape
    assert empty.dtype == obs.dtype
    assert len(list(iterate(env.observation_space, obs))) == 3

    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    ended = False
    for _ in range(max(200, env.unwrapped.horizon)):
        obs, reward, terminated, truncated, info = wrapped.step(env.action_space.sample())
        assert obs in env.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (3,)
        assert reward.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        ended |= "episode" in info
    assert ended


# ---------------------------------------------------------------------------------- actions


class Recorder(envs.TaskVectorEnv):
    """Keeps the actions that it is given. There is one task, 0."""

    def __init__(self, num_envs, low, high):
        actions = Box(np.float32(low), np.float32(high))
        super().__init__(num_envs, 5, Discrete(1), actions)

    def _draw(self, num_tasks, rng):
        return np.zeros(num_tasks)

    def _advance(self, actions):
        self.actions = actions
        return np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool), {}


def test_actions_are_mapped_onto_the_environments_own_range(register):
    """One axis each: bounded, asymmetric, bounded below, bounded above, without bounds."""
    register(vector_entry_point=Recorder)
    low = [10, -3, 0, -np.inf, -np.inf]
    high = [20, 1, np.inf, 5, np.inf]
    env = envs.make("Own-v0", 9, low=low, high=high)
    assert env.single_action_space.low.tolist() == [-1, -1, 0, -np.inf, -np.inf]
    assert env.single_action_space.high.tolist() == [1, 1, np.inf, 5, np.inf]

    values = np.array([-100, -1.1, -1, -0.3, 0, 0.5, 1, 1.5, 100], dtype=np.float32)
    env.reset(seed=0)
    env.step(np.stack([values] * 5, axis=1))
    given = env.unwrapped.actions
    assert given in env.unwrapped.action_space
    np.testing.assert_allclose(given[:, 0], np.interp(values, [-1, 1], [10, 20]), rtol=1e-6)
    np.testing.assert_allclose(given[:, 1], np.interp(values, [-1, 1], [-3, 1]), atol=1e-6)
    np.testing.assert_array_equal(given[:, 2], np.maximum(values, 0))
    np.testing.assert_array_equal(given[:, 3], np.minimum(values, 5))
    np.testing.assert_array_equal(given[:, 4], values)


def test_a_range_from_minus_one_to_one_changes_no_bit_of_an_action(register):
    register(vector_entry_point=Recorder)
    env = envs.make("Own-v0", 5, low=[-1], high=[1])
    actions = np.array([[-1], [1e-9], [0.1], [0.3], [1]], dtype=np.float32)
    env.reset(seed=0)
    env.step(actions)
    np.testing.assert_array_equal(env.unwrapped.actions, actions)


@pytest.mark.parametrize("env_id", ["HalfCheetahDir-v0", "AntDir-v0", "Navigation2D-v0"])
def test_actions_are_in_the_space_of_the_environment(env_id, monkeypatch):
    env = envs.make(env_id, num_envs=50)
    assert env.single_action_space == Box(-1, 1, env.action_space.shape[1:])
    env.reset(seed=0)
    given = []
    advance = env.unwrapped._advance

    def record(actions):
        given.append(actions)
        return advance(actions)

    monkeypatch.setattr(env.unwrapped, "_advance", record)
    rng = np.random.default_rng(0)
    actions = rng.normal(0, 2, env.action_space.shape).astype(np.float32)
    env.step(actions)
    assert given[0] in env.unwrapped.action_space


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: envs.make("Bandt-v0"), "Cannot make 'Bandt-v0'.* doesn't exist"),
        (lambda: envs.make("no_such_module:X-v0"), "No module named"),
        (lambda: envs.make("Bandit-v0", num_arm=3), "unexpected keyword argument 'num_arm'"),
        (lambda: envs.make("AntDir-v0", body="Dog"), "multiple values for argument 'body'"),
        (lambda: envs.make("Bandit-v0", num_arms=0), "num_arms must be"),
        (lambda: envs.make("Bandit-v0", num_arms="many"), "num_arms must be"),
        (lambda: envs.make("Bandit-v0", num_envs=0), "num_envs must be"),
        (lambda: envs.make("CartPole-v1", num_envs=0, levels=True), "num_envs must be"),
        (lambda: envs.make("CartPole-v1", num_envs=2.0, levels=True), "num_envs must be"),
        (lambda: envs.make("TabularMDP-v0", num_states=-1), "num_states must be"),
        (lambda: envs.make("TabularMDP-v0", horizon=0), "horizon must be"),
        (lambda: envs.make("VisualMaze-v0", size=0), "size must be"),
        (lambda: envs.make("VisualMaze-v0", horizon=0), "horizon must be"),
        (lambda: envs.make("Bandit-v0", observe_task="false"), "True or False, got 'false'"),
        (lambda: envs.make("Bandit-v0").sample_tasks(0), "num_tasks must be"),
        (lambda: envs.make("Bandit-v0").step(np.array([0])), "Call reset"),
        (lambda: envs.make("Bandit-v0").reset(options={"task": 0}), "option"),
        (lambda: envs.make("CartPole-v1"), "sample_task"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(call, words):
    with pytest.raises(envs.UsageError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


NO_PROBABILITIES = np.zeros(2, [("transitions", float, (10, 5, 10)), ("rewards", float, (10, 5))])
NINE_STATES = envs.make("TabularMDP-v0", num_states=9).sample_tasks(2)
TWO_STARTS_AND_NONE = np.zeros((2, 9, 9), dtype=np.uint8)
TWO_STARTS_AND_NONE[0, 0, :4:2] = 8
STARTS_BETWEEN_ROOMS = np.zeros((2, 9, 9), dtype=np.uint8)
STARTS_BETWEEN_ROOMS[:, 4, 1] = 8
IN_A_ROOM_AND_BETWEEN = STARTS_BETWEEN_ROOMS.copy()
IN_A_ROOM_AND_BETWEEN[:, 4, 2] = 8


@pytest.mark.parametrize(
    "env_id, tasks",
    [
        ("Bandit-v0", np.full((3, 5), 0.5)),
        ("Bandit-v0", np.full((2, 4), 0.5)),
        ("Bandit-v0", np.full((2, 5), 1.5)),
        ("Bandit-v0", np.full((2, 5), np.nan)),
        ("TabularMDP-v0", np.zeros((2, 10, 5))),
        ("TabularMDP-v0", NO_PROBABILITIES),
        ("TabularMDP-v0", NINE_STATES),
        ("VisualMaze-v0", np.zeros((2, 9, 9), dtype=np.uint8)),  # no start
        ("VisualMaze-v0", np.full((2, 9, 9), 8, dtype=np.uint8)),  # many
        ("VisualMaze-v0", TWO_STARTS_AND_NONE),
        ("VisualMaze-v0", STARTS_BETWEEN_ROOMS),
        ("VisualMaze-v0", IN_A_ROOM_AND_BETWEEN),
        ("VisualMaze-v0", envs.make("VisualMaze-v0", size=4).sample_tasks(2)),
        ("HalfCheetahDir-v0", np.array([1.0, 0.5])),
        ("AntGoal-v0", np.array([1.0, 1.0])),
        ("HalfCheetahParams-v0", np.array([[1.0, 1.0, 1.0, 0.0]] * 2)),
    ],
)
def test_bad_tasks_are_refused(env_id, tasks):
    env = envs.make(env_id, num_envs=2)
    with pytest.raises(envs.UsageError, match="tasks must"):
        env.reset(options={"tasks": tasks})


@pytest.mark.parametrize(
    "env_id, actions, words",
    [
        ("Bandit-v0", [0, 0, 0], r"actions must have shape \(2,\), got \(3,\)"),
        ("Bandit-v0", [0, 5], "sub-environment 1, .*, is 5: not an integer from 0 to 4"),
        ("Bandit-v0", [-1, 0], "sub-environment 0, .*, is -1: not an integer from 0 to 4"),
        ("Bandit-v0", [0.0, 1.0], "sub-environment 0, .*, is 0.0: not an integer from 0 to 4"),
        ("Navigation2D-v0", [0.0, 0.0], r"actions must have shape \(2, 2\), got \(2,\)"),
        ("Navigation2D-v0", [[0, 0], [0, np.nan]], "sub-environment 1, whose task is .*, is nan"),
    ],
)
def test_bad_actions_are_refused(env_id, actions, words):
    env = envs.make(env_id, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(envs.UsageError, match=words):
        env.step(np.array(actions))


# ----------------------------------------------------------------------- a task of your own


class Corridor(gym.Env):
    """A single environment whose task is the rewarded end of a corridor of five cells."""

    observation_space = Discrete(5)
    action_space = Discrete(2)

    def sample_task(self, rng):
        return rng.integers(0, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = 4 * options["task"]
        self.cell = 2
        return self.cell, {}

    def step(self, action):
        self.cell = int(np.clip(self.cell + 2 * action - 1, 0, 4))
        at_goal = bool(self.cell == self.goal)
        return self.cell, float(at_goal), at_goal, False, {"regret": 0.5 + action}


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=6)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_single_environments_become_a_batch_of_tasks(mode):
    sys.modules["corridor_module"] = sys.modules[__name__]
    env = envs.make("corridor_module:Corridor-v0", num_envs=2, vectorization_mode=mode)
    assert env.horizon == 6
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert set(env.sample_tasks(50, np.random.default_rng(0))) == {0, 1}
    obs, _ = env.reset(seed=0, options={"tasks": np.array([1, 0])})
    assert obs.tolist() == [2, 2]
    # Always to the right: the first reaches its goal in every second step, the second never.
    for t in range(8):
        obs, reward, terminated, truncated, info = env.step(np.array([1, 1]))
        assert terminated.tolist() == [t % 2 == 1, False]
        assert reward.tolist() == [t % 2, 0]
        assert truncated.tolist() == [False, t == 5]
        assert info["regret"].tolist() == [1.5, 1.5]
        assert obs[0] == (3 if t % 2 == 0 else 2)
    with pytest.raises(envs.UsageError, match="shape"):
        env.reset(options={"tasks": np.array([1])})
    with pytest.raises(envs.UsageError, match="option"):
        env.reset(options={"tsks": np.array([1, 1])})
    env.close()


class Impatient(Corridor):
    """A corridor that cuts an episode off after its second step, by itself."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.steps += 1
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.steps == 2, info


def test_an_episode_that_is_cut_off_early_is_over(register):
    register(entry_point=Impatient, max_episode_steps=6)
    env = envs.make("Own-v0", num_envs=2)
    env.reset(seed=0)
    for t in range(8):
        obs, _, terminated, truncated, info = env.step(np.array([0, 1]))
        assert (terminated | truncated).tolist() == [t % 2 == 1] * 2
        if t % 2 == 1:
            assert info["final_obs"].tolist() == [0, 4]
            assert obs.tolist() == [2, 2]


class Maze(gym.Env):
    """A level is a number drawn from the seed; steps are random, too."""

    observation_space = Box(0, 1, (2,), np.float64)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = self.np_random.random()
        return np.array([self.level, 0.0]), {}

    def step(self, action):
        obs = np.array([self.level, self.np_random.random()])
        return obs, self.level, False, False, {}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_with_levels_the_seed_is_the_task(mode, register):
    register(entry_point=Maze, max_episode_steps=3)
    env = envs.make("Own-v0", 4, levels=True, vectorization_mode=mode)
    tasks = env.sample_tasks(4, np.random.default_rng(0))
    assert tasks.dtype.kind == "i"
    assert len(set(tasks)) == 4
    assert tasks.min() >= 0
    # gymnasium's own generator of a seed
    levels = [np.random.default_rng(task).random() for task in tasks]
    for seed in range(2):  # the environment's seed changes nothing
        noise = []
        obs, _ = env.reset(seed=seed, options={"tasks": tasks})
        for t in range(7):  # over the ends of two episodes
            np.testing.assert_array_equal(obs[:, 0], levels)
            obs, reward, _, truncated, _ = env.step(np.zeros(4, int))
            np.testing.assert_array_equal(reward, levels)
            assert truncated.all() == (t % 3 == 2)
            noise.append(obs[:, 1])
        # The same level and the same chance in every episode.
        np.testing.assert_array_equal(noise[0], noise[3])
    env.close()


def test_levels_are_many():
    tasks = envs.make("CartPole-v1", levels=True).sample_tasks(3000, 0)
    assert len(set(tasks)) == 3000


def test_an_environment_without_tasks_needs_levels(register):
    register(entry_point=Maze, max_episode_steps=3)
    with pytest.raises(envs.UsageError, match="levels True"):
        envs.make("Own-v0", 4)


class NextStep(envs.Bandit):
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}


class AlwaysSixteen(envs.Bandit):
    def __init__(self, num_envs):
        super().__init__(16)


class FromOne(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.single_action_space = Discrete(5, start=1)


class Matrix(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.single_action_space = Box(0, 1, (3, 4))


class OneNumber(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.single_observation_space = Box(0, 1, ())


class OneNumberToDo(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.single_action_space = Box(0, 1, ())


@pytest.mark.parametrize(
    "entry_point, words",
    [
        (NextStep, "SAME_STEP"),
        (AlwaysSixteen, "needs .* 1 sub-environments"),
        (FromOne, "numbered from 0"),
        (Matrix, "Box .actions: one axis."),
        (OneNumber, "has Box.*: use Discrete, numbered from 0, or Box"),
        (OneNumberToDo, "has Box.*: use Discrete, numbered from 0, or Box"),
    ],
)
def test_environments_that_would_be_misread_are_refused(entry_point, words, register):
    register(vector_entry_point=entry_point)
    with pytest.raises(envs.UsageError, match=words):
        envs.make("Own-v0")


# ----------------------------------------------------------------- faults in a task of your own


class Plane(envs.TaskVectorEnv):
    """Observations of a type that is smaller than its state's."""

    def __init__(self, num_envs, dtype):
        super().__init__(num_envs, 5, Box(0, 100, (2, 3), dtype), Discrete(2))

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)


@pytest.mark.parametrize(
    "dtype, wide", [("uint8", "int64"), ("int64", "int64"), ("float32", "float64")]
)
def test_a_state_has_64_bits_and_is_seen_in_the_spaces_type(dtype, wide):
    env = Plane(4, dtype)
    obs, _ = env.reset(seed=0)
    assert env._state.dtype == wide
    assert env._state.shape == (4, 2, 3)
    assert obs.dtype == dtype


class Broken(gym.Env):
    """A single environment in which something is wrong where the task is 7."""

    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def __init__(self, fault):
        self.fault = fault

    def sample_task(self, rng):
        return rng.integers(0, 9)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.broken = options["task"] == 7
        if self.broken and self.fault == "reset":
            raise KeyError("the wall is gone")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        obs = np.zeros(2, np.float32)
        reward = 0.0
        if self.broken and self.fault == "step":
            raise KeyError("the wall is gone")
        if self.broken and self.fault == "observation":
            obs[1] = np.nan
        if self.broken and self.fault == "reward":
            reward = np.nan
        return obs, reward, False, False, {}


class BrokenBatch(envs.TaskVectorEnv):
    """The same as a vector environment."""

    def __init__(self, num_envs, fault):
        super().__init__(num_envs, 9, Box(-1, 1, (2,)), Discrete(2))
        self.fault = fault
        self._obs = np.zeros((num_envs, 2), np.float32)

    def _draw(self, num_tasks, rng):
        return rng.integers(0, 9, num_tasks)

    def _observe(self):
        return self._obs

    def _advance(self, actions):
        reward = np.zeros(self.num_envs)
        if self.fault == "observation":
            self._obs[self.tasks == 7, 1] = np.nan
        elif self.fault == "reward":
            reward[self.tasks == 7] = np.nan
        elif self.fault == "observation's shape":
            self._obs = np.zeros((self.num_envs, 3), np.float32)
        elif self.fault == "reward's shape":
            reward = np.zeros((self.num_envs, 1))
        return reward, np.zeros(self.num_envs, dtype=bool), {}


SINGLE = {"entry_point": Broken, "max_episode_steps": 9}
BATCH = {"vector_entry_point": BrokenBatch}
TASKS = np.array([0, 7, 0])


def reset_and_step(fault):
    env = envs.make("Own-v0", 3, fault=fault)
    env.reset(seed=0, options={"tasks": TASKS})
    env.step(np.zeros(3, dtype=int))


@pytest.mark.parametrize("method", ["reset", "step"])
def test_a_fault_in_a_users_method_keeps_its_traceback_and_gets_a_note(method, register):
    register(**SINGLE)
    with pytest.raises(KeyError, match="the wall is gone") as error:
        reset_and_step(method)
    place = error.traceback[-1]
    assert (place.path, place.name) == (Path(__file__), method)
    assert error.value.__notes__ == ["In sub-environment 1, whose task is 7."]


@pytest.mark.filterwarnings("ignore:.*ERROR")  # the log of the worker that failed
@pytest.mark.parametrize("method", ["reset", "step"])
def test_a_fault_in_another_process_keeps_type_and_message(method, register):
    register(**SINGLE)
    env = envs.make("Own-v0", 3, fault=method, vectorization_mode="async")
    with pytest.raises(KeyError, match="the wall is gone"):
        env.reset(seed=0, options={"tasks": TASKS})
        env.step(np.zeros(3, dtype=int))
    env.close()


@pytest.mark.filterwarnings("ignore:.*WARN")  # gymnasium notices the number, too
@pytest.mark.parametrize("kind", [SINGLE, BATCH], ids=["single", "batch"])
@pytest.mark.parametrize("name", ["observation", "reward"])
def test_numbers_that_are_not_finite_are_one_clear_sentence(kind, name, register):
    register(**kind)
    words = f"^{name} of sub-environment 1, whose task is 7, is nan: not finite.$"
    with pytest.raises(envs.UsageError, match=words):
        reset_and_step(name)


@pytest.mark.parametrize(
    "name, words",
    [
        ("observation", r"observations must have shape \(3, 2\), got \(3, 3\)"),
        ("reward", r"rewards must have shape \(3,\), got \(3, 1\)"),
    ],
)
def test_a_wrong_shape_is_one_clear_sentence(name, words, register):
    register(**BATCH)
    with pytest.raises(envs.UsageError, match=words):
        reset_and_step(f"{name}'s shape")


class Room(gym.Env):
    """A single environment of four rooms, which says that it is in room `place`."""

    observation_space = Discrete(4)
    action_space = Discrete(2)

    def __init__(self, place):
        self.place = place

    def sample_task(self, rng):
        return 7

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return self.place, 0.0, False, False, {}


class Rooms(envs.TaskVectorEnv):
    """The same as a vector environment: the second sub-environment is in room `place`."""

    def __init__(self, num_envs, place):
        super().__init__(num_envs, 9, Discrete(4), Discrete(2))
        self.place = place
        self._obs = np.zeros(num_envs, int)

    def _draw(self, num_tasks, rng):
        return np.full(num_tasks, 7)

    def _observe(self):
        return self._obs

    def _advance(self, actions):
        self._obs = np.array([0, self.place, 3])
        return np.zeros(self.num_envs), False, {}


ROOMS = {
    "single": {"entry_point": Room, "max_episode_steps": 9},
    "batch": {"vector_entry_point": Rooms},
}


@pytest.mark.filterwarnings("ignore:.*WARN")  # gymnasium notices the number, too
@pytest.mark.parametrize(
    "kind, place, index, said",
    [
        ("single", -1, 0, "-1"),
        ("single", 4, 0, "4"),
        ("batch", -1, 1, "-1"),
        ("batch", 4, 1, "4"),
        ("batch", 1.5, 0, "0.0"),  # one fraction makes the array one of floats
    ],
)
def test_a_state_that_there_is_not_is_one_clear_sentence(kind, place, index, said, register):
    register(**ROOMS[kind])
    env = envs.make("Own-v0", 3, place=place)
    env.reset(seed=0)
    words = f"^observation of sub-environment {index}, whose task is 7, is {said}: not an integer"
    with pytest.raises(envs.UsageError, match=f"{words} from 0 to 3.$"):
        env.step(np.zeros(3, dtype=int))


def test_the_first_and_the_last_state_are_fine(register):
    register(vector_entry_point=Rooms)
    env = envs.make("Own-v0", 3, place=0)
    env.reset(seed=0)
    obs, *_ = env.step(np.zeros(3, dtype=int))
    assert obs.tolist() == [0, 0, 3]


# ----------------------------------------------------- tasks of their own, and how episodes start


def test_each_mdp_follows_its_own_tables():
    num = 300
    rng = np.random.default_rng(0)
    env = envs.make("TabularMDP-v0", num, num_states=4, num_actions=3, horizon=5)
    tasks = env.sample_tasks(num, 0)
    follower = rng.integers(0, 4, (num, 4, 3))
    tasks["transitions"] = np.eye(4)[follower]
    tasks["rewards"] = 100 * rng.integers(0, 50, (num, 4, 3))
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    for _ in range(4):
        action = rng.integers(0, 3, num)
        expected = follower[np.arange(num), obs, action]
        mean = tasks["rewards"][np.arange(num), obs, action]
        obs, reward, *_ = env.step(action)
        assert (obs == expected).all()
        # the noise of rewards has a deviation of 1
        assert abs(reward - mean).max() < 6


@pytest.mark.parametrize("env_id", ["HalfCheetahDir-v0", "AntDir-v0"])
def test_how_robots_start(env_id):
    env = envs.make(env_id, 1000, horizon=2)
    env.reset(seed=0)
    for is_first in (True, False):
        if not is_first:  # the automatic reset
            for _ in range(2):
                env.step(np.zeros(env.action_space.shape, np.float32))
        position = env.unwrapped._qpos - env.unwrapped._model.qpos0
        velocity = env.unwrapped._qvel
        for column in position.T:
            assert ks_uniform(column, -0.1, 0.1) < ks_limit(1000)
        for column in velocity.T:
            assert abs(column.mean()) < 4.5 * 0.1 / 1000**0.5
            assert abs(column.std() - 0.1) < 4.5 * 0.1 / 2000**0.5


def test_a_reset_without_a_seed_keeps_the_tasks():
    env = envs.make("Bandit-v0", 3)
    env.reset(seed=0)
    before = env.tasks.copy()
    env.reset()
    assert (env.tasks == before).all()


def test_named_tasks_are_a_copy():
    env = envs.make("Bandit-v0", 2, num_arms=2)
    tasks = np.array([[0.0, 1.0], [0.0, 1.0]])
    env.reset(seed=0, options={"tasks": tasks})
    tasks[:] = 0
    assert env.step(np.array([1, 1]))[1].tolist() == [1, 1]


SPACES_WITHOUT_NUMBERS = [
    gym.spaces.Dict({"x": Box(-1, 1, (2,))}),
    gym.spaces.Tuple([Discrete(2)]),
    gym.spaces.Text(3),
    Box(-1, 1, ()),
]


@pytest.mark.parametrize("space", SPACES_WITHOUT_NUMBERS, ids=lambda space: type(space).__name__)
def test_a_vector_environment_that_observes_no_array_is_a_sentence(space, monkeypatch):
    def entry_point(num_envs):
        return envs.TaskVectorEnv(num_envs, 5, space, Discrete(3))

    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    gym.register("Observes-v0", vector_entry_point=entry_point)
    with pytest.raises(envs.UsageError, match="use Discrete, numbered from 0, or Box"):
        envs.make("Observes-v0", 2)


class OwnArray(envs.TaskVectorEnv):
    """Observes the array itself in which it counts its steps; an episode has two."""

    def __init__(self, num_envs):
        super().__init__(num_envs, 2, Discrete(3), Discrete(2))

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)

    def _advance(self, actions):
        self._state += 1
        return np.zeros(self.num_envs), False, {}

    def _observe(self):
        return self._state


def test_observations_stay_as_they_were_though_the_environment_goes_on():
    env = OwnArray(2)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(np.zeros(2, int))
    third, *_, info = env.step(np.zeros(2, int))
    assert first.tolist() == [0, 0]
    assert second.tolist() == [1, 1]
    assert info["final_obs"].tolist() == [2, 2]
    assert third.tolist() == [0, 0]


def test_an_ant_that_flies_apart_starts_anew():
    env = envs.make("AntDir-v0", 3, horizon=20)
    env.reset(seed=0)
    env.unwrapped._qvel[1, 0] = 500
    obs, *_, info = env.step(np.zeros((3, 8), np.float32))
    assert np.abs(obs[1, 13:]).max() < 0.6
    assert info["x_velocity"][1] == 0
