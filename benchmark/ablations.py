"""What each implementation detail is worth: short trainings that differ from the base in one thing.

    python benchmark/ablations.py               # writes benchmark/results/ablations.json, about an hour on 2 cores
    python benchmark/ablations.py navigation    # only groups with this word in their script or title

One seed each: differences of a few standard errors of the evaluation are not to be trusted; those that the
documentation speaks of are far larger.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
import maml_trpo  # noqa: E402
import rl2_ppo  # noqa: E402
import snail_ppo  # noqa: E402

BANDIT = {"total_timesteps": 4_000_000, "update_epochs": 2, "eval_trials": 20_000}
LONG = {"episodes_per_trial": 100, "learn_from_regret": True, "grow_trials": True, "gamma_start": 0.9, "amp": True}
LONG |= {"gamma": 0.99, "gae_lambda": 0.9, "ramp_fraction": 0.6, "cell": "lstm", "num_envs": 1600}
LONG |= {"num_minibatches": 16, "update_epochs": 2, "total_timesteps": 12_000_000, "eval_trials": 8000}
MDP = {"env_id": "TabularMDP-v0", "amp": True, "cell": "lstm", "hidden_size": 128, "num_envs": 1600}
MDP |= {"num_minibatches": 32, "gamma_start": 0.0, "gamma": 0.95, "gae_lambda": 0.8, "ramp_fraction": 0.9}
MDP |= {"learning_rate": 5e-3, "ent_coef": 0.1, "learn_from_regret": True, "total_timesteps": 12_000_000}
MDP |= {"eval_trials": 4000, "update_epochs": 2}


def memory_reset_with_every_episode(module=rl2_ppo):
    """The mistake of many implementations: each episode starts from an empty memory and an empty history."""
    original = module.Agent.forward

    def forward(agent, x, memory):  # every step of a bandit begins an episode
        num_steps, num_trials = x.shape[:2]
        x = torch.cat([x[..., : agent.obs_size], torch.zeros_like(x[..., agent.obs_size :])], dim=-1)
        empty = agent.initial_state(num_steps * num_trials)[0]
        policy, value, _ = original(agent, x.reshape(1, num_steps * num_trials, -1), empty)
        logits = policy.logits.reshape(num_steps, num_trials, -1)
        return torch.distributions.Categorical(logits=logits), value.reshape(num_steps, num_trials), memory

    return patch.object(module.Agent, "forward", forward)


def gae_cut_at_every_episode(module=rl2_ppo):
    """The objective of ordinary reinforcement learning: an episode's actions answer for that episode alone."""

    def cut(data, gamma, gae_lambda):
        episodes = data["episode"].max() + 1
        advantage = torch.zeros_like(data["value"])
        for episode in range(int(episodes)):
            part = data | {"valid": data["valid"] & (data["episode"] == episode)}
            part["signal"], part["value"] = part["signal"] * part["valid"], data["value"] * part["valid"]
            advantage += GAE(part, gamma, gae_lambda)[0]
        return advantage, advantage + data["value"]

    return patch.object(module, "advantages_and_returns", cut)


def input_without(*parts, module=rl2_ppo):
    """The agent does not see its previous action, or reward, or either."""

    def encode(agent, obs, prev_action, prev_reward, prev_done, first):
        x = ENCODE(agent, obs, prev_action, prev_reward, prev_done, first)
        if "action" in parts:
            x[:, agent.obs_size : -2] = 0
        if "reward" in parts:
            x[:, -2] = 0
        return x

    return patch.object(module.Agent, "encode", encode)


def memory_gate_unbiased():
    def change(agent):
        hidden = agent.args.hidden_size
        agent.trunk.bias_hh_l0.data[hidden : 2 * hidden] -= 1

    return built_with(rl2_ppo, change)


def built_with(module, change):
    """Every agent is changed after it was made."""
    original = module.Agent.__init__

    def init(agent, env, args):
        original(agent, env, args)
        change(agent)

    return patch.object(module.Agent, "__init__", init)


def dilations(dilation):
    """The same dilation in every dense block: 1 for neighbours, more than the trial has steps for none at all."""
    return built_with(snail_ppo, lambda agent: setattr(agent, "dilations", [dilation] * len(agent.dilations)))


