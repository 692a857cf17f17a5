"""Task distributions of the meta-reinforcement-learning papers, as batches in numpy and MuJoCo.

A *task* is one member of a distribution: the arm means of a bandit, the tables of an MDP, a goal.
`make` gives a `gymnasium.vector.VectorEnv`, each of whose sub-environments holds one task until a
`reset` names or draws others. A sub-environment resets itself in the step that ends its episode
(`AutoresetMode.SAME_STEP`): the observation is the first of the next episode, `info["final_obs"]`
is the last of the one that ended, and valid where `info["_final_obs"]` is true. Where the optimum
is known, `info["regret"]` [N] is V*(s) - Q*(s, a) of the step just taken. Each environment that
this module registers takes `observe_task=True`, which appends the task to the observation.

Duan et al. (2016), RL^2, https://arxiv.org/abs/1611.02779: bandits (section 3.1), MDPs (3.2),
visual mazes (3.3).
Finn et al. (2017), MAML, https://arxiv.org/abs/1703.03400: navigation, locomotion (section 5.3).
"""

import importlib
import pickle
import random
import signal
import sys
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from numbers import Integral, Real

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, flatdim
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space
from numpy.lib.recfunctions import structured_to_unstructured

REAL_NUMBER = Box(-np.inf, np.inf, ())  # the space of a reward


class UsageError(ValueError):
    """A mistake in what the user asked for, in one sentence: what is wrong, what is allowed."""


def check_positive(**numbers):
    """Raises UsageError for a number that is not a positive whole one."""
    for name, value in numbers.items():
        if not isinstance(value, Integral) or value < 1:
            raise UsageError(f"{name} must be a positive whole number, got {value!r}.")


def flatten_batch(batch):
    """Tasks or observations as numbers [N, size]: the fields of a structured array in a row."""
    if batch.dtype.names is not None:
        batch = structured_to_unstructured(batch)
    return batch.reshape(len(batch), -1)


def as_flags(flags, num_envs):
    """Flags that episodes end, [num_envs] or one for all, as booleans [num_envs]; or UsageError."""
    flags = np.asarray(flags)
    # numpy's kinds of numbers: b is boolean, i and u are integers with a sign and without
    if flags.dtype.kind not in "biu" or flags.shape not in ((), (num_envs,)):
        raise UsageError(
            f"terminated and truncated must be {num_envs} booleans, got {flags.dtype} of shape "
            f"{flags.shape}."
        )
    return np.full(num_envs, flags, bool)


