"""RL^2 against independent computations: brute-force loops, closed forms, finite differences."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import envs
import rl2_ppo
import snail_ppo
from rl2_ppo import Agent, Args


def make_agent(env, **kwargs):
    torch.manual_seed(0)
    args = Args(hidden_size=16, **kwargs)
    agent = Agent(env, args)
    continuous = hasattr(agent, "log_std")
    torch.nn.init.normal_(agent.policy.weight, 0, 0.1 if continuous else 0.5)  # far from uniform, so that errors show
    if continuous:
        agent.log_std.data -= 1.5  # small steps, so that it comes upon goals near where it is
    return agent


def rollout(*arguments, **kwargs):
    """The rollout's tensors as ordinary ones, which autograd takes whole (an update takes copies of some trials)."""
    return {key: tensor.clone() for key, tensor in rl2_ppo.rollout(*arguments, **kwargs).items()}


def make_data(env_id, episodes, num_envs=12, seed=0, agent_kwargs=None, **env_kwargs):
    env = envs.make(env_id, num_envs, **env_kwargs)
    agent = make_agent(env, **(agent_kwargs or {}))
    tasks = env.sample_tasks(num_envs, np.random.default_rng(seed))
    return env, agent, tasks, rollout(agent, env, tasks, episodes, seed)


def early_ends(num_envs, horizon=8):
    """Navigation whose goals lie so near that many episodes end early, at times of their own."""
    env = envs.make("Navigation2D-v0", num_envs, horizon=horizon)
    return env, np.random.default_rng(0).uniform(-0.02, 0.02, (num_envs, 2))


# ------------------------------------------------------------------------------------- input, memory, mask, objective


@pytest.mark.parametrize("env_id", ["Bandit-v0", "TabularMDP-v0", "Navigation2D-v0"])
def test_input_is_observation_previous_action_reward_and_done(env_id):
    """Replays the environment with the rollout's actions and builds every input by hand."""
    env, agent, tasks, data = make_data(env_id, 3)
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    prev = np.zeros((12, agent.action_size + 2))
    discrete_obs = isinstance(env.single_observation_space, gym.spaces.Discrete)
    discrete_action = isinstance(env.single_action_space, gym.spaces.Discrete)
    for t in range(len(data["x"])):
        by_hand = np.concatenate([np.eye(agent.obs_size)[obs] if discrete_obs else obs, prev], axis=1)
        np.testing.assert_allclose(data["x"][t].numpy(), by_hand, atol=1e-6)
        action = data["action"][t].numpy()
        obs, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_allclose(data["reward"][t].numpy(), reward, atol=1e-6)
        done = terminated | truncated
        prev = np.column_stack([np.eye(agent.action_size)[action] if discrete_action else action, reward, done])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_memory_is_kept_over_episodes_and_new_in_every_trial(cell):
    env, agent, tasks, data = make_data("TabularMDP-v0", 3, agent_kwargs={"cell": cell}, horizon=4)
    # one recurrent cell, stepped by hand through all episodes of the trial
    cell_class = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[cell]
    by_hand = cell_class(agent.trunk.input_size, 16)
    by_hand.load_state_dict({k.removesuffix("_l0"): v for k, v in agent.trunk.state_dict().items()})
    state = torch.zeros(12, 16) if cell == "gru" else (torch.zeros(12, 16), torch.zeros(12, 16))
    for x, value in zip(data["x"], data["value"], strict=True):
        state = by_hand(x, state)
        h = state if cell == "gru" else state[0]
        torch.testing.assert_close(agent.value(h)[:, 0], value, atol=1e-5, rtol=1e-5)
    # what happened in the first episode is felt in the third
    x = data["x"].clone().requires_grad_()
    agent(x, agent.initial_state(12)[0])[1][-1].sum().backward()
    assert (x.grad[:4].abs().sum((0, 2)) > 0).all()
    # a second trial on the same environment owes nothing to the first
    again = rollout(agent, env, tasks, 3, 0)
    rollout(agent, env, tasks, 3, 1)
    torch.manual_seed(1)
    first = rollout(agent, env, tasks, 3, 0)
    assert (again["x"][0] == first["x"][0]).all() and (again["value"][0] == first["value"][0]).all()
    assert (first["x"][0, :, agent.obs_size :] == 0).all()


