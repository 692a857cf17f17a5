"""MAML-TRPO against independent computations.

These are loops over tasks, closed forms, and finite differences in float64.
"""

import json
import re
import traceback
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.distributions import Categorical, Independent, Normal, kl_divergence

import envs
import maml_trpo
from helpers import Lights, OneArray, record_scalars, spy_on
from maml_trpo import Args, Policy

KINDS = ["EarlyEnds-v0", "TabularMDP-v0"]  # a Gaussian and a categorical policy


class EarlyEnds(envs.Navigation2D):
    """Navigation in which every step may be an episode's last."""

    def _advance(self, actions):
        reward, terminated, info = super()._advance(actions)
        terminated |= self.np_random.random(self.num_envs) < 0.2
        return reward, terminated, info


class PaysTheTask(envs.Navigation2D):
    """Every step pays the first coordinate of the goal, whatever the policy does."""

    def _advance(self, actions):
        return self.tasks[:, 0].copy(), np.zeros(self.num_envs, dtype=bool), {}


class NoisyStart(gym.Env):
    """An ordinary environment: walk along a line, from a random place to the task's."""

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Box(-1, 1, (1,))
    faulty_step = None  # this one raises an error; steps of all sub-environments are counted
    steps = 0

    def sample_task(self, rng):
        return rng.uniform(-1, 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = options["task"]
        self.place = self.np_random.normal(size=1).astype(np.float32)
        return self.place, {}

    def step(self, action):
        if NoisyStart.steps == NoisyStart.faulty_step:
            raise ArithmeticError(f"the goal is {self.goal}")
        NoisyStart.steps += 1
        self.place = (self.place + 0.1 * action).astype(np.float32)
        return self.place, -float(abs(self.place[0] - self.goal)), False, False, {}


class Clock(Lights):
    """What is seen is the time in seconds, and something that never changes."""

    def _observe(self):
        return np.stack([1.7e9 + self._steps, np.full(self.num_envs, 3.0)], axis=1)


gym.register("Lights-v0", vector_entry_point=Lights)
gym.register("Clock-v0", vector_entry_point=Clock)
gym.register("EarlyEnds-v0", vector_entry_point=EarlyEnds)
gym.register("PaysTheTask-v0", vector_entry_point=PaysTheTask)
gym.register("NoisyStart-v0", entry_point=NoisyStart, max_episode_steps=6)


def double(dictionary):
    """The same tensors in float64, but for those that hold no floating-point numbers."""
    return {name: x.double() if x.is_floating_point() else x for name, x in dictionary.items()}


def part(dictionary, start, stop):
    """The tensors of some tasks."""
    return {name: x[start:stop] for name, x in dictionary.items()}


def make(
    env_id,
    num_tasks=3,
    episodes=4,
    horizon=6,
    hidden_size=6,
    num_inner_steps=1,
    seed=0,
    **kwargs,
):
    """A policy, random parameters and the batches of a trial, all in float64."""
    args = Args(
        env_id=env_id,
        meta_batch_size=num_tasks,
        episodes_per_task=episodes,
        num_inner_steps=num_inner_steps,
        hidden_size=hidden_size,
        fisher_fraction=1.0,
        **kwargs,
    )
    env = envs.make(env_id, num_tasks * episodes, horizon=horizon)
    policy = Policy(env, args)
    torch.manual_seed(seed)
    params = {}
    for name, param in policy.initial_params().items():
        params[name] = param + 0.5 * torch.randn_like(param).abs()
    tasks = env.sample_tasks(num_tasks, seed)
    batches = maml_trpo.trial(policy, params, env, tasks, num_inner_steps, seed, args)
    return policy, double(params), [double(batch) for batch in batches], args


def untrained(env_id, num_envs, **kwargs):
    """An environment, a policy for it, and its first parameters."""
    env = envs.make(env_id, num_envs)
    policy = Policy(env, Args(hidden_size=4, **kwargs))
    torch.manual_seed(0)
    return env, policy, policy.initial_params()


def of_each_task(params, scale):
    """Parameters of three tasks, all of them different."""
    each = {}
    for name, param in params.items():
        each[name] = param + scale * torch.randn(3, *param.shape[1:], dtype=param.dtype)
    return each


# ----------------------------------------------- by hand: one task, plain loops, no library


def hand_outputs(params, obs):
    """The network of one task, [B, obs] to [B, out]."""
    h = obs
    for i in range(3):
        h = h @ params[f"weight_{i}"][0] + params[f"bias_{i}"][0]
        if i < 2:
            h = torch.where(h > 0, h, 0.0)
    return h


def hand_log_prob(params, obs, action, scale=1.0):
    """The log-probabilities [B] of one task's actions."""
    out = hand_outputs(params, obs)
    if "log_std" not in params:
        logits = out - torch.logsumexp(out, 1, keepdim=True)
        return logits[torch.arange(len(out)), action.long()]
    mean = scale * out
    std = scale * params["log_std"][0].exp()
    log_density = -0.5 * ((action - mean) / std) ** 2 - std.log() - 0.5 * np.log(2 * np.pi)
    return log_density.sum(1)


def hand_surrogate(params, batch, i):
    """Mean of ratio times advantage over the valid steps of task i."""
    valid = batch["valid"][i]
    log_prob = hand_log_prob(params, batch["obs"][i][valid], batch["action"][i][valid])
    ratio = (log_prob - batch["log_prob"][i][valid]).exp()
    return (ratio * batch["advantage"][i][valid]).mean()


def hand_adapted(params, batches, i, lr):
    """Task i's parameters after one step on each of the batches."""
    for batch in batches:
        gradient = torch.func.grad(hand_surrogate)(params, batch, i)
        params = {name: param + lr * gradient[name] for name, param in params.items()}
    return params


def hand_objective(theta, params, batches, args):
    """The meta-objective at a flat vector, task by task."""
    params = maml_trpo.unflatten(theta, params)
    total = 0.0
    for i in range(args.meta_batch_size):
        adapted = hand_adapted(params, batches[:-1], i, args.inner_lr)
        total += hand_surrogate(adapted, batches[-1], i)
    return total / args.meta_batch_size


def flat(params):
    return torch.cat([param.reshape(-1) for param in params.values()])


def meta_gradient(policy, params, batches, args):
    theta = flat(params).requires_grad_()
    start = maml_trpo.unflatten(theta, params)
    outputs = maml_trpo.adapted_outputs(policy, start, batches, args)
    value = maml_trpo.surrogate(policy.distribution(*outputs), batches[-1]).mean()
    (gradient,) = torch.autograd.grad(value, theta)
    return gradient


def differences(function, theta, epsilon=1e-6):
    """The derivatives of a function along each coordinate, by central differences."""
    columns = []
    for j in range(len(theta)):
        step = torch.zeros_like(theta)
        step[j] = epsilon
        columns.append((function(theta + step) - function(theta - step)) / (2 * epsilon))
    return torch.stack(columns, dim=-1)


# ------------------------------------------------------------------------- policy, rollout


@pytest.mark.parametrize("env_id", KINDS)
def test_each_tasks_parameters_serve_its_own_observations(env_id):
    policy, params, batches, _ = make(env_id)
    torch.manual_seed(1)
    each = of_each_task(params, 1.0)
    obs = batches[0]["obs"].flatten(1, 2)
    action = batches[0]["action"].flatten(1, 2)
    outputs = policy.outputs(each, obs)
    log_prob = policy.distribution(*outputs).log_prob(action)
    for i in range(3):
        one = part(each, i, i + 1)
        torch.testing.assert_close(outputs[0][i], hand_outputs(one, obs[i]))
        torch.testing.assert_close(log_prob[i], hand_log_prob(one, obs[i], action[i]))


@pytest.mark.parametrize(
    "env_id, scale",
    [
        ("EarlyEnds-v0", 1.0),
        ("EarlyEnds-v0", 0.3),
        ("TabularMDP-v0", 1.0),
        ("Bandit-v0", 1.0),
        ("HalfCheetahVel-v0", 1.0),
    ],
)
def test_rollout_is_what_the_environment_says(env_id, scale):
    """The same actions again, step by step: four episodes of each task, masked after their ends."""
    kwargs = {"horizon": 8}
    if env_id == "Bandit-v0":
        kwargs = {}
    env = envs.make(env_id, 3 * 4, **kwargs)
    policy = Policy(env, Args(hidden_size=4, action_scale=scale))
    torch.manual_seed(0)
    each = of_each_task(policy.initial_params(), 0.1)
    tasks = env.sample_tasks(3, 0)
    batch = maml_trpo.rollout(policy, each, env, tasks, seed=5)

    repeated = tasks[[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]
    obs, _ = env.reset(seed=5, options={"tasks": repeated})
    alive = np.ones(12, dtype=bool)
    returns = np.zeros(12)
    for t in range(batch["obs"].shape[2]):
        rows = {}
        for name in ("obs", "action", "reward", "valid"):
            rows[name] = batch[name][:, :, t].flatten(0, 1).numpy()
        if obs.ndim == 1:
            obs = np.eye(policy.obs_size)[obs]
        np.testing.assert_allclose(rows["obs"], obs, atol=1e-5)
        np.testing.assert_array_equal(rows["valid"], alive)
        for i in range(3):
            one = part(each, i, i + 1)
            action = batch["action"][i, :, t]
            by_hand = hand_log_prob(one, batch["obs"][i, :, t], action, scale)
            log_prob = batch["log_prob"][i, :, t]
            torch.testing.assert_close(log_prob, by_hand, atol=1e-5, rtol=1e-5)
        obs, reward, terminated, truncated, _ = env.step(rows["action"])
        np.testing.assert_allclose(rows["reward"], reward, atol=1e-5)
        returns += reward * alive
        alive &= ~(terminated | truncated)
    assert not alive.any()
    np.testing.assert_allclose(batch["return"].flatten().numpy(), returns, atol=1e-4)
    if env_id == "EarlyEnds-v0":
        lengths = batch["valid"].sum(2)
        assert lengths.min() < lengths.max() <= 8  # some ended early


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_action_scale_is_the_standard_deviation_of_the_first_actions(scale):
    """Means are multiples of it, too: the policy is the same one in other units."""
    env, policy, params = untrained("Navigation2D-v0", 4000, action_scale=scale)
    batch = maml_trpo.rollout(policy, params, env, env.sample_tasks(2, 0), 0)
    # At the origin the network gives zeros, so that these are the actions' deviations.
    first = batch["action"][:, :, 0].flatten(0, 1)
    torch.testing.assert_close(first.std(0), torch.full((2,), scale), atol=0, rtol=0.04)
    obs = torch.randn(1, 5, 2)
    distribution = policy.distribution(*policy.outputs(params, obs))
    torch.testing.assert_close(distribution.mean[0], scale * hand_outputs(params, obs[0]))
    torch.testing.assert_close(distribution.stddev[0], torch.full((5, 2), scale))


# -------------------------------------------------------------------- baseline, advantages


def test_discounted_sums_by_double_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, dtype=torch.float64, generator=generator)
    by_hand = torch.zeros_like(x)
    for t in range(7):
        for k in range(t, 7):
            by_hand[..., t] += 0.9 ** (k - t) * x[..., k]
    torch.testing.assert_close(maml_trpo.discounted_sums(x, 0.9), by_hand)


@pytest.mark.parametrize("env_id", KINDS)
def test_baseline_is_least_squares_on_the_valid_steps(env_id):
    """numpy's least squares on what is collected episode by episode, with the same small ridge."""
    _, _, batches, _ = make(env_id, num_tasks=3, episodes=5, horizon=9)
    batch = batches[0]
    batch["obs"] = 30 * batch["obs"]  # the baseline clips what is farther than 10 from 0
    assert batch["obs"].abs().max() > 10
    values = maml_trpo.linear_baseline(batch, 0.9)
    for i in range(3):
        rows = []
        targets = []
        places = []
        for k in range(5):
            length = int(batch["valid"][i, k].sum())
            rewards = batch["reward"][i, k, :length].numpy()
            for t in range(length):
                o = np.clip(batch["obs"][i, k, t].numpy(), -10, 10)
                time = [t / 100, (t / 100) ** 2, (t / 100) ** 3, 1]
                rows.append(np.concatenate([o, o**2, time]))
                targets.append(sum(0.9 ** (s - t) * rewards[s] for s in range(t, length)))
                places.append((k, t))
        size = len(rows[0])
        # least squares with 1e-5 |w|^2
        ridge = np.concatenate([rows, np.sqrt(1e-5) * np.eye(size)])
        targets = np.concatenate([targets, np.zeros(size)])
        weights = np.linalg.lstsq(ridge, targets, rcond=None)[0]
        for (k, t), row in zip(places, rows, strict=True):
            assert abs(values[i, k, t].item() - row @ weights) < 1e-4
    assert (values[~batch["valid"]] == 0).all()


def test_baseline_with_constant_and_repeated_features():
    """As an Ant's contact forces are: 125 numbers, many of them zero, some of them twice."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(10, 20, 50, 125)).astype(np.float32)
    obs[..., :60] = 0
    obs[..., 60:80] = obs[..., 80:100]
    batch = {
        "obs": torch.tensor(obs),
        "reward": torch.tensor(rng.normal(size=(10, 20, 50)), dtype=torch.float32),
        "valid": torch.ones(10, 20, 50, dtype=torch.bool),
    }
    values = maml_trpo.linear_baseline(batch, 0.9).flatten(1).double().numpy()
    time = np.arange(50)[None, None, :, None] / 100
    time = np.broadcast_to(time, (10, 20, 50, 1))
    features = [obs, obs**2, time, time**2, time**3, np.ones_like(time)]
    features = np.concatenate(features, axis=3).reshape(10, 1000, -1).astype(np.float64)
    returns = maml_trpo.discounted_sums(batch["reward"].double(), 0.9).flatten(1).numpy()
    for i in range(10):
        weights = np.linalg.lstsq(features[i], returns[i], rcond=None)[0]
        # the ridge moves time^3 a little
        np.testing.assert_allclose(values[i], features[i] @ weights, atol=1e-2)


@pytest.mark.parametrize("gamma, gae_lambda", [(0.9, 0.8), (1.0, 1.0), (0.95, 0.0)])
def test_advantages_are_gae_per_episode_and_normalised_per_task(gamma, gae_lambda):
    _, _, batches, _ = make("EarlyEnds-v0", num_tasks=3, episodes=5, horizon=9)
    batch = batches[0]
    value = maml_trpo.linear_baseline(batch, gamma).double()
    advantage = maml_trpo.advantages(batch, gamma, gae_lambda)
    discount = gamma * gae_lambda
    for i in range(3):
        by_hand = []
        for k in range(5):
            length = int(batch["valid"][i, k].sum())
            v = [*value[i, k, :length].tolist(), 0.0]
            r = batch["reward"][i, k].tolist()
            delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
            for t in range(length):
                by_hand.append(sum(discount ** (s - t) * delta[s] for s in range(t, length)))
        by_hand = (np.array(by_hand) - np.mean(by_hand)) / np.std(by_hand)
        computed = advantage[i][batch["valid"][i]].numpy()
        np.testing.assert_allclose(computed, by_hand, atol=1e-4)
    ended = ~batch["valid"]
    assert ended.any()
    assert (advantage[ended] == 0).all()


# ------------------------------------------------------------ adaptation and meta-gradient


@pytest.mark.parametrize("env_id", KINDS)
def test_adaptation_is_the_policy_gradient_step_of_each_task(env_id):
    """The batch equals a loop over tasks, whose gradient is REINFORCE's: mean of A grad log pi."""
    policy, params, batches, args = make(env_id)
    batch = batches[0]
    adapted = maml_trpo.adapt(policy, params, batch, args)
    for i in range(3):
        valid = batch["valid"][i]
        obs = batch["obs"][i][valid]
        action = batch["action"][i][valid]
        advantage = batch["advantage"][i][valid]

        def reinforce(params, obs=obs, action=action, advantage=advantage):
            return (hand_log_prob(params, obs, action) * advantage).mean()

        gradient = torch.func.grad(reinforce)(params)
        for name, param in params.items():
            expected = param[0] + args.inner_lr * gradient[name][0]
            # up to the rollout's log-probabilities, which are of float32
            torch.testing.assert_close(adapted[name][i], expected, atol=1e-7, rtol=1e-5)


def test_adaptation_is_pure():
    policy, params, batches, args = make("EarlyEnds-v0")
    before = {name: param.clone() for name, param in params.items()}
    first = maml_trpo.adapt(policy, params, batches[0], args)
    second = maml_trpo.adapt(policy, params, batches[0], args)
    with torch.no_grad():
        third = maml_trpo.adapt(policy, params, batches[0], args)
    for name, param in params.items():
        assert torch.equal(param, before[name])
        assert not param.requires_grad
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], third[name])
        assert not torch.equal(first[name], param.expand_as(first[name]))


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
def test_meta_gradient_against_finite_differences(env_id, num_inner_steps):
    """Differences of the meta-objective by hand, task by task and parameter by parameter."""
    policy, params, batches, args = make(
        env_id, num_tasks=2, hidden_size=4, num_inner_steps=num_inner_steps, inner_lr=0.5
    )
    gradient = meta_gradient(policy, params, batches, args)

    def objective(theta):
        return hand_objective(theta, params, batches, args)

    expected = differences(objective, flat(params))
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-5)
    for name, numbers in maml_trpo.unflatten(gradient, params).items():
        assert numbers.abs().max() > 1e-5, name
    if num_inner_steps > 0:
        # The test would tell: without the second derivatives there is something else.
        args = replace(args, first_order=True)
        first_order = meta_gradient(policy, params, batches, args)
        assert (first_order - gradient).norm() > 0.01 * gradient.norm()


