"""RL^2 with PPO: a recurrent network learns to learn.

A *trial* is some episodes in one unknown task. Besides the observation the agent sees its own
previous action, reward and end of episode, and it keeps its memory over all episodes of the trial.
To earn the most over whole trials it has to find out which task it is in, and to use that. So the
network becomes a learning algorithm, a fast one: its hidden state is what it has learned in the
trial. PPO, a slow one, trains the network over many trials. Numbers in parentheses are sections of
Duan et al. (2016), RL^2, https://arxiv.org/abs/1611.02779.

    x_t = [o_t, a_{t-1}, r_{t-1}, d_{t-1}]     input: a, r, d are 0 at the start of a trial    (2.2)
    h_t = GRU(x_t, h_{t-1})                    memory: 0 only at the start of a trial     (2.2, 2.3)
    a_t ~ pi(. | h_t),   V_t = V(h_t)          policy and value                           (2.3, 2.4)
    J   = E_task E_trial [sum_t gamma^t r_t]   objective: t runs through all episodes          (2.2)
    A_t = delta_t + gamma lambda A_{t+1}       advantage: GAE, over the whole trial            (2.4)
          delta_t = r_t + gamma V_{t+1} - V_t
    L   = E[min(rho A, clip(rho, 1-eps, 1+eps) A)], rho = pi / pi_old      PPO, not the paper's TRPO
          the optimizer minimizes -L + vf_coef (V_t - target_t)^2 / 2 - ent_coef entropy,
          where target_t = A_t + V_t, both from the rollout, is a constant

PPO is Schulman et al. (2017), https://arxiv.org/abs/1707.06347.

    python rl2_ppo.py                                                 # 5-armed bandit, 10 pulls
    python rl2_ppo.py --env-kwargs num_arms 50 --learn-from-regret    # 50 arms
    python rl2_ppo.py --resume runs/.../checkpoint.pt --total-timesteps 40_000_000
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from math import ceil, isfinite
from pathlib import Path
from typing import Literal

# Idle threads of torch wait in a loop, on cores that the environments need. Let them sleep after
# 5000 rounds (GNU OpenMP's default is far larger). Torch reads this when it is imported, below.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import numpy as np
import torch
import torch.distributed as dist
import tyro
from gymnasium.spaces import Discrete, flatdim
from torch import nn
from torch.distributions import Categorical, Independent, Normal
from torch.nn.functional import one_hot, pad
from torch.utils.tensorboard import SummaryWriter

import envs
from envs import UsageError

ALGORITHM = "rl2_ppo"
# No checks of arguments, in distributions of all kinds, not Categorical alone: for each check the
# CPU would have to wait for the GPU.
Categorical.set_default_validate_args(False)
# bfloat16 pays on processors with instructions for it (avx512_bf16: AVX-512 alone is not enough).
# GPUs since 2020 have such instructions, too, but small networks gain little or nothing. On older
# GPUs bfloat16 is slow. (With a GPU, HAS_BFLOAT16 is true even with --no-cuda.)
HAS_BFLOAT16 = torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False)


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
    env_id: str = "Bandit-v0"
    """the task distribution: an id of envs.py, or your own as package.module:MyTask-v0"""
    env_kwargs: dict[str, int | float | bool | None | str] = field(default_factory=dict)
    """arguments of the environment, as in --env-kwargs observe_task True"""
    episodes_per_trial: int = 10
    """episodes in a trial, over which memory is kept"""
    total_timesteps: float = 10_000_000
    """total timesteps of the experiment. If a resumed run is given more, its schedules (learning
    rate and others) are those of the new total: an annealed learning rate rises again"""
    num_envs: int = 4000
    """the number of parallel environments, of all processes together; a batch is one trial in each.
    The default, 4000, is lowered to keep a batch within 400,000 steps; any other number is kept"""
    cell: Literal["gru", "lstm"] = "gru"
    """the recurrent cell: gru or lstm"""
    hidden_size: int = 64
    """the size of the recurrent memory"""
    action_scale: float = 1.0
    """the initial standard deviation of continuous actions; the network's output, their mean, is
    multiplied by it. `envs.make` gives bounded actions the bounds -1 and 1, to which they are
    clipped"""
    learning_rate: float = 5e-3
    """the learning rate of the optimizer"""
    anneal_lr: bool = True
    """Toggle annealing: learning rate and entropy coefficient fall linearly to zero"""
    gamma: float = 0.99
    """the discount factor gamma, within the trial"""
    gae_lambda: float = 0.5
    """the lambda for the generalized advantage estimation; a larger one looks farther ahead, with
    more noise"""
    num_minibatches: int = 8
    """the number of mini-batches (of whole trials), of each process"""
    update_epochs: int = 4
    """the K epochs to update the policy"""
    norm_adv: bool = True
    """Toggles advantages normalization"""
    clip_coef: float = 0.2
    """the surrogate clipping coefficient"""
    ent_coef: float = 0.02
    """coefficient of the entropy"""
    vf_coef: float = 0.5
    """coefficient of the value function"""
    max_grad_norm: float = 0.5
    """the maximum norm for the gradient clipping"""
    target_kl: float | None = None
    """the target KL divergence threshold: an update ends after an epoch if the divergence in that
    epoch's last minibatch is above it (0 is no threshold)"""
    norm_obs: bool = False
    """Toggles normalization of observations by their running mean and variance"""
    norm_reward: bool = False
    """Toggles division of the rewards that train the network by the running deviation of their
    returns; those in its input stay as they are"""
    amp: bool = False
    """if toggled, the network computes in bfloat16, where there is a GPU, or a processor with
    instructions for it"""
    grow_trials: bool = False
    """not in the paper: trials grow from 10 episodes to episodes_per_trial, while a batch keeps its
    number of steps"""
    gamma_start: float | None = None
    """not in the paper: the discount rises from this to gamma, so that the number of steps that the
    agent looks ahead, 1 / (1 - discount), grows geometrically. Both have to be below 1 (were gamma
    1, the discount would be 1 from the second batch on)"""
    ramp_fraction: float = 0.5
    """the part of training over which trials and discount grow"""
    learn_from_regret: bool = False
    """not in the paper: train with the negative of the regret in place of the reward. The regret is
    V*(s) - Q*(s, a), the values of an agent that knows the task: what an action loses against the
    best one. It is less noisy, but only few environments report it"""
    checkpoint_seconds: float = 60.0
    """seconds between checkpoints"""
    eval_trials: int = 40_000
    """the number of held-out tasks to evaluate on, one trial each. Where environments are slow,
    a few hundred are enough: 40,000 may take longer than the training"""
    eval_seed: int = 0
    """the seed of the held-out tasks: not seen in training, unless there are only a few in all"""


