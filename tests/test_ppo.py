"""What RL^2 and SNAIL share, against independent computations: loops, closed forms, differences."""

import inspect
import json
import re
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import envs
import rl2_ppo
import snail_ppo
from helpers import NETWORKS, OneArray, record_scalars, spy_on

SMALL = {rl2_ppo: {"hidden_size": 16}, snail_ppo: {"sizes": (8, 4, 6, 5)}}
TINY = {
    "total_timesteps": 480,
    "num_envs": 16,
    "num_minibatches": 2,
    "update_epochs": 2,
    "episodes_per_trial": 3,
    "eval_trials": 50,
    "cuda": False,
}


class NearGoals(envs.Navigation2D):
    """Goals lie so near that many episodes end early, at times of their own."""

    def _draw(self, num_tasks, rng):
        return rng.uniform(-0.02, 0.02, (num_tasks, 2))


class Reach(envs.TaskVectorEnv):
    """An action in [10, 20] is to hit the target, which is somewhere in [17, 19]."""

    def __init__(self, num_envs):
        super().__init__(num_envs, 1, Discrete(1), Box(10, 20, (1,)))
        self.given = []

    def _draw(self, num_tasks, rng):
        return rng.uniform(17, 19, num_tasks)

    def _advance(self, actions):
        assert actions in self.action_space
        self.given.append(actions)
        return -np.abs(actions[:, 0] - self.tasks), np.ones(self.num_envs, dtype=bool), {}


class Fragile(gym.Env):
    """A single environment that breaks in one step, counted over all sub-environments."""

    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)
    steps = 0
    last_step = 0

    def sample_task(self, rng):
        return rng.integers(1000)

    def reset(self, *, seed=None, options=None):
        self.task = options["task"]
        return np.zeros(2, np.float32), {}

    def step(self, action):
        Fragile.steps += 1
        if Fragile.steps == Fragile.last_step:
            raise KeyError(f"task {self.task}")
        return np.zeros(2, np.float32), 0.0, True, False, {}


class HalfOpen(envs.TaskVectorEnv):
    """Actions with two bounds, with one of them alone, and with none: each step pays nothing."""

    def __init__(self, num_envs):
        low = np.array([10, 0, -np.inf, -np.inf], np.float32)
        high = np.array([20, np.inf, 5, np.inf], np.float32)
        super().__init__(num_envs, 4, Box(-1, 1, (3,)), Box(low, high))

    def _draw(self, num_tasks, rng):
        return rng.uniform(0, 1, num_tasks)

    def _observe(self):
        return np.zeros((self.num_envs, 3))

    def _advance(self, actions):
        assert actions in self.action_space
        return np.zeros(self.num_envs), False, {}


gym.register("NearGoals-v0", vector_entry_point=NearGoals)
gym.register("HalfOpen-v0", vector_entry_point=HalfOpen)
gym.register("Reach-v0", vector_entry_point=Reach)
gym.register("Fragile-v0", Fragile, max_episode_steps=1)

# name: id and arguments of an environment
ENVIRONMENTS = {
    "bandit": ("Bandit-v0", {}),
    "mdp": ("TabularMDP-v0", {"horizon": 5}),
    "known mdp": ("TabularMDP-v0", {"num_states": 3, "horizon": 4, "observe_task": True}),
    "navigation": ("Navigation2D-v0", {"horizon": 15}),
    "early ends": ("NearGoals-v0", {"horizon": 8}),
}


@pytest.fixture(params=[rl2_ppo, snail_ppo], ids=["rl2", "snail"])
def module(request):
    return request.param


def make(name, num_envs):
    """An environment, and a task for each sub-environment."""
    env_id, settings = ENVIRONMENTS[name]
    env = envs.make(env_id, num_envs, **settings)
    return env, env.sample_tasks(num_envs, 0)


def make_agent(module, env, episodes, **settings):
    """A small agent, whose policy is far from uniform, so that errors show."""
    torch.manual_seed(0)
    args = module.Args(**SMALL[module], episodes_per_trial=episodes, **settings)
    agent = module.Agent(env, args)
    if isinstance(env.single_action_space, Discrete):
        torch.nn.init.normal_(agent.policy.weight, 0, 0.5)
    else:
        # The mean must not amplify the previous action from step to step.
        torch.nn.init.normal_(agent.policy.weight, 0, 0.1)
        agent.log_std.data -= 1.5  # small steps, which come upon goals near where it is
    return agent


def rollout(agent, env, tasks, episodes, seed=0):
    """The rollout's tensors as ordinary ones, which autograd takes whole."""
    module = inspect.getmodule(type(agent))
    data = module.rollout(agent, env, tasks, episodes, seed)
    return {name: tensor.clone() for name, tensor in data.items()}


def make_batch(module, name, num_envs, episodes, **settings):
    """An agent, and the trials of a rollout with what an update needs."""
    env, tasks = make(name, num_envs)
    agent = make_agent(module, env, episodes, **settings)
    data = rollout(agent, env, tasks, episodes)
    data["signal"] = data["reward"]
    advantage, returns = module.advantages_and_returns(data, 0.9, 0.8)
    data["advantage"] = advantage
    data["returns"] = returns
    return agent, data


def one_hot(space, array):
    """Numbers of a Discrete space as rows of zeros and a one; others as they are."""
    if isinstance(space, Discrete):
        return np.eye(space.n)[array]
    return array


def moments(rows):
    """Mean and variance of rows [B, size], at first 0 and 1."""
    if len(rows) == 0:
        return 0.0, 1.0
    mean = rows.mean(0)
    variance = rows.var(0)
    return mean, variance


def train_tiny(module, **settings):
    """The result of a small run, and its folder."""
    network = {"hidden_size": 8} if module is rl2_ppo else {"sizes": (6, 4, 5, 3)}
    args = module.Args(**{**TINY, **network, **settings})
    result = module.train(args)
    (run,) = Path("runs").glob(f"*__{args.exp_name}__*")
    return result, run


def read(checkpoint):
    return torch.load(checkpoint, weights_only=True)


# ---------------------------------------------------------------- the same text in both scripts


@pytest.mark.parametrize("name", ["average", "RunningMeanStd"])
def test_functions_outside_the_network_are_the_same_to_the_letter(name):
    ours = getattr(snail_ppo, name)
    theirs = getattr(rl2_ppo, name)
    assert inspect.getsource(ours) == inspect.getsource(theirs)


@pytest.mark.parametrize("name", ["encode", "convolve", "heads", "act"])
def test_methods_around_the_network_are_the_same_to_the_letter(name):
    ours = getattr(snail_ppo.Agent, name)
    theirs = getattr(rl2_ppo.Agent, name)
    assert inspect.getsource(ours) == inspect.getsource(theirs)


def test_from_the_rollout_to_the_end_both_scripts_differ_in_the_names_a_resume_checks_alone():
    """So do rollout, advantages, loss, update, evaluation, checkpoints, schedule and train."""
    ends = []
    for module in (rl2_ppo, snail_ppo):
        source = inspect.getsource(module)
        _, start, end = source.partition("@torch.inference_mode()\ndef rollout(")
        without_names, count = re.subn('names = """[^"]*"""', "names", end)
        assert start
        assert count == 1
        ends.append(without_names)
    assert ends[0] == ends[1]
    for name in ("sum_by_episode", "ppo_loss", "update", "evaluate", "load", "schedule", "train"):
        assert f"\ndef {name}(" in ends[0]


def test_both_scripts_take_the_same_arguments_but_for_the_network():
    ours = set(asdict(snail_ppo.Args()))
    theirs = set(asdict(rl2_ppo.Args()))
    assert ours ^ theirs == {"tc_blocks", "sizes", "cell", "hidden_size"}


# ------------------------------------------------------------------------------- input and mask


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_input_is_observation_previous_action_reward_and_done(module, name):
    """Replays the environment with the rollout's actions and builds every input by hand."""
    env, tasks = make(name, 12)
    agent = make_agent(module, env, 3)
    data = rollout(agent, env, tasks, 3)
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    previous = np.zeros((12, agent.action_size + 2))
    for t in range(len(data["x"])):
        seen = one_hot(env.single_observation_space, obs)
        by_hand = np.concatenate([seen, previous], axis=1)
        np.testing.assert_allclose(data["x"][t].numpy(), by_hand, atol=1e-6)
        np.testing.assert_array_equal(data["obs"][t].numpy(), obs)
        action = data["action"][t].numpy()
        obs, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_allclose(data["reward"][t].numpy(), reward, atol=1e-6)
        done = terminated | truncated
        if not agent.has_discrete_actions:
            action = action.clip(-1, 1)  # as the environment carried it out
        taken = one_hot(env.single_action_space, action)
        previous = np.column_stack([taken, reward, done])


