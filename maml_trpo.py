"""MAML with TRPO: an initialisation from which one policy gradient step solves a new task.

In each task, episodes of the policy give a policy gradient; a step along it makes the adapted policy, and its fresh
episodes tell how well the task is solved then. Meta-learning improves those as a function of the *initial* parameters:
the gradient runs back through the adaptation step, and TRPO keeps the adapted policies close to what they were.

    J_i(theta)  = E_i [pi_theta(a | s) / pi_old(a | s) A(s, a)]                 surrogate        (equation 4)
    theta_i'    = theta + alpha grad J_i(theta)                                 adaptation       (section 2.2)
    max_theta     mean_i J_i'(theta_i'(theta)), with J_i' on new episodes       meta-objective   (equation 1)
    such that     mean_i E KL(pi_theta_i'(old) || pi_theta_i'(theta)) <= delta  trust region     (Algorithm 3, TRPO)
    F v         = mean_i (d theta_i'/d theta)^T F_i (d theta_i'/d theta) v      Fisher-vector product
    step        = s sqrt(2 delta / x^T F x) x, F x = grad, s = 1, 0.8, ...      conjugate gradient, line search

Finn et al. (2017), MAML, https://arxiv.org/abs/1703.03400, section 4.2; Schulman et al. (2015), TRPO,
https://arxiv.org/abs/1502.05477, appendix C; Duan et al. (2016), https://arxiv.org/abs/1604.06778 (linear baseline).

    python maml_trpo.py                                                                      # 2D navigation, 3 minutes
    python maml_trpo.py --env-id HalfCheetahDir-v0 --meta-batch-size 40 --gamma 0.95 --max-kl 0.03
    python maml_trpo.py --resume runs/.../checkpoint.pt --num-iterations 500
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from gymnasium.spaces import Box, Discrete, flatdim
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import envs

ALGORITHM = "maml_trpo"
Distribution.set_default_validate_args(False)  # a check per call, and on a GPU a wait for it


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
    env_id: str = "Navigation2D-v0"
    """the task distribution: an id of envs.py, or your own as package.module:MyTask-v0"""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """arguments of the environment, as in --env-kwargs observe_task True"""
    num_iterations: int = 300
    """the number of meta-updates"""
    meta_batch_size: int = 20
    """the number of tasks in a meta-update"""
    episodes_per_task: int = 20
    """episodes in each task, before adaptation and again after each adaptation step"""
    num_inner_steps: int = 1
    """adaptation steps that the meta-gradient runs through; 0 is TRPO over all tasks, the paper's *pretrained*"""
    inner_lr: float = 0.1
    """the step size alpha of adaptation"""
    first_order: bool = False
    """if toggled, leave out second derivatives: the adaptation step counts as a constant"""
    hidden_size: int = 100
    """the size of the policy's two hidden layers"""
    action_scale: float = 1.0
    """the part of the action range that the policy's -1 .. 1 spans: its first actions have this standard deviation"""
    gamma: float = 0.99
    """the discount factor gamma"""
    gae_lambda: float = 0.9
    """the lambda for the general advantage estimation"""
    max_kl: float = 0.01
    """the trust region delta: mean KL divergence between the adapted policies before and after a meta-update"""
    cg_iterations: int = 10
    """conjugate gradient iterations, one Fisher-vector product each"""
    cg_damping: float = 1e-5
    """what is added to the Fisher matrix's diagonal"""
    fisher_fraction: float = 0.1
    """the part of each task's episodes on which the Fisher matrix is estimated"""
    checkpoint_seconds: float = 60.0
    """seconds between checkpoints"""
    capture_video: bool = False
    """if toggled, benchmark/pictures.py draws held-out trials into the run folder at the end (gif or png)"""
    eval_trials: int = 200
    """the number of held-out tasks to evaluate on"""
    eval_episodes: int = 40
    """episodes in each held-out task, before adaptation and again after each of 3 adaptation steps"""
    eval_seed: int = 0
    """the seed of the held-out tasks, which training never sees"""