@pytest.mark.parametrize("num_inner_steps", [1, 2])
def test_first_order_is_the_adapted_policies_own_gradient(num_inner_steps):
    kwargs = {"num_inner_steps": num_inner_steps, "first_order": True}
    policy, params, batches, args = make("EarlyEnds-v0", **kwargs)
    gradient = meta_gradient(policy, params, batches, args)
    total = 0.0
    for i in range(3):
        adapted = hand_adapted(params, batches[:-1], i, args.inner_lr)
        total = total + flat(torch.func.grad(hand_surrogate)(adapted, batches[-1], i)) / 3
    torch.testing.assert_close(gradient, total)


def test_what_comes_after_an_episodes_end_changes_nothing():
    """Garbage there leaves baseline, advantages, adaptation, gradient and Fisher alone."""
    policy, params, batches, args = make("EarlyEnds-v0")
    spoilt = []
    for batch in batches:
        ended = ~batch["valid"]
        assert ended.any()
        copy = {name: x.clone() for name, x in batch.items()}
        copy["obs"][ended] = 7.0
        copy["action"][ended] = -3.0
        copy["log_prob"][ended] = 0.5
        copy["reward"][ended] = 100.0
        spoilt.append(copy)
        advantage = maml_trpo.advantages(copy, 0.99, 1.0)
        assert torch.equal(advantage, maml_trpo.advantages(batch, 0.99, 1.0))
    v = torch.randn(flat(params).shape, dtype=torch.float64)

    def fisher(policy, params, batches, args):
        return maml_trpo.fisher_vector_product(policy, params, batches, args)(v)

    def updated(policy, params, batches, args):
        return flat(maml_trpo.update(policy, params, batches, args)[0])

    for compute in (meta_gradient, fisher, updated):
        expected = compute(policy, params, batches, args)
        computed = compute(policy, params, spoilt, args)
        torch.testing.assert_close(computed, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("env_id", KINDS)
def test_no_tensor_is_made_on_another_device(env_id):
    """On the meta device a tensor that was made on the CPU would raise an error."""
    policy, params, batches, args = make(env_id)
    params = {name: param.float().to("meta") for name, param in params.items()}
    moved = []
    for batch in batches:
        copy = {}
        for name, x in batch.items():
            dtype = torch.float32 if x.dtype == torch.float64 else x.dtype
            copy[name] = x.to("meta", dtype)
        copy["advantage"] = maml_trpo.advantages(copy, 0.99, 0.9)
        moved.append(copy)
    assert maml_trpo.adapt(policy, params, moved[0], args)["bias_0"].is_meta
    product = maml_trpo.fisher_vector_product(policy, params, moved, args)
    size = sum(param.numel() for param in params.values())
    zeros = torch.zeros(size, device="meta")
    assert maml_trpo.conjugate_gradient(product, zeros, 3).is_meta
    assert meta_gradient(policy, params, moved, args).is_meta


# ------------------------------------------------------------------------------------ TRPO


def explicit_fisher(params, batches, args):
    """mean_i J_i^T F_i J_i, with J_i by finite differences.

    F_i, the Fisher matrix of the outputs, is in closed form.
    """
    theta = flat(params)
    total = 0.0
    for i in range(args.meta_batch_size):
        valid = batches[-1]["valid"][i]
        obs = batches[-1]["obs"][i][valid]

        def outputs(theta, i=i, obs=obs):
            start = maml_trpo.unflatten(theta, params)
            adapted = hand_adapted(start, batches[:-1], i, args.inner_lr)
            out = hand_outputs(adapted, obs).reshape(-1)
            if "log_std" not in params:
                return out
            return torch.cat([out, adapted["log_std"].reshape(-1)])

        jacobian = differences(outputs, theta)
        at = outputs(theta)
        if "log_std" in params:
            # Gaussian: 1 / sigma^2 for every mean, 2 for the log-deviation that all steps share
            size = params["log_std"].numel()
            precision = (-2 * at[-size:]).exp().repeat(len(obs)) / len(obs)
            twos = torch.full((size,), 2.0, dtype=torch.float64)
            fisher = torch.diag(torch.cat([precision, twos]))
        else:
            # categorical: diag(p) - p p^T for the logits of a step
            probs = at.view(len(obs), -1).softmax(1)
            blocks = [torch.diag(p) - torch.outer(p, p) for p in probs]
            fisher = torch.block_diag(*blocks) / len(obs)
        total = total + jacobian.T @ fisher @ jacobian / args.meta_batch_size
    return total


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
def test_fisher_vector_product_against_the_explicit_matrix(env_id, num_inner_steps):
    policy, params, batches, args = make(
        env_id,
        num_tasks=2,
        episodes=2,
        horizon=4,
        hidden_size=3,
        num_inner_steps=num_inner_steps,
        inner_lr=0.5,
        cg_damping=0.1,
    )
    product = maml_trpo.fisher_vector_product(policy, params, batches, args)
    matrix = explicit_fisher(params, batches, args) + 0.1 * torch.eye(len(flat(params)))
    generator = torch.Generator().manual_seed(0)
    for v in torch.randn(3, len(matrix), dtype=torch.float64, generator=generator):
        torch.testing.assert_close(product(v), matrix @ v, atol=1e-6, rtol=1e-5)


def test_fisher_is_estimated_on_the_first_episodes():
    policy, params, batches, args = make("EarlyEnds-v0", episodes=10)
    v = torch.randn(flat(params).shape, dtype=torch.float64)
    few = [{name: x[:, :3] for name, x in batch.items()} for batch in batches]
    expected = maml_trpo.fisher_vector_product(policy, params, few, args)(v)
    args = replace(args, fisher_fraction=0.21)  # 2.1 of 10 episodes: three
    computed = maml_trpo.fisher_vector_product(policy, params, batches, args)(v)
    torch.testing.assert_close(computed, expected)


def test_conjugate_gradient_against_a_direct_solve():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, dtype=torch.float64, generator=generator)
    matrix = root @ root.T + torch.eye(12)
    b = torch.randn(12, dtype=torch.float64, generator=generator)

    def product(v):
        return matrix @ v

    x = maml_trpo.conjugate_gradient(product, b, 50)  # it has converged long before
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), atol=1e-4, rtol=1e-4)
    # After three iterations it is the best of all combinations of b, A b and A A b.
    krylov = torch.stack([b, matrix @ b, matrix @ matrix @ b])
    expected = torch.linalg.solve(krylov @ matrix @ krylov.T, krylov @ b) @ krylov
    rough = maml_trpo.conjugate_gradient(product, b, 3)
    torch.testing.assert_close(rough, expected, atol=1e-8, rtol=1e-6)
    # Where it has converged exactly, or has nothing to do, further iterations do no harm.
    two = torch.tensor([1.0, -2.0]).double()
    x = maml_trpo.conjugate_gradient(lambda v: 2 * v, two, 10)
    torch.testing.assert_close(x, two / 2)
    assert (maml_trpo.conjugate_gradient(lambda v: 2 * v, 0 * two, 10) == 0).all()


