"""What each implementation detail is worth: short trainings that differ from a base in one thing.

    python benchmark/ablations.py              # writes results/ablations.json, hours on 2 cores
    python benchmark/ablations.py navigation   # only groups with this word in script or title

One seed each: differences of a few standard errors of the evaluation are not to be trusted; those
that the documentation speaks of are far larger.
"""

import contextlib
import io
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from unittest.mock import patch

# As in the scripts, which set it too late where torch is imported before them.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from torch.distributions import Categorical
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
import maml_trpo  # noqa: E402
import rl2_ppo  # noqa: E402
import snail_ppo  # noqa: E402
from benchmark import plot  # noqa: E402
from benchmark.files import read_json, write_json  # noqa: E402
from benchmark.rows import ROWS  # noqa: E402

RESULTS = ROOT / "benchmark" / "results"
# The functions that the ablations replace, as they are.
ADAPT = maml_trpo.adapt
UPDATE = maml_trpo.update
ENCODE = rl2_ppo.Agent.encode
GAE = rl2_ppo.advantages_and_returns  # SNAIL's is the same


def memory_reset_with_every_episode(module):
    """The mistake of many implementations: each episode starts from an empty memory and history."""
    original = module.Agent.step

    def step(agent, x, memory):  # every step of a bandit begins an episode
        x = x.clone()
        x[:, agent.obs_size :] = 0
        return original(agent, x, None)

    def forward(agent, x):
        policy, value, _ = step(agent, x.flatten(0, 1), None)
        logits = policy.logits.unflatten(0, x.shape[:2])
        return Categorical(logits=logits), value.unflatten(0, x.shape[:2])

    return patch.multiple(module.Agent, step=step, forward=forward)


def gae_cut_at_every_episode(module):
    """Ordinary reinforcement learning: an episode's actions answer for that episode alone."""

    def cut(data, gamma, gae_lambda):
        advantage = torch.zeros_like(data["value"])
        for episode in range(data["episode"].max() + 1):
            valid = data["valid"] & (data["episode"] == episode)
            # elsewhere values, rewards and advantages count as 0
            advantage += GAE(data | {"valid": valid}, gamma, gae_lambda)[0]
        return advantage, advantage + data["value"]

    return patch.object(module, "advantages_and_returns", cut)


def input_without(*parts):
    """The agent does not see its previous action, or reward, or either."""

    def encode(agent, *inputs):
        x = ENCODE(agent, *inputs)
        if "action" in parts:
            x[:, agent.obs_size : -2] = 0
        if "reward" in parts:
            x[:, -2] = 0
        return x

    return patch.object(rl2_ppo.Agent, "encode", encode)


def built_with(module, change):
    """Every agent is changed after it was made."""
    original = module.Agent.__init__

    def init(agent, env, args):
        original(agent, env, args)
        change(agent)

    return patch.object(module.Agent, "__init__", init)


def memory_gate_unbiased():
    """The memory gate starts half open."""

    def change(agent):
        hidden_size = agent.args.hidden_size
        agent.trunk.bias_hh_l0.data[hidden_size : 2 * hidden_size] -= 1

    return built_with(rl2_ppo, change)


def dilations(dilation):
    """The same dilation in every dense block.

    1 is for neighbours, at least the trial's number of steps for none at all.
    """

    def change(agent):
        for block in agent.blocks:
            block.dilation = dilation

    return built_with(snail_ppo, change)


def attention_reads_nothing():
    """What attention adds to the features is zero."""

    def attention(query, key, value, is_causal=False):
        return 0 * value[:, :, -query.shape[2] :]

    return patch.object(snail_ppo, "scaled_dot_product_attention", attention)


def attention_sees_the_future():
    """A mistake of sketches of SNAIL: no causal mask when the update runs over whole trials."""

    def attention(query, key, value, is_causal=False):
        return scaled_dot_product_attention(query, key, value)

    return patch.object(snail_ppo, "scaled_dot_product_attention", attention)