def test_valid_marks_the_steps_of_the_trial_and_no_others(module):
    env, goals = make("early ends", 64)
    agent = make_agent(module, env, 3)
    data = rollout(agent, env, goals, 3)
    env.reset(seed=0, options={"tasks": goals})
    over = np.zeros(64, dtype=int)
    returns = np.zeros((64, 3))
    for t in range(len(data["valid"])):
        np.testing.assert_array_equal(data["valid"][t], over < 3)
        np.testing.assert_array_equal(data["episode"][t], over)
        _, reward, terminated, truncated, _ = env.step(data["action"][t].numpy())
        for n in range(64):
            if over[n] < 3:
                returns[n, over[n]] += reward[n]
        over += terminated | truncated
    assert (over >= 3).all()
    assert data["valid"].sum() < data["valid"].numel() <= 3 * 8 * 64
    lengths = data["valid"].sum(0).tolist()
    assert len(set(lengths)) > 3
    sums = module.sum_by_episode(data, "reward", 3)
    assert sums.dtype == np.float64
    np.testing.assert_allclose(sums, returns, atol=1e-5)


def test_regret_is_that_of_the_arm_pulled(module):
    env, tasks = make("bandit", 12)
    agent = make_agent(module, env, 6)
    data = rollout(agent, env, tasks, 6)
    best = torch.as_tensor(tasks.max(axis=1))
    arm_mean = torch.as_tensor(tasks).gather(1, data["action"].T).T
    torch.testing.assert_close(data["regret"], (best - arm_mean).float())
    regrets = module.sum_by_episode(data, "regret", 6)
    np.testing.assert_allclose(regrets, (best - arm_mean).T, atol=1e-6)


@NETWORKS
def test_a_second_trial_owes_nothing_to_the_first(module, network):
    env, tasks = make("mdp", 12)
    agent = make_agent(module, env, 3, **network)
    first = rollout(agent, env, tasks, 3)
    second = rollout(agent, env, tasks, 3)
    assert torch.equal(first["x"][0], second["x"][0])
    assert torch.equal(first["value"][0], second["value"][0])
    assert (second["x"][0, :, agent.obs_size :] == 0).all()
    assert not torch.equal(first["action"], second["action"])


@NETWORKS
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_ratio_is_one_before_the_first_gradient_step(module, network, name):
    env, tasks = make(name, 40)
    agent = make_agent(module, env, 4, norm_obs=True, **network)
    agent.obs_stats.update(torch.randn(100, agent.obs_size))
    data = rollout(agent, env, tasks, 4)
    trials = torch.tensor([3, 17, 5])  # a minibatch, in an order of its own
    policy, value = agent(data["x"][:, trials])
    logratio = policy.log_prob(data["action"][:, trials]) - data["log_prob"][:, trials]
    assert (logratio.exp() - 1).abs().max() < 2e-5
    torch.testing.assert_close(value, data["value"][:, trials], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "module, network, limit",
    [(rl2_ppo, {}, 2e-3), (snail_ppo, {"sizes": (32, 32, 32, 32)}, 5e-3)],
    ids=["rl2", "snail"],
)
def test_ratio_with_amp_is_one_up_to_bfloat16(module, network, limit, monkeypatch):
    monkeypatch.setattr(module, "HAS_BFLOAT16", True)
    monkeypatch.setitem(SMALL, module, SMALL[module] | network)
    env = envs.make("TabularMDP-v0", 200)
    agent = make_agent(module, env, 5, amp=True)
    assert agent.amp
    data = rollout(agent, env, env.sample_tasks(200, 0), 5)
    assert data["log_prob"].dtype == data["value"].dtype == torch.float32
    policy, value = agent(data["x"])
    logratio = policy.log_prob(data["action"]) - data["log_prob"]
    assert (logratio.exp() - 1).abs().mean() < limit
    agent.amp = False
    _, exact = agent(data["x"])
    # Rollout and update alike are in bfloat16: float32 would be within 1e-6 of the exact values.
    assert (value - exact).abs().mean() > 1e-5
    assert (data["value"] - exact).abs().mean() > 1e-5


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux for the processor")
def test_bfloat16_is_used_where_linux_says_the_processor_has_it(module):
    flags = Path("/proc/cpuinfo").read_text().split()
    assert module.HAS_BFLOAT16 == (torch.cuda.is_available() or "avx512_bf16" in flags)


def test_amp_is_float32_where_bfloat16_is_slow(module, monkeypatch):
    monkeypatch.setattr(module, "HAS_BFLOAT16", False)
    env, tasks = make("bandit", 5)
    trials = []
    for amp in (True, False):
        agent = make_agent(module, env, 10, amp=amp)
        trials.append(rollout(agent, env, tasks, 10))
    for name in trials[0]:
        assert torch.equal(trials[0][name], trials[1][name])


# --------------------------------------------------------------------------------------- images