def test_the_line_search_shortens_by_a_fifth_until_all_processes_together_accept(monkeypatch):
    """Single numbers are as if averaged with others': surrogate before, then both of each try."""
    policy, params, batches, args = make("EarlyEnds-v0")

    def search(*numbers):
        left = list(numbers)

        def average(x):
            return x if x.dim() else torch.tensor(left.pop(0))

        monkeypatch.setattr(maml_trpo, "average", average)
        new, logs = maml_trpo.update(policy, params, batches, args)
        assert left == []
        return flat(new) - flat(params), logs["losses/step_size"]

    near = 0.5 * args.max_kl
    far = 2 * args.max_kl
    full_step, size = search(0.0, 1.0, near)
    assert size == 1
    step, size = search(0.0, -1.0, near, 1.0, far, 1.0, near)  # worse, too far, good
    assert size == pytest.approx(0.64)
    torch.testing.assert_close(step, 0.64 * full_step)
    step, size = search(0.0, *[1.0, far] * 15)  # after 15 tries it gives up
    assert size == 0
    assert (step == 0).all()


def hand_distribution(params, batches, i, args):
    """The distribution of task i's adapted policy at the last batch's valid steps."""
    adapted = hand_adapted(params, batches[:-1], i, args.inner_lr)
    obs = batches[-1]["obs"][i][batches[-1]["valid"][i]]
    out = hand_outputs(adapted, obs)
    if "log_std" not in params:
        return Categorical(logits=out)
    return Independent(Normal(out, adapted["log_std"][0].exp()), 1)


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
def test_update_improves_the_surrogate_within_the_trust_region(env_id, num_inner_steps):
    """Surrogate and KL are computed again task by task."""
    kwargs = {"num_tasks": 23, "num_inner_steps": num_inner_steps, "episodes": 3}
    policy, params, batches, args = make(env_id, **kwargs)
    new, logs = maml_trpo.update(policy, params, batches, args)
    before = hand_objective(flat(params), params, batches, args)
    after = hand_objective(flat(new), params, batches, args)
    assert 0 < logs["losses/kl"] <= args.max_kl
    assert logs["losses/improvement"] > 0
    assert abs(before - logs["losses/surrogate"]) < 1e-9
    assert abs(after - before - logs["losses/improvement"]) < 1e-9
    gradient = meta_gradient(policy, params, batches, args)
    assert abs(gradient.norm().item() - logs["losses/gradient_norm"]) < 1e-9
    total = 0.0
    for i in range(23):
        old_distribution = hand_distribution(params, batches, i, args)
        new_distribution = hand_distribution(new, batches, i, args)
        total += kl_divergence(old_distribution, new_distribution).mean() / 23
    assert abs(total - logs["losses/kl"]) < 1e-9


