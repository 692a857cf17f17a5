"""Task distributions of the meta-reinforcement-learning papers, stepped as one batch in numpy and MuJoCo.

A *task* is one member of a distribution: the arm means of a bandit, the tables of an MDP, a goal. `make` returns a
`gymnasium.vector.VectorEnv` in which each sub-environment holds one task, and keeps it over automatic resets until a
`reset` names other tasks:

    env = envs.make("Bandit-v0", num_envs=4, num_arms=10)
    tasks = env.sample_tasks(4)                        # a batch of tasks, the first axis is the task
    obs, info = env.reset(seed=0, options={"tasks": tasks})
    obs, reward, terminated, truncated, info = env.step(np.zeros(4, dtype=int))

Sub-environments reset themselves in the step that ends their episode (`AutoresetMode.SAME_STEP`): the observation
returned is the first of the next episode, and `info["final_obs"]` holds the last of the one that ended, valid where
`info["_final_obs"]` is true.

Where a task's optimum is known, `info["regret"]` [N] is V*(s) - Q*(s, a) >= 0 of the step just taken.
`observe_task=True` appends the task to the observation: who trains on it shows what knowing the task is worth.

    Duan et al. (2016), RL^2, https://arxiv.org/abs/1611.02779, section 3.1 (bandits) and 3.2 (tabular MDPs)
    Finn et al. (2017), MAML, https://arxiv.org/abs/1703.03400, section 5.3 (navigation, locomotion)
"""

import importlib.util
import os
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class UsageError(ValueError):
    """A mistake in what the user asked for, told in one sentence: what is wrong and what is allowed."""


def check_positive(**numbers):
    """Raises UsageError, one sentence, for a number that is not a positive whole one."""
    for name, value in numbers.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise UsageError(f"{name} must be a positive whole number, got {value!r}.")