def convolution(maps, weight, bias):
    """Stride 2, padding 1, by definition: maps [N, C, H, W] to [N, O, ceil(H / 2), ceil(W / 2)]."""
    num, _, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((num, len(bias), -(-height // 2), -(-width // 2)))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            patch = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", patch, weight) + bias
    return out


@pytest.mark.parametrize("shape", [(9, 6, 3), (2, 5, 8), (3, 3, 3), (5, 8, 1)])
def test_images_are_seen_through_two_convolutions_and_a_layer(module, shape):
    """What the network gets to see, against convolutions computed by their definition."""
    env = SimpleNamespace(
        single_observation_space=Box(0, 255, shape, np.uint8),
        single_action_space=Discrete(3),
        horizon=4,
    )
    torch.manual_seed(0)
    agent = module.Agent(env, module.Args(norm_obs=True)).double()
    mean = agent.obs_stats.mean.normal_(100)
    agent.obs_stats.var.fill_(400)
    obs = torch.randint(256, (2, *shape), dtype=torch.uint8)
    x = agent.encode(obs, torch.tensor([2, 0]), torch.ones(2), torch.zeros(2), False)
    assert x.shape == (2, np.prod(shape) + 3 + 2)
    seen = []
    network = agent.trunk if module is rl2_ppo else agent.embedding
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().numpy()))
    agent(torch.stack([x, x.flip(0), x]).double())  # three time steps
    agent.step(x.double(), None)

    normalised = (obs.flatten(1).double() - mean) / 400**0.5
    maps = normalised.clamp(-10, 10).unflatten(1, shape).permute(0, 3, 1, 2).numpy()
    for layer in (agent.convolutions[0], agent.convolutions[2]):
        weight = layer.weight.detach().numpy()
        bias = layer.bias.detach().numpy()
        maps = np.maximum(convolution(maps, weight, bias), 0)
    weight = agent.convolutions[5].weight.detach().numpy()
    bias = agent.convolutions[5].bias.detach().numpy()
    features = np.maximum(maps.reshape(2, -1) @ weight.T + bias, 0)
    assert features.shape == (2, 256)
    rest = x[:, np.prod(shape) :].numpy()
    expected = np.concatenate([features, rest], axis=1)
    np.testing.assert_allclose(seen[0], [expected, expected[::-1], expected], atol=1e-5)
    np.testing.assert_allclose(seen[1], [expected], atol=1e-5)


# -------------------------------------------------------------- advantages, loss and its gradient


@pytest.mark.parametrize("gamma, gae_lambda", [(0.99, 0.95), (0.9, 0.3), (1.0, 1.0), (0.7, 0.0)])
def test_gae_runs_over_the_trial_as_the_double_sum_says(module, gamma, gae_lambda):
    rng = np.random.default_rng(0)
    lengths = [7, 3, 10, 1]
    signal = rng.normal(size=(10, 4))
    values = rng.normal(size=(10, 4))
    valid = np.arange(10)[:, None] < np.array(lengths)
    data = {"signal": signal, "value": values, "valid": valid}
    tensors = {name: torch.as_tensor(array) for name, array in data.items()}
    advantage, returns = module.advantages_and_returns(tensors, gamma, gae_lambda)
    for n, length in enumerate(lengths):
        # Nothing follows the trial; its episodes make no difference.
        value = np.append(values[:length, n], 0.0)
        delta = signal[:length, n] + gamma * value[1:] - value[:-1]
        for t in range(length):
            total = sum((gamma * gae_lambda) ** (k - t) * delta[k] for k in range(t, length))
            assert abs(advantage[t, n].item() - total) < 1e-12
            assert abs(returns[t, n].item() - total - value[t]) < 1e-12
        assert (advantage[length:, n] == 0).all()
    if gamma == gae_lambda == 1:  # then the value's target is the return of the rest of the trial
        assert abs(returns[0, 0].item() - signal[:7, 0].sum()) < 1e-12


@torch.no_grad()
def reference_loss(agent, data, args):
    """PPO's loss, one step of one trial at a time, from torch's primitives."""
    steps = []
    advantages = []
    for n in range(data["x"].shape[1]):
        memory = agent.initial_state(1)
        for t in range(int(data["valid"][:, n].sum())):
            policy, value, memory = agent.step(data["x"][t, n : n + 1], memory)
            log_prob = policy.log_prob(data["action"][t, n : n + 1])[0]
            ratio = torch.exp(log_prob - data["log_prob"][t, n])
            value_error = value[0] - data["returns"][t, n]
            steps.append((ratio, value_error, policy.entropy()[0]))
            advantages.append(data["advantage"][t, n])
    advantages = torch.stack(advantages)
    if args.norm_adv:
        deviation = advantages.std(correction=0)
        advantages = (advantages - advantages.mean()) / (deviation + 1e-8)
    total = 0.0
    for (ratio, value_error, entropy), advantage in zip(steps, advantages, strict=True):
        bounded = min(max(ratio, 1 - args.clip_coef), 1 + args.clip_coef)
        total = total - min(ratio * advantage, bounded * advantage)
        total = total + args.vf_coef * 0.5 * value_error**2 - 0.1 * entropy
    return total / len(steps)


@torch.no_grad()
def difference(function, parameter, direction):
    """The derivative of function() along a direction of a parameter, by two values nearby."""
    original = parameter.data.clone()
    parameter.data = original + 1e-6 * direction
    above = function()
    parameter.data = original - 1e-6 * direction
    below = function()
    parameter.data = original
    return (above - below) / 2e-6


@pytest.mark.parametrize(
    "name, norm_adv",
    [("mdp", True), ("early ends", True), ("bandit", False)],
)
def test_loss_and_gradient_against_a_loop_and_finite_differences(module, name, norm_adv):
    num_envs = 8 if name == "early ends" else 4
    agent, data = make_batch(module, name, num_envs, 2, norm_adv=norm_adv)
    assert data["valid"].all() == (name != "early ends")
    agent.double()
    args = agent.args
    for key in data:
        if data[key].is_floating_point():
            data[key] = data[key].double()
    # A policy that has moved since: some ratios are clipped, others not.
    for parameter in agent.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    loss, logs = module.ppo_loss(agent, data, args, 0.1)
    assert 0.05 < logs["losses/clipfrac"] < 0.95
    expected = reference_loss(agent, data, args)
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=1e-10)
    loss.backward()
    for parameter in agent.parameters():
        direction = torch.randn_like(parameter)
        slope = difference(lambda: module.ppo_loss(agent, data, args, 0.1)[0], parameter, direction)
        assert abs(slope - (parameter.grad * direction).sum()) < 1e-6
    # The same with the loop, which is slow: along a direction of all parameters at once.
    gradients = [parameter.grad for parameter in agent.parameters()]
    gradient = torch.nn.utils.parameters_to_vector(gradients)
    theta = torch.nn.utils.parameters_to_vector(agent.parameters()).detach()
    direction = torch.randn_like(theta)

    def loss_at(theta):
        torch.nn.utils.vector_to_parameters(theta, agent.parameters())
        return reference_loss(agent, data, args)

    above = loss_at(theta + 1e-6 * direction)
    below = loss_at(theta - 1e-6 * direction)
    loss_at(theta)  # the agent as it was
    assert abs((above - below) / 2e-6 - gradient @ direction) < 1e-5
    # Whatever lies behind the end of a trial has no influence.
    for key in ("advantage", "returns"):
        data[key] = torch.where(data["valid"], data[key], data[key] + 7)
    # (e^1000 overflows.)
    data["log_prob"] = torch.where(data["valid"], data["log_prob"], data["log_prob"] - 1000)
    agent.zero_grad()
    loss_again, _ = module.ppo_loss(agent, data, args, 0.1)
    loss_again.backward()
    assert loss_again == loss
    for parameter, gradient in zip(agent.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_what_is_logged_of_the_loss_is_what_its_names_say(module):
    agent, data = make_batch(module, "early ends", 20, 2)
    assert not data["valid"].all()
    for parameter in agent.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    loss, logs = module.ppo_loss(agent, data, agent.args, 0.1)
    policy, value = agent(data["x"])
    valid = data["valid"]
    logratio = (policy.log_prob(data["action"]) - data["log_prob"])[valid]
    ratio = logratio.exp()
    errors = (value - data["returns"])[valid]
    expected = {
        "losses/value_loss": 0.5 * (errors**2).mean(),
        "losses/entropy": policy.entropy()[valid].mean(),
        "losses/approx_kl": (ratio - 1 - logratio).mean(),
        "losses/clipfrac": ((ratio < 0.8) | (ratio > 1.2)).float().mean(),
    }
    rest = 0.5 * expected["losses/value_loss"] - 0.1 * expected["losses/entropy"]
    expected["losses/policy_loss"] = loss - rest
    assert set(logs) == set(expected)
    for name, number in logs.items():
        torch.testing.assert_close(number, expected[name], atol=1e-5, rtol=1e-5)


def test_update_visits_every_trial_once_per_epoch_and_heeds_target_kl(module, monkeypatch):
    agent, data = make_batch(module, "bandit", 10, 3)
    data["returns"][0] = torch.arange(10.0)  # a name for each trial
    calls = spy_on(monkeypatch, module, "ppo_loss")
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)
    args = module.Args(num_minibatches=3, update_epochs=4)
    logs = module.update(agent, optimizer, data, args, 0.0)
    assert len(calls) == 12
    visited = [batch["returns"][0] for (_, batch, _, _), _ in calls]
    for epoch in range(4):
        names = torch.cat(visited[3 * epoch : 3 * epoch + 3])
        assert sorted(names.tolist()) == list(range(10))
    entropies = [logged["losses/entropy"].item() for _, (_, logged) in calls]
    assert logs["losses/entropy"] == pytest.approx(np.mean(entropies))

    calls.clear()
    args.target_kl = 1e-9
    module.update(agent, optimizer, data, args, 0.0)
    assert len(calls) == 3


