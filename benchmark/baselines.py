"""What the agents are held against: optima, classical algorithms, random actions.

    python benchmark/baselines.py                       # adds to results/baselines.json
    python benchmark/baselines.py "5 arms, 100 pulls"   # computes these settings anew
    python benchmark/baselines.py --list                # says what is there, and computes nothing

An algorithm knows the prior (of bandits U[0, 1] for each arm; of MDPs Dirichlet(1, ..., 1) for
transitions, Normal(1, 1) for mean rewards) and sees what the agent sees. Its expected return is
estimated as the expected optimum of those who know the task minus the mean summed regret. In mazes,
steps to the goal are counted: of a planner that knows the maze, of an explorer that forgets nothing
of what it has seen, and of random actions.

Each number is written as soon as it is there. Ctrl-C stops; the next call goes on.
"""

import argparse
import sys
from collections import deque
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmark"))

import envs  # noqa: E402
from files import read_json, write_json  # noqa: E402

RESULTS = ROOT / "benchmark" / "results"

# Arms, pulls, simulated tasks, and those for the Gittins policy. Where a step takes long, there are
# fewer; where the Gittins policy is the limit, its standard error is about 1e-4 of the return.
BANDITS = {
    "5 arms, 10 pulls": (5, 10, 200_000, 200_000),
    "10 arms, 10 pulls": (10, 10, 200_000, 200_000),
    "50 arms, 10 pulls": (50, 10, 200_000, 200_000),
    "5 arms, 100 pulls": (5, 100, 200_000, 800_000),
    "10 arms, 100 pulls": (10, 100, 200_000, 800_000),
    "50 arms, 100 pulls": (50, 100, 200_000, 800_000),
    "5 arms, 500 pulls": (5, 500, 20_000, 100_000),
    "10 arms, 500 pulls": (10, 500, 20_000, 100_000),
    "50 arms, 500 pulls": (50, 500, 20_000, 100_000),
    "50 arms, 1000 pulls": (50, 1000, 10_000, 50_000),
}
# Episodes and simulated tasks. States, actions and horizon are those of TabularMDP-v0.
MDPS = {
    "MDP, 10 episodes": (10, 40_000),
    "MDP, 25 episodes": (25, 10_000),
    "MDP, 50 episodes": (50, 4000),
    "MDP, 75 episodes": (75, 4000),
    "MDP, 100 episodes": (100, 4000),
}
# Rooms in a row of a maze, and the steps of an episode.
MAZES = {
    "5 × 5 rooms, 50 steps": (5, 50),
    "5 × 5 rooms, 250 steps": (5, 250),
    "9 × 9 rooms, 500 steps": (9, 500),
    "9 × 9 rooms, 1000 steps": (9, 1000),
}
# Right, down, left, up: how a step changes row and column.
HEADINGS = ((0, 1), (1, 0), (0, -1), (-1, 0))
EXPLORER = "explorer that forgets nothing"
# Cheap ones first: the order in which they are computed. (False comes before True.)
SETTINGS = [*BANDITS, *MAZES, *MDPS]
SETTINGS.sort(key=lambda setting: "500" in setting or "1000" in setting)

UCB_CONSTANTS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
BONUSES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def expected_optimum(env_id, env_kwargs, num_tasks=100_000):
    """Mean return of an episode for who knows the task, and its standard error; None if unknown."""
    if env_id not in ("Bandit-v0", "TabularMDP-v0"):
        return None
    env = envs.make(env_id, 1, **env_kwargs)
    if env_id == "Bandit-v0":  # E max of k times U[0, 1], exact
        return env.num_arms / (env.num_arms + 1), 0.0
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
        options = set(pulled)
        if len(pulled) < num_arms:
            options.add((0, 0))  # an arm that was not pulled yet
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


