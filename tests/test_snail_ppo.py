"""SNAIL against independent computations: convolutions and attention by their definition, gradients, an exact mask."""

import inspect
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import envs
import rl2_ppo
import snail_ppo
from snail_ppo import Agent, Args


def make_agent(env, episodes=4, **kwargs):
    torch.manual_seed(0)
    agent = Agent(env, Args(**{"sizes": (8, 4, 6, 5), "episodes_per_trial": episodes, **kwargs}))
    # Far from uniform, so that errors show; a Gaussian's mean must not amplify the previous action from step to step.
    torch.nn.init.normal_(agent.policy.weight, 0, 0.1 if isinstance(env.single_action_space, gym.spaces.Box) else 0.5)
    if hasattr(agent, "log_std"):
        agent.log_std.data -= 1.5  # small steps, so that it comes upon goals near where it is
    return agent


def make_bandit_agent(steps, dtype=torch.float32, **kwargs):
    """An agent for trials of `steps` steps (a pull is an episode of one), and random inputs [steps, 3 trials, .]."""
    agent = make_agent(envs.make("Bandit-v0"), steps, **kwargs).to(dtype)
    return agent, torch.randn(steps, 3, agent.embedding.in_features, dtype=dtype)


def early_ends(num_envs, horizon=8):
    """Navigation whose goals lie so near that many episodes end early, at times of their own."""
    env = envs.make("Navigation2D-v0", num_envs, horizon=horizon)
    return env, np.random.default_rng(0).uniform(-0.02, 0.02, (num_envs, 2))


def rollout(*arguments, **kwargs):
    """The rollout's tensors as ordinary ones, which autograd takes whole."""
    return {key: tensor.clone() for key, tensor in snail_ppo.rollout(*arguments, **kwargs).items()}