class TaskVectorEnv(VectorEnv):
    """A batch of N tasks, one per sub-environment, stepped together in O(N) numpy work.

    A subclass says what a task is and what an episode is:
    - `_draw(num_tasks, rng)`: `num_tasks` tasks, an array of finite numbers (it may be structured),
      first axis the task. This class's constructor calls it: set what it needs before
      `super().__init__`;
    - `_set_tasks(tasks)`: refuses wrong ones, computes what follows from them (optional; this class
      keeps them, as `self.tasks` [N, ...]);
    - `_start(mask)`: begins an episode where `mask` [N] is true (optional: this class writes 0 into
      `_state` there; so never make `_state` the array `actions` or `tasks` itself);
    - `_advance(actions)`: one step, (reward [N], terminated [N] or one for all, a new dict `info`);
    - `_observe()`: observations [N, ...] without the task (optional: they are `_state`).
    Discrete spaces are numbered from 0.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs, horizon, observation_space, action_space, observe_task=False):
        check_positive(num_envs=num_envs, horizon=horizon)
        if observe_task not in (True, False):
            raise UsageError(f"observe_task must be True or False, got {observe_task!r}.")
        self.num_envs = num_envs
        self.horizon = horizon
        self.observe_task = observe_task
        self.tasks = None
        self._tasks_named = False
        self._base_space = observation_space  # without the task
        if observe_task:  # [one-hot or raw observation, task]
            example = flatten_batch(self._draw(1, np.random.default_rng(0)))
            size = flatdim(observation_space) + example.shape[1]
            observation_space = Box(-np.inf, np.inf, (size,), float)
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._steps = np.zeros(num_envs, int)  # taken in the current episode, [N]
        # int64 or float64: in a small type of the space, such as uint8, sums could overflow
        dtype = np.result_type(self._base_space.dtype, int)
        # [N, ...]; a space without a shape, such as Dict, is refused by `make`
        self._state = np.zeros((num_envs, *(self._base_space.shape or ())), dtype)

    def sample_tasks(self, num_tasks, rng=None):
        """Tasks, first axis the task, by the numpy Generator `rng` or the environment's own."""
        check_positive(num_tasks=num_tasks)
        return self._draw(num_tasks, rng or self.np_random)

    def reset(self, *, seed=None, options=None):
        """Starts an episode everywhere: (observations, {}).

        `options={"tasks": tasks}` names the tasks, which are kept from then on. As long as none
        were named, the environment draws its own, anew whenever it is seeded. Do not name tasks
        that were drawn with the same `seed`: the episodes would begin with the random numbers that
        made the tasks.
        """
        super().reset(seed=seed)
        options = options or {}
        if set(options) - {"tasks"}:
            raise UsageError(f"reset knows the option 'tasks', got {sorted(options)}.")
        if "tasks" in options:
            self._take_tasks(options["tasks"])
            self._tasks_named = True
        elif self.tasks is None or (seed is not None and not self._tasks_named):
            self._take_tasks(self.sample_tasks(self.num_envs))
        self._steps[:] = 0
        self._start(np.ones(self.num_envs, bool))
        return self._observe_with_task(), {}

    def step(self, actions):
        """One action each: (observations, rewards [N], terminated [N], truncated [N], info)."""
        if self.tasks is None:
            raise UsageError("Call reset() before the first step().")
        reward, terminated, info = self._advance(actions)
        reward = np.array(reward, float)  # a copy: it may be part of what `_start` changes
        terminated = as_flags(terminated, self.num_envs)
        self._steps += 1
        truncated = (self._steps >= self.horizon) & ~terminated
        done = truncated | terminated
        if done.any():
            info["final_obs"] = self._observe_with_task()
            info["_final_obs"] = done
            self._steps[done] = 0
            self._start(done)
        return self._observe_with_task(), reward, terminated, truncated, info

    def _take_tasks(self, tasks):
        """Takes tasks of the shape of drawn ones and of a type that casts safely to theirs."""
        tasks = np.array(tasks)
        example = self._draw(1, np.random.default_rng(0))
        shape = (self.num_envs, *example.shape[1:])
        is_like_example = tasks.shape == shape and np.can_cast(tasks.dtype, example.dtype)
        if not is_like_example or not np.isfinite(flatten_batch(tasks)).all():
            raise UsageError(
                f"tasks must be finite, have shape {shape} and type {example.dtype}, "
                f"got {tasks.shape} and {tasks.dtype}."
            )
        self._set_tasks(tasks)
        self.tasks = tasks

    def _set_tasks(self, tasks):
        """Raises UsageError for wrong tasks, and computes, once, what follows from them."""

    def _start(self, mask):
        """Begins an episode where `mask` [N] is true: at zero, if a subclass says nothing else."""
        self._state[mask] = 0

    def _observe(self):
        return self._state.astype(self._base_space.dtype)

    def _observe_with_task(self):
        """What `_observe` gives, and behind it the task, where `observe_task` says so."""
        obs = np.array(self._observe())  # a copy: `_observe` may give an array that changes later
        if not self.observe_task:
            return obs
        if isinstance(self._base_space, Discrete):
            obs = np.eye(self._base_space.n)[obs]  # one-hot
        return np.column_stack([flatten_batch(obs), flatten_batch(self.tasks)])


class Bandit(TaskVectorEnv):
    """Multi-armed bandit (Duan et al., section 3.1).

    A task is `num_arms` arm means, each U[0, 1]: float array [num_tasks, num_arms]. An episode is
    one pull, which pays Bernoulli(mean of the arm).
    """

    def __init__(self, num_envs=1, num_arms=5, observe_task=False):
        check_positive(num_arms=num_arms)
        self.num_arms = num_arms
        super().__init__(num_envs, 1, Discrete(1), Discrete(num_arms), observe_task)

    def _draw(self, num_tasks, rng):
        return rng.random((num_tasks, self.num_arms))

    def _set_tasks(self, tasks):
        if tasks.min() < 0 or tasks.max() > 1:
            raise UsageError("tasks must be arm means between 0 and 1.")
        self._best = tasks.max(1) + 0.0  # [N], a float even where tasks are booleans

    def _advance(self, actions):
        mean = self.tasks[np.arange(self.num_envs), actions]  # [N]
        paid = self.np_random.random(self.num_envs) < mean
        return paid, True, {"regret": self._best - mean}


