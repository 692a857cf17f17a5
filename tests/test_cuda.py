"""What a GPU computes, against the processor and against itself; skipped where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
import maml_trpo
import rl2_ppo
import snail_ppo
from helpers import NETWORKS, ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

RESULTS = ROOT / "benchmark" / "results"
ENV_IDS = pytest.mark.parametrize("env_id", ["TabularMDP-v0", "Navigation2D-v0"])
SHORT_RUNS = {
    rl2_ppo: {"num_envs": 16, "num_minibatches": 2, "hidden_size": 8, "total_timesteps": 1600},
    snail_ppo: {
        "num_envs": 16,
        "num_minibatches": 2,
        "sizes": (8, 8, 8, 8),
        "total_timesteps": 1600,
    },
    maml_trpo: {"meta_batch_size": 3, "episodes_per_task": 4, "num_iterations": 4},
}


def close(a, b, tolerance):
    """Whether the difference of two vectors is small beside their length."""
    return (a - b).norm() < tolerance * b.norm()


def rolled_out(module, env_id, device, **settings):
    """An agent on a device, its arguments, and a batch of trials with what `update` needs."""
    args = module.Args(env_id=env_id, episodes_per_trial=2, **settings)
    env = envs.make(env_id, 40)
    torch.manual_seed(0)
    agent = module.Agent(env, args).to(device)
    tasks = env.sample_tasks(40, 0)
    data = module.rollout(agent, env, tasks, 2, 0)
    data["signal"] = data["reward"]
    advantage, returns = module.advantages_and_returns(data, 0.9, 0.9)
    data["advantage"] = advantage
    data["returns"] = returns
    return agent, args, data


def loss_and_gradient(module, agent, args, data):
    minibatch = {name: tensor.clone() for name, tensor in data.items()}
    loss, _ = module.ppo_loss(agent, minibatch, args, 0.01)
    gradients = torch.autograd.grad(loss, list(agent.parameters()))
    gradient = torch.nn.utils.parameters_to_vector(gradients)
    return loss.item(), gradient.cpu()


@ENV_IDS
@NETWORKS
@pytest.mark.parametrize("amp, tolerance", [(False, 0.005), (True, 0.05)])
def test_loss_and_gradient_are_those_of_the_processor(module, network, env_id, amp, tolerance):
    agent, args, data = rolled_out(module, env_id, "cpu", **network)
    loss, gradient = loss_and_gradient(module, agent, args, data)
    args.amp = amp
    on_gpu = module.Agent(envs.make(env_id), args).cuda()
    on_gpu.load_state_dict(agent.state_dict())
    data = {name: tensor.cuda() for name, tensor in data.items()}
    gpu_loss, gpu_gradient = loss_and_gradient(module, on_gpu, args, data)
    assert gpu_loss == pytest.approx(loss, rel=tolerance)
    assert close(gpu_gradient, gradient, tolerance)


@ENV_IDS
@NETWORKS
def test_whole_trials_give_the_policy_of_the_rollout(module, network, env_id):
    """Before the first gradient step every ratio is 1."""
    agent, _, data = rolled_out(module, env_id, "cuda", **network)
    assert all(tensor.is_cuda for tensor in data.values())
    with torch.no_grad():
        policy, value = agent(data["x"].clone())
    logratio = policy.log_prob(data["action"]) - data["log_prob"]
    assert logratio.abs().max() < 0.005
    torch.testing.assert_close(value, data["value"], rtol=0, atol=0.005)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("env_id", ["Bandit-v0", "Navigation2D-v0"])
def test_a_meta_update_is_that_of_the_processor(env_id, first_order):
    args = maml_trpo.Args(env_id=env_id, first_order=first_order)
    env = envs.make(env_id, 3 * args.episodes_per_task)
    policy = maml_trpo.Policy(env, args)
    torch.manual_seed(0)
    params = policy.initial_params()
    tasks = env.sample_tasks(3, 0)
    batches = maml_trpo.trial(policy, params, env, tasks, 1, 0, args)
    v = torch.randn_like(torch.nn.utils.parameters_to_vector(params.values()))
    results = []
    for device in ("cpu", "cuda"):
        own_params = {name: param.to(device) for name, param in params.items()}
        own = [{name: x.to(device) for name, x in batch.items()} for batch in batches]
        advantage = maml_trpo.advantages(own[0], args.gamma, args.gae_lambda)
        adapted = maml_trpo.adapt(policy, own_params, own[0], args)
        product = maml_trpo.fisher_vector_product(policy, own_params, own, args)
        tensors = [advantage, *adapted.values(), product(v.to(device))]
        _, logs = maml_trpo.update(policy, own_params, own, args)
        results.append(([tensor.cpu() for tensor in tensors], logs))
    (expected, expected_logs), (tensors, logs) = results
    for tensor, other in zip(tensors, expected, strict=True):
        assert close(tensor, other, 0.001)
    name = "losses/gradient_norm"
    assert logs[name] == pytest.approx(expected_logs[name], rel=0.001)
    # Ten iterations of conjugate gradient amplify what float32 rounds.
    for name in ("losses/improvement", "losses/kl", "losses/step_size"):
        assert logs[name] == pytest.approx(expected_logs[name], rel=0.3), name


@pytest.mark.parametrize("module", [rl2_ppo, snail_ppo, maml_trpo])
def test_a_run_that_is_resumed_goes_on_as_if_it_had_never_stopped(module, tmp_path, monkeypatch):
    """And the checkpoint of a GPU gives the same policy on the processor."""
    monkeypatch.chdir(tmp_path)
    settings = SHORT_RUNS[module] | {"env_id": "Navigation2D-v0", "eval_trials": 20}
    length = "num_iterations"
    if module is not maml_trpo:
        length = "total_timesteps"
        settings |= {"episodes_per_trial": 1, "norm_obs": True, "norm_reward": True}
        settings |= {"anneal_lr": False}  # it depends on the length

    module.train(module.Args(**settings))
    (whole,) = Path("runs").iterdir()
    half = settings | {length: settings[length] // 2}
    module.train(module.Args(**half))
    (folder,) = set(Path("runs").iterdir()) - {whole}
    (folder / "eval.json").unlink()  # as if it had been stopped there
    module.train(module.Args(**settings, resume=str(folder / "checkpoint.pt")))
    expected = torch.load(whole / "checkpoint.pt")["agent"]
    agent = torch.load(folder / "checkpoint.pt")["agent"]
    for name, tensor in expected.items():
        assert tensor.is_cuda or name == "moments"  # float64 on the processor: see `Policy`
        torch.testing.assert_close(agent[name], tensor, rtol=1e-4, atol=1e-5)
    expected = json.loads((whole / "eval.json").read_text())
    result = json.loads((folder / "eval.json").read_text())
    assert result["return_mean"] == pytest.approx(expected["return_mean"], rel=1e-3)

    loaded = module.load(folder / "checkpoint.pt")
    if module is maml_trpo:
        _, params, _ = loaded
        assert not any(param.is_cuda for param in params.values())
        return
    obs = torch.randn(5, 2)
    x = loaded.encode(obs, None, None, None, True)
    on_gpu = module.load(folder / "checkpoint.pt", "cuda")
    policy, value, _ = loaded.step(x, None)
    gpu_policy, gpu_value, _ = on_gpu.step(x.cuda(), None)
    assert gpu_value.tolist() == pytest.approx(value.tolist(), rel=0.01, abs=0.01)
    assert close(gpu_policy.mean.cpu(), policy.mean, 0.01)


@pytest.mark.parametrize(
    "module, name",
    [(rl2_ppo, "bandit-5-arms-10-pulls"), (snail_ppo, "snail-bandit-5-arms-10-pulls")],
)
def test_a_published_agent_earns_its_published_return(module, name):
    (path,) = (RESULTS / name).rglob("agent.pt")
    agent = module.load(path, "cuda")
    tasks = envs.make("Bandit-v0").sample_tasks(40_000, [1, 0])
    _, regrets = module.evaluate(agent, "Bandit-v0", {}, tasks, 10, return_regret=True)
    regret = regrets.sum(1)
    published = []
    for file in (RESULTS / name).rglob("eval.json"):
        published.append(json.loads(file.read_text())["regret_mean"])
    tolerance = 0.01 + 4 * regret.std() / len(regret) ** 0.5  # seeds differ, too
    assert regret.mean() == pytest.approx(np.mean(published), abs=tolerance)


def test_a_published_initialisation_adapts_as_published():
    (path,) = (RESULTS / "navigation").rglob("agent.pt")
    policy, params, args = maml_trpo.load(path, "cuda")
    tasks = envs.make("Navigation2D-v0").sample_tasks(200, [1, 0])
    returns = maml_trpo.evaluate(policy, params, args.env_id, {}, tasks, 40)
    returns = returns.mean(2)
    (file,) = (RESULTS / "navigation" / "seed-1").rglob("eval.json")
    published = json.loads(file.read_text())["return_by_gradient_step"]
    stderr = returns.std(0) / len(returns) ** 0.5
    difference = returns.mean(0) - published
    assert (np.abs(difference) < 4 * stderr).all()