def test_valid_marks_the_steps_of_the_trial_and_no_others():
    env, goals = early_ends(64)
    agent = make_agent(env)
    data = rollout(agent, env, goals, 3, 0)
    env.reset(seed=0, options={"tasks": goals})
    over, returns = np.zeros(64, dtype=int), np.zeros((64, 3))
    for t in range(len(data["valid"])):
        np.testing.assert_array_equal(data["valid"][t], over < 3)
        _, reward, terminated, truncated, _ = env.step(data["action"][t].numpy())
        for n in range(64):
            if over[n] < 3:
                returns[n, over[n]] += reward[n]
        over += terminated | truncated
    assert (over >= 3).all() and data["valid"].sum() < data["valid"].numel() < 3 * 8 * 64 + 1
    assert len(set(data["valid"].sum(0).tolist())) > 3  # trials of several lengths
    np.testing.assert_allclose(rl2_ppo.episode_returns(data, 3), returns, atol=1e-5)


@pytest.mark.parametrize("gamma, gae_lambda", [(0.99, 0.95), (0.9, 0.3), (1.0, 1.0), (0.7, 0.0)])
def test_gae_runs_over_the_trial_as_the_double_sum_says(gamma, gae_lambda):
    rng = np.random.default_rng(0)
    lengths, num_steps = [7, 3, 10, 1], 10
    data = {"signal": rng.normal(size=(num_steps, 4)), "value": rng.normal(size=(num_steps, 4))}
    data["valid"] = np.arange(num_steps)[:, None] < np.array(lengths)
    advantage, returns = rl2_ppo.advantages_and_returns(
        {key: torch.as_tensor(array) for key, array in data.items()}, gamma, gae_lambda
    )
    for n, length in enumerate(lengths):
        value = np.append(data["value"][:length, n], 0.0)  # nothing follows the trial; its episodes make no difference
        for t in range(length):
            total = sum(
                (gamma * gae_lambda) ** (k - t) * (data["signal"][k, n] + gamma * value[k + 1] - value[k])
                for k in range(t, length)
            )
            assert abs(advantage[t, n].item() - total) < 1e-12
            assert abs(returns[t, n].item() - total - value[t]) < 1e-12
        assert (advantage[length:, n] == 0).all()
    if gamma == gae_lambda == 1:  # then the advantage is the return of the rest of the trial, minus the value
        assert abs(returns[0, 0].item() - data["signal"][:7, 0].sum()) < 1e-12


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("env_id", ["Bandit-v0", "TabularMDP-v0", "Navigation2D-v0", "early ends"])
def test_every_ratio_is_one_before_the_first_gradient_step(env_id, cell):
    if env_id == "early ends":
        env, tasks = early_ends(40)
    else:
        env = envs.make(env_id, 40)
        tasks = env.sample_tasks(40, np.random.default_rng(0))
    agent = make_agent(env, cell=cell, norm_obs=True)
    agent.obs_norm(torch.randn(100, agent.obs_size))
    data = rollout(agent, env, tasks, 4, 0)
    trials = torch.tensor([3, 17, 5])  # a minibatch, in an order of its own
    policy, value, _ = agent(data["x"][:, trials], agent.initial_state(3)[0])
    ratio = (policy.log_prob(data["action"][:, trials]) - data["log_prob"][:, trials]).exp()
    assert (ratio - 1).abs().max() < 2e-5
    torch.testing.assert_close(value, data["value"][:, trials], atol=2e-5, rtol=2e-5)


def test_ratio_with_amp_is_one_up_to_bfloat16(monkeypatch):
    monkeypatch.setattr(rl2_ppo, "AMP", ("cpu",))
    env = envs.make("TabularMDP-v0", 200)
    agent = make_agent(env, amp=True)
    data = rollout(agent, env, env.sample_tasks(200), 5, 0)
    assert data["log_prob"].dtype == data["value"].dtype == torch.float32
    policy, _, _ = agent(data["x"], agent.initial_state(200)[0])
    ratio = (policy.log_prob(data["action"]) - data["log_prob"]).exp()
    assert (ratio - 1).abs().mean() < 2e-3


@pytest.mark.parametrize("module", [rl2_ppo, snail_ppo])
def test_amp_is_float32_where_bfloat16_is_slow(module, monkeypatch):
    monkeypatch.setattr(module, "AMP", ("cuda",))
    env = envs.make("Bandit-v0", 5)
    torch.manual_seed(0)
    agent = module.Agent(env, module.Args(amp=True))
    both = []
    for agent.args.amp in (True, False):
        torch.manual_seed(1)
        both.append(module.rollout(agent, env, env.sample_tasks(5, np.random.default_rng(0)), 10, 0))
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])