class TaskVectorEnv(VectorEnv):
    """A batch of N tasks of one distribution, one per sub-environment, stepped together.

    A subclass says what a task is (`_draw`, `_check_tasks`, `_set_tasks`) and an episode (`_start`, `_advance`,
    `_observe`); the rest is here. A step costs O(N) numpy work and no Python loop over sub-environments.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs, horizon, observation_space, action_space, observe_task=False):
        check_positive(num_envs=num_envs, horizon=horizon)
        self.num_envs, self.horizon, self.tasks, self._tasks_named = int(num_envs), int(horizon), None, False
        self._base_space, self.observe_task = observation_space, observe_task
        if observe_task not in (True, False):
            raise UsageError(f"observe_task must be True or False, got {observe_task!r}.")
        if observe_task:  # [one-hot or raw observation, task]
            size = observation_space.n if isinstance(observation_space, Discrete) else observation_space.shape[0]
            size += flatten_tasks(self._draw(1, np.random.default_rng(0))).shape[1]
            observation_space = Box(-np.inf, np.inf, (int(size),), np.float64)
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._steps = np.zeros(num_envs, dtype=np.int64)  # steps taken in the current episode, [N]
        self._needs_reset = True

    def sample_tasks(self, num_tasks, rng=None):
        """Draws a batch of `num_tasks` tasks, first axis the task.

        `rng` is a `numpy.random.Generator`; without one the environment's own generator is used. Pass one for
        held-out tasks, so that they do not depend on what the environment has drawn before.
        """
        check_positive(num_tasks=num_tasks)
        return self._draw(int(num_tasks), self.np_random if rng is None else rng)

    def reset(self, *, seed=None, options=None):
        """Starts an episode in every sub-environment and returns (observations, {}).

        `options={"tasks": tasks}` gives each sub-environment its task, which it keeps from then on. As long as no
        tasks have been named the environment draws its own, anew whenever it is seeded, so that a seed alone fixes
        everything that follows. Raises UsageError for tasks of the wrong number, shape or range.
        """
        super().reset(seed=seed)
        if options is not None and set(options) - {"tasks"}:
            raise UsageError(f"reset knows the option 'tasks', got {sorted(set(options) - {'tasks'})}.")
        if options is not None and "tasks" in options:
            tasks = np.asarray(options["tasks"])
            example = self._draw(1, np.random.default_rng(0))
            shape, fields = (self.num_envs, *example.shape[1:]), example.dtype.names
            if tasks.shape != shape or tasks.dtype.names != fields:
                kind = "an array" if fields is None else f"a structured array with fields {fields}"
                got = f"shape {tasks.shape}" + (f" and fields {tasks.dtype.names}" if fields else "")
                raise UsageError(f"tasks must be {kind} of shape {shape} (one per sub-environment), got {got}.")
            self._check_tasks(tasks)
            self.tasks, self._tasks_named = tasks.astype(example.dtype), True
            self._set_tasks(self.tasks)
        elif self.tasks is None or (seed is not None and not self._tasks_named):
            self.tasks = self._draw(self.num_envs, self.np_random)
            self._set_tasks(self.tasks)
        self._steps[:], self._needs_reset = 0, False
        self._start(np.ones(self.num_envs, dtype=bool))
        return self._observation(), {}

    def step(self, actions):
        """Takes one action per sub-environment: (observations, rewards [N], terminated [N], truncated [N], info).

        Raises UsageError before the first `reset` and for actions of the wrong shape, type or range.
        """
        if self._needs_reset:
            raise UsageError("Call reset() before the first step().")
        reward, terminated, info = self._advance(self._check_actions(actions))
        self._steps += 1
        truncated = (self._steps >= self.horizon) & ~terminated
        done = terminated | truncated
        if done.any():
            info["final_obs"], info["_final_obs"] = self._observation(), done
            self._steps[done] = 0
            self._start(done)
        return self._observation(), reward, terminated, truncated, info

    def _set_tasks(self, tasks):
        """What follows from the tasks is computed here, once."""

    def _start(self, mask):
        """Begins an episode where `mask` [N] is true."""

    def _observation(self):
        obs = self._observe()
        if not self.observe_task:
            return obs
        if isinstance(self._base_space, Discrete):
            obs = obs[:, None] == np.arange(self._base_space.n)  # one-hot
        return np.concatenate([obs, flatten_tasks(self.tasks)], axis=1, dtype=np.float64)

    def _check_actions(self, actions):
        actions, space = np.asarray(actions), self.single_action_space
        if actions.shape != self.action_space.shape:
            raise UsageError(f"actions must have shape {self.action_space.shape}, got {actions.shape}.")
        if isinstance(space, Box):
            if not np.isfinite(actions).all():
                raise UsageError(f"actions must be finite numbers, got {actions[~np.isfinite(actions)][0]}.")
            return actions.clip(space.low, space.high)  # as the papers' environments do: a policy may command more
        if actions.dtype.kind not in "iu":
            raise UsageError(f"actions must be whole numbers (an integer array), got {actions.dtype}.")
        if actions.min() < 0 or actions.max() >= space.n:
            wrong = actions[(actions < 0) | (actions >= space.n)][0]
            raise UsageError(f"actions must lie in 0 .. {space.n - 1}, got {wrong}.")
        return actions


def flatten_tasks(tasks):
    """A batch of tasks as numbers, [num_tasks, size]: a structured array's fields side by side."""
    parts = [tasks] if tasks.dtype.names is None else [tasks[name] for name in tasks.dtype.names]
    return np.concatenate([part.reshape(len(tasks), -1) for part in parts], axis=1)


class Bandit(TaskVectorEnv):
    """Multi-armed bandit (Duan et al., section 3.1): a task is `num_arms` arm means, each U[0, 1].

    An episode is one pull, which pays Bernoulli(mean of the arm). Tasks: float array [num_tasks, num_arms].
    """

    def __init__(self, num_envs=1, num_arms=5, observe_task=False):
        check_positive(num_arms=num_arms)
        self.num_arms = int(num_arms)
        super().__init__(num_envs, 1, Discrete(1), Discrete(num_arms), observe_task)
        self._row = np.arange(num_envs) * self.num_arms  # where sub-environment n's arms begin in the flat table

    def expected_optimum(self):
        """Expected return of an episode for who knows the task, and its standard error: E max of k U[0, 1], exact."""
        return self.num_arms / (self.num_arms + 1), 0.0

    def _draw(self, num_tasks, rng):
        return rng.random((num_tasks, self.num_arms))

    def _check_tasks(self, tasks):
        if not ((tasks >= 0) & (tasks <= 1)).all():
            raise UsageError("tasks must be arm means between 0 and 1.")

    def _set_tasks(self, tasks):
        self._best = tasks.max(axis=1)  # [N]

    def _observe(self):
        return np.zeros(self.num_envs, dtype=np.int64)

    def _advance(self, actions):
        mean = self.tasks.ravel().take(self._row + actions)  # [N]
        reward = (self.np_random.random(self.num_envs) < mean).astype(np.float64)
        return reward, np.ones(self.num_envs, dtype=bool), {"regret": self._best - mean}


