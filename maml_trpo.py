"""MAML with TRPO: an initialisation from which one policy gradient step solves a new task.

In each task, the policy's episodes yield a policy gradient. One step along it gives the adapted
policy, whose new episodes show how well it solves the task. Meta-learning raises the return of the
new episodes, as a function of the *initial* parameters: the gradient runs back through the
adaptation step. TRPO keeps the adapted policies close to what they were.

    J_i(theta) = E_i [A(s, a) pi_theta(a | s) / pi_old(a | s)]      surrogate of the return  (eq. 4)
    theta_i'   = theta + alpha grad J_i(theta)                                adaptation  (sec. 2.2)
    max_theta    mean_i J~_i(theta_i'(theta)), J~_i on new episodes           meta-objective  (2.2)
    such that    mean_i E KL(pi[theta_i'(theta_0)] || pi[theta_i'(theta)]) <= delta    trust region
    F v        = mean_i (d theta_i'/d theta)^T F_i (d theta_i'/d theta) v     Fisher-vector product
    step       = 0.8^k sqrt(2 delta / x^T F x) x,  F x = g,  k = 0, 1, ...    line search

In task i, pi_old is the policy that chose the actions, A is their advantage, and E_i is the mean
over time steps. alpha is inner_lr. J~_i is J_i on the new episodes, those of the adapted policy.
With several adaptation steps, each on new episodes, theta_i' is what the last one gives.

In the KL, pi[...] is the policy with these parameters, theta_0 are those before the meta-update, E
is the mean over the states of the new episodes, and delta is max_kl. F, the Fisher matrix, says how
fast this KL grows: after a small change v of theta it is about v^T F v / 2. F_i is that of the
adapted policy. g is the gradient of the meta-objective. (In the last line F has a small number
added to its diagonal, the damping.)

Shapes: M tasks, K episodes in each of them, N = M K in all, of T steps; P parameters; B is any
number of observations in one task, K T for example.

Equations and sections are those of Finn et al. (2017), MAML, https://arxiv.org/abs/1703.03400;
section 3.2 and Algorithm 3 are on reinforcement learning. TRPO is Schulman et al. (2015),
https://arxiv.org/abs/1502.05477, appendix C. The linear baseline is that of Duan et al. (2016),
https://arxiv.org/abs/1604.06778.

    python maml_trpo.py                                                # 2D navigation, 4 minutes
    python maml_trpo.py --env-id HalfCheetahDir-v0 --action-scale 0.1 --gae-lambda 0.95
    python maml_trpo.py --resume runs/.../checkpoint.pt --num-iterations 500
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from pathlib import Path

# Idle threads of torch wait in a loop, on cores that the environments need. Let them sleep after
# 5000 rounds (GNU OpenMP's default is far larger). Torch reads this when it is imported, below.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import numpy as np
import torch
import torch.distributed as dist
import tyro
from gymnasium.spaces import Box, Discrete, flatdim
from torch import nn
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.nn.functional import pad
from torch.utils.tensorboard import SummaryWriter

import envs
from envs import UsageError

ALGORITHM = "maml_trpo"
# No checks of arguments, in distributions of all kinds, not Categorical alone: for each check the
# CPU would have to wait for the GPU.
Categorical.set_default_validate_args(False)


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """the name of this experiment"""
    seed: int = 1
    """seed of the experiment"""
    torch_deterministic: bool = True
    """if toggled, `torch.backends.cudnn.deterministic=True`"""
    cuda: bool = True
    """if toggled, cuda will be used where there is one"""
    track: bool = False
    """if toggled, this experiment will be tracked with Weights and Biases"""
    wandb_project_name: str = "meta-rl"
    """the wandb's project name"""
    wandb_entity: str | None = None
    """the entity (team) of wandb's project"""
    resume: str | None = None
    """the checkpoint of a run to continue, with that run's arguments where none are given here"""
    env_id: str = "Navigation2D-v0"
    """the task distribution: an id of envs.py, or your own as package.module:MyTask-v0"""
    env_kwargs: dict[str, int | float | bool | None | str] = field(default_factory=dict)
    """arguments of the environment, as in --env-kwargs observe_task True"""
    num_iterations: float = 300
    """the number of meta-updates (a float, so that 1e3 can be said)"""
    meta_batch_size: int = 20
    """the number of tasks in a meta-update; several processes share it equally (rounded down)"""
    episodes_per_task: int = 20
    """episodes in each task, before adaptation and again after each adaptation step"""
    num_inner_steps: int = 1
    """adaptation steps in training (evaluation takes 3, whatever this is); 0 is TRPO over all
    tasks, the paper's *pretrained*"""
    inner_lr: float = 0.1
    """the step size alpha of adaptation"""
    later_fraction: float = 0.5
    """in evaluation, steps after the first num_inner_steps (after one, if that is 0) use inner_lr
    times this"""
    first_order: bool = False
    """if toggled, leave out second derivatives: the adaptation step counts as a constant"""
    hidden_size: int = 100
    """the size of the policy's two hidden layers"""
    action_scale: float = 1.0
    """the initial standard deviation of continuous actions; the network's output, their mean, is
    multiplied by it. `envs.make` gives bounded actions the bounds -1 and 1, to which they are
    clipped"""
    gamma: float = 0.99
    """the discount factor gamma"""
    gae_lambda: float = 0.9
    """the lambda for the generalized advantage estimation; a larger one looks farther ahead, with
    more noise"""
    max_kl: float = 0.01
    """the trust region delta: the most that a meta-update changes the adapted policies (mean KL).
    Where it is far too large, no try of the line search succeeds, and nothing is learned"""
    cg_iterations: int = 10
    """conjugate gradient iterations, one Fisher-vector product each"""
    cg_damping: float = 1e-5
    """what is added to the Fisher matrix's diagonal"""
    fisher_fraction: float = 0.1
    """the part of each task's episodes on which the Fisher matrix is estimated. Where episodes are
    short, take 1"""
    norm_obs: bool = False
    """Toggles normalization of observations by their running mean and variance"""
    checkpoint_seconds: float = 60.0
    """seconds between checkpoints"""
    eval_trials: int = 200
    """the number of held-out tasks to evaluate on"""
    eval_episodes: int = 40
    """episodes in each held-out task, before adaptation and again after each of 3 steps"""
    eval_seed: int = 0
    """the seed of the held-out tasks: not seen in training, unless there are only a few in all"""