def attention_reads_nothing():
    return patch.object(
        snail_ppo.F, "scaled_dot_product_attention", lambda q, k, v, is_causal: 0 * v[..., -q.shape[2] :, :]
    )


def attention_sees_the_future():
    """A mistake of sketches of SNAIL: no causal mask when the update runs over whole trials."""

    def attention(query, key, value, is_causal):
        return ATTENTION(query, key, value, is_causal=is_causal and not torch.is_grad_enabled())

    return patch.object(snail_ppo.F, "scaled_dot_product_attention", attention)


def dense_blocks(change):
    """Each linear map of the dense blocks goes through `change`."""

    def change_all(agent):
        agent.now, agent.before = (torch.nn.ModuleList(map(change, maps)) for maps in (agent.now, agent.before))

    return built_with(snail_ppo, change_all)


def weight_norm():
    return dense_blocks(torch.nn.utils.parametrizations.weight_norm)


def layer_norm():
    return dense_blocks(lambda linear: torch.nn.Sequential(torch.nn.LayerNorm(linear.in_features), linear))


def meta_loss_without_adaptation():
    """A mistake of sketches of MAML: the loss that is minimised is the one before adaptation."""

    def update(policy, params, batches, args):
        return UPDATE(policy, params, batches[:1], args)

    return patch.object(maml_trpo, "update", update)


def log_prob_in_place_of_the_ratio():
    """An inner objective with the right gradient and the wrong second derivative: E[log pi A]."""

    def adapt(*arguments):
        def log_surrogate(distribution, batch):
            log_prob = distribution.log_prob(batch["action"].flatten(1, 2))
            return maml_trpo.mean_over_steps(log_prob * batch["advantage"].flatten(1), batch)

        with patch.object(maml_trpo, "surrogate", log_surrogate):
            return ADAPT(*arguments)

    return patch.object(maml_trpo, "adapt", adapt)


def no_baseline():
    return patch.object(maml_trpo, "linear_baseline", lambda batch, gamma: torch.zeros_like(batch["reward"]))


class UnscaledNavigation(envs.Navigation2D):
    """Actions in the environment's own units: one standard deviation of the first policy is ten times the limit."""

    def __init__(self, num_envs=1, **kwargs):
        super().__init__(num_envs, **kwargs)
        self.single_action_space = Box(-np.inf, np.inf, (2,), np.float32)

    def _advance(self, actions):
        return super()._advance(actions.clip(-0.1, 0.1))


gym.register("UnscaledNavigation-v0", vector_entry_point=UnscaledNavigation)
ADAPT, UPDATE = maml_trpo.adapt, maml_trpo.update
ENCODE, GAE = rl2_ppo.Agent.encode, rl2_ppo.advantages_and_returns  # SNAIL's are the same
ATTENTION, NOTHING = torch.nn.functional.scaled_dot_product_attention, contextlib.nullcontext

