"""What the agents are held against: optima, classical bandit algorithms, random actions.

    python benchmark/baselines.py        # writes results/baselines.json, some minutes
    python benchmark/baselines.py rooms  # only what has this word in its name; keeps the rest

A bandit algorithm knows the prior, U[0, 1] for each arm, and sees what the agent sees. Its expected
return is estimated as n k / (k + 1) minus the mean summed regret, on 200,000 tasks.

In mazes, steps to the goal are counted: of a planner that knows the maze, and of random actions.
"""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402

RESULTS = ROOT / "benchmark" / "results"


def expected_optimum(env_id, env_kwargs, num_tasks=100_000):
    """Mean return of an episode for who knows the task, and its standard error; None if unknown."""
    env = envs.make(env_id, 1, **env_kwargs)
    if env_id == "Bandit-v0":  # E max of k times U[0, 1], exact
        return env.num_arms / (env.num_arms + 1), 0.0
    if env_id != "TabularMDP-v0":
        return None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(0, num_tasks, 1000):
        tasks = env.sample_tasks(1000, rng)
        optimum, _ = envs.plan(tasks["transitions"], tasks["rewards"], env.horizon)  # V*(state 0)
        values.append(optimum)
    values = np.concatenate(values)
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def random_return(env_id, env_kwargs, num_tasks=1000):
    """Mean return of an episode of uniformly random actions, one in each of `num_tasks` tasks."""
    env = envs.make(env_id, num_tasks, **env_kwargs)
    env.reset(seed=0)
    env.action_space.seed(1)
    returns = np.zeros(num_tasks)
    alive = np.ones(num_tasks, dtype=bool)
    while alive.any():
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        returns += reward * alive
        alive &= ~(terminated | truncated)
    env.close()
    error = float(returns.std() / num_tasks**0.5)
    return {"return_mean": float(returns.mean()), "return_stderr": error}


def bayes_optimum(num_arms, num_pulls):
    """Expected return of the Bayes-optimal policy, by backward induction over posteriors.

    A state is the multiset of (successes, failures) of the arms that were pulled: arms are
    exchangeable.
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

    The index is the constant reward per pull at which it is indifferent whether to retire on it for
    all pulls left, or to pull at least once more and retire whenever that becomes better. It is
    found for all rewards of a grid at once.
    """
    rewards = (np.arange(grid) + 0.5) / grid
    size = num_pulls + 1
    wins, losses = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    p = ((wins + 1) / (wins + losses + 2)).astype(np.float32)
    index = np.zeros((num_pulls + 1, size, size), dtype=np.float32)
    for lower in range(0, grid, 250):
        block = rewards[lower : lower + 250].astype(np.float32)[:, None, None]  # [250, 1, 1]
        # with no pull left
        value = np.zeros((len(block), size + 1, size + 1), dtype=np.float32)
        for left in range(1, num_pulls + 1):
            pull = p * (1 + value[:, 1:, :-1]) + (1 - p) * value[:, :-1, 1:]
            retire = left * block
            index[left] += (pull > retire).sum(0)  # the number of grid rewards that it is worth
            value[:, :-1, :-1] = np.maximum(pull, retire)
    return index / grid


def simulate(choose, num_arms, num_pulls, num_tasks=200_000):
    """Mean and standard error of the return of `choose(wins, losses, t, rng) -> arms` [N]."""
    env = envs.make("Bandit-v0", num_tasks, num_arms=num_arms)
    rng = np.random.default_rng(1)
    env.reset(seed=0)
    wins = np.zeros((num_tasks, num_arms))
    losses = np.zeros((num_tasks, num_arms))
    regret = np.zeros(num_tasks)
    rows = np.arange(num_tasks)
    for t in range(num_pulls):
        arms = choose(wins, losses, t, rng)
        _, reward, _, _, info = env.step(arms)
        wins[rows, arms] += reward
        losses[rows, arms] += 1 - reward
        regret += info["regret"]
    optimum = num_pulls * num_arms / (num_arms + 1)
    error = float(regret.std() / num_tasks**0.5)
    return {"return_mean": float(optimum - regret.mean()), "return_stderr": error}


def first_best(scores, rng):
    """The best arm of each row; ties are broken at random."""
    return (scores + 1e-6 * rng.random(scores.shape)).argmax(1)