def test_policies_that_are_sure_of_an_action_have_a_finite_kl():
    """The last of 5 actions has a probability of e^-103 / 4, then of e^-104.5 / 4.

    The least number above 0 in float32 is about e^-103.3.
    """
    policy, params, batches, args = make("TabularMDP-v0", num_inner_steps=0)
    params = {name: torch.zeros_like(param).float() for name, param in params.items()}
    batch = {name: x.float() if x.is_floating_point() else x for name, x in batches[0].items()}

    def distribution(last_bias):
        params["bias_2"][..., -1] = last_bias
        return policy.distribution(*maml_trpo.adapted_outputs(policy, params, [batch], args))

    # sum_a p log(p / q): of the other actions p and q are 1/4 (but for 1e-45), so their terms are 0
    p = np.exp(-103.0) / 4
    kl = kl_divergence(distribution(-103.0), distribution(-104.5))
    np.testing.assert_allclose(kl.numpy(), 1.5 * p, rtol=1e-6)


def test_the_full_step_is_the_natural_gradient_on_the_trust_regions_border():
    """With a Fisher matrix from all episodes: F x = g, scaled to a quadratic KL of max_kl."""
    policy, params, batches, args = make(
        "EarlyEnds-v0", num_tasks=2, max_kl=1e-8, cg_damping=1e-3, cg_iterations=99
    )
    new, logs = maml_trpo.update(policy, params, batches, args)
    matrix = explicit_fisher(params, batches, args) + 1e-3 * torch.eye(len(flat(params)))
    x = torch.linalg.solve(matrix, meta_gradient(policy, params, batches, args))
    full_step = (2 * args.max_kl / (x @ matrix @ x)).sqrt() * x
    assert logs["losses/step_size"] == 1
    tolerance = 1e-3 * full_step.abs().max().item()
    torch.testing.assert_close(flat(new) - flat(params), full_step, atol=tolerance, rtol=1e-2)