@pytest.mark.parametrize("shape, image", [((9, 6, 3), (3, 9, 6)), ((2, 5, 8), (2, 5, 8)), ((3, 3, 3), (3, 3, 3))])
@pytest.mark.parametrize("module", [rl2_ppo, snail_ppo])
def test_images_are_seen_through_two_convolutions(module, shape, image):
    """Channels last or first: what the network gets to see, against convolutions computed by their definition."""
    pixels = gym.spaces.Box(0, 255, shape, np.uint8)
    env = SimpleNamespace(single_observation_space=pixels, single_action_space=gym.spaces.Discrete(3), horizon=4)
    agent = module.Agent(env, module.Args(norm_obs=True)).double()
    agent.obs_norm.running_mean.normal_(100), agent.obs_norm.running_var.fill_(400)
    obs = torch.randint(256, (2, *shape), dtype=torch.uint8)
    action, reward, done, first = torch.tensor([2, 0]), torch.ones(2), torch.zeros(2), torch.zeros(2, 1, dtype=bool)
    x = agent.encode(obs, action, reward, done, first)
    assert x.shape == (2, np.prod(shape) + 3 + 2)
    seen = []
    network = agent.trunk if module is rl2_ppo else agent.embedding
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    agent(torch.stack([x, x.flip(0)]).double(), agent.initial_state(2)[0])  # two steps
    normalised = (obs.flatten(1).double() - agent.obs_norm.running_mean) / (400 + 1e-8) ** 0.5
    maps = normalised.clamp(-10, 10).unflatten(1, shape)
    maps = (maps.permute(0, 3, 1, 2) if shape[2] == 3 else maps).numpy()  # [2, C, H, W]
    assert maps.shape[1:] == image
    for layer in (agent.eye[0], agent.eye[2]):
        weight, bias, (n, _, h, w) = layer.weight.detach().numpy(), layer.bias.detach().numpy(), maps.shape
        padded, out = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1))), np.zeros((n, len(bias), -(-h // 2), -(-w // 2)))
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                patch = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                out[:, :, i, j] = np.einsum("nchw,ochw->no", patch, weight) + bias
        maps = np.maximum(out, 0)
    expected = np.concatenate([maps.reshape(2, -1), x[:, np.prod(shape) :].numpy()], axis=1)
    np.testing.assert_allclose(seen[0].detach().numpy(), [expected, expected[::-1]], atol=1e-5)


def test_what_is_trained_on_and_what_is_seen(tmp_path, monkeypatch):
    """Minus the regret or the reward, scaled after the first iteration, is the signal; the input is the reward."""
    monkeypatch.chdir(tmp_path)
    seen, original = [], rl2_ppo.advantages_and_returns

    def spy(data, gamma, gae_lambda):
        seen.append((data, original(data, gamma, gae_lambda)[1]))
        return original(data, gamma, gae_lambda)

    monkeypatch.setattr(rl2_ppo, "advantages_and_returns", spy)
    rates, adam_step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), adam_step(self))
    )
    for from_regret in (False, True):
        seen.clear()
        args = {"total_timesteps": 96, "update_epochs": 2, "norm_reward": True, "cuda": False}
        args["learn_from_regret"] = from_regret
        rl2_ppo.train(Args(num_envs=16, num_minibatches=1, episodes_per_trial=3, eval_trials=8, **args))
        first, second = seen
        key, sign = ("regret", -1) if from_regret else ("reward", 1)
        for (data, _), scale in zip(seen, (1.0, (first[1].var() + 1e-8).sqrt()), strict=True):
            torch.testing.assert_close(data["signal"], sign * data[key] / scale)
            prev_reward = data["x"][1:, :, 1 + 5]
            torch.testing.assert_close(prev_reward, data["reward"][:-1])
        assert set(first[0]["reward"].unique().tolist()) == {0.0, 1.0}
    assert rates == [5e-3] * 2 + [2.5e-3] * 2 + [5e-3] * 2 + [2.5e-3] * 2  # annealed: two iterations of two epochs