def algorithms(num_arms, num_pulls):
    """The bandit algorithms by name: functions (wins, losses, t, rng) -> arms."""
    index = gittins_indices(num_pulls)

    def uniform(wins, losses, t, rng):
        return rng.integers(0, num_arms, len(wins))

    def greedy(wins, losses, t, rng):
        return first_best((wins + 1) / (wins + losses + 2), rng)

    def thompson(wins, losses, t, rng):
        return rng.beta(wins + 1, losses + 1).argmax(1)

    def ucb1(wins, losses, t, rng):
        pulls = wins + losses
        at_least_one = np.maximum(pulls, 1)
        bonus = np.sqrt(2 * np.log(max(t, 1)) / at_least_one)
        scores = np.where(pulls == 0, np.inf, wins / at_least_one + bonus)
        return first_best(scores, rng)

    def gittins(wins, losses, t, rng):
        scores = index[num_pulls - t, wins.astype(int), losses.astype(int)]
        return first_best(scores, rng)

    return {
        "random": uniform,
        "greedy": greedy,
        "Thompson sampling": thompson,
        "UCB1": ucb1,
        "finite-horizon Gittins": gittins,
    }


def shortest_paths(tasks):
    """The least number of steps to the goal in each of VisualMaze's mazes, [N].

    By breadth-first search over poses, in all mazes at once.
    """
    blocks = np.pad(tasks, [(0, 0), (1, 1), (1, 1)], constant_values=7)
    # What is in front of a pose [N, row of rooms, column, heading].
    right = blocks[:, 1::2, 2::2]
    below = blocks[:, 2::2, 1::2]
    left = blocks[:, 1::2, :-2:2]
    above = blocks[:, :-2:2, 1::2]
    is_free = np.stack([right, below, left, above], axis=-1) < 2
    is_goal = tasks[:, ::2, ::2, None] == 1
    start = tasks[:, ::2, ::2, None]
    reached = start == np.arange(8, 12)
    steps = np.zeros(len(tasks), dtype=int)
    searches = np.ones(len(tasks), dtype=bool)
    while searches.any():
        moves = reached & is_free
        reached = reached | np.roll(reached, 1, axis=3) | np.roll(reached, -1, axis=3)
        reached[:, :, 1:, 0] |= moves[:, :, :-1, 0]
        reached[:, 1:, :, 1] |= moves[:, :-1, :, 1]
        reached[:, :, :-1, 2] |= moves[:, :, 1:, 2]
        reached[:, :-1, :, 3] |= moves[:, 1:, :, 3]
        steps += searches
        searches &= ~(reached & is_goal).any(axis=(1, 2, 3))
    return steps


def random_steps(env, tasks):
    """Steps of an episode of random actions in each maze, and whether it ends at the goal, [N]."""
    env.reset(seed=0, options={"tasks": tasks})
    env.action_space.seed(1)
    steps = np.zeros(env.num_envs, dtype=int)
    found = np.zeros(env.num_envs, dtype=bool)
    alive = np.ones(env.num_envs, dtype=bool)
    while alive.any():
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += alive
        found |= alive & terminated
        alive &= ~(terminated | truncated)
    return steps, found


def summary(steps, found):
    """Of all episodes (one that finds no goal lasts to its end), and of those that find it."""
    return {
        "steps_mean": float(steps.mean()),
        "steps_stderr": float(steps.std() / len(steps) ** 0.5),
        "success": float(found.mean()),
        "steps_of_successes": float(steps[found].mean()),
    }


def maze_baselines(settings=((5, 250), (9, 500), (9, 1000)), num_mazes=1000):
    """Steps to the goal in held-out mazes: {setting (rooms, steps): {who: summary}}."""
    results = {}
    for size, horizon in settings:
        env = envs.make("VisualMaze-v0", num_mazes, size=size, horizon=horizon)
        tasks = env.sample_tasks(num_mazes, [1, 0])  # those of the scripts' evaluations
        shortest = shortest_paths(tasks)
        row = {
            "planner that knows the maze": summary(shortest, shortest <= horizon),
            "random": summary(*random_steps(env, tasks)),
        }
        env.close()
        results[f"{size} × {size} rooms, {horizon} steps"] = row
        print(f"{size} x {size} rooms, {horizon} steps: {row}", flush=True)
    return results


def bandit_baselines(settings=((5, 10), (10, 10), (50, 10), (5, 100)), num_tasks=200_000):
    """Every algorithm in every setting (arms, pulls): {setting: {algorithm: return}}."""
    results = {}
    for num_arms, num_pulls in settings:
        row = {}
        for name, choose in algorithms(num_arms, num_pulls).items():
            row[name] = simulate(choose, num_arms, num_pulls, num_tasks)
        if num_pulls <= 10:
            optimum = bayes_optimum(num_arms, num_pulls)
            row["Bayes optimum (exact)"] = {"return_mean": optimum}
        results[f"{num_arms} arms, {num_pulls} pulls"] = row
        print(f"{num_arms} arms, {num_pulls} pulls: {row}", flush=True)
    return results


def main(only=""):
    path = RESULTS / "baselines.json"
    results = {}
    if only:
        results = json.loads(path.read_text())
    if only in "arms, pulls":
        results |= bandit_baselines()
    if only in "rooms, steps":
        results |= maze_baselines()
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