@lru_cache(maxsize=1)
def gittins_indices(num_pulls, grid=500):
    """Finite-horizon Gittins indices of a Bernoulli arm with a uniform prior.

    `index[left][position(wins, pulls)]` is that of an arm with `wins` in `pulls`, with `left` pulls
    of the bandit to go. (Then no arm has more than num_pulls - left of them.) An index is a
    constant reward. Who may have it in each of the pulls left finds it as good to take it at once
    as to pull the arm first, at least once, and to change to it when that is better.

    W(lambda) is how much more the arm earns than the constant lambda, with optimal stopping:

        pull(lambda) = p - lambda + p W(lambda; won) + (1 - p) W(lambda; lost),   W = max(pull, 0)

    `pull` falls with lambda, and is convex. The index is where it is zero, between two points of a
    grid by a straight line. O(num_pulls^3 grid) time, num_pulls^3 / 6 numbers.
    """
    index = [None]
    for left in range(1, num_pulls + 1):
        index.append(np.zeros(position(0, num_pulls - left + 1), dtype=np.float32))
    constants = np.linspace(0, 1, grid + 1, dtype=np.float32)  # lambda
    for total in range(1, num_pulls + 1):  # pulls of the arm until the end, if it is pulled always
        worth = np.zeros((total + 1, grid + 1), dtype=np.float32)  # W of [wins, lambda] at the end
        for pulls in reversed(range(total)):
            p = (np.arange(1, pulls + 2, dtype=np.float32) / (pulls + 2))[:, None]  # [wins, 1]
            # p W(won) + (1 - p) W(lost) + p - lambda, where worth[1:] is W(won): one win more
            pull = worth[1:] - worth[:-1]
            pull *= p
            pull += worth[:-1]
            pull += p
            pull -= constants
            worth = np.maximum(pull, 0)
            # pull is positive at lambda = 0 and negative at 1
            after = (pull <= 0).argmax(axis=1)
            wins = np.arange(pulls + 1)
            above = pull[wins, after - 1]
            below = pull[wins, after]
            zero = (after - 1 + above / (above - below)) / grid
            index[total - pulls][position(wins, pulls)] = zero
    return index


def position(wins, pulls):
    """Where an arm with `wins` in `pulls` stands in a list of all such pairs."""
    return pulls * (pulls + 1) // 2 + wins


