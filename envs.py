"""Task distributions of the meta-reinforcement-learning papers, stepped as one batch in numpy and MuJoCo.

A *task* is one member of a distribution: the arm means of a bandit, the tables of an MDP, a goal. In the
`gymnasium.vector.VectorEnv` of `make` each sub-environment holds one task until a `reset` names others.
Sub-environments reset themselves in the step that ends their episode (`AutoresetMode.SAME_STEP`): the observation is
the first of the next one, `info["final_obs"]` the last of the one that ended, valid where `info["_final_obs"]` is true.
`info["regret"]` [N] is V*(s) - Q*(s, a) of the step just taken; `observe_task=True` appends the task to what is seen.

    Duan et al. (2016), RL^2, https://arxiv.org/abs/1611.02779, section 3.1 (bandits) and 3.2 (tabular MDPs)
    Finn et al. (2017), MAML, https://arxiv.org/abs/1703.03400, section 5.3 (navigation, locomotion)
"""

import os
import signal
import sys
import time
import traceback
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import tyro
from gymnasium.spaces import Box, Discrete, flatdim
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class UsageError(ValueError):
    """A mistake in what the user asked for, told in one sentence: what is wrong and what is allowed."""


def check_positive(**numbers):
    """Raises UsageError, one sentence, for a number that is not a positive whole one."""
    for name, value in numbers.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise UsageError(f"{name} must be a positive whole number, got {value!r}.")


def check_finite(tasks, **arrays):
    """Raises UsageError for the first sub-environment with a number that is not finite. `tasks` may be None."""
    for name, array in arrays.items():
        if not (finite := np.isfinite(array)).all():
            i = int((~finite).reshape(len(array), -1).any(axis=1).argmax())
            number, task = np.extract(~finite[i], array[i])[0], str(tasks if tasks is None else tasks[i])[:80].split()
            raise UsageError(f"{name} of sub-environment {i}, whose task is {' '.join(task)}, is {number}: not finite.")


def share(count):
    """This process's part of `count` tasks, as a slice: all of them, unless `torchrun` started several processes."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return slice(count * rank // processes, count * (rank + 1) // processes)


def total(x):
    """The sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(x := x.clone())
    return x


def gathered(x):
    """The rows of a tensor in all processes."""
    parts = [x] * (dist.get_world_size() if dist.is_initialized() else 1)
    if len(parts) > 1:
        dist.all_gather_object(parts, x.cpu())
    return torch.cat([part.to(x.device) for part in parts])