def check_arguments(args):
    """Raises UsageError, one sentence, for what would fail later and less clearly."""
    names = """episodes_per_trial total_timesteps num_envs num_minibatches update_epochs hidden_size
        action_scale learning_rate max_grad_norm ramp_fraction"""
    for name in names.split():
        if not getattr(args, name) > 0:
            raise UsageError(f"{name} must be above 0, got {getattr(args, name)}.")
    for name in "gamma gae_lambda gamma_start".split():
        if not 0 <= (getattr(args, name) or 0) <= 1:
            raise UsageError(f"{name} must not exceed 1 or be below 0.")
    if args.eval_trials < 2 or min(args.seed, args.eval_seed) < 0 or "num_envs" in args.env_kwargs:
        raise UsageError(
            "eval_trials must be at least 2, seeds at least 0; env_kwargs must not hold num_envs."
        )


def average(x):
    """The mean of a tensor over the processes that torchrun started; without torchrun, itself."""
    if dist.is_initialized():
        x = x / dist.get_world_size()
        dist.all_reduce(x)  # the sum over processes, in place
    return x


class RunningMeanStd(nn.Module):
    """Mean and variance [size] of all rows so far; as buffers they are part of a checkpoint.

    With several processes, a batch's mean and variance are averages over the processes. (That the
    processes' means differ a little is not added to the variance.)
    """

    def __init__(self, size):
        super().__init__()
        zeros = torch.zeros(size).double()
        self.register_buffer("mean", zeros)
        self.register_buffer("var", zeros + 1)
        # The number of rows so far, the same in each column; with several processes that of one.
        self.register_buffer("count", zeros + 0)  # a copy: mean and count change in place

    def update(self, x):
        """Joins the moments of the rows x [B, size] to those so far (Chan et al. 1979)."""
        x = x.double()
        batch_mean = average(x.mean(0))
        # Some entries of observations never change. Their variance must be above 0 nevertheless:
        # `normalize` divides by its root.
        batch_var = average(x.var(0, correction=0)).clamp(min=1e-8)
        batch_count = average(x.new_tensor(len(x)))
        self.count += batch_count
        weight = batch_count / self.count
        delta = batch_mean - self.mean
        # The variance of old and new rows together, whose means are delta apart:
        #   (1 - weight) var + weight batch_var + weight (1 - weight) delta^2
        # = (1 - weight) (var + weight delta^2) + weight batch_var
        self.var = torch.lerp(self.var + weight * delta**2, batch_var, weight)
        self.mean += weight * delta

    def normalize(self, x):
        """x [B, size] with mean 0 and deviation 1, at most 10 away from 0."""
        return ((x - self.mean) / self.var.sqrt()).clamp(-10, 10)


