"""How much the agents explore in MDPs, and what they make of what they have seen.

    python benchmark/exploration.py    # what is missing of the published agents and of the planner

For each episode of a trial, on average over held-out MDPs, results/exploration.json has

    tried    the share of the pairs of state and action that were tried before the episode
    return   what the episode earns on average: the optimum minus the regret of its steps
    planned  what an episode would earn that plans with all that was seen before, and explores no
             more: with posterior means as if they were the MDP
    new      of the steps that take another action than this plan, the share whose action was never
             tried in its state
    blind    what `new` would be, if such a step drew its action at random from all but the planned
             one

Where `return` is near `planned`, the agent makes the best of what it knows. If it still earns less
than the planner of baselines.py, then because it has tried less. Where `new` is near `blind`, it
does not know which actions it has never tried, or makes no use of it.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402
import envs  # noqa: E402
from files import read_json, write_json  # noqa: E402
from rows import ROWS  # noqa: E402

RESULTS = ROOT / "benchmark" / "results"
NUM_TASKS = 1000
PLANNER = "planner that knows the prior"


def trial_of_agent(env, agent, script, num_episodes):
    """Each step of a trial in the environment's tasks: obs, actions, reward, regret, [N] each."""
    torch.manual_seed(0)
    data = script.rollout(agent, env, env.tasks, num_episodes, seed=0)
    steps = [data[name].numpy() for name in ("obs", "action", "reward", "regret")]
    return zip(*steps, strict=True)


def trial_of_planner(env, bonus, num_episodes):
    """The same of the planner with this bonus."""
    obs, _ = env.reset(seed=0, options={"tasks": env.tasks})
    rng = np.random.default_rng(0)
    return baselines.mdp_trial(env, obs, num_episodes, rng, bonus)


def policy_value(tasks, actions):
    """What an episode earns [N], if at time t in state s it takes `actions` [horizon, N, S]."""
    value = np.zeros(actions.shape[1:])  # [N, S]
    rows, states = np.indices(value.shape)
    for action in reversed(actions):
        # V_t(s) = r(s, a) + sum_s' P(s' | s, a) V_{t+1}(s')
        taken = (rows, states, action)
        reward = tasks["rewards"][taken]  # [N, S]
        transitions = tasks["transitions"][taken]  # [N, S, S]
        value = reward + (transitions * value[:, None]).sum(axis=2)
    return value[:, 0]


def explored(env, trial):
    """The five numbers of each episode, see above: {name: list}."""
    known = baselines.Knowledge(env.tasks)
    names = ["tried", "return", "planned", "new", "blind"]
    result = {name: [] for name in names}
    steps = list(trial)
    for start in range(0, len(steps), env.horizon):
        result["tried"].append((known.visits > 0).mean())
        _, losses = envs.plan(known.transitions, known.rewards(), env.horizon)
        plan = losses.argmin(axis=3)  # [horizon, N, S]
        result["planned"].append(policy_value(env.tasks, plan).mean())
        earned = env.optimum.mean()
        new = []
        blind = []
        for t in range(env.horizon):
            obs, actions, reward, regret = steps[start + t]
            planned_actions = plan[t, known.rows, obs]  # [N]
            others = np.arange(env.num_actions) != planned_actions[:, None]  # [N, A]
            untried = known.visits[known.rows, obs] == 0  # [N, A]
            leaves = actions != planned_actions  # [N]
            new.extend(untried[known.rows, actions][leaves])
            blind.extend((untried & others).sum(axis=1)[leaves] / (env.num_actions - 1))
            next_obs = None
            if t < env.horizon - 1:
                next_obs = steps[start + t + 1][0]
            known.add(obs, actions, reward, next_obs)
            earned -= regret.mean()
        result["return"].append(earned)
        result["new"].append(np.mean(new))
        result["blind"].append(np.mean(blind))
    return {name: np.round(numbers, 4).tolist() for name, numbers in result.items()}


def published_agents():
    """Of each published agent of RL^2 and SNAIL in MDPs: (name of its row, script, its regret)."""
    for name, row in ROWS.items():
        is_mdp = row["arguments"].get("env_id") == "TabularMDP-v0"
        if is_mdp and row["script"] != "maml_trpo" and (RESULTS / name / "agent.json").exists():
            seed = read_json(RESULTS / name / "agent.json")["seed"]
            result = read_json(RESULTS / name / f"seed-{seed}" / "eval.json")
            if result:  # else removed, to be trained again
                yield name, importlib.import_module(row["script"]), result["regret_mean"]


def read():
    """exploration.json: {setting: {PLANNER or name of a row: what `explored` gives, and more}}."""
    return read_json(RESULTS / "exploration.json")


def is_there(setting, who, key, value):
    """Whether exploration.json has an entry, and it is of this bonus, or of this agent's regret."""
    return read().get(setting, {}).get(who, {}).get(key) == value


def add(setting, who, numbers):
    """Adds an entry to exploration.json, or replaces it."""
    results = read()
    results.setdefault(setting, {})[who] = numbers
    write_json(RESULTS / "exploration.json", results)
    print(f"{setting}: {who}", flush=True)


def main():
    env = envs.make("TabularMDP-v0", NUM_TASKS)
    env.reset(options={"tasks": env.sample_tasks(NUM_TASKS, [1, 0])})  # held-out tasks
    for name, script, regret_mean in published_agents():
        setting = ROWS[name]["baselines"][0]
        agent = script.load(RESULTS / name / "agent.pt")
        num_episodes = agent.args.episodes_per_trial
        bonus = baselines.read()[setting][PLANNER]["bonus"]
        if not is_there(setting, PLANNER, "bonus", bonus):
            trial = trial_of_planner(env, bonus, num_episodes)
            add(setting, PLANNER, explored(env, trial) | {"bonus": bonus})
        if not is_there(setting, name, "regret_mean", regret_mean):
            trial = trial_of_agent(env, agent, script, num_episodes)
            add(setting, name, explored(env, trial) | {"regret_mean": regret_mean})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on with what is missing.")