class TaskVectorEnv(VectorEnv):
    """A batch of N tasks, one per sub-environment, stepped together in O(N) numpy work. A subclass says what a task is
    (`_draw`, `_set_tasks`) and an episode (`_start`, `_advance`, `_observe`); the rest is here."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs, horizon, observation_space, action_space, observe_task=False):
        check_positive(num_envs=num_envs, horizon=horizon)
        self.num_envs, self.horizon, self.tasks, self._tasks_named = int(num_envs), int(horizon), None, False
        self._base_space, self.observe_task, shape = observation_space, observe_task, observation_space.shape or ()
        if observe_task not in (True, False):
            raise UsageError(f"observe_task must be True or False, got {observe_task!r}.")
        if observe_task:  # [one-hot or raw observation, task]
            size = flatdim(observation_space) + flatten_tasks(self._draw(1, np.random.default_rng(0))).shape[1]
            observation_space = Box(-np.inf, np.inf, (int(size),), np.float64)
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._steps = np.zeros(num_envs, dtype=np.int64)  # steps taken in the current episode, [N]
        self._state = np.zeros((num_envs, *shape), np.result_type(self._base_space.dtype, np.int64))

    def sample_tasks(self, num_tasks, rng=None):
        """A batch of `num_tasks` tasks, first axis the task, by the numpy Generator `rng` or the environment's own."""
        check_positive(num_tasks=num_tasks)
        return self._draw(int(num_tasks), self.np_random if rng is None else rng)

    def reset(self, *, seed=None, options=None):
        """Starts an episode everywhere: (observations, {}). `options={"tasks": tasks}` names the tasks, kept from then
        on; as long as none were named the environment draws its own, anew whenever it is seeded."""
        super().reset(seed=seed)
        if unknown := set(options or {}) - {"tasks"}:
            raise UsageError(f"reset knows the option 'tasks', got {sorted(unknown)}.")
        if options and "tasks" in options:
            tasks, example = np.array(options["tasks"]), self._draw(1, np.random.default_rng(0))
            right, given = ((self.num_envs, *example.shape[1:]), example.dtype.names), (tasks.shape, tasks.dtype.names)
            if given != right:
                raise UsageError("tasks must have shape {} and fields {}, got {} and {}.".format(*right, *given))
            tasks.dtype.kind == "f" and check_finite(tasks, task=tasks)
            self._set_tasks(tasks)
            self.tasks, self._tasks_named = tasks, True
        elif self.tasks is None or (seed is not None and not self._tasks_named):
            self.tasks = self._draw(self.num_envs, self.np_random)
            self._set_tasks(self.tasks)
        self._steps[:] = 0
        self._start(np.ones(self.num_envs, dtype=bool))
        return self._observation(), {}

    def step(self, actions):
        """Takes actions, one per sub-environment: (observations, rewards [N], terminated [N], truncated [N], info)."""
        if self.tasks is None:
            raise UsageError("Call reset() before the first step().")
        reward, terminated, info = self._advance(self._check_actions(actions))
        check_finite(self.tasks, reward=reward)
        self._steps += 1
        truncated = (self._steps >= self.horizon) & ~terminated
        if (done := terminated | truncated).any():
            info["final_obs"], info["_final_obs"] = self._observation(), done
            self._steps[done] = 0
            self._start(done)
        return self._observation(), reward, terminated, truncated, info

    def _set_tasks(self, tasks):
        """Raises UsageError for wrong tasks, and computes, once, what follows from them."""

    def _start(self, mask):
        """Begins an episode where `mask` [N] is true: at zero, unless a subclass says otherwise."""
        self._state[mask] = 0

    def _observe(self):
        return self._state.astype(self._base_space.dtype)  # a copy

    def _observation(self):
        obs = self._observe()
        check_finite(self.tasks, observation=obs)
        if not self.observe_task:
            return obs
        obs = np.eye(self._base_space.n)[obs] if isinstance(self._base_space, Discrete) else obs  # one-hot
        return np.concatenate([obs, flatten_tasks(self.tasks)], axis=1, dtype=np.float64)

    def _check_actions(self, actions):
        actions, space = np.asarray(actions), self.single_action_space
        if actions.shape != self.action_space.shape:
            raise UsageError(f"actions must have shape {self.action_space.shape}, got {actions.shape}.")
        if isinstance(space, Box):
            check_finite(self.tasks, action=actions)
            return actions.clip(space.low, space.high)  # as the papers' environments do: a policy may command more
        if actions.dtype.kind not in "iu" or (actions < 0).any() or (actions >= space.n).any():
            given = space.n - 1, actions.dtype, actions.min(), actions.max()
            raise UsageError("actions must be whole numbers in 0 .. {}, got {} from {} to {}.".format(*given))
        return actions


def flatten_tasks(tasks):
    """A batch of tasks as numbers, [num_tasks, size]: a structured array's fields side by side."""
    parts = [tasks] if tasks.dtype.names is None else [tasks[name] for name in tasks.dtype.names]
    return np.concatenate([part.reshape(len(tasks), -1) for part in parts], axis=1)


class Bandit(TaskVectorEnv):
    """Multi-armed bandit (Duan et al., section 3.1): a task is `num_arms` arm means, each U[0, 1]. An episode is one
    pull, which pays Bernoulli(mean of the arm). Tasks: float array [num_tasks, num_arms]."""

    def __init__(self, num_envs=1, num_arms=5, observe_task=False):
        check_positive(num_arms=num_arms, num_envs=num_envs)
        self.num_arms, self._row = int(num_arms), np.arange(num_envs) * num_arms  # where n's arms begin in a flat table
        super().__init__(num_envs, 1, Discrete(1), Discrete(num_arms), observe_task)

    def expected_optimum(self):
        """Expected return of an episode for who knows the task, and its standard error: E max of k U[0, 1], exact."""
        return self.num_arms / (self.num_arms + 1), 0.0

    def _draw(self, num_tasks, rng):
        return rng.random((num_tasks, self.num_arms))

    def _set_tasks(self, tasks):
        if not ((tasks >= 0) & (tasks <= 1)).all():
            raise UsageError("tasks must be arm means between 0 and 1.")
        self._best = tasks.max(axis=1)  # [N]

    def _advance(self, actions):
        mean = self.tasks.ravel().take(self._row + actions)  # [N]
        paid = self.np_random.random(self.num_envs) < mean
        return paid.astype(np.float64), np.ones(self.num_envs, dtype=bool), {"regret": self._best - mean}


