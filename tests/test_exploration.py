"""What agents explore in MDPs, recomputed step by step, and the published numbers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import baselines
import envs
import exploration
import rl2_ppo
from helpers import ROOT
from rows import ROWS

PATH = ROOT / "benchmark" / "results" / "exploration.json"
# Processors round differently, and from there a trial goes on differently.
TOLERANCES = {"tried": 0.01, "return": 0.4, "planned": 0.3, "new": 0.05, "blind": 0.05}


def tabular_mdps(num_tasks):
    env = envs.make("TabularMDP-v0", num_tasks)
    env.reset(options={"tasks": env.sample_tasks(num_tasks, 5)})
    return env


def value_forward(task, actions):
    """What the policy actions[t][s] earns in one MDP: the chance of each state, step by step."""
    chance = np.eye(len(task["rewards"]))[0]
    value = 0.0
    for action in actions:
        following = np.zeros_like(chance)
        for state, probability in enumerate(chance):
            value += probability * task["rewards"][state, action[state]]
            following += probability * task["transitions"][state, action[state]]
        chance = following
    return value


def test_value_of_a_policy():
    env = tabular_mdps(4)
    actions = np.random.default_rng(0).integers(0, 5, (10, 4, 10))
    values = exploration.policy_value(env.tasks, actions)
    for n in range(4):
        assert values[n] == pytest.approx(value_forward(env.tasks[n], actions[:, n]))
    _, losses = envs.plan(env.tasks["transitions"], env.tasks["rewards"], 10)
    values = exploration.policy_value(env.tasks, losses.argmin(axis=3))
    assert values == pytest.approx(env.optimum)


def random_trial(env, num_steps):
    """Steps of random actions, as `trial_of_agent` gives them, and the regrets of each."""
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0, options={"tasks": env.tasks})
    steps = []
    for _ in range(num_steps):
        actions = rng.integers(0, 5, env.num_envs)
        next_obs, reward, _, _, info = env.step(actions)
        steps.append((obs, actions, reward, info["regret"]))
        obs = next_obs
    return steps


def seen_in_one_task(steps, n, num_steps):
    """What MDP n has shown in the first steps: rewards of each pair, and counts of next states."""
    rewards = {}
    counts = np.zeros((10, 5, 10))
    for i in range(num_steps):
        obs, actions, reward, _ = steps[i]
        pair = (obs[n], actions[n])
        rewards.setdefault(pair, []).append(reward[n])
        if i % 10 < 9:
            next_obs = steps[i + 1][0]
            counts[*pair, next_obs[n]] += 1
    return rewards, counts


def plan_of(rewards, counts):
    """The best plan [10 steps, 10 states] where posterior means are the MDP."""
    means = np.ones((10, 5))  # the prior's
    for pair, numbers in rewards.items():
        means[pair] = (1 + sum(numbers)) / (1 + len(numbers))
    chances = (1 + counts) / (10 + counts.sum(axis=2, keepdims=True))
    _, losses = envs.plan(chances[None], means[None], 10)
    return losses[:, 0].argmin(axis=2)


def departures(steps, n, start, plan):
    """Of each step of an episode that leaves the plan, in MDP n: is it new, and its chance to be.

    The chance is that of an action drawn from those that the plan does not take.
    """
    tried = set()
    for obs, actions, *_ in steps[:start]:
        tried.add((obs[n], actions[n]))
    for t in range(10):
        obs, actions, *_ = steps[start + t]
        state = obs[n]
        action = actions[n]
        planned = plan[t, state]
        if action != planned:
            others = [(state, other) for other in range(5) if other != planned]
            untried = [pair for pair in others if pair not in tried]
            yield (state, action) in untried, len(untried) / 4
        tried.add((state, action))


def test_what_is_made_of_a_trial():
    """Each of the numbers from pairs that are counted one by one, in each MDP alone."""
    env = tabular_mdps(3)
    steps = random_trial(env, 30)
    result = exploration.explored(env, iter(steps))
    for episode in range(3):
        start = 10 * episode
        tried = []
        planned = []
        departed = []
        for n, task in enumerate(env.tasks):
            rewards, counts = seen_in_one_task(steps, n, start)
            tried.append(len(rewards) / 50)
            plan = plan_of(rewards, counts)
            planned.append(value_forward(task, plan))
            departed.extend(departures(steps, n, start, plan))
        new, blind = np.mean(departed, axis=0)
        lost = 0.0
        for *_, regret in steps[start : start + 10]:
            lost += regret.mean()
        expected = {
            "tried": np.mean(tried),
            "planned": np.mean(planned),
            "return": env.optimum.mean() - lost,
            "new": new,
            "blind": blind,
        }
        for name, number in expected.items():
            assert result[name][episode] == pytest.approx(number, abs=1e-4)


def test_published_numbers_are_of_the_published_agents():
    """Of all of them; and the first episodes of each are what the agent does today."""
    results = json.loads(PATH.read_text())
    env = envs.make("TabularMDP-v0", exploration.NUM_TASKS)
    env.reset(options={"tasks": env.sample_tasks(exploration.NUM_TASKS, [1, 0])})
    names = []
    for name, script, regret_mean in exploration.published_agents():
        names.append(name)
        entry = results[ROWS[name]["baselines"][0]][name]
        assert entry["regret_mean"] == regret_mean, "run benchmark/exploration.py again"
        agent = script.load(PATH.parent / name / "agent.pt")
        assert len(entry["return"]) == agent.args.episodes_per_trial
        trial = exploration.trial_of_agent(env, agent, script, 3)
        again = exploration.explored(env, trial)
        for number, tolerance in TOLERANCES.items():
            assert again[number] == pytest.approx(entry[number][:3], abs=tolerance)
    assert len(names) >= 5
    written = [who for entries in results.values() for who in entries if who in ROWS]
    assert sorted(written) == sorted(names)


def test_published_numbers_of_the_planner_are_what_it_does():
    setting = "MDP, 10 episodes"
    results = json.loads(PATH.read_text())
    for name, entries in results.items():
        bonus = baselines.read()[name][exploration.PLANNER]["bonus"]
        assert entries[exploration.PLANNER]["bonus"] == bonus, "run benchmark/exploration.py again"
    entry = results[setting][exploration.PLANNER]
    env = envs.make("TabularMDP-v0", exploration.NUM_TASKS)
    env.reset(options={"tasks": env.sample_tasks(exploration.NUM_TASKS, [1, 0])})
    again = exploration.explored(env, exploration.trial_of_planner(env, entry["bonus"], 3))
    for number, tolerance in TOLERANCES.items():
        assert again[number] == pytest.approx(entry[number][:3], abs=tolerance)


def test_who_plans_is_in_the_table_of_baselines():
    """The planner's summed return is near the one in baselines.json, of other MDPs."""
    planners = json.loads(PATH.read_text())
    for setting, entries in planners.items():
        returns = entries[exploration.PLANNER]["return"]
        other = baselines.read()[setting][exploration.PLANNER]["return_mean"]
        assert sum(returns) == pytest.approx(other, rel=0.02)