class TabularMDP(TaskVectorEnv):
    """Random finite MDP (Duan et al., section 3.2).

    A task is two tables for S states and A actions: transitions Dirichlet(1, ..., 1), and mean
    rewards Normal(1, 1). It is a structured array [num_tasks] with fields `transitions` [S, A, S]
    and `rewards` [S, A]. An episode is `horizon` steps from state 0. A step pays
    Normal(mean reward of state and action, 1).
    """

    def __init__(self, num_envs=1, num_states=10, num_actions=5, horizon=10, observe_task=False):
        check_positive(num_states=num_states, num_actions=num_actions)
        self.num_states = num_states
        self.num_actions = num_actions
        super().__init__(
            num_envs, horizon, Discrete(num_states), Discrete(num_actions), observe_task
        )
        # where sub-environment n's entries begin in a flat table with one for each (n, s, a)
        self._first = np.arange(num_envs) * num_states * num_actions

    def _draw(self, num_tasks, rng):
        shape = (self.num_states, self.num_actions)
        tasks = np.empty(
            num_tasks,
            [
                ("transitions", float, (*shape, self.num_states)),
                ("rewards", float, shape),
            ],
        )
        # Exponential variables, divided by their sum, are Dirichlet(1, ..., 1).
        weights = rng.standard_exponential((num_tasks, *shape, self.num_states))
        tasks["transitions"] = weights / weights.sum(-1, keepdims=True)
        tasks["rewards"] = 1 + rng.standard_normal((num_tasks, *shape))
        return tasks

    def _set_tasks(self, tasks):
        transitions = tasks["transitions"]
        rewards = tasks["rewards"]
        if transitions.min() < 0 or not np.allclose(transitions.sum(-1), 1):
            raise UsageError("tasks must hold probabilities of the next state that sum to 1.")
        # Flat tables: numpy takes entries from them twice as fast.
        self._mean_reward = rewards.ravel()
        # P(s' <= j | s, a) for j < S - 1 (for the last j it is 1). With u ~ U[0, 1), drawn below,
        # the next state is the number of these that are <= u. (P = 0.2, 0.5, 0.3: these are 0.2 and
        # 0.7. u = 0.5 is past one of them: state 1.)
        cumulative = transitions.cumsum(axis=-1, dtype=np.float64)[..., :-1].astype(np.float32)
        self._cumulative = cumulative.reshape(len(self._mean_reward), self.num_states - 1)
        self.optimum, regret = plan(transitions, rewards, self.horizon)
        self._regret = regret.reshape(self.horizon, -1)

    def _advance(self, actions):
        entry = self._first + self._state * self.num_actions + actions  # that of (n, s, a), [N]
        reward = self._mean_reward.take(entry) + self.np_random.standard_normal(self.num_envs)
        # All start together and end at the horizon, so that all are at the same time.
        regret = self._regret[self._steps[0]].take(entry)
        u = self.np_random.random((self.num_envs, 1), dtype=np.float32)
        self._state = np.count_nonzero(self._cumulative.take(entry, axis=0) <= u, axis=1)
        return reward, False, {"regret": regret}


def plan(transitions, rewards, horizon):
    """Value iteration for MDPs, `transitions` [N, S, A, S] and `rewards` [N, S, A].

    Returns V* of an episode from state 0 [N], and the regret V*_t(s) - Q*_t(s, a)
    [horizon, N, S, A] (float32) of action a in state s at time t. O(horizon * N * S^2 * A).
    """
    flat = transitions.reshape(len(rewards), -1, rewards.shape[1])  # [N, S A, S]
    value = np.zeros(rewards.shape[:2])  # [N, S]
    regret = np.empty((horizon, *rewards.shape), np.float32)
    for t in reversed(range(horizon)):
        # Bellman: Q_t(s, a) = r(s, a) + sum_s' P(s' | s, a) V_{t+1}(s'),   V_t(s) = max_a Q_t(s, a)
        q = rewards + (flat @ value[:, :, None]).reshape(rewards.shape)
        value = q.max(axis=2)
        regret[t] = value[:, :, None] - q
    return value[:, 0], regret


class Navigation2D(TaskVectorEnv):
    """Point robot in the plane (Finn et al., section 5.3).

    A task is a goal, U[-0.5, 0.5] in each coordinate: float array [num_tasks, 2]. An action is a
    velocity up to 0.1 in each coordinate. A step pays minus the distance to the goal after it (the
    paper's text says squared, but its code does not square it). Episodes start at the origin and
    end within 0.01 of the goal in both coordinates.
    """

    def __init__(self, num_envs=1, horizon=100, observe_task=False):
        position = Box(-np.inf, np.inf, (2,), np.float32)
        velocity = Box(-0.1, 0.1, (2,), np.float32)
        super().__init__(num_envs, horizon, position, velocity, observe_task)

    def _draw(self, num_tasks, rng):
        return rng.uniform(-0.5, 0.5, (num_tasks, 2))

    def _advance(self, actions):
        self._state += actions  # the position
        offset = self._state - self.tasks  # from the goal, [N, 2]
        return -np.hypot(*offset.T), (abs(offset) < 0.01).all(1), {}