def bandit_regrets(choose, num_arms, num_pulls, num_tasks, seed=0):
    """Summed regret of `choose(wins, losses, t, rng) -> arms` in each of some bandits."""
    env = envs.make("Bandit-v0", num_tasks, num_arms=num_arms)
    rng = np.random.default_rng(seed + 1)
    env.reset(seed=seed)
    wins = np.zeros((num_tasks, num_arms))
    losses = np.zeros((num_tasks, num_arms))
    regret = np.zeros(num_tasks)
    arms = np.zeros(num_tasks, dtype=np.int64)
    rows = np.arange(num_tasks)
    part_size = max(1, 20_000 // num_arms)  # what fits into the processor's cache
    for t in range(num_pulls):
        for first in range(0, num_tasks, part_size):
            part = slice(first, first + part_size)
            arms[part] = choose(wins[part], losses[part], t, rng)
        _, reward, _, _, info = env.step(arms)
        wins[rows, arms] += reward
        losses[rows, arms] += 1 - reward
        regret += info["regret"]
    return regret


def simulate(choose, num_arms, num_pulls, num_tasks=200_000, seed=0):
    """Mean and standard error of the return of `choose(wins, losses, t, rng) -> arms` [N]."""
    regrets = []
    for first in range(0, num_tasks, 200_000):  # what fits into memory
        count = min(200_000, num_tasks - first)
        regrets.append(bandit_regrets(choose, num_arms, num_pulls, count, seed))
        seed += 10
    regret = np.concatenate(regrets)
    optimum = num_pulls * num_arms / (num_arms + 1)
    error = float(regret.std() / num_tasks**0.5)
    return {"return_mean": float(optimum - regret.mean()), "return_stderr": error}


def best_arms(scores, rng):
    """The best arm of each row; ties are broken at random."""
    return (scores + 1e-6 * rng.random(scores.shape)).argmax(1)


def uniform(wins, losses, t, rng):
    return rng.integers(0, wins.shape[1], len(wins))


def greedy(wins, losses, t, rng):
    return best_arms((wins + 1) / (wins + losses + 2), rng)


def thompson(wins, losses, t, rng):
    return rng.beta(wins + 1, losses + 1).argmax(1)


def ucb1(wins, losses, t, rng):
    pulls = wins + losses
    at_least_one = np.maximum(pulls, 1)
    bonus = np.sqrt(2 * np.log(max(t, 1)) / at_least_one)
    scores = np.where(pulls == 0, np.inf, wins / at_least_one + bonus)
    return best_arms(scores, rng)


def ucb(constant):
    """Posterior mean + constant sqrt(2 log(t + 1) / (pulls of the arm + 1)), as a `choose`."""

    def choose(wins, losses, t, rng):
        pulls = wins + losses
        bonus = constant * np.sqrt(2 * np.log(t + 1) / (pulls + 1))
        return best_arms((wins + 1) / (pulls + 2) + bonus, rng)

    return choose


def tuned_ucb_constant(num_arms, num_pulls, num_tasks=5000):
    """The best of UCB_CONSTANTS, on tasks of its own."""
    returns = {}
    for constant in UCB_CONSTANTS:
        score = simulate(ucb(constant), num_arms, num_pulls, num_tasks, seed=100)
        returns[constant] = score["return_mean"]
    return max(returns, key=returns.get)


def gittins(num_pulls):
    """The arm of the highest finite-horizon Gittins index, as a `choose`."""
    index = gittins_indices(num_pulls)

    def choose(wins, losses, t, rng):
        pulls = wins + losses
        positions = position(wins, pulls).astype(np.int32)
        return best_arms(index[num_pulls - t].take(positions), rng)

    return choose


def bandit_names(num_pulls):
    """The baselines of a bandit; the exact optimum only where it is affordable."""
    names = ["random", "greedy", "Thompson sampling", "UCB1", "UCB tuned", "finite-horizon Gittins"]
    if num_pulls <= 10:
        names.append("Bayes optimum (exact)")
    return names


def bandit_baseline(name, num_arms, num_pulls, num_tasks, num_tasks_of_gittins):
    """The return of one baseline: {"return_mean": ..., "return_stderr": ..., what was tuned}."""
    if name == "Bayes optimum (exact)":
        return {"return_mean": bayes_optimum(num_arms, num_pulls)}
    tuned = {}
    if name == "UCB tuned":
        tuned["constant"] = tuned_ucb_constant(num_arms, num_pulls)
        choose = ucb(tuned["constant"])
    elif name == "finite-horizon Gittins":
        choose = gittins(num_pulls)
        num_tasks = num_tasks_of_gittins
    else:
        simple = {"random": uniform, "greedy": greedy, "Thompson sampling": thompson, "UCB1": ucb1}
        choose = simple[name]
    return simulate(choose, num_arms, num_pulls, num_tasks) | tuned


def transition_means(counts):
    """Posterior mean of transition probabilities, from counts of next states [..., S].

    Dirichlet(1, ..., 1) and the counts make Dirichlet(1 + counts).
    """
    weights = 1 + counts
    return weights / weights.sum(axis=-1, keepdims=True)


def reward_means(reward_sums, visits):
    """Posterior mean of mean rewards; their posterior variance is 1 / (1 + visits).

    Normal(1, 1), and `visits` rewards of variance 1 around the mean reward, with this sum.
    """
    return (1 + reward_sums) / (1 + visits)


def posterior_sample(counts, reward_sums, visits, rng):
    """MDPs drawn from the posterior: transitions [N, S, A, S] and rewards [N, S, A]."""
    weights = rng.standard_gamma(1 + counts)
    transitions = weights / weights.sum(axis=-1, keepdims=True)
    noise = rng.standard_normal(visits.shape)
    return transitions, reward_means(reward_sums, visits) + noise / np.sqrt(1 + visits)


class Knowledge:
    """What was seen of N MDPs: `visits`, `reward_sums` [N, S, A] and `counts` [N, S, A, S]."""

    def __init__(self, tasks):
        self.counts = np.zeros(tasks["transitions"].shape)
        self.transitions = transition_means(self.counts)
        self.visits = np.zeros(tasks["rewards"].shape)
        self.reward_sums = np.zeros_like(self.visits)
        self.rows = np.arange(len(tasks))

    def add(self, obs, actions, reward, next_obs):
        """One step [N] in each MDP. Nobody sees the state that an episode ends in: then None."""
        seen = (self.rows, obs, actions)
        self.visits[seen] += 1
        self.reward_sums[seen] += reward
        if next_obs is not None:
            self.counts[*seen, next_obs] += 1
            self.transitions[seen] = transition_means(self.counts[seen])

    def rewards(self):
        """Posterior means [N, S, A]."""
        return reward_means(self.reward_sums, self.visits)


def mdp_trial(env, obs, num_episodes, rng, bonus=None):
    """Each step of a trial, (obs, actions, reward, regret): of PSRL, or with a bonus the planner's.

    `obs` is what the environment's `reset` gave.
    PSRL draws an MDP from the posterior in each episode, and acts by its optimal policy (Osband et
    al. 2013, https://arxiv.org/abs/1306.0940). The planner acts in every step by the optimal policy
    of the posterior means, where a mean reward counts as bonus / sqrt(1 + visits) higher.
    """
    known = Knowledge(env.tasks)
    for step in range(num_episodes * env.horizon):
        t = step % env.horizon  # of the episode
        if bonus is not None:
            optimistic = known.rewards() + bonus / np.sqrt(1 + known.visits)
            _, losses = envs.plan(known.transitions, optimistic, env.horizon - t)
            loss = losses[0]  # [N, S, A]: what an action costs in the model
        else:
            if t == 0:
                sample = posterior_sample(known.counts, known.reward_sums, known.visits, rng)
                _, losses = envs.plan(*sample, env.horizon)
            loss = losses[t]
        actions = loss[known.rows, obs].argmin(axis=1)
        next_obs, reward, _, _, info = env.step(actions)
        known.add(obs, actions, reward, next_obs if t < env.horizon - 1 else None)
        yield obs, actions, reward, info["regret"]
        obs = next_obs


def mdp_regrets(num_episodes, num_tasks, bonus=None, seed=0):
    """Summed regret in each of some MDPs [num_tasks]: of PSRL, or with a bonus of the planner."""
    env = envs.make("TabularMDP-v0", min(num_tasks, 1000))
    rng = np.random.default_rng([seed, 1])
    regrets = []
    for block in range(num_tasks // env.num_envs):
        obs, _ = env.reset(seed=1000 * seed + block)  # new tasks
        summed = np.zeros(env.num_envs)
        for *_, regret in mdp_trial(env, obs, num_episodes, rng, bonus):
            summed += regret
        regrets.append(summed)
    env.close()
    return np.concatenate(regrets)


def tuned_bonus(num_episodes):
    """The best of BONUSES, on tasks of its own: more of them where trials are short."""
    num_tasks = max(2000, 100_000 // num_episodes)
    regrets = {}
    for bonus in BONUSES:
        regrets[bonus] = mdp_regrets(num_episodes, num_tasks, bonus, seed=100).mean()
    return min(regrets, key=regrets.get)


def mdp_baseline(name, num_episodes, num_tasks):
    """The return of one baseline: {"return_mean": ..., "return_stderr": ..., what was tuned}."""
    optimum, error = expected_optimum("TabularMDP-v0", {})
    tuned = {}
    regret = np.zeros(1)
    if name == "PSRL":
        regret = mdp_regrets(num_episodes, num_tasks)
    elif name == "planner that knows the prior":
        tuned["bonus"] = tuned_bonus(num_episodes)
        regret = mdp_regrets(num_episodes, num_tasks, tuned["bonus"])
    mean = num_episodes * optimum - regret.mean()
    stderr = np.hypot(num_episodes * error, regret.std() / len(regret) ** 0.5)
    return {"return_mean": float(mean), "return_stderr": float(stderr)} | tuned


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


def blocks_in_view(blocks, row, column, heading):
    """Where the 40 rays of VisualMaze's image go: [row, column] of each block that they enter.

    blocks [2 size + 1, 2 size + 1] is a map with the wall around it. A ray ends in the first block
    that is not free.
    """
    ahead = np.array(HEADINGS[heading])
    seen = []
    for column_of_image in range(-39, 40, 2):  # its ray goes so many 40ths aside in a step ahead
        side = int(np.sign(column_of_image))
        aside = np.array(HEADINGS[(heading + side) % 4])
        gap = 40 / abs(column_of_image)  # how far it goes ahead while it goes 1 aside
        next_ahead = 0.5
        next_aside = gap / 2
        place = np.array([row, column])
        is_free = True
        while is_free:
            if next_ahead < next_aside:
                place = place + ahead
                next_ahead += 1
            else:
                place = place + aside
                next_aside += gap
            seen.append(place)
            is_free = blocks[tuple(place)] == 0
    return np.array(seen)


def first_action(is_free, pose, is_target):
    """The first action of a shortest way from a pose (row, column, heading) to one of the targets.

    By breadth-first search; both maps are boolean, [2 size + 1, 2 size + 1].
    """
    reached = {pose}
    queue = deque([(pose, None)])
    while queue:
        (row, column, heading), first = queue.popleft()
        if is_target[row, column]:
            return first
        down, right = HEADINGS[heading]
        next_poses = {}  # by the action: 1, forward, comes before the turns
        if is_free[row + down, column + right]:
            next_poses[1] = (row + 2 * down, column + 2 * right, heading)
        next_poses[0] = (row, column, (heading - 1) % 4)
        next_poses[2] = (row, column, (heading + 1) % 4)
        for action, next_pose in next_poses.items():
            if next_pose not in reached:
                reached.add(next_pose)
                queue.append((next_pose, action if first is None else first))
    raise ValueError("No target can be reached.")


def explorer_steps(task, horizon):
    """Steps of the first and the second episode in one maze, and whether they end at the goal, [2].

    The explorer goes to the nearest room that it has not seen, or to the goal where it has seen it.
    It takes blocks that it has not seen for free, and forgets nothing: not in the second episode
    either.
    """
    blocks = np.pad(task, 1, constant_values=7)
    ((start_row, start_column),) = np.argwhere(blocks > 7)
    start_heading = int(blocks[start_row, start_column] % 4)
    blocks[start_row, start_column] = 0
    is_known = np.pad(np.zeros_like(task, dtype=bool), 1, constant_values=True)
    is_known[start_row, start_column] = True
    is_room = np.zeros_like(is_known)
    is_room[1::2, 1::2] = True
    steps = np.zeros(2, dtype=int)
    found = np.zeros(2, dtype=bool)
    for episode in range(2):
        row, column, heading = start_row, start_column, start_heading
        while steps[episode] < horizon and not found[episode]:
            rows, columns = blocks_in_view(blocks, row, column, heading).T
            is_known[rows, columns] = True
            is_free = (blocks < 2) | ~is_known
            is_target = is_known & (blocks == 1)
            if not is_target.any():
                is_target = is_room & ~is_known
            action = first_action(is_free, (row, column, heading), is_target)
            if action == 1:
                down, right = HEADINGS[heading]
                if blocks[row + down, column + right] < 2:
                    row += 2 * down
                    column += 2 * right
            else:
                heading = (heading + action - 1) % 4
            steps[episode] += 1
            found[episode] = blocks[row, column] == 1
    return steps, found


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
    """Of all episodes; one that finds no goal lasts to its end."""
    return {
        "steps_mean": float(steps.mean()),
        "steps_stderr": float(steps.std() / len(steps) ** 0.5),
        "success": float(found.mean()),
    }


def maze_baseline(name, size, horizon, num_mazes=1000):
    """Steps to the goal in held-out mazes, as a `summary`.

    The explorer's is of the first episode; it has the second one's as `second`.
    """
    env = envs.make("VisualMaze-v0", num_mazes, size=size, horizon=horizon)
    tasks = env.sample_tasks(num_mazes, [1, 0])  # those of the scripts' evaluations
    if name == EXPLORER:
        episodes = np.array([explorer_steps(task, horizon) for task in tasks])  # [mazes, 2, 2]
        steps = episodes[:, 0]
        found = episodes[:, 1] > 0
        result = summary(steps[:, 0], found[:, 0])
        result["second"] = summary(steps[:, 1], found[:, 1])
    elif name == "random":
        result = summary(*random_steps(env, tasks))
    else:
        steps = shortest_paths(tasks)
        result = summary(steps, steps <= horizon)
    env.close()
    return result


def names_of(setting):
    """The baselines of a setting."""
    if setting in MDPS:
        return ["informed optimum", "PSRL", "planner that knows the prior"]
    if setting in MAZES:
        return ["planner that knows the maze", EXPLORER, "random"]
    return bandit_names(BANDITS[setting][1])


def baseline(setting, name):
    """The return of one baseline in one setting."""
    if setting in MDPS:
        return mdp_baseline(name, *MDPS[setting])
    if setting in MAZES:
        return maze_baseline(name, *MAZES[setting])
    return bandit_baseline(name, *BANDITS[setting])


def read():
    """baselines.json: {setting: {baseline: {"return_mean": ..., ...}}}."""
    return read_json(RESULTS / "baselines.json")


def write(results):
    """Writes baselines.json, in the order of BANDITS, MDPS and MAZES."""
    ordered = {}
    for setting in [*BANDITS, *MDPS, *MAZES]:
        if setting in results:
            names = [name for name in names_of(setting) if name in results[setting]]
            ordered[setting] = {name: results[setting][name] for name in names}
    write_json(RESULTS / "baselines.json", ordered)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="computed anew; else all")
    parser.add_argument("--list", action="store_true", help="say what is there, and do nothing")
    args = parser.parse_args(words)
    for setting in args.settings:
        if setting not in SETTINGS:
            raise envs.UsageError(f"There is no setting {setting!r}, only {', '.join(SETTINGS)}.")
    for setting in args.settings or SETTINGS:
        for name in names_of(setting):
            there = read().get(setting, {}).get(name)
            is_wanted = there is None or args.settings
            if is_wanted and not args.list:
                score = baseline(setting, name)
                results = read()  # another process may have added something
                results.setdefault(setting, {})[name] = score
                write(results)
                print(f"{setting}, {name}: {score}", flush=True)
            elif there is None:
                print(f"{setting}, {name}: missing", flush=True)
            else:
                print(f"{setting}, {name}: {there} (there)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except envs.UsageError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(
            "Stopped. The same command goes on: without settings with what is missing, with "
            "settings from the first of them again."
        )