def test_a_rejected_step_leaves_the_parameters_untouched(monkeypatch):
    policy, params, batches, args = make("EarlyEnds-v0")
    before = {name: param.clone() for name, param in params.items()}
    original = maml_trpo.surrogate
    calls = []

    def ever_worse(*arguments):  # every value is below the one before
        calls.append(1)
        return original(*arguments) - len(calls)

    monkeypatch.setattr(maml_trpo, "surrogate", ever_worse)
    new, logs = maml_trpo.update(policy, params, batches, args)
    assert logs["losses/step_size"] == 0
    assert logs["losses/improvement"] == 0
    assert logs["losses/kl"] == 0
    for name in params:
        assert torch.equal(new[name], before[name])
        assert torch.equal(params[name], before[name])


def test_nothing_to_learn_leaves_the_parameters_untouched():
    policy, params, batches, args = make("EarlyEnds-v0")
    for batch in batches:
        batch["advantage"] = torch.zeros_like(batch["advantage"])
    new, logs = maml_trpo.update(policy, params, batches, args)
    assert logs["losses/step_size"] == 0
    assert np.isfinite(list(logs.values())).all()
    for name in params:
        assert torch.equal(new[name], params[name])


# --------------------------------------------------------------------- trials, evaluation


@pytest.mark.parametrize(
    "trained, settings, step_sizes",
    [
        (0, {}, [0.4, 0.2, 0.2]),
        (1, {}, [0.4, 0.2, 0.2]),
        (2, {}, [0.4, 0.4, 0.2]),
        (1, {"later_fraction": 0.1}, [0.4, 0.04, 0.04]),
    ],
)
def test_steps_that_training_did_not_know_are_a_fraction_as_long(trained, settings, step_sizes):
    env, policy, params = untrained("EarlyEnds-v0", 6)
    tasks = env.sample_tasks(2, 0)
    args = Args(num_inner_steps=trained, inner_lr=0.4, **settings)
    torch.manual_seed(1)
    batches = maml_trpo.trial(policy, params, env, tasks, 3, 7, args)
    assert len(batches) == 4
    torch.manual_seed(1)
    for i, batch in enumerate(batches):
        again = maml_trpo.rollout(policy, params, env, tasks, 7 + 6 * i)
        for name in again:
            assert torch.equal(again[name], batch[name])
        if i < 3:
            step = replace(args, inner_lr=step_sizes[i])
            params = maml_trpo.adapt(policy, params, batch, step)


@pytest.mark.parametrize("env_id", ["EarlyEnds-v0", "HalfCheetahVel-v0"])
def test_evaluation_on_named_tasks_equals_trials_by_hand(env_id):
    """One return per task, gradient step and episode; ten tasks at a time, then what is left."""
    args = Args(meta_batch_size=3, episodes_per_task=4, hidden_size=8, inner_lr=0.4)
    args = replace(args, gamma=0.9, gae_lambda=0.7)
    env_kwargs = {"horizon": 6}
    env = envs.make(env_id, 1, **env_kwargs)
    policy = Policy(env, args)
    torch.manual_seed(0)
    params = policy.initial_params()
    tasks = env.sample_tasks(13, 0)
    returns = maml_trpo.evaluate(policy, params, env_id, env_kwargs, tasks, 3, seed=5)
    assert returns.shape == (13, 4, 3)
    assert returns.dtype == np.float64
    for start, size in ((0, 10), (10, 3)):
        batch_env = envs.make(env_id, size * 3, **env_kwargs)
        seeds = np.random.SeedSequence([2, 5, start]).generate_state(2)
        torch.manual_seed(seeds[0])
        current = params
        for i in range(4):
            seed = int(seeds[1]) + i * size * 3
            named = tasks[start : start + size]
            batch = maml_trpo.rollout(policy, current, batch_env, named, seed)
            np.testing.assert_array_equal(returns[start : start + size, i], batch["return"])
            batch["advantage"] = maml_trpo.advantages(batch, args.gamma, args.gae_lambda)
            step = replace(args, inner_lr=0.4 if i == 0 else 0.2)
            current = maml_trpo.adapt(policy, current, batch, step)
    # Another seed has other episodes; what torch drew before changes nothing.
    torch.manual_seed(99)
    again = maml_trpo.evaluate(policy, params, env_id, env_kwargs, tasks, 3, seed=5)
    np.testing.assert_array_equal(again, returns)
    other = maml_trpo.evaluate(policy, params, env_id, env_kwargs, tasks, 3, seed=6)
    assert np.isin(other, returns).mean() < 0.1  # an episode may be one step, of the largest size


@pytest.mark.parametrize("num_episodes", [1, 4, 100])
def test_evaluation_keeps_the_order_of_the_tasks(num_episodes):
    args = Args(meta_batch_size=3, episodes_per_task=4, hidden_size=4)
    env = envs.make("PaysTheTask-v0", 1, horizon=5)
    policy = Policy(env, args)
    params = policy.initial_params()
    tasks = env.sample_tasks(14, 0)
    kwargs = {"horizon": 5}
    returns = maml_trpo.evaluate(policy, params, "PaysTheTask-v0", kwargs, tasks, num_episodes)
    assert returns.shape == (14, 4, num_episodes)
    expected = np.broadcast_to(5 * tasks[:, :1, None], returns.shape)
    np.testing.assert_allclose(returns, expected, rtol=1e-5)


# ------------------------------------------------------------------------------- training


def tiny(**kwargs):
    """The arguments of a run of a second."""
    arguments = {
        "env_kwargs": {"horizon": 6},
        "num_iterations": 4,
        "meta_batch_size": 3,
        "episodes_per_task": 4,
        "hidden_size": 8,
        "eval_trials": 5,
        "eval_episodes": 3,
        "cuda": False,
    }
    return Args(**(arguments | kwargs))


def only(pattern):
    """The one file or folder of that name in runs/."""
    (path,) = Path("runs").glob(pattern)
    return path