class VisualMaze(TaskVectorEnv):
    """A maze that is seen from within (Duan et al., section 3.3; the geometry is ours).

    `size` x `size` rooms and the walls between them are blocks of a grid. A task is the map: uint8
    array [num_tasks, 2 size - 1, 2 size - 1]. 0 is free, 1 the goal, 2 to 7 are walls of different
    colours, 8 to 11 is the start and its heading: right, down, left, up. Rooms are in the even rows
    and columns; goal and start are rooms. The wall around the grid is no part of the map.

    Action 0 turns left by 90 degrees, 1 steps forward into the next room, 2 turns right. Each costs
    0.04, and a step into a wall 0.001 more. The step to the goal earns 1 and ends the episode.
    Observations are images, uint8 [30, 40, 3], 90 degrees wide. An episode has at most `horizon`
    steps. If you do not name it, it is 250, or 1000 where `size` is above 5. `size` is 2 or more.
    """

    def __init__(self, num_envs=1, size=5, horizon=None, observe_task=False):
        check_positive(size=size)
        if horizon is None:
            horizon = 250 if size <= 5 else 1000
        self.size = size
        width = 2 * size + 1  # with the wall around the grid
        # What a step to the right, down, left, up adds to a block's index. The direction to the
        # right of i is i + 1. To the right of 3 it is [4], which is [0] again.
        self._strides = np.array([1, width, -1, -width, 1])
        # The colour of each number in a map, 0 to 7: full or no red, green and blue. A free block,
        # 0, is black, the goal, 1, is blue, the wall around the maze, 7, is white.
        self._colors = 255 * np.uint8(list(np.ndindex(2, 2, 2)))
        image = Box(0, 255, (30, 40, 3), np.uint8)
        super().__init__(num_envs, horizon, image, Discrete(3), observe_task)

    def _draw(self, num_tasks, rng):
        size = self.size
        side = 2 * size - 1
        # colours 2 to 6; 7, white, is the wall around the grid
        blocks = rng.integers(2, 7, (num_tasks, side, side), np.uint8)
        # From each pillar (odd row and column, between four rooms) a wall falls to the right, down,
        # or to the left. None falls up, so walls cannot close a ring: every room can be reached.
        # Where two fall into one place, the maze has a loop.
        falls = rng.integers(3, size=(num_tasks, size - 1, size - 1))
        is_wall = np.zeros_like(blocks)
        is_wall[:, 1::2, 1::2] = True
        is_wall[:, 1::2, 2::2] |= falls == 0
        is_wall[:, 2::2, 1::2] |= falls == 1
        is_wall[:, 1::2, :-1:2] |= falls == 2
        blocks *= is_wall
        rooms = np.zeros((num_tasks, size * size))  # goal and start in two of them
        rooms[:, 0] = 1
        rooms[:, -1] = rng.integers(8, 12, num_tasks)
        blocks[:, ::2, ::2] = rng.permuted(rooms, axis=1).reshape(-1, size, size)
        return blocks

    def _set_tasks(self, tasks):
        # One table of all mazes' blocks, with walls around each of them. (np.pad also puts a maze
        # of walls before the first and after the last one. Nobody is there.)
        blocks = np.pad(tasks, 1, constant_values=7).ravel()
        start = np.flatnonzero(blocks > 7)
        if len(start) != self.num_envs or not (tasks[:, ::2, ::2] > 7).any((1, 2)).all():
            raise UsageError("tasks must have one start each, a number from 8 to 11 in a room.")
        # Indices into that table, and headings (8 to 11 become 0 to 3): [2, N]
        self._first_pose = self._pose = np.array([start, blocks[start] % 4])
        self._blocks = blocks * (blocks < 8)  # the start is free

    def _start(self, mask):
        self._pose = np.where(mask, self._first_pose, self._pose)

    def _advance(self, actions):
        place, heading = self._pose
        heading = (heading + actions - 1) % 4
        stride = self._strides[heading] * (actions == 1)
        at_wall = self._blocks[place + stride] > 1
        place = place + 2 * stride * ~at_wall  # from room to room
        self._pose = np.array([place, heading])
        found = self._blocks[place] == 1
        return found - 0.04 - 0.001 * at_wall, found, {}

    def _observe(self):
        """Images [N, 30, 40, 3]: a ray for each column, from block to block until one is not free.

        The method is called DDA, digital differential analyzer.
        """
        place, heading = self._pose[:, :, None, None]  # [N, 1, 1]
        column = np.arange(-39, 40, 2)  # for each block ahead its ray goes column / 40 blocks aside
        ahead = self._strides[heading]
        aside = self._strides[heading + 1] * np.sign(column)
        gap = 40 / abs(column)  # blocks ahead for each block aside
        # Where does the ray next cross a border between blocks: one in front of it, and one at its
        # side? Both are measured straight ahead, in blocks. It starts in the middle of a block.
        # Both stay as they are once the ray has hit: the smaller one is the distance.
        next_ahead = 0.5
        next_aside = gap / 2
        flies = True
        while np.any(flies):
            is_ahead = next_ahead < next_aside
            place = place + np.where(is_ahead, ahead, aside) * flies
            seen = self._blocks[place]
            flies = seen == 0  # [N, 1, 40]
            next_ahead = next_ahead + (flies & is_ahead)
            next_aside = next_aside + gap * (flies & ~is_ahead)
        # Blocks are as high as wide, 20 pixels at distance 1. What is above and below is black.
        half_height = 10 / np.minimum(next_ahead, next_aside)
        is_block = abs(np.arange(-14.5, 15))[:, None] < half_height  # [N, 30, 40]
        return self._colors.take(is_block * seen, axis=0)