NAVIGATION = {"num_iterations": 40, "gae_lambda": 1.0}
ANT = {"env_id": "AntDir-v0", "num_iterations": 20, "meta_batch_size": 10, "gamma": 0.95}
ANT |= {"eval_trials": 20, "eval_episodes": 20}
ANT |= {"action_scale": 0.15, "max_kl": 0.03, "fisher_fraction": 0.2}
MAML_ABLATIONS = {
    "2D navigation, 40 meta-iterations": [
        ("base: the defaults, but --gae-lambda 1", NAVIGATION, NOTHING),
        ("--first-order", NAVIGATION | {"first_order": True}, NOTHING),
        ("--num-inner-steps 0 (pretrained)", NAVIGATION | {"num_inner_steps": 0}, NOTHING),
        (
            "the same, with --env-kwargs observe_task True (oracle)",
            NAVIGATION | {"num_inner_steps": 0, "env_kwargs": {"observe_task": True}},
            NOTHING,
        ),
        ("meta-loss before adaptation", NAVIGATION, meta_loss_without_adaptation),
        ("log π in place of π/π_old in the inner objective", NAVIGATION, log_prob_in_place_of_the_ratio),
        ("--num-inner-steps 2 (return after 2)", NAVIGATION | {"num_inner_steps": 2}, NOTHING),
        ("--inner-lr 0.05", NAVIGATION | {"inner_lr": 0.05}, NOTHING),
        ("--inner-lr 0.2", NAVIGATION | {"inner_lr": 0.2}, NOTHING),
        ("--fisher-fraction 0.05", NAVIGATION | {"fisher_fraction": 0.05}, NOTHING),
        ("--fisher-fraction 0.5", NAVIGATION | {"fisher_fraction": 0.5}, NOTHING),
        ("--fisher-fraction 1", NAVIGATION | {"fisher_fraction": 1.0}, NOTHING),
        ("--max-kl 0.03", NAVIGATION | {"max_kl": 0.03}, NOTHING),
        ("--gae-lambda 0.9 (the default)", NAVIGATION | {"gae_lambda": 0.9}, NOTHING),
        ("no baseline", NAVIGATION, no_baseline),
        ("actions not scaled to their range", NAVIGATION | {"env_id": "UnscaledNavigation-v0"}, NOTHING),
    ],
    "Ant, direction, 20 meta-iterations of 10 tasks": [
        ("base: the published row's settings, fewer tasks and iterations", ANT, NOTHING),
        ("--action-scale 1 (the default)", ANT | {"action_scale": 1.0}, NOTHING),
        ("--gamma 0.99 --gae-lambda 1 (the paper's code)", ANT | {"gamma": 0.99, "gae_lambda": 1.0}, NOTHING),
    ],
}
RL2_ABLATIONS = {
    "bandit, 5 arms, 10 pulls, 4 M steps": [
        ("base: the defaults, but 2 epochs", BANDIT, NOTHING),
        ("memory reset with every episode", BANDIT, memory_reset_with_every_episode),
        ("GAE cut at every episode", BANDIT, gae_cut_at_every_episode),
        ("input without previous action and reward", BANDIT, lambda: input_without("action", "reward")),
        ("input without the previous action", BANDIT, lambda: input_without("action")),
        ("input without the previous reward", BANDIT, lambda: input_without("reward")),
        ("--gae-lambda 0.95", BANDIT | {"gae_lambda": 0.95}, NOTHING),
        ("--ent-coef 0", BANDIT | {"ent_coef": 0.0}, NOTHING),
        ("--no-norm-adv", BANDIT | {"norm_adv": False}, NOTHING),
        ("--no-anneal-lr", BANDIT | {"anneal_lr": False}, NOTHING),
        ("--learning-rate 3e-4", BANDIT | {"learning_rate": 3e-4}, NOTHING),
        ("--amp", BANDIT | {"amp": True}, NOTHING),
        ("--update-epochs 8", BANDIT | {"update_epochs": 8}, NOTHING),
    ],
    "bandit, 5 arms, 100 pulls, 12 M steps": [
        ("base: the row from regret, shortened", LONG, NOTHING),
        ("without --grow-trials", LONG | {"grow_trials": False}, NOTHING),
        ("--no-amp", LONG | {"amp": False}, NOTHING),
        ("without --gamma-start", LONG | {"gamma_start": None}, NOTHING),
        ("without --learn-from-regret", LONG | {"learn_from_regret": False}, NOTHING),
    ],
    "MDP, 10 episodes, 12 M steps": [
        ("base: the published row's settings, shortened", MDP, NOTHING),
        ("constant --gamma 0.95", MDP | {"gamma_start": None}, NOTHING),
        ("constant --gamma 0.7", MDP | {"gamma_start": None, "gamma": 0.7}, NOTHING),
        ("from rewards instead of regret", MDP | {"learn_from_regret": False}, NOTHING),
        ("--ent-coef 0", MDP | {"ent_coef": 0.0}, NOTHING),
        ("--num-minibatches 4", MDP | {"num_minibatches": 4}, NOTHING),
        ("--learning-rate 1e-3", MDP | {"learning_rate": 1e-3}, NOTHING),
        ("--cell gru", MDP | {"cell": "gru"}, NOTHING),
        ("memory gate not biased", MDP, memory_gate_unbiased),
    ],
}
SNAIL_BANDIT = {"total_timesteps": 1_200_000, "eval_trials": 20_000}
SNAIL_LONG = {key: value for key, value in LONG.items() if key != "cell"} | {"total_timesteps": 3_000_000}
SNAIL_MDP = {key: value for key, value in MDP.items() if key not in ("cell", "hidden_size")}
SNAIL_MDP |= {"total_timesteps": 3_000_000}
SNAIL_ABLATIONS = {
    "bandit, 5 arms, 10 pulls, 1.2 M steps": [
        ("base: the defaults, shortened", SNAIL_BANDIT, NOTHING),
        ("memory reset with every episode", SNAIL_BANDIT, lambda: memory_reset_with_every_episode(snail_ppo)),
        ("attention without a causal mask in the update", SNAIL_BANDIT, attention_sees_the_future),
        ("attention reads nothing", SNAIL_BANDIT, attention_reads_nothing),
        ("no step sees an earlier one but by attention", SNAIL_BANDIT, lambda: dilations(10)),
        ("every dilation is 1", SNAIL_BANDIT, lambda: dilations(1)),
        ("GAE cut at every episode", SNAIL_BANDIT, lambda: gae_cut_at_every_episode(snail_ppo)),
        ("weight normalisation in the dense blocks", SNAIL_BANDIT, weight_norm),
        ("layer normalisation before the dense blocks", SNAIL_BANDIT, layer_norm),
        ("--tc-blocks 1", SNAIL_BANDIT | {"tc_blocks": 1}, NOTHING),
        ("--amp", SNAIL_BANDIT | {"amp": True}, NOTHING),
        ("--learning-rate 1e-3", SNAIL_BANDIT | {"learning_rate": 1e-3}, NOTHING),
    ],
    "bandit, 5 arms, 100 pulls, 3 M steps": [
        ("base: the published row, shortened", SNAIL_LONG, NOTHING),
        ("without --grow-trials", SNAIL_LONG | {"grow_trials": False}, NOTHING),
        ("without --learn-from-regret", SNAIL_LONG | {"learn_from_regret": False}, NOTHING),
        ("attention reads nothing", SNAIL_LONG, attention_reads_nothing),
        ("no step sees an earlier one but by attention", SNAIL_LONG, lambda: dilations(100)),
        ("weight normalisation in the dense blocks", SNAIL_LONG, weight_norm),
    ],
    "MDP, 10 episodes, 3 M steps": [
        ("base: the published row, shortened", SNAIL_MDP, NOTHING),
        ("attention reads nothing", SNAIL_MDP, attention_reads_nothing),
        ("constant --gamma 0.95", SNAIL_MDP | {"gamma_start": None}, NOTHING),
        ("--learning-rate 2e-3", SNAIL_MDP | {"learning_rate": 2e-3}, NOTHING),
    ],
}