def test_the_recurrent_kernel_stays_in_training_mode(tmp_path, monkeypatch):
    """cuDNN refuses to go backward through a recurrent network in evaluation mode."""
    monkeypatch.chdir(tmp_path)
    modes, original = [], rl2_ppo.update

    def spy(agent, *rest):
        modes.append(agent.trunk.training)
        return original(agent, *rest)

    monkeypatch.setattr(rl2_ppo, "update", spy)
    args = {"env_id": "Navigation2D-v0", "env_kwargs": {"horizon": 3}, "norm_obs": True, "norm_reward": True}
    rl2_ppo.train(Args(num_envs=8, num_minibatches=1, episodes_per_trial=2, eval_trials=8, total_timesteps=96, **args))
    assert modes == [True, True]


def test_regret_is_that_of_the_arm_pulled():
    env, agent, tasks, data = make_data("Bandit-v0", 6)
    best = torch.as_tensor(tasks.max(axis=1))
    arm_mean = torch.as_tensor(tasks).gather(1, data["action"].T).T
    torch.testing.assert_close(data["regret"], (best - arm_mean).float())


# --------------------------------------------------------------------------------------------------- loss and update


def reference_loss(agent, data, args):
    """PPO's loss, one step of one trial at a time, from torch's primitives."""
    steps = []
    for n in range(data["x"].shape[1]):
        state = agent.initial_state(1)[0]
        for t in range(int(data["valid"][:, n].sum())):
            policy, value, state = agent(data["x"][t : t + 1, n : n + 1], state)
            log_prob = policy.log_prob(data["action"][t : t + 1, n : n + 1])[0, 0]
            steps.append((n, t, log_prob, value[0, 0], policy.entropy()[0, 0]))
    advantages = torch.stack([data["advantage"][t, n] for n, t, *_ in steps])
    if args.norm_adv:
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    total = 0.0
    for (n, t, log_prob, value, entropy), advantage in zip(steps, advantages, strict=True):
        ratio = torch.exp(log_prob - data["log_prob"][t, n])
        bounded = min(max(ratio, 1 - args.clip_coef), 1 + args.clip_coef)
        total = total - min(ratio * advantage, bounded * advantage)
        total = total + args.vf_coef * 0.5 * (value - data["returns"][t, n]) ** 2 - 0.1 * entropy
    return total / len(steps)


@pytest.mark.parametrize("env_id", ["TabularMDP-v0", "early ends"])
def test_loss_and_gradient_against_a_loop_and_finite_differences(env_id):
    env, tasks = early_ends(6) if env_id == "early ends" else (envs.make(env_id, 6, horizon=4), None)
    tasks = env.sample_tasks(6, np.random.default_rng(0)) if tasks is None else tasks
    agent = make_agent(env)
    data = rollout(agent, env, tasks, 2, 0)
    data = {k: v.double() if v.is_floating_point() else v.clone() for k, v in data.items()}
    agent.double()
    data["signal"] = data["reward"]
    data["advantage"], data["returns"] = rl2_ppo.advantages_and_returns(data, 0.9, 0.8)
    with torch.no_grad():  # a policy that has moved since, so that some ratios are clipped and others not
        for parameter in agent.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    loss, logs = rl2_ppo.ppo_loss(agent, data, agent.args, 0.1)
    assert 0.05 < logs["clipfrac"] < 0.95
    torch.testing.assert_close(loss, reference_loss(agent, data, agent.args), atol=1e-10, rtol=1e-10)
    loss.backward()
    for parameter in agent.parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += 1e-6 * direction
            above = reference_loss(agent, data, agent.args)
            parameter -= 2e-6 * direction
            below = reference_loss(agent, data, agent.args)
            parameter += 1e-6 * direction
        assert abs((above - below) / 2e-6 - (parameter.grad * direction).sum()) < 1e-6
    # whatever lies behind the end of a trial has no influence
    if env_id == "early ends":
        noisy = {
            k: torch.where(data["valid"], v, v + 7) if k in ("advantage", "returns") else v for k, v in data.items()
        }
        assert rl2_ppo.ppo_loss(agent, noisy, agent.args, 0.1)[0] == loss


