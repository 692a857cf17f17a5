"""SNAIL's network: convolutions and attention by their definition, an exact mask, its memory."""

import numpy as np
import pytest
import torch

import envs
import snail_ppo


def make_agent(steps, dtype=torch.float32, **settings):
    """An agent for bandit trials of `steps` pulls, and random inputs [steps, 3 trials, input]."""
    torch.manual_seed(0)
    settings = {"sizes": (8, 4, 6, 5), "episodes_per_trial": steps} | settings
    args = snail_ppo.Args(**settings)
    env = envs.make("Bandit-v0")
    agent = snail_ppo.Agent(env, args).to(dtype)
    torch.nn.init.normal_(agent.policy.weight, 0, 0.5)  # far from uniform, so that errors show
    x = torch.randn(steps, 3, agent.embedding.in_features, dtype=dtype)
    return agent, x


def step_through(agent, x):
    """Logits [T, N, A] and values [T, N] of trials x, a step at a time, and the memory."""
    memory = agent.initial_state(x.shape[1])
    logits = []
    values = []
    for x_t in x:
        policy, value, memory = agent.step(x_t, memory)
        logits.append(policy.logits)
        values.append(value)
    logits = torch.stack(logits)
    values = torch.stack(values)
    return logits, values, memory


def assert_close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


# ---------------------------------------------------------------------------------- definition


def dense_block(h, now, bias, before, dilation):
    """Features [T, D] and the new ones, a step at a time."""
    rows = []
    for t in range(len(h)):
        both = now @ h[t] + bias
        if t >= dilation:
            both = both + before @ h[t - dilation]
        g, gate = np.split(both, 2)
        new = np.tanh(g) / (1 + np.exp(-gate))
        row = np.concatenate([h[t], new])
        rows.append(row)
    return np.array(rows)


def attention(h, weight, bias, key_size):
    """Features [T, C] and what each step reads of the past, a key at a time."""
    lookups = h @ weight.T + bias
    ends = [key_size, 2 * key_size]
    queries, keys, values = np.split(lookups, ends, axis=1)
    rows = []
    for t in range(len(h)):
        past = range(t + 1)
        scores = [queries[t] @ keys[u] for u in past]
        scores = np.array(scores) / np.sqrt(key_size)
        weights = np.exp(scores - scores.max())
        weights = weights / weights.sum()
        reading = sum(weights[u] * values[u] for u in past)
        row = np.concatenate([h[t], reading])
        rows.append(row)
    return np.array(rows)


def by_definition(agent, x):
    """Logits [T, A] and values [T] of one trial x [T, input], in numpy."""
    p = {}
    for name, tensor in agent.state_dict().items():
        p[name] = tensor.double().numpy()
    per_block = int(np.ceil(np.log2(len(x))))
    layers = agent.args.tc_blocks * per_block
    assert len(agent.blocks) == layers
    embedding = p["embedding.weight"]
    h = x @ embedding.T + p["embedding.bias"]
    for i in range(layers):
        now = p[f"blocks.{i}.now.weight"]
        bias = p[f"blocks.{i}.now.bias"]
        before = p[f"blocks.{i}.before.weight"]
        h = dense_block(h, now, bias, before, 2 ** (i % per_block))
    weight = p["attention.linear.weight"]
    bias = p["attention.linear.bias"]
    h = attention(h, weight, bias, agent.args.sizes[2])
    logits = h @ p["policy.weight"].T + p["policy.bias"]
    values = h @ p["value.weight"].T + p["value.bias"]
    return logits, values[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 3, 9, 16, 21])
def test_whole_trials_are_what_the_definition_says(steps):
    agent, x = make_agent(steps, torch.float64, tc_blocks=1 + steps % 2)
    policy, value = agent(x)
    for n in range(3):
        logits, values = by_definition(agent, x[:, n].numpy())
        total = np.exp(logits).sum(1, keepdims=True)
        log_softmax = torch.as_tensor(logits - np.log(total))
        assert_close(policy.logits[:, n], log_softmax, 1e-12)
        assert_close(value[:, n], torch.as_tensor(values), 1e-12)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_step_by_step_equals_the_whole_trial(dtype, tolerance, gradients):
    """For random sizes, and lengths that are no powers of two."""
    rng = np.random.default_rng(0)
    for steps in (1, 2, 3, 5, 12, 33, 100):
        sizes = tuple(rng.integers(1, 20, 4).tolist())
        tc_blocks = int(rng.integers(1, 4))
        agent, x = make_agent(steps, dtype, sizes=sizes, tc_blocks=tc_blocks)
        with torch.set_grad_enabled(gradients):
            whole, value = agent(x)
            logits, values, _ = step_through(agent, x)
        assert_close(logits, whole.logits, tolerance)
        assert_close(values, value, tolerance)