class TabularMDP(TaskVectorEnv):
    """Random finite MDP (Duan et al., section 3.2): transitions Dirichlet(1, ..., 1), mean rewards Normal(1, 1).
    An episode is `horizon` steps from state 0; a step pays Normal(mean reward of state and action, 1). Tasks:
    structured array [num_tasks] with fields `transitions` [S, A, S] and `rewards` [S, A]."""

    def __init__(self, num_envs=1, num_states=10, num_actions=5, horizon=10, observe_task=False):
        check_positive(num_states=num_states, num_actions=num_actions)
        self.num_states, self.num_actions = int(num_states), int(num_actions)
        super().__init__(num_envs, horizon, Discrete(num_states), Discrete(num_actions), observe_task)
        self._first = np.arange(num_envs) * self.num_states * self.num_actions  # where n's rows begin in flat tables

    def _draw(self, num_tasks, rng):
        size = (num_tasks, self.num_states, self.num_actions)
        fields = [("transitions", np.float64, (*size[1:], self.num_states)), ("rewards", np.float64, size[1:])]
        tasks = np.empty(num_tasks, dtype=fields)
        weights = rng.standard_exponential((*size, self.num_states))  # normalised exponentials are Dirichlet(1, ..., 1)
        tasks["transitions"], tasks["rewards"] = weights / weights.sum(-1, keepdims=True), 1 + rng.standard_normal(size)
        return tasks

    def _set_tasks(self, tasks):
        p, rewards, size = tasks["transitions"], tasks["rewards"], (self.num_states, self.num_actions)
        right = p.shape[1:] == (*size, self.num_states) and rewards.shape[1:] == size
        if not (right and (p >= 0).all() and np.allclose(p.sum(-1), 1) and np.isfinite(rewards).all()):
            raise UsageError(f"tasks must hold probabilities [{size}, state] that sum to 1 and finite rewards {size}.")
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

    def _advance(self, actions):
        row = self._first + self._state * self.num_actions + actions  # of (n, s, a), [N]
        reward = self._mean_reward.take(row) + self.np_random.standard_normal(self.num_envs)
        regret = self._regret[self._steps[0]].take(row)  # all start together and end at the horizon: one time for all
        u = self.np_random.random((self.num_envs, 1), dtype=np.float32)
        self._state = np.count_nonzero(self._cumulative.take(row, axis=0) <= u, axis=1)
        return reward, np.zeros(self.num_envs, dtype=bool), {"regret": regret}


def plan(transitions, rewards, horizon):
    """Value iteration for MDPs, `transitions` [N, S, A, S] and `rewards` [N, S, A], O(horizon * N * S^2 * A): V* of the
    episode [N], and the regret V*_t(s) - Q*_t(s, a) [horizon, N, S, A] (float32) of action a in state s at time t."""
    flat = np.ascontiguousarray(transitions).reshape(len(rewards), -1, rewards.shape[1])  # [N, S A, S]
    value, regret = np.zeros(rewards.shape[:2]), np.empty((horizon, *rewards.shape), dtype=np.float32)
    for t in reversed(range(horizon)):
        q = rewards + np.matmul(flat, value[:, :, None]).reshape(rewards.shape)  # Bellman's equation, [N, S, A]
        value = q.max(axis=2)
        regret[t] = value[:, :, None] - q
    return value[:, 0], regret