def dense_blocks(change_linear):
    """Each linear map of the dense blocks goes through `change_linear`."""

    def change(agent):
        for block in agent.blocks:
            block.now = change_linear(block.now)
            block.before = change_linear(block.before)

    return built_with(snail_ppo, change)


def after_layer_norm(linear):
    """A linear map of normalised features."""
    return torch.nn.Sequential(torch.nn.LayerNorm(linear.in_features), linear)


def meta_loss_without_adaptation():
    """A mistake of sketches of MAML: the loss that is minimised is the one before adaptation."""

    def update(policy, params, batches, args):
        return UPDATE(policy, params, batches[:1], args)

    return patch.object(maml_trpo, "update", update)


def log_prob_in_place_of_the_ratio():
    """An inner objective with the right gradient and the wrong second derivative: E[log pi A]."""

    def log_surrogate(distribution, batch):
        log_prob = distribution.log_prob(batch["action"].flatten(1, 2))
        return maml_trpo.mean_over_steps(log_prob * batch["advantage"].flatten(1), batch)

    def adapt(*arguments):
        with patch.object(maml_trpo, "surrogate", log_surrogate):
            return ADAPT(*arguments)

    return patch.object(maml_trpo, "adapt", adapt)


def no_baseline():
    """Every value is zero."""

    def zeros(batch, gamma):
        return torch.zeros_like(batch["reward"])

    return patch.object(maml_trpo, "linear_baseline", zeros)


class UnscaledNavigation(envs.Navigation2D):
    """Actions in the environment's own units, where 0.1 is the limit.

    One standard deviation of the first policy is ten times the limit.
    """

    def __init__(self, num_envs=1, **kwargs):
        super().__init__(num_envs, **kwargs)
        self.single_action_space = Box(-np.inf, np.inf, (2,), np.float32)

    def _advance(self, actions):
        return super()._advance(actions.clip(-0.1, 0.1))


gym.register("UnscaledNavigation-v0", vector_entry_point=UnscaledNavigation)


def shortened(name, **settings):
    """The settings of a published row, with others that make it shorter."""
    return ROWS[name]["arguments"] | settings


NAVIGATION = {
    "num_iterations": 40,
    "gae_lambda": 1.0,
}
ANT = shortened(
    "ant-dir-maml",
    num_iterations=20,
    meta_batch_size=10,
    norm_obs=False,
    eval_trials=20,
    eval_episodes=20,
)
MAML_BANDIT = shortened("maml-bandit-5-arms-10-pulls")
HALFCHEETAH = shortened(
    "halfcheetah-dir-maml", num_iterations=40, meta_batch_size=20, eval_trials=40
)
RL2_BANDIT = {
    "total_timesteps": 4_000_000,
    "update_epochs": 2,
    "eval_trials": 20_000,
}
RL2_HALFCHEETAH = shortened("rl2-halfcheetah-dir", total_timesteps=3_000_000, eval_trials=100)
# An oracle: what holds it back has nothing to do with finding out the task.
RL2_HALFCHEETAH_VEL = shortened(
    "rl2-halfcheetah-vel-oracle", total_timesteps=3_000_000, eval_trials=100
)
RL2_LONG = shortened("bandit-5-arms-100-pulls-regret", total_timesteps=12_000_000, eval_trials=8000)
RL2_TEN_ARMS = shortened("bandit-10-arms-100-pulls", total_timesteps=12_000_000)
RL2_MDP = shortened("mdp-10-episodes-regret", total_timesteps=12_000_000, eval_trials=4000)
SNAIL_BANDIT = {"total_timesteps": 1_200_000, "eval_trials": 20_000}
SNAIL_LONG = shortened("snail-bandit-5-arms-100-pulls", total_timesteps=3_000_000, eval_trials=8000)
SNAIL_MDP = shortened("snail-mdp-10-episodes", total_timesteps=3_000_000, eval_trials=4000)