# -------------------------------------------------------------------------------------------------------- the network


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_definition(agent, x):
    """Logits [T, A] and values [T] of one trial x [T, input], in numpy: an output, a filter tap, a key at a time."""
    p = {name: tensor.detach().double().numpy() for name, tensor in agent.state_dict().items()}
    h = [p["embedding.weight"] @ x_t + p["embedding.bias"] for x_t in x]
    layers = len(agent.now)
    per_block = int(np.ceil(np.log2(len(x)))) if len(x) > 2 else 1
    assert layers == agent.args.tc_blocks * per_block
    for i in range(layers):
        dilation, new = 2 ** (i % per_block), []
        for t in range(len(x)):
            g = p[f"now.{i}.weight"] @ h[t] + p[f"now.{i}.bias"]
            if t - dilation >= 0:
                g = g + p[f"before.{i}.weight"] @ h[t - dilation]
            half = len(g) // 2
            new.append(np.tanh(g[:half]) * sigmoid(g[half:]))
        h = [np.concatenate(pair) for pair in zip(h, new, strict=True)]
    size, out = agent.key_size, []
    rows = [p["attention.weight"] @ h_t + p["attention.bias"] for h_t in h]
    for t in range(len(x)):
        scores = np.array([rows[t][:size] @ rows[u][size : 2 * size] / np.sqrt(size) for u in range(t + 1)])
        weights = np.exp(scores - scores.max())
        read = sum(w * rows[u][2 * size :] for u, w in enumerate(weights / weights.sum()))
        out.append(np.concatenate([h[t], read]))
    out = np.array(out)
    return out @ p["policy.weight"].T + p["policy.bias"], out @ p["value.weight"][0] + p["value.bias"]


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 16, 21])
def test_whole_trials_are_what_the_definition_says(steps):
    agent, x = make_bandit_agent(steps, torch.float64, tc_blocks=1 + steps % 2)
    policy, value, _ = agent(x, agent.initial_state(3)[0])
    for n in range(3):
        logits, values = by_definition(agent, x[:, n].numpy())
        expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        np.testing.assert_allclose(policy.logits[:, n].detach(), expected, atol=1e-12)
        np.testing.assert_allclose(value[:, n].detach(), values, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_step_by_step_equals_the_whole_trial(dtype, tolerance):
    """For random sizes, lengths that are no powers of two, and step by step from the start or from a later time on."""
    rng = np.random.default_rng(0)
    for steps in (1, 2, 3, 5, 12, 33, 100):
        sizes = tuple(rng.integers(1, 20, 4).tolist())
        agent, x = make_bandit_agent(steps, dtype, sizes=sizes, tc_blocks=int(rng.integers(1, 4)))
        whole, values, _ = agent(x, agent.initial_state(3)[0])
        for first in {0, 1, int(rng.integers(steps))} & set(range(steps)):
            with torch.no_grad():
                memory = agent.initial_state(3)[0]
                if first > 0:  # all steps up to there at once
                    policy, value, memory = agent(x[:first], memory)
                    torch.testing.assert_close(policy.logits, whole.logits[:first], atol=tolerance, rtol=0)
                for t in range(first, steps):
                    policy, value, memory = agent(x[t : t + 1], memory)
                    torch.testing.assert_close(policy.logits[0], whole.logits[t], atol=tolerance, rtol=0)
                    torch.testing.assert_close(value[0], values[t], atol=tolerance, rtol=0)


def test_memory_is_allocated_once_and_grows_linearly_with_the_trial():
    sizes = {}
    for steps in (64, 128, 1000):
        agent, x = make_bandit_agent(steps)
        features, keys_values, taken = agent.initial_state(3)[0]
        assert taken == 0 and features.shape == (steps, 3, agent.size)
        assert agent.size == 8 + 4 * 2 * int(np.ceil(np.log2(steps)))
        sizes[steps] = keys_values.numel()
    assert sizes[128] == 2 * sizes[64] and sizes[1000] == 1000 * 3 * 11
    with torch.no_grad():
        _, _, later = agent(x[:1], (features, keys_values, 0))
    assert later[0] is features and later[1] is keys_values and later[2] == 1


def test_the_update_leaves_memory_untouched():
    agent, x = make_bandit_agent(7)
    memory = agent.initial_state(3)[0]
    for tensor in memory[:2]:
        tensor.fill_(torch.nan)
    policy, _, _ = agent(x, memory)
    assert policy.logits.isfinite().all() and all(tensor.isnan().all() for tensor in memory[:2])


@pytest.mark.parametrize("steps", [2, 5, 13, 32])
@pytest.mark.parametrize("tc_blocks, attention", [(1, False), (2, False), (1, True)])
def test_no_output_sees_the_future_and_every_output_sees_the_whole_past(steps, tc_blocks, attention):
    """The gradient by later inputs is exactly zero, by every earlier one it is not: through convolutions alone, too."""
    agent, x = make_bandit_agent(steps, torch.float64, tc_blocks=tc_blocks)
    if not attention:
        torch.nn.init.zeros_(agent.attention.weight)
    x.requires_grad_()
    _, value, _ = agent(x, agent.initial_state(3)[0])
    for t in range(steps):
        (gradient,) = torch.autograd.grad(value[t, 1], x, retain_graph=True)
        sizes = gradient.abs().sum(2)  # [T, N]
        assert (sizes[t + 1 :] == 0).all() and (sizes[: t + 1, 1] > 0).all()
        assert (sizes[:, [0, 2]] == 0).all()  # nor does a trial see another one


def test_memory_of_one_environment_does_not_leak_into_another():
    agent, x = make_bandit_agent(9)
    other, results = x.clone(), []
    other[:, [0, 2]] += 3
    for inputs in (x, other):
        with torch.no_grad():
            memory = agent.initial_state(3)[0]
            values = []
            for t in range(9):
                _, value, memory = agent(inputs[t : t + 1], memory)
                values.append(value[0])
        results.append(torch.stack(values))
    torch.testing.assert_close(results[0][:, 1], results[1][:, 1], atol=1e-7, rtol=0)
    assert (results[0][:, [0, 2]] != results[1][:, [0, 2]]).all()


def test_a_trial_longer_than_memory_is_a_clear_error():
    agent, x = make_bandit_agent(5)
    with torch.no_grad():
        memory = agent.initial_state(3)[0]
        for t in range(5):
            _, _, memory = agent(x[t : t + 1], memory)
        with pytest.raises(envs.UsageError, match="takes 5 steps"):
            agent(x[:1], memory)
        with pytest.raises(envs.UsageError, match="after the first call one at a time"):
            agent(x[:2], (*memory[:2], 1))
    with pytest.raises(envs.UsageError, match="takes 5 steps"):
        agent(torch.cat([x, x]), agent.initial_state(3)[0])


def test_single_steps_are_right_without_no_grad_too():
    agent, x = make_bandit_agent(6)
    _, values, _ = agent(x, agent.initial_state(3)[0])
    memory = agent.initial_state(3)[0]
    for t in range(6):
        _, value, memory = agent(x[t : t + 1], memory)
        torch.testing.assert_close(value[0], values[t], atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------------------------- what RL^2 shares


@pytest.mark.parametrize(
    "name",
    "rollout advantages_and_returns ppo_loss update episode_returns evaluate read_checkpoint load schedule".split(),
)
def test_the_rest_is_that_of_rl2_to_the_letter(name):
    """So that the tests of RL^2's objective, masks, loss, schedules and evaluation hold for SNAIL as well."""
    assert inspect.getsource(getattr(snail_ppo, name)) == inspect.getsource(getattr(rl2_ppo, name))


def test_train_and_main_differ_in_the_arguments_a_resume_checks_alone():
    ours, theirs = (inspect.getsource(module).splitlines() for module in (snail_ppo, rl2_ppo))
    ours, theirs = (lines[lines.index("@torch.inference_mode()") :] for lines in (ours, theirs))
    assert [
        line for line, other in zip(ours, theirs, strict=True) if line != other and '"env_kwargs", "' not in line
    ] == []
    ours, theirs = (asdict(module.Args()) for module in (snail_ppo, rl2_ppo))
    assert set(ours) ^ set(theirs) == {"tc_blocks", "sizes", "cell", "hidden_size"}
    for method in ("encode", "act"):
        assert inspect.getsource(getattr(Agent, method)) == inspect.getsource(getattr(rl2_ppo.Agent, method))


@pytest.mark.parametrize("env_id", ["Bandit-v0", "TabularMDP-v0", "Navigation2D-v0", "early ends"])
def test_every_ratio_is_one_before_the_first_gradient_step(env_id):
    if env_id == "early ends":
        env, tasks = early_ends(40)
    else:
        env = envs.make(env_id, 40, **({"horizon": 15} if env_id == "Navigation2D-v0" else {}))
        tasks = env.sample_tasks(40, np.random.default_rng(0))
    agent = make_agent(env, norm_obs=True)
    agent.obs_norm(torch.randn(100, agent.obs_size))
    data = rollout(agent, env, tasks, 4, 0)
    trials = torch.tensor([3, 17, 5])  # a minibatch, in an order of its own
    policy, value, _ = agent(data["x"][:, trials], agent.initial_state(3)[0])
    ratio = (policy.log_prob(data["action"][:, trials]) - data["log_prob"][:, trials]).exp()
    assert (ratio - 1).abs().max() < 2e-5
    torch.testing.assert_close(value, data["value"][:, trials], atol=2e-5, rtol=2e-5)


def test_ratio_with_amp_is_one_up_to_bfloat16(monkeypatch):
    monkeypatch.setattr(snail_ppo, "AMP", ("cpu",))
    env = envs.make("TabularMDP-v0", 200)
    agent = make_agent(env, 5, amp=True, sizes=(32, 32, 32, 32))
    data = rollout(agent, env, env.sample_tasks(200), 5, 0)
    assert data["log_prob"].dtype == data["value"].dtype == torch.float32
    assert agent.initial_state(1)[0][0].dtype == torch.bfloat16
    policy, _, _ = agent(data["x"], agent.initial_state(200)[0])
    ratio = (policy.log_prob(data["action"]) - data["log_prob"]).exp()
    assert (ratio - 1).abs().mean() < 5e-3


def test_gradient_of_the_loss_against_finite_differences():
    env = envs.make("TabularMDP-v0", 6, horizon=4)
    agent = make_agent(env, 3)
    data = rollout(agent, env, env.sample_tasks(6, np.random.default_rng(0)), 3, 0)
    data = {k: v.double() if v.is_floating_point() else v for k, v in data.items()}
    agent.double()
    data["signal"] = data["reward"]
    data["advantage"], data["returns"] = snail_ppo.advantages_and_returns(data, 0.9, 0.8)
    with torch.no_grad():  # a policy that has moved since, so that some ratios are clipped and others not
        for parameter in agent.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    loss, logs = snail_ppo.ppo_loss(agent, data, agent.args, 0.1)
    assert 0.05 < logs["clipfrac"] < 0.95
    loss.backward()
    for parameter in agent.parameters():
        direction, losses = torch.randn_like(parameter), []
        for sign in (1e-6, -2e-6):
            with torch.no_grad():
                parameter += sign * direction
            losses.append(snail_ppo.ppo_loss(agent, data, agent.args, 0.1)[0].item())
        with torch.no_grad():
            parameter += 1e-6 * direction
        assert abs((losses[0] - losses[1]) / 2e-6 - (parameter.grad * direction).sum()) < 1e-6


def test_act_is_the_policy_of_the_rollout():
    env = envs.make("TabularMDP-v0", 30, horizon=5)
    agent = make_agent(env, 2)
    tasks = env.sample_tasks(30, np.random.default_rng(0))
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


@pytest.mark.parametrize("discrete", [True, False])
def test_no_stray_cpu_tensors(discrete):
    """On torch's meta device any operation with a tensor of another device fails."""
    obs_space = gym.spaces.Discrete(4) if discrete else gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(5) if discrete else gym.spaces.Box(-1, 1, (2,))
    env = SimpleNamespace(single_observation_space=obs_space, single_action_space=action_space, horizon=7)
    agent = Agent(env, Args(episodes_per_trial=1, norm_obs=True)).to("meta")
    memory, first = agent.initial_state(6)
    obs = torch.zeros(6, dtype=torch.long, device="meta") if discrete else torch.zeros(6, 3, device="meta")
    action = torch.zeros(6, dtype=torch.long, device="meta") if discrete else torch.zeros(6, 2, device="meta")
    number = torch.zeros(6, device="meta")
    x = agent.encode(obs, action, number, number, first)
    with torch.no_grad():
        for _ in range(2):
            _, _, memory = agent(x[None], memory)
    data = {"x": x.expand(7, *x.shape), "action": action.expand(7, *action.shape)}
    for key in ("log_prob", "advantage", "returns"):
        data[key] = torch.zeros(7, 6, device="meta")
    data["valid"] = torch.ones(7, 6, dtype=torch.bool, device="meta")
    loss, _ = snail_ppo.ppo_loss(agent, data, agent.args, 0.1)
    loss.backward()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in agent.parameters())


# ---------------------------------------------------------------------------------------------------------------- runs

TINY = {"num_envs": 16, "num_minibatches": 2, "update_epochs": 2, "sizes": (6, 4, 5, 3), "episodes_per_trial": 3}
TINY |= {"eval_trials": 50, "cuda": False, "total_timesteps": 480, "save_model": True}


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_tiny(**kwargs):
    result = snail_ppo.train(Args(**{**TINY, **kwargs}))
    return result, max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_run_writes_what_it_promises_and_load_reads_it(in_tmp):
    result, run = train_tiny(env_kwargs={"num_arms": 3})
    assert {"args.json", "checkpoint.pt", "agent.pt", "eval.json"} <= {path.name for path in run.iterdir()}
    assert run.name.startswith("Bandit-v0__snail_ppo__1__") and list(run.glob("events.*"))
    assert json.loads((run / "eval.json").read_text()) == result and result["algorithm"] == "snail_ppo"
    for name in ("checkpoint.pt", "agent.pt"):
        agent = snail_ppo.load(run / name)
        assert agent.args.sizes == (6, 4, 5, 3) and agent.action_size == 3
        again = snail_ppo.evaluate(agent, "Bandit-v0", {"num_arms": 3}, 3, 50, 0)
        assert all(result[key] == number for key, number in again.items())
    with pytest.raises(envs.UsageError, match="takes 3 steps"):
        snail_ppo.evaluate(agent, "Bandit-v0", {"num_arms": 3}, 4, 50, 0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"env_id": "TabularMDP-v0", "env_kwargs": {"horizon": 4}, "norm_reward": True, "learn_from_regret": True},
        {"env_id": "Navigation2D-v0", "env_kwargs": {"horizon": 6}, "norm_obs": True, "amp": True},
        {"grow_trials": True, "episodes_per_trial": 30, "gamma_start": 0.5},
    ],
)
def test_stopped_and_resumed_equals_never_stopped(in_tmp, monkeypatch, kwargs):
    """A run that saves after every iteration is cut in the middle; its checkpoint goes on to the same end."""
    kwargs = {"total_timesteps": 2000, "checkpoint_seconds": 1e-9, **kwargs}
    whole, run = train_tiny(**kwargs)
    parameters = torch.load(run / "checkpoint.pt", weights_only=True)
    calls, original = [], snail_ppo.update

    def update(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(snail_ppo, "update", update)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(**kwargs, exp_name="cut")
    (checkpoint,) = in_tmp.glob("runs/*cut*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 2
    monkeypatch.setattr(snail_ppo, "update", original)
    resumed, _ = train_tiny(**kwargs, exp_name="cut", resume=str(checkpoint))
    del whole["wall_seconds"], resumed["wall_seconds"]
    assert whole == resumed
    for name, tensor in torch.load(checkpoint, weights_only=True)["agent"].items():
        assert torch.equal(tensor, parameters["agent"][name])


@pytest.mark.parametrize("module", [rl2_ppo, snail_ppo])
def test_a_policys_unit_is_positive_and_float32_in_any_action_space(module):
    """Half of the range, and 1 where there is no range, or no end to it."""
    actions = gym.spaces.Box(np.array([-2.0, 0.0, -np.inf]), np.array([2.0, 0.0, np.inf]), dtype=np.float64)
    env = SimpleNamespace(single_observation_space=gym.spaces.Discrete(3), single_action_space=actions, horizon=4)
    unit = module.Agent(env, module.Args()).unit
    assert unit.dtype == torch.float32 and unit.tolist() == [2, 1, 1]