def check_arguments(args):
    """Raises UsageError, one sentence, for what would fail later and less clearly."""
    names = """num_iterations episodes_per_task inner_lr later_fraction hidden_size action_scale
        max_kl cg_iterations fisher_fraction eval_episodes"""
    for name in names.split():
        if not getattr(args, name) > 0:
            raise UsageError(f"{name} must be above 0, got {getattr(args, name)}.")
    for name in "gamma gae_lambda fisher_fraction".split():
        if not 0 <= getattr(args, name) <= 1:
            raise UsageError(f"{name} must not exceed 1 or be below 0.")
    if (
        args.eval_trials < 2
        or not min(args.cg_damping, args.seed, args.eval_seed, args.num_inner_steps) >= 0
        or "num_envs" in args.env_kwargs
    ):
        raise UsageError(
            "eval_trials must be at least 2, seeds, num_inner_steps and cg_damping at least 0; "
            "env_kwargs must not hold num_envs: say --meta-batch-size."
        )


def average(x):
    """The mean of a tensor over the processes that torchrun started; without torchrun, itself."""
    if dist.is_initialized():
        x = x / dist.get_world_size()
        dist.all_reduce(x)  # the sum over processes, in place
    return x


class Policy:
    """An MLP as a pure function of a dict of parameters.

    The first axis of a parameter is the task: its size is M, or 1 where all tasks share it.
    """

    def __init__(self, env, args):
        self.args = args
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.obs_size = flatdim(self.observation_space)
        self.action_size = flatdim(self.action_space)
        # for --norm-obs: mean and variance [2, obs] of observations, see update_moments; at first 0
        # and 1, [2, 1]
        self.moments = torch.tensor([[0.0], [1.0]]).double()

    def initial_params(self):
        """Glorot's uniform weights [1, in, out]; biases and log_std, [1, 1, out], are zero."""
        hidden_size = self.args.hidden_size
        sizes = [self.obs_size, hidden_size, hidden_size, self.action_size]
        params = {}
        for i in range(3):
            weight = nn.init.xavier_uniform_(torch.empty(sizes[i], sizes[i + 1]))
            params[f"weight_{i}"] = weight[None]
            params[f"bias_{i}"] = torch.zeros(1, 1, sizes[i + 1])
        if isinstance(self.action_space, Box):
            params["log_std"] = torch.zeros(1, 1, self.action_size)
        return params

    def encode(self, obs):
        """An environment's observations [N, ...] as the network's input [N, obs]."""
        obs = torch.as_tensor(obs)
        if isinstance(self.observation_space, Discrete):
            return torch.eye(self.obs_size)[obs.long()]  # one-hot
        # float64 until it is normalised: in float32, 1.7e9 and 1.7e9 + 1, say the time in seconds,
        # are the same number
        obs = obs.flatten(1).double()
        if self.args.norm_obs:
            mean, variance = self.moments
            # what never changes has variance 0
            obs = ((obs - mean) / variance.sqrt().clamp(min=1e-4)).clamp(-10, 10)
        return obs.float()

    def update_moments(self, batch, weight):
        """Moves the moments towards those of an iteration's adapted episodes.

        With the weight 1 / iteration, the mean is the average of all iterations' means, and the
        variance the average of their variances. (How far the iterations' means are apart is left
        out.)
        """
        obs = batch["raw_obs"][batch["valid"]].flatten(1).double()  # [steps of all tasks, obs]
        new = average(torch.stack([obs.mean(0), obs.var(0, correction=0)]))
        self.moments = self.moments.lerp(new.cpu(), weight)  # old + weight (new - old)

    def outputs(self, params, obs):
        """From observations [M, B, obs] of M tasks: [logits], or [mean, log standard deviation].

        Logits and means are [M, B, action]. The log standard deviation, [M, 1, action] or
        [1, 1, action], is the same in all states. Mean and deviation are in units of action_scale.
        They are tensors, not a distribution, so that a caller can detach them: a KL needs the old
        policy as a constant.
        """
        h = obs
        for i in range(3):
            if i > 0:
                h.relu_()  # in place: no derivative needs its input
            h = h @ params[f"weight_{i}"] + params[f"bias_{i}"]  # [M, B, out]
        if "log_std" in params:
            return [h, params["log_std"]]
        return [h]

    def distribution(self, out, log_std=None):
        """The distribution over actions, of batch shape [M, B], that `outputs` define.

        `out` are logits, or with `log_std` means.
        """
        if log_std is None:
            return Categorical(logits=out)
        scale = self.args.action_scale
        return Independent(Normal(scale * out, scale * log_std.exp()), 1)