def run(module, settings, change):
    """Return, standard error and seconds of one short training in a folder of its own."""
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, change(), contextlib.redirect_stderr(io.StringIO()):
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                result = module.train(module.Args(**settings))
        finally:
            os.chdir(home)
    if module is maml_trpo:  # after one gradient step, or as many as training runs through
        i, name = max(1, settings.get("num_inner_steps", 1)), "return_by_gradient_step"
        return {"return": result[name][i], "stderr": result[name + "_stderr"][i], "seconds": result["wall_seconds"]}
    keys = {"return": "return_mean_pseudo", "stderr": "return_stderr_pseudo", "seconds": "wall_seconds"}
    return {name: result[key] for name, key in keys.items()}


def main(only=""):
    path = ROOT / "benchmark" / "results" / "ablations.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    modules = ((maml_trpo, MAML_ABLATIONS), (rl2_ppo, RL2_ABLATIONS), (snail_ppo, SNAIL_ABLATIONS))
    for module, groups in modules:
        for group, entries in groups.items():
            done = results.setdefault(module.ALGORITHM, {}).setdefault(group, {})
            for name, settings, change in entries:
                if only in f"{module.ALGORITHM}: {group}" and name not in done:  # an interrupted benchmark goes on
                    done[name] = run(module, settings, change)
                    print(f"{group}: {name}: {done[name]}", flush=True)
                    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