class Policy:
    """An MLP as a pure function of a dict of parameters, whose first axis is the task (size 1: shared by all tasks)."""

    def __init__(self, env, args):
        self.hidden_size, self.action_scale = args.hidden_size, args.action_scale
        spaces = self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self.obs_size, self.action_size = (int(flatdim(space)) for space in spaces)

    def initial_params(self, device="cpu"):
        """Glorot's uniform weights [1, in, out], zero biases [1, 1, out] and, for a Gaussian, log-std [1, 1, out]."""
        params, sizes = {}, [self.obs_size, self.hidden_size, self.hidden_size, self.action_size]
        for i in range(3):
            params[f"weight_{i}"] = nn.init.xavier_uniform_(torch.empty(sizes[i : i + 2]))[None]
            params[f"bias_{i}"] = torch.zeros(1, 1, sizes[i + 1])
        if isinstance(self.action_space, Box):
            params["log_std"] = torch.zeros(1, 1, self.action_size)  # of half the action range times action_scale
        return {name: param.to(device) for name, param in params.items()}

    def outputs(self, params, obs):
        """Observations [M, B, obs] of M tasks to what defines the distribution: (logits,) or (mean, log-std)."""
        h = obs
        for i in range(3):
            weight, bias = (params[f"{kind}_{i}"].expand(len(obs), -1, -1) for kind in ("weight", "bias"))
            h = torch.baddbmm(bias, h.relu_() if i > 0 else h, weight)  # [M, B, out]: each task's own weights
        return (h, params["log_std"]) if isinstance(self.action_space, Box) else (h,)

    def distribution(self, out, log_std=None):
        """The distribution over actions, batch shape [M, B], that `outputs` define."""
        return Categorical(logits=out) if log_std is None else Independent(Normal(out, log_std.exp()), 1)


@torch.no_grad()
def rollout(policy, params, env, tasks, seed, random=False):
    """K = env.num_envs / M episodes in each of M tasks, all in lock-step, by `params` of one policy or of M.

    Returns a dict of tensors [M, K, T, ...], T <= env.horizon: `obs`, `action`, `log_prob`, `reward`, and `valid`,
    false after an episode's end; and of `return` [M, K]. With `random`, rewards are those of uniformly random actions.
    """
    shape, device, threads = (len(tasks), env.num_envs // len(tasks)), params["bias_0"].device, torch.get_num_threads()
    obs, _ = env.reset(seed=seed, options={"tasks": np.repeat(tasks, shape[1], axis=0)})
    env.action_space.seed(np.random.SeedSequence([3, seed]).generate_state(1).item())
    steps, valid, space = [], np.ones(env.num_envs, dtype=bool), policy.action_space
    if isinstance(space, Box):  # at a scale of 1, -1 .. 1 spans the range of a bounded action
        bounded = np.isfinite(space.high - space.low)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    try:
        torch.set_num_threads(1)  # torch's idle threads would keep spinning on the cores that step the environments
        while valid.any():
            obs = np.eye(policy.obs_size)[obs] if isinstance(policy.observation_space, Discrete) else obs  # one-hot
            x = torch.tensor(obs, dtype=torch.float32, device=device).flatten(1).unflatten(0, shape)  # [M, K, obs]
            outputs = policy.outputs(params, x)
            if not all(output.isfinite().all() for output in outputs):
                raise envs.UsageError("The policy is not finite: lower --inner-lr, with which it was adapted.")
            distribution = policy.distribution(*outputs)
            action = distribution.sample()  # [M, K] or [M, K, action]
            command = action.flatten(0, 1).cpu().numpy()
            if isinstance(space, Box):
                command = low + (policy.action_scale * command + 1) / 2 * (high - low)
                command = command.clip(space.low, space.high)
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample() if random else command)
            step = {"reward": torch.tensor(reward, dtype=torch.float32), "valid": torch.tensor(valid)}
            step = {name: tensor.to(device).unflatten(0, shape) for name, tensor in step.items()}
            steps.append(step | {"obs": x, "action": action, "log_prob": distribution.log_prob(action)})
            valid &= ~(terminated | truncated)
    finally:
        torch.set_num_threads(threads)
    batch = {name: torch.stack([step[name] for step in steps], dim=2) for name in steps[0]}
    return batch | {"return": (batch["reward"] * batch["valid"]).sum(2)}


