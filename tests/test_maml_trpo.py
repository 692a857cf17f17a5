"""MAML-TRPO against independent computations: loops over tasks, closed forms, finite differences in float64."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space
from torch.distributions import Categorical, Independent, Normal, kl_divergence

import envs
import maml_trpo
from maml_trpo import Args, Policy


class EarlyEnds(envs.Navigation2D):
    """Navigation in which every step may be an episode's last."""

    def _advance(self, actions):
        reward, terminated, info = super()._advance(actions)
        return reward, terminated | (self.np_random.random(self.num_envs) < 0.2), info


gym.register("EarlyEnds-v0", vector_entry_point=EarlyEnds)
KINDS = ["EarlyEnds-v0", "TabularMDP-v0"]  # a Gaussian and a categorical policy


def double(dictionary):
    return {name: x.double() if x.is_floating_point() else x for name, x in dictionary.items()}


def make(env_id, num_tasks=3, episodes=4, horizon=6, hidden_size=6, num_inner_steps=1, seed=0, **kwargs):
    """A policy, random parameters and the batches of a trial, all in float64."""
    args = Args(env_id=env_id, meta_batch_size=num_tasks, episodes_per_task=episodes, num_inner_steps=num_inner_steps)
    args = replace(args, hidden_size=hidden_size, fisher_fraction=1.0, **kwargs)
    env = envs.make(env_id, num_tasks * episodes, horizon=horizon)
    policy = Policy(env, Args(hidden_size=hidden_size))
    torch.manual_seed(seed)
    params = {name: param + 0.5 * torch.randn_like(param).abs() for name, param in policy.initial_params().items()}
    tasks = env.sample_tasks(num_tasks, np.random.default_rng(seed))
    batches = maml_trpo.trial(policy, params, env, tasks, num_inner_steps, seed, args)
    return policy, double(params), [double(batch) for batch in batches], args


# --------------------------------------------------------------------------- by hand: one task, plain loops, no library


def hand_outputs(params, obs):
    """The network of one task, [B, obs] to [B, out]."""
    h = obs
    for i in range(3):
        h = h @ params[f"weight_{i}"][0] + params[f"bias_{i}"][0]
        h = torch.where(h > 0, h, 0.0) if i < 2 else h
    return h


def hand_log_prob(params, obs, action):
    out = hand_outputs(params, obs)
    if "log_std" not in params:
        return (out - torch.logsumexp(out, 1, keepdim=True))[torch.arange(len(out)), action.long()]
    std = params["log_std"][0].exp()
    return (-0.5 * ((action - out) / std) ** 2 - std.log() - 0.5 * np.log(2 * np.pi)).sum(1)


def hand_surrogate(params, batch, i):
    """Mean of ratio times advantage over the valid steps of task i."""
    valid = batch["valid"][i]
    log_prob = hand_log_prob(params, batch["obs"][i][valid], batch["action"][i][valid])
    return ((log_prob - batch["log_prob"][i][valid]).exp() * batch["advantage"][i][valid]).mean()


def hand_adapted(params, batches, i, lr):
    """Task i's parameters after one step on each of the batches."""
    for batch in batches:
        gradient = torch.func.grad(hand_surrogate)(params, batch, i)
        params = {name: param + lr * gradient[name] for name, param in params.items()}
    return params


def hand_objective(theta, params, batches, args):
    """The meta-objective at a flat vector, task by task."""
    params, total = maml_trpo.unflatten(theta, params), 0.0
    for i in range(args.meta_batch_size):
        total += hand_surrogate(hand_adapted(params, batches[:-1], i, args.inner_lr), batches[-1], i)
    return total / args.meta_batch_size


def flat(params):
    return torch.cat([param.reshape(-1) for param in params.values()])


def meta_gradient(policy, params, batches, args):
    theta = flat(params).requires_grad_()
    outputs = maml_trpo.adapted_outputs(policy, maml_trpo.unflatten(theta, params), batches, args)
    return torch.autograd.grad(maml_trpo.surrogate(policy.distribution(*outputs), batches[-1]).mean(), theta)[0]


# ---------------------------------------------------------------------------------------------------- policy, rollout