@torch.no_grad()
def rollout(policy, params, env, tasks, seed):
    """K episodes in each of M tasks, side by side: N = M K = env.num_envs.

    `params` are those of one policy, or of one for each task. Returns a dict of tensors
    [M, K, T, ...], T <= env.horizon: `raw_obs` as the environment gave it, `obs` as the network
    sees it, `action`, `log_prob`, `reward`, and `valid` (false after an episode's end: the
    environment plays on until the longest episode has ended). Besides, it has `return` [M, K],
    without discount. `seed` is the environment's; actions are drawn by torch's global generator.
    """
    device = params["bias_0"].device
    shape = len(tasks), env.num_envs // len(tasks)  # M, K
    tasks = np.repeat(tasks, shape[1], axis=0)
    next_obs, _ = env.reset(seed=seed, options={"tasks": tasks})
    valid = torch.ones(env.num_envs).bool()
    steps = []
    while valid.any():
        raw_obs = torch.tensor(next_obs)  # a copy: an environment may reuse its arrays
        obs = policy.encode(raw_obs).to(device)  # [N, obs]
        outputs = policy.outputs(params, obs.unflatten(0, shape))
        if not outputs[0].isfinite().all():
            raise UsageError("The policy is not finite: lower --inner-lr, or try --norm-obs.")
        distribution = policy.distribution(*outputs)
        action = distribution.sample()  # [M, K] or [M, K, action]
        log_prob = distribution.log_prob(action).flatten(0, 1)
        action = action.flatten(0, 1)
        next_obs, reward, terminated, truncated, _ = env.step(action.cpu().numpy())
        steps.append(
            {
                "raw_obs": raw_obs,
                "obs": obs,
                "action": action,
                "log_prob": log_prob,
                "reward": torch.tensor(reward).float(),
                "valid": valid,
            }
        )
        valid = valid & ~torch.as_tensor(terminated | truncated)
    batch = {}
    for name in steps[0]:
        column = torch.stack([step[name] for step in steps], dim=1)  # [N, T, ...]
        batch[name] = column.to(device).unflatten(0, shape)
    batch["return"] = (batch["reward"] * batch["valid"]).sum(2)
    return batch


def discounted_sums(x, discount):
    """sum_l discount^l x_{t+l} for every t of the last axis."""
    sums = x.clone()
    for t in reversed(range(x.shape[-1] - 1)):
        sums[..., t] += discount * sums[..., t + 1]
    return sums


def linear_baseline(batch, gamma):
    """Values [M, K, T]: a least-squares fit of the discounted returns-to-go in each task.

    Features are o, o^2, t, t^2, t^3 and 1, with o clipped to [-10, 10] and t in units of 100 steps,
    as in the code of Duan et al. (2016).
    """
    obs = batch["obs"].double().clamp(-10, 10)
    valid = batch["valid"].double()
    t = (valid.cumsum(2)[..., None] - 1) / 100  # [M, K, T, 1]: 0 in an episode's first step
    features = torch.cat([obs, obs**2, t, t**2, t**3, t**0], dim=3)
    phi = (features * valid[..., None]).flatten(1, 2)  # [M, K T, features]
    # the return-to-go of a step: its reward and those that follow, discounted, [M, K T, 1]
    returns = discounted_sums(batch["reward"] * valid, gamma).flatten(1)[..., None]
    # w = (phi^T phi + epsilon I)^-1 phi^T returns. Without epsilon there would be many solutions
    # where features depend on each other: o and o^2 are equal where o is one-hot.
    gram = phi.mT @ phi + 1e-5 * torch.eye(phi.shape[2]).to(obs)
    weights = torch.linalg.solve(gram, phi.mT @ returns)  # [M, features, 1]
    return (phi @ weights).view_as(valid).float()


