"""Classical bandit algorithms on the tasks of Bandit-v0, and the exact Bayes optimum where it can be computed.

    python benchmark/baselines.py        # writes benchmark/results/baselines.json, about two minutes

Every algorithm knows the prior, U[0, 1] for each arm, and sees what the agent sees. Expected returns are estimated as
n k / (k + 1) minus the mean summed regret, the estimator of `return_mean_pseudo`, on 200,000 tasks.
"""

import json
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402


def bayes_optimum(num_arms, num_pulls):
    """Expected return of the Bayes-optimal policy, by backward induction over the posteriors of all arms.

    A state is the multiset of (successes, failures) of the arms that were pulled: arms are exchangeable.
    """

    @cache
    def value(pulled, left):
        if left == 0:
            return 0.0
        options = set(pulled) | ({(0, 0)} if len(pulled) < num_arms else set())
        best = 0.0
        for wins, losses in options:
            rest = list(pulled)
            if (wins, losses) != (0, 0):
                rest.remove((wins, losses))
            p = (wins + 1) / (wins + losses + 2)
            won = value(tuple(sorted([*rest, (wins + 1, losses)])), left - 1)
            lost = value(tuple(sorted([*rest, (wins, losses + 1)])), left - 1)
            best = max(best, p * (1 + won) + (1 - p) * lost)
        return best

    return value((), num_pulls)


def gittins_indices(num_pulls, grid=2000):
    """Finite-horizon Gittins index [left, wins, losses] of a Bernoulli arm with `left` pulls to go.

    The index is the constant reward per pull at which it is indifferent whether to retire on it for all pulls left,
    or to pull at least once more and retire whenever that becomes better: found for all rewards of a grid at once.
    """
    rewards = (np.arange(grid) + 0.5) / grid
    size = num_pulls + 1
    wins, losses = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    p = ((wins + 1) / (wins + losses + 2)).astype(np.float32)
    index = np.zeros((num_pulls + 1, size, size), dtype=np.float32)
    for lower in range(0, grid, 250):
        block = rewards[lower : lower + 250].astype(np.float32)[:, None, None]  # [250, 1, 1]
        value = np.zeros((len(block), size + 1, size + 1), dtype=np.float32)  # with no pull left
        for left in range(1, num_pulls + 1):
            pull = p * (1 + value[:, 1:, :-1]) + (1 - p) * value[:, :-1, 1:]
            retire = left * block
            index[left] += (pull > retire).sum(0)  # the number of grid rewards that the arm is worth
            value[:, :-1, :-1] = np.maximum(pull, retire)
    return index / grid


def simulate(choose, num_arms, num_pulls, num_tasks=200_000):
    """Mean and standard error of the return of `choose(wins, losses, t, rng) -> arms` [N]."""
    env, rng = envs.make("Bandit-v0", num_tasks, num_arms=num_arms), np.random.default_rng(1)
    env.reset(seed=0)
    wins, losses, regret = np.zeros((num_tasks, num_arms)), np.zeros((num_tasks, num_arms)), np.zeros(num_tasks)
    rows = np.arange(num_tasks)
    for t in range(num_pulls):
        arms = choose(wins, losses, t, rng)
        _, reward, _, _, info = env.step(arms)
        wins[rows, arms] += reward
        losses[rows, arms] += 1 - reward
        regret += info["regret"]
    optimum = num_pulls * env.expected_optimum()[0]
    return {"return_mean": float(optimum - regret.mean()), "return_stderr": float(regret.std() / num_tasks**0.5)}


def algorithms(num_arms, num_pulls):
    def first_best(scores, rng):
        return (scores + 1e-6 * rng.random(scores.shape)).argmax(1)  # ties are broken at random

    def ucb1(wins, losses, t, rng):
        pulls = wins + losses
        bonus = np.sqrt(2 * np.log(max(t, 1)) / np.maximum(pulls, 1))
        return first_best(np.where(pulls == 0, np.inf, wins / np.maximum(pulls, 1) + bonus), rng)

    yield "random", lambda wins, losses, t, rng: rng.integers(0, num_arms, len(wins))
    yield "greedy", lambda wins, losses, t, rng: first_best((wins + 1) / (wins + losses + 2), rng)
    yield "Thompson sampling", lambda wins, losses, t, rng: rng.beta(wins + 1, losses + 1).argmax(1)
    yield "UCB1", ucb1
    index = gittins_indices(num_pulls)
    yield (
        "finite-horizon Gittins",
        lambda wins, losses, t, rng: first_best(index[num_pulls - t, wins.astype(int), losses.astype(int)], rng),
    )


def main():
    results = {}
    for num_arms, num_pulls in ((5, 10), (10, 10), (50, 10), (5, 100)):
        row = results[f"{num_arms} arms, {num_pulls} pulls"] = {}
        for name, choose in algorithms(num_arms, num_pulls):
            start = time.time()
            row[name] = simulate(choose, num_arms, num_pulls)
            print(f"{num_arms} arms, {num_pulls} pulls, {name}: {row[name]} ({time.time() - start:.1f} s)", flush=True)
        if num_pulls == 10:
            row["Bayes optimum (exact)"] = {"return_mean": bayes_optimum(num_arms, num_pulls)}
            print(f"{num_arms} arms, {num_pulls} pulls, Bayes optimum: {row['Bayes optimum (exact)']}", flush=True)
    (ROOT / "benchmark" / "results" / "baselines.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