class Navigation2D(TaskVectorEnv):
    """Point robot in the plane (Finn et al., section 5.3): a task is a goal, U[-0.5, 0.5] in each coordinate.
    An action is a velocity, clipped to [-0.1, 0.1]; a step pays minus the distance to the goal after it (the paper's
    text says squared, its code not). Episodes start at the origin and end within 0.01 of the goal in x and in y."""

    def __init__(self, num_envs=1, horizon=100, observe_task=False):
        everywhere, speed = Box(-np.inf, np.inf, (2,), np.float32), Box(-0.1, 0.1, (2,), np.float32)
        super().__init__(num_envs, horizon, everywhere, speed, observe_task)

    def _draw(self, num_tasks, rng):
        return rng.uniform(-0.5, 0.5, (num_tasks, 2))

    def _advance(self, actions):
        self._state += actions  # the position
        offset = self._state - self.tasks  # [N, 2]
        near = np.abs(offset) < 0.01
        return -np.hypot(offset[:, 0], offset[:, 1]), near[:, 0] & near[:, 1], {}


class Locomotion(TaskVectorEnv):
    """Gymnasium's HalfCheetah-v5 or Ant-v5, rewarded as in the code of Finn et al. (section 5.3) for what a task says:
    `goal` "Dir" a direction along x, -1 or 1, "Vel" a velocity along x, U[0, 2] m/s for the HalfCheetah, U[0, 3] for
    the Ant, float array [num_tasks], or "Goal" a position, U[-3, 3]^2 m, [num_tasks, 2]. With "Params" the way is
    forward and the body unknown: a task scales friction, masses, damping and motors, each by 1.5^U[-3, 3] (the range
    of Rothfuss et al. 2019, https://arxiv.org/abs/1810.06784), [num_tasks, 4]. A step is 0.05 s of MuJoCo, by mjbatch
    on all cores of the processor; the Ant's episode ends when its height leaves [0.2, 1.0] m."""

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
        bound = map(self._simulations.bind, ("qpos", "qvel", "ctrl", "xpos", "cfrc_ext"))
        self._qpos, self._qvel, self._ctrl, xpos, self._contact_forces = bound
        # Gymnasium takes the Ant's position from its torso, which MuJoCo updates one physics step late.
        self._position = xpos[:, 1, :2] if body == "Ant" else self._qpos[:, :1]

    def _draw(self, num_tasks, rng):
        if self.goal in ("Goal", "Params"):
            numbers = rng.uniform(-3, 3, (num_tasks, 2 if self.goal == "Goal" else 4))
            return numbers if self.goal == "Goal" else 1.5**numbers
        fastest = 3 if self.body == "Ant" else 2
        return rng.choice([-1.0, 1.0], num_tasks) if self.goal == "Dir" else rng.uniform(0, fastest, num_tasks)

    def _set_tasks(self, tasks):
        if not {"Dir": np.isin(tasks, (-1, 1)), "Params": tasks > 0}.get(self.goal, np.True_).all():
            raise UsageError(f"tasks must be {'directions, -1 or 1' if self.goal == 'Dir' else 'factors above 0'}.")
        if self.goal == "Params":
            names = "geom_friction", "body_mass", "body_inertia", "dof_damping", "actuator_gear"
            for name, factor in zip(names, tasks.T[[0, 1, 1, 2, 3]], strict=True):  # each simulation's own, [N, ...]
                self._simulations.expand(name).T[:] = getattr(self._model, name).T[..., None] * factor
            self._simulations.set_const()  # what MuJoCo derives from masses

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
        if self.goal == "Vel":
            reward = (self.body == "Ant") - np.abs(velocity - self.tasks)
        elif self.goal == "Goal":
            reward = 4 - np.abs(self._position - self.tasks).sum(axis=1)
        else:
            reward = velocity * (self.tasks if self.goal == "Dir" else 1)
        reward -= (0.005 if self.body == "Ant" else 0.05) * (actions**2).sum(axis=1)
        terminated = np.zeros(self.num_envs, dtype=bool)
        if self.body == "Ant":
            reward += 0.05 - 0.0005 * (self._contact_forces.clip(-1, 1) ** 2).sum(axis=(1, 2))
            terminated = (self._qpos[:, 2] < 0.2) | (self._qpos[:, 2] > 1.0)
        return reward, terminated, {"x_velocity": velocity}


class KeepTask(gym.Wrapper):
    """Hands a single environment its task at every reset, a level as the seed."""

    task, levels = None, False

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=int(self.task) if self.levels else seed, options={"task": self.task})