def test_a_shorter_trial_is_seen_as_the_beginning_of_a_longer_one():
    agent, x = make_agent(21, torch.float64)
    whole, value = agent(x)
    for steps in (1, 2, 5, 16):
        policy, values = agent(x[:steps])
        assert_close(policy.logits, whole.logits[:steps], 1e-10)
        assert_close(values, value[:steps], 1e-10)


# ------------------------------------------------------------------------ what a step gets to see


@pytest.mark.parametrize("steps", [2, 5, 13, 32])
@pytest.mark.parametrize("tc_blocks, attends", [(1, False), (2, False), (1, True)])
def test_no_output_sees_the_future_and_every_output_the_whole_past(steps, tc_blocks, attends):
    """The gradient by later inputs is exactly zero, by every earlier one it is not.

    Through convolutions alone, too.
    """
    agent, x = make_agent(steps, torch.float64, tc_blocks=tc_blocks)
    if not attends:
        torch.nn.init.zeros_(agent.attention.linear.weight)
    x.requires_grad_()
    _, value = agent(x)
    for t in range(steps):
        (gradient,) = torch.autograd.grad(value[t, 1], x, retain_graph=True)
        sizes = gradient.abs().sum(2)  # [T, N]
        past = sizes[: t + 1, 1]
        future = sizes[t + 1 :, 1]
        other_trials = sizes[:, [0, 2]]
        assert (past > 0).all()
        assert (future == 0).all()
        assert (other_trials == 0).all()


@torch.no_grad()
def test_memory_of_one_environment_does_not_leak_into_another():
    agent, x = make_agent(9)
    other = x.clone()
    other[:, [0, 2]] += 3
    _, values, _ = step_through(agent, x)
    _, other_values, _ = step_through(agent, other)
    assert_close(values[:, 1], other_values[:, 1], 1e-7)
    changed = values != other_values
    assert changed[:, [0, 2]].all()


# ---------------------------------------------------------------------------------------- memory


@torch.no_grad()
def test_memory_is_allocated_once_and_grows_linearly_with_the_trial():
    for steps in (64, 128, 1000):
        agent, x = make_agent(steps)
        _, _, memory = agent.step(x[0], agent.initial_state(3))
        features, lookups = memory
        assert lookups.shape == (3, 1, steps, 6 + 6 + 5)
        layers = 2 * int(np.ceil(np.log2(steps)))
        (first,) = features
        assert first.shape == (1, 3, 8 + 4 * layers)
        before = first.clone()
        address = lookups.data_ptr()
        _, _, (features, lookups) = agent.step(x[1], memory)
        assert lookups.data_ptr() == address
        assert len(features) == 2
        assert torch.equal(features[0], before)


@torch.no_grad()
def test_what_memory_does_not_hold_yet_has_no_influence():
    agent, x = make_agent(7)
    _, values, _ = step_through(agent, x)
    _, _, memory = agent.step(x[0], agent.initial_state(3))
    memory[1][:, :, 1:] = torch.nan
    for t in range(1, 7):
        _, value, memory = agent.step(x[t], memory)
        assert torch.equal(value, values[t])


def test_memory_is_kept_in_bfloat16_with_amp(monkeypatch):
    monkeypatch.setattr(snail_ppo, "HAS_BFLOAT16", True)
    agent, x = make_agent(5, amp=True)
    policy, value, (features, lookups) = agent.step(x[0], agent.initial_state(3))
    assert features[0].dtype == lookups.dtype == torch.bfloat16
    assert policy.logits.dtype == value.dtype == torch.float32


@torch.no_grad()
def test_a_trial_longer_than_memory_is_a_clear_error():
    words = "Memory takes 5 steps: train with larger --episodes-per-trial"
    agent, x = make_agent(5)
    _, _, memory = step_through(agent, x)
    with pytest.raises(envs.UsageError, match=words):
        agent.step(x[0], memory)
    tasks = envs.make("Bandit-v0").sample_tasks(10, 0)
    returns = snail_ppo.evaluate(agent, "Bandit-v0", {}, tasks, 5)
    assert returns.shape == (10, 5)
    with pytest.raises(envs.UsageError, match=words):
        snail_ppo.evaluate(agent, "Bandit-v0", {}, tasks, 6)