@pytest.mark.parametrize("env_id", ["Navigation2D-v0", "TabularMDP-v0", "HalfCheetahDir-v0"])
def test_a_run_writes_what_it_promises(in_tmp, env_id):
    args = tiny(env_id=env_id, num_iterations=2)
    result = maml_trpo.train(args)
    run = only(f"{env_id}__maml_trpo__1__*")
    names = {path.name for path in run.iterdir() if "events" not in path.name}
    assert names == {"args.json", "checkpoint.pt", "eval.json"}
    assert len(list(run.glob("events.*"))) == 1
    assert json.loads((run / "args.json").read_text()) == vars(args)
    assert json.loads((run / "eval.json").read_text()) == result
    assert vars(args).items() <= result.items()
    assert set(result) - set(vars(args)) == {
        "algorithm",
        "global_step",
        "wall_seconds",
        "return_by_task",
        "return_mean",
        "return_stderr",
        "return_by_episode",
        "return_by_episode_stderr",
        "return_by_gradient_step",
        "return_by_gradient_step_stderr",
    }
    assert result["algorithm"] == "maml_trpo"
    assert result["global_step"] == 2 * 2 * 3 * 4 * 6

    # What was saved earns what eval.json says.
    policy, params, args = maml_trpo.load(run / "checkpoint.pt")
    tasks = envs.make(env_id, 1, **args.env_kwargs).sample_tasks(5, [1, 0])
    returns = maml_trpo.evaluate(policy, params, env_id, args.env_kwargs, tasks, 3)
    assert result["return_mean"] == returns.reshape(5, 12).sum(1).mean()


def test_scores_are_means_and_standard_errors_over_held_out_tasks(in_tmp, monkeypatch):
    """The tasks are the same whatever the training seed, and others for another eval_seed."""
    calls = spy_on(monkeypatch, maml_trpo, "evaluate")
    result = maml_trpo.train(tiny(num_iterations=1, eval_trials=50))
    maml_trpo.train(tiny(num_iterations=1, eval_trials=50, seed=2))
    maml_trpo.train(tiny(num_iterations=1, eval_trials=50, eval_seed=3))
    tasks = [arguments[4] for arguments, _ in calls]
    held_out = envs.make("Navigation2D-v0").sample_tasks(50, [1, 0])
    np.testing.assert_array_equal(tasks[0], held_out)
    np.testing.assert_array_equal(tasks[1], held_out)
    assert not np.isin(tasks[2], held_out).any()

    returns = calls[0][1]
    assert returns.shape == (50, 4, 3)
    scores = {
        "return_by_gradient_step": returns.mean(2),
        "return_by_episode": returns.reshape(50, 12),
        "return": returns.sum((1, 2)),
    }
    for name, samples in scores.items():
        mean = result.get(name, result["return_mean"])
        np.testing.assert_allclose(mean, samples.mean(0))
        stderr = samples.std(0, ddof=1) / np.sqrt(50)
        np.testing.assert_allclose(result[f"{name}_stderr"], stderr)


def test_a_single_environment_of_ones_own_is_trained_on_fresh_episodes(in_tmp, monkeypatch):
    calls = spy_on(monkeypatch, maml_trpo, "rollout")
    result = maml_trpo.train(tiny(env_id="NoisyStart-v0", env_kwargs={}))
    training = []
    for _, batch in calls[:8]:  # four iterations of two batches
        training += batch["obs"][:, :, 0].flatten().tolist()
    assert len(training) == 8 * 3 * 4
    assert len(set(training)) == len(training)  # no episode starts where another did
    assert np.isfinite(result["return_by_gradient_step"]).all()


def test_a_fault_in_a_users_environment_keeps_its_type_and_gets_notes(in_tmp, monkeypatch):
    """It is in the second iteration: 2 batches of 6 steps of 12 sub-environments came before."""
    monkeypatch.setattr(NoisyStart, "steps", 0)
    monkeypatch.setattr(NoisyStart, "faulty_step", 2 * 6 * 12 + 3 * 12 + 7)
    with pytest.raises(ArithmeticError, match="the goal is") as caught:
        maml_trpo.train(tiny(env_id="NoisyStart-v0", env_kwargs={}))
    last = traceback.extract_tb(caught.tb)[-1]
    assert Path(last.filename).name == "test_maml_trpo.py"
    assert last.line.startswith('raise ArithmeticError(f"the goal is')
    goal = str(caught.value).removeprefix("the goal is ")
    assert caught.value.__notes__ == [
        f"In sub-environment 7, whose task is {goal}.",
        "Stopped. Iterations done: 1.",
        f"To go on: python maml_trpo.py --resume {only('*/checkpoint.pt')}",
    ]


def test_a_fault_in_the_first_iteration_leaves_no_folder(in_tmp, monkeypatch):
    monkeypatch.setattr(NoisyStart, "steps", 0)
    monkeypatch.setattr(NoisyStart, "faulty_step", 5)
    with pytest.raises(ArithmeticError) as caught:
        maml_trpo.train(tiny(env_id="NoisyStart-v0", env_kwargs={}))
    assert caught.value.__notes__[1:] == ["Stopped. Iterations done: 0."]
    assert list(in_tmp.iterdir()) == []


def test_parameters_that_adaptation_blows_up_are_told_about(in_tmp):
    args = tiny(env_id="TabularMDP-v0", inner_lr=1e38)
    with pytest.raises(envs.UsageError, match="policy is not finite: lower --inner-lr") as caught:
        maml_trpo.train(args)
    assert caught.value.__notes__ == ["Stopped. Iterations done: 0."]


def stop_in_iteration(monkeypatch, number):
    """A run is interrupted in that iteration."""
    original = maml_trpo.update
    calls = []

    def update(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(maml_trpo, "update", update)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"num_inner_steps": 2, "first_order": True},
        {"env_id": "HalfCheetahVel-v0"},
        {"norm_obs": True},
        {"env_id": "Clock-v0", "env_kwargs": {}, "norm_obs": True},
    ],
)
def test_stopped_and_resumed_equals_never_stopped(in_tmp, monkeypatch, kwargs):
    """A run that saves after every iteration is cut in the middle, and goes on to the same end."""
    args = tiny(checkpoint_seconds=1e-9, **kwargs)
    whole = maml_trpo.train(args)
    parameters = torch.load(only("*/checkpoint.pt"), weights_only=True)["agent"]
    cut = replace(args, exp_name="cut")
    with monkeypatch.context() as context:
        stop_in_iteration(context, 3)
        with pytest.raises(KeyboardInterrupt) as caught:
            maml_trpo.train(cut)
    checkpoint = only("*__cut__*/checkpoint.pt")
    assert caught.value.__notes__ == [
        "Stopped. Iterations done: 2.",
        f"To go on: python maml_trpo.py --resume {checkpoint}",
    ]
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 2
    resumed = maml_trpo.train(replace(cut, resume=str(checkpoint)))
    for name in set(whole) - {"wall_seconds", "exp_name", "resume"}:
        assert whole[name] == resumed[name], name
    agent = torch.load(checkpoint, weights_only=True)["agent"]
    assert agent.keys() == parameters.keys()
    for name, tensor in agent.items():
        assert torch.equal(tensor, parameters[name])