def mean_over_steps(x, batch):
    """x [M, K, T] or [M, K T] averaged over each task's valid steps: [M]."""
    valid = batch["valid"].flatten(1)
    return (x.flatten(1) * valid).sum(1) / valid.sum(1)


def advantages(batch, gamma, gae_lambda):
    """GAE with the linear baseline, normalised to mean 0, deviation 1 in each task: [M, K, T].

    (If all rewards are 0, all advantages are 0. If all rewards are equal, but not 0, the advantages
    are the baseline's error alone. It, too, gets the deviation 1: noise.)
    """
    valid = batch["valid"]
    value = linear_baseline(batch, gamma)
    # The baseline's values are 0 after an episode's end. So nothing is added for the future after
    # the last step, not even at a time limit. The baseline can know of that limit: t is one of its
    # features.
    next_value = pad(value[..., 1:], (0, 1))
    # A_t = sum_l (gamma lambda)^l delta_{t+l},   delta_t = r_t + gamma V_{t+1} - V_t
    delta = (batch["reward"] + gamma * next_value - value) * valid
    advantage = discounted_sums(delta, gamma * gae_lambda)
    mean = mean_over_steps(advantage, batch)[:, None, None]  # [M, 1, 1]
    centered = (advantage - mean) * valid
    variance = mean_over_steps(centered**2, batch)[:, None, None]
    return centered / variance.sqrt().clamp(min=1e-8)


def surrogate(distribution, batch):
    """J_i = E[A pi / pi_old] over each task's steps, [M]: a surrogate for the return (equation 4).

    Why a ratio, not the usual E[A log pi]? Where pi is pi_old, the gradient of both is the policy
    gradient, E[A grad log pi]. But the meta-gradient needs the second derivative, too. There
    E[A log pi] lacks a term that the ratio has: E[A grad log pi (grad log pi)^T]. (J_i's second
    derivative is not the return's either: it leaves out that other actions lead to other states.)

    Equation 4 is a sum over an episode. This is a mean over steps, and `advantages` gives A the
    deviation 1 in each task. So a good inner_lr depends neither on the scale of rewards nor on the
    length of episodes, and in the meta-objective all tasks count alike.
    """
    log_prob = distribution.log_prob(batch["action"].flatten(1, 2))  # [M, K T]
    # (After an episode's end A is 0. Should a ratio overflow there, inf * 0 is nan, and the line
    # search refuses such a step.)
    ratio = (log_prob - batch["log_prob"].flatten(1)).exp()
    return mean_over_steps(ratio * batch["advantage"].flatten(1), batch)


def adapt(policy, params, batch, args):
    """One policy gradient step in each of the batch's M tasks: new parameters [M, ...].

    theta_i' = theta + alpha grad J_i(theta)   (section 2.2)
    """
    # a set of parameters for each task, where there was one for all
    params = {name: param.expand(len(batch["obs"]), -1, -1) for name, param in params.items()}

    def objective(params):
        outputs = policy.outputs(params, batch["obs"].flatten(1, 2))
        # Task i's parameters are in J_i alone: the gradient of the sum holds that of each task.
        return surrogate(policy.distribution(*outputs), batch).sum()

    # `trial` calls this within torch.no_grad, where torch.func.grad works all the same. `update`
    # calls it with gradients on. Then autograd differentiates through this step, which gives the
    # second derivative in the meta-gradient.
    gradients = torch.func.grad(objective)(params)
    if args.first_order:  # the gradient counts as a constant
        gradients = {name: gradient.detach() for name, gradient in gradients.items()}
    return {name: param + args.inner_lr * gradients[name] for name, param in params.items()}


@torch.no_grad()
def trial(policy, params, env, tasks, num_steps, seed, args):
    """Rollouts in the same tasks: before adaptation, and after each of `num_steps` steps of it.

    Returns a list of num_steps + 1 batches, as `rollout` gives them, with `advantage` added. The
    next step adapts on the last one. The first step's size is args.inner_lr.
    """
    batches = []
    for i in range(num_steps + 1):
        # Evaluation takes 3 steps, mostly more than training. The extra ones have a smaller step
        # size (section A.2: half of it). It is set once, before the first of them, and then stays:
        # with num_inner_steps 1, step 1 has inner_lr, steps 2 and 3 have inner_lr * later_fraction.
        # (max: also where training takes no step at all, step 1 has inner_lr.)
        if i == max(1, args.num_inner_steps) + 1:
            args = replace(args, inner_lr=args.inner_lr * args.later_fraction)
        if i > 0:
            params = adapt(policy, params, batches[-1], args)
        # A vector environment may seed its j-th one with seed + j. So that no two rollouts share a
        # seed, the seeds of a trial's rollouts are N apart. (int: a uint32 would overflow.)
        batch = rollout(policy, params, env, tasks, int(seed) + i * env.num_envs)
        batch["advantage"] = advantages(batch, args.gamma, args.gae_lambda)
        batches.append(batch)
    return batches