# {title of a group: (settings of its base, {name of an entry: what differs})}, where what differs
# are settings, or a function whose value is a context in which the training runs.
MAML_ABLATIONS = {
    "2D navigation, 40 meta-iterations": (
        NAVIGATION,
        {
            "base: the defaults, but --gae-lambda 1": {},
            "--first-order": {"first_order": True},
            "--num-inner-steps 0 (pretrained)": {"num_inner_steps": 0},
            "the same, with --env-kwargs observe_task True (oracle)": {
                "num_inner_steps": 0,
                "env_kwargs": {"observe_task": True},
            },
            "meta-loss before adaptation": meta_loss_without_adaptation,
            "log π in place of π/π_old in the inner objective": log_prob_in_place_of_the_ratio,
            "--num-inner-steps 2 (return after 2)": {"num_inner_steps": 2},
            "--inner-lr 0.05": {"inner_lr": 0.05},
            "--inner-lr 0.2": {"inner_lr": 0.2},
            "--fisher-fraction 0.05": {"fisher_fraction": 0.05},
            "--fisher-fraction 0.5": {"fisher_fraction": 0.5},
            "--fisher-fraction 1": {"fisher_fraction": 1.0},
            "--max-kl 0.03": {"max_kl": 0.03},
            "--gae-lambda 0.9 (the default)": {"gae_lambda": 0.9},
            "no baseline": no_baseline,
            "actions not scaled to their range": {"env_id": "UnscaledNavigation-v0"},
        },
    ),
    "bandit, 5 arms, 10 pulls": (
        MAML_BANDIT,
        {
            "base: the published row": {},
            "--meta-batch-size 200": {"meta_batch_size": 200},
            "--max-kl 0.03": {"max_kl": 0.03},
            "--meta-batch-size 200 --max-kl 0.03": {"meta_batch_size": 200, "max_kl": 0.03},
            "--inner-lr 1": {"inner_lr": 1.0},
            "--inner-lr 10": {"inner_lr": 10.0},
            "--episodes-per-task 3 --eval-episodes 3": {"episodes_per_task": 3, "eval_episodes": 3},
        },
    ),
    "HalfCheetah, direction, 40 meta-iterations of 20 tasks": (
        HALFCHEETAH,
        {
            "base: the published row's settings, fewer tasks and iterations": {},
            "--action-scale 1 (the default)": {"action_scale": 1.0},
            "--action-scale 0.3": {"action_scale": 0.3},
            "--gamma 0.95 --gae-lambda 0.9": {"gamma": 0.95, "gae_lambda": 0.9},
            "--gae-lambda 1 (the paper's code)": {"gae_lambda": 1.0},
            "--max-kl 0.1": {"max_kl": 0.1},
            "--inner-lr 0.3": {"inner_lr": 0.3},
            "--meta-batch-size 40 --episodes-per-task 10": {
                "meta_batch_size": 40,
                "episodes_per_task": 10,
            },
            "--meta-batch-size 10 --episodes-per-task 40": {
                "meta_batch_size": 10,
                "episodes_per_task": 40,
            },
            "--first-order": {"first_order": True},
            "--norm-obs": {"norm_obs": True},
        },
    ),
    "Ant, direction, 20 meta-iterations of 10 tasks": (
        ANT,
        {
            "base: the published row's, without --norm-obs, fewer tasks and iterations": {},
            "--norm-obs": {"norm_obs": True},
            "--action-scale 1 (the default)": {"action_scale": 1.0},
            "--action-scale 0.3": {"action_scale": 0.3},
            "--gamma 0.99 --gae-lambda 1 (the paper's code)": {"gamma": 0.99, "gae_lambda": 1.0},
        },
    ),
}
RL2_ABLATIONS = {
    "bandit, 5 arms, 10 pulls, 4 M steps": (
        RL2_BANDIT,
        {
            "base: the defaults, but 2 epochs": {},
            "memory reset with every episode": partial(memory_reset_with_every_episode, rl2_ppo),
            "GAE cut at every episode": partial(gae_cut_at_every_episode, rl2_ppo),
            "input without previous action and reward": partial(input_without, "action", "reward"),
            "input without the previous action": partial(input_without, "action"),
            "input without the previous reward": partial(input_without, "reward"),
            "--gae-lambda 0.95": {"gae_lambda": 0.95},
            "--ent-coef 0": {"ent_coef": 0.0},
            "--no-norm-adv": {"norm_adv": False},
            "--no-anneal-lr": {"anneal_lr": False},
            "--learning-rate 3e-4": {"learning_rate": 3e-4},
            "--amp": {"amp": True},
            "--update-epochs 8": {"update_epochs": 8},
        },
    ),
    "bandit, 5 arms, 100 pulls, 12 M steps": (
        RL2_LONG,
        {
            "base: the row from regret, shortened": {},
            "without --grow-trials": {"grow_trials": False},
            "--no-amp": {"amp": False},
            "without --gamma-start": {"gamma_start": None},
            "without --learn-from-regret": {"learn_from_regret": False},
        },
    ),
    "bandit, 10 arms, 100 pulls, 12 M steps": (
        RL2_TEN_ARMS,
        {
            "base: the published row, shortened": {},
            "--ent-coef 0.02 (the default)": {"ent_coef": 0.02},
            "--gae-lambda 0.5 (the default)": {"gae_lambda": 0.5},
            "--gamma 0.99 (the default)": {"gamma": 0.99},
            "--learning-rate 5e-3 (the default)": {"learning_rate": 5e-3},
            "--num-minibatches 16": {"num_minibatches": 16},
        },
    ),
    "MDP, 10 episodes, 12 M steps": (
        RL2_MDP,
        {
            "base: the published row's settings, shortened": {},
            "constant --gamma 0.95": {"gamma_start": None},
            "constant --gamma 0.7": {"gamma_start": None, "gamma": 0.7},
            "from rewards instead of regret": {"learn_from_regret": False},
            "--ent-coef 0": {"ent_coef": 0.0},
            "--num-minibatches 4": {"num_minibatches": 4},
            "--learning-rate 1e-3": {"learning_rate": 1e-3},
            "--cell gru": {"cell": "gru"},
            "memory gate not biased": memory_gate_unbiased,
        },
    ),
    "HalfCheetah, direction, 2 episodes, 3 M steps": (
        RL2_HALFCHEETAH,
        {
            "base: the published row's settings, shortened": {},
            "--num-minibatches 4": {"num_minibatches": 4},
            "--num-envs 256 --num-minibatches 32": {"num_envs": 256, "num_minibatches": 32},
            "--learning-rate 3e-4": {"learning_rate": 3e-4},
            "--gamma 0.99 --gae-lambda 0.95": {"gamma": 0.99, "gae_lambda": 0.95},
            "--action-scale 0.3": {"action_scale": 0.3},
            "without --norm-obs": {"norm_obs": False},
            "without --norm-reward": {"norm_reward": False},
            "--cell gru": {"cell": "gru"},
        },
    ),
    "HalfCheetah, velocity, 2 episodes, oracle, 3 M steps": (
        RL2_HALFCHEETAH_VEL,
        {
            "base: the published row's settings, shortened": {},
            "--action-scale 1 (the default)": {"action_scale": 1.0},
            "--action-scale 0.5": {"action_scale": 0.5},
            "--action-scale 0.2": {"action_scale": 0.2},
            "--gamma 0.99 --gae-lambda 0.95": {"gamma": 0.99, "gae_lambda": 0.95},
        },
    ),
}
SNAIL_ABLATIONS = {
    "bandit, 5 arms, 10 pulls, 1.2 M steps": (
        SNAIL_BANDIT,
        {
            "base: the defaults, shortened": {},
            "memory reset with every episode": partial(memory_reset_with_every_episode, snail_ppo),
            "attention without a causal mask in the update": attention_sees_the_future,
            "attention reads nothing": attention_reads_nothing,
            "no step sees an earlier one but by attention": partial(dilations, 10),
            "every dilation is 1": partial(dilations, 1),
            "GAE cut at every episode": partial(gae_cut_at_every_episode, snail_ppo),
            "weight normalisation in the dense blocks": partial(dense_blocks, weight_norm),
            "layer normalisation before the dense blocks": partial(dense_blocks, after_layer_norm),
            "--tc-blocks 1": {"tc_blocks": 1},
            "--amp": {"amp": True},
            "--learning-rate 1e-3": {"learning_rate": 1e-3},
        },
    ),
    "bandit, 5 arms, 100 pulls, 3 M steps": (
        SNAIL_LONG,
        {
            "base: the published row, shortened": {},
            "without --grow-trials": {"grow_trials": False},
            "without --learn-from-regret": {"learn_from_regret": False},
            "attention reads nothing": attention_reads_nothing,
            "no step sees an earlier one but by attention": partial(dilations, 100),
            "weight normalisation in the dense blocks": partial(dense_blocks, weight_norm),
        },
    ),
    "MDP, 10 episodes, 3 M steps": (
        SNAIL_MDP,
        {
            "base: the published row, shortened": {},
            "attention reads nothing": attention_reads_nothing,
            "constant --gamma 0.99": {"gamma_start": None},
            "--learning-rate 2e-3": {"learning_rate": 2e-3},
        },
    ),
}
GROUPS = {maml_trpo: MAML_ABLATIONS, rl2_ppo: RL2_ABLATIONS, snail_ppo: SNAIL_ABLATIONS}