def test_the_checkpoint_is_written_after_the_first_iteration_and_then_by_the_clock(
    in_tmp, monkeypatch
):
    stop_in_iteration(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        maml_trpo.train(tiny(checkpoint_seconds=1000))
    assert torch.load(only("*/checkpoint.pt"), weights_only=True)["iteration"] == 1


def test_an_update_that_is_not_finite_stops_the_run_and_the_checkpoint_is_whole(
    in_tmp, monkeypatch
):
    original = maml_trpo.advantages
    calls = []

    def poisoned(*arguments):
        calls.append(1)
        factor = 1 if len(calls) <= 5 else torch.nan
        return original(*arguments) * factor

    monkeypatch.setattr(maml_trpo, "advantages", poisoned)
    words = "Not finite: .*'losses/gradient_norm': nan.* Lower --inner-lr"
    with pytest.raises(envs.UsageError, match=words) as caught:
        maml_trpo.train(tiny(checkpoint_seconds=1e-9))
    checkpoint = only("*/checkpoint.pt")
    assert caught.value.__notes__ == [
        "Stopped. Iterations done: 2.",
        f"To go on: python maml_trpo.py --resume {checkpoint}",
    ]
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["iteration"] == 2
    for tensor in saved["agent"].values():
        assert tensor.isfinite().all()


def test_it_learns_to_adapt(in_tmp):
    """Takes some seconds. After one gradient step it is less than half as far from the goal, on
    average, as an untrained policy after one.
    """
    args = Args(num_iterations=12, meta_batch_size=10, eval_trials=50, eval_episodes=10)
    result = maml_trpo.train(args)
    before, after = result["return_by_gradient_step"][:2]
    stderr = np.hypot(*result["return_by_gradient_step_stderr"][:2])
    assert after > before + 10 * stderr
    assert after > -20
    # What was there before training is worse, and adapts far less.
    env, policy, params = untrained(args.env_id, 1)
    tasks = env.sample_tasks(20, [1, 0])
    untrained_returns = maml_trpo.evaluate(policy, params, args.env_id, {}, tasks, 5)
    assert before > untrained_returns[:, 0].mean()
    assert after > untrained_returns[:, 1].mean() / 2


# -------------------------------------------------------------- normalised observations


def test_moments_are_means_over_the_iterations():
    """Against numpy, after each of three trials in which episodes end early."""
    env, policy, params = untrained("EarlyEnds-v0", 6, norm_obs=True)
    means = []
    variances = []
    for seed in range(3):
        tasks = env.sample_tasks(2, seed)
        batch = maml_trpo.trial(policy, params, env, tasks, 1, seed, policy.args)[-1]
        assert not batch["valid"].all()
        rows = []
        for i in range(2):
            for k in range(3):
                length = int(batch["valid"][i, k].sum())
                rows.append(batch["raw_obs"][i, k, :length].double().numpy())
        rows = np.concatenate(rows)
        means.append(rows.mean(0))
        variances.append(rows.var(0))
        policy.update_moments(batch, 1 / (seed + 1))
        mean, variance = policy.moments.numpy()
        np.testing.assert_allclose(mean, np.mean(means, axis=0), rtol=1e-10)
        np.testing.assert_allclose(variance, np.mean(variances, axis=0), rtol=1e-10)
        expected = ((rows - mean) / np.sqrt(variance)).clip(-10, 10)
        np.testing.assert_allclose(policy.encode(rows), expected, atol=1e-5)
    far = policy.encode(np.array([[1e6, -1e6]]))
    assert far.tolist() == [[10, -10]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, np.int64])
def test_discrete_observations_of_any_type_are_one_hot(dtype):
    """As many of them as there are states: torch would take uint8 for a mask of those. The numbers
    may be an array, too, as an environment gives them."""
    as_tensor = np.array if dtype is np.int64 else torch.tensor
    args = Args(env_id="TabularMDP-v0", env_kwargs={"num_states": 3})
    policy = maml_trpo.Policy(envs.make(args.env_id, 1, **args.env_kwargs), args)
    one_hot = policy.encode(as_tensor([2, 1, 1], dtype=dtype))
    assert one_hot.tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("iterations", [1, 3])
def test_small_differences_of_a_large_number_are_seen(in_tmp, iterations):
    """The moments are exact from the first batch on, and `load` gives them."""
    args = tiny(env_id="Clock-v0", env_kwargs={}, norm_obs=True, num_iterations=iterations)
    maml_trpo.train(args)
    policy, params, _ = maml_trpo.load(only("*/checkpoint.pt"))
    assert params.keys() == policy.initial_params().keys()
    obs = np.stack([1.7e9 + np.arange(5), np.full(5, 3.0)], axis=1)
    seen = policy.encode(obs)
    expected = (np.arange(5) - 2) / np.arange(5).std()
    np.testing.assert_allclose(seen[:, 0], expected, atol=1e-5)
    assert (seen[:, 1] == 0).all()


def test_it_learns_from_observations_far_from_0_only_if_they_are_normalised(in_tmp):
    """Chance is 2.5, all right is 5. Normalised, seeds 1 to 4 come to 4.7 or more."""
    args = Args(
        env_id="Lights-v0",
        num_iterations=35,
        meta_batch_size=4,
        hidden_size=16,
        max_kl=0.05,
        eval_trials=5,
        cuda=False,
    )
    plain = maml_trpo.train(args)["return_by_gradient_step"]
    assert max(plain) < 3
    normalised = maml_trpo.train(replace(args, norm_obs=True))["return_by_gradient_step"]
    assert normalised[1] > 4


def test_norm_obs_has_to_stay_as_it_is(in_tmp):
    args = tiny(num_iterations=1)
    maml_trpo.train(args)
    resume = str(only("*/checkpoint.pt"))
    with pytest.raises(envs.UsageError, match="norm_obs must stay False"):
        maml_trpo.train(replace(args, resume=resume, norm_obs=True))


def test_discrete_observations_are_one_hot_with_norm_obs_too(in_tmp):
    kwargs = {"env_id": "TabularMDP-v0", "num_iterations": 2}
    plain = maml_trpo.train(tiny(**kwargs))
    normalised = maml_trpo.train(tiny(**kwargs, norm_obs=True))
    assert plain["return_by_episode"] == normalised["return_by_episode"]


def test_a_checkpoint_from_before_norm_obs_is_loaded_and_resumed(in_tmp):
    args = tiny(num_iterations=1)
    maml_trpo.train(args)
    path = only("*/checkpoint.pt")
    saved = torch.load(path, weights_only=True)
    del saved["args"]["norm_obs"]
    del saved["agent"]["moments"]
    torch.save(saved, path)
    _, params, _ = maml_trpo.load(path)
    assert params.keys() == saved["agent"].keys()
    result = maml_trpo.train(replace(args, resume=str(path), num_iterations=2))
    assert result["global_step"] == 2 * 2 * 3 * 4 * 6


def test_seed_iteration_and_process_have_tasks_and_chance_of_their_own(in_tmp, monkeypatch):
    calls = spy_on(monkeypatch, maml_trpo, "trial")
    for rank, seed in (("0", 1), ("1", 1), ("0", 2)):
        monkeypatch.setenv("RANK", rank)
        maml_trpo.train(tiny(num_iterations=2, seed=seed))
    training = [call for call in calls if call[0][4] == 1]  # evaluations take 3 steps
    assert len(training) == 6
    tasks = np.concatenate([arguments[3] for arguments, _ in training])
    assert len(np.unique(tasks, axis=0)) == 6 * 3
    noise = torch.cat([batches[0]["action"][:, :, 0].flatten() for _, batches in training])
    assert len(noise.unique()) == 6 * 3 * 4 * 2


