"""The published numbers: agents that score what their row says, tables made from the raw data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
import maml_trpo
import rl2_ppo
import snail_ppo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmark" / "results"
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402
import collect  # noqa: E402
import plot  # noqa: E402

SCRIPTS = {"maml_trpo": maml_trpo, "rl2_ppo": rl2_ppo, "snail_ppo": snail_ppo}
ROWS = sorted(path.parent for path in RESULTS.glob("*/eval.json"))
MAML_ROWS = [
    row for row in ROWS if json.loads((row / "eval.json").read_text())["algorithm"] == "maml_trpo"
]
PPO_ROWS = [row for row in ROWS if row not in MAML_ROWS]


def held_out_tasks(result, count):
    """Tasks that neither training nor the row's evaluation saw."""
    env = envs.make(result["env_id"], 1, **result["env_kwargs"])
    tasks = env.sample_tasks(count, [1, 123])
    env.close()
    return tasks


def test_every_row_is_named_and_every_name_has_a_row():
    references = json.loads((RESULTS / "references.json").read_text())
    names = [name for rows in references.values() for name in rows]
    assert ROWS
    assert sorted(names) == [row.name for row in ROWS]
    assert set(plot.read("random.json")) == set(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_rows_command_is_that_of_its_arguments_and_its_agent_is_small(row):
    algorithm = json.loads((row / "eval.json").read_text())["algorithm"]
    args = json.loads((row / "args.json").read_text())
    assert (row / "command.txt").read_text().strip() == collect.command(algorithm, args)
    assert (row / "agent.pt").stat().st_size < 1_000_000


@pytest.mark.parametrize("row", MAML_ROWS, ids=lambda row: row.name)
def test_the_policy_of_a_maml_row_scores_what_the_row_says(row):
    published = json.loads((row / "eval.json").read_text())
    policy, params, args = maml_trpo.load(row / "agent.pt")
    is_maml = args.num_inner_steps > 0
    count = 3 if "Ant" in args.env_id or not is_maml else 6
    tasks = held_out_tasks(published, count)
    returns = maml_trpo.evaluate(policy, params, args.env_id, args.env_kwargs, tasks, 40, 123)
    means = np.array(published["return_by_gradient_step"])
    stderrs = np.array(published["return_by_gradient_step_stderr"])
    spread = stderrs * published["num_trials"] ** 0.5  # over tasks
    distance = np.abs(returns.mean(axis=(0, 2)) - means)
    assert (distance < 5 * spread / count**0.5).all()
    if is_maml:  # adaptation pays; errors as of independent tasks, though they are the same
        random = plot.read("random.json")[row.name]["return_mean"]
        assert means[1] - max(means[0], random) > 4 * np.hypot(stderrs[0], stderrs[1])


@pytest.mark.parametrize("row", PPO_ROWS, ids=lambda row: row.name)
def test_the_agent_of_a_row_scores_what_the_row_says(row, tmp_path, monkeypatch):
    published = json.loads((row / "eval.json").read_text())
    script = SCRIPTS[published["algorithm"]]
    count = 1000 if script is rl2_ppo else 300  # SNAIL is slower
    if ":" in published["env_id"]:  # a slow example of the documentation
        module = published["env_id"].split(":")[0]
        page = (ROOT / "docs/environments.md").read_text()
        text = page.split(f"`{module}.py`: ")[1].split("```python\n")[1]
        (tmp_path / f"{module}.py").write_text(text.split("```")[0])
        monkeypatch.syspath_prepend(tmp_path)
        count = 50
    agent = script.load(row / "agent.pt")
    tasks = held_out_tasks(published, count)
    returns, regrets = script.evaluate(
        agent,
        published["env_id"],
        published["env_kwargs"],
        tasks,
        published["episodes_per_trial"],
        seed=123,
        return_regret=True,
    )
    samples = returns.sum(1) if regrets is None else regrets.sum(1)
    name = "return" if regrets is None else "regret"
    error = np.hypot(samples.std(ddof=1) / count**0.5, published[f"{name}_stderr"])
    assert abs(samples.mean() - published[f"{name}_mean"]) < 4.5 * error
    random = plot.read("random.json")[row.name]["return_mean"] * published["episodes_per_trial"]
    assert published["return_mean"] > random + 10 * published["return_stderr"]


def test_tables_are_made_from_the_raw_data():
    for (page, marker), text in plot.tables().items():
        filled = f"<!-- {marker} -->\n{text}\n<!-- /{marker} -->"
        assert filled in (ROOT / page).read_text(), (page, marker)


def test_every_row_has_its_picture():
    names = [plot.figure_name(title) for title in plot.groups()]
    for algorithm in ("rl2_ppo", "snail_ppo"):
        names += [name for name, *_ in plot.rows(algorithm)]
    for name in names:
        assert (ROOT / "docs/figures" / f"{name}.png").stat().st_size > 10_000


def test_the_estimate_by_regret_by_hand():
    result = {"env_id": "Bandit-v0", "env_kwargs": {"num_arms": 3}, "episodes_per_trial": 4}
    result |= {"regret_mean": 0.5, "regret_stderr": 0.1, "return_mean": 2.4, "return_stderr": 0.2}
    assert plot.estimate(result) == (4 * 3 / 4 - 0.5, 0.1)  # E max of 3 times U[0, 1] is 3/4
    del result["regret_mean"]
    assert plot.estimate(result) == (2.4, 0.2)


@pytest.mark.parametrize("script", ["maml_trpo", "rl2_ppo"])
def test_a_run_becomes_a_row(script, tmp_path, monkeypatch):
    """The agent alone is kept, and acts as the checkpoint does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collect, "ROOT", tmp_path)
    module = SCRIPTS[script]
    settings = {"num_envs": 8, "num_minibatches": 1, "total_timesteps": 160, "hidden_size": 8}
    if script == "maml_trpo":
        settings = {"num_iterations": 2, "meta_batch_size": 2, "episodes_per_task": 2}
        settings |= {"eval_episodes": 2, "env_kwargs": {"horizon": 3}}
    module.train(module.Args(**settings, eval_trials=2, cuda=False))
    (run,) = tmp_path.glob("runs/*")
    collect.main(run, "row")
    row = tmp_path / "benchmark" / "results" / "row"
    assert f"python {script}.py --no-cuda" in (row / "command.txt").read_text()
    lines = (row / "curve.csv").read_text().splitlines()
    assert lines[0].startswith("global_step,seconds,")
    assert len(lines) == 3  # two updates
    agent = torch.load(row / "agent.pt", weights_only=True)
    whole = torch.load(run / "checkpoint.pt", weights_only=True)
    assert set(agent) == {"algorithm", "args", "agent"}
    for name, tensor in agent["agent"].items():
        assert torch.equal(tensor, whole["agent"][name])
    assert json.loads((row / "eval.json").read_text())["algorithm"] == script


# --------------------------------------------------------------------------------------- baselines


def test_bayes_optimum_by_hand():
    assert baselines.bayes_optimum(1, 7) == pytest.approx(3.5)
    # two arms, two pulls: after a success stay (mean 2/3), after a failure change (mean 1/2)
    assert baselines.bayes_optimum(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_gittins_index_by_hand():
    index = baselines.gittins_indices(2)
    assert index[1, 1, 0] == pytest.approx(2 / 3, abs=1e-3)  # with one pull left it is the mean
    # two pulls left, nothing known: 2 x = 1/2 + 1/2 max(2/3, x) + 1/2 max(1/3, x) has x = 5/9
    assert index[2, 0, 0] == pytest.approx(5 / 9, abs=1e-3)


def test_optimum_of_who_knows_the_task():
    mean, stderr = baselines.expected_optimum("Bandit-v0", {"num_arms": 5})
    assert (mean, stderr) == (5 / 6, 0.0)
    best = envs.make("Bandit-v0").sample_tasks(100_000, 0).max(axis=1)
    assert abs(best.mean() - mean) < 4.5 * best.std() / 100_000**0.5
    mean, stderr = baselines.expected_optimum("TabularMDP-v0", {}, 20_000)
    assert abs(mean - 21.83) < 0.1  # 218.3 for ten episodes: an informed planner's score
    assert 0 < stderr < 0.05
    assert baselines.expected_optimum("Navigation2D-v0", {}) is None


def test_every_baseline_runs_and_falls_between_random_and_the_optimum():
    results = baselines.bandit_baselines([(3, 4)], num_tasks=4000)
    scores = results["3 arms, 4 pulls"]
    assert len(scores) == 6
    optimum = scores["Bayes optimum (exact)"]["return_mean"]
    for name, score in scores.items():
        error = score.get("return_stderr", 0.0)
        assert 2.0 - 4.5 * error <= score["return_mean"] <= optimum + 4.5 * error, name


@pytest.mark.parametrize("env_id, mean", [("Bandit-v0", 0.5), ("TabularMDP-v0", 10.0)])
def test_random_actions_return_what_the_prior_says(env_id, mean):
    score = baselines.random_return(env_id, {}, 2000)
    assert abs(score["return_mean"] - mean) < 4.5 * score["return_stderr"]