def adapted_outputs(policy, params, batches, args):
    """`Policy.outputs` for the K T states of the last batch, adapted on each batch before it.

    They are float64.
    """
    for batch in batches[:-1]:
        params = adapt(policy, params, batch, args)
    outputs = policy.outputs(params, batches[-1]["obs"].flatten(1, 2))
    # An adapted policy may be very sure of an action. In float32 the others' probabilities could be
    # 0, and the KL infinite.
    return [output.double() for output in outputs]


def unflatten(theta, params):
    """A vector as a dict of parameters, with the names and shapes of `params`."""
    parts = theta.split([param.numel() for param in params.values()])
    return {name: part.view_as(params[name]) for name, part in zip(params, parts, strict=True)}


def fisher_vector_product(policy, params, batches, args):
    """The function v -> F v + damping v of a vector [P].

    F = mean_i (d theta_i'/d theta)^T F_i (d theta_i'/d theta) is the Hessian of the mean KL at the
    parameters before the meta-update. (With first_order, d theta_i'/d theta is the identity.) To
    save time, only the first few episodes of each task are used, in its adaptation steps as well.
    So theta_i' and F are noisier here than in `update`. That is good enough: F gives the direction
    and the length of the first try, and the line search checks the KL on all episodes.
    """
    few = ceil(args.fisher_fraction * args.episodes_per_task)
    batches = [{name: x[:, :few] for name, x in batch.items()} for batch in batches]
    theta = nn.utils.parameters_to_vector(params.values()).requires_grad_()  # [P]
    outputs = adapted_outputs(policy, unflatten(theta, params), batches, args)
    old = policy.distribution(*[output.detach() for output in outputs])
    kl = mean_over_steps(kl_divergence(old, policy.distribution(*outputs)), batches[-1]).mean()
    # Why one more backward pass gives F v: let G be the KL's gradient in theta. Its derivative is
    #   mean_i (d theta_i'/d theta)^T F_i (d theta_i'/d theta), which is F,
    #   + mean_i (the KL's gradient in theta_i') times (the second derivative of theta_i').
    # Here the new policy is the old one: the KL is 0, the least it can be, and its gradients are 0,
    # so the second term is, too. G is 0, but its derivative is F. So the gradient of the number
    # G . v is F v. F itself, [P, P], is never built.
    # create_graph: to differentiate the gradient again, in each product.
    (kl_gradient,) = torch.autograd.grad(kl, theta, create_graph=True)

    def product(v):
        (fisher_v,) = torch.autograd.grad(kl_gradient @ v, theta, retain_graph=True)
        return average(fisher_v) + args.cg_damping * v

    return product


def conjugate_gradient(product, b, iterations):
    """x with product(x) close to b, for a positive definite `product` (Hestenes, Stiefel 1952).

    The matrix is too large to be built or inverted, but products with it are cheap. Each iteration
    goes to the best point along a new direction. `beta` makes it conjugate to the former ones: what
    was gained along them is not lost. Exact (but for rounding) after as many iterations as b has
    numbers, at the latest; ten give a good direction.
    """
    x = torch.zeros_like(b)
    residual = direction = b  # the residual is b - product(x)
    for _ in range(iterations):
        image = product(direction)  # the matrix times the direction
        squared_norm = residual @ residual
        # The clamps: else 0 / 0 once it has converged.
        coefficient = squared_norm / (direction @ image).clamp(min=1e-30)
        x = x + coefficient * direction
        residual = residual - coefficient * image
        beta = residual @ residual / squared_norm.clamp(min=1e-30)
        direction = residual + beta * direction
    return x