def test_moments_are_means_over_the_processes(monkeypatch):
    other = torch.tensor([[5.0, 7.0], [2.0, 4.0]]).double()
    monkeypatch.setattr(maml_trpo, "average", lambda x: (x + other) / 2)
    env, policy, params = untrained("EarlyEnds-v0", 6, norm_obs=True)
    batch = maml_trpo.rollout(policy, params, env, env.sample_tasks(2, 0), 0)
    rows = batch["raw_obs"][batch["valid"]].double()
    policy.update_moments(batch, 1.0)
    mine = torch.stack([rows.mean(0), rows.var(0, correction=0)])
    torch.testing.assert_close(policy.moments, (mine + other) / 2)


def test_steps_after_an_episodes_end_are_not_counted(in_tmp, monkeypatch):
    calls = spy_on(monkeypatch, maml_trpo, "trial")
    result = maml_trpo.train(tiny(env_id="EarlyEnds-v0", num_iterations=2))
    steps = sum(int(batch["valid"].sum()) for _, batches in calls[:2] for batch in batches)
    assert result["global_step"] == steps < 2 * 2 * 3 * 4 * 6


def test_a_trial_sees_one_normalisation_and_the_next_iteration_another(in_tmp, monkeypatch):
    """The first sees none, the second that of the first, the third the mean of two."""
    calls = spy_on(monkeypatch, maml_trpo, "rollout")
    maml_trpo.train(tiny(env_id="Lights-v0", env_kwargs={}, norm_obs=True, num_iterations=3))
    batches = [batch for _, batch in calls[:6]]
    raw = [batches[i]["raw_obs"].flatten(0, 2) for i in (1, 3)]  # of the adapted policies
    for batch in batches[:2]:
        assert (batch["obs"] == 10).all()
    for batch in batches[2:4]:
        expected = (batch["raw_obs"] - raw[0].mean(0)) / raw[0].std(0, correction=0)
        torch.testing.assert_close(batch["obs"], expected.float())
    mean = (raw[0].mean(0) + raw[1].mean(0)) / 2
    variance = (raw[0].var(0, correction=0) + raw[1].var(0, correction=0)) / 2
    for batch in batches[4:]:
        expected = (batch["raw_obs"] - mean) / variance.sqrt()
        torch.testing.assert_close(batch["obs"], expected.float())


def test_charts_are_of_the_batches_that_were_trained_on(in_tmp, monkeypatch):
    scalars = {}
    purged = []

    class Writer:
        def __init__(self, folder, purge_step=None):
            purged.append(purge_step)

        def add_scalar(self, name, number, global_step):
            scalars[name, global_step] = float(number)

        def flush(self):
            pass

    monkeypatch.setattr(maml_trpo, "SummaryWriter", Writer)
    calls = spy_on(monkeypatch, maml_trpo, "trial")
    maml_trpo.train(tiny(env_id="EarlyEnds-v0", num_iterations=3))
    step = 0
    for _, batches in calls[:3]:
        step += sum(int(batch["valid"].sum()) for batch in batches)
        for i, batch in enumerate(batches):
            paid = float((batch["reward"] * batch["valid"]).sum()) / 12  # 3 x 4 episodes
            assert scalars[f"charts/return_after_{i}_steps", step] == pytest.approx(paid, rel=1e-5)
        length = int(batches[1]["valid"].sum()) / 12
        assert scalars["charts/episode_length", step] == pytest.approx(length)
    first = sum(int(batch["valid"].sum()) for batch in calls[0][1])
    assert purged == [first]


def test_a_process_has_its_share_of_the_tasks_rounded_down(in_tmp, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    calls = spy_on(monkeypatch, maml_trpo, "trial")
    result = maml_trpo.train(tiny(num_iterations=1, meta_batch_size=3))
    arguments, _ = calls[0]
    assert len(arguments[3]) == 1
    assert result["global_step"] == 2 * 2 * 4 * 6  # processes, batches, episodes, steps


def test_first_weights_are_glorots_and_follow_from_the_seed(in_tmp, monkeypatch):
    calls = spy_on(monkeypatch, maml_trpo, "trial")
    for seed in (1, 2):  # an iteration and an evaluation each
        maml_trpo.train(tiny(num_iterations=1, hidden_size=100, seed=seed))
    first, _, second, _ = [arguments[1] for arguments, _ in calls]
    for i, (num_in, num_out) in enumerate([(2, 100), (100, 100), (100, 2)]):
        weight = first[f"weight_{i}"]
        bound = (6 / (num_in + num_out)) ** 0.5
        assert weight.shape == (1, num_in, num_out)
        assert 0.9 * bound < weight.abs().max() <= bound
        assert not torch.equal(weight, second[f"weight_{i}"])
        assert (first[f"bias_{i}"] == 0).all()
    assert (first["log_std"] == 0).all()


def test_the_seconds_before_a_stop_count(in_tmp, monkeypatch):
    maml_trpo.train(tiny(num_iterations=1))
    path = only("*/checkpoint.pt")
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"wall_seconds": 5000.0}, path)
    logged = record_scalars(monkeypatch)
    result = maml_trpo.train(tiny(num_iterations=2, resume=str(path)))
    for seconds in (result["wall_seconds"], result["global_step"] / logged["charts/SPS"][0]):
        assert 5000 < seconds < 5600


@pytest.mark.parametrize("is_on", [False, True])
def test_torch_deterministic(is_on, in_tmp, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", not is_on)
    maml_trpo.train(tiny(torch_deterministic=is_on, num_iterations=1))
    assert torch.backends.cudnn.deterministic == is_on


def test_an_environment_may_reuse_its_arrays():
    env = OneArray()
    policy = Policy(env, Args(hidden_size=8))
    batch = maml_trpo.rollout(policy, policy.initial_params(), env, np.zeros(1), 0)
    for name in ("obs", "raw_obs"):
        assert batch[name][0, 0, :, 0].tolist() == [0, 1, 2, 3]


def test_what_is_printed_is_what_eval_json_says(in_tmp, capsys):
    result = maml_trpo.train(tiny(num_iterations=1))
    printed = capsys.readouterr().out
    for words in ("In 5 new tasks:", f"python benchmark/pictures.py {only('*')}/checkpoint.pt"):
        assert words in printed
    lines = re.findall(r"after (\d) gradient steps +(\S+) \+- (\S+)", printed)
    means = result["return_by_gradient_step"]
    stderrs = result["return_by_gradient_step_stderr"]
    expected = [(str(i), f"{means[i]:.2f}", f"{stderrs[i]:.2f}") for i in range(4)]
    assert lines == expected


@pytest.mark.parametrize(
    "name",
    [
        "episodes_per_task",
        "later_fraction",
        "hidden_size",
        "max_kl",
        "cg_iterations",
        "eval_episodes",
    ],
)
def test_numbers_that_must_be_above_0(name):
    with pytest.raises(envs.UsageError, match=f"{name} must be above 0"):
        maml_trpo.check_arguments(Args(**{name: 0}))
