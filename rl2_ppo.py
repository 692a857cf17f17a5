"""RL^2 with PPO: a recurrent network learns to learn.

A *trial* is some episodes in one unknown task. Beside the observation the agent sees its own previous action, reward
and end of episode, and it keeps its memory over all episodes. To earn the most over whole trials it has to find out
which task it is in, and to use that: its hidden state becomes a learning algorithm, which PPO, a slow one, tunes.

    x_t = [o_t, a_{t-1}, r_{t-1}, d_{t-1}]       input: zeros for a, r, d at the start of a trial        (section 2.2)
    h_t = GRU(x_t, h_{t-1})                      memory: zeros at the start of a trial, and nowhere else (section 2.2)
    a_t ~ pi(. | h_t),   V_t = V(h_t)            policy and value                                        (section 2.3)
    J   = E_task E_trial [sum_t gamma^t r_t]     objective: t runs through the episodes of the trial     (section 2.2)
    A_t = sum_l (gamma lambda)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l})        GAE, over the whole trial  (section 2.3)
    L   = E[min(rho A, clip(rho, 1-eps, 1+eps) A)], rho = pi / pi_old         PPO, for the paper's TRPO  (section 2.3)

Duan et al. (2016), RL^2, https://arxiv.org/abs/1611.02779; Schulman et al. (2017), https://arxiv.org/abs/1707.06347.

    python rl2_ppo.py                                                     # 5-armed bandit, 10 pulls
    python rl2_ppo.py --env-kwargs num_arms 50 --learn-from-regret        # 50 arms
    python rl2_ppo.py --resume runs/.../checkpoint.pt --total-timesteps 40_000_000
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn as nn
from gymnasium.spaces import Box, Discrete, flatdim
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import envs

ALGORITHM = "rl2_ppo"
Distribution.set_default_validate_args(False)  # a check per call, and on a GPU a wait for it
AMP = ("cuda", "cpu") if torch.backends.cpu.get_cpu_capability() == "AVX512" else ("cuda",)  # others: faster without


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
    save_model: bool = False
    """whether to save the trained network alone, for `load`, as `agent.pt` in the run folder"""
    resume: str | None = None
    """the checkpoint of a run to continue, with that run's arguments where none are given here"""
    env_id: str = "Bandit-v0"
    """the task distribution: an id of envs.py, or your own as package.module:MyTask-v0"""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """arguments of the environment, as in --env-kwargs observe_task True"""
    episodes_per_trial: int = 10
    """episodes in a trial, over which memory is kept"""
    total_timesteps: int = 10_000_000
    """total timesteps of the experiment"""
    num_envs: int = 4000
    """the number of parallel environments: one trial each makes a batch"""
    cell: Literal["gru", "lstm"] = "gru"
    """the recurrent cell: gru or lstm"""
    hidden_size: int = 64
    """the size of the recurrent memory"""
    learning_rate: float = 5e-3
    """the learning rate of the optimizer"""
    anneal_lr: bool = True
    """Toggle learning rate annealing, linearly to zero, and the entropy coefficient with it"""
    gamma: float = 0.99
    """the discount factor gamma, within the trial"""
    gae_lambda: float = 0.5
    """the lambda for the general advantage estimation"""
    num_minibatches: int = 8
    """the number of mini-batches (of whole trials)"""
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
    """the target KL divergence threshold, above which an update stops early"""
    norm_obs: bool = False
    """Toggles normalization of observations by their running mean and variance"""
    norm_reward: bool = False
    """Toggles division of training rewards by the running deviation of the value function's targets"""
    amp: bool = False
    """if toggled, the network computes in bfloat16 (heads and losses in float32), where the processor is made for it"""
    grow_trials: bool = False
    """lever: the trial grows from 10 episodes to its full length, fewer trials making up for longer ones"""
    gamma_start: float | None = None
    """lever: the discount rises from here to gamma, geometrically in 1 / (1 - discount)"""
    ramp_fraction: float = 0.5
    """the part of training over which trials and discount grow"""
    learn_from_regret: bool = False
    """lever: train on minus the regret the environment reports, in place of the reward"""
    checkpoint_seconds: float = 60.0
    """seconds between checkpoints"""
    capture_video: bool = False
    """if toggled, benchmark/pictures.py draws held-out trials into the run folder at the end (gif or png)"""
    eval_trials: int = 40_000
    """the number of held-out tasks to evaluate on, one trial each"""
    eval_seed: int = 0
    """the seed of the held-out tasks, which training never sees"""