def discounted_sums(x, discount):
    """sum_l discount^l x_{t+l} for every t of the last axis."""
    sums = x.clone()
    for t in reversed(range(x.shape[-1] - 1)):
        sums[..., t] += discount * sums[..., t + 1]
    return sums


def linear_baseline(batch, gamma):
    """Values [M, K, T]: returns-to-go fitted in each task by least squares on features of observation and time.

    Features are o, o^2, t, t^2, t^3, 1, with o clipped to 10 and t in 100 steps, as in the code of Duan et al. (2016).
    """
    obs, valid = batch["obs"].double().clamp(-10, 10), batch["valid"].double()
    time = (torch.arange(valid.shape[2]).to(obs) / 100).expand_as(valid)[..., None]
    features = torch.cat([obs, obs**2, time, time**2, time**3, torch.ones_like(time)], dim=3) * valid[..., None]
    phi, returns = features.flatten(1, 2), discounted_sums(batch["reward"] * valid, gamma).flatten(1)[..., None]
    gram = phi.mT @ phi + 1e-5 * torch.eye(phi.shape[2]).to(obs)  # positive definite
    weights = torch.cholesky_solve(phi.mT @ returns, torch.linalg.cholesky(gram))  # [M, F, 1]
    return (phi @ weights).view_as(valid).float()


def advantages(batch, gamma, gae_lambda):
    """GAE with the linear baseline, to mean 0 and deviation 1 in each task, zero where not valid: [M, K, T]."""
    valid, value = batch["valid"], linear_baseline(batch, gamma)
    next_value = nn.functional.pad(value[..., 1:], (0, 1))  # zero after an episode's end
    delta = (batch["reward"] + gamma * next_value - value) * valid
    advantage, count = discounted_sums(delta, gamma * gae_lambda), valid.sum((1, 2), keepdim=True)
    centered = (advantage - advantage.sum((1, 2), keepdim=True) / count) * valid
    return centered / ((centered**2).sum((1, 2), keepdim=True) / count).sqrt().clamp(min=1e-8)


def mean_over_steps(x, batch):
    """x [M, K T] averaged over each task's valid steps: [M]."""
    return (x * batch["valid"].flatten(1)).sum(1) / batch["valid"].sum((1, 2))


def surrogate(distribution, batch):
    """J_i = E[pi / pi_old A] over each task's steps, [M]; its gradient at pi_old is the policy gradient (eq. 4)."""
    log_ratio = distribution.log_prob(batch["action"].flatten(1, 2)) - batch["log_prob"].flatten(1)  # [M, K T]
    return mean_over_steps(log_ratio.exp() * batch["advantage"].flatten(1), batch)


def adapt(policy, params, batch, args):
    """One policy gradient step in each of the batch's M tasks: theta' = theta + alpha grad J_i(theta), a new dict."""
    params = {name: param.expand(len(batch["obs"]), -1, -1) for name, param in params.items()}  # [M, ...]
    second_order = params["bias_0"].requires_grad and not args.first_order  # else the gradient counts as a constant
    with torch.enable_grad():
        at = params if second_order else {name: param.detach().requires_grad_() for name, param in params.items()}
        distribution = policy.distribution(*policy.outputs(at, batch["obs"].flatten(1, 2)))
        total = surrogate(distribution, batch).sum()  # no task's parameters enter another's term
        gradients = torch.autograd.grad(total, list(at.values()), create_graph=second_order)
    return {name: param + args.inner_lr * grad for (name, param), grad in zip(params.items(), gradients, strict=True)}


@torch.no_grad()
def trial(policy, params, env, tasks, num_steps, seed, args):
    """Episodes in each task before adaptation and after each of `num_steps` steps: batches with their `advantage`."""
    batches = []
    for i in range(num_steps + 1):
        if i > 0:  # the step size is halved after the steps that training runs through (Finn et al., appendix A.2)
            step_size = args.inner_lr if i <= max(1, args.num_inner_steps) else args.inner_lr / 2
            params = adapt(policy, params, batches[-1], replace(args, inner_lr=step_size))
        batches.append(rollout(policy, params, env, tasks, seed + i * env.num_envs))
        batches[-1]["advantage"] = advantages(batches[-1], args.gamma, args.gae_lambda)
    return batches