def entries():
    """Every ablation: its script, group, name, settings, and change."""
    for module, groups in GROUPS.items():
        for group, (base, differences) in groups.items():
            for name, difference in differences.items():
                if callable(difference):
                    yield module, group, name, base, difference
                else:
                    yield module, group, name, base | difference, contextlib.nullcontext


def run(module, settings, change):
    """Return, standard error and seconds of one short training in a folder of its own."""
    home = os.getcwd()
    silence = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
        change(),
    ):
        os.chdir(folder)
        try:
            result = module.train(module.Args(**settings))
        finally:
            os.chdir(home)
    mean, stderr = plot.score(result)
    num_steps = settings.get("num_inner_steps", 1)
    if num_steps > 1:  # as many gradient steps as training runs through
        mean = result["return_by_gradient_step"][num_steps]
        stderr = result["return_by_gradient_step_stderr"][num_steps]
    return {"return": float(mean), "stderr": float(stderr), "seconds": result["wall_seconds"]}


def read():
    """ablations.json: {script: {group: {entry: {"return": ..., ...}}}}."""
    return read_json(RESULTS / "ablations.json")


def main(only=""):
    chosen = []
    for module, group, name, settings, change in entries():
        if only in f"{module.ALGORITHM}: {group}":
            chosen.append((module, group, name, settings, change))
    if not chosen:
        titles = [f"{module.ALGORITHM}: {group}" for module in GROUPS for group in GROUPS[module]]
        sys.exit(f"error: no group has {only!r} in its name. They are {', '.join(titles)}.")
    for module, group, name, settings, change in chosen:
        if name in read().get(module.ALGORITHM, {}).get(group, {}):
            continue  # an interrupted benchmark goes on
        entry = run(module, settings, change)
        print(f"{group}: {name}: {entry}", flush=True)
        results = read()  # again: another process may have added an entry meanwhile
        results.setdefault(module.ALGORITHM, {}).setdefault(group, {})[name] = entry
        write_json(RESULTS / "ablations.json", results)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on with what is missing.")