class Locomotion(TaskVectorEnv):
    """Gymnasium's HalfCheetah-v5 or Ant-v5, with the rewards' formulas of Finn et al. (their code).

    `goal` says what a task is:
    - "Dir": a direction along x, -1 or 1, float array [num_tasks];
    - "Vel": a velocity along x, U[0, 2] m/s for the HalfCheetah, U[0, 3] for the Ant, [num_tasks];
    - "Goal": a position, U[-3, 3]^2 m, [num_tasks, 2] (registered for the Ant);
    - "Params": a body that has to run forward; factors of friction, masses, damping and motors,
      each 1.5^U[-3, 3], [num_tasks, 4] (registered for the HalfCheetah; the range that
      Rothfuss et al. 2019 have for masses and friction, https://arxiv.org/abs/1810.06784).

    A step is 0.05 s, by mjbatch on all cores. The Ant's episode ends when its height leaves
    [0.2, 1.0] m. A body that has more than 200 rad/s or m/s starts anew within its episode.
    """

    def __init__(self, body, goal, num_envs=1, horizon=200, observe_task=False):
        # Imported here, because it takes half a second that bandits do not need.
        import mjbatch
        import mujoco

        self.goal = goal
        self.is_ant = body == "Ant"
        xml = "ant.xml" if self.is_ant else "half_cheetah.xml"
        spec = mujoco.MjSpec.from_file(f"{gym.__path__[0]}/envs/mujoco/assets/{xml}")
        if self.is_ant:
            # Nothing reads this sensor. But without one MuJoCo would not compute contact forces.
            spec.add_sensor(
                type=mujoco.mjtSensor.mjSENS_FRAMELINACC,  # acceleration
                objtype=mujoco.mjtObj.mjOBJ_BODY,
                objname="torso",
            )
        self._model = spec.compile()
        # MuJoCo's qpos: positions and joint angles, nq numbers. qvel: their velocities, nv numbers.
        # The policy does not see the first coordinates of qpos: x, and the Ant's y.
        self._num_unseen = 2 if self.is_ant else 1
        obs_size = self._model.nq - self._num_unseen + self._model.nv
        observation_space = Box(-np.inf, np.inf, (obs_size,), float)
        action_space = Box(*np.float32(self._model.actuator_ctrlrange.T))
        super().__init__(num_envs, horizon, observation_space, action_space, observe_task)

        self._simulations = mjbatch.Batch(self._model, num_envs)
        # Views of the simulations' own arrays: what is written there moves the robots.
        bind = self._simulations.bind
        self._time = bind("time")  # s, [N]
        self._qpos = bind("qpos")  # [N, nq]
        self._qvel = bind("qvel")  # [N, nv]
        self._ctrl = bind("ctrl")  # what the motors are told, [N, axes]
        self._contact_forces = bind("cfrc_ext")  # torques and forces on each body, [N, bodies, 6]
        self._position = self._qpos[:, :1]  # x
        if self.is_ant:
            # x and y of the torso, as in gymnasium. MuJoCo updates them one physics step late.
            self._position = bind("xpos")[:, 1, :2]

    def _draw(self, num_tasks, rng):
        if self.goal == "Dir":
            return rng.choice([-1.0, 1.0], num_tasks)
        if self.goal == "Vel":
            return rng.uniform(0, 3 if self.is_ant else 2, num_tasks)
        if self.goal == "Goal":
            return rng.uniform(-3, 3, (num_tasks, 2))
        return 1.5 ** rng.uniform(-3, 3, (num_tasks, 4))

    def _set_tasks(self, tasks):
        if self.goal == "Dir" and (abs(tasks) != 1).any():
            raise UsageError("tasks must be directions, -1 or 1.")
        if self.goal == "Params":
            if tasks.min() <= 0:
                raise UsageError("tasks must be factors above 0.")
            friction, mass, damping, gear = tasks.T  # [N] each
            factors = {
                "geom_friction": friction,
                "body_mass": mass,
                "body_inertia": mass,
                "dof_damping": damping,
                "actuator_gear": gear,
            }
            for name, factor in factors.items():
                own = self._simulations.expand(name)  # [N, ...]: each simulation has its own
                own[:] = np.multiply.outer(factor, getattr(self._model, name))
            self._simulations.set_const()  # what MuJoCo derives from masses

    def _start(self, mask):
        noise = self.np_random.uniform(-0.1, 0.1, self._qpos[mask].shape)
        self._qpos[mask] = self._model.qpos0 + noise
        self._qvel[mask] = 0.1 * self.np_random.standard_normal(self._qvel[mask].shape)
        self._simulations.reset(mask)  # the rest of the state; position and velocity stay

    def _observe(self):
        return np.column_stack([self._qpos[:, self._num_unseen :], self._qvel])

    def _advance(self, actions):
        time = self._time.copy()
        before = self._position[:, 0].copy()
        self._ctrl[:] = actions
        self._simulations.step(nstep=5)
        velocity = (self._position[:, 0] - before) / 0.05  # m/s, [N]
        # A light body with strong motors may fly apart in MuJoCo's steps of 0.01 s. It starts anew.
        # So do those that MuJoCo itself has reset to x = 0 and time 0: their time has not grown by
        # 0.05 s. (0.045 leaves room for rounding.)
        is_apart = (abs(self._qvel) > 200).any(axis=1) | (self._time < time + 0.045)
        if is_apart.any():
            velocity[is_apart] = 0
            self._start(is_apart)
        reward = velocity
        if self.goal == "Dir":
            reward = velocity * self.tasks
        elif self.goal == "Vel":
            reward = self.is_ant - abs(velocity - self.tasks)  # True is 1: the Ant gets 1 more
        elif self.goal == "Goal":
            reward = 4 - abs(self._position - self.tasks).sum(axis=1)
        # the cost of the action
        reward = reward - (0.005 if self.is_ant else 0.05) * (actions**2).sum(axis=1)
        terminated = False
        if self.is_ant:
            # for being alive, and the cost of contacts
            forces = self._contact_forces.clip(-1, 1)
            reward += 0.05 - 0.0005 * (forces**2).sum(axis=(1, 2))
            height = self._qpos[:, 2]
            terminated = (height < 0.2) | (height > 1.0)
        return reward, terminated, {"x_velocity": velocity}