def test_update_visits_every_trial_once_per_epoch_and_heeds_target_kl():
    env, agent, tasks, data = make_data("Bandit-v0", 3, num_envs=10)
    data["signal"] = data["reward"]
    data["advantage"], data["returns"] = rl2_ppo.advantages_and_returns(data, 0.9, 0.8)
    visited, original = [], rl2_ppo.ppo_loss

    def spy(agent, batch, *rest):
        visited.append(batch["returns"][0])
        return original(agent, batch, *rest)

    rl2_ppo.ppo_loss = spy
    try:
        data["returns"][0] = torch.arange(10.0)  # a name for each trial
        optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)
        args = Args(num_minibatches=3, update_epochs=4)
        rl2_ppo.update(agent, optimizer, data, args, 0.0)
        assert len(visited) == 12
        for epoch in range(4):
            assert sorted(torch.cat(visited[3 * epoch : 3 * epoch + 3]).tolist()) == list(range(10))
        visited.clear()
        rl2_ppo.update(agent, optimizer, data, Args(num_minibatches=3, update_epochs=4, target_kl=1e-9), 0.0)
        assert len(visited) == 3
    finally:
        rl2_ppo.ppo_loss = original


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("discrete", [True, False])
def test_no_stray_cpu_tensors(cell, discrete):
    """On torch's meta device any operation with a tensor of another device fails."""
    obs_space = gym.spaces.Discrete(4) if discrete else gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(5) if discrete else gym.spaces.Box(-1, 1, (2,))
    env = SimpleNamespace(single_observation_space=obs_space, single_action_space=action_space)
    agent = Agent(env, Args(hidden_size=8, cell=cell, norm_obs=True)).to("meta")
    memory, first = agent.initial_state(6)
    obs = torch.zeros(6, dtype=torch.long, device="meta") if discrete else torch.zeros(6, 3, device="meta")
    action = torch.zeros(6, dtype=torch.long, device="meta") if discrete else torch.zeros(6, 2, device="meta")
    number = torch.zeros(6, device="meta")
    x = agent.encode(obs, action, number, number, first)
    assert x.device.type == "meta"
    data = {"x": x.expand(7, *x.shape), "action": action.expand(7, *action.shape)}
    for key in ("log_prob", "signal", "value"):
        data[key] = torch.zeros(7, 6, device="meta")
    data["valid"] = torch.ones(7, 6, dtype=torch.bool, device="meta")
    data["advantage"], data["returns"] = rl2_ppo.advantages_and_returns(data, 0.9, 0.9)
    loss, _ = rl2_ppo.ppo_loss(agent, data, agent.args, 0.1)
    loss.backward()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in agent.parameters())


def test_normalisation_uses_the_moments_of_all_batches_so_far():
    env = envs.make("Navigation2D-v0")
    agent, rng = make_agent(env, norm_obs=True), np.random.default_rng(0)
    batches = [rng.normal(5, [1, 30], (500, 2)).astype(np.float32) for _ in range(4)]
    for batch in batches:
        agent.obs_norm(torch.as_tensor(batch))
    mean, var = np.mean(batches, axis=(0, 1)), np.mean([batch.var(0, ddof=1) for batch in batches], axis=0)
    obs = torch.tensor([[6.0, -40.0], [5.0, 1e6]])
    x = agent.encode(obs, torch.zeros(2, 2), torch.zeros(2), torch.zeros(2), torch.ones(2, 1, dtype=torch.bool))
    np.testing.assert_allclose(x[:, :2], ((obs.numpy() - mean) / np.sqrt(var + 1e-8)).clip(-10, 10), rtol=1e-4)


@pytest.mark.parametrize("low, high, unit", [(-0.1, 0.1, 0.1), (0.0, 3.0, 1.5), (-np.inf, np.inf, 1.0)])
def test_the_policy_measures_continuous_actions_in_half_their_range(low, high, unit):
    """So that the first policy's deviation spans the range, and a step of the optimiser moves it by as much in any."""
    spaces = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(low, high, (2,))
    env = SimpleNamespace(single_observation_space=spaces[0], single_action_space=spaces[1], horizon=4)
    agent = Agent(env, Args())
    obs, action, number = torch.randn(7, 3), torch.randn(7, 2), torch.randn(7)
    memory, first = agent.initial_state(7)
    x = agent.encode(obs, action, number, number, torch.zeros_like(first))
    torch.testing.assert_close(x[:, 3:5], action)  # raw
    policy, _, _ = agent(x[None], memory)
    assert torch.allclose(policy.stddev, torch.tensor(unit)) and policy.mean.abs().max() < 0.1 * unit
    h, _ = agent.trunk(x[None], memory)
    torch.testing.assert_close(policy.mean, unit * agent.policy(h))
    expected = torch.distributions.Normal(policy.mean, unit).log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_prob(action[None]), expected)