class BatchedTasks(TaskVectorEnv):
    """Ordinary single environments with `sample_task(rng)` and `reset(options={"task": task})` as a task batch, or with
    `levels` any environments whose `reset(seed=...)` draws a level: the task is the seed."""

    def __init__(self, env_id, num_envs, vectorization_mode="sync", levels=False, **kwargs):
        self._example, by_hand = gym.make(env_id, **kwargs), {"autoreset_mode": AutoresetMode.DISABLED}
        self.levels, horizon = levels, self._example.spec.max_episode_steps
        if not (horizon and levels in (True, False) and (levels or hasattr(self._example.unwrapped, "sample_task"))):
            raise UsageError(f"{env_id} needs a max_episode_steps, and sample_task(rng) or --env-kwargs levels True.")
        self._envs = envs = gym.make_vec(env_id, num_envs, vectorization_mode, by_hand, [KeepTask], **kwargs)
        envs.set_attr("levels", levels)
        super().__init__(num_envs, horizon, envs.single_observation_space, envs.single_action_space)

    def _draw(self, num_tasks, rng):
        if self.levels:
            return rng.integers(2**31, size=num_tasks)
        return np.stack([self._example.unwrapped.sample_task(rng) for _ in range(num_tasks)])

    def _set_tasks(self, tasks):
        self._envs.set_attr("task", list(tasks))

    def _start(self, mask):
        seed = int(self.np_random.integers(2**31))  # sub-environment i gets seed + i
        self._obs, _ = self._envs.reset(seed=seed, options={"reset_mask": mask})

    def _observe(self):
        return self._obs

    def _advance(self, actions):
        self._obs, reward, terminated, truncated, info = self._envs.step(actions)
        return reward, terminated | (truncated & (self._steps + 1 < self.horizon)), info

    def close_extras(self, **kwargs):
        self._example.close(), self._envs.close(**kwargs)


def guarded(env, name):
    """The `reset` or `step` of a user's own environment, which tells in a sentence what it raises or gives wrongly."""
    method, names = getattr(env, name), {"observation": env.observation_space.shape, "reward": (env.num_envs,)}

    def call(*args, **kwargs):
        try:
            result = method(*args, **kwargs)
        except UsageError:
            raise
        except Exception as error:
            file, line, *_ = traceback.extract_tb(error.__traceback__)[-1]
            raise UsageError(f"The environment's {name} raised {error!r} ({file}, line {line}).") from error
        for array, (part, shape) in zip(result[: 1 + (name == "step")], names.items(), strict=False):
            if np.shape(array) != shape:
                raise UsageError(f"The environment's {name} gave {part}s of shape {np.shape(array)}, not {shape}.")
            check_finite(getattr(env, "tasks", None), **{part: np.asarray(array)})
        return result

    return call


def make(env_id, num_envs=1, **kwargs):
    """A `VectorEnv` of `num_envs` tasks with `horizon`, `sample_tasks`, `reset(options={"tasks": tasks})`: one of this
    module or your own, `package.module:MyTask-v0`, a vector environment with those methods or an ordinary one with
    `sample_task(rng)` and `reset(options={"task": task})`. Its constructor takes `kwargs`. Raises UsageError."""
    module, _, name = env_id.rpartition(":")
    try:
        module and __import__(module)
        spec = gym.spec(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"Cannot import the module of environment {env_id!r}: {error}.") from None
    except gym.error.Error:
        raise UsageError(f"Unknown environment {env_id!r}: use {', '.join(ENVIRONMENTS)} or your module:id.") from None
    batch = partial(gym.make_vec, vectorization_mode="vector_entry_point") if spec.vector_entry_point else BatchedTasks
    try:
        env = batch(name, num_envs, **kwargs)
    except TypeError as error:
        if "argument" not in str(error):  # not about the arguments: a fault of the environment's own
            raise
        raise UsageError(f"{env_id} does not take these arguments: {error}.") from None
    for what, space in (("observations", env.single_observation_space), ("actions", env.single_action_space)):
        has_axis = isinstance(space, Box) and (len(space.shape) == 1 or (what == "observations" and space.shape))
        if not (space.start == 0 if isinstance(space, Discrete) else has_axis):
            raise UsageError(f"{env_id} has {what} {space}: use Discrete, numbered from 0, or Box (actions: one axis).")
    if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP or not hasattr(env, "sample_tasks"):
        raise UsageError(f"{env_id} needs the autoreset mode SAME_STEP and a method sample_tasks(num_tasks, rng).")
    if name not in ENVIRONMENTS:
        env.reset, env.step = guarded(env, "reset"), guarded(env, "step")
    return env