class KeepTask(gym.Wrapper):
    """Hands a single environment its task at every reset.

    Reward, flags and regret become plain numbers, and the rest of `info` is dropped: then it makes
    no difference whether gymnasium steps the environments in turn or each in its own process.
    """

    # BatchedTasks sets them by set_attr, which needs them to be there.
    task = None
    index = None
    has_process = False

    def reset(self, *, seed=None, options=None):
        if self.has_process:
            # This process has inherited the signal handlers of the one that trains. Ctrl-C is for
            # that one alone, and SIGTERM ends this one as usual. It has inherited the state of the
            # global generators, too: without seeds they would draw alike in all processes.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            seed_generators(seed)
            if "torch" in sys.modules:
                sys.modules["torch"].manual_seed(seed)
        with self._naming_the_task():
            # A copy: the environment may change it.
            obs, _ = self.env.reset(seed=seed, options={"task": deepcopy(self.task)})
        return obs, {}

    def step(self, action):
        with self._naming_the_task():
            obs, *results, info = self.env.step(action)
            # reward, terminated, truncated. (float refuses None. With dtype=float numpy would make
            # nan of it, and a flag that is nan counts as true.)
            results = [float(np.asarray(result).item()) for result in results]
            regret = info.get("regret")
        info = {"regret": float(regret)} if isinstance(regret, Real) else {}
        return obs, *results, info

    @contextmanager
    def _naming_the_task(self):
        try:
            yield
        except Exception as error:
            error.add_note(f"In sub-environment {self.index}, whose task is {self.task}.")
            raise