def test_schedule_of_the_levers():
    args = Args(grow_trials=True, gamma_start=0.8, gamma=0.99, episodes_per_trial=100, num_envs=40, ent_coef=0.1)
    args.ramp_fraction = 0.5
    rows = [rl2_ppo.schedule(args, p) for p in np.linspace(0, 0.999, 200)]
    assert rows[0] == (args.learning_rate, 0.1, pytest.approx(0.8), 10, 400)
    assert rows[-1][2:] == (pytest.approx(0.99), 100, 40)
    lookahead = [1 / (1 - gamma) for _, _, gamma, _, _ in rows[:100]]
    ratios = np.diff(np.log(lookahead))
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)  # geometric
    for _, _, _, episodes, num_trials in rows:
        assert 10 <= episodes <= 100 and abs(episodes * num_trials - 4000) < episodes
    plain = Args()
    assert rl2_ppo.schedule(plain, 0.3)[2:] == (plain.gamma, plain.episodes_per_trial, plain.num_envs)
    assert rl2_ppo.schedule(Args(anneal_lr=False, ent_coef=0.1), 0.3)[:2] == (plain.learning_rate, 0.1)
    assert rl2_ppo.schedule(Args(ent_coef=0.1), 0.25)[:2] == (0.75 * plain.learning_rate, 0.75 * 0.1)


# ------------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_is_of_held_out_tasks_and_the_two_estimates_agree():
    env = envs.make("Bandit-v0")
    agent = make_agent(env)
    result = rl2_ppo.evaluate(agent, "Bandit-v0", {}, 4, 6000, 0)
    assert result["num_trials"] == 6000 and result["episodes_per_trial"] == 4
    assert abs(sum(result["return_by_episode"]) - result["return_mean"]) < 1e-6
    assert abs(result["random_return_mean"] - 2) < 4.5 * 2 / 6000**0.5
    error = result["return_mean_pseudo"] - result["return_mean"]
    assert abs(error) < 4.5 * (result["return_stderr"] ** 2 + result["return_stderr_pseudo"] ** 2) ** 0.5
    assert result["return_stderr_pseudo"] < result["return_stderr"]
    other = copy.deepcopy(agent)
    torch.nn.init.zeros_(other.policy.weight)
    torch.manual_seed(123)
    assert rl2_ppo.evaluate(agent, "Bandit-v0", {}, 4, 6000, 0) == result  # the same, whatever ran in between
    assert rl2_ppo.evaluate(other, "Bandit-v0", {}, 4, 6000, 0)["random_return_mean"] == result["random_return_mean"]
    assert rl2_ppo.evaluate(agent, "Bandit-v0", {}, 4, 6000, 1)["random_return_mean"] != result["random_return_mean"]


def test_standard_errors_cover_the_truth():
    """A policy whose expected return is known exactly: always the first arm, in evaluations of many seeds."""
    agent = make_agent(envs.make("Bandit-v0"))
    torch.nn.init.zeros_(agent.policy.weight)
    agent.policy.bias.data[0] = 100.0
    z = []
    for seed in range(40):
        result = rl2_ppo.evaluate(agent, "Bandit-v0", {}, 2, 500, seed)
        z.append((result["return_mean"] - 1.0) / result["return_stderr"])
    assert abs(np.mean(z)) < 4.5 / 40**0.5 and 0.6 < np.std(z) < 1.5


def test_act_is_the_policy_of_the_rollout():
    env, agent, tasks, _ = make_data("TabularMDP-v0", 2, num_envs=30, horizon=5)
    torch.manual_seed(3)
    expected = rollout(agent, env, tasks, 2, 0)
    torch.manual_seed(3)
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    state = agent.initial_state(30)
    action, reward, done = np.full(30, -1.0), np.full(30, np.nan), np.ones(30)  # ignored in the first step
    for t in range(10):
        action, state = agent.act(obs, action, reward, done, state)
        assert (action == expected["action"][t]).all()
        obs, reward, terminated, truncated, _ = env.step(action.numpy())
        done = terminated | truncated


# ------------------------------------------------------------------------------------------------------ checkpoints