class TabularMDP(TaskVectorEnv):
    """Random finite MDP (Duan et al., section 3.2): transitions Dirichlet(1, ..., 1), mean rewards Normal(1, 1).

    An episode is `horizon` steps from state 0; a step pays Normal(mean reward of state and action, 1). Tasks:
    structured array [num_tasks] with fields `transitions` [S, A, S] and `rewards` [S, A].
    """

    def __init__(self, num_envs=1, num_states=10, num_actions=5, horizon=10, observe_task=False):
        check_positive(num_states=num_states, num_actions=num_actions)
        self.num_states, self.num_actions = int(num_states), int(num_actions)
        super().__init__(num_envs, horizon, Discrete(num_states), Discrete(num_actions), observe_task)
        self._first = np.arange(num_envs) * self.num_states * self.num_actions
        self._state = np.zeros(num_envs, dtype=np.int64)

    def _draw(self, num_tasks, rng):
        size = (num_tasks, self.num_states, self.num_actions)
        fields = [("transitions", np.float64, (*size[1:], self.num_states)), ("rewards", np.float64, size[1:])]
        tasks = np.empty(num_tasks, dtype=fields)
        weights = rng.standard_exponential((*size, self.num_states))  # normalised exponentials are Dirichlet(1, ..., 1)
        tasks["transitions"] = weights / weights.sum(axis=-1, keepdims=True)
        tasks["rewards"] = 1 + rng.standard_normal(size)
        return tasks

    def _check_tasks(self, tasks):
        transitions, rewards = tasks["transitions"], tasks["rewards"]
        size = (self.num_states, self.num_actions)
        if transitions.shape[1:] != (*size, self.num_states) or rewards.shape[1:] != size:
            sizes = f"{transitions.shape[1:]} and {rewards.shape[1:]}"
            raise UsageError(f"tasks must hold tables of {(*size, self.num_states)} and {size}, got {sizes}.")
        if not ((transitions >= 0).all() and np.allclose(transitions.sum(axis=-1), 1) and np.isfinite(rewards).all()):
            raise UsageError("tasks must hold transition probabilities that sum to 1 and finite mean rewards.")

    def _set_tasks(self, tasks):
        num_rows = self.num_envs * self.num_states * self.num_actions
        # P(s' <= j | s, a) for j < S-1, one row of float32 per (n, s, a): the next state is the number of entries <= u.
        self._cumulative = tasks["transitions"].cumsum(axis=-1, dtype=np.float64)[..., :-1].astype(np.float32)
        self._cumulative = self._cumulative.reshape(num_rows, self.num_states - 1)
        self._mean_reward = np.ascontiguousarray(tasks["rewards"]).ravel()
        self.optimum, self._regret = plan(tasks["transitions"], tasks["rewards"], self.horizon)
        self._regret = self._regret.reshape(self.horizon, num_rows)

    def expected_optimum(self, num_tasks=100_000):
        """Expected return of an episode for who knows the task, V*(state 0), and its standard error."""
        rng = np.random.default_rng(0)
        batches = (self._draw(1000, rng) for _ in range(0, num_tasks, 1000))
        values = np.concatenate([plan(tasks["transitions"], tasks["rewards"], self.horizon)[0] for tasks in batches])
        return float(values.mean()), float(values.std() / len(values) ** 0.5)

    def _start(self, mask):
        self._state[mask] = 0

    def _observe(self):
        return self._state.copy()

    def _advance(self, actions):
        row = self._first + self._state * self.num_actions + actions  # of (n, s, a), [N]
        reward = self._mean_reward.take(row) + self.np_random.standard_normal(self.num_envs)
        # All sub-environments start together and end at the horizon, hence share the time; `_steps` is a vector all
        # the same, because the base class cannot know that.
        regret = self._regret[self._steps[0]].take(row)
        u = self.np_random.random((self.num_envs, 1), dtype=np.float32)
        self._state = np.count_nonzero(self._cumulative.take(row, axis=0) <= u, axis=1)
        return reward, np.zeros(self.num_envs, dtype=bool), {"regret": regret}