class Agent(nn.Module):
    """One recurrent trunk, a policy and a value head (RL^2, section 2.3). Use it through `initial_state` and `act`."""

    def __init__(self, env, args):
        super().__init__()
        self.args = args
        spaces = self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self.obs_size, self.action_size = (int(flatdim(space)) for space in spaces)
        # Running mean and variance, averaged over all batches they are called with: part of the state_dict.
        self.obs_norm, self.return_norm = (nn.BatchNorm1d(n, affine=False, momentum=None) for n in (self.obs_size, 1))
        hidden, trunk = args.hidden_size, {"gru": nn.GRU, "lstm": nn.LSTM}[args.cell]
        seen, shape = self.obs_size, self.observation_space.shape
        if len(shape) == 3:  # an image, its channels the shortest axis, the last of equals
            layers = nn.Conv2d(min(shape), 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()
            self.eye, seen = nn.Sequential(*layers), 32 * int(np.prod([(side + 3) // 4 for side in sorted(shape)[1:]]))
        self.trunk = trunk(seen + self.action_size + 2, hidden)
        nn.init.orthogonal_(self.trunk.weight_hh_l0)
        self.trunk.bias_hh_l0.data[hidden : 2 * hidden] += 1  # the gate that keeps memory starts mostly open
        self.policy, self.value = nn.Linear(hidden, self.action_size), nn.Linear(hidden, 1)
        for layer, gain in ((self.policy, 0.01), (self.value, 1.0)):  # 0.01: the first policy is close to uniform
            nn.init.orthogonal_(layer.weight, gain), nn.init.zeros_(layer.bias)
        if isinstance(space := self.action_space, Box):  # the policy's unit: half the range of a bounded action
            half = (space.high - space.low).astype(np.float32) / 2
            self.register_buffer("unit", torch.tensor(np.where((half > 0) & (half < np.inf), half, np.float32(1))))
            self.log_std = nn.Parameter(torch.zeros(self.action_size))

    def initial_state(self, num_envs):
        """The state in which `num_envs` trials side by side begin: (memory of zeros, first-step marks [N, 1])."""
        zeros = self.policy.weight.new_zeros(1, num_envs, self.args.hidden_size)
        memory = (zeros, zeros) if self.args.cell == "lstm" else zeros
        return memory, torch.ones(num_envs, 1, dtype=torch.bool, device=zeros.device)

    def encode(self, obs, prev_action, prev_reward, prev_done, first):
        """The input x_t [N, obs + action + 2]; `first` is true in the first step of a trial, which nothing precedes."""
        if isinstance(self.observation_space, Discrete):
            obs = obs[:, None] == torch.arange(self.obs_size, device=first.device)  # one-hot
        elif self.args.norm_obs:
            obs, variance = obs.flatten(1), self.obs_norm.running_var
            obs = ((obs - self.obs_norm.running_mean) / (variance + 1e-8).sqrt()).clamp(-10, 10)
        if isinstance(self.action_space, Discrete):
            prev_action = prev_action[:, None] == torch.arange(self.action_size, device=first.device)
        prev = torch.cat([prev_action.float(), prev_reward[:, None].float(), prev_done[:, None].float()], dim=1)
        return torch.cat([obs.flatten(1).float(), torch.where(first, 0.0, prev)], dim=1)

    def forward(self, x, memory):
        """x [T, N, input] and the memory before it, to (policy, value [T, N], memory after it), in one kernel call."""
        with torch.autocast(on := "cuda" if x.is_cuda else "cpu", torch.bfloat16, enabled=self.args.amp and on in AMP):
            if len(shape := self.observation_space.shape) == 3:
                image, prev = x.flatten(0, 1).tensor_split([self.obs_size], dim=1)
                image = image.unflatten(1, shape).movedim(3 - shape[::-1].index(min(shape)), 1)  # [T N, C, H, W]
                x = torch.cat([self.eye(image), prev], dim=1).unflatten(0, x.shape[:2])
            h, memory = self.trunk(x, memory)  # [T, N, hidden]
        h = h.to(x.dtype)
        out, value = self.policy(h), self.value(h).squeeze(-1)
        if isinstance(self.action_space, Discrete):
            return Categorical(logits=out), value, memory
        return Independent(Normal(self.unit * out, self.unit * self.log_std.exp()), 1), value, memory

    @torch.inference_mode()
    def act(self, obs, prev_action, prev_reward, prev_done, state):
        """Actions for N trials: arrays or tensors with first axis N in, (action [N, ...], next state) out.
        `state`: `initial_state(N)` when a trial begins (`prev_...` may be anything), else what the last call gave."""
        memory, first = state
        inputs = (torch.as_tensor(a, device=first.device) for a in (obs, prev_action, prev_reward, prev_done))
        policy, _, memory = self(self.encode(*inputs, first)[None], memory)
        return policy.sample()[0], (memory, torch.zeros_like(first))


@torch.inference_mode()
def rollout(agent, env, tasks, episodes, seed, random=False):
    """Runs a trial of `episodes` episodes in each of N tasks: tensors [T, N, ...], T <= episodes * env.horizon: network
    inputs `x`, `obs`, `action`, `log_prob`, `value`, `reward`, `regret` (where there is one), `episode`, how many
    were over before the step, `valid`, false after the trial's end. With `random` actions are uniformly random."""
    device = agent.value.weight.device
    obs, _ = env.reset(seed=seed, options={"tasks": tasks})
    env.action_space.seed(np.random.SeedSequence([3, seed]).generate_state(1).item())
    action = torch.as_tensor(np.zeros_like(env.action_space.sample()), device=device)
    reward, done = torch.zeros(2, env.num_envs, device=device)
    episode = torch.zeros(env.num_envs, dtype=torch.long, device=device)
    (memory, first), steps = agent.initial_state(env.num_envs), []
    while (episode < episodes).any():
        obs = torch.tensor(obs, device=device)
        x = agent.encode(obs, action, reward, done, first)
        policy, value, memory = agent(x[None], memory)  # not reset here: memory is kept when an episode ends
        action = torch.as_tensor(env.action_space.sample(), device=device) if random else policy.sample()[0]
        step = {"x": x, "obs": obs, "action": action, "log_prob": policy.log_prob(action[None])[0], "value": value[0]}
        obs, reward, terminated, truncated, info = env.step(action.cpu().numpy())
        reward = torch.tensor(reward, dtype=torch.float32, device=device)
        done = torch.as_tensor(terminated | truncated, device=device)
        if "regret" in info:
            step["regret"] = torch.tensor(info["regret"], dtype=torch.float32, device=device)
        steps.append(step | {"reward": reward, "episode": episode, "valid": episode < episodes})
        episode, first = episode + done, torch.zeros_like(first)
    return {key: torch.stack([step[key] for step in steps]) for key in steps[0]}  # [T, N, ...]


def advantages_and_returns(data, gamma, gae_lambda):
    """GAE over the whole trial: advantages [T, N] and the value function's targets [T, N].
    An episode's end does not cut it (what is learnt in one pays in the next: RL^2, section 2.2), the trial's does."""
    signal, value, valid = data["signal"], data["value"], data["valid"]
    advantage = torch.zeros_like(value)
    next_value = last = torch.zeros_like(value[0])
    for t in reversed(range(len(value))):
        delta = signal[t] + gamma * next_value - value[t]
        last = (delta + gamma * gae_lambda * last) * valid[t]
        advantage[t], next_value = last, value[t] * valid[t]
    return advantage, advantage + value


def ppo_loss(agent, batch, args, ent_coef):
    """The loss of a minibatch of whole trials, a dict of [T, B, ...] tensors, and a dict of what is logged of it.
    The network runs through each trial from its first step, as in the rollout: the ratios of the first update are 1."""
    policy, value, _ = agent(batch["x"], agent.initial_state(batch["x"].shape[1])[0])
    log_ratio = policy.log_prob(batch["action"]) - batch["log_prob"]  # [T, B]
    ratio, advantage = log_ratio.exp(), batch["advantage"]
    weight = batch["valid"].to(value.dtype) / envs.total(batch["valid"].sum())  # [T, B]: sum(weight * ...) is a mean
    if args.norm_adv:
        centered = advantage - envs.total((weight * advantage).sum())
        advantage = centered / (envs.total((weight * centered**2).sum()).sqrt() + 1e-8)
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -(weight * torch.min(advantage * ratio, advantage * clipped)).sum()
    value_loss = 0.5 * (weight * (value - batch["returns"]) ** 2).sum()
    entropy = (weight * policy.entropy()).sum()
    loss = policy_loss + args.vf_coef * value_loss - ent_coef * entropy
    logs = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    logs |= {"old_approx_kl": (weight * -log_ratio).sum(), "approx_kl": (weight * (ratio - 1 - log_ratio)).sum()}
    logs["clipfrac"] = (weight * ((ratio - 1).abs() > args.clip_coef)).sum()
    return loss, dict(zip(logs, envs.total(torch.stack([*logs.values()]).detach()), strict=True))


def update(agent, optimizer, data, args, ent_coef):
    """PPO on a batch of whole trials: several epochs of minibatches of trials. Returns the means of the logs."""
    batch, history = {key: data[key] for key in ("x", "action", "log_prob", "valid", "advantage", "returns")}, []
    for _ in range(args.update_epochs):
        for trials in torch.randperm(data["x"].shape[1], device=data["x"].device).tensor_split(args.num_minibatches):
            loss, logs = ppo_loss(agent, {key: tensor[:, trials] for key, tensor in batch.items()}, args, ent_coef)
            optimizer.zero_grad()
            loss.backward()
            gradients = [parameter.grad for parameter in agent.parameters()]  # each process has its share of the sums
            nn.utils.vector_to_parameters(envs.total(nn.utils.parameters_to_vector(gradients)), gradients)
            logs["gradient_norm"] = nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
            history.append(logs)
        if args.target_kl is not None and logs["approx_kl"] > args.target_kl:
            break
    return {name: torch.stack([logs[name] for logs in history]).mean().item() for name in logs}


def episode_returns(data, episodes):
    """Undiscounted sum of rewards of each episode of each trial, [N, episodes]."""
    reward, episode = (data["reward"] * data["valid"]).T, data["episode"].T.clamp(max=episodes - 1)
    return reward.new_zeros(len(reward), episodes).scatter_add_(1, episode, reward)


def evaluate(agent, env_id, env_kwargs, episodes_per_trial, num_trials, seed):
    """One trial in each of `num_trials` held-out tasks, drawn from a random stream of their own: the dict of eval.json.
    `return_mean_pseudo` is `return_mean` with less noise: on average a return is E[V*] per episode minus regrets."""
    env, size, batches = envs.make(env_id, 1, **env_kwargs), min(4000, agent.args.num_envs), []
    tasks = env.sample_tasks(num_trials, np.random.default_rng([1, seed]))
    for i in range(0, num_trials, size):
        chunk = tasks[i : i + size]
        env.close()
        env = envs.make(env_id, len(chunk), **env_kwargs)
        torch_seed, env_seed = np.random.SeedSequence([2, seed, i]).generate_state(2).tolist()
        torch.manual_seed(torch_seed)
        both = [rollout(agent, env, chunk, episodes_per_trial, env_seed, random) for random in (True, False)]
        returns, data = [episode_returns(data, episodes_per_trial) for data in both], both[-1]
        batches.append([*returns, (data.get("regret", data["valid"]) * data["valid"]).sum(0)])
    env.close()
    random, by_episode, regret = (torch.cat(parts).double() for parts in zip(*batches, strict=True))  # [trials, ...]
    result = {"num_trials": num_trials, "episodes_per_trial": episodes_per_trial}
    result["random_return_mean"] = random.sum(1).mean().item()
    for name, samples in ("return_mean", by_episode.sum(1)), ("return_by_episode", by_episode):
        stderr = samples.std(0) / num_trials**0.5
        result |= {name: samples.mean(0).tolist(), name.removesuffix("_mean") + "_stderr": stderr.tolist()}
    if "regret" in data and hasattr(env, "expected_optimum"):
        optimum, optimum_stderr = (episodes_per_trial * number for number in env.expected_optimum())
        result["return_mean_pseudo"] = optimum - regret.mean().item()
        result["return_stderr_pseudo"] = (optimum_stderr**2 + regret.var().item() / num_trials) ** 0.5
    return result


def read_checkpoint(path, device="cpu", needs=("agent", "args")):
    """A checkpoint's contents; UsageError for a file that is missing, damaged or another script's."""
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        if saved["algorithm"] == ALGORITHM and set(needs) <= set(saved) and set(saved["args"]) <= set(asdict(Args())):
            return saved
        reason = f"is of {saved['algorithm']}, or of another version of it, and holds {', '.join(saved)}"
    except Exception as error:
        reason = f"cannot be read ({type(error).__name__})"
    raise envs.UsageError(f"{path} {reason}: what is needed is the checkpoint.pt of a run of {ALGORITHM}.")


def load(checkpoint, device="cpu"):
    """The trained agent of a `checkpoint.pt` or `agent.pt`, ready to `act`; `agent.args` are the run's arguments."""
    saved = read_checkpoint(checkpoint, device)
    args = Args(**saved["args"])
    agent = Agent(env := envs.make(args.env_id, 1, **args.env_kwargs), args).to(device)
    agent.load_state_dict(saved["agent"]), env.close()
    return agent


def schedule(args, progress):
    """Learning rate, entropy coefficient, discount, episodes per trial and number of trials at `progress` in [0, 1)."""
    ramp, annealing = min(1.0, progress / args.ramp_fraction), 1 - progress if args.anneal_lr else 1.0
    gamma, full = args.gamma, args.episodes_per_trial
    if args.gamma_start is not None:  # geometric in 1 / (1 - gamma), the number of steps that the agent looks ahead
        gamma = 1 - (1 - args.gamma_start) ** (1 - ramp) * (1 - args.gamma) ** ramp
    episodes = round(10 * (full / 10) ** ramp) if args.grow_trials and full > 10 else full
    num_envs = args.num_envs * full // episodes  # a batch keeps its steps
    return args.learning_rate * annealing, args.ent_coef * annealing, gamma, episodes, num_envs


def train(args, signals=()):
    """Trains until a number is in `signals` or to the end, evaluates, and returns what it writes to eval.json."""
    envs.check_arguments(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = args.torch_deterministic
    torch.manual_seed(args.seed)
    env, main = envs.make(args.env_id, 1, **args.env_kwargs), envs.share(args.num_envs).start == 0  # one process writes
    agent = Agent(env, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    iteration, global_step, wall_seconds = 0, 0, 0.0
    name = args.env_id.replace(":", "_").replace("/", "_")
    run_dir = Path("runs") / f"{name}__{args.exp_name}__{args.seed}__{int(time.time())}"
    if args.resume:
        saved, run_dir = read_checkpoint(args.resume, device, ("agent", "iteration")), Path(args.resume).parent
        for name in ("env_id", "env_kwargs", "cell", "hidden_size", "norm_obs"):
            if saved["args"][name] != (value := getattr(args, name)):
                raise envs.UsageError(f"{args.resume} was trained with {name} {saved['args'][name]!r}, not {value!r}.")
        agent.load_state_dict(saved["agent"]), optimizer.load_state_dict(saved["optimizer"])
        iteration, global_step, wall_seconds = saved["iteration"], saved["global_step"], saved["wall_seconds"]
    start, first_step, last_save, writer = time.time() - wall_seconds, global_step, time.time(), None

    def checkpoint():
        run_dir.mkdir(parents=True, exist_ok=True)
        network = {"algorithm": ALGORITHM, "args": asdict(args), "agent": agent.state_dict()}
        progress = {"iteration": iteration, "global_step": global_step, "wall_seconds": time.time() - start}
        files = [("checkpoint", network | progress | {"optimizer": optimizer.state_dict()}), ("agent", network)]
        for name, contents in files[: 1 + args.save_model]:
            try:
                torch.save(contents, run_dir / "tmp")
                (run_dir / "tmp").replace(run_dir / f"{name}.pt")  # in one step: the former file or the new one
            except (OSError, RuntimeError) as error:
                raise envs.UsageError(f"Cannot save {run_dir / name}.pt, the former one is whole: {error}") from None

    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", unit_scale=True, disable=not main)
    while global_step < args.total_timesteps and not envs.total(torch.tensor(len(signals))):
        learning_rate, ent_coef, gamma, episodes, num_envs = schedule(args, global_step / args.total_timesteps)
        optimizer.param_groups[0]["lr"] = learning_rate
        mine = envs.share(num_envs)  # the trials of this process: all, but with torchrun
        if env.num_envs != mine.stop - mine.start:
            env.close()
            env = envs.make(args.env_id, mine.stop - mine.start, **args.env_kwargs)
        # All random numbers follow from seed and iteration: a run that was resumed goes on as if never stopped.
        seeds = (np.random.SeedSequence([0, args.seed, iteration, i]).generate_state(3) for i in (0, mine.start))
        (_, task_seed, _), (torch_seed, _, env_seed) = (numbers.tolist() for numbers in seeds)
        torch.manual_seed(torch_seed)
        try:
            tasks = env.sample_tasks(num_envs, np.random.default_rng(task_seed))[mine]
            data = rollout(agent, env, tasks, episodes, env_seed)
        except envs.UsageError as error:
            raise envs.UsageError(f"Iteration {iteration + 1}: {error}") from error
        if args.learn_from_regret and "regret" not in data:
            raise envs.UsageError(f"{args.env_id} does not report regret: train it without --learn-from-regret.")
        scale = (agent.return_norm.running_var + 1e-8).sqrt() if args.norm_reward else 1.0
        data["signal"] = (-data["regret"] if args.learn_from_regret else data["reward"]) / scale
        data["advantage"], data["returns"] = advantages_and_returns(data, gamma, args.gae_lambda)
        logs = update(agent, optimizer, data, args, ent_coef)
        iteration, global_step, valid = iteration + 1, global_step + int(envs.total(data["valid"].sum())), data["valid"]
        if wrong := {name: number for name, number in logs.items() if not np.isfinite(number)}:
            raise envs.UsageError(f"Not finite in iteration {iteration}: {wrong}. Lower --learning-rate and --resume.")
        if args.norm_obs and isinstance(agent.observation_space, Box):  # after the update, which sees the old moments
            agent.obs_norm(envs.gathered(data["obs"][valid].flatten(1).float()))
        if args.norm_reward:
            agent.return_norm(envs.gathered((data["returns"] * scale)[valid][:, None]))
        unexplained = (data["returns"] - data["value"])[valid].var() / data["returns"][valid].var()
        returns = (envs.total(episode_returns(data, episodes).sum(0)) / num_envs).tolist()
        charts = {f"return_episode_{i}": number for i, number in enumerate(returns, 1)} | {"trial_return": sum(returns)}
        charts |= {"learning_rate": learning_rate, "gamma": gamma, "episodes_per_trial": episodes}
        charts["SPS"] = (global_step - first_step) / (time.time() - start - wall_seconds)
        if main and writer is None:
            writer = SummaryWriter(run_dir, purge_step=first_step + 1, flush_secs=10)  # makes the folder
            (run_dir / "args.json").write_text(json.dumps(asdict(args), indent=2))
        for group, scalars in ("losses", logs | {"explained_variance": 1 - unexplained.item()}), ("charts", charts):
            for name, number in scalars.items():
                main and writer.add_scalar(f"{group}/{name}", number, global_step)
        bar.set_postfix_str(f"return {sum(returns):.3f} over {episodes} episodes"), bar.update(global_step - bar.n)
        if main and time.time() - last_save > args.checkpoint_seconds:
            last_save = checkpoint() or time.time()
    main and checkpoint()
    bar.close(), env.close(), writer and writer.close()
    if not main:
        return None
    if signals or global_step < args.total_timesteps:
        print(f"Stopped at step {global_step}. To go on: python {ALGORITHM}.py --resume {run_dir / 'checkpoint.pt'}")
        raise SystemExit(128 + sum(signals[:1]))
    result = {"env_id": args.env_id, "env_kwargs": args.env_kwargs, "algorithm": ALGORITHM, "seed": args.seed}
    result |= {"global_step": global_step, "wall_seconds": time.time() - start}
    result |= evaluate(agent, args.env_id, args.env_kwargs, args.episodes_per_trial, args.eval_trials, args.eval_seed)
    (run_dir / "eval.json").write_text(json.dumps(result, indent=2))
    print(f"{global_step} steps in {result['wall_seconds']:.0f} s, see {run_dir}. In {args.eval_trials} new tasks:")
    print("\n".join(f"  {name:25}{np.round(mean, 3).tolist()}" for name, mean in result.items() if "return" in name))
    args.capture_video and __import__("benchmark.pictures").pictures.draw(run_dir / "checkpoint.pt")
    return result


if __name__ == "__main__":
    envs.run(Args, train, read_checkpoint)