def adapted_outputs(policy, params, batches, args):
    """The outputs [M, K T, ...] of the policies after a step on each batch but the last, for the last one's states."""
    for batch in batches[:-1]:
        params = adapt(policy, params, batch, args)
    return policy.outputs(params, batches[-1]["obs"].flatten(1, 2))


def unflatten(theta, params):
    """A vector as a dict of parameters, with the names and shapes of `params`."""
    parts = theta.split([param.numel() for param in params.values()])
    return {name: part.view_as(param) for (name, param), part in zip(params.items(), parts, strict=True)}


def fisher_vector_product(policy, params, batches, args):
    """The function v -> (J^T F J + damping) v of a vector, J the Jacobian of adaptation: the Hessian of the mean KL.

    It is estimated on a part of the episodes, adaptation included; the graph is built once and serves every product.
    """
    few = max(1, round(args.fisher_fraction * args.episodes_per_task))
    batches = [{name: tensor[:, :few] for name, tensor in batch.items()} for batch in batches]
    theta = nn.utils.parameters_to_vector(params.values()).requires_grad_()  # [P]
    outputs = adapted_outputs(policy, unflatten(theta, params), batches, args)
    old = policy.distribution(*(output.detach() for output in outputs))
    num_tasks = envs.total(torch.tensor(len(batches[0]["obs"])))
    kl = mean_over_steps(kl_divergence(old, policy.distribution(*outputs)), batches[-1]).sum() / num_tasks
    (slope,) = torch.autograd.grad(kl, theta, create_graph=True)  # zero here: its derivative is J^T F J alone
    return lambda v: envs.total(torch.autograd.grad(slope @ v, theta, retain_graph=True)[0]) + args.cg_damping * v


def conjugate_gradient(product, b, iterations):
    """x with product(x) = b, up to `iterations` steps (Hestenes, Stiefel 1952), for a positive definite `product`."""
    x, residual, direction, norm = torch.zeros_like(b), b, b, b @ b
    for _ in range(iterations):
        image = product(direction)
        alpha = norm / (direction @ image).clamp(min=1e-30)  # 0 / 0 once it has converged
        x, residual = x + alpha * direction, residual - alpha * image
        previous, norm = norm, residual @ residual
        direction = residual + norm / previous.clamp(min=1e-30) * direction
    return x


def update(policy, params, batches, args):
    """One TRPO step from a trial's batches: new parameters, or the old ones where the line search fails, and logs."""
    size, theta = len(batches[0]["obs"]), nn.utils.parameters_to_vector(params.values()).requires_grad_()
    num_tasks = envs.total(torch.tensor(size))
    # Ten tasks at a time: a graph over all of them would outgrow the processor's cache.
    chunks = [[{k: x[i : i + 10] for k, x in batch.items()} for batch in batches] for i in range(0, size, 10)]
    before, gradient, old = 0.0, 0.0, []
    for chunk in chunks:
        outputs = adapted_outputs(policy, unflatten(theta, params), chunk, args)
        value = surrogate(policy.distribution(*outputs), chunk[-1]).sum() / num_tasks
        gradient += torch.autograd.grad(value, theta)[0]  # the meta-gradient, back through the adaptation
        before += value.detach()
        old.append(policy.distribution(*(output.detach() for output in outputs)))
    before, gradient = envs.total(before), envs.total(gradient)
    product = fisher_vector_product(policy, params, batches, args)
    x = conjugate_gradient(product, gradient, args.cg_iterations)
    full_step = (2 * args.max_kl / (x @ product(x))).sqrt() * x
    logs = {"surrogate": before.item(), "gradient_norm": gradient.norm().item()}
    for step_size in (0.8**i for i in range(15)):
        candidate, after, kl = unflatten(theta.detach() + step_size * full_step, params), 0.0, 0.0
        with torch.no_grad():
            for chunk, old_distribution in zip(chunks, old, strict=True):
                distribution = policy.distribution(*adapted_outputs(policy, candidate, chunk, args))
                after += surrogate(distribution, chunk[-1]).sum() / num_tasks
                kl += mean_over_steps(kl_divergence(old_distribution, distribution), chunk[-1]).sum() / num_tasks
        after, kl = envs.total(after), envs.total(kl)
        if after > before and kl <= args.max_kl:
            return candidate, logs | {"improvement": (after - before).item(), "kl": kl.item(), "step_size": step_size}
    return params, logs | {"improvement": 0.0, "kl": 0.0, "step_size": 0.0}  # rejected