def plan(transitions, rewards, horizon):
    """Value iteration for a batch of MDPs over `horizon` steps, O(horizon * N * S^2 * A).

    `transitions` [N, S, A, S], `rewards` [N, S, A]. Returns V* of the whole episode in state 0 [N], and the regret
    V*_t(s) - Q*_t(s, a) [horizon, N, S, A] (float32) of action a in state s with t steps of the episode behind.
    """
    num_tasks, num_states, num_actions, _ = transitions.shape
    flat = np.ascontiguousarray(transitions).reshape(num_tasks, num_states * num_actions, num_states)
    value = np.zeros((num_tasks, num_states))
    regret = np.empty((horizon, *rewards.shape), dtype=np.float32)
    for t in reversed(range(horizon)):
        q = rewards + np.matmul(flat, value[:, :, None]).reshape(rewards.shape)  # Bellman's equation, [N, S, A]
        value = q.max(axis=2)
        regret[t] = value[:, :, None] - q
    return value[:, 0], regret


class Navigation2D(TaskVectorEnv):
    """Point robot in the plane (Finn et al., section 5.3): a task is a goal, U[-0.5, 0.5] in each coordinate.

    An action is a velocity, clipped to [-0.1, 0.1]; a step pays minus the distance to the goal after it (as the paper's
    code; its text says squared). An episode starts at the origin and ends within 0.01 of the goal in both coordinates,
    or after `horizon` steps. Tasks: float array [num_tasks, 2].
    """

    def __init__(self, num_envs=1, horizon=100, observe_task=False):
        everywhere, speed = Box(-np.inf, np.inf, (2,), np.float32), Box(-0.1, 0.1, (2,), np.float32)
        super().__init__(num_envs, horizon, everywhere, speed, observe_task)
        self._position = np.zeros((num_envs, 2))

    def _draw(self, num_tasks, rng):
        return rng.uniform(-0.5, 0.5, (num_tasks, 2))

    def _check_tasks(self, tasks):
        if not np.isfinite(tasks).all():
            raise UsageError("tasks must be goals with finite coordinates.")

    def _start(self, mask):
        self._position[mask] = 0.0

    def _observe(self):
        return self._position.astype(np.float32)

    def _advance(self, actions):
        self._position += actions
        offset = self._position - self.tasks  # [N, 2]
        near = np.abs(offset) < 0.01
        return -np.hypot(offset[:, 0], offset[:, 1]), near[:, 0] & near[:, 1], {}


class Locomotion(TaskVectorEnv):
    """Gymnasium's HalfCheetah-v5 or Ant-v5, rewarded for what the task says (Finn et al., section 5.3).

    `body` is "HalfCheetah" or "Ant". A task is a direction along x, -1 or 1 (`goal` "Dir"), a velocity along x, U[0, 2]
    m/s for the HalfCheetah and U[0, 3] for the Ant ("Vel"), or a position, U[-3, 3]^2 m ("Goal"): float array
    [num_tasks], for positions [num_tasks, 2]. A step is 0.05 s of MuJoCo. An episode ends after `horizon` steps, the
    Ant's also when its height leaves [0.2, 1.0] m. Rewards are those of the paper's code. `info["x_velocity"]` [N] is
    in m/s. Simulations are spread over the processor's cores by mjbatch: a step costs O(N / cores).
    """

    def __init__(self, body, goal, num_envs=1, horizon=200, observe_task=False):
        import mjbatch  # here, because it takes half a second
        import mujoco

        assets = Path(gym.__file__).parent / "envs/mujoco/assets"
        spec = mujoco.MjSpec.from_file(f"{assets}/{'ant' if body == 'Ant' else 'half_cheetah'}.xml")
        if body == "Ant":  # MuJoCo computes contact forces only where a sensor depends on them
            spec.add_sensor(type=mujoco.mjtSensor.mjSENS_FRAMELINACC, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")
        model = spec.compile()
        self.body, self.goal, self._model = body, goal, model
        self._hidden = 2 if body == "Ant" else 1  # coordinates of the position, which is not observed
        observed = Box(-np.inf, np.inf, (model.nq - self._hidden + model.nv,), np.float64)
        super().__init__(num_envs, horizon, observed, Box(*np.float32(model.actuator_ctrlrange.T)), observe_task)
        self._simulations = mjbatch.Batch(model, num_envs)
        names = ("qpos", "qvel", "ctrl", "xpos", "cfrc_ext")
        self._qpos, self._qvel, self._ctrl, xpos, self._contact_forces = map(self._simulations.bind, names)
        # Gymnasium takes the Ant's position from its torso, which MuJoCo updates one physics step late.
        self._position = xpos[:, 1, :2] if body == "Ant" else self._qpos[:, :1]

    def _draw(self, num_tasks, rng):
        if self.goal == "Goal":
            return rng.uniform(-3, 3, (num_tasks, 2))
        fastest = 3 if self.body == "Ant" else 2
        return rng.choice([-1.0, 1.0], num_tasks) if self.goal == "Dir" else rng.uniform(0, fastest, num_tasks)

    def _check_tasks(self, tasks):
        if not np.isfinite(tasks).all() or (self.goal == "Dir" and not np.isin(tasks, (-1, 1)).all()):
            raise UsageError(f"tasks must be {'directions, -1 or 1' if self.goal == 'Dir' else 'finite numbers'}.")

    def _start(self, mask):
        count, rng = mask.sum(), self.np_random
        self._qpos[mask] = self._model.qpos0 + rng.uniform(-0.1, 0.1, (count, self._model.nq))
        self._qvel[mask] = 0.1 * rng.standard_normal((count, self._model.nv))
        self._simulations.reset(mask)

    def _observe(self):
        return np.concatenate([self._qpos[:, self._hidden :], self._qvel], axis=1)

    def _advance(self, actions):
        before = self._position[:, 0].copy()
        self._ctrl[:] = actions
        self._simulations.step(nstep=5)
        velocity = (self._position[:, 0] - before) / (5 * self._model.opt.timestep)  # [N]
        if self.goal == "Dir":
            reward = self.tasks * velocity
        elif self.goal == "Vel":
            reward = (self.body == "Ant") - np.abs(velocity - self.tasks)
        else:
            reward = 4 - np.abs(self._position - self.tasks).sum(axis=1)
        reward -= (0.005 if self.body == "Ant" else 0.05) * (actions**2).sum(axis=1)
        terminated = np.zeros(self.num_envs, dtype=bool)
        if self.body == "Ant":
            reward += 0.05 - 0.0005 * (self._contact_forces.clip(-1, 1) ** 2).sum(axis=(1, 2))
            finite = np.isfinite(self._qpos).all(axis=1) & np.isfinite(self._qvel).all(axis=1)
            terminated = ~(finite & (self._qpos[:, 2] >= 0.2) & (self._qpos[:, 2] <= 1.0))
        return reward, terminated, {"x_velocity": velocity}


class KeepTask(gym.Wrapper):
    """Hands a single environment its task at every reset, the automatic ones included."""

    task = None

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options={"task": self.task})