class Agent(nn.Module):
    """A recurrent trunk with a policy head (RL^2, section 2.3) and a value head.

    From outside, use it through `initial_state` and `act`; training uses the rest.
    """

    def __init__(self, env, args):
        super().__init__()
        self.args = args
        self.amp = args.amp and HAS_BFLOAT16
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.has_discrete_actions = isinstance(self.action_space, Discrete)
        self.obs_size = flatdim(self.observation_space)
        self.action_size = flatdim(self.action_space)
        self.obs_stats = RunningMeanStd(self.obs_size)
        self.return_stats = RunningMeanStd(1)  # for --norm-reward; checkpoints hold it

        features = self.obs_size
        shape = self.observation_space.shape
        self.sees_images = len(shape) == 3
        if self.sees_images:
            height, width, channels = shape  # in this order: channels come last
            self.convolutions = nn.Sequential(
                nn.Conv2d(channels, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                # Each convolution halves both sides, and rounds up.
                nn.Linear(16 * ceil(height / 4) * ceil(width / 4), 256),
                nn.ReLU(),
            )
            features = 256

        cell = nn.GRU if args.cell == "gru" else nn.LSTM
        size = args.hidden_size
        # The input also has the previous action, reward and end of episode: these two are the 2.
        self.trunk = cell(features + self.action_size + 2, size)
        nn.init.orthogonal_(self.trunk.weight_hh_l0)
        # The gate that keeps memory is the second one in both: z of the GRU's r, z, n, and f of the
        # LSTM's i, f, g, o. Let it start mostly open.
        self.trunk.bias_hh_l0.data[size : 2 * size] += 1

        # These two are linear layers. Elsewhere `policy` is a distribution over actions, and
        # `value` is a tensor of numbers, see `heads`.
        self.policy = nn.Linear(size, self.action_size)
        self.value = nn.Linear(size, 1)
        # The policy's first weights are small: at first it hardly depends on what it sees.
        for layer, gain in ((self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        if not self.has_discrete_actions:
            self.log_std = nn.Parameter(torch.zeros(self.action_size))
            # Limits [2, action], to which the environment clips: -1 and 1 where an action has two
            # bounds, else its own, or infinite ones. They are no part of a checkpoint.
            limits = np.array([self.action_space.low, self.action_space.high])
            self.register_buffer("action_limits", torch.tensor(limits), persistent=False)

    def initial_state(self, num_envs):
        """The state in which N trials begin: None, a memory of zeros.

        Torch's recurrent networks take None for zeros. `act` sees by it that a trial begins: then
        there is no previous action, reward and end of episode.
        """
        return None

    def encode(self, obs, prev_action, prev_reward, prev_done, first):
        """The input x_t [N, obs + action + 2]. If `first`, it has zeros for what came before.

        A continuous action is clipped, as the environment does before it carries it out.
        """
        if isinstance(self.observation_space, Discrete):
            obs = one_hot(obs.long(), self.obs_size)
        else:
            # float64: torch cannot join some types of whole numbers with others.
            obs = obs.flatten(1).double()
            if self.args.norm_obs:
                obs = self.obs_stats.normalize(obs)
        if first:
            return pad(obs, (0, self.action_size + 2)).float()  # zeros for a, r, d
        if self.has_discrete_actions:
            prev_action = one_hot(prev_action.long(), self.action_size)
        else:
            prev_action = prev_action.clamp(*self.action_limits)
        # x_t = [o_t, a_{t-1}, r_{t-1}, d_{t-1}], of whatever types
        return torch.column_stack([obs, prev_action, prev_reward, prev_done]).float()

    def convolve(self, x):
        """x [T, N, input] to [T, N, 256 + action + 2]: an image's pixels become its features.

        What is no image stays as it is. Pixels are not divided by 255: --norm-obs normalizes each.
        """
        if not self.sees_images:
            return x
        # [T N, height, width, channels]
        images = x[..., : self.obs_size].reshape(-1, *self.observation_space.shape)
        features = self.convolutions(images.movedim(3, 1)).unflatten(0, x.shape[:2])  # [T, N, 256]
        return torch.cat([features, x[..., self.obs_size :]], dim=2)

    def forward(self, x):
        """Whole trials x [T, N, input], from their first step on: the policy and values [T, N]."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            # h_t = GRU(x_t, h_{t-1}), for all t in one call, starting from a memory of zeros
            h, _ = self.trunk(self.convolve(x))  # [T, N, hidden]
        return self.heads(h)

    def step(self, x, memory):
        """One step x [N, input]: the policy, values [N], and the memory that follows `memory`."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            h, memory = self.trunk(self.convolve(x[None]), memory)  # [1, N, hidden]
        return *self.heads(h[0]), memory

    def heads(self, h):
        """The policy, a distribution over actions, and the value, from h [..., size]."""
        h = h.to(self.value.weight)  # to the weights' float32; with --amp it may be bfloat16
        out = self.policy(h)
        value = self.value(h)[..., 0]
        if self.has_discrete_actions:
            return Categorical(logits=out), value
        scale = self.args.action_scale  # the unit of the network's output, mean and deviation
        return Independent(Normal(scale * out, scale * self.log_std.exp()), 1), value

    @torch.inference_mode()
    def act(self, obs, prev_action, prev_reward, prev_done, state):
        """Actions for N trials: arrays or tensors with first axis N in, (action, next state) out.

        `state` is `initial_state(N)` when a trial begins, and later what the last call returned. In
        the first call only `obs` counts: give arrays of zeros for the others. Later `prev_done` is
        1, or true, where the last step ended an episode. The action is a tensor, [N] or [N,
        action], on the agent's device. It is within the action space: a continuous one is clipped.
        """
        inputs = [
            torch.as_tensor(array, device=self.value.weight.device)
            for array in (obs, prev_action, prev_reward, prev_done)
        ]
        x = self.encode(*inputs, state is None)
        policy, _, state = self.step(x, state)
        action = policy.sample()
        if not self.has_discrete_actions:
            action = action.clamp(*self.action_limits)
        return action, state


@torch.inference_mode()
def rollout(agent, env, tasks, episodes, seed):
    """A trial of `episodes` episodes in each of N tasks.

    Returns a dict of tensors [T, N, ...], T <= episodes * env.horizon: `x` (the network's input),
    `obs`, `action`, `log_prob`, `value`, `reward`, `regret` (where the environment reports it),
    `episode` (the number of episodes that are over) and `valid` (false after the trial's end). A
    trial that ends early plays on, invalid, until the longest one has ended. `action` is what the
    policy drew, and `log_prob` is that action's. The environment and the next `x` have it clipped.
    """
    device = agent.value.weight.device
    next_obs, _ = env.reset(seed=seed, options={"tasks": tasks})
    action = reward = done = memory = None  # nothing precedes the first step of a trial
    episode = torch.zeros(env.num_envs, device=device).long()  # [N]: how many are over
    steps = []
    while torch.any(episode < episodes):
        obs = torch.tensor(next_obs, device=device)  # a copy: an environment may reuse its arrays
        x = agent.encode(obs, action, reward, done, memory is None)  # [N, input]
        # An episode's end does not reset memory: it holds what the agent has learned of the task.
        policy, value, memory = agent.step(x, memory)
        action = policy.sample()
        # Where an episode ends, next_obs is the first of the next one, in the same task.
        next_obs, reward, terminated, truncated, info = env.step(action.cpu().numpy())
        reward = torch.tensor(reward, device=device).float()
        done = torch.as_tensor(terminated | truncated, device=device)
        step = {
            "x": x,
            "obs": obs,  # as it came, in x it may be normalized
            "action": action,
            "log_prob": policy.log_prob(action),
            "value": value,
            "reward": reward,
            "episode": episode,
            "valid": episode < episodes,
        }
        if "regret" in info:
            step["regret"] = torch.tensor(info["regret"], device=device).float()
        steps.append(step)
        episode = episode + done
    # The regret only if every step had one. It is enough to look at the last step: environments
    # from `envs.make` report no regret any more after a step without one.
    return {name: torch.stack([step[name] for step in steps]) for name in steps[-1]}


def sum_by_episode(data, name, episodes):
    """The sum of `name`, reward or regret, in each episode of each trial: array [N, episodes]."""
    x = (data[name] * data["valid"]).T  # [N, T]
    episode = data["episode"].T.clamp(max=episodes - 1)  # after a trial's end x is 0
    # sums[n, episode[n, t]] += x[n, t]
    return x.new_zeros(len(x), episodes).scatter_add_(1, episode, x).double().cpu().numpy()


def advantages_and_returns(data, gamma, gae_lambda):
    """GAE over the whole trial: advantages [T, N] and returns [T, N].

    Here and in `update`, `returns` (CleanRL's name) are the value function's targets, A_t + V_t.

    What is learned in one episode pays in the next ones (Duan et al. 2016, section 2.2). So an
    episode's end does not cut the sum of rewards, the trial's end does. `signal`, which `train`
    adds to the data, takes the place of r_t: the reward, or minus the regret; with --norm-reward
    divided by the running deviation of returns.
    """
    valid = data["valid"]
    value = data["value"] * valid  # 0 after the trial
    advantage = torch.zeros_like(value)
    next_value = lastgaelam = 0.0  # nothing follows the last step; then they are [N]
    for t in reversed(range(len(value))):
        # A_t = delta_t + gamma lambda A_{t+1},   delta_t = r_t + gamma V_{t+1} - V_t
        delta = data["signal"][t] + gamma * next_value - value[t]
        lastgaelam = (delta + gamma * gae_lambda * lastgaelam) * valid[t]
        advantage[t] = lastgaelam
        next_value = value[t]
    return advantage, advantage + value


def ppo_loss(agent, batch, args, ent_coef):
    """The loss, and what is logged. `batch` is a minibatch of whole trials, of tensors [T, B, ...].

    The network runs through each trial from its first step, as it did in the rollout: before the
    first gradient step every ratio is 1 (with --amp about 1).
    """
    policy, value = agent(batch["x"])
    valid = batch["valid"]  # [T, B]

    def mean(x):  # over the steps of the trials, without those after their ends
        return torch.sum(valid * x) / valid.sum()

    advantage = batch["advantage"]
    if args.norm_adv:
        advantage = advantage - mean(advantage)
        advantage /= mean(advantage**2).sqrt() + 1e-8

    # log rho [T, B]. It is 0 after the trials' ends. There nothing keeps it small: exp could give
    # inf, and `mean` would compute inf * 0, which is nan.
    logratio = (policy.log_prob(batch["action"]) - batch["log_prob"]) * valid
    # L = E[min(rho A, clip(rho, 1-eps, 1+eps) A)],   rho = pi / pi_old
    ratio = logratio.exp()
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -mean(torch.min(advantage * ratio, advantage * clipped))  # -L
    value_loss = 0.5 * mean((value - batch["returns"]) ** 2)
    entropy = mean(policy.entropy())
    loss = policy_loss + args.vf_coef * value_loss - ent_coef * entropy
    logs = {
        "losses/policy_loss": policy_loss,
        "losses/value_loss": value_loss,
        "losses/entropy": entropy,
        # an estimate of KL(pi_old || pi): http://joschu.net/blog/kl-approx.html
        "losses/approx_kl": mean(ratio - 1 - logratio),
        "losses/clipfrac": mean((ratio - 1).abs() > args.clip_coef),
    }
    return loss, logs


def update(agent, optimizer, data, args, ent_coef):
    """PPO on a batch of whole trials: epochs of minibatches. Returns the means of the logs."""
    history = []
    for _ in range(args.update_epochs):
        order = torch.randperm(data["x"].shape[1], device=data["x"].device)
        for trials in order.tensor_split(args.num_minibatches):
            # [T, B, ...]: copies, as an index that is a tensor makes them. Autograd would refuse
            # the rollout's own tensors, which were made in inference mode.
            minibatch = {name: tensor[:, trials] for name, tensor in data.items()}
            loss, logs = ppo_loss(agent, minibatch, args, ent_coef)
            optimizer.zero_grad()
            loss.backward()
            # Each process has trials of its own. All take the same step, by the mean gradient. It
            # is computed as one vector, and then written back.
            gradients = [parameter.grad for parameter in agent.parameters()]
            gradient = average(nn.utils.parameters_to_vector(gradients))
            nn.utils.vector_to_parameters(gradient, gradients)
            logs["losses/gradient_norm"] = nn.utils.clip_grad_norm_(
                agent.parameters(), args.max_grad_norm
            )
            optimizer.step()
            history.append(logs)
        if args.target_kl and average(logs["losses/approx_kl"].detach()) > args.target_kl:
            break
    return {name: torch.stack([entry[name] for entry in history]).mean().item() for name in logs}


def evaluate(agent, env_id, env_kwargs, tasks, episodes_per_trial, seed=0, return_regret=False):
    """The return of each episode of one trial in each of the given tasks: [tasks, episodes].

    Tasks are an array as the environment's `sample_tasks` gives it. With `return_regret` a pair is
    returned: the returns, and the regrets, which are None unless the environment reports one in all
    steps. Seeds the global random numbers of torch, numpy and Python.
    """
    returns = []
    regrets = []
    # As many at once as all processes had in training. (The size of a batch decides which random
    # numbers a task gets. So another size changes results, but not on average.)
    batch_size = agent.args.num_envs
    for start in range(0, len(tasks), batch_size):
        some_tasks = tasks[start : start + batch_size]
        env = envs.make(env_id, len(some_tasks), **env_kwargs)
        # The first number says what a seed is for: 0 training, 1 held-out tasks, 2 evaluation.
        torch_seed, env_seed = np.random.SeedSequence([2, seed, start]).generate_state(2)
        torch.manual_seed(torch_seed)
        data = rollout(agent, env, some_tasks, episodes_per_trial, env_seed)
        env.close()
        returns.append(sum_by_episode(data, "reward", episodes_per_trial))
        if "regret" in data:
            regrets.append(sum_by_episode(data, "regret", episodes_per_trial))
    has_regret = len(regrets) == len(returns)  # every batch reported it, not some alone
    returns = np.concatenate(returns)
    if not return_regret:
        return returns
    return returns, np.concatenate(regrets) if has_regret else None


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
    """The agent of a checkpoint.pt (or of a published agent.pt: no optimizer), ready to `act`.

    Raises UsageError for a file that is missing, damaged or not ours, and torch's RuntimeError if
    the environment has changed since, so that the weights do not fit.
    """
    saved = read_checkpoint(checkpoint)
    args = Args(**saved["args"])
    env = envs.make(args.env_id, 1, **args.env_kwargs)
    agent = Agent(env, args).to(device)
    agent.load_state_dict(saved["agent"])
    env.close()
    return agent


def schedule(args, global_step):
    """What changes with the progress of training.

    Learning rate, entropy coefficient, discount, episodes per trial, and the number of trials in a
    batch, of all processes together.
    """
    progress = global_step / args.total_timesteps  # from 0 to 1
    annealing = 1 - progress if args.anneal_lr else 1.0
    ramp = min(1.0, progress / args.ramp_fraction)  # from 0 to 1, which it then keeps
    gamma = args.gamma
    if args.gamma_start is not None:
        # geometric in 1 / (1 - gamma), the number of steps that the agent looks ahead
        gamma = 1 - (1 - args.gamma_start) ** (1 - ramp) * (1 - args.gamma) ** ramp
    episodes = args.episodes_per_trial
    if args.grow_trials and episodes > 10:
        episodes = round(10 * (episodes / 10) ** ramp)
    # as many trials as give a batch its number of steps
    num_envs = args.num_envs * args.episodes_per_trial // episodes
    return args.learning_rate * annealing, args.ent_coef * annealing, gamma, episodes, num_envs


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
    env = envs.make(args.env_id, 1, **args.env_kwargs)  # one task: for its spaces
    steps = args.episodes_per_trial * env.horizon  # of a trial, at most
    # Lower the default (also where a user gave just that number) to a batch of 400,000 steps.
    if args.num_envs == Args.num_envs:
        args.num_envs = min(4000, 400_000 // steps)
    if args.num_minibatches * world_size > args.num_envs:
        raise UsageError(
            f"num_envs, {args.num_envs}, must be at least num_minibatches times processes."
        )
    agent = Agent(env, args).to(device)
    # A batch takes about as much memory (of the CPU) as this array. To ask for it costs nothing, as
    # nothing is written to it. Where memory is far too small there is a MemoryError at once: see
    # the end of this file.
    np.empty((args.num_envs // world_size, steps, agent.obs_size + agent.policy.in_features))
    optimizer = torch.optim.Adam(agent.parameters(), eps=1e-5)  # each iteration sets its rate
    iteration = 0
    global_step = 0
    start_time = time.time()
    run_dir = Path(
        f"runs/{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns()}".replace(":", "_")
    )
    if args.resume:
        # The checkpoint is read to the CPU. Adam's step counters have to stay there: on a GPU each
        # step of Adam would wait for them. load_state_dict moves everything else.
        saved = read_checkpoint(args.resume)
        # The weights and the moments of obs_stats and return_stats depend on these arguments.
        names = """env_id env_kwargs cell hidden_size action_scale
            norm_obs norm_reward"""
        for name in names.split():
            old_value = saved["args"].get(name, False)  # older runs may lack the last two
            if getattr(args, name) != old_value:
                raise UsageError(f"{name} must stay {old_value}, as {args.resume} has it.")
        try:
            agent.load_state_dict(saved["agent"])
            optimizer.load_state_dict(saved["optimizer"])
        except Exception:  # of any kind: what is wrong is the file
            raise UsageError(
                f"{args.resume} is an agent alone, or of another environment, horizon or network."
            ) from None
        iteration = saved["iteration"]
        global_step = saved["global_step"]
        start_time -= saved["wall_seconds"]
        # The run goes on in its folder. Where it was finished, or the file is a copy with another
        # name, it goes on in a new one: the old folder's checkpoint.pt stays as it is.
        source = Path(args.resume)
        if source.name == "checkpoint.pt" and not source.with_name("eval.json").exists():
            run_dir = source.parent
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
            "agent": agent.state_dict(),
            "optimizer": optimizer.state_dict(),
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
        while global_step < args.total_timesteps:
            learning_rate, ent_coef, gamma, episodes, num_envs = schedule(args, global_step)
            optimizer.param_groups[0]["lr"] = learning_rate
            num_trials = num_envs // world_size  # of this process
            if env.num_envs != num_trials:
                env.close()
                env = envs.make(args.env_id, num_trials, **args.env_kwargs)

            # All random numbers follow from seed, iteration and rank: a run that was resumed goes
            # on as if it had never stopped. (0 is training, see `evaluate`.)
            seeds = np.random.SeedSequence([0, args.seed, iteration, rank])
            torch_seed, task_seed, env_seed = seeds.generate_state(3)
            torch.manual_seed(torch_seed)
            data = rollout(agent, env, env.sample_tasks(num_trials, task_seed), episodes, env_seed)
            valid = data["valid"]  # [T, N]

            # The regret of a step is V*(s) - Q*(s, a): values of an optimal agent that knows the
            # task. On average its sum over an episode is V*(s_0) minus the return. So, without
            # discount, to lower the regret is to raise the return. It has less noise: the luck in
            # rewards is left out.
            reward = data["reward"]
            if args.learn_from_regret:
                if "regret" not in data:
                    raise UsageError(f"{args.env_id} reports no regret to learn from.")
                reward = -data["regret"]
            return_std = agent.return_stats.var.sqrt().float()  # 1, unless norm_reward updated it
            data["signal"] = reward / return_std
            advantage, returns = advantages_and_returns(data, gamma, args.gae_lambda)
            data["advantage"] = advantage
            data["returns"] = returns
            logs = update(agent, optimizer, data, args, ent_coef)
            if not isfinite(sum(logs.values())):
                raise UsageError(f"Not finite: {logs}. Lower --learning-rate or the rewards.")
            # Moments change between iterations only: all steps of a trial are seen alike. (Discrete
            # observations, whose shape is empty, are one-hot in any case.)
            if args.norm_obs and agent.observation_space.shape:
                agent.obs_stats.update(data["obs"][valid].flatten(1))
            if args.norm_reward:
                # The deviation is wanted in the environment's unit. But in `returns` rewards were
                # divided by return_std: this is undone.
                agent.return_stats.update((returns * return_std)[valid][:, None])
            iteration += 1
            global_step += round(average(valid.sum()).item() * world_size)
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
            # With several processes what is logged is of this one's trials.
            episode_returns = sum_by_episode(data, "reward", episodes).mean(0)
            for i, episode_return in enumerate(episode_returns, 1):
                logs[f"charts/return_episode_{i}"] = episode_return
            logs |= {
                # returns - values = advantages: what the values do not explain
                "losses/explained_variance": 1 - advantage[valid].var() / returns[valid].var(),
                "charts/trial_return": episode_returns.sum(),
                "charts/learning_rate": learning_rate,
                "charts/gamma": gamma,
                "charts/episodes_per_trial": episodes,
                "charts/SPS": global_step / (time.time() - start_time),
            }
            for name, number in logs.items():
                writer.add_scalar(name, number, global_step)
            writer.flush()
            print(
                f"{global_step} of {args.total_timesteps:.0f} steps, return of {episodes} episodes "
                f"{episode_returns.sum():.3f}"
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
        returns, regrets = evaluate(
            agent,
            args.env_id,
            args.env_kwargs,
            tasks,
            args.episodes_per_trial,
            args.eval_seed,
            return_regret=True,
        )
        totals = returns.sum(1)  # of each trial
        # the name of a mean in eval.json, and what is averaged, over the first axis: the trials
        samples = {"return_mean": totals, "return_by_episode": returns}
        if regrets is not None:
            samples["regret_mean"] = regrets.sum(1)
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
            print(f"  {name:20}{np.round(mean, 3)} +- {np.round(stderr, 3)}")
        (run_dir / "eval.json").write_text(json.dumps(result, indent=2))
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
            f"error: {error}: lower --num-envs or --eval-trials. "
            f"{' '.join(getattr(error, '__notes__', []))}"
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(1)  # until gloo's threads are done: else Python may crash at its end
