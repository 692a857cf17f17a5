"""RL^2's recurrent network: its cells by hand, and how long it keeps its memory."""

from pathlib import Path

import pytest
import torch

import envs
import rl2_ppo

CELLS = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}


def make_agent(env, cell):
    """A small agent, whose policy is far from uniform, so that errors show."""
    torch.manual_seed(0)
    agent = rl2_ppo.Agent(env, rl2_ppo.Args(hidden_size=16, cell=cell))
    torch.nn.init.normal_(agent.policy.weight, 0, 0.5)
    return agent


def make_trials(cell):
    """An environment, an agent, tasks, and a trial of three episodes in each of 12 tasks."""
    env = envs.make("TabularMDP-v0", 12, horizon=4)
    agent = make_agent(env, cell)
    tasks = env.sample_tasks(12, 0)
    data = rl2_ppo.rollout(agent, env, tasks, 3, 0)
    data = {name: tensor.clone() for name, tensor in data.items()}  # which autograd takes
    return env, agent, tasks, data


@pytest.mark.parametrize("cell", CELLS)
def test_the_network_is_one_cell_stepped_through_all_episodes_of_the_trial(cell):
    _, agent, _, data = make_trials(cell)
    by_hand = CELLS[cell](agent.trunk.input_size, 16)
    parameters = agent.trunk.state_dict()
    by_hand.load_state_dict({name.removesuffix("_l0"): parameters[name] for name in parameters})
    zeros = torch.zeros(12, 16)
    state = zeros if cell == "gru" else (zeros, zeros)
    policy, value = agent(data["x"])
    for t, x in enumerate(data["x"]):
        state = by_hand(x, state)
        h = state if cell == "gru" else state[0]
        expected = agent.value(h)[:, 0]
        torch.testing.assert_close(data["value"][t], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(value[t], expected, atol=1e-5, rtol=1e-5)
        logits = agent.policy(h).log_softmax(1)
        torch.testing.assert_close(policy.logits[t], logits, atol=1e-5, rtol=1e-5)
        taken = logits.gather(1, data["action"][t][:, None])[:, 0]
        torch.testing.assert_close(data["log_prob"][t], taken, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_what_happened_in_the_first_episode_is_felt_in_the_third(cell):
    _, agent, _, data = make_trials(cell)
    x = data["x"].requires_grad_()
    _, value = agent(x)
    value[-1].sum().backward()
    assert (x.grad[:4].abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_memory_starts_as_zeros_and_one_trial_does_not_leak_into_another(cell):
    agent = make_agent(envs.make("Bandit-v0"), cell)
    x = torch.randn(9, 3, agent.trunk.input_size)
    zeros = torch.zeros(1, 3, 16)
    memory = zeros if cell == "gru" else (zeros, zeros)
    _, from_zeros, _ = agent.step(x[0], memory)
    _, from_none, _ = agent.step(x[0], agent.initial_state(3))
    assert torch.equal(from_zeros, from_none)
    other = x.clone()
    other[:, [0, 2]] += 3
    _, value = agent(x)
    _, other_value = agent(other)
    torch.testing.assert_close(value[:, 1], other_value[:, 1], atol=1e-7, rtol=0)
    assert (value[:, [0, 2]] != other_value[:, [0, 2]]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_the_gate_that_keeps_memory_starts_mostly_open(cell):
    """Without any input or recurrent weight, memory decays by the gate's bias alone."""
    agent = make_agent(envs.make("Bandit-v0"), cell)
    spread = 16**-0.5  # torch draws biases from U[-spread, spread]
    second = agent.trunk.bias_hh_l0[16:32]
    others = torch.cat([agent.trunk.bias_hh_l0[:16], agent.trunk.bias_hh_l0[32:]])
    assert (second - 1).abs().max() <= spread
    assert others.abs().max() <= spread
    for parameter in (agent.trunk.weight_hh_l0, agent.trunk.weight_ih_l0, agent.trunk.bias_ih_l0):
        torch.nn.init.zeros_(parameter)
    kept = torch.randn(1, 3, 16, requires_grad=True)
    memory = kept if cell == "gru" else (torch.zeros(1, 3, 16), kept)
    _, memory = agent.trunk(torch.zeros(1, 3, agent.trunk.input_size), memory)
    following = memory if cell == "gru" else memory[1]
    (decay,) = torch.autograd.grad(following.sum(), kept)
    torch.testing.assert_close(decay, torch.sigmoid(second).expand(1, 3, 16))
    assert decay.min() > 0.6


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_weights_start_orthogonal(cell):
    agent = make_agent(envs.make("Bandit-v0"), cell)
    weight = agent.trunk.weight_hh_l0
    assert weight.shape == ((3 if cell == "gru" else 4) * 16, 16)
    torch.testing.assert_close(weight.T @ weight, torch.eye(16), atol=1e-5, rtol=0)


def test_the_recurrent_kernel_stays_in_training_mode(tmp_path, monkeypatch):
    """cuDNN refuses to go backward through a recurrent network in evaluation mode."""
    monkeypatch.chdir(tmp_path)
    modes = []
    original = rl2_ppo.update

    def spy(agent, *rest):
        modes.append(agent.trunk.training)
        return original(agent, *rest)

    monkeypatch.setattr(rl2_ppo, "update", spy)
    args = rl2_ppo.Args(
        env_id="Navigation2D-v0",
        env_kwargs={"horizon": 3},
        norm_obs=True,
        norm_reward=True,
        num_envs=8,
        num_minibatches=1,
        episodes_per_trial=2,
        eval_trials=8,
        total_timesteps=96,
    )
    rl2_ppo.train(args)
    assert modes == [True, True]
    (checkpoint,) = Path("runs").glob("*/checkpoint.pt")
    args.resume = str(checkpoint)
    args.total_timesteps = 144
    rl2_ppo.train(args)
    assert modes == [True, True, True]