@pytest.mark.parametrize("env_id", KINDS)
def test_each_tasks_parameters_serve_its_own_observations(env_id):
    policy, params, batches, args = make(env_id)
    torch.manual_seed(1)
    each = {name: param + torch.randn(3, *param.shape[1:]).double() for name, param in params.items()}
    obs = batches[0]["obs"].flatten(1, 2)
    outputs = policy.outputs(each, obs)
    log_prob = policy.distribution(*outputs).log_prob(batches[0]["action"].flatten(1, 2))
    for i in range(3):
        one = {name: param[i : i + 1] for name, param in each.items()}
        torch.testing.assert_close(outputs[0][i], hand_outputs(one, obs[i]))
        torch.testing.assert_close(log_prob[i], hand_log_prob(one, obs[i], batches[0]["action"][i].flatten(0, 1)))


@pytest.mark.parametrize("env_id", ["EarlyEnds-v0", "TabularMDP-v0", "Bandit-v0", "HalfCheetahVel-v0"])
def test_rollout_is_what_the_environment_says(env_id):
    """Steps the environment again with the rollout's actions: K episodes of each task, masked after their ends."""
    env = envs.make(env_id, 3 * 4, **({} if env_id == "Bandit-v0" else {"horizon": 8}))
    policy = Policy(env, Args(hidden_size=4))
    torch.manual_seed(0)
    params = policy.initial_params()
    each = {name: param + 0.1 * torch.randn(3, *param.shape[1:]) for name, param in params.items()}
    tasks = env.sample_tasks(3, np.random.default_rng(0))
    batch = maml_trpo.rollout(policy, each, env, tasks, seed=5)
    obs, _ = env.reset(seed=5, options={"tasks": tasks[[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]})
    alive, returns = np.ones(12, bool), np.zeros(12)
    for t in range(batch["obs"].shape[2]):
        rows = {name: x[:, :, t].flatten(0, 1).numpy() for name, x in batch.items() if name != "return"}
        discrete = obs.ndim == 1
        np.testing.assert_allclose(rows["obs"], np.eye(policy.obs_size)[obs] if discrete else obs, atol=1e-5)
        np.testing.assert_array_equal(rows["valid"], alive)
        for i in range(3):
            one = {name: param[i : i + 1] for name, param in each.items()}
            by_hand = hand_log_prob(one, batch["obs"][i, :, t], batch["action"][i, :, t])
            torch.testing.assert_close(batch["log_prob"][i, :, t], by_hand, atol=1e-5, rtol=1e-5)
        action, high = rows["action"], getattr(env.single_action_space, "high", None)
        obs, reward, terminated, truncated, _ = env.step(action if high is None else action.clip(-1, 1) * high)
        np.testing.assert_allclose(rows["reward"], reward, atol=1e-5)
        returns += reward * alive
        alive &= ~(terminated | truncated)
    assert not alive.any()
    np.testing.assert_allclose(batch["return"].flatten().numpy(), returns, atol=1e-4)
    if env_id == "EarlyEnds-v0":
        lengths = batch["valid"].sum(2)
        assert lengths.min() < lengths.max() <= 8  # some ended early


def test_random_rollouts_do_not_depend_on_the_policy():
    env = envs.make("EarlyEnds-v0", 6)
    policy = Policy(env, Args(hidden_size=4))
    tasks = env.sample_tasks(3)
    first = maml_trpo.rollout(policy, policy.initial_params(), env, tasks, 0, random=True)["return"]
    second = maml_trpo.rollout(policy, policy.initial_params(), env, tasks, 0, random=True)["return"]
    assert torch.equal(first, second)
    assert not torch.equal(first, maml_trpo.rollout(policy, policy.initial_params(), env, tasks, 0)["return"])


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_rollout_leaves_the_number_of_threads_alone(two_threads, monkeypatch):
    env = envs.make("Bandit-v0", 4)
    policy = Policy(env, Args(hidden_size=4))
    maml_trpo.rollout(policy, policy.initial_params(), env, env.sample_tasks(2), 0)
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(env, "step", lambda actions: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        maml_trpo.rollout(policy, policy.initial_params(), env, env.sample_tasks(2), 0)
    assert torch.get_num_threads() == 2


class OddBox(envs.Navigation2D):
    """Actions with an asymmetric, an unbounded and a half-bounded range; remembers what it was told to do."""

    def __init__(self, num_envs=1):
        super().__init__(num_envs, horizon=3)
        low, high = np.float32([-1, -np.inf, 0]), np.float32([5, np.inf, np.inf])
        self.single_action_space = gym.spaces.Box(low, high)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.told = []

    def step(self, actions):
        self.told.append(actions)
        return super().step(actions)

    def _advance(self, actions):
        return super()._advance(actions[:, :2])


gym.register("OddBox-v0", vector_entry_point=OddBox)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_actions_fill_a_bounded_range_and_respect_a_half_bounded_one(scale):
    env = envs.make("OddBox-v0", 400)
    policy = Policy(env, Args(hidden_size=4, action_scale=scale))
    torch.manual_seed(0)
    batch = maml_trpo.rollout(policy, policy.initial_params(), env, env.sample_tasks(2), 0)
    action, told = batch["action"].flatten(0, 1).transpose(0, 1).numpy(), np.stack(env.unwrapped.told)
    np.testing.assert_allclose(
        told[..., 0], (2 + 3 * scale * action[..., 0]).clip(-1, 5), atol=1e-5
    )  # -1 .. 1 becomes -1 .. 5
    np.testing.assert_allclose(told[..., 1], scale * action[..., 1], atol=1e-5)
    np.testing.assert_allclose(told[..., 2], (scale * action[..., 2]).clip(0), atol=1e-5)
    assert (action < -1).any() and told[..., 2].min() == 0


# ------------------------------------------------------------------------------------------------ baseline, advantages


def test_discounted_sums_by_double_loop():
    x = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([sum(0.9 ** (k - t) * x[..., k] for k in range(t, 7)) for t in range(7)], dim=-1)
    torch.testing.assert_close(maml_trpo.discounted_sums(x, 0.9), by_hand)


@pytest.mark.parametrize("env_id", KINDS)
def test_baseline_is_least_squares_on_the_valid_steps(env_id):
    """numpy's least squares on features and returns collected episode by episode, with the same small ridge."""
    _, _, (batch, _), args = make(env_id, num_tasks=3, episodes=5, horizon=9)
    values = maml_trpo.linear_baseline(batch, 0.9)
    for i in range(3):
        rows, targets, places = [], [], []
        for k in range(5):
            length = int(batch["valid"][i, k].sum())
            rewards = batch["reward"][i, k, :length].numpy()
            for t in range(length):
                o = np.clip(batch["obs"][i, k, t].numpy(), -10, 10)
                rows.append(np.concatenate([o, o**2, [t / 100, (t / 100) ** 2, (t / 100) ** 3, 1]]))
                targets.append(sum(0.9 ** (s - t) * rewards[s] for s in range(t, length)))
                places.append((k, t))
        size = len(rows[0])
        ridge = np.concatenate([rows, np.sqrt(1e-5) * np.eye(size)])  # least squares with 1e-5 |w|^2
        weights = np.linalg.lstsq(ridge, np.concatenate([targets, np.zeros(size)]), rcond=None)[0]
        for (k, t), row in zip(places, rows, strict=True):
            assert abs(values[i, k, t].item() - row @ weights) < 1e-4
    assert (values[~batch["valid"]] == 0).all()


def test_baseline_with_constant_and_repeated_features():
    """As an Ant's contact forces are: 125 numbers, half of them zero, some of them twice. Predictions are numpy's."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(10, 20, 50, 125)).astype(np.float32)
    obs[..., :60], obs[..., 60:80] = 0, obs[..., 80:100]
    batch = {"obs": torch.tensor(obs), "reward": torch.tensor(rng.normal(size=obs.shape[:3]), dtype=torch.float32)}
    batch["valid"] = torch.ones(obs.shape[:3], dtype=torch.bool)
    values = maml_trpo.linear_baseline(batch, 0.9).flatten(1).double().numpy()
    time = np.broadcast_to(np.arange(50)[None, None, :, None] / 100, (10, 20, 50, 1))
    features = np.concatenate([obs, obs**2, time, time**2, time**3, np.ones_like(time)], axis=3).reshape(10, 1000, -1)
    returns = maml_trpo.discounted_sums(batch["reward"].double(), 0.9).flatten(1).numpy()
    for i in range(10):
        weights = np.linalg.lstsq(features[i].astype(np.float64), returns[i], rcond=None)[0]
        np.testing.assert_allclose(values[i], features[i] @ weights, atol=1e-2)  # the ridge moves time^3 a little


@pytest.mark.parametrize("gamma, gae_lambda", [(0.9, 0.8), (1.0, 1.0), (0.95, 0.0)])
def test_advantages_are_gae_per_episode_and_normalised_per_task(gamma, gae_lambda):
    _, _, (batch, _), _ = make("EarlyEnds-v0", num_tasks=3, episodes=5, horizon=9)
    value = maml_trpo.linear_baseline(batch, gamma).double()
    advantage = maml_trpo.advantages(batch, gamma, gae_lambda)
    for i in range(3):
        by_hand = []
        for k in range(5):
            length = int(batch["valid"][i, k].sum())
            v, r = [*value[i, k, :length].tolist(), 0.0], batch["reward"][i, k].tolist()
            delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
            by_hand += [
                sum((gamma * gae_lambda) ** (s - t) * delta[s] for s in range(t, length)) for t in range(length)
            ]
        by_hand = (np.array(by_hand) - np.mean(by_hand)) / np.std(by_hand)
        np.testing.assert_allclose(advantage[i][batch["valid"][i]].numpy(), by_hand, atol=1e-4)
    assert (advantage[~batch["valid"]] == 0).all() and (~batch["valid"]).any()


# --------------------------------------------------------------------------------------- adaptation and meta-gradient


@pytest.mark.parametrize("env_id", KINDS)
def test_adaptation_is_the_policy_gradient_step_of_each_task(env_id):
    """The batch over tasks equals a loop over tasks, whose gradient is REINFORCE's: mean of A grad log pi."""
    policy, params, batches, args = make(env_id)
    adapted = maml_trpo.adapt(policy, params, batches[0], args)
    for i in range(3):
        valid = batches[0]["valid"][i]

        def reinforce(params, i=i, valid=valid):
            log_prob = hand_log_prob(params, batches[0]["obs"][i][valid], batches[0]["action"][i][valid])
            return (log_prob * batches[0]["advantage"][i][valid]).mean()

        gradient = torch.func.grad(reinforce)(params)
        for name, param in params.items():
            expected = param[0] + args.inner_lr * gradient[name][0]  # up to the rollout's log-probs, in float32
            torch.testing.assert_close(adapted[name][i], expected, atol=1e-7, rtol=1e-5)


def test_adaptation_is_pure():
    policy, params, batches, args = make("EarlyEnds-v0")
    before = {name: param.clone() for name, param in params.items()}
    first = maml_trpo.adapt(policy, params, batches[0], args)
    second = maml_trpo.adapt(policy, params, batches[0], args)
    with torch.no_grad():
        third = maml_trpo.adapt(policy, params, batches[0], args)
    for name in params:
        assert torch.equal(params[name], before[name]) and not params[name].requires_grad
        assert torch.equal(first[name], second[name]) and torch.equal(first[name], third[name])
        assert not torch.equal(first[name], params[name].expand_as(first[name]))


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
def test_meta_gradient_against_finite_differences(env_id, num_inner_steps):
    """Central differences, parameter by parameter, of the meta-objective computed by hand, task by task."""
    policy, params, batches, args = make(env_id, num_inner_steps=num_inner_steps, inner_lr=0.5)
    gradient = meta_gradient(policy, params, batches, args)
    theta, epsilon = flat(params), 1e-6
    numbers = []
    for j in range(len(theta)):
        step = torch.zeros_like(theta)
        step[j] = epsilon
        up, down = (hand_objective(theta + sign * step, params, batches, args) for sign in (1, -1))
        numbers.append((up - down) / (2 * epsilon))
    torch.testing.assert_close(gradient, torch.stack(numbers), atol=1e-7, rtol=1e-5)
    assert all(part.abs().max() > 1e-5 for part in maml_trpo.unflatten(gradient, params).values())
    if num_inner_steps > 0:  # the test would tell: leaving out the second derivatives gives something else
        first_order = meta_gradient(policy, params, batches, replace(args, first_order=True))
        assert (first_order - gradient).norm() > 0.01 * gradient.norm()


@pytest.mark.parametrize("num_inner_steps", [1, 2])
def test_first_order_is_the_adapted_policies_own_gradient(num_inner_steps):
    policy, params, batches, args = make("EarlyEnds-v0", num_inner_steps=num_inner_steps, first_order=True)
    gradient = meta_gradient(policy, params, batches, args)
    total = 0.0
    for i in range(3):
        adapted = hand_adapted(params, batches[:-1], i, args.inner_lr)
        total = total + flat(torch.func.grad(hand_surrogate)(adapted, batches[-1], i)) / 3
    torch.testing.assert_close(gradient, total)


def test_what_comes_after_an_episodes_end_changes_nothing():
    """Garbage in the steps that are not valid leaves baseline, advantages, adaptation, gradient and Fisher alone."""
    policy, params, batches, args = make("EarlyEnds-v0")
    spoilt = []
    for batch in batches:
        off = ~batch["valid"]
        assert off.any()
        spoilt.append({name: x.clone() for name, x in batch.items()})
        spoilt[-1]["obs"][off] = 7.0
        spoilt[-1]["action"][off] = -3.0
        spoilt[-1]["log_prob"][off] = 0.5
        spoilt[-1]["reward"][off] = 100.0
        advantage = maml_trpo.advantages(spoilt[-1], 0.99, 1.0)
        assert torch.equal(advantage, maml_trpo.advantages(batch, 0.99, 1.0))
    v = torch.randn(flat(params).shape, dtype=torch.float64)
    for compute in (
        lambda batches: meta_gradient(policy, params, batches, args),
        lambda batches: maml_trpo.fisher_vector_product(policy, params, batches, args)(v),
        lambda batches: flat(maml_trpo.update(policy, params, batches, args)[0]),
    ):
        torch.testing.assert_close(compute(spoilt), compute(batches), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("env_id", KINDS)
def test_no_stray_cpu_tensors(env_id):
    """On the meta device a tensor that was made on the CPU would raise: advantages, adaptation, Fisher, gradient."""
    policy, params, batches, args = make(env_id)
    params = {name: param.float().to("meta") for name, param in params.items()}
    batches = [
        {name: (x.float() if x.dtype == torch.float64 else x).to("meta") for name, x in b.items()} for b in batches
    ]
    for batch in batches:
        batch["advantage"] = maml_trpo.advantages(batch, 0.99, 0.9)
    assert maml_trpo.adapt(policy, params, batches[0], args)["bias_0"].is_meta
    product = maml_trpo.fisher_vector_product(policy, params, batches, args)
    size = sum(param.numel() for param in params.values())
    assert maml_trpo.conjugate_gradient(product, torch.zeros(size, device="meta"), 3).is_meta
    assert meta_gradient(policy, params, batches, args).is_meta


# ----------------------------------------------------------------------------------------------------------------- TRPO


def explicit_fisher(params, batches, args):
    """mean_i J_i^T F_i J_i with J_i by finite differences and F_i, the Fisher matrix of the outputs, in closed form."""
    theta, epsilon, total = flat(params), 1e-6, 0.0
    for i in range(args.meta_batch_size):
        valid = batches[-1]["valid"][i]
        obs = batches[-1]["obs"][i][valid]

        def outputs(theta, i=i, obs=obs):
            adapted = hand_adapted(maml_trpo.unflatten(theta, params), batches[:-1], i, args.inner_lr)
            parts = [hand_outputs(adapted, obs).reshape(-1)]
            return torch.cat(parts + ([adapted["log_std"].reshape(-1)] if "log_std" in params else []))

        columns = []
        for j in range(len(theta)):
            step = torch.zeros_like(theta)
            step[j] = epsilon
            columns.append((outputs(theta + step) - outputs(theta - step)) / (2 * epsilon))
        jacobian, at = torch.stack(columns, dim=1), outputs(theta)
        if "log_std" in params:  # Gaussian: 1 / sigma^2 for every mean, 2 for the log-std, which all steps share
            size = params["log_std"].numel()
            precision = (-2 * at[-size:]).exp().repeat(len(obs)) / len(obs)
            fisher = torch.diag(torch.cat([precision, torch.full((size,), 2.0, dtype=torch.float64)]))
        else:  # categorical: diag(p) - p p^T for the logits of a step
            probs = at.view(len(obs), -1).softmax(1)
            fisher = torch.block_diag(*[torch.diag(p) - torch.outer(p, p) for p in probs]) / len(obs)
        total = total + jacobian.T @ fisher @ jacobian / args.meta_batch_size
    return total


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
def test_fisher_vector_product_against_the_explicit_matrix(env_id, num_inner_steps):
    sizes = {"num_tasks": 2, "episodes": 2, "horizon": 4, "hidden_size": 3}
    policy, params, batches, args = make(env_id, **sizes, num_inner_steps=num_inner_steps, inner_lr=0.5)
    product = maml_trpo.fisher_vector_product(policy, params, batches, replace(args, cg_damping=0.1))
    matrix = explicit_fisher(params, batches, args) + 0.1 * torch.eye(len(flat(params)))
    for v in torch.randn(3, len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        torch.testing.assert_close(product(v), matrix @ v, atol=1e-6, rtol=1e-5)


def test_fisher_is_estimated_on_the_first_episodes():
    policy, params, batches, args = make("EarlyEnds-v0", episodes=10)
    v = torch.randn(flat(params).shape, dtype=torch.float64)
    few = [{name: x[:, :3] for name, x in batch.items()} for batch in batches]
    part = maml_trpo.fisher_vector_product(policy, params, batches, replace(args, fisher_fraction=0.3))(v)
    torch.testing.assert_close(part, maml_trpo.fisher_vector_product(policy, params, few, args)(v))


def test_conjugate_gradient_against_a_direct_solve():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, dtype=torch.float64, generator=generator)
    matrix, b = root @ root.T + torch.eye(12), torch.randn(12, dtype=torch.float64, generator=generator)
    x = maml_trpo.conjugate_gradient(lambda v: matrix @ v, b, 50)  # stops by itself once it has converged
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), atol=1e-4, rtol=1e-4)
    rough = maml_trpo.conjugate_gradient(lambda v: matrix @ v, b, 3)
    assert 0 < (matrix @ rough - b).norm() < b.norm()


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
def test_update_improves_the_surrogate_within_the_trust_region(env_id, num_inner_steps):
    """Surrogate and KL of the new parameters are computed again task by task; 23 tasks make three chunks."""
    policy, params, batches, args = make(env_id, num_tasks=23, num_inner_steps=num_inner_steps, episodes=3)
    new, logs = maml_trpo.update(policy, params, batches, args)
    before, after = (hand_objective(flat(p), params, batches, args) for p in (params, new))
    assert 0 < logs["kl"] <= args.max_kl and logs["improvement"] > 0
    assert abs(before - logs["surrogate"]) < 1e-9 and abs(after - before - logs["improvement"]) < 1e-9
    gradient = meta_gradient(policy, params, batches, args)
    assert abs(gradient.norm().item() - logs["gradient_norm"]) < 1e-9  # chunk by chunk as in one piece
    total = 0.0
    for i in range(23):
        valid, distributions = batches[-1]["valid"][i], []
        for p in (params, new):
            adapted = hand_adapted(p, batches[:-1], i, args.inner_lr)
            out = hand_outputs(adapted, batches[-1]["obs"][i][valid])
            if "log_std" in p:
                distributions.append(Independent(Normal(out, adapted["log_std"][0].exp()), 1))
            else:
                distributions.append(Categorical(logits=out))
        total += kl_divergence(*distributions).mean() / 23
    assert abs(total - logs["kl"]) < 1e-9


def test_the_full_step_is_the_natural_gradient_on_the_trust_regions_border():
    """With a Fisher matrix from all episodes: a direct solve of F x = g, scaled to a quadratic KL of max_kl."""
    policy, params, batches, args = make("EarlyEnds-v0", num_tasks=2, max_kl=1e-8, cg_damping=1e-3, cg_iterations=99)
    new, logs = maml_trpo.update(policy, params, batches, args)
    matrix = explicit_fisher(params, batches, args) + 1e-3 * torch.eye(len(flat(params)))
    gradient = meta_gradient(policy, params, batches, args)
    x = torch.linalg.solve(matrix, gradient)
    step = (2 * args.max_kl / (x @ matrix @ x)).sqrt() * x * logs["step_size"]
    torch.testing.assert_close(flat(new) - flat(params), step, atol=1e-3 * step.abs().max().item(), rtol=1e-2)


def test_a_rejected_step_leaves_the_parameters_untouched(monkeypatch):
    policy, params, batches, args = make("EarlyEnds-v0")
    before = {name: param.clone() for name, param in params.items()}
    original, calls = maml_trpo.surrogate, []

    def ever_worse(*arguments):  # every evaluation is below the one before
        calls.append(1)
        return original(*arguments) - len(calls)

    monkeypatch.setattr(maml_trpo, "surrogate", ever_worse)
    new, logs = maml_trpo.update(policy, params, batches, args)
    assert logs["step_size"] == 0 and logs["improvement"] == 0 and logs["kl"] == 0
    assert all(torch.equal(new[name], before[name]) and torch.equal(params[name], before[name]) for name in params)


def test_nothing_to_learn_leaves_the_parameters_untouched():
    policy, params, batches, args = make("EarlyEnds-v0")
    for batch in batches:
        batch["advantage"] = torch.zeros_like(batch["advantage"])
    new, logs = maml_trpo.update(policy, params, batches, args)
    assert logs["step_size"] == 0 and np.isfinite(list(logs.values())).all()
    assert all(torch.equal(new[name], params[name]) for name in params)


# ---------------------------------------------------------------------------------------- trials, evaluation, training


def test_a_trial_adapts_step_by_step_and_halves_the_step_size_after_the_trained_ones():
    env = envs.make("EarlyEnds-v0", 2 * 3, horizon=5)
    policy = Policy(env, Args(hidden_size=4))
    torch.manual_seed(0)
    params, tasks = policy.initial_params(), env.sample_tasks(2)
    for trained, sizes in ((0, (0.4, 0.2, 0.2)), (1, (0.4, 0.2, 0.2)), (2, (0.4, 0.4, 0.2))):
        args = Args(num_inner_steps=trained, inner_lr=0.4)
        torch.manual_seed(1)
        batches = maml_trpo.trial(policy, params, env, tasks, 3, 7, args)
        torch.manual_seed(1)
        current = params
        for i, batch in enumerate(batches):
            again = maml_trpo.rollout(policy, current, env, tasks, 7 + 6 * i)
            assert all(torch.equal(again[name], batch[name]) for name in again)
            if i < 3:
                current = maml_trpo.adapt(policy, current, batch, replace(args, inner_lr=sizes[i]))


TINY = {"meta_batch_size": 3, "episodes_per_task": 4, "hidden_size": 8, "num_iterations": 4, "cuda": False}
TINY |= {"env_kwargs": {"horizon": 6}, "eval_trials": 5, "eval_episodes": 3, "save_model": True}


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_tiny(**kwargs):
    result = maml_trpo.train(Args(**{**TINY, **kwargs}))
    return result, max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_evaluation_is_of_held_out_tasks(in_tmp, monkeypatch):
    """The same tasks whatever the training seed; the means of what the trials earned, with their standard errors."""
    seen, original = [], maml_trpo.trial

    def spy(policy, params, env, tasks, num_steps, seed, args):
        batches = original(policy, params, env, tasks, num_steps, seed, args)
        seen.append((tasks, torch.stack([batch["return"] for batch in batches], 1).double().numpy(), num_steps))
        return batches

    env = envs.make("Navigation2D-v0")
    policy = Policy(env, Args(hidden_size=8))
    monkeypatch.setattr(maml_trpo, "trial", spy)
    args = Args(**{**TINY, "eval_trials": 50})
    result = maml_trpo.evaluate(policy, policy.initial_params(), args)
    tasks, returns = (np.concatenate([chunk[i] for chunk in seen]) for i in (0, 1))
    np.testing.assert_array_equal(tasks, env.sample_tasks(50, np.random.default_rng([1, 0])))
    assert returns.shape == (50, 4, 3) and {chunk[2] for chunk in seen} == {3}
    for name, samples in (
        ("return_by_gradient_step", returns.mean(2)),
        ("return_by_episode", returns.reshape(50, 12)),
        ("return_mean", returns.sum((1, 2))),
    ):
        np.testing.assert_allclose(result[name], samples.mean(0))
        stderr = result[name.removesuffix("_mean") + "_stderr"]
        np.testing.assert_allclose(stderr, samples.std(0, ddof=1) / np.sqrt(50))
    before = list(seen)
    maml_trpo.evaluate(policy, policy.initial_params(), replace(args, seed=2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(before, seen[len(before) :], strict=True))


@pytest.mark.parametrize("env_id", ["Navigation2D-v0", "TabularMDP-v0", "HalfCheetahDir-v0"])
def test_a_run_writes_what_it_promises(in_tmp, env_id):
    result, run = train_tiny(env_id=env_id, num_iterations=2)
    assert {"args.json", "checkpoint.pt", "agent.pt", "eval.json"} <= {path.name for path in run.iterdir()}
    assert run.name.startswith(f"{env_id}__maml_trpo__1__") and list(run.glob("events.*"))
    assert json.loads((run / "eval.json").read_text()) == result
    keys = "env_id env_kwargs algorithm seed global_step wall_seconds num_trials episodes_per_trial return_mean"
    keys += " return_stderr return_by_episode return_by_episode_stderr random_return_mean return_by_gradient_step"
    assert set(keys.split()) | {"return_by_gradient_step_stderr"} == set(result)
    assert len(result["return_by_gradient_step"]) == 4 and len(result["return_by_episode"]) == 12
    assert result["global_step"] == 2 * 2 * 3 * 4 * 6 and result["num_trials"] == 5
    policy, params, args = maml_trpo.load(run / "agent.pt")
    again = maml_trpo.evaluate(policy, params, args)
    assert all(result[key] == number for key, number in again.items())


class NoisyStart(gym.Env):
    """An ordinary single environment: a line to walk along, from a random place to the one that the task names."""

    observation_space, action_space = gym.spaces.Box(-np.inf, np.inf, (1,)), gym.spaces.Box(-1, 1, (1,))

    def sample_task(self, rng):
        return rng.uniform(-1, 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal, self.place = options["task"], self.np_random.normal(size=1).astype(np.float32)
        return self.place, {}

    def step(self, action):
        self.place = (self.place + 0.1 * action).astype(np.float32)
        return self.place, -float(abs(self.place[0] - self.goal)), False, False, {}


gym.register("NoisyStart-v0", entry_point=NoisyStart, max_episode_steps=6)


def test_a_single_environment_of_ones_own_is_trained_on_fresh_episodes(in_tmp, monkeypatch):
    starts, original = [], maml_trpo.rollout

    def spy(*arguments, **kwargs):
        batch = original(*arguments, **kwargs)
        starts.append(batch["obs"][:, :, 0].flatten().tolist())
        return batch

    monkeypatch.setattr(maml_trpo, "rollout", spy)
    result, _ = train_tiny(env_id="NoisyStart-v0", env_kwargs={}, eval_trials=4)
    training = [start for batch in starts[:8] for start in batch]  # four iterations of two batches
    assert len(set(training)) == len(training) == 8 * 3 * 4  # no episode starts where another did
    assert np.isfinite(result["return_by_gradient_step"]).all()


def test_parameters_that_adaptation_blows_up_are_told_about(in_tmp):
    with pytest.raises(ValueError, match="The policy is not finite: lower --inner-lr"):
        train_tiny(env_id="TabularMDP-v0", inner_lr=1e38, max_kl=1e-3, num_iterations=1)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"num_inner_steps": 0},
        {"num_inner_steps": 2, "first_order": True},
        {"env_id": "TabularMDP-v0"},
        {"env_id": "HalfCheetahVel-v0"},
        {"env_id": "AntGoal-v0", "env_kwargs": {"horizon": 30}},
    ],
)
def test_stopped_and_resumed_equals_never_stopped(in_tmp, monkeypatch, kwargs):
    """A run that saves after every iteration is cut in the middle; its checkpoint goes on to the same end."""
    kwargs = {"checkpoint_seconds": 1e-9, **kwargs}
    whole, run = train_tiny(**kwargs)
    parameters = torch.load(run / "checkpoint.pt", weights_only=True)
    calls, original = [], maml_trpo.update

    def update(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(maml_trpo, "update", update)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(**kwargs, exp_name="cut")
    (checkpoint,) = in_tmp.glob("runs/*cut*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 2
    monkeypatch.setattr(maml_trpo, "update", original)
    resumed, _ = train_tiny(**kwargs, exp_name="cut", resume=str(checkpoint))
    del whole["wall_seconds"], resumed["wall_seconds"]
    assert whole == resumed
    for name, tensor in torch.load(checkpoint, weights_only=True)["agent"].items():
        assert torch.equal(tensor, parameters["agent"][name])


def test_a_nonfinite_update_stops_the_run_and_keeps_the_checkpoint(in_tmp, monkeypatch):
    original, calls = maml_trpo.advantages, []

    def poisoned(*arguments):
        calls.append(1)
        return original(*arguments) * (torch.nan if len(calls) > 5 else 1)

    monkeypatch.setattr(maml_trpo, "advantages", poisoned)
    with pytest.raises(ValueError, match="Not finite in iteration 3: .*'gradient_norm': nan"):
        train_tiny(checkpoint_seconds=1e-9)
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["iteration"] == 2 and all(tensor.isfinite().all() for tensor in saved["agent"].values())


def test_it_learns_to_adapt(in_tmp):
    """20 seconds: one gradient step in a new task halves the distance to the goal, which the policy cannot know."""
    args = Args(num_iterations=16, eval_trials=50, eval_episodes=20, meta_batch_size=20, episodes_per_task=20)
    result = maml_trpo.train(args)
    before, after, *_ = result["return_by_gradient_step"]
    stderr = np.hypot(*result["return_by_gradient_step_stderr"][:2])
    assert after > before + 10 * stderr and after > -20
    assert before > result["random_return_mean"] / result["episodes_per_trial"]
