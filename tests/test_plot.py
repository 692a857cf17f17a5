"""Cells of the tables, computed by hand from a few numbers that are made up."""

import json

import pytest

import plot
from rows import ROWS


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a file of results, which are empty at first."""
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    plot.read_curve.cache_clear()

    def write_file(name, contents):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents if isinstance(contents, str) else json.dumps(contents))

    write_file("baselines.json", {})
    write_file("random.json", {name: {"return_mean": -20.0} for name in ROWS})
    return write_file


def write_seed(write, name, seed, **entries):
    """A seed's results. Of what an entry does not name, the same for all."""
    result = {"algorithm": ROWS[name]["script"], "env_kwargs": {}, "episodes_per_trial": 2}
    result |= {"global_step": 2_000_000, "wall_seconds": 60.0 * seed, "eval_trials": 1000}
    write(f"{name}/seed-{seed}/eval.json", result | entries)
    write(f"{name}/seed-{seed}/command.txt", "python it.py\n")


def by_step(*means):
    """MAML's entries for the returns after 0, 1, ... gradient steps; each error is 1."""
    return {
        "return_by_gradient_step": list(means),
        "return_by_gradient_step_stderr": [1.0] * len(means),
    }


def by_episode(*means):
    """The entries of RL^2 and SNAIL for the return of each episode; each error is 1."""
    return {
        "return_by_episode": list(means),
        "return_by_episode_stderr": [1.0] * len(means),
        "return_mean": sum(means),
        "return_stderr": 2.0,
    }


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_side_by_side(write):
    write_seed(write, "halfcheetah-dir-maml", 1, **by_step(0.0, 40.0, 45.0, 50.0))
    write_seed(write, "halfcheetah-dir-maml", 2, **by_step(2.0, 60.0, 55.0, 50.0))
    knows_it = {"env_kwargs": {"observe_task": True}}
    write_seed(write, "halfcheetah-dir-oracle", 1, **by_step(100.0, 5.0, 6.0, 7.0), **knows_it)
    write_seed(write, "rl2-halfcheetah-dir", 1, **by_episode(30.0, 60.0))
    write_seed(write, "rl2-halfcheetah-dir-oracle", 1, **by_episode(70.0, 80.0), **knows_it)
    write_seed(write, "snail-halfcheetah-dir", 1, **by_episode(1.0, 2.0))
    _, _, maml, rl2, snail = plot.side_by_side_table().splitlines()
    returns = "1.0 ± 1.0, 50.0 ± 10.0, 50.0 ± 5.0, 50.0 ± 0.0 after 0 to 3 gradient steps"
    # (50 + 20) / (100 + 20) = 0.583; its error is sqrt(10^2 + (0.583 * 1)^2) / 120 = 0.083
    assert cells(maml)[1:] == [
        "MAML, 2 seeds",
        "-20.0",
        returns,
        "100.0 ± 1.0",
        "0.583 ± 0.083",
        "2 M",
        "1.5",  # minutes: one with the first seed, two with the second
    ]
    # (60 + 20) / (80 + 20) = 0.8; sqrt(1 + 0.8^2) / 100 = 0.013
    assert cells(rl2)[3:6] == [
        "30.0 ± 1.0, 60.0 ± 1.0 in episodes 1, 2",
        "80.0 ± 1.0",
        "0.800 ± 0.013",
    ]
    assert cells(snail)[4:6] == ["–", "–"]  # its oracle is not trained


def test_the_short_table(write):
    name = "maml-bandit-5-arms-10-pulls"
    assert ROWS[name]["episodes"] == 10
    write_seed(write, name, 2, **by_step(0.5, 0.7, 9.0, 9.0), eval_episodes=4)
    write("baselines.json", {"5 arms, 10 pulls": {"Bayes optimum (exact)": {"return_mean": 6.66}}})
    (line,) = plot.short_table().splitlines()[2:]
    # 4 pulls before the gradient step, and 6 after it: 4 * 0.5 + 6 * 0.7 = 6.2
    # the error is at most 4 * 1 + 6 * 1 = 10
    assert cells(line) == [
        "bandit, 5 arms, 10 pulls",
        "**6.2** ± 10 (1 seed), 2.0 min",
        "–",
        "–",
        "6.66 (Bayes optimum)",
    ]


def test_rl2_table_has_random_actions_of_a_whole_trial(write):
    write_seed(write, "rl2-halfcheetah-dir", 1, **by_episode(30.0, 60.0))
    line = plot.ppo_table("rl2_ppo").splitlines()[2]
    assert cells(line) == [
        "[HalfCheetah, direction, 2 episodes](../benchmark/results/rl2-halfcheetah-dir)",
        "**90.00** ± 2.00",
        "1 seed",
        "90.00 ± 2.00",
        "-40.00",  # twice -20
        "",
        "1.0",
        "`python it.py`",
    ]


def test_what_bounds_a_return(write, monkeypatch):
    planner = {"planner that knows the maze": {"steps_mean": 10.0}}
    write("baselines.json", {"5 × 5 rooms, 50 steps": planner})
    # two episodes, each of 10 steps: 2 * (1 - 10 * 0.04)
    assert plot.limit("knows the maze") == "1.20 (knows the maze)"
    monkeypatch.setattr(plot, "optimum", lambda env_id, env_kwargs: (20.5, 0.1))
    assert plot.limit("knows the MDP") == "205.0 (knows the MDP)"  # of ten episodes
    assert plot.limit("at the goal") == "0 (at the goal)"
    write_seed(write, "rl2-halfcheetah-dir-oracle", 1, **by_episode(70.0, 80.0))
    assert plot.limit("rl2-halfcheetah-dir-oracle") == "150.0 (oracle)"
    assert plot.limit(None) == "–"