@torch.no_grad()
def evaluate(policy, params, args):
    """The dict of eval.json: `eval_episodes` episodes before and after each of 3 gradient steps in held-out tasks."""
    env, num_trials, episodes = envs.make(args.env_id, 1, **args.env_kwargs), args.eval_trials, args.eval_episodes
    tasks = env.sample_tasks(num_trials, np.random.default_rng([1, args.eval_seed]))
    returns, random_returns, size = [], [], max(1, min(40, args.meta_batch_size * args.episodes_per_task // episodes))
    for i in range(0, num_trials, size):
        chunk = tasks[i : i + size]
        env.close()
        env = envs.make(args.env_id, len(chunk) * episodes, **args.env_kwargs)
        torch_seed, env_seed = np.random.SeedSequence([2, args.eval_seed, i]).generate_state(2).tolist()
        torch.manual_seed(torch_seed)
        random_returns.append(rollout(policy, params, env, chunk, env_seed, random=True)["return"])
        batches = trial(policy, params, env, chunk, 3, env_seed, args)
        returns.append(torch.stack([batch["return"] for batch in batches], dim=1))  # [size, 4, episodes]
    env.close()
    by_step, result = torch.cat(returns).double(), {"num_trials": num_trials, "episodes_per_trial": 4 * episodes}
    named = {"return_mean": by_step.sum((1, 2)), "return_by_episode": by_step.flatten(1)}
    for name, samples in (named | {"return_by_gradient_step": by_step.mean(2)}).items():
        stderr = samples.std(0) / num_trials**0.5
        result |= {name: samples.mean(0).tolist(), name.removesuffix("_mean") + "_stderr": stderr.tolist()}
    result["random_return_mean"] = 4 * episodes * torch.cat(random_returns).mean().item()
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
    """The policy, its parameters and the run's arguments, of a `checkpoint.pt` or `agent.pt`: to `rollout`, `adapt`."""
    saved = read_checkpoint(checkpoint, device)
    args = Args(**saved["args"])
    policy = Policy(env := envs.make(args.env_id, 1, **args.env_kwargs), args)
    env.close()
    return policy, saved["agent"], args


def train(args, signals=()):
    """Trains until a number is in `signals` or to the end, evaluates, and returns what it writes to eval.json."""
    envs.check_arguments(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = args.torch_deterministic
    torch.manual_seed(args.seed)
    mine = envs.share(args.meta_batch_size)  # the tasks of this process: all, but with torchrun
    main, num_episodes = mine.start == 0, args.meta_batch_size * args.episodes_per_task
    env = envs.make(args.env_id, (mine.stop - mine.start) * args.episodes_per_task, **args.env_kwargs)
    policy = Policy(env, args)
    params = policy.initial_params(device)
    iteration, global_step, wall_seconds = 0, 0, 0.0
    name = args.env_id.replace(":", "_").replace("/", "_")
    run_dir = Path("runs") / f"{name}__{args.exp_name}__{args.seed}__{int(time.time())}"
    if args.resume:
        saved, run_dir = read_checkpoint(args.resume, device, ("agent", "iteration")), Path(args.resume).parent
        for name in ("env_id", "env_kwargs", "hidden_size", "action_scale"):
            if saved["args"][name] != (value := getattr(args, name)):
                raise envs.UsageError(f"{args.resume} was trained with {name} {saved['args'][name]!r}, not {value!r}.")
        params = saved["agent"]
        iteration, global_step, wall_seconds = saved["iteration"], saved["global_step"], saved["wall_seconds"]
    start, first_step, last_save, writer = time.time() - wall_seconds, global_step, time.time(), None

    def checkpoint():
        run_dir.mkdir(parents=True, exist_ok=True)
        network = {"algorithm": ALGORITHM, "args": asdict(args), "agent": params}
        progress = {"iteration": iteration, "global_step": global_step, "wall_seconds": time.time() - start}
        files = [("checkpoint", network | progress), ("agent", network)]
        for name, contents in files[: 1 + args.save_model]:
            try:
                torch.save(contents, run_dir / "tmp")
                (run_dir / "tmp").replace(run_dir / f"{name}.pt")  # in one step: the former file or the new one
            except (OSError, RuntimeError) as error:
                raise envs.UsageError(f"Cannot save {run_dir / name}.pt, the former one is whole: {error}") from None

    bar = tqdm(total=args.num_iterations, initial=iteration, unit="update", disable=not main)
    while iteration < args.num_iterations and not envs.total(torch.tensor(len(signals))):
        # All random numbers follow from seed and iteration: a run that was resumed goes on as if never stopped.
        seeds = (np.random.SeedSequence([0, args.seed, iteration, i]).generate_state(3) for i in (0, mine.start))
        (_, task_seed, _), (torch_seed, _, env_seed) = (numbers.tolist() for numbers in seeds)
        torch.manual_seed(torch_seed)
        try:
            tasks = env.sample_tasks(args.meta_batch_size, np.random.default_rng(task_seed))[mine]
            batches = trial(policy, params, env, tasks, args.num_inner_steps, env_seed, args)
        except envs.UsageError as error:
            raise envs.UsageError(f"Iteration {iteration + 1}: {error}") from error
        candidate, logs = update(policy, params, batches, args)
        if wrong := {name: number for name, number in logs.items() if not np.isfinite(number)}:
            main and checkpoint()
            raise envs.UsageError(f"Not finite in iteration {iteration + 1}: {wrong}. Lower --inner-lr and --resume.")
        steps = [int(envs.total(batch["valid"].sum())) for batch in batches]
        params, iteration, global_step = candidate, iteration + 1, global_step + sum(steps)
        returns = [envs.total(batch["return"].sum()).item() / num_episodes for batch in batches]
        charts = {f"return_after_{i}_steps": mean for i, mean in enumerate(returns)}
        bar.set_postfix_str("return after 0, 1, ... steps: " + ", ".join(f"{r:.2f}" for r in charts.values()))
        charts |= {"action_std": params["log_std"].exp().mean().item()} if "log_std" in params else {}
        charts["episode_length"] = steps[-1] / num_episodes
        charts["SPS"] = (global_step - first_step) / (time.time() - start - wall_seconds)
        if main and writer is None:
            writer = SummaryWriter(run_dir, purge_step=first_step + 1, flush_secs=10)  # makes the folder
            (run_dir / "args.json").write_text(json.dumps(asdict(args), indent=2))
        for group, scalars in ("losses", logs), ("charts", charts):
            for name, number in scalars.items():
                main and writer.add_scalar(f"{group}/{name}", number, global_step)
        bar.update(iteration - bar.n)
        if main and time.time() - last_save > args.checkpoint_seconds:
            last_save = checkpoint() or time.time()
    main and checkpoint()
    bar.close(), env.close(), writer and writer.close()
    if not main:
        return None
    if signals or iteration < args.num_iterations:
        print(f"Stopped at step {global_step}. To go on: python {ALGORITHM}.py --resume {run_dir / 'checkpoint.pt'}")
        raise SystemExit(128 + sum(signals[:1]))
    result = {"env_id": args.env_id, "env_kwargs": args.env_kwargs, "algorithm": ALGORITHM, "seed": args.seed}
    result |= {"global_step": global_step, "wall_seconds": time.time() - start}
    result |= evaluate(policy, params, args)
    (run_dir / "eval.json").write_text(json.dumps(result, indent=2))
    print(f"{global_step} steps in {result['wall_seconds']:.0f} s, see {run_dir}. In {args.eval_trials} new tasks:")
    for i, mean in enumerate(result["return_by_gradient_step"]):
        print(f"  after {i} gradient steps   {mean:9.2f} +- {result['return_by_gradient_step_stderr'][i]:.2f}")
    args.capture_video and __import__("benchmark.pictures").pictures.draw(run_dir / "checkpoint.pt")
    return result


if __name__ == "__main__":
    envs.run(Args, train, read_checkpoint)