def seed_generators(seed):
    """Seeds Python's and numpy's global generators, for environments that use those."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


class BatchedTasks(TaskVectorEnv):
    """Ordinary single environments as a batch of tasks.

    They have `sample_task(rng)` and `reset(options={"task": task})`. With `levels` they may be any
    whose `reset(seed=...)` draws a level: then the task is the seed (`options` holds it, too).
    """

    def __init__(self, env_id, num_envs, vectorization_mode="sync", levels=False, **kwargs):
        example = gym.make(env_id, **kwargs)
        check_spaces(example, example.observation_space, example.action_space)
        self._example = example
        self.levels = levels
        horizon = example.spec.max_episode_steps
        has_tasks = levels or example.has_wrapper_attr("sample_task")
        arguments_fit = levels in (True, False) and vectorization_mode in ("sync", "async")
        if not horizon or not has_tasks or not arguments_fit:
            raise UsageError(
                f"{env_id} needs a max_episode_steps (it is {horizon}), and sample_task(rng) or "
                f"--env-kwargs levels True (it is {levels!r}); vectorization_mode sync or async "
                f"(it is {vectorization_mode!r})."
            )
        if levels:
            # The first observations of the seeds 0, 0, 1, 2, ... 9. The two of 0 have to agree,
            # those of 0 to 9 must not all agree.
            first = []
            for seed in (0, *range(10)):
                with gym.make(env_id, **kwargs) as env:  # each seed in a fresh one
                    first.append(pickle.dumps(env.reset(seed=seed)[0]))
            if first[0] != first[1] or len(set(first)) == 1:
                raise UsageError(
                    f"levels: of {env_id} the same seed must give the same first observation, and "
                    f"seeds 0 to 9 several. Seed 0 gave {len(set(first[:2]))} in two resets, seeds "
                    f"0 to 9 gave {len(set(first))} in all."
                )
        super().__init__(num_envs, horizon, example.observation_space, example.action_space)
        self._envs = gym.make_vec(
            env_id,
            num_envs,
            vectorization_mode,
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
            wrappers=[KeepTask],
            **kwargs,
        )
        self.close_extras = self._envs.close  # close() calls it
        self._envs.set_attr("index", list(range(num_envs)))
        self._envs.set_attr("has_process", vectorization_mode == "async")

    def _draw(self, num_tasks, rng):
        if self.levels:
            return rng.integers(2**31, size=num_tasks)
        sample_task = self._example.get_wrapper_attr("sample_task")
        return np.fromiter((sample_task(rng) for _ in range(num_tasks)), dtype=object)

    def _take_tasks(self, tasks):
        if len(tasks) != self.num_envs:
            raise UsageError(f"tasks must have shape ({self.num_envs},), got {len(tasks)} tasks.")
        self.tasks = deepcopy(tasks)  # the caller may change them
        self._envs.set_attr("task", list(self.tasks))

    def _start(self, mask):
        seed = int(self.np_random.integers(2**31))  # sub-environment i gets seed + i
        if self.levels:
            seed = np.asarray(self.tasks).tolist()  # the task is the seed
        self._state, _ = self._envs.reset(seed=seed, options={"reset_mask": mask})

    def _advance(self, actions):
        self._state, reward, terminated, truncated, info = self._envs.step(actions)
        # The base class truncates, at the horizon. So an episode that is cut earlier counts as
        # terminated. (No script tells the two apart.)
        early = truncated & (self._steps + 1 < self.horizon)
        return reward, terminated | early, info

    def __del__(self):
        # After Ctrl-C the processes may have ended in the middle of a step. With the state DEFAULT
        # an AsyncVectorEnv, whose own __del__ comes next, closes without waiting for the result.
        if hasattr(self, "_envs"):
            self._envs._state = AsyncState.DEFAULT


class PolicyEnv(VectorWrapper):
    """What `make` puts around every environment, so that policies know no ranges.

    Continuous actions are in [-1, 1] along each axis: they are mapped onto the environment's own
    range and clipped there. (An axis without two bounds stays as it is.) What goes in and what
    comes out is checked. A UsageError names a wrong shape, the sub-environment and task of a number
    that is not finite as float32, or an episode that does not end within the horizon.
    """

    def __init__(self, env):
        super().__init__(env)
        space = env.single_action_space
        if isinstance(space, Box):
            bounded = space.bounded_below & space.bounded_above  # [axes]
            # The environment's action is `centre + half_range * a`; without two bounds it is `a`.
            # Halved first, then in float64: bounds near float32's largest number would overflow.
            self._half_range = np.where(bounded, space.high / 2 - space.low / 2, np.float64(1))
            self._centre = np.where(bounded, space.low + self._half_range, 0)
            self.single_action_space = Box(
                np.where(bounded, -1, space.low),
                np.where(bounded, 1, space.high),
                dtype=space.dtype,
            )
            self.action_space = batch_space(self.single_action_space, env.num_envs)

    def __getattr__(self, name):
        """The horizon, and what else the environment has."""
        if name.startswith("_"):  # copy asks for some before there is an env
            raise AttributeError(name)
        return getattr(self.env, name)

    def sample_tasks(self, num_tasks, rng=None):
        """A batch of tasks, first axis the task.

        `rng` is a numpy Generator, or the seed of one; without it, it is the environment's own.
        """
        if rng is not None:
            rng = np.random.default_rng(rng)
            # sample_task may use the global generators: they are seeded, too. (The seed is drawn
            # from a copy, so that rng stays where it is.)
            seed_generators(int(deepcopy(rng).integers(2**32)))
        return self.env.sample_tasks(num_tasks, rng)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            seed = int(seed)
            seed_generators(seed)
        self._steps = 0  # taken in the current episode, later [N]
        self._has_regret = True
        obs, info = self.env.reset(seed=seed, options=options)
        obs = self._check("observation", obs, self.single_observation_space)
        return obs, info

    def step(self, actions):
        actions = self._check("action", actions, self.single_action_space)
        space = self.env.single_action_space
        if isinstance(space, Box):
            actions = self._centre + self._half_range * actions
            actions = actions.clip(space.low, space.high).astype(space.dtype)
        obs, reward, terminated, truncated, info = self.env.step(actions)
        obs = self._check("observation", obs, self.single_observation_space)
        reward = self._check("reward", reward, REAL_NUMBER)
        terminated = as_flags(terminated, self.num_envs)
        truncated = as_flags(truncated, self.num_envs)
        self._steps = np.where(terminated | truncated, 0, self._steps + 1)
        if self._steps.max() >= self.horizon:
            raise UsageError(
                f"The episode of sub-environment {self._steps.argmax()} has not ended within the "
                f"horizon of {self.horizon} steps."
            )
        # There is a regret only as long as every step of every sub-environment has one.
        regret = np.asarray(info.pop("regret", None), dtype=float)  # None becomes nan
        reported = np.isfinite(regret) & info.get("_regret", True)
        self._has_regret &= reported.shape == (self.num_envs,) and reported.all()
        if self._has_regret:
            info["regret"] = regret
        return obs, reward, terminated, truncated, info

    def group_tasks(self, tasks):
        """The rows of `tasks` that hold the same task: {the task as text: its rows}.

        It is {} where there are more than 25 different ones among 100 newly drawn tasks. (Drawing
        them seeds the global generators. numpy shortens the text of a task of more than 1,000
        numbers to the first and the last ones: tasks that agree in those count as the same.)
        """
        rows = {}
        if len({str(task) for task in self.sample_tasks(100, 0)}) <= 25:
            for i, task in enumerate(tasks):
                rows.setdefault(str(task), []).append(i)
        return rows

    def _check(self, name, array, space):
        """A copy of the array [N, ...]. Raises UsageError unless it holds N members of `space`.

        A copy, for the environment may change its actions and go on using what it has returned.
        """
        array = np.array(array)
        shape = (self.num_envs, *space.shape)
        if array.shape != shape:
            raise UsageError(f"{name}s must have shape {shape}, got {array.shape}.")
        is_valid = np.isfinite(array.astype(np.float32))  # policies compute in it
        wanted = "finite"
        if isinstance(space, Discrete):
            is_valid = (array >= 0) & (array < space.n) & (array.dtype.kind in "iu")
            wanted = f"an integer from 0 to {space.n - 1}"
        if is_valid.all():
            return array
        i = np.argwhere(~is_valid)[0][0]  # the first sub-environment
        tasks = getattr(self.env, "tasks", ["unknown"] * self.num_envs)
        raise UsageError(
            f"{name} of sub-environment {i}, whose task is {' '.join(str(tasks[i]).split()):.80}, "
            f"is {array[~is_valid][0]}: not {wanted}."
        )


def make(env_id, /, num_envs=1, **kwargs):
    """A `VectorEnv` of `num_envs` tasks, whose constructor takes `kwargs`.

    It has `horizon`, `sample_tasks(num_tasks, rng)` and `reset(options={"tasks": tasks})`.
    `env_id` is one of this module's, or your own as `package.module:MyTask-v0`: a vector
    environment with those, or an ordinary one with `sample_task(rng)` and
    `reset(options={"task": task})`. For an ordinary one there are two more arguments: with
    `levels=True` a task is a seed; `vectorization_mode` is "sync" or "async". Raises UsageError.
    """
    module, _, name = env_id.rpartition(":")
    module = module.lstrip("./")  # as in ./my_module:MyTask-v0
    try:
        if module:
            importlib.import_module(module)
        if gym.spec(name).vector_entry_point and "levels" not in kwargs:
            env = gym.make_vec(name, num_envs, "vector_entry_point", **kwargs)
        else:
            env = BatchedTasks(name, num_envs, **kwargs)
    except Exception as error:
        # Python's text for an unknown argument is "f() got an unexpected keyword argument".
        is_bad_argument = isinstance(error, TypeError) and "() got " in str(error)
        # What is missing is the module of env_id, or the package that it is in, or an environment
        # that gymnasium has no longer, such as HalfCheetah-v2. (Where it is another module, the
        # fault is in the user's code, and its traceback is shown.)
        is_missing = isinstance(error, ImportError) and (
            not module or f"{module}.".startswith(f"{error.name}.")
        )
        if is_bad_argument or is_missing or isinstance(error, gym.error.Error):
            raise UsageError(
                f"Cannot make {env_id!r} with {kwargs}: {error} (Known: {', '.join(ENVIRONMENTS)}; "
                # at the end the module that was found, with its file: perhaps another one
                f"your own is module:id, without .py. {sys.modules.get(module, '')})"
            ) from None
        error.add_note(f"{env_id} was made with {kwargs}.")
        raise
    check_spaces(env, env.single_observation_space, env.single_action_space)
    if not (
        env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP
        and hasattr(env, "sample_tasks")
        and hasattr(env, "horizon")
        and env.num_envs == num_envs
    ):
        raise UsageError(
            f"{env_id} needs autoreset mode SAME_STEP, {num_envs} sub-environments, a horizon and "
            "sample_tasks(num_tasks, rng). Where a seed draws a level: --env-kwargs levels True."
        )
    return PolicyEnv(env)


def check_spaces(env, observation_space, action_space):
    """Raises UsageError for an environment that policies would misread."""
    for space in (observation_space, action_space):
        is_box = isinstance(space, Box) and space.shape and space.dtype.itemsize <= 8
        if not is_box and not (isinstance(space, Discrete) and space.start == 0):
            raise UsageError(
                f"{env} has {space}: use Discrete, numbered from 0, or Box, of at most 64 bits. "
                "(Observations: see gymnasium's FlattenObservation, MiniGrid's ImgObsWrapper.)"
            )
    if isinstance(action_space, Box):
        if len(action_space.shape) > 1 or action_space.dtype.kind != "f":
            raise UsageError(f"{env} has {action_space}: use floats in a Box (actions: one axis).")
    layer = env
    while layer is not None:
        # gymnasium's NormalizeObservation, NormalizeReward, and classes made of them, have these
        if hasattr(layer, "obs_rms") or hasattr(layer, "return_rms"):
            raise UsageError(
                f"{env}: use --norm-obs (RL^2, SNAIL: --norm-reward) in place of gymnasium's "
                "normalising wrappers, whose statistics are not the run's."
            )
        layer = getattr(layer, "env", None)


ENVIRONMENTS = {
    "Bandit-v0": Bandit,
    "TabularMDP-v0": TabularMDP,
    "Navigation2D-v0": Navigation2D,
    "VisualMaze-v0": VisualMaze,
}
for _body, _goals in (
    ("HalfCheetah", ["Dir", "Vel", "Params"]),
    ("Ant", ["Dir", "Vel", "Goal"]),
):
    for _goal in _goals:
        ENVIRONMENTS[f"{_body}{_goal}-v0"] = partial(Locomotion, _body, _goal)
for _env_id, _entry_point in ENVIRONMENTS.items():
    gym.register(_env_id, vector_entry_point=_entry_point)
sys.path.append("")  # modules of the current folder are found, too