def update(policy, params, batches, args):
    """One TRPO step from a trial's batches: the new parameters, and what is logged.

    Where the line search fails, the parameters are the old ones.
    """
    theta = nn.utils.parameters_to_vector(params.values()).requires_grad_()  # [P]
    outputs = adapted_outputs(policy, unflatten(theta, params), batches, args)
    # the meta-objective before this update, on the episodes after adaptation
    old_objective = surrogate(policy.distribution(*outputs), batches[-1]).mean()
    # the meta-gradient, back through the adaptation
    gradient = average(torch.autograd.grad(old_objective, theta)[0])
    old_objective = average(old_objective.detach())
    old = policy.distribution(*[output.detach() for output in outputs])

    # A small step changes the objective by about g^T step, and the KL from 0 to step^T F step / 2.
    # The best step with KL <= delta has the direction x = F^-1 g, and the length with which
    # step^T F step / 2 = delta. Both are approximations. So the line search makes it shorter, until
    # the objective rises and the KL is at most delta in fact:
    # step = 0.8^k sqrt(2 delta / x^T F x) x,   F x = g (F with damping),   k = 0, 1, ...
    product = fisher_vector_product(policy, params, batches, args)
    x = conjugate_gradient(product, gradient, args.cg_iterations)
    full_step = (2 * args.max_kl / (x @ product(x))).sqrt() * x
    logs = {
        "losses/surrogate": old_objective.item(),  # about 0: ratios 1, advantages of mean 0
        "losses/gradient_norm": gradient.norm().item(),
        "losses/improvement": 0.0,
        "losses/kl": 0.0,
        "losses/step_size": 0.0,
    }
    for k in range(15):
        with torch.no_grad():
            candidate = unflatten(theta + 0.8**k * full_step, params)
            outputs = adapted_outputs(policy, candidate, batches, args)
            new = policy.distribution(*outputs)
            new_objective = average(surrogate(new, batches[-1]).mean())
            kl = average(mean_over_steps(kl_divergence(old, new), batches[-1]).mean())
        if new_objective > old_objective and kl <= args.max_kl:
            logs["losses/improvement"] = (new_objective - old_objective).item()
            logs["losses/kl"] = kl.item()
            logs["losses/step_size"] = 0.8**k  # of the full step
            return candidate, logs
    return params, logs


def evaluate(policy, params, env_id, env_kwargs, tasks, num_episodes, seed=0):
    """The returns of episodes in each of the given tasks: an array [tasks, 4, num_episodes].

    The second axis is the number of gradient steps before the episodes, 0 to 3. Tasks are an array
    as the environment's `sample_tasks` gives it. Step sizes, gamma and lambda are those of
    `policy.args`. Seeds the global random numbers of torch, numpy and Python.
    """
    returns = []
    for start in range(0, len(tasks), 10):  # ten at a time, to save memory
        some_tasks = tasks[start : start + 10]
        env = envs.make(env_id, len(some_tasks) * num_episodes, **env_kwargs)
        # The first number says what a seed is for: 0 training, 1 held-out tasks, 2 evaluation.
        torch_seed, env_seed = np.random.SeedSequence([2, seed, start]).generate_state(2)
        torch.manual_seed(torch_seed)
        batches = trial(policy, params, env, some_tasks, 3, env_seed, policy.args)
        env.close()
        returns.append(torch.stack([batch["return"] for batch in batches], dim=1))
    return torch.cat(returns).double().cpu().numpy()