TINY = {
    "num_envs": 16,
    "num_minibatches": 2,
    "update_epochs": 2,
    "hidden_size": 8,
    "episodes_per_trial": 3,
    "eval_trials": 50,
    "cuda": False,
}


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_tiny(**kwargs):
    result = rl2_ppo.train(Args(**{**TINY, "total_timesteps": 480, "save_model": True, **kwargs}))
    return result, max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_run_writes_what_it_promises(in_tmp):
    result, run = train_tiny(norm_reward=True)
    assert {"args.json", "checkpoint.pt", "agent.pt", "eval.json"} <= {path.name for path in run.iterdir()}
    assert run.name.startswith("Bandit-v0__rl2_ppo__1__") and list(run.glob("events.*"))
    assert json.loads((run / "eval.json").read_text()) == result
    keys = "env_id env_kwargs algorithm seed global_step wall_seconds num_trials episodes_per_trial return_mean"
    keys += " return_stderr return_by_episode return_by_episode_stderr random_return_mean return_mean_pseudo"
    assert set(keys.split()) | {"return_stderr_pseudo"} == set(result)
    assert result["global_step"] == 480 and json.loads((run / "args.json").read_text())["num_envs"] == 16
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    assert saved["global_step"] == 480 and saved["agent"]["return_norm.num_batches_tracked"] == 10
    assert (run / "agent.pt").stat().st_size < 100_000


def test_load_gives_the_agent_that_was_trained(in_tmp):
    result, run = train_tiny(env_kwargs={"num_arms": 3}, cell="lstm")
    for name in ("checkpoint.pt", "agent.pt"):
        agent = rl2_ppo.load(run / name)
        assert agent.args.cell == "lstm" and agent.action_size == 3
        again = rl2_ppo.evaluate(agent, "Bandit-v0", {"num_arms": 3}, 3, 50, 0)
        assert all(result[key] == number for key, number in again.items())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"env_id": "TabularMDP-v0", "norm_reward": True, "learn_from_regret": True, "gamma_start": 0.5},
        {"env_id": "Navigation2D-v0", "env_kwargs": {"horizon": 6}, "norm_obs": True, "cell": "lstm"},
        {"grow_trials": True, "episodes_per_trial": 30},
    ],
)
def test_stopped_and_resumed_equals_never_stopped(in_tmp, monkeypatch, kwargs):
    """A run that saves after every iteration is cut in the middle; its checkpoint goes on to the same end."""
    kwargs = {"total_timesteps": 3000, "checkpoint_seconds": 1e-9, **kwargs}
    whole, run = train_tiny(**kwargs)
    parameters = torch.load(run / "checkpoint.pt", weights_only=True)
    calls, original = [], rl2_ppo.update

    def update(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(rl2_ppo, "update", update)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(**kwargs, exp_name="cut")
    (checkpoint,) = in_tmp.glob("runs/*cut*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 2
    monkeypatch.setattr(rl2_ppo, "update", original)
    resumed, _ = train_tiny(**kwargs, exp_name="cut", resume=str(checkpoint))
    del whole["wall_seconds"], resumed["wall_seconds"]
    assert whole == resumed
    for name, tensor in torch.load(checkpoint, weights_only=True)["agent"].items():
        assert torch.equal(tensor, parameters["agent"][name])


def test_resuming_a_finished_run_evaluates_again(in_tmp):
    result, run = train_tiny()
    again = rl2_ppo.train(Args(**{**TINY, "total_timesteps": 480, "resume": str(run / "checkpoint.pt")}))
    assert again["return_mean"] == result["return_mean"] and again["global_step"] == 480


def test_a_nonfinite_loss_stops_the_run_and_keeps_the_checkpoint(in_tmp, monkeypatch):
    original, calls = rl2_ppo.ppo_loss, []

    def poisoned(*arguments):
        calls.append(1)
        loss, logs = original(*arguments)
        return (loss, logs) if len(calls) < 20 else (loss * torch.nan, logs | {"value_loss": loss * torch.nan})

    monkeypatch.setattr(rl2_ppo, "ppo_loss", poisoned)
    with pytest.raises(ValueError, match="Not finite in iteration 5: .*'value_loss': nan"):
        train_tiny(checkpoint_seconds=1e-9)
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["iteration"] == 4 and all(tensor.isfinite().all() for tensor in saved["agent"].values())