def test_a_gradient_is_clipped_to_its_largest_norm(module, monkeypatch):
    agent, data = make_batch(module, "bandit", 10, 3)
    data["returns"] = 100 * data["returns"]
    before = [parameter.detach().clone() for parameter in agent.parameters()]
    loss, _ = module.ppo_loss(agent, data, agent.args, 0.0)
    gradients = torch.autograd.grad(loss, list(agent.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.5
    args = module.Args(num_minibatches=1, update_epochs=1, max_grad_norm=0.125)
    optimizer = torch.optim.SGD(agent.parameters(), lr=1.0)
    logs = module.update(agent, optimizer, data, args, 0.0)
    assert logs["losses/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    for parameter, old, gradient in zip(agent.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter, old - 0.125 * gradient / norm, atol=1e-5, rtol=1e-4)


@NETWORKS
@pytest.mark.parametrize("discrete", [True, False])
def test_no_stray_cpu_tensors(module, network, discrete, monkeypatch):
    """On torch's meta device any operation with a tensor of another device fails."""
    # It has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **settings: nullcontext())
    env = SimpleNamespace(
        single_observation_space=Discrete(4) if discrete else Box(-1, 1, (3,)),
        single_action_space=Discrete(5) if discrete else Box(-1, 1, (2,)),
        horizon=7,
    )
    args = module.Args(**SMALL[module], episodes_per_trial=1, norm_obs=True, **network)
    agent = module.Agent(env, args).to("meta")
    number = torch.zeros(6, device="meta")
    obs = number.long() if discrete else number[:, None].expand(6, 3)
    action = number.long() if discrete else number[:, None].expand(6, 2)
    memory = agent.initial_state(6)
    for t in range(3):
        x = agent.encode(obs, action, number, number, t == 0)
        policy, value, memory = agent.step(x, memory)
        assert x.device.type == value.device.type == "meta"
        assert policy.log_prob(action).device.type == "meta"
    assert agent.obs_stats.normalize(torch.zeros(6, agent.obs_size, device="meta")).is_meta
    data = {"x": x.expand(7, *x.shape), "action": action.expand(7, *action.shape)}
    for name in ("log_prob", "signal", "value"):
        data[name] = number.expand(7, 6)
    data["valid"] = torch.ones(7, 6, dtype=torch.bool, device="meta")
    data["advantage"], data["returns"] = module.advantages_and_returns(data, 0.9, 0.9)
    loss, _ = module.ppo_loss(agent, data, args, 0.1)
    loss.backward()
    for parameter in agent.parameters():
        assert parameter.grad.device.type == "meta"


# -------------------------------------------------------------------------- scales of the numbers


def test_normalisation_uses_the_moments_of_all_rows_so_far(module):
    """Batches of unequal sizes count by their rows, as in numpy on all of them together."""
    rng = np.random.default_rng(0)
    stats = module.RunningMeanStd(2)
    rows = np.zeros((0, 2))
    for i, size in enumerate([500, 3, 1, 40, 2000]):
        batch = rng.normal([5 + i, -3], [1, 30], (size, 2)).astype(np.float32)
        stats.update(torch.as_tensor(batch))
        rows = np.concatenate([rows, batch])
        mean, variance = moments(rows)
        np.testing.assert_allclose(stats.mean, mean, rtol=1e-10)
        np.testing.assert_allclose(stats.var, variance, rtol=1e-10)
    assert stats.mean.dtype == stats.var.dtype == torch.float64
    env = envs.make("Navigation2D-v0")
    agent = make_agent(module, env, 1, norm_obs=True)
    agent.obs_stats.load_state_dict(stats.state_dict())
    obs = torch.tensor([[6.0, -40.0], [5.0, 1e6]])
    x = agent.encode(obs, torch.zeros(2, 2), torch.zeros(2), torch.zeros(2), True)
    assert x.dtype == torch.float32
    expected = ((obs.numpy() - rows.mean(0)) / rows.std(0)).clip(-10, 10)
    np.testing.assert_allclose(x[:, :2], expected, rtol=1e-4)
    assert x[1, 1] == 10


@pytest.mark.parametrize("from_regret", [False, True])
def test_what_is_trained_on_and_what_is_seen(module, from_regret, in_tmp, monkeypatch):
    """The reward or minus the regret, scaled from the second iteration on; the input is raw."""
    calls = spy_on(monkeypatch, module, "advantages_and_returns")
    rates = []
    adam_step = torch.optim.Adam.step

    def step(optimizer):
        rates.append(optimizer.param_groups[0]["lr"])
        return adam_step(optimizer)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    settings = {"learn_from_regret": from_regret, "norm_reward": True, "gamma": 0.9}
    train_tiny(module, total_timesteps=96, num_minibatches=1, **settings)
    assert len(calls) == 2
    _, first_returns = calls[0][1]
    _, variance = moments(first_returns.double().numpy().reshape(-1, 1))
    for (arguments, _), scale in zip(calls, (1.0, variance[0] ** 0.5), strict=True):
        data, gamma, gae_lambda = arguments
        assert (gamma, gae_lambda) == (0.9, 0.5)
        signal = -data["regret"] if from_regret else data["reward"]
        torch.testing.assert_close(data["signal"], (signal / scale).to(data["signal"]))
        prev_reward = data["x"][1:, :, 1 + 5]
        torch.testing.assert_close(prev_reward, data["reward"][:-1])
        assert set(data["reward"].unique().tolist()) == {0.0, 1.0}
    assert rates == [5e-3] * 2 + [2.5e-3] * 2  # annealed: two iterations of two epochs


def test_moments_in_training_are_of_the_steps_of_trials_and_of_the_iterations_before(
    module, in_tmp, monkeypatch
):
    """Observations, and the targets of the value: raw, although it learns scaled ones."""
    rollouts = spy_on(monkeypatch, module, "rollout")
    advantages = spy_on(monkeypatch, module, "advantages_and_returns")
    _, run = train_tiny(
        module,
        env_id="NearGoals-v0",
        env_kwargs={"horizon": 8},
        action_scale=0.2,
        norm_obs=True,
        norm_reward=True,
        total_timesteps=900,
    )
    assert len(advantages) >= 3
    seen = np.zeros((0, 2))
    targets = np.zeros((0, 1))
    # one more rollout than updates: the evaluation
    for (_, data), (_, (_, returns)) in zip(rollouts, advantages, strict=False):
        obs = data["obs"].double().numpy()
        mean, variance = moments(seen)
        _, target_variance = moments(targets)
        normalised = (obs - mean) / np.sqrt(variance)
        np.testing.assert_allclose(data["x"][..., :2], normalised.clip(-10, 10), atol=1e-5)
        valid = data["valid"].numpy()
        assert not valid.all()
        seen = np.concatenate([seen, obs[valid]])
        raw = returns.double().numpy()[valid] * np.sqrt(target_variance)
        targets = np.concatenate([targets, raw[:, None]])
    agent = read(run / "checkpoint.pt")["agent"]
    for name, rows in {"obs_stats": seen, "return_stats": targets}.items():
        mean, variance = moments(rows)
        np.testing.assert_allclose(agent[f"{name}.mean"], mean, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(agent[f"{name}.var"], variance, rtol=1e-5)
        assert (agent[f"{name}.count"] == len(rows)).all()


@pytest.mark.parametrize("high", [1.0, np.inf])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1.5])
def test_action_scale_is_the_deviation_of_the_first_continuous_actions(module, scale, high):
    env = SimpleNamespace(
        single_observation_space=Box(-1, 1, (3,)),
        single_action_space=Box(-high, high, (2,)),
        horizon=4,
    )
    torch.manual_seed(0)
    agent = module.Agent(env, module.Args(action_scale=scale))
    obs = torch.randn(500, 3)
    action = torch.randn(500, 2)
    number = torch.randn(500)
    x = agent.encode(obs, action, number, number, False)
    torch.testing.assert_close(x[:, 3:5], action.clamp(-high, high))
    outputs = []
    agent.policy.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    policy, _, _ = agent.step(x, None)
    assert torch.allclose(policy.stddev, torch.tensor(scale))
    assert policy.mean.abs().max() < 0.1 * scale
    torch.testing.assert_close(policy.mean, scale * outputs[0])
    by_axis = torch.distributions.Normal(policy.mean, scale).log_prob(action)
    torch.testing.assert_close(policy.log_prob(action), by_axis.sum(-1))
    torch.manual_seed(1)
    first_action, _ = agent.act(obs, action, number, number, agent.initial_state(500))
    policy, _, _ = agent.step(agent.encode(obs, None, None, None, True), None)
    torch.manual_seed(1)
    draw = policy.sample()
    torch.testing.assert_close(first_action, draw.clamp(-high, high))
    deviation = draw.std()
    assert abs(deviation / scale - 1) < 4.5 / (2 * 1000) ** 0.5


def test_it_learns_to_act_within_a_range_far_from_zero(module, in_tmp):
    settings = {"num_envs": 64, "total_timesteps": 64 * 3 * 50, "learning_rate": 0.01}
    result, run = train_tiny(module, env_id="Reach-v0", **settings)
    # A guess around 15 with a deviation of 5, clipped, is off by more than 3.5.
    assert result["return_mean"] > -2.0 * 3
    agent = module.load(run / "checkpoint.pt")
    env = envs.make("Reach-v0", 1000)
    tasks = env.sample_tasks(1000, 0)
    module.rollout(agent, env, tasks, 3, 0)
    given = np.array(env.unwrapped.given)  # [T, N, 1]
    assert given.min() >= 10
    assert given.max() <= 20
    assert 17 < given[2].mean() < 19
    assert "regret_mean" not in result


def test_schedule_of_the_levers(module):
    args = module.Args(
        total_timesteps=1000,
        grow_trials=True,
        gamma_start=0.8,
        gamma=0.99,
        episodes_per_trial=100,
        num_envs=40,
        ent_coef=0.1,
        ramp_fraction=0.5,
    )
    rows = [module.schedule(args, step) for step in np.linspace(0, 999, 200)]
    assert rows[0] == (args.learning_rate, 0.1, pytest.approx(0.8), 10, 400)
    assert rows[-1][2:] == (pytest.approx(0.99), 100, 40)
    lookahead = [1 / (1 - gamma) for _, _, gamma, _, _ in rows[:100]]
    ratios = np.diff(np.log(lookahead))
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)  # geometric
    for _, _, _, episodes, num_trials in rows:
        assert 10 <= episodes <= 100
        assert abs(episodes * num_trials - 4000) < episodes


def test_schedule_without_levers_anneals_alone(module):
    plain = module.Args(total_timesteps=1000, ent_coef=0.1)
    constant = (plain.gamma, plain.episodes_per_trial, plain.num_envs)
    annealed = (0.75 * plain.learning_rate, 0.75 * 0.1)
    assert module.schedule(plain, 250) == (*annealed, *constant)
    plain.anneal_lr = False
    assert module.schedule(plain, 250) == (plain.learning_rate, 0.1, *constant)


# ------------------------------------------------------------------------------------ evaluation


def act_by_hand(agent, env, tasks, episodes, seed, start):
    """Returns and regrets [N, episodes] of a batch of trials, played with `act`."""
    torch_seed, env_seed = np.random.SeedSequence([2, seed, start]).generate_state(2)
    torch.manual_seed(torch_seed)
    obs, _ = env.reset(seed=env_seed, options={"tasks": tasks})
    count = len(tasks)
    returns = np.zeros((count, episodes))
    regrets = np.zeros((count, episodes))
    over = np.zeros(count, dtype=int)
    state = agent.initial_state(count)
    action = np.zeros(env.action_space.shape)
    reward = np.zeros(count)
    done = np.zeros(count)
    while over.min() < episodes:
        action, state = agent.act(obs, action, reward, done, state)
        obs, reward, terminated, truncated, info = env.step(action.numpy())
        regret = info.get("regret", np.zeros(count))
        for n in range(count):
            if over[n] < episodes:
                returns[n, over[n]] += reward[n]
                regrets[n, over[n]] += regret[n]
        done = terminated | truncated
        over += done
    return returns, regrets


@pytest.mark.parametrize("name", ["mdp", "early ends"])
def test_evaluation_is_what_the_environment_pays_when_played_by_hand(module, name):
    """Batches are of as many trials as there are environments; the last may be smaller."""
    env_id, env_kwargs = ENVIRONMENTS[name]
    agent = make_agent(module, envs.make(env_id, 1, **env_kwargs), 3, num_envs=16)
    tasks = envs.make(env_id, 1, **env_kwargs).sample_tasks(40, 7)
    returns, regrets = module.evaluate(agent, env_id, env_kwargs, tasks, 3, 5, True)
    assert returns.shape == (40, 3)
    for start, stop in [(0, 16), (16, 32), (32, 40)]:
        env = envs.make(env_id, stop - start, **env_kwargs)
        expected = act_by_hand(agent, env, tasks[start:stop], 3, 5, start)
        np.testing.assert_allclose(returns[start:stop], expected[0], atol=1e-5)
        if name == "mdp":
            np.testing.assert_allclose(regrets[start:stop], expected[1], atol=1e-5)
    assert (regrets is None) == (name == "early ends")
    alone = module.evaluate(agent, env_id, env_kwargs, tasks, 3, 5)
    np.testing.assert_array_equal(alone, returns)


def test_evaluation_keeps_the_order_of_tasks(module):
    """The first arm, always, of bandits whose arms pay never or always."""
    agent = make_agent(module, envs.make("Bandit-v0"), 4, num_envs=30)
    torch.nn.init.zeros_(agent.policy.weight)
    agent.policy.bias.data[0] = 100.0
    tasks = np.random.default_rng(0).integers(0, 2, (100, 5)).astype(float)
    returns, regrets = module.evaluate(agent, "Bandit-v0", {}, tasks, 4, 0, True)
    first = np.repeat(tasks[:, :1], 4, axis=1)
    best = np.repeat(tasks.max(axis=1, keepdims=True), 4, axis=1)
    np.testing.assert_array_equal(returns, first)
    np.testing.assert_array_equal(regrets, best - first)


def test_return_and_regret_are_two_estimates_that_agree(module):
    """In expectation a return and its regret add up to the optimum, that of the best arm."""
    env = envs.make("Bandit-v0")
    agent = make_agent(module, env, 4)
    tasks = env.sample_tasks(6000, [1, 0])
    returns, regrets = module.evaluate(agent, "Bandit-v0", {}, tasks, 4, 0, True)
    errors = returns.sum(1) + regrets.sum(1) - 4 * tasks.max(axis=1)
    assert abs(errors.mean()) < 4.5 * errors.std() / 6000**0.5
    torch.manual_seed(123)  # the same, whatever ran in between
    again = module.evaluate(agent, "Bandit-v0", {}, tasks, 4)
    np.testing.assert_array_equal(again, returns)
    other = module.evaluate(agent, "Bandit-v0", {}, tasks, 4, 1)
    assert (other != returns).any()


@pytest.mark.parametrize("reporting", [[0], [2], [0, 1], [], [0, 1, 2]])
def test_a_regret_of_some_batches_alone_is_none(module, reporting, monkeypatch):
    """The numbers are of the batches of one evaluation that report a regret."""
    original = module.rollout
    count = 0

    def some_regrets(*arguments):
        nonlocal count
        data = original(*arguments)
        if count not in reporting:
            del data["regret"]
        count += 1
        return data

    monkeypatch.setattr(module, "rollout", some_regrets)
    env = envs.make("Bandit-v0")
    agent = make_agent(module, env, 3, num_envs=16)
    tasks = env.sample_tasks(40, 0)
    returns, regrets = module.evaluate(agent, "Bandit-v0", {}, tasks, 3, 0, True)
    assert count == 3
    assert returns.shape == (40, 3)
    if len(reporting) == 3:
        assert regrets.shape == (40, 3)
    else:
        assert regrets is None


def test_returns_of_evaluations_scatter_around_the_truth_as_independent_ones(module):
    """A policy whose expected return is known: always the first arm, in tasks of many seeds."""
    env = envs.make("Bandit-v0")
    agent = make_agent(module, env, 2)
    torch.nn.init.zeros_(agent.policy.weight)
    agent.policy.bias.data[0] = 100.0
    z = []
    for seed in range(40):
        tasks = env.sample_tasks(500, [1, seed])
        totals = module.evaluate(agent, "Bandit-v0", {}, tasks, 2, seed).sum(1)
        z.append((totals.mean() - 1.0) / (totals.std(ddof=1) / 500**0.5))
    assert abs(np.mean(z)) < 4.5 / 40**0.5
    assert 0.6 < np.std(z) < 1.5


@pytest.mark.parametrize("name", ["mdp", "early ends"])
def test_act_is_the_policy_of_the_rollout(module, name):
    env, tasks = make(name, 30)
    agent = make_agent(module, env, 2)
    torch.manual_seed(3)
    expected = rollout(agent, env, tasks, 2)
    torch.manual_seed(3)
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    state = agent.initial_state(30)
    # what is ignored in the first step
    action = np.full(env.action_space.shape, -1.0)
    reward = np.full(30, np.nan)
    done = np.ones(30)
    for t in range(len(expected["action"])):
        action, state = agent.act(obs, action, reward, done, state)
        assert torch.equal(action, expected["action"][t])
        obs, reward, terminated, truncated, _ = env.step(action.numpy())
        done = terminated | truncated


CONTINUOUS = pytest.mark.parametrize("env_id", ["Navigation2D-v0", "Reach-v0", "HalfOpen-v0"])


@NETWORKS
@CONTINUOUS
def test_act_stays_within_the_space_and_the_rollout_sees_the_same(module, network, env_id):
    """Step by step through `act`, with the clipped actions, the network's inputs are the same."""
    env = envs.make(env_id, 30)
    space = env.single_action_space
    agent = make_agent(module, env, 2, action_scale=5.0, **network)
    agent.log_std.data.zero_()  # so that most draws are outside
    tasks = env.sample_tasks(30, 0)
    torch.manual_seed(3)
    data = rollout(agent, env, tasks, 2)
    draws = data["action"].numpy()
    clipped = draws.clip(space.low, space.high)
    assert (clipped != draws).mean() > 0.25
    policy, _ = agent(data["x"])
    log_prob = policy.log_prob(data["action"])  # of the draws
    torch.testing.assert_close(log_prob, data["log_prob"], atol=1e-4, rtol=1e-4)
    seen = data["x"][1:, :, agent.obs_size : -2].numpy()
    np.testing.assert_array_equal(seen, clipped[:-1])

    torch.manual_seed(3)
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    state = agent.initial_state(30)
    action = reward = done = np.zeros(30)
    for t in range(len(draws)):
        if t > 0:
            inputs = [torch.as_tensor(array) for array in (obs, action, reward, done)]
            x = agent.encode(*inputs, False)
            torch.testing.assert_close(x, data["x"][t], atol=1e-5, rtol=1e-5)
            draw = data["action"][t - 1]
            assert torch.equal(x, agent.encode(inputs[0], draw, *inputs[2:], False))
        action, state = agent.act(obs, action, reward, done, state)
        assert all(row in space for row in action.numpy())
        np.testing.assert_allclose(action.numpy(), clipped[t], atol=1e-5, rtol=1e-4)
        obs, reward, terminated, truncated, _ = env.step(action.numpy())
        done = terminated | truncated


def test_held_out_tasks_are_the_same_whatever_the_training_seed(module, in_tmp, monkeypatch):
    calls = spy_on(monkeypatch, module, "rollout")
    held_out = envs.make("Bandit-v0").sample_tasks(20, [1, 3])
    trained_on = []
    for seed in (1, 2):
        calls.clear()
        name = f"seed{seed}"
        settings = {"seed": seed, "eval_seed": 3, "eval_trials": 20, "num_envs": 40}
        train_tiny(module, exp_name=name, total_timesteps=240, **settings)
        _, env_seed = np.random.SeedSequence([2, 3, 0]).generate_state(2)
        assert calls[-1][0][4] == env_seed
        *training, evaluation = [tasks for (_, _, tasks, _, _), _ in calls]
        assert len(training) == 2
        np.testing.assert_array_equal(evaluation, held_out)
        trained_on += training
    everything = np.concatenate([held_out, *trained_on])
    assert len(np.unique(everything, axis=0)) == 20 + 4 * 40


# ------------------------------------------------------------------------------------------ runs


def test_a_run_writes_what_it_promises(module, in_tmp, capsys):
    result, run = train_tiny(module, norm_reward=True)
    printed = capsys.readouterr().out
    for words in ("In 50 new tasks:", f"python benchmark/pictures.py {run}/checkpoint.pt"):
        assert words in printed
    assert re.search(rf"regret_mean +{result['regret_mean']:.3f} ", printed)
    files = {path.name for path in run.iterdir() if not path.name.startswith("events.")}
    assert files == {"args.json", "checkpoint.pt", "eval.json"}
    assert run.name.startswith(f"Bandit-v0__{module.ALGORITHM}__1__")
    assert len(list(run.glob("events.*"))) == 1
    assert json.loads((run / "eval.json").read_text()) == json.loads(json.dumps(result))
    args = json.loads((run / "args.json").read_text())
    assert args["num_envs"] == 16
    scores = {"return_mean", "return_stderr", "return_by_episode", "return_by_episode_stderr"}
    scores |= {"regret_mean", "regret_stderr"}
    others = {"algorithm", "global_step", "wall_seconds", "return_by_task"}
    assert set(result) == set(args) | scores | others
    assert result["algorithm"] == module.ALGORITHM
    assert result["global_step"] == 480
    saved = read(run / "checkpoint.pt")
    assert saved["global_step"] == 480
    assert saved["iteration"] == 10
    assert saved["agent"]["return_stats.count"].item() == 480
    assert (run / "checkpoint.pt").stat().st_size < 200_000


def test_scores_are_means_and_standard_errors_over_trials(module, in_tmp, monkeypatch):
    rng = np.random.default_rng(0)
    returns = rng.normal(3, 2, (50, 3))
    regrets = rng.normal(7, 4, (50, 3))

    def evaluate(*arguments, return_regret):
        assert return_regret
        return returns, regrets

    monkeypatch.setattr(module, "evaluate", evaluate)
    result, _ = train_tiny(module, total_timesteps=1)
    assert result["return_mean"] == pytest.approx(returns.sum(1).mean())
    assert result["regret_mean"] == pytest.approx(regrets.sum(1).mean())
    for name, numbers in {"return_stderr": returns, "regret_stderr": regrets}.items():
        totals = numbers.sum(1)
        deviations = totals - totals.mean()
        assert result[name] == pytest.approx(((deviations**2).sum() / 49 / 50) ** 0.5)
    assert result["return_by_episode"] == pytest.approx(returns.mean(0))
    deviations = returns - returns.mean(0)
    expected = np.sqrt((deviations**2).sum(0) / 49 / 50)
    assert result["return_by_episode_stderr"] == pytest.approx(expected)


def test_charts_are_of_the_batch_that_was_trained_on(module, in_tmp, monkeypatch):
    scalars = {}

    def add_scalar(writer, name, number, global_step):
        scalars[name, global_step] = number

    monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
    calls = spy_on(monkeypatch, module, "advantages_and_returns")
    settings = {"num_envs": 40, "env_kwargs": {"horizon": 8}, "action_scale": 0.2}
    settings |= {"norm_reward": True, "total_timesteps": 1500}  # two iterations, or more
    train_tiny(module, env_id="NearGoals-v0", **settings)
    global_step = 0
    for arguments, (_, returns) in calls:
        data, gamma, _ = arguments
        valid = data["valid"]
        global_step += valid.sum().item()
        reward = data["reward"].numpy() * valid.numpy()
        episode = data["episode"].numpy()
        for i in range(3):
            mean = reward[episode == i].sum() / 40
            logged = scalars[f"charts/return_episode_{i + 1}", global_step]
            assert logged == pytest.approx(mean, rel=1e-4)
        total = scalars["charts/trial_return", global_step]
        assert total == pytest.approx(reward.sum() / 40, rel=1e-4)
        errors = (returns - data["value"])[valid]
        explained = 1 - errors.var() / returns[valid].var()
        logged = scalars["losses/explained_variance", global_step]
        assert logged == pytest.approx(explained.item(), abs=1e-4)
        assert scalars["charts/gamma", global_step] == gamma
        assert scalars["charts/episodes_per_trial", global_step] == 3
    names = {name for name, _ in scalars}
    assert {"charts/learning_rate", "charts/SPS", "losses/gradient_norm"} <= names


def test_load_gives_the_agent_that_was_trained(module, in_tmp):
    network = {"cell": "lstm"} if module is rl2_ppo else {"tc_blocks": 1}
    settings = {"env_kwargs": {"num_arms": 3}, **network}
    result, run = train_tiny(module, **settings)
    saved = read(run / "checkpoint.pt")
    del saved["optimizer"]
    torch.save(saved, run / "agent.pt")
    tasks = envs.make("Bandit-v0", 1, num_arms=3).sample_tasks(50, [1, 0])
    for name in ("checkpoint.pt", "agent.pt"):
        agent = module.load(run / name)
        assert agent.action_size == 3
        for argument, value in settings.items():
            assert getattr(agent.args, argument) == value
        returns = module.evaluate(agent, "Bandit-v0", {"num_arms": 3}, tasks, 3)
        assert returns.mean(0).tolist() == result["return_by_episode"]
    with pytest.raises(envs.UsageError, match="agent.pt is an agent alone"):
        train_tiny(module, **settings, total_timesteps=999, resume=str(run / "agent.pt"))


def test_an_interrupted_run_resumed_equals_one_never_stopped(module, in_tmp, monkeypatch):
    """Cut in the middle of iteration 3, it goes on from iteration 2 to the same end, bit by bit."""
    monkeypatch.setattr(module, "HAS_BFLOAT16", True)
    settings = {"cell": "lstm"} if module is rl2_ppo else {"amp": True}
    settings |= {
        "env_id": "TabularMDP-v0",
        "env_kwargs": {"num_states": 3, "num_actions": 2, "horizon": 2, "observe_task": True},
        "total_timesteps": 2500,
        "episodes_per_trial": 20,
        "grow_trials": True,
        "gamma_start": 0.5,
        "learn_from_regret": True,
        "norm_obs": True,
        "norm_reward": True,
        "checkpoint_seconds": 0,
    }
    whole, whole_run = train_tiny(module, **settings, exp_name="same")
    whole_run.rename("whole")
    original = module.update
    updates = []

    def interrupted(*arguments):
        updates.append(arguments)
        if len(updates) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "update", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        train_tiny(module, **settings, exp_name="same")
    assert error.value.__notes__[0] == "Stopped. Iterations done: 2."
    (run,) = Path("runs").iterdir()
    assert not (run / "eval.json").exists()
    checkpoint = run / "checkpoint.pt"
    assert read(checkpoint)["iteration"] == 2

    monkeypatch.setattr(module, "update", original)
    resumed, _ = train_tiny(module, **settings, exp_name="same", resume=str(checkpoint))
    assert resumed.pop("resume") == str(checkpoint)
    assert whole.pop("resume") is None
    assert resumed.pop("wall_seconds") > 0
    assert whole.pop("wall_seconds") > 0
    assert resumed == whole
    ours = read(checkpoint)
    theirs = read("whole/checkpoint.pt")
    assert ours["iteration"] == theirs["iteration"] >= 4
    assert ours["global_step"] == theirs["global_step"]
    for name, tensor in theirs["agent"].items():
        assert torch.equal(tensor, ours["agent"][name])
    for i, numbers in theirs["optimizer"]["state"].items():
        for name, tensor in numbers.items():
            assert torch.equal(tensor, ours["optimizer"]["state"][i][name])


def test_a_nonfinite_loss_stops_the_run_and_keeps_the_checkpoint(module, in_tmp, monkeypatch):
    original = module.ppo_loss
    calls = []

    def poisoned(*arguments):
        calls.append(arguments)
        loss, logs = original(*arguments)
        if len(calls) < 20:
            return loss, logs
        return loss * torch.nan, logs | {"losses/value_loss": loss.detach() * torch.nan}

    monkeypatch.setattr(module, "ppo_loss", poisoned)
    words = "Not finite: .*'losses/value_loss': nan.*Lower --learning-rate"
    with pytest.raises(envs.UsageError, match=words) as error:
        train_tiny(module, checkpoint_seconds=0)
    (checkpoint,) = Path("runs").glob("*/checkpoint.pt")
    assert error.value.__notes__ == [
        "Stopped. Iterations done: 4.",
        f"To go on: python {module.ALGORITHM}.py --resume {checkpoint}",
    ]
    saved = read(checkpoint)
    assert saved["iteration"] == 4
    for tensor in saved["agent"].values():
        assert tensor.isfinite().all()


def test_a_regret_that_nobody_reports_cannot_be_learned_from(module, in_tmp):
    with pytest.raises(envs.UsageError, match="NearGoals-v0 reports no regret to learn from"):
        train_tiny(module, env_id="NearGoals-v0", learn_from_regret=True)
    assert not Path("runs").exists()


# 4 sub-environments take 3 steps in an iteration: step 15 is one of sub-environment 2.
@pytest.mark.parametrize("last_step, iteration", [(3, 1), (15, 2)])
def test_a_fault_of_a_users_environment_keeps_its_traceback_and_gets_notes(
    module, last_step, iteration, in_tmp, monkeypatch
):
    monkeypatch.setattr(Fragile, "steps", 0)
    monkeypatch.setattr(Fragile, "last_step", last_step)
    with pytest.raises(KeyError) as error:
        train_tiny(module, env_id="Fragile-v0", num_envs=4)
    place = error.traceback[-1]
    assert (place.path, place.name) == (Path(__file__), "step")
    task = error.value.args[0].removeprefix("task ")
    notes = [
        f"In sub-environment 2, whose task is {task}.",
        f"Stopped. Iterations done: {iteration - 1}.",
    ]
    if iteration == 1:
        assert not Path("runs").exists()
    else:
        (checkpoint,) = Path("runs").glob("*/checkpoint.pt")
        notes.append(f"To go on: python {module.ALGORITHM}.py --resume {checkpoint}")
    assert error.value.__notes__ == notes


# ------------------------------------------------------------- what arguments and processes change


class Still(envs.TaskVectorEnv):
    """The first number of an observation never changes."""

    def __init__(self, num_envs):
        super().__init__(num_envs, 4, Box(-1, 9, (2,)), Discrete(2))

    def _draw(self, num_tasks, rng):
        return rng.random(num_tasks)

    def _observe(self):
        return np.column_stack([np.full(self.num_envs, 7.0), self.tasks])

    def _advance(self, actions):
        return actions * 1.0, np.zeros(self.num_envs, dtype=bool), {}


gym.register("Still-v0", vector_entry_point=Still)


def test_training_does_what_the_schedule_says(module, in_tmp, monkeypatch):
    rollouts = spy_on(monkeypatch, module, "rollout")
    advantages = spy_on(monkeypatch, module, "advantages_and_returns")
    updates = spy_on(monkeypatch, module, "update")
    logged = record_scalars(monkeypatch)
    settings = {
        "num_envs": 4,
        "episodes_per_trial": 40,
        "grow_trials": True,
        "gamma_start": 0.0,
        "gamma": 0.9,
        "ramp_fraction": 1.0,
        "learning_rate": 1e-3,
        "ent_coef": 0.1,
        "gae_lambda": 0.7,
    }
    train_tiny(module, total_timesteps=800, eval_trials=4, **settings)  # 160 steps a batch
    *training, evaluation = rollouts
    assert len(training) == len(updates) == 6
    step = 0
    for i, (arguments, data) in enumerate(training):
        progress = step / 800  # of training and of the ramp
        episodes = round(10 * 4**progress)
        assert arguments[3] == episodes
        assert data["valid"].shape == (episodes, 160 // episodes)
        (_, gamma, gae_lambda), _ = advantages[i]
        assert gamma == pytest.approx(1 - 0.1**progress)
        assert gae_lambda == 0.7
        assert updates[i][0][4] == pytest.approx(0.1 * (1 - progress))
        assert logged["charts/learning_rate"][i] == pytest.approx(1e-3 * (1 - progress))
        assert logged["charts/gamma"][i] == pytest.approx(gamma)
        assert logged["charts/episodes_per_trial"][i] == episodes
        step += data["valid"].sum().item()
    assert evaluation[0][3] == 40


def test_a_discount_may_start_at_zero(module):
    args = module.Args(total_timesteps=100, gamma_start=0.0, gamma=0.99, ramp_fraction=0.8)
    gammas = [module.schedule(args, step)[2] for step in (0, 20, 40, 80, 90)]
    assert gammas == pytest.approx([0, 1 - 0.01**0.25, 0.9, 0.99, 0.99])


@pytest.mark.parametrize("episodes", [1, 9, 10])
def test_short_trials_do_not_grow(module, episodes):
    args = module.Args(
        total_timesteps=100, grow_trials=True, episodes_per_trial=episodes, num_envs=7
    )
    for step in range(100):
        *_, length, num_envs = module.schedule(args, step)
        assert (length, num_envs) == (episodes, 7)


def test_minibatches_are_others_in_each_epoch_and_a_large_target_kl_stops_nothing(
    module, monkeypatch
):
    agent, data = make_batch(module, "bandit", 10, 3)
    data["returns"][0] = torch.arange(10.0)  # names the trials
    calls = spy_on(monkeypatch, module, "ppo_loss")
    args = module.Args(num_minibatches=2, update_epochs=4, target_kl=1e6)
    module.update(agent, torch.optim.Adam(agent.parameters(), lr=1e-4), data, args, 0.0)
    assert len(calls) == 8
    first_halves = set()
    for (_, minibatch, _, _), _ in calls[::2]:
        first_halves.add(frozenset(minibatch["returns"][0].tolist()))
    assert len(first_halves) > 1


def test_each_minibatch_steps_by_its_own_gradient(module):
    agent, data = make_batch(module, "bandit", 10, 3)
    parameters = list(agent.parameters())
    seen = []

    class Recorder:
        """An optimizer that leaves the agent as it is."""

        def zero_grad(self):
            agent.zero_grad()

        def step(self):
            seen.append([parameter.grad.clone() for parameter in parameters])

    args = module.Args(num_minibatches=1, update_epochs=3, max_grad_norm=1e9)
    module.update(agent, Recorder(), data, args, 0.0)
    assert len(seen) == 3
    torch.testing.assert_close(seen[1], seen[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(seen[2], seen[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("clip_coef, objective", [(0.1, 1.1), (0.3, 1.15)])
def test_ratios_are_clipped_as_far_away_as_asked(module, clip_coef, objective):
    agent, data = make_batch(module, "bandit", 10, 3)
    data["log_prob"] = data["log_prob"] - np.log(1.15)  # every ratio is 1.15
    data["advantage"] = torch.ones_like(data["advantage"])
    args = module.Args(norm_adv=False, clip_coef=clip_coef)
    _, logs = module.ppo_loss(agent, data, args, 0.0)
    assert logs["losses/policy_loss"].item() == pytest.approx(-objective, rel=1e-4)
    assert logs["losses/clipfrac"] == (1.0 if clip_coef < 0.15 else 0.0)


@pytest.mark.parametrize("env_id", ["Still-v0", "Bandit-v0"])
def test_norm_obs_takes_numbers_that_never_change_and_discrete_ones(
    module, env_id, in_tmp, monkeypatch
):
    rollouts = spy_on(monkeypatch, module, "rollout")
    train_tiny(module, env_id=env_id, norm_obs=True, total_timesteps=200)
    _, data = rollouts[-1]
    if env_id == "Still-v0":
        assert (data["x"][..., 0] == 0).all()
    else:
        assert (data["x"][..., 0] == 1).all()  # one-hot


def test_the_clock_of_a_resumed_run_goes_on(module, in_tmp, monkeypatch):
    _, run = train_tiny(module, total_timesteps=48)
    (run / "eval.json").unlink()
    torch.save(read(run / "checkpoint.pt") | {"wall_seconds": 5000.0}, run / "checkpoint.pt")
    logged = record_scalars(monkeypatch)
    result, _ = train_tiny(module, resume=str(run / "checkpoint.pt"), total_timesteps=96)
    saved = read(run / "checkpoint.pt")
    for seconds in (result["wall_seconds"], saved["wall_seconds"], 96 / logged["charts/SPS"][0]):
        assert 5000 <= seconds < 5600


@pytest.mark.parametrize("seconds, saves", [(0.0, 4), (1000.0, 2)])
def test_checkpoints_come_as_often_as_asked(module, seconds, saves, in_tmp, monkeypatch):
    written = spy_on(monkeypatch, module, "read_checkpoint")  # each one is read again
    train_tiny(module, checkpoint_seconds=seconds, total_timesteps=144)  # 3 iterations
    assert len(written) == saves


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(module, in_tmp):
    _, run = train_tiny(module, total_timesteps=48)
    checkpoint = run / "checkpoint.pt"
    early = checkpoint.read_bytes()
    for _ in range(2):  # twice from the same checkpoint
        (run / "eval.json").unlink()
        checkpoint.write_bytes(early)
        train_tiny(module, total_timesteps=144, resume=str(checkpoint))
    events = EventAccumulator(str(run))
    events.Reload()
    steps = [event.step for event in events.Scalars("charts/trial_return")]
    assert steps == [48, 96, 144]


def test_nothing_random_is_used_twice(module, in_tmp, monkeypatch):
    rollout = module.rollout
    weights = []
    seeds = []

    def spy(agent, env, tasks, episodes, seed):
        weights.append(agent.policy.weight.detach().clone())
        seeds.append((int(seed), torch.initial_seed()))
        return rollout(agent, env, tasks, episodes, seed)

    monkeypatch.setattr(module, "rollout", spy)
    for seed in (1, 2):  # two iterations and an evaluation each
        train_tiny(module, seed=seed, exp_name=f"s{seed}", total_timesteps=96, eval_trials=16)
    assert not torch.equal(weights[0], weights[3])
    evaluation = seeds[2]
    assert evaluation == seeds[5]  # the same held-out tasks, with the same luck
    in_training = [seeds[0], seeds[1], seeds[3], seeds[4], evaluation]
    numbers = {number for pair in in_training for number in pair}
    assert len(numbers) == 10


def test_another_process_has_trials_of_its_own_and_tracks_and_writes_nothing(
    module, in_tmp, monkeypatch
):
    calls = spy_on(monkeypatch, module, "rollout")
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    settings = TINY | SMALL[module] | {"total_timesteps": 96, "eval_trials": 5}
    assert module.train(module.Args(**settings)) is not None
    monkeypatch.setenv("RANK", "1")
    assert module.train(module.Args(**settings, track=True)) is None
    assert len(list(Path("runs").iterdir())) == 1
    first, second, _, third, fourth = calls  # the one in the middle is the evaluation
    training = [first, second, third, fourth]
    tasks = np.concatenate([arguments[2] for arguments, _ in training])
    assert len(np.unique(tasks, axis=0)) == 4 * 16
    assert len({int(arguments[4]) for arguments, _ in training}) == 4
    # the same first weights
    assert torch.equal(first[1]["value"][0, 0], third[1]["value"][0, 0])


def test_each_process_needs_a_trial_for_each_minibatch(module, in_tmp, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(envs.UsageError, match="num_minibatches times processes"):
        train_tiny(module, num_envs=15, num_minibatches=8)


def test_what_processes_count_is_counted_together(module, in_tmp, monkeypatch):
    """As if another process had seen twice as much: the mean is 1.5 times ours."""
    monkeypatch.setattr(module, "average", lambda x: 1.5 * x)
    stats = module.RunningMeanStd(2)
    stats.update(torch.ones(4, 2))
    assert (stats.count == 6).all()
    monkeypatch.setenv("WORLD_SIZE", "2")
    rollouts = spy_on(monkeypatch, module, "rollout")
    result, _ = train_tiny(module, total_timesteps=1, num_envs=17)
    _, data = rollouts[0]
    assert data["valid"].shape[1] == 8  # 17 / 2, rounded down
    assert result["global_step"] == 2 * 1.5 * data["valid"].sum()


def test_the_last_minibatch_of_an_epoch_decides_whether_it_is_the_last_epoch(module, monkeypatch):
    agent, data = make_batch(module, "bandit", 12, 3)
    original = module.ppo_loss
    divergences = [9.0, 9.0, 0.5, 0.5, 0.5, 2.0, 0.0, 0.0, 0.0]  # three of each epoch
    seen = []

    def ppo_loss(*arguments):
        loss, logs = original(*arguments)
        seen.append(divergences[len(seen)])
        return loss, logs | {"losses/approx_kl": torch.tensor(seen[-1])}

    monkeypatch.setattr(module, "ppo_loss", ppo_loss)
    args = module.Args(num_minibatches=3, update_epochs=3, target_kl=1.0)
    module.update(agent, torch.optim.SGD(agent.parameters(), lr=1e-4), data, args, 0.0)
    assert len(seen) == 6


@pytest.mark.parametrize("kl_of_others, epochs", [(0.0, 4), (1e9, 1)])
def test_an_early_stop_is_decided_by_the_mean_over_processes(
    module, kl_of_others, epochs, monkeypatch
):
    def average(x):  # the mean gradient stays ours, a single number does not
        return x + kl_of_others if x.dim() == 0 else x

    agent, data = make_batch(module, "bandit", 10, 3)
    monkeypatch.setattr(module, "average", average)
    calls = spy_on(monkeypatch, module, "ppo_loss")
    args = module.Args(num_minibatches=1, update_epochs=4, target_kl=1e6)
    module.update(agent, torch.optim.SGD(agent.parameters(), lr=1e-4), data, args, 0.0)
    assert len(calls) == epochs


@pytest.mark.parametrize("is_on", [False, True])
def test_torch_deterministic(module, is_on, in_tmp, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", not is_on)
    train_tiny(module, torch_deterministic=is_on, total_timesteps=1)
    assert torch.backends.cudnn.deterministic == is_on


def test_first_weights_and_the_optimizer(module, in_tmp):
    agent = module.Agent(envs.make("Bandit-v0"), module.Args())
    assert agent.value.weight.norm().item() == pytest.approx(1)
    assert (agent.value.bias == 0).all() and (agent.policy.bias == 0).all()
    # orthogonal rows of length 0.01
    rows = agent.policy.weight
    torch.testing.assert_close(rows @ rows.T, 1e-4 * torch.eye(5))
    if module is snail_ppo:
        # of length 0.1, those of 32 queries, 32 keys and 32 values
        rows = agent.attention.linear.weight
        torch.testing.assert_close(rows @ rows.T, 0.01 * torch.eye(96))
        assert (agent.attention.linear.bias == 0).all()
    _, run = train_tiny(module, total_timesteps=1)
    assert read(run / "checkpoint.pt")["optimizer"]["param_groups"][0]["eps"] == 1e-5


def test_an_environment_may_reuse_its_arrays(module):
    env = OneArray()
    agent = module.Agent(env, module.Args(**SMALL[module], episodes_per_trial=1))
    data = module.rollout(agent, env, None, 1, 0)
    assert data["obs"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert data["x"][:, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "name, number, sentence",
    [
        ("total_timesteps", 0, "total_timesteps must be above 0"),
        ("num_minibatches", 0, "num_minibatches must be above 0"),
        ("update_epochs", 0, "update_epochs must be above 0"),
        ("ramp_fraction", 0, "ramp_fraction must be above 0"),
        ("gae_lambda", 1.1, "gae_lambda must not exceed 1"),
        ("gamma_start", 1.1, "gamma_start must not exceed 1 or be below 0"),
        ("eval_trials", 1, "eval_trials must be at least 2"),
        ("eval_seed", -1, "seeds at least 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(module, name, number, sentence, in_tmp):
    with pytest.raises(envs.UsageError, match=sentence):
        train_tiny(module, **{name: number})
    assert not Path("runs").exists()