def check_arguments(args):
    """Raises UsageError, one sentence, for a number in a script's `Args` dataclass that is out of range."""
    may_be_zero = "seed eval_seed gamma gamma_start gae_lambda ent_coef vf_coef num_inner_steps cg_damping".split()
    at_most_one, wrong = "gamma gamma_start gae_lambda ramp_fraction fisher_fraction".split(), {}
    for name, number in vars(args).items():
        numbers = [n for n in (number if isinstance(number, tuple) else [number]) if type(n) in (int, float)]
        least = f"{name} must be {'at least' if name in may_be_zero else 'above'} 0, got {number}"
        wrong[least] = not all(0 < n < np.inf or (n == 0 and name in may_be_zero) for n in numbers)
        wrong[f"{name} must not exceed 1, got {number}"] = name in at_most_one and (number or 0) > 1
    start, tasks = vars(args).get("gamma_start"), vars(args).get("num_envs", vars(args).get("meta_batch_size"))
    parts = vars(args).get("num_minibatches", 1) * int(os.environ.get("WORLD_SIZE", 1))
    wrong |= {
        "gamma must be below 1 where gamma_start is given": start is not None and args.gamma == 1,
        "env_kwargs cannot hold env_id or num_envs: drop them": {"env_id", "num_envs"} & {*args.env_kwargs},
        "eval_trials must be at least 2: a standard error takes two trials": args.eval_trials < 2,
        "capture_video needs the folder benchmark beside the script": args.capture_video and not find_spec("benchmark"),
        "track needs the package wandb: pip install wandb": args.track and not find_spec("wandb"),
        f"num_minibatches times processes ({parts}) must not exceed the number of tasks ({tasks})": parts > tasks,
    }
    for sentence in (sentence for sentence, true in wrong.items() if true):
        raise UsageError(f"{sentence}.")


def run(Args, train, read_checkpoint):
    """Runs a script: its arguments, `train`, which finds the first Ctrl-C or SIGTERM in `signals`, and UsageErrors."""
    args, signals = tyro.cli(Args), []
    for number in (signal.SIGINT, signal.SIGTERM):  # the second one ends the process at once
        signal.signal(number, lambda number, _: (signals.append(number), signal.signal(number, signal.SIG_DFL)))
    if hasattr(os, "register_at_fork"):  # an asynchronous environment's processes end when they are told to
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if "LOCAL_RANK" in os.environ:  # of torchrun
        args.cuda and torch.cuda.is_available() and torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()
    try:
        if args.resume:  # the run's own arguments, where the command line has no others
            saved = read_checkpoint(args.resume)["args"]
            args = tyro.cli(Args, default=Args(**saved | {"env_kwargs": {}}))
            args.env_kwargs = args.env_kwargs or saved["env_kwargs"]
        check_arguments(args)
        if args.track and os.environ.get("RANK", "0") == "0":  # before TensorBoard, which it follows
            names = {"project": args.wandb_project_name, "entity": args.wandb_entity}
            names["name"] = f"{args.env_id}__{args.exp_name}__{args.seed}"
            __import__("wandb").init(**names, sync_tensorboard=True)
        train(args, signals)
    except (UsageError, OSError) as error:
        sys.exit(f"error: {error}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(1)  # gloo's threads give up their last tensors, which is fatal once Python shuts down


ENVIRONMENTS = {"Bandit-v0": Bandit, "TabularMDP-v0": TabularMDP, "Navigation2D-v0": Navigation2D}
for _body, _goals in {"HalfCheetah": ("Dir", "Vel", "Params"), "Ant": ("Dir", "Vel", "Goal")}.items():
    ENVIRONMENTS |= {f"{_body}{_goal}-v0": partial(Locomotion, _body, _goal) for _goal in _goals}
for _id, _class in ENVIRONMENTS.items():
    gym.register(_id, vector_entry_point=_class)