def read_checkpoint(path):
    """A checkpoint's contents; UsageError for a file that is missing, damaged or not ours."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        algorithm = saved["algorithm"]
        unknown = saved["args"].keys() - vars(Args())  # arguments of another version
    except Exception as error:  # of any kind: what is wrong is the file
        raise UsageError(f"{path} is no readable checkpoint: {type(error).__name__}.") from None
    if algorithm != ALGORITHM or unknown:
        raise UsageError(f"{path} is of {algorithm}, or of another version of {ALGORITHM}.")
    return saved


def load(checkpoint, device="cpu"):
    """Policy, parameters and arguments of a checkpoint.pt, or of a published agent.pt.

    That is what `rollout`, `adapt` and `evaluate` take. Raises UsageError for a file that is
    missing, damaged or not ours.
    """
    saved = read_checkpoint(checkpoint)
    args = Args(**saved["args"])
    env = envs.make(args.env_id, 1, **args.env_kwargs)
    policy = Policy(env, args)
    env.close()
    params = saved["agent"]
    policy.moments = params.pop("moments", policy.moments)  # old checkpoints have none
    return policy, {name: param.to(device) for name, param in params.items()}, args


def train(args):
    """Trains, evaluates, and returns what it writes to eval.json (None where rank > 0).

    With args.resume, args must hold the run's own arguments: the end of this file sees to that.
    """
    rank = int(os.getenv("RANK", 0))
    world_size = int(os.getenv("WORLD_SIZE", 1))
    check_arguments(args)
    device = "cpu"
    if torch.cuda.is_available() and args.cuda:
        device = f"cuda:{os.getenv('LOCAL_RANK', 0)}"
    torch.backends.cudnn.deterministic = args.torch_deterministic
    torch.manual_seed(args.seed)  # so that all processes begin with the same weights
    if args.meta_batch_size < world_size:
        raise UsageError(f"meta_batch_size must be at least {world_size}, one task per process.")
    num_tasks = args.meta_batch_size // world_size  # of this process
    env = envs.make(args.env_id, num_tasks * args.episodes_per_task, **args.env_kwargs)
    policy = Policy(env, args)
    # A batch of episodes of full length takes more memory (of the CPU) than this array, for their
    # observations alone. To ask for it costs nothing, as nothing is written to it. Where memory is
    # far too small there is a MemoryError at once: see the end of this file.
    np.empty((env.num_envs, env.horizon, policy.obs_size))
    params = policy.initial_params()
    iteration = 0
    global_step = 0
    start_time = time.time()
    run_dir = Path(
        f"runs/{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns()}".replace(":", "_")
    )
    if args.resume:
        saved = read_checkpoint(args.resume)
        # The weights and the moments of observations depend on these arguments.
        names = "env_id env_kwargs hidden_size action_scale norm_obs"
        for name in names.split():
            old_value = saved["args"].get(name, False)  # older runs may lack norm_obs
            if getattr(args, name) != old_value:
                raise UsageError(f"{name} must stay {old_value}, as {args.resume} has it.")
        expected_shapes = [param.shape for param in params.values()]
        params = saved["agent"]
        policy.moments = params.pop("moments", policy.moments)
        shapes = [param.shape for param in params.values()]
        if "iteration" not in saved or shapes != expected_shapes:
            raise UsageError(
                f"{args.resume} is an agent alone, or of another environment or network."
            )
        iteration = saved["iteration"]
        global_step = saved["global_step"]
        start_time -= saved["wall_seconds"]
        # The run goes on in its folder. Where it was finished, or the file is a copy with another
        # name, it goes on in a new one: the old folder's checkpoint.pt stays as it is.
        source = Path(args.resume)
        if source.name == "checkpoint.pt" and not source.with_name("eval.json").exists():
            run_dir = source.parent
    params = {name: param.to(device) for name, param in params.items()}
    checkpoint_path = run_dir / "checkpoint.pt"

    if args.track and rank == 0:
        try:
            import wandb
        except ModuleNotFoundError:
            raise UsageError("--track needs a package: pip install wandb.") from None

        wandb.init(
            project=args.wandb_project_name,
            entity=args.wandb_entity,
            config=vars(args),
            sync_tensorboard=True,
            name=run_dir.name,
            id=run_dir.name,  # a resumed run goes on
            resume="allow",
        )
    writer = None
    last_save = 0.0

    def save_checkpoint():
        contents = {
            "algorithm": ALGORITHM,
            "args": vars(args),
            "agent": {**params, "moments": policy.moments},
            "iteration": iteration,
            "global_step": global_step,
            "wall_seconds": time.time() - start_time,
        }
        temporary = run_dir / "checkpoint.tmp"
        try:
            os.makedirs(run_dir, exist_ok=True)
            torch.save(contents, temporary)
            read_checkpoint(temporary)  # what cannot be read must not replace what can
            temporary.replace(checkpoint_path)  # atomic: at any moment the file is a whole one
            (run_dir / "args.json").write_text(json.dumps(vars(args), indent=2))
        except Exception as error:  # no right to write there, or args that cannot be stored
            raise UsageError(
                f"Cannot write {checkpoint_path}: {error}. Is the disk full? Are arguments plain "
                "numbers and texts?"
            ) from None

    try:
        while iteration < args.num_iterations:
            # All random numbers follow from seed, iteration and rank: a run that was resumed goes
            # on as if it had never stopped. (0 is training, see `evaluate`.)
            seeds = np.random.SeedSequence([0, args.seed, iteration, rank])
            torch_seed, task_seed, env_seed = seeds.generate_state(3)
            torch.manual_seed(torch_seed)
            tasks = env.sample_tasks(num_tasks, task_seed)
            batches = trial(policy, params, env, tasks, args.num_inner_steps, env_seed, args)
            params, logs = update(policy, params, batches, args)
            if not isfinite(sum(logs.values())):
                raise UsageError(f"Not finite: {logs}. Lower --inner-lr or the rewards.")
            iteration += 1
            steps = sum(batch["valid"].sum() for batch in batches)
            global_step += round(average(steps).item() * world_size)
            # Moments change between iterations only: all steps of a trial are seen alike. (Discrete
            # observations, whose shape is empty, are one-hot in any case.)
            if args.norm_obs and policy.observation_space.shape:
                policy.update_moments(batches[-1], 1 / iteration)
            if rank > 0:  # one process writes
                continue

            # The first checkpoint comes after the first iteration, for last_save is 0. It makes the
            # folder, so that a run that fails at once leaves none.
            if time.time() - last_save > args.checkpoint_seconds:
                last_save = time.time()
                save_checkpoint()
            # The writer is made only now, for it would make the folder, too. purge_step: a resumed
            # run replaces what was logged from this step on.
            writer = writer or SummaryWriter(run_dir, purge_step=global_step)
            # With several processes, returns and lengths are of this one's tasks.
            returns = [batch["return"].mean().item() for batch in batches]
            for i, mean_return in enumerate(returns):
                logs[f"charts/return_after_{i}_steps"] = mean_return
            logs["charts/episode_length"] = batches[-1]["valid"].sum(2).double().mean()
            logs["charts/SPS"] = global_step / (time.time() - start_time)
            for name, number in logs.items():
                writer.add_scalar(name, number, global_step)
            writer.flush()
            print(
                f"{iteration} of {args.num_iterations:g} iterations, "
                f"return after 0, 1, ... steps {np.round(returns, 2).tolist()}"
            )
        if rank > 0:
            return
        save_checkpoint()
        tasks = env.sample_tasks(args.eval_trials, [1, args.eval_seed])  # 1: see `evaluate`
        # {name of a task: its rows in tasks} where there are so few different tasks that training
        # has most likely seen all; else {}.
        rows_by_task = env.group_tasks(tasks)
        env.close()

        wall_seconds = time.time() - start_time
        print(
            f"{global_step} steps in {wall_seconds:.0f} s. To draw what was learned: python "
            f"benchmark/pictures.py {checkpoint_path}\n"
            f"In {args.eval_trials} {'' if rows_by_task else 'new '}tasks:"
        )
        returns = evaluate(  # [tasks, 4, episodes]
            policy, params, args.env_id, args.env_kwargs, tasks, args.eval_episodes, args.eval_seed
        )
        # Three things are averaged over tasks below: the sum of *all* of a task's episodes
        # ("return_mean", as of RL^2's trials), each of them (first those before adaptation), and
        # their mean after 0, 1, 2, 3 gradient steps.
        by_episode = returns.reshape(args.eval_trials, -1)  # [tasks, 4 * episodes]
        totals = by_episode.sum(1)  # [tasks]
        samples = {
            "return_mean": totals,
            "return_by_episode": by_episode,
            "return_by_gradient_step": returns.mean(2),  # before and after 1, 2, 3 gradient steps
        }
        result = {
            **vars(args),
            "algorithm": ALGORITHM,
            "global_step": global_step,
            "wall_seconds": wall_seconds,
            "return_by_task": {task: totals[rows].mean() for task, rows in rows_by_task.items()},
        }
        for name, x in samples.items():
            mean = x.mean(0)
            stderr = x.std(0, ddof=1) / len(x) ** 0.5
            result[name] = mean.tolist()
            result[f"{name.removesuffix('_mean')}_stderr"] = stderr.tolist()
        (run_dir / "eval.json").write_text(json.dumps(result, indent=2))
        means = result["return_by_gradient_step"]
        stderrs = result["return_by_gradient_step_stderr"]
        for i in range(4):
            print(f"  after {i} gradient steps   {means[i]:9.2f} +- {stderrs[i]:.2f}")
        return result
    except BaseException as error:
        # Ctrl-C during a wait, say for other processes, may cause a second error there. Then report
        # the Ctrl-C, which is that error's context.
        if isinstance(error.__context__, KeyboardInterrupt):
            error = error.__context__
        error.add_note(f"Stopped. Iterations done: {iteration}.")
        if checkpoint_path.exists():
            error.add_note(f"To go on: python {Path(__file__).name} --resume {checkpoint_path}")
        raise error


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    args = tyro.cli(Args)
    if "RANK" in os.environ:  # one of several processes that torchrun started
        dist.init_process_group()
    try:
        # Given --env-kwargs (or --env_kwargs) twice, tyro keeps only the last. (str(sys.argv) is a
        # list of words in quotes. The quote before --env-kwargs says that a word begins.)
        if str(sys.argv).replace("_", "-").count("'--env-kwargs") > 1:
            raise UsageError("Name all arguments of the environment after one --env-kwargs.")
        if args.resume:  # the run's own arguments, where the command line has no others
            saved_args = read_checkpoint(args.resume)["args"]
            # Read the command line again, with those as defaults. env_kwargs is kept out of this:
            # for a default with entries tyro offers a flag for each, such as --env-kwargs.num-arms.
            env_kwargs = saved_args.pop("env_kwargs")
            args = tyro.cli(Args, default=Args(**saved_args))
            args.env_kwargs = args.env_kwargs or env_kwargs
        train(args)
    except (UsageError, KeyboardInterrupt) as error:
        # no traceback, but the notes: where it was, how to go on (Ctrl-C has no text)
        sys.exit(f"error: {str(error) or 'Interrupt.'} {' '.join(getattr(error, '__notes__', []))}")
    except (MemoryError, torch.OutOfMemoryError) as error:  # numpy's, and torch's of a GPU
        sys.exit(
            f"error: {error}: lower --meta-batch-size, --episodes-per-task, --eval-episodes or "
            f"--eval-trials. {' '.join(getattr(error, '__notes__', []))}"
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(1)  # until gloo's threads are done: else Python may crash at its end