class BatchedTasks(gym.vector.VectorWrapper):
    """Ordinary single environments with `sample_task(rng)` and `reset(options={"task": task})` as a task batch."""

    def __init__(self, env_id, num_envs, vectorization_mode="sync", **kwargs):
        options = {"vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}, "wrappers": [KeepTask]}
        super().__init__(gym.make_vec(env_id, num_envs, vectorization_mode, **options, **kwargs))
        self._example, self._rng = gym.make(env_id, **kwargs), np.random.default_rng()
        self.horizon, self.tasks, self._tasks_named = self._example.spec.max_episode_steps, None, False
        if not hasattr(self._example.unwrapped, "sample_task"):
            raise UsageError(f"{env_id} needs a method sample_task(rng) that draws a task, to serve as a distribution.")
        if self.horizon is None:
            raise UsageError(f"{env_id} needs a time limit: register it with max_episode_steps.")

    def sample_tasks(self, num_tasks, rng=None):
        """As `TaskVectorEnv.sample_tasks`."""
        rng = self._rng if rng is None else rng
        return np.stack([self._example.unwrapped.sample_task(rng) for _ in range(num_tasks)])

    def reset(self, *, seed=None, options=None):
        """As `TaskVectorEnv.reset`; sub-environment i is seeded with seed + i."""
        if options is not None and set(options) - {"tasks"}:
            raise UsageError(f"reset knows the option 'tasks', got {sorted(set(options) - {'tasks'})}.")
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        if options is not None and "tasks" in options:
            if len(options["tasks"]) != self.num_envs:
                raise UsageError(f"tasks must number {self.num_envs}, one per sub-environment.")
            self.tasks, self._tasks_named = np.asarray(options["tasks"]), True
        elif self.tasks is None or (seed is not None and not self._tasks_named):
            self.tasks = self.sample_tasks(self.num_envs)
        self.env.set_attr("task", list(self.tasks))
        return self.env.reset(seed=seed)

    def step(self, actions):
        """As `TaskVectorEnv.step`: `info["regret"]` is that of the step taken, where an episode ended too."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        if "regret" in (final := info.get("final_info", {})):
            info["regret"] = np.where(info["_final_info"], final["regret"], info.get("regret", 0.0))
        return obs, reward, terminated, truncated, info

    def close(self, **kwargs):
        """Closes the batch and the example that draws the tasks."""
        self._example.close()
        return self.env.close(**kwargs)


def make(env_id, num_envs=1, **kwargs):
    """A `VectorEnv` of `num_envs` tasks with `horizon`, `sample_tasks` and `reset(options={"tasks": tasks})`.

    `env_id` is one of this module's ids or, for a task of your own, `package.module:MyTask-v0` (gymnasium's form): a
    registered vector environment with the methods above, or an ordinary `gymnasium.Env` with `sample_task(rng)` and
    `reset(options={"task": task})`. `kwargs` go to its constructor. Raises UsageError, a ValueError.
    """
    check_positive(num_envs=num_envs)
    try:
        module, _, name = env_id.rpartition(":")
        if module:
            __import__(module)
        spec = gym.spec(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"Cannot import the module of environment {env_id!r}: {error}.") from None
    except gym.error.Error:
        known = ", ".join(ENVIRONMENTS)
        raise UsageError(f"Unknown environment {env_id!r}: use one of {known}, or your own as module:id.") from None
    try:
        if spec.vector_entry_point is None:
            env = BatchedTasks(name, num_envs, **kwargs)
        else:
            env = gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    except TypeError as error:
        if "argument" not in str(error):  # not about the arguments: a fault of the environment's own
            raise
        raise UsageError(f"{env_id} does not take these arguments: {error}.") from None
    if not hasattr(env, "sample_tasks"):
        raise UsageError(f"{env_id} needs a method sample_tasks(num_tasks, rng), to serve as a task distribution.")
    for name, space in (("observations", env.single_observation_space), ("actions", env.single_action_space)):
        if not isinstance(space, Discrete) and not (isinstance(space, Box) and len(space.shape) == 1):
            raise UsageError(f"{env_id} has {name} {space}: they must be Discrete or a Box with one axis.")
        if isinstance(space, Discrete) and space.start != 0:
            raise UsageError(f"{env_id} has {name} {space}: they must be numbered from 0.")
    if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        raise UsageError(f"{env_id} must reset its sub-environments in the step that ends their episode (SAME_STEP).")
    return env


def check_arguments(args):
    """Raises UsageError, one sentence, for a number in a script's `Args` dataclass that is out of range."""
    may_be_zero = "seed eval_seed gamma gamma_start gae_lambda ent_coef vf_coef num_inner_steps cg_damping".split()
    for name, number in vars(args).items():
        numbers = [n for n in (number if isinstance(number, tuple) else [number]) if type(n) in (int, float)]
        if not all(0 < n < np.inf or (n == 0 and name in may_be_zero) for n in numbers):
            raise UsageError(f"{name} must be {'at least' if name in may_be_zero else 'above'} 0, got {number}.")
        if name in ("gamma", "gamma_start", "gae_lambda", "ramp_fraction", "fisher_fraction") and (number or 0) > 1:
            raise UsageError(f"{name} must not exceed 1, got {number}.")
    if getattr(args, "gamma_start", None) is not None and args.gamma == 1:
        raise UsageError("gamma must be below 1 where gamma_start is given: the steps looked ahead must be finite.")
    if {"env_id", "num_envs"} & set(args.env_kwargs):
        raise UsageError("env_kwargs cannot hold env_id or num_envs: they have arguments of their own.")
    if args.eval_trials < 2:
        raise UsageError("eval_trials must be at least 2: a standard error takes two trials.")
    if args.track and importlib.util.find_spec("wandb") is None:
        raise UsageError("track needs the package wandb: install it with pip install wandb.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("This script runs in one process: start it with python, not with torchrun.")
    if getattr(args, "num_minibatches", 0) > getattr(args, "num_envs", 0):
        raise UsageError(f"num_minibatches ({args.num_minibatches}) must not exceed num_envs ({args.num_envs}).")


ENVIRONMENTS = {"Bandit-v0": Bandit, "TabularMDP-v0": TabularMDP, "Navigation2D-v0": Navigation2D}
for _body, _goal in (("HalfCheetah", "Dir"), ("HalfCheetah", "Vel"), ("Ant", "Dir"), ("Ant", "Vel"), ("Ant", "Goal")):
    ENVIRONMENTS[f"{_body}{_goal}-v0"] = partial(Locomotion, _body, _goal)
for _id, _class in ENVIRONMENTS.items():
    gym.register(_id, vector_entry_point=_class)