def test_an_agent_whose_results_were_removed_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(exploration, "RESULTS", tmp_path)
    folder = tmp_path / "mdp-25-episodes"
    (folder / "seed-1").mkdir(parents=True)
    assert list(exploration.published_agents()) == []
    (folder / "agent.json").write_text('{"seed": 1}')
    assert list(exploration.published_agents()) == []
    (folder / "seed-1" / "eval.json").write_text('{"regret_mean": 2.5}')
    assert list(exploration.published_agents()) == [("mdp-25-episodes", rl2_ppo, 2.5)]


def test_what_another_process_has_added_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exploration, "RESULTS", tmp_path)
    agents = [("mdp-25-episodes", None, 2.5)]
    monkeypatch.setattr(exploration, "published_agents", lambda: agents)
    bonus = {"MDP, 25 episodes": {exploration.PLANNER: {"bonus": 0.5}}}
    monkeypatch.setattr(exploration.baselines, "read", lambda: bonus)
    exploration.add("MDP, 25 episodes", exploration.PLANNER, {"bonus": 0.5})

    class Script:
        @staticmethod
        def load(path):
            exploration.add("another setting", "another", {"tried": [1.0]})  # meanwhile
            return SimpleNamespace(args=SimpleNamespace(episodes_per_trial=25))

    monkeypatch.setattr(exploration, "trial_of_agent", lambda *arguments: None)
    monkeypatch.setattr(exploration, "explored", lambda *arguments: {"tried": [0.5]})
    agents[0] = ("mdp-25-episodes", Script, 2.5)
    for _ in range(2):  # the second time nothing is left to do
        exploration.main()
        assert exploration.read() == {
            "MDP, 25 episodes": {
                exploration.PLANNER: {"bonus": 0.5},
                "mdp-25-episodes": {"tried": [0.5], "regret_mean": 2.5},
            },
            "another setting": {"another": {"tried": [1.0]}},
        }
    assert capsys.readouterr().out.count("mdp-25-episodes") == 1