def test_steps_to_the_ball(write):
    # MiniGrid pays 1 - 0.9 steps / 64: 0.91 for 6.4 steps, 0.955 for 3.2
    write_seed(write, "minigrid-red-ball-2-episodes", 1, **by_episode(0.91, 0.955))
    text = plot.levels()
    assert "That is 6.4 steps to the ball on average, and then 3.2." in text
    assert "In 1,000 rooms" in text
    assert "counts as 71 steps" in text  # 64 / 0.9


def test_exploration(write):
    """Which episode a column is about: 10 and the last, the last, 5."""
    numbers = {
        "tried": [0.01 * i for i in range(1, 13)],
        "return": [float(i) for i in range(1, 13)],
        "planned": [i + 0.5 for i in range(1, 13)],
        "new": [0.02 * i for i in range(1, 13)],
        "blind": [0.03 * i for i in range(1, 13)],
    }
    plan = "planner that knows the prior"
    entries = {plan: numbers, "mdp-25-episodes": numbers, "snail-mdp-25-episodes": numbers}
    write("exploration.json", {"MDP, 25 episodes": entries})
    write_seed(write, "mdp-25-episodes", 1, **by_episode(1.0, 2.0))
    planner, rl2 = plot.exploration().splitlines()[2:]  # there are no results of SNAIL
    expected = ["10%", "12%", "12.00", "12.50", "10% (15%)"]
    assert cells(planner) == ["MDP, 25 episodes", plan, *expected]
    assert cells(rl2) == ["MDP, 25 episodes", "RL²", *expected]


def test_steps_to_95_percent(write):
    """Random actions have -40 in a trial, the row 60: 95 % of the way is 55."""
    head = "global_step,seconds,trial_return,episodes_per_trial,first_episode,last_episode\n"
    lines = ["1000000,30,54,2,0,0\n", "1500000,90,56,2,0,0\n", "2000000,120,60,2,0,0\n"]
    name = "mdp-10-episodes-regret"
    write_seed(write, name, 1, **by_episode(30.0, 30.0), env_id="Mine-v0")
    write(f"{name}/seed-1/curve.csv", head + "".join(lines))
    line = plot.tutorial_efficiency().splitlines()[2]
    assert cells(line)[1:] == ["RL²", "2 M", "1.0", "1.5 M", "1.5"]


SPEED = {
    "cores": 2,
    "torch": "2",
    "an environment": 12345.6,
    "a script": {"steps_per_second": 2000.0, "rollout_share": 0.25, "kernel_share": 0.5},
    "a memory": {"early": 1.25, "late": 2.5},
    "a kernel": {"ms_per_trial_of_8": 1.5, "ms_per_trial_of_64": 0.75},
    "2D navigation": {"seconds": 2.0, "rollouts": 0.5, "advantages": 0.25},
    "RL^2, processes, 10 trials": {
        "one_process": 10.0,
        "two_processes": 6.25,
        "speedup": 1.6,
        "updates": 5,
        "parameters": 1_000_000,
        "vectors": 2,
        "scalars": 3,
    },
}


def test_speeds(write):
    write("speed.json", SPEED)
    lines = [cells(line) for line in plot.speed().splitlines()[2:]]
    assert lines == [
        ["an environment", "12,346", "", "", ""],
        ["a script", "2,000", "25%", "50%", ""],
        ["a memory", "1.2 ms at t = 100, 2.5 ms at t = 900", "", "", ""],
        [
            "a kernel",
            "1.50 ms a trial in a minibatch of 8, 0.75 ms in one of 64",
            *["", "", ""],
        ],
    ]
    line = plot.maml_speed().splitlines()[2]
    assert cells(line) == ["2D navigation", "**2.00**", "0.50", "0.25", "1.25"]


def test_speed_of_a_card(write):
    measured = {"cores": 2, "gpu": "a card", "RL^2": {"steps_per_second": 1000.0}}
    measured |= {"RL^2, GPU": {"steps_per_second": 4000.0}, "MAML": {"seconds": 3.0}}
    measured |= {"MAML, GPU": {"seconds": 2.0}, "SNAIL, GPU": {"seconds": 1.0}}
    head, _, *lines = plot.speed_of_card(measured).splitlines()
    assert cells(head) == ["what", "2 cores", "a card", "times as fast"]
    assert [cells(line) for line in lines] == [
        ["RL^2", "1,000 steps/s", "4,000 steps/s", "4.0"],
        ["MAML", "3.00 s", "2.00 s", "1.5"],
        ["SNAIL", "", "1.00 s", ""],
    ]


def test_what_processes_exchange(write):
    write("speed.json", SPEED)
    line = plot.scaling().splitlines()[2]
    assert cells(line)[1:] == ["10.0", "6.2", "**1.60**"]
    # two sums of a million floats of 4 bytes, each sent twice: 16 MB
    line = plot.exchanged().splitlines()[2]
    assert cells(line)[1:] == ["1,000,000", "2", "3", "16.00 · (n − 1)/n"]
    nvlink, _, slow = plot.prediction().splitlines()[2:]
    # 8 GPUs: five sums of 0.03 ms, and 16 MB * 7/8 at 100 GB/s: 0.15 + 0.14 ms, of 2 s
    assert cells(nvlink)[2:] == ["0.3", "100%"]
    # 64 machines: five sums of 0.5 ms, and 16 MB * 63/64 at 1.25 GB/s: 2.5 + 12.6 ms
    assert cells(slow)[2:] == ["15.1", "99%"]
